"""Answers over consecutive parts of a gallery become the answer over the whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Found = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]


def merge(parts: list[Found], k: int) -> Found:
    """The k nearest (or as many as there are) of answers over consecutive parts, given in part order.

    Each answer holds distances (Q, any) int32 and rows or ids (Q, any) int64, ascending, padded with -1. Equal distances
    keep the order of the parts, and -1 stays at the end.
    """
    if len(parts) == 1:
        return parts[0][0][:, :k], parts[0][1][:, :k]
    distances = np.concatenate([part[0] for part in parts], axis=1)
    rows = np.concatenate([part[1] for part in parts], axis=1)
    # As unsigned, -1 is the largest distance. A stable sort keeps earlier parts, whose rows are earlier, first.
    order = np.argsort(distances.view(np.uint32), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)
