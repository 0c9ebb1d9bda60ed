"""`python query.py …` does exactly what `hashret query …` does."""

import sys

from hashret.cli import main

if __name__ == "__main__":
    sys.exit(main(["query", *sys.argv[1:]]))
