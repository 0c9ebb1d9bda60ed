"""All pairs of near codes among themselves, exact, in order and in bounded memory.

Rows are taken some at a time, against themselves and the rows after them, so that each pair is met once: by the table kernel,
or among the rows that share a substring, where few do. A batch that finds more than may be held is given up and tried again
with fewer rows, so memory does not grow with the answer.

Shape suffixes: N codes, B bytes and W words of a code, P pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes, check_codes
from hashret.hamming import threads as pool
from hashret.hamming import words
from hashret.hamming.arguments import checked_flags, checked_radius, checked_threads
from hashret.hamming.nearest import Nearest
from hashret.hamming.sliced import BLOCK
from hashret.hamming.substrings import Buckets, Pairs
from hashret.hamming.tables import GROUP, TableScan, scan
from hashret.hamming.words import Words

__all__ = ["Pairs", "Progress", "Rows", "living", "self_join"]

BATCH_ROWS = 1024
"""Rows that are queries at once: making the tables of a block is then a few percent of the work, and a batch takes 1/40 s."""
BATCHES_A_THREAD = 2
"""Batches that are given to each thread at a time, so that none waits long for the slowest."""
HELD_PAIRS = 1 << 21
"""Pairs held at a time (100 MB with what sorting takes), or as many as one row has, where those are more."""

Rows = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Is told how many pairs have been compared, and how many there are."""


def self_join(
    codes_NB: npt.ArrayLike,
    radius: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Pairs]:
    """Every pair of rows i < j whose codes are at most `radius` bits apart, exact, as an iterator of chunks.

    The chunks one after the other ascend by (i, j). Where a chunk ends depends on `threads` and on the codes; what they hold
    together does not. None is empty. Memory beyond the codes: 2 million pairs, or as many as a single row has, and at most 1 GB
    of buckets (12 bytes a code for each of radius + 1 substrings) where they save work.

    codes_NB: packed uint8 codes; an array of whole 64-bit words is not copied. code_size: bits of a code; given, tail bits are
    checked. alive: a flag (N,) a code, False leaves it out (the others are copied together; rows keep their numbers).
    threads: None takes all cores. progress: called now and then with pairs compared and pairs in all. CodeError, SearchError
    at once for what does not fit.
    """
    codes, numbers = living(codes_NB, code_size, alive)
    within = min(checked_radius(radius), 8 * codes.shape[1])
    n_threads = checked_threads(threads)
    codes_NW = words.view(codes)
    if codes_NW is None:
        codes_NW = words.padded(codes)
    near = Buckets.if_few_share(codes_NW, within, code_size or 8 * codes.shape[1]) or _Tables(codes_NW, within)
    return _chunks(near, len(codes), numbers, n_threads, progress)


def living(codes_NB: npt.ArrayLike, code_size: int | None, alive: npt.ArrayLike | None) -> tuple[Codes, Rows | None]:
    """The codes that are alive, and their rows, or None where all are; CodeError, SearchError for what does not fit."""
    codes: npt.NDArray[Any] = np.asarray(codes_NB)
    if code_size is None:
        code_size = 8 * codes.shape[-1] if codes.ndim == 2 else 0
    codes = check_codes(codes, code_size)
    flags = checked_flags(alive, len(codes))
    if flags is None or flags.all():
        return codes, None
    rows = np.flatnonzero(flags)
    return codes[rows], rows


def _chunks(
    near: Buckets | _Tables, n: int, numbers: Rows | None, n_threads: int, progress: Progress | None
) -> Iterator[Pairs]:
    """The pairs of consecutive batches. Batches shrink where pairs abound, and grow again where they do not."""
    at, rows = 0, BATCH_ROWS
    while at < n:
        count = n_threads * BATCHES_A_THREAD
        if rows == 1:
            count = max(1, min(count, HELD_PAIRS // (n - at)))
        firsts = range(at, min(n, at + count * rows), rows)
        # One row must fit: what it finds cannot be divided.
        most = max(1, HELD_PAIRS // count, n - at if rows == 1 else 0)
        tasks = [functools.partial(near.pairs, row, min(n, row + rows), most) for row in firsts]
        largest = 0
        for first, found in zip(firsts, pool.run(tasks, n_threads), strict=True):
            if found is None:
                # What the batches after it found is dropped: to keep it until its turn would take memory.
                rows //= 2
                break
            at, largest = min(n, first + rows), max(largest, len(found.first))
            if progress is not None:
                progress(at * (2 * n - at - 1) // 2, n * (n - 1) // 2)
            if len(found.first):
                yield found if numbers is None else Pairs(numbers[found.first], numbers[found.second], found.distances)
        else:
            if largest <= most // 4:
                rows = min(2 * rows, BATCH_ROWS)


class _Tables:
    """The table kernel over a batch of rows and all rows after them."""

    def __init__(self, codes_NW: Words, radius: int) -> None:
        self._codes = codes_NW
        self._radius = radius

    def pairs(self, first: int, stop: int, most: int) -> Pairs | None:
        """The near pairs whose first row is in first..stop, at most 2**16 rows; None when they are more than `most`."""
        found = _Batch(self._codes[first:stop]).at_most(most, self._codes[first:], first, self._radius)
        if found is None:
            return None
        query, distance = np.divmod(found[:, 0], 64 * self._codes.shape[1] + 1)
        later = np.flatnonzero(found[:, 1] > first + query)
        if len(later) > most:
            return None
        # A query's rows ascend, so a stable sort by query is enough; 16 bits are counted instead of compared.
        order = later[np.argsort(query[later].astype(np.uint16), kind="stable")]
        return Pairs(first + query[order], found[order, 1], distance[order].astype(np.int32))


class _Batch(TableScan):
    """The table kernel for consecutive rows, with a limit to what it may find."""

    def at_most(self, most: int, part: Words, first_row: int, radius: int) -> Rows | None:
        """(key, row) of every code of the part within the radius of a query, or None when they are more than `most`."""
        n_queries = len(self._arguments[0])
        limits = Nearest.of_radii(np.full(n_queries, radius), 64 * self._n_words).arrays()
        # The kernel stops where less is left than a block may give to a group of queries: beyond `most`.
        found = np.empty((most + min(n_queries, GROUP) * BLOCK, 2), np.int64)
        cursor = np.zeros(3, np.int64)
        scan(part.reshape(-1), first_row, _ALL, *self._arguments, (0,), found, cursor, *limits)
        return None if cursor[1:].any() else found[: cursor[0]]


_ALL: Bits = np.zeros(0, np.bool_)
"""The flags of a tile whose codes are all alive."""
_ALL.flags.writeable = False
