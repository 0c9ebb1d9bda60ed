"""Encoding for commands: what is finished is kept in a folder until the command is, and an interrupted one goes on from there."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hashret.cli.options import counted, encoding_settings, say_skipped
from hashret.errors import DataError, ImageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.encoding import Encoded
    from hashret.model.hasher import Hasher


def unfinished_beside(path: Path) -> Path:
    """The folder for a command that writes `path`, or would."""
    # Resolved, for "." has no name to put a word behind.
    resolved = path.resolve()
    return resolved.with_name(resolved.name + ".unfinished")


@contextlib.contextmanager
def kept_until_done(folder: Path) -> Iterator[Path]:
    """The folder, for the length of a command: gone after it, or left with what there is in it when the command fails."""
    try:
        yield folder
    except BaseException as error:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was encoded yet
        if isinstance(error, KeyboardInterrupt) and folder.exists():
            print(f"what was encoded is kept in {folder}; the same command goes on from there", file=sys.stderr)
        raise
    with contextlib.suppress(FileNotFoundError):  # the same command, typed twice at once, was done first
        shutil.rmtree(folder)


@contextlib.contextmanager
def skipping_named() -> Iterator[None]:
    """A picture that cannot be read stops the work within; its sentence then says how to go on without it."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{error}, or leave out what cannot be read with --on-bad skip") from error


def encode(
    args: argparse.Namespace,
    hasher: Hasher,
    table: PictureTable,
    what: Collection[str],
    folder: Path,
    skipped_list: Path,
    undone: str | None,
) -> tuple[Encoded, Path | None]:
    """What the model makes of the table as the flags say, and where the pictures left out are listed, None without any.

    folder: keeps finished parts. undone: what does not happen, said in a DataError, when no picture can be read; None where
    that stops nothing.
    """
    from hashret.data.readable import write_skipped
    from hashret.encoding import encode_table

    with skipping_named():
        encoded = encode_table(
            hasher,
            table,
            what=what,
            on_bad=args.on_bad,
            resume_folder=folder,
            **encoding_settings(args),
        )
    if encoded.skipped:
        write_skipped(skipped_list, [(picture.path, picture.message) for picture in encoded.skipped])
        say_skipped(len(encoded.skipped), skipped_list)
    if not len(encoded) and undone is not None:
        shutil.rmtree(folder)
        raise DataError(f"none of the {counted(len(table), 'picture')} of {table.name} can be read; {undone}")
    return encoded, skipped_list if encoded.skipped else None
