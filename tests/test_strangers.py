"""Lists of classes with strangers: MAP@k, detection, the threshold, leaks. Judges: naive loops and scikit-learn."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from hashret.codes import pack
from hashret.errors import DataError, HashretError, UsageError
from hashret.evaluation import strangers
from hashret.evaluation.strangers import STRANGER, Answers
from hashret.metrics import ap_at_k_of_list, auroc, fpr_at_tpr, map_at_k_of_lists

# ---- MAP@k of lists

CLASSES = [f"c{i}" for i in range(8)]


def naive_ap(answer: list[str], truth: set[str], k: int) -> float:
    total = 0.0
    for rank in range(1, min(k, len(answer)) + 1):
        if answer[rank - 1] in truth:
            total += len(set(answer[:rank]) & truth) / rank
    return total / min(k, len(truth))


@given(
    st.lists(st.sampled_from(CLASSES), unique=True, max_size=8),
    st.sets(st.sampled_from(CLASSES), min_size=1),
    st.integers(1, 7),
)
def test_ap_of_a_list_is_the_naive_loop(answer: list[str], truth: set[str], k: int) -> None:
    assert ap_at_k_of_list(answer, truth, k) == pytest.approx(naive_ap(answer, truth, k), abs=1e-15)
    assert map_at_k_of_lists([answer, answer], [truth, truth], k) == pytest.approx(naive_ap(answer, truth, k))


def test_one_true_class_counts_one_by_its_rank() -> None:
    found = [ap_at_k_of_list(CLASSES, {name}) for name in CLASSES]
    assert found == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 0, 0, 0]
    assert ap_at_k_of_list(CLASSES, set(CLASSES)) == 1 and ap_at_k_of_list([], {"c0"}) == 0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: ap_at_k_of_list(["a", "a"], {"a"}), "names a class twice"),
        (lambda: ap_at_k_of_list(["a"], set()), "at least one true class"),
        (lambda: ap_at_k_of_list(["a"], "a"), "expected classes and at least one true class"),
        (lambda: ap_at_k_of_list("abc", {"a"}), "expected classes"),
        (lambda: ap_at_k_of_list(["a"], {"a"}, 0), "k is 0"),
        (lambda: map_at_k_of_lists([], []), "0 answers and 0 truths"),
        (lambda: map_at_k_of_lists([["a"]], []), "1 answers and 0 truths"),
    ],
)
def test_what_is_no_list(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ask()


# ---- detection

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@settings(deadline=None)
@given(SCORES, SCORES, st.sampled_from([0.05, 0.5, 0.9, 0.95, 1.0]))
def test_detection_as_scikit_learn_has_it(positives: list[int], negatives: list[int], tpr: float) -> None:
    truth, scores = [1] * len(positives) + [0] * len(negatives), positives + negatives
    assert auroc(positives, negatives) == pytest.approx(roc_auc_score(truth, scores))
    pairs = itertools.product(positives, negatives)
    u = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs)
    assert auroc(positives, negatives) == u / (len(positives) * len(negatives))
    fprs, tprs, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert fpr_at_tpr(positives, negatives, tpr) == pytest.approx(fprs[tprs >= tpr - 1e-12].min())


@pytest.mark.parametrize("n", range(1, 400))
def test_the_share_that_is_asked_for_is_reached_and_no_more(n: int) -> None:
    positives = np.arange(n, dtype=np.float64)
    fewest = next(count for count in range(1, n + 1) if count / n >= 0.95)
    detected = fpr_at_tpr(positives, positives - 0.5) * n  # one fewer of these than of the positives
    assert detected == pytest.approx(fewest - 1)


def test_detection_at_its_ends() -> None:
    assert (auroc([1, 2], [0]), fpr_at_tpr([1, 2], [0])) == (1.0, 0.0)
    assert (auroc([0], [1, 2]), fpr_at_tpr([0], [1, 2])) == (0.0, 1.0)
    assert (auroc([1, 1], [1]), fpr_at_tpr([1, 1], [1])) == (0.5, 1.0)  # all are equal: all or nothing is detected
    large = np.random.default_rng(0).normal(size=200_000)
    assert auroc(large, large) == 0.5


@pytest.mark.parametrize("wrong", [[], [[1.0]], [np.nan], [np.inf]])
def test_what_is_no_score(wrong: Any) -> None:
    for judge in (auroc, fpr_at_tpr):
        for scores in ((wrong, [1.0]), ([1.0], wrong)):
            with pytest.raises(UsageError, match="expected at least one, all of them finite"):
                judge(*scores)
    for tpr in (0, 1.1, float("nan")):
        with pytest.raises(UsageError, match="tpr is"):
            fpr_at_tpr([1], [1], tpr)


# ---- where the stranger class stands


def answers_of(seed: int, pictures: int, classes: int, distinct: int, prefix: str = "q") -> Answers:
    """Answers by scores of few distinct values."""
    scores = np.random.default_rng(seed).integers(0, distinct, (pictures, classes)) / distinct
    return strangers.of_scores([f"{prefix}{i}" for i in range(pictures)], scores, CLASSES[:classes])


def naive_list(scores: np.ndarray, threshold: float, k: int) -> list[str]:
    ordered = sorted(range(len(scores)), key=lambda c: (-scores[c], c))
    listed: list[str] = []
    for c in ordered:
        if scores[c] < threshold and STRANGER not in listed:
            listed.append(STRANGER)
        listed.append(CLASSES[c])
    return listed[:k]


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 4), st.floats(-0.1, 1.1))
def test_the_stranger_class_stands_before_the_first_class_below(
    seed: int, classes: int, distinct: int, threshold: float
) -> None:
    scores = np.random.default_rng(seed).integers(0, distinct, (6, classes)) / distinct
    answers = strangers.of_scores([str(i) for i in range(6)], scores, CLASSES[:classes])
    expected = [naive_list(row, threshold, 5) for row in scores]
    assert answers.with_strangers(threshold) == expected


def test_one_level_puts_it_first_or_nowhere() -> None:
    answers = strangers.of_neighbours(["x", "y"], [["a", "b", "c", "d", "e"], ["b"]], [3, 12])
    assert answers.with_strangers(-8) == [["a", "b", "c", "d", "e"], [STRANGER, "b"]]
    assert answers.with_strangers(-2) == [[STRANGER, "a", "b", "c", "d"], [STRANGER, "b"]]
    assert answers.with_strangers(-12) == [["a", "b", "c", "d", "e"], ["b"]]
    assert answers.strangeness_Q.tolist() == [3, 12]


# ---- the threshold


def truths_of(seed: int, pictures: int, classes: int) -> list[set[str]]:
    rng = np.random.default_rng([seed, 1])
    return [set(rng.choice(CLASSES[:classes], rng.integers(1, classes + 1), replace=False)) for _ in range(pictures)]


def naive_map(known: Answers, truths: list[set[str]], others: Answers, threshold: float, share: float) -> float:
    """MAP@5 of a mixture, by its definition."""
    of_known = map_at_k_of_lists(known.with_strangers(threshold), truths)
    return (1 - share) * of_known + share * map_at_k_of_lists(
        others.with_strangers(threshold), [{STRANGER}] * len(others)
    )


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.integers(1, 12),
    st.floats(0.05, 0.95), st.booleans(),
)  # fmt: skip
def test_no_threshold_is_better_and_the_middle_of_the_best_is_taken(
    seed: int, n_known: int, n_strangers: int, classes: int, distinct: int, share: float, by_neighbours: bool
) -> None:
    known = answers_of(seed, n_known, classes, distinct)
    others = answers_of(seed + 1, n_strangers, classes, distinct, "s")
    if by_neighbours:
        known, others = (strangers.of_neighbours(a.ids, a.lists, a.strangeness_Q) for a in (known, others))
    truths = truths_of(seed, n_known, classes)
    found = strangers.calibrate(known, truths, others, share=share)
    levels = np.unique(np.concatenate([known.levels_QL, others.levels_QL]))
    tried = [*levels, levels[-1] + 1]  # every threshold that makes a difference: at each level, and above all
    scores = [naive_map(known, truths, others, threshold, share) for threshold in tried]
    assert found.map_after == pytest.approx(max(scores)) and found.map_before == pytest.approx(scores[0])
    assert naive_map(known, truths, others, found.threshold, share) == pytest.approx(found.map_after)
    best = [i for i, score in enumerate(scores) if score > max(scores) - 1e-9]
    middle = best[(len(best) - 1) // 2]
    assert (levels < found.threshold).sum() == middle
    if 0 < middle < len(levels):
        assert found.threshold == pytest.approx((levels[middle - 1] + levels[middle]) / 2)
    assert found.strangers == frozenset(others.ids) and found.as_dict()["strangers"] == n_strangers


def test_the_mixture_is_the_mean_of_those_that_could_be_drawn() -> None:
    known, others = answers_of(0, 7, 4, 9), answers_of(1, 6, 4, 9, "s")
    truths = truths_of(0, 7, 4)
    found = strangers.calibrate(known, truths, others, share=0.3)
    drawn = []
    for rows in itertools.combinations(range(6), 3):  # 3 strangers beside 7 known pictures
        lists = known.with_strangers(found.threshold) + others.select(rows).with_strangers(found.threshold)
        drawn.append(map_at_k_of_lists(lists, [*truths, *([{STRANGER}] * 3)]))
    assert found.map_after == pytest.approx(np.mean(drawn))


def test_neighbouring_floats_are_told_apart() -> None:
    low = np.float64(0.5)
    high = np.nextafter(low, 1)
    known = strangers.of_scores(["k"], [[high, 0.0]], ["a", "b"])
    others = strangers.of_scores(["s"], [[low, 0.0]], ["a", "b"])
    found = strangers.calibrate(known, [{"a"}], others)
    assert low < found.threshold <= high and found.map_after == 1.0


def test_a_share_of_the_pictures_is_called_strange() -> None:
    answers = strangers.of_scores([str(i) for i in range(10)], np.arange(10)[:, None] / 10, ["a"])
    for share, called in ((0, 0), (0.1, 1), (0.14, 1), (0.5, 5), (1, 10)):
        threshold = strangers.threshold_of_share(answers, share)
        assert [row[0] for row in answers.with_strangers(threshold)].count(STRANGER) == called
    assert strangers.threshold_of_share(answers, 0.3) == pytest.approx(0.25)
    tied = strangers.of_scores(list("abcd"), [[0.1], [0.4], [0.4], [0.9]], ["a"])
    assert (
        tied.levels_QL < strangers.threshold_of_share(tied, 0.5)
    ).sum() == 1  # two that are alike are not told apart
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="the share of strangers is"):
            strangers.threshold_of_share(answers, share)


# ---- assessment, and the leak


def mixture() -> tuple[Answers, list[set[str]], Answers]:
    return answers_of(0, 30, 6, 20), truths_of(0, 30, 6), answers_of(9, 24, 6, 20, "s")


def test_an_assessment_is_of_other_pictures_by_definition() -> None:
    known, truths, others = mixture()
    chosen, judged = strangers.halves(others.ids, seed=3)
    assert sorted([*chosen, *judged]) == list(range(24)) and abs(len(chosen) - len(judged)) <= 1
    calibration = strangers.calibrate(known.select(range(15)), truths[:15], others.select(chosen))
    rest, of_rest, left = known.select(range(15, 30)), truths[15:], others.select(judged)
    found = strangers.assess(calibration, rest, of_rest, left)
    threshold = calibration.threshold
    assert found.map_after == pytest.approx(naive_map(rest, of_rest, left, threshold, 0.3))
    assert found.map_before == pytest.approx(naive_map(rest, of_rest, left, -np.inf, 0.3))
    truth = [1] * len(left) + [0] * len(rest)
    assert found.auroc == pytest.approx(roc_auc_score(truth, [*left.strangeness_Q, *rest.strangeness_Q]))
    assert found.fpr_at_95_tpr == fpr_at_tpr(left.strangeness_Q, rest.strangeness_Q)
    assert found.called_strangers == np.mean([row[0] == STRANGER for row in left.with_strangers(threshold)])
    assert found.called_known == np.mean([row[0] == STRANGER for row in rest.with_strangers(threshold)])
    assert (found.known, found.strangers, found.as_dict()["k"]) == (15, 12, 5)


def test_strangers_that_chose_the_threshold_do_not_judge_it() -> None:
    known, truths, others = mixture()
    calibration = strangers.calibrate(known, truths, others.select(range(12)))
    with pytest.raises(
        DataError, match="1 of the 13 strangers, the first is s11, chose the threshold that they are to judge"
    ):
        strangers.assess(calibration, known, truths, others.select(range(11, 24)))
    with pytest.raises(DataError, match="s20 is among the known pictures and among the strangers"):
        both = others.select([20, 21])
        strangers.assess(calibration, both, truths[:2], others.select([20]))
    assert strangers.assess(calibration, known, truths, others.select(range(12, 24))).strangers == 12


# ---- neighbours


def test_votes_by_definition() -> None:
    classes = [["b"], ["a"], ["a", "c"], ["d"], []]
    lists, strange = strangers.votes(np.array([[0, 1, 2], [3, 0, 1], [4, -1, -1], [-1, -1, -1]]), classes)
    assert lists == [["a", "b", "c"], ["d", "b", "a"], [], []]  # most votes, then the nearest
    assert strange == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert strangers.votes(np.array([[0, 1, 2]]), classes, k=1)[0] == [["a"]]
    assert strangers.votes(np.empty((0, 3), np.int64), classes)[0] == []


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([1, 7, 16, 33]))
def test_strangeness_of_codes_is_the_naive_minimum(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    gallery, logits = rng.integers(0, 2, (9, bits)).astype(bool), rng.normal(size=(5, bits)).astype(np.float32)
    queries = logits > 0
    distances = strangers.nearest_codes(pack(queries), pack(gallery), bits)[0]
    assert distances.tolist() == [(gallery != query).sum(axis=1).min() for query in queries]
    expected = [min(-(np.where(code, x, -x)).sum() for code in gallery) for x in logits.astype(np.float64)]
    assert strangers.nearest_to_logits(logits, pack(gallery))[0] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    other = [2 * min(np.abs(x[code != (x > 0)]).sum() for code in gallery) - np.abs(x).sum() for x in logits]
    assert expected == pytest.approx(other, rel=1e-5, abs=1e-4)


def test_answers_by_codes() -> None:
    rng = np.random.default_rng(4)
    gallery, logits = rng.integers(0, 2, (30, 16)).astype(bool), rng.normal(size=(6, 16)).astype(np.float32)
    classes = [[CLASSES[i % 5]] for i in range(30)]
    ids, queries = [str(i) for i in range(6)], pack(logits > 0)
    found = {
        rule: strangers.by_codes(rule, ids, queries, logits, pack(gallery), classes, 16, neighbours=7)
        for rule in strangers.RULES
    }
    bits = np.array([[(code != query).sum() for code in gallery] for query in logits > 0])
    near = np.argsort(bits, axis=1, kind="stable")[:, :7]
    lists, disagreement = strangers.votes(near, classes)
    assert found["hamming"].lists == found["agreement"].lists == lists
    assert found["hamming"].strangeness_Q.tolist() == bits.min(axis=1).tolist()
    assert found["agreement"].strangeness_Q.tolist() == disagreement.tolist()
    similar = logits @ np.where(gallery, 1, -1).T
    assert found["asymmetric"].strangeness_Q == pytest.approx(-similar.max(axis=1), rel=1e-5)
    assert found["asymmetric"].lists == strangers.votes(np.argsort(-similar, axis=1)[:, :7], classes)[0]
    for rule, message in (("radius", "the rule is 'radius'"), ("asymmetric", "there are none; give them")):
        with pytest.raises(UsageError, match=message):
            strangers.by_codes(rule, ids, queries, None, pack(gallery), classes, 16)


# ---- bad input


NO_CODES, ONE_CODE = np.zeros((0, 1), np.uint8), np.zeros((1, 1), np.uint8)


def known() -> Answers:
    return strangers.of_scores(["k"], [[0.5]], ["a"])


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (lambda: strangers.of_scores(["k"], [[0.5, 0.1]], ["a"]), UsageError, "scores have shape"),
        (lambda: strangers.of_scores(["k", "l"], [[0.5]], ["a"]), UsageError, "there are 2 ids, 1 lists"),
        (lambda: strangers.of_scores(["k"], [[np.nan]], ["a"]), UsageError, "levels are NaN, infinite or rising"),
        (lambda: strangers.of_scores(["k"], [[0.5]], ["-1"]), UsageError, "a class is called '-1'"),
        (lambda: strangers.of_neighbours(["k"], [["-1"]], [1]), UsageError, "a class is called '-1'"),
        (lambda: strangers.of_neighbours(["k"], [["a"]], [np.inf]), UsageError, "levels are NaN"),
        (lambda: Answers(["k"], [["a"]], np.array([[0.1, 0.2]])), UsageError, "rising"),
        (lambda: strangers.calibrate(known(), [{"a"}], known().select([])), DataError, "1 known pictures and 0 strangers"),
        (lambda: strangers.calibrate(known().select([]), [], known()), DataError, "0 known pictures and 1 strangers"),
        (lambda: strangers.calibrate(known(), [{"a"}], known(), share=1), UsageError, "the share of strangers is 1"),
        (lambda: strangers.calibrate(known(), [set()], known()), UsageError, "needs its true classes"),
        (lambda: strangers.calibrate(known(), [{"-1"}], known()), UsageError, "needs its true classes"),
        (lambda: strangers.calibrate(known(), [], known()), UsageError, "needs its true classes"),
        (lambda: strangers.calibrate(known(), [{"a"}], answers_of(0, 2, 3, 3)), UsageError, "have 1 levels and strangers 3"),
        (lambda: strangers.halves(["s"]), DataError, "there are 1 strangers, expected at least 2"),
        (lambda: strangers.nearest_codes(ONE_CODE, NO_CODES, 8), DataError, "the gallery is empty"),
        (lambda: strangers.nearest_to_logits(np.zeros((1, 8), np.float32), NO_CODES), DataError, "the gallery is empty"),
    ],
)  # fmt: skip
def test_what_does_not_fit(ask: Callable[[], Any], kind: type[HashretError], message: str) -> None:
    with pytest.raises(kind) as refused:
        ask()
    assert message in str(refused.value)


def test_the_docstrings_are_right() -> None:
    import doctest

    from hashret.metrics import class_lists, detection
    from hashret.training import optimizer_spec

    for module in (strangers, class_lists, detection, optimizer_spec):
        failed, tried = doctest.testmod(module)
        assert tried and not failed, module.__name__
