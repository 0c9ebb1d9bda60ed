"""benchmarks/gpu.py runs whole, on the simulated GPU and few codes; without one it says so."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import simulated_gpu
from simulated_gpu import SimulatedGpu

from hashret.errors import UsageError
from hashret.index import device_features

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture()
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    specification = importlib.util.spec_from_file_location("benchmark_of_gpu", FOLDER / "gpu.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for name in ("machine", "pages", "gpu_sides"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(module, "CHECKS", [(64, 3001, 6, 10, None), (65, 2000, 2, 3, 9)])
    monkeypatch.setattr(
        module,
        "grid",
        lambda quick: [
            module._row("one query", 64, 5000, 1, 10, must={"of_bandwidth": 0.75}, aim={"of_bandwidth": 0.92}),
            module._row("batch", 64, 2000, 9, 10, alive=0.8, must={"t_pairs_per_s": 1e-12}),
            module._row("batch, k = 1,000", 64, 2000, 9, 1000, alive=0.8, must={"of_k_10": 1e9}),
            module._row("beside", 64, 2000, 9, 10, beside=True),
            module._row("streamed", 64, 2000, 9, 10, streamed=True),
            module._row("vectors", "float16", 300, 40, 3),
        ],
    )
    monkeypatch.setattr(module, "compiler_report", lambda: "it takes seconds")
    gpu = SimulatedGpu()
    monkeypatch.setattr(module.devices, "open_device", lambda number: gpu)
    monkeypatch.setattr(device_features, "CPU_WORK", 0)
    monkeypatch.setattr(module, "read_bandwidth", lambda device, n_bytes: 1e9)
    return module


@pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")
def test_all_of_it(benchmark: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    arguments = ["--rounds", "2", "--json", "--markdown", str(page)]
    assert benchmark.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checked"] == 8 and document["gpu"] == "simulated"
    one, batch, many, beside, streamed, vectors = document["rows"]
    assert "scan_batch" in streamed["stages_ms"] and vectors["of_model"] > 0
    assert one["of_bandwidth"] == pytest.approx(8 * 5000 / (one["device_ms"] / 1e3) / 1e9)
    assert set(one["stages_ms"]) == {"scan_rows_1", "select_nearest"} and "scan_batch" in batch["stages_ms"]
    assert many["of_k_10"] == pytest.approx(many["device_ms"] / batch["device_ms"])
    for found in beside["peers"].values():
        assert found.keys() in ({"not_run"}, {"ms", "distances"}) and found.get("distances", "equal") == "equal"
    text = page.read_text("utf-8")
    assert text.startswith("# Search on a GPU, measured\n")
    assert (
        "\n| one query | 64 | 5,000 | 1 | 10 | " in text
        and "| 75 % of bandwidth: missed | 92 % of bandwidth: missed |" in text
    )
    assert "1e-12 T pairs/s: reached" in text and "1e+09 x k = 10: reached" in text
    assert "Not compiled here: it takes seconds." in text


def test_without_a_gpu_the_page_says_what_is_missing(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(number: int) -> None:
        raise UsageError("device cuda was asked for, but there is no NVIDIA driver; use device cpu")

    monkeypatch.setattr(benchmark.devices, "open_device", none)
    page = tmp_path / "page.md"
    assert benchmark.main(["--markdown", str(page), "--only", "one"]) == 2
    text = page.read_text("utf-8")
    assert "**Not run: there is no NVIDIA driver. The figures of a GPU are still missing.**" in text
    assert (
        "| one query | 64 | 5,000 | 1 | 10 | not run | | | | | 75 % of bandwidth | 92 % of bandwidth |"
        in text.replace("  ", " ")
    )
    assert "batch" not in text and capsys.readouterr().out == text + "\n"
    assert benchmark.main(["--only", "beside"]) == 2
    assert "| beside, 64 bits | torch | not run: there is no NVIDIA driver | | |" in capsys.readouterr().out


def test_what_the_compiler_says(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    monkeypatch.undo()
    report = benchmark.compiler_report()
    assert {(row["arch"], row["bits"]) for row in report} == {(a, b) for a in ("sm_80", "sm_90") for b in (64, 128)}
    assert {row["spilled_bytes"] for row in report} == {0} and min(row["registers"] for row in report) >= 8
    assert next(row for row in report if row["kernel"] == "scan_batch")["shared_bytes"] > 10_000


def test_the_peers_of_one_process() -> None:
    """As far as they go without a GPU: the data are the same wherever they are made, and who cannot run says why."""
    program = [sys.executable, str(FOLDER / "gpu_sides.py")]
    task = json.dumps({"n": 1000, "bits": 64, "queries": 32, "k": 3, "rounds": 1})
    for side in ("torch", "faiss"):
        done = subprocess.run([*program, side, task], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout).keys() in ({"not_run"}, {"ms", "distances"})


@pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")
def test_another_answer_ends_it(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WrongGallery(benchmark.Gallery):  # type: ignore[name-defined, misc]
        def search(self, queries_QB, k):  # type: ignore[no-untyped-def]
            distances, rows = super().search(queries_QB, k)
            return distances, rows[:, ::-1]

    monkeypatch.setattr(benchmark, "Gallery", WrongGallery)
    assert benchmark.main([]) == 1
    assert capsys.readouterr().err == "another answer: 3001 codes of 64 bits, k = 10\n"
