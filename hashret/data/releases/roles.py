"""What a picture of a protocol is there for: learnt from, asked with, searched among.

A row of a table has one split, but in many protocols the pictures that are learnt from are searched among, too. So the
split says what a picture is there for first ("train", "val", "query", "gallery"), and the column `gallery` says "yes" for
every picture that queries search, whatever its split, and "" for the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hashret.data.table import PictureTable
from hashret.errors import DataError

GALLERY = "gallery"
"""The column that says which pictures are searched; also the split of those that are there for nothing else."""


def with_gallery(table: PictureTable, searched: Iterable[bool]) -> PictureTable:
    """The table with the column `gallery`: "yes" for the pictures that are `searched` (N,)."""
    column = ["yes" if each else "" for each in searched]
    return dataclasses.replace(table, attributes={**table.attributes, GALLERY: column})


def in_gallery(table: PictureTable) -> npt.NDArray[np.bool_]:
    """Which pictures (N,) queries search: "yes" in the column `gallery`; without that column, the split "gallery"."""
    if GALLERY in table.attributes:
        others = set(table.attributes[GALLERY]) - {"yes", ""}
        if others:
            raise DataError(f"{table.name}: the column {GALLERY!r} has {min(others)!r}; expected yes, or nothing")
        return np.array([value == "yes" for value in table.attributes[GALLERY]], dtype=bool)
    return np.array([split == GALLERY for split in table.splits], dtype=bool)
