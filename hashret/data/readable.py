"""Which pictures of a table can be read, found out before long work starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from hashret.data.table import PictureTable
from hashret.errors import DataError, ImageError
from hashret.images import read_picture

ON_BAD = ("fail", "skip")
_BATCH = 512


def keep_readable(
    table: PictureTable, *, on_bad: str, among: npt.NDArray[np.bool_] | None = None, threads: int | None = None
) -> tuple[PictureTable, list[tuple[str, str]]]:
    """The rows whose pictures can be decoded, and (path, reason) of the others; every picture is decoded once.

    `among`, a flag (n,) a row, names those to look at; the others are kept unseen. `on_bad` "fail" raises ImageError for
    the first row, in table order, that cannot be read; "skip" leaves such rows out.
    """

    def failure(row: int) -> ImageError | None:
        try:
            read_picture(table.paths[row], box=table.box(row))
        except ImageError as error:
            return error
        return None

    skipped: list[tuple[str, str]] = []
    good = np.ones(len(table), dtype=bool)
    looked_at = range(len(table)) if among is None else np.flatnonzero(among).tolist()
    rows = iter(looked_at)
    bar = tqdm(total=len(looked_at), desc="checking pictures", unit="picture", disable=None, delay=2, leave=False)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, bar:
        while batch := list(islice(rows, _BATCH)):
            for row, error in zip(batch, pool.map(failure, batch), strict=True):
                if error is not None:
                    if on_bad == "fail":
                        raise error
                    good[row] = False
                    skipped.append((table.paths[row], str(error)))
            bar.update(len(batch))
    return (table if good.all() else table.select(good)), skipped


def write_skipped(file: Path, skipped: Iterable[tuple[str, str]]) -> None:
    """Lists skipped pictures in `file`: one line each, path, tab, reason."""
    lines = [f"{path}\t{reason}\n" for path, reason in skipped]
    try:
        file.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"the list of skipped pictures cannot be written to {file} ({error.strerror})") from error
