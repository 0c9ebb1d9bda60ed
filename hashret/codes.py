"""The bit contract: which logit becomes which bit, how bits are packed, and what a set of codes looks like.

Bit i is 1 exactly when logit i is greater than threshold i. Bits are packed with the most significant bit first
(`np.packbits`) into uint8 rows of ceil(code_size / 8) bytes; the tail bits of the last byte are zero. For code sizes
that are multiples of 8 this equals the `ubinary` codes of sentence-transformers; FAISS's helpers use the other order.

Shape suffixes: N codes, K bits, B bytes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hashret.errors import CodeError

Codes = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]

MAX_CODE_SIZE: Final = 1024
BIT_ORDER: Final = "big"


def bytes_per_code(code_size: int) -> int:
    """Bytes of one packed code: ceil(code_size / 8). CodeError unless 1 <= code_size <= 1024."""
    whole = isinstance(code_size, (int, np.integer)) and not isinstance(code_size, bool)
    if not whole or not 1 <= code_size <= MAX_CODE_SIZE:
        raise CodeError(f"code_size is {code_size!r}, expected a whole number of bits from 1 to {MAX_CODE_SIZE}")
    return (int(code_size) + 7) // 8


def binarize(logits_NK: npt.ArrayLike, thresholds_K: npt.ArrayLike | None = None) -> Codes:
    """Packed codes (N, ceil(K / 8)) uint8: bit i is 1 exactly when logit i > threshold i (0 without thresholds).

    NaN and infinity, in logits or thresholds, are a CodeError: they have no side of a threshold worth storing.
    """
    logits = np.asarray(logits_NK)
    if logits.ndim != 2 or not (np.issubdtype(logits.dtype, np.floating) or np.issubdtype(logits.dtype, np.integer)):
        raise CodeError(f"logits have shape {logits.shape} and dtype {logits.dtype}, expected numbers of shape (N, K)")
    n_bits = logits.shape[1]
    bytes_per_code(n_bits)
    thresholds = np.zeros(n_bits, logits.dtype) if thresholds_K is None else np.asarray(thresholds_K)
    if thresholds.shape != (n_bits,):
        raise CodeError(f"thresholds have shape {thresholds.shape}, expected one for each of the {n_bits} logits")
    if not np.isfinite(thresholds).all():
        raise CodeError("a threshold is NaN or infinite, expected finite numbers; check the model that carries them")
    finite = np.isfinite(logits)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise CodeError(f"the logits of row {row} hold NaN or infinity, expected finite numbers; check the model")
    return np.packbits(logits > thresholds, axis=1, bitorder=BIT_ORDER)


def pack(bits_NK: npt.ArrayLike) -> Codes:
    """Packed codes (N, ceil(K / 8)) uint8 of bits given as booleans or as the numbers 0 and 1."""
    bits = np.asarray(bits_NK)
    if bits.ndim != 2:
        raise CodeError(f"bits have shape {bits.shape}, expected (N, K)")
    bytes_per_code(bits.shape[1])
    if bits.dtype != np.bool_:
        if not ((bits == 0) | (bits == 1)).all():
            raise CodeError("bits hold values other than 0 and 1; use binarize() for logits")
        bits = bits == 1
    return np.packbits(bits, axis=1, bitorder=BIT_ORDER)


def unpack(codes_NB: npt.ArrayLike, code_size: int) -> Bits:
    """Bits (N, code_size) bool of packed codes; the inverse of `pack`."""
    codes = check_codes(codes_NB, code_size)
    return np.unpackbits(codes, axis=1, count=code_size, bitorder=BIT_ORDER).astype(np.bool_)


def prefix(codes_NB: npt.ArrayLike, code_size: int, length: int) -> Codes:
    """Packed codes (N, ceil(length / 8)) of the first `length` bits; CodeError unless there are so many."""
    if not 1 <= length <= code_size:
        raise CodeError(f"a prefix of {length} bits was asked for, expected 1 to the {code_size} of the codes")
    return pack(unpack(codes_NB, code_size)[:, :length])


def check_codes(codes_NB: npt.ArrayLike, code_size: int) -> Codes:
    """The codes as they came, once dtype (uint8), shape (N, ceil(code_size / 8)) and zero tail bits are checked."""
    codes: npt.NDArray[Any] = np.asarray(codes_NB)
    check_layout(codes.dtype, codes.shape, code_size)
    tail = 8 * codes.shape[1] - code_size
    if tail and len(codes) and (codes[:, -1] & np.uint8((1 << tail) - 1)).any():
        raise tail_is_wrong(code_size)
    return codes


def check_layout(dtype: np.dtype[Any], shape: tuple[int, ...], code_size: int) -> None:
    """CodeError unless dtype and shape are those of packed codes: uint8, (N, ceil(code_size / 8))."""
    n_bytes = bytes_per_code(code_size)
    if dtype != np.uint8:
        raise CodeError(f"codes have dtype {dtype}, expected packed uint8; pack() takes bits, binarize() logits")
    if len(shape) != 2 or shape[1] != n_bytes:
        raise CodeError(f"codes have shape {shape}, expected (N, {n_bytes}) for {code_size} bits")


def tail_is_wrong(code_size: int) -> CodeError:
    """The error for codes with ones beyond their last bit."""
    return CodeError(
        f"the last {-code_size % 8} bits of a row are not zero, expected zeros beyond bit {code_size}; "
        "was it packed with the other bit order or for another code size?"
    )


@dataclasses.dataclass(frozen=True)
class CodeStatistics:
    """What a set of codes looks like; `balance` is per bit, all else one number a set."""

    n: int
    code_size: int
    balance: tuple[float, ...]
    """Share of ones of each bit; 0.5 is best."""
    mean_imbalance: float
    """Mean over bits of |balance - 0.5|: 0 is best, 0.5 means that every bit is constant."""
    entropy_bits: float
    """Mean entropy of a bit, in bits: 1 is best."""
    mean_correlation: float
    """Mean |correlation| over pairs of distinct bits that both vary: 0 is best."""
    max_correlation: float
    """Largest |correlation| of such a pair: 1 means that one bit repeats another."""
    effective_bits: float
    """How many uncorrelated bits spread as far: (sum of eigenvalues)² / (sum of their squares) of the correlation matrix of
    the bits that vary, the participation ratio. At most those bits and n - 1; near 1, all bits say the same."""
    distinct_codes: int
    dead_bits: int
    """Bits that have the same value in every code."""

    @property
    def dead(self) -> list[int]:
        """Which bits are dead, counted from 0."""
        return [bit for bit, share in enumerate(self.balance) if share in (0.0, 1.0)]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        values = dataclasses.asdict(self)
        values["balance"] = list(self.balance)
        return values


def statistics(codes_NB: npt.ArrayLike, code_size: int) -> CodeStatistics:
    """Balance, entropy, correlation, effective bits, distinct codes and dead bits of packed codes; CodeError for an empty set."""
    codes = check_codes(codes_NB, code_size)
    n = len(codes)
    if n == 0:
        raise CodeError("there are no codes to describe, expected at least one")
    # Counts of ones in pairs of bits; a float32 product of 0/1 is exact up to 2**24 rows, so chunks are.
    together = np.zeros((code_size, code_size))
    for start in range(0, n, 1 << 15):
        bits = np.unpackbits(codes[start : start + (1 << 15)], axis=1, count=code_size, bitorder=BIT_ORDER)
        ones = bits.astype(np.float32)
        together += ones.T @ ones
    balance = np.diagonal(together) / n
    alive = (balance > 0) & (balance < 1)
    p = balance[alive]
    entropy = np.zeros(code_size)
    entropy[alive] = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    spread = np.sqrt(p * (1 - p))
    correlation = np.abs((together[np.ix_(alive, alive)] / n - np.outer(p, p)) / np.outer(spread, spread))
    # The eigenvalues of a correlation matrix add up to its size, their squares to the sum of its squared entries.
    squares = float((correlation**2).sum())
    pairs = np.minimum(correlation[np.triu_indices(len(p), 1)], 1.0)
    return CodeStatistics(
        n=n,
        code_size=int(code_size),
        balance=tuple(float(b) for b in balance),
        mean_imbalance=float(np.abs(balance - 0.5).mean()),
        entropy_bits=float(entropy.mean()),
        mean_correlation=float(pairs.mean()) if len(pairs) else 0.0,
        max_correlation=float(pairs.max()) if len(pairs) else 0.0,
        effective_bits=len(p) ** 2 / squares if len(p) else 0.0,
        distinct_codes=_count_distinct(codes),
        dead_bits=int(code_size - alive.sum()),
    )


def _count_distinct(codes: Codes) -> int:
    """How many different rows there are."""
    rows = np.sort(np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1]))).ravel())
    return int(1 + np.count_nonzero(rows[1:] != rows[:-1]))
