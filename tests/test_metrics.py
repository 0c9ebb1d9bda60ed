"""Scores judged by ir-measures on untied rankings, and by enumerating every tie order on tied ones."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from hashret import metrics
from hashret.errors import UsageError
from hashret.metrics import RetrievalScores, retrieval_scores


def scores_of_one_order(relevant: list[bool], k: int | None) -> dict[str, float]:
    """The textbook scores of one ranking without ties, in plain loops."""
    n_relevant = sum(relevant)
    top = relevant if k is None else relevant[:k]
    precisions = [sum(top[: i + 1]) / (i + 1) for i in range(len(top)) if top[i]]
    gains = sum(1 / math.log2(i + 2) for i in range(len(top)) if top[i])
    ndcg = gains / sum(1 / math.log2(i + 2) for i in range(min(n_relevant, len(relevant) if k is None else k)))
    if k is None:
        first = relevant[:n_relevant]
        return {
            "map@all": sum(precisions) / n_relevant,
            "ndcg@all": ndcg,
            "precision@R": sum(first) / n_relevant,
            "map@R": sum(sum(first[: i + 1]) / (i + 1) for i in range(n_relevant) if first[i]) / n_relevant,
        }
    return {
        f"hit@{k}": float(any(top)),
        f"recall@{k}": sum(top) / n_relevant,
        f"precision@{k}": sum(top) / k,
        f"map@{k}": sum(precisions) / min(k, n_relevant),
        f"map@{k}/relevant": sum(precisions) / n_relevant,
        f"map@{k}/found": sum(precisions) / len(precisions) if precisions else 0.0,
        f"ndcg@{k}": ndcg,
    }


def by_enumeration(distances: list[float], relevant: list[bool], k: int | None) -> dict[str, list[float]]:
    """[expected, worst, best] of each score over all tie orders: every order of every group, all equally likely."""
    blocks = []
    for distance in sorted(set(distances)):
        block = [r for d, r in zip(distances, relevant, strict=True) if d == distance]
        # Orders that differ only by exchanging alike items are equally many: distinct arrangements are enough.
        blocks.append(sorted(set(itertools.permutations(block))))
    found: dict[str, list[float]] = {}
    for orders in itertools.product(*blocks):
        for name, value in scores_of_one_order([r for order in orders for r in order], k).items():
            found.setdefault(name, []).append(value)
    return {name: [float(np.mean(values)), min(values), max(values)] for name, values in found.items()}


def assert_equals_enumeration(
    found: RetrievalScores, distances: list[float], relevant: list[bool], cutoffs: list[int | None]
) -> None:
    for cutoff in cutoffs:
        for name, expected in by_enumeration(distances, relevant, cutoff).items():
            assert np.allclose(found.values[name][:, 0], expected, rtol=0, atol=1e-10), (name, distances, relevant)


def test_worked_example_of_the_source_task() -> None:
    """Classes dog dog cat cat, nearest 2 3 4 3: three of four are right."""
    assert metrics.leave_one_out_top1([2, 3, 4, 3], ["dog", "dog", "cat", "cat"], ids=[1, 2, 3, 4]) == 0.75
    assert metrics.leave_one_out_top1([1, 2, 3, 2], ["dog", "dog", "cat", "cat"]) == 0.75
    # The same through the general path: distances whose nearest neighbours are 2 3 4 3, each item left out by id.
    distances = np.array([[0, 1, 5, 9], [3, 0, 2, 9], [9, 8, 0, 1], [9, 9, 2, 0]])
    labels = np.array(["dog", "dog", "cat", "cat"])
    found = retrieval_scores(distances, labels[:, None] == labels[None, :], ~np.eye(4, dtype=bool), ks=(1,))
    assert found.top1 == 0.75


def test_leave_one_out_refuses_an_item_that_finds_itself() -> None:
    for nearest in ([1, 1], [1, 7]):
        with pytest.raises(UsageError, match="another item"):
            metrics.leave_one_out_top1(nearest, ["a", "b"])
    with pytest.raises(UsageError, match="as many"):
        metrics.leave_one_out_top1([1], ["a", "b"])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_expectation_worst_and_best_equal_enumeration(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9))
    distances = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    relevant = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    ks = [1, 2, 3, 4, 5, 7, n, n + 3]
    measures = ["ndcg@all", "precision@R", "map@R", *(f"ndcg@{k}" for k in ks)]
    whole = retrieval_scores([distances], [relevant], ks=ks, map_cutoffs=[None, *ks], measures=measures)
    assert_equals_enumeration(whole, distances, relevant, [None, *ks])
    # The same ranking as floats takes the sorting path, whose groups must score the same.
    floats = [[0.1 * d - 5 for d in distances]]
    as_floats = retrieval_scores(floats, [relevant], ks=ks, map_cutoffs=[None, *ks], measures=measures)
    for name, values in whole.values.items():
        assert np.allclose(values, as_floats.values[name], rtol=0, atol=1e-12), name


def test_permutations_written_out_once_without_the_shortcut() -> None:
    """The enumeration's shortcut (distinct arrangements) against all permutations of all items."""
    relevant = [True, False, False, True, False]
    everything = [scores_of_one_order(list(order), 3)["map@3/found"] for order in itertools.permutations(relevant)]
    assert np.isclose(np.mean(everything), by_enumeration([1] * 5, relevant, 3)["map@3/found"][0])
    found = retrieval_scores([[1] * 5], [relevant], map_cutoffs=(3,))
    assert np.isclose(found["map@3/found"].expected, np.mean(everything))


def test_items_taken_out_are_no_part_of_the_gallery() -> None:
    rng = np.random.default_rng(0)
    for distances in (
        rng.integers(0, 4, (30, 40)),
        rng.integers(0, 4, (30, 40)) / 7,
        rng.integers(0, 4, (30, 40)) * 9999,
    ):
        relevant, valid = rng.random((30, 40)) < 0.2, rng.random((30, 40)) < 0.5
        valid[:3] = False
        found = retrieval_scores(distances, relevant, valid, ks=(1, 5, 30), map_cutoffs=(None, 5, 30))
        kept = [q for q in range(30) if (relevant[q] & valid[q]).any()]
        assert found.scored_Q.nonzero()[0].tolist() == kept
        assert (found.n_queries, found.n_excluded) == (len(kept), 30 - len(kept))
        for i, q in enumerate(kept):
            alone = retrieval_scores(
                distances[q, valid[q]][None], relevant[q, valid[q]][None], ks=(1, 5, 30), map_cutoffs=(None, 5, 30)
            )
            for name, values in alone.values.items():
                assert np.allclose(found.values[name][:, i], values[:, 0], rtol=0, atol=1e-12), (name, q)


def test_ir_measures_on_untied_rankings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ir_measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(1)
    n_queries, n_items = 20, 120
    distances = np.stack([rng.permutation(n_items) for _ in range(n_queries)])
    relevant = rng.random((n_queries, n_items)) < 0.08
    relevant[:, 0] = True
    judged = [ir_measures.Qrel(str(q), str(d), int(relevant[q, d])) for q in range(n_queries) for d in range(n_items)]
    run = [
        ir_measures.ScoredDoc(str(q), str(d), float(-distances[q, d])) for q in range(n_queries) for d in range(n_items)
    ]
    peers = {
        "map@all": ir_measures.AP,
        "map@10/relevant": ir_measures.AP @ 10,
        "precision@5": ir_measures.P @ 5,
        "recall@10": ir_measures.R @ 10,
        "hit@5": ir_measures.Success @ 5,
        "hit@1": ir_measures.Success @ 1,
        "ndcg@10": ir_measures.nDCG @ 10,
        "ndcg@all": ir_measures.nDCG,
        "precision@R": ir_measures.Rprec,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            name: {value.query_id: value.value for value in ir_measures.iter_calc([measure], judged, run)}
            for name, measure in peers.items()
        }
    for ranking in (distances, distances / 1000):
        found = retrieval_scores(ranking, relevant, ks=(1, 5, 10), map_cutoffs=(None, 10), measures=list(peers))
        for name, values in expected.items():
            ours = found.per_query(name)
            assert np.allclose(ours, [values[str(q)] for q in range(n_queries)], rtol=0, atol=1e-9), name
            assert np.allclose(found[name].worst, found[name].best)


def test_scikit_learn_averages_the_gain_of_ties_as_we_do() -> None:
    rng = np.random.default_rng(7)
    distances, relevant = rng.integers(0, 6, (30, 50)), rng.random((30, 50)) < 0.2
    found = retrieval_scores(distances, relevant, measures=("ndcg@10", "ndcg@all"))
    assert found.scored_Q.all()
    for name, k in (("ndcg@10", 10), ("ndcg@all", None)):
        theirs = [ndcg_score(relevant[q : q + 1], -distances[q : q + 1], k=k) for q in range(30)]
        assert np.allclose(found.per_query(name), theirs, rtol=0, atol=1e-12)
    untied = rng.permuted(np.tile(np.arange(50), (30, 1)), axis=1)
    theirs = [average_precision_score(relevant[q], -untied[q]) for q in range(30)]
    assert np.allclose(retrieval_scores(untied, relevant).per_query("map@all"), theirs, rtol=0, atol=1e-12)


def test_accuracy_calculator_of_pytorch_metric_learning_on_its_definitions() -> None:
    """Its queries are their own gallery, each less itself; its names: precision_at_1, r_precision, MAP@R, MAP and MRR."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    rng = np.random.default_rng(8)
    vectors, labels = rng.standard_normal((60, 4)), rng.integers(0, 5, 60)
    include = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_average_precision")
    calculator = AccuracyCalculator(include=include, k=59, device=torch.device("cpu"))
    theirs = calculator.get_accuracy(torch.from_numpy(vectors), torch.from_numpy(labels))
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    found = retrieval_scores(
        distances, labels[:, None] == labels, ~np.eye(60, dtype=bool), ks=(1,), measures=("precision@R", "map@R")
    )
    names = {"hit@1": include[0], "precision@R": include[1], "map@R": include[2], "map@all": include[3]}
    for ours, their in names.items():
        assert np.isclose(found[ours].expected, theirs[their], rtol=0, atol=1e-6), ours


def test_what_is_within_a_radius_by_hand() -> None:
    distances = np.array([[0, 1, 2, 2, 3], [3, 3, 3, 3, 4], [1, 1, 1, 1, 1]])
    relevant = np.array([[1, 0, 1, 1, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    measures = ("precision-within@2", "recall-within@2", "empty-within@2", "precision-within@0", "recall-within@9")
    found = retrieval_scores(distances, relevant, measures=measures, choices=metrics.Choices(code_size=8))
    assert {name: found.per_query(name).tolist() for name in measures} == {
        "precision-within@2": [0.75, 0.0],
        "recall-within@2": [0.75, 0.0],
        "empty-within@2": [0.0, 1.0],
        "precision-within@0": [1.0, 0.0],
        "recall-within@9": [1.0, 1.0],
    }
    assert found["precision-within@2"].signature == (
        "precision-within|radius:2|denominator:found-or-0|ties:exact-expectation|self:left-out-by-id|no-relevant:excluded"
        "|distance:hamming|bits:8|hashret-metrics:1"
    )


def test_the_tie_order_alone_moves_a_score_and_the_expectation_stands_between() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 10, 400)
    codes = rng.integers(0, 64, 10)[labels] ^ (1 << rng.integers(0, 6, 400))
    distances = np.bitwise_count(codes[:, None] ^ codes[None, :])
    found = retrieval_scores(distances, labels[:, None] == labels, ~np.eye(400, dtype=bool), map_cutoffs=(None, 100))
    for name in found.names:
        score = found[name]
        assert 0 <= score.worst <= score.expected <= score.best <= 1
    assert found["map@all"].best - found["map@all"].worst > 0.1


def test_chunks_merge_to_the_whole() -> None:
    rng = np.random.default_rng(3)
    distances, relevant = rng.integers(0, 9, (50, 70)), rng.random((50, 70)) < 0.05
    arguments: dict[str, Any] = {"ks": (1, 10), "map_cutoffs": (None, 20)}
    whole = retrieval_scores(distances, relevant, **arguments)
    parts = [retrieval_scores(distances[i : i + 7], relevant[i : i + 7], **arguments) for i in range(0, 50, 7)]
    merged = RetrievalScores.merge(parts)
    assert merged.as_dict() == whole.as_dict()
    assert (merged.scored_Q == whole.scored_Q).all()
    with pytest.raises(UsageError, match="different"):
        RetrievalScores.merge([whole, retrieval_scores(distances, relevant)])
    with pytest.raises(UsageError, match="no scores"):
        RetrievalScores.merge([])


def test_nothing_relevant_and_nothing_at_all() -> None:
    for distances in (np.zeros((3, 4), int), np.zeros((3, 4)), np.zeros((0, 4)), np.zeros((3, 0), np.uint16)):
        found = retrieval_scores(distances, np.zeros(distances.shape, bool), map_cutoffs=(None, 2))
        assert (found.n_queries, found.n_excluded) == (0, len(distances))
        assert np.isnan(found.top1)
        assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["scores"]["hit@1"]["expected"] is None


def test_every_score_carries_its_choices() -> None:
    choices = metrics.Choices(distance="hamming", code_size=48, self_match="left-out-by-id")
    found = retrieval_scores([[0, 1]], [[True, False]], ks=(1,), map_cutoffs=(None, 5), choices=choices)
    signatures = {name: found[name].signature for name in found.names}
    assert signatures["map@5"] == (
        "map|cutoff:5|denominator:min(k,relevant)|ties:exact-expectation|self:left-out-by-id|no-relevant:excluded"
        "|distance:hamming|bits:48|hashret-metrics:1"
    )
    assert "denominator:found" in signatures["map@5/found"] and "denominator:relevant" in signatures["map@all"]
    assert len(set(signatures.values())) == len(signatures)


def test_what_does_not_fit_is_refused() -> None:
    good, flags = np.zeros((2, 3)), np.zeros((2, 3), bool)
    for arguments in (
        (good[0], flags),
        (good, flags[:, :2]),
        (good, flags.astype(int)),
        (good, flags, flags[:1]),
        (np.full((2, 3), np.nan), flags),
        (good.astype(str), flags),
    ):
        with pytest.raises(UsageError):
            retrieval_scores(*arguments)  # type: ignore[arg-type]
    names = [
        "ndcg@R",
        "hit@0",
        "hit@all",
        "map@",
        "map",
        "map@10/half",
        "map@R/found",
        "hit@1/found",
        "mrr@3",
        "map@01",
        "ndcg@-1",
    ]
    for name in [*names, "precision-within@R", "recall-within", "map@1_0", "hit@²"]:
        with pytest.raises(UsageError, match="is no score, expected one such as"):
            retrieval_scores(good, ~flags, measures=(name,))
    with pytest.raises(UsageError, match="precision-within@2 is a score of whole distances"):
        retrieval_scores(good, ~flags, measures=("precision-within@2",))
    for cutoffs in ({"ks": (0,)}, {"map_cutoffs": (-1,)}, {"ks": (1.5,)}):
        with pytest.raises(UsageError, match="cutoff"):
            retrieval_scores(good, flags, **cutoffs)  # type: ignore[arg-type]
    found = retrieval_scores(good, ~flags)
    with pytest.raises(UsageError, match="no score"):
        found["map@7"]
    with pytest.raises(UsageError, match="tie order"):
        found.per_query("hit@1", "median")


def test_bootstrap_interval_covers_and_repeats() -> None:
    values = np.random.default_rng(4).random(500) < 0.3
    low, high = metrics.bootstrap_interval(values, seed=1)
    assert (low, high) == metrics.bootstrap_interval(values, seed=1)
    error = np.sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert np.isclose(low, values.mean() - 1.96 * error, atol=0.01)
    assert np.isclose(high, values.mean() + 1.96 * error, atol=0.01)
    assert metrics.bootstrap_interval([0.5]) == (0.5, 0.5)
    for bad in ([], [np.nan], [[1.0]]):
        with pytest.raises(UsageError):
            metrics.bootstrap_interval(bad)
    with pytest.raises(UsageError):
        metrics.bootstrap_interval([1.0], confidence=1.0)
