"""The tensor cores' binary matrix product in numpy: which lane of a warp holds which bits, and how it makes a Hamming distance.

`mma.sync.m16n8k256…b1.b1.s32.and.popc` takes 16 rows A and 8 columns B of 256 bits (m16n8k128: 128 bits) and adds to
16 x 8 whole numbers C how many bits a row and a column have in common. A warp's 32 lanes hold A, B and C in registers of
32 bits. With t = lane % 4 and g = lane // 4 (PTX ISA 9.2, "Matrix Fragments for mma.m16n8k128" and "mma.m16n8k256"):

    register   of     row       column     bits of K
    a0         A      g                    32 t …
    a1         A      g + 8                32 t …
    a2         A      g                    128 + 32 t …      k256 only
    a3         A      g + 8                128 + 32 t …      k256 only
    b0         B                g          32 t …
    b1         B                g          128 + 32 t …      k256 only
    c0, c1     C      g         2 t, 2 t + 1
    c2, c3     C      g + 8     2 t, 2 t + 1

**A distance.** Bits that differ are those set in the code and not in the query, and those set in the query and not in the
code: popcount(c & ~q) + popcount(~c & q). So a row is [c, ~c], a column is [~q, q], and what they have in common is the
distance. Both halves come from the same words: with k256 for 128 bits of code a2 = ~a0 and a3 = ~a1, and with k128 for
64 bits the lanes t = 0, 1 hold the code and t = 2, 3 its complement.

**A hit.** C begins at -limit: what comes out is distance - limit, and its sign bit says that the code is nearer than the limit.

**Any code size.** Codes stand in whole 64-bit words that are zero beyond the last bit, as on the CPU; where both code and
query are zero, neither c & ~q nor ~c & q is set, so nothing needs masking. Every 128 bits of code are a k256 step, 64 bits
left over a k128 step.

Shape suffixes: L the 32 lanes, R registers of a lane, M the 16 rows of A (codes), N the 8 columns of B (queries), W words
of 32 bits.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Registers = npt.NDArray[np.uint32]
Accumulators = npt.NDArray[np.int32]

LANES = 32
ROWS = 16
COLUMNS = 8

_GROUP, _IN_GROUP = np.divmod(np.arange(LANES), 4)


class Step(NamedTuple):
    """One instruction on the way along a code."""

    first_word: int
    """Where its bits of the code begin, in words of 32 bits."""
    bits: int
    """The K of its shape, twice the bits of code that it compares: 256 or 128."""


def steps(n_bytes: int) -> list[Step]:
    """The instructions that compare codes of so many bytes."""
    n_words = 2 * -(-n_bytes // 8)
    whole = n_words // 4
    found = [Step(4 * i, 256) for i in range(whole)]
    return [*found, Step(4 * whole, 128)] if n_words % 4 else found


def a_places(bits: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Row of A and word along K (L, R) that each register of A holds."""
    register = np.arange(bits // 64)
    return _GROUP[:, None] + 8 * (register % 2), _IN_GROUP[:, None] + 4 * (register // 2)


def b_places(bits: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Column of B and word along K (L, R) that each register of B holds."""
    register = np.arange(bits // 128)
    return _GROUP[:, None] + 0 * register, _IN_GROUP[:, None] + 4 * register


def c_places() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Row and column of C (L, 4) that each accumulator holds."""
    register = np.arange(4)
    return _GROUP[:, None] + 8 * (register // 2), 2 * _IN_GROUP[:, None] + register % 2


def mma_and_popc(a_LR: Registers, b_LR: Registers, c_LR: Accumulators) -> Accumulators:
    """What the instruction leaves in the accumulators (L, 4): C + popcount(A & B), for the shape that the registers make."""
    bits = 64 * a_LR.shape[1]
    a_MW = np.zeros((ROWS, bits // 32), np.uint32)
    b_NW = np.zeros((COLUMNS, bits // 32), np.uint32)
    a_MW[a_places(bits)] = a_LR
    b_NW[b_places(bits)] = b_LR
    common_MN = np.bitwise_count(a_MW[:, None] & b_NW[None]).sum(axis=2, dtype=np.int32)
    sums: Accumulators = c_LR + common_MN[c_places()]
    return sums


def mma_floats(
    a_LR: Registers, b_LR: Registers, c_L4: npt.NDArray[np.float32], numbers: Literal["f16", "tf32"]
) -> npt.NDArray[np.float32]:
    """What `mma.sync.m16n8k16…f16` or `m16n8k8…tf32` may leave in the accumulators (L, 4), at its worst: C + A B.

    Words lie as those of m16n8k256 (PTX ISA 9.2, "Matrix Fragments for mma.m16n8k16 with floating point type" and "mma.m16n8k8"),
    two float16 or one TF32 each. Neither order nor rounding are promised: here every term is cut to 24 bits of the greatest
    and the sum again, which is what the first tensor cores do (Fasi, Higham, Mikaitis and Pranesh, 2021), later ones keep
    more; and numbers below the normal are zeros.
    """
    a_MW, b_NW = np.zeros((ROWS, 8), np.uint32), np.zeros((COLUMNS, 8), np.uint32)
    a_MW[a_places(256)], b_NW[b_places(256)] = a_LR, b_LR
    a_MK, b_NK = _numbers(a_MW, numbers), _numbers(b_NW, numbers)
    row, column = c_places()
    terms = np.concatenate([(a_MK[:, None] * b_NK[None])[row, column], c_L4[..., None].astype(np.float64)], axis=-1)
    sums = _cut(terms, np.abs(terms).max(axis=-1, keepdims=True)).sum(axis=-1)
    sums = _cut(sums, np.abs(sums))
    return np.where(np.abs(sums) < 2.0**-126, 0, sums).astype(np.float32)


def _numbers(words_XW: Registers, numbers: Literal["f16", "tf32"]) -> npt.NDArray[np.float64]:
    """The numbers of words, those below the normal as zeros."""
    held: npt.NDArray[Any] = words_XW.view(np.float16)
    if numbers == "tf32":
        held = (words_XW & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.abs(held) < np.finfo(held.dtype).tiny, 0, held).astype(np.float64)


def _cut(numbers: npt.NDArray[np.float64], greatest: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Towards zero, to 24 bits of the greatest."""
    step = np.ldexp(1.0, np.frexp(greatest)[1] - 24)
    cut: npt.NDArray[np.float64] = np.trunc(numbers / step) * step
    return cut


def code_registers(codes_MW: Registers, step: Step) -> Registers:
    """Registers of A (L, R) that hold [c, ~c] for 16 codes."""
    row, word = a_places(step.bits)
    return _doubled(codes_MW, row, word, step, complemented_first=False)


def query_registers(queries_NW: Registers, step: Step) -> Registers:
    """Registers of B (L, R) that hold [~q, q] for 8 queries."""
    column, word = b_places(step.bits)
    return _doubled(queries_NW, column, word, step, complemented_first=True)


def _doubled(
    codes_XW: Registers,
    which: npt.NDArray[np.intp],
    word: npt.NDArray[np.intp],
    step: Step,
    complemented_first: bool,
) -> Registers:
    """Words of codes where they belong: those of the second half of K again, one of the two halves complemented."""
    half = step.bits // 64
    held = codes_XW[which, step.first_word + word % half]
    return np.where((word < half) == complemented_first, ~held, held)


def below_limits(codes_MW: Registers, queries_NW: Registers, limits_N: Accumulators) -> Accumulators:
    """Distance - limit (L, 4) of 16 codes and 8 queries as a warp holds them: negative where a code is nearer than the limit.

    codes_MW, queries_NW: packed codes as words of 32 bits, an even number of them.
    """
    found: Accumulators = -limits_N[c_places()[1]]
    for step in steps(4 * codes_MW.shape[1]):
        found = mma_and_popc(code_registers(codes_MW, step), query_registers(queries_NW, step), found)
    return found
