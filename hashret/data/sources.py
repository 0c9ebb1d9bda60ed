"""Every source of pictures, opened by one name: a folder, a CSV, a zip of either, or a data set of torchvision's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hashret.data.layout import read_layout, shared_top
from hashret.data.table import PictureTable, decode_csv, nfc
from hashret.data.torchvision_sets import find_set, open_set
from hashret.errors import DataError
from hashret.images import Archive, is_picture_name, open_archive

TABLE_NAME = "table.csv"
_CSV_BYTE_LIMIT = 1 << 31


def open_source(
    spec: str | os.PathLike[str],
    label_map: str | os.PathLike[str] | None = None,
    *,
    allow_duplicates: bool = False,
) -> PictureTable:
    """The pictures of a source as a table, in an order that is the same on every machine.

    spec: a folder of class folders (split folders on top are recognised), a flat folder, a folder with a table.csv, a
    CSV, a zip of any of these, or a data set of torchvision's by name ("CIFAR10", "torchvision:CIFAR10"), which is
    downloaded into the cache folder on first use. A path that exists wins over a name.
    label_map: a CSV that merges labels (see PictureTable.with_label_map).
    allow_duplicates: let ids occur twice (only for a table that is to be checked).

    Raises DataError when there is no such source, or it holds no pictures.
    """
    table = _open(os.fspath(spec), allow_duplicates)
    return table if label_map is None else table.with_label_map(label_map)


def _open(spec: str, allow_duplicates: bool) -> PictureTable:
    if spec.startswith("torchvision:"):
        return open_set(spec.removeprefix("torchvision:"))
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, allow_duplicates)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".csv":
            return PictureTable.read_csv(path, allow_duplicates=allow_duplicates)
        if suffix == ".zip":
            return _open_zip(path, allow_duplicates)
        kind = "a single picture" if is_picture_name(path) else f"a {suffix or 'nameless'} file"
        raise DataError(f"{spec} is {kind}; expected a folder of pictures, a CSV or a zip")
    if find_set(spec) is not None:
        return open_set(spec)
    raise DataError(
        f"there is no folder, CSV, zip or data set {spec!r}; check the path, or name a data set of torchvision's such "
        "as CIFAR10"
    )


def _open_folder(folder: Path, allow_duplicates: bool) -> PictureTable:
    if (folder / TABLE_NAME).is_file():
        table = PictureTable.read_csv(folder / TABLE_NAME, allow_duplicates=allow_duplicates)
        table.name = folder.name
        return table
    root = str(folder.absolute())
    names = sorted(_pictures_below(root, "", frozenset()), key=lambda name: (nfc([name]), name))
    return _table(names, [f"{root}{os.sep}{name}" for name in names], folder.name or str(folder), str(folder))


def _pictures_below(root: str, below: str, parents: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Relative names ("a/b.jpg") of all pictures, links followed; a folder that leads back to itself is left out."""
    here = f"{root}{os.sep}{below}"
    try:
        status = Path(here).stat()
        with os.scandir(here) as entries:
            listed = list(entries)
    except OSError as error:
        raise DataError(f"the folder {here} cannot be listed ({error.strerror}); check its permissions") from error
    itself = (status.st_dev, status.st_ino)
    if itself in parents:
        return
    for entry in listed:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if not entry.name.isascii():
            _require_unicode(entry.name, here)
        # A link that leads nowhere, or to itself, stays in the table, so that it is reported and not passed over.
        if _is_folder(entry):
            yield from _pictures_below(root, f"{below}{entry.name}/", parents | {itself})
        elif is_picture_name(entry.name):
            yield below + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _require_unicode(name: str, folder: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{os.fsencode(name)!r} in {folder.encode('utf-8', 'replace').decode()} is no Unicode name (an old encoding "
            "such as cp949?); rename it to UTF-8, for instance with convmv"
        ) from error


def _open_zip(path: Path, allow_duplicates: bool) -> PictureTable:
    archive = open_archive(str(path))
    members = [
        name
        for name in archive.members
        if not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
    ]
    location = f"{path.absolute()}::"
    found = _table_inside(archive, members)
    if found is not None:
        member, text = found
        below = location + member.rpartition("/")[0] + "/" * ("/" in member)
        return PictureTable.parse_csv(
            text, f"{path.name}::{member}", lambda written: below + written, allow_duplicates=allow_duplicates
        )
    pictures = sorted((name for name in members if is_picture_name(name)), key=lambda name: (nfc([name]), name))
    top = shared_top(pictures, path.stem)
    return _table([name[len(top) :] for name in pictures], [location + name for name in pictures], path.stem, str(path))


def _table_inside(archive: Archive, members: list[str]) -> tuple[str, str] | None:
    """(member, text) of the CSV that describes a zip: the uppermost table.csv, or the only CSV with id and path."""
    named = [name for name in members if PurePosixPath(name).suffix.lower() == ".csv"]
    described = []
    for name in sorted(named, key=lambda name: (name.count("/"), name)):
        text = decode_csv(archive.read(name, byte_limit=_CSV_BYTE_LIMIT), name)
        if PurePosixPath(name).name == TABLE_NAME:
            return name, text
        header = {column.strip().strip('"').lower() for column in text.partition("\n")[0].split(",")}
        if {"id", "path"} <= header:
            described.append((name, text))
    return described[0] if len(described) == 1 else None


def _table(names: list[str], paths: list[str], name: str, source: str) -> PictureTable:
    if not names:
        raise DataError(f"{source} holds no pictures; expected files such as .jpg, .png, .webp, .bmp, .gif or .tif")
    labels, splits = read_layout(names)
    table = PictureTable(ids=names, paths=paths, labels=labels, splits=splits, name=name)
    return table.require_unique_ids()
