"""The nearest gallery pictures of each query, and which class answers for which.

Shape suffixes: Q queries, N gallery pictures, K neighbours, P pairs of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of query and gallery picture that are looked at together: this bounds the memory."""


@dataclass(frozen=True)
class Pairs:
    """Every query against every gallery picture, some queries at a time.

    distances: a function from some queries to their distances (those, N), smaller is nearer; valid: likewise bool, whether
    a gallery picture counts for a query.
    """

    distances: Callable[[slice], NDArray[Any]]
    valid: Callable[[slice], NDArray[np.bool_]]
    n_queries: int
    n_gallery: int

    def chunks(self) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.bool_]]]:
        """(which queries, their distances, what counts) until all queries have come."""
        step = max(1, _PAIRS_AT_ONCE // max(1, self.n_gallery))
        for start in range(0, self.n_queries, step):
            rows = slice(start, min(start + step, self.n_queries))
            yield rows, self.distances(rows), self.valid(rows)


class Nearest(NamedTuple):
    """Gallery rows (Q, K), nearest first, and their distances (Q, K); what is missing is -1 and NaN."""

    rows_QK: Integers
    distances_QK: Floats


def nearest(pairs: Pairs, k: int) -> Nearest:
    """The k nearest of each query among what counts for it, ascending by (distance, row)."""
    width = min(k, pairs.n_gallery)
    rows_QK = np.full((pairs.n_queries, k), -1, np.int64)
    distances_QK = np.full((pairs.n_queries, k), np.nan)
    for rows, distances_QN, valid_QN in pairs.chunks():
        ranked_QN = np.where(valid_QN, distances_QN, np.inf)
        farthest_Q = np.partition(ranked_QN, width - 1, axis=1)[:, width - 1]
        # Those at least as near as the k-th, ties with it included, query by query and in the order of rows.
        query, row = np.nonzero(valid_QN & (ranked_QN <= farthest_Q[:, None]))
        order = np.lexsort((distances_QN[query, row], query))  # stable: equal distances stay in the order of rows
        query, row = query[order], row[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        query, row, place = (each[place < width] for each in (query, row, place))
        rows_QK[rows.start + query, place] = row
        distances_QK[rows.start + query, place] = distances_QN[query, row]
    return Nearest(rows_QK, distances_QK)


class Answers(NamedTuple):
    """How often a nearest picture of class `answered` came for queries of class `asked`: counts (P,), largest first.

    Equally near pictures share a query's one vote, so that the counts with asked equal to answered sum up to hit@1 times the
    number of queries. Equal counts are ordered by class numbers; -1 stands for pictures without a label.
    """

    asked_P: Integers
    answered_P: Integers
    counts_P: Floats


def answers(
    pairs: Pairs, query_labels_Q: Integers, gallery_labels_N: Integers, counted_Q: NDArray[np.bool_]
) -> Answers:
    """Which classes answer for which, from the nearest pictures of the queries that are counted."""
    width = int(gallery_labels_N.max(initial=-1)) + 2
    keys, votes = [np.empty(0, np.int64)], [np.empty(0)]
    for rows, distances_QN, valid_QN in pairs.chunks():
        distances = np.where(valid_QN, distances_QN, np.inf)
        tied = valid_QN & (distances == distances.min(axis=1, keepdims=True)) & counted_Q[rows, None]
        query, column = np.nonzero(tied)
        key = query_labels_Q[rows][query] * width + gallery_labels_N[column] + 1
        # Summed up at once: where all codes are equal every picture is nearest.
        summed = _summed(key, 1.0 / tied.sum(axis=1)[query])
        keys.append(summed[0])
        votes.append(summed[1])
    pairs_P, counts_P = _summed(np.concatenate(keys), np.concatenate(votes))
    order = np.argsort(-np.round(counts_P, 9), kind="stable")  # thirds that sum up to one are as good as one
    return Answers(pairs_P[order] // width, pairs_P[order] % width - 1, counts_P[order])


def _summed(keys: Integers, values: Floats) -> tuple[Integers, Floats]:
    """Each key once, ascending, with the sum of its values."""
    each, place = np.unique(keys, return_inverse=True)
    return each, np.bincount(place, weights=values, minlength=len(each)).astype(np.float64)


def confused(found: Answers) -> Answers:
    """The answers of another class, without those that have no label."""
    wrong = (found.asked_P != found.answered_P) & (found.answered_P >= 0)
    return Answers(*(values[wrong] for values in found))


def most_confused_classes(found: Answers, most: int) -> list[int]:
    """The classes of the most frequent wrong answers, at most so many, ascending."""
    classes: dict[int, None] = {}
    wrong = confused(found)
    for pair in zip(wrong.asked_P.tolist(), wrong.answered_P.tolist(), strict=True):
        if len(classes.keys() | set(pair)) > most:
            break
        classes.update(dict.fromkeys(pair))
    return sorted(classes)


def share(found: Answers, asked: int, answered: int) -> float:
    """Of the votes for queries of one class the share that went to the other; NaN for a class without queries."""
    of_class = found.asked_P == asked
    total = found.counts_P[of_class].sum()
    return float(found.counts_P[of_class & (found.answered_P == answered)].sum() / total) if total else float("nan")


def matrix(found: Answers, classes: list[int]) -> Floats:
    """Counts (C, C) of these classes: row asked, column answered."""
    place = {each: i for i, each in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    for asked, answered, count in zip(*(values.tolist() for values in found), strict=True):
        if asked in place and answered in place:
            counts[place[asked], place[answered]] = count
    return counts
