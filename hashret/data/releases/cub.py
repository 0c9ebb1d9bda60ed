"""CUB-200-2011: 11,788 pictures of 200 kinds of birds (Wah et al. 2011).

The folder that CUB_200_2011.tgz unpacks to:

    images.txt               image id, path below images/
    image_class_labels.txt   image id, class id
    classes.txt              class id, class name, which is also the class's folder
    train_test_split.txt     image id, 1 (training) or 0
    bounding_boxes.txt       image id, x, y, width, height in pixels
    images/

A picture's id is its path below images/, its label the class name with its number ("001.Black_footed_Albatross"). The box is
kept in the columns box_x, box_y, box_width and box_height, as it is written: the protocols take the whole picture, and
columns x1 to y2 would cut the box out.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hashret.data.releases.files import (
    absolute,
    keyed,
    read_columns,
    require,
    require_numbers,
    require_pictures,
    require_unique,
)
from hashret.data.table import PictureTable
from hashret.errors import DataError

IMAGES, LABELS, CLASSES = "images.txt", "image_class_labels.txt", "classes.txt"
SPLIT, BOXES = "train_test_split.txt", "bounding_boxes.txt"
BOX = ("box_x", "box_y", "box_width", "box_height")


def read(folder: Path) -> PictureTable:
    """The release with its own splits: train (5,994 pictures) and test (5,794), of the same classes."""
    require(folder, "CUB-200-2011", IMAGES, LABELS, CLASSES, SPLIT, BOXES, "images/")
    ids, names = read_columns(folder / IMAGES, "image id", "path")
    require_unique(folder / IMAGES, ids, "image id")
    require_unique(folder / IMAGES, names, "path")
    labels, splits, boxes = _labels(folder, ids, names), _splits(folder / SPLIT, ids), _boxes(folder / BOXES, ids)
    require_pictures(folder / "images", names, folder / IMAGES)
    return PictureTable(names, absolute(folder / "images", names), labels, splits, boxes, "CUB-200-2011")


def read_unseen(folder: Path) -> PictureTable:
    """The release with the unseen-class split of metric learning: all pictures of classes 1 to 100 are train, the others test.

    That is the first half of the classes, in the order of classes.txt.
    """
    table = read(folder)
    _, names = read_columns(folder / CLASSES, "class id", "class name")
    first_half = frozenset(names[: len(names) // 2])
    splits = ["train" if label in first_half else "test" for label in table.labels]
    return dataclasses.replace(table, splits=splits, name="CUB-200-2011, unseen classes")


def _labels(folder: Path, ids: list[str], names: list[str]) -> list[str]:
    """The class name of each image."""
    classes, class_names = read_columns(folder / CLASSES, "class id", "class name")
    require_unique(folder / CLASSES, classes, "class id")
    require_unique(folder / CLASSES, class_names, "class name")
    name_of = dict(zip(classes, class_names, strict=True))
    path = folder / LABELS
    keys, numbers = read_columns(path, "image id", "class id")
    class_of = keyed(path, keys, numbers, ids, IMAGES)
    for image, name, number in zip(ids, names, class_of, strict=True):
        if number not in name_of:
            raise DataError(f"{path} gives image {image!r} the class id {number!r}, which {CLASSES} does not have")
        if name.split("/")[0] != name_of[number]:
            raise DataError(
                f"{path} gives image {image!r} the class {name_of[number]!r}, but {IMAGES} has it in the folder "
                f"{name.split('/')[0]!r}; one of the two files is wrong"
            )
    used = frozenset(class_of)
    empty = next((name for number, name in name_of.items() if number not in used), None)
    if empty is not None:
        raise DataError(f"{folder / CLASSES} lists {len(name_of)} classes, but no picture is of {empty!r}")
    return [name_of[number] for number in class_of]


def _splits(path: Path, ids: list[str]) -> list[str]:
    keys, marks = read_columns(path, "image id", "is training")
    for line, mark in enumerate(marks, 1):
        if mark not in ("0", "1"):
            raise DataError(f"{path}, line {line}: found {mark!r}, expected 1 (training) or 0 (test)")
    splits = ["train" if mark == "1" else "test" for mark in keyed(path, keys, marks, ids, IMAGES)]
    for split, mark in (("train", "1"), ("test", "0")):
        if split not in splits:
            raise DataError(f"{path} marks no picture with {mark}, so the split {split!r} is empty")
    return splits


def _boxes(path: Path, ids: list[str]) -> dict[str, list[str]]:
    keys, *edges = read_columns(path, "image id", "x", "y", "width", "height")
    for what, values in zip(("x", "y", "width", "height"), edges, strict=True):
        require_numbers(path, values, what)
    return {column: keyed(path, keys, values, ids, IMAGES) for column, values in zip(BOX, edges, strict=True)}
