"""The row kernel: exact Hamming search over row-major words, bound by memory for one query.

The smallest distance of a block, found by a vectorised loop, decides whether single codes are looked at: once k codes
are known hardly any block holds a nearer one. Candidates are kept in row order together with a histogram of their
distances, so the k-th distance is known after every code at constant cost, whatever k is.

Kernels are specialised by the number of words through the type of `width`, a tuple with one entry a word. They are
plain module-level functions, because numba finds those in its cache again and closures it does not.

Traps: index a slice from 0 (an index that numba cannot prove non-negative keeps its wrap-around test, and the loop runs
7x slower, silently); int64 and uint64 together make float64; a read-only array is another type than a writeable one.

Shape suffixes: N gallery codes, Q queries, B bytes and W words of a code.
"""

from __future__ import annotations

import functools
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import threads, words
from hashret.hamming.merge import Found, merge

BLOCK_ROWS = 256
"""Rows whose minimum is taken at once."""
SUB_ROWS = 32
"""Rows whose minimum is taken before single codes are looked at."""
TILE_WORDS = 1 << 13
"""Words that a group of queries visits before moving on: 64 KiB stay in the second-level cache."""
GROUP_QUERIES = 256
"""Queries that share a pass; bounds the memory for candidates."""
SMALL_WORK = 1 << 18
"""Words compared in about the time it takes to hand a task to another thread."""

U = np.uint64


@nb.njit(nogil=True, cache=True)
def popcount(v):  # type: ignore[no-untyped-def]
    """Bits set in a word. LLVM knows this pattern and emits the chip's own vector popcount where there is one."""
    v = v - ((v >> U(1)) & U(0x5555555555555555))
    v = (v & U(0x3333333333333333)) + ((v >> U(2)) & U(0x3333333333333333))
    v = (v + (v >> U(4))) & U(0x0F0F0F0F0F0F0F0F)
    return (v * U(0x0101010101010101)) >> U(56)


@nb.njit(nogil=True, cache=True)
def least_distance(block, query, width):  # type: ignore[no-untyped-def]
    """Smallest distance of the query to the codes of a block (flat words); the hot loop, vectorised by LLVM."""
    least = U(0xFFFF)
    for i in range(block.size // len(width)):
        distance = U(0)
        for w in range(len(width)):
            distance += popcount(block[i * len(width) + w] ^ query[w])
        least = min(least, distance)
    return least


@nb.njit(nogil=True, cache=True)
def distance_at(block, i, query, width):  # type: ignore[no-untyped-def]
    """Distance of the query to code i of a block."""
    distance = U(0)
    for w in range(len(width)):
        distance += popcount(block[i * len(width) + w] ^ query[w])
    return distance


@nb.njit(nogil=True, cache=True)
def keep_nearest(k, distances, rows, state):  # type: ignore[no-untyped-def]
    """Drop the candidates that can no longer be among the k nearest; those left stay in row order."""
    kth = state[1]
    at_kth = k - state[2]
    kept = 0
    for i in range(state[0]):
        if distances[i] == kth:
            if at_kth <= 0:
                continue
            at_kth -= 1
        elif distances[i] > kth:
            continue
        distances[kept] = distances[i]
        rows[kept] = rows[i]
        kept += 1
    state[0] = kept


@nb.njit(nogil=True, cache=True)
def scan(block_words, first_row, alive, queries, width, k, distances, rows, histogram, state):  # type: ignore[no-untyped-def]
    """Take the codes of block_words (flat, starting at first_row) into the candidates of every query.

    distances, rows (Q, capacity > k): candidates in row order. histogram (Q, bits + 2): candidates a distance.
    state (Q, 3): candidates held; k-th distance (bits + 1 until k are known); candidates nearer than it.
    alive: a flag a code, or empty when all are.
    """
    n_words = len(width)
    n = block_words.size // n_words
    tile_rows = max(BLOCK_ROWS, TILE_WORDS // n_words)
    capacity = distances.shape[1]
    for tile in range(0, n, tile_rows):
        tile_end = min(tile + tile_rows, n)
        for j in range(queries.shape[0]):
            query = queries[j]
            kth = U(state[j, 1])
            for start in range(tile, tile_end, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, tile_end)
                if least_distance(block_words[start * n_words : stop * n_words], query, width) >= kth:
                    continue
                for sub in range(start, stop, SUB_ROWS):
                    sub_stop = min(sub + SUB_ROWS, stop)
                    near = block_words[sub * n_words : sub_stop * n_words]
                    if least_distance(near, query, width) >= kth:
                        continue
                    for i in range(sub_stop - sub):
                        distance = distance_at(near, i, query, width)
                        if distance >= kth or (alive.size > 0 and not alive[sub + i]):
                            continue
                        if state[j, 0] == capacity:
                            keep_nearest(k, distances[j], rows[j], state[j])
                        held = state[j, 0]
                        distances[j, held] = distance
                        rows[j, held] = first_row + sub + i
                        state[j, 0] = held + 1
                        histogram[j, np.int64(distance)] += 1
                        state[j, 2] += 1
                        # The k-th distance is the smallest with at least k candidates at or below it.
                        while state[j, 2] >= k:
                            state[j, 1] -= 1
                            state[j, 2] -= histogram[j, state[j, 1]]
                        kth = U(state[j, 1])


@nb.njit(nogil=True, cache=True)
def order_candidates(k, distances, rows, histogram, state, out_distances, out_rows):  # type: ignore[no-untyped-def]
    """Write each query's nearest, ascending by (distance, row), by counting; out arrays come filled with -1."""
    for j in range(distances.shape[0]):
        keep_nearest(k, distances[j], rows[j], state[j])
        total = 0
        for d in range(histogram.shape[1]):
            count = histogram[j, d]
            histogram[j, d] = total
            total += count
        for i in range(state[j, 0]):
            d = distances[j, i]
            position = histogram[j, d]
            histogram[j, d] = position + 1
            out_distances[j, position] = d
            out_rows[j, position] = rows[j, i]


@nb.njit(nogil=True, cache=True)
def count_within(block_words, alive, queries, width, radius, counts):  # type: ignore[no-untyped-def]
    """Add to counts (Q, radius + 1) how many living codes lie at each distance up to the radius."""
    n_words = len(width)
    n = block_words.size // n_words
    tile_rows = max(BLOCK_ROWS, TILE_WORDS // n_words)
    limit = U(radius)
    for tile in range(0, n, tile_rows):
        tile_end = min(tile + tile_rows, n)
        for j in range(queries.shape[0]):
            query = queries[j]
            for start in range(tile, tile_end, SUB_ROWS):
                stop = min(start + SUB_ROWS, tile_end)
                near = block_words[start * n_words : stop * n_words]
                if least_distance(near, query, width) > limit:
                    continue
                for i in range(stop - start):
                    distance = distance_at(near, i, query, width)
                    if distance <= limit and (alive.size == 0 or alive[start + i]):
                        counts[j, np.int64(distance)] += 1


@nb.njit(nogil=True, cache=True)
def write_within(block_words, first_row, alive, queries, width, radius, places, out_distances, out_rows):  # type: ignore[no-untyped-def]
    """Write what `count_within` counted; places (Q, radius + 1) is where the next code at a distance goes."""
    n_words = len(width)
    n = block_words.size // n_words
    tile_rows = max(BLOCK_ROWS, TILE_WORDS // n_words)
    limit = U(radius)
    for tile in range(0, n, tile_rows):
        tile_end = min(tile + tile_rows, n)
        for j in range(queries.shape[0]):
            query = queries[j]
            for start in range(tile, tile_end, SUB_ROWS):
                stop = min(start + SUB_ROWS, tile_end)
                near = block_words[start * n_words : stop * n_words]
                if least_distance(near, query, width) > limit:
                    continue
                for i in range(stop - start):
                    distance = distance_at(near, i, query, width)
                    if distance <= limit and (alive.size == 0 or alive[start + i]):
                        place = places[j, np.int64(distance)]
                        places[j, np.int64(distance)] = place + 1
                        out_distances[place] = distance
                        out_rows[place] = first_row + start + i


FoundWithin = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]


def search(gallery_NB: Codes, queries_QB: Codes, k: int, alive: Bits | None, n_threads: int) -> Found:
    """Distances (Q, k) int32 and rows (Q, k) int64, ascending by (distance, row), padded with -1."""
    n, n_queries = len(gallery_NB), len(queries_QB)
    queries = words.padded(queries_QB)
    if n * n_queries * queries.shape[1] <= SMALL_WORK:
        n_threads = 1
    # A batch is split over its queries; few queries share the rows, and each thread reads its own part of the gallery.
    by_query = n_queries >= 2 * n_threads
    query_parts = _parts(n_queries, n_threads if by_query else 1, GROUP_QUERIES)
    row_parts = _parts(n, 1 if by_query else n_threads, n)
    tasks = [
        functools.partial(_search_part, gallery_NB, rows, queries[group], k, alive)
        for group in query_parts
        for rows in row_parts
    ]
    parts = threads.run(tasks, n_threads)
    found_distances = np.full((n_queries, k), -1, np.int32)
    found_rows = np.full((n_queries, k), -1, np.int64)
    for i, group in enumerate(query_parts):
        merged = merge(parts[i * len(row_parts) : (i + 1) * len(row_parts)], k)
        found_distances[group, : merged[0].shape[1]], found_rows[group, : merged[1].shape[1]] = merged
    return found_distances, found_rows


def _search_part(gallery: Codes, part: slice, queries: words.Words, k: int, alive: Bits | None) -> Found:
    """The nearest of a group of queries among the rows of one part; at most k columns."""
    n_queries, n_words = queries.shape
    k = min(k, part.stop - part.start)
    capacity = k + max(k, 64)
    distances = np.empty((n_queries, capacity), np.uint16)
    rows = np.empty((n_queries, capacity), np.int64)
    histogram = np.zeros((n_queries, 64 * n_words + 2), np.int64)
    state = np.zeros((n_queries, 3), np.int64)
    state[:, 1] = 64 * n_words + 1
    width = (0,) * n_words
    for first, tile in words.tiles(gallery, part.start, part.stop):
        flags = _flags(alive, first, len(tile))
        scan(tile.reshape(-1), first, flags, queries, width, k, distances, rows, histogram, state)
    found = np.full((n_queries, k), -1, np.int32), np.full((n_queries, k), -1, np.int64)
    order_candidates(k, distances, rows, histogram, state, *found)
    return found


def search_radius(gallery_NB: Codes, queries_QB: Codes, radius: int, alive: Bits | None, n_threads: int) -> FoundWithin:
    """Offsets (Q + 1) int64, distances int32 and rows int64 within the radius, each query by (distance, row)."""
    n, n_queries = len(gallery_NB), len(queries_QB)
    queries = words.padded(queries_QB)
    if n * n_queries * queries.shape[1] <= SMALL_WORK:
        n_threads = 1
    row_parts = _parts(n, n_threads, n)
    tasks = [functools.partial(_count_part, gallery_NB, rows, queries, radius, alive) for rows in row_parts]
    counts_PQD = np.stack(threads.run(tasks, n_threads))
    # The answer is ordered by query, then distance, then part: one running sum tells every part where to write.
    counts = counts_PQD.transpose(1, 2, 0)
    ends = np.cumsum(counts).reshape(counts.shape)
    places_PQD = np.ascontiguousarray((ends - counts).transpose(2, 0, 1))
    offsets = np.zeros(n_queries + 1, np.int64)
    np.cumsum(counts.sum(axis=(1, 2)), out=offsets[1:])
    found = np.empty(int(offsets[-1]), np.int32), np.empty(int(offsets[-1]), np.int64)
    writes = [
        functools.partial(_write_part, gallery_NB, rows, queries, radius, alive, places_PQD[i], found)
        for i, rows in enumerate(row_parts)
    ]
    threads.run(writes, n_threads)
    return offsets, *found


def _count_part(
    gallery: Codes, part: slice, queries: words.Words, radius: int, alive: Bits | None
) -> npt.NDArray[np.int64]:
    """How many living codes of one part lie at each distance: (Q, radius + 1)."""
    counts = np.zeros((len(queries), radius + 1), np.int64)
    width = (0,) * queries.shape[1]
    for first, tile in words.tiles(gallery, part.start, part.stop):
        count_within(tile.reshape(-1), _flags(alive, first, len(tile)), queries, width, radius, counts)
    return counts


def _write_part(
    gallery: Codes,
    part: slice,
    queries: words.Words,
    radius: int,
    alive: Bits | None,
    places: npt.NDArray[np.int64],
    found: tuple[npt.NDArray[Any], npt.NDArray[Any]],
) -> None:
    """Write one part's codes where the counts left room for them."""
    width = (0,) * queries.shape[1]
    for first, tile in words.tiles(gallery, part.start, part.stop):
        flags = _flags(alive, first, len(tile))
        write_within(tile.reshape(-1), first, flags, queries, width, radius, places, *found)


def _flags(alive: Bits | None, first: int, count: int) -> Bits:
    """The flags of a tile, read-only, or none when all codes are alive."""
    flags = np.zeros(0, np.bool_) if alive is None else alive[first : first + count]
    flags = np.ascontiguousarray(flags).view()
    flags.flags.writeable = False
    return flags


def _parts(n: int, count: int, largest: int) -> list[slice]:
    """Consecutive slices of 0..n: `count` of them, or more where one would be larger than `largest`."""
    count = max(1, min(count, n), -(-n // max(1, largest)))
    edges = [n * i // count for i in range(count + 1)]
    return [slice(edges[i], edges[i + 1]) for i in range(count)]
