"""`python train.py …` does exactly what `hashret train …` does."""

import sys

from hashret.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
