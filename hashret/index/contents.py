"""What an index holds at one moment: immutable segments of codes, features, ids and records. Changes make new contents.

A search takes the contents once, so it sees one generation whatever others do meanwhile.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.errors import SearchError
from hashret.index.manifest import SegmentEntry
from hashret.index.records import STAMP, MemoryRecords, NoRecords, Record, Records
from hashret.index.where import Condition

if TYPE_CHECKING:
    from hashret.hamming.multi_index import MultiIndex
    from hashret.index.generations import Lease

MOST_IDS = 2**62
"""Ids are below this."""
MERGED = 1 << 25
"""Stored segments of more bytes are not copied to be one with others, but by compacting the index."""

Ids = npt.NDArray[np.int64]
Features = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Rows that came together; ids are unique within a segment, and over all living rows of an index."""

    ids: Ids
    codes: Codes | None = None
    features: Features | None = None
    alive: Bits | None = None
    """A flag a row, None when all are alive."""
    records: Records | None = None
    entry: SegmentEntry | None = None
    """Where it is stored; None while it is in memory only."""
    unsaved_deletes: bool = False
    lease: Lease | None = None
    """What keeps its files where they are while this is read."""
    multi_index: MultiIndex | None = None
    """Buckets of the codes, in memory only; they stay with the codes, whatever rows are deleted."""

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def n_alive(self) -> int:
        """Rows that are not deleted."""
        return len(self) if self.alive is None else int(np.count_nonzero(self.alive))

    @property
    def n_bytes(self) -> int:
        """What ids, codes and features of all rows take."""
        return sum(array.nbytes for array in (self.ids, self.codes, self.features) if array is not None)

    @functools.cached_property
    def _by_id(self) -> tuple[Ids, Ids]:
        """Ids ascending and the row of each."""
        order = np.argsort(self.ids, kind="stable")
        return self.ids[order], order

    @functools.cached_property
    def _counted_up(self) -> bool:
        """Whether every id is one more than the one before, as ids are unless others were given."""
        return bool(np.array_equal(self.ids[1:], self.ids[:-1] + 1))

    def locate(self, ids: Ids) -> Ids:
        """The living row of each id, -1 where there is none."""
        last = len(self) - 1
        rows: Ids = np.clip(ids - self.ids[0], 0, last)
        # Ids are unique: where an id stands, it stands alone. Others are looked for only where they may be elsewhere.
        elsewhere = np.flatnonzero(self.ids[rows] != ids)
        if len(elsewhere):
            rows[elsewhere] = -1
            if not self._counted_up:
                ascending, order = self._by_id
                place = np.minimum(np.searchsorted(ascending, ids[elsewhere]), last)
                rows[elsewhere] = np.where(ascending[place] == ids[elsewhere], order[place], -1)
        if self.alive is not None:
            rows = np.where((rows >= 0) & self.alive[rows], rows, -1)
        return rows

    def living(self) -> Segment:
        """The same without its deleted rows, in memory; order kept."""
        if self.alive is None:
            return dataclasses.replace(self, entry=None)
        rows = np.flatnonzero(self.alive)
        return Segment(
            ids=self.ids[rows],
            codes=None if self.codes is None else self.codes[rows],
            features=None if self.features is None else self.features[rows],
            records=None if self.records is None else MemoryRecords(self.records.at(rows.tolist())),
        )

    def without(self, rows: Ids) -> Segment:
        """The same with these rows deleted."""
        alive = np.ones(len(self), np.bool_) if self.alive is None else self.alive.copy()
        alive[rows] = False
        changed = dataclasses.replace(self, alive=alive, unsaved_deletes=self.entry is not None)
        if "_by_id" in self.__dict__:
            changed.__dict__["_by_id"] = self._by_id
        return changed

    def where(self, condition: Condition) -> Segment:
        """The same, of which only those rows live that the condition chooses."""
        chosen = condition.mask(NoRecords(len(self)) if self.records is None else self.records)
        return dataclasses.replace(self, alive=chosen if self.alive is None else chosen & self.alive)


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """All segments of an index, in the order of their rows."""

    segments: tuple[Segment, ...] = ()
    chosen_from: Contents | None = None
    """What a condition chose these from."""

    def __len__(self) -> int:
        return sum(segment.n_alive for segment in self.segments)

    def ids(self) -> Ids:
        """Ids of the living rows, in order."""
        parts = [segment.ids if segment.alive is None else segment.ids[segment.alive] for segment in self.segments]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def locate(self, ids: Ids) -> tuple[Ids, Ids]:
        """The segment and the row in it of each id; -1 and -1 for ids that are not alive here."""
        found_segments, found_rows = np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
        for number, segment in enumerate(self.segments):
            rows = segment.locate(ids)
            found_segments[rows >= 0] = number
            found_rows[rows >= 0] = rows[rows >= 0]
        return found_segments, found_rows

    def find(self, string_ids: Sequence[str]) -> Ids:
        """The id of the living row whose record has each string id, -1 where there is none."""
        found = {}
        for segment in self.segments:
            if segment.records is None:
                continue
            for name, rows in segment.records.rows_of(string_ids).items():
                for row in rows:
                    if segment.alive is None or segment.alive[row]:
                        found[name] = int(segment.ids[row])
        return np.array([found.get(name, -1) for name in string_ids], np.int64)

    def records(self, ids: Ids, *, with_stamps: bool = False) -> list[Record | None]:
        """The record of each id, None for ids that are not here or have none; the stamp is among the attributes if asked for."""
        found: list[Record | None] = [None] * len(ids)
        segments, rows = self.locate(ids)
        for number, segment in enumerate(self.segments):
            here = np.flatnonzero(segments == number)
            if segment.records is None or not len(here):
                continue
            for place, record in zip(here.tolist(), segment.records.at(rows[here].tolist()), strict=True):
                if not with_stamps:
                    record.pop(STAMP, None)
                found[place] = record
        return found

    def where(self, condition: Condition | None) -> Contents:
        """The same rows, of which only those live that the condition chooses; None chooses all."""
        if condition is None:
            return self
        return Contents(tuple(segment.where(condition) for segment in self.segments), chosen_from=self)

    def vectors(self, ids: Ids) -> dict[str, npt.NDArray[Any]]:
        """Codes, features or both of these ids (at least one), in that order, as they are kept; SearchError without one."""
        numbers, rows = self.locate(ids)
        if (numbers < 0).any():
            raise SearchError(f"the id {ids[numbers < 0][0]} is not in the index; nothing was changed")
        present = np.unique(numbers).tolist()
        order = np.argsort(np.concatenate([np.flatnonzero(numbers == number) for number in present]))
        found = {}
        for name in ("codes", "features"):
            parts = [getattr(self.segments[number], name) for number in present]
            if parts[0] is not None:
                picked = [part[rows[numbers == number]] for number, part in zip(present, parts, strict=True)]
                found[name] = np.concatenate(picked)[order]
        return found

    def added(self, segment: Segment, *, ids_given: bool) -> Contents:
        """With one more segment; SearchError, and nothing added, when an id or string id is alive here already."""
        if not len(segment):
            return self
        if ids_given:
            known = segment.ids[self.locate(segment.ids)[0] >= 0]
            if len(known):
                raise SearchError(
                    f"the id {known[0]} is in the index already, so nothing was added; give a new id, or remove the old one first"
                )
        if segment.records is not None:
            names = [record["id"] for record in segment.records.at(range(len(segment)))]
            known_rows = np.flatnonzero(self.find(names) >= 0)
            if len(known_rows):
                raise SearchError(
                    f"a picture with id {names[known_rows[0]]!r} is in the index already, so nothing was added; "
                    "give it a new id, or remove the old one first"
                )
        segments = [*self.segments, segment]
        # Many small additions become few segments: each row is copied a logarithmic number of times.
        while len(segments) > 1 and _joinable(segments[-2], segments[-1]):
            segments[-2:] = [_joined(segments[-2].living(), segments[-1].living())]
        return Contents(tuple(segments))

    def without(self, ids: Ids) -> Contents:
        """With these ids deleted; SearchError, and nothing removed, when one is not here or is given twice."""
        if not all_differ(ids):
            raise SearchError("an id to remove is given twice, expected every id once; nothing was removed")
        numbers, rows = self.locate(ids)
        if (numbers < 0).any():
            raise SearchError(f"the id {ids[numbers < 0][0]} is not in the index; nothing was removed")
        segments = list(self.segments)
        for number in np.unique(numbers).tolist():
            segments[number] = segments[number].without(rows[numbers == number])
        return Contents(tuple(segment for segment in segments if segment.entry is not None or segment.n_alive))

    def tidied(self) -> Contents:
        """The same rows in the same order, in fewer segments: stored ones are written anew where that is cheap in the long run.

        Segments without a living row leave, those with more deleted than living rows are written anew, and what is new takes
        in the segments before it that are at most twice as long. So an index that is changed every day stays a few segments, and
        each row is copied a logarithmic number of times. Large segments stay as they are: a change takes no long time and
        no more memory than what is new and MERGED bytes.
        """
        segments: list[Segment] = []
        for segment in self.segments:
            if not segment.n_alive:
                continue
            sparse = 2 * segment.n_alive < len(segment) and segment.n_bytes <= MERGED
            segments.append(segment.living() if sparse else segment)
            while (
                len(segments) > 1
                and segments[-1].entry is None
                and segments[-2].n_bytes <= MERGED
                and _short_before(segments[-2], segments[-1])
            ):
                segments[-2:] = [_joined(segments[-2].living(), segments[-1].living())]
        return Contents(tuple(segments))


def checked_ids(ids: npt.ArrayLike | None, n: int, next_id: int) -> Ids:
    """The ids of n new rows: those given, or the next ones; SearchError for what cannot be ids."""
    if ids is None:
        if next_id + n > MOST_IDS:
            raise SearchError(
                f"ids after {next_id - 1} are asked for {n:,} rows, and the largest is 2**62 - 1; give ids"
            )
        return np.arange(next_id, next_id + n, dtype=np.int64)
    given = np.asarray(ids)
    if given.shape != (n,) or not (np.issubdtype(given.dtype, np.integer) or n == 0):
        raise SearchError(f"ids have shape {given.shape} and dtype {given.dtype}, expected {n} whole numbers")
    if n and (int(given.min()) < 0 or int(given.max()) >= MOST_IDS):
        raise SearchError(f"ids go from {given.min()} to {given.max()}, expected numbers from 0 to 2**62 - 1")
    given = given.astype(np.int64)
    if not all_differ(given):
        values, counts = np.unique(given, return_counts=True)
        raise SearchError(f"the id {values[counts > 1][0]} is given twice, expected every id once; nothing was added")
    return given


def all_differ(ids: Ids) -> bool:
    """Whether no id stands twice. Ids mostly ascend or lie close together, and neither takes sorting them."""
    if (ids[1:] > ids[:-1]).all():
        return True
    low, spread = int(ids.min()), int(ids.max()) - int(ids.min()) + 1
    if spread > 8 * len(ids):
        return len(np.unique(ids)) == len(ids)
    seen = np.zeros(spread, np.bool_)
    seen[ids - low] = True
    return int(np.count_nonzero(seen)) == len(ids)


def _joinable(earlier: Segment, later: Segment) -> bool:
    """Whether two neighbours in memory should become one segment."""
    return earlier.entry is None and later.entry is None and _short_before(earlier, later)


def _short_before(earlier: Segment, later: Segment) -> bool:
    """Whether a segment is so short beside the one after it that copying it pays."""
    return (earlier.records is None) == (later.records is None) and earlier.n_alive <= 2 * later.n_alive


def _joined(earlier: Segment, later: Segment) -> Segment:
    """One segment of the rows of two in memory, all alive."""

    def both(name: str) -> Any:
        first, second = getattr(earlier, name), getattr(later, name)
        return None if first is None else np.concatenate([first, second])

    records = None
    if earlier.records is not None and later.records is not None:
        rows = [*earlier.records.at(range(len(earlier))), *later.records.at(range(len(later)))]
        records = MemoryRecords(rows)
    return Segment(ids=both("ids"), codes=both("codes"), features=both("features"), records=records)
