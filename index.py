"""`python index.py …` does exactly what `hashret index …` does."""

import sys

from hashret.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
