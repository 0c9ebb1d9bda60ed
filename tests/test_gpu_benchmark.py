"""benchmarks/gpu.py runs whole, on the simulated GPU and few codes; without one it says so."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import simulated_gpu
from simulated_gpu import SimulatedGpu

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture()
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    specification = importlib.util.spec_from_file_location("benchmark_of_gpu", FOLDER / "gpu.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for name in ("machine", "pages"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(module, "CHECKS", [(64, 3001, 6, 10, None), (65, 2000, 2, 3, 9)])
    monkeypatch.setattr(
        module,
        "grid",
        lambda quick: [
            module._row("one query", 64, 5000, 1, 10, must="75 % of bandwidth", aim="92 %"),
            module._row("batch", 64, 2000, 9, 10, torch=True),
        ],
    )
    monkeypatch.setattr(module, "read_bandwidth", lambda device, n_bytes: 1e9)
    return module


@pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")
def test_all_of_it(benchmark: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    arguments = ["--rounds", "2", "--json", "--markdown", str(page)]
    assert benchmark.main(arguments, SimulatedGpu()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checked"] == 8 and document["gpu"] == "simulated"
    one, batch = document["rows"]
    assert one["of_bandwidth"] == pytest.approx(8 * 5000 / (one["device_ms"] / 1e3) / 1e9)
    assert batch["torch"].keys() in ({"not_run"}, {"device_ms", "distances"})
    lines = page.read_text("utf-8").splitlines()
    assert lines[0] == "# Search on a GPU, measured"
    assert lines[-2].startswith("| one query | 64 | 5,000 | 1 | 10 | ") and lines[-2].endswith(
        "| 75 % of bandwidth | 92 % |"
    )
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


@pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")
def test_another_answer_ends_it(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WrongGallery(benchmark.Gallery):  # type: ignore[name-defined, misc]
        def search(self, queries_QB, k):  # type: ignore[no-untyped-def]
            distances, rows = super().search(queries_QB, k)
            return distances, rows[:, ::-1]

    monkeypatch.setattr(benchmark, "Gallery", WrongGallery)
    assert benchmark.main([], SimulatedGpu()) == 1
    assert capsys.readouterr().err == "another answer: 3001 codes of 64 bits, k = 10\n"
