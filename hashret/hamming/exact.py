"""Exact nearest neighbours of packed codes by Hamming distance: checks what comes in, chooses who computes.

Every path gives the same bytes: ascending by (distance, row), equal distances give the earlier row.
Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import plain, planner
from hashret.hamming.arguments import checked, checked_k, checked_radius, gathered
from hashret.hamming.merge import Found
from hashret.hamming.planner import Explanation, Plan

_LOADED = "hashret.hamming.nearest"
"""The module that every compiled kernel imports."""


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
    return explained(gallery_NB, queries_QB, k, code_size, alive, threads)[0]


def explained(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    k: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> tuple[Found, Explanation]:
    """The same answer, and how it was found: the plan, what it should have cost and what it did."""
    gallery, queries, living, _ = checked(gallery_NB, queries_QB, code_size, alive, threads)
    k = checked_k(k)
    started = time.perf_counter()
    gallery, living, numbers = gathered(gallery, living)
    within = max(1, min(k, len(gallery)))
    plan = planner.plan(len(gallery), gallery.shape[1], len(queries), within, threads, loaded=_LOADED in sys.modules)
    if plan.kernel == "numpy":
        found = plain.search(gallery, queries, within, living)
    else:
        from hashret.hamming import linear  # starts numba

        found = linear.search(_scan(plan), gallery, queries, within, living, plan.threads)
    if numbers is not None and len(numbers):
        found = found[0], np.where(found[1] < 0, -1, numbers[found[1]])
    if within < k:
        missing = ((0, 0), (0, k - within))
        found = np.pad(found[0], missing, constant_values=-1), np.pad(found[1], missing, constant_values=-1)
    milliseconds = 1e3 * (time.perf_counter() - started)
    codes = len(gallery) if living is None else int(np.count_nonzero(living))
    return found, Explanation(plan, milliseconds, codes, planner.are_measured())


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
    gallery, queries, living, _ = checked(gallery_NB, queries_QB, code_size, alive, threads)
    radii = np.full(len(queries), min(checked_radius(radius), 8 * gallery.shape[1]), np.int64)
    return _within(gallery, queries, radii, living, threads)


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
    gallery, queries, living, _ = checked(gallery_NB, queries_QB, code_size, alive, threads)
    kth = distances[:, -1].astype(np.int64)
    return _within(gallery, queries, np.where(kth < 0, 8 * gallery.shape[1], kth), living, threads)


def _within(
    gallery: Codes, queries: Codes, radii: npt.NDArray[np.int64], living: Bits | None, threads: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """All living codes within each query's radius, in CSR form."""
    gallery, living, numbers = gathered(gallery, living)
    plan = planner.plan(len(gallery), gallery.shape[1], len(queries), None, threads, loaded=_LOADED in sys.modules)
    if plan.kernel == "numpy":
        found = plain.search_radii(gallery, queries, radii, living)
    else:
        from hashret.hamming import linear  # starts numba

        found = linear.search_radii(_scan(plan), gallery, queries, radii, living, plan.threads)
    return found if numbers is None else (found[0], found[1], numbers[found[2]])


def distances(
    queries_QB: npt.ArrayLike, gallery_NB: npt.ArrayLike, code_size: int | None = None
) -> npt.NDArray[np.uint16]:
    """Hamming distances (Q, N) uint16 of every query to every gallery code."""
    gallery, queries, _, _ = checked(gallery_NB, queries_QB, code_size, None, None)
    return plain.distances(queries, gallery)


def _scan(plan: Plan) -> Any:
    """The kernel of a plan."""
    if plan.kernel == "row":
        from hashret.hamming.rows import RowScan

        return RowScan
    from hashret.hamming.tables import TableScan

    return TableScan
