"""car-retrieval: cars on a turntable, seen from 24 sides at four times of day; test classes are unseen.

The data are private. hashret reads them, or any set like them, from a folder with

    train/ test/ submit/             pictures ID.jpg (or another suffix that hashret reads), without further folders
    train.csv test.csv submit.csv    the columns id,label and, where known, view,time

`submit` may be missing altogether, and the label is empty where it is unknown, in submit.csv alone. The view is in degrees. A
picture's id is its file name without suffix, and unique among all splits; no class of train may be in test. The original has 84
training classes (53,813 pictures), 78 test classes (11,046 pictures) and 4 classes to submit (20 pictures), of 512x384 pixels.
"""

from __future__ import annotations

from pathlib import Path

from hashret.data.releases.csv_folder import read_csv_folder, require_own_ids
from hashret.data.releases.files import is_number, require
from hashret.data.table import PictureTable
from hashret.errors import DataError

TRAIN, TEST, SUBMIT = "train", "test", "submit"
ATTRIBUTES = ("view", "time")


def read(folder: Path) -> PictureTable:
    """The pictures of train.csv, test.csv and submit.csv in this order, under these splits."""
    require(folder, "car-retrieval", "train.csv", "train/", "test.csv", "test/")
    splits = [TRAIN, TEST]
    if (folder / "submit.csv").is_file():
        splits.append(SUBMIT)
    elif (folder / SUBMIT).is_dir():
        raise DataError(f"{folder} has submit/ but no submit.csv; expected both, or neither")
    parts = {
        split: read_csv_folder(
            folder, split, required=["label"], known=ATTRIBUTES, filled=[] if split == SUBMIT else ["label"]
        )
        for split in splits
    }
    require_own_ids(folder, {split: part["id"] for split, part in parts.items()})
    _check_classes(folder, {split: set(part["label"]) for split, part in parts.items()})
    _check_views(folder, parts)

    def column(name: str) -> list[str]:
        return [value for part in parts.values() for value in part.get(name, [""] * len(part["id"]))]

    return PictureTable(
        column("id"),
        column("path"),
        column("label"),
        [split for split, part in parts.items() for _ in part["id"]],
        {name: column(name) for name in ATTRIBUTES if any(name in part for part in parts.values())},
        "car-retrieval",
    )


def _check_classes(folder: Path, classes: dict[str, set[str]]) -> None:
    for split in (TRAIN, TEST):
        if len(classes[split]) < 2:
            raise DataError(f"{folder / split}.csv has one class, {min(classes[split])!r}; expected two at least")
    seen = sorted(classes[TRAIN] & classes[TEST])
    if seen:
        n = "a class of it is" if len(seen) == 1 else f"{len(seen)} classes of it are"
        raise DataError(f"{folder / TEST}.csv: {n} in train.csv, too ({seen[0]!r}); test classes must be unseen")


def _check_views(folder: Path, parts: dict[str, dict[str, list[str]]]) -> None:
    for split, part in parts.items():
        for each, view in zip(part["id"], part.get("view", []), strict=False):
            if view and not is_number(view):
                raise DataError(f"{folder / split}.csv: the view of {each!r} is {view!r}, expected a number of degrees")
