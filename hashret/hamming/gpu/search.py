"""Exact search on a device: how far to reach, who is there, which are nearest.

1. **Reach.** The distances of a sample say how far a query has to reach for its k nearest; the rank that is looked for in the
   sample leaves a chance of one in a million that it is too short.
2. **Scan.** Every row is compared once; those within reach, some times k, are appended to the query's room in any order.
3. **Select.** They are sorted by (distance, row), and the first k are the answer.

What came in shows whether it was enough: fewer than k, or more than there is room for (ties without end, a gallery in an order
that misleads the sample), and those queries are done again with a reach that is counted instead of guessed: the distances of all
rows give the k-th distance, and where its ties do not fit either, counting them by chunks of rows tells before which row enough
of them stand. That always fits: it is fewer than 2k and one chunk. So answers are exact, and the same bytes whatever ran first.

Shape suffixes: N gallery codes, Q queries, B bytes and W words of a code.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import words
from hashret.hamming.gpu.device import Device, Held
from hashret.hamming.merge import Found

FoundWithin = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]

_FOLDER = Path(__file__).parent / "kernels"
_SOURCES = ("codes.cuh", "rows.cu", "reach.cu", "select.cu")
_OF_TENSOR_CORES = "tensor.cu"

SAMPLE = 1 << 18
"""Rows of a sample at least, about."""
MOST_STRIDE = 256
"""At least one block of rows in so many is in the sample, so that queries need little room however many rows there are."""
SAMPLE_ROWS = 512
"""Rows that stand together in a sample; as in reach.cu."""
RISK = 1e-6
"""The chance that a sample leaves a query short, where rows stand in random order."""
TIE_CHUNK = 1 << 12
"""Rows among which ties are counted together."""
LEAST_ROOM = 1 << 14
"""Keys that a query has room for at least; TIE_CHUNK and 2k fit in."""
ROOM_BYTES = 1 << 30
"""Device memory for the keys of queries that are searched at once."""
LOT_WORDS = 8
"""Words of queries that a thread holds at once; as in rows.cu."""
BATCH_FROM = 5
"""Queries from which tensor cores pay; fewer wait for memory anyway."""
THREADS = 256


@functools.cache
def source(n_words: int, with_tensor_cores: bool = True) -> str:
    """The kernels for codes of so many 64-bit words, as one text."""
    lines = [f"#define WORDS {n_words}\n"]
    for name in (*_SOURCES, _OF_TENSOR_CORES) if with_tensor_cores else _SOURCES:
        lines += [f'#line 1 "{name}"\n', (_FOLDER / name).read_text("utf-8")]
    return "".join(lines)


class Gallery:
    """Codes on a device, and searches among them, by any thread."""

    def __init__(self, device: Device, codes_NB: Codes, alive: Bits | None = None) -> None:
        """codes_NB: packed codes, copied to the device. alive: a flag a code, False leaves it out."""
        self._device = device
        self.n: int = len(codes_NB)
        held = words.view(codes_NB)
        with device.turn():
            self._codes = device.put(words.padded(codes_NB) if held is None else held)
            self.n_words: int = self._codes.shape[1]
            self._alive = None if alive is None else device.put(alive.view(np.uint8))
            self._kernels = device.kernels(source(self.n_words, device.multiplies_bits))
        self._living = self.n if alive is None else int(np.count_nonzero(alive))

    def search(self, queries_QB: Codes, k: int) -> Found:
        """Distances (Q, k) int32 and rows (Q, k) int64 of the k nearest, ascending by (distance, row), padded with -1."""
        distances = np.full((len(queries_QB), k), -1, np.int32)
        rows = np.full((len(queries_QB), k), -1, np.int64)
        room = self._room(k)
        at_once = max(1, ROOM_BYTES // (8 * room))
        for first in range(0, len(queries_QB) if self._living else 0, at_once):
            group = slice(first, first + at_once)
            with self._device.turn():
                distances[group], rows[group] = self._search(words.padded(queries_QB[group]), k, room)
        return distances, rows

    def _room(self, k: int) -> int:
        """Keys that a query has room for: most of a sample's steps from one distance to the next are less than eightfold."""
        expected = 8 * self._rank(k) * self._stride
        return _power_of_two_from(max(LEAST_ROOM, 2 * k + TIE_CHUNK, min(expected, self.n)))

    @property
    def _stride(self) -> int:
        """One block of rows in so many is in the sample."""
        return min(MOST_STRIDE, max(1, self.n // SAMPLE))

    def _rank(self, k: int) -> int:
        """The rank in the sample that is looked for."""
        return k if self._stride == 1 else safe_rank(k / self._stride)

    def _search(self, queries: words.Words, k: int, room: int) -> Found:
        """The same for as many queries as there is room for."""
        n_queries, bits = len(queries), 64 * self.n_words
        held = self._device.put(queries)
        if self.n <= room:
            reach = self._device.put(np.full(n_queries, bits, np.int64))
        else:
            histogram = self._count_distances(held, self._stride)
            reach = self._device.empty((n_queries,), np.int64)
            self._kernels.run(
                "reach_of_rank", (-(-n_queries // THREADS), 1), THREADS, histogram, n_queries, self._rank(k), reach
            )
        found, counts = self._within(held, reach, None, k, room)
        short = np.flatnonzero((counts > room) | (counts < min(k, self._living)))
        if len(short):
            again = self._counted_reach(queries[short], k, room)
            found[0][short], found[1][short] = self._within(*again, k, room)[0]
        return found

    def search_radii(self, queries_QB: Codes, radii_Q: npt.NDArray[np.int64]) -> FoundWithin:
        """Offsets (Q + 1) int64, distances int32 and rows int64 within each query's radius, ascending by (distance, row)."""
        queries, reach = words.padded(queries_QB), np.minimum(radii_Q, 64 * self.n_words).astype(np.int64)
        nothing: Found = np.empty(0, np.int32), np.empty(0, np.int64)
        found = [nothing] * len(queries)
        waiting, room = np.arange(len(queries) if self._living else 0), LEAST_ROOM
        while len(waiting):
            at_once = max(1, ROOM_BYTES // (8 * room))
            with self._device.turn():
                counted = [
                    self._take_within(queries, reach, waiting[first : first + at_once], room, found)
                    for first in range(0, len(waiting), at_once)
                ]
            # What did not fit has been counted: it fits the next time.
            counts = np.concatenate(counted)
            waiting = waiting[counts > room]
            room = _power_of_two_from(int(counts.max()))
        offsets = np.cumsum([0, *(len(rows) for _, rows in found)], dtype=np.int64)
        distances, rows = (np.concatenate(parts) for parts in zip(nothing, *found, strict=True))
        return offsets, distances, rows

    def _take_within(
        self,
        queries: words.Words,
        reach: npt.NDArray[np.int64],
        group: npt.NDArray[np.intp],
        room: int,
        found: list[Found],
    ) -> npt.NDArray[np.int64]:
        """How many codes some of the queries reach; those of queries where they fit are put into `found`."""
        keys, held_counts = self._scan(self._device.put(queries[group]), self._device.put(reach[group]), None, room)
        counts = self._device.get(held_counts).astype(np.int64)
        fits = counts <= room
        most = int(counts[fits].max(initial=0))
        if most:
            distances, rows = (self._device.get(x) for x in self._select(keys, held_counts, most))
            for i in np.flatnonzero(fits):
                found[group[i]] = distances[i, : counts[i]], rows[i, : counts[i]]
        return counts

    def _within(
        self, queries: Held, reach: Held, ties_end: Held | None, k: int, room: int
    ) -> tuple[Found, npt.NDArray[np.int64]]:
        """The k nearest of what is within reach, and how many are; nothing good of queries where they do not fit."""
        keys, counts = self._scan(queries, reach, ties_end, room)
        distances, rows = self._select(keys, counts, k)
        return (self._device.get(distances), self._device.get(rows)), self._device.get(counts).astype(np.int64)

    def _scan(self, queries: Held, reach: Held, ties_end: Held | None, room: int) -> tuple[Held, Held]:
        """Keys (Q, room) within reach in any order, and how many there are (Q), also beyond the room."""
        n_queries = queries.shape[0]
        keys = self._device.empty((n_queries, room), np.uint64)
        counts = self._device.zeros((n_queries,), np.uint64)
        arguments = (self._codes, self.n, self._alive, queries, reach, ties_end, keys, counts, room)
        if n_queries >= BATCH_FROM and self._device.multiplies_bits:
            blocks = min(2 * self._device.multiprocessors, -(-self.n // THREADS))
            self._kernels.run("scan_batch", (blocks, 1), THREADS, *arguments, n_queries)
            return keys, counts
        # Few queries at a time share a load of codes; the last may be fewer.
        blocks, first = min(16 * self._device.multiprocessors, -(-self.n // THREADS)), 0
        for lot in (4, 2, 1):
            lots = (n_queries - first) // lot
            if lots and lot <= max(1, LOT_WORDS // self.n_words):
                self._kernels.run(f"scan_rows_{lot}", (blocks, lots), THREADS, *arguments, first)
                first += lots * lot
        return keys, counts

    def _select(self, keys: Held, counts: Held, k: int) -> tuple[Held, Held]:
        """Distances and rows (Q, k), in order, of the keys of a scan."""
        n_queries, room = keys.shape
        distances = self._device.empty((n_queries, k), np.int32)
        rows = self._device.empty((n_queries, k), np.int64)
        self._kernels.run("select_nearest", (n_queries, 1), 512, keys, counts, room, k, distances, rows)
        return distances, rows

    def _count_distances(self, queries: Held, stride: int) -> Held:
        """Living rows at each distance (Q, bits + 1), of one block of rows in `stride`."""
        histogram = self._device.zeros((queries.shape[0], 64 * self.n_words + 1), np.uint64)
        blocks = min(8 * self._device.multiprocessors, -(-self.n // (stride * SAMPLE_ROWS)))
        arguments = (self._codes, self.n, self._alive, queries, stride, histogram)
        self._kernels.run("count_distances", (blocks, queries.shape[0]), THREADS, *arguments)
        return histogram

    def _counted_reach(self, queries: words.Words, k: int, room: int) -> tuple[Held, Held, Held]:
        """Queries, reach and the row before which ties count, such that k rows, or all there are, are within and fit."""
        held = self._device.put(queries)
        upto = np.cumsum(self._device.get(self._count_distances(held, 1)).astype(np.int64), axis=1)
        wanted = min(k, self._living)
        reach = (upto < wanted).sum(axis=1)
        within = np.take_along_axis(upto, reach[:, None], axis=1)[:, 0]
        nearer = np.where(reach > 0, np.take_along_axis(upto, np.maximum(reach - 1, 0)[:, None], axis=1)[:, 0], 0)
        ties_end = np.full(len(queries), self.n, np.int64)
        held_reach = self._device.put(reach.astype(np.int64))
        crowded = np.flatnonzero(within > room)
        if len(crowded):
            chunks = -(-self.n // TIE_CHUNK)
            ties = self._device.empty((len(queries), chunks), np.uint64)
            arguments = (self._codes, self.n, self._alive, held, held_reach, TIE_CHUNK, ties)
            self._kernels.run("count_ties", (chunks, len(queries)), THREADS, *arguments)
            enough = np.cumsum(self._device.get(ties)[crowded].astype(np.int64), axis=1)
            last_chunk = (enough < (wanted - nearer[crowded])[:, None]).sum(axis=1)
            ties_end[crowded] = np.minimum((last_chunk + 1) * TIE_CHUNK, self.n)
        return held, held_reach, self._device.put(ties_end)


def _power_of_two_from(n: int) -> int:
    return 1 << (n - 1).bit_length()


def safe_rank(expected: float) -> int:
    """The rank in a sample at whose distance enough rows lie, where `expected` of those wanted are in the sample.

    The smallest that a Poisson number of that mean reaches with a chance of RISK at most.
    """
    if expected > 100:
        # Five standard deviations are beyond RISK, and the sum below would begin at zero.
        return math.ceil(expected + 5 * math.sqrt(expected))
    rank, term = 0, math.exp(-expected)
    below = 0.0
    while 1 - below > RISK:
        below += term
        rank += 1
        term *= expected / rank
    return rank
