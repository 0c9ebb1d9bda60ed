"""Every source of pictures, opened by one name: a folder, a CSV, a zip of either, a release, or a data set of torchvision's."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from hashret.data.folders import files_below
from hashret.data.layout import read_layout, shared_top
from hashret.data.releases import READERS, open_release
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
    CSV, a zip of any of these, a published data set in the layout of its release ("cub:CUB_200_2011", a name of
    releases.READERS and a folder), or a data set of torchvision's by name ("CIFAR10", "torchvision:CIFAR10"), which is
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
    release = split_release(spec)
    if release is not None:
        return open_release(*release)
    if find_set(spec) is not None:
        return open_set(spec)
    raise DataError(
        f"there is no folder, CSV, zip or data set {spec!r}; check the path, or name a data set of torchvision's such "
        f"as CIFAR10, or a release and its folder, such as cub:FOLDER ({', '.join(READERS)})"
    )


def split_release(spec: str) -> tuple[str, Path] | None:
    """("cub", the absolute path of CUB_200_2011) for "cub:CUB_200_2011"; None for all that names no release.

    A path that exists under the whole spelling wins. DataError when no folder is named.
    """
    name, colon, folder = spec.partition(":")
    if not colon or name not in READERS or Path(spec).exists():
        return None
    if not folder:
        raise DataError(f"{spec!r} names no folder; expected {name}:FOLDER, the folder that the release unpacks to")
    return name, Path(folder).expanduser().absolute()


def _open_folder(folder: Path, allow_duplicates: bool) -> PictureTable:
    if (folder / TABLE_NAME).is_file():
        table = PictureTable.read_csv(folder / TABLE_NAME, allow_duplicates=allow_duplicates)
        table.name = folder.name
        return table
    root = str(folder.absolute())
    names = sorted(files_below(root, is_picture_name), key=lambda name: (nfc([name]), name))
    return _table(names, [f"{root}{os.sep}{name}" for name in names], folder.name or str(folder), str(folder))


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
