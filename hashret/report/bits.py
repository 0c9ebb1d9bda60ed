"""What the bits of a set of codes are worth, besides what `codes.statistics` says.

Shape suffixes: N codes, K bits, B bytes, D distances from 0 to K.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashret import codes
from hashret.report.ranking import Floats, Integers, Pairs


def correlations(codes_NB: codes.Codes, code_size: int) -> Floats:
    """Correlation (K, K) of every two bits over the codes, 1 for a bit with itself; NaN for bits that never change."""
    bits_NK = codes.unpack(codes_NB, code_size).astype(np.float64)
    centred = bits_NK - bits_NK.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    spread[spread == 0] = np.nan
    correlation: Floats = (centred.T @ centred) / np.outer(spread, spread)
    return correlation


class BitPair(NamedTuple):
    """Two bits, counted from 0, and their correlation."""

    first: int
    second: int
    correlation: float


def most_correlated(correlation_KK: Floats, most: int) -> list[BitPair]:
    """The pairs of different bits with the largest |correlation|, largest first, ties by bit."""
    first, second = np.triu_indices(len(correlation_KK), 1)
    values = correlation_KK[first, second]
    known = np.flatnonzero(~np.isnan(values))
    chosen = known[np.argsort(-np.abs(values[known]), kind="stable")[:most]]
    return [BitPair(int(first[i]), int(second[i]), float(values[i])) for i in chosen]


class DistanceCounts(NamedTuple):
    """How many pairs of one class, and of two, are at each distance: two times (D,) int64, D = code_size + 1."""

    same_D: Integers
    other_D: Integers

    @property
    def separation(self) -> float:
        """Chance that a pair of one class is nearer than a pair of two, equal distances counting half; NaN without pairs.

        1 keeps all classes apart, 0.5 is chance: the area under the ROC curve of the distance.
        """
        n_pairs = int(self.same_D.sum()) * int(self.other_D.sum())
        if not n_pairs:
            return float("nan")
        farther = self.other_D.sum() - np.cumsum(self.other_D)
        return float((self.same_D * (farther + self.other_D / 2)).sum() / n_pairs)


def distance_counts(
    pairs: Pairs, query_labels_Q: Integers, gallery_labels_N: Integers, code_size: int
) -> DistanceCounts:
    """Distances of each query to all that counts for it and has a label (-1 is none), by whether the label is its own."""
    same_D, other_D = np.zeros(code_size + 1, np.int64), np.zeros(code_size + 1, np.int64)
    for rows, distances_QN, valid_QN in pairs.chunks():
        same_QN = query_labels_Q[rows, None] == gallery_labels_N[None, :]
        labelled_QN = valid_QN & (gallery_labels_N >= 0)[None, :]
        for counts, chosen in ((same_D, labelled_QN & same_QN), (other_D, labelled_QN & ~same_QN)):
            counts += np.bincount(distances_QN[chosen], minlength=code_size + 1)
    return DistanceCounts(same_D, other_D)


def activation_counts(
    logits_NK: NDArray[np.float32], thresholds_K: NDArray[np.float32] | None, bins: int = 40
) -> Integers:
    """How many activations tanh(logit - threshold) lie in each of `bins` equal parts of -1 to 1: (bins,) int64."""
    activations = np.tanh(logits_NK if thresholds_K is None else logits_NK - thresholds_K)
    counts, _ = np.histogram(activations, bins, (-1.0, 1.0))
    return counts.astype(np.int64)
