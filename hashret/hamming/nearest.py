"""The k nearest so far of every query, kept by kernels that meet codes in row order.

Candidates are kept in row order together with a histogram of their distances, so the k-th distance is known after every
code at constant cost, whatever k is.

    distances, rows (Q, capacity > k)    candidates, in row order
    histogram (Q, bits + 2)              candidates at each distance
    state (3, Q)                         HELD: candidates; KTH: the k-th distance (bits + 1 until k are known); NEARER: candidates
                                         nearer than that
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.hamming.compiled import lean
from hashret.hamming.merge import Found

HELD, KTH, NEARER = 0, 1, 2


@lean
def take(distance, row, k, j, distances, rows, histogram, state):  # type: ignore[no-untyped-def]
    """Take the next candidate of query j, nearer than its k-th.

    The arrays come whole: a slice of one query would cost two atomic operations on its reference count.
    """
    if state[HELD, j] == distances.shape[1]:
        _drop_far(k, j, distances, rows, state)
    held = state[HELD, j]
    distances[j, held] = distance
    rows[j, held] = row
    state[HELD, j] = held + 1
    histogram[j, distance] += 1
    state[NEARER, j] += 1
    # The k-th distance is the smallest with at least k candidates at or below it.
    while state[NEARER, j] >= k:
        state[KTH, j] -= 1
        state[NEARER, j] -= histogram[j, state[KTH, j]]


@lean
def _drop_far(k, j, distances, rows, state):  # type: ignore[no-untyped-def]
    """Drop query j's candidates that can no longer be among the k nearest; those left stay in row order."""
    kth = state[KTH, j]
    at_kth = k - state[NEARER, j]
    kept = 0
    for i in range(state[HELD, j]):
        if distances[j, i] == kth:
            if at_kth <= 0:
                continue
            at_kth -= 1
        elif distances[j, i] > kth:
            continue
        distances[j, kept] = distances[j, i]
        rows[j, kept] = rows[j, i]
        kept += 1
    state[HELD, j] = kept


@lean
def _order(k, distances, rows, histogram, state, out_distances, out_rows):  # type: ignore[no-untyped-def]
    """Write each query's nearest, ascending by (distance, row), by counting; out arrays come filled with -1."""
    for j in range(distances.shape[0]):
        _drop_far(k, j, distances, rows, state)
        total = 0
        for d in range(histogram.shape[1]):
            count = histogram[j, d]
            histogram[j, d] = total
            total += count
        for i in range(state[HELD, j]):
            d = distances[j, i]
            position = histogram[j, d]
            histogram[j, d] = position + 1
            out_distances[j, position] = d
            out_rows[j, position] = rows[j, i]


@dataclass(frozen=True)
class Nearest:
    """The arrays above, for a group of queries."""

    k: int
    distances: npt.NDArray[np.uint16]
    rows: npt.NDArray[np.int64]
    histogram: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]

    @classmethod
    def none_yet(cls, n_queries: int, k: int, n_bits: int) -> Nearest:
        """Room for the k nearest of each query."""
        capacity = k + max(k, 64)
        state = np.zeros((3, n_queries), np.int64)
        state[KTH] = n_bits + 1
        return cls(
            k,
            np.empty((n_queries, capacity), np.uint16),
            np.empty((n_queries, capacity), np.int64),
            np.zeros((n_queries, n_bits + 2), np.int64),
            state,
        )

    @classmethod
    def of_radii(cls, radii: npt.NDArray[np.int64], n_bits: int) -> Nearest:
        """No candidates, but a limit for each query: all within the radius is nearer than its "k-th"."""
        limits = cls.none_yet(len(radii), 1, n_bits)
        limits.state[KTH] = radii + 1
        return limits

    def arrays(self) -> tuple[Any, ...]:
        """What kernels take: k, distances, rows, histogram, state."""
        return self.k, self.distances, self.rows, self.histogram, self.state

    def ordered(self) -> Found:
        """Distances (Q, k) int32 and rows (Q, k) int64, ascending by (distance, row), padded with -1. Only once."""
        shape = len(self.distances), self.k
        found = np.full(shape, -1, np.int32), np.full(shape, -1, np.int64)
        _order(*self.arrays(), *found)
        return found


Keyed = npt.NDArray[np.int64]
"""Rows (key, row), where the key is query * (bits + 1) + distance; equal keys stand in the order of their rows."""


@lean
def found_key(query, distance, n_words):  # type: ignore[no-untyped-def]
    """The key of a code at a distance from a query."""
    return query * (64 * n_words + 1) + distance


class Collected:
    """All codes within a limit, appended by a kernel that stops where the memory is full and is called again.

    cursor: rows in use, then where to go on (two numbers, both 0 at the end).
    """

    def __init__(self, room: int) -> None:
        """room: rows that a kernel may ask for before it goes on."""
        self._found = np.empty((2 * room, 2), np.int64)
        self._cursor = np.zeros(3, np.int64)
        self._begun = False

    @staticmethod
    def nothing() -> tuple[Any, ...]:
        """Arguments for kernels that collect nothing."""
        return np.empty((0, 2), np.int64), np.zeros(3, np.int64)

    def more(self) -> bool:
        """Whether to call the kernel (again); makes room."""
        if not self._begun:
            self._begun = True
            return True
        if not self._cursor[1:].any():
            return False
        self._found = np.concatenate([self._found, np.empty_like(self._found)])
        return True

    def arrays(self) -> tuple[Any, ...]:
        """What kernels take: found, cursor."""
        return self._found, self._cursor

    def found(self) -> Keyed:
        """What was collected."""
        return self._found[: self._cursor[0]]
