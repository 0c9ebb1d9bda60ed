"""What is learnt of pictures that have several labels, or none: trained for real, and what is held out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import codes_alone
from test_training import SMALL

from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.errors import TrainingError, UsageError
from hashret.training import loop
from hashret.training.runs import create_run
from hashret.training.splits import split_for_training
from hashret.training.targets import targets_of
from hashret.training.validation import _together

FREE = {name: value for name, value in SMALL.items() if name not in ("classes_per_batch", "pictures_per_class")}


def table(labels: list[str], splits: list[str] | None = None) -> PictureTable:
    n = len(labels)
    return PictureTable(
        [str(i) for i in range(n)], [f"/{i}.png" for i in range(n)], labels, splits or [""] * n, {}, "set"
    )


def test_pictures_without_labels_are_learnt_from(closed_set: Path, tmp_path: Path) -> None:
    unlabelled = dataclasses.replace(open_source(closed_set), labels=[""] * len(open_source(closed_set)))
    options = codes_alone(**{**FREE, "objective": "self", "batch_size": 12, "epochs": 12, "lr": 1e-3})
    run = create_run(tmp_path / "run")
    result = loop.train(unlabelled, options, run)
    losses = [line["loss"] for line in run.history()]
    assert result.status == "done" and np.mean(losses[-3:]) < losses[0] - 0.1


def test_several_labels_are_learnt(closed_set: Path, tmp_path: Path) -> None:
    pictures = open_source(closed_set)
    # The class, and whether its number is even: pictures of different classes share that.
    several = dataclasses.replace(pictures, labels=[f"{name}; even{int(name[-1]) % 2}" for name in pictures.labels])
    options = codes_alone(**{**FREE, "objective": "multilabel", "through": "codes", "batch_size": 12, "epochs": 6})
    run = create_run(tmp_path / "run")
    assert loop.train(several, options, run).best_map > 0.7
    assert run.history()[-1]["accuracy"] > 0.8


def test_labels_are_parted_and_counted() -> None:
    matrix, names = table(["b; a", "a", "", " c ;;b "]).label_matrix()
    assert names == ["a", "b", "c"]
    assert matrix.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert table([]).label_matrix()[0].shape == (0, 0)
    assert _together(matrix, matrix).tolist() == [[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert _together(np.array([0, 1]), np.array([0, 1, 0])).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_what_is_held_out_without_classes() -> None:
    split = split_for_training(table([""] * 20), validation=0.2, learns_from="pictures")
    assert (len(split.train), len(split.validation)) == (16, 4) and not set(split.train.ids) & set(split.validation.ids)
    own = split_for_training(table([""] * 8, ["train"] * 5 + ["val"] * 2 + ["test"]), learns_from="pictures")
    assert own.train.ids == list("01234") and own.validation.ids == ["5", "6"]
    labelled = split_for_training(table(["a;b"] * 6 + [""] * 6), validation=0.2, learns_from="labels")
    assert set(labelled.train.ids) | set(labelled.validation.ids) == set("012345")
    with pytest.raises(TrainingError, match="set has 3 labelled pictures to train on; at least 4 are needed"):
        split_for_training(table(["a"] * 3 + [""] * 5), learns_from="labels")


def test_batches_of_views_and_of_any_pictures() -> None:
    options = codes_alone(**{**FREE, "objective": "self", "batch_size": 4})
    split = split_for_training(table([""] * 12), learns_from="pictures")
    targets, _ = targets_of(split, options)
    batch = next(iter(targets.sampler.epoch(0)))
    assert targets.batch_size == len(batch) == 8 and (batch[::2] == batch[1::2]).all()
    assert torch.equal(targets.of(batch), torch.from_numpy(batch))
    with pytest.raises(UsageError, match="--classes-per-batch is 4, but --objective self does not read it"):
        codes_alone(**{**SMALL, "objective": "self"})
