"""Which pictures of a table can be read, found out before long work starts."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hashret.data.table import PictureTable
from hashret.errors import DataError, ImageError
from hashret.images import read_picture

ON_BAD = ("fail", "skip")
_BATCH = 512


class Skipped(NamedTuple):
    """A picture that was left out: its id, its path, and why."""

    id: str
    path: str
    reason: str


def keep_readable(table: PictureTable, *, on_bad: str, threads: int | None = None) -> tuple[PictureTable, list[Skipped]]:
    """The rows whose pictures can be decoded, and the others with the reason; every picture is decoded once.

    `on_bad` "fail" raises ImageError for the first row, in table order, that cannot be read; "skip" leaves such rows out.
    """

    def failure(row: int) -> ImageError | None:
        try:
            read_picture(table.paths[row], box=table.box(row), smallest_side=64)
        except ImageError as error:
            return error
        return None

    skipped: list[Skipped] = []
    good = np.ones(len(table), dtype=bool)
    rows = iter(range(len(table)))
    bar = tqdm(total=len(table), desc="checking pictures", unit="picture", disable=None, delay=2, leave=False)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, bar:
        while batch := list(islice(rows, _BATCH)):
            for row, error in zip(batch, pool.map(failure, batch), strict=True):
                if error is not None:
                    if on_bad == "fail":
                        raise error
                    good[row] = False
                    skipped.append(Skipped(table.ids[row], table.paths[row], str(error)))
            bar.update(len(batch))
    return (table if good.all() else table.select(good)), skipped


def write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    """Write the list of skipped pictures as CSV: id, path, reason."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Skipped._fields)
            writer.writerows(skipped)
    except OSError as error:
        raise DataError(f"the list of skipped pictures cannot be written to {path}: {error.strerror}") from None
