"""What a model has to beat: raw 32×32 pixels, and a network of its own kind that has learnt nothing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from hashret.data.table import PictureTable
from hashret.data.turntable.rule import raw_pixels
from hashret.encoding import encode_table
from hashret.images import read_picture
from hashret.model.hasher import Hasher
from hashret.model.network import HashNet


def pixel_vectors(table: PictureTable) -> NDArray[np.float32]:
    """Vectors of length 1, float32 (N, 3072): every picture at 32×32 pixels, less its mean."""

    vectors_ND = np.empty((len(table), 3 * 32 * 32), dtype=np.float32)  # 12 KB a picture: to be held once

    def fill(row: int) -> None:
        vectors_ND[row] = raw_pixels(read_picture(table.paths[row], box=table.box(row), smallest_side=64))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(table))):
            pass
    return vectors_ND


def untrained_features(hasher: Hasher, table: PictureTable, *, workers: int | None = None) -> NDArray[np.float32]:
    """Features, float32 (N, D), of a network of the same architecture with random weights (seed 0)."""
    network = hasher.network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        untrained = HashNet(
            network.backbone_name,
            1,
            image_size=network.image_size,
            stem=network.stem,
            pooling=network.pooling,
            project=network.project,
        )
    control = Hasher(untrained, hasher.preprocess, device=hasher.device)
    features_ND = encode_table(control, table, what=("features",), workers=workers, precision="float32").features
    assert features_ND is not None
    return features_ND
