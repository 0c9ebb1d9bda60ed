"""The numbers that training shows: each against numpy or by hand, whatever the batch, and cheap."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import codes_alone
from torch import nn

from hashret import codes
from hashret.data.sources import open_source
from hashret.errors import TrainingError
from hashret.metrics import retrieval_scores
from hashret.training import loop, neighbours
from hashret.training.monitors import Monitors, batch_numbers, learning_line, progress_line
from hashret.training.neighbours import TrainingCodes, neighbour_labels
from hashret.training.objectives import Outputs, Scored
from hashret.training.runs import Run, create_run
from hashret.training.validation import Validation, scores

CPU = torch.device("cpu")


def outputs(logits_DK: np.ndarray, activation: str = "tanh") -> Outputs:
    logits = torch.from_numpy(np.asarray(logits_DK, np.float32))
    return Outputs(
        logits, torch.tanh(logits) if activation == "tanh" else torch.sigmoid(logits), torch.zeros(len(logits), 2)
    )


def numbers(logits_DK: np.ndarray, labels_D: Any, activation: str = "tanh") -> dict[str, float]:
    out = outputs(logits_DK, activation)
    observed = batch_numbers(out, out.logits_DK > 0, torch.as_tensor(labels_D), activation)
    return {name: float(value) for name, value in observed.items()}


# ---- of a batch


@pytest.mark.parametrize("code_size", [1, 7, 64])
def test_a_batch_in_numbers_agrees_with_statistics_of_its_codes(code_size: int) -> None:
    rng = np.random.default_rng(code_size)
    logits = rng.normal(rng.normal(0, 1, code_size), 1, (40, code_size))
    seen = numbers(logits, rng.integers(0, 5, 40))
    expected = codes.statistics(codes.binarize(logits), code_size)
    assert seen["dead_bits"] == expected.dead_bits
    assert seen["imbalance"] == pytest.approx(expected.mean_imbalance, abs=1e-6)
    assert seen["entropy"] == pytest.approx(expected.entropy_bits, abs=1e-6)
    assert seen["correlation"] == pytest.approx(expected.mean_correlation, abs=1e-5)
    assert seen["distinct"] == pytest.approx(expected.distinct_codes / 40)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_distances_are_in_bits_and_the_gap_is_what_the_sign_adds(activation: str) -> None:
    # Two pictures of one class that differ in one bit of four, and one of another class that differs from both in the rest.
    saturated = 50.0 * np.array([[1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, 1]])
    seen = numbers(saturated, [0, 0, 1], activation)
    assert (seen["within"], seen["between"], seen["gap"]) == pytest.approx((1.0, 3.5, 0.0), abs=1e-5)
    assert numbers(0 * saturated, [0, 0, 1], activation)["gap"] == pytest.approx(1.0)


@pytest.mark.parametrize(("size", "labels"), [(1, [0]), (2, [0, 0]), (2, [0, 1]), (3, [1, 1, 1])])
def test_the_smallest_batches_give_finite_numbers(size: int, labels: list[int]) -> None:
    for logits in (np.zeros((size, 3)), np.random.default_rng(0).normal(size=(size, 3))):
        assert all(math.isfinite(value) for value in numbers(logits, labels).values())


def test_pictures_with_several_labels_are_of_one_class_where_they_share_one() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 6))
    flags = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]], dtype=torch.float32)
    shared = numbers(logits, flags)
    apart = 0.25 * ((np.tanh(logits)[:, None] - np.tanh(logits)[None]) ** 2).sum(axis=2)
    alike = [(0, 1), (1, 3), (2, 3)]
    assert shared["within"] == pytest.approx(np.mean([apart[pair] for pair in alike]), abs=1e-5)
    assert shared["between"] == pytest.approx(np.mean([apart[pair] for pair in [(0, 2), (0, 3), (1, 2)]]), abs=1e-5)


def monitors(labels: np.ndarray, code_size: int = 8, head: nn.Module | None = None) -> Monitors:
    return Monitors(
        head or nn.Linear(2, code_size),
        labels,
        code_size=code_size,
        feature_size=2,
        activation="tanh",
        device=CPU,
        seed=0,
    )


def observe(
    watch: Monitors, labels: np.ndarray, loss: float = 1.0, gradient: float = 2.0, seed: int = 0
) -> dict[str, float]:
    rows = np.arange(len(labels))
    logits = np.random.default_rng(seed).normal(size=(len(labels), watch.codes.code_size))
    scored = Scored(torch.tensor(loss), {"active": torch.tensor(0.0 if seed else 0.5)})
    return watch.observe(rows, outputs(logits), torch.from_numpy(labels), scored, gradient)


def test_an_epoch_is_the_mean_of_its_updates_and_then_counting_begins_anew() -> None:
    labels = np.repeat(np.arange(3), 4)
    watch = monitors(labels)
    for seed, loss in enumerate((1.0, 2.0, 6.0)):
        observed = observe(watch, labels, loss=loss, seed=seed)
    assert observed["loss"] == 6.0 and observed["gradient"] == 2.0
    epoch = watch.end_epoch()
    assert (epoch["loss"], epoch["loss_max"], epoch["gradient"], epoch["idle"]) == pytest.approx((3.0, 6.0, 2.0, 2 / 3))
    observe(watch, labels, loss=4.0)
    assert watch.end_epoch()["loss"] == 4.0


def test_what_an_objective_tells_may_change_and_each_mean_is_over_its_own_updates() -> None:
    labels = np.repeat(np.arange(3), 4)
    watch = monitors(labels)
    told = [{"accuracy": 0.5}, {"active": 0.0, "active_memory": 0.2}, {"active": 0.0, "active_memory": 0.0}]
    for scalars in told:
        scored = Scored(torch.tensor(1.0), {name: torch.tensor(value) for name, value in scalars.items()})
        watch.observe(np.arange(12), outputs(np.zeros((12, 8))), torch.from_numpy(labels), scored, 1.0)
    epoch = watch.end_epoch()
    assert (epoch["accuracy"], epoch["active_memory"], epoch["updates"]) == pytest.approx((0.5, 0.1, 3))
    assert epoch["idle"] == 0.5, "an update that learns from remembered pictures is not idle"
    line = learning_line(epoch, retrieval(np.eye(4), np.array([0, 0, 1, 1])))
    assert "accuracy 50.0 %, active 0.0 %" in line
    assert "active" not in learning_line({"loss": 1.0}, retrieval(np.eye(4), np.array([0, 0, 1, 1])))


def test_a_gradient_beyond_all_numbers_is_shown_and_the_log_stays_finite() -> None:
    labels = np.repeat(np.arange(3), 4)
    watch = monitors(labels)
    assert observe(watch, labels, gradient=math.inf)["gradient"] == math.inf
    assert observe(watch, labels, gradient=3.0)["gradient"] == 3.0
    epoch = watch.end_epoch()
    assert (epoch["gradient"], epoch["gradient_max"], epoch["broken"]) == (3.0, 3.0, 0.5)
    observe(watch, labels, gradient=math.nan)
    epoch = watch.end_epoch()
    assert epoch["broken"] == 1.0 and "gradient" not in epoch
    json.dumps(epoch, allow_nan=False)


def test_how_far_an_update_turned_the_head() -> None:
    head = nn.Linear(2, 2, bias=False)
    labels = np.repeat(np.arange(3), 4)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
        watch = monitors(labels, 2, head)
        head.weight.copy_(torch.tensor([[5.0, 0.0], [3.0, 3.0]]))  # longer says nothing: batch norm takes lengths out
        assert observe(watch, labels)["turn"] == pytest.approx(45 / 2)
        assert observe(watch, labels)["turn"] == 0.0
        head.weight.copy_(-head.weight)
        assert observe(watch, labels)["turn"] == pytest.approx(180)
    epoch = watch.end_epoch()
    assert (epoch["turn"], epoch["turn_max"]) == pytest.approx((67.5, 180.0))


def test_the_state_carries_everything() -> None:
    labels = np.repeat(np.arange(4), 5)
    whole, first, second = (monitors(labels, head=nn.Linear(2, 8)) for _ in range(3))
    for watch in (first, second):
        watch.head.load_state_dict(whole.head.state_dict())
        watch.weights = whole.weights.clone()
    for watch in (whole, first):
        observe(watch, labels, seed=1)
        watch.end_epoch()
        observe(watch, labels, seed=2)
    second.load_state_dict(first.state_dict())
    for watch in (whole, second):
        observe(watch, labels, seed=3)
    assert whole.end_epoch() == second.end_epoch()
    assert whole.codes.suspects() == second.codes.suspects()


def test_the_line_shows_what_one_looks_at() -> None:
    labels = np.repeat(np.arange(3), 4)
    line = progress_line(observe(monitors(labels), labels))
    assert line.startswith("loss 1 active 0.5 grad 2 gap ") and len(line) < 110
    for name in ("imbal ", "dead ", "entropy ", "corr ", "distinct "):
        assert name in line


def test_watching_costs_little() -> None:
    """A batch of 128 × 64 bits in milliseconds: an update of the smallest network in use takes 100 times as long."""
    labels = np.repeat(np.arange(16), 8)
    watch = monitors(labels, 64)
    observe(watch, labels)
    times = []
    for seed in range(20):
        started = time.perf_counter()
        observe(watch, labels, seed=seed)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.01


# ---- of the neighbours


def clusters(
    per_class: int, classes: int, wrong: float, code_size: int = 32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes that fall into one cluster a class, a bit or two of noise; labels, some of them wrong; which are."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(classes), per_class)
    bits = rng.random((classes, code_size))[truth] > 0.5
    bits ^= rng.random(bits.shape) < 0.04
    labels = truth.copy()
    changed = rng.permutation(len(truth))[: round(wrong * len(truth))]
    labels[changed] = (truth[changed] + rng.integers(1, classes, len(changed))) % classes
    return bits, labels, labels != truth


def watching(labels: np.ndarray, bits: np.ndarray) -> TrainingCodes:
    size = bits.shape[1]
    return TrainingCodes(labels, code_size=size, feature_size=size, device=CPU, seed=0)


def show(watched: TrainingCodes, bits: np.ndarray) -> None:
    """All pictures in batches of 32, features as the codes."""
    order = np.random.default_rng(watched.epochs).permutation(len(bits))
    for rows in np.array_split(order, -(-len(order) // 32)):
        chosen = torch.from_numpy(bits[rows])
        watched.keep(rows, chosen, 2.0 * chosen.float() - 1.0)


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3])
def test_wrong_labels_are_found_and_right_ones_left_alone(wrong: float) -> None:
    bits, labels, is_wrong = clusters(40, 6, wrong)
    watched = watching(labels, bits)
    for _ in range(4):
        show(watched, bits)
        seen = watched.end_epoch()
    named = {suspect.row for suspect in watched.suspects()}
    assert len(named & set(np.flatnonzero(is_wrong))) >= 0.7 * is_wrong.sum()
    assert len(named - set(np.flatnonzero(is_wrong))) <= 0.01 * len(labels)
    assert seen["suspect_share"] == pytest.approx(len(named) / len(labels))


@pytest.mark.parametrize("code_size", [1, 32])
def test_codes_that_say_nothing_accuse_nobody(code_size: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 20)
    for bits in (rng.random((160, code_size)) > 0.5, np.zeros((160, code_size), bool)):
        watched = watching(labels, bits)
        for _ in range(5):
            show(watched, bits)
            assert watched.end_epoch()["agreement"] < 0.4
        assert watched.suspects() == []


def test_pictures_with_several_labels_are_never_suspects() -> None:
    bits, labels, _ = clusters(40, 6, 0.2)
    watched = watching(np.eye(6, dtype=bool)[labels], bits)
    for _ in range(4):
        show(watched, bits)
        assert watched.end_epoch()["agreement"] > 0.5
    assert watched.suspects() == []


def test_pictures_that_are_classes_of_their_own_agree_with_nobody_and_are_never_suspects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "MOST_WATCHED", 25)
    bits, _, _ = clusters(40, 2, 0.0)
    watched = watching(np.arange(80), bits)
    for _ in range(4):
        show(watched, bits)
        assert "agreement" not in watched.end_epoch()
    assert len(watched.rows_W) == 25 and watched.suspects() == []


def test_a_small_class_among_large_ones_is_no_error() -> None:
    bits, labels, _ = clusters(40, 4, 0.0)
    bits, labels = np.concatenate([bits, ~bits[:3]]), np.concatenate([labels, [4, 4, 4]])
    own, other, rival = neighbour_labels(codes.pack(bits), labels, 32)
    assert own[-3:].tolist() == [1.0, 1.0, 1.0] and (other[-3:] > 0).all() and (rival[-3:] < 4).all()


@pytest.mark.parametrize("labels", [[0], [0, 0], [0, 1]])
def test_the_smallest_sets_have_few_neighbours(labels: list[int]) -> None:
    own, other, rival = neighbour_labels(np.zeros((len(labels), 1), np.uint8), np.array(labels), 8)
    assert own.shape == other.shape == rival.shape == (len(labels),)
    assert np.isfinite(own).all() and np.isfinite(other).all()


@pytest.mark.parametrize(("enough", "sizes"), [(10, [10, 10]), (2, [4] * 6)])
def test_of_many_pictures_some_are_watched(monkeypatch: pytest.MonkeyPatch, enough: int, sizes: list[int]) -> None:
    monkeypatch.setattr(neighbours, "MOST_WATCHED", 25)
    monkeypatch.setattr(neighbours, "ENOUGH_OF_A_CLASS", enough)
    labels = np.arange(60) % 6
    ones = np.ones((60, 8), bool)
    watched = watching(labels, ones)
    assert np.unique(watched.labels_W, return_counts=True)[1].tolist() == sizes
    show(watched, ones)
    assert bool(watched.seen_W.all()) and bool(watched.bits_WX[:, :8].all())
    assert watched.end_epoch()["dead_bits"] == 8


# ---- of validation


def retrieval(logits: np.ndarray, labels: np.ndarray) -> Validation:
    logits = logits.astype(np.float32)
    return scores(logits, np.tanh(logits), labels)


def test_float_scores_from_counted_distances_are_those_from_sorted_ones() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 30)
    logits = rng.normal(0, 1, (10, 16))[labels] + rng.normal(0, 1.2, (300, 16))
    seen = retrieval(logits, labels)
    activations = np.tanh(logits)
    apart = ((activations[:, None] - activations[None]) ** 2).sum(axis=2)
    exact = retrieval_scores(apart, labels[:, None] == labels, ~np.eye(300, dtype=bool), ks=(1,))
    assert seen.float_map == pytest.approx(exact["map@all"].expected, abs=1e-3)
    assert seen.float_hit1 == pytest.approx(exact.top1, abs=5e-3)
    assert seen.map < seen.float_map and seen.as_dict()["score_gap"] == pytest.approx(seen.float_map - seen.map)


def test_pictures_that_share_a_label_belong_together() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 8))
    labels = np.repeat(np.arange(4), 5)
    one, several = retrieval(logits, labels), retrieval(logits, np.eye(4, dtype=bool)[labels])
    assert one == several


def test_collapsed_outputs_are_numbers_too() -> None:
    labels = np.repeat(np.arange(3), 4)
    for logits in (np.zeros((12, 5)), np.full((12, 5), 1e-30), np.full((12, 5), 80.0)):
        seen = retrieval(logits, labels)
        assert seen.codes.dead == [0, 1, 2, 3, 4] and seen.as_dict()["distinct"] == pytest.approx(1 / 12)
        assert seen.map == pytest.approx(seen.float_map)
        json.dumps(seen.as_dict(), allow_nan=False)


def test_outputs_that_are_no_numbers_stop_with_advice() -> None:
    with pytest.raises(TrainingError, match=r"NaN or infinity.*lower --lr"):
        retrieval(np.array([[1.0], [np.nan]]), np.array([0, 0]))


def test_validation_of_ten_thousand_pictures_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(10_000) % 100
    logits = rng.normal(0, 1, (100, 64))[labels] + rng.normal(0, 2, (10_000, 64))
    started = time.perf_counter()
    seen = retrieval(logits, labels)
    assert time.perf_counter() - started < 60, "a machine that does nothing else takes a tenth of that"
    assert 0 < seen.map < seen.float_map < 1


# ---- of a run


def small_run(source: Path, folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "backbone": "squeezenet1_1", "image_size": 32, "code_size": 16, "epochs": 2, "classes_per_batch": 4,
        "pictures_per_class": 3, "lr": 3e-3, "augment": "light", "device": "cpu", "workers": 0,
    }  # fmt: skip
    run = create_run(folder)
    loop.train(open_source(source), codes_alone(**{**settings, **changes}), run)
    return run


def test_the_log_holds_every_number_and_is_json_for_everyone(closed_set: Path, tmp_path: Path) -> None:
    run = small_run(closed_set, tmp_path / "run")

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in run.log_path.read_text("utf-8").splitlines()]
    for line in lines:
        assert {
            "loss", "active", "idle", "gradient", "gradient_max", "gap", "within", "between", "turn", "turn_max", "updates",
            "imbalance", "dead_bits", "dead", "entropy", "correlation", "effective_bits", "distinct", "agreement",
            "suspect_share", "suspects", "classes", "margin", "margin_bits", "val_map", "val_float_map", "val_score_gap",
            "val_dead", "val_entropy", "val_distinct",
        } <= line.keys()  # fmt: skip
        assert 0 <= line["gap"] <= 1 and line["gradient"] <= line["gradient_max"]
        assert len(line["val_dead"]) == line["val_dead_bits"]
