"""Rankings as groups of equal distance: all that an exact score needs to know about one, whatever the distances are.

Shape suffixes: Q queries, N gallery items, G groups of equal distance that hold something relevant.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from hashret.errors import UsageError

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_HISTOGRAM_LIMIT = 4096
"""Whole distances below this are counted, larger ones and fractions are sorted."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """For each query its groups of equal distance, nearest first; rows are padded with groups of size 0."""

    size_QG: Counts
    """Items in the group."""
    relevant_QG: Counts
    """Relevant items in it."""
    closer_QG: Counts
    """Items strictly closer."""
    relevant_closer_QG: Counts
    """Relevant items strictly closer."""
    n_items_Q: Counts
    """Items the query was compared with."""
    n_relevant_Q: Counts
    """Relevant ones among them."""
    by_distance: bool
    """Whether column d is the group at distance d; else only groups with something relevant are here."""

    def select(self, queries: Flags) -> Groups:
        """The groups of some of the queries."""
        arrays = [field.name for field in dataclasses.fields(self) if field.name != "by_distance"]
        return Groups(by_distance=self.by_distance, **{name: getattr(self, name)[queries] for name in arrays})


def of_histograms(size_QD: npt.ArrayLike, relevant_QD: npt.ArrayLike) -> Groups:
    """Groups of rankings by whole distances, of how many items, and how many relevant ones, stand at each distance from 0."""
    size, relevant = np.asarray(size_QD, np.int64), np.asarray(relevant_QD, np.int64)
    return Groups(
        size_QG=size,
        relevant_QG=relevant,
        closer_QG=np.cumsum(size, axis=1) - size,
        relevant_closer_QG=np.cumsum(relevant, axis=1) - relevant,
        n_items_Q=size.sum(axis=1),
        n_relevant_Q=relevant.sum(axis=1),
        by_distance=True,
    )


def group(distances_QN: npt.ArrayLike, relevant_QN: npt.ArrayLike, valid_QN: npt.ArrayLike | None) -> Groups:
    """Groups of the rankings by these distances (smaller is nearer; whole numbers or finite floats).

    relevant, valid: bool (Q, N); what is not valid is no part of that query's gallery. UsageError for what does not fit.
    """
    distances, relevant = np.asarray(distances_QN), np.asarray(relevant_QN)
    if distances.ndim != 2 or not np.issubdtype(distances.dtype, np.number):
        raise UsageError(
            f"distances have shape {distances.shape} and dtype {distances.dtype}, expected numbers of shape (Q, N)"
        )
    valid = np.ones(distances.shape, np.bool_) if valid_QN is None else np.asarray(valid_QN)
    for name, flags in (("relevant", relevant), ("valid", valid)):
        if flags.dtype != np.bool_ or flags.shape != distances.shape:
            raise UsageError(
                f"{name} has dtype {flags.dtype} and shape {flags.shape}, expected bool of shape {distances.shape}"
            )
    relevant = relevant & valid
    whole = np.issubdtype(distances.dtype, np.integer)
    if whole and distances.min(initial=0) >= 0 and distances.max(initial=0) < _HISTOGRAM_LIMIT:
        return _counted(distances, relevant, valid)
    if not np.isfinite(distances[valid]).all():
        raise UsageError("a distance is NaN or infinite, expected finite numbers; check the embeddings")
    return _sorted(distances, relevant, valid)


def _counted(distances: npt.NDArray[np.integer], relevant: Flags, valid: Flags) -> Groups:
    """By histograms of the distances: one group a distance."""
    n_queries = len(distances)
    width = int(distances.max(initial=0)) + 1
    cell = distances.astype(np.int64) + width * np.arange(n_queries)[:, None]
    size = np.bincount(cell[valid], minlength=n_queries * width).reshape(n_queries, width)
    found = np.bincount(cell[relevant], minlength=n_queries * width).reshape(n_queries, width)
    return of_histograms(size, found)


def _sorted(distances: npt.NDArray[np.number], relevant: Flags, valid: Flags) -> Groups:
    """By sorting: one group a distance at which something relevant stands, so that rows stay short."""
    n_queries, n_items = distances.shape
    # What is not valid goes behind all else.
    whole = np.issubdtype(distances.dtype, np.integer)
    distances = np.where(valid, distances, np.iinfo(np.int64).max if whole else np.inf)
    order = np.argsort(distances, axis=1)
    ranked = np.take_along_axis(distances, order, axis=1)
    hits = np.take_along_axis(relevant, order, axis=1)
    n_valid = valid.sum(axis=1)
    first = np.ones(distances.shape, np.bool_)
    first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    starts = np.flatnonzero(first)
    positions = np.flatnonzero(hits)
    # Each relevant position belongs to the last start at or before it; equal starts are one group.
    start_of, found = np.unique(np.searchsorted(starts, positions, side="right") - 1, return_counts=True)
    ends = np.append(starts, distances.size)[start_of + 1]
    start = starts[start_of]
    query = start // max(n_items, 1)
    n_groups = np.bincount(query, minlength=n_queries)
    column = np.arange(len(query)) - np.repeat(np.cumsum(n_groups) - n_groups, n_groups)
    shape = (n_queries, int(n_groups.max(initial=0)))
    size, relevant_in, closer = (np.zeros(shape, np.int64) for _ in range(3))
    size[query, column] = ends - start
    relevant_in[query, column] = found
    closer[query, column] = start - query * n_items
    return Groups(
        size_QG=size,
        relevant_QG=relevant_in,
        closer_QG=closer,
        relevant_closer_QG=np.cumsum(relevant_in, axis=1) - relevant_in,
        n_items_Q=n_valid,
        n_relevant_Q=relevant_in.sum(axis=1),
        by_distance=False,
    )
