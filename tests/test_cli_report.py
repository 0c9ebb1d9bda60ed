"""`hashret report` as a user types it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from conftest import TINY, make_pictures
from test_report import checked

from hashret.cli import report, train
from hashret.cli.report import train_command
from hashret.data.sources import open_source
from hashret.training.options import TrainingOptions
from hashret.training.runs import Run

CPU = ["--device", "cpu", "--workers", 0]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of its own."""
    return shutil.copytree(tiny_run, tmp_path / "실행")


def reported(hashret: Callable, *words: object) -> tuple[dict[str, Any], Any]:
    status, out, err = hashret("report", *words, *CPU, "--json")
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    html = Path(document["out"]).read_text("utf-8")
    assert document["bytes"] == len(html.encode())
    return document, checked(html)


def test_it_looks_at_what_the_run_was_validated_on(hashret: Callable, run: Path) -> None:
    document, page = reported(hashret, run)
    result = Run(run).read()["result"]
    assert document["out"] == str(run / "report.html")
    assert (document["validated"], document["pictures"], document["epoch"]) == (True, 12, result["best_epoch"])
    codes = document["results"][0]["scores"]
    assert codes["map@all"]["expected"] == pytest.approx(result["best_map"], abs=1e-9)
    assert codes["hit@1"]["expected"] == pytest.approx(result["best_hit1"], abs=1e-9)
    assert codes["map@all"]["signature"].startswith("map|cutoff:all|") and "bits:16" in codes["map@all"]["signature"]
    assert document["bits"]["code_size"] == 16 and len(document["bits"]["balance"]) == 16
    text = "".join(page.text)
    assert "실행: training report" in text and "hashret train --data" in text and len(page.images) > 50
    assert not list(run.glob("*.unfinished")) and not list(run.glob("*.skipped.txt"))


def test_without_json_it_says_the_verdict_and_where(hashret: Callable, run: Path) -> None:
    status, out, err = hashret("report", run, *CPU)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith(
        "The model turns a picture into 16 bits; it is a squeezenet1_1 trained on 36 pictures of hues"
    )
    assert lines[-1].startswith(f"{run / 'report.html'}: ") and lines[-1].endswith(" MB")


def test_the_same_run_gives_the_same_bytes(hashret: Callable, run: Path, tmp_path: Path) -> None:
    reported(hashret, run)
    first = (run / "report.html").read_bytes()
    reported(hashret, run)
    assert (run / "report.html").read_bytes() == first


def test_scores_of_a_split_are_those_of_evaluate(
    hashret: Callable, run: Path, unseen_set: Path, tmp_path: Path
) -> None:
    words = ["--data", unseen_set, "--split", "test"]
    document, page = reported(hashret, run, *words)
    assert document["out"] == str(run / "report-test.html") and not document["validated"]
    status, out, err = hashret("evaluate", "--model", run, *words, *CPU, "--json")
    assert status == 0, err
    evaluated = json.loads(out)["results"]
    for name in ("map@all", "map@10", "hit@1", "hit@10"):
        assert document["results"][0]["scores"][name] == evaluated[0]["scores"][name]
        assert document["results"][3]["scores"][name] == evaluated[1]["scores"][name]
    assert "the 24 pictures of the split 'test' of hues" in "".join(page.text)


def test_near_views_of_a_turntable_do_not_count(hashret: Callable, run: Path, closed_set: Path, tmp_path: Path) -> None:
    table = open_source(closed_set)
    n = len(table)
    table.splits = ["test"] * n
    table.attributes = {
        "body": ["suv"] * n, "generation": ["1"] * n, "colour": [["red", "blue"][row % 2] for row in range(n)],
        "time": ["noon"] * n, "view": [str(row * 45 % 360) for row in range(n)],
    }  # fmt: skip
    table.write_csv(tmp_path / "t.csv")
    words = ["--data", tmp_path / "t.csv", "--split", "test"]
    document, _ = reported(hashret, run, *words, "--out", tmp_path / "r.html")
    status, out, err = hashret("evaluate", "--model", run, *words, *CPU, "--controls", "off", "--json")
    assert status == 0, err
    scores = document["results"][0]["scores"]
    assert "within-30-degrees" in scores["hit@1"]["signature"]
    for name in ("map@all", "hit@1"):
        assert scores[name] == json.loads(out)["results"][0]["scores"][name]


def test_a_kept_epoch(hashret: Callable, run: Path, tmp_path: Path) -> None:
    document, page = reported(hashret, f"{run}@1", "--out", tmp_path / "first.html")
    assert document["epoch"] == 1
    assert document["results"][0]["scores"]["map@all"]["expected"] == pytest.approx(
        Run(run).history()[0]["val_map"], abs=1e-9
    )
    assert "This is epoch 1" in "".join(page.text)


def test_examples_can_be_left_out(hashret: Callable, run: Path) -> None:
    _, page = reported(hashret, run, "--examples", 0)
    assert not page.images


def test_pictures_that_moved(hashret: Callable, run: Path, closed_set: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(closed_set, tmp_path / "자동차")
    document = Run(run).read()
    document["source"]["data"] = str(tmp_path / "gone")
    Run(run).write(document)
    status, _, err = hashret("report", run, *CPU)
    assert status == 1 and "gone" in err and err.count("\n") == 1
    found, _ = reported(hashret, run, "--data", moved)
    assert found["results"][0]["scores"]["map@all"]["expected"] == pytest.approx(document["result"]["best_map"])
    (moved / "class00" / "00.png").unlink()
    status, _, err = hashret("report", run, "--data", moved, *CPU)
    assert status == 1 and "gives 35 pictures to train on and 12 to validate on, but" in err and "had 36 and 12" in err


def test_a_run_from_python_needs_its_pictures_named(hashret: Callable, run: Path, closed_set: Path) -> None:
    document = {**Run(run).read(), "source": None}
    Run(run).write(document)
    status, _, err = hashret("report", run, *CPU)
    assert status == 2 and "was started from Python" in err and "--data SOURCE" in err
    _, page = reported(hashret, run, "--data", closed_set)
    assert "hashret train" not in "".join(page.text)


def test_a_run_in_training(hashret: Callable, run: Path) -> None:
    document = {**Run(run).read(), "status": "running"}
    del document["result"]
    Run(run).write(document)
    with Run(run).log_path.open("a") as log:
        log.write('{"epoch": 3, "lo')
    found, page = reported(hashret, run)
    history = Run(run).folder / "log.jsonl"
    whole = [json.loads(line) for line in history.read_text().splitlines()[:2]]
    assert found["best_epoch"] == max(whole, key=lambda line: line["val_map"])["epoch"]
    assert "The run is not finished" in "".join(page.text)


def test_an_older_run_without_log_or_newer_keys(hashret: Callable, run: Path) -> None:
    Run(run).log_path.unlink()
    document = Run(run).read()
    for key in ("pictures", "versions", "device", "margin", "result", "seconds"):
        document.pop(key)
    Run(run).write(document)
    _, page = reported(hashret, run)
    assert "The run has no log with numbers" in "".join(page.text)


def test_findings_of_the_run_come_first(hashret: Callable, run: Path) -> None:
    found = {"cause": "collapse", "evidence": "all codes are one", "advice": "lower --lr"}
    Run(run).write({**Run(run).read(), "findings": [found, "no finding"]})
    document, page = reported(hashret, run)
    assert document["findings"] == ["collapse: all codes are one; lower --lr"]
    assert document["findings"][0] in "".join(page.text)


def test_a_run_that_has_not_ended_is_judged_by_its_log(hashret: Callable, run: Path) -> None:
    document = Run(run).read()
    del document["findings"]
    Run(run).write({**document, "status": "failed", "error": "the disk is full"})
    lines = [{**line, "broken": 0.5} for line in Run(run).history()]
    Run(run).log_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document, page = reported(hashret, run)
    (finding,) = document["findings"]
    assert finding.startswith("learning rate too high: 50 % of the last updates had infinite numbers")
    assert "The run failed before its last epoch: the disk is full." in "".join(page.text)


def test_labels_that_the_run_doubts_are_shown(hashret: Callable, unseen_set: Path, run: Path) -> None:
    named = open_source(unseen_set).select([0])
    named.attributes["neighbours"] = ["class05"]
    Run(run).write_suspects(named)
    document, page = reported(hashret, run)
    assert document["named_while_training"] == named.ids
    text = "".join(page.text)
    assert "1 training picture has neighbours that mostly carried one other label" in text and named.ids[0] in text
    Run(run).write_suspects(None)
    document, page = reported(hashret, run)
    assert document["named_while_training"] == [] and "Named while training" not in "".join(page.text)


def test_a_swapped_label_is_doubted(hashret: Callable, unseen_set: Path, run: Path, tmp_path: Path) -> None:
    # Two files with one picture and two labels: a label is wrong, and the report shows the pair.
    table = open_source(unseen_set).where_split("test")
    row = table.labels.index("class07")
    table.ids.append("again")
    table.paths.append(table.paths[row])
    table.labels.append("class08")
    table.splits.append("test")
    table.write_csv(tmp_path / "t.csv")
    document, page = reported(
        hashret, run, "--data", tmp_path / "t.csv", "--split", "test", "--out", tmp_path / "r.html"
    )
    twin = document["twins"][0]
    assert set(twin["ids"]) == {"again", table.ids[row]} and twin["bits"] == 0 and twin["pixels"] == pytest.approx(1)
    assert "the same picture: 0 bits apart" in "".join(page.text)


def test_bad_pictures_stop_it_or_are_counted(hashret: Callable, run: Path, unseen_set: Path, tmp_path: Path) -> None:
    data = shutil.copytree(unseen_set, tmp_path / "set")
    (data / "test" / "class06" / "03.png").write_bytes(b"no picture")
    words = ["--data", data, "--split", "test", "--out", tmp_path / "r.html"]
    status, _, err = hashret("report", run, *words, *CPU)
    assert status == 1 and "03.png" in err and not (tmp_path / "r.html").exists()
    document, page = reported(hashret, run, *words, "--on-bad", "skip")
    assert (document["skipped"], document["queries"]) == (1, 23)
    assert Path(document["skipped_list"]).read_text().startswith(str(data / "test" / "class06" / "03.png"))
    assert "1 picture could not be read and is left out" in "".join(page.text)


def test_what_is_no_report_is_not_overwritten(hashret: Callable, run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "thesis.html"
    precious.write_text("<p>years of work")
    status, _, err = hashret("report", run, "--out", precious, *CPU)
    assert status == 2 and "exists and is no report of hashret" in err and precious.read_text() == "<p>years of work"


@pytest.mark.parametrize(
    ("words", "status", "found"),
    [
        (["--split", "val"], 1, "has no split 'val'"),
        (["--out", "/no/such/folder/r.html"], 2, "there is no folder /no/such/folder"),
        (["--data", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_cannot_be_reported(hashret: Callable, run: Path, words: list[str], status: int, found: str) -> None:
    got, out, err = hashret("report", run, *words, *CPU)
    assert (got, out) == (status, "") and found in err and err.count("\n") == 1


def test_what_is_no_run(hashret: Callable, run: Path, tmp_path: Path) -> None:
    status, _, err = hashret("report", tmp_path / "nothing", *CPU)
    assert status == 1 and "there is no model" in err
    (run / "run.json").unlink()
    status, _, err = hashret("report", run, *CPU)
    assert status == 2 and "is a model, but no training run" in err
    status, _, err = hashret("report", tmp_path, *CPU)
    assert status == 1 and "is no model" in err


def test_a_run_in_its_first_epoch(hashret: Callable, run: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (run / name).unlink()
    status, _, err = hashret("report", run, *CPU)
    assert status == 1 and "its training has not finished an epoch yet" in err and err.count("\n") == 1


def test_pictures_without_labels_or_company(hashret: Callable, run: Path, closed_set: Path, tmp_path: Path) -> None:
    table = open_source(closed_set)
    table.splits = ["bare" if row % 2 else "single" for row in range(len(table))]
    table.labels = ["" if row % 2 else f"only {row}" for row in range(len(table))]
    table.write_csv(tmp_path / "t.csv")
    for split, found in (("bare", "has no labelled picture"), ("single", "has another picture of its own class")):
        words = ["--data", tmp_path / "t.csv", "--split", split, "--out", tmp_path / "r.html"]
        status, _, err = hashret("report", run, *words, *CPU)
        assert status == 1 and found in err and err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_an_interrupted_report_goes_on(hashret: Callable, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashret.report import page

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(page, "render", interrupted)
        status, _, err = hashret("report", run, *CPU)
        assert status == 130 and "what was encoded is kept in" in err and not (run / "report.html").exists()
    assert list((run / "report.html.unfinished").glob("chunk-*"))
    status, _, err = hashret("report", run, *CPU)
    assert status == 0 and "12 of 12 pictures are encoded already" in err
    assert not (run / "report.html.unfinished").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_that_cannot_be_written(hashret: Callable, run: Path, tmp_path: Path) -> None:
    run.chmod(0o500)
    try:
        status, _, err = hashret("report", run, *CPU)
        assert status == 2 and "nothing can be written to" in err
        reported(hashret, run, "--out", tmp_path / "r.html")
    finally:
        run.chmod(0o700)


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_what_draws_is_not_installed(
    hashret: Callable, run: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = report.importlib.util.find_spec
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    status, out, err = hashret("report", run, *CPU)
    assert (status, out) == (2, "") and "pip install 'hashret[report]'" in err and err.count("\n") == 1


def test_the_command_trains_with_the_runs_settings(run: Path, tmp_path: Path) -> None:
    options = TrainingOptions(
        code_size=48, margin=8.0, mean=(0.5, 0.5, 0.5), keep_epochs=True, lr=3e-4, classes_per_batch=7, device="cpu",
        classify=0.0, code_gradient=1.0, classify_first=0, mirror="never",
    )  # fmt: skip
    source = {"data": "/내 사진/a b", "label_map": "/m.csv", "on_bad": "skip", "skipped": []}
    command = train_command(run, {"source": source, "options": json.loads(json.dumps(options.as_dict()))})
    assert command is not None
    words = shlex.split(command)
    assert words[:2] == ["hashret", "train"]
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(words[2:])
    assert (args.data, args.label_map, args.on_bad, args.exp_name) == ("/내 사진/a b", "/m.csv", "skip", "실행")
    given = train.given_settings(args)
    assert TrainingOptions(**given, device="cpu") == options
    assert train_command(run, {"source": None, "options": {}}) is None


def test_two_classes_and_one_epoch(hashret: Callable, tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "two", classes=2, pictures=6)
    words = [*TINY[:7], "1", "--classes-per-batch", "2", *TINY[10:]]
    status, _, err = hashret("train", "--data", data, "--runs", tmp_path, "--exp-name", "r", *words)
    assert status == 0, err
    document, page = reported(hashret, tmp_path / "r")
    assert document["queries"] == 4 and len(np.unique(document["bits"]["balance"])) >= 1
    assert page.tags["svg"] >= 8
