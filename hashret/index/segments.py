"""One segment to a folder and back: immutable files, written whole, flushed by whoever commits; mapped when read.

Every size is checked against the file's own before anything is mapped or allocated.
"""

from __future__ import annotations

import dataclasses
import io
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, bytes_per_code
from hashret.errors import IndexFormatError, damaged
from hashret.index import durable, records
from hashret.index.checksums import Digest, Digester, digest_of, parts_of
from hashret.index.contents import Segment
from hashret.index.features import row_type
from hashret.index.manifest import BLOCKS, CODES, FEATURES, IDS, METADATA, SEGMENTS, FileEntry, Manifest, SegmentEntry

SEGMENT_NAME = re.compile(r"[0-9]{6,20}-[0-9a-f]{8}")
"""How writers call segments: by the generation that they came with, and a random number."""
ALIGNMENT = 64
"""Bytes that the data of an array starts at a multiple of."""

_PART = 1 << 22
"""Bytes of an array that are written at a time: more would only take memory."""
_PREFIX = 10
"""Bytes before the description in the headers that we write."""
_LONGEST_HEADER = 1 << 16
_RECORDS = 1000
"""Records that are copied at a time."""


def write(folder: Path, parts: Sequence[Segment], generation: int) -> tuple[SegmentEntry, list[Path]]:
    """The entry of one segment of the living rows of these, in files now, and the paths to flush before a manifest may name it.

    Rows are copied some at a time, so segments may be larger than memory. All parts hold the same kinds of things.
    """
    name = f"{generation:06d}-{secrets.token_hex(4)}"
    place = folder / SEGMENTS / name
    durable.make_folder(place)
    arrays: dict[str, list[tuple[Any, Bits | None]]] = {
        IDS: [(part.ids, part.alive) for part in parts],
        CODES: [(part.codes, part.alive) for part in parts],
        FEATURES: [(part.features, part.alive) for part in parts],
    }
    digests = {
        file: _write_array(place / file, several) for file, several in arrays.items() if several[0][0] is not None
    }
    if parts[0].records is not None:
        records.write(place / METADATA, _living_records(parts))
        digests[METADATA] = digest_of(parts_of(place / METADATA))
    if any(len(digest.blocks) > 1 for digest in digests.values()):
        blocks = [block for _, digest in sorted(digests.items()) for block in digest.blocks]
        digests[BLOCKS] = _write_array(place / BLOCKS, [(np.array(blocks, "<u8"), None)])
    files = {file: FileEntry(digest.n_bytes, digest.sha256) for file, digest in sorted(digests.items())}
    entry = SegmentEntry(name, sum(part.n_alive for part in parts), files)
    return entry, [*(place / file for file in files), place, place.parent]


def write_deleted(
    folder: Path, segment: Segment, entry: SegmentEntry, generation: int
) -> tuple[SegmentEntry, list[Path]]:
    """The entry of a stored segment with one more file, of the rows deleted by now, and the paths to flush."""
    assert segment.alive is not None
    rows = np.flatnonzero(~segment.alive).astype("<i8")
    name = f"deleted-{generation:06d}-{secrets.token_hex(4)}.npy"
    path = folder / SEGMENTS / entry.name / name
    digest = _write_array(path, [(rows, None)])
    files = {old: file for old, file in entry.files.items() if old != entry.deleted}
    files[name] = FileEntry(digest.n_bytes, digest.sha256)
    return dataclasses.replace(entry, files=files, deleted=name, n_deleted=len(rows)), [path, path.parent]


def read(folder: Path, described: Manifest, entry: SegmentEntry) -> Segment:
    """A segment whose arrays are mapped, once all that is cheap to check was checked; IndexFormatError otherwise."""
    place = folder / SEGMENTS / entry.name
    if place.is_symlink():
        raise damaged(place, "it is a link to another folder")
    if BLOCKS in entry.files:
        check_size(place / BLOCKS, entry.files[BLOCKS])

    def mapped(name: str, row: npt.DTypeLike, n_rows: int = entry.rows) -> npt.NDArray[Any]:
        return read_array(place / name, entry.files[name], np.dtype(row), n_rows)

    codes = features = alive = stored_records = None
    ids = mapped(IDS, "<i8")
    if max(ids[0], ids[-1]) >= described.next_id:
        # Mostly the last is the largest; verify looks at all.
        raise damaged(place / IDS, f"it holds the id {max(ids[0], ids[-1])}, and next_id is {described.next_id}")
    if described.code_size is not None:
        codes = mapped(CODES, ("u1", (bytes_per_code(described.code_size),)))
    if described.dim is not None:
        features = mapped(FEATURES, row_type(str(described.feature_dtype), described.dim))
    if entry.deleted is not None:
        rows = mapped(entry.deleted, "<i8", entry.n_deleted)
        if len(rows) and (rows[0] < 0 or rows[-1] >= entry.rows or (rows[1:] <= rows[:-1]).any()):
            raise damaged(place / entry.deleted, "it names rows that do not exist, or not in order")
        alive = np.ones(entry.rows, np.bool_)
        alive[rows] = False
    if METADATA in entry.files:
        check_size(place / METADATA, entry.files[METADATA])
        stored_records = records.StoredRecords(place / METADATA, entry.rows)
    return Segment(ids, codes, features, alive, stored_records, entry)


def read_array(path: Path, file: FileEntry, row: np.dtype[Any], n_rows: int) -> npt.NDArray[Any]:
    """An array of so many rows in a file, mapped read-only; IndexFormatError unless it is exactly what is expected."""
    check_size(path, file)
    found, start = read_header(path)
    expected = _words(header(row, n_rows)[_PREFIX:])
    if found != expected:
        raise damaged(path, f"it says it is {found[:200] or 'no .npy array'}, expected {expected}")
    if start % ALIGNMENT:
        raise damaged(path, f"its data start at byte {start}, expected a multiple of {ALIGNMENT}")
    if start + n_rows * row.itemsize != file.n_bytes:
        raise damaged(path, f"it has {file.n_bytes} bytes, expected {start + n_rows * row.itemsize}")
    return map_array(path, row, n_rows, start)


def map_rows(path: Path, row: np.dtype[Any], n_rows: int) -> npt.NDArray[Any]:
    """The rows of an array in a file whose own header is not asked, as it may be damaged; its size was checked."""
    return map_array(path, row, n_rows, len(header(row, n_rows)))


def header(row: np.dtype[Any], n_rows: int) -> bytes:
    """How a .npy file of so many rows begins, as hashret and numpy write it."""
    opened = io.BytesIO()
    little = row.base.newbyteorder("<")
    shape = (n_rows, *row.shape)
    description = {"descr": np.lib.format.dtype_to_descr(little), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(opened, description)
    return opened.getvalue()


def check_size(path: Path, file: FileEntry) -> None:
    """The file is there and as large as the manifest says; asked before anything maps it."""
    if path.is_symlink():
        raise damaged(path, "it is a link to another file")
    if not path.is_file():
        raise IndexFormatError(f"{path} is missing; restore the folder from a copy or build the index again")
    if path.stat().st_size != file.n_bytes:
        raise damaged(path, f"it has {path.stat().st_size} bytes, expected {file.n_bytes}")


def map_array(path: Path, row: np.dtype[Any], n_rows: int, start: int) -> npt.NDArray[Any]:
    """Rows that begin at a byte of a file, mapped read-only; the caller has checked the size."""
    shape = (n_rows, *row.shape)
    if not n_rows:
        return np.empty(shape, row.base)
    # As a plain array: every slice of a memmap would pay for its subclass.
    return np.asarray(np.memmap(path, row.base, "r", start, shape))


def read_header(path: Path) -> tuple[str, int]:
    """The description in the header of a .npy file, without blanks, "" where there is none, and where the data start.

    It is compared as text with the one that is expected: numpy's own reader evaluates it as Python.
    """
    with path.open("rb") as opened:
        prefix = opened.read(12)
        n_length = {b"\x01\x00": 2, b"\x02\x00": 4}.get(prefix[6:8], 0)
        length = int.from_bytes(prefix[8 : 8 + n_length], "little")
        if prefix[:6] != b"\x93NUMPY" or not n_length or length > _LONGEST_HEADER:
            return "", 0
        opened.seek(8 + n_length)
        return _words(opened.read(length)), 8 + n_length + length


def _words(description: bytes) -> str:
    return "".join(description.decode("latin1").split())


def _living_records(parts: Sequence[Segment]) -> Iterator[records.Record]:
    """The records of the living rows of segments, in order."""
    for part in parts:
        assert part.records is not None
        rows = range(len(part)) if part.alive is None else np.flatnonzero(part.alive).tolist()
        for start in range(0, len(rows), _RECORDS):
            yield from part.records.at(rows[start : start + _RECORDS])


def _write_array(path: Path, parts: Sequence[tuple[npt.NDArray[Any], Bits | None]]) -> Digest:
    """Write a .npy file of the rows of arrays that are alive (None: all); its digest."""
    digester = Digester()

    def digested() -> Iterator[bytes | memoryview]:
        for part in _as_npy(parts):
            digester.update(part)
            yield part

    durable.write_file(path, digested())
    return digester.digest()


def _as_npy(parts: Sequence[tuple[npt.NDArray[Any], Bits | None]]) -> Iterator[bytes | memoryview]:
    """The bytes of a .npy file, rows some at a time."""
    first = parts[0][0]
    little = first.dtype.newbyteorder("<")
    n_rows = sum(len(array) if alive is None else int(np.count_nonzero(alive)) for array, alive in parts)
    yield header(np.dtype((little, first.shape[1:])), n_rows)
    for array, alive in parts:
        step = max(1, _PART // max(1, array[:1].nbytes))
        for start in range(0, len(array), step):
            rows = array[start : start + step]
            rows = rows if alive is None else rows[alive[start : start + step]]
            if len(rows):
                yield np.ascontiguousarray(rows, little).view(np.uint8).data
