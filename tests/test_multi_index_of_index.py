"""An index with buckets beside its codes gives the bytes that it gives without, whatever happens to it."""

from __future__ import annotations

import concurrent.futures
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_multi_index import clustered, planned, same

from hashret import HammingIndex
from hashret.codes import Codes
from hashret.errors import SearchError
from hashret.hamming import multi_index


def answers(index: HammingIndex, queries: Codes, k: int, radius: int, threads: int | None = 1) -> tuple[Any, ...]:
    return *index.search(queries, k, threads), *index.search_radius(queries, radius, threads)


def with_buckets(index: HammingIndex) -> list[bool]:
    return [segment.multi_index is not None for segment in index._contents.segments]


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([8, 16, 63, 64, 100, 128]),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    later=st.integers(0, 300),
    n_queries=st.integers(0, 6),
    k=st.integers(1, 500),
    centres=st.integers(1, 40),
    removed=st.sampled_from([0.0, 0.3, 0.95]),
    budget_ns=st.sampled_from([0.0, 1e3, 1e5, 1e6]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_same_bytes_with_and_without(
    bits: int, sizes: list[int], later: int, n_queries: int, k: int, centres: int, removed: float, budget_ns: float,
    threads: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    codes = clustered(rng, sum(sizes) + later + n_queries, bits, centres)
    queries, codes = codes[:n_queries], codes[n_queries:]
    with_and_without = HammingIndex(bits), HammingIndex(bits)
    edges = np.cumsum([0, *sizes])
    before, after = rng.random(edges[-1]) < removed / 2, rng.random(edges[-1]) < removed / 2
    for index in with_and_without:
        for number, (start, stop) in enumerate(pairwise(edges)):
            # Segments with records and without stay apart.
            records = [{"id": str(i)} for i in range(start, stop)] if number % 2 else None
            index.add(codes[start:stop], ids=np.arange(start, stop), records=records)
        index.remove(np.flatnonzero(before))
        if index is with_and_without[0]:
            assert index.build_multi_index(threads) > 0 or before.all()
            assert all(with_buckets(index))
        index.remove(np.flatnonzero(after & ~before))
        index.add(codes[edges[-1] :])
    radius = int(rng.integers(0, bits // 2 + 1))
    expected = answers(with_and_without[1], queries, k, radius)
    assert same(answers(with_and_without[0], queries, k, radius, threads), expected)
    with planned(budget_ns, threads):
        assert same(answers(with_and_without[0], queries, k, radius), expected)


@pytest.fixture
def segments() -> tuple[HammingIndex, Codes]:
    """Two segments, and queries near their codes."""
    rng = np.random.default_rng(0)
    codes = clustered(rng, 9_050, 64, 300)
    index = HammingIndex(64)
    index.add(codes[:6_000], records=[{"id": str(i)} for i in range(6_000)])
    index.add(codes[6_000:9_000])
    return index, codes[9_000:]


def test_buckets_follow_their_codes_through_changes_and_commits(
    segments: tuple[HammingIndex, Codes], tmp_path: Path
) -> None:
    index, queries = segments
    assert index.build_multi_index() == sum(segment.multi_index.n_bytes for segment in index._contents.segments)
    of_first = index._contents.segments[0].multi_index

    def check(expected: list[bool]) -> None:
        assert with_buckets(index) == expected
        for segment in index._contents.segments:
            assert segment.multi_index is None or segment.multi_index.gallery_NB is segment.codes
        without = HammingIndex.load(index._folder) if index._folder else None
        with planned(1e5):
            found = answers(index, queries, 12, 9)
        if without is not None:
            assert not any(with_buckets(without)), "buckets are not kept on disk"
            assert same(found, answers(without, queries, 12, 9))

    check([True, True])
    index.save(tmp_path / "i")
    check([True, True])
    assert isinstance(index._contents.segments[0].codes.base, np.memmap), "those in memory are not kept as well"
    index.remove([3, 7_000])
    index.save(tmp_path / "i")
    check([True, True])
    index.add(queries)
    index.save(tmp_path / "i")
    check([True, True, False])
    with mock.patch.object(multi_index.MultiIndex, "build", wraps=multi_index.MultiIndex.build) as build:
        index.build_multi_index()
    assert build.call_count == 1, "only what is missing is made"
    check([True, True, True])
    assert index._contents.segments[0].multi_index._tables is of_first._tables
    # Elsewhere all is written anew, without the deleted rows: other codes.
    index.save(tmp_path / "j")
    check([False, False, True])


def test_additions_that_join_a_segment_take_its_buckets_away() -> None:
    rng = np.random.default_rng(1)
    codes = clustered(rng, 300, 32, 9)
    index = HammingIndex(32)
    index.add(codes[:100])
    index.build_multi_index()
    index.add(codes[100:])
    assert with_buckets(index) == [False]
    index.build_multi_index()
    assert with_buckets(index) == [True]
    index.remove(index.ids)
    assert index.build_multi_index() == 0 and HammingIndex(32).build_multi_index() == 0


def test_searches_and_changes_while_buckets_are_made(segments: tuple[HammingIndex, Codes]) -> None:
    index, queries = segments
    expected = answers(index, queries, 7, 6)
    with planned(1e5), concurrent.futures.ThreadPoolExecutor(4) as callers:
        made = [callers.submit(index.build_multi_index, 2) for _ in range(2)]
        found = [callers.submit(answers, index, queries, 7, 6) for _ in range(30)]
        assert all(same(each.result(), expected) for each in found)
        assert len({each.result() for each in made}) == 1
    assert all(with_buckets(index))
    build = multi_index.MultiIndex.build

    def and_meanwhile(*args: Any, **options: Any) -> multi_index.MultiIndex:
        index.remove([9])
        index.add(queries)
        return build(*args, **options)

    other = HammingIndex(64)
    other.add(np.concatenate([segment.codes for segment in index._contents.segments]))
    index = other
    with mock.patch.object(multi_index.MultiIndex, "build", and_meanwhile):
        index.build_multi_index()
    assert with_buckets(index) == [True, False] and len(index) == 9_049


def test_what_does_not_fit_is_refused() -> None:
    index = HammingIndex(16)
    for wrong in (0, True, 1.5):
        with pytest.raises(SearchError, match=r"threads is .*, expected a whole number from 1, or None for all cores"):
            index.build_multi_index(wrong)  # type: ignore[arg-type]


def test_an_index_explains_what_buckets_did(own_cache: Path) -> None:
    rng = np.random.default_rng(8)
    codes = clustered(rng, 400_002, 64, 8000, 0.02)
    index = HammingIndex(64)
    index.add(codes[2:])
    query = codes[:1]
    (before,) = index.search(query, 5, explain=True)[2]
    index.build_multi_index()
    (explanation,) = index.search(query, 5, explain=True)[2]
    assert (before.plan.kernel, explanation.plan.kernel) == ("row", "multi-index")
    assert before.codes == 400_000 and explanation.codes < 4_000 and explanation.buckets >= 1
    assert "buckets looked up and" in explanation.lines()[2] and "the answer is exact" in explanation.lines()[2]
    assert index.search_radius(query, 3, explain=True)[3][0].plan.kernel == "multi-index"
