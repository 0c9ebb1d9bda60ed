"""Exact search among float rows, tile by tile: products in float32 find candidates, sums in float64 decide.

Memory is bounded by the constants below and the size of the answer, whatever the numbers of rows, queries and neighbours.

Who computes the products: from FEW queries on BLAS, on as many threads as it was told (OMP_NUM_THREADS or its like; numpy
has no say in it), and below that the kernel of dots.py on our own threads, each over a part of the rows. Little work is
left to BLAS, too, until so much was asked for that starting numba pays. The answer never depends on any of this.

Shape suffixes: N rows, Q queries, K neighbours, P pairs of a query and a row, D dimensions.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits
from hashret.hamming import threads
from hashret.index import candidates, features
from hashret.index.candidates import Candidates, Integers
from hashret.index.features import Rows, Similarities

FEW = 20
"""Queries from which a matrix product is quicker than the kernel for few."""
GROUP = 512
"""Queries searched together at most."""
PRODUCTS = 1 << 20
"""Products of a tile at most: 4 MiB."""
CONVERTED = 1 << 21
"""Numbers of a tile at most where BLAS needs them converted: 8 MiB."""
TILE_ROWS = 1 << 16
"""Rows of a tile at most."""
FIRST_ROWS = 256
"""Rows of the first tile; each one has four times as many as the one before, so that the first threshold is found among few."""
CANDIDATE_BYTES = 1 << 26
"""Memory for candidates between tiles, which limits the queries of a group where k is large."""
PART_WORK = 1 << 20
"""Numbers times queries that are worth handing to a thread."""
COLD_WORK = 1 << 28
"""Numbers times queries that numpy computes before numba is started for more: about as long as that takes. A search counts a
quarter of it at least: a process that asks once is answered before numba would be loaded, one that keeps asking loads it."""
TINY_WORK = 1 << 18
"""Numbers times queries up to which a search never counts: numpy is done in half a millisecond."""

_NO_SCALES = np.empty(0, np.float32)
_KERNELS = "hashret.index.dots"
_work_so_far = 0


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Consecutive rows; `first` is the number of the first among all, `longest` bounds their lengths."""

    rows: Rows
    first: int
    alive: Bits | None
    longest: float

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, start: int, stop: int) -> Stretch:
        """The rows numbered start to stop that are here, perhaps none."""
        low, high = (min(max(number - self.first, 0), len(self)) for number in (start, stop))
        alive = None if self.alive is None else self.alive[low:high]
        return Stretch(self.rows[low:high], self.first + low, alive, self.longest)


@dataclasses.dataclass(frozen=True)
class Task:
    """A group of queries and what to compare them with."""

    stretches: Sequence[Stretch]
    queries: Similarities
    dim: int
    cap: float
    """Similarities are cut off there: rounding may have made vectors of length 1 longer."""
    kernels: Any
    """The module dots.py, or None where numpy does everything."""

    @functools.cached_property
    def wide_queries(self) -> npt.NDArray[np.float64]:
        """The queries in float64."""
        return self.queries.astype(np.float64)

    @functools.cached_property
    def query_lengths(self) -> npt.NDArray[np.float64]:
        """Lengths (Q,) of the queries."""
        lengths: npt.NDArray[np.float64] = np.sqrt((self.wide_queries * self.wide_queries).sum(axis=1))
        return lengths * (1 + 2.0**-30)

    @functools.cached_property
    def n_rows(self) -> int:
        """Rows in all stretches."""
        return sum(map(len, self.stretches))

    @functools.cached_property
    def takes_few(self) -> bool:
        """Whether the kernel for few queries computes, which reads every dtype, and not BLAS."""
        return self.kernels is not None and len(self.queries) < FEW and self.stretches[0].rows.dtype.isnative

    @functools.cached_property
    def tile_rows(self) -> int:
        """Rows of a full tile."""
        rows = min(TILE_ROWS, PRODUCTS // len(self.queries))
        converts = not self.takes_few and self.stretches[0].rows.dtype != np.float32
        return max(1, min(rows, CONVERTED // self.dim) if converts else rows)

    @functools.cached_property
    def errors(self) -> dict[float, Similarities]:
        """How far products (Q,) of the queries with rows may be off, by what bounds the rows' lengths."""
        bounds = {stretch.longest for stretch in self.stretches}
        return {longest: features.errors(longest, self.query_lengths, self.dim) for longest in bounds}

    def exact(self, query_P: Integers, rows_P: Integers) -> Similarities:
        """Similarities (P,) by definition, cut off at the cap."""
        found = np.empty(len(rows_P), np.float32)
        place = np.searchsorted([stretch.first for stretch in self.stretches], rows_P, side="right") - 1
        for number in np.flatnonzero(np.bincount(place)).tolist():
            stretch, here = self.stretches[number], np.flatnonzero(place == number)
            which = rows_P[here] - stretch.first
            found[here] = features.similarities(stretch.rows, which, self.wide_queries, query_P[here])
        return np.minimum(found, np.float32(self.cap))

    def tiles(self, part: slice, first_rows: int) -> Iterator[Stretch]:
        """The rows of a part, tile by tile."""
        width = min(first_rows, self.tile_rows)
        for stretch in self.stretches:
            start = max(part.start, stretch.first)
            stop = min(part.stop, stretch.first + len(stretch))
            while start < stop:
                tile = stretch.cut(start, min(start + width, stop))
                yield tile
                start += len(tile)
                width = min(4 * width, self.tile_rows)

    def parts(self, n_threads: int) -> list[slice]:
        """The rows, cut for threads of our own where those compute."""
        count = 1
        if self.takes_few:
            count = max(1, min(n_threads, self.n_rows * self.dim * len(self.queries) // PART_WORK))
        edges = [self.n_rows * number // count for number in range(count + 1)]
        return [slice(edges[number], edges[number + 1]) for number in range(count)]


class Product:
    """Products of a group's queries with one tile after the other; the buffers are made once and used again."""

    def __init__(self, task: Task) -> None:
        self._queries, self._kernels, self._takes_few = task.queries, task.kernels, task.takes_few
        self._products = np.empty(len(task.queries) * task.tile_rows, np.float32)
        self._numbers = np.empty(0, np.float32)
        self._n_numbers = task.tile_rows * task.dim

    def of(self, rows: Rows) -> Similarities:
        """Products (Q, N), off by no more than `features.errors`; overwritten by the next ones."""
        found = self._products[: len(self._queries) * len(rows)].reshape(len(self._queries), len(rows))
        numbers, scales = features.numbers_of(rows), features.scales_of(rows)
        if self._takes_few:
            self._kernels.dots(
                _stored(numbers), _stored(_NO_SCALES if scales is None else scales), self._queries, found
            )
            return found
        np.matmul(self._queries, self._float32(numbers).T, out=found)
        if scales is not None:
            found *= scales
        return found

    def _float32(self, numbers_ND: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The numbers as BLAS takes them: themselves, or converted."""
        if numbers_ND.dtype == np.float32:
            return numbers_ND
        if not len(self._numbers):
            self._numbers = np.empty(self._n_numbers, np.float32)
        wide = self._numbers[: numbers_ND.size].reshape(numbers_ND.shape)
        if self._kernels is not None and numbers_ND.dtype.isnative:
            self._kernels.widen(_stored(numbers_ND), wide)
        else:
            np.copyto(wide, numbers_ND)
        return wide


def search(
    stretches: Sequence[Stretch], queries_QD: Similarities, k: int, cap: float, n_threads: int
) -> tuple[Similarities, Integers]:
    """Similarities (Q, k) float32, descending, padded with NaN, and row numbers (Q, k) int64, padded with -1.

    Equal similarities give the earlier row.
    """
    similarities = np.full((len(queries_QD), k), np.nan, np.float32)
    numbers = np.full((len(queries_QD), k), -1, np.int64)
    within = min(k, sum(n_alive(stretch) for stretch in stretches))
    if not within:
        return similarities, numbers
    kernels = _kernels(stretches, queries_QD)
    fitting = max(1, CANDIDATE_BYTES // candidates.bytes_per_query(within))
    for group in groups(len(queries_QD), min(GROUP, fitting)):
        task = Task(stretches, queries_QD[group], queries_QD.shape[1], cap, kernels)
        place_nearest(_nearest(task, within, n_threads), within, similarities[group], numbers[group])
    return similarities, numbers


def search_radius(
    stretches: Sequence[Stretch], queries_QD: Similarities, radius: float, cap: float, n_threads: int
) -> tuple[Integers, Similarities, Integers]:
    """Offsets (Q + 1) int64, similarities float32 and row numbers int64 of all rows at least as similar as `radius`."""
    counts, found, numbers = [np.zeros(1, np.int64)], [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    if stretches and len(queries_QD):
        kernels = _kernels(stretches, queries_QD)
        for group in groups(len(queries_QD), GROUP):
            task = Task(stretches, queries_QD[group], queries_QD.shape[1], cap, kernels)
            query, rows, values = _within(task, radius, n_threads)
            counts.append(np.bincount(query, minlength=len(task.queries)))
            found.append(values)
            numbers.append(rows)
    else:
        counts.append(np.zeros(len(queries_QD), np.int64))
    return np.cumsum(np.concatenate(counts)), np.concatenate(found), np.concatenate(numbers)


Ranked = tuple[Integers, Integers, Similarities]
"""Queries (P,), rows (P,) and similarities (P,), ascending by query, then descending by similarity, then by row."""


def _nearest(task: Task, k: int, n_threads: int) -> Ranked:
    """The k nearest rows of every query of a group, and perhaps some more."""
    work = [functools.partial(_candidates, task, part, k) for part in task.parts(n_threads)]
    parts = threads.run(work, n_threads)
    thresholds = np.max([part.thresholds for part in parts], axis=0)
    pairs = [part.pairs(thresholds) for part in parts]
    query, rows = (np.concatenate([pair[i] for pair in pairs]) for i in range(2))
    return ranked(query, rows, task.exact(query, rows))


def _candidates(task: Task, part: slice, k: int) -> Candidates:
    """What may be among the k nearest of the rows of one part."""
    found = Candidates(len(task.queries), k, task.tile_rows, task.cap, task.exact)
    product = Product(task)
    for tile in task.tiles(part, max(FIRST_ROWS, candidates.limit(k))):
        found.take(product.of(tile.rows), task.errors[tile.longest], tile.first, tile.alive)
    found.finish()
    return found


def _within(task: Task, radius: float, n_threads: int) -> Ranked:
    """All rows at least as similar as `radius` to every query of a group."""
    work = [functools.partial(_part_within, task, part, np.float32(radius)) for part in task.parts(n_threads)]
    found = [piece for part in threads.run(work, n_threads) for piece in part]
    query, rows = (np.concatenate([np.empty(0, np.int64), *(piece[i] for piece in found)]) for i in range(2))
    return ranked(query, rows, np.concatenate([np.empty(0, np.float32), *(piece[2] for piece in found)]))


def _part_within(task: Task, part: slice, radius: np.float32) -> list[Ranked]:
    """What lies within the radius among the rows of one part, tile by tile."""
    found = []
    product = Product(task)
    for tile in task.tiles(part, task.tile_rows):
        query, column = candidates.reached(product.of(tile.rows), radius - task.errors[tile.longest], tile.alive)
        rows = tile.first + column
        values = task.exact(query, rows)
        inside = values >= radius
        found.append((query[inside], rows[inside], values[inside]))
    return found


def place_nearest(found: Ranked, k: int, similarities_QK: Similarities, numbers_QK: Integers) -> None:
    """Write the k nearest of each query where they belong; what is beyond k is left out."""
    query, rows, values = found
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    near = rank < k
    place = query[near], rank[near]
    similarities_QK[place], numbers_QK[place] = values[near], rows[near]


def ranked(query_P: Integers, rows_P: Integers, values_P: Similarities) -> Ranked:
    """Pairs in the order of answers."""
    order = np.lexsort((rows_P, -values_P, query_P))
    return query_P[order], rows_P[order], values_P[order]


def n_alive(stretch: Stretch) -> int:
    """Rows of a stretch that are not left out."""
    return len(stretch) if stretch.alive is None else int(np.count_nonzero(stretch.alive))


def groups(n: int, most: int) -> list[slice]:
    """Consecutive slices of 0..n of about the same length, at most `most`."""
    count = -(-n // most)
    edges = [n * number // count for number in range(count + 1)] if count else [0]
    return [slice(edges[number], edges[number + 1]) for number in range(count)]


def _stored(numbers_ND: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers as the kernels know them: read-only, float16 as int16."""
    seen = numbers_ND.view(np.int16) if numbers_ND.dtype == np.float16 else numbers_ND.view()
    seen.flags.writeable = False
    return seen


def _kernels(stretches: Sequence[Stretch], queries_QD: Similarities) -> Any:
    """The compiled kernels, once they are loaded or have earned their start; None where BLAS does as well."""
    global _work_so_far
    if len(queries_QD) >= FEW and stretches[0].rows.dtype == np.float32:
        return None
    if _KERNELS not in sys.modules:
        work = sum(map(len, stretches)) * queries_QD.size
        if work > TINY_WORK:
            _work_so_far += max(work, COLD_WORK // 4)
        if work <= TINY_WORK or _work_so_far <= COLD_WORK:
            return None
    return importlib.import_module(_KERNELS)
