"""Rows that may be among the k nearest, known by bounds on their similarity until exact values are worth their price.

A row is dropped when k others surely are nearer: their lower bounds are above its upper bound. Rows that might tie stay, so
whatever the bounds were, the exact values of the rest give the same answer.

Shape suffixes: Q queries, N rows of a tile, C candidates of a query, P pairs of a query and a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits
from hashret.index.features import Similarities

Integers = npt.NDArray[np.int64]
Exact = Callable[[Integers, Integers], Similarities]
"""Similarities (P,) by definition of pairs, given as queries (P,) and rows (P,)."""

SPARE = 32
"""Candidates are pruned when there are twice k of them, and not before there are twice this many."""
_PRUNED_AT_ONCE = 1 << 20
"""Candidates compared at a time: 4 MiB of bounds."""


def limit(k: int) -> int:
    """Most candidates a query keeps between tiles."""
    return 2 * max(k, SPARE)


def bytes_per_query(k: int) -> int:
    """Memory for the candidates a query keeps between tiles."""
    return 16 * limit(k)


class Candidates:
    """The candidates of a group of queries while tiles pass; rows must come in ascending order."""

    def __init__(self, n_queries: int, k: int, tile_rows: int, cap: float, exact: Exact) -> None:
        """Room for tiles of so many rows. cap: similarities are cut off there."""
        shape = n_queries, limit(k) + tile_rows
        self._k, self._cap, self._exact = k, np.float32(cap), exact
        self._lower, self._upper = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._rows = np.empty(shape, np.int64)
        self._counts = np.zeros(n_queries, np.int64)
        self.thresholds = np.full(n_queries, -np.inf, np.float32)
        """k rows surely are at least so similar to each query."""

    def take(self, near_QN: Similarities, errors_Q: Similarities, first: int, alive: Bits | None) -> None:
        """Take in the rows from `first` on, whose similarities are within errors of `near`."""
        query, column = reached(near_QN, self.thresholds - errors_Q, alive)
        if not len(query):
            return
        near, off = near_QN[query, column], errors_Q[query]
        counts = np.bincount(query, minlength=len(self._counts))
        # Pairs come query by query: the place of each is behind what its query has, in the order of rows.
        place = np.arange(len(query)) + (self._counts - np.cumsum(counts) + counts)[query]
        self._lower[query, place] = np.minimum(near - off, self._cap)
        self._upper[query, place] = near + off
        self._rows[query, place] = first + column
        self._counts += counts
        self._prune(np.flatnonzero(self._counts > limit(self._k)))
        self._settle(np.flatnonzero(self._counts > limit(self._k)))

    def pairs(self, thresholds_Q: Similarities) -> tuple[Integers, Integers]:
        """Queries (P,) and rows (P,) that may reach thresholds at least as high as this one's own."""
        queries, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for some in self._batches(np.arange(len(self._counts))):
            kept = self._kept(some, thresholds_Q)
            row, column = _places(kept)
            queries.append(some[row])
            rows.append(self._rows[some[row], column])
        return np.concatenate(queries), np.concatenate(rows)

    def finish(self) -> None:
        """Raise the thresholds as far as what is known allows."""
        self._prune(np.flatnonzero(self._counts > self._k))

    def _prune(self, queries: Integers) -> None:
        """Drop what cannot be among the k nearest of these queries, which have more than k candidates."""
        for some in self._batches(queries):
            count = int(self._counts[some].max())
            lower = np.where(self._filled(some, count), self._lower[some, :count], -np.inf)
            kth = np.partition(lower, count - self._k, axis=1)[:, count - self._k]
            self.thresholds[some] = np.maximum(self.thresholds[some], kth)
            kept = self._kept(some, self.thresholds)
            counts = np.count_nonzero(kept, axis=1)
            row, column = _places(kept)
            place = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
            for array in (self._lower, self._upper, self._rows):
                array[some[row], place] = array[some[row], column]
            self._counts[some] = counts

    def _settle(self, queries: Integers) -> None:
        """Keep the k nearest by exact values where bounds leave too many undecided, among equal vectors for instance."""
        for query in queries.tolist():
            count = self._counts[query]
            rows = self._rows[query, :count]
            values = self._exact(np.full(count, query), rows)
            kth = np.partition(values, count - self._k)[count - self._k]
            # Rows ascend, so the first of those that equal the k-th are the earlier ones.
            kept = values > kth
            kept[np.flatnonzero(values == kth)[: self._k - np.count_nonzero(kept)]] = True
            self._rows[query, : self._k] = rows[kept]
            self._lower[query, : self._k] = self._upper[query, : self._k] = values[kept]
            self._counts[query] = self._k
            self.thresholds[query] = max(self.thresholds[query], kth)

    def _kept(self, some: Integers, thresholds_Q: Similarities) -> Bits:
        """Flags (some queries, candidates) of what may reach the thresholds."""
        count = int(self._counts[some].max(initial=0))
        reaching: Bits = self._upper[some, :count] >= thresholds_Q[some, None]
        return reaching & self._filled(some, count)

    def _filled(self, some: Integers, count: int) -> Bits:
        """Flags (some queries, count) of the places in use."""
        return np.arange(count) < self._counts[some, None]

    def _batches(self, queries: Integers) -> Iterator[Integers]:
        """The queries in batches whose candidates are compared at once."""
        start = 0
        while start < len(queries):
            widest = np.maximum.accumulate(self._counts[queries[start:]])
            fitting = np.searchsorted(widest * np.arange(1, len(widest) + 1), _PRUNED_AT_ONCE, side="right")
            stop = start + max(1, int(fitting))
            yield queries[start:stop]
            start = stop


def reached(near_QN: Similarities, least_Q: Similarities, alive: Bits | None) -> tuple[Integers, Integers]:
    """Queries (P,) and columns (P,), ascending, of the living rows that are at least so near."""
    # In most tiles few queries find anything: one pass for the greatest, a second over what passes.
    queries = np.flatnonzero(near_QN.max(axis=1) >= least_Q)
    hits = near_QN[queries] >= least_Q[queries, None]
    if alive is not None:
        hits &= alive
    query, column = _places(hits)
    return queries[query], column


def _places(flags: Bits) -> tuple[Integers, Integers]:
    """np.nonzero of two dimensions, several times as fast where few flags are set."""
    row, column = np.divmod(np.flatnonzero(flags), max(1, flags.shape[1]))
    return row, column
