"""Float rows on a GPU: it finds which may be among the nearest, the CPU's own sums decide, so answers are the CPU's bytes.

1. **Reach.** Rows of a sample say how near a query's k nearest are at least; the rank that is looked for in it leaves a chance of
   one in a million that this is too near. The sample is searched the same way, among a sample of its own, until all fits.
2. **Scan.** Every row is multiplied once, on tensor cores; those within reach are appended to the query's room in any order.
3. **Rank.** Of those the ones that may be among the k nearest, some more than k, are ranked by `features.similarities`.

What came in shows whether it was enough. If there were fewer than k, or more than there is room for, the k-th value of what found
room is what k rows surely reach: the scan is done again with it. Where thousands of rows are as near as the products can tell,
equal vectors for instance, that does not help: the CPU searches for those queries.

**How far a product may be off** (`prepared`). Tensor cores take float16 or TF32, both of 11 bits. Rows of float16 and int8 are
exact, float32 rows are rounded to TF32, queries to either. Queries are scaled by a power of two so that their greatest number is
in [2**14, 2**15) for float16 and [1, 2) for TF32; float16 rows so that the longest has a length of at most 2**15, or not where it
has more. So nothing overflows, and a similarity times these powers is what the device computes. With X the length of the longest
row, q a query and q' what became of it, all as scaled, and D the numbers of whole stages:

- X |q - q'|, measured, for the rounding of queries (Cauchy-Schwarz);
- 2**-11 X |q'| for that of float32 rows;
- sqrt(D) 2**-126 |q'| for numbers of float32 rows that are below the normal, and may be taken as zeros; of float16 rows
  2**-14, unless they were scaled up by 2**10 at least, which leaves none. Queries have none left, those are zeros beforehand;
- 4 (D + 16) 2**-24 X |q'| for sums. Products of 11 bits are exact in float32. Of at least four terms and the sum so far, an
  instruction may cut each, and the result, to 24 bits of the greatest: 2**-23 of it for each of six, for four numbers at worst,
  3 D 2**-24 of what bounds all of them. 4 instead of 3 covers how that itself grows, for up to 2**20 numbers. 16 more cover the
  scale of an int8 row, the rounding of the similarity itself, and that of limits. The instruction set promises no order and no
  rounding, only "at least single precision";
- D 2**-125 for products and sums that vanish, and 2**-149 for the similarity, where it does.

Shape suffixes: N rows, Q queries, D dimensions, P pairs of a query and a row.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hashret.errors import DeviceMemoryError, SearchError, UsageError
from hashret.hamming import threads
from hashret.hamming.gpu.device import Device, Held
from hashret.hamming.gpu.search import safe_rank
from hashret.index import features, tiled
from hashret.index.candidates import Integers
from hashret.index.features import Rows, Similarities
from hashret.index.tiled import Ranked, Stretch, Task

CPU_WORK = 1 << 22
"""Numbers times queries up to which the CPU is done about as soon as a device has answered."""
MAX_DIM = 1 << 20
"""So long may a vector be for the bound on sums."""
MOST_ROWS = 1 << 32
"""Keys have so much room for a row."""
STEP = 64
"""Every so many-th row is in the sample of a search."""
LEAST_ROOM = 1 << 13
"""Keys that a query has room for at least."""
ROOM_BYTES = 1 << 29
"""Device memory for the keys of queries that are searched at once."""
PAIRS_AT_ONCE = 1 << 20
"""Pairs that are ranked at a time."""
PIECE_BYTES = 1 << 30
"""Rows are brought to the device in pieces of about so many bytes."""
FEW = 8
"""Queries of the narrow kernel; as in products.cu."""
MANY = 128
"""Queries of the wide kernel."""

_KINDS = {"float32": 0, "float16": 1, "int8": 2}
_STAGE_NUMBERS = {"float32": 16, "float16": 32, "int8": 32}
"""Numbers that rows and queries meet in at a time: 64 bytes of queries. As in products.cu."""
_QUERY_TOP = {"float32": 1, "float16": 15, "int8": 15}
"""The greatest number of a query is made to be in [2**(top - 1), 2**top)."""
_ROW_TOP = 15
"""Float16 rows are made no longer than 2**15."""
_ROWS_AT_ONCE = {"scan_few": 256, "scan_many": 128}
_BLOCKS_AT_ONCE = {"scan_few": 3, "scan_many": 2}
_THREADS = 256


class Prepared(NamedTuple):
    """Queries as a device takes them."""

    words: npt.NDArray[np.uint32]
    """Numbers (Q, stages, 16), two float16 or one TF32 a word."""
    units: npt.NDArray[np.float64]
    """What a similarity of 1 is on the device (Q)."""
    errors: Similarities
    """How far a value (Q) may be from the similarity there at most."""

    def of(self, queries: Any) -> Prepared:
        """Some of the queries."""
        return Prepared(self.words[queries], self.units[queries], self.errors[queries])


def row_shift(dtype: str, longest: float) -> int:
    """The power of two that rows are multiplied by on the way into a product."""
    if dtype != "float16":
        return 0
    # frexp: longest is below 2**exponent.
    return int(np.clip(_ROW_TOP - np.frexp(longest)[1], 0, _ROW_TOP))


def prepared(queries_QD: Similarities, dtype: str, longest: float) -> Prepared:
    """Queries for rows of a dtype whose lengths are at most `longest`; the bound is explained above."""
    wide = queries_QD.astype(np.float64)
    greatest = np.abs(wide).max(axis=1, initial=0)
    shift = np.where(greatest > 0, _QUERY_TOP[dtype] - np.frexp(greatest)[1], 0)
    scaled = np.ldexp(wide, shift[:, None])
    if dtype == "float32":
        bits = scaled.astype(np.float32).view(np.uint32)
        rounded = ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)
    else:
        rounded = scaled.astype(np.float16)
    rounded[np.abs(rounded) < np.finfo(rounded.dtype).tiny] = 0
    n, dim = queries_QD.shape
    stages = -(-dim // _STAGE_NUMBERS[dtype])
    numbers = np.zeros((n, stages * _STAGE_NUMBERS[dtype]), rounded.dtype)
    numbers[:, :dim] = rounded
    up = row_shift(dtype, longest)
    units = np.ldexp(1.0, shift + up)
    longest_there = np.ldexp(longest, up)
    off = np.sqrt(((scaled - rounded) ** 2).sum(axis=1))
    length = np.sqrt((scaled * scaled).sum(axis=1)) + off
    share = 4 * (numbers.shape[1] + 16) * 2.0**-24 + (2.0**-11 if dtype == "float32" else 0)
    least = {"float32": 2.0**-126, "float16": 2.0**-14 if up < 10 else 0.0, "int8": 0.0}[dtype]
    bounds = longest_there * (share * length + off) + np.sqrt(dim) * least * length
    # A hundredth for rounded rows, which are longer, and for the rounding of this itself.
    bounds = 1.01 * bounds + numbers.shape[1] * 2.0**-125 + units * 2.0**-149
    return Prepared(numbers.view(np.uint32).reshape(n, stages, 16), units, _up(bounds))


@functools.cache
def source(dtype: str) -> str:
    """The kernels for rows of a dtype."""
    text = (Path(__file__).parent / "kernels" / "products.cu").read_text("utf-8")
    return f'#define KIND {_KINDS[dtype]}\n#line 1 "products.cu"\n{text}'


class _Piece(NamedTuple):
    """Some consecutive rows on the device."""

    first: int
    """The number of the first, within its array."""
    n: int
    numbers: Held
    scales: Held | None


class _Part(NamedTuple):
    """A piece among all rows of a search."""

    piece: _Piece
    first: int
    alive: Held | None


class DeviceFeatures:
    """Rows of an index on a device, sent there once, and searches among them by any thread."""

    def __init__(self, device: Device, dtype: str, dim: int) -> None:
        """Nothing yet. UsageError for a device whose tensor cores cannot multiply floats, SearchError for a dim too great."""
        if not device.multiplies_floats:
            raise UsageError(
                f"{device.name} has no tensor cores for float vectors, which came with compute capability 8.0; use device cpu"
            )
        if dim > MAX_DIM:
            raise SearchError(f"vectors have {dim:,} numbers, and a device takes at most {MAX_DIM:,}; use device cpu")
        self.device = device
        self._dtype, self._dim = dtype, dim
        self._stages = -(-dim // _STAGE_NUMBERS[dtype])
        self._rows: dict[int, tuple[Rows, list[_Piece]]] = {}
        self._flags: dict[int, tuple[npt.NDArray[np.bool_], list[Held]]] = {}
        with device.turn():
            self._kernels = device.kernels(source(dtype))

    def hold(self, stretches: Sequence[Stretch]) -> None:
        """Have the rows on the device; SearchError where they do not fit."""
        with self.device.turn():
            self._parts(stretches)

    def search(
        self, stretches: Sequence[Stretch], queries_QD: Similarities, k: int, cap: float, n_threads: int
    ) -> tuple[Similarities, Integers]:
        """As `tiled.search`, the same bytes."""
        living = sum(tiled.n_alive(stretch) for stretch in stretches)
        if not living or self._is_small(stretches, queries_QD):
            return tiled.search(stretches, queries_QD, k, cap, n_threads)
        similarities = np.full((len(queries_QD), k), np.nan, np.float32)
        numbers = np.full((len(queries_QD), k), -1, np.int64)
        n, wanted = sum(map(len, stretches)), min(k, living)
        samples = sampled(n, wanted)
        most_ranked = max([wanted, *(STEP * rank for _, rank in samples)])
        room = min(n, max(LEAST_ROOM, 2 * wanted, 4 * most_ranked))
        at_once = max(1, min(ROOM_BYTES // (8 * room), 4 * PAIRS_AT_ONCE // wanted))
        for group in tiled.groups(len(queries_QD), at_once):
            queries = queries_QD[group]
            task = Task(stretches, queries, self._dim, cap, None)
            with self.device.turn():
                counts, rows = self._nearest(stretches, queries, wanted, cap, room, samples)
            for ranked in _ranked(task, np.maximum(counts, 0), rows, n_threads):
                tiled.place_nearest(ranked, wanted, similarities[group], numbers[group])
            undecided = np.flatnonzero(counts < 0)
            if len(undecided):
                found = tiled.search(stretches, queries[undecided], k, cap, n_threads)
                similarities[group.start + undecided], numbers[group.start + undecided] = found
        return similarities, numbers

    def search_radius(
        self, stretches: Sequence[Stretch], queries_QD: Similarities, radius: float, cap: float, n_threads: int
    ) -> tuple[Integers, Similarities, Integers]:
        """As `tiled.search_radius`, the same bytes."""
        if self._is_small(stretches, queries_QD):
            return tiled.search_radius(stretches, queries_QD, radius, cap, n_threads)
        counts = np.zeros(len(queries_QD) + 1, np.int64)
        found: list[tuple[Similarities, Integers]] = [(np.empty(0, np.float32), np.empty(0, np.int64))]
        least = np.float32(radius)
        for group in tiled.groups(len(queries_QD), max(1, ROOM_BYTES // (8 * LEAST_ROOM))):
            task = Task(stretches, queries_QD[group], self._dim, cap, None)
            with self.device.turn():
                reaching, rows = self._within(stretches, queries_QD[group], least)
            for query, numbers, values in _ranked(task, reaching, rows, n_threads):
                inside = values >= least
                counts[1 + group.start :][: len(task.queries)] += np.bincount(
                    query[inside], minlength=len(task.queries)
                )
                found.append((values[inside], numbers[inside]))
        similarities, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return np.cumsum(counts), similarities, numbers

    def _is_small(self, stretches: Sequence[Stretch], queries_QD: Similarities) -> bool:
        return not stretches or sum(map(len, stretches)) * queries_QD.size <= CPU_WORK

    def _prepared(self, stretches: Sequence[Stretch], queries: Similarities) -> tuple[Prepared, int]:
        """Queries as the device takes them, and what it multiplies rows by, twice a word."""
        longest = max(stretch.longest for stretch in stretches)
        factor = int(np.float16(2.0 ** row_shift(self._dtype, longest)).view(np.uint16))
        return prepared(queries, self._dtype, longest), factor << 16 | factor

    def _nearest(
        self,
        stretches: Sequence[Stretch],
        queries: Similarities,
        wanted: int,
        cap: float,
        room: int,
        samples: Sequence[tuple[int, int]],
    ) -> tuple[Integers, npt.NDArray[np.uint32]]:
        """How many rows may be among the nearest of each query (Q), -1 where that was not decided, and which (P), in order of
        queries.
        """
        given, factor = self._prepared(stretches, queries)
        parts = self._parts(stretches)
        caps = (cap * given.units).astype(np.float32) if np.isfinite(cap) else np.full(len(queries), np.inf, np.float32)
        counts = np.full(len(queries), -1, np.int64)
        rows: list[npt.NDArray[np.uint32]] = []
        order: list[Integers] = []
        waiting, reach = np.arange(len(queries)), None
        held_before = np.full(len(queries), np.inf)
        while len(waiting):
            some = given.of(waiting)
            held = self._put_queries(some), self.device.put(some.errors), self.device.put(caps[waiting])
            scan = functools.partial(self._scan, parts, held[0], len(waiting), factor, room)
            if reach is None:
                values = limits = self.device.put(np.full(len(waiting), -np.inf, np.float32))
                for stride, rank in samples:
                    values, limits, _ = self._reach(*scan(limits, stride), rank, *held[1:])
            else:
                # Of one key a query, which k rows reach: what may be as near as they are is known without a scan.
                values = self.device.put(reach)
                limits = self.device.put(_limits(reach, some.errors, caps[waiting]))
            keys, held_counts = scan(limits, 1)
            nearest, limits, reaching = self._reach(keys, held_counts, wanted, *held[1:])
            in_all = self.device.get(held_counts).astype(np.int64)
            at_least, kth = self.device.get(values), self.device.get(nearest)
            decided = (in_all <= room) & (kth >= at_least)
            taken = np.where(decided, self.device.get(reaching).astype(np.int64), 0)
            counts[waiting[decided]] = taken[decided]
            rows.append(self._gather(keys, held_counts, limits, taken))
            order.append(np.repeat(waiting, taken))
            # Again where it helps: what was short reaches further, what was too much is at most half as much.
            again = ~decided & ((in_all <= room) | (2 * in_all <= held_before[waiting]))
            held_before[waiting[in_all > room]] = in_all[in_all > room]
            waiting, reach = waiting[again], kth[again]
        return counts, np.concatenate(rows)[np.argsort(np.concatenate(order), kind="stable")]

    def _within(
        self, stretches: Sequence[Stretch], queries: Similarities, radius: np.float32
    ) -> tuple[Integers, npt.NDArray[np.uint32]]:
        """How many rows may be within the radius of each query (Q), and which (P), in order of queries."""
        given, factor = self._prepared(stretches, queries)
        parts = self._parts(stretches)
        with np.errstate(over="ignore"):
            limits = -_up(given.errors - given.units * np.float64(radius))
        counts = np.zeros(len(queries), np.int64)
        rows, order = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
        waiting, room = np.arange(len(queries)), LEAST_ROOM
        while len(waiting):
            for part in tiled.groups(len(waiting), max(1, ROOM_BYTES // (8 * room))):
                some = waiting[part]
                held_limits = self.device.put(limits[some])
                held = self._put_queries(given.of(some))
                keys, held_counts = self._scan(parts, held, len(some), factor, room, held_limits, 1)
                counts[some] = self.device.get(held_counts)
                taken = np.where(counts[some] <= room, counts[some], 0)
                rows.append(self._gather(keys, held_counts, held_limits, taken))
                order.append(np.repeat(some, taken))
            # What did not fit has been counted: it fits the next time.
            waiting = waiting[counts[waiting] > room]
            room = int(counts[waiting].max(initial=0))
        return counts, np.concatenate(rows)[np.argsort(np.concatenate(order), kind="stable")]

    def _put_queries(self, some: Prepared) -> Held:
        """Queries on the device, zeros up to a whole number of what the wide kernel takes."""
        padded = np.zeros((-(-len(some.words) // MANY) * MANY, *some.words.shape[1:]), np.uint32)
        padded[: len(some.words)] = some.words
        return self.device.put(padded)

    def _scan(
        self,
        parts: Sequence[_Part],
        queries: Held,
        n_queries: int,
        factor: int,
        room: int,
        limits: Held,
        stride: int,
    ) -> tuple[Held, Held]:
        """Keys (Q, room) of every stride-th row that reaches the limits, in any order, and how many there are (Q)."""
        keys = self.device.empty((n_queries, room), np.uint64)
        counts = self.device.zeros((n_queries,), np.uint64)
        kernel, width = ("scan_few", FEW) if n_queries <= FEW else ("scan_many", MANY)
        lots = -(-n_queries // width)
        at_once = max(1, _BLOCKS_AT_ONCE[kernel] * self.device.multiprocessors // lots)
        for piece, first, alive in parts:
            blocks = min(at_once, -(-piece.n // (stride * _ROWS_AT_ONCE[kernel])))
            of_rows = piece.numbers, piece.scales, alive, piece.n, self._stages, stride, first, factor
            self._kernels.run(
                kernel, (lots, blocks), _THREADS, *of_rows, queries, n_queries, limits, keys, counts, room
            )
        return keys, counts

    def _reach(self, keys: Held, counts: Held, rank: int, errors: Held, caps: Held) -> tuple[Held, Held, Held]:
        """The value of a rank (Q), what may be as near (Q), and how many keys are (Q)."""
        n_queries, room = keys.shape
        values, limits = (self.device.empty((n_queries,), np.float32) for _ in range(2))
        reaching = self.device.empty((n_queries,), np.uint64)
        arguments = (keys, counts, room, rank, errors, caps, values, limits, reaching)
        self._kernels.run("reach_of_rank", (n_queries, 1), _THREADS, *arguments)
        return values, limits, reaching

    def _gather(self, keys: Held, counts: Held, limits: Held, taken_Q: Integers) -> npt.NDArray[np.uint32]:
        """The rows of those keys that reach the limits, so many of each query, none of others."""
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(taken_Q)])
        if not offsets[-1]:
            return np.empty(0, np.uint32)
        rows = self.device.empty((int(offsets[-1]),), np.uint32)
        arguments = (keys, counts, keys.shape[1], limits, self.device.put(offsets), rows)
        self._kernels.run("gather_rows", (keys.shape[0], 1), _THREADS, *arguments)
        found: npt.NDArray[np.uint32] = self.device.get(rows)
        return found

    def _parts(self, stretches: Sequence[Stretch]) -> list[_Part]:
        """The rows on the device, sent there unless they are; what no search needs any more is let go before."""
        n = sum(map(len, stretches))
        if n > MOST_ROWS:
            raise SearchError(f"there are {n:,} vectors, and a device takes at most {MOST_ROWS:,}; use device cpu")
        # Arrays are told apart by identity, which is theirs for as long as they are held here.
        self._rows = {key: self._rows[key] for key in (id(x.rows) for x in stretches) if key in self._rows}
        self._flags = {key: self._flags[key] for key in (id(x.alive) for x in stretches) if key in self._flags}
        parts = []
        try:
            for stretch in stretches:
                rows, alive = stretch.rows, stretch.alive
                if id(rows) not in self._rows:
                    self._rows[id(rows)] = rows, list(self._sent(rows))
                pieces = self._rows[id(rows)][1]
                if alive is not None and id(alive) not in self._flags:
                    flags = [self.device.put(alive[x.first : x.first + x.n].view(np.uint8)) for x in pieces]
                    self._flags[id(alive)] = alive, flags
                for i, piece in enumerate(pieces):
                    flag = None if alive is None else self._flags[id(alive)][1][i]
                    parts.append(_Part(piece, stretch.first + piece.first, flag))
        except DeviceMemoryError as error:
            needed = sum(len(stretch) for stretch in stretches) * self._stages * (32 if self._dtype == "int8" else 64)
            raise SearchError(
                f"{n:,} vectors need {needed / 2**30:.1f} GiB, more than {self.device.name} has left; use device cpu, or "
                "keep them as float16 or int8"
            ) from error
        return parts

    def _sent(self, rows: Rows) -> Iterator[_Piece]:
        """Rows on the device, piece by piece, zeros up to a whole number of stages."""
        numbers, scales = features.numbers_of(rows), features.scales_of(rows)
        width = self._stages * _STAGE_NUMBERS[self._dtype]
        dtype = np.dtype(self._dtype)
        step = max(1, PIECE_BYTES // (width * dtype.itemsize))
        for first in range(0, len(rows), step):
            some = numbers[first : first + step]
            if width != self._dim or some.dtype != dtype or not some.flags.c_contiguous:
                padded = np.zeros((len(some), width), dtype)
                padded[:, : self._dim] = some
                some = padded
            of_scales = None if scales is None else self.device.put(scales[first : first + step].astype(np.float32))
            yield _Piece(first, len(some), self.device.put(some), of_scales)


def sampled(n: int, wanted: int) -> list[tuple[int, int]]:
    """Strides of samples among n rows, and the rank in each that is safe for the next, so that `wanted` are found in the end."""
    strides: list[int] = []
    while n > LEAST_ROOM * STEP ** len(strides):
        strides.append(STEP ** (len(strides) + 1))
    ranks = []
    for _ in strides:
        wanted = safe_rank(wanted / STEP)
        ranks.append(wanted)
    return list(zip(reversed(strides), reversed(ranks), strict=True))


def _limits(values: Similarities, errors: Similarities, caps: Similarities) -> Similarities:
    """What a row has to reach that may be as near as one of a value; as in products.cu."""
    least: Similarities = np.minimum(values - errors, caps) - errors
    return least


def _ranked(task: Task, counts_Q: Integers, rows_P: npt.NDArray[np.uint32], n_threads: int) -> Iterator[Ranked]:
    """The pairs in order, some queries at a time."""
    ends = np.cumsum(counts_Q)
    total = int(ends[-1]) if len(ends) else 0
    most = max(1, min(PAIRS_AT_ONCE, -(-total // n_threads)))

    def ranked(first: int, stop: int) -> Ranked:
        start = int(ends[first - 1]) if first else 0
        query = np.repeat(np.arange(first, stop), counts_Q[first:stop])
        rows = rows_P[start : int(ends[stop - 1])].astype(np.int64)
        return tiled.ranked(query, rows, task.exact(query, rows))

    work = []
    first = 0
    while first < len(counts_Q):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        work.append(functools.partial(ranked, first, stop))
        first = stop
    for i in range(0, len(work), n_threads):
        yield from threads.run(work[i : i + n_threads], n_threads)


def _up(numbers: npt.NDArray[np.float64]) -> Similarities:
    """As float32, none of them smaller."""
    with np.errstate(over="ignore"):
        return np.nextafter(numbers.astype(np.float32), np.float32(np.inf))
