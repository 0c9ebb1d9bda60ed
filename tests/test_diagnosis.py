"""Each cause provoked for real, by training tiny networks with one bad setting; and nothing said while all is well."""

from __future__ import annotations

import colorsys
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import codes_alone, make_pictures
from PIL import Image

from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.errors import TrainingError
from hashret.training import loop
from hashret.training.diagnosis import Finding, diagnose, found_in
from hashret.training.options import OF_PAIRS, TrainingOptions
from hashret.training.runs import Run, create_run

WELL: dict[str, Any] = {
    "backbone": "squeezenet1_1",
    "image_size": 32,
    "code_size": 16,
    "margin": 8.0,
    "epochs": 8,
    "classes_per_batch": 6,
    "pictures_per_class": 6,
    "lr": 3e-3,
    "augment": "light",
    "device": "cpu",
    "workers": 0,
}
"""Settings with which the six colours are learned in two seconds."""


class Trained(NamedTuple):
    """A run, and what its log shows to be wrong."""

    run: Run
    options: TrainingOptions
    history: list[dict[str, Any]]
    findings: list[Finding]

    @property
    def causes(self) -> list[str]:
        return [finding.cause for finding in self.findings]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 classes × 30 pictures."""
    return make_pictures(tmp_path_factory.mktemp("diagnosis") / "colours", pictures=30)


@pytest.fixture
def trained(tmp_path: Path, colours: Path) -> Callable[..., Trained]:
    """Trains with some settings changed; the log is judged as it lies on the disk."""

    def train(table: PictureTable | None = None, **changes: Any) -> Trained:
        settings = {**WELL, **changes}
        if settings.get("objective", "triplet") not in OF_PAIRS:
            del settings["classes_per_batch"], settings["pictures_per_class"]
            settings = {"batch_size": 36, **settings}
            if settings["objective"] != "cosine":
                del settings["margin"]
        options = codes_alone(**settings)
        run = create_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        loop.train(table or open_source(colours), options, run)
        findings = diagnose(run.history(), options)
        assert run.read()["findings"] == [finding._asdict() for finding in findings]
        return Trained(run, options, run.history(), findings)

    return train


# ---- all is well


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 1},
        {"seed": 2, "code_size": 64, "margin": 16.0},
        {"mining": "semi-hard"},
        {"optimizer": "sgd", "lr": 3e-4},
        {"activation": "sigmoid", "margin": 1.0},
        {"lr": 3e-4},
        {"epochs": 1},
        {"sign_weight": 1.0, "nested": True, "code_size": 32},
        {"proxy_weight": 1.0, "memory": 64, "ema": 0.9},
        {"classify_first": 3.0},
        {"objective": "dtsh", "margin": 1.0},
        {"objective": "cosine", "margin": "auto", "seed": 1},
        {"objective": "cosine", "margin": "auto", "code_size": 64, "classify_first": 2.5},
        {"objective": "central", "margin": "auto", "activation": "sigmoid"},
        {"objective": "classification", "margin": "auto"},
        {"objective": "classification", "margin": "auto", "through": "codes", "code_size": 128},
        {"objective": "multilabel", "margin": "auto", "through": "codes"},
    ],
    ids=str,
)
def test_nothing_is_said_while_all_is_well(
    trained: Callable[..., Trained], caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    run = trained(**changes)
    assert run.findings == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    if "epochs" not in changes:
        assert max(line["val_map"] for line in run.history) > 0.7, "it should have been a run that learns"


@pytest.mark.parametrize("objective", ["triplet", "dtsh", "cosine", "central"])
@pytest.mark.parametrize("classes", [3, 20])
def test_few_and_many_classes(trained: Callable[..., Trained], tmp_path: Path, objective: str, classes: int) -> None:
    table = open_source(make_pictures(tmp_path / "hues", classes=classes, pictures=12))
    margin = {"triplet": 8.0, "dtsh": 1.0}.get(objective, "auto")
    settings = {"objective": objective, "margin": margin, "epochs": 6}
    if objective in OF_PAIRS:
        settings["classes_per_batch"] = min(classes, 6)
    run = trained(table, **settings)
    assert run.findings == []
    assert all(("active" in line) == (objective in OF_PAIRS) for line in run.history)


def test_pictures_without_labels(trained: Callable[..., Trained], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hashret.training")
    run = trained(objective="self", epochs=5)
    assert run.findings == [] and all("agreement" not in line for line in run.history)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch 5/5")]
    assert "active" not in said[0] and "neighbours agree" not in said[0] and "accuracy" in said[0]


def test_two_classes_need_no_more_than_one_bit(trained: Callable[..., Trained], tmp_path: Path) -> None:
    table = open_source(make_pictures(tmp_path / "two", classes=2, pictures=30))
    assert trained(table, classes_per_batch=2).findings == []


def test_unseen_classes(trained: Callable[..., Trained], unseen_set: Path) -> None:
    run = trained(open_source(unseen_set), classes_per_batch=4, pictures_per_class=3)
    assert run.findings == []


# ---- each cause


def test_a_margin_that_codes_cannot_reach(trained: Callable[..., Trained], caplog: pytest.LogCaptureFixture) -> None:
    run = trained(margin=64.0)
    assert run.causes == ["margin too large"]
    (finding,) = run.findings
    assert "all 16 bits say the same" in finding.evidence and "16 bits farther apart" in finding.evidence
    assert "lower --margin (now 64), to 8 say" in finding.advice
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 2, "once when it is seen, and once at the end"
    assert said[0].startswith("margin too large: ") and said[1].startswith("found in this run:\n  - margin too large: ")
    # What it says helps: with 8, the same codes are learned.
    assert trained(margin=8.0).findings == []


def test_a_margin_too_large_for_the_sigmoid(trained: Callable[..., Trained]) -> None:
    assert trained(activation="sigmoid", margin=8.0).causes == ["margin too large"]


def test_a_learning_rate_that_kills_the_network(trained: Callable[..., Trained]) -> None:
    run = trained(lr=1.0)
    assert run.causes == ["learning rate too high"]
    assert "all training pictures have the same code" in run.findings[0].evidence
    assert "lower --lr (now 1)" in run.findings[0].advice


@pytest.mark.parametrize("objective", ["cosine", "central", "dtsh", "self"])
def test_each_objective_has_rates_that_are_too_high_and_too_low(
    trained: Callable[..., Trained], objective: str
) -> None:
    settings = {"objective": objective, "margin": {"dtsh": 1.0}.get(objective, "auto"), "epochs": 6}
    assert "learning rate too high" in trained(**settings, lr=0.3).causes
    assert trained(**settings, lr=1e-6).causes == ["learning rate too low"]


def test_a_learning_rate_that_ends_in_no_numbers(trained: Callable[..., Trained], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lower --lr"):
        trained(lr=100.0)
    document = json.loads(next(tmp_path.glob("*/run.json")).read_text("utf-8"))
    assert document["status"] == "failed" and "lower --lr" in document["error"]


def test_a_learning_rate_at_which_nothing_moves(trained: Callable[..., Trained]) -> None:
    run = trained(lr=1e-6)
    assert run.causes == ["learning rate too low"]
    assert "raise --lr (now 1e-06)" in run.findings[0].advice


def test_dead_bits_of_a_head_that_is_thrown_about(trained: Callable[..., Trained]) -> None:
    run = trained(head_lr_factor=1000.0)
    finding = run.findings[run.causes.index("dead bits")]
    dead = run.history[-1]["dead"]
    assert dead and finding.evidence.startswith(f"{len(dead)} of 16 bits ({dead[0]}")
    assert "lower --head-lr-factor (now 1000)" in finding.advice


def test_a_weight_decay_that_takes_the_scale_away(trained: Callable[..., Trained]) -> None:
    assert trained(weight_decay=30.0).causes == ["weight decay too large"]


@pytest.mark.parametrize(
    ("wrong", "settings"),
    [
        (0.15, {"seed": 3}),
        (0.15, {"objective": "cosine", "margin": "auto"}),
        (0.3, {"objective": "central", "margin": "auto"}),
        (0.3, {"objective": "classification", "margin": "auto"}),
    ],
    ids=str,
)
def test_wrong_labels_are_named(
    trained: Callable[..., Trained], colours: Path, wrong: float, settings: dict[str, Any]
) -> None:
    table = open_source(colours)
    rng = np.random.default_rng(0)
    changed = rng.permutation(len(table))[: round(wrong * len(table))]
    classes = sorted(set(table.labels))
    for row in changed:
        table.labels[row] = classes[(classes.index(table.labels[row]) + rng.integers(1, 6)) % 6]
    run = trained(table, **settings)
    assert run.causes == ["label noise"]
    really = {table.ids[row] for row in changed}
    named = run.history[-1]["suspects"]
    assert len(named) > 5 and len(set(named) & really) >= 0.9 * len(named)
    assert ", ".join(named[:3]) in run.findings[0].evidence
    listed = PictureTable.read_csv(run.run.folder / "suspects.csv")
    assert listed.ids[: len(named)] == named and set(listed.attributes) == {"neighbours"}
    agree = [
        label == neighbours for label, neighbours in zip(listed.labels, listed.attributes["neighbours"], strict=True)
    ]
    assert not any(agree)


def test_wrong_labels_that_made_codes_collapse(trained: Callable[..., Trained], colours: Path) -> None:
    table = open_source(colours)
    rng = np.random.default_rng(0)
    classes = sorted(set(table.labels))
    for row in rng.permutation(len(table))[: round(0.15 * len(table))]:
        table.labels[row] = classes[(classes.index(table.labels[row]) + rng.integers(1, 6)) % 6]
    run = trained(table)
    assert run.causes == ["label noise"] and run.run.suspects_path.exists()


def test_batches_that_hold_nothing_to_learn(trained: Callable[..., Trained], tmp_path: Path) -> None:
    table = open_source(make_pictures(tmp_path / "many", classes=24))
    run = trained(table, classes_per_batch=2, pictures_per_class=2, margin="auto", epochs=5)
    assert run.causes == ["P × K too small"]
    assert "2 × 2 pictures" in run.findings[0].evidence
    assert "raise --classes-per-batch (now 2) and --pictures-per-class (now 2)" in run.findings[0].advice
    # What it says helps: batches of 12 × 4 learn from every one.
    assert trained(table, classes_per_batch=12, pictures_per_class=4, epochs=5).findings == []


def test_what_training_makes_the_network_blind_to(trained: Callable[..., Trained], tmp_path: Path) -> None:
    """Trained to tell hues apart, squares of any brightness on them; validated on squares of one hue."""

    def draw(path: Path, hue: float, square: float, rng: np.random.Generator) -> None:
        array = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.6)) + rng.normal(0, 20, (32, 32, 3))
        y, x = rng.integers(0, 16, 2)
        array[y : y + 12, x : x + 12] += square
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)

    squares = [-90, -30, 30, 90]
    for i in range(16):
        for c in range(8):
            rng = np.random.default_rng([c, i])
            draw(tmp_path / "blind" / "train" / f"hue{c}" / f"{i}.png", c / 8, rng.choice(squares), rng)
        for c, square in enumerate(squares):
            rng = np.random.default_rng([99, c, i])
            draw(tmp_path / "blind" / "val" / f"square{c}" / f"{i}.png", 1 / 16, square, rng)
    table = open_source(tmp_path / "blind")
    run = trained(table, classes_per_batch=8, pictures_per_class=2, margin=8.0, epochs=16, seed=1)
    assert run.causes == ["dead bits", "overfitting"]
    dead, overfitting = run.findings
    assert "of all validation pictures, but not of the training pictures" in dead.evidence
    assert "training pictures came into better order" in overfitting.evidence and "--augment" in overfitting.advice


# ---- the rules by their numbers


def line(epoch: int, **changes: Any) -> dict[str, Any]:
    """A line of a log in which all is well."""
    well = {
        "epoch": epoch, "updates": 100, "loss": 8.0, "active": 0.2, "idle": 0.0, "broken": 0.0, "gap": 0.3, "within": 1.0,
        "between": 6.0, "turn": 2.0, "turn_max": 4.0, "dead": [], "dead_bits": 0, "effective_bits": 6.0, "correlation": 0.2,
        "agreement": 0.7, "suspect_share": 0.0, "suspects": [], "classes": 20, "margin": 16.0, "margin_bits": 4.0,
        "val_map": 0.5, "val_classes": 5, "val_dead_bits": 0, "val_dead": [],
    }  # fmt: skip
    return {**well, **changes}


def causes(*history: dict[str, Any], **changes: Any) -> list[str]:
    return [finding.cause for finding in diagnose(history, codes_alone(**{"code_size": 16, **changes}))]


def test_logs_too_short_or_of_another_version_are_not_judged() -> None:
    assert causes() == causes(line(1, broken=1.0)) == []
    assert causes({"epoch": 1, "val_map": 0.5}, {"epoch": 2, "val_map": 0.1}, {"epoch": 3, "val_map": 0.0}) == []
    assert causes(*(line(epoch) for epoch in range(1, 9))) == []


def test_infinite_gradients_are_a_learning_rate_too_high() -> None:
    assert causes(line(1), line(2, broken=0.1)) == ["learning rate too high"]


def test_a_bit_that_is_dead_for_one_epoch_is_not_yet_a_finding() -> None:
    dead = {"dead": [3], "dead_bits": 1}
    assert causes(line(1), line(2), line(3, **dead)) == []
    assert causes(line(1), line(2, **dead), line(3, **dead)) == ["dead bits"]
    assert causes(line(1), line(2, **dead), line(3, **dead), line(4)) == []


def test_bits_that_are_dead_in_validation_alone() -> None:
    dead = {"val_dead": [1, 2, 3, 4, 5, 6], "val_dead_bits": 6, "val_classes": 9}
    (finding,) = diagnose([line(epoch, **dead) for epoch in (1, 2, 3)], codes_alone(code_size=16))
    assert finding.cause == "dead bits" and "6 of 16 bits (1, 2, 3, 4, 5, 6)" in finding.evidence
    # With two classes half of all bits are on one side of both; and batch norm's means take updates to settle.
    assert causes(*(line(epoch, **{**dead, "val_classes": 2}) for epoch in (1, 2, 3))) == []
    assert causes(*(line(epoch, **dead, updates=20) for epoch in (1, 2, 3))) == []


def test_idle_batches_of_a_set_that_is_learned_are_no_finding() -> None:
    assert causes(line(1), line(2, idle=0.9), line(3, idle=0.9)) == ["P × K too small"]
    assert causes(line(1), line(2, idle=0.9, agreement=0.95), line(3, idle=0.9, agreement=0.97)) == []


def test_overfitting_is_validation_that_stays_below_its_best_while_training_goes_on() -> None:
    falling = [0.3, 0.6, 0.55, 0.45, 0.42, 0.4]
    better = [0.4, 0.6, 0.7, 0.8, 0.85, 0.9]

    def history(agreement: list[float]) -> list[dict[str, Any]]:
        pairs = enumerate(zip(falling, agreement, strict=True), start=1)
        return [line(epoch, val_map=score, agreement=order) for epoch, (score, order) in pairs]

    assert causes(*history(better)) == ["overfitting"]
    assert causes(*history(better)[:5]) == [], "a fall is watched for three epochs"
    assert causes(*history(better[::-1])) == [], "where training gets worse too, it is something else"


def test_a_collapse_without_a_known_cause_has_its_name() -> None:
    same = {"effective_bits": 1.0, "correlation": 1.0, "agreement": 0.2}
    assert causes(line(1), line(2, **same), line(3, **same)) == ["collapse"]
    assert causes(line(1), line(2, **same), line(3, **same, margin_bits=8.0)) == ["margin too large"]
    without_margin = [line(epoch, **same, margin=None, margin_bits=None) for epoch in (1, 2, 3)]
    (finding,) = diagnose(without_margin, codes_alone(code_size=16, objective="central"))
    assert finding.cause == "collapse" and "--margin" not in finding.advice


def test_a_collapse_in_which_labels_were_doubted_is_label_noise() -> None:
    same = {"effective_bits": 1.0, "correlation": 1.0, "agreement": 0.2}
    history = [line(1), line(2, suspect_share=0.04, suspects=["a", "b"]), line(3, suspect_share=0.02), line(4, **same)]
    (finding,) = diagnose([*history, line(5, **same)], codes_alone(code_size=16))
    assert finding.cause == "label noise" and "4 % of" in finding.evidence and "a, b" in finding.evidence
    assert causes(*history[:3]) == [], "where codes learn, so few are a class that looks like another"


def test_constant_bits_are_not_the_margin() -> None:
    dead = {"effective_bits": 0.0, "dead_bits": 16, "dead": list(range(16)), "agreement": 0.1, "between": 0.0}
    (finding,) = diagnose([line(epoch, **dead) for epoch in (1, 2)], codes_alone(code_size=16, freeze_norm=True))
    assert finding.cause == "collapse" and "no --freeze-norm" in finding.advice


def test_small_activations_without_decay_are_not_the_decay() -> None:
    small = {"gap": 0.95, "between": 0.1, "turn_max": 40.0, "effective_bits": 1.0, "agreement": 0.2}
    history = [line(epoch, **small) for epoch in (1, 2, 3)]
    assert causes(*history, lr=1.0) == ["learning rate too high"]
    assert causes(*history, weight_decay=30.0) == ["weight decay too large"]


def test_few_updates_are_not_a_low_rate() -> None:
    assert causes(*(line(epoch, updates=4, turn=0.4) for epoch in (1, 2)), epochs=2) == []
    assert causes(*(line(epoch, updates=4, turn=0.01) for epoch in (1, 2)), epochs=2) == ["learning rate too low"]
    assert causes(*(line(epoch, updates=400, turn=0.01) for epoch in (1, 2)), epochs=50) == []


def test_codes_are_judged_once_they_are_trained() -> None:
    untrained = {"turn": 0.0, "turn_max": 0.0, "dead": [1], "dead_bits": 1, "effective_bits": 1.0, "agreement": 0.3}
    history = [line(epoch, **untrained) for epoch in (1, 2, 3, 4)]
    assert "learning rate too low" in causes(*history)
    assert causes(*history, objective="classification") == []
    assert causes(*history, objective="cosine", classify_first=3.5) == []
    assert causes(*history, *(line(epoch) for epoch in (5, 6, 7)), objective="cosine", classify_first=4.0) == []


def test_what_is_noted_of_a_run_is_taken_as_it_is_and_else_its_log_is_judged() -> None:
    broken = [line(1), line(2, broken=0.1)]
    noted = {"cause": "dead bits", "evidence": "9 of 9", "advice": "lower --lr"}
    assert found_in({"findings": [noted, "?", {"cause": "x"}]}, broken) == [Finding(**noted)]
    assert found_in({"findings": []}, broken) == []
    assert [each.cause for each in found_in({"status": "running", "options": {}}, broken)] == ["learning rate too high"]
    assert found_in({"options": {"of another version": 1}}, broken) == []
    assert Finding(**noted).sentence == "dead bits: 9 of 9; lower --lr"


def test_a_wild_update_without_harm_is_no_finding() -> None:
    assert causes(line(1, turn_max=80.0), line(2)) == []
    assert causes(line(1, turn_max=80.0), line(2), line(3, gap=0.01)) == ["learning rate too high"]
