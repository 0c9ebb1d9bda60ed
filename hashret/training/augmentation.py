"""Random changes to training pictures, by preset, with torchvision's v2 transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from hashret.model.preprocess import Preprocess


def augmentation(preset: str, preprocess: Preprocess) -> Callable[[Image.Image], torch.Tensor]:
    """A random transform from an RGB picture to pixels, uint8 (3, S, S), for `Preprocess.normalise`.

    - `none`: the model's own resizing, nothing random;
    - `light`: crops of at least 70 % of the area, mirrored half of the time;
    - `standard`: crops of at least 40 %, mirrored, brightness and contrast ±20 %;
    - `strong`: crops of at least 20 %, mirrored, colour jitter, sometimes grey, sometimes a part erased.

    All randomness comes from torch's global generator, which the loader seeds for each picture.
    """
    if preset == "none":
        return preprocess.pixels
    size = [preprocess.image_size, preprocess.image_size]
    scale = {"light": 0.7, "standard": 0.4, "strong": 0.2}[preset]
    # Cropping comes first, on the PIL picture: Pillow resizes only the part that is kept.
    steps: list[Callable[..., Any]] = [
        v2.RandomResizedCrop(size, scale=(scale, 1.0), ratio=(0.8, 1.25), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
    ]
    if preset == "standard":
        steps.append(v2.ColorJitter(brightness=0.2, contrast=0.2))
    if preset == "strong":
        steps += [
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
            v2.RandomGrayscale(0.1),
            v2.RandomErasing(0.25),
        ]
    composed: Callable[[Image.Image], torch.Tensor] = v2.Compose(steps)
    return composed
