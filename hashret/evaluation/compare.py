"""Representations of the same pictures, scored side by side under one rule.

Shape suffixes: Q queries, N gallery pictures, K bits, B bytes of a code, D numbers of a feature vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hashret import hamming
from hashret.data.table import PictureTable
from hashret.errors import UsageError
from hashret.evaluation.gallery import GalleryRule, numbered
from hashret.hamming import asymmetric
from hashret.metrics import Choices, RetrievalScores, bootstrap_interval, distance_histograms, retrieval_scores
from hashret.metrics.scores import is_within_radius

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of query and gallery picture that are scored at once: this bounds the memory."""


@dataclass(frozen=True)
class Representation:
    """What stands for the pictures: packed codes (`code_size` given), or vectors of length 1 compared by cosine."""

    name: str
    queries: NDArray[Any]
    gallery: NDArray[Any]
    code_size: int | None = None

    def distances(self, rows: slice) -> NDArray[Any]:
        """Distances (rows, N) of some queries: Hamming, or 1 - cosine."""
        if self.code_size is not None:
            return hamming.distances(self.queries[rows], self.gallery, self.code_size)
        cosine_QN: NDArray[np.float32] = self.queries[rows].astype(np.float32) @ self.gallery.astype(np.float32).T
        return np.float32(1) - cosine_QN

    @property
    def is_of_codes(self) -> bool:
        """Whether nothing but the Hamming distance of codes ranks."""
        return self.code_size is not None

    @property
    def distance_name(self) -> str:
        """The distance as signatures name it."""
        return "cosine" if self.code_size is None else "hamming"


@dataclass(frozen=True)
class TwoStage(Representation):
    """Codes find, features rank: the `within` nearest codes, ascending by (distance, row), by cosine of vectors; then all others.

    `queries` and `gallery` are codes of `code_size` bits. `valid` says which gallery pictures (rows, N) count for some queries:
    a query does not find itself, as `hashret query --rerank` of another picture would not.
    """

    query_vectors: NDArray[Any] = field(kw_only=True)
    gallery_vectors: NDArray[Any] = field(kw_only=True)
    valid: Callable[[slice], NDArray[np.bool_]] = field(kw_only=True)
    within: int = field(kw_only=True)

    def distances(self, rows: slice) -> NDArray[Any]:
        """Distances (rows, N): 1 - cosine of those found, 4 and the Hamming distance of the others."""
        apart_QN = super().distances(rows)
        counted_QN = np.where(self.valid(rows), apart_QN, np.iinfo(np.int32).max)
        near_QR = np.argsort(counted_QN, axis=1, kind="stable")[:, : self.within]
        ranked_QN = apart_QN.astype(np.float32) + np.float32(4)
        cosine_QN = Representation("", self.query_vectors, self.gallery_vectors).distances(rows)
        np.put_along_axis(ranked_QN, near_QR, np.take_along_axis(cosine_QN, near_QR, axis=1), axis=1)
        return ranked_QN

    @property
    def is_of_codes(self) -> bool:
        """Not codes alone."""
        return False

    @property
    def distance_name(self) -> str:
        """The distance as signatures name it."""
        return f"hamming-{self.within}-then-cosine"


@dataclass(frozen=True)
class Asymmetric(Representation):
    """Logits ask, codes are searched: `queries` are logits less their thresholds (Q, K), `gallery` codes of `code_size` bits.

    The distance is the similarity of hashret.hamming.asymmetric, negated: `hashret query --metric asymmetric`.
    """

    def distances(self, rows: slice) -> NDArray[Any]:
        """Distances (rows, N) of some queries."""
        return -asymmetric.similarities(self.queries[rows], self.gallery)

    @property
    def is_of_codes(self) -> bool:
        """Not codes alone."""
        return False

    @property
    def distance_name(self) -> str:
        """The distance as signatures name it."""
        return "asymmetric"


@dataclass(frozen=True)
class Result:
    """The scores of one representation."""

    name: str
    scores: RetrievalScores

    def as_dict(self) -> dict[str, Any]:
        """Name, scores with signatures and hit@1's 95 % interval (bootstrap over queries), as JSON values."""
        interval = None
        if self.scores.n_queries and "hit@1" in self.scores.names:
            interval = bootstrap_interval(self.scores.per_query("hit@1"))
        return {"name": self.name, **self.scores.as_dict(), "hit@1_interval_95": interval}


def compare(
    representations: Sequence[Representation],
    queries: PictureTable,
    gallery: PictureTable,
    rule: GalleryRule,
    *,
    ks: Sequence[int] = (1, 10),
    map_cutoffs: Sequence[int | None] = (None, 10),
    measures: Sequence[str] = (),
    several_labels: bool = False,
) -> list[Result]:
    """The scores of every representation: row q of each is picture q of `queries`, likewise for the gallery.

    A gallery picture is relevant when its label is the query's; one without a label never is. several_labels: labels are parted
    by semicolons, and one in common makes a picture relevant. UsageError when a
    query has no label or there are no queries, or representations of another number of pictures. measures: more scores by
    name (hashret.metrics.RetrievalScores); those within a radius are of codes alone.
    """
    if not len(queries):
        raise UsageError("there are no queries to score; check --split")
    if "" in queries.labels:
        raise UsageError(
            f"{queries.labels.count('')} queries have no label, so nothing can be right; score labelled pictures"
        )
    for each in representations:
        if (len(each.queries), len(each.gallery)) != (len(queries), len(gallery)):
            raise UsageError(
                f"{each.name} stands for {len(each.queries)} queries and {len(each.gallery)} gallery pictures, "
                f"expected {len(queries)} and {len(gallery)}"
            )
    labels = _labels(queries, gallery, several_labels)
    total = len(representations) * len(queries)
    results = []
    with tqdm(total=total, desc="scoring", unit="query", disable=None, delay=2, leave=False) as bar:
        for each in representations:
            if each.is_of_codes:
                counts = distance_histograms(
                    each.queries,
                    each.gallery,
                    each.code_size or 0,
                    labels[0],
                    labels[1],
                    left_out=rule.left_out(queries, gallery),
                    progress=bar.update,
                )
                scores = counts.scores(ks, map_cutoffs, measures=measures, self_match=rule.signature)
            else:
                choices = Choices(each.distance_name, each.code_size, rule.signature)
                # What is within a radius is asked of codes: a radius of another distance would be another number.
                others = [name for name in measures if not is_within_radius(name)]
                score = functools.partial(
                    retrieval_scores, ks=ks, map_cutoffs=map_cutoffs, choices=choices, measures=others
                )
                scores = _of_rankings(each, labels, rule.between(queries, gallery), score, bar.update)
            results.append(Result(each.name, scores))
    return results


def _of_rankings(
    representation: Representation,
    labels: tuple[NDArray[Any], NDArray[Any]],
    valid: Callable[[slice], NDArray[np.bool_]],
    score: Callable[..., RetrievalScores],
    progress: Callable[[int], Any],
) -> RetrievalScores:
    """The scores of distances that are compared as they are, some queries at a time."""
    labels_Q, labels_N = labels
    step = max(1, _PAIRS_AT_ONCE // max(1, len(labels_N)))
    parts = []
    for start in range(0, len(labels_Q), step):
        rows = slice(start, min(start + step, len(labels_Q)))
        parts.append(score(representation.distances(rows), _relevant(labels_Q[rows], labels_N), valid(rows)))
        progress(rows.stop - rows.start)
    return RetrievalScores.merge(parts)


def relevant_pairs(
    queries: PictureTable, gallery: PictureTable, *, several_labels: bool = False
) -> Callable[[slice], NDArray[np.bool_]]:
    """A function from some of the queries to bool (those, N): whether gallery picture n is relevant for query q, by `compare`."""
    labels_Q, labels_N = _labels(queries, gallery, several_labels)
    return lambda rows: _relevant(labels_Q[rows], labels_N)


def _labels(queries: PictureTable, gallery: PictureTable, several_labels: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    return _several(queries, gallery) if several_labels else numbered(queries.labels, gallery.labels)


def _several(queries: PictureTable, gallery: PictureTable) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which classes (Q, C) and (N, C) pictures are of, the same columns for both."""
    names = sorted(set(queries.label_matrix()[1]) | set(gallery.label_matrix()[1]))
    column = {name: number for number, name in enumerate(names)}

    def matrix(table: PictureTable) -> NDArray[np.bool_]:
        own, own_names = table.label_matrix()
        wide = np.zeros((len(table), len(names)), bool)
        wide[:, [column[name] for name in own_names]] = own
        return wide

    return matrix(queries), matrix(gallery)


def _relevant(labels_Q: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Bool (Q, N): the same label, or a class in common."""
    if labels_Q.ndim == 2:
        shared: NDArray[np.bool_] = (labels_Q.astype(np.float32) @ labels_N.T.astype(np.float32)) > 0
        return shared
    same: NDArray[np.bool_] = labels_Q[:, None] == labels_N[None, :]
    return same
