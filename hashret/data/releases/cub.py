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

from collections.abc import Callable
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

    def split_of(ids: list[str], _classes: list[str], _class_of: list[str]) -> list[str]:
        path = folder / SPLIT
        keys, marks = read_columns(path, "image id", "is training")
        for line, mark in enumerate(marks, 1):
            if mark not in ("0", "1"):
                raise DataError(f"{path}, line {line}: found {mark!r}, expected 1 (training) or 0 (test)")
        splits = ["train" if mark == "1" else "test" for mark in keyed(path, keys, marks, ids, IMAGES)]
        for split, mark in (("train", "1"), ("test", "0")):
            if split not in splits:
                raise DataError(f"{path} marks no picture with {mark}, so the split {split!r} is empty")
        return splits

    return _read(folder, "CUB-200-2011", split_of)


def read_unseen(folder: Path) -> PictureTable:
    """The release with the unseen-class split of metric learning: all pictures of classes 1 to 100 are train, the others test.

    That is the first half of the classes, in the order of classes.txt. The release's own split is not read.
    """

    def split_of(_ids: list[str], classes: list[str], class_of: list[str]) -> list[str]:
        first_half = frozenset(classes[: len(classes) // 2])
        return ["train" if each in first_half else "test" for each in class_of]

    return _read(folder, "CUB-200-2011, unseen classes", split_of)


def _read(folder: Path, name: str, split_of: Callable[[list[str], list[str], list[str]], list[str]]) -> PictureTable:
    """The table, its splits told by (image ids, class ids in their order, class id of each image)."""
    require(folder, "CUB-200-2011", IMAGES, LABELS, CLASSES, SPLIT, BOXES, "images/")
    ids, names = read_columns(folder / IMAGES, "image id", "path")
    require_unique(folder / IMAGES, ids, "image id")
    require_unique(folder / IMAGES, names, "path")
    classes, class_names = read_columns(folder / CLASSES, "class id", "class name")
    require_unique(folder / CLASSES, classes, "class id")
    require_unique(folder / CLASSES, class_names, "class name")
    keys, numbers = read_columns(folder / LABELS, "image id", "class id")
    class_of = keyed(folder / LABELS, keys, numbers, ids, IMAGES)
    labels = _labels(folder, ids, names, dict(zip(classes, class_names, strict=True)), class_of)
    splits = split_of(ids, classes, class_of)
    boxes = _boxes(folder / BOXES, ids)
    require_pictures(folder / "images", names, folder / IMAGES)
    return PictureTable(names, absolute(folder / "images", names), labels, splits, boxes, name)


def _labels(folder: Path, ids: list[str], names: list[str], name_of: dict[str, str], class_of: list[str]) -> list[str]:
    path = folder / LABELS
    for image, name, number in zip(ids, names, class_of, strict=True):
        if number not in name_of:
            raise DataError(f"{path} gives image {image!r} the class id {number!r}, which {CLASSES} does not have")
        if name.split("/")[0] != name_of[number]:
            raise DataError(
                f"{path} gives image {image!r} the class {name_of[number]!r}, but {IMAGES} has it in the folder "
                f"{name.split('/')[0]!r}; one of the two files is wrong"
            )
    empty = sorted(name_of.keys() - set(class_of), key=list(name_of).index)
    if empty:
        raise DataError(f"{folder / CLASSES} lists {len(name_of)} classes, but no picture is of {name_of[empty[0]]!r}")
    return [name_of[number] for number in class_of]


def _boxes(path: Path, ids: list[str]) -> dict[str, list[str]]:
    keys, *edges = read_columns(path, "image id", "x", "y", "width", "height")
    for what, values in zip(("x", "y", "width", "height"), edges, strict=True):
        require_numbers(path, values, what)
    return {column: keyed(path, keys, values, ids, IMAGES) for column, values in zip(BOX, edges, strict=True)}
