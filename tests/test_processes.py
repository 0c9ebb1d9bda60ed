"""Several processes train as one does: real processes over gloo, started as torchrun starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hashret.errors import UsageError
from hashret.training.processes import Processes

REPOSITORY = Path(__file__).parents[1]
SETTINGS = [
    *(
        "--backbone",
        "squeezenet1_1",
        "--image-size",
        "32",
        "--code-size",
        "16",
        "--epochs",
        "3",
        "--workers",
        "0",
        "--cache",
        "off",
    ),
    *("--classes-per-batch", "4", "--pictures-per-class", "3", "--augment", "light", "--device", "cpu", "--json"),
]


def command(count: int, *arguments: str) -> list[str]:
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [*(started if count > 1 else [sys.executable]), str(REPOSITORY / "train.py"), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def trained(
    pictures: Path, folder: Path, count: int, *more: str
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The tensors of the model and the log of a run of so many processes."""
    arguments = ["--data", str(pictures), "--runs", str(folder), "--exp-name", "run", *SETTINGS, *more]
    done = subprocess.run(command(count, *arguments), capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"  # one document, whatever the number of processes
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return load_file(folder / "run" / "model.safetensors"), log


SAME = ("--freeze-norm", "--ema", "0.9", "--clip", "5", "--classify-first", "0")


def test_two_processes_learn_what_one_does_with_the_whole_batch(closed_set: Path, tmp_path: Path) -> None:
    # With frozen batch norm nothing depends on who computes what, but for the order in which floats are added. ITQ would make
    # much of that, were codes to wait for features that were trained.
    alone, alone_log = trained(closed_set, tmp_path / "one", 1, *SAME)
    both, both_log = trained(closed_set, tmp_path / "two", 2, *SAME)
    assert [line["loss"] for line in both_log] == pytest.approx([line["loss"] for line in alone_log], rel=1e-4)
    assert len(both_log) == 3
    for name, tensor in alone.items():
        assert torch.allclose(both[name].float(), tensor.float(), atol=2e-4), name
    begun = trained(closed_set, tmp_path / "none", 1, *SAME, "--lr", "1e-12")[0]
    assert not torch.allclose(begun["head.linear.weight"], alone["head.linear.weight"], atol=2e-3)


def test_two_processes_stop_together_and_go_on(closed_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    arguments = ["--data", str(closed_set), "--runs", str(tmp_path / "runs"), "--exp-name", "run", *SETTINGS]
    longer = [*arguments, "--epochs", "40"]
    with subprocess.Popen(
        command(2, *longer), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and not (folder / "log.jsonl").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # torchrun hands it on to its processes
        process.communicate(timeout=120)
    document = json.loads((folder / "run.json").read_text())
    assert document["status"] == "interrupted" and (folder / "resume" / "state.pt").exists()
    resumed = subprocess.run(
        command(2, "--resume", str(folder), "--json"), capture_output=True, text=True, env=environment(), timeout=300
    )
    assert resumed.returncode == 0, resumed.stderr
    epochs = [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 41))


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    Processes(0, 4).check(64)
    with pytest.raises(UsageError, match="a batch of 12 pictures cannot be split evenly among 5 processes"):
        Processes(0, 5).check(12)


def test_one_process_alone_talks_to_nobody() -> None:
    alone = Processes()
    rows = torch.ones(3, requires_grad=True)
    assert alone.first and alone.gather(rows) is rows
    assert alone.any(True) and not alone.any(False) and alone.from_first({"a": 1}) == {"a": 1}
