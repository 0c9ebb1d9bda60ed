"""Labels that the neighbours contradict: suspected mistakes, and one picture under two labels.

The rule is that of edited nearest neighbours (Wilson 1972, "Asymptotic properties of nearest neighbor rules using edited
data"): a label is doubted when the nearest other pictures agree on another one. Here two kinds of nearness must agree.

Shape suffixes: Q queries, N gallery pictures, K neighbours, B bytes, D numbers of a feature vector, S suspects, T twins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashret import hamming
from hashret.codes import Codes
from hashret.data.table import PictureTable
from hashret.evaluation.controls import pixel_vectors
from hashret.report.ranking import Floats, Integers

CONFIDENT = 0.8
"""The share of neighbours that must agree on another label."""
ALIKE = 0.98
"""The cosine of features from which on two pictures look the same."""

_PAIRS_AT_ONCE = 1 << 22


class Suspects(NamedTuple):
    """Queries (S,) whose neighbours agree on another label (S,), how surely (S,), and how many vote for their own (S,).

    Confidence and support are shares of the neighbours' votes, 0 to 1: of several kinds of nearness the lowest
    confidence and the highest support. The most confident first, then the least supported, then by query.
    """

    queries_S: Integers
    labels_S: Integers
    confidences_S: Floats
    support_S: Floats

    def select(self, places: NDArray[np.bool_]) -> Suspects:
        """Those where `places` (S,) is true."""
        return Suspects(
            self.queries_S[places], self.labels_S[places], self.confidences_S[places], self.support_S[places]
        )


def suspects(
    query_labels_Q: Integers, gallery_labels_N: Integers, neighbours: Sequence[Integers], least: float = CONFIDENT
) -> Suspects:
    """Labels of queries that at least a share `least` of the neighbours contradict with one voice, in each kind of nearness.

    neighbours: for each kind of nearness gallery rows (Q, K), the query itself not among them. A missing neighbour (-1) and
    one without a label (-1) votes for nothing.
    """
    kinds = [np.where(rows_QK >= 0, gallery_labels_N[rows_QK], -1) for rows_QK in neighbours]
    n_neighbours = kinds[0].shape[1]
    found: list[tuple[int, int, float, float]] = []
    for query, own in enumerate(query_labels_Q.tolist()):
        votes = [np.unique(labels_QK[query], return_counts=True) for labels_QK in kinds]
        shares = [dict(zip(labels.tolist(), (counts / n_neighbours).tolist(), strict=True)) for labels, counts in votes]
        rivals = [label for label in shares[0] if label not in (own, -1)]
        if own < 0 or not rivals:
            continue
        # Of equally confident labels, the lowest number.
        confidence, negative = max((min(share.get(label, 0.0) for share in shares), -label) for label in rivals)
        if confidence >= least:
            found.append((query, -negative, confidence, max(share.get(own, 0.0) for share in shares)))
    found.sort(key=lambda suspect: (-suspect[2], suspect[3], suspect[0]))
    columns = list(zip(*found, strict=True)) or [(), (), (), ()]
    return Suspects(
        np.array(columns[0], np.int64), np.array(columns[1], np.int64),
        np.array(columns[2], np.float64), np.array(columns[3], np.float64),
    )  # fmt: skip


class Twins(NamedTuple):
    """Pairs of gallery rows first < second (T,) with two labels that look the same: bits apart and cosine (T,).

    Ordered by cosine, the highest first, then by rows; `n` counts all such pairs, of which not all need be here.
    """

    n: int
    first_T: Integers
    second_T: Integers
    bits_T: Integers
    cosines_T: Floats

    def select(self, places: Integers) -> Twins:
        """The pairs at these places, in this order."""
        return Twins(self.n, self.first_T[places], self.second_T[places], self.bits_T[places], self.cosines_T[places])


def twins(
    codes_NB: Codes,
    code_size: int,
    features_ND: NDArray[np.float32],
    labels_N: Integers,
    most: int,
    alike: float = ALIKE,
) -> Twins:
    """Pairs with two known labels whose codes are equal, or whose features have a cosine of `alike` or more.

    At most `most` of them: those of the highest cosine.
    """
    n_all, step = 0, max(1, _PAIRS_AT_ONCE // max(1, len(codes_NB)))
    nothing = np.empty(0, np.int64)
    found = Twins(0, nothing, nothing, nothing, np.empty(0))
    columns_N = np.arange(len(codes_NB))
    for start in range(0, len(codes_NB), step):
        rows = slice(start, min(start + step, len(codes_NB)))
        bits_QN = hamming.distances(codes_NB[rows], codes_NB, code_size)
        cosines_QN = features_ND[rows] @ features_ND.T
        pair_QN = (labels_N[rows, None] != labels_N[None, :]) & (labels_N[rows, None] >= 0) & (labels_N[None, :] >= 0)
        pair_QN &= (columns_N[rows, None] < columns_N[None, :]) & ((bits_QN == 0) | (cosines_QN >= alike))
        query, column = np.nonzero(pair_QN)
        n_all += len(query)
        first = np.concatenate([found.first_T, query + start])
        second = np.concatenate([found.second_T, column])
        bits = np.concatenate([found.bits_T, bits_QN[query, column]])
        cosines = np.concatenate([found.cosines_T, cosines_QN[query, column].astype(np.float64)])
        found = Twins(n_all, first, second, bits, cosines).select(np.lexsort((second, first, -cosines))[:most])
    return found


def pixel_likeness(gallery: PictureTable, found: Twins) -> NDArray[np.float64]:
    """Correlation (T,) of the pixels of both pictures of each pair, at 32×32: 1 for the same picture, whatever its format.

    Reads the pictures; ImageError when one is gone.
    """
    if not len(found.first_T):
        return np.empty(0)
    rows, place = np.unique(np.concatenate([found.first_T, found.second_T]), return_inverse=True)
    vectors = pixel_vectors(gallery.select(rows)).astype(np.float64)
    first, second = vectors[place[: len(found.first_T)]], vectors[place[len(found.first_T) :]]
    return np.asarray((first * second).sum(axis=1))
