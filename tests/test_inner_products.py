"""Maximum inner products among arrays: the bytes of plain float64, and FAISS's answer; nothing copied that need not be."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.errors import SearchError
from hashret.index import InnerProductIndex
from hashret.index.inner_products import max_inner_products


def by_definition(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All products in float64, rounded to float32, sorted; ties by row."""
    wide = queries.astype(np.float32).astype(np.float64)[:, None, :] * vectors.astype(np.float64)
    products = wide.sum(axis=2).astype(np.float32)
    similarities = np.full((len(queries), k), np.nan, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for query, row in enumerate(products):
        order = np.lexsort((np.arange(len(row)), -row))[:k]
        similarities[query, : len(order)], rows[query, : len(order)] = row[order], order
    return similarities, rows


def drawn(n: int, dim: int, dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(0, 1.5, (n, 1))
    made = (rng.standard_normal((n, dim)) * lengths).astype(dtype)
    if n > 4:
        made[n // 2] = made[1]
        made[n - 1] = 0
    return made


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("n", "dim", "queries", "k"), [(0, 3, 2, 4), (1, 1, 1, 1), (7, 5, 0, 3), (300, 33, 40, 12), (900, 64, 3, 1000)]
)
def test_the_oracles_bytes(n: int, dim: int, queries: int, k: int, dtype: str) -> None:
    vectors, asked = drawn(n, dim, dtype), drawn(queries, dim, "float32", 1)
    similarities, rows = max_inner_products(asked, vectors, k)
    true_similarities, true_rows = by_definition(asked, vectors, k)
    assert similarities.dtype == np.float32 and rows.dtype == np.int64
    assert rows.tobytes() == true_rows.tobytes()
    np.testing.assert_allclose(similarities, true_similarities, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_it_is_what_the_index_gives(data: st.DataObject) -> None:
    n, dim = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    # Whole numbers: many ties.
    vectors = rng.integers(-2, 3, (n, dim)).astype(np.float32)
    queries = rng.integers(-2, 3, (data.draw(st.integers(0, 30)), dim)).astype(np.float64)
    k = data.draw(st.integers(1, 50))
    index = InnerProductIndex(dim)
    index.add(vectors)
    for ours, theirs in zip(max_inner_products(queries, vectors, k), index.search(queries, k), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_faiss_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors, queries = drawn(2_000, 48, "float32"), drawn(64, 48, "float32", 1)
    np.savez(tmp_path / "given.npz", vectors=vectors, queries=queries)
    # A process of its own: FAISS brings an OpenMP runtime besides torch's.
    code = """
import sys, faiss, numpy as np
given = np.load(sys.argv[1])
index = faiss.IndexFlatIP(given["vectors"].shape[1]); index.add(given["vectors"])
similarities, rows = index.search(given["queries"], 10)
np.savez(sys.argv[2], similarities=similarities, rows=rows)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    subprocess.run(command, check=True)
    theirs = np.load(tmp_path / "found.npz")
    similarities, rows = max_inner_products(queries, vectors, 10)
    np.testing.assert_allclose(similarities, theirs["similarities"], rtol=1e-4, atol=1e-4)
    # Rows differ where FAISS orders ties, or what its rounding makes ties, otherwise.
    products = np.einsum("qd,qkd->qk", queries, vectors[theirs["rows"]])
    np.testing.assert_allclose(similarities, products, rtol=1e-4, atol=1e-4)
    assert (rows == theirs["rows"]).mean() > 0.95


def test_a_mapped_file_is_read_where_it_lies(tmp_path: Path) -> None:
    vectors = drawn(20_000, 64, "float32")
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    queries = drawn(600, 64, "float32", 1)
    max_inner_products(queries[:1], mapped, 1)
    tracemalloc.start()
    found = max_inner_products(queries, mapped, 10)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 120 << 20, "whatever the number of vectors and queries"
    twice = max_inner_products(queries, np.asfortranarray(vectors.astype(np.float64)), 10)
    assert found[0].tobytes() == twice[0].tobytes() and found[1].tobytes() == twice[1].tobytes()


def test_lengths_up_to_the_bound_are_taken() -> None:
    vectors = np.array([[1e18, 0], [0, -(2.0**62.9)], [0, 0]], np.float32)
    similarities, rows = max_inner_products(np.array([[1.0, -1.0]]), vectors, 3)
    assert rows.tolist() == [[1, 0, 2]] and similarities[0, 1] == np.float32(1e18)


@pytest.mark.parametrize(
    ("queries", "vectors", "k", "words"),
    [
        (np.ones((1, 2)), np.ones(3), 1, "vectors have shape"),
        (np.ones((1, 2)), np.ones((3, 2), np.int32), 1, "dtype int32"),
        (np.ones((1, 3)), np.ones((3, 2)), 1, r"shape \(1, 3\).*\(N, 2\)"),
        (np.ones((1, 2)), np.array([[1, 2], [math.nan, 0]], np.float32), 1, "vector 1 holds NaN"),
        (np.ones((1, 2)), np.array([[1, 2], [0, math.inf]], np.float16), 1, "vector 1 holds NaN or infinity"),
        (np.ones((1, 2)), np.full((2, 2), 2e19, np.float32), 1, "longer than 2"),
        (np.full((1, 2), math.nan), np.ones((3, 2)), 1, "NaN"),
        (np.ones((1, 2)), np.ones((3, 2)), 0, "k is 0"),
        (np.ones((1, 2)), np.ones((3, 0)), 1, "dim is 0"),
    ],
)
def test_what_does_not_fit_is_one_sentence(queries: Any, vectors: Any, k: int, words: str) -> None:
    with pytest.raises(SearchError, match=words):
        max_inner_products(queries, vectors, k)
