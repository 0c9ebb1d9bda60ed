"""The row kernel: exact Hamming search over row-major words, bound by memory for one query.

The smallest distance of a block, found for four queries at once by a loop over vectors, decides whether single codes are
looked at: once k codes are known hardly any block holds a nearer one. docs/kernels.md draws it.

Kernels are specialised by the number of words through the type of `width`, a tuple with one entry a word. They are
plain module-level functions, because numba finds those in its cache again and closures it does not.

Traps: int64 and uint64 together make float64; a read-only array is another type than a writeable one; a slice of a
two-dimensional array costs an atomic operation on its reference count.

Shape suffixes: N gallery codes, Q queries, B bytes and W words of a code.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from hashret.codes import Bits
from hashret.hamming.compiled import emitted, lean
from hashret.hamming.nearest import KTH, Collected, Keyed, Nearest, found_key, take
from hashret.hamming.vectors import I64, LANES, ONES, Builder, data_of
from hashret.hamming.words import Words

BLOCK_ROWS = 256
"""Rows whose minimum is taken at once."""
SUB_ROWS = 32
"""Rows whose minimum is taken before single codes are looked at."""
LOT = 4
"""Queries that share the loading of codes."""
WHOLE_LOT = (0,) * LOT
AHEAD_WORDS = 1 << 10
"""How far ahead codes are asked for, 8 KB: the chip alone asks for too few at once to fill its connection to memory."""
TILE_WORDS = 1 << 13
"""Words that a group of queries visits before moving on: 64 KiB stay in the second-level cache."""

U = np.uint64


@lean
def popcount(v):  # type: ignore[no-untyped-def]
    """Bits set in a word. LLVM knows this pattern and emits the chip's own vector popcount where there is one."""
    v = v - ((v >> U(1)) & U(0x5555555555555555))
    v = (v & U(0x3333333333333333)) + ((v >> U(2)) & U(0x3333333333333333))
    v = (v + (v >> U(4))) & U(0x0F0F0F0F0F0F0F0F)
    return (v * U(0x0101010101010101)) >> U(56)


@emitted
def near_rows(typing_context, block_words, first_word, n_vectors, queries, first_query, state, width, lot):  # type: ignore[no-untyped-def]
    """Which of some queries have a code nearer than their k-th among 8 * n_vectors codes: bit i for query first_query + i.

    As many queries as the tuple `lot` is long share what it costs to load codes and to part their words. The smallest distance
    so far is kept for every eighth code, as a number of 16 bits: there is no single instruction for 64.
    """
    signature = types.uint64(block_words, types.int64, types.int64, queries, types.int64, state, width, lot)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        b = Builder(context, builder)
        codes, of_queries, kth_of = (data_of(context, builder, signature, args, i) for i in (0, 3, 5))
        n_words, n_queries = len(signature.args[6]), len(signature.args[7])
        all_queries = builder.extract_value(context.make_array(signature.args[3])(context, builder, args[3]).shape, 0)
        at = [builder.add(args[4], b.word(i)) for i in range(n_queries)]
        query = [
            [
                b.broadcast(
                    builder.load(builder.gep(of_queries, [builder.add(builder.mul(j, b.word(n_words)), b.word(w))]))
                )
                for w in range(n_words)
            ]
            for j in at
        ]
        least = [b.variable(ONES) for _ in at]
        with b.counted(args[2]) as loop:
            here = builder.add(args[1], builder.mul(loop.index, b.word(LANES * n_words)))
            for w in range(n_words):
                b.prefetch(codes, builder.add(here, b.word(AHEAD_WORDS + w * LANES)))
            code = b.load_parted(codes, here, n_words)
            for i in range(n_queries):
                distance = functools.reduce(
                    builder.add, [b.popcount(builder.xor(code[w], query[i][w])) for w in range(n_words)]
                )
                builder.store(b.least16(builder.load(least[i]), distance), least[i])
        near = b.word(0)
        for i, j in enumerate(at):
            kth = builder.load(builder.gep(kth_of, [builder.add(builder.mul(all_queries, b.word(KTH)), j)]))
            lanes = builder.icmp_unsigned("<", builder.load(least[i]), b.broadcast(kth))
            some = builder.icmp_unsigned(
                "!=", builder.bitcast(lanes, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0)
            )
            near = builder.or_(near, builder.shl(builder.zext(some, I64), b.word(i)))
        return near

    return signature, codegen


@lean
def distance_between(block, i, queries, j, width):  # type: ignore[no-untyped-def]
    """Distance of query j to code i of a block."""
    distance = U(0)
    for w in range(len(width)):
        distance += popcount(block[i * len(width) + w] ^ queries[j, w])
    return distance


@lean
def scan(  # type: ignore[no-untyped-def]
    block_words, first_row, alive, queries, width, collect, found, cursor, k, distances, rows, histogram, state
):
    """Take the codes of block_words (flat, starting at first_row) that are nearer than a query's k-th; see nearest.py.

    alive: a flag a code, or empty when all are. collect, found, cursor: as in the table kernel; a scan stops at a tile.
    """
    n_words = len(width)
    n = block_words.size // n_words
    n_queries = queries.shape[0]
    tile_rows = max(BLOCK_ROWS, TILE_WORDS // n_words // BLOCK_ROWS * BLOCK_ROWS)
    first_query = cursor[2]
    for tile in range(cursor[1], n, tile_rows):
        tile_end = min(tile + tile_rows, n)
        j = first_query
        while j < n_queries:
            left = n_queries - j
            lot = LOT if left >= LOT else min(left, 2)
            if len(collect) > 0 and found.shape[0] - cursor[0] < lot * tile_rows:
                cursor[1] = tile
                cursor[2] = j
                return
            for start in range(tile, tile_end, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, tile_end)
                vectors = (stop - start) // 8
                if lot == LOT:
                    near = near_rows(block_words, start * n_words, vectors, queries, j, state, width, WHOLE_LOT)
                elif lot == 2:
                    near = near_rows(block_words, start * n_words, vectors, queries, j, state, width, (0, 0))
                else:
                    near = near_rows(block_words, start * n_words, vectors, queries, j, state, width, (0,))
                if (stop - start) % 8 != 0:
                    near = ~U(0)  # codes that fill no vector are looked at
                if near == U(0):
                    continue
                for i in range(lot):
                    if near >> U(i) & U(1) == U(0):
                        continue
                    look(
                        block_words, start, stop, first_row, alive, queries, j + i, width,
                        collect, found, cursor, k, distances, rows, histogram, state,
                    )  # fmt: skip
            j += lot
        first_query = 0
    cursor[1] = 0
    cursor[2] = 0


@lean
def look(  # type: ignore[no-untyped-def]
    block_words,
    start,
    stop,
    first_row,
    alive,
    queries,
    j,
    width,
    collect,
    found,
    cursor,
    k,
    distances,
    rows,
    histogram,
    state,
):
    """Take the codes start..stop that are nearer to query j than its k-th."""
    n_words = len(width)
    for sub in range(start, stop, SUB_ROWS):
        sub_stop = min(sub + SUB_ROWS, stop)
        if sub_stop - sub == SUB_ROWS and not near_rows(
            block_words, sub * n_words, SUB_ROWS // 8, queries, j, state, width, (0,)
        ):
            continue
        for row in range(sub, sub_stop):
            distance = np.int64(distance_between(block_words, row, queries, j, width))
            if distance >= state[KTH, j] or (alive.size > 0 and not alive[row]):
                continue
            if len(collect) > 0:
                found[cursor[0], 0] = found_key(j, distance, n_words)
                found[cursor[0], 1] = first_row + row
                cursor[0] += 1
            else:
                take(distance, first_row + row, k, j, distances, rows, histogram, state)


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
        collected = Collected(LOT * max(TILE_WORDS, BLOCK_ROWS))
        while collected.more():
            scan(*arguments, (0,), *collected.arrays(), *limits)
        return collected.found()
