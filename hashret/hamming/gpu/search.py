"""Exact search on a device: how far to reach, who is there, which are nearest.

1. **Reach.** The distances of a sample say how far a query has to reach for its k nearest; the rank that is looked for in the
   sample leaves a chance of one in a million that it is too short.
2. **Scan.** Every row is compared once; those within reach, some times k, are appended to the query's room in any order.
3. **Select.** They are sorted by (distance, row), and the first k are the answer.

What came in shows whether it was enough: fewer than k, or more than there is room for (ties without end, a gallery in an order
that misleads the sample), and those queries are done again with a reach that is counted instead of guessed: the distances of all
rows give the k-th distance, and where its ties do not fit either, counting them by chunks of rows tells before which row enough
of them stand. That always fits: it is fewer than 2k and one chunk. So answers are exact, and the same bytes whatever ran first.

A gallery is pieces of consecutive rows (pieces.py), which every step meets one after the other.

Shape suffixes: N gallery codes, Q queries, B bytes and W words of a code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hashret.codes import Codes
from hashret.hamming import words
from hashret.hamming.gpu.device import Device, Held
from hashret.hamming.gpu.pieces import SAMPLE_ROWS, Piece, Pieces
from hashret.hamming.merge import Found

FoundWithin = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]

_FOLDER = Path(__file__).parent / "kernels"
_SOURCES = ("codes.cuh", "rows.cu", "reach.cu", "select.cu", "ids.cu")
_OF_TENSOR_CORES = "tensor.cu"

SAMPLE = 1 << 18
"""Rows of a sample at least, about."""
MOST_STRIDE = 256
"""At least one block of rows in so many is in the sample, so that queries need little room however many rows there are."""
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


def kernel_name(device: Device, n_queries: int) -> str:
    """What compares codes with so many queries: tensor (cores) or row."""
    return "tensor" if n_queries >= BATCH_FROM and device.multiplies_bits else "row"


class Gallery:
    """Searches among codes on a device, by any thread."""

    def __init__(self, pieces: Pieces) -> None:
        """pieces: the codes, all in the device's memory (`Resident`) or brought there in turn."""
        self.pieces, self.device = pieces, pieces.device
        self._kernels = self.device.kernels(source(pieces.n_words, self.device.multiplies_bits))

    def search(self, queries_QB: Codes, k: int) -> Found:
        """Distances (Q, k) int32 and rows (Q, k) int64 of the k nearest, ascending by (distance, row), padded with -1."""
        with self.device.turn():
            distances, rows = self.search_held(self.device.put(words.padded(queries_QB)), k)
            return self.device.get(distances), self.device.get(rows)

    def search_held(self, queries_QW: Held, k: int) -> tuple[Held, Held]:
        """The same for queries as 64-bit words on the device, in a turn of it; what comes back stays there."""
        n_queries = queries_QW.shape[0]
        if not n_queries or not self.pieces.n_alive:
            nothing = np.full((n_queries, k), -1, np.int32)
            return self.device.put(nothing), self.device.put(nothing.astype(np.int64))
        distances = self.device.empty((n_queries, k), np.int32)
        rows = self.device.empty((n_queries, k), np.int64)
        room = self._room(k)
        short = []
        for group in _groups(n_queries, room):
            queries, into = self._part(queries_QW, group), (self._part(distances, group), self._part(rows, group))
            short.append(group.start + self._guess(queries, k, room, into))
        again = np.concatenate(short)
        return self._counted(queries_QW, again, k, room, (distances, rows)) if len(again) else (distances, rows)

    def _room(self, k: int) -> int:
        """Keys that a query has room for: most of a sample's steps from one distance to the next are less than eightfold."""
        expected = 8 * self._rank(k) * self._stride
        return _power_of_two_from(max(LEAST_ROOM, 2 * k + TIE_CHUNK, min(expected, self.pieces.n)))

    @property
    def _stride(self) -> int:
        """One block of rows in so many is in the sample."""
        return min(MOST_STRIDE, max(1, self.pieces.n // SAMPLE))

    def _rank(self, k: int) -> int:
        """The rank in the sample that is looked for."""
        return k if self._stride == 1 else safe_rank(k / self._stride)

    def _guess(self, queries: Held, k: int, room: int, into: tuple[Held, Held]) -> npt.NDArray[np.int64]:
        """Answer queries that there is room for by a reach that a sample says; those it left without an answer come back."""
        n_queries = queries.shape[0]
        if self.pieces.n <= room:
            reach = self.device.put(np.full(n_queries, 64 * self.pieces.n_words, np.int64))
        else:
            histogram = self._count_distances(queries, self.pieces.sample(self._stride))
            reach = self.device.empty((n_queries,), np.int64)
            self._kernels.run(
                "reach_of_rank", (-(-n_queries // THREADS), 1), THREADS, histogram, n_queries, self._rank(k), reach
            )
        keys, held_counts = self._scan(queries, reach, None, room)
        self._select(keys, held_counts, into)
        counts = self.device.get(held_counts)
        return np.flatnonzero((counts > room) | (counts < min(k, self.pieces.n_alive)))

    def _counted(
        self, queries: Held, which: npt.NDArray[np.int64], k: int, room: int, found: tuple[Held, Held]
    ) -> tuple[Held, Held]:
        """The same answers, with those of some queries done again by a reach that is counted."""
        distances, rows = (self.device.get(x) for x in found)
        words_of = self.device.get(queries)
        for group in _groups(len(which), room):
            some = which[group]
            held, reach, ties_end = self._counted_reach(words_of[some], k, room)
            answer = self.device.empty((len(some), k), np.int32), self.device.empty((len(some), k), np.int64)
            self._select(*self._scan(held, reach, ties_end, room), answer)
            distances[some], rows[some] = (self.device.get(x) for x in answer)
        return self.device.put(distances), self.device.put(rows)

    def search_radii(self, queries_QB: Codes, radii_Q: npt.NDArray[np.int64]) -> FoundWithin:
        """Offsets (Q + 1) int64, distances int32 and rows int64 within each query's radius, ascending by (distance, row)."""
        queries = words.padded(queries_QB)
        reach = np.minimum(radii_Q, 64 * self.pieces.n_words).astype(np.int64)
        nothing: Found = np.empty(0, np.int32), np.empty(0, np.int64)
        found = [nothing] * len(queries)
        waiting, room = np.arange(len(queries) if self.pieces.n_alive else 0), LEAST_ROOM
        while len(waiting):
            with self.device.turn():
                counted = [
                    self._take_within(queries, reach, waiting[group], room, found)
                    for group in _groups(len(waiting), room)
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
        keys, held_counts = self._scan(self.device.put(queries[group]), self.device.put(reach[group]), None, room)
        counts = self.device.get(held_counts).astype(np.int64)
        fits = counts <= room
        most = int(counts[fits].max(initial=0))
        if most:
            shape = len(group), most
            answer = self.device.empty(shape, np.int32), self.device.empty(shape, np.int64)
            self._select(keys, held_counts, answer)
            distances, rows = (self.device.get(x) for x in answer)
            for i in np.flatnonzero(fits):
                found[group[i]] = distances[i, : counts[i]], rows[i, : counts[i]]
        return counts

    def _scan(self, queries: Held, reach: Held, ties_end: Held | None, room: int) -> tuple[Held, Held]:
        """Keys (Q, room) within reach in any order, and how many there are (Q), also beyond the room."""
        n_queries = queries.shape[0]
        keys = self.device.empty((n_queries, room), np.uint64)
        counts = self.device.zeros((n_queries,), np.uint64)
        for piece in self.pieces.each():
            self._scan_piece(piece, queries, (reach, ties_end, keys, counts, room, piece.first))
        return keys, counts

    def _scan_piece(self, piece: Piece, queries: Held, taken: tuple[Held | int | None, ...]) -> None:
        """Append what is within reach in one piece."""
        n, n_queries, multiprocessors = len(piece), queries.shape[0], self.device.multiprocessors
        arguments = (piece.codes, n, piece.alive, queries, *taken)
        if kernel_name(self.device, n_queries) == "tensor":
            blocks = min(2 * multiprocessors, -(-n // THREADS))
            self._kernels.run("scan_batch", (blocks, 1), THREADS, *arguments, n_queries)
            return
        # Few queries at a time share a load of codes; the last may be fewer.
        blocks, first = min(16 * multiprocessors, -(-n // THREADS)), 0
        for lot in (4, 2, 1):
            lots = (n_queries - first) // lot
            if lots and lot <= max(1, LOT_WORDS // self.pieces.n_words):
                self._kernels.run(f"scan_rows_{lot}", (blocks, lots), THREADS, *arguments, first)
                first += lots * lot

    def _select(self, keys: Held, counts: Held, into: tuple[Held, Held]) -> None:
        """Write distances and rows (Q, k), in order, of the keys of a scan."""
        n_queries, room = keys.shape
        self._kernels.run("select_nearest", (n_queries, 1), 512, keys, counts, room, into[0].shape[1], *into)

    def _count_distances(self, queries: Held, sample: Iterable[tuple[Piece, int, int]]) -> Held:
        """Living rows of a sample at each distance (Q, bits + 1)."""
        histogram = self.device.zeros((queries.shape[0], 64 * self.pieces.n_words + 1), np.uint64)
        for piece, begin, stride in sample:
            n = len(piece)
            blocks = min(8 * self.device.multiprocessors, -(-(n - begin) // (stride * SAMPLE_ROWS)))
            arguments = (piece.codes, n, piece.alive, queries, begin, stride, histogram)
            self._kernels.run("count_distances", (blocks, queries.shape[0]), THREADS, *arguments)
        return histogram

    def _counted_reach(self, queries: words.Words, k: int, room: int) -> tuple[Held, Held, Held]:
        """Queries, reach and the row before which ties count, such that k rows, or all there are, are within and fit."""
        held = self.device.put(queries)
        everything = ((piece, 0, 1) for piece in self.pieces.each())
        upto = np.cumsum(self.device.get(self._count_distances(held, everything)).astype(np.int64), axis=1)
        wanted = min(k, self.pieces.n_alive)
        reach = (upto < wanted).sum(axis=1)
        within = np.take_along_axis(upto, reach[:, None], axis=1)[:, 0]
        nearer = np.where(reach > 0, np.take_along_axis(upto, np.maximum(reach - 1, 0)[:, None], axis=1)[:, 0], 0)
        ties_end = np.full(len(queries), self.pieces.n, np.int64)
        held_reach = self.device.put(reach.astype(np.int64))
        crowded = np.flatnonzero(within > room)
        if len(crowded):
            ends, ties = self._count_ties(held, held_reach)
            enough = np.cumsum(ties[crowded], axis=1)
            last_chunk = (enough < (wanted - nearer[crowded])[:, None]).sum(axis=1)
            ties_end[crowded] = ends[last_chunk]
        return held, held_reach, self.device.put(ties_end)

    def _count_ties(self, queries: Held, reach: Held) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The row after each chunk of rows, and how many living rows of it (Q, chunks) are just at each query's reach."""
        ends, found = [], []
        for piece in self.pieces.each():
            n = len(piece)
            chunks = -(-n // TIE_CHUNK)
            ties = self.device.empty((queries.shape[0], chunks), np.uint64)
            arguments = (piece.codes, n, piece.alive, queries, reach, TIE_CHUNK, ties)
            self._kernels.run("count_ties", (chunks, queries.shape[0]), THREADS, *arguments)
            found.append(self.device.get(ties).astype(np.int64))
            ends.append(piece.first + np.minimum((np.arange(chunks) + 1) * TIE_CHUNK, n))
        return np.concatenate(ends), np.concatenate(found, axis=1)

    def _part(self, held: Held, group: slice) -> Held:
        return held if group == slice(0, held.shape[0]) else self.device.part(held, group.start, group.stop)


def _groups(n_queries: int, room: int) -> list[slice]:
    """Consecutive queries, as many at once as there is memory for."""
    at_once = max(1, ROOM_BYTES // (8 * room))
    return [slice(first, min(first + at_once, n_queries)) for first in range(0, n_queries, at_once)]


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
