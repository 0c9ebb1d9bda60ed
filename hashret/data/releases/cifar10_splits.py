"""The three CIFAR-10 protocols of the hashing literature, on a table of its 60,000 pictures with their labels.

    cifar10      1,000 queries (100 a class), 5,000 to learn from (500 a class), the other 54,000 are searched
    cifar10-1    the same, and those that are learnt from are searched, too: 59,000
    cifar10-2    the data set's own split: 10,000 queries, 50,000 are learnt from and searched

Splits are "train", "query" and "gallery", the column `gallery` says what is searched (see roles.py). The choice depends on
the ids and the seed, and not on the order of the table. Code around the literature draws the queries of the third at random,
too, 1,000 a class out of all pictures; here they are the test pictures, as its papers describe it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from hashret.data.releases.roles import with_gallery
from hashret.data.table import PictureTable
from hashret.errors import DataError

QUERIES_PER_CLASS, TRAIN_PER_CLASS = 100, 500


def split_cifar10(
    table: PictureTable,
    *,
    seed: int = 0,
    queries_per_class: int = QUERIES_PER_CLASS,
    train_per_class: int = TRAIN_PER_CLASS,
) -> PictureTable:
    """The table under the protocol "cifar10": what is neither asked with nor learnt from is searched."""
    drawn = _drawn(table, seed, queries_per_class, train_per_class)
    return with_gallery(drawn, (split == "gallery" for split in drawn.splits))


def split_cifar10_1(
    table: PictureTable,
    *,
    seed: int = 0,
    queries_per_class: int = QUERIES_PER_CLASS,
    train_per_class: int = TRAIN_PER_CLASS,
) -> PictureTable:
    """The table under the protocol "cifar10-1": all that is not asked with is searched."""
    drawn = _drawn(table, seed, queries_per_class, train_per_class)
    return with_gallery(drawn, (split != "query" for split in drawn.splits))


def split_cifar10_2(table: PictureTable) -> PictureTable:
    """The table under the protocol "cifar10-2": test pictures ask, those that are learnt from are searched.

    DataError unless every picture has the split "train" or "test", and there are some of both.
    """
    if set(table.splits) == {"train", "query"}:  # what this made before
        return with_gallery(table, (split == "train" for split in table.splits))
    if set(table.splits) != {"train", "test"}:
        found = ", ".join(repr(split) for split in sorted(set(table.splits))) or "none"
        raise DataError(f"{table.name} has the splits {found}; cifar10-2 needs the data set's own, 'train' and 'test'")
    splits = ["query" if split == "test" else "train" for split in table.splits]
    return with_gallery(dataclasses.replace(table, splits=splits), (split == "train" for split in splits))


SPLITS: dict[str, Callable[[PictureTable], PictureTable]] = {
    "cifar10": split_cifar10,
    "cifar10-1": split_cifar10_1,
    "cifar10-2": split_cifar10_2,
}
"""By the name of the protocol, with the numbers of the literature and seed 0."""


def _drawn(table: PictureTable, seed: int, queries_per_class: int, train_per_class: int) -> PictureTable:
    """The table with new splits: of each class, in a random order, first the queries, then those to learn from."""
    class_numbers_N, names = table.class_ids()
    if -1 in class_numbers_N or not names:
        raise DataError(f"{table.name} has pictures without a label; the CIFAR-10 protocols need one for each")
    by_id = np.array(sorted(range(len(table)), key=table.ids.__getitem__))
    rng = np.random.default_rng(seed)
    splits = np.full(len(table), "gallery", dtype="<U7")
    for number, name in enumerate(names):
        rows = rng.permutation(by_id[class_numbers_N[by_id] == number])
        wanted = queries_per_class + train_per_class
        if len(rows) <= wanted:
            raise DataError(
                f"{table.name} has {len(rows):,} pictures of {name!r}; the protocol takes {queries_per_class:,} to ask with and "
                f"{train_per_class:,} to learn from, and some to search must be left"
            )
        splits[rows[:queries_per_class]] = "query"
        splits[rows[queries_per_class:wanted]] = "train"
    return dataclasses.replace(table, splits=splits.tolist())
