"""Float search on a GPU, kernels and all, simulated on the CPU: the bytes of the CPU's own search."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simulated_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_gpu import SimulatedGpu

from hashret.errors import DeviceMemoryError, SearchError, UsageError
from hashret.hamming.gpu import device, fragments
from hashret.index import CosineIndex, device_features, features, tiled
from hashret.index.cosine import FeatureIndex, InnerProductIndex
from hashret.index.device_features import DeviceFeatures, prepared, sampled

pytestmark = pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")

KINDS: list[type[FeatureIndex]] = [CosineIndex, InnerProductIndex]
DTYPES = ["float32", "float16", "int8"]


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    """The device that "cuda" is, which computes however little there is to do."""
    simulated = SimulatedGpu()
    monkeypatch.setattr(device, "open_device", lambda number=0: simulated)
    monkeypatch.setattr(device_features, "CPU_WORK", -1)
    return simulated


def same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def check(
    index: FeatureIndex, queries: np.ndarray, k: int, radius: float | None = None, where: str | None = None
) -> None:
    """The device's bytes are those of the CPU."""
    expected = index.to("cpu").search(queries, k, where=where)
    assert same(index.to("cuda").search(queries, k, where=where), expected)
    if radius is not None:
        expected_within = index.to("cpu").search_radius(queries, radius, where=where)
        assert same(index.to("cuda").search_radius(queries, radius, where=where), expected_within)


def vectors(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Of different lengths, some far apart, with copies."""
    made = rng.standard_normal((n, dim)).astype(np.float32) * 10.0 ** rng.integers(-3, 3, (n, 1))
    if n > 20:
        made[n // 2 : n // 2 + 5] = made[:5]
    return made.astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 7, 512, 513])
def test_hostile_sizes(kind: type[FeatureIndex], dtype: str, dim: int, gpu: SimulatedGpu) -> None:
    rng = np.random.default_rng(dim)
    for n in (0, 1, 65) if dim > 500 else (0, 1, 63, 64, 65, 300):
        index = kind(dim, dtype)
        gallery = vectors(rng, n, dim)
        index.add(gallery[: n // 3])
        index.add(gallery[n // 3 :])
        queries = np.concatenate([gallery[:3], vectors(rng, 3, dim)])
        check(index, queries, 3, radius=0.25)
        check(index, queries[:0], 3, radius=0.25)
        if n > 30:
            index.remove(index.ids[3:20])
            check(index, queries[:2], n + 2, radius=-1)
        assert ("scan_few" in gpu.started) == (n > 0)
        gpu.started.clear()


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_queries_than_one_block_meets(dtype: str, gpu: SimulatedGpu) -> None:
    rng = np.random.default_rng(0)
    index = InnerProductIndex(40, dtype)
    index.add(vectors(rng, 150, 40))
    check(index, vectors(rng, 133, 40), 4, radius=1)
    assert "scan_many" in gpu.started and "scan_few" not in gpu.started


@pytest.fixture()
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and room as if galleries were large."""
    monkeypatch.setattr(device_features, "LEAST_ROOM", 128)
    monkeypatch.setattr(device_features, "STEP", 4)


@pytest.mark.usefixtures("small_sample")
class TestLargeGalleries:
    def test_samples_say_how_far_to_reach(self, gpu: SimulatedGpu) -> None:
        rng = np.random.default_rng(0)
        for kind in KINDS:
            index = kind(5)
            index.add(rng.standard_normal((3000, 5)))
            gpu.started.clear()
            check(index, rng.standard_normal((3, 5)), 2)
            assert gpu.started == ["scan_few", "reach_of_rank"] * 4 + ["gather_rows"]
            index.remove(np.arange(0, 3000, 3))
            check(index, rng.standard_normal((3, 5)), 40, radius=0.9)

    def test_equal_vectors_are_ranked_by_the_cpu(self, gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        index = CosineIndex(5)
        index.add(np.ones((1000, 5)))
        index.add(np.random.default_rng(0).standard_normal((500, 5)))
        queries = np.array([[1.0, 1, 1, 1, 1], [-1, -1, -1, -1, -1]])
        left: list[int] = []
        search = tiled.search
        monkeypatch.setattr(tiled, "search", lambda *given: left.append(len(given[1])) or search(*given))
        check(index, queries, 10, radius=1)
        assert left == [2, 1]  # All by the CPU's own search, then what the device leaves to it.

    def test_samples_that_mislead_are_seen_through(self, gpu: SimulatedGpu) -> None:
        rng = np.random.default_rng(0)
        for good_in_sample in (False, True):
            gallery = rng.standard_normal((3000, 5)) * 0.01
            near = np.arange(3000) % 4 != 0
            gallery[near != good_in_sample] += 1
            index = InnerProductIndex(5)
            index.add(gallery)
            gpu.started.clear()
            check(index, np.ones((2, 5)), 60)
            assert len(gpu.started) > 9
        gallery = rng.standard_normal((3000, 5)) * 0.01
        gallery[:120:4] += 1 + rng.random((30, 5))
        index = InnerProductIndex(5)
        index.add(gallery)
        check(index, np.ones((2, 5)), 25)

    def test_few_are_alive(self) -> None:
        rng = np.random.default_rng(0)
        index = CosineIndex(5, "float16")
        index.add(rng.standard_normal((2000, 5)), records=[{"id": str(i), "label": str(i % 700)} for i in range(2000)])
        check(index, rng.standard_normal((3, 5)), 2, where="label = '3'")
        check(index, rng.standard_normal((3, 5)), 5, where="label = '3'", radius=-1)
        check(index, rng.standard_normal((3, 5)), 5, where="label = 'none'")

    def test_rows_and_queries_in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(device_features, "PIECE_BYTES", 1000)
        monkeypatch.setattr(device_features, "ROOM_BYTES", 8 * 128 * 3)
        monkeypatch.setattr(device_features, "PAIRS_AT_ONCE", 5)
        rng = np.random.default_rng(0)
        for dtype in DTYPES:
            index = InnerProductIndex(20, dtype)
            index.add(rng.standard_normal((150, 20)))
            index.remove([3, 140])
            check(index, rng.standard_normal((7, 20)), 9, radius=-1)

    def test_k_in_thousands(self) -> None:
        rng = np.random.default_rng(0)
        index = CosineIndex(3)
        index.add(rng.standard_normal((4000, 3)))
        check(index, rng.standard_normal((1, 3)), 2500)


@settings(deadline=None, max_examples=12)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    dim=st.integers(1, 40),
    n=st.integers(0, 500),
    n_queries=st.integers(0, 10),
    k=st.integers(1, 600),
    alphabet=st.sampled_from([[1.0, 2], [-1.0, 0, 1], [1.0, 1 + 2**-13, -1e-30], [1e-3, 1.0, 1e3], [0.1, 0.2, 0.3]]),
    seed=st.integers(0, 2**31 - 1),
)
def test_whatever_is_searched(
    kind: type[FeatureIndex],
    dtype: str,
    dim: int,
    n: int,
    n_queries: int,
    k: int,
    alphabet: list[float],
    seed: int,
) -> None:
    """Few different numbers make many ties; odd ones differ by less than a product can tell."""
    rng = np.random.default_rng(seed)
    gallery, queries = (rng.choice(np.float32(alphabet), (rows, dim)) for rows in (n, n_queries))
    if kind is CosineIndex:
        gallery, queries = (found[np.abs(found).max(axis=1, initial=0) > 1e-7] for found in (gallery, queries))
    index = kind(dim, dtype)
    index.add(gallery[: n // 2])
    index.add(gallery[n // 2 :])
    index.remove(rng.permutation(index.ids)[: rng.integers(0, 10)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_features, "LEAST_ROOM", 100)
        check(index, queries, k, radius=float(rng.choice([-1, 0.3, 1])))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_value_is_farther_off_than_the_bound(dtype: str, gpu: SimulatedGpu) -> None:
    """Sums that nearly cancel, lengths near the limit, numbers below the normal: tensor cores that cut and drop what they may."""
    rng = np.random.default_rng(5)
    scales = [1.0, 1e4, 1e-6] if dtype == "float16" else [1.0, 2.0**50, 2.0**-120]
    for dim, scale in ((d, s) for d in (1, 63, 300) for s in scales):
        gallery = np.clip(rng.standard_normal((60, dim)), -3, 3) * 10.0 ** rng.integers(-4, 1, (60, dim)) * scale
        gallery[:, dim // 2 :] = -gallery[:, : dim - dim // 2] * (1 + 1e-3)
        gallery[10:20] = scale * (1 + 2.0**-11)
        queries = np.concatenate(
            [
                np.full((1, dim), 1 + 2.0**-11),
                rng.standard_normal((5, dim)),
                np.full((1, dim), 2.0**50),
                np.zeros((1, dim)),
            ]
        )
        rows = features.rows_of(gallery, dim, dtype, "inner_product")
        queries = features.queries_of(queries, dim, "inner_product")
        longest = features.longest(rows, dtype, dim, "inner_product")
        made = prepared(queries, dtype, longest)
        there = DeviceFeatures(gpu, dtype, dim)
        with gpu.turn():
            stretch = tiled.Stretch(rows, 0, None, longest)
            given_queries, factor = there._prepared([stretch], queries)
            limits = gpu.put(np.full(len(queries), -np.inf, np.float32))
            held = there._put_queries(given_queries)
            keys, counts = there._scan(there._parts([stretch]), held, len(queries), factor, 60, limits, 1)
            assert (gpu.get(counts) == 60).all()
            found = gpu.get(keys)
        which, bits = (found & 0xFFFFFFFF).astype(np.int64), (found >> 32).astype(np.uint32)
        values = np.where(bits >> 31, bits & 0x7FFFFFFF, ~bits).astype(np.uint32).view(np.float32).astype(np.float64)
        query = np.repeat(np.arange(len(queries)), 60)
        exact = features.similarities(rows, which.ravel(), queries.astype(np.float64), query).reshape(-1, 60)
        off = np.abs(values - exact * made.units[:, None])
        assert (off <= made.errors[:, None]).all()
        # No bound that anything would meet: some value is off by a hundredth of it where something is rounded.
        assert off.max(initial=0) > 0 or dim == 1 or dtype != "float32"
        assert (
            made.errors <= 1.1 * made.units * longest * np.linalg.norm(queries.astype(float), axis=1) * 2.0**-8 + 1e-3
        ).all()


def test_similarities_that_are_cut_off_tie() -> None:
    """Rounding makes some rows longer than 1 by more than a product is off: those are no nearer than the others at 1."""
    rng = np.random.default_rng(0)
    index = CosineIndex(16, "int8")
    near = rng.standard_normal((1, 16))
    index.add(near + rng.standard_normal((300, 16)) * 0.02)
    similarities, _ = index.search(near, 100)
    assert (similarities == 1).all()
    check(index, near, 10, radius=1)


def test_lengths_near_the_limit() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "int8"):
        index = InnerProductIndex(6, dtype)
        index.add(rng.standard_normal((80, 6)) * 2.0**60)
        check(
            index,
            np.concatenate([rng.standard_normal((3, 6)) * 2.0**60, np.full((1, 6), 2.0**-140)]),
            5,
            radius=2.0**100,
        )


@pytest.mark.parametrize("words", ["f16", "tf32"])
def test_the_simulated_product_is_that_of_the_model(words: str, tmp_path: Path) -> None:
    kernel = f"""
        extern "C" __global__ void product(const unsigned* a, const unsigned* b, float* c) {{
            const int lane = threadIdx.x;
            a += 4 * lane;
            mma_{words}(c + 4 * lane, a[0], a[1], a[2], a[3], b[2 * lane], b[2 * lane + 1]);
        }}"""
    rng = np.random.default_rng(0)
    numbers = [rng.standard_normal((32, size)) * 10.0 ** rng.integers(-5, 4, (32, size)) for size in (8, 4)]
    if words == "f16":
        a, b = (x.astype(np.float16).view(np.uint32) for x in numbers)
    else:
        a, b = (x[:, ::2].astype(np.float32).view(np.uint32) for x in numbers)
    c = rng.standard_normal((32, 4)).astype(np.float32)
    gpu = SimulatedGpu()
    with gpu.turn():
        held = [gpu.put(x) for x in (a, b, c)]
        gpu.run(simulated_gpu.load(kernel, tmp_path), "product", (1, 1), 32, held)
        found = gpu.get(held[2])
    expected = fragments.mma_floats(a, b, c, words)
    assert found.tobytes() == expected.tobytes() and len(np.unique(found)) > 100


def test_rows_stay_on_the_device_and_what_changed_goes_there(
    gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sent: list[int] = []
    put = gpu.put
    monkeypatch.setattr(gpu, "put", lambda array: sent.append(array.nbytes) or put(array))
    index = CosineIndex(16)
    index.add(rng.standard_normal((2000, 16)))
    assert index.device == "cpu" and index.to("cuda") is index and index.device == "simulated"
    assert sent == [2000 * 64]
    queries = rng.standard_normal((2, 16))
    expected = CosineIndex.search(index, queries, 3)
    sent.clear()
    assert same(index.search(queries, 3), expected) and max(sent) < 10_000
    index.remove(expected[1][0])
    index.add(rng.standard_normal((300, 16)))
    sent.clear()
    index.search(queries, 3)
    assert sent.count(2000) == 1 and sent.count(300 * 64) == 1 and 2000 * 64 not in sent
    sent.clear()
    index.search(queries, 3)
    assert not {2000, 300 * 64} & set(sent)
    assert index.to("cuda:3").device == "simulated" and index.to("cpu").device == "cpu"
    check(index, queries, 4)


def test_what_a_device_cannot_do_is_one_sentence(gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    index = CosineIndex(4)
    index.add(np.eye(4))
    with pytest.raises(UsageError, match="there is no device 'mps'"):
        index.to("mps")

    def full(array: np.ndarray) -> None:
        raise DeviceMemoryError("simulated has no 256 bytes left")

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "put", full)
        with pytest.raises(SearchError, match=r"4 vectors need 0.0 GiB, more than simulated has left; use device cpu"):
            index.to("cuda")
    with pytest.raises(SearchError, match=r"2,000,000 numbers, and a device takes at most 1,048,576; use device cpu"):
        CosineIndex(2_000_000).to("cuda")
    gpu.multiplies_floats = False
    with pytest.raises(UsageError, match=r"simulated has no tensor cores for float vectors"):
        index.to("cuda")
    assert index.device == "cpu"


def test_threads_take_turns() -> None:
    rng = np.random.default_rng(0)
    index = CosineIndex(9)
    index.add(rng.standard_normal((400, 9)))
    queries = rng.standard_normal((3, 9))
    expected = index.search(queries, 5)
    index.to("cuda")
    with ThreadPoolExecutor(3) as pool:
        assert all(same(found, expected) for found in pool.map(lambda _: index.search(queries, 5), range(6)))


def test_small_searches_stay_on_the_cpu(gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_features, "CPU_WORK", 40)
    index = CosineIndex(4)
    index.add(np.eye(4))
    index.to("cuda").search(np.ones((2, 4)), 2)
    assert not gpu.started
    index.search(np.ones((3, 4)), 2)
    assert gpu.started


def test_samples_of_samples() -> None:
    assert sampled(8192, 10) == []
    strides, ranks = zip(*sampled(100_000_000, 10), strict=True)
    assert strides == (64**3, 64**2, 64) and all(r <= 10 for r in ranks)
    assert 100_000_000 / strides[0] <= device_features.LEAST_ROOM
    assert sampled(10_000_000, 10_000)[-1][1] >= math.ceil(10_000 / 64)
