"""A picture of a training batch: what a network sees, so that wrong crops and labels are seen before hours of training."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image

from hashret.data.table import PictureTable
from hashret.images import read_picture
from hashret.model.preprocess import Preprocess
from hashret.sheets import SheetPicture, grid
from hashret.training.augmentation import augmentation, choose_preset, typical_side
from hashret.training.options import TrainingOptions
from hashret.training.splits import rows_to_learn, split_for_training

SHOWN = 32


def training_batch(table: PictureTable, options: TrainingOptions) -> bytes:
    """A PNG of pictures to train on, drawn with the seed, changed at random as training changes them, with their labels."""
    split = split_for_training(
        table, task=options.task, validation=options.validation, seed=options.seed, learns_from=options.learns_from
    )
    side = typical_side(table.select(rows_to_learn(table, options.learns_from)), options.resize)
    preset, _ = choose_preset(options.augment, split.train, options.image_size, side)
    shown_as = Preprocess(image_size=options.image_size, resize=options.resize)
    make, augment, _ = augmentation(preset, shown_as, side, mirror=options.mirror != "never")
    draw = random.Random(options.seed)
    rows = draw.sample(range(len(split.train)), min(SHOWN, len(split.train)))
    pictures = []
    for row in rows:
        made = np.asarray(make(read_picture(split.train.paths[row], box=split.train.box(row))))
        pixels = made if augment is None else np.asarray(augment(made, draw))
        shown = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        pictures.append(SheetPicture(shown, [split.train.labels[row]]))
    buffer = io.BytesIO()
    grid(pictures, title=f"as training shows them: {preset}").save(buffer, "PNG")
    return buffer.getvalue()
