"""Linear search: a kernel over all rows, split over threads and groups of queries.

Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import sample, threads, words
from hashret.hamming.arguments import flags_of
from hashret.hamming.costs import known_costs
from hashret.hamming.merge import Found, merge
from hashret.hamming.nearest import KTH, Keyed, Nearest
from hashret.hamming.splitting import query_groups
from hashret.hamming.words import Words

FoundWithin = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]

CANDIDATE_BYTES = 1 << 26
"""Memory of a thread for candidates; more queries than fit are searched group by group."""


class Scan(Protocol):
    """A kernel, for a group of queries."""

    def __init__(self, queries_QW: Words) -> None: ...

    def nearest(self, part: Words, first_row: int, alive: Bits, found: Nearest) -> None:
        """Take the codes of consecutive rows into the candidates of every query."""

    def within(self, part: Words, first_row: int, alive: Bits, radii: npt.NDArray[np.int64]) -> Keyed:
        """The codes within each query's radius."""
        ...


def search(scan: type[Scan], gallery_NB: Codes, queries_QB: Codes, k: int, alive: Bits | None, n_threads: int) -> Found:
    """Distances (Q, k) int32 and rows (Q, k) int64, ascending by (distance, row), padded with -1."""
    n_bits = 8 * gallery_NB.shape[1]
    no_limits = np.full(len(queries_QB), n_bits + 1, np.int64)
    if not sample.samples(len(gallery_NB), k):
        return _search(scan, gallery_NB, queries_QB, k, alive, n_threads, no_limits)
    part, part_alive = sample.sample(gallery_NB, alive)
    rank = sample.rank_in_sample(k)
    at_rank = _search(scan, part, queries_QB, rank, part_alive, n_threads, no_limits)[0][:, -1]
    limits = np.where(at_rank < 0, n_bits, at_rank).astype(np.int64) + 1
    found = _search(scan, gallery_NB, queries_QB, k, alive, n_threads, limits)
    short = np.flatnonzero((found[1][:, -1] < 0) & (limits <= n_bits))
    if len(short):
        again = _search(scan, gallery_NB, queries_QB[short], k, alive, n_threads, no_limits[short])
        found[0][short], found[1][short] = again
    return found


def _search(
    scan: type[Scan],
    gallery: Codes,
    queries_QB: Codes,
    k: int,
    alive: Bits | None,
    n_threads: int,
    limits_Q: npt.NDArray[np.int64],
) -> Found:
    """The k nearest of what is nearer than each query's limit."""
    queries = words.padded(queries_QB)
    n_groups = query_groups(known_costs(), len(gallery), queries.shape[1], len(queries), k, n_threads)
    parts = _parts(len(gallery), n_threads // n_groups, sample.BLOCK_ROWS)
    largest = max(1, CANDIDATE_BYTES // (10 * (k + max(k, 64))))
    rounds = -(-len(queries) // (largest * n_groups))
    groups = _parts(len(queries), rounds * n_groups, 1)
    found_distances = np.full((len(queries), k), -1, np.int32)
    found_rows = np.full((len(queries), k), -1, np.int64)
    for first in range(0, len(groups), n_groups):
        at_once = groups[first : first + n_groups]
        tasks = [
            functools.partial(_nearest, scan, gallery, part, queries[group], k, alive, limits_Q[group])
            for group in at_once
            for part in parts
        ]
        answers = threads.run(tasks, n_threads)
        for i, group in enumerate(at_once):
            merged = merge(answers[i * len(parts) : (i + 1) * len(parts)], k)
            found_distances[group, : merged[0].shape[1]], found_rows[group, : merged[1].shape[1]] = merged
    return found_distances, found_rows


def search_radii(
    scan: type[Scan],
    gallery_NB: Codes,
    queries_QB: Codes,
    radii_Q: npt.NDArray[np.int64],
    alive: Bits | None,
    n_threads: int,
) -> FoundWithin:
    """Offsets (Q + 1) int64, distances int32 and rows int64 within each query's radius, ascending by (distance, row)."""
    queries = words.padded(queries_QB)
    parts = _parts(len(gallery_NB), n_threads, sample.BLOCK_ROWS)
    tasks = [functools.partial(_within, scan, gallery_NB, part, queries, radii_Q, alive) for part in parts]
    found = np.concatenate([np.empty((0, 2), np.int64), *threads.run(tasks, n_threads)])
    # Parts ascend, and rows of one key within a part: a stable sort keeps equal distances in the order of rows.
    found = found[np.argsort(found[:, 0], kind="stable")]
    query, distances = np.divmod(found[:, 0], 64 * queries.shape[1] + 1)
    offsets = np.searchsorted(query, np.arange(len(queries) + 1)).astype(np.int64)
    return offsets, distances.astype(np.int32), np.ascontiguousarray(found[:, 1])


def _nearest(
    scan: type[Scan],
    gallery: Codes,
    part: slice,
    queries: Words,
    k: int,
    alive: Bits | None,
    limits: npt.NDArray[np.int64],
) -> Found:
    """The nearest of a group of queries among the rows of one part; at most k columns."""
    nearest = Nearest.none_yet(len(queries), min(k, part.stop - part.start), 64 * queries.shape[1])
    nearest.state[KTH] = limits
    scanner = scan(queries)
    for first, tile in words.tiles(gallery, part.start, part.stop):
        scanner.nearest(tile, first, flags_of(alive, first, len(tile)), nearest)
    return nearest.ordered()


def _within(
    scan: type[Scan], gallery: Codes, part: slice, queries: Words, radii: npt.NDArray[np.int64], alive: Bits | None
) -> Keyed:
    """What lies within the radii among the rows of one part."""
    scanner = scan(queries)
    tiles = words.tiles(gallery, part.start, part.stop)
    found = [scanner.within(tile, first, flags_of(alive, first, len(tile)), radii) for first, tile in tiles]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def _parts(n: int, count: int, step: int) -> list[slice]:
    """At most `count` consecutive slices of 0..n that begin at multiples of `step`: every kernel's blocks stay whole."""
    n_steps = -(-n // step)
    count = max(1, min(count, n_steps))
    edges = [min(n, n_steps * i // count * step) for i in range(count + 1)]
    return [slice(edges[i], edges[i + 1]) for i in range(count)]
