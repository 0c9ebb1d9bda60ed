"""TREC's files: what we write, ir-measures reads and scores as we do; what is no such file is one sentence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hashret.evaluation import trec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ir_measures as peer

PEERS = {
    "map@all": peer.AP,
    "map@10/relevant": peer.AP @ 10,
    "precision@5": peer.P @ 5,
    "recall@5": peer.R @ 5,
    "hit@1": peer.Success @ 1,
    "ndcg@10": peer.nDCG @ 10,
    "ndcg@all": peer.nDCG,
    "precision@R": peer.Rprec,
}


def judged_by_peer(run: Path, qrels: Path) -> dict[str, dict[str, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        relevant, found = list(peer.read_trec_qrels(str(qrels))), list(peer.read_trec_run(str(run)))
        return {
            name: {value.query_id: value.value for value in peer.iter_calc([measure], relevant, found)}
            for name, measure in PEERS.items()
        }


def test_scores_of_runs_are_those_of_ir_measures(tmp_path: Path) -> None:
    """Without ties. Some relevant pictures are not in the run, one query is not answered, one that nobody asked is."""
    rng = np.random.default_rng(0)
    found = {
        f"q{q}": (rng.choice(50, 20, replace=False), np.sort(rng.permutation(40)[:20])[::-1] / 7) for q in range(9)
    }
    answers = [(q, [f"d{d}" for d in rows], scores.tolist()) for q, (rows, scores) in found.items()]
    qrels = {f"q{q}": {f"d{d}" for d in rng.choice(50, rng.integers(1, 9), replace=False)} for q in range(1, 10)}
    assert trec.write_run(tmp_path / "run", answers, "us") == 180
    trec.write_qrels(tmp_path / "qrels", qrels)
    run = trec.read_run(tmp_path / "run")
    assert run == {q: dict(zip(rows, scores, strict=True)) for q, rows, scores in answers}
    assert trec.read_qrels(tmp_path / "qrels") == qrels
    ours = trec.scores(run, qrels, (1, 5), (None, 10), measures=("ndcg@10", "ndcg@all", "precision@R"))
    for name, theirs in judged_by_peer(tmp_path / "run", tmp_path / "qrels").items():
        assert np.allclose(ours.per_query(name), [theirs.get(q, 0.0) for q in qrels], rtol=0, atol=1e-12), name
        assert ours[name].worst == ours[name].best


def test_ties_and_queries_without_anything_relevant() -> None:
    run = {"a": {"x": 1.0, "y": 1.0, "z": 0.5}, "b": {"x": 1.0}}
    found = trec.scores(run, {"a": {"x", "w"}, "b": set(), "c": {"x"}}, (1,), measures=("ndcg@all",))
    assert (found.n_queries, found.n_excluded) == (2, 1)
    assert found.per_query("hit@1").tolist() == [0.5, 0.0]
    assert np.allclose(found.values["map@all"][:, 0], [(1 + 1 / 2) / 2 / 2, 1 / 4, 1 / 2])
    assert found["hit@1"].signature == (
        "hit|cutoff:1|denominator:queries|ties:exact-expectation|self:as-in-run|no-relevant:excluded|distance:score"
        "|hashret-metrics:1"
    )


@pytest.mark.parametrize("metric", ["cosine", "hamming"])
def test_a_run_that_submit_writes_scores_as_evaluate_does(
    hashret: Callable, closed_set: Path, tiny_run: Path, tmp_path: Path, metric: str
) -> None:
    run, qrels = tmp_path / "run", tmp_path / "qrels"
    model = ["--model", tiny_run, "--data", closed_set, "--device", "cpu", "--workers", "0"]
    words = ["submit", *model, "--metric", metric, "--out", run, "--trec", 1000, "--qrels", qrels]
    status, out, err = hashret(*words)
    assert status == 0 and f"{run}: a TREC run of 48 pictures of hues, 2,256 lines" in out, err
    document = json.loads(hashret("score", run, "--qrels", qrels, "--measures", "ndcg@10", "--json").out)
    evaluated = json.loads(hashret("evaluate", *model, "--measures", "ndcg@10", "--json").out)["results"]
    expected = next(each for each in evaluated if each["name"].startswith("float" if metric == "cosine" else "hash"))
    for name in ("hit@1", "hit@10", "map@all", "ndcg@10"):
        for order in ("expected", "worst", "best"):
            assert document["scores"][name][order] == pytest.approx(expected["scores"][name][order], abs=1e-9)
    status, out, _ = hashret("score", run, "--qrels", qrels, "-k", 3, "--map-k", 5)
    assert status == 0 and "48 queries" in out and "map@5/found" in out and "hit@3" in out
    again = hashret(*words)
    assert again.status == 2 and "which exists; choose another name" in again.err


GOOD_RUN, GOOD_QRELS = "q Q0 x 1 0.5 us\nq Q0 y 2 0.4 us\n", "q 0 x 1\nq 0 y 0\n"


@pytest.mark.parametrize(
    ("run", "qrels", "message"),
    [
        (GOOD_RUN + "q Q0 z 3\n", GOOD_QRELS, "line 3 is 'q Q0 z 3', expected `query Q0 picture rank score tag`"),
        (GOOD_RUN.replace("0.4", "nan"), GOOD_QRELS, "line 2 has the score nan, expected a finite number"),
        (GOOD_RUN.replace("0.4", "much"), GOOD_QRELS, "line 2 has the score much"),
        (GOOD_RUN.replace("y", "x"), GOOD_QRELS, "line 2 names x a second time for the query q"),
        (GOOD_RUN, GOOD_QRELS + "q x 1\n", "line 3 is 'q x 1', expected `query 0 picture relevance`"),
        (GOOD_RUN, GOOD_QRELS.replace("x 1", "x 1.5"), "line 1 has the relevance 1.5"),
        (GOOD_RUN, "p 0 x 1\n", "answers none of the queries"),
        (GOOD_RUN, "", "answers none of the queries"),
        (GOOD_RUN, "q 0 y 0\n", "names nothing relevant for any query"),
    ],
)
def test_what_is_no_run_is_one_sentence(hashret: Callable, tmp_path: Path, run: str, qrels: str, message: str) -> None:
    (tmp_path / "run").write_text(run)
    (tmp_path / "qrels").write_text(qrels)
    status, out, err = hashret("score", tmp_path / "run", "--qrels", tmp_path / "qrels")
    assert status == 1 and not out and message in err and err.count("\n") == 1


def test_flags_that_do_not_go_together(hashret: Callable, tmp_path: Path) -> None:
    (tmp_path / "run").write_text(GOOD_RUN)
    (tmp_path / "qrels").write_text(GOOD_QRELS)
    score = ["score", tmp_path / "run"]
    submit = ["submit", "--model", "m", "--data", "d", "--out", tmp_path / "new"]
    for words, message in (
        ([*score], "one of the arguments --labels --qrels is required"),
        ([*score, "--labels", "l.csv", "-k", "3"], "-k is for --qrels"),
        ([*score, "--labels", "l.csv", "--measures", "map@R"], "--measures is for --qrels"),
        ([*score, "--qrels", tmp_path / "qrels", "--measures", "mrr"], "'mrr' is no score"),
        ([*submit, "--qrels", tmp_path / "q"], "add --trec K"),
        ([*submit, "--trec", "3", "--labels", "l.csv"], "leave one out"),
        ([*submit, "--trec", "3", "--qrels", tmp_path / "qrels"], "which exists"),
    ):
        status, _, err = hashret(*words)
        assert status == 2 and message in err and err.count("\n") == 1, words
