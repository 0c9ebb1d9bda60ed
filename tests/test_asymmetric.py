"""Exact asymmetric search: every path and every form of the kernel against the definition, at sizes chosen to hurt."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from hashret.codes import binarize, pack, unpack
from hashret.errors import CodeError, SearchError
from hashret.hamming import asymmetric, lookup_scan, reference
from hashret.hamming.lookups import BLOCK, BYTES, TILE, Lookups, near, tiles_at_once
from hashret.index import CosineIndex, HammingIndex, Store
from hashret.index.cosine import InnerProductIndex

BITS = [1, 7, 8, 63, 64, 65, 128, 1024]
SIZES = [0, 1, 63, 64, 65, 511, 513, BLOCK, 2 * BLOCK + 1]


def defined(logits_QK: np.ndarray, gallery_NB: np.ndarray) -> np.ndarray:
    """Similarities (Q, N) float32 as asymmetric.py words it, one term after the other."""
    n_bits = 8 * gallery_NB.shape[1]
    signs = 2.0 * np.unpackbits(gallery_NB, axis=1) - 1
    found = np.zeros((len(logits_QK), len(gallery_NB)))
    for query, row in zip(logits_QK, found, strict=True):
        terms = signs * np.pad(query.astype(np.float64), (0, n_bits - len(query)))
        for first in range(0, n_bits, 8):
            high, low = (0 + terms[:, start] for start in (first, first + 4))
            for i in (1, 2, 3):
                high, low = high + terms[:, first + i], low + terms[:, first + 4 + i]
            row += high + low
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


def expected(
    gallery: np.ndarray, logits: np.ndarray, k: int, alive: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: everything is scored and sorted."""
    similarities = np.full((len(logits), k), np.nan, np.float32)
    rows = np.full((len(logits), k), -1, np.int64)
    living = np.arange(len(gallery)) if alive is None else np.flatnonzero(alive)
    for query, row in enumerate(defined(logits, gallery)):
        best = living[np.lexsort((living, -row[living]))][:k]
        similarities[query, : len(best)], rows[query, : len(best)] = row[best], best
    return similarities, rows


def kernel(gallery: np.ndarray, logits: np.ndarray, k: int, alive: np.ndarray | None = None, threads: int = 1) -> Any:
    """The compiled search, whatever the size of the work."""
    return asymmetric._search_on_threads(gallery, logits, k, alive, threads)


def same(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True))


def random_codes(rng: np.random.Generator, n: int, bits: int, distinct: int | None = None) -> np.ndarray:
    """Random codes; with `distinct`, drawn from that many so that ties abound."""
    if distinct is None:
        return pack(rng.integers(0, 2, (n, bits)))
    return pack(rng.integers(0, 2, (distinct, bits)))[rng.integers(0, distinct, n)]


def logits_of(rng: np.random.Generator, kind: str, n: int, bits: int) -> np.ndarray:
    """Logits of all kinds: the last four round, vanish or overflow where they can."""
    normal = rng.standard_normal((n, bits))
    values = {
        "normal": normal,
        "whole": rng.integers(-2, 3, (n, bits)),
        "equal": np.full((n, bits), 0.1),
        "zero": np.zeros((n, bits)),
        "one": np.where(np.arange(bits) == bits // 2, 7.0, 0.0) * np.sign(normal),
        "tiny": normal * 1e-44,
        "huge": np.clip(normal, -1, 1) * 3.4e38,
        "mixed": normal * 10.0 ** rng.integers(-30, 30, (n, bits)),
        "nearly": np.sign(normal) * (1 + 1e-7 * rng.integers(0, 3, (n, bits))),
    }
    return values[kind].astype(np.float32)


KINDS = ["normal", "whole", "equal", "zero", "one", "tiny", "huge", "mixed", "nearly"]


def test_a_written_out_example() -> None:
    gallery = np.array([[0b10000000], [0b01000000], [0b11000000], [0b10000000]], np.uint8)
    logits = np.array([[2.0, -0.5], [0.0, 0.0]], np.float32)
    assert asymmetric.similarities(logits, gallery).tolist() == [[2.5, -2.5, 1.5, 2.5], [0.0] * 4]
    similarities, rows = asymmetric.search(gallery, logits, 5)
    assert rows.tolist() == [[0, 3, 2, 1, -1], [0, 1, 2, 3, -1]], "equal ones by row"
    assert similarities[0, :4].tolist() == [2.5, 2.5, 1.5, -2.5] and np.isnan(similarities[:, 4]).all()
    assert (similarities.dtype, rows.dtype) == (np.float32, np.int64)


def test_it_refines_the_hamming_distance() -> None:
    """Logits of one size: similarity is bits less twice the Hamming distance."""
    rng = np.random.default_rng(0)
    gallery, signs = random_codes(rng, 300, 65), np.sign(rng.standard_normal((4, 65))).astype(np.float32)
    distances = (unpack(gallery, 65)[None] != unpack(binarize(signs), 65)[:, None]).sum(axis=2)
    assert np.array_equal(asymmetric.similarities(signs, gallery), 65 - 2 * distances)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", SIZES)
def test_every_path_gives_the_bytes_of_the_definition(bits: int, n: int) -> None:
    rng = np.random.default_rng(bits * 10_000 + n)
    for distinct in (None, 3):
        gallery = random_codes(rng, n, bits, distinct)
        logits = np.concatenate([logits_of(rng, kind, 1, bits) for kind in KINDS])
        assert np.array_equal(asymmetric.similarities(logits, gallery), defined(logits, gallery))
        for alive in (None, rng.random(n) < 0.7, np.zeros(n, bool)):
            for k in (1, 10, n + 2):
                wanted = expected(gallery, logits, k, alive)
                assert same(asymmetric.search(gallery, logits, k, alive), wanted)
                within = max(1, min(k, n))
                wanted = wanted[0][:, :within], wanted[1][:, :within]
                assert same(asymmetric._search_plain(gallery, logits, within, alive), wanted)
                assert same(kernel(gallery, logits, within, alive), wanted)


@settings(deadline=None, max_examples=80)
@given(
    bits=st.integers(1, 200),
    n=st.integers(0, 4000),
    n_queries=st.integers(0, 5),
    k=st.integers(1, 4100),
    distinct=st.integers(1, 4000),
    kind=st.sampled_from(KINDS),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_any_logits_any_threads(
    bits: int, n: int, n_queries: int, k: int, distinct: int, kind: str, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery, logits = random_codes(rng, n, bits, distinct), logits_of(rng, kind, n_queries, bits)
    alive = rng.random(n) < rng.random()
    wanted = expected(gallery, logits, k, alive)
    assert same(asymmetric.search(gallery, logits, k, alive, threads), wanted)
    within = max(1, min(k, n))
    assert same(kernel(gallery, logits, within, alive, threads), (wanted[0][:, :within], wanted[1][:, :within]))


@pytest.mark.parametrize("bits", [16, 48, 64, 128])
def test_large_enough_to_be_split_gives_the_same_for_any_thread_count(bits: int) -> None:
    rng = np.random.default_rng(bits)
    gallery, logits = random_codes(rng, 50_000, bits), logits_of(rng, "normal", 21, bits)
    gallery[30_000:30_100] = gallery[:100]
    alive = rng.random(len(gallery)) < 0.9
    for k in (1, 10, 3000):
        wanted = expected(gallery, logits, k, alive)
        for threads in (1, 2, 3):
            assert same(kernel(gallery, logits, k, alive, threads), wanted)
    few = rng.random(len(gallery)) < 0.01
    assert same(asymmetric.search(gallery, logits, 10, few), expected(gallery, logits, 10, few))


def test_codes_that_come_ever_nearer() -> None:
    """Every code is at least as similar as the ones before it: the worst order for a running top-k, and new tables often."""
    steps = np.repeat(np.arange(1025), 3)
    gallery = pack(np.arange(1024)[None, :] < steps[:, None])
    logits = logits_of(np.random.default_rng(0), "normal", 3, 1024)
    logits[0] = np.abs(logits[0])
    for k in (1, 2, 100, len(gallery)):
        assert same(kernel(gallery, logits, k), expected(gallery, logits, k))


def test_the_same_code_everywhere_gives_the_first_rows() -> None:
    gallery = np.full((20_000, 8), 7, np.uint8)
    logits = logits_of(np.random.default_rng(1), "normal", 3, 64)
    similarities, rows = kernel(gallery, logits, 100)
    assert (rows == np.arange(100)).all() and (similarities == similarities[:, :1]).all()


def test_more_queries_than_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    gallery, logits = random_codes(rng, 3000, 100), logits_of(rng, "normal", 31, 100)
    monkeypatch.setattr(asymmetric, "_GROUP_BYTES", 10 * (12 * 4 + 64 * 128))
    assert same(kernel(gallery, logits, 4, threads=2), expected(gallery, logits, 4))


def test_memory_maps_strides_and_other_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    gallery, logits = random_codes(rng, 3000, 64), logits_of(rng, "normal", 20, 64)
    wanted = expected(gallery, logits, 5)
    np.save(tmp_path / "codes.npy", gallery)
    shifted = np.zeros(gallery.size + 1, np.uint8)[1:].reshape(gallery.shape)
    shifted[:] = gallery
    wide = np.zeros((3000, 24), np.uint8)
    wide[:, 8:16] = gallery
    for other in (np.load(tmp_path / "codes.npy", mmap_mode="r"), shifted, wide[:, 8:16], np.asfortranarray(gallery)):
        assert same(asymmetric.search(other, logits, 5), wanted)
        assert np.array_equal(asymmetric.similarities(logits, other), defined(logits, gallery))
    for other_logits in (logits.astype(np.float64), np.asfortranarray(logits)):
        assert same(asymmetric.search(gallery, other_logits, 5), wanted)
    half = logits.astype(np.float16)
    assert same(asymmetric.search(gallery, half, 5), expected(gallery, half.astype(np.float32), 5))


def test_parts_without_columns_become_padding() -> None:
    empty = np.empty((4, 0), np.float32), np.empty((4, 0), np.int64)
    similarities, rows = asymmetric.merge([empty], 2)
    assert np.isnan(similarities).all() and (rows == -1).all() and similarities.shape == rows.shape == (4, 2)


def test_concurrent_callers_get_their_own_answers() -> None:
    rng = np.random.default_rng(7)
    gallery = random_codes(rng, 60_000, 64)
    batches = [logits_of(rng, "normal", n, 64) for n in (1, 7, 30, 2, 16)]
    wanted = [expected(gallery, batch, 11) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(5) as callers:
        for _ in range(3):
            found = list(callers.map(lambda batch: kernel(gallery, batch, 11, threads=3), batches))
            assert all(same(a, b) for a, b in zip(found, wanted, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    gallery, logits = np.zeros((4, 2), np.uint8), np.zeros((2, 16), np.float32)
    for wrong in (np.nan, np.inf, -np.inf):
        broken = logits.copy()
        broken[1, 3] = wrong
        with pytest.raises(
            CodeError, match=r"^the logits of row 1 hold NaN or infinity, expected finite .*; check the model$"
        ):
            asymmetric.search(gallery, broken, 1)
    with pytest.raises(CodeError, match="row 0 hold NaN or infinity"):
        asymmetric.similarities(logits.astype(np.float64) + 1e300, gallery)
    with pytest.raises(CodeError, match=r"shape \(16,\) and dtype float32, expected floats of shape \(Q, K\)"):
        asymmetric.search(gallery, logits[0], 1)
    with pytest.raises(CodeError, match="dtype int64, expected floats"):
        asymmetric.search(gallery, logits.astype(np.int64), 1)
    with pytest.raises(CodeError, match=r"expected floats of shape \(Q, 8\)"):
        asymmetric.check_logits(logits, 8)
    with pytest.raises(CodeError, match="code_size is 0"):
        asymmetric.search(gallery, logits[:, :0], 1)
    with pytest.raises(CodeError, match=r"expected \(N, 1\) for 8 bits"):
        asymmetric.search(gallery, logits[:, :8], 1)
    with pytest.raises(CodeError, match="dtype"):
        asymmetric.search(gallery.astype(np.int8), logits, 1)
    with pytest.raises(SearchError, match="k is 0"):
        asymmetric.search(gallery, logits, 0)
    with pytest.raises(SearchError, match="threads is 0"):
        asymmetric.search(gallery, logits, 1, threads=0)
    with pytest.raises(SearchError, match="alive has dtype bool"):
        asymmetric.search(gallery, logits, 1, alive=np.ones(3, bool))


@numba.njit
def _costs(planes, tables, width, last, below, costs, hits, found):  # type: ignore[no-untyped-def]
    """All costs of a block, lane by lane."""
    for tile in range(0, BLOCK // TILE, tiles_at_once()):
        near(planes, tile * TILE, tables, 0, width, last, 255, below, costs, hits)
        found[tile * TILE : (tile + tiles_at_once()) * TILE] = costs[: tiles_at_once() * TILE]


@pytest.mark.parametrize("n_words,below", [(1, 0), (2, 0), (5, 300)])
def test_bounds_are_the_sums_of_the_tables(n_words: int, below: int) -> None:
    """Not only low enough to lose nothing: a bound that is too low is only slow."""
    rng = np.random.default_rng(n_words)
    bits = int(lookup_scan._chip_bits())
    n_groups, n_of_last = -(-64 // bits), -(-40 // bits)
    codes = rng.integers(0, 256, (BLOCK, 8 * n_words), dtype=np.uint8)
    tables = rng.integers(0, 400 // n_groups, (n_words * n_groups, 1 << bits), dtype=np.uint8)
    planes, width = np.zeros(n_words * n_groups * BLOCK, np.uint8), (0,) * n_words
    memory = np.zeros(BLOCK, np.uint64), np.zeros(8 * TILE, np.uint64)
    lookup_scan._turn_over(codes.view(np.uint64).reshape(-1), width, *memory, planes)
    found, hits = np.zeros(BLOCK, np.uint8), np.zeros(8, np.uint64)
    _costs(planes, tables.reshape(-1), width, (0,) * n_of_last, below, np.zeros(512, np.uint8), hits, found)
    wanted = np.zeros(BLOCK, np.int64)
    for word, of_word in enumerate(
        np.unpackbits(codes, axis=1, bitorder="little").reshape(BLOCK, n_words, 64).swapaxes(0, 1)
    ):
        total = np.zeros(BLOCK, np.int64)
        for group in range(n_of_last if word == n_words - 1 else n_groups):
            number = of_word[:, group * bits : (group + 1) * bits].astype(np.int64)
            total += tables[word * n_groups + group][number @ (1 << np.arange(number.shape[1]))]
        wanted += np.minimum(total, 255)
    assert (wanted > 255).any() or n_words == 1
    in_lanes = wanted.reshape(-1, 8, 8).swapaxes(1, 2).reshape(-1)  # lane 8r + v of a tile is row 8v + r
    assert np.array_equal(found, np.clip(in_lanes - below, 0, 255))


FORMS = {
    "AVX-512 without VBMI": ("skylake-avx512", "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx2,+ssse3", 4),
    "AVX2": ("haswell", "+avx2,+ssse3", 4),
    "SSSE3": ("core2", "+ssse3", 4),
    "none": ("generic", "", 1),
}
"""Chips that the kernel is made for by name: numba's name of one, features, and bits that it looks up at once."""


@pytest.mark.parametrize("form", FORMS)
def test_chips_without_this_one_s_instructions_give_the_same(form: str, tmp_path: Path) -> None:
    chip, features, bits_at_once = FORMS[form]
    host = llvm.get_host_cpu_features()
    if not all(host.get(feature[1:]) for feature in features.split(",") if feature):
        pytest.skip("this chip cannot run it")
    rng = np.random.default_rng(9)
    wanted = {}
    for bits in (40, 200):
        gallery, logits = random_codes(rng, 2500, bits), logits_of(rng, "normal", 6, bits)
        found = expected(gallery, logits, 7)
        wanted |= {
            f"gallery{bits}": gallery,
            f"logits{bits}": logits,
            f"values{bits}": found[0],
            f"rows{bits}": found[1],
        }
    np.savez(tmp_path / "wanted.npz", **wanted)
    program = (
        "import sys, numpy as np\n"
        "from hashret.hamming import asymmetric, lookup_scan\n"
        "w = np.load(sys.argv[1])\n"
        "for bits in (40, 200):\n"
        "    values, rows = asymmetric._search_on_threads(w[f'gallery{bits}'], w[f'logits{bits}'], 7, None, 2)\n"
        "    assert np.array_equal(values, w[f'values{bits}']) and np.array_equal(rows, w[f'rows{bits}']), bits\n"
        "print(int(lookup_scan._chip_bits()))\n"
    )
    chosen = os.environ | {"NUMBA_CPU_NAME": chip, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-c", program, str(tmp_path / "wanted.npz")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=chosen, check=False)
    assert ran.returncode == 0, ran.stderr
    if llvm.get_default_triple().startswith("x86_64"):
        assert int(ran.stdout) == bits_at_once


class _Arm:
    """As much of numba's target context as says what chip code is made for."""

    def codegen(self) -> _Arm:
        return self

    def magic_tuple(self) -> tuple[str, str, str]:
        return "aarch64-unknown-linux-gnu", "generic", ""


def test_neon_looks_up_with_its_own_instruction() -> None:
    """Compiled here, run nowhere: the table look-up of 64-bit ARM."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM makes no code for ARM")
    module = ir.Module()
    module.triple = "aarch64-unknown-linux-gnu"
    pointers = [BYTES.as_pointer()] * 3
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), pointers), "look_up")
    builder = ir.IRBuilder(function.append_basic_block())
    table, index, out = function.args
    b = Lookups(_Arm(), builder)
    bytes_of_table = builder.bitcast(table, ir.IntType(8).as_pointer())
    builder.store(b.look_up(b.table(bytes_of_table, b.word(0)), builder.load(index)), out)
    builder.ret_void()
    assembly = target.create_target_machine(opt=3).emit_assembly(llvm.parse_assembly(str(module)))
    assert b.bits == 4 and assembly.count("tbl") == 4


def test_a_small_search_starts_neither_numba_nor_torch() -> None:
    program = (
        "import sys, time, numpy as np; from hashret.hamming import asymmetric\n"
        "g = np.random.default_rng(0).integers(0, 256, (1_000_000, 8), dtype=np.uint8)\n"
        "q = np.unpackbits(g[777:778], axis=1) - np.float32(0.5)\n"
        "start = time.perf_counter(); s, r = asymmetric.search(g, q, 10); took = time.perf_counter() - start\n"
        "assert r[0, 0] == 777 and s[0, 0] == 32\n"
        "assert not {'numba', 'torch', 'llvmlite'} & set(sys.modules), 'started'\n"
        "assert took < 2, took\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_second_process_starts_from_the_compiled_kernel_in_the_cache() -> None:
    program = (
        "import numpy as np; from hashret.hamming import asymmetric, lookup_scan\n"
        "asymmetric._search_on_threads(np.zeros((100, 8), np.uint8), np.zeros((1, 64), np.float32), 3, None, 1)\n"
        "stats = lookup_scan.scan.stats; print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    for attempt in range(2):
        ran = subprocess.run([sys.executable, "-c", program], check=True, timeout=120, capture_output=True, text=True)
        if attempt:
            assert ran.stdout.split() == ["1", "0"]


def test_this_chip_looks_up_many_bits_at_once() -> None:
    """On x86-64 of the last fifteen years and on 64-bit ARM a look-up is one instruction."""
    assert lookup_scan._chip_bits() in (4, 6) or not llvm.get_host_cpu_features().get("ssse3")


# ---- indexes


class Made:
    """A store with codes and features in two segments, rows removed, and what it holds in order."""

    def __init__(self, folder: Path, feature_dtype: str = "float16", feature_metric: str = "cosine") -> None:
        rng = np.random.default_rng(2)
        self.codes = random_codes(rng, 400, 40, 150)
        self.features = rng.standard_normal((400, 6)).astype(np.float32)
        self.features[100:110] = self.features[300:310]
        self.ids = np.arange(1000, 1400)[::-1].copy()
        store = Store.create(folder, code_size=40, dim=6, feature_dtype=feature_dtype, feature_metric=feature_metric)
        store.append(self.codes[:250], self.features[:250], ids=self.ids[:250])
        store.append(self.codes[250:], self.features[250:], ids=self.ids[250:])
        removed = rng.permutation(400)[:90]
        store.remove(self.ids[removed])
        self.alive = ~np.isin(np.arange(400), removed)
        self.index = HammingIndex.load(folder)
        self.logits = logits_of(rng, "whole", 7, 40) + np.float32(0.5)
        self.queries = rng.standard_normal((7, 6)).astype(np.float32)

    def two_stage(self, k: int, rerank: int, similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The oracle: similarities (Q, N) to everything, of which only the nearest codes are ranked."""
        values, ids = np.full((7, k), np.nan, np.float32), np.full((7, k), -1, np.int64)
        _, nearest = reference.search(self.codes, binarize(self.logits), rerank, self.alive)
        for query in range(7):
            rows = np.sort(nearest[query][nearest[query] >= 0])
            rows = rows[np.lexsort((rows, -similarities[query, rows]))][:k]
            values[query, : len(rows)], ids[query, : len(rows)] = similarities[query, rows], self.ids[rows]
        return values, ids


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "i")


def test_an_index_is_searched_by_logits(made: Made) -> None:
    for k in (1, 10, 309, 500):
        similarities, rows = expected(made.codes, made.logits, k, made.alive)
        found = made.index.search(made.logits, k, threads=2, metric="asymmetric")
        assert same(found, (similarities, np.where(rows < 0, -1, made.ids[rows])))
    assert made.index.search(binarize(made.logits), 3, metric="hamming")[0].dtype == np.int32
    with pytest.raises(SearchError, match="metric is 'cosine', expected hamming or asymmetric"):
        made.index.search(made.logits, 3, metric="cosine")  # type: ignore[call-overload]
    with pytest.raises(CodeError, match=r"expected floats of shape \(Q, 40\)"):
        made.index.search(made.logits[:, :39], 3, metric="asymmetric")
    with pytest.raises(CodeError, match="codes have dtype float32"):
        made.index.search(made.logits, 3)


@pytest.mark.parametrize("k,rerank", [(1, 1), (5, 20), (10, 10), (20, 309), (400, 1000)])
def test_the_nearest_codes_are_ranked_by_logits(made: Made, k: int, rerank: int) -> None:
    codes = binarize(made.logits)
    found = made.index.search_two_stage(codes, k, rerank, logits=made.logits, threads=2)
    assert found.score == "asymmetric"
    assert same(found[:2], made.two_stage(k, rerank, defined(made.logits, made.codes)))
    if rerank >= 310:
        assert same(found[:2], made.index.search(made.logits, k, metric="asymmetric")), "all of them: one stage"


@pytest.mark.parametrize("k,rerank", [(1, 1), (5, 20), (10, 10), (20, 309), (400, 1000)])
@pytest.mark.parametrize(
    "dtype,kind",
    [("float16", CosineIndex), ("float32", CosineIndex), ("int8", CosineIndex), ("float32", InnerProductIndex)],
)
def test_the_nearest_codes_are_ranked_by_features(
    tmp_path: Path, dtype: str, kind: type[CosineIndex | InnerProductIndex], k: int, rerank: int
) -> None:
    score = "cosine" if kind is CosineIndex else "inner_product"
    made = Made(tmp_path / "i", dtype, score)
    everything = np.full((7, 400), -np.inf, np.float32)
    similarities, ids = kind.load(tmp_path / "i").search(made.queries, 310)
    np.put_along_axis(everything, np.argsort(made.ids)[ids - 1000], similarities, axis=1)
    found = made.index.search_two_stage(binarize(made.logits), k, rerank, features=made.queries)
    assert found.score == score and same(found[:2], made.two_stage(k, rerank, everything))
    if rerank >= 310:
        assert same((found.similarities[:, :310], found.ids[:, :310]), (similarities, ids))


def test_two_stages_of_nothing(tmp_path: Path) -> None:
    Store.create(tmp_path / "i", code_size=16, dim=3)
    codes, logits, features = np.zeros((2, 2), np.uint8), np.ones((2, 16), np.float32), np.ones((2, 3), np.float32)
    for index in (HammingIndex(16), HammingIndex.load(tmp_path / "i")):
        for ranked_by in ({"logits": logits}, {"features": features}):
            similarities, ids, _ = index.search_two_stage(codes, 2, 4, **ranked_by)
            assert np.isnan(similarities).all() and (ids == -1).all() and ids.shape == (2, 2)
        assert np.isnan(index.search(logits, 3, metric="asymmetric")[0]).all()
    similarities, ids, _ = HammingIndex(16).search_two_stage(codes[:0], 2, 4, logits=logits[:0])
    assert similarities.shape == ids.shape == (0, 2)


def test_two_stages_that_do_not_fit(made: Made) -> None:
    codes = binarize(made.logits)
    search = made.index.search_two_stage
    with pytest.raises(SearchError, match="give one of them"):
        search(codes, 3, 9)
    with pytest.raises(SearchError, match="give one of them"):
        search(codes, 3, 9, logits=made.logits, features=made.queries)
    with pytest.raises(SearchError, match="rerank is 2, expected a whole number from 3"):
        search(codes, 3, 2, logits=made.logits)
    with pytest.raises(SearchError, match="k is 0, expected a whole number from 1"):
        search(codes, 0, 2, logits=made.logits)
    with pytest.raises(SearchError, match="there are 7 codes and logits of 6 queries"):
        search(codes, 3, 9, logits=made.logits[:6])
    with pytest.raises(SearchError, match="there are 7 codes and features of 6 queries"):
        search(codes, 3, 9, features=made.queries[:6])
    with pytest.raises(SearchError, match=r"expected floats \(N, 6\)"):
        search(codes, 3, 9, features=made.queries[:, :5])
    with pytest.raises(CodeError, match="row 2 hold NaN"):
        search(codes, 3, 9, logits=np.where(np.arange(7)[:, None] == 2, np.nan, made.logits))
    only_codes = HammingIndex(40)
    only_codes.add(made.codes)
    with pytest.raises(SearchError, match="the index holds no features, only codes"):
        only_codes.search_two_stage(codes, 3, 9, features=made.queries)
