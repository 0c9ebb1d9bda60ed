"""Inference preprocessing: one picture to the pixels the network sees, the same for every way in.

Two steps, so that the cheap form (bytes) is what travels between processes and onto a GPU:
`pixels` resizes a PIL picture to uint8 (3, S, S); `normalise` turns uint8 into (x / 255 - mean) / std.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from hashret.errors import UsageError

RESIZES = ("squash", "crop", "pad")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# As ImageNet evaluation has it: 224 px out of a shorter side of 256 px.
CROP_SHARE = 224 / 256
MAX_IMAGE_SIZE = 4096

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """PIL RGB picture to float32 tensor (3, image_size, image_size); a callable that pickles, and that config.json stores.

    `resize`: "squash" fits width and height separately, so nothing is lost; "crop" brings the shorter side to
    image_size * 256/224 and takes the centre, as ImageNet evaluation does; "pad" fits the longer side and centres the
    picture on the mean colour. `interpolation` is "bilinear" or "bicubic", both antialiased (Pillow's). `mean` and `std` are
    per channel, R G B, for pixels in 0..1. `mirror`: the network sees each picture and its mirror image, and the mean of what it
    says counts (`Hasher.run_batch`).
    """

    image_size: int = 224
    resize: str = "squash"
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    mirror: bool = False

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_IMAGE_SIZE:
            raise UsageError(
                f"the image size is {size!r}; it must be a whole number of pixels from 1 to {MAX_IMAGE_SIZE}"
            )
        if self.resize not in RESIZES:
            raise UsageError(f"resize is {self.resize!r}; it can be {', '.join(RESIZES)}")
        if self.interpolation not in _FILTERS:
            raise UsageError(f"interpolation is {self.interpolation!r}; it can be {', '.join(_FILTERS)}")
        object.__setattr__(self, "mean", _three("mean", self.mean))
        object.__setattr__(self, "std", _three("std", self.std))
        if min(self.std) <= 0:
            raise UsageError(f"std is {self.std}; every channel must be above 0")

    def pixels(self, picture: Image.Image) -> torch.Tensor:
        """The resized picture, uint8 (3, S, S)."""
        if picture.mode != "RGB":
            raise UsageError(
                f"a picture of mode {picture.mode} came to preprocessing; it takes RGB (hashret.images makes it)"
            )
        resized = self._resized(picture)
        # The copy makes the array writable, which torch asks for.
        return torch.from_numpy(np.array(resized).transpose(2, 0, 1).copy())

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(x / 255 - mean) / std as float32, on the device of `pixels`; uint8 (..., 3, H, W)."""
        mean, std = _channels(self.mean, pixels.device), _channels(self.std, pixels.device)
        return (pixels.to(torch.float32) / 255).sub_(mean).div_(std)

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """What the network sees: float32 (3, S, S)."""
        return self.normalise(self.pixels(picture))

    def as_dict(self) -> dict[str, Any]:
        """The part of config.json called "preprocessing"."""
        stored = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if not self.mirror:
            del stored["mirror"]  # a model without has the fingerprint that it had when there was no such thing
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Preprocess:
        """The inverse of `as_dict`; KeyError for a missing key, UsageError for a wrong value."""
        mirror = bool(stored.get("mirror", False))
        return cls(
            **{key: stored[key] for key in ("image_size", "resize", "interpolation", "mean", "std")}, mirror=mirror
        )

    def _resized(self, picture: Image.Image) -> Image.Image:
        size, resample = self.image_size, _FILTERS[self.interpolation]
        width, height = picture.size
        if self.resize == "squash":
            return picture if picture.size == (size, size) else picture.resize((size, size), resample)
        if self.resize == "crop":
            # The box of the source that becomes the picture: one resampling, no intermediate picture.
            side = min(width, height) * CROP_SHARE
            left, top = (width - side) / 2, (height - side) / 2
            return picture.resize((size, size), resample, box=(left, top, left + side, top + side))
        scale = size / max(width, height)
        fitted = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), resample)
        red, green, blue = (min(255, max(0, round(channel * 255))) for channel in self.mean)
        canvas = Image.new("RGB", (size, size), (red, green, blue))
        canvas.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
        return canvas


@functools.lru_cache(maxsize=32)
def _channels(values: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """The values of R, G and B, (3, 1, 1) on the device, copied there once: such a copy waits for all that a GPU is doing."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def _three(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {values!r}; it must be three numbers, for R, G and B in 0..1") from error
    if not all(math.isfinite(value) for value in (red, green, blue)):
        raise UsageError(f"{name} is {values!r}; its three numbers must be finite")
    return red, green, blue
