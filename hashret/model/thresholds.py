"""Thresholds of bits that balance them over given pictures.

Shape suffixes: N pictures, K bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hashret.errors import ModelError


def balanced_thresholds(logits_NK: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """One threshold a bit, float32 (K,): the median of its logit, so that half of the pictures are above it.

    Of an odd number the middle one is not above itself. Where many logits are equal to the median, or so near that float32
    knows nothing between, the threshold goes to that side of them that leaves the halves more equal (below them, when both
    do). A logit that is the same in all pictures is its own threshold, and the bit 0 in all. ModelError for no pictures, or for
    logits that are NaN or infinite.
    """
    if logits_NK.ndim != 2 or not len(logits_NK) or not np.isfinite(logits_NK).all():
        raise ModelError(f"logits have shape {logits_NK.shape}, expected (pictures, bits), at least one and all finite")
    ascending_NK = np.sort(logits_NK.astype(np.float32), axis=0)
    thresholds_K = np.median(ascending_NK, axis=0).astype(np.float32)
    n = len(ascending_NK)
    off_K = np.abs(2 * (ascending_NK > thresholds_K).sum(axis=0) - n)
    for bit in np.flatnonzero(off_K > n % 2).tolist():
        logits_N = ascending_NK[:, bit]
        cuts = np.flatnonzero(logits_N[1:] > logits_N[:-1])  # after these places logits differ, so a bit can
        if not len(cuts):
            continue
        best = int(cuts[np.argmin(np.abs(n - 2 * (cuts + 1)))])
        low, high = logits_N[best], logits_N[best + 1]
        middle = np.float32(low / 2 + high / 2)
        thresholds_K[bit] = middle if low <= middle < high else low
    return thresholds_K
