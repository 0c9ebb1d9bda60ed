"""Products of rows with a few queries, read once at memory bandwidth whatever their dtype. Loaded when it pays: starts numba.

A matrix product of BLAS copies its operands into panels first, which costs more than the product itself where few queries
share them, and converts nothing. Here four queries share every number that is read, and float16 and int8 become float32
in registers. Sums are taken in whatever order suits the vector unit: who needs exact values sums again.

Shape suffixes: N rows, Q queries, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from hashret.hamming.compiled import emitted, kernel

SUB_ROWS = 16
"""Rows that all queries visit before moving on: 32 KiB of float32 at 512 dimensions stay in the first-level cache."""

_F32, _I32 = ir.FloatType(), ir.IntType(32)
_ANY_ORDER = ("reassoc", "contract", "nsz")
"""What LLVM needs to be told to sum in vectors."""


def _as_float32(context: Any, builder: Any, kind: Any, number: Any) -> Any:
    """Emits a stored number as float32: float32 itself, int8, or float16 seen as int16."""
    if kind == types.float32:
        return number
    if kind == types.int8:
        return builder.sitofp(number, _F32)
    # numba's own name for the chip that code is made for; NUMBA_CPU_FEATURES overrides it.
    if "+f16c" in context.codegen().magic_tuple()[2].split(","):
        return builder.fpext(builder.bitcast(number, ir.HalfType()), _F32)
    # Sign, exponent and fraction moved to where float32 has them; the exponent's other bias is a factor, exact for all.
    moved = builder.and_(builder.shl(builder.sext(number, _I32), _I32(13)), _I32(0x8FFFE000))
    return builder.fmul(builder.bitcast(moved, _F32), _F32(2.0**112))


@emitted
def plus_product(typing_context, total, number, factor):  # type: ignore[no-untyped-def]
    """total + number x factor in float32, in any order with other sums."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = _as_float32(context, builder, signature.args[1], arguments[1])
        product = builder.fmul(wide, arguments[2], flags=_ANY_ORDER)
        return builder.fadd(arguments[0], product, flags=_ANY_ORDER)

    return types.float32(types.float32, number, types.float32), code


@emitted
def widened(typing_context, number):  # type: ignore[no-untyped-def]
    """A stored number as float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _as_float32(context, builder, signature.args[0], arguments[0])

    return types.float32(number), code


@kernel
def dots(numbers_ND, scales_N, queries_QD, found_QN):  # type: ignore[no-untyped-def]
    """Fill found (Q, N) float32 with the products of rows (float32, int8, or float16 seen as int16) and float32 queries.

    Times the rows' scales, where there are any: beside its numbers a scale is in the cache, and later it would not be.
    """
    n, n_queries, dim = numbers_ND.shape[0], queries_QD.shape[0], queries_QD.shape[1]
    fours = n_queries // 4 * 4
    for start in range(0, n, SUB_ROWS):
        stop = min(start + SUB_ROWS, n)
        for j in range(0, fours, 4):
            query0, query1, query2, query3 = queries_QD[j], queries_QD[j + 1], queries_QD[j + 2], queries_QD[j + 3]
            for r in range(start, stop):
                row = numbers_ND[r]
                sum0 = sum1 = sum2 = sum3 = np.float32(0)
                for d in range(dim):
                    sum0 = plus_product(sum0, row[d], query0[d])
                    sum1 = plus_product(sum1, row[d], query1[d])
                    sum2 = plus_product(sum2, row[d], query2[d])
                    sum3 = plus_product(sum3, row[d], query3[d])
                found_QN[j, r], found_QN[j + 1, r], found_QN[j + 2, r], found_QN[j + 3, r] = sum0, sum1, sum2, sum3
        for j in range(fours, n_queries):
            query = queries_QD[j]
            for r in range(start, stop):
                row = numbers_ND[r]
                total = np.float32(0)
                for d in range(dim):
                    total = plus_product(total, row[d], query[d])
                found_QN[j, r] = total
        if len(scales_N):
            for r in range(start, stop):
                for j in range(n_queries):
                    found_QN[j, r] *= scales_N[r]


@kernel
def widen(numbers_ND, wide_ND):  # type: ignore[no-untyped-def]
    """Fill wide (N, D) float32 with rows of float16 seen as int16, or int8: several times as fast as numpy's float16."""
    for r in range(numbers_ND.shape[0]):
        row, wide = numbers_ND[r], wide_ND[r]
        for d in range(wide.size):
            wide[d] = widened(row[d])
