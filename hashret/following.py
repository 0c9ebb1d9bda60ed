"""What changed between a table of pictures and the index made of it, and bringing the index up to date in one commit.

A picture is its bytes and its box; where it lies, its label and its attributes are said of it. The index keeps with every
picture a stamp: by what its file is known again without reading it (size, times of modification and change; in a zip size and
CRC-32), and a digest of its bytes. A picture whose id, path and stamp are as they were is not read. All others are read once
and matched by digest: first under their own id, then wherever the same bytes were before. So pictures that were renamed, moved
in a chain or swapped keep their codes, and only bytes that the index has not seen are encoded.

Ids: a picture that moved keeps its number, for that stays with the code. So does one whose bytes changed under the same name: it
is replaced, as by an upsert. Both move to the end of the rows, which decides only between equal distances.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import stat
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from hashret.data.table import BOX_COLUMNS, PictureTable
from hashret.errors import DataError, ImageError, SearchError
from hashret.images import PIXEL_LIMIT, on_disk, open_archive, split_zip_path
from hashret.index.records import STAMP, Record
from hashret.index.store import Store

if TYPE_CHECKING:
    from hashret.encoding import Encoded

Ids = npt.NDArray[np.int64]
_Box = tuple[float, ...] | None
_Content = tuple[str, _Box]
_Result = TypeVar("_Result")

_DIGEST_BYTES = 16
"""Of BLAKE2b: two different pictures of a billion share one with a chance of 1 in 10^21."""
_THREADS = 16
"""They wait for the disk, or for a server, more than they compute."""
_COARSE_TICK_NS, _FINE_TICK_NS = 2_000_000_000, 50_000_000
"""The longest step of a file system's clock: of one that counts whole seconds (FAT: two), and of the others (Linux: 10 ms)."""


class _Seen(NamedTuple):
    """By what a file is known again, and whether that could miss a change made in the same tick of the file system's clock."""

    version: str
    fresh: bool
    changed_ns: int
    """When the file changed last, 0 in a zip."""


@dataclasses.dataclass(frozen=True)
class Changes:
    """What brings an index to a table. Rows are the table's, ids and generation the index's."""

    table: PictureTable
    generation: int | None
    """Of the index that was compared; None where there is no index yet."""
    pictures: int
    """How many the index holds."""
    seen: dict[str, _Seen] = dataclasses.field(repr=False)
    """By path; a path that is missing is no file."""
    digests: dict[str, str] = dataclasses.field(repr=False)
    """By path; a path that is missing cannot be read."""

    unchanged_rows: list[int] = dataclasses.field(default_factory=list)
    described_rows: list[int] = dataclasses.field(default_factory=list)
    """Pictures that the index holds and of which something else is said now: `moved`, `updated` and `touched`."""
    described_ids: list[int] = dataclasses.field(default_factory=list)
    encode_rows: list[int] = dataclasses.field(default_factory=list)
    """Pictures whose bytes the index has not seen: `added`, `changed` and `encoded_anew`."""
    encode_ids: list[int] = dataclasses.field(default_factory=list)
    """The ids that they take over, -1 for new pictures."""
    removed_ids: list[int] = dataclasses.field(default_factory=list)

    added: list[str] = dataclasses.field(default_factory=list)
    """String ids, as in the lists below."""
    changed: list[str] = dataclasses.field(default_factory=list)
    """Other bytes, or another box, under the same id."""
    encoded_anew: list[str] = dataclasses.field(default_factory=list)
    """Whether they changed cannot be told, since the index keeps no stamp of them."""
    moved: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Where they were and where they are: ids, or paths where the id stayed."""
    updated: list[str] = dataclasses.field(default_factory=list)
    """Another label, split or attribute, in the same place."""
    touched: list[str] = dataclasses.field(default_factory=list)
    """The same in every respect, though the times of their files changed."""
    removed: list[str] = dataclasses.field(default_factory=list)

    def to_encode(self) -> PictureTable:
        """The pictures whose bytes the index has not seen, those that changed last at the end.

        So what comes to a living folder while encoding is interrupted comes last, and the parts that are finished stay good.
        """
        return self.table.select(self._encode_order())

    def in_table_order(self, encoded: Encoded) -> Encoded:
        """What was encoded of `to_encode()`, its rows those of the table, ascending."""
        rows = np.array(self._encode_order(), np.int64)
        order = np.argsort(rows[encoded.rows])
        vectors = {name: getattr(encoded, name) for name in ("codes", "features", "logits")}
        return dataclasses.replace(
            encoded,
            rows=rows[encoded.rows][order],
            skipped=sorted(picture._replace(row=int(rows[picture.row])) for picture in encoded.skipped),
            **{name: None if found is None else found[order] for name, found in vectors.items()},
        )

    def _encode_order(self) -> list[int]:
        never = _Seen("", fresh=True, changed_ns=0)
        return sorted(self.encode_rows, key=lambda row: self.seen.get(self.table.paths[row], never).changed_ns)

    def records(self, rows: Sequence[int], *, trusted: Callable[[int], bool] = lambda _: True) -> list[Record]:
        """The records of table rows with their stamps; rows that are not to be trusted get none."""
        found: list[Record] = []
        for row, record in zip(rows, self.table.select(list(rows)).records(), strict=True):
            path = self.table.paths[row]
            stamp = _stamp(self.seen.get(path), self.digests.get(path)) if trusted(row) else None
            found.append(dict(record) if stamp is None else {**record, STAMP: stamp})
        return found


def compare(table: PictureTable, store: Store | None, *, progress: bool = True) -> Changes:
    """What changed since the index was brought to the table, or was built. None is an index that does not exist yet.

    Reads the bytes of every picture that is not known by its stamp. A picture that cannot be read is among those to encode.
    `progress` shows bars if standard error is a terminal. SearchError for an index with pictures that have no record.
    """
    if STAMP in table.attributes:
        raise DataError(f"{table.name} has a column {STAMP!r}, which is the index's own; rename or remove it")
    indexed = _Indexed(store)
    boxes = [table.box(row) for row in range(len(table))]
    seen = dict(_in_threads(_look, table.paths, 256, "comparing", progress))
    digests: dict[str, str] = {}
    matched = np.full(len(table), -1, np.int64)
    for row, (name, path) in enumerate(zip(table.ids, table.paths, strict=True)):
        old, now = indexed.place.get(name, -1), seen.get(path)
        if old < 0 or now is None or indexed.records[old]["path"] != path:
            continue
        stamp = indexed.stamps[old]
        # A stamp names a version only where that could be trusted when the file was read.
        if stamp is not None and stamp[0] == now.version and indexed.content[old] == (stamp[1], boxes[row]):
            matched[row] = old
            seen[path], digests[path] = now._replace(fresh=False), stamp[1]
    unmatched = [table.paths[row] for row in np.flatnonzero(matched < 0).tolist()]
    digests |= dict(_in_threads(_digest, unmatched, 4, "reading", progress))
    content = [(digests[path], box) if path in digests else None for path, box in zip(table.paths, boxes, strict=True)]
    _match(table.ids, content, indexed, matched)
    return _sorted_out(table, indexed, matched, seen, digests)


def bring_up_to_date(store: Store, changes: Changes, encoded: Encoded | None) -> list[str]:
    """Ids of pictures that stay in the index as they were, for they cannot be read now; all else is done in one commit.

    encoded: of `changes.to_encode()`, in the order of the table; None where that is empty. A picture whose file changed while it
    was read is in the index without a stamp, so that the next comparison reads it again. SearchError, and nothing done, when the
    index was changed since it was compared.
    """
    done: list[int] = []
    unread: list[int] = []
    codes = features = None
    if encoded is not None:
        done, codes, features = encoded.rows.tolist(), encoded.codes, encoded.features
        unread = [picture.row for picture in encoded.skipped]
    takes_over = dict(zip(changes.encode_rows, changes.encode_ids, strict=True))
    now = dict(_in_threads(_look, [changes.table.paths[row] for row in done], 256, "comparing", progress=False))

    def as_it_was(row: int) -> bool:
        before, after = changes.seen.get(changes.table.paths[row]), now.get(changes.table.paths[row])
        return before is not None and after is not None and before.version == after.version

    kept = [changes.table.ids[row] for row in unread if takes_over[row] >= 0]
    if not (done or changes.described_rows or changes.removed_ids):
        return kept
    store.replace(
        codes,
        features,
        ids=np.array([takes_over[row] for row in done], np.int64),
        records=changes.records(done, trusted=as_it_was),
        remove=np.array(changes.removed_ids, np.int64),
        describe=np.array(changes.described_ids, np.int64),
        descriptions=changes.records(changes.described_rows),
        generation=store.generation if changes.generation is None else changes.generation,
    )
    return kept


def without_stale_stamps(records: Sequence[Record]) -> list[Record]:
    """Records of pictures that were just encoded anew: a stamp stays where the file is still the one that it names."""
    now = dict(_in_threads(_look, [record["path"] for record in records], 256, "comparing", progress=False))
    found = []
    for record in records:
        stamp, seen = _parsed(record.get(STAMP)), now.get(record["path"])
        stale = stamp is None or seen is None or stamp[0] != seen.version
        found.append({name: value for name, value in record.items() if not (stale and name == STAMP)})
    return found


class _Indexed:
    """The pictures of an index in its order: ids, records, stamps, what they are of, and the place of every string id."""

    def __init__(self, store: Store | None) -> None:
        self.generation = None if store is None else store.generation
        self.ids: Ids = np.empty(0, np.int64) if store is None else store.ids
        found = [] if store is None else store.records(self.ids, with_stamps=True)
        self.records = [record for record in found if record is not None]
        if len(self.records) < len(found):
            raise SearchError(
                f"{len(found) - len(self.records):,} of the {len(found):,} pictures of the index have no record that says what "
                "they are, so it cannot follow a folder; make a new index"
            )
        self.stamps = [_parsed(record.get(STAMP)) for record in self.records]
        self.content: list[_Content | None] = [
            None if stamp is None else (stamp[1], _box_of(record))
            for stamp, record in zip(self.stamps, self.records, strict=True)
        ]
        self.place = {record["id"]: old for old, record in enumerate(self.records)}


def _match(names: Sequence[str], content: Sequence[_Content | None], indexed: _Indexed, matched: Ids) -> None:
    """Give each row without one an old picture of the same content: that of its name, or else one that no row has."""
    rows = [row for row in np.flatnonzero(matched < 0).tolist() if content[row] is not None]
    for row in rows:
        old = indexed.place.get(names[row], -1)
        if old >= 0 and indexed.content[old] == content[row]:
            matched[row] = old
    free = sorted(set(range(len(indexed.records))).difference(matched.tolist()))
    # Pictures whose name is gone are given first: the others may still be replaced in their place.
    names_left = set(names)
    free.sort(key=lambda old: indexed.records[old]["id"] in names_left)
    elsewhere: dict[_Content, deque[int]] = defaultdict(deque)
    for old in free:
        old_content = indexed.content[old]
        if old_content is not None:
            elsewhere[old_content].append(old)
    for row in rows:
        new_content = content[row]
        if matched[row] < 0 and new_content is not None and elsewhere.get(new_content):
            matched[row] = elsewhere[new_content].popleft()


def _sorted_out(
    table: PictureTable, indexed: _Indexed, matched: Ids, seen: dict[str, _Seen], digests: dict[str, str]
) -> Changes:
    """The changes by kind, once every row whose picture is in the index is matched."""
    changes = Changes(table, indexed.generation, len(indexed.ids), seen, digests)
    left = set(range(len(indexed.records))).difference(matched.tolist())
    for row, (old, new) in enumerate(zip(matched.tolist(), table.records(), strict=True)):
        if old < 0:
            replaced = indexed.place.get(new["id"], -1)
            if replaced not in left:
                replaced = -1
            left.discard(replaced)
            changes.encode_rows.append(row)
            changes.encode_ids.append(int(indexed.ids[replaced]) if replaced >= 0 else -1)
            if replaced < 0:
                changes.added.append(new["id"])
            else:
                (changes.encoded_anew if indexed.stamps[replaced] is None else changes.changed).append(new["id"])
            continue
        was = dict(indexed.records[old])
        stamp = was.pop(STAMP)
        if was == new and stamp == _stamp(seen.get(new["path"]), digests.get(new["path"])):
            changes.unchanged_rows.append(row)
            continue
        changes.described_rows.append(row)
        changes.described_ids.append(int(indexed.ids[old]))
        if was["id"] != new["id"]:
            changes.moved.append((was["id"], new["id"]))
        elif was["path"] != new["path"]:
            changes.moved.append((was["path"], new["path"]))
        elif was != new:
            changes.updated.append(new["id"])
        else:
            changes.touched.append(new["id"])
    for old in sorted(left):
        changes.removed_ids.append(int(indexed.ids[old]))
        changes.removed.append(indexed.records[old]["id"])
    return changes


# ---- boxes and stamps -----------------------------------------------------------------------------------------------


def _box_of(record: Record) -> _Box:
    """The part of a picture that an index holds the code of; a box that cannot be read is none of a table's."""
    texts = [str(record.get(column, "")).strip() for column in BOX_COLUMNS]
    if not any(texts) or not all(column in record for column in BOX_COLUMNS):
        return None
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        return (math.nan,)


def _stamp(seen: _Seen | None, digest: str | None) -> str | None:
    """The stamp of a picture that was seen so, None without a digest."""
    if digest is None or seen is None:
        return None
    return f"{'-' if seen.fresh else seen.version} {digest}"


def _parsed(stamp: object) -> tuple[str, str] | None:
    """(version, digest) of a stamp; None for what is none."""
    version, _, digest = stamp.partition(" ") if isinstance(stamp, str) else ("", "", "")
    return (version, digest) if version and len(digest) == 2 * _DIGEST_BYTES else None


def _look(path: str) -> _Seen | None:
    """By what the file at `path` is known again, None where there is no such file."""
    inside = split_zip_path(path)
    if inside is not None:
        try:
            member = open_archive(inside[0]).find(inside[1])
        except DataError:
            return None
        # The time of the zip says nothing of one member, but its checksum does.
        return (
            None if member is None else _Seen(f"{member.file_size}:crc32:{member.CRC:08x}", fresh=False, changed_ns=0)
        )
    now = time.time_ns()
    try:
        status = os.stat(on_disk(path))  # noqa: PTH116  a Path for each of a million pictures takes seconds
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # Nothing writes to a file or renames it without setting the time of change, which no program can set back; on Windows,
    # where that is the time of creation, the time of modification has to do.
    last = status.st_mtime_ns if os.name == "nt" else status.st_ctime_ns
    tick = _FINE_TICK_NS if last % 1_000_000_000 else _COARSE_TICK_NS
    return _Seen(f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}", now < last + tick, last)


def _digest(path: str) -> str | None:
    """The digest of a picture's bytes, None where they cannot be read: whoever decodes it says why."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    inside = split_zip_path(path)
    try:
        if inside is not None:
            digest.update(open_archive(inside[0]).read(inside[1], byte_limit=8 * PIXEL_LIMIT))
            return digest.hexdigest()
        file_path = Path(on_disk(path))
        if not file_path.is_file():  # a pipe would wait for ever
            return None
        with file_path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError, DataError, ImageError):
        return None
    return digest.hexdigest()


def _in_threads(
    work: Callable[[str], _Result | None], paths: Sequence[str], at_once: int, doing: str, progress: bool
) -> list[tuple[str, _Result]]:
    """Path and result of every path that has one; `at_once` paths are one task of a thread."""
    unique = list(dict.fromkeys(paths))
    found: list[tuple[str, _Result]] = []

    def several(start: int) -> list[tuple[str, _Result]]:
        results = ((path, work(path)) for path in unique[start : start + at_once])
        return [(path, result) for path, result in results if result is not None]

    starts = range(0, len(unique), at_once)
    bar = tqdm(total=len(unique), desc=doing, unit="picture", disable=None if progress else True, delay=2, leave=False)
    with ThreadPoolExecutor(_THREADS) as pool, bar:
        # In batches: a pool takes in all its work at once, and an interrupt would wait for all of it.
        for batch in range(0, len(starts), 8 * _THREADS):
            for results in pool.map(several, starts[batch : batch + 8 * _THREADS]):
                found += results
            bar.update(min(8 * _THREADS * at_once, len(unique) - batch * at_once))
    return found
