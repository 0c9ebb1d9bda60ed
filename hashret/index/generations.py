"""Which generations of an index are still read, so that a writer removes what nobody needs and nothing else.

Every commit leaves a copy of its manifest under generations/. Whoever loads the index holds a shared lock on the copy of its
generation, which the system frees when the process ends; a writer removes the copies that nobody holds, and then the files
that neither the current generation nor a held one names.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import weakref
from pathlib import Path

from hashret.errors import IndexFormatError
from hashret.index import durable, manifest
from hashret.index.manifest import SEGMENTS, Manifest
from hashret.index.segments import SEGMENT_NAME

if sys.platform != "win32":
    import fcntl


class Lease:
    """While this lives, no writer removes the files of a generation."""

    def __init__(self, descriptor: int) -> None:
        self._close = weakref.finalize(self, os.close, descriptor)


def lease(folder: Path, generation: int) -> Lease | None:
    """A lease of this generation; None where the index keeps no copies, or the writer is just giving this one up."""
    descriptor = _opened(manifest.copy_of(folder, generation))
    if descriptor is None:
        return None
    held = Lease(descriptor)
    if sys.platform != "win32":  # there an open file cannot be removed, which is a lock in itself
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return None
        if not os.fstat(descriptor).st_nlink:
            return None
    return held


def _opened(copy: Path) -> int | None:
    """A descriptor of a copy; None where there is none, and for a link, a folder or a pipe, which would wait for a writer."""
    try:
        descriptor = os.open(copy, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def current(folder: Path) -> tuple[Manifest, Lease | None]:
    """The manifest as it is now, and a lease of its generation where the index keeps copies; IndexFormatError for no index."""
    while True:
        described = manifest.read(folder)
        held = lease(folder, described.generation)
        if held is not None or manifest.read(folder).generation == described.generation:
            return described, held


def remove_unused(folder: Path, current: Manifest) -> None:
    """Remove what no generation that is current or held needs; the caller holds the writer lock.

    Only what has a name that writers give is removed, and never through a link. What cannot be removed now stays until the
    next commit: the one that was made is no less made.
    """
    with contextlib.suppress(OSError, IndexFormatError):
        manifest.check_places(folder)
        needed = _files(current)
        own = manifest.copy_of(folder, current.generation)
        for copy in own.parent.iterdir():
            if copy != own and manifest.COPY_NAME.fullmatch(copy.name) and not _retired(copy):
                needed |= _files(manifest.read_file(copy))
        for place in (folder / SEGMENTS).iterdir():
            if not SEGMENT_NAME.fullmatch(place.name):
                continue
            if not any(name == place.name for name, _ in needed):
                durable.remove(place)
                continue
            if place.is_symlink():
                continue
            for file in place.iterdir():
                if (place.name, file.name) not in needed:
                    durable.remove(file)
        for leftover in folder.glob(f"{durable.TEMPORARY}*"):
            durable.remove(leftover)


def _files(described: Manifest) -> set[tuple[str, str]]:
    """Segment and name of every file that a manifest names."""
    return {(segment.name, file) for segment in described.segments for file in segment.files}


def _retired(copy: Path) -> bool:
    """Whether nobody holds this copy; then it is gone."""
    if sys.platform == "win32":
        try:
            durable.remove(copy)
        except PermissionError:
            return False
        return True
    if not stat.S_ISREG(copy.lstat().st_mode):
        if not copy.is_dir() or copy.is_symlink():
            durable.remove(copy)  # which no writer made and no reader holds
        return True
    descriptor = _opened(copy)
    if descriptor is None:
        return False  # nobody knows whether it is held
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Still locked: whoever opened it before it went finds that it has no name left.
        durable.remove(copy)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
