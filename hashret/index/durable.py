"""Files that are either there whole or not at all, and one writer at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hashret.errors import SearchError

TEMPORARY = ".tmp-"
"""Prefix of names that a writer has not finished; a later writer removes them."""


def temporary_name() -> str:
    """A name that nobody else uses."""
    return TEMPORARY + secrets.token_hex(8)


def flush(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    if path.is_dir() and sys.platform == "win32":
        return  # Windows opens no folders; its renames are journalled.
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_folder(made: Path, out: Path) -> None:
    """A folder that is finished, now where it is to lie: nothing is there yet, or an empty folder."""
    if out.exists():
        out.rmdir()
    made.rename(out)
    flush(out.parent)


def replace_file(path: Path, content: bytes) -> None:
    """The file holds the content: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(temporary_name())
    try:
        temporary.write_bytes(content)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Only one writer holds this; SearchError at once when another does. The system frees it when a process dies."""
    lock = FileLock(folder / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise SearchError(
            f"the index {folder} is being written by another process; wait for it and try again"
        ) from None
    except OSError as error:
        raise SearchError(f"the index {folder} cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()
