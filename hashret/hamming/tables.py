"""The table kernel: exact Hamming search for batches, bound by arithmetic. See sliced.py for how a block is summed.

For each block of 512 rows: turn it over, make its tables, then for every query sum what it chooses and compare with its
k-th distance so far; then look at the few codes that passed, by row. Only the last step is exact; the others never lose a
code. Queries stand in the order of their classes, so that what is summed is decided once for a group of them.

Shape suffixes: N gallery codes, Q queries, W words of a code.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits
from hashret.hamming.compiled import inlined, lean
from hashret.hamming.nearest import KTH, Collected, Keyed, Nearest, found_key, take
from hashret.hamming.rows import distance_between, popcount
from hashret.hamming.sliced import (
    BLOCK,
    MIDDLE,
    NEAR_DEPTH,
    TABLE_WORDS,
    build_tables,
    counter_depth,
    near_queries,
    prefetch,
    sum_queries,
    sum_size,
    transpose,
)
from hashret.hamming.words import Words

GROUP = 64
"""Queries that are summed before the codes that passed are looked at; the counters of longer codes wait in between."""

U = np.uint64
SIZE_47, SIZE_55, SIZE_63 = sum_size(47), sum_size(55), sum_size(63)


@lean
def alive_bits(alive, mask):  # type: ignore[no-untyped-def]
    """The flags of a block's rows as its lanes: bit j of word i is row 8j + i."""
    mask[:] = U(0)
    for row in range(alive.size):
        mask[row & 7] |= U(alive[row]) << U(row >> 3)


@lean
def scan(  # type: ignore[no-untyped-def]
    block_words, first_row, alive, queries, width, depth, reach, limits, planes, middle, tables, sums, order, near, hits,
    gathered, living, ends, collect, found, cursor, k, distances, rows, histogram, state,
):  # fmt: skip
    """Take the codes of block_words (flat, starting at first_row) that are nearer than a query's k-th; see nearest.py.

    With `collect` (a tuple of length 1) nothing is ranked: state[KTH] is fixed, and all nearer codes are appended to `found`
    as (key, row); see Collected, which also owns the cursor: a scan stops at a block and a group of queries.
    """
    n_words = len(width)
    n_rows = block_words.size // n_words
    living[:] = ~U(0)
    sort_by_class(state, reach, depth, order, ends)
    moved = 0
    begun = cursor[2]
    for start in range(cursor[1], n_rows, BLOCK):
        stop = min(start + BLOCK, n_rows)
        block = block_words[start * n_words : stop * n_words]
        if alive.size > 0:
            alive_bits(alive[start:stop], living)
        elif stop - start < BLOCK:
            alive_bits(ALL_ROWS[: stop - start], living)
        for line in range(0, BLOCK * n_words, 8):
            prefetch(block_words, (start + BLOCK) * n_words + line)
        turn_over(block, width, gathered, planes, tables, middle, ends)
        for group_class in range(SHORT, FAR + 1):
            for group in range(max(begun, ends[group_class - 1]), ends[group_class], GROUP):
                group_end = min(group + GROUP, ends[group_class])
                if len(collect) > 0 and found.shape[0] - cursor[0] < (group_end - group) * BLOCK:
                    cursor[1] = start
                    cursor[2] = group
                    return
                n_near = near_of_group(
                    group_class,
                    order,
                    group,
                    group_end,
                    queries,
                    width,
                    tables,
                    middle,
                    sums,
                    state,
                    limits,
                    living,
                    near,
                    hits,
                )
                moved += look(
                    n_near, near, hits, block, first_row + start, queries, width, depth, reach,
                    collect, found, cursor, k, distances, rows, histogram, state,
                )  # fmt: skip
        begun = 0
        # A query in the class of a larger distance costs a little, sorting all of them more; one out of reach costs most.
        if moved > order.size // 64 or (moved > 0 and ends[FAR] > ends[LONG]):
            sort_by_class(state, reach, depth, order, ends)
            moved = 0
    cursor[1] = 0
    cursor[2] = 0


@inlined
def turn_over(block, width, gathered, planes, tables, middle, ends):  # type: ignore[no-untyped-def]
    """Make the tables of a block: of the last word's planes as many as some query sums."""
    last = len(width) - 1
    for w in range(len(width)):
        transpose(block, width, w, gathered, planes, w * 64 * 8)
    for w in range(last):
        build_tables(planes, w * 64 * 8, tables, middle + w * TABLE_WORDS, SIZE_63)
    if ends[LONG] > ends[MEDIUM]:
        build_tables(planes, last * 64 * 8, tables, middle + last * TABLE_WORDS, SIZE_63)
    elif ends[MEDIUM] > ends[SHORT]:
        build_tables(planes, last * 64 * 8, tables, middle + last * TABLE_WORDS, SIZE_55)
    else:
        build_tables(planes, last * 64 * 8, tables, middle + last * TABLE_WORDS, SIZE_47)


@inlined
def near_of_group(  # type: ignore[no-untyped-def]
    group_class, order, begin, end, queries, width, tables, middle, sums, state, limits, living, near, hits
):
    """How many queries of a group, which is of one class, may have near codes in the block; see near_queries."""
    if group_class == FAR:
        for place in range(begin, end):
            near[place - begin] = order[place]
            for lane in range(8):
                hits[(place - begin) * 8 + lane] = living[lane]
        return end - begin
    n_words = len(width)
    # Two words at a time: what lies between two parts waits outside the first-level cache.
    if n_words % 2 == 1 and n_words > 1:
        sum_queries(tables, middle, queries, 0, order, begin, end, sums, width, (0,), (0,))
    elif n_words > 2:
        sum_queries(tables, middle, queries, 0, order, begin, end, sums, width, (0, 0), (0,))
    for w in range(2 - n_words % 2, n_words - 2, 2):
        sum_queries(tables, middle + w * TABLE_WORDS, queries, w, order, begin, end, sums, width, (0, 0), ())
    table = middle + (n_words - 1) * TABLE_WORDS
    arguments = tables, table, queries, order, begin, end, sums, state, limits, living, near, hits, width
    if group_class == SHORT:
        return near_queries(*arguments, SIZE_47)
    if group_class == MEDIUM:
        return near_queries(*arguments, SIZE_55)
    return near_queries(*arguments, SIZE_63)


@inlined
def look(  # type: ignore[no-untyped-def]
    n_near, near, hits, block, first_row, queries, width, depth, reach,
    collect, found, cursor, k, distances, rows, histogram, state,
):  # fmt: skip
    """Take the codes that passed, by their exact distance; how many queries moved to another class."""
    moved = 0
    for i in range(n_near):
        j = near[i]
        before = class_of(state[KTH, j], reach, depth)
        seen = U(0)
        for lane in range(8):
            seen |= hits[i * 8 + lane]
        while seen != U(0):
            bit = popcount((seen & (U(0) - seen)) - U(1))
            seen &= seen - U(1)
            # Lanes of one bit at once, without a branch for each: hardly ever is there more than one.
            lanes = U(0)
            for lane in range(8):
                lanes |= (hits[i * 8 + lane] >> bit & U(1)) << U(lane)
            while lanes != U(0):
                row = np.int64(bit) * 8 + np.int64(popcount((lanes & (U(0) - lanes)) - U(1)))
                lanes &= lanes - U(1)
                distance = np.int64(distance_between(block, row, queries, j, width))
                if distance >= state[KTH, j]:
                    continue
                if len(collect) > 0:
                    found[cursor[0], 0] = found_key(j, distance, len(width))
                    found[cursor[0], 1] = first_row + row
                    cursor[0] += 1
                else:
                    take(distance, first_row + row, k, j, distances, rows, histogram, state)
        moved += class_of(state[KTH, j], reach, depth) != before
    return moved


DONE, SHORT, MEDIUM, LONG, FAR = range(5)
"""Classes of queries by their k-th distance: nothing can be nearer; summed over 47, 55 or 63 of the last word's planes; out of
the counters' reach, so that every code is looked at."""


@lean
def class_of(kth, reach, depth):  # type: ignore[no-untyped-def]
    """The class of a query whose k-th distance is kth."""
    if kth == 0:
        return DONE
    if kth <= reach[0]:
        return SHORT
    if kth <= reach[1]:
        return MEDIUM
    return LONG if kth <= 1 << depth else FAR


@lean
def sort_by_class(state, reach, depth, order, ends):  # type: ignore[no-untyped-def]
    """Put the queries in order of their classes: those of class c are order[ends[c - 1]:ends[c]]."""
    ends[:] = 0
    for j in range(order.size):
        ends[class_of(state[KTH, j], reach, depth)] += 1
    total = 0
    for c in range(FAR + 1):
        total += ends[c]
        ends[c] = total - ends[c]
    for j in range(order.size):
        c = class_of(state[KTH, j], reach, depth)
        order[ends[c]] = j
        ends[c] += 1


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
        # The shorter sums over one word count below 2**NEAR_DEPTH only.
        largest.append(distance if n_words > 1 else min(distance, 2**NEAR_DEPTH - 1))
    return np.array(largest)


@functools.cache
def limit_planes(n_words: int) -> npt.NDArray[np.uint64]:
    """For every k-th distance that counters reach, what a comparison begins with, then the limit's planes (flat).

    The comparison is "below"; beginning with ones makes it "at most", for the one distance that has no planes.
    """
    depth = counter_depth(n_words)
    kth = np.arange((1 << depth) + 1)
    limits = np.minimum(kth, (1 << depth) - 1)
    bits = np.column_stack([kth != limits, limits[:, None] >> np.arange(depth) & 1])
    planes: npt.NDArray[np.uint64] = np.uint64(0) - bits.astype(np.uint64)
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
            aligned(GROUP * (counter_depth(n_words) + 1) * 8),
            np.empty(len(queries_QW), np.int64),
            np.empty(GROUP + 1, np.int64),
            aligned((GROUP + 1) * 8),
            np.zeros(BLOCK, np.uint64),
            np.empty(8, np.uint64),
            np.empty(FAR + 1, np.int64),
        )

    def nearest(self, part: Words, first_row: int, alive: Bits, found: Nearest) -> None:
        """Take the codes of consecutive rows into the candidates of every query."""
        scan(part.reshape(-1), first_row, alive, *self._arguments, (), *Collected.nothing(), *found.arrays())

    def within(self, part: Words, first_row: int, alive: Bits, radii: npt.NDArray[np.int64]) -> Keyed:
        """The codes within each query's radius."""
        limits = Nearest.of_radii(radii, 64 * self._n_words).arrays()
        collected = Collected(GROUP * BLOCK)
        while collected.more():
            scan(part.reshape(-1), first_row, alive, *self._arguments, (0,), *collected.arrays(), *limits)
        return collected.found()
