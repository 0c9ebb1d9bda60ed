"""Search with numpy alone: for small work, and for one query where starting numba would take longer than searching.

`np.bitwise_count` turns a gallery into distances; counting them finds the k-th, so nothing is sorted but the answer.
Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import words

Distances = npt.NDArray[np.uint16]

BLOCK_ROWS = 1 << 16
"""Rows compared at a time, so that temporaries stay in cache."""


def distances(queries_QB: Codes, gallery_NB: Codes) -> Distances:
    """Hamming distances (Q, N) uint16."""
    found = np.empty((len(queries_QB), len(gallery_NB)), np.uint16)
    queries = words.padded(queries_QB)
    for first, tile in words.tiles(gallery_NB, 0, len(gallery_NB)):
        for start in range(0, len(tile), BLOCK_ROWS):
            # One contiguous column a word: numpy's loops are several times faster over unit strides.
            columns = np.ascontiguousarray(tile[start : start + BLOCK_ROWS].T)
            stop = first + start + columns.shape[1]
            for query in range(len(queries)):
                target = found[query, first + start : stop]
                target[:] = np.bitwise_count(columns[0] ^ queries[query, 0])
                for word in range(1, len(columns)):
                    target += np.bitwise_count(columns[word] ^ queries[query, word])
    return found


def search(
    gallery_NB: Codes, queries_QB: Codes, k: int, alive: Bits | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Distances (Q, k) int32 and rows (Q, k) int64, ascending by (distance, row), padded with -1."""
    found_distances = np.full((len(queries_QB), k), -1, np.int32)
    found_rows = np.full((len(queries_QB), k), -1, np.int64)
    for query in range(len(queries_QB)):
        row = _one_query(queries_QB, query, gallery_NB, alive)
        below = np.cumsum(np.bincount(row)) if len(row) else np.zeros(0, np.int64)
        kth = int(np.searchsorted(below, k))
        near = np.flatnonzero(row <= kth)
        near = near[np.argsort(row[near], kind="stable")][:k]
        near = near[row[near] != _DEAD]
        found_distances[query, : len(near)] = row[near]
        found_rows[query, : len(near)] = near
    return found_distances, found_rows


def search_radii(
    gallery_NB: Codes, queries_QB: Codes, radii_Q: npt.NDArray[np.int64], alive: Bits | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Offsets (Q + 1) int64, distances int32 and rows int64 within each query's radius, ascending by (distance, row)."""
    offsets = np.zeros(len(queries_QB) + 1, np.int64)
    found_distances: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]
    found_rows: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    for query in range(len(queries_QB)):
        row = _one_query(queries_QB, query, gallery_NB, alive)
        near = np.flatnonzero((row <= radii_Q[query]) & (row != _DEAD))
        near = near[np.argsort(row[near], kind="stable")]
        found_distances.append(row[near].astype(np.int32))
        found_rows.append(near.astype(np.int64))
        offsets[query + 1] = offsets[query] + len(near)
    return offsets, np.concatenate(found_distances), np.concatenate(found_rows)


_DEAD = np.iinfo(np.uint16).max


def _one_query(queries: Codes, query: int, gallery: Codes, alive: Bits | None) -> Distances:
    """Distances (N,) of one query; codes that are not alive are farther than any distance."""
    row: Distances = distances(queries[query : query + 1], gallery)[0]
    if alive is not None:
        row[~alive] = _DEAD
    return row
