"""Small picture sets that tests make on the spot."""

from __future__ import annotations

import colorsys
import os
from pathlib import Path

# Tests run in several processes on few cores, where torch's spinning threads would wait for each other.
# Set before torch or numba is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image


def make_pictures(folder: Path, classes: int = 6, pictures: int = 8, size: int = 32, first: int = 0) -> Path:
    """A folder of class folders: each class one hue with a bright square, noise over it."""
    for c in range(first, first + classes):
        (folder / f"class{c:02d}").mkdir(parents=True)
        colour = 255 * np.array(colorsys.hsv_to_rgb((0.37 * c) % 1, 0.8, 0.7))
        for i in range(pictures):
            rng = np.random.default_rng([c, i])
            array = colour + rng.normal(0, 25, (size, size, 3))
            y, x = rng.integers(0, size // 2, 2)
            array[y : y + size // 3, x : x + size // 3] += 20 * (c % 5)
            Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(folder / f"class{c:02d}" / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def closed_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 classes × 8 pictures without splits."""
    return make_pictures(tmp_path_factory.mktemp("closed") / "hues")


@pytest.fixture(scope="session")
def unseen_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train: 6 classes × 8 pictures; test: 3 other classes × 8 pictures."""
    root = tmp_path_factory.mktemp("unseen") / "hues"
    make_pictures(root / "train")
    make_pictures(root / "test", classes=3, first=6)
    return root
