"""What is damaged in an index folder, to the rows, and an index of what is left of it."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from hashret.codes import bytes_per_code
from hashret.errors import IndexFormatError, IndexVersionError, damaged
from hashret.index import durable, generations, manifest, records, segments, storage
from hashret.index.checksums import BLOCK, digest_of, parts_of
from hashret.index.contents import Contents, Ids, Segment, all_differ
from hashret.index.features import row_type
from hashret.index.manifest import (
    BLOCKS,
    CODES,
    FEATURES,
    IDS,
    METADATA,
    SEGMENTS,
    SET_ASIDE,
    Manifest,
    SegmentEntry,
)

_ROWS = 1 << 16
"""Rows that are looked at at a time."""

Progress = Callable[[int], object]
"""Hears how many bytes were read since it was called last."""


@dataclasses.dataclass(frozen=True)
class Damage:
    """A file that is not what the manifest says, and the rows of its segment that this may have changed."""

    segment: str
    file: str
    why: str
    rows: tuple[range, ...]

    @property
    def n_rows(self) -> int:
        """How many rows that are."""
        return sum(map(len, self.rows))


@dataclasses.dataclass(frozen=True)
class Repaired:
    """What a repair found and what it left."""

    damages: list[Damage]
    manifest_from: Path | None
    """The copy that the manifest was taken from, where it was damaged itself."""
    lost: list[str]
    """Rows that are gone: the string id where it is known, or "row 3 of" the segment, or "all 12 rows of" it."""
    rows_lost: int
    records_lost: int
    """Rows that are kept, but whose string id, path, label and attributes are gone."""
    deletes_lost: int
    """Rows that had been deleted and may be back, as it is not known any more which they were."""


def find(folder: Path, described: Manifest, progress: Progress = lambda n_bytes: None) -> Iterator[Damage]:
    """The damaged files of an index, after reading every byte."""
    for entry in described.segments:
        place = folder / SEGMENTS / entry.name
        blocks = _known_blocks(place, entry)
        if blocks is None:
            blocks = {}
            yield Damage(entry.name, BLOCKS, str(damaged(place / BLOCKS, "it does not fit the files")), ())
        for name, file in sorted(entry.files.items()):
            rows: tuple[range, ...] = () if name == BLOCKS else (range(entry.rows),)
            try:
                segments.check_size(place / name, file)
                found = digest_of(parts_of(place / name))
            except (IndexFormatError, FileNotFoundError) as error:
                yield Damage(entry.name, name, str(error), rows)
                continue
            progress(file.n_bytes)
            if found.sha256 == file.sha256:
                if name in blocks and not np.array_equal(np.array(found.blocks, np.uint64), blocks[name]):
                    wrong_blocks = str(damaged(place / BLOCKS, f"its checksums are not those of {name}"))
                    yield Damage(entry.name, BLOCKS, wrong_blocks, ())
                continue
            if name in (IDS, CODES, FEATURES) and name in blocks:
                wrong = np.flatnonzero(np.array(found.blocks, np.uint64) != blocks[name])
                rows = _rows_in_blocks(wrong, _row_of(described, name), entry.rows)
            yield Damage(entry.name, name, str(damaged(place / name, "its checksum is wrong")), rows)


def verify(folder: Path, progress: Progress = lambda n_bytes: None) -> int:
    """Bytes read: every file of the index is what the manifest says, and ids are unique; or IndexFormatError for the first."""
    while True:
        # Held: a writer leaves the files of this generation where they are.
        described, lease = generations.current(folder)
        try:
            for damage in find(folder, described, progress):
                raise IndexFormatError(damage.why)
            check_rows(folder)
        except IndexFormatError:
            if lease is None and manifest.read(folder).generation != described.generation:
                continue  # a writer removed what nobody could hold
            raise
        return sum(file.n_bytes for entry in described.segments for file in entry.files.values())


def check_rows(folder: Path) -> None:
    """IndexFormatError where rows cannot be, though files are as written: ids, tail bits, numbers of features, records."""
    described, contents = storage.load(folder)
    ids = contents.ids()
    if not all_differ(ids):
        raise damaged(folder, "an id is given to two rows")
    if len(ids) and (ids.min() < 0 or ids.max() >= described.next_id):
        raise damaged(folder, f"ids go from {ids.min()} to {ids.max()}, expected 0 to {described.next_id - 1}")
    tail = np.uint8(0xFF >> (described.code_size or 0) % 8 if (described.code_size or 0) % 8 else 0)
    for segment in contents.segments:
        assert segment.entry is not None
        place = folder / SEGMENTS / segment.entry.name
        if isinstance(segment.records, records.StoredRecords):
            segment.records.check()
        for start in range(0, len(segment), _ROWS):
            if segment.codes is not None and (segment.codes[start : start + _ROWS, -1] & tail).any():
                raise damaged(place / CODES, "the bits after a code's last are not all 0")
            if segment.features is not None:
                rows = segment.features[start : start + _ROWS]
                numbers = rows["scale"] if rows.dtype.names else rows
                if not np.isfinite(numbers).all():
                    raise damaged(place / FEATURES, "a feature holds NaN or infinity")
    _check_names(folder, contents)


def _check_names(folder: Path, contents: Contents) -> None:
    """IndexFormatError where two living rows have one string id. Hashes are compared, and then only the ids of equal ones."""
    hashes = [np.empty(0, np.uint64)]
    for names in _living_names(contents):
        hashes.append(np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], np.uint64))
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    again = set(values[counts > 1].tolist())
    seen: set[str] = set()
    for names in _living_names(contents) if again else ():
        for name in names:
            if xxhash.xxh3_64_intdigest(name.encode()) in again:
                if name in seen:
                    raise damaged(folder, f"the string id {name!r} is given to two rows")
                seen.add(name)


def _living_names(contents: Contents) -> Iterator[list[str]]:
    for segment in contents.segments:
        if segment.records is None:
            continue
        for start in range(0, len(segment), _ROWS):
            rows = range(start, min(start + _ROWS, len(segment)))
            found = segment.records.at(rows)  # of deleted rows, too: this is where all are read
            alive = segment.alive
            yield [record["id"] for row, record in zip(rows, found, strict=True) if alive is None or alive[row]]


def repair(folder: Path, progress: Progress = lambda n_bytes: None) -> Repaired:
    """Make what is whole the next generation; where nothing is damaged nothing is changed.

    Lost are rows of which a block of ids, codes or features is damaged, and all records of a segment whose SQLite file is
    damaged. Where it is not known any more which rows were deleted they are back, but of two rows with one id the later
    stays. A damaged manifest is replaced by the newest whole copy of one; IndexFormatError where there is none. Segments that
    were damaged are copied to `damaged` in the folder first.
    """
    _whole_manifest(folder)  # before a lock comes to lie in what is no index
    with durable.writer_lock(folder):
        described, manifest_from = _whole_manifest(folder)
        damages = list(find(folder, described, progress))
        if not damages and manifest_from is None:
            check_rows(folder)  # files as they were written, that cannot be: nothing says which of them is wrong
        lost: list[str] = []
        rows_lost = records_lost = deletes_lost = 0
        kept: list[Segment] = []
        for entry in described.segments:
            wrong = [damage for damage in damages if damage.segment == entry.name]
            if not wrong:
                kept.append(segments.read(folder, described, entry))
                continue
            _copy_aside(folder, entry)
            files = {damage.file for damage in wrong}
            left, n_lost, names = _left_of(folder, described, entry, wrong)
            rows_lost += n_lost
            lost += names
            if left is not None:
                records_lost += left.n_alive if METADATA in files else 0
                deletes_lost += entry.n_deleted if entry.deleted in files else 0
                kept.append(left)
        if damages or manifest_from is not None:
            contents = _latest_of_each_id(kept) if deletes_lost else Contents(tuple(kept))
            # No generation that a reader may hold gets its number a second time.
            numbers = [number for path in _copies(folder) if (number := int(path.stem)) < 2**61]
            before = dataclasses.replace(described, generation=max([described.generation, *numbers]))
            after, _ = storage.commit(folder, before, contents, described.next_id)
            generations.remove_unused(folder, after)
        return Repaired(damages, manifest_from, lost, rows_lost, records_lost, deletes_lost)


def _whole_manifest(folder: Path) -> tuple[Manifest, Path | None]:
    """The manifest, or the newest copy of one that is whole, and which that is."""
    manifest.check_places(folder)
    try:
        return manifest.read(folder), None
    except IndexVersionError:
        raise
    except IndexFormatError:
        if (folder / manifest.NAME).is_dir():
            raise  # no file can take its place
        for copy in sorted(_copies(folder), key=lambda path: int(path.stem), reverse=True):
            try:
                return manifest.read_file(copy), copy
            except IndexFormatError:
                continue
        raise


def _copies(folder: Path) -> list[Path]:
    """The copies of manifests."""
    place = folder / manifest.COPIES
    return [path for path in place.iterdir() if manifest.COPY_NAME.fullmatch(path.name)] if place.is_dir() else []


def _copy_aside(folder: Path, entry: SegmentEntry) -> None:
    """The files of a segment once more, on the disk; what is no file of its own has nothing to keep."""
    place, aside = folder / SEGMENTS / entry.name, folder / SET_ASIDE
    if place.is_symlink() or not place.is_dir():
        return
    if not aside.exists():
        durable.make_folder(aside)
    copy = aside / entry.name
    if os.path.lexists(copy):  # of a repair that was killed
        copy = aside / f"{entry.name}-{secrets.token_hex(4)}"
    durable.make_folder(copy)
    written = []
    for name in entry.files:
        if (place / name).is_file() and not (place / name).is_symlink():
            durable.write_file(copy / name, parts_of(place / name))
            written.append(copy / name)
    durable.flush(*written, copy, aside, folder)


def _left_of(
    folder: Path, described: Manifest, entry: SegmentEntry, wrong: Sequence[Damage]
) -> tuple[Segment | None, int, list[str]]:
    """The rows of a damaged segment that are whole, None without any; how many are lost, and their names."""
    place = folder / SEGMENTS / entry.name
    files = {damage.file for damage in wrong}
    sizes = {name: (place / name).stat().st_size if (place / name).is_file() else 0 for name in entry.files}
    rows = {name: row for name in (IDS, CODES, FEATURES) if (row := _row_of(described, name)) is not None}
    if any(
        sizes[name] != len(segments.header(row, entry.rows)) + entry.rows * row.itemsize for name, row in rows.items()
    ):
        # How many rows there were is then only what the manifest says: nothing is made that is so large.
        n_lost = entry.rows - entry.n_deleted
        return None, n_lost, [f"all {n_lost:,} rows of {entry.name}"]
    alive = np.ones(entry.rows, np.bool_)
    if entry.deleted is not None and entry.deleted not in files:
        row = np.dtype("<i8")
        alive[segments.read_array(place / entry.deleted, entry.files[entry.deleted], row, entry.n_deleted)] = False
    bad = np.zeros(entry.rows, np.bool_)
    for damage in wrong:
        for some in damage.rows if damage.file in rows else ():
            bad[some.start : some.stop] = True
    lost = np.flatnonzero(alive & bad)
    known = None
    if METADATA in entry.files and METADATA not in files:
        known = records.StoredRecords(place / METADATA, entry.rows)
        names = [str(record["id"]) for record in known.at(lost.tolist())]
    else:
        names = [f"row {row} of {entry.name}" for row in lost.tolist()]
    alive &= ~bad
    if not alive.any():
        return None, len(lost), names
    whole = {name: segments.map_rows(place / name, row, entry.rows) for name, row in rows.items()}
    return Segment(whole[IDS], whole.get(CODES), whole.get(FEATURES), alive, known), len(lost), names


def _latest_of_each_id(kept: Sequence[Segment]) -> Contents:
    """The segments, less what is not alive and rows whose id or string id a later one has."""
    seen: set[int] = set()
    names: set[str] = set()
    found: list[Segment] = []
    for segment in reversed(kept):
        alive = np.ones(len(segment), np.bool_) if segment.alive is None else segment.alive
        if seen:
            again = np.isin(segment.ids, np.fromiter(seen, np.int64)) & alive
            if again.any():
                segment = segment.without(np.flatnonzero(again))
        living = np.flatnonzero(alive if segment.alive is None else segment.alive)
        if segment.records is not None:
            of_rows = [record["id"] for record in segment.records.at(living.tolist())]
            twice = [row for row, name in zip(living.tolist(), of_rows, strict=True) if name in names]
            segment = segment.without(np.array(twice, np.int64)) if twice else segment
            names.update(of_rows)
        found.append(segment)
        seen.update(segment.ids[living].tolist())
    return Contents(tuple(segment for segment in reversed(found) if segment.n_alive))


def _row_of(described: Manifest, name: str) -> np.dtype[Any] | None:
    """What a row of an array of a segment is, None where the index has no such array."""
    if name == IDS:
        return np.dtype("<i8")
    if name == CODES:
        bits = described.code_size
        return None if bits is None else np.dtype(("u1", (bytes_per_code(bits),)))
    return None if described.dim is None else row_type(str(described.feature_dtype), described.dim)


def _known_blocks(place: Path, entry: SegmentEntry) -> dict[str, npt.NDArray[np.uint64]] | None:
    """The checksums of the blocks of each file, where the segment has them and they are whole; None where they do not fit."""
    file = entry.files.get(BLOCKS)
    covered = {
        name: -(-each.n_bytes // BLOCK)
        for name, each in sorted(entry.files.items())
        if name not in (BLOCKS, entry.deleted)
    }
    try:
        if file is None:
            return {}
        segments.check_size(place / BLOCKS, file)
        if digest_of(parts_of(place / BLOCKS)).sha256 != file.sha256:
            return {}
    except (OSError, IndexFormatError):
        return {}
    try:
        blocks = segments.read_array(place / BLOCKS, file, np.dtype("<u8"), sum(covered.values()))
    except IndexFormatError:
        return None
    ends = np.cumsum(list(covered.values()))
    return {name: blocks[end - n : end] for (name, n), end in zip(covered.items(), ends, strict=True)}


def _rows_in_blocks(wrong: Ids, row: np.dtype[Any] | None, n_rows: int) -> tuple[range, ...]:
    """The rows that have a byte in one of these blocks of their file."""
    assert row is not None
    start = len(segments.header(row, n_rows))
    found = []
    for block in wrong.tolist():
        first = (block * BLOCK - start) // row.itemsize
        last = -(-((block + 1) * BLOCK - start) // row.itemsize)
        found.append(range(max(0, first), min(last, n_rows)))
    return tuple(found)
