"""benchmarks/encoding.py and benchmarks/training.py run whole on few small pictures, and say what was not run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_pictures

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import encoding as bench
import training

from hashret.model import Hasher, build


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("bench") / "hues", classes=3, pictures=6)


def columns(page: str) -> list[int]:
    """Cells of each line of the tables, which must not break."""
    return [line.count("|") for line in page.splitlines() if line.startswith("|")]


def test_encoding(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path / "cache"))
    page = tmp_path / "page.md"
    words = ["--quick", "--data", str(pictures), "--device", "cpu", "--pictures", "24", "--batch-size", "6"]
    words += ["--image-size", "32", "--rounds", "2", "--seconds", "0.1", "--json", "--markdown", str(page)]
    assert bench.main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["answers"] == "equal" and document["command"].endswith("--quick --data TABLE --seconds 0.1")
    alone = [row for row in document["rows"] if row["what"] == "network alone"]
    ran = {(row["precision"], row["layout"]) for row in alone if row["pictures_per_s"]}
    assert ran == {(precision, layout) for precision in ("float32", "bfloat16") for layout in bench.LAYOUTS}
    encoding = [row for row in document["rows"] if row not in alone]
    assert [row["what"] for row in encoding] == ["encoding, from the cache", "encoding, from files"]
    rate = next(
        row["pictures_per_s"] for row in alone if (row["precision"], row["layout"]) == ("float32", "channels last")
    )
    assert all(row["lost"] == pytest.approx(1 - row["pictures_per_s"] / rate) for row in encoding)
    rough, half = document["bits"][:2]
    assert (rough["precision"], half["precision"]) == ("bfloat16", "float16")
    assert 0 < half["error"] < rough["error"] < 0.3 and rough["bits"] % (64 * 6) == 0
    text = page.read_text("utf-8")
    assert text.count("not run") == 3 + 4 and set(columns(text)) == {7, 9}


def test_bits_that_turned_are_counted() -> None:
    hasher = Hasher(build("resnet18", 3, image_size=32).network, build(image_size=32).preprocess, thresholds=[0, 1, 0])
    expected = np.array([[1, 1.5, -1], [-1, 0.5, 1], [2, 1.5, -2], [-2, 0.5, 2]], np.float32)
    found = expected + np.array([[0, -0.6, 0], [0, 0.4, 0.5], [0, 0, 2.5], [0, 0, 0]], np.float32)
    row = bench.turned(hasher, expected, found)
    assert (row["bits"], row["turned"], row["per_million"], row["codes_changed"]) == (12, 2, 1e6 / 6, 0.5)
    # The second bit's logits have a deviation of 0.5 around its threshold, the third's of 1.58.
    assert row["farthest"] == pytest.approx(max(0.5 / 0.5, 2 / np.sqrt(2.5)))
    same = bench.turned(hasher, expected, expected)
    assert (same["turned"], same["farthest"], same["error"]) == (0, None, 0)


def test_a_settled_network_spreads_its_logits_around_0() -> None:
    torch.manual_seed(0)
    hasher = build("resnet18", 16, image_size=32)
    pixels = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    bench.settle(hasher, pixels)
    logits, _ = hasher.run_batch(pixels)
    assert not hasher.network.training
    assert logits.mean(dim=0).abs().max() < 0.5 and 0.5 < logits.std(dim=0).mean() < 2


def test_training(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    page = tmp_path / "page.md"
    words = ["--quick", "--data", str(pictures), "--device", "cpu", "--pictures", "36", "--batch-size", "8"]
    words += ["--image-size", "32", "--rounds", "1", "--workers", "0", "--json", "--markdown", str(page)]
    assert training.main(words) == 0
    document = json.loads(capsys.readouterr().out)
    ours, plain = document["rows"]
    assert ours["how"] == "float32, channels last, pictures from the cache" and plain["side"] == "plain"
    assert document["times_as_fast"] == pytest.approx(ours["pictures_per_s"] / plain["pictures_per_s"])
    assert document["losses"] == "finite" and document["epochs"] == 2
    text = page.read_text("utf-8")
    assert "On a GPU: not run" in text and set(columns(text)) == {5}
