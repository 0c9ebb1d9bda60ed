"""An index whose codes lie on a (simulated) GPU: the same bytes as on the CPU, whatever is added, deleted, saved and asked."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from simulated_gpu import SimulatedGpu

from hashret import hamming
from hashret.codes import pack
from hashret.errors import SearchError, UsageError
from hashret.hamming.gpu import costs, device, once
from hashret.hamming.gpu.costs import DeviceCosts
from hashret.index import HammingIndex, device_codes

pytestmark = pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")

FREE = DeviceCosts(call=-1e12, word=0, pair=0, batch=0, answer=0, sent=0)
"""So that the device is always chosen, even for nothing."""


@pytest.fixture()
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    simulated = SimulatedGpu()
    monkeypatch.setattr(device, "open_device", lambda number=0: simulated)
    monkeypatch.setattr(device_codes, "measured_costs", lambda device: FREE)
    return simulated


def codes(rng: np.random.Generator, n: int, bits: int = 64) -> np.ndarray:
    return pack(rng.integers(0, 2, (n, bits)))


def records(first: int, n: int) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "path": f"p{i}.jpg", "view": i % 3} for i in range(first, first + n)]


def compare(here: HammingIndex, there: HammingIndex, rng: np.random.Generator, gpu: SimulatedGpu) -> None:
    """All kinds of searches in both."""
    assert (here.device, there.device) == ("cpu", "simulated")
    for n_queries, k in ((1, 1), (3, 7), (9, 40), (0, 3)):
        queries = codes(rng, n_queries, here.code_size)
        for where in (None, "view = 1"):
            gpu.started.clear()
            *found, (how,) = there.search(queries, k, explain=True, where=where)
            for one, two in zip(here.search(queries, k, where=where), found, strict=True):
                assert one.dtype == two.dtype and np.array_equal(one, two)
            assert how.plan.device == "simulated" and how.codes == (len(here) if where is None else here.count(where))
            assert how.plan.kernel == ("tensor" if n_queries > 4 else "row")
            assert bool(gpu.started) == bool(n_queries and how.codes)
            for radius in (0, 20, here.code_size, 5000):
                *within, (how,) = there.search_radius(queries, radius, explain=True, where=where)
                for one, two in zip(here.search_radius(queries, radius, where=where), within, strict=True):
                    assert one.dtype == two.dtype and np.array_equal(one, two)
                assert how.plan.device == "simulated"


@pytest.mark.parametrize("bits", [64, 100])
def test_an_index_that_changes(bits: int, tmp_path: Path, gpu: SimulatedGpu) -> None:
    rng = np.random.default_rng(bits)
    here, there = HammingIndex(bits), HammingIndex(bits)
    assert there.to("cuda") is there
    first = codes(rng, 60, bits)
    compare(here, there, rng, gpu)
    for index in (here, there):
        index.add(first, records=records(0, 60))
    compare(here, there, rng, gpu)
    for index in (here, there):
        index.remove([0, 5, 59])
        index.add(first[:20], ids=range(100, 120), records=records(100, 20))
    compare(here, there, rng, gpu)
    for index, name in ((here, "here"), (there, "there")):
        index.save(tmp_path / name)
        index.add(first[:3], ids=[7, 8, 9], records=records(7, 3), upsert=True)
        index.save(tmp_path / name)
    compare(here, there, rng, gpu)
    other = HammingIndex.load(tmp_path / "there")
    other.add(first[:4], records=records(200, 4))
    other.save(tmp_path / "there")
    there.refresh()
    compare(other, there, rng, gpu)
    with pytest.raises(SearchError, match="k is 0"):
        there.search(first[:1], 0)
    with pytest.raises(SearchError, match="radius is -1"):
        there.search_radius(first[:1], -1)
    assert there.to("cpu").device == "cpu"
    gpu.started.clear()
    assert np.array_equal(there.search(first, 5)[1], other.search(first, 5)[1]) and not gpu.started


def test_codes_are_sent_once(tmp_path: Path, gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    index = HammingIndex(64)
    index.add(codes(rng, 500))
    index.to("cuda")
    sent: list[int] = []
    put = gpu.put
    monkeypatch.setattr(gpu, "put", lambda array: sent.append(array.nbytes) or put(array))  # type: ignore[func-returns-value]
    query = codes(rng, 1)
    index.search(query, 3)
    index.save(tmp_path / "index")
    index.search(query, 3)
    index.refresh()
    index.remove([3])
    index.save(tmp_path / "index")
    index.search(query, 3)
    assert max(sent) == 500, "the flags of 500 codes, and never their 4,000 bytes again"
    index.add(codes(rng, 40))
    index.search(query, 3)
    assert sent.count(40 * 8) == 1 and max(sent) == 500


def test_many_threads_ask_while_it_changes(gpu: SimulatedGpu) -> None:
    rng = np.random.default_rng(0)
    given = codes(rng, 300)
    index = HammingIndex(64).to("cuda")
    index.add(given[:100])

    def ask(i: int) -> int:
        if i % 4 == 0:
            index.add(given[100 + i : 104 + i])
        distances, ids = index.search(given[i % 100 : i % 100 + 1], 1)
        assert distances[0, 0] == 0
        return int(ids[0, 0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(40))) == list(range(40))


def test_two_stages(gpu: SimulatedGpu) -> None:
    rng = np.random.default_rng(0)
    given, logits = codes(rng, 200), rng.normal(size=(3, 64)).astype(np.float32)
    indexes = [HammingIndex(64), HammingIndex(64).to("cuda")]
    for index in indexes:
        index.add(given)
    here, there = (index.search_two_stage(given[:3], 5, 50, logits=logits) for index in indexes)
    assert np.array_equal(here.similarities, there.similarities) and np.array_equal(here.ids, there.ids)
    assert "select_nearest" in gpu.started


def test_little_work_stays_on_the_cpu(gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(device_codes, "measured_costs", lambda device: DeviceCosts(call=1e12))
    index = HammingIndex(64)
    index.add(codes(rng, 100))
    index.to("cuda")
    *_, (how,) = index.search(codes(rng, 2), 3, explain=True)
    assert how.plan.device == "cpu" and "; simulated: 1e+06 ms" in how.plan.reason and not gpu.started
    *_, (how,) = index.search_radius(codes(rng, 2), 3, explain=True)
    assert how.plan.device == "cpu" and "; simulated: " in how.plan.reason and not gpu.started


def test_costs_of_a_device_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path))
    gpu = SimulatedGpu()
    assert costs.known_costs(gpu) is None
    measured = costs.measure(gpu, 2048, 6)
    assert min(vars(measured).values()) > 0
    assert costs.known_costs(gpu) == costs.measured_costs(gpu) == measured
    (file,) = tmp_path.rglob("gpu-simulated.json")
    stored = json.loads(file.read_text())
    assert measured.of_search(1000, 2, 1, 10, True) < measured.of_search(1000, 2, 3, 10, True)
    assert measured.of_search(1000, 2, 9, 10, True) < measured.of_search(1000, 2, 9, 10, True, 10**9)
    del stored["batch"]
    for text in ("{", json.dumps(stored)):
        file.write_text(text)
        assert costs.known_costs(gpu) is None


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(number: int = 0) -> None:
        raise UsageError("device cuda was asked for, but there is no NVIDIA driver; use device cpu")

    monkeypatch.setattr(device, "open_device", none)
    index = HammingIndex(64)
    with pytest.raises(UsageError, match="there is no NVIDIA driver"):
        index.to("cuda")
    with pytest.raises(UsageError, match="there is no device 'tpu' to search on"):
        index.to("tpu")
    assert index.to("auto").device == "cpu"


def test_arrays_are_sent_for_one_search(gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    gallery, alive = codes(rng, 700, 72), rng.random(700) < 0.5
    few = rng.random(700) < 0.05
    monkeypatch.setattr(once, "measured_costs", lambda device: DeviceCosts(call=1e12))
    for n_queries, flags in ((1, None), (7, alive), (3, few)):
        queries = codes(rng, n_queries, 72)
        for name in ("cuda", "auto"):
            gpu.started.clear()
            *found, how = hamming.search(gallery, queries, 900, 72, flags, device=name, explain=True)
            for one, two in zip(hamming.search(gallery, queries, 900, 72, flags), found, strict=True):
                assert one.dtype == two.dtype and np.array_equal(one, two)
            *within, _ = hamming.search_radius(gallery, queries, 30, 72, flags, device=name, explain=True)
            for one, two in zip(hamming.search_radius(gallery, queries, 30, 72, flags), within, strict=True):
                assert one.dtype == two.dtype and np.array_equal(one, two)
            assert how.plan.device == ("simulated" if name == "cuda" else "cpu") and bool(gpu.started) == (
                name == "cuda"
            )
            assert ("as asked for" if name == "cuda" else "; simulated: 1e+06 ms") in how.plan.reason
    assert how.lines()[0].startswith(f"{how.plan.kernel} kernel on 1 thread")
    monkeypatch.setattr(once, "measured_costs", lambda device: FREE)
    *_, how = hamming.search(gallery, queries, 3, device="auto", explain=True)
    assert how.plan.device == "simulated" and how.lines()[0].startswith("row kernel on simulated: the cheapest; ")
    assert len(hamming.search(gallery[:0], queries, 3, device="cuda")[0]) == 3
