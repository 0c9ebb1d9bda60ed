"""Exact nearest neighbours of packed codes by Hamming distance: checks what comes in, chooses who computes.

Every path gives the same bytes: ascending by (distance, row), equal distances give the earlier row.
Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes, check_codes
from hashret.errors import SearchError
from hashret.hamming import plain
from hashret.hamming.threads import available_threads
from hashret.hamming.words import words_per_code

_PLAIN_WORK = 1 << 14
"""Bytes compared up to which numpy is always quicker than a compiled kernel's start."""
_PLAIN_WORK_COLD = 1 << 27
"""Bytes compared up to which numpy (1-2 GB/s) beats loading numba and its cached kernels (most of a second)."""
_ROW_KERNEL = "hashret.hamming.rows"


def search(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    k: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Distances (Q, k) int32 and rows (Q, k) int64 of the k nearest gallery codes, exact.

    Ascending by (distance, row): equal distances give the earlier row. Beyond the number of living codes both are
    padded with -1. An empty gallery and zero queries are valid. The answer does not depend on `threads`.

    gallery_NB, queries_QB: packed uint8 codes; a memory-mapped gallery of whole 64-bit words is not copied.
    code_size: bits of a code; given, the tail bits of the queries are checked. alive: a flag (N,) a gallery code,
    False leaves it out. threads: None takes all cores. CodeError, SearchError for what does not fit.
    """
    gallery, queries, living, n_threads = _checked(gallery_NB, queries_QB, code_size, alive, threads)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise SearchError(f"k is {k!r}, expected a whole number from 1")
    gallery, living, numbers = _allowed(gallery, living)
    within = max(1, min(int(k), len(gallery)))
    if _takes_plain(gallery, queries):
        found = plain.search(gallery, queries, within, living)
    else:
        from hashret.hamming import linear  # starts numba

        scan, n_threads = _planned(gallery, queries, n_threads)
        found = linear.search(scan, gallery, queries, within, living, n_threads)
    if numbers is not None and len(numbers):
        found = found[0], np.where(found[1] < 0, -1, numbers[found[1]])
    if within == k:
        return found
    missing = ((0, 0), (0, int(k) - within))
    return np.pad(found[0], missing, constant_values=-1), np.pad(found[1], missing, constant_values=-1)


def search_radius(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    radius: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Offsets (Q + 1) int64, distances int32 and rows int64 of all gallery codes at most `radius` away (CSR).

    The codes of query i are those from offsets[i] to offsets[i + 1], ascending by (distance, row). Arguments as in
    `search`; radius in bits, from 0.
    """
    gallery, queries, living, n_threads = _checked(gallery_NB, queries_QB, code_size, alive, threads)
    if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or radius < 0:
        raise SearchError(f"radius is {radius!r}, expected a whole number of bits from 0")
    radii = np.full(len(queries), min(int(radius), 8 * gallery.shape[1]), np.int64)
    return _within(gallery, queries, radii, living, n_threads)


def search_ties(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    k: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The k nearest and all that are as near as the k-th: offsets, distances and rows as `search_radius` gives them.

    What is cut off by k is then never a matter of the order of rows. All living codes where there are fewer than k.
    """
    distances, _ = search(gallery_NB, queries_QB, k, code_size, alive, threads)
    gallery, queries, living, n_threads = _checked(gallery_NB, queries_QB, code_size, alive, threads)
    kth = distances[:, -1].astype(np.int64)
    return _within(gallery, queries, np.where(kth < 0, 8 * gallery.shape[1], kth), living, n_threads)


def _within(
    gallery: Codes, queries: Codes, radii: npt.NDArray[np.int64], living: Bits | None, n_threads: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """All living codes within each query's radius, in CSR form."""
    gallery, living, numbers = _allowed(gallery, living)
    if _takes_plain(gallery, queries):
        found = plain.search_radii(gallery, queries, radii, living)
    else:
        from hashret.hamming import linear  # starts numba

        scan, n_threads = _planned(gallery, queries, n_threads)
        found = linear.search_radii(scan, gallery, queries, radii, living, n_threads)
    return found if numbers is None else (found[0], found[1], numbers[found[2]])


def distances(
    queries_QB: npt.ArrayLike, gallery_NB: npt.ArrayLike, code_size: int | None = None
) -> npt.NDArray[np.uint16]:
    """Hamming distances (Q, N) uint16 of every query to every gallery code."""
    gallery, queries, _, _ = _checked(gallery_NB, queries_QB, code_size, None, None)
    return plain.distances(queries, gallery)


_FEW_ALLOWED = 8
"""Where at most one code in so many may be found, those are copied together first: less is read than compared."""
_SMALL_WORK = 1 << 18
"""Words compared in about the time it takes to hand a task to another thread."""
_BATCH = 8
"""Queries from which making tables pays."""


def _allowed(gallery: Codes, living: Bits | None) -> tuple[Codes, Bits | None, npt.NDArray[np.int64] | None]:
    """The gallery, flags and, where only the few living codes are left, their row numbers."""
    if living is None:
        return gallery, None, None
    count = int(np.count_nonzero(living))
    if count == len(gallery):
        return gallery, None, None
    if count * _FEW_ALLOWED > len(gallery):
        return gallery, living, None
    numbers = np.flatnonzero(living)
    return gallery[numbers], None, numbers


def _planned(gallery: Codes, queries: Codes, n_threads: int) -> tuple[Any, int]:
    """The kernel, and on how many threads."""
    from hashret.hamming.rows import RowScan
    from hashret.hamming.tables import TableScan

    work = len(gallery) * len(queries) * words_per_code(gallery.shape[1])
    return TableScan if len(queries) >= _BATCH else RowScan, 1 if work <= _SMALL_WORK else n_threads


def _takes_plain(gallery: Codes, queries: Codes) -> bool:
    """Whether numpy answers sooner: little work, or moderate work while the compiled kernels are not loaded."""
    work = len(queries) * gallery.size
    return work <= _PLAIN_WORK or (work <= _PLAIN_WORK_COLD and len(queries) <= 8 and _ROW_KERNEL not in sys.modules)


def _checked(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    code_size: int | None,
    alive: npt.ArrayLike | None,
    threads: int | None,
) -> tuple[Codes, Codes, Bits | None, int]:
    """The arguments as arrays that fit together."""
    gallery: npt.NDArray[Any] = np.asarray(gallery_NB)
    size = code_size if code_size is not None else 8 * gallery.shape[-1] if gallery.ndim == 2 else 0
    # Tail bits of a gallery were checked when its codes were made; a search does not read it all once more.
    check_codes(gallery[:0], size)
    queries = check_codes(queries_QB, size)
    living: Bits | None = None
    if alive is not None:
        living = np.asarray(alive)
        if living.dtype != np.bool_ or living.shape != (len(gallery),):
            raise SearchError(
                f"alive has dtype {living.dtype} and shape {living.shape}, expected bool of shape ({len(gallery)},)"
            )
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise SearchError(f"threads is {threads!r}, expected a whole number from 1, or None for all cores")
    return gallery, queries, living, threads or available_threads()
