"""Every objective in a short real training: it learns, and goes on exactly where it was interrupted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import codes_alone, make_pictures

from hashret import hamming
from hashret.codes import binarize as codes_of
from hashret.data.loading import PictureLoader
from hashret.data.sources import open_source
from hashret.model.hasher import Hasher
from hashret.model.heads import ProjectionHead
from hashret.training import loop
from hashret.training.options import OF_PAIRS, TrainingOptions
from hashret.training.runs import Run, create_run
from hashret.training.splits import split_for_training
from hashret.training.validation import validate

SMALL: dict[str, Any] = {
    "backbone": "squeezenet1_1",
    "image_size": 32,
    "code_size": 16,
    "epochs": 6,
    "lr": 1e-3,
    "augment": "light",
    "device": "cpu",
    "workers": 0,
    "cache": "off",
}


@pytest.fixture(scope="module")
def hues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 classes × 20 pictures without splits."""
    return make_pictures(tmp_path_factory.mktemp("more") / "hues", pictures=20)


def options_of(**changes: Any) -> TrainingOptions:
    """Batches of 12 pictures, 4 classes × 3 where pictures of a class are compared."""
    return codes_alone(**{**SMALL, **batch_of(changes), **changes})


def batch_of(changes: dict[str, Any]) -> dict[str, Any]:
    of_pairs = changes.get("objective", "triplet") in OF_PAIRS
    return {"classes_per_batch": 4, "pictures_per_class": 3} if of_pairs else {"batch_size": 12}


def train(source: Path, folder: Path, **changes: Any) -> tuple[loop.TrainingResult, Run]:
    run = create_run(folder)
    return loop.train(open_source(source), options_of(**changes), run), run


@functools.cache
def untrained_map(source: Path, code_size: int) -> float:
    """Validation mAP of the network that training starts from, its BatchNorm set by the training pictures."""
    options = options_of(code_size=code_size)
    split = split_for_training(open_source(source))
    torch.manual_seed(options.seed)
    hasher = loop._build_hasher(options, split)
    with PictureLoader(split.train, hasher.preprocess.pixels, workers=0) as pictures:
        ((_, pixels),) = pictures.batches([np.arange(len(split.train))])
    hasher.network.train()
    with torch.no_grad():
        for _ in range(20):
            hasher.network(hasher.preprocess.normalise(pixels))
    return score(hasher, split)


def score(hasher: Hasher, split: Any) -> float:
    with PictureLoader(split.validation, hasher.preprocess.pixels, workers=0) as pictures:
        return validate(hasher, pictures, split.validation.class_ids()[0]).map


KINDS: dict[str, dict[str, Any]] = {
    "triplet": {},
    "triplet, semi-hard, softplus": {"mining": "semi-hard", "hinge": "softplus"},
    "triplet, hard, all parts": {"mining": "hard", "sign_weight": 1.0, "proxy_weight": 1.0, "memory": 40},
    "triplet, nested, balanced": {"nested": True, "code_size": 40, "balance": 0.5},
    "classification": {"objective": "classification"},
    "classification through codes": {"objective": "classification", "through": "codes", "quantisation": 0.1},
    "multilabel through codes": {"objective": "multilabel", "through": "codes"},
    "cosine": {"objective": "cosine"},
    "cosine, nested": {"objective": "cosine", "nested": True, "code_size": 40},
    "central": {"objective": "central"},
    "dtsh": {"objective": "dtsh", "quantisation": 0.1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(hues: Path, tmp_path: Path, kind: str) -> None:
    changes = KINDS[kind]
    result, run = train(hues, tmp_path / "run", **changes)
    assert result.best_map > untrained_map(hues, changes.get("code_size", 16)) + 0.05
    assert run.read()["options"]["objective"] == changes.get("objective", "triplet")


@pytest.mark.parametrize("kind", [*KINDS, "self"])
def test_unless_told_otherwise_every_objective_moves_the_backbone(hues: Path, tmp_path: Path, kind: str) -> None:
    changes = {"objective": "self"} if kind == "self" else KINDS[kind]
    options = TrainingOptions(**{**SMALL, **batch_of(changes), **changes, "epochs": 2})
    torch.manual_seed(options.seed)
    begun = loop._build_hasher(options, split_for_training(open_source(hues), learns_from=options.learns_from))
    run = create_run(tmp_path / "run")
    loop.train(open_source(hues), options, run)
    after = dict(Hasher.from_pretrained(run.folder, device="cpu").network.backbone.named_parameters())
    for name, before in begun.network.backbone.named_parameters():
        if before.ndim > 1:  # far more than weight decay does
            assert (after[name] - before).norm() > 1e-3 * before.norm(), name


@pytest.mark.parametrize("kind", ["triplet", "triplet, nested, balanced", "cosine", "central", "dtsh"])
def test_codes_of_features_that_a_classifier_shapes(hues: Path, tmp_path: Path, kind: str) -> None:
    """As it is unless told otherwise: codes are learned in the second half."""
    changes = {**KINDS[kind], "epochs": 8}
    run = create_run(tmp_path / "run")
    loop.train(open_source(hues), TrainingOptions(**{**SMALL, **batch_of(changes), **changes}), run)
    history = run.history()
    assert all("accuracy" in line for line in history)
    learned = ["loss_classification" in line for line in history]
    assert learned == [False] * 4 + [True] * 4
    assert history[-1]["val_map"] > 0.95


def test_prefixes_of_nested_codes_are_codes(hues: Path, tmp_path: Path) -> None:
    """One model, and its first 16 and 32 bits find as well as codes of their own would."""
    _, run = train(hues, tmp_path / "run", **KINDS["cosine, nested"], epochs=10)
    hasher = Hasher.from_pretrained(run.folder, device="cpu")
    split = split_for_training(open_source(hues))
    labels = split.validation.class_ids()[0]
    with PictureLoader(split.validation, hasher.preprocess.pixels, workers=0) as pictures:
        ((_, pixels),) = pictures.batches([np.arange(len(labels))])
    logits = hasher.run_batch(pixels)[0].numpy()
    for length in (16, 32, 40):
        codes = codes_of(logits[:, :length])
        apart = hamming.distances(codes, codes, length)
        nearest = np.where(np.eye(len(labels), dtype=bool), length + 1, apart).argmin(axis=1)
        assert (labels[nearest] == labels).mean() > 0.8


def test_codes_are_fitted_to_features_where_these_are_what_is_learnt(hues: Path, tmp_path: Path) -> None:
    """The epoch is the best one by features; its codes find nearly as well, and resuming at the very end changes nothing."""
    result, run = train(hues, tmp_path / "run", objective="classification", keep_epochs=True, lr=3e-3)
    best = max(run.history(), key=lambda line: line["val_float_map"])
    assert (result.best_epoch, result.best_map) == (best["epoch"], best["val_float_map"])
    hasher = Hasher.from_pretrained(run.folder, device="cpu")
    assert isinstance(hasher.network.head, ProjectionHead) and hasher.code_size == 16
    assert "ITQ" in hasher.protocol["codes"] and hasher.scores["float_map"] == pytest.approx(result.best_map)
    unfitted = Hasher.from_pretrained(f"{run.folder}@{best['epoch']}", device="cpu")
    assert score(hasher, split_for_training(open_source(hues))) > result.best_map - 0.2
    for name, tensor in unfitted.network.backbone.state_dict().items():
        assert torch.equal(tensor, hasher.network.backbone.state_dict()[name])


def test_self_supervision_learns_without_labels(hues: Path, tmp_path: Path) -> None:
    """Two views of each picture a batch, and classes come out, of which nothing was said."""
    _, run = train(hues, tmp_path / "run", objective="self", epochs=10)
    hasher = Hasher.from_pretrained(run.folder, device="cpu")
    assert score(hasher, split_for_training(open_source(hues))) > untrained_map(hues, 16) + 0.05


@pytest.mark.parametrize("kind", ["triplet, hard, all parts", "cosine, nested", "classification through codes"])
def test_resuming_is_exact(hues: Path, tmp_path: Path, kind: str, ctrl_c_after: Callable[[int], None]) -> None:
    """With memory, proxies, class codes and a classifier, in the middle of an epoch."""
    changes = {**KINDS[kind], "epochs": 3}
    _, whole = train(hues, tmp_path / "whole", **changes)
    ctrl_c_after(5)
    result, run = train(hues, tmp_path / "parts", **changes)
    assert result.status == "interrupted"
    again = loop.train(open_source(hues), TrainingOptions.from_dict(run.read()["options"]), run, resume=True)
    assert again.status == "done"
    assert (run.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


def test_a_runs_margin_is_what_its_objective_says(hues: Path, tmp_path: Path) -> None:
    margins = {
        name: train(hues, tmp_path / name, objective=name, epochs=1)[1].read()["margin"]
        for name in ("triplet", "cosine", "central")
    }
    assert margins == {"triplet": 24.0, "cosine": 0.2, "central": None}
