"""Exact nearest neighbours of packed codes by Hamming distance: checks what comes in, chooses who computes.

Every path gives the same bytes: ascending by (distance, row), equal distances give the earlier row.
Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import plain, planner
from hashret.hamming.arguments import Rows, checked, checked_k, checked_radius, gathered
from hashret.hamming.costs import are_measured
from hashret.hamming.merge import Found
from hashret.hamming.planner import Explanation, Plan, share_within

if TYPE_CHECKING:
    from hashret.hamming.linear import FoundWithin

Explained = Callable[[float], Explanation]
"""Tells how a search was answered, given when it began."""

_LOADED = "hashret.hamming.nearest"
"""The module that every compiled kernel imports."""


@overload
def search(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    k: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    device: str = "cpu",
    explain: Literal[False] = False,
) -> Found: ...


@overload
def search(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    k: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    device: str = "cpu",
    explain: Literal[True],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], Explanation]: ...


def search(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    k: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    device: str = "cpu",
    explain: bool = False,
) -> Any:
    """Distances (Q, k) int32 and rows (Q, k) int64 of the k nearest gallery codes, exact.

    Ascending by (distance, row): equal distances give the earlier row. Beyond the number of living codes both are
    padded with -1. An empty gallery and zero queries are valid. The answer does not depend on `threads`.

    gallery_NB, queries_QB: packed uint8 codes; a memory-mapped gallery of whole 64-bit words is not copied.
    code_size: bits of a code; given, the tail bits of the queries are checked. alive: a flag (N,) a gallery code,
    False leaves it out. threads: None takes all cores. device: "cuda" or "cuda:1" sends the codes to that GPU and searches
    there, "auto" does where there is one and that is expected to be done sooner; `HammingIndex.to` keeps codes there for many
    searches. explain: a third thing comes back, an Explanation of how the search was answered. CodeError, SearchError for what
    does not fit, UsageError where there is no such GPU.
    """
    started = time.perf_counter()
    gallery, queries, living, _ = checked(gallery_NB, queries_QB, code_size, alive, threads)
    found, explained = nearest(gallery, queries, checked_k(k), living, threads, device)
    return (*found, explained(started)) if explain else found


@overload
def search_radius(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    radius: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    device: str = "cpu",
    explain: Literal[False] = False,
) -> FoundWithin: ...


@overload
def search_radius(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    radius: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    device: str = "cpu",
    explain: Literal[True],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64], Explanation]: ...


def search_radius(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    radius: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    device: str = "cpu",
    explain: bool = False,
) -> Any:
    """Offsets (Q + 1) int64, distances int32 and rows int64 of all gallery codes at most `radius` away (CSR).

    The codes of query i are those from offsets[i] to offsets[i + 1], ascending by (distance, row). Arguments as in
    `search`; radius in bits, from 0. explain: a fourth thing comes back, an Explanation.
    """
    started = time.perf_counter()
    gallery, queries, living, _ = checked(gallery_NB, queries_QB, code_size, alive, threads)
    radii = np.full(len(queries), min(checked_radius(radius), 8 * gallery.shape[1]), np.int64)
    found, explained = within(gallery, queries, radii, living, threads, device)
    return (*found, explained(started)) if explain else found


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
    return within(gallery, queries, np.where(kth < 0, 8 * gallery.shape[1], kth), living, threads)[0]


def nearest(
    gallery: Codes, queries: Codes, k: int, living: Bits | None, threads: int | None, device: str = "cpu"
) -> tuple[Found, Explained]:
    """`search` for arguments that are checked, and how it was answered."""
    gallery, living, numbers, flags = _among(gallery, living)
    held = max(1, min(k, len(gallery)))
    plan = _plan(gallery, queries, held, threads, flags)
    if device != "cpu":
        from hashret.hamming.gpu import once

        plan = once.plan(device, plan, gallery, queries, held, living)
    if plan.device != "cpu":
        found = once.gallery(device, gallery, living).search(queries, held)
    elif plan.kernel == "numpy":
        found = plain.search(gallery, queries, held, living)
    else:
        from hashret.hamming import linear  # starts numba

        found = linear.search(_scan(plan), gallery, queries, held, living, plan.threads)
    if numbers is not None and len(numbers):
        found = found[0], np.where(found[1] < 0, -1, numbers[found[1]])
    if held < k:
        missing = ((0, 0), (0, k - held))
        found = np.pad(found[0], missing, constant_values=-1), np.pad(found[1], missing, constant_values=-1)
    return found, functools.partial(_explained, plan, gallery, living)


def within(
    gallery: Codes,
    queries: Codes,
    radii: npt.NDArray[np.int64],
    living: Bits | None,
    threads: int | None,
    device: str = "cpu",
) -> tuple[FoundWithin, Explained]:
    """`search_radius` for arguments that are checked and a radius a query, and how it was answered."""
    gallery, living, numbers, flags = _among(gallery, living)
    radius = int(radii.mean()) if len(radii) else 0
    expected = len(gallery) * share_within(8 * gallery.shape[1], radius)
    plan = _plan(gallery, queries, None, threads, flags, expected)
    if device != "cpu":
        from hashret.hamming.gpu import once

        plan = once.plan(device, plan, gallery, queries, expected, living)
    if plan.device != "cpu":
        found = once.gallery(device, gallery, living).search_radii(queries, radii)
    elif plan.kernel == "numpy":
        found = plain.search_radii(gallery, queries, radii, living)
    else:
        from hashret.hamming import linear  # starts numba

        found = linear.search_radii(_scan(plan), gallery, queries, radii, living, plan.threads)
    if numbers is not None:
        found = found[0], found[1], numbers[found[2]]
    return found, functools.partial(_explained, plan, gallery, living)


def _among(gallery: Codes, living: Bits | None) -> tuple[Codes, Bits | None, Rows | None, int]:
    """What `gathered` gives, and how many flags cost time: as the planner takes them."""
    found, flags, numbers = gathered(gallery, living)
    return found, flags, numbers, len(gallery) if flags is not None or numbers is not None else 0


def _plan(gallery: Codes, queries: Codes, k: int | None, threads: int | None, flags: int, found: float = 0.0) -> Plan:
    """The plan for a linear search."""
    loaded = _LOADED in sys.modules
    return planner.plan(
        len(gallery), gallery.shape[1], len(queries), k, threads, found=found, flags=flags, loaded=loaded
    )


def _explained(plan: Plan, gallery: Codes, living: Bits | None, started: float) -> Explanation:
    """How a search that began at `started` was answered, just now."""
    milliseconds = 1e3 * (time.perf_counter() - started)
    compared = len(gallery) if living is None else int(np.count_nonzero(living))
    # The costs of a device are always its own.
    return Explanation(plan, milliseconds, compared, measured_costs=plan.device != "cpu" or are_measured())


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
