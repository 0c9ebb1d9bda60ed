"""What holds for exact search whatever the codes: properties that need no oracle, over every way to an answer.

Codes are drawn about few centres or many, so that ties, duplicates and near neighbours abound: random codes of 64 bits
hardly ever tie. The ways: each kernel behind the public functions, the buckets of multi-index hashing with an unlimited
budget, and an index in memory of several segments from which rows were removed.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_self_join import WAYS as JOIN_WAYS
from test_self_join import way as joined_by
from test_self_join import whole

from hashret import hamming
from hashret.codes import Bits, Codes, pack
from hashret.hamming import asymmetric, planner, rows, tables
from hashret.hamming.linear import FoundWithin
from hashret.hamming.merge import Found
from hashret.hamming.multi_index import MultiIndex
from hashret.hamming.self_join import Pairs, self_join
from hashret.index import HammingIndex

KERNELS = ["numpy", "row", "table"]
BITS = [1, 5, 8, 16, 24, 48, 63, 64, 65, 100, 128, 130]
SIZES = [0, 1, 2, 63, 64, 65, 511, 512, 513, 1025]
examples = settings(deadline=None, max_examples=25)


# ---- ways to an answer


@contextmanager
def computed_by(kernel: str) -> Iterator[None]:
    """The public functions take this kernel, and all the threads that they are given, whatever the planner would choose."""
    plan = planner.plan
    signature = inspect.signature(plan)

    def forced(*args: Any, **options: Any) -> planner.Plan:
        threads = signature.bind(*args, **options).arguments.get("threads")
        return dataclasses.replace(plan(*args, **options), kernel=kernel, threads=threads or 1, budget_ns=math.inf)

    with mock.patch.object(planner, "plan", forced):
        yield


class Way:
    """One way to the k nearest codes and to all within a radius."""

    def search(
        self, gallery: Codes, queries: Codes, k: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> Found:
        """Distances and rows of the k nearest."""
        raise NotImplementedError

    def within(
        self, gallery: Codes, queries: Codes, radius: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> FoundWithin:
        """Offsets, distances and rows of all within the radius."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ByKernel(Way):
    """The public functions with one kernel."""

    kernel: str

    def search(
        self, gallery: Codes, queries: Codes, k: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> Found:
        with computed_by(self.kernel):
            return hamming.search(gallery, queries, k, bits, alive, threads)

    def within(
        self, gallery: Codes, queries: Codes, radius: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> FoundWithin:
        with computed_by(self.kernel):
            return hamming.search_radius(gallery, queries, radius, bits, alive, threads)


class ByBuckets(Way):
    """Multi-index hashing that may look up as many buckets as it takes: of short substrings, so that they are few."""

    def _index(self, gallery: Codes, bits: int) -> MultiIndex:
        return MultiIndex.build(gallery, bits, -(-bits // 8))

    def search(
        self, gallery: Codes, queries: Codes, k: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> Found:
        with computed_by("multi-index"):
            return self._index(gallery, bits).search(queries, k, alive, threads)

    def within(
        self, gallery: Codes, queries: Codes, radius: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> FoundWithin:
        with computed_by("multi-index"):
            return self._index(gallery, bits).search_radius(queries, radius, alive, threads)


class ByIndex(Way):
    """An index in memory of three segments, ids that descend, and the rows removed that are not alive."""

    def index(self, gallery: Codes, bits: int, alive: Bits | None) -> HammingIndex:
        """The index; the id of row i is 9999 - i."""
        index, n = HammingIndex(bits), len(gallery)
        for start, stop in ((0, n * 70 // 100), (n * 70 // 100, n * 92 // 100), (n * 92 // 100, n)):
            index.add(gallery[start:stop], ids=9999 - np.arange(start, stop))
        if alive is not None:
            index.remove(9999 - np.flatnonzero(~alive))
        return index

    def search(
        self, gallery: Codes, queries: Codes, k: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> Found:
        distances, ids = self.index(gallery, bits, alive).search(queries, k, threads)
        return distances, np.where(ids < 0, -1, 9999 - ids)

    def within(
        self, gallery: Codes, queries: Codes, radius: int, bits: int, alive: Bits | None = None, threads: int = 1
    ) -> FoundWithin:
        offsets, distances, ids = self.index(gallery, bits, alive).search_radius(queries, radius, threads)
        return offsets, distances, 9999 - ids


WAYS: dict[str, Way] = {kernel: ByKernel(kernel) for kernel in KERNELS} | {"buckets": ByBuckets(), "index": ByIndex()}
by_every_way = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_way_is_the_way_it_says(kernel: str) -> None:
    gallery = np.zeros((600, 8), np.uint8)
    with (
        mock.patch.object(rows, "RowScan", wraps=rows.RowScan) as by_rows,
        mock.patch.object(tables, "TableScan", wraps=tables.TableScan) as by_tables,
    ):
        WAYS[kernel].search(gallery, gallery[:30], 3, 64)
        WAYS[kernel].within(gallery, gallery[:1], 3, 64)
        called = {name: scan.called for name, scan in (("row", by_rows), ("table", by_tables))}
    assert called == {"row": kernel == "row", "table": kernel == "table"}
    assert len(ByIndex().index(gallery, 64, None)._contents.segments) == 3


# ---- what is searched


class Case(NamedTuple):
    """Bits (N, bits) and (Q, bits) of gallery and queries, and what to ask for."""

    gallery: Bits
    queries: Bits
    k: int
    radius: int
    alive: Bits | None
    threads: int
    rng: np.random.Generator

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.gallery.shape[1]

    @property
    def packed(self) -> tuple[Codes, Codes]:
        """Gallery and queries as codes."""
        return pack(self.gallery), pack(self.queries)

    @property
    def logits(self) -> np.ndarray:
        """Logits (Q, bits) whose sums tie often, and are the same in any order."""
        sizes = self.rng.integers(0, 3, self.queries.shape)
        return np.where(self.queries, sizes, -sizes).astype(np.float32)


@st.composite
def cases(draw: st.DrawFn, most_rows: int = 1200) -> Case:
    """Codes about some centres: all equal, nearly, or random."""
    bits = draw(st.sampled_from(BITS))
    n = draw(
        st.one_of(st.integers(3, 80), st.sampled_from([n for n in SIZES if n <= most_rows]), st.integers(3, most_rows))
    )
    n_queries = draw(st.sampled_from([1, 2, 5, 17, 0]))
    centres = draw(st.sampled_from([1, 2, 5, 30, 300]))
    flipped = draw(st.sampled_from([0.0, 0.01, 0.05, 0.5]))
    k = draw(st.one_of(st.integers(1, 12), st.integers(1, n + 3)))
    radius = draw(st.integers(0, bits + 1))
    share_alive = draw(st.sampled_from([None, 0.0, 0.05, 0.5, 0.9, 1.0]))
    threads = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    about = rng.random((centres, bits)) < 0.5
    codes = about[rng.integers(0, centres, n + n_queries)] ^ (rng.random((n + n_queries, bits)) < flipped)
    alive = None if share_alive is None else rng.random(n) < share_alive
    return Case(codes[:n], codes[n:], k, radius, alive, threads, rng)


def same(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def answers(way: Way, case: Case, gallery: Codes, queries: Codes) -> tuple[np.ndarray, ...]:
    """Both answers to a case, the k nearest and all within the radius."""
    options = case.bits, case.alive, case.threads
    return *way.search(gallery, queries, case.k, *options), *way.within(gallery, queries, case.radius, *options)


def edges_of(case: Case) -> list[int]:
    """Where to cut the gallery; parts may be empty."""
    n = len(case.gallery)
    return [0, *np.sort(case.rng.integers(0, n + 1, case.rng.integers(1, 5))).tolist(), n]


def in_csr(query: np.ndarray, distances: np.ndarray, found: np.ndarray, n_queries: int) -> FoundWithin:
    """What was found for queries in any order, as `search_radius` gives it."""
    order = np.lexsort((found, distances, query))
    offsets = np.searchsorted(query[order], np.arange(n_queries + 1)).astype(np.int64)
    return offsets, distances[order], found[order]


def query_of(offsets: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


# ---- Hamming distance


@by_every_way
@examples
@given(case=cases())
def test_one_mask_over_gallery_and_queries_changes_nothing(way: Way, case: Case) -> None:
    mask = case.rng.random(case.bits) < 0.5
    masked = answers(way, case, pack(case.gallery ^ mask), pack(case.queries ^ mask))
    assert same(masked, answers(way, case, *case.packed))


@by_every_way
@examples
@given(case=cases())
def test_bits_in_another_order_change_nothing(way: Way, case: Case) -> None:
    order = case.rng.permutation(case.bits)
    permuted = answers(way, case, pack(case.gallery[:, order]), pack(case.queries[:, order]))
    assert same(permuted, answers(way, case, *case.packed))


@by_every_way
@examples
@given(case=cases())
def test_zeros_behind_every_code_change_nothing(way: Way, case: Case) -> None:
    """A byte, or whole words: other kernels are compiled for those, and gathered otherwise."""
    gallery, queries = case.packed
    expected = answers(way, case, gallery, queries)
    for n_bytes in (1, 8):
        wide = tuple(np.pad(codes, ((0, 0), (0, n_bytes))) for codes in (gallery, queries))
        options = 8 * wide[0].shape[1], case.alive, case.threads
        found = *way.search(*wide, case.k, *options), *way.within(*wide, case.radius, *options)
        assert same(found, expected)


@by_every_way
@examples
@given(case=cases())
def test_parts_searched_one_by_one_become_the_whole(way: Way, case: Case) -> None:
    gallery, queries = case.packed
    nearest: list[Found] = []
    within: list[FoundWithin] = []
    edges = edges_of(case)
    for start, stop in itertools.pairwise(edges):
        alive = None if case.alive is None else case.alive[start:stop]
        options = case.bits, alive, case.threads
        distances, found = way.search(gallery[start:stop], queries, case.k, *options)
        nearest.append((distances, np.where(found < 0, -1, found + start)))
        offsets, distances, found = way.within(gallery[start:stop], queries, case.radius, *options)
        within.append((query_of(offsets), distances, found + start))
    merged = hamming.merge(nearest, case.k)
    joined = in_csr(*(np.concatenate(arrays) for arrays in zip(*within, strict=True)), len(queries))
    assert same((*merged, *joined), answers(way, case, gallery, queries))


@by_every_way
@examples
@given(case=cases())
def test_the_answer_for_k_begins_the_answer_for_more(way: Way, case: Case) -> None:
    gallery, queries = case.packed
    options = case.bits, case.alive, case.threads
    found = way.search(gallery, queries, case.k, *options)
    for more in (case.k + 1, case.k + 64, len(gallery) + case.k):
        longer = way.search(gallery, queries, more, *options)
        assert same((longer[0][:, : case.k], longer[1][:, : case.k]), found)


@by_every_way
@examples
@given(case=cases())
def test_a_radius_cuts_the_ranking_of_all(way: Way, case: Case) -> None:
    gallery, queries = case.packed
    options = case.bits, case.alive, case.threads
    distances, found = way.search(gallery, queries, max(1, len(gallery)), *options)
    inside = (found >= 0) & (distances <= case.radius)
    offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    expected = offsets, distances[inside], found[inside]
    assert same(way.within(gallery, queries, case.radius, *options), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@examples
@given(case=cases())
def test_all_ties_are_the_k_nearest_and_the_radius_of_the_last(kernel: str, case: Case) -> None:
    gallery, queries = case.packed
    options = case.bits, case.alive, case.threads
    distances, nearest = WAYS[kernel].search(gallery, queries, case.k, *options)
    with computed_by(kernel):
        offsets, tied_distances, tied = hamming.search_ties(gallery, queries, case.k, *options)
    for query in range(len(queries)):
        part = slice(offsets[query], offsets[query + 1])
        held = nearest[query] >= 0
        count = int(held.sum())
        assert same((tied_distances[part][:count], tied[part][:count]), (distances[query][held], nearest[query][held]))
        radius = distances[query, -1] if held.all() else case.bits
        _, *expected = WAYS[kernel].within(gallery, queries[query : query + 1], int(radius), *options)
        assert same((tied_distances[part], tied[part]), expected)


@by_every_way
@examples
@given(case=cases())
def test_what_is_not_alive_is_as_if_it_were_not_there(way: Way, case: Case) -> None:
    gallery, queries = case.packed
    numbers = np.arange(len(gallery)) if case.alive is None else np.flatnonzero(case.alive)
    left = case._replace(alive=None)
    distances, found, offsets, within_distances, within = answers(way, left, gallery[numbers], queries)
    renumbered = np.concatenate([numbers, [-1]])[found]
    expected = distances, renumbered, offsets, within_distances, numbers[within]
    assert same(answers(way, case, gallery, queries), expected)


@by_every_way
@examples
@given(case=cases(most_rows=400))
def test_a_gallery_given_several_times_over(way: Way, case: Case) -> None:
    """Each row twice, one after the other: the ranking with every entry twice. The whole twice: the second half comes later."""
    gallery, queries = case.packed
    n = len(gallery)
    distances, found = way.search(gallery, queries, max(1, n), case.bits)
    twice = (
        np.repeat(distances, 2, axis=1),
        np.where(np.repeat(found, 2, axis=1) < 0, -1, 2 * np.repeat(found, 2, axis=1)),
    )
    twice[1][:, 1::2] += twice[1][:, 1::2] >= 0
    assert same(way.search(np.repeat(gallery, 2, axis=0), queries, 2 * max(1, n), case.bits, None, case.threads), twice)
    again = hamming.merge([(distances, found), (distances, np.where(found < 0, -1, found + n))], case.k)
    k = min(case.k, 2 * max(1, n))
    found_again = way.search(np.concatenate([gallery, gallery]), queries, k, case.bits, None, case.threads)
    assert same(found_again, (again[0][:, :k], again[1][:, :k]))


@by_every_way
@examples
@given(case=cases())
def test_any_number_of_threads_gives_the_same_bytes(way: Way, case: Case) -> None:
    expected = answers(way, case._replace(threads=1), *case.packed)
    for threads in (2, 3, 8):
        assert same(answers(way, case._replace(threads=threads), *case.packed), expected)


@by_every_way
@examples
@given(case=cases())
def test_queries_do_not_know_of_each_other(way: Way, case: Case) -> None:
    gallery, queries = case.packed
    options = case.bits, case.alive, case.threads
    order = case.rng.integers(0, len(queries), 30) if len(queries) else np.empty(0, np.int64)
    distances, found = way.search(gallery, queries, case.k, *options)
    assert same(way.search(gallery, queries[order], case.k, *options), (distances[order], found[order]))
    offsets, *expected = way.within(gallery, queries, case.radius, *options)
    found_offsets, *found_within = way.within(gallery, queries[order], case.radius, *options)
    parts = [np.arange(offsets[query], offsets[query + 1]) for query in order]
    assert np.array_equal(np.diff(found_offsets), np.diff(offsets)[order])
    everything = np.concatenate([np.empty(0, np.int64), *parts])
    assert same(found_within, [array[everything] for array in expected])


@examples
@given(case=cases(most_rows=300), share=st.floats(0, 1), pieces=st.integers(1, 3))
def test_removed_and_added_again_is_an_index_made_in_that_order(case: Case, share: float, pieces: int) -> None:
    """Ids stay with their codes, and what is added again stands at the end."""
    gallery, queries = case.packed
    ids = case.rng.permutation(10 * max(1, len(gallery)))[: len(gallery)]
    index = ByIndex().index(gallery, case.bits, None)
    index.remove(9999 - np.arange(len(gallery)))
    index.add(gallery, ids=ids)
    for _ in range(pieces):
        moved = case.rng.random(len(gallery)) < share
        again = case.rng.permutation(np.flatnonzero(moved))
        index.remove(ids[moved])
        index.add(gallery[again], ids=ids[again])
        order = np.concatenate([np.flatnonzero(~moved), again])
        gallery, ids = gallery[order], ids[order]
    fresh = HammingIndex(case.bits)
    fresh.add(gallery, ids=ids)
    assert np.array_equal(index.ids, ids)
    for searched in (fresh.search, index.search):
        assert same(searched(queries, case.k), fresh.search(queries, case.k, threads=case.threads))
    assert same(index.search_radius(queries, case.radius), fresh.search_radius(queries, case.radius))
    logits = case.logits
    found = index.search(logits, case.k, metric="asymmetric")
    assert same(found, fresh.search(logits, case.k, metric="asymmetric"))


# ---- logits


@contextmanager
def summed_by(kernel: str) -> Iterator[None]:
    """Asymmetric search takes numpy, or the lookup kernel, for any amount of work."""
    work = {"numpy": 1 << 60, "lookup": -1}[kernel]
    with mock.patch.multiple(asymmetric, _PLAIN_WORK=work, _FEW_QUERIES=-1, _SMALL_WORK=0):
        yield


def by_logits(
    name: str, gallery: Codes, logits: np.ndarray, k: int, alive: Bits | None = None, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and rows of the k codes most similar to logits, computed in the way of this name."""
    if name == "index":
        index = ByIndex().index(gallery, logits.shape[1], alive)
        similarities, ids = index.search(logits, k, threads, metric="asymmetric")
        return similarities, np.where(ids < 0, -1, 9999 - ids)
    with summed_by(name):
        return asymmetric.search(gallery, logits, k, alive, threads)


by_every_sum = pytest.mark.parametrize("name", ["numpy", "lookup", "index"])


@by_every_sum
@examples
@given(case=cases())
def test_logits_masked_and_permuted_like_the_codes_rank_alike(name: str, case: Case) -> None:
    """A bit turned over and its logit's sign with it: the same terms. Another order: the same sum, where it is exact."""
    options = case.k, case.alive, case.threads
    logits, mask = case.logits, case.rng.random(case.bits) < 0.5
    expected = by_logits(name, pack(case.gallery), logits, *options)
    masked = np.where(mask, -logits, logits)
    assert same(by_logits(name, pack(case.gallery ^ mask), masked, *options), expected)
    order = case.rng.permutation(case.bits)
    assert same(by_logits(name, pack(case.gallery[:, order]), logits[:, order], *options), expected)
    rough = case.rng.standard_normal(logits.shape).astype(np.float32)
    expected = by_logits(name, pack(case.gallery), rough, *options)
    assert same(by_logits(name, pack(case.gallery ^ mask), np.where(mask, -rough, rough), *options), expected)


@by_every_sum
@examples
@given(case=cases(), rough=st.booleans())
def test_logits_over_parts_of_a_gallery(name: str, case: Case, rough: bool) -> None:
    """Parts become the whole, k begins more, dead rows are as if they were not there, and threads change nothing."""
    gallery, logits = pack(case.gallery), case.logits
    if rough:
        logits = logits + case.rng.standard_normal(logits.shape).astype(np.float32)
    expected = by_logits(name, gallery, logits, case.k, case.alive)
    for threads in (2, 3):
        assert same(by_logits(name, gallery, logits, case.k, case.alive, threads), expected)
    edges = edges_of(case)
    parts = []
    for start, stop in itertools.pairwise(edges):
        alive = None if case.alive is None else case.alive[start:stop]
        similarities, found = by_logits(name, gallery[start:stop], logits, case.k, alive, case.threads)
        parts.append((similarities, np.where(found < 0, -1, found + start)))
    assert same(asymmetric.merge(parts, case.k), expected)
    longer = by_logits(name, gallery, logits, len(gallery) + case.k, case.alive)
    assert same((longer[0][:, : case.k], longer[1][:, : case.k]), expected)
    numbers = np.arange(len(gallery)) if case.alive is None else np.flatnonzero(case.alive)
    similarities, found = by_logits(name, gallery[numbers], logits, case.k)
    assert same((similarities, np.concatenate([numbers, [-1]])[found]), expected)


@by_every_sum
@examples
@given(case=cases())
def test_logits_of_one_size_rank_by_hamming_distance(name: str, case: Case) -> None:
    logits = np.where(case.queries, np.float32(0.5), np.float32(-0.5))
    similarities, found = by_logits(name, pack(case.gallery), logits, case.k, case.alive, case.threads)
    distances, nearest = hamming.search(*case.packed, case.k, case.bits, case.alive)
    assert np.array_equal(found, nearest)
    held = found >= 0
    assert (
        np.array_equal(similarities[held], (case.bits - 2 * distances[held]) / 2)
        and np.isnan(similarities[~held]).all()
    )


# ---- pairs among themselves


def pairs_of(name: str, codes: Codes, radius: int, case: Case, alive: Bits | None = None) -> Pairs:
    with joined_by(name):
        return whole(self_join(codes, radius, 8 * codes.shape[1], alive, case.threads))


def sorted_pairs(parts: Sequence[Pairs]) -> Pairs:
    first, second, distances = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((second, first))
    return Pairs(first[order], second[order], distances[order])


by_every_join = pytest.mark.parametrize("name", JOIN_WAYS)


@by_every_join
@examples
@given(case=cases(most_rows=400))
def test_pairs_know_neither_masks_nor_the_order_of_bits(name: str, case: Case) -> None:
    expected = pairs_of(name, pack(case.gallery), case.radius, case)
    mask, order = case.rng.random(case.bits) < 0.5, case.rng.permutation(case.bits)
    assert same(pairs_of(name, pack((case.gallery ^ mask)[:, order]), case.radius, case), expected)
    smaller = int(case.rng.integers(0, case.radius + 1))
    near = expected.distances <= smaller
    assert same(pairs_of(name, pack(case.gallery), smaller, case), [array[near] for array in expected])


@by_every_join
@examples
@given(case=cases(most_rows=400))
def test_pairs_of_two_parts_and_between_them_are_all_pairs(name: str, case: Case) -> None:
    codes, cut = pack(case.gallery), int(case.rng.integers(0, len(case.gallery) + 1))
    first, second = (pairs_of(name, part, case.radius, case) for part in (codes[:cut], codes[cut:]))
    offsets, distances, found = hamming.search_radius(codes[cut:], codes[:cut], case.radius)
    between = Pairs(query_of(offsets), found + cut, distances)
    later = Pairs(second.first + cut, second.second + cut, second.distances)
    assert same(sorted_pairs([first, between, later]), pairs_of(name, codes, case.radius, case))


@by_every_join
@examples
@given(case=cases(most_rows=400))
def test_pairs_of_the_living_and_of_rows_in_another_order(name: str, case: Case) -> None:
    codes = pack(case.gallery)
    numbers = np.arange(len(codes)) if case.alive is None else np.flatnonzero(case.alive)
    found = pairs_of(name, codes[numbers], case.radius, case)
    expected = Pairs(numbers[found.first], numbers[found.second], found.distances)
    assert same(pairs_of(name, codes, case.radius, case, case.alive), expected)
    order = case.rng.permutation(len(codes))
    moved = pairs_of(name, codes[order], case.radius, case, None if case.alive is None else case.alive[order])
    ends = np.sort(np.stack([order[moved.first], order[moved.second]]), axis=0)
    assert same(sorted_pairs([Pairs(ends[0], ends[1], moved.distances)]), expected)
