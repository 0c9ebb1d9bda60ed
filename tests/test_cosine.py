"""Float vectors: every dtype, metric, tile size, batch, thread and kernel gives the bytes that plain float64 gives."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashret.errors import IndexFormatError, SearchError
from hashret.index import CosineIndex, HammingIndex, Store, candidates, dots, features, manifest, tiled
from hashret.index.cosine import FeatureIndex, InnerProductIndex

GOLDEN = Path(__file__).parent / "golden" / "index-v2"
KINDS: list[type[FeatureIndex]] = [CosineIndex, InnerProductIndex]
DTYPES = ["float32", "float16", "int8"]


def small_tiles(patch: pytest.MonkeyPatch) -> None:
    """Tiles of a few rows, groups of a few queries and pruning at a few candidates: small data meets many of each."""
    for module, name, value in (
        (tiled, "GROUP", 5),
        (tiled, "TILE_ROWS", 7),
        (tiled, "FIRST_ROWS", 1),
        (tiled, "PART_WORK", 1),
        (candidates, "SPARE", 1),
        (candidates, "_PRUNED_AT_ONCE", 20),
        (features, "_PAIR_VALUES", 64),
        (features, "_BLOCK_VALUES", 64),
    ):
        patch.setattr(module, name, value)


def computed_by(patch: pytest.MonkeyPatch, who: str) -> None:
    """Who computes products: `numpy` alone, the kernel for `few` queries whatever their number, or `blas` with kernels."""
    patch.setattr(tiled, "_kernels", lambda stretches, queries: None if who == "numpy" else dots)
    patch.setattr(tiled, "FEW", {"numpy": 16, "few": 10**9, "blas": 0}[who])


WAYS = [(who, small) for who in ("numpy", "few", "blas") for small in (False, True)]


def kept_vectors(index: FeatureIndex) -> tuple[np.ndarray, np.ndarray]:
    """What an index holds for its living rows: numbers (N, D) float64 and scales (N,) float64."""
    numbers, scales = [np.empty((0, index.dim))], [np.empty(0)]
    for segment in index._contents.segments:
        rows = segment.features if segment.alive is None else segment.features[segment.alive]  # type: ignore[index]
        assert rows is not None
        whole = index.dtype == "int8"
        numbers.append((rows["values"] if whole else rows).astype(np.float64))
        scales.append(rows["scale"].astype(np.float64) if whole else np.ones(len(rows)))
    return np.concatenate(numbers), np.concatenate(scales)


def true_similarities(index: FeatureIndex, queries: np.ndarray) -> np.ndarray:
    """Similarities (Q, N) float32 by definition: float64 sums of products, times the scale, rounded once."""
    wide = queries.astype(np.float64)
    if isinstance(index, CosineIndex):
        wide = wide / np.abs(wide).max(axis=1, keepdims=True)
        wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    wide = wide.astype(np.float32).astype(np.float64)
    numbers, scales = kept_vectors(index)
    sums = np.empty((len(wide), len(numbers)), np.float32)
    for row, query in enumerate(wide):
        sums[row] = (numbers * query).sum(axis=1) * scales
    return np.minimum(sums, np.float32(1)) if isinstance(index, CosineIndex) else sums


def check(index: FeatureIndex, queries: np.ndarray, k: int, radius: float = 0.25, threads: int | None = None) -> None:
    """A search and a radius search give the oracle's bytes."""
    truth, living = true_similarities(index, queries), index.ids
    similarities, ids = index.search(queries, k, threads=threads)
    assert similarities.shape == ids.shape == (len(queries), k)
    assert similarities.dtype == np.float32 and ids.dtype == np.int64
    offsets, near, found = index.search_radius(queries, radius, threads=threads)
    assert offsets.dtype == np.int64 and near.dtype == np.float32 and found.dtype == np.int64
    assert offsets.shape == (len(queries) + 1,) and offsets[0] == 0 and offsets[-1] == len(near) == len(found)
    for query, values in enumerate(truth):
        order = np.argsort(-values, kind="stable")
        first = order[:k]
        assert np.array_equal(ids[query, : len(first)], living[first])
        assert np.array_equal(similarities[query, : len(first)], values[first])
        assert np.isnan(similarities[query, len(first) :]).all() and (ids[query, len(first) :] == -1).all()
        inside = order[values[order] >= np.float32(radius)]
        assert np.array_equal(found[offsets[query] : offsets[query + 1]], living[inside])
        assert np.array_equal(near[offsets[query] : offsets[query + 1]], values[inside])


def vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors of different lengths with runs of copies, some far apart, and rows that differ in the last bit."""
    rng = np.random.default_rng([seed, n, dim])
    made = rng.standard_normal((n, dim)).astype(np.float32) * rng.choice(np.float32([0.5, 1, 3]), (n, 1))
    if n > 60:
        made[n // 2 : n // 2 + 20] = made[:20]
        made[30:45] = made[29]
        made[45:50] = np.nextafter(made[29], np.float32(np.inf))
        made[50:53] *= np.float32(1e-4)
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 3, 64, 512])
def test_hostile_sizes_give_the_oracles_bytes(
    monkeypatch: pytest.MonkeyPatch, kind: type[FeatureIndex], dtype: str, dim: int
) -> None:
    for n in (0, 1, 63, 64, 65, 300 if dim == 512 else 4097):
        gallery = vectors(n, dim)
        queries = np.concatenate([gallery[29:32], gallery[:2], vectors(6, dim, seed=1)])
        index = kind(dim, dtype)
        index.add(gallery[: n // 3])
        index.add(gallery[n // 3 :])
        for who, small in WAYS:
            if small and n > 300:
                continue
            with monkeypatch.context() as patch:
                computed_by(patch, who)
                if small:
                    small_tiles(patch)
                check(index, queries, 1 if small else 10)
                check(index, queries[:1], n + 3, radius=-1)
        index.remove(index.ids[29:40])
        check(index, queries, 70)
        check(index, queries[:0], 5)


@pytest.mark.parametrize(("who", "small"), WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_vectors_tie_exactly_and_the_earlier_row_comes_first(
    monkeypatch: pytest.MonkeyPatch, dtype: str, who: str, small: bool
) -> None:
    if small:
        small_tiles(monkeypatch)
    computed_by(monkeypatch, who)
    one = np.random.default_rng(0).standard_normal((1, 65)).astype(np.float32)
    n = 90 if small else 20_000
    for kind in KINDS:
        index = kind(65, dtype)
        for _ in range(2):
            index.add(np.repeat(one, n // 2, axis=0))
        for k in (1, 40, n):
            similarities, ids = index.search(np.concatenate([one, -one, one]), k)
            assert np.array_equal(ids, np.tile(np.arange(k), (3, 1)))
            assert (similarities == similarities[:, :1]).all()
        index.remove([0, n - 1])
        offsets, near, ids = index.search_radius(one, 0.5)
        assert ids.tolist() == list(range(1, n - 1)) and len(np.unique(near)) == 1 and offsets.tolist() == [0, n - 2]
        few = vectors(n, 65)
        index.add(few[: n // 2])
        check(index, np.concatenate([one, few[:3]]), 60)


def test_the_answer_does_not_depend_on_batches_threads_tiles_or_who_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries = vectors(5000, 33), vectors(70, 33, seed=2)
    for kind, dtype in itertools.product(KINDS, DTYPES):
        index = kind(33, dtype)
        index.add(gallery)
        index.remove(np.arange(0, 5000, 7))
        expected = index.search(queries, 25)
        within = index.search_radius(queries, 0.3)
        for who, step, threads in (("few", 1, 1), ("few", 7, 3), ("few", 70, 2), ("blas", 16, 1), ("numpy", 33, 5)):
            with monkeypatch.context() as patch:
                computed_by(patch, who)
                patch.setattr(tiled, "TILE_ROWS", 100 * step + 1)
                patch.setattr(tiled, "PART_WORK", 1000)
                parts = [index.search(queries[i : i + step], 25, threads=threads) for i in range(0, 70, step)]
                assert np.array_equal(np.concatenate([part[0] for part in parts]), expected[0])
                assert np.array_equal(np.concatenate([part[1] for part in parts]), expected[1])
                near = [index.search_radius(queries[i : i + step], 0.3, threads=threads) for i in range(0, 70, step)]
                for i in (1, 2):
                    assert np.array_equal(np.concatenate([part[i] for part in near]), within[i])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_searched_equals_the_oracle(data: st.DataObject) -> None:
    """Few different numbers make many ties; a few huge, tiny or odd ones make bounds loose."""
    draw = data.draw
    dim, n, n_queries = draw(st.integers(1, 9)), draw(st.integers(0, 60)), draw(st.integers(0, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    alphabet = draw(
        st.sampled_from([[1.0, 2], [-1.0, 0, 1], [1.0, 1 + 2**-20, -1e-30], [1e-3, 1.0, 1e3], [0.1, 0.2, 0.3]])
    )
    gallery, queries = (rng.choice(np.float32(alphabet), (rows, dim)) for rows in (n, n_queries))
    queries *= rng.choice(np.float32([-1, 1]), (n_queries, 1))
    index = draw(st.sampled_from(KINDS))(dim, draw(st.sampled_from(DTYPES)))
    if isinstance(index, CosineIndex):
        gallery, queries = (found[np.abs(found).max(axis=1, initial=0) > 1e-7] for found in (gallery, queries))
    cuts = sorted(draw(st.lists(st.integers(0, len(gallery)), max_size=3)))
    for start, stop in itertools.pairwise([0, *cuts, len(gallery)]):
        index.add(gallery[start:stop])
    index.remove(rng.permutation(index.ids)[: draw(st.integers(0, 10))])
    with pytest.MonkeyPatch.context() as patch:
        computed_by(patch, draw(st.sampled_from(["numpy", "few", "blas"])))
        if draw(st.booleans()):
            small_tiles(patch)
            patch.setattr(tiled, "TILE_ROWS", draw(st.integers(1, 20)))
        radius = draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0]))
        check(index, queries, draw(st.integers(1, 70)), radius, threads=draw(st.integers(1, 3)))


@pytest.mark.parametrize("who", ["numpy", "few", "blas"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_product_is_farther_off_than_the_bound(monkeypatch: pytest.MonkeyPatch, dtype: str, who: str) -> None:
    """Sums that nearly cancel, numbers of all sizes, and lengths near the limit."""
    computed_by(monkeypatch, who)
    rng = np.random.default_rng(5)
    for dim, factor in itertools.product((1, 2, 63, 700), (1.0,) if dtype == "float16" else (1.0, 2.0**40, 2.0**-120)):
        gallery = rng.standard_normal((200, dim)) * 10.0 ** rng.integers(-4, 4, (200, dim)) * factor
        gallery[:, dim // 2 :] = -gallery[:, : dim - dim // 2] * (1 + 1e-6)
        gallery[50:80] = factor
        queries = np.concatenate([np.ones((2, dim)), rng.standard_normal((5, dim)), np.full((1, dim), 2.0**50)])
        rows = features.rows_of(gallery, dim, dtype, "inner_product")
        longest = features.longest(rows, dtype, dim, "inner_product")
        numbers = features.numbers_of(rows).astype(np.float64)
        scales = features.scales_of(rows)
        lengths = np.sqrt((numbers**2).sum(axis=1)) * (1 if scales is None else scales)
        assert lengths.max() <= longest <= lengths.max() * 1.001 + 2e-16 * dim
        queries = features.queries_of(queries, dim, "inner_product")
        task = tiled.Task([tiled.Stretch(rows, 0, None, longest)], queries, dim, math.inf, tiled._kernels([], queries))
        query, which = (found.ravel() for found in np.indices((len(queries), len(rows))))
        exact = task.exact(query, which).reshape(len(queries), len(rows)).astype(np.float64)
        off = np.abs(tiled.Product(task).of(rows).astype(np.float64) - exact)
        assert (off <= features.errors(longest, task.query_lengths, dim)[:, None]).all()
        # The definition itself is a sum of float64, at most one rounding from the true value.
        factors = queries[3].astype(np.float64)
        for row in range(0, 200, 9):
            true = math.fsum(numbers[row] * factors) * (1.0 if scales is None else float(scales[row]))
            size = float(np.abs(numbers[row] * factors).sum()) * (1.0 if scales is None else float(scales[row]))
            assert abs(exact[3, row] - true) <= abs(true) * 2**-24 + size * dim * 2**-53 + 2**-149


def test_products_below_the_normal_numbers_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product is rounded to 2**-149: 0.6 up in some rows, 1.4 down in others, which are the nearer ones."""
    gallery = np.full((50, 700), 0.6 * 2.0**-49)
    gallery[::2] = np.where(np.arange(700) < 600, 1.4 * 2.0**-49, 0)
    index = InnerProductIndex(700)
    index.add(gallery)
    for who in ("numpy", "few", "blas"):
        computed_by(monkeypatch, who)
        check(index, np.full((3, 700), 2.0**-100), 10, radius=700 * 2.0**-149)


def test_thresholds_below_zero_are_found_where_queries_have_uneven_numbers_of_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_tiles(monkeypatch)
    monkeypatch.setattr(tiled, "GROUP", 40)
    rng = np.random.default_rng(0)
    for tile in range(5, 60, 5):
        monkeypatch.setattr(tiled, "TILE_ROWS", tile)
        index = InnerProductIndex(2)
        index.add(rng.uniform(1, 2, (300, 2)))
        check(index, -rng.uniform(1, 2, (40, 2)), 3, radius=-3)


def test_int8_keeps_a_scale_for_each_row_and_is_off_by_no_more_than_documented() -> None:
    rng = np.random.default_rng(0)
    for dim in (1, 3, 64, 512):
        given = rng.standard_normal((500, dim)).astype(np.float32) * 10.0 ** rng.integers(-6, 6, (500, 1))
        given[:3] = 0
        rows = features.rows_of(given, dim, "int8", "inner_product")
        values, scales = rows["values"].astype(np.float64), rows["scale"].astype(np.float64)
        assert rows.dtype.itemsize == dim + 4 and (np.abs(values[3:]).max(axis=1) == 127).all()
        assert (scales[:3] == 0).all() and (values[:3] == 0).all()
        assert (np.abs(given - values * scales[:, None]) <= scales[:, None] / 2).all()
        assert (scales[3:] * 127 >= np.abs(given[3:]).max(axis=1)).all()
        assert (scales[3:] * 127 <= np.abs(given[3:]).max(axis=1) * (1 + 2**-22)).all()
        for kind, dtype in itertools.product(KINDS, ("float16", "int8")):
            exact, index = kind(dim), kind(dim, dtype)
            some = given[3:] / np.abs(given[3:]).max(axis=1, keepdims=True)
            queries = rng.standard_normal((9, dim))
            exact.add(some)
            index.add(some)
            off = np.abs(true_similarities(index, queries).astype(np.float64) - true_similarities(exact, queries))
            if kind is CosineIndex:
                some = some / np.linalg.norm(some, axis=1, keepdims=True)
                queries /= np.linalg.norm(queries, axis=1, keepdims=True)
            if dtype == "int8":
                bound = np.abs(queries).sum(axis=1)[:, None] * np.abs(some).max(axis=1) / 253
                assert dim < 64 or np.median(off / bound) < 0.1
            else:
                bound = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(some, axis=1) / 2000
            assert (off <= bound + 1e-6).all()
    tiny = features.rows_of(np.array([[1e-44, -3e-45]]), 2, "int8", "inner_product")
    assert (
        np.abs(tiny["values"][0] * np.float64(tiny["scale"][0]) - [1e-44, -3e-45]).max()
        <= np.float64(tiny["scale"][0]) / 2
    )


def test_inner_product_takes_vectors_as_they_are() -> None:
    index = InnerProductIndex(2)
    index.add(np.array([[1, 0], [0, 0], [0, -2.0], [2.0**62, 0]]))
    similarities, ids = index.search(np.array([[0.5, 1], [0, 0], [-(2.0**62), 0]]), 5)
    assert ids.tolist() == [[3, 0, 1, 2, -1], [0, 1, 2, 3, -1], [1, 2, 0, 3, -1]]
    assert similarities[:, :4].tolist() == [[2.0**61, 0.5, 0, -2], [0, 0, 0, 0], [0, 0, -(2.0**62), -(2.0**124)]]
    assert index.search_radius(np.array([[0.5, 1]]), 2.0**61)[2].tolist() == [3]
    for bad in ([[np.nan, 0]], [[np.inf, 0]], [[2.0**63, 2.0**63]], [[1e300, 0]], [[1.0]], [[1, 2]]):
        with pytest.raises(SearchError):
            index.add(np.array(bad))
        with pytest.raises(SearchError):
            index.search(np.array(bad), 1)
    with pytest.raises(SearchError, match="vector 1 holds a number too great for float16"):
        InnerProductIndex(1, "float16").add(np.array([[1.0], [70000.0]]))
    for radius in (np.nan, np.inf, 1e300):
        with pytest.raises(SearchError, match="radius"):
            index.search_radius(np.zeros((1, 2)), radius)
    assert len(index) == 4


def test_one_vector_longer_than_the_rest_costs_time_but_no_answer() -> None:
    """Its length loosens the bounds of all: nearly everything is decided by exact values."""
    gallery = vectors(9000, 8)
    gallery[4567] = 2.0**50
    for dtype in ("float32", "int8"):
        index = InnerProductIndex(8, dtype)
        index.add(gallery)
        check(index, np.concatenate([vectors(3, 8, seed=4), -np.ones((1, 8), np.float32)]), 20, radius=3)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_are_checked(threads: Any) -> None:
    index = CosineIndex(2)
    for search in (index.search, index.search_radius):
        with pytest.raises(SearchError, match="threads"):
            search(np.ones((1, 2)), 1, threads=threads)


def test_what_does_not_fit_is_refused() -> None:
    for kind in KINDS:
        for dim in (0, -1, 1.5, True, 2**22 + 1):
            with pytest.raises(SearchError, match="dim"):
                kind(dim)  # type: ignore[arg-type]
        with pytest.raises(SearchError, match="expected float32, float16 or int8"):
            kind(3, "float64")
        with pytest.raises(SearchError, match="k is 0"):
            kind(3).search(np.ones((1, 3)), 0)
    index = CosineIndex(3, "int8")
    many = np.ones((5000, 3))
    many[4321] = 0
    with pytest.raises(SearchError, match="vector 4321 is all zeros"):
        index.add(many)
    assert len(index) == 0


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most memory that Python and numpy held at once during the work, beyond what they held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_does_not_grow_with_the_gallery_or_the_batch(kind: type[FeatureIndex], dtype: str) -> None:
    """All similarities would need 1.2 GB, and the vectors in float64 100 MB."""
    rng = np.random.default_rng(0)
    index = kind(64, dtype)
    gallery = rng.standard_normal((200_000, 64), dtype=np.float32)
    kept = gallery.nbytes * {"float32": 1, "float16": 0.5, "int8": 0.27}[dtype]
    assert peak_bytes(lambda: index.add(gallery)) < kept + 20e6
    queries = rng.standard_normal((1500, 64), dtype=np.float32)
    radius = 0.6 if kind is CosineIndex else 38
    assert peak_bytes(lambda: index.search(queries, 10)) < 100e6
    assert peak_bytes(lambda: index.search(queries[:1], 10)) < 20e6
    assert peak_bytes(lambda: index.search_radius(queries, radius)) < 100e6


def test_memory_is_bounded_for_large_k_and_for_ties() -> None:
    rng = np.random.default_rng(0)
    different = rng.standard_normal((100_000, 4), dtype=np.float32)
    for gallery, k, n_queries in ((different, 10_000, 300), (np.ones_like(different), 10, 100)):
        index = CosineIndex(4)
        index.add(gallery)
        queries = rng.standard_normal((n_queries, 4), dtype=np.float32)
        answer = 12 * k * n_queries
        assert peak_bytes(lambda: index.search(queries, k)) < answer + 400e6  # noqa: B023
        truth = true_similarities(index, queries[:2])
        assert np.array_equal(index.search(queries, k)[1][:2], np.argsort(-truth, axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_survives_the_disk(tmp_path: Path, kind: type[FeatureIndex], dtype: str) -> None:
    gallery = vectors(200, 33)
    queries = vectors(9, 33, seed=3)
    index = kind(33, dtype, model={"fingerprint": "f"})
    index.add(gallery[:150], records=[{"id": f"r{i}"} for i in range(150)])
    expected = index.search(queries, 20)
    index.save(tmp_path / "i")
    loaded = kind.load(tmp_path / "i")
    assert loaded.dtype == dtype and loaded.dim == 33 and loaded.verify() > 0 and loaded.model == {"fingerprint": "f"}
    rows = loaded._contents.segments[0].features
    assert rows is not None and not rows.flags.writeable and isinstance(rows.base, np.memmap)
    for found, there in zip(loaded.search(queries, 20), expected, strict=True):
        assert np.array_equal(found, there)
    loaded.add(gallery[150:])
    loaded.remove([3, 29, 160])
    for _ in range(2):
        check(loaded, queries, 30)
        loaded.save(tmp_path / "i")
        loaded = kind.load(tmp_path / "i")
    loaded.save(tmp_path / "copy")
    copy = kind.load(tmp_path / "copy")
    assert copy.ids.tolist() == loaded.ids.tolist() and copy.find(["r7"]).tolist() == [7]
    check(copy, queries, 30)
    written = json.loads((tmp_path / "copy" / manifest.NAME).read_text())
    plain = kind is CosineIndex and dtype != "int8"
    assert written["format_version"] == (1 if plain else 2), "what version 1 can describe, older readers can read"
    assert written["metrics"] == ["cosine" if kind is CosineIndex else "inner_product"]
    other = InnerProductIndex if kind is CosineIndex else CosineIndex
    with pytest.raises(SearchError, match=f"load it with {kind.__name__}"):
        other.load(tmp_path / "copy")
    with pytest.raises(SearchError, match="no codes"):
        HammingIndex.load(tmp_path / "copy")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", features.METRICS)
def test_a_store_keeps_features_of_every_kind(tmp_path: Path, dtype: str, metric: str) -> None:
    rng = np.random.default_rng(0)
    store = Store.create(tmp_path / "s", code_size=16, dim=5, feature_dtype=dtype, feature_metric=metric)
    assert store.metrics == ["hamming", metric] and store.feature_dtype == dtype
    codes, vectors = rng.integers(0, 256, (40, 2), dtype=np.uint8), rng.standard_normal((40, 5))
    store.append(codes[:25], vectors[:25])
    store.append(codes[25:], vectors[25:])
    store.remove([4, 30])
    kind = CosineIndex if metric == "cosine" else InnerProductIndex
    index = kind.load(tmp_path / "s")
    check(index, rng.standard_normal((3, 5)), 12)
    hamming = HammingIndex.load(tmp_path / "s")
    assert np.array_equal(hamming.ids, index.ids) and store.verify() == hamming.verify() > 0
    hamming.remove([5])
    hamming.save(tmp_path / "s")
    assert 5 not in kind.load(tmp_path / "s").ids, "what is saved through the codes keeps the features"
    for arguments in ({"feature_dtype": "float64"}, {"feature_metric": "l2"}, {"dim": 0}):
        with pytest.raises(SearchError, match=next(iter(arguments))):
            Store.create(tmp_path / "t", **{"dim": 5, **arguments})  # type: ignore[arg-type]


def test_hostile_features_are_refused(tmp_path: Path) -> None:
    index = InnerProductIndex(4, "int8")
    index.add(vectors(20, 4))
    for number, changes in enumerate(
        (
            {"format_version": 1},
            {"feature_metric": "l2"},
            {"feature_metric": None},
            {"feature_metric": ["cosine"]},
            {"feature_dtype": "float32"},
            {"feature_dtype": "int16"},
            {"dim": 5},
        )
    ):
        folder = tmp_path / str(number)
        index.save(folder)
        content = {**json.loads((folder / manifest.NAME).read_text()), **changes}
        content.pop("checksum")
        content["checksum"] = manifest._checksum(content)
        (folder / manifest.NAME).write_text(json.dumps(content))
        with pytest.raises(IndexFormatError):
            InnerProductIndex.load(folder)
        index = InnerProductIndex(4, "int8")
        index.add(vectors(20, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_query_and_some_rows_have_the_similarities_that_search_gives(dtype: str) -> None:
    index = CosineIndex(33, dtype)
    index.add(vectors(100, 33))
    query = vectors(1, 33, seed=7)
    rows = index._contents.segments[0].features
    assert rows is not None and features.dim_of(rows) == 33
    similarities, ids = index.search(query, 100)
    assert np.array_equal(features.exact(rows, ids[0], features.unit_vectors(query, 33)[0]), similarities[0])


def test_small_searches_do_not_start_numba_unless_there_are_many() -> None:
    program = (
        "import sys, numpy as np; from hashret.index.cosine import CosineIndex\n"
        "for dtype in ('float32', 'float16', 'int8'):\n"
        "    index = CosineIndex(8, dtype); index.add(np.random.default_rng(0).standard_normal((1000, 8)))\n"
        "    for _ in range(9): index.search(np.ones((20, 8)), 3); index.search(np.ones((1, 8)), 3)\n"
        "index = CosineIndex(64, 'int8'); index.add(np.random.default_rng(0).standard_normal((5000, 64)))\n"
        "for _ in range(4): before = index.search(np.ones((1, 64)), 3)\n"
        "assert not {'numba', 'torch'} & set(sys.modules)\n"
        "after = index.search(np.ones((1, 64)), 3)\n"
        "assert 'hashret.index.dots' in sys.modules\n"
        "assert all(np.array_equal(x, y) for x, y in zip(before, after))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_the_kernels_convert_every_number_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = np.ascontiguousarray(halves[np.isfinite(halves)]).reshape(-1, 32)
    wide = np.empty(halves.shape, np.float32)
    dots.widen(tiled._stored(halves), wide)
    assert np.array_equal(wide, halves.astype(np.float32)) and np.array_equal(np.signbit(wide), np.signbit(halves))
    for n_queries, dim in itertools.product(range(7), (1, 2, 15, 16, 17, 32)):
        rows = np.arange(-128, 128, dtype=np.int8).repeat(dim).reshape(256, dim)
        found = np.full((n_queries, 256), np.nan, np.float32)
        dots.dots(tiled._stored(rows), tiled._NO_SCALES, np.ones((n_queries, dim), np.float32), found)
        assert np.array_equal(found, np.tile(np.arange(-128, 128) * dim, (n_queries, 1)))


def test_the_command_line_keeps_features_as_asked(
    hashret: Callable[..., tuple[int, str, str]], tiny_run: Path, closed_set: Path, unseen_set: Path, tmp_path: Path
) -> None:
    words = ["index", "--model", tiny_run, "--data", closed_set, "--device", "cpu", "--workers", 0]
    for dtype, metric in (("float16", "cosine"), ("int8", "both")):
        out = tmp_path / dtype
        status, said, _ = hashret(*words, "--out", out, "--metric", metric, "--feature-dtype", dtype)
        assert status == 0 and f"features of 512 {dtype} numbers" in said
        assert CosineIndex.load(out).dtype == dtype
    photo = next(path for path in sorted(closed_set.rglob("*")) if path.suffix in (".png", ".jpg"))
    status, said, _ = hashret("query", "--index", tmp_path / "int8", "--metric", "cosine", photo, "-k", 1, "--json")
    first = json.loads(said)["queries"][0]["results"][0]
    assert status == 0 and first["path"] == str(photo) and abs(first["similarity"] - 1) < 0.01
    more = ["index", "--model", tiny_run, "--data", unseen_set, "--device", "cpu", "--workers", 0, "--append"]
    for out, words_more, wrong in (
        (tmp_path / "new", [*words, "--feature-dtype", "int8"], "add --metric cosine or both"),
        (tmp_path / "int8", [*more, "--feature-dtype", "float32"], "keeps features as int8"),
    ):
        status, _, said = hashret(*words_more, "--out", out)
        assert status == 2 and wrong in said
    assert hashret(*more, "--out", tmp_path / "int8", "--feature-dtype", "int8")[0] == 0
    index = CosineIndex.load(tmp_path / "int8")
    assert len(index) == len(HammingIndex.load(tmp_path / "int8")) > 48 and index.dtype == "int8"


def golden_vectors() -> np.ndarray:
    """What the golden folder of version 2 was made of: 12 vectors of 5 numbers and different lengths."""
    steps = np.arange(12)[:, None]
    return ((steps * np.arange(3, 8) % 11 - 5) * 2.0 ** (steps % 3)).astype(np.float32)


def write_golden(folder: Path) -> None:
    """How tests/golden/index-v2 was made; never run again for that version, whose bytes stay as they are."""
    model = {"fingerprint": "0123abcd", "name": "runs/golden"}
    given = {"code_size": 20, "dim": 5, "feature_dtype": "int8", "feature_metric": "inner_product"}
    store = Store.create(folder, model=model, **given)  # type: ignore[arg-type]
    codes = np.zeros((12, 3), np.uint8)
    codes[:, 0] = np.arange(12)
    store.append(codes[:7], golden_vectors()[:7])
    store.append(codes[7:], golden_vectors()[7:], ids=np.arange(107, 112))
    store.remove([3, 108])


@pytest.mark.parametrize("made", ["golden", "fresh"])
def test_the_golden_folder_of_version_2_is_read(tmp_path: Path, made: str) -> None:
    folder = GOLDEN
    if made == "fresh":
        folder = tmp_path / "index"
        write_golden(folder)
    hamming, index = HammingIndex.load(folder), InnerProductIndex.load(folder)
    ids = [0, 1, 2, 4, 5, 6, 107, 109, 110, 111]
    living = golden_vectors()[[0, 1, 2, 4, 5, 6, 7, 9, 10, 11]]
    assert hamming.ids.tolist() == index.ids.tolist() == ids and hamming.verify() == index.verify() > 0
    assert manifest.read(folder).format_version == 2 and index.dtype == "int8"
    check(index, golden_vectors(), 12)
    numbers, scales = kept_vectors(index)
    assert (np.abs(numbers * scales[:, None] - living) <= scales[:, None] / 2).all()
    assert hamming.search(np.array([[11, 0, 0]], np.uint8), 1)[1].tolist() == [[111]]
