"""Pairs of near codes and their groups: every way against all pairs written out, at sizes chosen to hurt."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.codes import pack
from hashret.errors import CodeError, SearchError
from hashret.hamming import components, plain, reference, self_join, substrings, words
from hashret.hamming.components import Groups, groups, near_groups
from hashret.hamming.self_join import Pairs
from hashret.hamming.self_join import self_join as join
from hashret.index import HammingIndex
from hashret.index.near_duplicates import near_duplicates, self_join_index

SIZES = [0, 1, 2, 63, 64, 65, 513]
BITS = [1, 7, 8, 9, 63, 64, 65, 128, 1000]
WAYS = ["tables", "buckets"]


def random_codes(rng: np.random.Generator, n: int, bits: int, distinct: int | None = None) -> np.ndarray:
    """Random codes; with `distinct`, drawn from that many so that duplicates abound."""
    if distinct is None:
        return pack(rng.integers(0, 2, (n, bits)))
    return pack(rng.integers(0, 2, (distinct, bits)))[rng.integers(0, distinct, n)]


def all_pairs(
    codes: np.ndarray, radius: int, alive: np.ndarray | None = None, distances: np.ndarray | None = None
) -> Pairs:
    """The oracle: every distance, then those that count."""
    distances = reference.distances(codes, codes) if distances is None else distances
    near = np.triu(distances <= radius, 1)
    if alive is not None:
        near &= alive[:, None] & alive[None, :]
    first, second = np.nonzero(near)
    return Pairs(first, second, distances[first, second].astype(np.int32))


def whole(chunks: Iterable[Pairs]) -> Pairs:
    """All chunks as one; none of them may be empty."""
    none = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))
    parts = [none]
    for chunk in chunks:
        assert len(chunk.first) and [array.dtype for array in chunk] == [np.int64, np.int64, np.int32]
        parts.append(chunk)
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def same(found: Iterable[np.ndarray], expected: Iterable[np.ndarray]) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def by_hand(pairs: Pairs, n: int) -> Groups:
    """The oracle of groups: give every row the smallest number that it is connected with, until nothing changes."""
    number = np.arange(n)
    while True:
        before = number.copy()
        for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            number[i] = number[j] = min(number[i], number[j])
        if np.array_equal(before, number):
            break
    members = [np.flatnonzero(number == row) for row in range(n)]
    members = [rows for rows in members if len(rows) > 1]
    offsets = np.cumsum([0, *map(len, members)]).astype(np.int64)
    return Groups(offsets, np.concatenate([np.zeros(0, np.int64), *members]))


@contextmanager
def way(name: str, held: int = self_join.HELD_PAIRS, batch: int = self_join.BATCH_ROWS) -> Iterator[None]:
    """Only this way of finding pairs, so many held at a time, so many rows at once."""
    few = {"LEAST_ROWS": 2, "LEAST_BITS": 1, "COMPARISON_COST": 0} if name == "buckets" else {"LEAST_ROWS": 1 << 40}
    with (
        mock.patch.multiple(substrings, **few),
        mock.patch.multiple(self_join, HELD_PAIRS=held, BATCH_ROWS=batch),
    ):
        yield


def test_a_written_out_example() -> None:
    codes = np.array([[0b00000000], [0b11110000], [0b00000001], [0b11110000], [0b00000011]], np.uint8)
    found = whole(join(codes, 1))
    assert found.first.tolist() == [0, 1, 2] and found.second.tolist() == [2, 3, 4]
    assert found.distances.tolist() == [1, 0, 1]
    found_groups = groups(join(codes, 1), 5)
    assert found_groups.offsets.tolist() == [0, 3, 5] and found_groups.rows.tolist() == [0, 2, 4, 1, 3]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", SIZES)
def test_all_pairs_and_their_groups(bits: int, n: int) -> None:
    rng = np.random.default_rng(1000 * bits + n)
    for distinct in (None, 5, 1):
        codes = random_codes(rng, n, bits, distinct)
        distances = reference.distances(codes, codes)
        for radius in (0, 3, bits // 3, bits, bits + 100):
            for alive in (None, rng.random(n) < 0.6, np.zeros(n, bool), np.ones(n, bool)):
                expected = all_pairs(codes, radius, alive, distances)
                assert same(whole(join(codes, radius, bits, alive)), expected)
                if n <= 65:
                    expected_groups = by_hand(expected, n)
                    assert same(groups(join(codes, radius, bits, alive), n), expected_groups)
                    assert same(near_groups(codes, radius, bits, alive), expected_groups)


@pytest.mark.parametrize("bits", [8, 40, 64, 100])
@pytest.mark.parametrize("n", SIZES)
def test_buckets_find_the_same(bits: int, n: int) -> None:
    """Small radii, and those for which each bit is a substring of its own, or there are more than bits."""
    rng = np.random.default_rng(1000 * bits + n)
    for distinct in (None, 5, 1):
        codes = random_codes(rng, n, bits, distinct)
        distances = reference.distances(codes, codes)
        for radius in (0, 1, 3, bits // 2, bits - 1, bits, bits + 1):
            with way("buckets"):
                near = substrings.Buckets.if_few_share(words.padded(codes), radius, bits)
                assert (near is None) == (radius >= bits or n < 2), "this is the way that is tested"
                assert same(whole(join(codes, radius, bits)), all_pairs(codes, radius, None, distances))


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(WAYS),
    bits=st.integers(1, 140),
    n=st.integers(0, 700),
    distinct=st.integers(1, 700),
    radius=st.integers(0, 150),
    threads=st.integers(1, 5),
    held=st.integers(1, 100_000),
    batch=st.integers(1, 1100),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_any_chunks_any_threads(
    name: str, bits: int, n: int, distinct: int, radius: int, threads: int, held: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, n, bits, distinct)
    alive = rng.random(n) < rng.random() if seed % 2 else None
    expected = all_pairs(codes, radius, alive)
    with way(name, max(held, len(expected.first) // 200), batch):
        chunks = list(join(codes, radius, bits, alive, threads))
        assert same(whole(chunks), expected)
        assert all(len(chunk.first) <= max(self_join.HELD_PAIRS, n) for chunk in chunks)
        connected = groups(iter(chunks), n)
        assert same(near_groups(codes, radius, bits, alive, threads), connected)
    assert same(connected, by_hand(expected, n) if len(expected.first) < 5000 else connected)


@pytest.mark.parametrize("name", WAYS)
def test_large_enough_for_many_batches_and_threads(name: str) -> None:
    rng = np.random.default_rng(3)
    codes = random_codes(rng, 6000, 64)
    codes[rng.integers(0, 6000, 3000)] = codes[rng.integers(0, 6000, 3000)]
    codes[rng.integers(0, 6000, 2000), rng.integers(0, 8, 2000)] ^= 4
    expected = all_pairs(codes, 3, None, plain.distances(codes, codes))
    assert len(expected.first) > 1000
    with way(name):
        for threads in (1, 2, 3, 8, None):
            assert same(whole(join(codes, 3, 64, None, threads)), expected)


def test_few_rows_share_a_substring_or_the_tables_are_taken() -> None:
    rng = np.random.default_rng(4)
    codes = random_codes(rng, 70_000, 64)
    codes_NW = words.padded(codes)
    assert substrings.Buckets.if_few_share(codes_NW, 3, 64) is not None
    assert substrings.Buckets.if_few_share(codes_NW, 12, 64) is None, "substrings of 4 bits"
    assert substrings.Buckets.if_few_share(codes_NW[:10_000], 3, 64) is None, "tables take a moment"
    with mock.patch.object(substrings, "MOST_BYTES", 1 << 21):
        assert substrings.Buckets.if_few_share(codes_NW, 3, 64) is None
    alike = words.padded(codes[rng.integers(0, 30, 70_000)])
    assert substrings.Buckets.if_few_share(alike, 3, 64) is None


@pytest.mark.parametrize("name", WAYS)
def test_memory_does_not_grow_with_the_answer(name: str) -> None:
    codes = np.zeros((6000, 8), np.uint8)
    n_pairs = 6000 * 5999 // 2
    with way(name, held=1 << 17):
        next(join(codes[:70], 2))
        tracemalloc.start()
        assert sum(len(chunk.first) for chunk in join(codes, 2, threads=2)) == n_pairs
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 * 2**20 < 20 * n_pairs / 10


def test_equal_codes_are_compared_once_for_groups() -> None:
    codes = np.repeat(random_codes(np.random.default_rng(5), 20, 64), 20_000, axis=0)
    found = near_groups(codes, 0)  # four thousand million pairs
    assert found.offsets.tolist() == list(range(0, 400_001, 20_000)) and np.array_equal(found.rows, np.arange(400_000))


def test_a_long_chain_is_one_group() -> None:
    steps = pack(np.tri(1025, 1024, -1, dtype=bool))  # each code one bit from the next
    order = np.random.default_rng(6).permutation(1025)
    found = groups(join(steps[order], 1), 1025)
    assert found.offsets.tolist() == [0, 1025] and np.array_equal(found.rows, np.arange(1025))
    assert len(groups(join(steps[order], 0), 1025).rows) == 0


def test_progress_counts_pairs() -> None:
    for n in (0, 1, 2, 3000):
        calls: list[tuple[int, int]] = []
        list(join(random_codes(np.random.default_rng(n), n, 64), 2, progress=lambda *call: calls.append(call)))  # noqa: B023
        total = n * (n - 1) // 2
        assert calls == sorted(calls) and all(call[1] == total for call in calls)
        assert not n or calls[-1] == (total, total)


def test_codes_that_are_mapped_or_odd_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    codes = random_codes(rng, 600, 64, 200)
    np.save(tmp_path / "codes.npy", codes)
    expected = all_pairs(codes, 20)
    shifted = np.zeros(600 * 8 + 3, np.uint8)[3:].reshape(600, 8)
    shifted[:] = codes
    for stored in (np.load(tmp_path / "codes.npy", mmap_mode="r"), shifted, np.asfortranarray(codes), codes.tolist()):
        given_codes = np.array(stored, np.uint8) if isinstance(stored, list) else stored
        assert same(whole(join(given_codes, 20)), expected)


def test_what_does_not_fit_is_refused_at_once() -> None:
    codes = np.zeros((3, 8), np.uint8)
    for radius in (-1, 1.5, True, "3", None):
        with pytest.raises(SearchError, match="expected a whole number of bits from 0"):
            join(codes, radius)  # type: ignore[arg-type]
        with pytest.raises(SearchError, match="expected a whole number of bits from 0"):
            near_groups(codes, radius)  # type: ignore[arg-type]
    with pytest.raises(CodeError, match="expected packed uint8"):
        join(codes.astype(int), 1)
    with pytest.raises(CodeError, match="expected zeros beyond bit 60"):
        join(codes + np.uint8(1), 1, 60)
    with pytest.raises(SearchError, match="alive has dtype"):
        join(codes, 1, alive=[True])
    with pytest.raises(SearchError, match="threads is 0"):
        join(codes, 1, threads=0)


def test_groups_refuse_rows_that_are_not_there() -> None:
    pairs = Pairs(np.array([0]), np.array([5]), np.array([1], np.int32))
    assert groups([pairs], 6).rows.tolist() == [0, 5]
    assert groups([], 3).offsets.tolist() == [0]
    assert groups([], 0).offsets.tolist() == [0]
    with pytest.raises(SearchError, match="expected rows from 0 to 4"):
        groups([pairs], 5)
    with pytest.raises(SearchError, match="expected as many"):
        components.groups([pairs._replace(first=np.array([0, 1]))], 6)


class TestIndex:
    @pytest.fixture
    def index(self) -> HammingIndex:
        """Three segments in memory once reopened, with deletes and ids that do not ascend."""
        rng = np.random.default_rng(9)
        index = HammingIndex(20)
        codes = random_codes(rng, 90, 20, 40)
        for start in (0, 30, 60):
            index.add(codes[start : start + 30], ids=np.arange(1000 + start, 970 + start, -1))
        index.remove(index.ids[rng.permutation(90)[:25]])
        return index

    def expected(self, index: HammingIndex, radius: int) -> tuple[Pairs, Groups, np.ndarray, np.ndarray]:
        segments = index._contents.segments
        codes = np.concatenate([s.codes if s.alive is None else s.codes[s.alive] for s in segments])
        pairs = all_pairs(codes, radius)
        return pairs, by_hand(pairs, len(codes)), index.ids, codes

    @pytest.mark.parametrize("radius", [0, 2, 5, 20])
    def test_ids_of_living_rows(self, index: HammingIndex, tmp_path: Path, radius: int) -> None:
        index.save(tmp_path / "i")
        index.add(np.zeros((3, 3), np.uint8))
        index.save(tmp_path / "i")
        index.remove([1001])
        for opened in (index, HammingIndex.load(tmp_path / "i")):
            pairs, connected, ids, codes = self.expected(opened, radius)
            found = whole(self_join_index(opened, radius))
            assert same(found, Pairs(ids[pairs.first], ids[pairs.second], pairs.distances))
            duplicates = near_duplicates(opened, radius, threads=2)
            assert len(duplicates) == len(connected.offsets) - 1
            assert same((duplicates.offsets, duplicates.ids), (connected.offsets, ids[connected.rows]))
            for start, stop in zip(connected.offsets[:-1], connected.offsets[1:], strict=True):
                rows = connected.rows[start:stop]
                to_first = reference.distances(codes[rows[:1]], codes[rows])[0]
                assert duplicates.distances[start:stop].tolist() == to_first.tolist()

    def test_nothing_to_compare(self) -> None:
        index = HammingIndex(64)
        for n in (0, 1):
            assert len(index) == n and not list(self_join_index(index, 64))
            found = near_duplicates(index, 64)
            assert len(found) == 0 and found.offsets.tolist() == [0] and len(found.ids) == len(found.distances) == 0
            index.add(np.zeros((1, 8), np.uint8))
        with pytest.raises(SearchError, match="radius is -1"):
            self_join_index(index, -1)
        with pytest.raises(SearchError, match="radius is -1"):
            near_duplicates(index, -1)
