"""Search on a GPU, kernels and all, simulated on the CPU: the bytes of the reference, whatever runs first."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simulated_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_gpu import SimulatedGpu

from hashret.codes import Codes, pack
from hashret.errors import UsageError
from hashret.hamming import plain, reference
from hashret.hamming.gpu import device, fragments, search
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import Gallery, safe_rank

pytestmark = pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")


def random_codes(rng: np.random.Generator, n: int, bits: int, distinct: int | None = None) -> Codes:
    if distinct is None:
        return pack(rng.integers(0, 2, (n, bits)))
    return pack(rng.integers(0, 2, (distinct, bits)))[rng.integers(0, distinct, n)]


def on(gpu: SimulatedGpu, gallery: Codes, alive: np.ndarray | None = None, cuts: Sequence[int] = ()) -> Gallery:
    """The gallery on the device, in pieces that begin at `cuts`."""
    edges = [0, *cuts, len(gallery)]
    parts = [
        (gallery[start:stop], None if alive is None else alive[start:stop]) for start, stop in itertools.pairwise(edges)
    ]
    return Gallery(Resident(gpu, parts, gallery.shape[1]))


def same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("bits", [1, 64, 65, 192, 1024])
@pytest.mark.parametrize("n", [0, 1, 511, 1025])
def test_small_galleries(bits: int, n: int) -> None:
    rng = np.random.default_rng(bits * 1000 + n)
    for distinct in (None, 3):
        gallery, queries = random_codes(rng, n, bits, distinct), random_codes(rng, 7, bits)
        for alive in (None, rng.random(n) < 0.7, np.zeros(n, bool)):
            for k in (1, n + 2):
                expected = reference.search(gallery, queries, k, alive)
                for multiplies_bits in (False, True):
                    gpu = SimulatedGpu(k, multiplies_bits)
                    assert same(on(gpu, gallery, alive).search(queries, k), expected)
                    assert ("scan_batch" in gpu.started) == (multiplies_bits and expected[1][0, 0] >= 0)


@pytest.mark.parametrize("multiplies_bits", [False, True])
def test_within_a_radius(multiplies_bits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LEAST_ROOM", 64)
    rng = np.random.default_rng(0)
    for n in (0, 1, 700):
        gallery, queries = random_codes(rng, n, 65, distinct=300), random_codes(rng, 7, 65)
        for alive in (None, rng.random(n) < 0.5):
            held = on(SimulatedGpu(n, multiplies_bits), gallery, alive)
            for radii in (np.zeros(7, np.int64), np.arange(7) * 10, np.full(7, 65)):
                expected = plain.search_radii(gallery, queries, radii, alive)
                assert same(held.search_radii(queries, radii), expected)
        assert same(
            held.search_radii(queries[:0], radii[:0]), plain.search_radii(gallery, queries[:0], radii[:0], None)
        )


def test_more_queries_than_a_block_holds() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = random_codes(rng, 50, 1024), random_codes(rng, 601, 1024)
    radii = rng.integers(480, 520, len(queries))
    gpu = SimulatedGpu()
    expected = plain.search_radii(gallery, queries, radii, None)
    assert same(on(gpu, gallery).search_radii(queries, radii), expected)
    assert gpu.started == ["scan_batch", "select_nearest"]


@settings(deadline=None, max_examples=15)
@given(
    bits=st.sampled_from([8, 64, 65, 200]),
    n=st.integers(0, 1500),
    n_queries=st.integers(0, 9),
    k=st.integers(1, 2000),
    distinct=st.integers(1, 2000),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_shape_in_any_order(bits: int, n: int, n_queries: int, k: int, distinct: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gallery, queries = random_codes(rng, n, bits, distinct), random_codes(rng, n_queries, bits)
    alive = rng.random(n) < rng.random()
    cuts = np.sort(rng.integers(0, n + 1, rng.integers(0, 4))).tolist()
    found = on(SimulatedGpu(seed), gallery, alive, cuts).search(queries, k)
    assert same(found, reference.search(gallery, queries, k, alive))


SAMPLED = ["count_distances", "reach_of_rank", "scan_rows_2", "select_nearest"]
COUNTED = [*SAMPLED, "count_distances", "scan_rows_2", "select_nearest"]
COUNTED_TIES = [*SAMPLED, "count_distances", "count_ties", "scan_rows_2", "select_nearest"]


@pytest.fixture()
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and room as if galleries were large."""
    monkeypatch.setattr(search, "SAMPLE", 4096)
    monkeypatch.setattr(search, "TIE_CHUNK", 512)
    monkeypatch.setattr(search, "LEAST_ROOM", 1024)


def searched(
    gallery: Codes, queries: Codes, k: int, alive: np.ndarray | None = None, cuts: Sequence[int] = ()
) -> list[str]:
    """The kernels that ran, after the answer was found right."""
    gpu = SimulatedGpu(len(gallery) + k)
    assert same(on(gpu, gallery, alive, cuts).search(queries, k), plain.search(gallery, queries, k, alive))
    return gpu.started


@pytest.mark.usefixtures("small_sample")
class TestLargeGalleries:
    @pytest.mark.parametrize("bits", [64, 128])
    @pytest.mark.parametrize("k", [1, 10, 900])
    def test_a_sample_says_how_far_to_reach(self, bits: int, k: int) -> None:
        rng = np.random.default_rng(bits + k)
        gallery, queries = random_codes(rng, 40_001, bits), random_codes(rng, 2, bits)
        assert searched(gallery, queries, k) == SAMPLED
        assert searched(gallery, queries, k, rng.random(len(gallery)) < 0.5) == SAMPLED

    def test_ties_that_do_not_fit_are_counted(self) -> None:
        rng = np.random.default_rng(0)
        gallery, queries = random_codes(rng, 20_003, 64, distinct=3), random_codes(rng, 2, 64)
        for k in (1, 30):
            assert searched(gallery, queries, k) == COUNTED_TIES
            assert searched(gallery, queries, k, rng.random(len(gallery)) < 0.5) == COUNTED_TIES

    def test_equal_codes_give_the_first_rows(self) -> None:
        gallery = np.zeros((40_003, 8), np.uint8)
        assert searched(gallery, gallery[:2], 700) == COUNTED_TIES

    def test_a_reach_too_far_is_counted_anew(self) -> None:
        """Among rows that the sample leaves out there are far more near ones than in it."""
        rng = np.random.default_rng(0)
        gallery, queries = random_codes(rng, 40_000, 64), random_codes(rng, 2, 64)
        in_sample = np.arange(len(gallery)) // 512 % 9 == 0
        gallery[~in_sample] = queries[0] ^ pack(rng.random((np.count_nonzero(~in_sample), 64)) < 0.2)
        queries[1] = queries[0]
        assert searched(gallery, queries, 10) == COUNTED

    def test_a_reach_too_short_is_counted_anew(self) -> None:
        """All that are near are in the sample: what it says of the rest is too good."""
        rng = np.random.default_rng(0)
        gallery, queries = random_codes(rng, 40_000, 64), random_codes(rng, 2, 64)
        queries[1] = queries[0]
        gallery[:50] = queries[0]
        assert searched(gallery, queries, 100) == COUNTED

    @pytest.mark.parametrize("bits", [64, 128])
    def test_batches(self, bits: int) -> None:
        rng = np.random.default_rng(bits)
        gallery, queries = random_codes(rng, 9_001, bits), random_codes(rng, 11, bits)
        assert searched(gallery, queries, 7) == [*SAMPLED[:2], "scan_batch", "select_nearest"]
        gallery = random_codes(rng, 9_001, bits, distinct=2)
        ties = ["count_distances", "count_ties", "scan_batch", "select_nearest"]
        assert searched(gallery, queries, 7, rng.random(len(gallery)) < 0.5)[-4:] == ties

    def test_few_are_alive(self) -> None:
        rng = np.random.default_rng(0)
        gallery, queries = random_codes(rng, 20_000, 64), random_codes(rng, 2, 64)
        alive = np.zeros(len(gallery), bool)
        alive[[5, 600, 19_999]] = True
        searched(gallery, queries, 2, alive)
        searched(gallery, queries, 10, alive)

    def test_a_gallery_in_pieces(self) -> None:
        """Every ninth block of 512 rows is in the sample, wherever pieces begin."""
        rng = np.random.default_rng(0)
        gallery, queries = random_codes(rng, 40_001, 64), random_codes(rng, 2, 64)
        cuts, alive = [3, 3, 700, 20_000, 39_990], rng.random(len(gallery)) < 0.5
        done = searched(gallery, queries, 10, alive, cuts)
        assert done[-1] == "select_nearest" and done.count("scan_rows_2") == 5
        held = on(SimulatedGpu(), gallery, None, cuts).pieces
        blocks = [
            (piece.first + row) // 512
            for piece, begin, stride in held.sample(9)
            for row in range(begin, len(piece), 512 * stride)
        ]
        assert len(blocks) in (8, 9) and np.all(np.abs(np.diff(blocks) - 9) <= 1)
        gallery = random_codes(rng, 20_003, 64, distinct=3)
        for k in (1, 30):
            assert searched(gallery, queries, k, alive[:20_003], [5000, 5001, 17_000]).count("count_ties") == 4

    def test_what_is_there_is_not_sent_again(self) -> None:
        rng = np.random.default_rng(0)
        gpu = SimulatedGpu()
        first, second, alive = random_codes(rng, 70, 64), random_codes(rng, 600, 64), rng.random(70) < 0.5
        one = Resident(gpu, [(first, None)], 8)
        two = Resident(gpu, [(first, alive), (second, None)], 8, one)
        (before,), (after, _) = one.each(), two.each()
        assert after.codes is before.codes and before.alive is None and after.alive is not None
        queries, whole = random_codes(rng, 3, 64), np.concatenate([first, second])
        flags = np.concatenate([alive, np.ones(600, bool)])
        assert same(Gallery(two).search(queries, 50), reference.search(whole, queries, 50, flags))

    def test_groups_of_queries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search, "ROOM_BYTES", 1 << 16)
        rng = np.random.default_rng(0)
        gallery, queries = random_codes(rng, 9000, 64, distinct=3000), random_codes(rng, 11, 64)
        assert searched(gallery, queries, 5).count("select_nearest") >= 2


def test_more_than_shared_memory_holds_is_sorted_where_it_is() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = random_codes(rng, 9000, 64, distinct=4000), random_codes(rng, 1, 64)
    searched(gallery, queries, 5000)


@pytest.mark.parametrize("expected", [0.001, 0.04, 1.0, 7.5, 99.0, 101.0, 4000.0])
def test_a_sample_hardly_ever_holds_more_than_the_safe_rank(expected: float) -> None:
    rank = safe_rank(expected)
    drawn = np.random.default_rng(0).poisson(expected, 1_000_000)
    assert np.count_nonzero(drawn >= rank) <= 6
    assert np.count_nonzero(drawn >= 0.8 * rank - 3) > 6  # not far more than needed


@pytest.mark.parametrize("bits", [128, 256])
def test_the_simulated_product_is_that_of_the_model(bits: int, tmp_path: Path) -> None:
    kernel = """
        extern "C" __global__ void product_128(const unsigned* a, const unsigned* b, int* c) {
            const int lane = threadIdx.x;
            mma_128(c + 4 * lane, a + 2 * lane, b[lane], c + 4 * lane);
        }
        extern "C" __global__ void product_256(const unsigned* a, const unsigned* b, int* c) {
            const int lane = threadIdx.x;
            mma_256(c + 4 * lane, a + 4 * lane, b[2 * lane], b[2 * lane + 1], c + 4 * lane);
        }"""
    rng = np.random.default_rng(bits)
    a, b = (rng.integers(0, 1 << 32, (32, bits // size), np.uint32) for size in (64, 128))
    c = rng.integers(-1000, 1000, (32, 4)).astype(np.int32)
    gpu = SimulatedGpu()
    with gpu.turn():
        held = [gpu.put(x) for x in (a, b, c)]
        gpu.run(simulated_gpu.load(kernel, tmp_path), f"product_{bits}", (1, 1), 32, held)
        found = gpu.get(held[2])
    assert np.array_equal(found, fragments.mma_and_popc(a, b, c))


def test_the_simulator_finds_what_is_broken(tmp_path: Path) -> None:
    built = simulated_gpu.load(
        """
        extern "C" __global__ void broken(int* written) {
            if (threadIdx.x < 40) __syncthreads();
            *written = 1;
        }""",
        tmp_path,
    )
    gpu = SimulatedGpu()
    with gpu.turn():
        gpu.run(built, "broken", (1, 1), 40, [gpu.zeros((1,), np.int32)])
        with pytest.raises(AssertionError, match="broken: a barrier is not reached by all"):
            gpu.run(built, "broken", (1, 1), 41, [gpu.zeros((1,), np.int32)])
        with pytest.raises(AssertionError, match="broken wrote beside an array"):
            gpu.run(built, "broken", (1, 1), 40, [gpu.zeros((0,), np.int32)])
    with pytest.raises(AssertionError, match="it is another thread's turn"):
        gpu.zeros((1,), np.int32)


def test_threads_take_turns() -> None:
    """The device says so if two use it at once."""
    rng = np.random.default_rng(0)
    gpu = SimulatedGpu()
    galleries = [random_codes(rng, 700, 64) for _ in range(4)]
    held = [on(gpu, gallery) for gallery in galleries]
    queries = random_codes(rng, 3, 64)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: held[i % 4].search(queries, 5), range(16)))
    for i in range(16):
        assert same(found[i], reference.search(galleries[i % 4], queries, 5))


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    opened = []
    monkeypatch.setattr(device, "open_device", lambda number=0: opened.append(number) or SimulatedGpu())
    assert device.pick_device("cpu") is None and not opened
    with caplog.at_level("INFO", "hashret.hamming"):
        assert all(device.pick_device(name).name == "simulated" for name in ("cuda", "cuda:3", "auto"))
    assert opened == [0, 3, 0] and caplog.messages == ["device: cuda (simulated)"]
    for name in ("cuda:", "cuda:x", "mps", ""):
        with pytest.raises(
            UsageError, match=r"there is no device .* to search on; it can be auto, cpu, cuda or cuda:N"
        ):
            device.pick_device(name)


def test_without_cuda_core_or_a_gpu_one_sentence_says_so(caplog: pytest.LogCaptureFixture) -> None:
    if shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0:
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=r"device cuda:1 was asked for, but .*; (pip install .*, or )?use device cpu$"):
        device.pick_device("cuda:1")
    with caplog.at_level("INFO", "hashret.hamming"):
        assert device.pick_device("auto") is None
    assert caplog.messages[0] in ("device: cpu (cuda-core is not installed)", "device: cpu (there is no NVIDIA driver)")
