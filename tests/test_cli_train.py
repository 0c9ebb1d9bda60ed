"""`hashret train` and `hashret runs` as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY

from hashret.data.sources import open_source
from hashret.model.hasher import Hasher
from hashret.training.loop import train
from hashret.training.options import TrainingOptions
from hashret.training.runs import Run, create_run
from hashret.training.updates import Updater

ROOT = Path(__file__).parent.parent
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
ISSUE = ["--exp_name", "CUB_32", "--code_size", "32", "--triplet_margin", "8", "--dataset_name", "CUB_200_2011"]


WITHOUT_PAIRS = [
    word for flag, value in zip(TINY[::2], TINY[1::2], strict=True)
    if flag not in ("--classes-per-batch", "--pictures-per-class") for word in (flag, value)
]  # fmt: skip
"""TINY for objectives that do not compare the pictures of a batch."""


def settings(run: Path) -> dict:
    return json.loads((run / "run.json").read_text("utf-8"))


# ---- a run


def test_train_says_what_it_did_and_keeps_what_it_says(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    status, out, err = hashret("train", "--data", closed_set, "--runs", tmp_path, "--exp-name", "a", *TINY)
    assert status == 0
    assert out.startswith(f"done after 2 epochs; {tmp_path / 'a'} holds epoch ") and out.count("\n") == 1
    assert "epoch 1/2: loss" in err and "epoch 2/2: loss" in err and "Traceback" not in err
    scores = Hasher.from_pretrained(tmp_path / "a", device="cpu").scores
    assert f"holds epoch {scores['epoch']}: validation mAP {scores['map']:.4f}, hit@1 {scores['hit1']:.4f}" in out


def test_json_is_one_document_and_nothing_else(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    status, out, _ = hashret("train", "--data", closed_set, "--runs", tmp_path, *TINY, "--epochs", 1, "--json")
    document = json.loads(out)
    assert status == 0
    assert document["run"] == str(tmp_path / "hues_16"), "the default name is made of data and code size"
    assert (document["status"], document["epochs"], document["best_epoch"]) == ("done", 1, 1)
    assert 0 < document["best_map"] <= 1 and 0 <= document["best_hit1"] <= 1


def test_a_batch_takes_all_classes_where_there_are_few(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    at = TINY.index("--classes-per-batch")
    words = ["train", "--data", closed_set, "--runs", tmp_path, "--exp-name", "a", *TINY[:at], *TINY[at + 2 :]]
    assert hashret(*words, "--epochs", 1).status == 0
    assert settings(tmp_path / "a")["options"]["classes_per_batch"] == 6


def test_the_spellings_of_the_source_project(
    hashret: Callable, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(closed_set, tmp_path / "CUB_200_2011")
    without_code_size = [*TINY[: TINY.index("--code-size")], *TINY[TINY.index("--code-size") + 2 :]]
    assert hashret("train", *ISSUE, *without_code_size, "--epochs", 1).status == 0
    run = settings(tmp_path / "runs" / "CUB_32")
    assert (run["options"]["code_size"], run["options"]["margin"], run["margin"]) == (32, 8.0, 8.0)
    assert run["source"]["data"] == str(tmp_path / "CUB_200_2011")


def test_the_issues_command_fails_only_for_its_data(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *ISSUE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hashret: there is no folder, CSV, zip or data set 'CUB_200_2011'")
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "name"), [(".", "hues_8"), ("../hues", "hues_8"), ("class00/../", "hues_8"), ("../hues.v2", "hues.v2_8")]
)
def test_names_of_runs_come_from_the_datas_name(
    hashret: Callable, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, name: str
) -> None:
    shutil.copytree(closed_set, tmp_path / "hues")
    shutil.copytree(closed_set, tmp_path / "hues.v2")
    monkeypatch.chdir(tmp_path / "hues")
    words = ["--runs", tmp_path / "runs", *TINY, "--code-size", 8, "--epochs", 1]
    assert hashret("train", "--data", data, *words).status == 0
    assert [run.name for run in (tmp_path / "runs").iterdir()] == [name]


def test_flags_of_the_loss_reach_the_run(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    flags = {
        "--mining": "hard", "--hinge": "softplus", "--sign-weight": 0.5, "--proxy-weight": 0.25, "--memory": 64,
        "--balance": 0.125, "--quantisation": 2.0,
    }  # fmt: skip
    words = ["train", "--data", closed_set, "--runs", tmp_path, *TINY, "--code-size", 24, "--epochs", 1, "--nested"]
    assert hashret(*words, *(word for flag in flags.items() for word in flag), "--exp-name", "a").status == 0
    options = settings(tmp_path / "a")["options"]
    assert {flag: options[flag[2:].replace("-", "_")] for flag in flags} == flags and options["nested"] is True
    words = ["train", "--data", closed_set, "--runs", tmp_path, *WITHOUT_PAIRS, "--epochs", 1, "--exp-name", "b"]
    assert hashret(*words, "--objective", "classification", "--through", "codes", "--balance", "auto").status == 0
    run = settings(tmp_path / "b")
    assert (run["options"]["through"], run["options"]["balance"], run["margin"]) == ("codes", "auto", None)


# ---- refusals


def test_a_flag_that_the_objective_does_not_read(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    words = ["train", "--data", closed_set, "--runs", tmp_path, *WITHOUT_PAIRS, "--objective"]
    for flags, message in (
        (["cosine", "--mining", "hard"], "--mining is hard, but --objective cosine does not read it (triplet would)"),
        (["classification", "--nested"], "--nested is about codes"),
        (["easy"], "invalid choice: 'easy'"),
        (["dtsh", "--margin", "wide"], "'wide' is neither a number nor 'auto'"),
    ):
        status, out, err = hashret(*words, *flags)
        assert (status, out) == (2, "") and message in err
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_no_path(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    for name in ("a/b", "..", ""):
        status, out, err = hashret("train", "--data", closed_set, "--runs", tmp_path, "--exp-name", name, *TINY)
        assert (status, out) == (2, "") and "is a name and no path" in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_written_over(hashret: Callable, closed_set: Path, tiny_run: Path) -> None:
    before = (tiny_run / "model.safetensors").read_bytes()
    status, _, err = hashret("train", "--data", closed_set, "--runs", tiny_run.parent, "--exp-name", "tiny", *TINY)
    assert status == 1 and "is not empty; give the run another --exp-name" in err
    assert (tiny_run / "model.safetensors").read_bytes() == before


def test_broken_pictures_stop_it_or_are_listed(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    data = shutil.copytree(closed_set, tmp_path / "set")
    (data / "class00" / "깨짐.png").write_bytes(b"no picture")
    words = ["train", "--data", data, "--runs", tmp_path / "runs", "--exp-name", "a", *TINY, "--epochs", 1]
    status, _, err = hashret(*words)
    assert status == 1 and "깨짐.png" in err and err.count("\n") == 1
    assert not (tmp_path / "runs" / "a").exists(), "a run that never began leaves its name free"
    status, _, err = hashret(*words, "--on-bad", "skip")
    listed = tmp_path / "runs" / "a" / "skipped.txt"
    assert status == 0 and f"1 picture cannot be read; it is listed in {listed}" in err
    assert listed.read_text("utf-8").count("\n") == 1 and "깨짐.png\t" in listed.read_text("utf-8")


def test_data_that_cannot_be_trained_on_leaves_the_name_free(
    hashret: Callable, closed_set: Path, tmp_path: Path
) -> None:
    lonely = tmp_path / "set" / "only"
    shutil.copytree(closed_set / "class00", lonely)
    (lonely / "broken.png").write_bytes(b"")
    status, _, err = hashret("train", "--data", lonely.parent, "--runs", tmp_path / "runs", "--on-bad", "skip", *TINY)
    assert status == 1 and "triplets need at least 2" in err
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_unwritable_place_is_found_before_the_first_epoch(
    hashret: Callable, closed_set: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    status, _, err = hashret("train", "--data", closed_set, "--runs", tmp_path / "file", *TINY)
    assert status == 1 and "cannot be written" in err and "epoch" not in err


def test_a_missing_gpu_is_said(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, _, err = hashret("train", "--data", closed_set, "--runs", tmp_path, *TINY, "--device", "cuda")
    assert status == 2 and "finds no CUDA GPU; use --device cpu" in err


@pytest.mark.parametrize("kilobytes", [200, 4000])
def test_a_full_disk_is_one_sentence(closed_set: Path, tmp_path: Path, kilobytes: int) -> None:
    resource = pytest.importorskip("resource")
    words = ["-m", "hashret", "train", "--data", closed_set, "--runs", tmp_path, "--exp-name", "a", *TINY]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env=ONE_THREAD, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024,) * 2),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "the state to resume from cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and settings(tmp_path / "a")["status"] == "failed"


def test_pictures_are_read_only_where_training_needs_them(
    hashret: Callable, unseen_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(unseen_set, data)
    broken = {split: sorted((data / split).rglob("*.png"))[0] for split in ("train", "test")}
    for path in broken.values():
        path.write_bytes(b"no picture")
    words = ["train", "--data", data, "--runs", tmp_path, "--exp-name", "a", *TINY]
    status, _, err = hashret(*words)
    assert status == 1 and str(broken["train"]) in err and not (tmp_path / "a").exists()

    step, calls = Updater.__call__, [0]

    def interrupted_in_the_second_epoch(*args: object) -> object:
        calls[0] += 1
        return ctrl_c() if calls[0] == 3 else step(*args)

    with monkeypatch.context() as patched:
        patched.setattr(Updater, "__call__", interrupted_in_the_second_epoch)
        assert hashret(*words, "--on-bad", "skip").status == 130
    listed = (tmp_path / "a" / "skipped.txt").read_text("utf-8")
    assert listed.startswith(f"{broken['train']}\t") and listed.count("\n") == 1, "the broken test picture was not read"
    assert hashret("train", "--resume", tmp_path / "a").status == 0


# ---- interruption


def test_ctrl_c_saves_and_resume_goes_on(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    epochs = 25
    run = tmp_path / "runs" / "a"
    words = ["train.py", "--data", closed_set, "--runs", run.parent, "--exp-name", "a", *TINY, "--epochs", str(epochs)]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (run / "log.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == f"interrupted; continue with: hashret train --resume {run}\n"
    assert "Traceback" not in err and settings(run)["status"] == "interrupted"
    assert 0 < settings(run)["result"]["epochs"] < epochs
    listed = hashret("runs", "--runs", run.parent).out.splitlines()[1].split()
    assert listed[:2] == ["a", "interrupted"] and listed[2].endswith(f"/{epochs}")

    for flags, flag in (
        (["--lr", "3e-3"], "--lr"),
        (["--data", closed_set], "--data"),
        (["--label-map", "x.csv"], "--label-map"),
        (["--exp-name", "b"], "--exp-name"),
        (["--keep-epochs"], "--keep-epochs"),
        (["--on-bad", "skip"], "--on-bad"),
    ):
        status, out, err = hashret("train", "--resume", run, *flags)
        assert (status, out) == (2, "") and err.startswith(f"hashret: {flag} cannot change when a run is continued")

    with Run(run).writing():
        status, out, err = hashret("train", "--resume", run)
    assert (status, out) == (1, "") and "is being trained by another process; wait" in err

    # By its name; settings that are the run's own may be repeated; where it is computed may change.
    again = ["--runs", run.parent, "--resume", "a", "--lr", "1e-3", "--workers", 0, "--json"]
    status, out, err = hashret("train", *again)
    assert status == 0, err
    assert json.loads(out)["status"] == "done" and json.loads(out)["epochs"] == epochs
    logged = [json.loads(line)["epoch"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert logged == list(range(1, epochs + 1))
    assert settings(run)["options"]["device"] == "cpu", "the run's own device, where none is given"

    status, out, err = hashret("train", "--resume", run)
    assert (status, out) == (2, "") and "is finished (done); there is nothing to resume" in err


def ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def test_resume_finds_the_run_beside_pictures_of_its_name_from_any_folder(
    hashret: Callable, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(closed_set, "cars")
    assert hashret("train", "--data", "cars", "--exp-name", "first", *TINY, "--epochs", 1).status == 0
    weights = ["--weights", "first/model.safetensors", "--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5]
    shutil.copytree("runs/first", "first")
    with monkeypatch.context() as patched:
        patched.setattr("hashret.training.loop.Updater.__call__", ctrl_c)
        assert hashret("train", "--data", "cars", "--exp-name", "cars", *TINY, *weights).status == 130
    assert settings(tmp_path / "runs" / "cars")["status"] == "interrupted"
    (tmp_path / "elsewhere" / "cars").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert hashret("train", "--runs", "../runs", "--resume", "cars").status == 0
    assert settings(tmp_path / "runs" / "cars")["status"] == "done"


def test_what_cannot_be_resumed(hashret: Callable, closed_set: Path, tmp_path: Path) -> None:
    options = TrainingOptions(
        backbone="squeezenet1_1",
        image_size=32,
        epochs=1,
        classes_per_batch=4,
        pictures_per_class=3,
        device="cpu",
        workers=0,
    )
    python = create_run(tmp_path / "python")
    train(open_source(closed_set), options, python)
    python.write({**python.read(), "status": "interrupted"})
    status, _, err = hashret("train", "--resume", tmp_path / "python")
    assert status == 2 and "was started from Python" in err
    (tmp_path / "python" / "run.json").write_text("[]")
    status, _, err = hashret("train", "--resume", tmp_path / "python")
    assert status == 1 and "does not describe a training run" in err
    (tmp_path / "python" / "run.json").write_text("{")
    status, _, err = hashret("train", "--resume", tmp_path / "python")
    assert status == 1 and "cannot be read" in err and err.count("\n") == 1


# ---- runs


def test_runs_lists_them_best_first_whatever_became_of_them(hashret: Callable, tiny_run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("killed", "begun", "나쁨"):
        shutil.copytree(tiny_run, runs / name)
    document = settings(tiny_run)
    unfinished = {key: value for key, value in document.items() if key not in ("result", "seconds")}
    for name in ("killed", "begun"):
        (runs / name / "run.json").write_text(json.dumps({**unfinished, "status": "running"}))
    first = (tiny_run / "log.jsonl").read_text().splitlines()[0]
    (runs / "killed" / "log.jsonl").write_text(first + "\n")
    (runs / "begun" / "log.jsonl").unlink()
    (runs / "나쁨" / "run.json").write_text("{}")
    shutil.copytree(tiny_run, runs / "whole")
    (runs / "no run").mkdir()

    listed = json.loads(hashret("runs", "--runs", runs, "--json").out)
    by_name = {run["run"]: run for run in listed}
    assert sorted(by_name) == sorted(["killed", "begun", "나쁨", "whole"])
    scores = [run["val_map"] or 0 for run in listed]
    assert scores == sorted(scores, reverse=True)
    assert by_name["whole"] == {
        "run": "whole", "status": "done", "epochs": "2/2", "best": document["result"]["best_epoch"],
        "val_map": document["result"]["best_map"], "val_hit1": document["result"]["best_hit1"], "bits": 16,
            "objective": "triplet", "margin": 24.0,
        "backbone": "squeezenet1_1", "task": "closed", "validation": document["validation"], "data": "hues",
        "findings": [],
    }  # fmt: skip
    assert by_name["killed"]["epochs"] == "1/2" and by_name["killed"]["val_map"] == json.loads(first)["val_map"]
    assert (by_name["begun"]["status"], by_name["begun"]["epochs"], by_name["begun"]["val_map"]) == (
        "running",
        "0/2",
        None,
    )
    assert by_name["나쁨"]["status"] == "unreadable"
    status, out, err = hashret("runs", "--runs", runs)
    assert status == 0 and err == "" and len(out.splitlines()) == 5


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_no_runs(hashret: Callable, tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    status, out, _ = hashret("runs", "--runs", tmp_path / folder)
    assert status == 0 and out == f"no runs in {tmp_path / folder}; `hashret train` makes one\n"
    assert hashret("runs", "--runs", tmp_path / folder, "--json").out == "[]\n"
