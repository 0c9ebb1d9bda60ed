"""The tables that benchmarks/learning.py trains on, from data sets as they are handed out.

    cars.csv       a folder 001 … 196 of Stanford Cars: the first half of the classes trains, the other is searched
    cifar10-2.csv  zips of CIFAR-10: the 50,000 training pictures are the gallery, the 10,000 others the queries
    omniglot.csv   zips of Omniglot's small background sets: the first trains, alphabets that only the second has are searched

Run: python benchmarks/tables.py --out tables --cars FOLDER --cifar10 train.zip test.zip --omniglot small1.zip small2.zip
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from hashret.data.sources import open_source
from hashret.data.splitting import split_unseen_classes
from hashret.data.table import PictureTable


def main(arguments: list[str] | None = None) -> int:
    """Write the tables whose sources are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--cars", metavar="FOLDER")
    parser.add_argument("--cifar10", nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--omniglot", nargs=2, metavar=("SMALL1", "SMALL2"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.cars:
        split_unseen_classes(open_source(options.cars), 0.5).write_csv(options.out / "cars.csv")
    if options.cifar10:
        train, test = (open_source(each) for each in options.cifar10)
        joined(train, "train", test, "test").write_csv(options.out / "cifar10-2.csv")
    if options.omniglot:
        first, second = (open_source(each) for each in options.omniglot)
        known = {label.partition("/")[0] for label in first.labels}
        new = second.select(np.array([label.partition("/")[0] not in known for label in second.labels]))
        joined(first, "train", new, "test").write_csv(options.out / "omniglot.csv")
    return 0


def joined(one: PictureTable, one_split: str, other: PictureTable, other_split: str) -> PictureTable:
    """The pictures of both tables, each with a split of its own."""
    splits = [one_split] * len(one) + [other_split] * len(other)
    ids, paths, labels = one.ids + other.ids, one.paths + other.paths, one.labels + other.labels
    return PictureTable(ids, paths, labels, splits, {}, one.name)


if __name__ == "__main__":
    sys.exit(main())
