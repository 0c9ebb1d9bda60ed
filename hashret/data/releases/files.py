"""Files of a release: that they are there, their columns of text, and the pictures that they name."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hashret.data.table import nfc, read_text
from hashret.errors import DataError


def require(folder: Path, release: str, *names: str) -> None:
    """DataError when a file, or a folder ("images/"), of a release is not there."""
    for name in names:
        place = folder / name
        if not (place.is_dir() if name.endswith("/") else place.is_file()):
            raise DataError(f"{folder} has no {name}; expected the folder of {release}, with {_in_words(names)}")


def absolute(folder: Path, names: Sequence[str]) -> list[str]:
    """The paths of files by their names below `folder`, or by absolute names, which stay as they are."""
    root = str(folder.absolute())
    return [os.path.join(root, name) for name in names]  # noqa: PTH118  a Path for each of 100,000 rows takes seconds


def require_pictures(folder: Path, names: Sequence[str], named_in: Path | str, *, then: str = "") -> None:
    """DataError when pictures that `named_in` names below `folder` are not there: how many, and the first.

    then: what to do about it. Every folder is listed once, whatever number of pictures it holds.
    """
    listed: dict[str, frozenset[str]] = {}
    missing = []
    for name, path in zip(names, absolute(folder, names), strict=True):
        place, _, file = path.replace(os.sep, "/").rpartition("/")
        if place not in listed:
            listed[place] = names_in(place or os.sep)
        if file not in listed[place] and (file.isascii() or nfc([file])[0] not in nfc(listed[place])):
            missing.append(name)
    if missing:
        n = "a picture that is" if len(missing) == 1 else f"{len(missing):,} pictures that are"
        first = "" if len(missing) == 1 else "the first of them "
        then = then or "unpack the release anew"
        raise DataError(f"{named_in} names {n} not in {folder}, {first}{missing[0]!r}; {then}")


def names_in(place: str) -> frozenset[str]:
    """The names in a folder, listed once; nothing where there is no such folder."""
    try:
        with os.scandir(place) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def read_columns(path: Path, *columns: str) -> list[list[str]]:
    """The columns of a text file whose lines hold one word for each of `columns`, which say what they are.

    DataError, with the line, for another number of words, and for a file without lines.
    """
    lines = read_text(path).rstrip().splitlines()
    if not lines:
        raise DataError(f"{path} is empty; expected lines of {_in_words(columns)}")
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise DataError(
                f"{path}, line {number}: found {len(row)} columns, expected {len(columns)} ({', '.join(columns)})"
            )
    return [list(column) for column in zip(*rows, strict=True)]


def require_numbers(path: Path, values: Sequence[str], what: str) -> None:
    """DataError, with the line, when one of the values, one a line of `path`, is no number."""
    for line, value in enumerate(values, 1):
        if not is_number(value):
            raise DataError(f"{path}, line {line}: the {what} is {value!r}, expected a number")


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def require_unique(path: Path, values: Sequence[str], what: str) -> None:
    """DataError when one of the values of `path` occurs twice."""
    value, count = Counter(values).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path} has the {what} {value!r} {count} times; expected every one once")


def keyed(path: Path, keys: Sequence[str], values: Sequence[str], wanted: Sequence[str], wanted_in: str) -> list[str]:
    """The value of each of the `wanted` keys, whatever order `path` gives them in.

    DataError when `path` has a key twice, one that is not wanted, or lacks one; `wanted_in` is the file that wants them.
    """
    require_unique(path, keys, "image id")
    value_of = dict(zip(keys, values, strict=True))
    known = frozenset(wanted)
    unknown = next((key for key in keys if key not in known), None)
    if unknown is not None:
        raise DataError(f"{path} has a line for the image id {unknown!r}, which {wanted_in} does not have")
    lacking = [key for key in wanted if key not in value_of]
    if lacking:
        raise DataError(
            f"{path} has {len(keys):,} lines and {wanted_in} {len(wanted):,}; the first image id without a line is "
            f"{lacking[0]!r}"
        )
    return [value_of[key] for key in wanted]


def _in_words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
