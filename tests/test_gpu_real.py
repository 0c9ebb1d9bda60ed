"""On a real GPU: what the simulated one cannot show. Skipped where there is none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashret import hamming
from hashret.codes import pack
from hashret.errors import UsageError
from hashret.hamming import plain
from hashret.hamming.gpu import costs, device, streaming
from hashret.hamming.gpu.device import Device
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import Gallery
from hashret.index import CosineIndex, HammingIndex, InnerProductIndex, device_features
from hashret.index.cosine import FeatureIndex


@pytest.fixture(scope="module")
def gpu() -> Device:
    try:
        return device.open_device(0)
    except UsageError as error:
        pytest.skip(str(error))


def codes(rng: np.random.Generator, n: int, bits: int = 64, distinct: int | None = None) -> np.ndarray:
    made = pack(rng.integers(0, 2, (distinct or n, bits), np.uint8))
    return made if distinct is None else made[rng.integers(0, distinct, n)]


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("bits", [1, 32, 64, 65, 128, 192, 250, 256, 512, 1000, 1024])
def test_every_code_size_and_hostile_numbers_of_codes(gpu: Device, bits: int) -> None:
    rng = np.random.default_rng(bits)
    for n in (0, 1, 2, 63, 64, 65, 511, 513, 20_011):
        for distinct in (None, 1, 3):
            gallery, alive = codes(rng, n, bits, distinct if n else None), rng.random(n) < 0.7
            for n_queries in (1, 3, 4, 5, 33):
                queries = codes(rng, n_queries, bits)
                for flags in (None, alive):
                    held = Gallery(Resident(gpu, [(gallery, flags)], gallery.shape[1]))
                    for k in (1, 10, n + 2):
                        assert same(held.search(queries, k), plain.search(gallery, queries, k, flags))
            radii = rng.integers(0, bits + 1, n_queries)
            assert same(held.search_radii(queries, radii), plain.search_radii(gallery, queries, radii, alive))


@pytest.mark.parametrize("distinct", [None, 1, 2, 5000])
def test_large_galleries_with_samples_ties_and_pieces(gpu: Device, distinct: int | None) -> None:
    rng = np.random.default_rng(0)
    gallery = codes(rng, 1_500_007, 64, distinct)
    alive = rng.random(len(gallery)) < 0.9
    for flags in (None, alive):
        parts = [
            (gallery[a:b], None if flags is None else flags[a:b]) for a, b in ((0, 5), (5, 900_001), (900_001, None))
        ]
        held = Gallery(Resident(gpu, parts, 8))
        for n_queries, k in ((1, 10), (3, 1000), (40, 10), (7, 10_000)):
            queries = codes(rng, n_queries)
            assert same(held.search(queries, k), hamming.search(gallery, queries, k, alive=flags))


def test_streamed_pieces_have_arrived_before_they_are_used(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PIECE_BYTES", 1 << 20)
    rng = np.random.default_rng(0)
    gallery, queries = codes(rng, 2_000_003, 72), codes(rng, 50, 72)
    held = Gallery(streaming.Streamed(gpu, [(gallery[:700_001], None), (gallery[700_001:], None)], 9))
    expected = hamming.search(gallery, queries, 10, 72)
    for _ in range(5):
        assert same(held.search(queries, 10), expected)


def test_an_index_that_changes_asked_by_threads(gpu: Device, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = codes(rng, 300_000)
    here, there = HammingIndex(64), HammingIndex(64).to("cuda")
    for index in (here, there):
        index.add(given[:200_000])
        index.remove(index.ids[::7])
        index.add(given[200_000:])
    there.save(tmp_path / "index")
    batches = [codes(rng, int(n)) for n in rng.integers(1, 40, 30)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: there.search(batch, 10), batches))
    assert all(same(found, here.search(batch, 10)) for batch, found in zip(batches, answers, strict=True))
    assert same(there.search_radius(batches[0], 20), here.search_radius(batches[0], 20))


def test_costs_are_measured(gpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path))
    measured = costs.measure(gpu)
    assert costs.known_costs(gpu) == measured and measured.batch < measured.word < 1


def test_torch_in_and_out_on_a_stream_of_its_own(gpu: Device) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    rng = np.random.default_rng(0)
    gallery = codes(rng, 500_000)
    index = HammingIndex(64)
    index.add(gallery, ids=rng.permutation(len(gallery)))
    index.to("cuda")
    stream = torch.cuda.Stream()
    for n in (1, 3, 100):
        queries = codes(rng, n)
        expected = index.search(queries, 10)
        with torch.cuda.stream(stream):
            late = torch.zeros(queries.shape, dtype=torch.uint8, device="cuda")
            torch.cuda._sleep(50_000_000)  # the queries are there long after they were asked for
            late.copy_(torch.from_numpy(queries), non_blocking=True)
            distances, ids = index.search(late, 10)
            assert distances.device.type == "cuda" and distances.dtype == torch.int32 and ids.dtype == torch.int64
            doubled = ids * 2
            del ids  # its memory goes to another search only after the work on it
            index.search(late, 10)
        stream.synchronize()
        assert np.array_equal(distances.cpu().numpy(), expected[0])
        assert np.array_equal(doubled.cpu().numpy(), 2 * expected[1])
        found = hamming.search(torch.from_numpy(gallery).cuda(), late[:, :], 10)
        assert same(tuple(each.cpu().numpy() for each in found), hamming.search(gallery, queries, 10))
        odd = hamming.search(torch.from_numpy(gallery).cuda()[:, :7], late[:, :7], 10)
        assert same(tuple(each.cpu().numpy() for each in odd), hamming.search(gallery[:, :7], queries[:, :7], 10))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("kind", [CosineIndex, InnerProductIndex])
def test_float_vectors(gpu: Device, kind: type[FeatureIndex], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_features, "CPU_WORK", 0)
    rng = np.random.default_rng(0)
    for dim, n in ((1, 100), (7, 3000), (512, 60_001), (513, 129)):
        vectors, queries = rng.standard_normal((n, dim)), rng.standard_normal((130, dim))
        vectors[n // 2 : n // 2 + 20] = vectors[0]
        index = kind(dim, dtype)
        index.add(vectors)
        index.remove(index.ids[::5])
        for n_queries, k in ((1, 10), (9, 300), (130, 10)):
            index.to("cpu")
            expected = index.search(queries[:n_queries], k), index.search_radius(queries[:n_queries], 0.5)
            index.to("cuda")
            assert same(index.search(queries[:n_queries], k), expected[0])
            assert same(index.search_radius(queries[:n_queries], 0.5), expected[1])
