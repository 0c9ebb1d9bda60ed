"""Published data sets, each read out of the folder that its release unpacks to.

cub             CUB-200-2011: its own split, and the unseen-class split
dogs            Stanford Dogs
compcars        CompCars: web pictures, and surveillance pictures that ask for them
lists           list files of the hashing literature: a path, then a 0 or 1 for each class
car_retrieval   cars on a turntable: folders of pictures with a CSV each
distractors     a competition's pictures of several classes, and pictures of no class
cifar10_splits  the three CIFAR-10 protocols of the hashing literature, on an ordinary CIFAR-10 table
roles           what a picture is there for: learnt from, asked with, searched among
csv_folder      a folder of pictures beside a CSV
files, matlab   what else releases consist of

A reader checks what it reads and decodes no picture. It is loaded when it is used.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hashret.data.table import PictureTable
from hashret.errors import DataError

Reader = Callable[[Path], PictureTable]


def _reader(module: str, function: str = "read") -> Reader:
    def read(folder: Path) -> PictureTable:
        found: Reader = getattr(importlib.import_module(f"hashret.data.releases.{module}"), function)
        return found(folder)

    return read


READERS: Mapping[str, Reader] = {
    "cub": _reader("cub"),
    "cub-unseen": _reader("cub", "read_unseen"),
    "dogs": _reader("dogs"),
    "compcars": _reader("compcars"),
    "lists": _reader("lists"),
    "car-retrieval": _reader("car_retrieval"),
    "distractors": _reader("distractors"),
}
"""By name: what makes the table of a release out of its folder."""


def open_release(name: str, folder: str | os.PathLike[str]) -> PictureTable:
    """The pictures of the release `name` (one of READERS), which lies in `folder`, with unique ids and absolute paths.

    Raises DataError, in one sentence, when there is no such release or folder, or when a file of it is not as released.
    """
    if name not in READERS:
        raise DataError(f"hashret reads no release {name!r}; it reads {', '.join(READERS)}")
    path = Path(folder).expanduser()
    if not path.is_dir():
        found = "is no folder; unpack the release" if path.exists() else "is not there; check the path"
        raise DataError(f"{path} {found}, and name the folder that it unpacks to")
    return READERS[name](path).require_unique_ids()
