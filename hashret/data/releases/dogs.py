"""Stanford Dogs: 20,580 pictures of 120 breeds (Khosla et al. 2011).

The folder that images.tar and lists.tar unpack to:

    Images/                              one folder a breed ("n02085620-Chihuahua")
    train_list.mat test_list.mat         or below lists/: which pictures are learnt from, and which are not
    file_list.mat                        all of them

Each list holds `file_list` (paths below Images/), `annotation_list` (the same without suffix) and `labels` (classes, counted
from 1). A picture's id is its path, its label the breed's folder. Splits: train (12,000 pictures) and test (8,580).
"""

from __future__ import annotations

from pathlib import Path

from hashret.data.releases.files import absolute, require, require_pictures, require_unique
from hashret.data.releases.matlab import read_mat, texts_of, whole_numbers_of
from hashret.data.table import PictureTable
from hashret.errors import DataError

TRAIN, TEST, ALL = "train_list.mat", "test_list.mat", "file_list.mat"


def read(folder: Path) -> PictureTable:
    """The release: the pictures of train_list.mat, then those of test_list.mat, in the order of the lists."""
    lists = folder / "lists" if (folder / "lists").is_dir() else folder
    require(folder, "Stanford Dogs", "Images/")
    require(lists, "Stanford Dogs", TRAIN, TEST, ALL)
    listed = {name: _list(lists / name) for name in (TRAIN, TEST, ALL)}
    train, test = (list(listed[name]) for name in (TRAIN, TEST))
    both = listed[TRAIN].keys() & listed[TEST].keys()
    if both:
        raise DataError(f"{lists}: {TRAIN} and {TEST} both name {min(both)!r}; a picture has one split")
    differing = listed[ALL].items() ^ (listed[TRAIN] | listed[TEST]).items()
    if differing:
        raise DataError(
            f"{lists}: {ALL} has {len(listed[ALL]):,} pictures, {TRAIN} and {TEST} {len(train) + len(test):,} together; the "
            f"first that they do not have alike is {min(differing)[0]!r}"
        )
    _check_classes(folder / "Images", lists, listed)
    names = train + test
    require_pictures(folder / "Images", names, lists / ALL)
    splits = ["train"] * len(train) + ["test"] * len(test)
    labels = [name.split("/")[0] for name in names]
    return PictureTable(names, absolute(folder / "Images", names), labels, splits, {}, "Stanford Dogs")


def _list(path: Path) -> dict[str, int]:
    """{path: class number} of a list, in its order."""
    content = read_mat(path)
    names = texts_of(content, "file_list", path)
    annotations = texts_of(content, "annotation_list", path)
    numbers = whole_numbers_of(content, "labels", path)
    if not names:
        raise DataError(f"{path} names no pictures")
    if not len(names) == len(annotations) == len(numbers):
        raise DataError(
            f"{path} has {len(names):,} entries in file_list, {len(annotations):,} in annotation_list and {len(numbers):,} "
            "in labels; expected as many in each"
        )
    require_unique(path, names, "file")
    for name, annotation in zip(names, annotations, strict=True):
        if name.rpartition(".")[0] != annotation:
            raise DataError(f"{path} has the annotation {annotation!r} for the file {name!r}; expected the same name")
    return dict(zip(names, numbers, strict=True))


def _check_classes(images: Path, lists: Path, listed: dict[str, dict[str, int]]) -> None:
    """DataError unless class numbers and folders are the same, without a gap, and every class is in both splits."""
    breed_of: dict[int, str] = {}
    number_of: dict[str, int] = {}
    for name, number in listed[ALL].items():
        breed = name.split("/")[0]
        if breed_of.setdefault(number, breed) != breed or number_of.setdefault(breed, number) != number:
            raise DataError(
                f"{lists / ALL} gives {name!r} the class {number}, which is that of {breed_of[number]!r}"
                if breed_of[number] != breed
                else f"{lists / ALL} gives {name!r} the class {number}, and others of {breed!r} {number_of[breed]}"
            )
    gap = next((number for number in range(1, max(breed_of) + 1) if number not in breed_of), None)
    if gap is not None:
        raise DataError(f"{lists / ALL} has classes up to {max(breed_of)}, but no picture is of class {gap}")
    empty = sorted(place.name for place in images.iterdir() if place.is_dir() and place.name not in number_of)
    if empty:
        raise DataError(f"{images} has the breed {empty[0]!r}, of which {ALL} names no picture")
    for name in (TRAIN, TEST):
        lacking = sorted(breed_of.keys() - set(listed[name].values()))
        if lacking:
            raise DataError(f"{lists / name} names no picture of class {lacking[0]} ({breed_of[lacking[0]]!r})")
