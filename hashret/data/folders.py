"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hashret.errors import DataError


def files_below(root: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Relative names ("a/b.jpg") of the files below `root` whose own name is `wanted`; hidden ones are passed over.

    Links are followed; a folder that leads back to itself is left out. DataError for a folder that cannot be listed, and
    for a name that is no Unicode.
    """
    return _below(root, "", frozenset(), wanted)


def _below(root: str, below: str, parents: frozenset[tuple[int, int]], wanted: Callable[[str], bool]) -> Iterator[str]:
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
            yield from _below(root, f"{below}{entry.name}/", parents | {itself}, wanted)
        elif wanted(entry.name):
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
