"""Exact Hamming search: every path against the reference, at sizes chosen to hurt."""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import multiprocessing
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret import hamming
from hashret.codes import bytes_per_code, pack
from hashret.errors import CodeError, SearchError
from hashret.hamming import asymmetric, linear, plain, reference, rows, sliced, tables, words
from hashret.hamming.components import near_groups
from hashret.hamming.linear import search as scan
from hashret.hamming.linear import search_radii
from hashret.hamming.multi_index import MultiIndex
from hashret.hamming.rows import RowScan
from hashret.hamming.tables import TableScan
from hashret.index import HammingIndex

BITS = [1, 7, 8, 9, 63, 64, 65, 127, 128, 1000, 1024]
SIZES = [0, 1, 63, 64, 65, 511, 513]
KERNELS = [RowScan, TableScan]


def random_codes(rng: np.random.Generator, n: int, bits: int, distinct: int | None = None) -> np.ndarray:
    """Random codes; with `distinct`, drawn from that many so that ties and duplicates abound."""
    if distinct is None:
        return pack(rng.integers(0, 2, (n, bits)))
    return pack(rng.integers(0, 2, (distinct, bits)))[rng.integers(0, distinct, n)]


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def test_the_reference_itself_on_a_written_out_example() -> None:
    gallery = np.array([[0b00000000], [0b11111111], [0b00000001], [0b10000000]], np.uint8)
    queries = np.array([[0b00000000], [0b11110000]], np.uint8)
    assert reference.distances(queries, gallery).tolist() == [[0, 8, 1, 1], [4, 4, 5, 3]]
    distances, found = reference.search(gallery, queries, 5)
    assert distances.tolist() == [[0, 1, 1, 8, -1], [3, 4, 4, 5, -1]]
    assert found.tolist() == [[0, 2, 3, 1, -1], [3, 0, 1, 2, -1]]
    offsets, distances, found = reference.search_radius(gallery, queries, 4)
    assert offsets.tolist() == [0, 3, 6]
    assert distances.tolist() == [0, 1, 1, 3, 4, 4] and found.tolist() == [0, 2, 3, 3, 0, 1]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", SIZES)
def test_every_path_gives_the_bytes_of_the_reference(bits: int, n: int) -> None:
    rng = np.random.default_rng(bits * 1000 + n)
    for distinct in (None, 3, 1):
        gallery = random_codes(rng, n, bits, distinct)
        queries = np.concatenate([random_codes(rng, 3, bits), gallery[:1]])
        for alive in (None, rng.random(n) < 0.7, np.zeros(n, bool)):
            for k in (1, 10, n + 2):
                expected = reference.search(gallery, queries, k, alive)
                assert same(hamming.search(gallery, queries, k, bits, alive), expected)
                within = min(k, max(n, 1))
                expected = expected[0][:, :within], expected[1][:, :within]
                assert same(plain.search(gallery, queries, within, alive), expected)
                for kernel in KERNELS:
                    assert same(scan(kernel, gallery, queries, within, alive, 1), expected)
            for radius in (0, bits // 3, bits):
                expected_within = reference.search_radius(gallery, queries, radius, alive)
                assert same(hamming.search_radius(gallery, queries, radius, bits, alive), expected_within)
                radii = np.full(len(queries), radius)
                assert same(plain.search_radii(gallery, queries, radii, alive), expected_within)
                for kernel in KERNELS:
                    assert same(search_radii(kernel, gallery, queries, radii, alive, 1), expected_within)
        assert np.array_equal(hamming.distances(queries, gallery, bits), reference.distances(queries, gallery))


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(1, 200),
    n=st.integers(0, 1500),
    n_queries=st.integers(0, 9),
    k=st.integers(1, 2000),
    distinct=st.integers(1, 2000),
    threads=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_any_threads(
    bits: int, n: int, n_queries: int, k: int, distinct: int, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery, queries = random_codes(rng, n, bits, distinct), random_codes(rng, n_queries, bits)
    alive = rng.random(n) < rng.random()
    expected = reference.search(gallery, queries, k, alive)
    assert same(hamming.search(gallery, queries, k, bits, alive, threads), expected)
    radius = int(rng.integers(0, bits + 2))
    expected_within = reference.search_radius(gallery, queries, radius, alive)
    assert same(hamming.search_radius(gallery, queries, radius, bits, alive, threads), expected_within)


@pytest.mark.parametrize("bits", [48, 64, 128])
def test_large_enough_to_be_split_gives_the_same_for_any_thread_count(bits: int) -> None:
    rng = np.random.default_rng(bits)
    gallery, queries = random_codes(rng, 50_000, bits), random_codes(rng, 21, bits)
    gallery[30_000:30_100] = gallery[:100]
    alive = rng.random(len(gallery)) < 0.9
    for n_queries in (1, 3, 21):
        for k in (1, 10, 3000):
            expected = plain.search(gallery, queries[:n_queries], k, alive)
            for threads in (1, 2, 3, 8):
                for kernel in KERNELS:
                    assert same(scan(kernel, gallery, queries[:n_queries], k, alive, threads), expected)
        radii = rng.integers(0, bits // 2 - 8, n_queries)
        expected_within = plain.search_radii(gallery, queries[:n_queries], radii, alive)
        for threads in (1, 2, 3, 8):
            for kernel in KERNELS:
                found = search_radii(kernel, gallery, queries[:n_queries], radii, alive, threads)
                assert same(found, expected_within)


def test_codes_that_come_ever_nearer_do_not_overflow_the_candidates() -> None:
    """Every code is nearer than, or as near as, the ones before it: the worst order for a running top-k."""
    steps = np.repeat(np.arange(1024, -1, -1), 3)
    gallery = pack(np.arange(1024)[None, :] < steps[:, None])
    query = np.zeros((1, 128), np.uint8)
    for k in (1, 2, 100, len(gallery)):
        for kernel in KERNELS:
            assert same(scan(kernel, gallery, query, k, None, 1), reference.search(gallery, query, k))


@pytest.mark.parametrize("bits", [64, 192])
def test_more_queries_than_one_group(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of a search, which bound its memory, and groups of the table kernel, whose counters wait."""
    rng = np.random.default_rng(5)
    gallery, queries = random_codes(rng, 600, bits), random_codes(rng, 2 * tables.GROUP + 3, bits)
    monkeypatch.setattr(linear, "CANDIDATE_BYTES", 10 * (4 + 64) * 100)
    for kernel in KERNELS:
        assert same(scan(kernel, gallery, queries, 4, None, 2), reference.search(gallery, queries, 4))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_radius_that_takes_in_everything_grows_its_memory(kernel: type[linear.Scan]) -> None:
    rng = np.random.default_rng(6)
    gallery, queries = random_codes(rng, 40_000, 64), random_codes(rng, 3, 64)
    radii = np.array([64, 0, 40])
    assert same(
        search_radii(kernel, gallery, queries, radii, None, 2), plain.search_radii(gallery, queries, radii, None)
    )


@pytest.mark.parametrize("bits", [64, 100, 128])
def test_codes_all_on_the_far_side(bits: int) -> None:
    """More than half of the bits differ everywhere: farther than the table kernel's counters reach."""
    rng = np.random.default_rng(bits)
    queries = random_codes(rng, 9, bits)
    flipped = pack(1 - np.unpackbits(queries, axis=1, count=bits))
    gallery = flipped[rng.integers(0, 9, 3000)]
    gallery[:, 0] ^= rng.integers(0, 2, 3000, dtype=np.uint8) << 7
    for kernel in KERNELS:
        assert same(scan(kernel, gallery, queries, 20, None, 1), reference.search(gallery, queries, 20))


def test_ties_at_k_are_all_there() -> None:
    gallery = pack(np.eye(40, 16, dtype=bool)[:, ::-1])  # 16 codes one bit from zero, then 24 zeros
    queries = np.zeros((10, 2), np.uint8)
    offsets, distances, found = hamming.search_ties(gallery, queries, 25, 16)
    assert np.diff(offsets).tolist() == [40] * 10
    assert distances[:40].tolist() == [0] * 24 + [1] * 16 and found[:40].tolist() == [*range(16, 40), *range(16)]
    assert np.diff(hamming.search_ties(gallery, queries, 3, 16)[0]).tolist() == [24] * 10
    assert np.diff(hamming.search_ties(gallery, queries, 99, 16)[0]).tolist() == [40] * 10, "fewer than k: all"


def test_all_ties_give_the_first_rows() -> None:
    gallery = np.full((100_000, 8), 7, np.uint8)
    for k in (1, 64, 1000):
        distances, found = hamming.search(gallery, np.zeros((2, 8), np.uint8), k)
        assert (distances == 24).all() and (found == np.arange(k)).all()


def test_callers_of_everything_at_once_get_the_answers_of_one_after_the_other() -> None:
    """Kernels, buckets, logits, pairs and an index; every caller with a k, a batch and a number of threads of its own."""
    rng = np.random.default_rng(7)
    jobs: list[functools.partial[Any]] = []
    for bits in (64, 72):
        gallery = random_codes(rng, 60_000, bits)
        gallery[1::2] = gallery[::2] ^ random_codes(rng, 30_000, bits) % 2  # near neighbours for the buckets
        alive = rng.random(len(gallery)) < 0.9
        buckets, index = MultiIndex.build(gallery, bits), HammingIndex(bits)
        index.add(gallery[:50_000])
        index.add(gallery[50_000:])
        index.remove(np.flatnonzero(~alive))
        for n_queries, k, threads in ((1, 11, 2), (30, 1, 3), (2, 500, 1), (70, 10, 2), (7, 3, None)):
            queries = random_codes(rng, n_queries, bits)
            queries[::2] = gallery[: len(queries[::2])]
            logits = rng.standard_normal((n_queries, bits)).astype(np.float32)
            for flags in (None, alive):
                options = {"alive": flags, "threads": threads}
                jobs += [
                    functools.partial(hamming.search, gallery, queries, k, bits, **options),
                    functools.partial(hamming.search_radius, gallery, queries, bits // 3, bits, **options),
                    functools.partial(hamming.search_ties, gallery, queries, k, bits, **options),
                    functools.partial(asymmetric.search, gallery, logits, k, **options),
                    functools.partial(buckets.search, queries, k, **options),
                    functools.partial(buckets.search_radius, queries, 4, **options),
                ]
            jobs += [
                functools.partial(index.search, queries, k, threads),
                functools.partial(index.search_radius, queries, bits // 4, threads),
                functools.partial(index.search, logits, k, threads, metric="asymmetric"),
                functools.partial(near_groups, gallery[: 1000 * n_queries], 3, bits, threads=threads),
            ]
    expected = [job(threads=1) if "threads" in job.keywords else job() for job in jobs]
    order = rng.permutation(len(jobs)).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        found = list(callers.map(lambda number: jobs[number](), order))
    assert all(same(answer, expected[number]) for answer, number in zip(found, order, strict=True))


def test_a_memory_mapped_gallery_is_not_copied_when_its_rows_are_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for bits in (64, 128, 72):
        gallery = random_codes(rng, 20_000, bits)
        np.save(tmp_path / "codes.npy", gallery)
        mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
        viewed = words.view(mapped)
        assert (viewed is not None and np.shares_memory(viewed, mapped)) if bits % 64 == 0 else viewed is None
        queries = random_codes(rng, 20, bits)
        assert same(hamming.search(mapped, queries, 5), plain.search(gallery, queries, 5, None))


def test_unaligned_and_strided_galleries() -> None:
    rng = np.random.default_rng(4)
    gallery, queries = random_codes(rng, 3000, 64), random_codes(rng, 20, 64)
    expected = plain.search(gallery, queries, 5, None)
    shifted = np.zeros(gallery.size + 1, np.uint8)[1:].reshape(gallery.shape)
    shifted[:] = gallery
    wide = np.zeros((3000, 24), np.uint8)
    wide[:, 8:16] = gallery
    for other in (shifted, wide[:, 8:16], np.asfortranarray(gallery)):
        for kernel in KERNELS:
            assert same(scan(kernel, other, queries, 5, None, 2), expected)
        assert np.array_equal(hamming.distances(queries, other), reference.distances(queries, gallery))


def test_what_does_not_fit_is_refused() -> None:
    gallery, query = np.zeros((4, 2), np.uint8), np.zeros((1, 2), np.uint8)
    with pytest.raises(SearchError, match="k is 0"):
        hamming.search(gallery, query, 0)
    with pytest.raises(SearchError, match=r"k is 1\.0"):
        hamming.search(gallery, query, 1.0)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="radius is -1"):
        hamming.search_radius(gallery, query, -1)
    with pytest.raises(SearchError, match="alive"):
        hamming.search(gallery, query, 1, alive=np.ones(3, bool))
    with pytest.raises(SearchError, match="threads is 0"):
        hamming.search(gallery, query, 1, threads=0)
    with pytest.raises(CodeError, match=r"\(N, 2\)"):
        hamming.search(gallery, np.zeros((1, 3), np.uint8), 1)
    with pytest.raises(CodeError, match="dtype"):
        hamming.search(gallery.astype(np.int8), query, 1)
    with pytest.raises(CodeError, match="last 4 bits"):
        hamming.search(gallery, query + 1, 1, code_size=12)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for x86-64 vector registers")
@pytest.mark.parametrize("bits", [64, 128, 512])
def test_the_hot_loop_is_vectorised(bits: int) -> None:
    """Vector registers carry the popcount: the chip's own, or the byte-shuffle or shift-and-mask form of it."""
    rng = np.random.default_rng(0)
    width = (0,) * (bits // 64)
    gallery, queries = random_codes(rng, 1000, bits), random_codes(rng, 1, bits)
    viewed = words.view(gallery)
    assert viewed is not None

    @numba.njit
    def is_near(codes, queries, state, width):  # type: ignore[no-untyped-def]
        return rows.near_rows(codes, 0, len(codes) // len(width) // 8, queries, 0, state, width, (0,))

    least = int(plain.distances(queries, gallery).min())
    for kth in (least, least + 1):
        state = np.full((3, 1), kth)
        assert is_near(viewed.reshape(-1), words.padded(queries), state, width) == (kth > least)
    (assembly,) = is_near.inspect_asm().values()
    used = Counter(re.findall(r"\b(vpopcnt[qdb]|v?pshufb|v?psrl[qw])\s[^\n]*%[xyz]mm", assembly))
    assert sum(used.values()) >= 2, f"no vector popcount in the hot loop: {used}"
    if llvmlite.binding.get_host_cpu_features().get("avx512vpopcntdq"):
        assert re.search(r"vpopcntq\s[^\n]*%zmm", assembly) and "prefetch" in assembly


def test_one_query_of_a_million_codes_starts_neither_numba_nor_torch() -> None:
    program = (
        "import sys, time, numpy as np; from hashret import hamming\n"
        "g = np.random.default_rng(0).integers(0, 256, (1_000_000, 8), dtype=np.uint8)\n"
        "start = time.perf_counter(); d, r = hamming.search(g, g[777:778], 10); took = time.perf_counter() - start\n"
        "assert r[0, 0] == 777 and d[0, 0] == 0\n"
        "assert not {'numba', 'torch', 'llvmlite'} & set(sys.modules), 'started'\n"
        "assert took < 0.5, took\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_second_process_starts_from_the_compiled_kernels_in_the_cache() -> None:
    program = (
        "import numpy as np; from hashret.hamming import linear, rows, tables\n"
        "g = np.zeros((100, 8), np.uint8)\n"
        "linear.search(rows.RowScan, g, g[:1], 3, None, 1); linear.search(tables.TableScan, g, g[:9], 3, None, 1)\n"
        "for stats in (rows.scan.stats, tables.scan.stats):\n"
        "    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    for attempt in range(2):
        ran = subprocess.run([sys.executable, "-c", program], check=True, timeout=120, capture_output=True, text=True)
        if attempt:
            assert ran.stdout.split() == ["1", "0", "1", "0"]


def _search_in_child(gallery: np.ndarray, answers: Any) -> None:
    answers.put(scan(RowScan, gallery, gallery[:1], 3, None, 2)[1].tolist())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a safe fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_can_search_with_threads() -> None:
    gallery = random_codes(np.random.default_rng(0), 300_000, 64)
    expected = scan(RowScan, gallery, gallery[:1], 3, None, 2)[1].tolist()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_search_in_child, args=(gallery, answers))
    child.start()
    assert answers.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


def test_faiss_gives_the_same_distances() -> None:
    """FAISS as a peer, in a process of its own: two OpenMP runtimes in one process slow each other down."""
    if importlib.util.find_spec("faiss") is None:
        pytest.skip("faiss is not installed")
    program = (
        "import faiss, numpy as np, sys; faiss.omp_set_num_threads(1)\n"
        "from hashret import hamming\n"
        "rng = np.random.default_rng(0)\n"
        "for bits in (8, 64, 72, 128, 1024):\n"
        "    g = rng.integers(0, 256, (5000, bits // 8), dtype=np.uint8)\n"
        "    q = rng.integers(0, 256, (20, bits // 8), dtype=np.uint8)\n"
        "    index = faiss.IndexBinaryFlat(bits); index.add(g)\n"
        "    assert (index.search(q, 50)[0] == hamming.search(g, q, 50)[0]).all(), bits\n"
        "    limits, d, rows = index.range_search(q, bits // 2 - 4 + 1)\n"
        "    offsets, distances, found = hamming.search_radius(g, q, bits // 2 - 4)\n"
        "    assert (np.asarray(limits, np.int64) == offsets).all(), bits\n"
        "    for i in range(20):\n"
        "        part = slice(offsets[i], offsets[i + 1])\n"
        "        assert sorted(rows[part]) == sorted(found[part]), bits\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)


def test_bytes_of_a_code_fill_whole_words() -> None:
    for bits in (*BITS, *range(1, 300, 8)):
        assert words.padded(np.zeros((0, bytes_per_code(bits)), np.uint8)).shape[0] == 0
        codes = random_codes(np.random.default_rng(bits), 3, bits)
        padded = words.padded(codes)
        assert padded.shape == (3, words.words_per_code(bytes_per_code(bits)))
        as_bytes = padded.view(np.uint8)
        assert np.array_equal(as_bytes[:, : codes.shape[1]], codes) and not as_bytes[:, codes.shape[1] :].any()


CHIPS = [("x86-64", "+sse2"), ("haswell", "+avx2,+avx,+popcnt,+bmi,+bmi2,+lzcnt")]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86-64 chips")
@pytest.mark.parametrize(("chip", "features"), CHIPS)
def test_a_chip_without_three_input_logic_gives_the_same_answers(chip: str, features: str) -> None:
    program = (
        "import numpy as np\n"
        "from hashret.hamming import linear, reference, rows, tables\n"
        "rng = np.random.default_rng(0)\n"
        "for bits in (64, 200):\n"
        "    g, q = (rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) for n in (2000, 20))\n"
        "    for scan in (rows.RowScan, tables.TableScan):\n"
        "        for found, expected in zip(linear.search(scan, g, q, 30, None, 1), reference.search(g, q, 30)):\n"
        "            assert (found == expected).all(), (bits, scan)\n"
        "assembly = list(tables.scan.inspect_asm().values())[0]\n"
        "assert 'vpternlog' not in assembly and 'zmm' not in assembly\n"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": chip, "NUMBA_CPU_FEATURES": features, "HASHRET_CACHE": os.devnull}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


def hot_loop(assembly: str) -> list[str]:
    """The longest run of instructions without a jump or a label: the sum of a query over a block, written out."""
    runs: list[list[str]] = [[]]
    for line in assembly.splitlines():
        if re.match(r"\s*j[a-z]+\s|\S+:", line):
            runs.append([])
        elif line.startswith("\t") and not line.startswith("\t."):
            runs[-1].append(line.strip())
    return max(runs, key=lambda run: sum("vpternlog" in line for line in run))


def test_the_sum_over_a_block_is_vector_code_and_nothing_else() -> None:
    """On a chip with AVX-512: two three-input instructions a full adder, on whole registers, no copy and no scalar."""
    if not llvmlite.binding.get_host_cpu_features().get("avx512f"):
        pytest.skip("this chip has no AVX-512")

    @numba.njit
    def near(memory, queries, order, state, found):  # type: ignore[no-untyped-def]
        return sliced.near_queries(
            memory,
            sliced.MIDDLE,
            queries,
            order,
            0,
            len(order),
            memory,
            state,
            memory,
            memory,
            found,
            memory,
            (0,),
            tables.SIZE_47,
        )

    # Compiled, not called: a call would need tables, limits and states that belong together.
    words_1d, numbers_1d = numba.uint64[::1], numba.int64[::1]
    near.compile((words_1d, numba.uint64[:, ::1], numbers_1d, numba.int64[:, ::1], numbers_1d))
    (assembly,) = near.inspect_asm().values()
    loop = hot_loop(assembly)
    logic = [line for line in loop if line.startswith("vpternlogq") and "zmm" in line]
    adders = 26  # 32 planes in, 4 counters and 2 overflows out
    assert len(logic) == 2 * adders + sliced.NEAR_DEPTH + 1, Counter(line.split()[0] for line in loop)
    assert not [line for line in loop if re.match(r"vmovdqa\w*\s+%zmm\d+, %zmm", line)], "registers are copied"
    assert not [line for line in loop if "popcnt" in line or "%xmm" in line or "%ymm" in line]
