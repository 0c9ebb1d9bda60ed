"""Contents to a folder and back: segments are written whole, then the manifest is replaced; readers map files.

Shape suffixes: N rows, B bytes of a code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import bytes_per_code
from hashret.errors import IndexFormatError, SearchError
from hashret.index import durable, manifest, records
from hashret.index.contents import Contents, Segment
from hashret.index.features import row_type
from hashret.index.manifest import CODES, FEATURES, IDS, METADATA, FileEntry, Manifest, SegmentEntry

SEGMENTS = "segments"


def load(folder: Path) -> tuple[Manifest, Contents]:
    """The manifest and the mapped contents of an index folder; sizes, types and shapes are checked, not every byte."""
    described = manifest.read(folder)
    return described, Contents(tuple(_map_segment(folder, described, entry) for entry in described.segments))


def commit(folder: Path, before: Manifest, contents: Contents, next_id: int) -> tuple[Manifest, Contents]:
    """Store what is new in the contents as the next generation; the caller holds the writer lock."""
    for leftover in list(folder.rglob(f"{durable.TEMPORARY}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    generation = before.generation + 1
    entries = []
    for segment in contents.segments:
        if segment.entry is None:
            entries.append(_write_segment(folder, segment.living(), generation))
        elif segment.unsaved_deletes:
            entries.append(_write_deleted(folder, segment, segment.entry, generation))
        else:
            entries.append(segment.entry)
    after = dataclasses.replace(before, generation=generation, next_id=next_id, segments=tuple(entries))
    manifest.write(folder, after)
    return load(folder)


def create(folder: Path, described: Manifest, contents: Contents, next_id: int) -> tuple[Manifest, Contents]:
    """Store contents in a new folder, which appears whole; SearchError when something else is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SearchError(f"{folder} exists and is not this index's own folder; choose another name, or append to it")
    temporary = folder.parent / durable.temporary_name()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        (temporary / SEGMENTS).mkdir(parents=True)
        # The stored segments of another folder are written anew here, without their deleted rows.
        living = tuple(_part(segment.living(), described) for segment in contents.segments if segment.n_alive)
        commit(temporary, described, Contents(living), next_id)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise SearchError(f"the index {folder} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    durable.flush(folder.parent)
    return load(folder)


def new_manifest(
    *,
    code_size: int | None,
    dim: int | None,
    feature_dtype: str | None,
    model: dict[str, Any] | None,
    feature_metric: str = "cosine",
) -> Manifest:
    """The description of an index that holds nothing yet."""
    return Manifest(secrets.token_hex(16), 0, 0, code_size, dim, feature_dtype, model, (), feature_metric)


def verify(folder: Path) -> int:
    """Bytes read: every file of the index has the size and SHA-256 that the manifest says, or IndexFormatError."""
    described, contents = load(folder)
    total = 0
    for entry in described.segments:
        for name, file in entry.files.items():
            path = folder / SEGMENTS / entry.name / name
            _check_size(path, file)
            if _sha256(path) != file.sha256:
                raise _damaged(path, "its checksum is wrong")
            total += file.n_bytes
    ids = contents.ids()
    if len(np.unique(ids)) != len(ids):
        raise _damaged(folder, "an id is given to two rows")
    return total


def _part(segment: Segment, described: Manifest) -> Segment:
    """The segment with what the description has room for."""
    codes = None if described.code_size is None else segment.codes
    return dataclasses.replace(segment, codes=codes, features=None if described.dim is None else segment.features)


def _write_segment(folder: Path, segment: Segment, generation: int) -> SegmentEntry:
    """Write the files of a segment; nobody refers to them before the manifest does."""
    name = f"{generation:06d}-{secrets.token_hex(4)}"
    temporary = folder / SEGMENTS / durable.temporary_name()
    temporary.mkdir()
    np.save(temporary / IDS, segment.ids.astype("<i8"), allow_pickle=False)
    if segment.codes is not None:
        np.save(temporary / CODES, np.ascontiguousarray(segment.codes), allow_pickle=False)
    if segment.features is not None:
        little = segment.features.dtype.newbyteorder("<")
        np.save(temporary / FEATURES, np.ascontiguousarray(segment.features, little), allow_pickle=False)
    if segment.records is not None:
        records.write(temporary / METADATA, segment.records.at(range(len(segment))))
    files = {path.name: _entry(path) for path in sorted(temporary.iterdir())}
    durable.flush(temporary)
    temporary.rename(folder / SEGMENTS / name)
    durable.flush(folder / SEGMENTS)
    return SegmentEntry(name, len(segment), files)


def _write_deleted(folder: Path, segment: Segment, entry: SegmentEntry, generation: int) -> SegmentEntry:
    """Write the deleted rows of a stored segment as one more immutable file."""
    alive = segment.alive if segment.alive is not None else np.ones(len(segment), np.bool_)
    rows = np.flatnonzero(~alive).astype("<i8")
    name = f"deleted-{generation:06d}-{secrets.token_hex(4)}.npy"
    path = folder / SEGMENTS / entry.name / name
    temporary = path.with_name(durable.temporary_name())
    with temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    described = _entry(temporary)
    temporary.rename(path)
    durable.flush(path.parent)
    files = {old: file for old, file in entry.files.items() if old != entry.deleted}
    return dataclasses.replace(entry, files={**files, name: described}, deleted=name, n_deleted=len(rows))


def _entry(path: Path) -> FileEntry:
    """Size and checksum of a finished file, which is on the disk from here on."""
    durable.flush(path)
    return FileEntry(path.stat().st_size, _sha256(path))


def _map_segment(folder: Path, described: Manifest, entry: SegmentEntry) -> Segment:
    """A segment whose arrays are mapped, once all that is cheap to check was checked."""
    place = folder / SEGMENTS / entry.name

    def mapped(name: str, row: npt.DTypeLike, n_rows: int = entry.rows) -> npt.NDArray[Any]:
        return _map_array(place / name, entry.files[name], np.dtype(row), n_rows)

    codes = features = alive = stored_records = None
    ids = mapped(IDS, "<i8")
    if described.code_size is not None:
        codes = mapped(CODES, ("u1", (bytes_per_code(described.code_size),)))
    if described.dim is not None:
        features = mapped(FEATURES, row_type(str(described.feature_dtype), described.dim))
    if entry.deleted is not None:
        rows = mapped(entry.deleted, "<i8", entry.n_deleted)
        if (rows < 0).any() or (rows >= entry.rows).any() or len(np.unique(rows)) != len(rows):
            raise _damaged(place / entry.deleted, "it names rows that do not exist")
        alive = np.ones(entry.rows, np.bool_)
        alive[rows] = False
    if METADATA in entry.files:
        _check_size(place / METADATA, entry.files[METADATA])
        stored_records = records.StoredRecords(place / METADATA)
    return Segment(ids, codes, features, alive, stored_records, entry)


def _map_array(path: Path, file: FileEntry, row: np.dtype[Any], n_rows: int) -> npt.NDArray[Any]:
    """An array of so many rows in a file, mapped read-only; IndexFormatError unless it is exactly what is expected."""
    dtype, shape = row.base, (n_rows, *row.shape)
    _check_size(path, file)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise _damaged(path, "it is no .npy array") from error
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise _damaged(path, f"expected {dtype} of shape {shape}")
    if array.size and not array.flags.c_contiguous:
        raise _damaged(path, "its rows are not contiguous")
    return np.asarray(array)


def _check_size(path: Path, file: FileEntry) -> None:
    """The file is there and as large as the manifest says; asked before anything maps it."""
    if not path.is_file():
        raise IndexFormatError(f"{path} is missing; restore the folder from a copy or build the index again")
    if path.stat().st_size != file.n_bytes:
        raise _damaged(path, f"it has {path.stat().st_size} bytes, expected {file.n_bytes}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _damaged(path: Path, why: str) -> IndexFormatError:
    return IndexFormatError(f"{path} is damaged ({why}); restore the folder from a copy or build the index again")
