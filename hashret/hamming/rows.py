"""The row kernel: exact Hamming search over row-major words, bound by memory for one query.

The smallest distance of a block, found by a vectorised loop, decides whether single codes are looked at: once k codes
are known hardly any block holds a nearer one.

Kernels are specialised by the number of words through the type of `width`, a tuple with one entry a word. They are
plain module-level functions, because numba finds those in its cache again and closures it does not.

Traps: index a slice from 0 (an index that numba cannot prove non-negative keeps its wrap-around test, and the loop runs
7x slower, silently); int64 and uint64 together make float64; a read-only array is another type than a writeable one.

Shape suffixes: N gallery codes, Q queries, B bytes and W words of a code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits
from hashret.hamming.compiled import kernel
from hashret.hamming.nearest import Collected, Keyed, Nearest, found_key, take
from hashret.hamming.words import Words

BLOCK_ROWS = 256
"""Rows whose minimum is taken at once."""
SUB_ROWS = 32
"""Rows whose minimum is taken before single codes are looked at."""
TILE_WORDS = 1 << 13
"""Words that a group of queries visits before moving on: 64 KiB stay in the second-level cache."""

U = np.uint64


@kernel
def popcount(v):  # type: ignore[no-untyped-def]
    """Bits set in a word. LLVM knows this pattern and emits the chip's own vector popcount where there is one."""
    v = v - ((v >> U(1)) & U(0x5555555555555555))
    v = (v & U(0x3333333333333333)) + ((v >> U(2)) & U(0x3333333333333333))
    v = (v + (v >> U(4))) & U(0x0F0F0F0F0F0F0F0F)
    return (v * U(0x0101010101010101)) >> U(56)


@kernel
def least_distance(block, query, width):  # type: ignore[no-untyped-def]
    """Smallest distance of the query to the codes of a block (flat words); the hot loop, vectorised by LLVM."""
    least = U(0xFFFF)
    for i in range(block.size // len(width)):
        distance = U(0)
        for w in range(len(width)):
            distance += popcount(block[i * len(width) + w] ^ query[w])
        least = min(least, distance)
    return least


@kernel
def distance_at(block, i, query, width):  # type: ignore[no-untyped-def]
    """Distance of the query to code i of a block."""
    distance = U(0)
    for w in range(len(width)):
        distance += popcount(block[i * len(width) + w] ^ query[w])
    return distance


@kernel
def scan(  # type: ignore[no-untyped-def]
    block_words, first_row, alive, queries, width, collect, found, cursor, k, distances, rows, histogram, state
):
    """Take the codes of block_words (flat, starting at first_row) that are nearer than a query's k-th; see nearest.py.

    alive: a flag a code, or empty when all are. collect, found, cursor: as in the table kernel; a scan stops at a tile.
    """
    n_words = len(width)
    n = block_words.size // n_words
    tile_rows = max(BLOCK_ROWS, TILE_WORDS // n_words)
    first_query = cursor[2]
    for tile in range(cursor[1], n, tile_rows):
        tile_end = min(tile + tile_rows, n)
        for j in range(first_query, queries.shape[0]):
            if len(collect) > 0 and found.shape[0] - cursor[0] < tile_rows:
                cursor[1] = tile
                cursor[2] = j
                return
            query = queries[j]
            kth = U(state[j, 1])
            for start in range(tile, tile_end, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, tile_end)
                if least_distance(block_words[start * n_words : stop * n_words], query, width) >= kth:
                    continue
                for sub in range(start, stop, SUB_ROWS):
                    sub_stop = min(sub + SUB_ROWS, stop)
                    near = block_words[sub * n_words : sub_stop * n_words]
                    if least_distance(near, query, width) >= kth:
                        continue
                    for i in range(sub_stop - sub):
                        distance = distance_at(near, i, query, width)
                        if distance >= kth or (alive.size > 0 and not alive[sub + i]):
                            continue
                        if len(collect) > 0:
                            found[cursor[0], 0] = found_key(j, np.int64(distance), n_words)
                            found[cursor[0], 1] = first_row + sub + i
                            cursor[0] += 1
                        else:
                            take(np.int64(distance), first_row + sub + i, k, j, distances, rows, histogram, state)
                            kth = U(state[j, 1])
        first_query = 0
    cursor[1] = 0
    cursor[2] = 0


class RowScan:
    """Scans rows for a group of queries."""

    def __init__(self, queries_QW: Words) -> None:
        self._queries = queries_QW
        self._width = (0,) * queries_QW.shape[1]

    def nearest(self, part: Words, first_row: int, alive: Bits, found: Nearest) -> None:
        """Take the codes of consecutive rows into the candidates of every query."""
        arguments = part.reshape(-1), first_row, alive, self._queries, self._width
        scan(*arguments, (), *Collected.nothing(), *found.arrays())

    def within(self, part: Words, first_row: int, alive: Bits, radii: npt.NDArray[np.int64]) -> Keyed:
        """The codes within each query's radius."""
        arguments = part.reshape(-1), first_row, alive, self._queries, self._width
        limits = Nearest.of_radii(radii, 64 * len(self._width)).arrays()
        collected = Collected(TILE_WORDS)
        while collected.more():
            scan(*arguments, (0,), *collected.arrays(), *limits)
        return collected.found()
