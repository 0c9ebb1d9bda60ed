"""The planner: every plan gives the same answer; what it says is what was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashret import HammingIndex, hamming
from hashret.codes import pack
from hashret.hamming import costs, linear, planner, sample
from hashret.hamming.rows import RowScan
from hashret.hamming.tables import TableScan


def test_costs_are_measured_once_and_kept(own_cache: Path) -> None:
    assert not costs.are_measured() and costs.known_costs() == costs.Costs()
    measured = costs.measure()
    assert costs.are_measured() and costs.known_costs() == measured
    (file,) = own_cache.rglob("*.json")
    stored = json.loads(file.read_text())
    assert min(stored.values()) > 0 and stored["row_speedup"] >= 1
    del stored["bucket"]
    for text in ("{", json.dumps(stored)):
        file.write_text(text)
        costs.measured_costs.cache_clear()
        assert costs.known_costs() == costs.Costs(), "a damaged file, or one of another version, is as good as none"
        assert not costs.are_measured()


def test_plans_follow_the_work(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planner.plan(100, 8, 1, 10).kernel == "numpy"
    assert planner.plan(100, 8, 8, 10).kernel != "numpy", "numpy takes its time for every query"
    monkeypatch.setattr(planner, "_cold_bytes", 0)
    assert planner.plan(100, 8, 8, 10, loaded=False).kernel == "numpy"
    kernels = [planner.plan(10_000_000, 8, 1, 10, loaded=False).kernel for _ in range(3)]
    assert kernels == ["numpy", "row", "row"], "loading numba pays for who asks again"
    assert planner.plan(1_000_000, 8, 1, 10).kernel == "row"
    assert planner.plan(1_000_000, 8, 100, 10).kernel == "table"
    assert planner.plan(1_000_000, 8, 100, 10, threads=3).threads == 3


def test_what_takes_longer_is_predicted_to(own_cache: Path) -> None:
    def predicted(n: int = 1_000_000, n_queries: int = 100, k: int | None = 10, **more: Any) -> float:
        milliseconds = planner.plan(n, 8, n_queries, k, 1, **more).predicted_ms
        assert milliseconds is not None
        return milliseconds

    assert predicted() < predicted(k=1000) < predicted(k=10_000) < predicted(n=10_000_000, k=10_000)
    assert predicted() < predicted(flags=1_000_000) < predicted(flags=100_000_000)
    assert predicted(k=None) < predicted(k=None, found=1000.0)
    assert predicted(n_queries=1) < predicted(n_queries=8) < predicted(n_queries=64) < predicted()


def test_buckets_are_chosen_by_what_they_look_up(own_cache: Path) -> None:
    def plan(*lookups: tuple[list[int], bool], n_queries: int = 1) -> planner.Plan:
        given = planner.Lookups(*(list(column) for column in zip(*lookups, strict=True)))
        return planner.plan(1_000_000, 8, n_queries, 10, lookups=given)

    few, many, unknown = ([10, 5, 100], True), ([100_000, 100_000, 10**6], True), ([10, 5, 100], False)
    assert plan(few).kernel == "multi-index" and plan(few).threads == 1
    assert plan(few, n_queries=1000).kernel == "multi-index"
    assert plan(many).kernel == plan(unknown).kernel == "row"
    mostly = [few] * 15 + [unknown]
    assert plan(*mostly).kernel == "multi-index"
    assert plan(*mostly).predicted_ms > plan(few).predicted_ms, "what is left to a scan is counted"
    assert plan(few).budget_ns == pytest.approx(1e6 * costs.Costs().row_first_near, rel=0.25), "about as much as a scan"
    empty = planner.plan(1_000_000, 8, 1, 10, lookups=planner.Lookups([], []))
    assert empty.kernel == "row"


def test_an_explanation_says_what_was_done() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.integers(0, 256, (5_000, 8), dtype=np.uint8)
    alive = rng.random(5_000) < 0.5
    *found, explanation = hamming.search(gallery, gallery[:20], 3, alive=alive, threads=1, explain=True)
    assert np.array_equal(found[1], hamming.search(gallery, gallery[:20], 3, alive=alive)[1])
    assert explanation.codes == alive.sum() and explanation.plan.threads == 1 and explanation.measured_ms > 0
    text = "\n".join(explanation.lines())
    assert explanation.plan.kernel in text and text.endswith("codes compared with each query; the answer is exact")
    few = np.arange(5_000) < 100
    *found, explanation = hamming.search_radius(gallery, gallery[:20], 20, alive=few, explain=True)
    expected = hamming.search_radius(gallery, gallery[:20], 20, alive=few)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)) and explanation.codes == 100


def test_an_index_explains_every_kind_of_search() -> None:
    rng = np.random.default_rng(0)
    index = HammingIndex(64)
    queries = rng.integers(0, 256, (20, 8), dtype=np.uint8)
    assert index.search(queries, 3, explain=True)[2] == []
    index.add(rng.integers(0, 256, (5_000, 8), dtype=np.uint8), records=[{"id": str(i)} for i in range(5_000)])
    index.add(rng.integers(0, 256, (1_000, 8), dtype=np.uint8))
    index.remove([5, 5_999])
    logits = rng.standard_normal((20, 64), np.float32)
    for found, expected in (
        (index.search(queries, 3, explain=True), index.search(queries, 3)),
        (index.search_radius(queries, 20, explain=True), index.search_radius(queries, 20)),
        (index.search(logits, 3, metric="asymmetric", explain=True), index.search(logits, 3, metric="asymmetric")),
    ):
        *answer, explanations = found
        assert all(np.array_equal(a, b) for a, b in zip(answer, expected, strict=True))
        assert [each.codes for each in explanations] == [4_999, 999] and all(each.exact for each in explanations)
    assert [each.plan.kernel for each in explanations] == ["lookup", "lookup"]
    assert "not predicted, measured" in explanations[0].lines()[1], "nobody knows what logits leave to look at"


@pytest.mark.parametrize("scan", [RowScan, TableScan])
def test_a_sample_bounds_a_large_k_and_is_never_trusted(
    scan: type[linear.Scan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "FROM_ROWS", 1 << 15)
    rng = np.random.default_rng(0)
    gallery, queries = (rng.integers(0, 256, (n, 8), dtype=np.uint8) for n in (1 << 16, 9))
    # The sampled blocks hold copies of the first query, so that its limit is far too small: it is searched again.
    blocks = gallery.reshape(-1, sample.SAMPLED_BLOCKS, sample.BLOCK_ROWS, 8)
    blocks[:, 0, :100] = queries[0]
    alive = rng.random(len(gallery)) < 0.9
    assert sample.samples(len(gallery), 300)
    for flags in (None, alive):
        found = linear.search(scan, gallery, queries, 300, flags, 2)
        monkeypatch.setattr(sample, "FROM_K", 1 << 60)
        expected = linear.search(scan, gallery, queries, 300, flags, 1)
        monkeypatch.setattr(sample, "FROM_K", 256)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_command_explains(hashret: Callable, tmp_path: Path, own_cache: Path) -> None:
    index = HammingIndex(16)
    index.add(
        pack(np.eye(16, dtype=bool)), records=[{"id": str(i), "path": f"{i}.jpg", "label": ""} for i in range(16)]
    )
    index.save(tmp_path / "i")
    query = ["query", "--index", tmp_path / "i", "--code", "0000", "--explain"]
    status, out, err = hashret(*query, "-k", 3)
    assert status == 0 and "the answer is exact" in out and "measuring what searches cost" in err
    for words in (["-k", 3], ["--radius", 3]):
        status, out, err = hashret(*query, *words, "--json")
        assert status == 0 and err == "", "costs are measured once"
        (explanation,) = json.loads(out)["explain"]
        assert explanation["codes"] == 16 and explanation["exact"] and explanation["measured_costs"]
        assert explanation["plan"]["kernel"] == "numpy" and explanation["plan"]["predicted_ms"] > 0
    status, _, err = hashret("query", "--index", tmp_path / "i", "a.jpg", "--rerank", 20, "--explain")
    assert status == 2 and "--explain is about one search among codes; leave out --rerank" in err


def test_an_index_yields_its_near_pairs() -> None:
    index = HammingIndex(16)
    index.add(pack(np.eye(3, 16, dtype=bool)), ids=[7, 8, 9])
    pairs = [
        (a, b, d)
        for chunk in index.self_join(2)
        for a, b, d in zip(chunk.first, chunk.second, chunk.distances, strict=True)
    ]
    assert pairs == [(7, 8, 2), (7, 9, 2), (8, 9, 2)]


def test_what_threads_gain_one_query_they_do_not_gain_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One query waits for memory, which more threads read faster; adding for a batch gains as much in either kernel."""
    uneven = costs.Costs(row_speedup=2.5, table_speedup=1.5, threads=2)
    monkeypatch.setattr(planner, "known_costs", lambda: uneven)
    assert planner.plan(10_000_000, 8, 1, 10, 2).kernel == "row"
    for n_queries in (100, 1000):
        assert [planner.plan(10_000_000, 8, n_queries, 10, count).kernel for count in (1, 2)] == ["table", "table"]
    one, two = (planner.plan(10_000_000, 8, 1, 10, count).predicted_ms for count in (1, 2))
    assert one is not None and two is not None and two > one / 2, "two threads are at most twice as fast"
