"""Reference answers of exact Hamming search: plain numpy, checkable in a minute, the oracle of every test.

Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes


def distances(queries_QB: Codes, gallery_NB: Codes) -> npt.NDArray[np.int64]:
    """Hamming distances (Q, N): how many bits differ."""
    differ = np.unpackbits(queries_QB[:, None, :] ^ gallery_NB[None, :, :], axis=2)
    counted: npt.NDArray[np.int64] = differ.sum(axis=2, dtype=np.int64)
    return counted


def search(
    gallery_NB: Codes, queries_QB: Codes, k: int, alive: Bits | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Distances (Q, k) and rows (Q, k) of the k nearest living codes, ascending by (distance, row), padded with -1."""
    found_distances = np.full((len(queries_QB), k), -1, np.int32)
    found_rows = np.full((len(queries_QB), k), -1, np.int64)
    living = np.arange(len(gallery_NB)) if alive is None else np.flatnonzero(alive)
    for query, row in enumerate(distances(queries_QB, gallery_NB)):
        nearest = living[np.lexsort((living, row[living]))][:k]
        found_distances[query, : len(nearest)] = row[nearest]
        found_rows[query, : len(nearest)] = nearest
    return found_distances, found_rows


def search_radius(
    gallery_NB: Codes, queries_QB: Codes, radius: int, alive: Bits | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Offsets (Q + 1), distances and rows of all living codes within the radius, in the order of `search`."""
    offsets, found_distances, found_rows = [0], [], []
    living = np.arange(len(gallery_NB)) if alive is None else np.flatnonzero(alive)
    for row in distances(queries_QB, gallery_NB):
        nearest = living[np.lexsort((living, row[living]))]
        nearest = nearest[row[nearest] <= radius]
        found_distances.append(row[nearest].astype(np.int32))
        found_rows.append(nearest.astype(np.int64))
        offsets.append(offsets[-1] + len(nearest))
    empty = np.empty(0, np.int64)
    return (
        np.array(offsets, np.int64),
        np.concatenate([empty.astype(np.int32), *found_distances]),
        np.concatenate([empty, *found_rows]),
    )
