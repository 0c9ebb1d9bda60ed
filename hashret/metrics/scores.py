"""Retrieval scores of many queries, gathered chunk by chunk, each with the signature of the choices behind it.

Shape suffixes: Q queries, N gallery items.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hashret.errors import UsageError
from hashret.metrics import expectation
from hashret.metrics.expectation import ORDERS, Denominator
from hashret.metrics.groups import Groups, group

SIGNATURE_VERSION = 1
"""Raised whenever a score of the same name and signature would come out differently."""

_WITHIN = {
    "precision-within": expectation.precision_within,
    "recall-within": expectation.recall_within,
    "empty-within": expectation.empty_within,
}
_DIVIDED_BY = {
    "hit": "queries",
    "recall": "relevant",
    "precision": "k",
    "ndcg": "ideal",
    "precision-within": "found-or-0",
    "recall-within": "relevant",
    "empty-within": "queries",
}


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the caller decided before scoring; part of every signature."""

    distance: str = "hamming"
    code_size: int | None = None
    self_match: str = "left-out-by-id"


@dataclasses.dataclass(frozen=True)
class Score:
    """One score of a set of queries: the mean expected over tie orders, and in the worst and the best of them."""

    name: str
    expected: float
    worst: float
    best: float
    n_queries: int
    n_excluded: int
    signature: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values; a score of no queries is None."""
        values = dataclasses.asdict(self)
        return values | {order: None if self.n_queries == 0 else values[order] for order in ORDERS}


@dataclasses.dataclass(frozen=True)
class RetrievalScores:
    """Per-query scores of the queries seen so far; `merge` joins chunks, indexing by name gives a `Score`.

    Names: hit@k (at least one relevant in the top k; metric-learning papers say Recall@k), recall@k (share of the
    relevant found), precision@k, ndcg@k, map@k (over min(k, relevant)), map@k/relevant and map@k/found. With `all` for k: map,
    ndcg. With R, as many as are relevant to the query: precision (R-precision) and map (MAP@R). Of what is at most r bits away:
    precision-within@r (0 where that is nothing), recall-within@r, empty-within@r.
    """

    values: dict[str, npt.NDArray[np.float64]]
    """Name -> (3, scored queries): expected, worst, best of each query, queries in the order they came."""
    scored_Q: npt.NDArray[np.bool_]
    """Which of the queries were scored: those with at least one relevant item."""
    choices: Choices

    @staticmethod
    def merge(chunks: Iterable[RetrievalScores]) -> RetrievalScores:
        """All queries of the chunks, in order; UsageError unless the chunks were scored alike."""
        parts = list(chunks)
        if not parts:
            raise UsageError("there are no scores to merge, expected at least one chunk")
        if any(part.values.keys() != parts[0].values.keys() or part.choices != parts[0].choices for part in parts):
            raise UsageError("the chunks were scored with different cutoffs or choices, expected the same for all")
        return RetrievalScores(
            {name: np.concatenate([part.values[name] for part in parts], axis=1) for name in parts[0].values},
            np.concatenate([part.scored_Q for part in parts]),
            parts[0].choices,
        )

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return list(self.values)

    @property
    def n_queries(self) -> int:
        """Queries scored."""
        return int(self.scored_Q.sum())

    @property
    def n_excluded(self) -> int:
        """Queries left out because nothing in their gallery is relevant."""
        return int((~self.scored_Q).sum())

    @property
    def top1(self) -> float:
        """Expected share of queries whose nearest item is relevant: hit@1. UsageError unless 1 is among the ks."""
        return self["hit@1"].expected

    def per_query(self, name: str, order: str = "expected") -> npt.NDArray[np.float64]:
        """One value for each scored query, for intervals and paired comparisons."""
        if order not in ORDERS:
            raise UsageError(f"the tie order is {order!r}, expected one of {', '.join(ORDERS)}")
        values: npt.NDArray[np.float64] = self._named(name)[ORDERS.index(order)]
        return values

    def __getitem__(self, name: str) -> Score:
        values = self._named(name)
        expected, worst, best = values.mean(axis=1) if values.shape[1] else (np.nan, np.nan, np.nan)
        return Score(
            name, float(expected), float(worst), float(best), self.n_queries, self.n_excluded, self.signature(name)
        )

    def signature(self, name: str) -> str:
        """The choices behind a score, as one string that travels with it."""
        self._named(name)
        kind, cutoff, denominator = _parsed(name)
        parts = [
            kind,
            f"{'radius' if kind in _WITHIN else 'cutoff'}:{cutoff}",
            f"denominator:{denominator}",
            "ties:exact-expectation",
            f"self:{self.choices.self_match}",
            "no-relevant:excluded",
            f"distance:{self.choices.distance}",
        ]
        if self.choices.code_size is not None:
            parts.append(f"bits:{self.choices.code_size}")
        return "|".join([*parts, f"hashret-metrics:{SIGNATURE_VERSION}"])

    def as_dict(self) -> dict[str, Any]:
        """Every score with its signature, JSON-ready."""
        return {
            "n_queries": self.n_queries,
            "n_excluded": self.n_excluded,
            "scores": {name: self[name].as_dict() for name in self.values},
        }

    def _named(self, name: str) -> npt.NDArray[np.float64]:
        if name not in self.values:
            raise UsageError(f"there is no score {name!r}, expected one of {', '.join(self.values)}")
        return self.values[name]


def retrieval_scores(
    distances_QN: npt.ArrayLike,
    relevant_QN: npt.ArrayLike,
    valid_QN: npt.ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    map_cutoffs: Sequence[int | None] = (None,),
    choices: Choices | None = None,
    *,
    measures: Sequence[str] = (),
) -> RetrievalScores:
    """Scores of a chunk of queries, exact under ties: hit@k, recall@k and precision@k for `ks`, mAP for the cutoffs, `measures`.

    distances (Q, N): smaller is nearer; whole numbers (Hamming) or finite floats (1 - cosine), equal ones are tied.
    relevant (Q, N) bool. valid (Q, N) bool: False takes an item out of that query's gallery (itself, for instance, by
    id and never by distance 0). map_cutoffs: None scores the whole ranking. measures: more scores by name, as RetrievalScores
    lists them. Queries with nothing relevant are excluded and counted. UsageError for arrays that do not fit together, cutoffs
    below 1, or a name that is none.

    >>> scores = retrieval_scores([[0, 1, 1]], [[False, True, False]], ks=(1, 2))
    >>> [round(score, 6) for score in (scores["hit@2"].expected, scores["map@all"].worst, scores["map@all"].best)]
    [0.5, 0.333333, 0.5]
    """
    names = named(ks, map_cutoffs, measures)
    return scores_of_groups(group(distances_QN, relevant_QN, valid_QN), names, choices or Choices())


def scores_of_groups(groups: Groups, names: Sequence[str], choices: Choices) -> RetrievalScores:
    """The scores of these names; queries with nothing relevant are left out."""
    scored = groups.n_relevant_Q > 0
    groups = groups.select(scored)
    return RetrievalScores({name: _score(name, groups) for name in names}, scored, choices)


def named(ks: Sequence[int], map_cutoffs: Sequence[int | None], measures: Sequence[str]) -> list[str]:
    """The names of the scores that are asked for; UsageError for cutoffs and names that are none."""
    for k in (*ks, *(cutoff for cutoff in map_cutoffs if cutoff is not None)):
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise UsageError(f"a cutoff is {k!r}, expected a whole number from 1")
    names = [f"{kind}@{k}" for k in ks for kind in ("hit", "recall", "precision")]
    for cutoff in map_cutoffs:
        names += ["map@all"] if cutoff is None else [f"map@{cutoff}", f"map@{cutoff}/relevant", f"map@{cutoff}/found"]
    for name in measures:
        _parsed(name)
    return list(dict.fromkeys([*names, *measures]))


def is_within_radius(name: str) -> bool:
    """Whether a score is of what stands within a radius, which needs whole distances; UsageError when it is none."""
    return _parsed(name)[0] in _WITHIN


def _parsed(name: str) -> tuple[str, str, str]:
    """Kind, cutoff and denominator of a score's name; UsageError when it is none."""
    kind, _, rest = name.partition("@")
    cutoff, slash, denominator = rest.partition("/")
    number = cutoff.isascii() and cutoff.isdecimal() and cutoff == str(int(cutoff))
    words = {"map": ("all", "R"), "precision": ("R",), "ndcg": ("all",)}.get(kind, ())
    least = 0 if kind in _WITHIN else 1
    fits = kind in ("map", *_DIVIDED_BY) and (cutoff in words or (number and int(cutoff) >= least))
    if not fits or (slash and not (kind == "map" and number and denominator in ("relevant", "found"))):
        raise UsageError(
            f"{name!r} is no score, expected one such as hit@1, recall@10, precision@10, precision@R, map@all, map@10, "
            "map@10/found, map@10/relevant, map@R, ndcg@10, ndcg@all, precision-within@2, recall-within@2 or empty-within@2"
        )
    if kind == "map":
        return kind, cutoff, denominator or ("min(k,relevant)" if number else "relevant")
    return kind, cutoff, _DIVIDED_BY[kind]


def _score(name: str, groups: Groups) -> expectation.Scores:
    """(3, Q): expected, worst, best."""
    kind, cutoff, denominator = _parsed(name)
    if kind in _WITHIN:
        if not groups.by_distance:
            raise UsageError(f"{name} is a score of whole distances, and these are not, or too large; leave it out")
        return _WITHIN[kind](groups, int(cutoff))
    k: Any = {"all": None, "R": groups.n_relevant_Q}[cutoff] if cutoff in ("all", "R") else int(cutoff)
    scores: dict[str, Callable[..., expectation.Scores]] = {
        "hit": expectation.hit,
        "recall": expectation.recall,
        "precision": expectation.precision,
        "ndcg": expectation.ndcg,
        "map": functools.partial(expectation.average_precision, denominator=cast(Denominator, denominator)),
    }
    return scores[kind](groups, k)


def leave_one_out_top1(
    nearest_ids: Sequence[Any] | npt.NDArray[Any],
    labels: Sequence[Any] | npt.NDArray[Any],
    ids: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> float:
    """Share of items whose nearest other item carries their own label.

    nearest_ids: for every item the id of its nearest other item; ids: the items' own ids (0, 1, 2 .. by default).
    UsageError when an item is its own nearest, or an id is unknown.

    >>> leave_one_out_top1([2, 3, 4, 3], ["dog", "dog", "cat", "cat"], ids=[1, 2, 3, 4])
    0.75
    """
    own = list(range(len(labels))) if ids is None else list(ids)
    if not len(nearest_ids) == len(labels) == len(own) or not own:
        raise UsageError(
            f"there are {len(nearest_ids)} nearest ids, {len(labels)} labels and {len(own)} ids, expected as many of each"
        )
    label_of = dict(zip(own, labels, strict=True))
    right = 0
    for item, nearest in zip(own, nearest_ids, strict=True):
        if nearest == item or nearest not in label_of:
            raise UsageError(f"the nearest item of {item!r} is {nearest!r}, expected the id of another item")
        right += bool(label_of[nearest] == label_of[item])
    return right / len(own)
