"""Counts of distances against the naive oracle, and the scores made of them against those of whole rankings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.errors import CodeError, SearchError, UsageError
from hashret.hamming import histograms as kernels
from hashret.hamming import reference
from hashret.metrics import Histograms, distance_histograms, retrieval_scores


def codes(n: int, bits: int, rng: np.random.Generator, different: int | None = None) -> np.ndarray:
    """Packed codes, of so many different ones where that is given: many ties."""
    made = np.packbits(rng.integers(0, 2, (different or n, bits), dtype=np.uint8), axis=1)
    return made if different is None else made[rng.integers(0, different, n)]


def counted(distances: np.ndarray, which: np.ndarray, bits: int) -> np.ndarray:
    rows = [np.bincount(row[flags], minlength=bits + 1) for row, flags in zip(distances, which, strict=True)]
    return np.array(rows, np.int64).reshape(len(distances), bits + 1)


@pytest.mark.parametrize("bits", [1, 7, 8, 63, 64, 65, 100, 128, 1024])
@pytest.mark.parametrize(("n", "n_queries"), [(0, 3), (3, 0), (1, 1), (63, 2), (300, 65)])
@pytest.mark.parametrize("threads", [1, 3])
def test_counts_equal_the_oracle(bits: int, n: int, n_queries: int, threads: int) -> None:
    rng = np.random.default_rng(bits)
    gallery, queries = codes(n, bits, rng), codes(n_queries, bits, rng)
    distances = reference.distances(queries, gallery)
    everything = np.ones(distances.shape, bool)
    assert np.array_equal(kernels.count(gallery, queries, bits, threads=threads), counted(distances, everything, bits))
    among = np.sort(rng.integers(0, n + 1, (n_queries, 2)), axis=1)
    within = (np.arange(n) >= among[:, :1]) & (np.arange(n) < among[:, 1:])
    found = kernels.count(gallery, queries, bits, among=among, threads=threads)
    assert np.array_equal(found, counted(distances, within, bits))
    of_gallery, of_queries = (rng.random((rows, 70)) < 0.1 for rows in (n, n_queries))
    shared = (of_queries[:, None] & of_gallery[None]).any(axis=2)
    labels = [
        np.packbits(np.pad(flags, ((0, 0), (0, 58))), axis=1).view(np.uint64) for flags in (of_gallery, of_queries)
    ]
    found = kernels.count_sharing(gallery, queries, bits, *labels, threads=threads)
    assert np.array_equal(found, counted(distances, shared, bits))


def test_tiles_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_TILE_ROWS", 64)
    rng = np.random.default_rng(0)
    for bits in (64, 72):
        gallery, queries = codes(1000, bits, rng), codes(5, bits, rng)
        among = np.array([[0, 1000], [63, 65], [64, 64], [999, 1000], [100, 900]])
        within = (np.arange(1000) >= among[:, :1]) & (np.arange(1000) < among[:, 1:])
        found = kernels.count(gallery, queries, bits, among=among)
        assert np.array_equal(found, counted(reference.distances(queries, gallery), within, bits))


def test_what_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = codes(4, 64, rng), codes(2, 64, rng)
    with pytest.raises(CodeError):
        kernels.count(gallery, queries, 65)
    for among in ([[0, 4]], [[0, 5], [0, 1]], [[-1, 2], [0, 1]]):
        with pytest.raises(SearchError, match="among has shape"):
            kernels.count(gallery, queries, 64, among=among)
    with pytest.raises(SearchError, match="labels have shapes"):
        kernels.count_sharing(gallery, queries, 64, np.zeros((4, 1), np.uint64), np.zeros((2, 2), np.uint64))
    wrong: list[tuple[Any, Any]] = [
        ([1], [1, 1, 1, 1]), ([1.0, 2.0], [1, 1, 1, 1]), ([1, 1], np.zeros((4, 2), bool)),
        (np.zeros((2, 3), bool), np.zeros((4, 2), bool)),
    ]  # fmt: skip
    for of_queries, of_gallery in wrong:
        with pytest.raises(UsageError, match="_labels have shape"):
            distance_histograms(queries, gallery, 64, of_queries, of_gallery)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_scores_equal_those_of_the_rankings(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, n_queries, bits = data.draw(st.integers(0, 80)), data.draw(st.integers(0, 12)), data.draw(st.integers(1, 70))
    gallery, queries = codes(n, bits, rng, 6), codes(n_queries, bits, rng, 6)
    several = data.draw(st.booleans())
    of_gallery, of_queries = (
        rng.random((rows, 9)) < 0.2 if several else rng.integers(-1, 4, rows) for rows in (n, n_queries)
    )
    valid = rng.random((n_queries, n)) < 0.8
    found = distance_histograms(queries, gallery, bits, of_queries, of_gallery, np.nonzero(~valid))
    relevant = (
        (of_queries[:, None] & of_gallery[None]).any(axis=2)
        if several
        else (of_queries[:, None] == of_gallery[None]) & (of_queries[:, None] >= 0)
    )
    distances = reference.distances(queries, gallery)
    measures = ("map@R", "ndcg@5", "precision-within@2", "empty-within@2", "recall-within@2")
    ours = found.scores((1, 5), (None, 7), measures=measures)
    whole = retrieval_scores(distances, relevant, valid, (1, 5), (None, 7), ours.choices, measures=measures)
    assert ours.names == whole.names and np.array_equal(ours.scored_Q, whole.scored_Q)
    for name, values in whole.values.items():
        assert np.allclose(ours.values[name], values, rtol=0, atol=1e-12), name
    curve = found.curve()
    assert len(curve.recall_D) == bits + 1
    if ours.n_queries:
        assert np.isclose(curve.recall_D[-1], 1)
        within, none = ours["precision-within@2"].expected, ours["empty-within@2"].expected
        if bits >= 2 and none < 1:
            assert np.isclose(curve.precision_D[2] * (1 - none), within)
            assert np.isclose(curve.recall_D[2], ours["recall-within@2"].expected)
            assert curve.empty_D[2] == round(none * ours.n_queries)


def test_a_curve_by_hand() -> None:
    found = Histograms(np.array([[0, 2, 1], [1, 0, 3], [5, 0, 0]]), np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]]))
    curve = found.curve()
    assert np.allclose(curve.precision_D, [1, 0.75, (2 / 3 + 1 / 4) / 2])
    assert np.allclose(curve.recall_D, [0.5, 0.75, 1]) and curve.empty_D.tolist() == [1, 0, 0]
    assert found.code_size == 2 and found.scores()["hit@1"].n_excluded == 1


def test_memory_is_bounded_and_progress_is_told() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = codes(300, 64, rng), codes(600, 64, rng)
    done: list[int] = []
    distance_histograms(queries, gallery, 64, np.zeros(600, int), np.zeros(300, int), progress=done.append)
    assert sum(done) == 600 and len(done) == 3


def test_the_benchmark_compares_with_the_usual_way() -> None:
    program = Path(__file__).parent.parent / "benchmarks" / "metrics.py"
    done = subprocess.run(
        [sys.executable, str(program), "--quick", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["answers"] == "equal" and document["seconds"].keys() == {"counted", "sorted", "larger"}
