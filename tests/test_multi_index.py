"""Multi-index hashing: the bytes of the reference at sizes chosen to hurt, within any budget."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret import hamming
from hashret.codes import Codes, bytes_per_code, pack
from hashret.errors import CodeError, SearchError
from hashret.hamming import multi_index, planner, reference, words
from hashret.hamming.costs import known_costs
from hashret.hamming.linear import FoundWithin
from hashret.hamming.merge import Found
from hashret.hamming.multi_index import MultiIndex
from hashret.hamming.planner import Plan

BITS = [1, 7, 8, 16, 31, 63, 64, 65, 128, 200, 1024]
SIZES = [0, 1, 63, 64, 65, 513]
UNLIMITED = np.inf


def random_codes(rng: np.random.Generator, n: int, bits: int) -> Codes:
    return pack(rng.integers(0, 2, (n, bits)))


def clustered(rng: np.random.Generator, n: int, bits: int, n_centres: int, flipped: float = 0.05) -> Codes:
    """Codes about few centres: near neighbours, ties and duplicates abound."""
    centres = rng.integers(0, 2, (n_centres, bits))
    return pack(centres[rng.integers(0, n_centres, n)] ^ (rng.random((n, bits)) < flipped))


def galleries(rng: np.random.Generator, n: int, bits: int) -> list[Codes]:
    return [random_codes(rng, n, bits), clustered(rng, n, bits, 5), np.repeat(random_codes(rng, 1, bits), n, axis=0)]


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def by_buckets(index: MultiIndex, queries: Codes, k: int, alive: Any = None) -> Found:
    """From the buckets alone, however many that takes."""
    probed = index._probe(queries, k, alive, UNLIMITED, 1)
    assert probed.answered.all()
    return probed.found


def radius_by_buckets(index: MultiIndex, queries: Codes, radius: int, alive: Any = None) -> FoundWithin:
    probed = index._probe_within(queries, radius, alive, UNLIMITED, 1)
    assert probed.answered.all()
    counts, keys = probed.found
    offsets = np.cumsum([0, *counts])
    keys = np.concatenate([np.sort(keys[a:b]) for a, b in itertools.pairwise(offsets)] or [keys])
    return offsets, (keys >> multi_index.KEY_SHIFT).astype(np.int32), keys & multi_index.KEY_ROW


def affordable(index: MultiIndex, distance: int) -> bool:
    """Whether a test can wait for all buckets up to a distance."""
    rings, m = index._tables[1], index.n_substrings
    return int(rings[:, : distance // m + 1].sum()) < 100_000


@contextlib.contextmanager
def planned(budget_ns: float, threads: int = 1) -> Iterator[None]:
    """Every search goes to the buckets, with this to spend."""
    plan = planner.plan

    def to_buckets(*args: Any, lookups: Any = None, **options: Any) -> Plan:
        # Without lookups it is a scan for what they do not pay for.
        return plan(*args, **options) if lookups is None else Plan("multi-index", threads, 0.0, "", budget_ns)

    with mock.patch.object(planner, "plan", to_buckets):
        yield


def check(gallery: Codes, queries: Codes, bits: int, k: int, radius: int, alive: Any, index: MultiIndex) -> None:
    expected = reference.search(gallery, queries, k, alive)
    assert same(index.search(queries, k, alive), expected)
    furthest = bits if (expected[1] < 0).any() else int(expected[0].max(initial=0))
    if affordable(index, furthest):
        assert same(by_buckets(index, queries, k, alive), expected)
    expected_within = reference.search_radius(gallery, queries, radius, alive)
    assert same(index.search_radius(queries, radius, alive), expected_within)
    for budget_ns, threads in ((1e3, 1), (1e5, 3)):
        with planned(budget_ns, threads):
            assert same(index.search(queries, k, alive), expected)
            assert same(index.search_radius(queries, radius, alive), expected_within)
    if affordable(index, radius):
        assert same(radius_by_buckets(index, queries, radius, alive), expected_within)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", SIZES)
def test_the_bytes_of_the_reference(bits: int, n: int) -> None:
    rng = np.random.default_rng(bits * 1000 + n)
    for gallery in galleries(rng, n, bits):
        queries = np.concatenate([random_codes(rng, 2, bits), clustered(rng, 2, bits, 1), gallery[:1]])
        index = MultiIndex.build(gallery, bits)
        for alive in (None, rng.random(n) < 0.7, np.zeros(n, bool)):
            for k, radius in ((1, 0), (10, bits // 8), (n + 2, bits)):
                check(gallery, queries, bits, k, radius, alive, index)


@settings(deadline=None, max_examples=40)
@given(
    bits=st.integers(1, 200),
    n=st.integers(0, 1500),
    n_queries=st.integers(0, 9),
    k=st.integers(1, 2000),
    centres=st.integers(1, 300),
    flipped=st.sampled_from([0.0, 0.02, 0.1, 0.5]),
    more=st.integers(0, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_any_substrings(
    bits: int, n: int, n_queries: int, k: int, centres: int, flipped: float, more: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = clustered(rng, n + n_queries, bits, centres, flipped)
    gallery, queries = codes[:n], codes[n:]
    alive = rng.random(n) < rng.random() if more % 2 else None
    fewest = -(-bits // 16)
    index = MultiIndex.build(gallery, bits, min(bits, fewest + more))
    check(gallery, queries, bits, k, int(rng.integers(0, bits + 2)), alive, index)


@pytest.mark.parametrize("bits", [24, 48, 64, 100, 128, 1000])
def test_buckets_hold_every_code_once_a_substring_in_the_order_of_rows(bits: int) -> None:
    rng = np.random.default_rng(bits)
    gallery = clustered(rng, 3000, bits, 40)
    for n_substrings in (None, -(-bits // 13), max(-(-bits // 24), 3)) if bits < 200 else (None,):
        index = MultiIndex.build(gallery, bits, n_substrings)
        cuts, rings, starts, rows, codes = index._tables
        widths = cuts[:, multi_index.N_BITS].astype(int)
        assert widths.sum() == bits and widths.max() <= widths.min() + 1
        assert rings[:, 1].tolist() == widths.tolist()
        unpacked = np.unpackbits(gallery, axis=1, count=bits).astype(np.int64)
        edge, squares = 0, 0
        for p, width in enumerate(widths):
            values = unpacked[:, edge : edge + width] @ (1 << np.arange(width)[::-1])
            own_rows = rows[3000 * p : 3000 * (p + 1)].astype(np.int64)
            assert np.array_equal(own_rows, np.argsort(values, kind="stable"))
            own_codes = codes.reshape(len(widths), 3000, -1)[p].astype(">u8").view(np.uint8)
            assert np.array_equal(own_codes[:, : gallery.shape[1]], gallery[own_rows])
            first = int(cuts[p, multi_index.FIRST_BUCKET])
            own_starts = starts[first : first + (1 << width) + 1].astype(np.int64)
            sizes = np.bincount(values, minlength=1 << width)
            assert np.array_equal(np.diff(own_starts), sizes) and own_starts[0] == 0
            squares += int((sizes**2).sum())
            edge += width
        assert index.occupancy == pytest.approx(squares / (3000 * len(widths)))
        assert index.n_bytes == MultiIndex.bytes_needed(3000, bits, n_substrings)
        parallel = MultiIndex.build(gallery, bits, n_substrings, threads=3)
        assert all(np.array_equal(a, b) for a, b in zip(index._tables, parallel._tables, strict=True))


def test_ties_at_the_last_distance_give_the_earliest_rows() -> None:
    """Codes one bit away that only the last substring's buckets hold stand first; those that come to light first, last."""
    bits = 24
    query = np.zeros((1, 3), np.uint8)
    one_bit = pack(np.eye(bits, dtype=bool))
    for order in (np.arange(bits), np.arange(bits)[::-1]):
        gallery = np.concatenate([one_bit[order], one_bit[order]])
        index = MultiIndex.build(gallery, bits, 3)
        for k in (1, 5, 24, 25, 47, 48):
            distances, rows = by_buckets(index, query, k)
            assert (distances == 1).all() and rows[0].tolist() == list(range(k))


def test_a_code_in_several_buckets_counts_once() -> None:
    """The query itself is in a bucket of every substring, and its neighbours are in most."""
    rng = np.random.default_rng(1)
    query = random_codes(rng, 1, 64)
    gallery = np.concatenate([query, query, query ^ pack(np.eye(64, dtype=bool)), random_codes(rng, 500, 64)])
    index = MultiIndex.build(gallery, 64, 8)
    distances, rows = by_buckets(index, query, 66)
    assert distances[0].tolist() == [0, 0] + [1] * 64 and rows[0].tolist() == list(range(66))


def test_nothing_but_what_the_covered_distance_asks_for_is_looked_up() -> None:
    """The nearest code equals the query: the first bucket is enough; one bit away takes the second substring's as well."""
    rng = np.random.default_rng(2)
    gallery = random_codes(rng, 4000, 64)
    index = MultiIndex.build(gallery, 64, 4)
    away = gallery[:1].copy()
    away[0, 7] ^= 1
    for queries, buckets in ((gallery[:1], 1), (away, 2)):
        probed = index._probe(queries, 1, None, UNLIMITED, 1)
        assert probed.found[1].tolist() == [[0]] and probed.effort[0, :2].tolist() == [buckets] * 2
        assert probed.effort[0, 2] >= buckets


@pytest.mark.parametrize("bits", [64, 128])
def test_what_the_budget_does_not_pay_is_scanned(bits: int) -> None:
    rng = np.random.default_rng(bits)
    gallery = clustered(rng, 30_000, bits, 300)
    far = random_codes(rng, 3, bits)
    queries = np.concatenate([gallery[:3], far])[[0, 3, 1, 4, 2, 5]]
    index = MultiIndex.build(gallery, bits)
    costs = known_costs()
    budget_ns = 450 * (costs.bucket + costs.bucket_wait)
    probed = index._probe(queries, 5, None, budget_ns, 1)
    assert probed.answered.tolist() == [True, False] * 3
    work = probed.effort @ [costs.bucket, costs.bucket_wait, costs.bucket_word * bits / 64]
    assert (work <= budget_ns + multi_index.CHUNK * (costs.bucket + 4 * costs.bucket_wait)).all()
    assert not index._probe_within(far, bits // 3, None, budget_ns, 1).answered.any()
    with planned(budget_ns):
        *found, explanation = index.search(queries, 5, explain=True)
        assert same(tuple(found), reference.search(gallery, queries, 5))
        assert explanation.left == 3 and explanation.exact and explanation.codes > 15_000
        assert "3 of the queries left to a linear scan; the answer is exact" in "\n".join(explanation.lines())
        for radius in (0, 3, bits // 3, bits // 2, bits + 9):
            *found, explanation = index.search_radius(queries, radius, explain=True)
            assert same(tuple(found), reference.search_radius(gallery, queries, radius))
            assert explanation.left == (0 if radius < 4 else 6)


def test_no_budget_is_too_small_or_too_large() -> None:
    """Wherever the budget ends a search, what was not answered is said to be so."""
    rng = np.random.default_rng(3)
    gallery, queries = clustered(rng, 2000, 32, 30), clustered(rng, 20, 32, 30)
    index = MultiIndex.build(gallery, 32, 4)
    expected = reference.search(gallery, queries, 7)
    answered = []
    for budget in (0, 100, 500, 1000, 3000, 10_000, 30_000, 100_000, 1_000_000, UNLIMITED):
        probed = index._probe(queries, 7, None, budget, 1)
        assert all(
            np.array_equal(a[probed.answered], b[probed.answered]) for a, b in zip(probed.found, expected, strict=True)
        )
        answered.append(int(probed.answered.sum()))
    assert answered == sorted(answered) and answered[0] == 0 and answered[-1] == 20 and len(set(answered)) > 2


def test_one_bucket_that_holds_all_is_not_read_again_and_again() -> None:
    """All codes alike: buckets are full or empty, and a scan costs less than reading a full one a few times."""
    gallery = np.full((200_000, 8), 7, np.uint8)
    index = MultiIndex.build(gallery, 64)
    assert index.occupancy == len(gallery)
    for query in (np.full((1, 8), 7, np.uint8), np.zeros((1, 8), np.uint8)):
        budget_ns = planner.scan_cost(*gallery.shape)
        probed = index._probe(query, 10, None, budget_ns, 1)
        assert probed.effort[0, 2] <= budget_ns / known_costs().bucket_word
        for way in (contextlib.nullcontext(), planned(budget_ns)):
            with way:
                assert same(index.search(query, 10), hamming.search(gallery, query, 10))
                assert same(index.search_radius(query, 1), hamming.search_radius(gallery, query, 1))


def test_a_radius_with_more_codes_than_there_is_room_for_at_first() -> None:
    rng = np.random.default_rng(4)
    gallery = clustered(rng, 20_000, 64, 2, 0.01)
    index = MultiIndex.build(gallery, 64, 4)
    found = radius_by_buckets(index, gallery[:3], 6)
    assert found[0][1] > multi_index.ROOM
    assert same(found, reference.search_radius(gallery, gallery[:3], 6))


def test_any_number_of_threads_and_of_queries() -> None:
    rng = np.random.default_rng(5)
    gallery = clustered(rng, 20_000, 64, 200)
    index = MultiIndex.build(gallery, 64)
    for n_queries in (0, 1, 31, 32, 33, 200):
        queries = clustered(rng, n_queries, 64, 200)
        queries[::2] = gallery[:n_queries:2]
        expected, expected_within = hamming.search(gallery, queries, 9), hamming.search_radius(gallery, queries, 7)
        for threads in (1, 2, 5, None):
            assert same(index.search(queries, 9, threads=threads), expected)
            with planned(1e5, threads or 7):
                assert same(index.search(queries, 9), expected)
                assert same(index.search_radius(queries, 7), expected_within)


def test_callers_at_once_get_their_own_answers() -> None:
    rng = np.random.default_rng(6)
    gallery = clustered(rng, 20_000, 64, 200)
    index = MultiIndex.build(gallery, 64)
    batches = [gallery[first : first + 3 + first % 50] for first in range(0, 400, 20)]
    expected = [hamming.search(gallery, batch, 4) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(6) as callers:
        for _ in range(3):
            with planned(1e5, 2):
                found = list(callers.map(lambda batch: index.search(batch, 4), batches))
            assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_galleries_mapped_and_strided(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for bits in (64, 72):
        gallery = clustered(rng, 20_000, bits, 500)
        np.save(tmp_path / "codes.npy", gallery)
        mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
        wide = np.zeros((len(gallery), 2 * gallery.shape[1]), np.uint8)
        wide[:, ::2] = gallery
        expected = MultiIndex.build(gallery, bits)
        for other in (mapped, wide[:, ::2], np.asfortranarray(gallery)):
            index = MultiIndex.build(other, bits)
            assert np.shares_memory(index.gallery_NB, other)
            assert all(np.array_equal(a, b) for a, b in zip(index._tables, expected._tables, strict=True))
            assert same(index.search(gallery[:5], 6), reference.search(gallery, gallery[:5], 6))


def test_how_many_substrings() -> None:
    def widths(n: int, bits: int) -> list[int]:
        cuts = multi_index._cuts(bits, multi_index._substrings(n, bits, None))
        return sorted({int(width) for width in cuts[:, multi_index.N_BITS]})

    assert widths(10_000_000, 64) == [21, 22]
    assert widths(1_000_000, 64) == [16]
    assert widths(10_000_000, 128) == [21, 22]
    assert widths(2**32, 64) == [21, 22], "24 bits at most"
    assert widths(0, 64) == [8] and widths(1, 5) == [5]
    for bits in range(1, 1025, 11):
        for n in (0, 300, 70_000, 10**7, 10**9):
            found = widths(n, bits)
            assert found[-1] - found[0] <= 1 and found[-1] <= 24


def test_buckets_are_used_where_they_are_cheaper(own_cache: Path) -> None:
    rng = np.random.default_rng(8)
    codes = clustered(rng, 400_100, 64, 8000, 0.02)
    gallery, queries = codes[:-100], codes[-100:]
    near = MultiIndex.build(gallery, 64)
    for n_queries in (1, 100):
        *found, explanation = near.search(queries[:n_queries], 5, explain=True)
        assert explanation.plan.kernel == "multi-index" and explanation.left <= n_queries // 20
        assert 1 <= explanation.buckets < 200 and 5 < explanation.codes < 5000
        assert same(tuple(found), hamming.search(gallery, queries[:n_queries], 5))
        *found, explanation = near.search_radius(queries[:n_queries], 3, explain=True)
        assert explanation.plan.kernel == "multi-index" and explanation.left == 0
        assert same(tuple(found), hamming.search_radius(gallery, queries[:n_queries], 3))
    for k in (100_000, 10**9):
        plan = near._plan(1, k, 1, 1.0, near._lookups(lambda asked: asked.radius_of(k + 1)))  # noqa: B023
        assert plan.kernel != "multi-index"
    *_, scanned = near.search_radius(queries, 20, explain=True)
    assert scanned.plan.kernel in ("row", "table") and "multi-index on 1" in scanned.plan.reason
    # Half of the codes deleted: a search for k has to look as far as one for 2 k.
    half = np.arange(len(gallery)) % 2 == 0
    *found, explanation = near.search(queries, 5, half, explain=True)
    assert explanation.plan.kernel == "multi-index" and same(
        tuple(found), hamming.search(gallery, queries, 5, alive=half)
    )
    far = MultiIndex.build(random_codes(rng, 200_000, 64), 64)
    *_, explanation = far.search(queries[:1], 5, explain=True)
    assert explanation.plan.kernel == "row" and explanation.codes == 200_000 and explanation.buckets == 0
    for n in (0, 1, 5):
        *_, explanation = MultiIndex.build(random_codes(rng, n, 64), 64).search(queries[:1], 1, explain=True)
        assert explanation.plan.kernel == "numpy" and explanation.codes == n


def test_one_record_tells_the_cost_of_any_k_and_any_radius() -> None:
    """A search for the k nearest looks at the very buckets that one with the k-th distance as its radius looks at."""
    rng = np.random.default_rng(9)
    gallery = clustered(rng, 30_000, 64, 300, 0.03)
    index = MultiIndex.build(gallery, 64)
    for asked, row in zip(index._sample, range(0, len(gallery), len(gallery) // multi_index.SAMPLE), strict=False):
        for k in (1, 3, 20):
            probed = index._probe(gallery[row : row + 1], k, None, UNLIMITED, 1)
            radius = asked.radius_of(k)
            assert radius == min(probed.found[0][0, -1], len(asked.efforts))
            if radius < len(asked.efforts):
                assert probed.effort[0].tolist() == asked.efforts[radius]


def test_what_does_not_fit_is_refused() -> None:
    gallery, query = np.zeros((4, 2), np.uint8), np.zeros((1, 2), np.uint8)
    index = MultiIndex.build(gallery, 12)
    with pytest.raises(SearchError, match="k is 0"):
        index.search(query, 0)
    with pytest.raises(SearchError, match="k is True"):
        index.search(query, True)
    with pytest.raises(SearchError, match="radius is -1"):
        index.search_radius(query, -1)
    with pytest.raises(SearchError, match="alive"):
        index.search(query, 1, alive=np.ones(3, bool))
    with pytest.raises(SearchError, match="threads is 0"):
        index.search(query, 1, threads=0)
    with pytest.raises(CodeError, match="last 4 bits"):
        index.search(query + 1, 1)
    with pytest.raises(CodeError, match="dtype"):
        MultiIndex.build(gallery.astype(np.int8), 16)
    with pytest.raises(CodeError, match="1025"):
        MultiIndex.build(gallery, 1025)
    for wrong in (0, 13, 1.0, True, "2"):
        with pytest.raises(SearchError, match=r"n_substrings is .*, expected a whole number from 1 to 12"):
            MultiIndex.build(gallery, 12, wrong)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="from 3 to 64"):
        MultiIndex.build(np.zeros((4, 8), np.uint8), 64, 2)
    too_many: Codes = np.lib.stride_tricks.as_strided(np.zeros(8, np.uint8), (2**32, 8), (0, 1), writeable=False)
    with pytest.raises(SearchError, match="at most 4294967295"):
        MultiIndex.build(too_many, 64)


def test_a_second_process_starts_from_the_compiled_kernels_in_the_cache() -> None:
    program = (
        "import numpy as np; from hashret.hamming import multi_index as m\n"
        "g = np.random.default_rng(0).integers(0, 256, (100, 8), dtype=np.uint8)\n"
        "x = m.MultiIndex.build(g, 64); x._probe(g[:1], 1, None, 1e9, 1); x._probe_within(g[:1], 1, None, 1e9, 1)\n"
        "for stats in (m.count.stats, m.fill.stats, m.search.stats, m.within.stats):\n"
        "    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    for attempt in range(2):
        ran = subprocess.run([sys.executable, "-c", program], check=True, timeout=300, capture_output=True, text=True)
        if attempt:
            assert ran.stdout.split() == ["1", "0"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("bits", [64, 128, 200])
def test_a_million_codes(bits: int) -> None:
    rng = np.random.default_rng(bits)
    centres = random_codes(rng, 10_000, bits)
    noise = np.concatenate([pack(rng.random((10_000, bits)) < 0.05) for _ in range(101)])
    codes = centres[rng.integers(0, len(centres), len(noise))] ^ noise
    gallery, queries = codes[:1_000_000], codes[1_000_000:1_000_300]
    alive = rng.random(len(gallery)) < 0.9
    index = MultiIndex.build(gallery, bits)
    assert index.n_bytes == MultiIndex.bytes_needed(len(gallery), bits)
    for flags in (None, alive):
        for k in (1, 10, 100):
            assert same(index.search(queries, k, flags), hamming.search(gallery, queries, k, bits, flags))
            one = index.search(queries[:1], k, flags)
            assert same(one, hamming.search(gallery, queries[:1], k, bits, flags))
        for radius in (0, 4, 9):
            expected = hamming.search_radius(gallery, queries, radius, bits, flags)
            assert same(index.search_radius(queries, radius, flags), expected)
    assert words.words_per_code(bytes_per_code(bits)) * 8 * len(gallery) < index.n_bytes
