"""Pictures of no known class: a list of classes for each picture, in which the class "-1" says "none of yours".

A picture's list holds the classes that seem likeliest, best first. Beside it stand its levels: numbers that fall along the list,
one a class, or a single one for the picture as a whole. A global threshold puts the stranger class before the first class whose
level is below it; where the picture has one level, that is before all of them or nowhere. The list is cut at k.

`of_scores` makes levels of a classifier's scores. `of_neighbours` makes lists of the votes of the nearest gallery pictures, and
one level of a stranger score: the distance to the nearest code (`nearest_codes`), the same for logits against codes
(`nearest_to_logits`), or how little the neighbours agree; `by_codes` does all of it. `calibrate` chooses the threshold on a
mixture of known pictures and strangers, `assess` judges it by others.

Shape suffixes: Q pictures asked about, C classes, L levels, N gallery pictures, R neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret import hamming
from hashret.codes import Codes
from hashret.errors import DataError, UsageError
from hashret.hamming import asymmetric
from hashret.metrics import ap_at_k_of_list, auroc, fpr_at_tpr

STRANGER = "-1"
"""The class of what is of no class."""
LONGEST = 5
"""Classes in a list."""
RULES = ("hamming", "asymmetric", "agreement")
"""What strangers are told by where there are codes and no classifier."""
SHARE = 0.3
"""Of strangers in the mixture by which a threshold is chosen."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What is answered about Q pictures, before a threshold: ids, classes best first, and levels (Q, L) that fall along L."""

    ids: list[str]
    lists: list[list[str]]
    levels_QL: Floats

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.lists) == len(self.levels_QL) or self.levels_QL.ndim != 2:
            raise UsageError(
                f"there are {len(self.ids)} ids, {len(self.lists)} lists and levels of shape {self.levels_QL.shape}, expected as "
                "many of each"
            )
        if not np.isfinite(self.levels_QL).all() or (np.diff(self.levels_QL, axis=1) > 0).any():
            raise UsageError("levels are NaN, infinite or rising, expected finite ones that fall along each list")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def strangeness_Q(self) -> Floats:
        """How strange each picture is: its first level, negated."""
        return -self.levels_QL[:, 0]

    def select(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Answers:
        """The answers of these rows."""
        chosen = np.asarray(rows, np.int64)
        return Answers([self.ids[row] for row in chosen], [self.lists[row] for row in chosen], self.levels_QL[chosen])

    def with_strangers(self, threshold: float, k: int = LONGEST) -> list[list[str]]:
        """The lists, the stranger class in its place where that is among the first k, cut at k.

        >>> Answers(["x"], [["cat", "dog"]], np.array([[0.9, 0.2]])).with_strangers(0.5)
        [['cat', '-1', 'dog']]
        """
        above_Q = (self.levels_QL >= threshold).sum(axis=1).tolist()
        return [_inserted(self.lists[q], above_Q[q], self.levels_QL.shape[1], k) for q in range(len(self))]


def _inserted(classes: list[str], above: int, levels: int, k: int) -> list[str]:
    """The list with the stranger class behind `above` of its classes, or as it is where all levels are above the threshold."""
    return classes[:k] if above == levels else [*classes[:above], STRANGER, *classes[above:]][:k]


def of_scores(ids: Sequence[str], scores_QC: npt.ArrayLike, class_names: Sequence[str], k: int = LONGEST) -> Answers:
    """The k classes of the highest scores, descending, equal ones in the order of `class_names`; their scores are the levels.

    scores (Q, C): finite, higher is likelier. UsageError for what does not fit, or where a class is called as strangers are.
    """
    scores = np.asarray(scores_QC, np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(class_names) or not len(class_names):
        raise UsageError(f"scores have shape {scores.shape}, expected (pictures, {len(class_names)}), one a class")
    _check_names(class_names)
    best_QL = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    lists = [[class_names[c] for c in row] for row in best_QL.tolist()]
    return Answers(list(ids), lists, np.take_along_axis(scores, best_QL, axis=1))


def of_neighbours(ids: Sequence[str], lists: Sequence[Sequence[str]], strangeness_Q: npt.ArrayLike) -> Answers:
    """Lists made by `votes`, with one level each: how strange the picture is (higher is stranger), negated."""
    for classes in lists:
        _check_names(classes)
    return Answers(list(ids), [list(classes) for classes in lists], -np.asarray(strangeness_Q, np.float64)[:, None])


def votes(
    rows_QR: npt.NDArray[np.integer], classes_N: Sequence[Collection[str]], k: int = LONGEST
) -> tuple[list[list[str]], Floats]:
    """(the k classes that most neighbours have, how strange each picture is by them (Q,)).

    rows: the gallery rows of the nearest, ascending by distance, -1 where there are no more. classes: those of each gallery
    picture, which votes once for each. Of classes with as many votes, the one with the nearest neighbour comes first, and of the
    classes of one neighbour the first by name. Strangeness: the share of the neighbours that do not have the first class; 1
    without neighbours.

    >>> votes(np.array([[2, 0, 1]]), [["dog"], ["dog"], ["cat"]])
    ([['dog', 'cat']], array([0.33333333]))
    """
    lists: list[list[str]] = []
    strangeness_Q = np.ones(len(rows_QR))
    for query, row in enumerate(rows_QR.tolist()):
        neighbours = [classes_N[n] for n in row if n >= 0]
        # Counter keeps the order of first meeting, and most_common sorts stably.
        counted = Counter(name for classes in neighbours for name in sorted(set(classes)))
        lists.append([name for name, _ in counted.most_common(k)])
        if counted:
            strangeness_Q[query] = 1 - max(counted.values()) / len(neighbours)
    return lists, strangeness_Q


def nearest_codes(
    queries_QB: Codes, gallery_NB: Codes, code_size: int, neighbours: int = 1
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(bits to the nearest gallery code (Q,), rows of the nearest (Q, neighbours)).

    A threshold on the first is a Hamming radius beyond which nothing is known. Of equal distances the earlier row comes first.
    """
    _check_gallery(len(gallery_NB))
    distances, rows_QR = hamming.search(gallery_NB, queries_QB, neighbours, code_size=code_size)
    return distances[:, 0].astype(np.float64), rows_QR


def nearest_to_logits(
    logits_QK: npt.NDArray[np.float32], gallery_NB: Codes, neighbours: int = 1
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(the asymmetric distance to the nearest gallery code (Q,), rows of the nearest (Q, neighbours)).

    The distance is the similarity of logits and code (hashret.hamming.asymmetric), negated: twice the sum of |logit| over the
    bits that differ, less the sum over all bits. A picture is strange where sure bits differ from every code, and where no bit is
    sure. logits: thresholds subtracted.
    """
    _check_gallery(len(gallery_NB))
    similarities, rows_QR = asymmetric.search(gallery_NB, logits_QK, neighbours)
    return -similarities[:, 0].astype(np.float64), rows_QR


def by_codes(
    rule: str,
    ids: Sequence[str],
    queries_QB: Codes,
    logits_QK: npt.NDArray[np.float32] | None,
    gallery_NB: Codes,
    classes_N: Sequence[Collection[str]],
    code_size: int,
    neighbours: int = 10,
) -> Answers:
    """Answers by codes: lists of the votes of the nearest gallery codes, and strangeness by one of RULES.

    "hamming": bits to the nearest code; "asymmetric": the distance of logits (thresholds subtracted), which then find the
    neighbours, too; "agreement": how little the nearest codes agree. Neighbours of equal distance come in the gallery's order.
    """
    if rule not in RULES:
        raise UsageError(f"the rule is {rule!r}, expected one of {', '.join(RULES)}")
    if rule == "asymmetric":
        if logits_QK is None:
            raise UsageError("the asymmetric distance is of logits, and there are none; give them")
        nearest_Q, rows_QR = nearest_to_logits(logits_QK, gallery_NB, neighbours)
    else:
        nearest_Q, rows_QR = nearest_codes(queries_QB, gallery_NB, code_size, neighbours)
    lists, disagreement_Q = votes(rows_QR, classes_N)
    return of_neighbours(ids, lists, disagreement_Q if rule == "agreement" else nearest_Q)


@dataclass(frozen=True)
class Calibration:
    """A threshold, what it was chosen on, and MAP@k there: without any stranger class in the lists, and with it.

    strangers: the ids of those that were mixed in.
    """

    threshold: float
    map_before: float
    map_after: float
    k: int
    share: float
    known: int
    strangers: frozenset[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; strangers are counted."""
        return {**asdict(self), "strangers": len(self.strangers)}


@dataclass(frozen=True)
class Assessment:
    """How well strangers are told from known pictures, those that chose no threshold; MAP@k before and after it.

    fpr_at_95_tpr: the share of known pictures that would be called strange where 95 % of the strangers are.
    called: the shares of known pictures and of strangers whose list begins with the stranger class.
    """

    auroc: float
    fpr_at_95_tpr: float
    map_before: float
    map_after: float
    called_known: float
    called_strangers: float
    k: int
    share: float
    known: int
    strangers: int

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def calibrate(
    known: Answers, truths: Sequence[Collection[str]], strangers: Answers, *, share: float = SHARE, k: int = LONGEST
) -> Calibration:
    """The threshold with the best MAP@k on a mixture in which the share `share` are strangers.

    truths: the true classes of each known picture. All pictures of both kinds count, strangers weighed so that they are that
    share: the mean over all mixtures that could be drawn. MAP changes only where the threshold passes a level, so all thresholds
    that differ are tried, and no grid: of those that are best, the middle one is taken (of two, the lower), half way between the
    two levels around it.
    DataError where one kind is missing; UsageError for what does not fit.
    """
    weights, aps = _mixture(known, truths, strangers, share, k)
    levels = np.concatenate([known.levels_QL, strangers.levels_QL])
    threshold, best, without = _best_threshold(levels, aps, weights)
    return Calibration(threshold, without, best, k, share, len(known), frozenset(strangers.ids))


def assess(
    calibration: Calibration,
    known: Answers,
    truths: Sequence[Collection[str]],
    strangers: Answers,
) -> Assessment:
    """How the threshold does on other pictures, mixed as those that chose it.

    DataError where a stranger helped to choose the threshold, or was seen as known: its score would be no score of a stranger.
    """
    leaked = [name for name in strangers.ids if name in calibration.strangers]
    if leaked:
        raise DataError(
            f"{len(leaked)} of the {len(strangers)} strangers, the first is {leaked[0]}, chose the threshold that they are to "
            "judge; split strangers in two, one part for each"
        )
    both = sorted(set(strangers.ids) & set(known.ids))
    if both:
        raise DataError(f"{both[0]} is among the known pictures and among the strangers; a picture is one or the other")
    k, share = calibration.k, calibration.share
    weights, aps = _mixture(known, truths, strangers, share, k)
    above = np.concatenate([each.levels_QL >= calibration.threshold for each in (known, strangers)]).sum(axis=1)
    called = above == 0
    return Assessment(
        auroc=auroc(strangers.strangeness_Q, known.strangeness_Q),
        fpr_at_95_tpr=fpr_at_tpr(strangers.strangeness_Q, known.strangeness_Q),
        map_before=float(weights @ aps[:, -1]),
        map_after=float(weights @ np.take_along_axis(aps, above[:, None], axis=1)[:, 0]),
        called_known=float(called[: len(known)].mean()),
        called_strangers=float(called[len(known) :].mean()),
        k=k,
        share=share,
        known=len(known),
        strangers=len(strangers),
    )


def threshold_of_share(answers: Answers, share: float) -> float:
    """The threshold at which the share `share` of the lists, to the nearest whole one, begin with the stranger class.

    Half way between two first levels. Where pictures of one level would have to be told apart, fewer are called strangers.
    UsageError for a share that is none.
    """
    if not 0 <= share <= 1 or not len(answers):
        raise UsageError(
            f"the share of strangers is {share} of {len(answers)} pictures, expected 0 to 1 of at least one"
        )
    levels = np.sort(answers.levels_QL[:, 0])
    called = round(share * len(levels))
    distinct = np.unique(levels)
    if called == len(levels):
        return _between(distinct, len(distinct))
    return _between(distinct, int(np.searchsorted(distinct, levels[called])))


def halves(ids: Sequence[str], seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two parts of the rows, drawn with the seed: strangers to choose a threshold by, and as many, or one fewer, to judge it by.

    DataError for fewer than two.
    """
    if len(ids) < 2:
        raise DataError(
            f"there are {len(ids)} strangers, expected at least 2: some choose a threshold, others judge it"
        )
    order = np.random.default_rng(seed).permutation(len(ids))
    middle = (len(ids) + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def _mixture(
    known: Answers, truths: Sequence[Collection[str]], strangers: Answers, share: float, k: int
) -> tuple[Floats, Floats]:
    """(weights (Q,), AP@k (Q, L + 1)) of known pictures, then strangers; in column p the stranger class is behind p classes."""
    if not 0 < share < 1:
        raise UsageError(f"the share of strangers is {share}, expected one between 0 and 1")
    if not len(known) or not len(strangers):
        raise DataError(
            f"there are {len(known)} known pictures and {len(strangers)} strangers, expected at least one of each"
        )
    if len(truths) != len(known) or any(not truth or STRANGER in truth for truth in truths):
        raise UsageError("each known picture needs its true classes, and the stranger class is none of them")
    n_levels = known.levels_QL.shape[1]
    if strangers.levels_QL.shape[1] != n_levels:
        raise UsageError(
            f"known pictures have {n_levels} levels and strangers {strangers.levels_QL.shape[1]}, expected as many"
        )
    weights = np.repeat([(1 - share) / len(known), share / len(strangers)], [len(known), len(strangers)])
    aps = [
        [ap_at_k_of_list(_inserted(classes, above, n_levels, k), truth, k) for above in range(n_levels + 1)]
        for classes, truth in zip(
            [*known.lists, *strangers.lists], [*truths, *([{STRANGER}] * len(strangers))], strict=True
        )
    ]
    return weights, np.array(aps)


def _best_threshold(levels_QL: Floats, aps_QP: Floats, weights_Q: Floats) -> tuple[float, float, float]:
    """(threshold, the weighted mean of AP there, the same below all levels).

    A threshold that rises past a picture's level takes it from AP column p + 1 to column p, p how many higher levels there are.
    """
    distinct, number = np.unique(levels_QL, return_inverse=True)
    gains = weights_Q[:, None] * (aps_QP[:, :-1] - aps_QP[:, 1:])
    passed = np.zeros(len(distinct))
    np.add.at(passed, number.reshape(-1), gains.reshape(-1))
    without = float(weights_Q @ aps_QP[:, -1])
    # Equal sums may differ in their last bits; mixtures of a million pictures differ by more than 1e-10.
    means = np.round(without + np.concatenate([[0.0], np.cumsum(passed)]), 12)
    best = np.flatnonzero(means == means.max())
    threshold = _between(distinct, int(best[(len(best) - 1) // 2]))
    above_Q = (levels_QL >= threshold).sum(axis=1)
    return threshold, float(weights_Q @ aps_QP[np.arange(len(aps_QP)), above_Q]), without


def _between(distinct: Floats, below: int) -> float:
    """A threshold that exactly the first `below` of these ascending levels are below: half way, or next to the outermost."""
    if below == 0:
        return float(distinct[0])
    if below == len(distinct):
        return float(np.nextafter(distinct[-1], np.inf))
    low, high = float(distinct[below - 1]), float(distinct[below])
    middle = low + (high - low) / 2
    return middle if middle > low else high  # two neighbouring floats have nothing between them


def _check_names(class_names: Sequence[str]) -> None:
    if STRANGER in class_names:
        raise UsageError(f"a class is called {STRANGER!r}, which is the stranger class; rename it with --label-map")


def _check_gallery(n: int) -> None:
    if not n:
        raise DataError("the gallery is empty, so nothing is near; give known pictures")
