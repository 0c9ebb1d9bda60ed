"""All numbers of a report, computed once: a model's codes, logits and features of labelled pictures in, findings out.

Shape suffixes: Q queries, N gallery pictures, P all pictures, K bits, B bytes, D numbers of a feature vector. Arrays of what a
model made have a row for each of the pictures, whatever their suffix.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret import codes
from hashret.data.table import PictureTable
from hashret.evaluation.compare import Representation, Result, TwoStage, compare
from hashret.evaluation.conditions import (
    Conditions,
    TopOneByCondition,
    has_views_and_times,
    rotation_by_time,
    time_by_time,
    top1_by_condition,
)
from hashret.evaluation.curves import RankCurves, rank_curves
from hashret.evaluation.gallery import GalleryRule
from hashret.metrics import Curve, bootstrap_interval, distance_histograms
from hashret.report import bits, labels, picture_map, ranking
from hashret.report.picture_map import PictureMap
from hashret.report.ranking import Answers, Floats, Integers, Nearest, Pairs

CODES, TWO_STAGE, LOGITS, FEATURES = "codes", "two-stage", "logits", "features"
"""What stands for a picture, from the cheapest to the dearest."""

TURN, LIGHT = "turn", "light"
"""Conditions under which pictures are found: how far the view is turned, and at which time of day."""

SHOWN_NEIGHBOURS = 5
SHORTLIST = 100
"""Codes that the features rank in a two-stage search."""
MOST_TWINS = 200
LISTED = 50
"""Worst queries and confused pairs that the document names."""
RIGHT, TIED, WRONG, UNSCORED = 2, 1, 0, -1
"""Whether a query's nearest picture is of its class: in every order of ties, in some, in none; nothing to find."""


@dataclass(frozen=True)
class Encodings:
    """What a model made of N pictures: packed codes, logits (N, K) and features of length 1 (N, D); thresholds (K,) or None."""

    code_size: int
    codes_NB: codes.Codes
    logits_NK: NDArray[np.float32]
    features_ND: NDArray[np.float32]
    thresholds_K: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ClassScore:
    """How well queries of one class do by codes and by features: means over those that have something to find.

    taken_for: the class that answers most often in its place, "" where none does.
    """

    label: str
    n_queries: int
    hit1: float
    ap: float
    float_hit1: float
    float_ap: float
    taken_for: str


@dataclass(frozen=True)
class ConditionMap:
    """Top-1 where only one condition is to be found, by codes and by features."""

    conditions: Conditions
    found: dict[str, TopOneByCondition]

    def grid(self, name: str) -> tuple[Floats, Floats, Integers]:
        """Top-1, pictures to be found a query, and queries, each (R + 1, C): the conditions, and below them all rows together."""
        shape = len(self.conditions.rows), len(self.conditions.columns)
        top1, n_queries, findable = (
            each.reshape(shape)
            for each in (self.found[name].top1_C, self.found[name].n_queries_C, self.found[name].findable_C)
        )
        total = n_queries.sum(axis=0)
        with np.errstate(invalid="ignore"):
            top1_all, findable_all = (np.nansum(each * n_queries, axis=0) / total for each in (top1, findable))
        return np.vstack([top1, top1_all]), np.vstack([findable, findable_all]), np.vstack([n_queries, total])

    def as_dict(self) -> dict[str, Any]:
        """The map as JSON values, None where there is no query."""
        grids = {name: self.grid(name) for name in self.found}
        _, findable, n_queries = grids[CODES]
        return {
            "rows": [*self.conditions.rows, "all"],
            "columns": self.conditions.columns,
            "top1": {name: _or_none(top1) for name, (top1, _, _) in grids.items()},
            "findable": _or_none(findable),
            "queries": n_queries.tolist(),
        }


@dataclass(frozen=True)
class Analysis:
    """The numbers of a report; queries are the pictures `query_rows_Q`, labels are numbers into `classes`.

    `pictures` holds queries and gallery, and all rows are rows of it.
    """

    pictures: PictureTable
    query_rows_Q: Integers
    classes: list[str]
    labels_P: Integers
    results: dict[str, Result]
    code_statistics: codes.CodeStatistics
    correlation_KK: Floats
    bit_pairs: list[bits.BitPair]
    distances: bits.DistanceCounts
    activations: Integers
    nearest: dict[str, Nearest]
    answers: Answers
    n_votes: int
    suspects: labels.Suspects
    twins: labels.Twins
    twin_pixels_T: Floats
    curves: dict[str, RankCurves]
    radius_curve: Curve
    conditions: dict[str, ConditionMap]
    picture_map: PictureMap | None = None

    @property
    def labels_Q(self) -> Integers:
        """Class numbers of the queries."""
        return self.labels_P[self.query_rows_Q]

    @cached_property
    def ap(self) -> dict[str, Floats]:
        """Average precision over all ranks (Q,) of each representation, NaN where there is nothing to find."""
        return {name: per_query(result, "map@all") for name, result in self.results.items()}

    @cached_property
    def outcomes(self) -> dict[str, NDArray[np.int8]]:
        """RIGHT, TIED, WRONG or UNSCORED (Q,) for each representation."""
        return {name: outcomes(result) for name, result in self.results.items()}

    def interval(self, name: str, score: str) -> tuple[float, float]:
        """The 95 % interval of a score of one representation, over queries."""
        return bootstrap_interval(self.results[name].scores.per_query(score))

    def loss(self, score: str) -> tuple[float, tuple[float, float]]:
        """By how much the features' score is above the codes', and the 95 % interval of that over queries, which are paired."""
        per = [self.results[name].scores.per_query(score) for name in (FEATURES, CODES)]
        return float((per[0] - per[1]).mean()), bootstrap_interval(per[0] - per[1])

    def without_suspects(self, ids: Collection[str]) -> Analysis:
        """The same numbers, but for suspects with these ids."""
        rows = self.query_rows_Q[self.suspects.queries_S].tolist()
        others = np.array([self.pictures.ids[row] not in ids for row in rows], dtype=bool)
        return replace(self, suspects=self.suspects.select(others))

    def worst(self, most: int) -> list[int]:
        """The queries of the lowest average precision by codes, ties by row."""
        ap_Q = self.ap[CODES]
        order = np.argsort(ap_Q, kind="stable")
        return [int(query) for query in order[:most] if not np.isnan(ap_Q[query])]

    def best(self, most: int) -> list[int]:
        """The queries of the highest average precision by codes, at most one a class, ties by row."""
        ap_Q = self.ap[CODES]
        order = [int(query) for query in np.argsort(-ap_Q, kind="stable") if not np.isnan(ap_Q[query])]
        _, first = np.unique(self.labels_Q[order], return_index=True)
        return [order[place] for place in np.sort(first)[:most]]

    def lost_to_bits(self) -> list[int]:
        """Queries that features answer rightly and codes wrongly, the largest loss of average precision first."""
        lost = np.flatnonzero((self.outcomes[FEATURES] == RIGHT) & (self.outcomes[CODES] == WRONG))
        loss = self.ap[CODES][lost] - self.ap[FEATURES][lost]
        return [int(query) for query in lost[np.argsort(loss, kind="stable")]]

    def crossed(self) -> NDArray[np.int64]:
        """Counts (3, 3): queries by the features' outcome (row) and the codes' (column), each right, tied, wrong."""
        kinds = (RIGHT, TIED, WRONG)
        one, two = self.outcomes[FEATURES], self.outcomes[CODES]
        return np.array([[int(((one == a) & (two == b)).sum()) for b in kinds] for a in kinds])

    def class_scores(self) -> list[ClassScore]:
        """Every class with its scores by codes, the lowest mean average precision first."""
        labels_Q, scored = self.labels_Q, np.flatnonzero(~np.isnan(self.ap[CODES]))
        counts = np.bincount(labels_Q[scored], minlength=len(self.classes))
        hit1, ap, float_hit1, float_ap = (
            np.bincount(labels_Q[scored], weights=each_Q[scored], minlength=len(self.classes)) / np.maximum(1, counts)
            for name in (CODES, FEATURES)
            for each_Q in (per_query(self.results[name], "hit@1"), self.ap[name])
        )
        wrong = ranking.confused(self.answers)
        taken_for: dict[int, str] = {}
        for asked, answered in zip(wrong.asked_P.tolist(), wrong.answered_P.tolist(), strict=True):
            taken_for.setdefault(asked, self.classes[answered])  # the most frequent comes first
        found = [
            ClassScore(
                label,
                int(n),
                float(hit1[i]),
                float(ap[i]),
                float(float_hit1[i]),
                float(float_ap[i]),
                taken_for.get(i, ""),
            )
            for i, (label, n) in enumerate(zip(self.classes, counts, strict=True))
            if n
        ]
        return sorted(found, key=lambda each: (each.ap, each.label))

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON values: scores, bits, lost queries, confused classes, suspects and twins by id."""
        ids, query_ids = self.pictures.ids, [self.pictures.ids[row] for row in self.query_rows_Q.tolist()]
        loss, interval = self.loss("map@all")
        wrong = ranking.confused(self.answers)
        return {
            "results": [result.as_dict() for result in self.results.values()],
            "float_less_binary_map": {"mean": loss, "interval_95": interval},
            "lost_to_bits": [query_ids[query] for query in self.lost_to_bits()],
            "bits": {
                **self.code_statistics.as_dict(),
                "separation": None if np.isnan(self.distances.separation) else self.distances.separation,
                "most_correlated": [pair._asdict() for pair in self.bit_pairs],
            },
            "curves": {
                **{name: curve.as_dict() for name, curve in self.curves.items()},
                "codes_by_radius": {
                    "recall": _or_none(self.radius_curve.recall_D), "precision": _or_none(self.radius_curve.precision_D)
                },
            },
            "classes": [vars(each) for each in self.class_scores()],
            "top1_by_condition": {name: each.as_dict() for name, each in self.conditions.items()},
            "worst_queries": [{"id": query_ids[query], "ap": float(self.ap[CODES][query])} for query in self.worst(LISTED)],
            "confused": [
                {"asked": self.classes[asked], "answered": self.classes[answered], "count": count}
                for asked, answered, count in zip(*(column[:LISTED].tolist() for column in wrong), strict=True)
            ],
            "suspects": [
                {"id": query_ids[query], "label": self.classes[int(self.labels_Q[query])], "neighbours_say": self.classes[label],
                 "confidence": confidence, "own_support": support}
                for query, label, confidence, support in zip(*(column.tolist() for column in self.suspects), strict=True)
            ],
            "twins": [
                {"ids": [ids[first], ids[second]], "bits": apart, "cosine": cosine, "pixels": pixels}
                for first, second, apart, cosine, pixels in zip(
                    *(column.tolist() for column in (*self.twins[1:], self.twin_pixels_T)), strict=True
                )
            ],
        }  # fmt: skip

    def mistaken(self, asked: int, answered: int, most: int) -> list[tuple[int, int]]:
        """Queries of one class whose nearest code is a picture of the other: (query, gallery row), the nearest first."""
        first_Q = self.nearest[CODES].rows_QK[:, 0]
        chosen = (self.labels_Q == asked) & (first_Q >= 0) & (self.labels_P[first_Q] == answered)
        queries = np.flatnonzero(chosen)
        order = np.argsort(self.nearest[CODES].distances_QK[queries, 0], kind="stable")[:most]
        return [(int(query), int(first_Q[query])) for query in queries[order]]


def analyse(
    pictures: PictureTable,
    query_rows_Q: Integers,
    encodings: Encodings,
    rule: GalleryRule,
    *,
    gallery_rows_N: Integers | None = None,
    with_map: bool = False,
) -> Analysis:
    """The numbers of a report: pictures `query_rows_Q`, which have labels, each query all that counts for them in the gallery.

    gallery_rows_N: the pictures that are searched, ascending; all of them by default. encodings: of the pictures, row for row.
    Scores are those of `evaluation.compare`. with_map: lay the queries out on a plane, which needs umap-learn and takes longer
    than all else. UsageError without a query.
    """
    if gallery_rows_N is None:
        gallery_rows_N = np.arange(len(pictures))
    queries, gallery = pictures.select(query_rows_Q), pictures.select(gallery_rows_N)
    labels_P, classes = pictures.class_ids()
    labels_Q, labels_N = labels_P[query_rows_Q], labels_P[gallery_rows_N]
    valid = rule.between(queries, gallery)
    sides = {name: (vectors[query_rows_Q], vectors[gallery_rows_N]) for name, vectors in _vectors(encodings).items()}
    n_bits, n_features = encodings.code_size, encodings.features_ND.shape[1]
    representations: dict[str, Representation] = {
        CODES: Representation(f"codes: {n_bits} bits, Hamming distance", *sides[CODES], n_bits),
        TWO_STAGE: TwoStage(
            f"two-stage: the {SHORTLIST} nearest codes, ranked by features",
            *sides[CODES],
            n_bits,
            query_vectors=sides[FEATURES][0],
            gallery_vectors=sides[FEATURES][1],
            valid=valid,
            within=SHORTLIST,
        ),
        LOGITS: Representation(f"logits: {n_bits} numbers before they become bits, cosine", *sides[LOGITS]),
        FEATURES: Representation(f"features: {n_features:,} numbers, cosine", *sides[FEATURES]),
    }
    compared = compare(list(representations.values()), queries, gallery, rule, ks=(1, 5, 10), map_cutoffs=(None, 10))
    results = dict(zip(representations, compared, strict=True))
    pairs = {
        name: Pairs(representations[name].distances, valid, len(queries), len(gallery)) for name in (CODES, FEATURES)
    }
    n_votes = votes_to_ask(labels_Q)
    nearest = {
        name: _rows_of_pictures(ranking.nearest(each, max(SHOWN_NEIGHBOURS, n_votes)), gallery_rows_N)
        for name, each in pairs.items()
    }
    correlation_KK = bits.correlations(encodings.codes_NB, n_bits)
    twins = labels.twins(encodings.codes_NB, n_bits, encodings.features_ND, labels_P, MOST_TWINS)
    likeness_T = labels.pixel_likeness(pictures, twins)
    likest = np.argsort(-likeness_T, kind="stable")
    both = (CODES, FEATURES)
    conditions = {
        kind: ConditionMap(
            each,
            {
                name: top1_by_condition(representations[name], labels_Q, labels_N, each.of_pairs, each.n, valid)
                for name in both
            },
        )
        for kind, each in _conditions(queries, gallery).items()
    }
    counts = distance_histograms(*sides[CODES], n_bits, labels_Q, labels_N, left_out=rule.left_out(queries, gallery))
    return Analysis(
        pictures=pictures,
        query_rows_Q=query_rows_Q,
        classes=classes,
        labels_P=labels_P,
        results=results,
        code_statistics=codes.statistics(encodings.codes_NB, n_bits),
        correlation_KK=correlation_KK,
        bit_pairs=bits.most_correlated(correlation_KK, 5),
        distances=bits.distance_counts(pairs[CODES], labels_Q, labels_N, n_bits),
        activations=bits.activation_counts(encodings.logits_NK, encodings.thresholds_K),
        nearest=nearest,
        answers=ranking.answers(pairs[CODES], labels_Q, labels_N, results[CODES].scores.scored_Q),
        n_votes=n_votes,
        suspects=labels.suspects(labels_Q, labels_P, [each.rows_QK[:, :n_votes] for each in nearest.values()]),
        twins=twins.select(likest),
        twin_pixels_T=likeness_T[likest],
        curves=dict(
            zip(both, rank_curves([representations[name] for name in both], queries, gallery, rule), strict=True)
        ),
        radius_curve=counts.curve(),
        conditions=conditions,
        picture_map=picture_map.lay_out(encodings.features_ND, query_rows_Q) if with_map else None,
    )


def _rows_of_pictures(found: Nearest, gallery_rows_N: Integers) -> Nearest:
    """The same neighbours by their rows among all pictures; what is missing stays -1."""
    return Nearest(np.where(found.rows_QK >= 0, gallery_rows_N[found.rows_QK], -1), found.distances_QK)


def _conditions(queries: PictureTable, gallery: PictureTable) -> dict[str, Conditions]:
    """The conditions that the tables tell, by what they are of."""
    if not (has_views_and_times(queries) and has_views_and_times(gallery)):
        return {}
    return {TURN: rotation_by_time(queries, gallery), LIGHT: time_by_time(queries, gallery)}


def votes_to_ask(labels_Q: Integers) -> int:
    """How many neighbours vote on a label: 10, or fewer, 3 at least, where classes are smaller than that."""
    sizes = np.unique(labels_Q, return_counts=True)[1]
    return int(np.clip(np.median(sizes) - 1, 3, 10)) if len(sizes) else 3


def per_query(result: Result, score: str, order: str = "expected") -> Floats:
    """A score of every query (Q,), NaN where there is nothing to find."""
    values_Q = np.full(len(result.scores.scored_Q), np.nan)
    values_Q[result.scores.scored_Q] = result.scores.per_query(score, order)
    return values_Q


def outcomes(result: Result) -> NDArray[np.int8]:
    """RIGHT, TIED, WRONG or UNSCORED (Q,)."""
    found_Q = np.full(len(result.scores.scored_Q), UNSCORED, np.int8)
    worst, best = (result.scores.per_query("hit@1", order) for order in ("worst", "best"))
    found_Q[result.scores.scored_Q] = np.where(worst > 0, RIGHT, np.where(best > 0, TIED, WRONG))
    return found_Q


def _or_none(values: Floats) -> list[Any]:
    """The numbers as lists, None for NaN."""
    listed: list[Any] = np.where(np.isnan(values), np.array(None), values).tolist()
    return listed


def _vectors(encodings: Encodings) -> dict[str, NDArray[Any]]:
    """What stands for each picture; logits are taken from their thresholds and brought to length 1."""
    logits_NK = encodings.logits_NK
    if encodings.thresholds_K is not None:
        logits_NK = logits_NK - encodings.thresholds_K
    lengths = np.linalg.norm(logits_NK, axis=1, keepdims=True)
    unit_NK = logits_NK / np.where(lengths > 0, lengths, 1)
    return {CODES: encodings.codes_NB, LOGITS: unit_NK, FEATURES: encodings.features_ND}
