"""Galleries that do not fit into a device's memory: the bytes of the reference, however they are cut and streamed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import simulated_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_gpu import SimulatedGpu

from hashret.codes import Codes, pack
from hashret.hamming import plain, reference
from hashret.hamming.gpu import search, streaming
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import Gallery
from hashret.hamming.gpu.streaming import Streamed, place

pytestmark = pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")

Parts = list[tuple[Codes, np.ndarray | None]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 512 rows, and a sample as if galleries were large."""
    monkeypatch.setattr(streaming, "PIECE_BYTES", 1)
    monkeypatch.setattr(search, "SAMPLE", 512)
    monkeypatch.setattr(search, "TIE_CHUNK", 256)
    monkeypatch.setattr(search, "LEAST_ROOM", 512)


def random_codes(rng: np.random.Generator, n: int, bits: int, distinct: int) -> Codes:
    return pack(rng.integers(0, 2, (distinct, bits)))[rng.integers(0, distinct, n)]


def same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def cut(gallery: Codes, alive: np.ndarray | None, cuts: list[int]) -> Parts:
    edges = [0, *cuts, len(gallery)]
    parts: Parts = []
    for start, stop in itertools.pairwise(edges):
        parts.append((gallery[start:stop], None if alive is None else alive[start:stop]))
    return parts


@settings(deadline=None, max_examples=12)
@given(
    bits=st.sampled_from([8, 64, 65, 200]),
    n=st.integers(0, 5000),
    n_queries=st.integers(0, 6),
    k=st.sampled_from([1, 7, 300, 6000]),
    distinct=st.sampled_from([1, 3, 5000]),
    with_flags=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_shape_in_any_order(
    bits: int, n: int, n_queries: int, k: int, distinct: int, with_flags: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery, queries = random_codes(rng, n, bits, distinct), random_codes(rng, n_queries, bits, 5)
    alive = rng.random(n) < rng.random() if with_flags else None
    cuts = np.sort(rng.integers(0, n + 1, rng.integers(0, 4))).tolist()
    held = Gallery(Streamed(SimulatedGpu(seed), cut(gallery, alive, cuts), gallery.shape[1]))
    assert same(held.search(queries, k), plain.search(gallery, queries, k, alive))
    radii = rng.integers(0, bits // 2 + 1, n_queries)
    assert same(held.search_radii(queries, radii), plain.search_radii(gallery, queries, radii, alive))


def test_one_pass_is_enough_and_the_sample_stays(tmp_path: Path) -> None:
    """Of a mapped file, as it comes from an index."""
    rng = np.random.default_rng(0)
    gallery, queries = random_codes(rng, 9001, 64, 9001), random_codes(rng, 2, 64, 2)
    gallery.tofile(tmp_path / "codes")
    mapped = np.memmap(tmp_path / "codes", np.uint8, "r", shape=gallery.shape)
    gpu = SimulatedGpu()
    held = Gallery(Streamed(gpu, [(mapped, None)], 8))
    for _ in range(2):
        gpu.started.clear()
        assert same(held.search(queries, 5), reference.search(gallery, queries, 5))
        assert gpu.started == ["count_distances", "reach_of_rank", *["scan_rows_2"] * 18, "select_nearest"]


@pytest.mark.parametrize("cuts", [[], [3, 3, 700, 4000]])
def test_the_sample_is_that_of_a_gallery_in_memory(cuts: list[int]) -> None:
    rng = np.random.default_rng(0)
    gallery = random_codes(rng, 9001, 64, 9001)
    gallery[:, :2] = np.arange(9001, dtype=">u2").view(np.uint8).reshape(-1, 2)  # a row knows its number
    alive = rng.random(9001) < 0.5
    gpu = SimulatedGpu()
    parts = cut(gallery, alive, cuts)
    for stride in (1, 3, 17):
        seen = []
        for pieces in (Resident(gpu, parts, 8), Streamed(gpu, parts, 8)):
            rows = []
            with gpu.turn():
                for piece, begin, step in pieces.sample(stride):
                    codes, flags = gpu.get(piece.codes).view(np.uint8), gpu.get(piece.alive)
                    for first in range(begin, len(codes), 512 * step):
                        numbers = np.ascontiguousarray(codes[first : first + 512, :2]).view(">u2")[:, 0]
                        rows += zip(numbers.tolist(), flags[first : first + 512].tolist(), strict=True)
            seen.append(rows)
        assert seen[0] == seen[1] and all(alive[row] == flag for row, flag in seen[0])
        assert stride > 1 or len(seen[0]) == 9001


def test_it_is_streamed_where_it_does_not_fit() -> None:
    rng = np.random.default_rng(0)
    first, second = random_codes(rng, 1000, 96, 1000), random_codes(rng, 600, 96, 600)
    flags = rng.random(600) < 0.5
    # Two words a code and a byte a flag: 16,000 and 10,200 bytes, of a share of 0.8.
    assert isinstance(place(SimulatedGpu(free=20_000), [(first, None)], 12), Resident)
    assert isinstance(place(SimulatedGpu(free=19_999), [(first, None)], 12), Streamed)
    gpu = SimulatedGpu(free=20_000)
    before = place(gpu, [(first, None)], 12)
    gpu.free = 12_750
    after = place(gpu, [(first, None), (second, flags)], 12, before)
    assert isinstance(after, Resident) and next(after.each()).codes is next(before.each()).codes
    gpu.free = 12_749
    streamed = place(gpu, [(first, None), (second, flags)], 12, before)
    assert isinstance(streamed, Streamed) and (streamed.n, streamed.n_alive) == (1600, 1000 + flags.sum())
    gpu.free = 1 << 20
    assert isinstance(place(gpu, [(first, None)], 12, streamed), Resident)
    assert isinstance(place(SimulatedGpu(free=0), [], 12), Resident)
