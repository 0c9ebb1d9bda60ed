"""distractors: a competition's pictures, each of one class or of several, and pictures of no class at all.

A folder with

    train.csv     columns id,classes: class names parted by spaces, at least one
    test.csv      column id, and classes where they are known
    train/ test/  pictures ID.jpg (or another suffix that hashret reads), without further folders
    outside/      pictures of no class, in any folders

Splits: "train", "test" and "outside". The id of a picture is its file name without suffix, for those outside "outside/" and
the file's name. The label holds the classes, parted by ";", sorted; it is empty outside, and for test pictures whose classes
are not known. The competition's own mark of a picture of no class, -1, may stand in test.csv and stays a label.
"""

from __future__ import annotations

from pathlib import Path

from hashret.data.folders import files_below
from hashret.data.releases.csv_folder import read_csv_folder, require_own_ids
from hashret.data.releases.files import absolute, require
from hashret.data.table import LABELS_PARTED_BY, PictureTable
from hashret.errors import DataError
from hashret.images import is_picture_name

TRAIN, TEST, OUTSIDE = "train", "test", "outside"
NO_CLASS = "-1"


def read(folder: Path) -> PictureTable:
    """The pictures of train.csv and of test.csv in their order, then those outside in the order of their names."""
    require(folder, "distractors", "train.csv", "test.csv", "train/", "test/", f"{OUTSIDE}/")
    train = read_csv_folder(folder, TRAIN, required=["classes"], filled=["classes"])
    test = read_csv_folder(folder, TEST, required=[], known=["classes"])
    require_own_ids(folder, {TRAIN: train["id"], TEST: test["id"]})
    for part in (train, test):
        part["label"] = [_label(folder, classes) for classes in part.get("classes", [""] * len(part["id"]))]
    strangers = [each for each, label in zip(train["id"], train["label"], strict=True) if label == NO_CLASS]
    if strangers:
        raise DataError(
            f"{folder / TRAIN}.csv has {strangers[0]!r} in no class (-1); such pictures belong in {OUTSIDE}/"
        )
    if len(set(train["classes"])) < 2:
        raise DataError(f"{folder / TRAIN}.csv has one class, {train['classes'][0]!r}; expected two at least")
    outside = sorted(files_below(str(folder / OUTSIDE), is_picture_name))
    if not outside:
        raise DataError(f"{folder / OUTSIDE} holds no pictures; expected pictures of no class")
    places = [f"{OUTSIDE}/{name}" for name in outside]
    return PictureTable(
        train["id"] + test["id"] + places,
        train["path"] + test["path"] + absolute(folder, places),
        train["label"] + test["label"] + [""] * len(places),
        [TRAIN] * len(train["id"]) + [TEST] * len(test["id"]) + [OUTSIDE] * len(places),
        {},
        "distractors",
    )


def _label(folder: Path, classes: str) -> str:
    if LABELS_PARTED_BY in classes:
        raise DataError(f"{folder}: the classes {classes!r} hold {LABELS_PARTED_BY!r}; expected names parted by spaces")
    return LABELS_PARTED_BY.join(sorted(set(classes.split())))
