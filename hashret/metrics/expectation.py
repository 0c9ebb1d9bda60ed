"""Exact scores of rankings with ties: expected over all tie orders, and in the worst and the best of them.

A group of n items at one distance, r of them relevant, N items and R relevant ones strictly closer, puts m = clip(k - N,
0, n) of its items into the top k. Only the group that the cutoff divides puts in a random number of relevant ones, and
that number is hypergeometric. Every function gives (3, Q) float64: expected, worst, best.

Source of the closed form of average precision: the place i of a group is relevant with probability r / n, and then its
expected precision is (R + 1 + (i - 1) b) / (N + i) with b = (r - 1) / (n - 1); summed over i = 1..m with harmonic numbers.
A cutoff k may be one number, or one a query (R: as many as are relevant).
Shape suffixes: Q queries, G groups, X numbers of relevant items.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hashret.metrics.groups import Counts, Groups

Scores = npt.NDArray[np.float64]
Denominator = Literal["min(k,relevant)", "relevant", "found"]
Cutoff = int | Counts

ORDERS = ("expected", "worst", "best")


def found(groups: Groups, k: Cutoff) -> Scores:
    """Relevant items in the top k."""
    inside = _inside(groups, k)
    size, relevant = groups.size_QG, groups.relevant_QG
    return np.stack(
        [
            np.divide(inside * relevant, size, out=np.zeros(size.shape), where=size > 0).sum(axis=1),
            np.maximum(0, inside - (size - relevant)).sum(axis=1),
            np.minimum(relevant, inside).sum(axis=1),
        ]
    )


def hit(groups: Groups, k: int) -> Scores:
    """Probability that at least one relevant item is in the top k."""
    inside = _inside(groups, k)
    # The cutoff divides at most one group, and groups before it are inside whole, so probabilities of a miss multiply.
    log_miss = _log_choose(groups.size_QG - groups.relevant_QG, inside) - _log_choose(groups.size_QG, inside)
    some = found(groups, k)
    expected = 1.0 - np.exp(log_miss.sum(axis=1))
    return np.stack([np.where(some[1] > 0, 1.0, expected), some[1] > 0, some[2] > 0])


def recall(groups: Groups, k: int) -> Scores:
    """Share of all relevant items that are in the top k."""
    return found(groups, k) / groups.n_relevant_Q


def precision(groups: Groups, k: Cutoff) -> Scores:
    """Share of the k first places that are relevant; places beyond the end of the gallery are not."""
    return found(groups, k) / k


def average_precision(groups: Groups, k: Cutoff | None, denominator: Denominator) -> Scores:
    """Sum over the relevant items of the top k (None: all) of the precision at their rank, over the denominator.

    min(k,relevant): what a perfect ranking reaches. relevant: all relevant items. found: those in the top k, which is
    random where the cutoff divides a group; a query that finds none scores 0.
    """
    if k is None:
        k = int(groups.n_items_Q.max(initial=1))
    inside = _inside(groups, k)
    sums = _precision_sums(
        groups.size_QG, groups.relevant_QG, inside, groups.closer_QG, groups.relevant_closer_QG, inside
    )
    if denominator == "found":
        return _over_found(groups, inside, sums)
    total = groups.n_relevant_Q
    scores: Scores = sums.sum(axis=2) / (np.minimum(k, total) if denominator == "min(k,relevant)" else total)
    return scores


def _over_found(groups: Groups, inside: Counts, sums: npt.NDArray[np.float64]) -> Scores:
    """Average precision over the relevant items found: the divided group weighs each number it may put in."""
    divided = (inside > 0) & (inside < groups.size_QG)
    closer_sums = np.where(divided, 0.0, sums).sum(axis=2)
    closer_found = np.where(inside == groups.size_QG, groups.relevant_QG, 0).sum(axis=1)

    def of_divided(counts: Counts) -> Counts:
        """The divided group's entry of every query, 0 where there is none."""
        picked: Counts = np.where(divided, counts, 0).sum(axis=1)
        return picked[:, None]

    n, r, m = of_divided(groups.size_QG), of_divided(groups.relevant_QG), of_divided(inside)
    N, R = of_divided(groups.closer_QG), of_divided(groups.relevant_closer_QG)
    x = np.arange(int(np.minimum(r, m).max(initial=0)) + 1)[None, :]
    possible = (x <= np.minimum(r, m)) & (x >= m - (n - r))
    log_share = _log_choose(r, x) + _log_choose(n - r, m - x) - _log_choose(n, m)
    share = np.where(possible, np.exp(np.where(possible, log_share, 0.0)), 0.0)
    # Given x relevant ones among its m places, the group is one of m items, x of them relevant.
    placed = np.minimum(x, m)
    scores = closer_sums[:, :, None] + _precision_sums(m, placed, m, N, R, m)
    total = closer_found[:, None] + x
    scores = np.divide(scores, total, out=np.zeros(scores.shape), where=total > 0)
    return np.stack(
        [
            (scores[0] * share).sum(axis=1),
            np.where(possible, scores[1], np.inf).min(axis=1),
            np.where(possible, scores[2], -np.inf).max(axis=1),
        ]
    )


def _precision_sums(n: Counts, r: Counts, m: Counts, N: Counts, R: Counts, upto: Counts) -> npt.NDArray[np.float64]:
    """Sums of the precision at relevant places among the first m of a group: expected, worst, best."""
    harmonic = _harmonic_numbers(int((N + upto).max(initial=0)))
    b = np.divide(r - 1, n - 1, out=np.zeros(np.broadcast_shapes(n.shape, r.shape)), where=n > 1)
    share = np.divide(r, n, out=np.zeros(b.shape), where=n > 0)
    expected = share * (b * m + (R + 1 - b * (N + 1)) * (harmonic[N + m] - harmonic[N]))
    # Worst: the relevant places are the last of the group, so those from n - r + 1 to m are inside.
    others = np.minimum(n - r, m)
    worst = m - others + (R - (n - r) - N) * (harmonic[N + m] - harmonic[N + others])
    first = np.minimum(r, m)
    best = first + (R - N) * (harmonic[N + first] - harmonic[N])
    return np.stack(np.broadcast_arrays(expected, worst, best))


def ndcg(groups: Groups, k: int | None) -> Scores:
    """Sum of 1 / log2(1 + rank) over the relevant items of the top k (None: all), over what a perfect ranking reaches.

    Source: Jarvelin and Kekalainen 2002, for items that are relevant or not; ties as McSherry and Najork 2008.
    """
    if k is None:
        k = int(np.maximum(groups.n_items_Q, groups.n_relevant_Q).max(initial=1))
    inside = _inside(groups, k)
    n, r, N = groups.size_QG, groups.relevant_QG, groups.closer_QG
    perfect = np.minimum(k, groups.n_relevant_Q)
    discounts = _discounts(int(max((N + inside).max(initial=0), perfect.max(initial=0))))
    share = np.divide(r, n, out=np.zeros(n.shape), where=n > 0)
    others, first = np.minimum(n - r, inside), np.minimum(r, inside)
    gains = [
        share * (discounts[N + inside] - discounts[N]),
        discounts[N + inside] - discounts[N + others],
        discounts[N + first] - discounts[N],
    ]
    scores: Scores = np.stack(gains).sum(axis=2) / discounts[perfect]
    return scores


def precision_within(groups: Groups, radius: int) -> Scores:
    """Share of the items at most `radius` away that are relevant, 0 where there is none: no order of ties changes it."""
    near = groups.size_QG[:, : radius + 1].sum(axis=1)
    right = groups.relevant_QG[:, : radius + 1].sum(axis=1)
    return _certain(np.divide(right, near, out=np.zeros(len(near)), where=near > 0))


def recall_within(groups: Groups, radius: int) -> Scores:
    """Share of all relevant items that are at most `radius` away."""
    return _certain(groups.relevant_QG[:, : radius + 1].sum(axis=1) / groups.n_relevant_Q)


def empty_within(groups: Groups, radius: int) -> Scores:
    """1 where no item is at most `radius` away."""
    return _certain(groups.size_QG[:, : radius + 1].sum(axis=1) == 0)


def _certain(values_Q: npt.NDArray[Any]) -> Scores:
    """What is the same in every order of ties."""
    return np.broadcast_to(values_Q.astype(np.float64), (3, len(values_Q))).copy()


def _inside(groups: Groups, k: Cutoff) -> Counts:
    """How many items of each group are in the top k."""
    return np.clip(np.reshape(k, (-1, 1)) - groups.closer_QG, 0, groups.size_QG)


def _discounts(largest: int) -> npt.NDArray[np.float64]:
    """Sums of 1 / log2(1 + rank) over the first 0, 1 .. largest ranks."""
    sums = np.zeros(largest + 1)
    np.cumsum(1.0 / np.log2(np.arange(2, largest + 2)), out=sums[1:])
    return sums


def _harmonic_numbers(largest: int) -> npt.NDArray[np.float64]:
    """H(0), H(1) .. H(largest)."""
    numbers = np.zeros(largest + 1)
    np.cumsum(1.0 / np.arange(1, largest + 1), out=numbers[1:])
    return numbers


def _log_choose(n: Any, k: Any) -> npt.NDArray[np.float64]:
    """log of n over k, -inf where k > n or k < 0."""
    n, k = np.broadcast_arrays(n, k)
    logs = np.zeros(int(n.max(initial=0)) + 1)
    np.cumsum(np.log(np.arange(1, len(logs))), out=logs[1:])
    fits = (k >= 0) & (k <= n)
    k = np.where(fits, k, 0)
    return np.where(fits, logs[n] - logs[k] - logs[n - k], -np.inf)
