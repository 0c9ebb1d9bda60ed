"""Arrays of other libraries that lie on a device: used where they are, or copied there into rows that kernels can read.

In: whatever speaks DLPack or the CUDA array interface (torch, CuPy, JAX, Numba, cuda.core). Nothing goes through the host, and no
library is imported for it. Out: `Device.lend`. A borrowed array must stay as it is until the search has returned.

Shape suffixes: N codes, B bytes and W words of a code.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import check_layout, tail_is_wrong
from hashret.errors import SearchError
from hashret.hamming import words
from hashret.hamming.gpu.device import Device, Held, Strided

ALIGNED = 16
"""Bytes that a kernel loads at once."""
THREADS = 256
_DEVICE_TYPES = (2, 13)
"""DLPack's numbers of memory on a CUDA device: its own, and managed memory."""


@functools.cache
def source() -> str:
    """The kernels for arrays, as one text."""
    return (Path(__file__).parent / "kernels" / "pack.cu").read_text("utf-8")


def is_on_device(array: object) -> bool:
    """Whether an array lies in the memory of a CUDA device, whichever library it is of; False for what is no array."""
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) in _DEVICE_TYPES
    return hasattr(array, "__cuda_array_interface__")


def borrow(device: Device, array: Any, dtype: npt.DTypeLike, shape: tuple[int | None, ...], name: str) -> Held:
    """An array on the device without a copy; copied there into rows without gaps if it has gaps or begins at an odd address.

    shape: one or two sizes, None where any will do. name: what the array is, for errors. What is started on the device
    afterwards sees what the array's library has started before on its own stream.
    SearchError for another dtype or shape, and for an array on another device or that its library does not give away.
    """
    seen, dtype = device.look_at(array), np.dtype(dtype)
    if seen.dtype != dtype:
        raise SearchError(f"{name} has dtype {seen.dtype}, expected {dtype}")
    if len(seen.shape) != len(shape) or any(b not in (None, a) for a, b in zip(seen.shape, shape, strict=True)):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise SearchError(f"{name} has shape {seen.shape}, expected ({sizes}{',' if len(shape) == 1 else ''})")
    if _stands_packed(seen):
        return Held(seen.memory, seen.shape, dtype)
    row_bytes = math.prod(seen.shape[1:]) * dtype.itemsize
    return Held(_packed(device, seen, row_bytes).memory, seen.shape, dtype)


def borrow_codes(device: Device, codes_NB: Any, code_size: int) -> Held:
    """Packed codes on the device as words (N, W) uint64: the same memory where rows are whole words, else a padded copy there.

    CodeError for what is no (N, B) uint8 array of codes of that size with zero tail bits, SearchError as `borrow`.
    """
    seen = device.look_at(codes_NB)
    check_layout(seen.dtype, seen.shape, code_size)
    n, n_bytes = seen.shape
    n_words = words.words_per_code(n_bytes)
    whole = n_bytes == words.WORD_BYTES * n_words and _stands_packed(seen)
    memory = seen.memory if whole else _packed(device, seen, words.WORD_BYTES * n_words).memory
    held = Held(memory, (n, n_words), np.dtype(np.uint64))
    tail = 8 * n_bytes - code_size
    if tail and n:
        found = device.zeros((1,), np.uint64)
        mask = (1 << tail) - 1
        kernels = device.kernels(source())
        kernels.run(
            "count_marked",
            (_blocks(device, n), 1),
            THREADS,
            held,
            n,
            words.WORD_BYTES * n_words,
            n_bytes - 1,
            mask,
            found,
        )
        if device.get(found)[0]:
            raise tail_is_wrong(code_size)
    return held


def padded(device: Device, codes_NB: Held) -> Held:
    """Codes (N, B) uint8 without gaps as words (N, W) uint64 on the device: the same memory where rows are whole words."""
    n, n_bytes = codes_NB.shape
    n_words = words.words_per_code(n_bytes)
    if n_bytes == words.WORD_BYTES * n_words:
        return Held(codes_NB.memory, (n, n_words), np.dtype(np.uint64))
    seen = Strided(codes_NB.memory, 0, codes_NB.shape, (n_bytes, 1), codes_NB.dtype)
    packed = _packed(device, seen, words.WORD_BYTES * n_words)
    return Held(packed.memory, (n, n_words), np.dtype(np.uint64))


def _stands_packed(seen: Strided) -> bool:
    """Whether row follows row without a gap, from an address that kernels can load from."""
    if 0 in seen.shape:
        return False
    expected, step = list[int](), seen.dtype.itemsize
    for size in reversed(seen.shape):
        expected.insert(0, step)
        step *= size
    # Where there is one row, or one item in a row, it does not matter how far the next would be.
    steps = zip(seen.shape, seen.strides, expected, strict=True)
    return seen.address % ALIGNED == 0 and all(size == 1 or a == b for size, a, b in steps)


def _packed(device: Device, seen: Strided, row_bytes: int) -> Held:
    """A copy of an array of one or two axes as rows of so many bytes, zero beyond what a row has."""
    n = seen.shape[0]
    items, item_step = (seen.shape[1], seen.strides[1]) if len(seen.shape) == 2 else (1, 0)
    rows = device.empty((n, row_bytes), np.uint8)
    if n and row_bytes:
        steps = (n, items, seen.dtype.itemsize, seen.strides[0], item_step)
        start = Held(seen.memory, seen.shape, seen.dtype)
        device.kernels(source()).run(
            "pack_rows", (_blocks(device, n * row_bytes), 1), THREADS, start, *steps, rows, row_bytes
        )
    return rows


def _blocks(device: Device, n: int) -> int:
    return min(16 * device.multiprocessors, -(-n // THREADS))
