"""Where a run's pictures come from, files or a cache, and how fast they come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hashret.data.cache import open_cache
from hashret.data.loading import PictureLoader
from hashret.data.table import PictureTable
from hashret.model.preprocess import Preprocess
from hashret.training.augmentation import augmentation
from hashret.training.options import TrainingOptions
from hashret.training.splits import TrainingSplit, rows_to_learn

_log = logging.getLogger("hashret.training")


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

    def opened(pictures: PictureTable, among: PictureTable, preset: str) -> tuple[PictureLoader, str]:
        """A loader of pictures which are found `among` those of a cache, and what it reads."""
        make, augment, shape = augmentation(preset, preprocess, side, mirror=options.mirror != "never")
        cache = open_cache(
            among,
            make,
            how=repr(make),  # a dataclass or a method of one, which prints all that it goes by
            shape=shape,
            wanted=options.cache,
            workers=options.workers,
            stopped=stopped,
        )
        if cache is not None:
            row_of = {picture: row for row, picture in enumerate(among.ids)}
            cache = cache.select([row_of[picture] for picture in pictures.ids])
        # What is left to do to a picture out of a cache is soon done by a thread here; only a GPU asks for thousands a second.
        few = options.workers is None and cache is not None and device.type == "cpu"
        return PictureLoader(
            pictures,
            make,
            augment=augment,
            cache=cache,
            workers=0 if few else options.workers,
            pin_memory=device.type == "cuda",
        ), "files" if cache is None else "cache"

    # With another seed other pictures are held out, and the same cache serves.
    to_learn = table.select(rows_to_learn(table, options.learns_from))
    training, training_from = opened(split.train, to_learn, options.augment)
    # Where each picture is a class of its own, two changed views of it are what belongs together.
    alone = options.learns_from == "pictures"
    validation, validation_from = opened(split.validation, split.validation, options.augment if alone else "none")
    return Loaders(training, validation, {"training": training_from, "validation": validation_from})


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
            "images/s": round(self.pictures / self.seconds, 2) if self.seconds else 0.0,
            "waiting": round(self.waited / self.seconds, 4) if self.seconds else 0.0,
        }
        self.pictures, self.seconds, self.waited = 0, 0.0, 0.0
        return numbers
