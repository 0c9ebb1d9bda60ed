"""How many codes stand at each distance of each query: all that an exact score needs to know of a gallery.

A pair costs a popcount and one increment. Codes are visited in tiles that stay in cache while all queries pass over them.
Shape suffixes: N gallery codes, Q queries, B bytes and W words of a code, D distances from 0 to the code size, L words of labels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hashret.errors import SearchError
from hashret.hamming import threads as pool
from hashret.hamming import words
from hashret.hamming.arguments import checked
from hashret.hamming.compiled import lean
from hashret.hamming.rows import distance_between

Counts = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint64]

_TILE_ROWS = 1 << 14
"""Codes that all queries visit before the next: 128 KiB at 64 bits."""


def count(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    code_size: int,
    *,
    among: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> Counts:
    """Counts (Q, code_size + 1) int64: how many gallery codes differ from query q in exactly d bits.

    among: the first row and the one after the last (Q, 2) that each query is compared with; None: all. The answer does not depend
    on `threads`; None takes all cores. CodeError, SearchError for what does not fit.
    """
    gallery, queries, _, n_threads = checked(gallery_NB, queries_QB, code_size, None, threads)
    n, n_queries = len(gallery), len(queries)
    ranges = np.tile(np.array([0, n]), (n_queries, 1)) if among is None else np.array(among, np.int64)
    if ranges.shape != (n_queries, 2) or (n_queries and (ranges.min() < 0 or ranges.max() > n)):
        raise SearchError(
            f"among has shape {ranges.shape}, expected two rows of the {n} for each of {n_queries} queries"
        )
    asked = words.padded(queries)
    counted = np.zeros((n_queries, code_size + 1), np.int64)

    def visit(group: slice) -> None:
        for first, tile in words.tiles(gallery, 0, n):
            for start in range(0, len(tile), _TILE_ROWS):
                part = tile[start : start + _TILE_ROWS]
                here = np.clip(ranges[group] - (first + start), 0, len(part))
                count_ranges(part.reshape(-1), asked[group], here, (0,) * asked.shape[1], counted[group])

    _on_threads(visit, n_queries, n_threads)
    return counted


def count_sharing(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    code_size: int,
    gallery_labels_NL: Labels,
    query_labels_QL: Labels,
    threads: int | None = None,
) -> Counts:
    """Counts (Q, code_size + 1) int64 of the gallery codes that have a label in common with the query.

    Labels are bits of uint64 words, of a code or a query in a row. The other arguments are those of `count`.
    """
    gallery, queries, _, n_threads = checked(gallery_NB, queries_QB, code_size, None, threads)
    shapes = gallery_labels_NL.shape, query_labels_QL.shape
    if (shapes[0][:1], shapes[1][:1]) != ((len(gallery),), (len(queries),)) or shapes[0][1:] != shapes[1][1:]:
        raise SearchError(
            f"labels have shapes {shapes[0]} and {shapes[1]} for {len(gallery)} codes and {len(queries)} queries"
        )
    asked, wanted = words.padded(queries), np.ascontiguousarray(query_labels_QL)
    labels = np.ascontiguousarray(gallery_labels_NL)
    counted = np.zeros((len(queries), code_size + 1), np.int64)

    def visit(group: slice) -> None:
        for first, tile in words.tiles(gallery, 0, len(gallery)):
            for start in range(0, len(tile), _TILE_ROWS):
                part = tile[start : start + _TILE_ROWS]
                of_part = labels[first + start : first + start + len(part)]
                count_common(
                    part.reshape(-1), of_part, asked[group], wanted[group], (0,) * asked.shape[1], counted[group]
                )

    _on_threads(visit, len(queries), n_threads)
    return counted


def _on_threads(visit: Callable[[slice], None], n_queries: int, n_threads: int) -> None:
    """Call `visit` with slices of the queries, one a thread."""
    bounds = np.linspace(0, n_queries, min(n_threads, max(1, n_queries)) + 1).astype(int)
    groups = [slice(*pair) for pair in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    pool.run([functools.partial(visit, group) for group in groups], n_threads)


@lean
def count_ranges(block_words, queries, ranges, width, counted):  # type: ignore[no-untyped-def]
    """Add the distances of each query to the codes of its range, first and one after the last, of a block."""
    for j in range(queries.shape[0]):
        for row in range(ranges[j, 0], ranges[j, 1]):
            counted[j, np.int64(distance_between(block_words, row, queries, j, width))] += 1


@lean
def count_common(block_words, labels, queries, wanted, width, counted):  # type: ignore[no-untyped-def]
    """Add the distances of each query to the codes of a block that have a label in common with it."""
    for j in range(queries.shape[0]):
        for row in range(block_words.size // len(width)):
            common = np.uint64(0)
            for word in range(labels.shape[1]):
                common |= labels[row, word] & wanted[j, word]
            if common != np.uint64(0):
                counted[j, np.int64(distance_between(block_words, row, queries, j, width))] += 1
