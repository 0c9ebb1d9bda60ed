"""Packed codes seen as rows of 64-bit words: viewed where they are aligned, padded tile by tile where they are not.

The order of bytes in a word does not matter: a Hamming distance counts differing bits, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Codes

Words = npt.NDArray[np.uint64]

WORD_BYTES = 8
TILE_ROWS = 1 << 14
"""Rows padded at a time: a quarter of a megabyte at 128 bits, so the padded copy is read from cache."""


def words_per_code(n_bytes: int) -> int:
    """64-bit words that hold n_bytes."""
    return -(-n_bytes // WORD_BYTES)


def view(codes: Codes) -> Words | None:
    """The same memory as (N, words) uint64, read-only, or None where rows are no whole, aligned words."""
    n_bytes = codes.shape[1]
    if n_bytes % WORD_BYTES or not codes.flags.c_contiguous:
        return None
    # np.asarray drops the memmap subclass, whose slices would each be a memmap again.
    words = np.asarray(codes).view(np.uint64)
    if not words.flags.aligned:
        return None
    words.flags.writeable = False
    return words


def padded(codes: npt.NDArray[Any]) -> Words:
    """A copy as (N, words) uint64, zero beyond the last byte, read-only."""
    n, n_bytes = codes.shape
    words = np.zeros((n, words_per_code(n_bytes)), np.uint64)
    pieces = _pieces(n_bytes)
    if n and codes.flags.c_contiguous and len(pieces) <= _FEW_PIECES:
        # Numpy copies single bytes several times slower than the few numbers that a row falls into.
        for offset, dtype in pieces:
            source: npt.NDArray[Any] = np.ndarray((n,), dtype, np.asarray(codes).reshape(-1), offset, (n_bytes,))
            np.ndarray((n,), dtype, words, offset, (words.strides[0],))[:] = source
    else:
        words.view(np.uint8)[:, :n_bytes] = codes
    words.flags.writeable = False
    return words


_FEW_PIECES = 3


def _pieces(n_bytes: int) -> list[tuple[int, str]]:
    """A row of bytes as the fewest numbers of 8, 4, 2 and 1 bytes: offset and type of each."""
    pieces, offset = [], 0
    for size in (8, 4, 2, 1):
        while n_bytes - offset >= size:
            pieces.append((offset, f"u{size}"))
            offset += size
    return pieces


def tiles(codes: Codes, start: int, stop: int) -> Iterator[tuple[int, Words]]:
    """Pairs (first row, words) that cover the rows start..stop: one view without a copy, or padded tiles."""
    words = view(codes)
    if words is not None:
        if stop > start:
            yield start, words[start:stop]
        return
    for first in range(start, stop, TILE_ROWS):
        yield first, padded(codes[first : min(first + TILE_ROWS, stop)])
