"""The lookup kernel's parts: turn a block of codes over, and add up what its codes cost a query by looking up in tables.

A code costs a query the weight of every bit that is not as the query would have it. Turned over, a block is one plane for
every group of bits: byte i of the plane is what the group reads, as a number, in code i. A query has a table of costs for
each group, in whole units rounded down; one instruction looks up a group of 64 codes, another adds the 64 costs, in bytes
that stop at 255. Both roundings only lower a sum, so it is a lower bound of the cost, and high ones leave codes out.

Groups. The chip says how many bits a group has: 6 with AVX-512 VBMI, which looks up in 64 bytes, 4 where tables hold 16
bytes (AVX-512, AVX2, SSSE3, NEON). Elsewhere a group is a single bit and a look-up the choice between two bytes, which
needs no instruction of its own.

Lanes. A tile is 64 rows, a vector of bytes. Lane 8r + v is row 8v + r of its tile: so bytes lie after the fewest steps of a
transpose.

Codes longer than 64 bits are summed 64 bits at a time, and the sums of these parts in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from hashret.hamming.compiled import emitted
from hashret.hamming.vectors import I16, I32, I64, Builder

TILE = 64
"""Rows in a tile: bytes of a vector."""
BLOCK = 1024
"""Rows in a block: the planes of a word, 11 KB, stay in the first-level cache."""

I8 = ir.IntType(8)
BYTES = ir.VectorType(I8, TILE)
PAIRS = ir.VectorType(I16, TILE // 2)


class Lookups(Builder):
    """Emits vector code on bytes. `bits`: of a group; `tiles`: summed at once, as many as the chip has registers for."""

    def __init__(self, context: Any, builder: ir.IRBuilder) -> None:
        super().__init__(context, builder)
        triple, _, features = context.codegen().magic_tuple()
        has = set(features.split(","))
        if {"+avx512bw", "+avx512vbmi"} <= has:
            self.bits, self.tiles, self._name, self._lanes = 6, 8, "llvm.x86.avx512.permvar.qi.512", 64
        elif "+avx512bw" in has:
            self.bits, self.tiles, self._name, self._lanes = 4, 8, "llvm.x86.avx512.pshuf.b.512", 64
        elif "+avx2" in has:
            self.bits, self.tiles, self._name, self._lanes = 4, 4, "llvm.x86.avx2.pshuf.b", 32
        elif "+ssse3" in has:
            self.bits, self.tiles, self._name, self._lanes = 4, 2, "llvm.x86.ssse3.pshuf.b.128", 16
        elif triple.startswith(("aarch64", "arm64")):
            self.bits, self.tiles, self._name, self._lanes = 4, 4, "llvm.aarch64.neon.tbl1.v16i8", 16
        else:
            self.bits, self.tiles = 1, 2

    @property
    def n_groups(self) -> int:
        """Groups of a word of 64 bits."""
        return -(-64 // self.bits)

    @property
    def table_bytes(self) -> int:
        """Bytes of a group's table."""
        return 1 << self.bits

    def at(self, pointer: Any, offset: Any, n: int = TILE) -> Any:
        """The n bytes at pointer + offset."""
        place = self.ir.bitcast(self.ir.gep(pointer, [offset]), ir.VectorType(I8, n).as_pointer())
        return self.ir.load(place, align=1)

    def put(self, vector: Any, pointer: Any, offset: Any) -> None:
        """Store a vector of bytes at pointer + offset."""
        self.ir.store(vector, self.ir.bitcast(self.ir.gep(pointer, [offset]), BYTES.as_pointer()), align=1)

    def spread(self, number: Any, vector: ir.VectorType) -> Any:
        """A vector of the number's low bits, many times."""
        number = self.ir.trunc(number, vector.element)
        single = self.ir.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(I32, 0))
        return self._shuffled(single, single, [0] * vector.count)

    def table(self, pointer: Any, offset: Any) -> Any:
        """A group's table, as `look_up` takes it."""
        if self.bits == 1:
            first, second = (self.at(pointer, place, 1) for place in (offset, self.ir.add(offset, self.word(1))))
            return self._widened(first, TILE), self._widened(self.ir.xor(first, second), TILE)
        return self._widened(self.at(pointer, offset, self.table_bytes), self._lanes)

    def look_up(self, table: Any, index: Any) -> Any:
        """The table's entries at 64 indices."""
        if self.bits == 1:
            return self.ir.xor(table[0], self.ir.and_(index, table[1]))
        part = ir.VectorType(I8, self._lanes)
        function = self._declared(self._name, part, [part, part])
        parts = [list(range(start, start + self._lanes)) for start in range(0, TILE, self._lanes)]
        found = [self.ir.call(function, [table, self._shuffled(index, index, part)]) for part in parts]
        while len(found) > 1:
            both = list(range(2 * found[0].type.count))
            found = [self._shuffled(x, y, both) for x, y in zip(found[::2], found[1::2], strict=True)]
        return found[0]

    def plane(self, bytes_of_word: list[Any], group: int) -> Any:
        """What a group of bits reads in 64 codes, from the planes of a word's bytes."""
        b = self.ir
        byte, first = divmod(group * self.bits, 8)
        if self.bits == 1:
            bit = b.and_(bytes_of_word[byte], ir.Constant(BYTES, [1 << first] * TILE))
            return b.sext(b.icmp_unsigned("!=", bit, ir.Constant(BYTES, [0] * TILE)), BYTES)
        read = b.lshr(bytes_of_word[byte], ir.Constant(BYTES, [first] * TILE))
        if first + self.bits > 8 and byte < 7:
            above = b.shl(bytes_of_word[byte + 1], ir.Constant(BYTES, [8 - first] * TILE))
            read = b.or_(read, above)
        # A table of 64 bytes is indexed by an index's low six bits; shorter ones want all other bits to be zero.
        return read if self.bits == 6 else b.and_(read, ir.Constant(BYTES, [15] * TILE))

    def combined(self, operation: str, x: Any, y: Any) -> Any:
        """One of LLVM's operations on unsigned vectors: uadd.sat, usub.sat, umin."""
        name = f"llvm.{operation}.v{x.type.count}i{x.type.element.width}"
        return self.ir.call(self._declared(name, x.type, [x.type, x.type]), [x, y])

    def _widened(self, vector: Any, n: int) -> Any:
        """The vector, repeated to n lanes."""
        return self._shuffled(vector, vector, [i % vector.type.count for i in range(n)])

    def _shuffled(self, x: Any, y: Any, lanes: list[int]) -> Any:
        """Lanes of two vectors, counted through both."""
        return self.ir.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def _data(context: Any, builder: Any, signature: Any, args: Any, i: int) -> Any:
    return context.make_array(signature.args[i])(context, builder, args[i]).data


def _constant(read: Callable[[Lookups], int]) -> Any:
    """What an intrinsic without arguments returns that gives a number of the chip."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(I64, read(Lookups(context, builder)))

    return types.int64(), codegen


@emitted
def group_bits(typing_context):  # type: ignore[no-untyped-def]
    """Bits of a group: 6, 4 or 1."""
    return _constant(lambda b: b.bits)


@emitted
def tiles_at_once(typing_context):  # type: ignore[no-untyped-def]
    """Tiles that `near` sums at once."""
    return _constant(lambda b: b.tiles)


@emitted
def make_planes(typing_context, transposed, planes, start):  # type: ignore[no-untyped-def]
    """Write the planes of one word of a tile, BLOCK bytes apart, from its bytes: vector i holds byte i of the rows."""
    signature = types.void(transposed, planes, types.int64)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        b = Lookups(context, builder)
        source, target = (_data(context, builder, signature, args, i) for i in (0, 1))
        bytes_of_word = [builder.bitcast(b.load(source, b.word(8 * i)), BYTES) for i in range(8)]
        for group in range(b.n_groups):
            b.put(b.plane(bytes_of_word, group), target, builder.add(args[2], b.word(group * BLOCK)))
        return context.get_dummy_value()

    return signature, codegen


def _summed(b: Lookups, planes: Any, plane: Any, tables: Any, table: Any, n_groups: int) -> list[Any]:
    """What the first groups of a word cost, at most 255: one vector a tile."""
    sums: list[Any] = []
    for group in range(n_groups):
        chosen = b.table(tables, b.ir.add(table, b.word(group * b.table_bytes)))
        start = b.ir.add(plane, b.word(group * BLOCK))
        found = [b.look_up(chosen, b.at(planes, b.ir.add(start, b.word(tile * TILE)))) for tile in range(b.tiles)]
        sums = [b.combined("uadd.sat", x, y) for x, y in zip(sums, found, strict=True)] if sums else found
    return sums


def _halves(b: Lookups, sums: list[Any]) -> list[Any]:
    """Vectors of bytes as 16-bit numbers: the even lanes of each, then the odd lanes of each."""
    pairs = [b.ir.bitcast(vector, PAIRS) for vector in sums]
    even = [b.ir.and_(vector, ir.Constant(PAIRS, [255] * PAIRS.count)) for vector in pairs]
    return even + [b.ir.lshr(vector, ir.Constant(PAIRS, [8] * PAIRS.count)) for vector in pairs]


def _above(b: Lookups, halves: list[Any], below: Any) -> list[Any]:
    """Bytes again, from what `_halves` split: less `below`, from 0 to 255."""
    below = b.spread(below, PAIRS)
    most = ir.Constant(PAIRS, [255] * PAIRS.count)
    small = [b.combined("umin", b.combined("usub.sat", half, below), most) for half in halves]
    high = [b.ir.shl(odd, ir.Constant(PAIRS, [8] * PAIRS.count)) for odd in small[b.tiles :]]
    return [b.ir.bitcast(b.ir.or_(even, odd), BYTES) for even, odd in zip(small[: b.tiles], high, strict=True)]


def _summed_words(b: Lookups, planes: Any, plane: Any, tables: Any, table: Any, n_words: int) -> list[Any]:
    """What all groups of the first words cost, as `_halves` splits them: a loop over the words."""
    builder = b.ir
    before, loop, after = builder.block, builder.append_basic_block("word"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    w = builder.phi(I64)
    held = [builder.phi(PAIRS) for _ in range(2 * b.tiles)]
    word_planes = builder.add(plane, builder.mul(w, b.word(b.n_groups * BLOCK)))
    word_tables = builder.add(table, builder.mul(w, b.word(b.n_groups * b.table_bytes)))
    sums = _halves(b, _summed(b, planes, word_planes, tables, word_tables, b.n_groups))
    totals = [builder.add(x, y) for x, y in zip(held, sums, strict=True)]
    following = builder.add(w, b.word(1))
    for phi, start, total in zip([w, *held], [0, *[None] * len(held)], [following, *totals], strict=True):
        phi.add_incoming(ir.Constant(phi.type, start), before)
        phi.add_incoming(total, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, b.word(n_words)), loop, after)
    builder.position_at_end(after)
    return totals


@emitted
def near(typing_context, planes, plane, tables, table, width, last, limit, below, costs, hits):  # type: ignore[no-untyped-def]
    """Whether a row of `tiles_at_once` tiles costs a query at most the limit; if so, which rows (`hits`) and the costs.

    width, last: tuples with an entry for each word, and for each group of the last word. hits: a word a tile, a bit a lane;
    costs: a byte a lane. Codes of one word: limit and costs are units, to 254. Longer ones: units above `below`.
    """
    signature = types.boolean(
        planes, types.int64, tables, types.int64, width, last, types.int64, types.int64, costs, hits
    )

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        b = Lookups(context, builder)
        source, table, cost, hit = (_data(context, builder, signature, args, i) for i in (0, 2, 8, 9))
        words_before, n_groups = len(signature.args[4]) - 1, len(signature.args[5])
        last_planes = builder.add(args[1], b.word(words_before * b.n_groups * BLOCK))
        last_tables = builder.add(args[3], b.word(words_before * b.n_groups * b.table_bytes))
        if words_before:
            held = _summed_words(b, source, args[1], table, args[3], words_before)
            more = _halves(b, _summed(b, source, last_planes, table, last_tables, n_groups))
            sums = _above(b, [builder.add(x, y) for x, y in zip(held, more, strict=True)], args[7])
        else:
            sums = _summed(b, source, last_planes, table, last_tables, n_groups)
        least = sums
        while len(least) > 1:
            least = [b.combined("umin", x, y) for x, y in zip(least[::2], least[1::2], strict=True)]
        most = b.spread(args[6], BYTES)
        lanes = builder.bitcast(builder.icmp_unsigned("<=", least[0], most), I64)
        some = builder.icmp_unsigned("!=", lanes, b.word(0))
        with builder.if_then(some, likely=False):
            for tile, vector in enumerate(sums):
                b.put(vector, cost, b.word(tile * TILE))
                lanes = builder.bitcast(builder.icmp_unsigned("<=", vector, most), I64)
                builder.store(lanes, builder.gep(hit, [b.word(tile)]))
        return some

    return signature, codegen
