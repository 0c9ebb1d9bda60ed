"""Features searched by a product quantiser, beside exact search: what it finds of the nearest, and what a picture takes.

Shape suffixes: Q queries, N gallery pictures, K neighbours.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret.errors import UsageError
from hashret.evaluation.compare import Representation
from hashret.index.inner_products import max_inner_products
from hashret.index.product import ProductIndex

KS = (1, 10, 20)
CELLS, PARTS, CENTROIDS = 8, 32, 256
FEW_CELLS = 2
"""Of all cells, that are looked at where not all are."""


def check_installed() -> None:
    """UsageError where faiss, which trains product quantisers, is not installed: before hours of training."""
    if importlib.util.find_spec("faiss") is None:
        raise UsageError("product quantisers are trained by faiss, which is not installed; pip install 'hashret[pq]'")


def product_beside_exact(features: Representation) -> dict[str, Any]:
    """By way of searching: recall of the exact nearest k by k, and bytes a picture, tables that all pictures share counted in.

    Exact: the largest inner products of vectors of length 1, in batches. Product: 8 cells, 32 parts of 256 centroids (fewer parts
    where 32 do not divide the vectors), a rotation for each cell, trained on the gallery itself (Kalantidis and Avrithis 2014). A
    query's own picture is searched like any other: this asks what a search keeps of another, not what is right.
    """
    queries_QD, gallery_ND = (np.asarray(side, np.float32) for side in (features.queries, features.gallery))
    most = min(max(KS), len(gallery_ND))
    _, exact_QK = max_inner_products(queries_QD, gallery_ND, most)
    cells = min(CELLS, len(gallery_ND))
    parts = max(n for n in range(1, PARTS + 1) if gallery_ND.shape[1] % n == 0)
    index = ProductIndex.fit(gallery_ND, coarse=cells, parts=parts, centroids=CENTROIDS)
    ways = {"exact": exact_QK, "product": index.search(queries_QD, most)[1]}
    if cells > FEW_CELLS:
        ways[f"product, {FEW_CELLS} of {cells} cells"] = index.search(queries_QD, most, cells=FEW_CELLS)[1]
    row_bytes = float(gallery_ND.dtype.itemsize * gallery_ND.shape[1])
    return {
        way: {
            "recall": {str(k): recall(exact_QK, found_QK, k) for k in KS if k <= most},
            "bytes_a_picture": row_bytes if way == "exact" else index.bytes_per_picture.total,
        }
        for way, found_QK in ways.items()
    }


def recall(exact_QK: NDArray[np.int64], found_QK: NDArray[np.int64], k: int) -> float:
    """The share of the exact first k that are among the first k found, over all queries."""
    shared = [
        len(set(exact.tolist()) & set(found.tolist()))
        for exact, found in zip(exact_QK[:, :k], found_QK[:, :k], strict=True)
    ]
    return float(np.mean(shared)) / k
