"""Exact maximum inner product search among vectors that lie in an array, without an index.

Shape suffixes: N vectors, Q queries, K neighbours, D dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.errors import SearchError
from hashret.hamming.arguments import checked_k, checked_threads
from hashret.index import features, tiled
from hashret.index.features import Similarities
from hashret.index.tiled import Stretch


def max_inner_products(
    queries_QD: npt.ArrayLike, vectors_ND: npt.ArrayLike, k: int, threads: int | None = None
) -> tuple[Similarities, npt.NDArray[np.int64]]:
    """Similarities (Q, k) float32, descending, and rows (Q, k) int64 of the vectors with the largest inner products; exact.

    Vectors and queries are taken as they are, of any length up to 2**63, zeros too: a longer vector is nearer. Equal inner
    products give the earlier row; k beyond N is padded with NaN and -1. Candidates are found by products in float32, in
    tiles, and ranked by sums in float64 in one order, so the answer depends on no batch, thread or BLAS (see tiled.py), and is
    what `InnerProductIndex.search` gives. Memory beyond the answer is bounded. threads: as there.

    vectors_ND: float32 or float16, a memory-mapped .npy file for instance, of which nothing is copied; other floats, and rows
    that do not lie one after the other, are copied as float32 first. SearchError for NaN, infinity and what does not fit.

    >>> import numpy as np
    >>> similarities, rows = max_inner_products(np.array([[2.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]]), k=3)
    >>> similarities.tolist(), rows.tolist()
    ([[3.0, 2.0, nan]], [[1, 0, -1]])
    """
    k, n_threads = checked_k(k), checked_threads(threads)
    vectors: npt.NDArray[Any] = np.asarray(vectors_ND)
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise SearchError(f"vectors have shape {vectors.shape} and dtype {vectors.dtype}, expected floats (N, D)")
    dim = features.check_dim(vectors.shape[1])
    kept = vectors.dtype in (np.float32, np.float16) and vectors.dtype.isnative and vectors.flags.c_contiguous
    rows = vectors if kept else features.rows_of(vectors, dim, "float32", "inner_product")
    queries = features.queries_of(queries_QD, dim, "inner_product")
    everything = Stretch(rows, 0, None, features.checked_longest(rows))
    return tiled.search([everything], queries, k, math.inf, n_threads)
