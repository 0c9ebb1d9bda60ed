"""Which pictures form a training batch: P classes with K pictures each, or any."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


class PKSampler:
    """Batches of row positions, P classes × K pictures, planned anew for every epoch.

    An epoch is honest: each class's pictures are shuffled and cut into groups of K (the last group is filled up from the same
    class), and an epoch has as many batches as hold all groups, `ceil(groups / P)`. With classes of similar size every picture
    is seen once an epoch, a few twice. A class that alone has more groups than the epoch has batches cannot be shown whole
    without repeating the others; it then shows as many groups as there are batches, different ones each epoch.

    The plan of an epoch depends on (seed, epoch) only, so an interrupted epoch can be resumed at any batch.
    """

    def __init__(
        self, labels_N: NDArray[np.int64], *, classes_per_batch: int, pictures_per_class: int, seed: int = 0
    ) -> None:
        self.classes_per_batch = classes_per_batch
        self.pictures_per_class = pictures_per_class
        self.seed = seed
        order = np.argsort(labels_N, kind="stable")
        boundaries = np.flatnonzero(np.diff(labels_N[order])) + 1
        self._rows_by_class = np.split(order, boundaries)
        if len(self._rows_by_class) < classes_per_batch:
            raise ValueError(f"{classes_per_batch} classes a batch, but only {len(self._rows_by_class)} classes")
        groups = sum(-(-len(rows) // pictures_per_class) for rows in self._rows_by_class)
        self._batches = -(-groups // classes_per_batch)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The batches of one epoch, each P·K row positions, the K pictures of a class side by side."""
        rng = np.random.default_rng([self.seed, epoch])
        groups = [self._groups(rows, rng) for rows in self._rows_by_class]
        for _ in range(self._batches):
            # The classes with most groups left come first, so that nothing is left over; ties fall at random.
            left = np.array([len(g) for g in groups]) + rng.random(len(groups))
            chosen = np.argsort(-left)[: self.classes_per_batch]
            rng.shuffle(chosen)
            batch = []
            for c in chosen:
                if not groups[c]:
                    groups[c] = self._groups(self._rows_by_class[c], rng)[:1]
                batch.append(groups[c].pop())
            yield np.concatenate(batch)

    def _groups(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        k = self.pictures_per_class
        shuffled = rng.permutation(rows)
        short = -len(rows) % k
        if short:
            # Distinct fillers as far as the class has them: a picture beside its own copy teaches nothing.
            last = shuffled[len(rows) - len(rows) % k :]
            others = np.setdiff1d(rows, last)
            filler = rng.choice(others, short, replace=len(others) < short) if len(others) else rng.choice(rows, short)
            shuffled = np.concatenate([shuffled, filler])
        return [shuffled[i : i + k] for i in range(0, len(shuffled), k)]


class ShuffleSampler:
    """Batches of row positions in an order that is shuffled anew for every epoch, each row `views` times in a row.

    All batches hold the same number of pictures: the last one of an epoch is filled up with pictures that it has shown already.
    The plan of an epoch depends on (seed, epoch) only.
    """

    def __init__(self, pictures: int, *, batch_size: int, seed: int = 0, views: int = 1) -> None:
        self.batch_size = min(batch_size, pictures)
        self.seed = seed
        self.views = views
        self._pictures = pictures

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self._pictures // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The batches of one epoch, each batch_size · views row positions, the views of a picture side by side."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self._pictures)
        filled = np.resize(order, len(self) * self.batch_size)
        for batch in filled.reshape(len(self), self.batch_size):
            yield np.repeat(batch, self.views)
