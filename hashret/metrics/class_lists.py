"""Lists of classes, best first, as answers about pictures: AP@k, and its mean over pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hashret.errors import UsageError


def ap_at_k_of_list(answer: Sequence[str], truth: Collection[str], k: int = 5) -> float:
    """AP@k of one list of classes: the sum of precision@i over ranks i up to k that name a true class / min(k, true classes).

    With one true class that is 1 / its rank, or 0 where it is not among the first k. answer: each class at most once, best first,
    of any length. truth: at least one class. UsageError for what does not fit. Source: the metric of Kaggle's "Humpback Whale
    Identification" for one class, "MAP@5"; for several the AP@k of TREC, divided by what a perfect list reaches.

    >>> ap_at_k_of_list(["a", "b", "c"], {"b"})
    0.5
    >>> ap_at_k_of_list(["a", "b", "c"], {"a", "c"})  # (1/1 + 2/3) / 2
    0.8333333333333333
    """
    if k < 1:
        raise UsageError(f"k is {k}, expected a whole number from 1")
    true = set(truth)
    if not true or isinstance(truth, str) or isinstance(answer, str):
        raise UsageError(
            f"the answer {answer!r} is to be judged by {truth!r}, expected classes and at least one true class"
        )
    if len(set(answer)) != len(answer):
        raise UsageError(f"the answer {list(answer)} names a class twice, expected each class at most once")
    right, total = 0, 0.0
    for rank, name in enumerate(answer[:k], 1):
        if name in true:
            right += 1
            total += right / rank
    return total / min(k, len(true))


def map_at_k_of_lists(answers: Sequence[Sequence[str]], truths: Sequence[Collection[str]], k: int = 5) -> float:
    """MAP@k: the mean of `ap_at_k_of_list` over pictures; answers and truths, at least one, in the same order.

    >>> map_at_k_of_lists([["a", "b"], ["-1", "a"], ["c"]], [{"b"}, {"-1"}, {"a"}])  # (1/2 + 1 + 0) / 3
    0.5
    """
    if len(answers) != len(truths) or not answers:
        raise UsageError(
            f"there are {len(answers)} answers and {len(truths)} truths, expected as many, and at least one"
        )
    return sum(ap_at_k_of_list(answer, truth, k) for answer, truth in zip(answers, truths, strict=True)) / len(answers)
