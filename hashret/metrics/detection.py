"""How well one score tells two kinds of things apart, over all thresholds: those to be detected, and others.

Shape suffixes: P things to be detected, N others.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hashret.errors import UsageError


def auroc(positives_P: npt.ArrayLike, negatives_N: npt.ArrayLike) -> float:
    """The chance that a thing to be detected scores higher than another one, equal scores counting half.

    That is the area under the ROC curve, and the Mann-Whitney U of the positives divided by P · N. Exact under ties: independent
    of any order. Scores are finite numbers, higher for what is to be detected; at least one of each. UsageError otherwise.

    >>> auroc([3, 2], [1, 2])  # above both, above one, equal to one
    0.875
    """
    positives, negatives = _checked(positives_P, negatives_N)
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left").sum()
    up_to = np.searchsorted(ordered, positives, "right").sum()
    return float((int(below) + int(up_to)) / (2 * len(positives) * len(negatives)))


def fpr_at_tpr(positives_P: npt.ArrayLike, negatives_N: npt.ArrayLike, tpr: float = 0.95) -> float:
    """The share of others that is detected falsely where at least the share `tpr` of the positives is detected.

    What scores at least the threshold is detected. The threshold is the highest score of a positive at which that share is
    reached: no value between scores is interpolated, and all that is equal to it is detected, so ties count against the score.
    Scores as in `auroc`. In scikit-learn's terms: the smallest fpr of roc_curve(drop_intermediate=False) of tpr or more.

    >>> fpr_at_tpr([3, 2, 2], [1, 2, 0, 0], tpr=0.5)
    0.25
    """
    positives, negatives = _checked(positives_P, negatives_N)
    if not 0 < tpr <= 1:
        raise UsageError(f"tpr is {tpr}, expected a share above 0 and at most 1")
    n = len(positives)
    needed = math.ceil(tpr * n)
    if needed > 1 and (needed - 1) / n >= tpr:  # tpr · n was rounded up beyond a whole number
        needed -= 1
    threshold = np.sort(positives)[n - needed]
    return float(np.count_nonzero(negatives >= threshold) / len(negatives))


def _checked(
    positives_P: npt.ArrayLike, negatives_N: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    arrays = np.asarray(positives_P, np.float64), np.asarray(negatives_N, np.float64)
    for array, kind in zip(arrays, ("to be detected", "of others"), strict=True):
        if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
            raise UsageError(f"the scores {kind} have shape {array.shape}, expected at least one, all of them finite")
    return arrays
