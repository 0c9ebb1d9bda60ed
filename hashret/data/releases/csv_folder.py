"""A folder of pictures ID.jpg beside a CSV that says something about each: train/ and train.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hashret.data.releases.files import absolute, names_in
from hashret.data.table import line_of, nfc, parse_columns, read_text
from hashret.errors import DataError
from hashret.images import is_picture_name


def read_csv_folder(
    folder: Path, split: str, *, required: Sequence[str], known: Sequence[str] = (), filled: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The columns of the CSV of a split, and `path`, where the picture of each row lies.

    The CSV has the columns `id` and `required`, and may have those `known`; those `filled` have a value in every row. DataError
    for another header, an empty value, an id without a picture or with two rows, and a picture without a row.
    """
    file = folder / f"{split}.csv"
    text = read_text(file)
    header, columns = parse_columns(text, str(file))
    needed = ("id", *required)
    if not set(needed) <= set(header) or set(header) - {*needed, *known}:
        more = f" and, where known, {','.join(known)}" if known else ""
        raise DataError(f"{file} has the columns {','.join(header)}; expected {','.join(needed)}{more}")
    part = {column: [value.strip() for value in values] for column, values in zip(header, columns, strict=True)}
    part["id"] = nfc(part["id"])
    if not part["id"]:
        raise DataError(f"{file} has no rows; expected one for each picture in {split}/")
    for column in ("id", *filled):
        if "" in part[column]:
            raise DataError(f"{file}, line {line_of(text, part[column].index(''))}: the column {column} is empty")
    part["path"] = _paths(file, part["id"], _pictures(folder / split))
    return part


def require_own_ids(folder: Path, ids_of: Mapping[str, Sequence[str]]) -> None:
    """DataError when two splits ({split: ids}) have an id in common."""
    split_of: dict[str, str] = {}
    for split, ids in ids_of.items():
        for each in ids:
            if each in split_of:
                raise DataError(
                    f"{folder}: the id {each!r} is in {split_of[each]}.csv and in {split}.csv; ids must be unique"
                )
            split_of[each] = split


def _pictures(place: Path) -> dict[str, str]:
    """{file name without suffix: absolute path} of the pictures in a folder."""
    if not place.is_dir():
        raise DataError(f"there is no folder {place}; expected it beside the CSV that names its pictures")
    found: dict[str, str] = {}
    for name in sorted(names_in(str(place))):
        if is_picture_name(name):
            stem = nfc([name.rpartition(".")[0]])[0]
            if stem in found:
                raise DataError(f"{place} has two pictures called {stem!r}; an id would not say which is meant")
            found[stem] = name
    return dict(zip(found, absolute(place, list(found.values())), strict=True))


def _paths(file: Path, ids: list[str], path_of: dict[str, str]) -> list[str]:
    lacking = [each for each in ids if each not in path_of]
    if lacking:
        raise DataError(
            f"{file}: {_some(lacking, 'id')} no picture in {file.stem}/; add the files, or take the rows out"
        )
    surplus = sorted(path_of.keys() - set(ids))
    if surplus:
        raise DataError(
            f"{file.parent / file.stem}: {_some(surplus, 'picture')} no row in {file.name}; add rows, or remove them"
        )
    if len(ids) != len(path_of):
        twice = next(each for row, each in enumerate(ids) if each in ids[:row])
        raise DataError(f"{file} has the id {twice!r} twice; expected one row a picture")
    return [path_of[each] for each in ids]


def _some(names: list[str], what: str) -> str:
    return (
        f"the {what} {names[0]!r} has" if len(names) == 1 else f"{len(names):,} {what}s (the first: {names[0]!r}) have"
    )
