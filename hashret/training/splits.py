"""Which rows train and which validate; the test split is never touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashret.data.table import PictureTable
from hashret.errors import TrainingError

VALIDATION_SPLITS = ("val", "valid", "validation")


@dataclass(frozen=True)
class TrainingSplit:
    """Pictures to learn from, pictures to choose the best epoch by, and how they were told apart."""

    train: PictureTable
    validation: PictureTable
    task: str
    how: str


def rows_to_read(table: PictureTable, learns_from: str = "classes") -> NDArray[np.bool_]:
    """A flag (n,) for every row of a table: whether training may look at its picture. Test pictures stay unread."""
    is_train, is_validation = _roles(table, labelled=learns_from != "pictures")
    return is_train | is_validation


def rows_to_learn(table: PictureTable, learns_from: str = "classes") -> NDArray[np.bool_]:
    """A flag (n,) for every row: whether some seed would train on it. The table's own validation split is left out."""
    is_train, is_validation = _roles(table, labelled=learns_from != "pictures")
    return is_train & ~is_validation


def split_for_training(
    table: PictureTable, *, task: str = "auto", validation: float = 0.15, seed: int = 0, learns_from: str = "classes"
) -> TrainingSplit:
    """The training and validation rows of a table.

    Training rows are those of split "train"; if no row has that split, those with no split at all. `task` "auto" is
    "unseen" when the table has other splits and none of their labels is among the training labels, else "closed".
    Validation rows are a split of their own if the table has one; otherwise a share `validation` is held out: whole
    classes when the task is unseen (with fewer than four classes: pictures), pictures of every class when it is closed.
    The held-out choice depends on the labels and the seed only.

    `learns_from` "classes" is all of this; from "labels" (several of a picture) or "pictures" alone, which need no label,
    pictures are held out whatever they show.
    """
    labels = np.array(table.labels)
    if learns_from != "classes":
        return _pictures_held_out(table, labelled=learns_from == "labels", validation=validation, seed=seed)
    is_train, is_validation = _roles(table)
    if not is_train.any():
        found = ", ".join(sorted(set(table.splits) - {""})) or "none"
        raise TrainingError(
            f"{table.name} has no labelled picture to train on (splits found: {found}); label pictures and mark them 'train'"
        )
    if is_validation.any() and np.unique(labels[is_validation], return_counts=True)[1].max() < 2:
        raise TrainingError(
            f"the validation split of {table.name} has no two pictures of one class, so nothing can be found in it; add "
            "pictures, or leave the split away and a share of the training pictures is held out"
        )
    train_labels = set(labels[is_train])
    _check_classes(labels[is_train], table.name)
    if task == "auto":
        others = set(labels[~is_train & (labels != "") & ~is_validation]) or set(labels[is_validation])
        task = "unseen" if others and not others & train_labels else "closed"
    if is_validation.any():
        return TrainingSplit(
            table.select(is_train),
            table.select(is_validation),
            task,
            f"the split {table.splits[int(is_validation.argmax())]!r}",
        )
    rng = np.random.default_rng(seed)
    if task == "unseen" and len(train_labels) >= 4:
        held_classes = _share(np.array(sorted(train_labels)), validation, rng, least=2)
        held = is_train & np.isin(labels, held_classes)
        how = f"{len(held_classes)} of {len(train_labels)} training classes held out"
    else:
        held = np.zeros(len(labels), bool)
        for label in sorted(train_labels):
            rows = np.flatnonzero(is_train & (labels == label))
            if len(rows) >= 4:
                held[_share(rows, validation, rng, least=2)] = True
        how = f"{held.sum()} of {is_train.sum()} training pictures held out"
    if not held.any():
        raise TrainingError(
            f"{table.name} is too small to hold out validation pictures (no class has 4 pictures); add pictures, or a split 'val'"
        )
    return TrainingSplit(table.select(is_train & ~held), table.select(held), task, how)


def _pictures_held_out(table: PictureTable, *, labelled: bool, validation: float, seed: int) -> TrainingSplit:
    """A split in which any pictures are held out: a share of them, or those that the table says."""
    is_train, is_validation = _roles(table, labelled=labelled)
    if is_train.sum() < 4:
        raise TrainingError(
            f"{table.name} has {is_train.sum()} {'labelled ' if labelled else ''}pictures to train on; at least 4 are needed"
        )
    how = "the split of the table"
    if not is_validation.any():
        held = _share(np.flatnonzero(is_train), validation, np.random.default_rng(seed), least=2)
        is_validation[held] = True
        how = f"{len(held)} of {is_train.sum()} training pictures held out"
    if labelled and not table.select(is_validation).label_matrix()[0].sum(axis=0).max(initial=0) > 1:
        raise TrainingError(
            f"no two of the {is_validation.sum()} validation pictures of {table.name} have a label in common, so nothing can be "
            "found among them; hold out more with --validation, or add pictures"
        )
    return TrainingSplit(table.select(is_train & ~is_validation), table.select(is_validation), "closed", how)


def _roles(table: PictureTable, *, labelled: bool = True) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows, labelled ones where that is asked, are there to train on, and which are the table's validation split."""
    splits = np.array(table.splits)
    usable = (np.array(table.labels) != "") | (not labelled)
    is_train = splits == ("train" if "train" in table.splits else "")
    return is_train & usable, np.isin(splits, VALIDATION_SPLITS) & usable


def _check_classes(labels: NDArray[np.str_], name: str) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise TrainingError(
            f"{name} has {_classes(len(classes))}; triplets need at least 2: sort pictures by what they show"
        )
    single = classes[counts == 1]
    if len(single):
        shown = ", ".join(single[:3]) + ("…" if len(single) > 3 else "")
        raise TrainingError(
            f"{name} has {_classes(len(single))} with a single picture ({shown}); "
            "add a second picture, or remove the class"
        )


def _classes(n: int) -> str:
    return f"{n} training class" + ("" if n == 1 else "es")


def _share(items: NDArray[np.generic], share: float, rng: np.random.Generator, *, least: int) -> NDArray[np.generic]:
    n = min(len(items) - 2, max(least, round(share * len(items))))
    return np.sort(rng.permutation(items)[:n])
