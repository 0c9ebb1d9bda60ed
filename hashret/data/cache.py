"""A table's pictures, decoded and resized once: one memory-mapped file of uint8 in the user's cache folder.

The cache changes how fast pictures come, never which bytes: what it holds is what its maker, a callable, gives for the picture
read from its file, and a picture that is not there is read from its file again. So a cache may be missing, damaged or removed
at any time.

A cache is found by a digest of what decides its content: the versions of hashret and Pillow, how pictures are made, and
the path, box, size and modification time of every picture. The file, all little-endian: 4096 bytes that name format and
digest; the pictures in table order, each of the same shape; a CRC-32 of each picture (uint32); a byte each that is 1 where
the picture is there; the CRC-32 of these two. A picture is checked against its CRC when it is first used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from filelock import FileLock, Timeout
from tqdm import tqdm

from hashret import __version__
from hashret.data.loading import Make, PictureLoader, row_batches
from hashret.data.table import PictureTable
from hashret.hamming.cache import user_cache
from hashret.images import split_zip_path

_log = logging.getLogger("hashret.data")

MOST_BYTES = 20 * 10**9
"""All caches together, unless one is asked for that is larger by itself; the least recently used go first."""
SHARE_OF_DISK = 0.5
"""The most that caches take of what the disk has free when there are none."""
SHARE_OF_MEMORY = 0.5
"""Larger caches would be read from the disk in every epoch, and push the network's own memory out."""
SPARED_BYTES = 10**9
"""What is left free on the disk in any case."""

_FORMAT = 1
_HEADER_BYTES = 4096
_SUFFIX = ".pictures"
_UNFINISHED = ".part"
_BATCH = 64

Picture = npt.NDArray[np.uint8]


class PictureCache:
    """The resized pictures of a table's rows; `picture` gives one. Pickles as the file's path, for worker processes."""

    def __init__(self, file: Path, digest: str, shape: tuple[int, ...], length: int) -> None:
        """Open the file; OSError when there is none, ValueError when it is damaged."""
        self.file, self.digest, self.shape, self.length = file, digest, shape, length
        self._rows: npt.NDArray[np.int64] | None = None
        self._open()

    def picture(self, row: int) -> Picture | None:
        """The picture of a row, read-only; None where it has to be made from its file."""
        if self._pictures is None:
            return None
        at = row if self._rows is None else int(self._rows[row])
        if not self._there[at]:
            return None
        picture: Picture = self._pictures[at]
        if not self._checked[at]:
            if zlib.crc32(picture.data) != self._checksums[at]:
                self._give_up()
                return None
            self._checked[at] = True
        return picture

    def select(self, rows: Sequence[int]) -> PictureCache:
        """The same cache for a table of these rows."""
        selected = PictureCache.__new__(PictureCache)
        selected.__dict__.update(self.__dict__)
        chosen = np.asarray(rows, dtype=np.int64)
        selected._rows = chosen if self._rows is None else self._rows[chosen]
        return selected

    def _open(self) -> None:
        content: npt.NDArray[np.uint8] = np.memmap(self.file, np.uint8, "r").view(np.ndarray)
        tables = _HEADER_BYTES + self.length * math.prod(self.shape)
        ends = tables + 5 * self.length
        if len(content) != ends + 4 or content[:_HEADER_BYTES].tobytes() != _header(self.digest):
            raise ValueError("it is cut short, or another file")
        if zlib.crc32(content[tables:ends].data) != int.from_bytes(content[ends:].tobytes(), "little"):
            raise ValueError("its checksums are damaged")
        self._pictures: Picture | None = content[_HEADER_BYTES:tables].reshape(self.length, *self.shape)
        self._checksums = np.frombuffer(content[tables : tables + 4 * self.length].tobytes(), "<u4")
        self._there = content[tables + 4 * self.length : ends].astype(bool)
        self._checked = np.zeros(self.length, dtype=bool)

    def _give_up(self) -> None:
        """A damaged picture puts the others in doubt: all are read from their files, and the next run makes a new cache."""
        self._there[:] = False
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)
        _log.warning(
            "the cache of pictures %s is damaged; it is not used any more, and made anew by the next run", self.file
        )

    def __getstate__(self) -> dict[str, Any]:
        kept = ("file", "digest", "shape", "length", "_rows")
        return {name: value for name, value in self.__dict__.items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        try:
            self._open()
        except (OSError, ValueError):
            self._pictures = None


def open_cache(
    table: PictureTable,
    make: Make,
    *,
    how: str,
    shape: tuple[int, ...],
    wanted: str = "auto",
    workers: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> PictureCache | None:
    """The cache of `make` for every picture of `table`, made now by worker processes where there is none.

    `make` gives uint8 of `shape` for a picture; `how` describes it, and every change to it. `wanted` "auto": only a cache that
    leaves half of the disk's free space and fits into half of the memory; "on": whenever the disk holds it; "off": none.
    None where there is no cache, with a sentence in the log that says why. When `stopped` says so while it is made,
    KeyboardInterrupt.
    """
    if wanted == "off" or not len(table):
        return None
    stats = _stats(table)
    digest = _digest(table, stats, how)
    folder = user_cache() / "pictures"
    file = folder / f"{digest[:32]}{_SUFFIX}"
    if (cache := _opened(file, digest, shape, len(table))) is not None:
        return cache
    size = _HEADER_BYTES + len(table) * (math.prod(shape) + 5) + 4
    if wanted == "auto" and size > (most := SHARE_OF_MEMORY * _memory()):
        _say_none(
            table,
            f"one of {_gb(size)} would not stay in memory (at most {_gb(most)}); --cache on makes it all the same",
        )
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_maker(folder, stopped):
            # Another process may have made it in the meantime.
            if (cache := _opened(file, digest, shape, len(table))) is not None:
                return cache
            if (refusal := _make_room(folder, size, wanted)) is not None:
                _say_none(table, refusal)
                return None
            _write(file, table, stats, make, digest, shape, workers, stopped)
            return _opened(file, digest, shape, len(table))
    except (OSError, NotImplementedError) as error:  # filelock's word for a file system without locks
        reason, number = getattr(error, "strerror", None) or error, getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room" if full else "set HASHRET_CACHE to a folder that can be written"
        _say_none(table, f"it cannot be written to {folder} ({reason}); {advice} to have them faster")
        return None


def _opened(file: Path, digest: str, shape: tuple[int, ...], length: int) -> PictureCache | None:
    """The cache in a file, which is marked as used now; None where there is none or it is damaged."""
    try:
        cache = PictureCache(file, digest, shape, length)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        _log.warning("the cache of pictures %s cannot be used (%s); it is made anew", file, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(file)
    return cache


def _say_none(table: PictureTable, why: str) -> None:
    _log.warning(
        "no cache for the %d pictures of %s, which are decoded again each time: %s", len(table), table.name, why
    )


# ---- what decides the content ---------------------------------------------------------------------------------------


def _stats(table: PictureTable) -> list[tuple[int, int] | None]:
    """Size and modification time (ns) of each picture's file, or of the zip it is in; None where there is none."""
    of_zips: dict[str, tuple[int, int] | None] = {}
    found = []
    for path in table.paths:
        inside = split_zip_path(path)
        if inside is None:
            found.append(_stat(path))
        else:
            if inside[0] not in of_zips:
                of_zips[inside[0]] = _stat(inside[0])
            found.append(of_zips[inside[0]])
    return found


def _stat(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116  a Path for each of a million rows takes seconds
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def _digest(table: PictureTable, stats: Sequence[tuple[int, int] | None], how: str) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {__version__} {PIL.__version__} {how}\n".encode(errors="surrogatepass"))
    for row, (path, stat) in enumerate(zip(table.paths, stats, strict=True)):
        line = f"{os.path.abspath(path)!r} {table.box(row)} {stat}\n"  # noqa: PTH100  as above
        digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()


# ---- writing --------------------------------------------------------------------------------------------------------


def _write(
    file: Path,
    table: PictureTable,
    stats: Sequence[tuple[int, int] | None],
    make: Make,
    digest: str,
    shape: tuple[int, ...],
    workers: int | None,
    stopped: Callable[[], bool],
) -> None:
    """The file, whole or not at all: under another name, to the disk, then renamed."""
    checksums, there = np.zeros(len(table), "<u4"), np.zeros(len(table), np.uint8)
    plan = row_batches(len(table), _BATCH)
    unfinished = file.with_suffix(_UNFINISHED)
    bar = tqdm(total=len(table), desc="resizing pictures", unit="picture", disable=None, delay=2, leave=False)
    try:
        with unfinished.open("wb") as opened, PictureLoader(table, make, workers=workers) as loader, bar:
            opened.write(_header(digest))
            for rows, batch in zip(plan, loader.read(plan), strict=True):
                pictures = np.zeros((len(rows), *shape), np.uint8)
                for row, picture in zip(batch.rows.tolist(), batch.pictures.numpy(), strict=True):
                    # A file that cannot be told from a later one of its name is read anew each time.
                    if stats[row] is not None:
                        pictures[row - rows[0]] = picture
                        checksums[row], there[row] = zlib.crc32(picture.data), 1
                opened.write(pictures.data)
                bar.update(len(rows))
                if stopped():
                    raise KeyboardInterrupt
            tables = checksums.tobytes() + there.tobytes()
            opened.write(tables + zlib.crc32(tables).to_bytes(4, "little"))
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_maker(folder: Path, stopped: Callable[[], bool]) -> Iterator[None]:
    """One process at a time makes a cache; others wait. The system frees the lock when a process dies.

    One lock for all caches: two makers would count the same free space twice.
    """
    lock = FileLock(folder / "lock")
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked:
        _log.info("another process is making a cache of pictures in %s; waiting for it", folder)
    while not lock.is_locked:
        if stopped():
            raise KeyboardInterrupt
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=1)
    try:
        for left_behind in folder.glob(f"*{_UNFINISHED}"):
            left_behind.unlink()
        yield
    finally:
        lock.release()


def _make_room(folder: Path, size: int, wanted: str) -> str | None:
    """Remove the caches that were used least recently until one of `size` bytes has room; a sentence where it never has."""
    stats = sorted(((file, file.stat()) for file in folder.glob(f"*{_SUFFIX}")), key=lambda kept: kept[1].st_mtime_ns)
    used = sum(stat.st_size for _, stat in stats)
    free = shutil.disk_usage(folder).free
    most = free + used - SPARED_BYTES
    if wanted == "auto":
        most = min(most, MOST_BYTES, int(SHARE_OF_DISK * (free + used)))
    if size > most:
        return f"one of {_gb(size)} is more than the {_gb(max(0, most))} that there is for it in {folder}; make room"
    for file, stat in stats:
        if used + size <= min(max(MOST_BYTES, size), most):
            break
        with contextlib.suppress(OSError):  # in use, on Windows
            file.unlink()
            used -= stat.st_size
    free = shutil.disk_usage(folder).free
    return (
        None if size + SPARED_BYTES <= free else f"{folder} has only {_gb(free)} free for one of {_gb(size)}; make room"
    )


def _header(digest: str) -> bytes:
    return f"hashret pictures {_FORMAT} {digest}\n".encode().ljust(_HEADER_BYTES, b"\0")


def _memory() -> int:
    """Bytes of memory there are: the machine's, or its container's where that has less; 8 GB where nobody tells."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        found = 8 * 10**9
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            found = min(found, int(Path(file).read_text("ascii")))
    return found


def _gb(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e8 else f"{size / 1e6:.2g} MB"
