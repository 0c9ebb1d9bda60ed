"""`python -m hashret` is the console command `hashret`."""

import sys

from hashret.cli import main

if __name__ == "__main__":
    sys.exit(main())
