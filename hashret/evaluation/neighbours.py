"""How well codes keep the neighbours that float features have: no labels are needed for that.

Some pictures query all others. Those nearest by cosine are what is to be found; recall is the share of them among the nearest
codes, expected over the orders of codes at equal distance (hashret.metrics).

Two-stage search takes the nearest codes and ranks them by features. A float neighbour among those codes is ranked as high as
in a search by features alone, for no more pictures are before it: so the recall of its first ten is the share of the float
top-10 among the codes taken.

Shape suffixes: N pictures, D numbers of a feature, Q queries, B bytes of a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hashret import hamming
from hashret.codes import Codes
from hashret.index.cosine import CosineIndex
from hashret.metrics import RetrievalScores, retrieval_scores
from hashret.metrics.scores import Choices

TOP = 10
"""Float neighbours that are to be found."""
QUERIES = 1000
FEWEST_QUERIES = 200
_PAIRS = 200_000_000
"""Queries and pictures that are compared for one code at most, as long as there are FEWEST_QUERIES."""
_PAIRS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class FloatNeighbours:
    """Some pictures, and the rows of the nearest other ones by cosine."""

    n: int
    queries_Q: npt.NDArray[np.int64]
    nearest_QT: npt.NDArray[np.int64]


def float_neighbours(features_ND: npt.NDArray[np.floating], dtype: str = "float32", seed: int = 0) -> FloatNeighbours:
    """The TOP nearest others of some pictures, drawn with the seed, as a CosineIndex of this dtype finds them.

    Fewer where there are not so many others. SearchError for vectors that have no direction.
    """
    n, dim = features_ND.shape
    wanted = min(n, QUERIES, max(FEWEST_QUERIES, _PAIRS // n))
    queries = np.sort(np.random.default_rng(seed).choice(n, wanted, replace=False))
    index = CosineIndex(dim, dtype)
    index.add(features_ND)
    top = min(TOP, n - 1)
    _, rows = index.search(features_ND[queries], top + 1)
    # Itself goes; where more copies than that are as near and come before it, the last one does.
    others = rows != queries[:, None]
    others[others.all(axis=1), -1] = False
    return FloatNeighbours(n, queries, rows[others].reshape(len(queries), top))


def recall_of_codes(
    codes_NB: Codes, code_size: int, neighbours: FloatNeighbours, within: Sequence[int]
) -> RetrievalScores:
    """recall@k for each k in `within`: the share of the float neighbours among the k nearest codes."""
    choices = Choices(code_size=code_size)
    step = max(1, _PAIRS_AT_ONCE // neighbours.n)
    parts = []
    for start in range(0, len(neighbours.queries_Q), step):
        queries = neighbours.queries_Q[start : start + step]
        distances = hamming.distances(codes_NB[queries], codes_NB, code_size)
        relevant = np.zeros(distances.shape, np.bool_)
        np.put_along_axis(relevant, neighbours.nearest_QT[start : start + step], True, axis=1)
        valid = np.ones(distances.shape, np.bool_)
        valid[np.arange(len(queries)), queries] = False
        parts.append(retrieval_scores(distances, relevant, valid, ks=within, map_cutoffs=(), choices=choices))
    return RetrievalScores.merge(parts)
