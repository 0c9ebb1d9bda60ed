"""Where a run's pictures come from, files or a cache, and how fast they come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hashret.data.cache import PictureCache, open_cache
from hashret.data.loading import Make, PictureLoader
from hashret.data.table import PictureTable
from hashret.model.preprocess import Preprocess
from hashret.training.augmentation import augmentation
from hashret.training.options import TrainingOptions
from hashret.training.splits import VALIDATION_SPLITS, TrainingSplit, rows_to_read

_log = logging.getLogger("hashret.training")


def trainable(table: PictureTable) -> PictureTable:
    """The pictures of a table that some seed would train on: with those held out, without test and validation splits."""
    return table.select(rows_to_read(table) & ~np.isin(table.splits, VALIDATION_SPLITS))


class Loaders(NamedTuple):
    """The loaders of training and of validation pictures, and what each reads, "cache" or "files"."""

    training: PictureLoader
    validation: PictureLoader
    read_from: dict[str, str]


def open_loaders(
    table: PictureTable,
    split: TrainingSplit,
    options: TrainingOptions,
    preprocess: Preprocess,
    *,
    side: float,
    device: torch.device,
    stopped: Callable[[], bool],
) -> Loaders:
    """The loaders of a run on `split` of `table`, whose pictures are `side` px wide, over caches made where there are none.

    KeyboardInterrupt when `stopped` says so while a cache is made.
    """
    make, augment, shape = augmentation(options.augment, preprocess, side)
    # With another seed other pictures are held out, and the same cache serves.
    may_train = trainable(table)

    def cached(pictures: PictureTable, make: Make, shape: tuple[int, ...]) -> PictureCache | None:
        return open_cache(
            pictures,
            make,
            how=repr(make),  # a dataclass or a method of one, which prints all that it goes by
            shape=shape,
            wanted=options.cache,
            workers=options.workers,
            stopped=stopped,
        )

    def workers(cache: PictureCache | None) -> int | None:
        # What is left to do to a picture out of a cache is soon done by a thread here; only a GPU asks for thousands a second.
        return 0 if options.workers is None and cache is not None and device.type == "cpu" else options.workers

    to_train = cached(may_train, make, shape)
    if to_train is not None:
        row_of = {picture: row for row, picture in enumerate(may_train.ids)}
        to_train = to_train.select([row_of[picture] for picture in split.train.ids])
    to_validate = cached(split.validation, preprocess.pixels, (3, preprocess.image_size, preprocess.image_size))
    return Loaders(
        PictureLoader(
            split.train,
            make,
            augment=augment,
            cache=to_train,
            workers=workers(to_train),
            pin_memory=device.type == "cuda",
        ),
        PictureLoader(split.validation, preprocess.pixels, cache=to_validate, workers=workers(to_validate)),
        {"training": _from(to_train), "validation": _from(to_validate)},
    )


def _from(cache: PictureCache | None) -> str:
    return "files" if cache is None else "cache"


@dataclass
class Pace:
    """How fast an epoch's pictures were used: their number, the seconds this took, and those spent waiting for the loader."""

    pictures: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def timed(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches; how long each was waited for and used is added up here."""
        asked = time.perf_counter()
        for rows, pixels in batches:
            came = time.perf_counter()
            self.waited += came - asked
            try:
                yield rows, pixels
            finally:
                self.pictures += len(rows)
                self.seconds += time.perf_counter() - asked
                asked = time.perf_counter()

    def end_epoch(self) -> dict[str, float]:
        """Pictures a second and the share of the time spent waiting, as they are logged; counting begins anew."""
        numbers = {
            "images/s": self.pictures / self.seconds if self.seconds else 0.0,
            "waiting": self.waited / self.seconds if self.seconds else 0.0,
        }
        self.pictures, self.seconds, self.waited = 0, 0.0, 0.0
        return numbers
