"""The bit-sliced kernel's parts: transpose a block, build its tables, and tell which of 512 codes may be near a query.

A block is 512 codes. Turned over, it is one plane of 512 bits for every bit of the code: plane p holds bit p of all the codes.
The distance of 512 codes to a query is then a sum of planes, done by full adders on whole vectors.

Tables. Three planes at a time, a query asks for one of only 8 patterns. For each the sum of the three XORed planes (two planes:
ones and twos) is made once a block and serves every query of the batch: no XOR is left, and a third of the adders are done.

Bounds. What is needed is not the distance but whether it may be below the k-th best so far. So the adders stop at a depth
and keep "that much or more" in one plane, and of the last 64 bits only 47 are summed (the adders of 15 threes and 2 single planes
come out even, without a half adder). A code that passes is looked at again, exactly, by its row.

Codes longer than 128 bits are summed 128 bits at a time, so that the tables of a part stay in the first-level cache; counters
wait in between, a few vectors a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import types

from hashret.hamming.compiled import emitted, lean
from hashret.hamming.nearest import KTH
from hashret.hamming.vectors import BELOW, I64, LANES, LEFT, MAJORITY, SUM, ZERO, Adder, Builder, data_of

U = np.uint64

BLOCK = 512
"""Rows in a block."""
PLANES = 64
"""Planes of one word."""

SUMS = {47: (15, [45, 46]), 55: (18, [54]), 63: (20, [60, 61, 62])}
"""Planes that are summed: so many threes, and single planes. With 47 and 63 the adders come out even: none is a half adder."""


MIDDLE = 128 * LANES
"""Words of tables before the place they are addressed from: short offsets in machine code reach 128 vectors to either side."""


def _groups() -> list[tuple[list[int], int]]:
    """Each group's planes, and where its table begins, in words from MIDDLE; 3 planes take 16 vectors, 1 plane takes 2."""
    singles = sorted({plane for _, planes in SUMS.values() for plane in planes})
    found: list[tuple[list[int], int]] = []
    start = -MIDDLE
    for planes in [*([first, first + 1, first + 2] for first in range(0, 60, 3)), *([plane] for plane in singles)]:
        found.append((planes, start))
        start += (16 if len(planes) == 3 else 2) * LANES
    return found


GROUPS = _groups()
TABLE_WORDS = sum((16 if len(planes) == 3 else 2) * LANES for planes, _ in GROUPS)
"""Words of the tables of one word's planes: 22 KB."""


def _groups_of(n_planes: int) -> list[int]:
    """The groups that make up a sum of so many planes."""
    threes, singles = SUMS[n_planes]
    return [*range(threes), *(i for i, (planes, _) in enumerate(GROUPS) if planes[0] in singles and len(planes) == 1)]


@emitted
def transpose_eight(typing_context, source, source_start, target, target_start, step, coarse):  # type: ignore[no-untyped-def]
    """Three of the six stages that transpose 64 vectors as 64 × 64 bits: on the eight that lie `step` vectors apart.

    coarse: an empty tuple does the stages of 4, 2 and 1 bits, one of length 1 those of 32, 16 and 8.
    """
    signature = types.void(source, types.int64, target, types.int64, types.int64, coarse)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        b = Builder(context, builder)
        here, there = (data_of(context, builder, signature, args, i) for i in (0, 2))
        step_words = builder.mul(args[4], b.word(LANES))
        at = [builder.mul(step_words, b.word(i)) for i in range(8)]
        v = [b.load(here, builder.add(args[1], offset)) for offset in at]
        shifts = (32, 16, 8) if len(signature.args[5]) else (4, 2, 1)
        for apart, shift in zip((4, 2, 1), shifts, strict=True):
            low = sum(1 << bit for bit in range(64) if not bit & shift)
            keep_low, by = b.broadcast(b.word(low)), b.broadcast(b.word(shift))
            keep_high = b.broadcast(b.word(low ^ (2**64 - 1)))
            for i in range(8):
                if i & apart:
                    continue
                x, y = v[i], v[i | apart]
                v[i] = builder.or_(builder.and_(x, keep_low), builder.and_(builder.shl(y, by), keep_high))
                v[i | apart] = builder.or_(builder.and_(builder.lshr(x, by), keep_low), builder.and_(y, keep_high))
        for value, offset in zip(v, at, strict=True):
            b.store(value, there, builder.add(args[3], offset))
        return context.get_dummy_value()

    return signature, codegen


@emitted
def build_tables(typing_context, planes, start, tables, table_start, size):  # type: ignore[no-untyped-def]
    """Tables of one word's planes, for the sums up to one of SUMS; `size` is a tuple as `sum_size` makes it."""
    signature = types.void(planes, types.int64, tables, types.int64, size)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        b = Builder(context, builder)
        source, target = (data_of(context, builder, signature, args, i) for i in (0, 2))
        wanted = {group for n in SUMS if n <= _size(signature.args[4]) for group in _groups_of(n)}
        for group in sorted(wanted):
            planes, begin = GROUPS[group]
            v = [b.load(source, builder.add(args[1], b.word(p * LANES))) for p in planes]
            for pattern in range(1 << len(planes)):
                at = begin + pattern * (2 if len(planes) == 3 else 1) * LANES
                if len(planes) == 1:
                    b.store(builder.not_(v[0]) if pattern else v[0], target, builder.add(args[3], b.word(at)))
                    continue
                b.store(b.logic(SUM, v[0], v[1], v[2], pattern), target, builder.add(args[3], b.word(at)))
                b.store(b.logic(MAJORITY, v[0], v[1], v[2], pattern), target, builder.add(args[3], b.word(at + LANES)))
        return context.get_dummy_value()

    return signature, codegen


def sum_size(n_planes: int) -> tuple[int, ...]:
    """One of SUMS as a type that kernels are specialised by: a tuple of that place's length."""
    return (0,) * list(SUMS).index(n_planes)


def _size(tuple_type: Any) -> int:
    """The inverse of `sum_size`, on numba's type."""
    return list(SUMS)[len(tuple_type)]


def counter_depth(n_words: int) -> int:
    """Counter planes of the sum over n_words: half the bits or more is "far"."""
    return (32 * n_words - 1).bit_length()


NEAR_DEPTH = 4
"""Counter planes of the shorter sums over one word: 16 bits or more is "far"."""


def _summed(b: Builder, adder: Adder, tables: Any, table_start: Any, query: Any, groups: list[int]) -> None:
    """Add what the query's word chooses of each group's table."""
    builder = b.ir
    for group in groups:
        planes, begin = GROUPS[group]
        # The pattern of the group's bits times the words of an entry, by one shift and one mask.
        entry_bits = 4 if len(planes) == 3 else 3
        shift = planes[0] - entry_bits
        shifted = builder.lshr(query, b.word(shift)) if shift >= 0 else builder.shl(query, b.word(-shift))
        chosen = builder.and_(shifted, b.word(((1 << len(planes)) - 1) << entry_bits))
        at = builder.add(builder.add(table_start, chosen), b.word(begin))
        adder.add(0, b.load(tables, at))
        if len(planes) == 3:
            adder.add(1, b.load(tables, builder.add(at, b.word(LANES))))


@emitted
def sum_queries(  # type: ignore[no-untyped-def]
    typing_context, tables, table_start, queries, word, order, begin, end, sums, width, part, first
):
    """Add one whole part of the code to the counters of queries order[begin:end]; `first` (a tuple of length 1) begins them.

    word: the part's first word, of as many as the tuple `part` is long; sums: the counters, query after query.
    """
    signature = types.void(
        tables, types.int64, queries, types.int64, order, types.int64, types.int64, sums, width, part, first
    )

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        b = Builder(context, builder)
        table, of_queries, numbers, kept = (data_of(context, builder, signature, args, i) for i in (0, 2, 4, 7))
        n_words, n_part, begins = (len(signature.args[i]) for i in (8, 9, 10))
        depth = counter_depth(n_words)
        with _each(b, numbers, args[5], args[6]) as (place, query):
            at = builder.mul(place, b.word((depth + 1) * LANES))
            adder = Adder(b, depth)
            if not begins:
                _resume(b, adder, kept, at, depth)
            for i in range(n_part):
                word = _word_of(b, of_queries, query, builder.add(args[3], b.word(i)), n_words)
                _summed(b, adder, table, builder.add(args[1], b.word(i * TABLE_WORDS)), word, _groups_of(63))
            counters, over = adder.counters()
            for weight, plane in enumerate([*counters, ZERO if over is None else over]):
                b.store(plane, kept, builder.add(at, b.word(weight * LANES)))
        return context.get_dummy_value()

    return signature, codegen


@emitted
def near_queries(  # type: ignore[no-untyped-def]
    typing_context,
    tables,
    table_start,
    queries,
    order,
    begin,
    end,
    sums,
    state,
    limits,
    living,
    near,
    hits,
    width,
    size,
):
    """How many of the queries order[begin:end] have living codes in the block that may be nearer than their k-th.

    Their numbers go to `near`, eight words of lanes each to `hits`. The last `size` (see `sum_size`) planes are summed, on top
    of the counters where codes have several words. A branch for each query would cost more than writing each one's lanes and
    moving on only where there are any.
    """
    signature = types.int64(
        tables,
        types.int64,
        queries,
        order,
        types.int64,
        types.int64,
        sums,
        state,
        limits,
        living,
        near,
        hits,
        width,
        size,
    )

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        b = Builder(context, builder)
        table, of_queries, numbers, kept, kth_of, limit, alive, found, lanes_of = (
            data_of(context, builder, signature, args, i) for i in (0, 2, 3, 6, 7, 8, 9, 10, 11)
        )
        n_words, n_planes = len(signature.args[12]), _size(signature.args[13])
        row = counter_depth(n_words) + 1
        depth = counter_depth(n_words) if n_words > 1 or n_planes > 55 else NEAR_DEPTH
        living = b.load(alive, b.word(0))
        n_queries = builder.extract_value(context.make_array(signature.args[2])(context, builder, args[2]).shape, 0)
        kth_of = builder.gep(kth_of, [builder.mul(n_queries, b.word(KTH))])
        count = b.variable(b.word(0))
        with _each(b, numbers, args[4], args[5]) as (place, query):
            adder = Adder(b, depth)
            if n_words > 2:
                _resume(b, adder, kept, builder.mul(place, b.word(row * LANES)), depth)
            for w in range(max(0, n_words - 2), n_words):
                start = builder.add(args[1], b.word((w + 1 - n_words) * TABLE_WORDS))
                word = _word_of(b, of_queries, query, b.word(w), n_words)
                _summed(b, adder, table, start, word, _groups_of(n_planes if w + 1 == n_words else 63))
            counters, over = adder.counters()
            of_kth = builder.gep(limit, [builder.mul(builder.load(builder.gep(kth_of, [query])), b.word(row))])
            below = b.broadcast(builder.load(of_kth))
            for i, plane in enumerate(counters):
                below = b.logic(BELOW, plane, b.broadcast(builder.load(builder.gep(of_kth, [b.word(i + 1)]))), below)
            below = b.logic(LEFT, below, ZERO if over is None else over, living)
            here = builder.load(count)
            b.store(below, lanes_of, builder.mul(here, b.word(LANES)))
            builder.store(query, builder.gep(found, [here]))
            hit = builder.icmp_unsigned("!=", b.lanes(below), b.word(0))
            builder.store(builder.add(here, builder.zext(hit, I64)), count)
        return builder.load(count)

    return signature, codegen


@contextmanager
def _each(b: Builder, order: Any, begin: Any, end: Any) -> Iterator[tuple[Any, Any]]:
    """A loop over the queries order[begin:end]: the place among them, counted from 0, and the query's number."""
    with b.counted(b.ir.sub(end, begin)) as loop:
        yield loop.index, b.ir.load(b.ir.gep(order, [b.ir.add(begin, loop.index)]))


def _word_of(b: Builder, queries: Any, query: Any, word: Any, n_words: int) -> Any:
    return b.ir.load(b.ir.gep(queries, [b.ir.add(b.ir.mul(query, b.word(n_words)), word)]))


def _resume(b: Builder, adder: Adder, sums: Any, at: Any, depth: int) -> None:
    """Go on from counters that were put aside."""
    for weight in range(depth + 1):
        adder.add(weight, b.load(sums, b.ir.add(at, b.word(weight * LANES))))


@emitted
def prefetch(typing_context, words, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line of words[index], which may lie beyond the end."""
    signature = types.void(words, types.int64)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        Builder(context, builder).prefetch(data_of(context, builder, signature, args, 0), args[1])
        return context.get_dummy_value()

    return signature, codegen


@lean
def transpose(block_words, width, w, gathered, planes, start):  # type: ignore[no-untyped-def]
    """Planes of word w of a block's rows: plane p at planes[start + 8p :], bit j of its word i is row 8j + i."""
    source = gathered
    if len(width) == 1 and block_words.size == BLOCK:
        source = block_words
    else:
        # The stride is known when this is compiled, so the loop is vectorised.
        n_rows = block_words.size // len(width)
        for row in range(n_rows):
            gathered[row] = block_words[row * len(width) + w]
        gathered[n_rows:] = U(0)
    for i in range(8):
        transpose_eight(source, i * 8, planes, start + i * 8, 8, (0,))
    for i in range(8):
        transpose_eight(planes, start + i * 64, planes, start + i * 64, 1, ())
