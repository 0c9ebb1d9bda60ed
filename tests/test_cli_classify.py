"""`hashret classify` as people type it: submissions, thresholds chosen, given and guessed, plots, and leaks that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, make_pictures
from PIL import Image

from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.encoding import encode_table
from hashret.evaluation import competition, strangers
from hashret.model.hasher import Hasher

SPLITS = ["train"] * 8 + ["val"] * 4 + ["test"] * 4


@pytest.fixture(scope="module")
def whales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table: 4 classes × 8 + 4 + 4 pictures of train, val and test, 12 pictures of no class in the split outside."""
    root = tmp_path_factory.mktemp("whales")
    known = open_source(make_pictures(root / "known", classes=4, pictures=16))
    known = replace(known, splits=SPLITS * 4)
    (root / "outside").mkdir()
    for i in range(12):
        noise = np.random.default_rng([7, i]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "outside" / f"{i:02d}.png")
    outside = open_source(root / "outside")
    table = PictureTable(
        known.ids + outside.ids, known.paths + outside.paths, known.labels + [""] * 12, known.splits + ["outside"] * 12
    )
    table.write_csv(root / "whales.csv")
    replace(known, ids=[f"k{name}" for name in known.ids]).write_csv(root / "known.csv")
    return root


@pytest.fixture(scope="module")
def run(whales: Path) -> Path:
    """A multi-label model of eight epochs."""
    from hashret.cli import main

    words = [
        word for word in TINY if word not in ("--classes-per-batch", "--pictures-per-class", "4", "3", "--epochs", "2")
    ]
    words += ["--objective", "multilabel", "--batch-size", "8", "--epochs", "8", "--keep-epochs", "--dropout", "0.1"]
    assert (
        main(["train", "--data", str(whales / "whales.csv"), "--runs", str(whales), "--exp-name", "run", *words]) == 0
    )
    return whales / "run" / "epochs" / "008"


@pytest.fixture
def classify(hashret: Callable[..., Any], whales: Path, run: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(*words: object, data: str = "whales.csv", out: str = "s.csv") -> Any:
        return hashret(
            "classify", "--model", run, "--data", whales / data, "--out", tmp_path / out, "--workers", 0, "--device", "cpu",
            *words,
        )  # fmt: skip

    return call


def scores_of(run: Path, table: PictureTable) -> tuple[np.ndarray, list[str]]:
    hasher = Hasher.from_pretrained(run, device="cpu")
    scores = encode_table(hasher, table, what=("scores",), workers=0).scores
    assert scores is not None
    return scores, hasher.class_names


def test_a_submission_with_a_threshold_chosen_and_judged(
    classify: Callable[..., Any], hashret: Callable[..., Any], whales: Path, run: Path, tmp_path: Path
) -> None:
    status, out, err = classify("--json")
    assert status == 0, err
    document = json.loads(out)
    table = open_source(whales / "whales.csv")
    test, val, outside = (table.where_split(split) for split in ("test", "val", "outside"))
    answers = {
        name: strangers.of_scores(part.paths, *scores_of(run, part))
        for name, part in (("test", test), ("val", val), ("outside", outside))
    }
    chosen, judging = strangers.halves(outside.ids, 0)
    calibration = strangers.calibrate(
        answers["val"], [{label} for label in val.labels], answers["outside"].select(chosen)
    )
    assessment = strangers.assess(
        calibration, answers["test"], [{label} for label in test.labels], answers["outside"].select(judging)
    )
    assert document["calibration"]["map_after"] == pytest.approx(calibration.map_after)
    assert document["threshold"] == pytest.approx(calibration.threshold, abs=1e-6)
    assert document["assessment"] == pytest.approx(assessment.as_dict())
    assert (document["calibration"]["known"], document["calibration"]["strangers"]) == (16, 6)
    assert (document["assessment"]["known"], document["assessment"]["strangers"]) == (16, 6)
    written = competition.read(tmp_path / "s.csv", test.ids, set(table.labels))
    assert list(written.values()) == answers["test"].with_strangers(document["threshold"])
    assert document["assessment"]["auroc"] > 0.7  # noise is no hue
    score = float(hashret("score", tmp_path / "s.csv", "--labels", whales / "whales.csv", "--split", "test").out)
    assert score == pytest.approx(
        competition.score(written, {n: {x} for n, x in zip(test.ids, test.labels, strict=True)})
    )
    assert score > 0.7 and not list(tmp_path.glob("*.unfinished"))
    again = classify(out="again.csv")
    assert "AUROC" in again.out and "-1 first for" in again.out and "judged by 16 labelled pictures" in again.out
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()


def test_a_threshold_that_is_given_or_guessed(classify: Callable[..., Any], tmp_path: Path) -> None:
    for threshold, first in (("2", 16), ("-1", 0)):
        document = json.loads(classify("--threshold", threshold, "--json", out=f"{threshold}.csv").out)
        assert (document["called_strangers"], document["calibration"], document["assessment"]) == (first, None, None)
    document = json.loads(classify("--strangers-share", "0.25", "--json", out="share.csv").out)
    lines = (tmp_path / "share.csv").read_text().splitlines()[1:]
    assert document["called_strangers"] == 4 == sum(line.split(",")[1].startswith("-1 ") for line in lines)
    assert classify("--strangers-share", "0", out="none.csv").status == 0


@pytest.mark.parametrize("by", ["hamming", "asymmetric", "agreement"])
def test_codes_and_neighbours_do_without_a_classifier(
    classify: Callable[..., Any], whales: Path, run: Path, tmp_path: Path, by: str
) -> None:
    document = json.loads(classify("--by", by, "--neighbours", 5, "--json").out)
    table = open_source(whales / "whales.csv")
    parts = {split: table.where_split(split) for split in ("train", "val", "test", "outside")}
    hasher = Hasher.from_pretrained(run, device="cpu")
    encoded = {split: encode_table(hasher, part, what=("codes", "logits"), workers=0) for split, part in parts.items()}
    gallery, classes = encoded["train"].codes, [[label] for label in parts["train"].labels]
    answers = {
        split: strangers.by_codes(by, parts[split].paths, each.codes, each.logits, gallery, classes, 16, 5)
        for split, each in encoded.items()
    }
    chosen, _ = strangers.halves(parts["outside"].ids, 0)
    calibration = strangers.calibrate(
        answers["val"], [{label} for label in parts["val"].labels], answers["outside"].select(chosen)
    )
    assert document["threshold"] == pytest.approx(-calibration.threshold, rel=1e-4, abs=1e-4)
    assert document["by"] == by and document["calibration"]["map_after"] == pytest.approx(calibration.map_after)
    written = competition.read(tmp_path / "s.csv", parts["test"].ids, set(table.labels))
    assert list(written.values()) == answers["test"].with_strangers(calibration.threshold)
    again = classify("--by", by, "--neighbours", 5, "--threshold", document["threshold"], out="again.csv")
    assert again.status == 0 and (tmp_path / "again.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()


def test_strangers_of_another_source(classify: Callable[..., Any], whales: Path, tmp_path: Path) -> None:
    words = ("--outside", whales / "outside", "--outside", whales / "outside", "--json")
    found = json.loads(classify(*words, data="known.csv").out)  # a source that is named twice counts once
    assert found["calibration"]["strangers"] == 6 == found["assessment"]["strangers"]
    table = open_source(whales / "known.csv")
    unlabelled = ["" if split == "test" else label for label, split in zip(table.labels, table.splits, strict=True)]
    replace(table, labels=unlabelled).write_csv(tmp_path / "unlabelled.csv")
    found = json.loads(classify(*words, data=str(tmp_path / "unlabelled.csv"), out="u.csv").out)
    assert (found["calibration"]["strangers"], found["assessment"]) == (12, None)


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_picture_that_is_asked_about_is_no_stranger_to_choose_by(
    classify: Callable[..., Any], whales: Path, tmp_path: Path, split: str
) -> None:
    table = open_source(whales / "known.csv").where_split(split)
    leak = replace(table, ids=["other"], paths=table.paths[:1], labels=[""], splits=[""])
    leak.write_csv(tmp_path / "leak.csv")
    status, out, err = classify("--outside", tmp_path / "leak.csv", "--outside", whales / "outside", data="known.csv")
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert f"the picture {table.ids[0]!r} is " in err and "among the strangers that choose the threshold, too" in err
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    ("words", "data", "status", "message"),
    [
        ([], "known.csv", 2, "comes without pictures of no class (--outside, or a split 'outside'); add them, or give"),
        (["--threshold", "nan"], "whales.csv", 2, "--threshold is nan"),
        (["--strangers-share", "1.5"], "whales.csv", 2, "--strangers-share is 1.5; it is a share"),
        (["--mixture", "1"], "whales.csv", 2, "--mixture is 1.0; it is a share"),
        (["--threshold", "1", "--strangers-share", "0"], "whales.csv", 2, "not allowed with argument"),
        (["--threshold", "1", "--outside", "x"], "whales.csv", 2, "--outside chooses a threshold, and one is given"),
        (["--split", "val"], "whales.csv", 2, "the split 'val' chooses the threshold, which cannot judge it"),
        (["--split", "none"], "whales.csv", 1, "has no split 'none'"),
        (["--by", "hamming", "--split", "train"], "whales.csv", 2, "and those to classify are among them"),
        (["--by", "hamming", "--gallery-split", "outside"], "whales.csv", 1, "no picture of the split 'outside' of"),
        (["--split", "outside"], "whales.csv", 1, "is to be classified, and among the strangers"),
    ],
)
def test_what_cannot_be_done(
    classify: Callable[..., Any], tmp_path: Path, words: list[str], data: str, status: int, message: str
) -> None:
    found = classify(*words, data=data)
    assert found.status == status and message in found.err and found.out == "" and not list(tmp_path.iterdir())


def test_classes_that_nobody_knows(classify: Callable[..., Any], whales: Path, tmp_path: Path) -> None:
    table = open_source(whales / "whales.csv")
    labels = ["orca" if split == "val" else label for label, split in zip(table.labels, table.splits, strict=True)]
    replace(table, labels=labels).write_csv(tmp_path / "orca.csv")
    found = classify(data=str(tmp_path / "orca.csv"))
    assert found.status == 1 and "has the label orca, which is none of the 4 classes that can be answered" in found.err


def test_a_model_without_a_classifier_and_a_file_that_is_there(
    classify: Callable[..., Any], tiny_run: Path, tmp_path: Path
) -> None:
    found = classify("--model", tiny_run)
    assert found.status == 1 and "the model has no classifier" in found.err
    (tmp_path / "s.csv").touch()
    found = classify()
    assert found.status == 2 and "s.csv, which exists; choose another name" in found.err


def test_a_picture_that_cannot_be_read_is_answered_all_the_same(
    classify: Callable[..., Any], whales: Path, tmp_path: Path
) -> None:
    table = open_source(whales / "whales.csv")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    row = table.splits.index("test")
    paths = [str(broken) if i == row else path for i, path in enumerate(table.paths)]
    replace(table, paths=paths).write_csv(tmp_path / "broken.csv")
    assert classify(data=str(tmp_path / "broken.csv")).status == 1
    found = classify("--on-bad", "skip", data=str(tmp_path / "broken.csv"))
    assert (
        found.status == 0 and "1 picture cannot be read; those to be classified are answered with -1 alone" in found.out
    )
    written = competition.read(tmp_path / "s.csv", table.where_split("test").ids)
    assert written[table.ids[row]] == ["-1"] and sum(classes == ["-1"] for classes in written.values()) == 1


def test_plots_are_pictures(classify: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = classify("--strangers-share", 0.25, "--plots", tmp_path / "plots", "--json")
    names = ["predicted-classes.png", "predicted-against-training.png"]
    assert [Path(path).name for path in json.loads(found.out)["plots"]] == names
    for name in names:
        with Image.open(tmp_path / "plots" / name) as picture:
            assert picture.width > 500 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20


def test_plots_in_any_script_and_of_nothing_much(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from hashret.report import answers

    lists = [["현대 그랜저", "-1"], ["-1"], ["$x_1$ and a class with a name that goes on and on"], ["🐳"], ["-1"]]
    for name, shown in (("some", lists), ("strangers", [["-1"]]), ("many", [[f"c{i}"] for i in range(60)])):
        answers.predicted_classes(shown, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 500
    table = PictureTable(["a", "b"], [str(tmp_path / "some.png")] * 2, ["x;y", ""], ["", ""])
    examples = answers.examples_of(PictureTable(["t"], [str(tmp_path / "many.png")], ["x"], ["train"]))
    with_all = answers.predicted_against_training(table, [["x", "-1"], ["-1", "z"]], examples)
    assert with_all.height > answers.predicted_against_training(table.select([0]), [["-1"]], {}).height
