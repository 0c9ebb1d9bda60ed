"""Splits for tables that come without: unseen classes, or held-out pictures of every class."""

from __future__ import annotations

import dataclasses

import numpy as np

from hashret.data.table import PictureTable
from hashret.errors import DataError


def split_unseen_classes(table: PictureTable, share: float) -> PictureTable:
    """The table with the last `share` of its class names, in sorted order, as split "test" and the others as "train".

    Classes searched for are then classes never trained on. Pictures without a label get no split. The number of test
    classes is rounded; at least one class stays on each side. DataError for fewer than two classes.
    """
    _check_share(share)
    class_numbers_N, names = table.class_ids()
    if len(names) < 2:
        raise DataError(f"{table.name} has {len(names)} classes; splitting classes needs at least 2")
    n_test = min(len(names) - 1, max(1, round(share * len(names))))
    first_test = len(names) - n_test
    splits = ["" if number < 0 else "test" if number >= first_test else "train" for number in class_numbers_N.tolist()]
    return dataclasses.replace(table, splits=splits)


def split_pictures(table: PictureTable, share: float, seed: int = 0) -> PictureTable:
    """The table with a random `share` of every class's pictures as split "test" and the others as "train".

    Deterministic by `seed`; the share is rounded, and at least one picture of a class stays in "train". Pictures without a
    label get no split. DataError for a table without labels, and for a share that is less than half a picture of every class.
    """
    _check_share(share)
    class_numbers_N, names = table.class_ids()
    if not names:
        raise DataError(f"{table.name} has no labels; splitting every class needs them")
    rng = np.random.default_rng(seed)
    splits = np.full(len(table), "", dtype="<U5")
    for number in range(len(names)):
        rows = rng.permutation(np.flatnonzero(class_numbers_N == number))
        n_test = min(len(rows) - 1, round(share * len(rows)))
        splits[rows] = "train"
        splits[rows[:n_test]] = "test"
    if "test" not in splits:
        raise DataError(
            f"a share of {share} is no whole picture of any class of {table.name}; choose a larger one, or more pictures"
        )
    return dataclasses.replace(table, splits=splits.tolist())


def _check_share(share: float) -> None:
    if not 0.0 < share < 1.0:
        raise DataError(f"the share to split off is {share}; it must be above 0 and below 1")
