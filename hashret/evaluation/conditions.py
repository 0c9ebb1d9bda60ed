"""Under which conditions retrieval holds: top-1 where what is to be found was taken in one condition alone.

Shape suffixes: Q queries, N gallery pictures, C conditions, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashret.data.table import PictureTable
from hashret.data.turntable.scene import TIMES
from hashret.errors import UsageError
from hashret.evaluation.compare import Representation
from hashret.evaluation.gallery import degrees, numbered

STEP_DEGREES = 15

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of query and gallery picture that are looked at together: this bounds the memory."""


class TopOneByCondition(NamedTuple):
    """Of each condition (C,): top-1, over how many queries, and how many pictures each of them can find; NaN without a query."""

    top1_C: NDArray[np.float64]
    n_queries_C: NDArray[np.int64]
    findable_C: NDArray[np.float64]


def top1_by_condition(
    representation: Representation,
    query_labels_Q: NDArray[np.int64],
    gallery_labels_N: NDArray[np.int64],
    condition_of_pairs: Callable[[slice], NDArray[np.integer]],
    n_conditions: int,
    valid: Callable[[slice], NDArray[np.bool_]],
) -> TopOneByCondition:
    """How often the nearest picture is right when a query's own class is in the gallery in one condition alone.

    For query q and condition c the gallery holds, of q's class, the pictures n for which condition(q, n) is c, and all
    pictures of other classes whatever their condition; the others of its class are left out. A query counts for c when there
    is such a picture. Equally near pictures come in any order: the expectation over all orders. A condition with more
    pictures to be found a query is the easier for it: compare top-1 beside `findable_C`.

    Labels are whole numbers, equal for one class; a negative one is none, and never right. condition_of_pairs and valid:
    functions from some of the queries to (those, N): the condition of each pair, -1 for none of them, and whether the
    gallery picture counts for the query at all. UsageError for conditions beyond n_conditions, or labels that do not fit.

    >>> vectors = np.eye(3, dtype=np.float32)
    >>> three = Representation("", vectors[[0, 1]], vectors[[0, 1, 0]])
    >>> found = top1_by_condition(
    ...     three, np.array([0, 1]), np.array([0, 0, 1]), lambda rows: np.array([[0, 1, 0], [0, 1, 0]])[rows], 2,
    ...     lambda rows: np.ones((2, 3), bool)[rows])
    >>> found.top1_C.tolist(), found.n_queries_C.tolist(), found.findable_C.tolist()
    ([0.25, 0.0], [2, 1], [1.0, 1.0])
    """
    shape = len(representation.queries), len(representation.gallery)
    if (len(query_labels_Q), len(gallery_labels_N)) != shape:
        raise UsageError(
            f"there are labels of {len(query_labels_Q)} queries and {len(gallery_labels_N)} gallery pictures, expected "
            f"{shape[0]} and {shape[1]}"
        )
    hits_C, findable_C = np.zeros(n_conditions), np.zeros(n_conditions)
    n_queries_C = np.zeros(n_conditions, np.int64)
    step = max(1, _PAIRS_AT_ONCE // max(1, shape[1]))
    for start in range(0, shape[0], step):
        rows = slice(start, min(start + step, shape[0]))
        distances_QN, valid_QN, condition_QN = representation.distances(rows), valid(rows), condition_of_pairs(rows)
        if condition_QN.max(initial=-1) >= n_conditions:
            raise UsageError(
                f"a pair has the condition {condition_QN.max()}, expected 0 to {n_conditions - 1}, or -1 for none"
            )
        labels_Q = query_labels_Q[rows]
        same_QN = (labels_Q[:, None] == gallery_labels_N[None]) & (labels_Q >= 0)[:, None]
        rivals_QN = np.where(valid_QN & ~same_QN, distances_QN, np.inf)
        nearest_rival_Q = rivals_QN.min(axis=1, initial=np.inf)
        n_rivals_Q = (np.isfinite(rivals_QN) & (rivals_QN == nearest_rival_Q[:, None])).sum(axis=1)
        query_P, row_P = np.nonzero(valid_QN & same_QN & (condition_QN >= 0))
        cell_P = query_P * n_conditions + condition_QN[query_P, row_P]
        cells, place_P, n_findable = np.unique(cell_P, return_inverse=True, return_counts=True)
        distance_P = distances_QN[query_P, row_P]
        nearest = np.full(len(cells), np.inf)
        np.minimum.at(nearest, place_P, distance_P)
        n_nearest = np.bincount(place_P, weights=distance_P == nearest[place_P], minlength=len(cells))
        query, condition = cells // n_conditions, cells % n_conditions
        tied = n_nearest / (n_nearest + n_rivals_Q[query])
        rival = nearest_rival_Q[query]
        hit = np.where(nearest < rival, 1.0, np.where(nearest == rival, tied, 0.0))
        hits_C += np.bincount(condition, weights=hit, minlength=n_conditions)
        n_queries_C += np.bincount(condition, minlength=n_conditions)
        findable_C += np.bincount(condition, weights=n_findable, minlength=n_conditions)
    with np.errstate(invalid="ignore"):
        return TopOneByCondition(hits_C / n_queries_C, n_queries_C, findable_C / n_queries_C)


@dataclass(frozen=True)
class Conditions:
    """Conditions of pairs, laid out as a map: row r and column c have the number r * len(columns) + c.

    of_pairs: a function from some of the queries to the condition (those, N) of each pair.
    """

    rows: list[str]
    columns: list[str]
    of_pairs: Callable[[slice], NDArray[np.int64]]

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.columns)


def rotation_by_time(queries: PictureTable, gallery: PictureTable) -> Conditions:
    """The query's time of day (rows) by how far the view is turned, 0 to 180 degrees in steps of 15 (columns).

    A turn goes to the nearest step, the shorter way round. UsageError when a view is no number of degrees.
    """
    view_Q, view_N = degrees(queries), degrees(gallery)
    times, (time_Q, _) = _times(queries, gallery)
    n_steps = 180 // STEP_DEGREES + 1

    def of_pairs(rows: slice) -> NDArray[np.int64]:
        apart_QN = np.abs(view_Q[rows, None] - view_N[None]) % 360.0
        turned_QN = np.minimum(apart_QN, 360.0 - apart_QN)
        return time_Q[rows, None] * n_steps + np.floor(turned_QN / STEP_DEGREES + 0.5).astype(np.int64)

    return Conditions(times, [f"{STEP_DEGREES * i}°" for i in range(n_steps)], of_pairs)


def time_by_time(queries: PictureTable, gallery: PictureTable) -> Conditions:
    """The query's time of day (rows) by that of the gallery picture (columns)."""
    times, (time_Q, time_N) = _times(queries, gallery)
    return Conditions(times, times, lambda rows: time_Q[rows, None] * len(times) + time_N[None])


def has_views_and_times(table: PictureTable) -> bool:
    """Whether a table says of its pictures from which side (`view`, in degrees) and when (`time`) they were taken."""
    if not {"view", "time"} <= set(table.attributes):
        return False
    try:
        degrees(table)
    except UsageError:
        return False
    return True


def _times(
    queries: PictureTable, gallery: PictureTable
) -> tuple[list[str], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Times of day in the order of the day, others behind by name; and the number of each picture's."""
    sides: tuple[Sequence[str], Sequence[str]] = (queries.attributes["time"], gallery.attributes["time"])
    found = {*sides[0], *sides[1]}
    times = [*(time for time in TIMES if time in found), *sorted(found - set(TIMES))]
    _, numbers = numbered(times, [*sides[0], *sides[1]])
    return [time or "unknown" for time in times], (numbers[: len(sides[0])], numbers[len(sides[0]) :])
