"""The table kernel: exact Hamming search for batches, bound by arithmetic. See sliced.py for how a block is summed.

For each block of 512 rows: transpose it, make its tables, then for every query sum what it chooses, compare with its k-th
distance so far, and look at the few codes that pass, by row. Only the last step is exact; the others never lose a code.

Shape suffixes: N gallery codes, Q queries, W words of a code.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits
from hashret.hamming.compiled import kernel
from hashret.hamming.nearest import Collected, Keyed, Nearest, found_key, take
from hashret.hamming.rows import distance_at, popcount
from hashret.hamming.sliced import (
    BLOCK,
    MIDDLE,
    TABLE_WORDS,
    build_tables,
    counter_depth,
    near_of_part,
    near_of_word,
    sum_part,
    sum_size,
    transpose,
)
from hashret.hamming.words import Words

SUM_QUERIES = 64
"""Queries whose counters wait between two parts of longer codes."""

U = np.uint64
SIZE_47, SIZE_55, SIZE_63 = sum_size(47), sum_size(55), sum_size(63)


@kernel
def alive_bits(alive, mask):  # type: ignore[no-untyped-def]
    """The flags of a block's rows as its lanes: bit j of word i is row 8j + i."""
    mask[:] = U(0)
    for row in range(alive.size):
        mask[row & 7] |= U(alive[row]) << U(row >> 3)


@kernel
def scan(  # type: ignore[no-untyped-def]
    block_words, first_row, alive, queries, width, depth, reach, limits, planes, middle, tables, sums, collect, found, cursor,
    k, distances, rows, histogram, state,
):  # fmt: skip
    """Take the codes of block_words (flat, starting at first_row) that are nearer than a query's k-th; see nearest.py.

    With `collect` (a tuple of length 1) nothing is ranked: state[:, 1] is fixed, and all nearer codes are appended to `found`
    as (key, row); see Collected, which also owns the cursor: a scan stops at a block and a group of queries.
    """
    n_words = len(width)
    n_rows = block_words.size // n_words
    n_queries = queries.shape[0]
    last = n_words - 1
    most = 1 << depth
    gathered = np.zeros(BLOCK, U)
    hits = np.zeros(8, U)
    living = np.full(8, ~U(0), U)
    first_group = cursor[2]
    for start in range(cursor[1], n_rows, BLOCK):
        stop = min(start + BLOCK, n_rows)
        block = block_words[start * n_words : stop * n_words]
        if alive.size > 0:
            alive_bits(alive[start:stop], living)
        elif stop - start < BLOCK:
            alive_bits(ALL_ROWS[: stop - start], living)
        for w in range(n_words):
            transpose(block, width, w, gathered, planes, w * 64 * 8)
        farthest = 0
        for j in range(n_queries):
            farthest = max(farthest, state[j, 1])
        for w in range(n_words - 1):
            build_tables(planes, w * 64 * 8, tables, middle + w * TABLE_WORDS, SIZE_63)
        if farthest <= reach[0]:
            build_tables(planes, last * 64 * 8, tables, middle + last * TABLE_WORDS, SIZE_47)
        elif farthest <= reach[1]:
            build_tables(planes, last * 64 * 8, tables, middle + last * TABLE_WORDS, SIZE_55)
        else:
            build_tables(planes, last * 64 * 8, tables, middle + last * TABLE_WORDS, SIZE_63)
        for group in range(first_group, n_queries, SUM_QUERIES):
            group_end = min(group + SUM_QUERIES, n_queries)
            if len(collect) > 0 and found.shape[0] - cursor[0] < (group_end - group) * BLOCK:
                cursor[1] = start
                cursor[2] = group
                return
            if n_words > 1:
                for j in range(group, group_end):
                    kept = (j - group) * (depth + 1) * 8
                    sum_part(tables, middle, queries[j, 0], sums, kept, width, (0,))
                for w in range(1, last):
                    for j in range(group, group_end):
                        kept = (j - group) * (depth + 1) * 8
                        sum_part(tables, middle + w * TABLE_WORDS, queries[j, w], sums, kept, width, ())
            for j in range(group, group_end):
                kth = state[j, 1]
                if kth == 0:
                    continue
                limit = min(kth, most) * depth
                if n_words > 1:
                    table = middle + last * TABLE_WORDS
                    kept = (j - group) * (depth + 1) * 8
                    if kth <= reach[0]:
                        lanes = near_of_part(
                            tables, table, queries[j, last], sums, kept, limits, limit, living, hits, width, SIZE_47
                        )
                    elif kth <= reach[1]:
                        lanes = near_of_part(
                            tables, table, queries[j, last], sums, kept, limits, limit, living, hits, width, SIZE_55
                        )
                    else:
                        lanes = near_of_part(
                            tables, table, queries[j, last], sums, kept, limits, limit, living, hits, width, SIZE_63
                        )
                elif kth <= reach[0]:
                    lanes = near_of_word(tables, middle, queries[j, 0], limits, limit, living, hits, SIZE_47)
                elif kth <= reach[1]:
                    lanes = near_of_word(tables, middle, queries[j, 0], limits, limit, living, hits, SIZE_55)
                else:
                    lanes = near_of_word(tables, middle, queries[j, 0], limits, limit, living, hits, SIZE_63)
                if kth > most:
                    # Farther than the counters reach: every code is looked at.
                    lanes = U(255)
                    hits[:] = living
                elif lanes == U(0):
                    continue
                seen = U(0)
                for i in range(8):
                    if lanes >> U(i) & U(1):
                        seen |= hits[i]
                while seen != U(0):
                    low = seen & (U(0) - seen)
                    seen ^= low
                    first = np.int64(popcount(low - U(1))) * 8
                    left = lanes
                    while left != U(0):
                        lane = np.int64(popcount((left & (U(0) - left)) - U(1)))
                        left &= left - U(1)
                        if hits[lane] & low:
                            distance = distance_at(block, first + lane, queries[j], width)
                            if distance < U(state[j, 1]):
                                row = first_row + start + first + lane
                                if len(collect) > 0:
                                    found[cursor[0], 0] = found_key(j, np.int64(distance), n_words)
                                    found[cursor[0], 1] = row
                                    cursor[0] += 1
                                else:
                                    take(np.int64(distance), row, k, j, distances, rows, histogram, state)
        first_group = 0
    cursor[1] = 0
    cursor[2] = 0


ALL_ROWS = np.ones(BLOCK, np.bool_)

PASSING = 2e-4
"""Share of random codes that a shorter sum may let pass: one in ten blocks holds one."""


@functools.cache
def reach(n_words: int) -> npt.NDArray[np.int64]:
    """The largest k-th distances for which sums of 47 and 55 of the last word's planes still keep enough codes out."""
    largest = []
    for size in (47, 55):
        n_planes = 63 * (n_words - 1) + size
        below, distance = 1, 0  # codes of n_planes bits nearer than distance + 1
        while below <= PASSING * 2**n_planes:
            distance += 1
            below += math.comb(n_planes, distance)
        largest.append(distance)
    return np.array(largest)


@functools.cache
def limit_planes(n_words: int) -> npt.NDArray[np.uint64]:
    """For every k-th distance up to what counters reach, the planes of the largest distance below it (flat)."""
    depth = counter_depth(n_words)
    limits = np.maximum(np.arange((1 << depth) + 1) - 1, 0)
    planes: npt.NDArray[np.uint64] = np.uint64(0) - (limits[:, None] >> np.arange(depth) & 1).astype(np.uint64)
    return planes.reshape(-1)


def aligned(n_words: int) -> npt.NDArray[np.uint64]:
    """Words that begin at a cache line: a vector across two lines takes twice as long to load."""
    memory = np.empty(n_words + 7, np.uint64)
    skipped = -memory.ctypes.data // 8 % 8
    return memory[skipped : skipped + n_words]


class TableScan:
    """Scans rows for a group of queries: holds memory for planes, tables and counters."""

    def __init__(self, queries_QW: Words) -> None:
        n_words = queries_QW.shape[1]
        self._n_words = n_words
        self._arguments = (
            queries_QW,
            (0,) * n_words,
            counter_depth(n_words),
            reach(n_words),
            limit_planes(n_words),
            aligned(n_words * 64 * 8),
            MIDDLE,
            aligned(n_words * TABLE_WORDS),
            aligned(SUM_QUERIES * (counter_depth(n_words) + 1) * 8),
        )

    def nearest(self, part: Words, first_row: int, alive: Bits, found: Nearest) -> None:
        """Take the codes of consecutive rows into the candidates of every query."""
        scan(part.reshape(-1), first_row, alive, *self._arguments, (), *Collected.nothing(), *found.arrays())

    def within(self, part: Words, first_row: int, alive: Bits, radii: npt.NDArray[np.int64]) -> Keyed:
        """The codes within each query's radius."""
        limits = Nearest.of_radii(radii, 64 * self._n_words).arrays()
        collected = Collected(SUM_QUERIES * BLOCK)
        while collected.more():
            scan(part.reshape(-1), first_row, alive, *self._arguments, (0,), *collected.arrays(), *limits)
        return collected.found()
