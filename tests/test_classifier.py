"""The classifier that a model keeps: what it gives, what it leaves alone, how it is stored; and dropout before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pictures
from PIL import Image
from torch import nn

from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.encoding import encode_table
from hashret.errors import ModelError, UsageError
from hashret.model.classifier import Classifier
from hashret.model.hasher import Hasher, build
from hashret.training import loop
from hashret.training.objectives.dropout import Dropout, dropout
from hashret.training.options import TrainingOptions
from hashret.training.runs import create_run

NAMES = ["ant", "bee", "개미"]
SMALL: dict[str, Any] = {
    "backbone": "squeezenet1_1", "image_size": 32, "code_size": 24, "epochs": 1, "batch_size": 12, "augment": "light",
    "device": "cpu", "workers": 0, "cache": "off",
}  # fmt: skip


def with_classifier(through: str = "features", probabilities: str = "sigmoid", **changes: Any) -> Hasher:
    torch.manual_seed(0)
    hasher = build("squeezenet1_1", 8, image_size=32, **changes)
    width = hasher.feature_size if through == "features" else 8
    hasher.classifier = Classifier(nn.Linear(width, 3), NAMES, through=through, probabilities=probabilities)
    return hasher


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(5)]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("probabilities", ["sigmoid", "softmax"])
@pytest.mark.parametrize("through", ["features", "codes"])
def test_scores_are_what_the_layer_makes_of_features_or_activations(
    pictures: list[Image.Image], through: str, probabilities: str, mirror: bool
) -> None:
    hasher = with_classifier(through, probabilities, mirror=mirror)
    assert hasher.classifier is not None
    layer = hasher.classifier.layer
    batch = hasher.preprocess.normalise(torch.stack([hasher.preprocess.pixels(picture) for picture in pictures]))
    hasher.network.eval()
    with torch.inference_mode():
        scores = []
        for seen in (batch, batch.flip(-1)) if mirror else (batch,):
            logits, features = hasher.network(seen)
            read = features if through == "features" else torch.tanh(logits)
            scores.append(read @ layer.weight.T + layer.bias)
        mean = sum(scores) / len(scores)
        expected = torch.sigmoid(mean) if probabilities == "sigmoid" else torch.softmax(mean, dim=1)
    found = hasher.class_scores(pictures, batch_size=2)
    assert found.dtype == np.float32 and hasher.class_names == NAMES
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert hasher.class_scores([]).shape == (0, 3)


def test_codes_and_fingerprint_know_nothing_of_it(pictures: list[Image.Image], tmp_path: Path) -> None:
    hasher = with_classifier()
    again = Hasher.from_pretrained(hasher.save_pretrained(tmp_path / "with"), device="cpu")
    np.testing.assert_array_equal(again.class_scores(pictures), hasher.class_scores(pictures))
    assert again.class_names == NAMES and again.config == hasher.config and again.config["format_version"] == 3
    before = hasher.encode(pictures), hasher.features(pictures), hasher.fingerprint()
    hasher.classifier = None
    assert hasher.fingerprint() == before[2] == again.fingerprint()
    np.testing.assert_array_equal(hasher.encode(pictures), before[0])
    np.testing.assert_array_equal(hasher.features(pictures), before[1])
    without = Hasher.from_pretrained(hasher.save_pretrained(tmp_path / "without"), device="cpu")
    assert without.config["format_version"] == 1 and "classifier" not in without.config
    for ask in (lambda: without.class_scores(pictures), lambda: without.class_names):
        with pytest.raises(ModelError, match="has no classifier, so it gives no class scores; train one with"):
            ask()
    assert build("squeezenet1_1", 8, weights=str(tmp_path / "with"), image_size=32).classifier is None


def test_scores_of_a_table(tmp_path: Path) -> None:
    table = open_source(make_pictures(tmp_path / "hues", classes=2, pictures=4))
    hasher = with_classifier()
    kept = {"workers": 0, "chunk_size": 3, "resume_folder": tmp_path / "kept"}
    found = encode_table(hasher, table, what=("scores", "codes"), **kept)
    assert found.scores is not None and found.features is None and found.codes is not None
    np.testing.assert_allclose(found.scores, hasher.class_scores(table.paths), atol=1e-6)
    again = encode_table(hasher, table, what=("scores", "codes"), **kept)
    assert again.scores is not None
    np.testing.assert_array_equal(again.scores, found.scores)
    assert hasher.classifier is not None
    with torch.no_grad():
        hasher.classifier.layer.bias += 1  # another classifier: what was kept is not its
    other = encode_table(hasher, table, what=("scores", "codes"), **kept)
    assert other.scores is not None and (other.scores > found.scores).all()
    hasher.classifier = None
    with pytest.raises(ModelError, match="has no classifier"):
        encode_table(hasher, table, what=("scores",), workers=0)
    assert encode_table(hasher, table, workers=0).scores is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["ant", "bee"]}, "classifier.weight of shape (3, 512), but config.json means (2, 512)"),
        ({"classes": ["ant", "bee", "bee"]}, "cannot be used (a classifier of 3 classes has 2 different names"),
        ({"classes": []}, "the classes of its classifier are no list of names"),
        ({"classes": ["ant", 1, 2]}, "the classes of its classifier are no list of names"),
        ({"through": "logits"}, "a classifier reads 'logits'"),
        ({"probabilities": "none"}, "gives 'none'"),
        ({"probabilities": None, "through": None}, "a classifier reads None"),
        (None, "has no key 'through'"),
    ],
)
def test_a_damaged_classifier_is_named(tmp_path: Path, changes: dict[str, Any] | None, words: str) -> None:
    with_classifier().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["classifier"] = {} if changes is None else {**config["classifier"], **changes}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError) as named:
        Hasher.from_pretrained(tmp_path)
    assert words in str(named.value)


def test_names_and_layer_must_fit() -> None:
    with pytest.raises(UsageError, match="a classifier of 3 classes has 2 different names"):
        Classifier(nn.Linear(4, 3), ["a", "b", "a"], through="features", probabilities="sigmoid")


KINDS: dict[str, dict[str, Any]] = {
    "multilabel": {"objective": "multilabel", "dropout": 0.5, "schedule": "cosine", "lr": 1e-3, "patience": 2},
    "multilabel through nested codes, a running mean": {
        "objective": "multilabel", "through": "codes", "nested": True, "balance": 0.1, "ema": 0.9, "keep_epochs": True,
    },
    "classification, a running mean": {"objective": "classification", "ema": 0.5, "mirror": "training"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_training_keeps_the_classifier(closed_set: Path, tmp_path: Path, kind: str) -> None:
    table = open_source(closed_set)
    options = TrainingOptions(**{**SMALL, **KINDS[kind]})
    if options.objective == "multilabel":
        table.labels = [f"{label};{'even' if i % 2 else 'odd'}" for i, label in enumerate(table.labels)]
    run = create_run(tmp_path / "run")
    loop.train(table, options, run)
    hasher = Hasher.from_pretrained(run.folder, device="cpu")
    classes = [f"class{c:02d}" for c in range(6)]
    assert hasher.class_names == (classes if options.objective == "classification" else [*classes, "even", "odd"])
    scores = hasher.class_scores(table.paths[:9])
    assert scores.shape == (9, len(hasher.class_names)) and ((scores > 0) & (scores < 1)).all()
    if options.objective == "classification":
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    if options.keep_epochs:
        kept = Hasher.from_pretrained(run.folder / "epochs" / "001", device="cpu")
        np.testing.assert_array_equal(kept.class_scores(table.paths[:9]), scores)


def test_a_classifier_beside_codes_is_not_kept(tiny_run: Path) -> None:
    hasher = Hasher.from_pretrained(tiny_run, device="cpu")
    assert hasher.classifier is None and hasher.config["format_version"] < 3


@pytest.mark.slow
def test_the_classifier_of_tasks_with_distractors_trains(closed_set: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "backbone": "resnet50", "objective": "multilabel", "dropout": 0.5, "optimizer": "adam,lr=1e-3"}
    options = TrainingOptions(**settings, schedule="cosine", warmup=0, head_lr_factor=1.0, patience=5)
    run = create_run(tmp_path / "run")
    assert loop.train(open_source(closed_set), options, run).status == "done"
    assert Hasher.from_pretrained(run.folder, device="cpu").class_scores(open_source(closed_set).paths[:2]).shape == (
        2,
        6,
    )


def test_what_was_learned_tells_classes_apart(tmp_path: Path) -> None:
    table = open_source(make_pictures(tmp_path / "hues", classes=4, pictures=12))
    run = create_run(tmp_path / "run")
    options = TrainingOptions(
        **{**SMALL, "objective": "multilabel", "epochs": 15, "batch_size": 8, "keep_epochs": True}
    )
    loop.train(table, options, run)
    hasher = Hasher.from_pretrained(
        f"{run.folder}@15", device="cpu"
    )  # the best by neighbours comes early, these are easy
    best = hasher.class_scores(table.paths).argmax(axis=1)
    assert np.mean([hasher.class_names[i] == label for i, label in zip(best, table.labels, strict=True)]) > 0.9


# ---- dropout


def test_dropout_keeps_means_and_counts_its_uses() -> None:
    numbers, drop = torch.ones(200, 100), Dropout(0.3, seed=5)
    first, second = drop(numbers), drop(numbers)
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.7]) and not torch.equal(first, second)
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(second.mean()) == pytest.approx(1, abs=0.02)
    again = Dropout(0.3, seed=5)
    again.load_state_dict({"uses": torch.tensor(1)})
    assert torch.equal(again(numbers), second) and int(again.uses) == 2
    assert not torch.equal(Dropout(0.3, seed=6)(numbers), first)
    torch.manual_seed(99)  # torch's own random state has no say
    assert torch.equal(Dropout(0.3, seed=5)(numbers), first)
    assert drop.eval()(numbers) is numbers and dropout(0.0, 0)(numbers) is numbers


def test_gradients_pass_where_numbers_did() -> None:
    numbers = torch.ones(4, 50, requires_grad=True)
    kept = Dropout(0.5, seed=0)(numbers)
    kept.sum().backward()
    assert numbers.grad is not None and torch.equal(numbers.grad, kept.detach())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "classification", "dropout": 1.0}, "--dropout is 1.0; it is a share, at least 0 and below 1"),
        ({"objective": "classification", "dropout": float("nan")}, "--dropout is nan"),
        ({"objective": "self", "dropout": 0.5}, "--objective self does not read it"),
        ({"classify": 0.0, "code_gradient": 1.0, "dropout": 0.5}, "without --classify there is no classifier"),
    ],
)
def test_dropout_where_it_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        TrainingOptions(**settings)
    assert message in str(refused.value)


def test_an_interrupted_run_with_dropout_beside_codes_goes_on_exactly(
    closed_set: Path, tmp_path: Path, ctrl_c_after: Callable[[int], None]
) -> None:
    settings = {key: value for key, value in SMALL.items() if key != "batch_size"}
    options = TrainingOptions(**{**settings, "dropout": 0.4, "ema": 0.9, "epochs": 2, "classes_per_batch": 4})
    table: PictureTable = open_source(closed_set)
    whole, parts = create_run(tmp_path / "whole"), create_run(tmp_path / "parts")
    loop.train(table, options, whole)
    ctrl_c_after(3)
    assert loop.train(table, options, parts).status == "interrupted"
    assert loop.train(table, options, parts, resume=True).status == "done"
    models = [(run.folder / "model.safetensors").read_bytes() for run in (whole, parts)]
    assert models[0] == models[1]
