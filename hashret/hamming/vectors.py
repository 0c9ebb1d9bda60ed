"""512-bit vectors in LLVM IR: what the sliced kernels are written in. LLVM turns them into AVX-512, AVX2 or NEON.

A vector is eight 64-bit words. LLVM's loop vectoriser gives up on adder trees and prefers narrower vectors on some chips;
straight-line IR over explicit vectors does neither. Three-input logic is one instruction on chips with AVX-512, named by its
truth table (`imm`: bit 4x + 2y + z is the result); LLVM 22 finds it only in part of a full adder, so it is asked for by name
there and spelled out elsewhere.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 8
"""64-bit words in a vector."""
LANE_BITS = 512
"""Bits in a vector: rows in a block of codes."""

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(I64, LANES)
ZERO = ir.Constant(VECTOR, [0] * LANES)
ONES = ir.Constant(VECTOR, [-1] * LANES)

SUM = 0b10010110
"""x ^ y ^ z: the sum of a full adder."""
MAJORITY = 0b11101000
"""At least two of x, y, z: its carry."""
CARRY = 0b11010100
"""The same carry from y, z and the sum: each result then takes the register of an input, and none is copied."""
ANY = 0b11111110
"""x | y | z."""
BELOW = 0b10001110
"""Bit-serial comparison x < y, from the lowest bit up: (not x and y) or (x equals y and z). Beginning with z = 1 it is x <= y."""
LEFT = 0b00100000
"""x and z, but not y."""


_cgutils: Any = cgutils


def data_of(context: Any, builder: Any, signature: Any, args: Any, i: int) -> Any:
    """The pointer to the data of argument i, an array."""
    return context.make_array(signature.args[i])(context, builder, args[i]).data


class Builder:
    """Emits vector code at one place of a numba function."""

    def __init__(self, context: Any, builder: ir.IRBuilder) -> None:
        self.ir = builder
        # numba's own name for the chip that code is made for; NUMBA_CPU_FEATURES overrides it.
        self.ternary = "+avx512f" in context.codegen().magic_tuple()[2].split(",")

    def word(self, value: int) -> ir.Constant:
        """A 64-bit constant."""
        return ir.Constant(I64, value)

    def load(self, pointer: Any, words: Any) -> Any:
        """The vector at pointer + words."""
        return self.ir.load(self.ir.bitcast(self.ir.gep(pointer, [words]), VECTOR.as_pointer()), align=8)

    def variable(self, first: Any) -> Any:
        """A place for values of the type of `first`, which LLVM keeps in a register."""
        return _cgutils.alloca_once_value(self.ir, first)

    def counted(self, n: Any) -> Any:
        """A loop, for use with `with`: `.index` of what comes in counts from 0 to n."""
        return _cgutils.for_range(self.ir, n)

    def load_parted(self, pointer: Any, words: Any, n: int) -> list[Any]:
        """The n vectors of first, second, ... words of eight codes of n words each, which lie at pointer + words."""
        together = ir.VectorType(I64, LANES * n)
        codes = self.ir.load(self.ir.bitcast(self.ir.gep(pointer, [words]), together.as_pointer()), align=8)
        undefined = ir.Constant(together, ir.Undefined)
        lanes = [ir.Constant(ir.VectorType(I32, LANES), [n * i + w for i in range(LANES)]) for w in range(n)]
        return [self.ir.shuffle_vector(codes, undefined, each) for each in lanes]

    def store(self, vector: Any, pointer: Any, words: Any) -> None:
        """Put the vector at pointer + words."""
        self.ir.store(vector, self.ir.bitcast(self.ir.gep(pointer, [words]), VECTOR.as_pointer()), align=8)

    def prefetch(self, pointer: Any, words: Any) -> None:
        """Ask for the cache line at pointer + words, into the second-level cache."""
        declared = self._declared("llvm.prefetch.p0", ir.VoidType(), [ir.IntType(8).as_pointer(), I32, I32, I32])
        address = self.ir.bitcast(self.ir.gep(pointer, [words]), ir.IntType(8).as_pointer())
        self.ir.call(declared, [address, *(ir.Constant(I32, flag) for flag in (0, 2, 1))])

    def broadcast(self, word: Any) -> Any:
        """A vector of one word eight times."""
        single = self.ir.insert_element(ir.Constant(VECTOR, ir.Undefined), word, ir.Constant(I32, 0))
        return self.ir.shuffle_vector(
            single, ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        )

    def logic(self, imm: int, x: Any, y: Any, z: Any, flipped: int = 0) -> Any:
        """The three-input function with the truth table `imm`; bits 0, 1, 2 of `flipped` negate x, y, z first."""
        if self.ternary:
            negated = (flipped & 1) << 2 | flipped & 2 | flipped >> 2
            table = sum((imm >> (i ^ negated) & 1) << i for i in range(8))
            declared = self._declared("llvm.x86.avx512.pternlog.q.512", VECTOR, [VECTOR, VECTOR, VECTOR, I32])
            return self.ir.call(declared, [x, y, z, ir.Constant(I32, table)])
        b = self.ir
        x, y, z = (b.not_(v) if flipped >> i & 1 else v for i, v in enumerate((x, y, z)))
        if imm == SUM:
            return b.xor(b.xor(x, y), z)
        if imm == MAJORITY:
            return b.or_(b.and_(x, y), b.and_(z, b.xor(x, y)))
        if imm == CARRY:
            return b.or_(b.and_(x, y), b.and_(b.not_(z), b.or_(x, y)))
        if imm == ANY:
            return b.or_(b.or_(x, y), z)
        if imm == LEFT:
            return b.and_(b.and_(x, b.not_(y)), z)
        assert imm == BELOW
        return b.or_(b.and_(b.not_(x), y), b.and_(b.not_(b.xor(x, y)), z))

    def popcount(self, vector: Any) -> Any:
        """The bits set in each word."""
        return self.ir.call(self._declared("llvm.ctpop.v8i64", VECTOR, [VECTOR]), [vector])

    def least16(self, x: Any, y: Any) -> Any:
        """The smaller of each two numbers of 16 bits."""
        quarters = ir.VectorType(I16, 4 * LANES)
        declared = self._declared("llvm.umin.v32i16", quarters, [quarters, quarters])
        least = self.ir.call(declared, [self.ir.bitcast(v, quarters) for v in (x, y)])
        return self.ir.bitcast(least, VECTOR)

    def lanes(self, vector: Any) -> Any:
        """A word whose bit i is set exactly when lane i of the vector is non-zero."""
        flags = self.ir.icmp_unsigned("!=", vector, ZERO)
        return self.ir.zext(self.ir.bitcast(flags, ir.IntType(LANES)), I64)

    def _declared(self, name: str, result: Any, arguments: list[Any]) -> Any:
        found = self.ir.module.globals.get(name)
        return found or ir.Function(self.ir.module, ir.FunctionType(result, arguments), name)


class Adder:
    """Sums one-bit planes into counter planes, by full adders: three planes of a weight become a sum and a carry.

    Planes are added as they come, so few registers stay live. Counters keep `depth` planes; what overflows them is kept
    as one plane that says "2**depth or more".
    """

    def __init__(self, builder: Builder, depth: int) -> None:
        self._b = builder
        self._depth = depth
        self._columns: list[list[Any]] = [[] for _ in range(depth)]
        self._over: list[Any] = []

    def add(self, weight: int, plane: Any) -> None:
        """Count the plane's bits 2**weight each."""
        if weight >= self._depth:
            self._over.append(plane)
            if len(self._over) == 3:
                self._over = [self._b.logic(ANY, *self._over)]
            return
        column = self._columns[weight]
        column.append(plane)
        if len(column) == 3:
            x, y, z = column
            total = self._b.logic(SUM, x, y, z)
            column[:] = [total]
            self.add(weight + 1, self._b.logic(CARRY, y, z, total))

    def counters(self) -> tuple[list[Any], Any]:
        """The counter planes, lowest first, and the overflow plane (None where nothing can overflow)."""
        for weight, column in enumerate(self._columns):
            if len(column) == 2:
                x, y = column
                column[:] = [self._b.ir.xor(x, y)]
                self.add(weight + 1, self._b.ir.and_(x, y))
        over = self._over
        if len(over) == 2:
            over = [self._b.ir.or_(*over)]
        return [column[0] if column else ZERO for column in self._columns], over[0] if over else None
