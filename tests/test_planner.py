"""The planner: every plan gives the same answer; what it says is what was done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hashret import HammingIndex, hamming
from hashret.codes import pack
from hashret.hamming import linear, planner, sample
from hashret.hamming.rows import RowScan
from hashret.hamming.tables import TableScan


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(planner, "user_cache", lambda: tmp_path)
    planner.known_costs.cache_clear()
    yield tmp_path
    planner.known_costs.cache_clear()


def test_costs_are_measured_once_and_kept(own_cache: Path) -> None:
    assert not planner.are_measured() and planner.known_costs() == planner.Costs()
    measured = planner.measure()
    assert planner.are_measured() and planner.known_costs() == measured
    (file,) = own_cache.rglob("*.json")
    stored = json.loads(file.read_text())
    assert min(stored.values()) > 0 and stored["row_speedup"] >= 1
    file.write_text("{")
    planner.known_costs.cache_clear()
    assert planner.known_costs() == planner.Costs(), "a damaged file is as good as none"


def test_plans_follow_the_work(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planner.plan(100, 8, 1, 10).kernel == "numpy"
    monkeypatch.setattr(planner, "_cold_bytes", 0)
    kernels = [planner.plan(10_000_000, 8, 1, 10, loaded=False).kernel for _ in range(3)]
    assert kernels == ["numpy", "row", "row"], "loading numba pays for who asks again"
    assert planner.plan(1_000_000, 8, 1, 10).kernel == "row"
    assert planner.plan(1_000_000, 8, 100, 10).kernel == "table"
    assert planner.plan(1_000_000, 8, 100, 10, threads=3).threads == 3
    one, many = (planner.plan(1_000_000, 8, 100, k).predicted_ms for k in (1, 10_000))
    assert many > one


def test_an_explanation_says_what_was_done() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.integers(0, 256, (5_000, 8), dtype=np.uint8)
    alive = rng.random(5_000) < 0.5
    found, explanation = hamming.explained(gallery, gallery[:20], 3, alive=alive, threads=1)
    assert np.array_equal(found[1], hamming.search(gallery, gallery[:20], 3, alive=alive)[1])
    assert explanation.codes == alive.sum() and explanation.plan.threads == 1 and explanation.measured_ms > 0
    text = "\n".join(explanation.lines())
    assert explanation.plan.kernel in text and "the answer is exact" in text
    index = HammingIndex(64)
    index.add(gallery)
    (of_index,) = index.explain(gallery[:20], 3)
    assert of_index.codes == 5_000


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
    status, out, err = hashret("query", "--index", tmp_path / "i", "--code", "0000", "-k", 3, "--explain")
    assert status == 0 and "the answer is exact" in out and "measuring what searches cost" in err
    document = json.loads(hashret("query", "--index", tmp_path / "i", "--code", "0000", "--explain", "--json").out)
    assert document["explain"][0]["codes"] == 16 and document["explain"][0]["plan"]["kernel"] == "numpy"
    status, _, err = hashret("query", "--index", tmp_path / "i", "--code", "0000", "--radius", 3, "--explain")
    assert status == 2 and "--explain is about the nearest codes by bits" in err


def test_an_index_yields_its_near_pairs() -> None:
    index = HammingIndex(16)
    index.add(pack(np.eye(3, 16, dtype=bool)), ids=[7, 8, 9])
    pairs = [
        (a, b, d)
        for chunk in index.self_join(2)
        for a, b, d in zip(chunk.first, chunk.second, chunk.distances, strict=True)
    ]
    assert pairs == [(7, 8, 2), (7, 9, 2), (8, 9, 2)]
