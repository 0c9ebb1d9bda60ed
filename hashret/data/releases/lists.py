"""Sets of pictures by list files, as the hashing literature has them (ImageNet100, NUS-WIDE, MS COCO, MIRFlickr ...).

A folder with

    train.txt       pictures that are learnt from
    test.txt        pictures that ask
    database.txt    pictures that are searched; without it those of train.txt are
    classes.txt     one class name a line (not needed: classes are called by their numbers from 0)

and lines `path 0 1 0 ...`: a picture, then for each class whether it is in it; it may be in several, or in none. Paths are
relative to the folder, or absolute.

A picture's id is its path. A picture of several classes has the label "cat;dog". Splits: "train", "query" (test.txt) and
"gallery" (in database.txt alone); the column `gallery` says "yes" for every picture that is searched, most often also those
that are learnt from (see roles.py). A picture that asks may itself be in database.txt; whoever scores leaves it out by id.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path

from hashret.data.releases.files import absolute, require, require_pictures, require_unique
from hashret.data.releases.roles import with_gallery
from hashret.data.table import LABELS_PARTED_BY, PictureTable, read_text
from hashret.errors import DataError
from hashret.images import is_picture_name

TRAIN, TEST, DATABASE, CLASSES = "train.txt", "test.txt", "database.txt", "classes.txt"


def read(folder: Path) -> PictureTable:
    """The pictures of train.txt, test.txt and database.txt in this order, each once."""
    require(folder, "a set by list files", TRAIN, TEST)
    files = [TRAIN, TEST, *([DATABASE] if (folder / DATABASE).is_file() else [])]
    n_classes = _width(folder / TRAIN)
    names = _class_names(folder / CLASSES, n_classes)
    label_of = {"".join("1" if i == hot else "0" for i in range(n_classes)): names[hot] for hot in range(n_classes)}
    listed = {file: _list(folder / file, n_classes, names, label_of) for file in files}
    _check_agreement(folder, listed)
    merged: dict[str, str] = {}
    for pictures in listed.values():
        merged.update({name: label for name, label in pictures.items() if name not in merged})
    used = {part for label in set(merged.values()) for part in label.split(LABELS_PARTED_BY)}
    empty = [name for name in names if name not in used]
    if empty:
        raise DataError(f"{folder}: the lists have {n_classes} classes, but no picture is of {empty[0]!r}")
    for file in files:
        _require_there(folder, file, listed[file])
    ids = list(merged)
    splits = ["train" if i in listed[TRAIN] else "query" if i in listed[TEST] else "gallery" for i in ids]
    table = PictureTable(ids, absolute(folder, ids), list(merged.values()), splits, {}, folder.absolute().name)
    searched = listed[DATABASE if DATABASE in listed else TRAIN]
    return with_gallery(table, (i in searched for i in ids))


def _lines(path: Path) -> list[str]:
    lines = read_text(path).rstrip().splitlines()
    if not lines:
        raise DataError(f"{path} is empty; expected one line a picture, such as: images/1.jpg 0 1 0")
    return lines


def _width(path: Path) -> int:
    """The number of classes: how many zeros and ones end the first line."""
    line = _lines(path)[0]
    n = _flags_at_end(line.split())
    if n < 2:
        raise DataError(
            f"{path}, line 1: found {line[-60:]!r}, expected a path and, for each of two classes or more, 0 or 1"
        )
    return n


def _flags_at_end(words: list[str]) -> int:
    n = 0
    while n < len(words) - 1 and words[-1 - n] in ("0", "1"):
        n += 1
    return n


def _class_names(path: Path, n_classes: int) -> list[str]:
    if not path.is_file():
        return [str(number) for number in range(n_classes)]
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if len(names) != n_classes:
        raise DataError(f"{path} names {len(names)} classes, but the lines of {TRAIN} have {n_classes}")
    require_unique(path, names, "class")
    wrong = next((name for name in names if not name or LABELS_PARTED_BY in name), None)
    if wrong is not None:
        raise DataError(f"{path} has a class called {wrong!r}; expected a name without {LABELS_PARTED_BY!r}")
    return names


def _list(path: Path, n_classes: int, names: list[str], label_of: dict[str, str]) -> dict[str, str]:
    """{picture: label} of a list, in its order; `label_of` keeps the label of every row of flags that was met."""
    pictures: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        name, *flags = line.rsplit(maxsplit=n_classes) or [""]
        row = "".join(flags)
        if row not in label_of or len(flags) != n_classes or not is_picture_name(name):
            _check_line(path, number, line, n_classes)
            label_of[row] = LABELS_PARTED_BY.join(names[i] for i, flag in enumerate(row) if flag == "1")
        name = posixpath.normpath(name.strip())
        if name in pictures:
            raise DataError(f"{path}, line {number}: {name!r} is listed twice; leave one of the lines out")
        pictures[name] = label_of[row]
    return pictures


def _check_line(path: Path, number: int, line: str, n_classes: int) -> None:
    words = line.split()
    found = _flags_at_end(words)
    name = " ".join(words[: len(words) - found])
    if found == n_classes and is_picture_name(name):
        return
    if is_picture_name(name):
        raise DataError(
            f"{path}, line {number}: found {found} numbers, expected {n_classes} (0 or 1 for each class, as in line 1 of "
            f"{TRAIN})"
        )
    raise DataError(
        f"{path}, line {number}: found {line[:60]!r}, expected the path of a picture and {n_classes} numbers, each 0 or 1"
    )


def _check_agreement(folder: Path, listed: Mapping[str, Mapping[str, str]]) -> None:
    """DataError when a picture is learnt from and asks, or has other labels in another list."""
    leaked = listed[TRAIN].keys() & listed[TEST].keys()
    if leaked:
        raise DataError(
            f"{folder}: {len(leaked):,} of the pictures in {TEST} are in {TRAIN}, too ({min(leaked)!r}); scores would say "
            "nothing, so take them out of one"
        )
    for file in (TRAIN, TEST):
        for name, label in listed.get(DATABASE, {}).items():
            if listed[file].get(name, label) != label:
                raise DataError(
                    f"{folder}: {name!r} has the label {listed[file][name]!r} in {file} and {label!r} in {DATABASE}; correct one"
                )


def _require_there(folder: Path, file: str, pictures: Mapping[str, str]) -> None:
    names = list(pictures)
    elsewhere = [name for name in names if posixpath.isabs(name)]
    require_pictures(
        folder,
        elsewhere,
        folder / file,
        then=f"these paths are absolute: cut off what comes before the pictures' folder in {folder}, with sed for instance",
    )
    require_pictures(folder, names, folder / file, then="put the pictures there, or correct the paths in the list")
