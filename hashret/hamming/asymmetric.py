"""Exact asymmetric search: real-valued logits as queries, packed codes as the gallery.

The similarity of a query's logits (float32, thresholds already subtracted) to a code is the sum of the logits whose bit is
1, less the sum of those whose bit is 0. A bit that the query is unsure of weighs little, so codes at one Hamming distance
are told apart; stored codes stay as they are.

Defined to the last bit: half a byte, four terms, is summed from its first bit on in float64; a byte is its first half plus
its second; bytes are added in order; the sum is rounded to float32. So equal codes have equal similarities, and no answer
depends on threads, blocks or the chip. (Like any sum it depends on the order of its terms, which is why one is fixed.)

Shape suffixes: N gallery codes, Q queries, K bits, B bytes of a code, H half bytes, V values of a half byte (16).
"""

from __future__ import annotations

import functools
import sys
import time
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes, bytes_per_code
from hashret.errors import CodeError
from hashret.hamming import threads as pool
from hashret.hamming import words
from hashret.hamming.arguments import checked, checked_k, flags_of, gathered
from hashret.hamming.planner import Explanation, Plan, may_stay_cold

Logits = npt.NDArray[np.float32]
Similarities = npt.NDArray[np.float32]
Found = tuple[Similarities, npt.NDArray[np.int64]]

_BLOCK_ROWS = 1 << 15
"""Rows that numpy scores at a time, so that temporaries stay in cache."""
_PLAIN_WORK = 1 << 13
"""Bytes looked up till which numpy is quicker than a compiled kernel's start."""
_PLAIN_WORK_COLD = 1 << 26
"""Bytes looked up till which numpy (0.3 GB/s) is quicker than loading numba and its cached kernels."""
_FEW_QUERIES = 8
"""Queries till which a process is taken to ask once, and not to wait for the kernels."""
_SMALL_WORK = 1 << 20
"""Words looked up in about the time it takes to hand a task to another thread."""
_PART_ROWS = 1 << 10
"""Threads begin at multiples of this: all blocks of the kernel but the last are then whole."""
_GROUP_BYTES = 1 << 26
"""Memory of a thread for tables and candidates; more queries than fit are searched group by group."""
_KERNEL = "hashret.hamming.lookup_scan"


@overload
def search(
    gallery_NB: npt.ArrayLike,
    logits_QK: npt.ArrayLike,
    k: int,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    explain: Literal[False] = False,
) -> Found: ...


@overload
def search(
    gallery_NB: npt.ArrayLike,
    logits_QK: npt.ArrayLike,
    k: int,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    explain: Literal[True],
) -> tuple[Similarities, npt.NDArray[np.int64], Explanation]: ...


def search(
    gallery_NB: npt.ArrayLike,
    logits_QK: npt.ArrayLike,
    k: int,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    explain: bool = False,
) -> Any:
    """Similarities (Q, k) float32 and rows (Q, k) int64 of the k gallery codes most similar to the logits, exact.

    Descending; equal similarities give the earlier row. Beyond the number of living codes similarities are NaN and rows
    -1. An empty gallery and zero queries are valid. The answer does not depend on `threads`.

    gallery_NB: packed uint8 codes of K bits; a memory-mapped gallery of whole 64-bit words is not copied. logits_QK: floats,
    thresholds subtracted, taken as float32. alive: a flag (N,) a gallery code, False leaves it out. threads: None takes all
    cores. explain: a third thing comes back, an Explanation of how the search was answered; it predicts nothing, for how many
    codes have to be looked at twice depends on the logits. CodeError, SearchError for what does not fit, and for NaN or infinity.
    """
    started = time.perf_counter()
    logits, gallery, flags, n_threads = _checked(logits_QK, gallery_NB, alive, threads)
    k = checked_k(k)
    gallery, living, numbers = gathered(gallery, flags)
    within = max(1, min(k, len(gallery)))
    work = len(logits) * gallery.size
    few_and_cold = len(logits) <= _FEW_QUERIES and _KERNEL not in sys.modules
    if work <= _PLAIN_WORK or (few_and_cold and may_stay_cold(work, _PLAIN_WORK_COLD)):
        plan = Plan("numpy", 1, None, "too little work for a compiled kernel")
        found = _search_plain(gallery, logits, within, living)
    else:
        if len(logits) * len(gallery) * words.words_per_code(gallery.shape[1]) <= _SMALL_WORK:
            n_threads = 1
        plan = Plan("lookup", n_threads, None, "sums of logits looked up in tables")
        found = _search_on_threads(gallery, logits, within, living, n_threads)
    if numbers is not None and len(numbers):
        found = found[0], np.where(found[1] < 0, -1, numbers[found[1]])
    found = merge([found], k)
    if not explain:
        return found
    milliseconds = 1e3 * (time.perf_counter() - started)
    codes = len(gallery) if living is None else int(np.count_nonzero(living))
    return *found, Explanation(plan, milliseconds, codes)


def similarities(logits_QK: npt.ArrayLike, gallery_NB: npt.ArrayLike) -> Similarities:
    """Similarities (Q, N) float32 of all logits to all gallery codes, the same numbers that `search` gives."""
    logits, gallery, _, _ = _checked(logits_QK, gallery_NB, None, None)
    found = np.empty((len(logits), len(gallery)), np.float32)
    for query, row in zip(logits, found, strict=True):
        row[:] = _similarities(query, gallery)
    return found


def rescore(logits_QK: npt.ArrayLike, codes_QRB: Codes) -> Similarities:
    """Similarities (Q, R) float32 of each query's logits to codes of its own: again the same numbers."""
    logits = check_logits(logits_QK)
    n_bytes = codes_QRB.shape[2]
    halves = half_byte_tables(_widened(logits, 8 * n_bytes))
    table = np.arange(len(logits))[:, None] * halves[0:1].size
    total = np.zeros(codes_QRB.shape[:2])
    for byte in range(n_bytes):
        column = codes_QRB[:, :, byte]
        total += halves.reshape(-1)[table + (column >> 4)] + halves.reshape(-1)[table + 16 + (column & 15)]
        table += 32
    return rounded(total)


def merge(parts: list[Found], k: int) -> Found:
    """The k most similar of answers over consecutive parts of a gallery, given in part order, padded with NaN and -1."""
    missing = k - sum(part[0].shape[1] for part in parts)
    if missing > 0:
        shape = len(parts[0][0]), missing
        parts = [*parts, (np.full(shape, np.nan, np.float32), np.full(shape, -1))]
    values, rows = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    # A stable sort keeps earlier parts, whose rows are earlier, first, and puts NaN last.
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(rows, order, axis=1)


def check_logits(logits_QK: npt.ArrayLike, code_size: int | None = None) -> Logits:
    """The logits as float32 (Q, K); CodeError unless they are finite floats of that shape (K = code_size, if given)."""
    logits = np.asarray(logits_QK)
    if (
        logits.ndim != 2
        or not np.issubdtype(logits.dtype, np.floating)
        or logits.shape[1] != (code_size or logits.shape[1])
    ):
        wanted = "K" if code_size is None else code_size
        raise CodeError(
            f"logits have shape {logits.shape} and dtype {logits.dtype}, expected floats of shape (Q, {wanted})"
        )
    bytes_per_code(logits.shape[1])
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(logits, np.float32)
    wrong = np.flatnonzero(~np.isfinite(narrow).all(axis=1))
    if len(wrong):
        raise CodeError(
            f"the logits of row {wrong[0]} hold NaN or infinity, expected finite float32 numbers; check the model"
        )
    return narrow


def half_byte_tables(logits_QK: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Tables (Q, K / 4, 16) of what each half byte of a code adds, summed from its first bit on; K a multiple of 4."""
    halves_QHT = logits_QK.reshape(len(logits_QK), logits_QK.shape[1] // 4, 4)
    tables = np.zeros((*halves_QHT.shape[:2], 16))
    for term in range(4):
        signs = np.where(np.arange(16) >> (3 - term) & 1, 1.0, -1.0)
        tables += halves_QHT[:, :, term, None] * signs
    return tables


def rounded(sums: npt.NDArray[np.float64]) -> Similarities:
    """Sums as float32: infinite where they are larger than it can hold."""
    with np.errstate(over="ignore"):
        return sums.astype(np.float32)


def _similarities(query_K: Logits, gallery: Codes) -> Similarities:
    """Similarities (N,) of one query, by tables of whole bytes."""
    halves = half_byte_tables(_widened(query_K[None], 8 * gallery.shape[1]))[0]
    bytes_B256 = (halves[0::2, :, None] + halves[1::2, None, :]).reshape(-1, 256)
    found = np.empty(len(gallery), np.float32)
    for start in range(0, len(gallery), _BLOCK_ROWS):
        block = gallery[start : start + _BLOCK_ROWS]
        total = np.zeros(len(block))
        for table, column in zip(bytes_B256, np.ascontiguousarray(block.T), strict=True):
            total += table[column]
        found[start : start + len(block)] = rounded(total)
    return found


def _search_plain(gallery: Codes, logits: Logits, k: int, living: Bits | None) -> Found:
    """`search` with numpy alone."""
    found = np.full((len(logits), k), np.nan, np.float32), np.full((len(logits), k), -1, np.int64)
    rows = np.arange(len(gallery)) if living is None else np.flatnonzero(living)
    for query, values, numbers in zip(logits, *found, strict=True):
        every = _similarities(query, gallery)[rows]
        held = min(k, len(rows))
        kth = np.partition(every, len(rows) - held)[len(rows) - held] if held else 0
        near = np.flatnonzero(every >= kth)
        near = near[np.argsort(-every[near], kind="stable")][:held]
        values[:held], numbers[:held] = every[near], rows[near]
    return found


def _search_on_threads(gallery: Codes, logits: Logits, k: int, living: Bits | None, n_threads: int) -> Found:
    """`search` by the lookup kernel: the rows split over threads, the queries into groups that fit into memory."""
    n_bits = 8 * words.WORD_BYTES * words.words_per_code(gallery.shape[1])
    largest = max(1, _GROUP_BYTES // (12 * k + 64 * n_bits))
    step = max(_PART_ROWS, -(-len(gallery) // n_threads // _PART_ROWS) * _PART_ROWS)
    parts = [slice(start, min(start + step, len(gallery))) for start in range(0, max(1, len(gallery)), step)]
    found = np.empty((len(logits), k), np.float32), np.empty((len(logits), k), np.int64)
    for start in range(0, len(logits), largest):
        wide = _widened(logits[start : start + largest], n_bits)
        halves = half_byte_tables(wide)
        tasks = [functools.partial(_search_part, gallery, part, wide, halves, k, living) for part in parts]
        merged = merge(pool.run(tasks, n_threads), k)
        found[0][start : start + largest], found[1][start : start + largest] = merged
    return found


def _search_part(
    gallery: Codes,
    part: slice,
    logits: npt.NDArray[np.float64],
    halves: npt.NDArray[np.float64],
    k: int,
    living: Bits | None,
) -> Found:
    """The most similar codes among the rows of one part; at most k columns."""
    from hashret.hamming.lookup_scan import LookupScan  # starts numba

    scan = LookupScan(logits, halves, gallery.shape[1], min(k, part.stop - part.start))
    for first, tile in words.tiles(gallery, part.start, part.stop):
        scan.take(tile, first, flags_of(living, first, len(tile)))
    return scan.ordered()


def _checked(
    logits_QK: npt.ArrayLike, gallery_NB: npt.ArrayLike, alive: npt.ArrayLike | None, threads: int | None
) -> tuple[Logits, Codes, Bits | None, int]:
    """The arguments as arrays that fit together."""
    logits = check_logits(logits_QK)
    no_codes = np.empty((0, bytes_per_code(logits.shape[1])), np.uint8)
    gallery, _, living, n_threads = checked(gallery_NB, no_codes, logits.shape[1], alive, threads)
    return logits, gallery, living, n_threads


def _widened(logits_QK: Logits, n_bits: int) -> npt.NDArray[np.float64]:
    """The logits as float64, with zeros up to n_bits: bits beyond the last add nothing."""
    wide = np.zeros((len(logits_QK), n_bits))
    wide[:, : logits_QK.shape[1]] = logits_QK
    return wide
