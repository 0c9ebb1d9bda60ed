"""Pictures to measure with: those of a table, or JPEG files of invented cars that are drawn on the spot."""

from __future__ import annotations

from pathlib import Path

import machine
import numpy as np

from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.data.turntable.generate import generate

DRAWN = {"classes": 8, "test_classes": 8, "size": (512, 384)}


def open_pictures(data: str | None, n: int, folder: Path, *, quick: bool) -> tuple[PictureTable, int]:
    """A table of n rows, those of `data` or of pictures drawn into the folder, again and again if need be; how many differ.

    Drawing takes a tenth of a second a picture and core.
    """
    if data is None:
        per_class = 4 if quick else 16 if machine.cores() < 8 else 64
        generate(folder, pictures_per_class=per_class, progress=False, **DRAWN)  # type: ignore[arg-type]
    table = open_source(str(folder / "table.csv") if data is None else data)
    some = table.select(np.resize(np.random.default_rng(0).permutation(len(table)), n))
    names = [str(number) for number in range(n)]
    drawn = PictureTable(names, some.paths, some.labels, some.splits, some.attributes, some.name)
    return drawn, min(n, len(table))
