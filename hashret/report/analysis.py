"""All numbers of a report, computed once: a model's codes, logits and features of labelled pictures in, findings out.

Shape suffixes: Q queries, N gallery pictures, K bits, B bytes, D numbers of a feature vector.
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
from hashret.evaluation.gallery import GalleryRule
from hashret.metrics import bootstrap_interval
from hashret.report import bits, labels, ranking
from hashret.report.ranking import Answers, Floats, Integers, Nearest, Pairs

CODES, TWO_STAGE, LOGITS, FEATURES = "codes", "two-stage", "logits", "features"
"""What stands for a picture, from the cheapest to the dearest."""

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
    """How well queries of one class do: means over those that have something to find."""

    label: str
    n_queries: int
    hit1: float
    ap: float


@dataclass(frozen=True)
class Analysis:
    """The numbers of a report; queries are the gallery's pictures `query_rows_Q`, labels are numbers into `classes`."""

    gallery: PictureTable
    query_rows_Q: Integers
    classes: list[str]
    labels_N: Integers
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

    @property
    def labels_Q(self) -> Integers:
        """Class numbers of the queries."""
        return self.labels_N[self.query_rows_Q]

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
        others = np.array([self.gallery.ids[row] not in ids for row in rows], dtype=bool)
        return replace(self, suspects=self.suspects.select(others))

    def worst(self, most: int) -> list[int]:
        """The queries of the lowest average precision by codes, ties by row."""
        ap_Q = self.ap[CODES]
        order = np.argsort(ap_Q, kind="stable")
        return [int(query) for query in order[:most] if not np.isnan(ap_Q[query])]

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
        hit1_Q, ap_Q, labels_Q = per_query(self.results[CODES], "hit@1"), self.ap[CODES], self.labels_Q
        scored = np.flatnonzero(~np.isnan(ap_Q))
        counts = np.bincount(labels_Q[scored], minlength=len(self.classes))
        sums = [
            np.bincount(labels_Q[scored], weights=each[scored], minlength=len(self.classes)) for each in (hit1_Q, ap_Q)
        ]
        found = [
            ClassScore(label, int(n), float(hits / n), float(ap / n))
            for label, n, hits, ap in zip(self.classes, counts, *sums, strict=True)
            if n
        ]
        return sorted(found, key=lambda each: (each.ap, each.label))

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON values: scores, bits, lost queries, confused classes, suspects and twins by id."""
        ids, query_ids = self.gallery.ids, [self.gallery.ids[row] for row in self.query_rows_Q.tolist()]
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
        chosen = (self.labels_Q == asked) & (first_Q >= 0) & (self.labels_N[first_Q] == answered)
        queries = np.flatnonzero(chosen)
        order = np.argsort(self.nearest[CODES].distances_QK[queries, 0], kind="stable")[:most]
        return [(int(query), int(first_Q[query])) for query in queries[order]]


def analyse(gallery: PictureTable, query_rows_Q: Integers, encodings: Encodings, rule: GalleryRule) -> Analysis:
    """The numbers of a report: pictures `query_rows_Q` of `gallery`, which have labels, each query all that counts for them.

    encodings: of the gallery, row for row. Scores are those of `evaluation.compare`. UsageError without a query.
    """
    queries = gallery.select(query_rows_Q)
    labels_N, classes = gallery.class_ids()
    labels_Q = labels_N[query_rows_Q]
    valid = rule.between(queries, gallery)
    sides = {name: (vectors[query_rows_Q], vectors) for name, vectors in _vectors(encodings).items()}
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
    nearest = {name: ranking.nearest(each, max(SHOWN_NEIGHBOURS, n_votes)) for name, each in pairs.items()}
    correlation_KK = bits.correlations(encodings.codes_NB, n_bits)
    twins = labels.twins(encodings.codes_NB, n_bits, encodings.features_ND, labels_N, MOST_TWINS)
    likeness_T = labels.pixel_likeness(gallery, twins)
    likest = np.argsort(-likeness_T, kind="stable")
    return Analysis(
        gallery=gallery,
        query_rows_Q=query_rows_Q,
        classes=classes,
        labels_N=labels_N,
        results=results,
        code_statistics=codes.statistics(encodings.codes_NB, n_bits),
        correlation_KK=correlation_KK,
        bit_pairs=bits.most_correlated(correlation_KK, 5),
        distances=bits.distance_counts(pairs[CODES], labels_Q, labels_N, n_bits),
        activations=bits.activation_counts(encodings.logits_NK, encodings.thresholds_K),
        nearest=nearest,
        answers=ranking.answers(pairs[CODES], labels_Q, labels_N, results[CODES].scores.scored_Q),
        n_votes=n_votes,
        suspects=labels.suspects(labels_Q, labels_N, [each.rows_QK[:, :n_votes] for each in nearest.values()]),
        twins=twins.select(likest),
        twin_pixels_T=likeness_T[likest],
    )


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


def _vectors(encodings: Encodings) -> dict[str, NDArray[Any]]:
    """What stands for each picture; logits are taken from their thresholds and brought to length 1."""
    logits_NK = encodings.logits_NK
    if encodings.thresholds_K is not None:
        logits_NK = logits_NK - encodings.thresholds_K
    lengths = np.linalg.norm(logits_NK, axis=1, keepdims=True)
    unit_NK = logits_NK / np.where(lengths > 0, lengths, 1)
    return {CODES: encodings.codes_NB, LOGITS: unit_NK, FEATURES: encodings.features_ND}
