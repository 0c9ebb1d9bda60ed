"""Float vectors of length 1, and exact cosine search among them.

Shape suffixes: N gallery vectors, Q queries, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits
from hashret.errors import SearchError

Similarities = npt.NDArray[np.float32]

_BLOCK_VALUES = 1 << 24
"""Similarities held at a time: 64 MiB."""


def unit_vectors(features_ND: npt.ArrayLike, dim: int, dtype: str = "float32") -> npt.NDArray[Any]:
    """Vectors (N, dim) of length 1; SearchError for another shape, NaN, infinity or a vector of zeros."""
    features = np.asarray(features_ND)
    if features.ndim != 2 or features.shape[1] != dim or not np.issubdtype(features.dtype, np.floating):
        raise SearchError(f"vectors have shape {features.shape} and dtype {features.dtype}, expected floats (N, {dim})")
    wide = features.astype(np.float64)
    # Scaled by the largest entry first, so that no square overflows or vanishes.
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wrong = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
    if len(wrong):
        raise SearchError(
            f"vector {wrong[0]} is all zeros or holds NaN or infinity, expected finite numbers with a direction"
        )
    wide /= largest
    wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return wide.astype(dtype)


def approximate(gallery: npt.NDArray[Any], queries: Similarities, alive: Bits | None) -> Similarities:
    """Similarities (Q, N) by matrix product, -inf for what is not alive; rounding depends on the product's blocks."""
    found = np.empty((len(queries), len(gallery)), np.float32)
    step = max(1, _BLOCK_VALUES // max(1, gallery.shape[1]))
    for start in range(0, len(gallery), step):
        block = gallery[start : start + step].astype(np.float32, copy=False)
        np.matmul(queries, block.T, out=found[:, start : start + step])
    if alive is not None:
        found[:, ~alive] = -np.inf
    return found


def tolerance(dim: int) -> float:
    """More than twice what rounding can move a float32 product of two vectors of length 1, in any order of summation."""
    return float(4 * (dim + 2) * np.finfo(np.float32).eps)


def exact(gallery: npt.NDArray[Any], rows: npt.NDArray[np.int64], query: Similarities) -> Similarities:
    """Similarities of some rows, summed in float64 in one order: equal vectors get equal values wherever they stand."""
    found = np.empty(len(rows), np.float32)
    step = max(1, _BLOCK_VALUES // 4 // max(1, gallery.shape[1]))
    for start in range(0, len(rows), step):
        some = gallery[rows[start : start + step]].astype(np.float64)
        found[start : start + step] = np.minimum((some * query.astype(np.float64)).sum(axis=1), 1.0)
    return found


def query_blocks(n_queries: int, n_gallery: int) -> list[slice]:
    """Slices of the queries whose similarities fit into memory at once."""
    step = max(1, _BLOCK_VALUES // max(1, n_gallery))
    return [slice(start, min(start + step, n_queries)) for start in range(0, n_queries, step)]
