"""What the pictures of a split are to be recognised as, and how they come together in batches.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hashret.data.samplers import PKSampler, ShuffleSampler
from hashret.data.table import PictureTable
from hashret.errors import TrainingError
from hashret.training.options import OF_PAIRS, TrainingOptions
from hashret.training.splits import TrainingSplit

MOST_CLASSES_PER_BATCH = 16
"""Classes in a batch where nothing else is asked for and there are as many."""


@dataclass(frozen=True)
class Targets:
    """What there is to learn of the training pictures: labels (N,) int64 class numbers, or (N, C) bool, and batches of them."""

    labels: NDArray[np.int64] | NDArray[np.bool_]
    names: list[str]
    """Of the classes; of the pictures where each is a class of its own."""
    sampler: PKSampler | ShuffleSampler
    batch_size: int

    def of(self, rows: NDArray[np.int64]) -> Tensor:
        """The labels of some rows, as an objective takes them."""
        labels = torch.from_numpy(self.labels[rows])
        return labels.float() if labels.ndim == 2 else labels


def targets_of(split: TrainingSplit, options: TrainingOptions) -> tuple[Targets, TrainingOptions]:
    """The targets that the objective asks for, and the options with the batch that "auto" stands for.

    TrainingError for a batch that the training pictures cannot fill.
    """
    table = split.train
    labels, names = labels_of(table, options)
    if options.objective not in OF_PAIRS:
        views = 2 if options.learns_from == "pictures" else 1
        shuffled = ShuffleSampler(len(table), batch_size=options.batch_size, seed=options.seed, views=views)
        return Targets(labels, names, shuffled, shuffled.batch_size * views), options
    if options.classes_per_batch == "auto":
        options = replace(options, classes_per_batch=min(MOST_CLASSES_PER_BATCH, len(names)))
    p, k = int(options.classes_per_batch), options.pictures_per_class
    if p > len(names):
        raise TrainingError(
            f"--classes-per-batch is {p}, but there are {len(names)} training classes; give --classes-per-batch {len(names)} "
            "or fewer"
        )
    if p * k > len(table):
        raise TrainingError(
            f"a batch of {p} classes × {k} pictures is larger than the {len(table)} training pictures; lower "
            "--pictures-per-class"
        )
    pairs = PKSampler(labels.astype(np.int64), classes_per_batch=p, pictures_per_class=k, seed=options.seed)
    return Targets(labels, names, pairs, p * k), options


def labels_of(table: PictureTable, options: TrainingOptions) -> tuple[NDArray[np.int64] | NDArray[np.bool_], list[str]]:
    """Class numbers (N,), flags of labels (N, C), or numbers of the pictures themselves; and what these are called."""
    if options.learns_from == "labels":
        return table.label_matrix()
    if options.learns_from == "pictures":
        return np.arange(len(table), dtype=np.int64), list(table.ids)
    return table.class_ids()
