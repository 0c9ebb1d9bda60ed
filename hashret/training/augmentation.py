"""Random changes to training pictures, by preset: torchvision's v2 operations, with numbers drawn anew for each picture.

A picture is resized once, to a canvas a little larger than the network's input (`Canvas`), and changed at random on that. The
canvas is the same whether it was made a moment ago or comes from a cache, so a cache changes no bytes. What this costs,
compared with cutting crops out of the file: a crop of 40 % of a canvas of 256 px is 162 px wide and is enlarged to 224,
where a larger file would have had the detail; with "squash" crops are of the squashed picture, as the network sees pictures
later; with "crop" they are of the centre square; with "pad" they include the border. Resizing to 256 px before random crops
is common in metric learning (Musgrave, Belongie and Lim, A Metric Learning Reality Check, 2020).

Operations run on PIL pictures: Pillow computes in the calling thread, where torch would start threads beside the network's.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from hashret.data.loading import Augment, Make
from hashret.data.table import PictureTable
from hashret.errors import ImageError
from hashret.images import read_picture
from hashret.model.preprocess import CROP_SHARE, Preprocess

FEW, FEW_PER_CLASS = 1_000, 10
"""Below either, `auto` is `strong`: a network soon knows so few pictures by heart."""
MANY, MANY_PER_CLASS = 50_000, 500
"""From both on, `auto` is `light`: such sets (CIFAR-10, ImageNet) show most of what happens to a class, and strong changes only
slow learning down."""
SMALL_INPUT = 64
"""Pixels a side up to which a network's input counts as small."""
SHIFT = 1 / 8
"""How far `shifted` moves a picture: 4 px of 32."""

_LOOKED_AT = 16
_TRIES = 10

Picture = npt.NDArray[np.uint8]


class _Changes(NamedTuple):
    """What a preset does: the least share of the area kept, the most a colour is changed by, and shares of pictures."""

    area: float
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    erased: float = 0.0


_CHANGES = {
    "light": _Changes(area=0.7),
    "standard": _Changes(area=0.4, brightness=0.2, contrast=0.2),
    "strong": _Changes(area=0.2, brightness=0.4, contrast=0.4, saturation=0.4, grey=0.1, erased=0.25),
}


@dataclass(frozen=True)
class Canvas:
    """Makes what is augmented: an RGB picture resized to uint8 (size, size, 3), by the model's own way of resizing.

    With "crop" it is the centre square, of which the network sees the middle 224/256 later.
    """

    preprocess: Preprocess
    size: int

    def __call__(self, picture: Image.Image) -> Picture:
        """The canvas of a picture."""
        if self.preprocess.resize == "crop":
            side = min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            resample = Image.Resampling[self.preprocess.interpolation.upper()]
            return np.asarray(picture.resize((self.size, self.size), resample, (left, top, left + side, top + side)))
        pixels = replace(self.preprocess, image_size=self.size).pixels(picture)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class Augmentation:
    """Changes a canvas at random: uint8 (C, C, 3) to pixels uint8 (3, image_size, image_size), for `Preprocess.normalise`.

    - `light`: crops of at least 70 % of the area, mirrored half of the time;
    - `standard`: crops of at least 40 %, mirrored, brightness and contrast ±20 %;
    - `strong`: crops of at least 20 %, mirrored, brightness, contrast, saturation ±40 %, sometimes grey or partly erased;
    - `shifted`: moved by up to an eighth, black at the border, mirrored; for small pictures, which crops would blur (4 px of 32:
      He et al., Deep Residual Learning, 2016, section 4.2). Its canvas is the network's input.

    `mirrored` is the share of pictures that are: a half, or none where a mirror makes another thing of them.
    """

    preset: str
    image_size: int
    mirrored: float = 0.5

    def __call__(self, canvas_HWC: Picture, draw: random.Random) -> Picture:
        """The pixels of a canvas, changed by what is drawn."""
        picture = Image.fromarray(canvas_HWC)
        size = self.image_size
        if self.preset == "shifted":
            shift = max(1, round(SHIFT * size))
            top, left = _below(2 * shift + 1, draw), _below(2 * shift + 1, draw)
            picture = v2.crop(picture, top - shift, left - shift, size, size)
            picture = v2.horizontal_flip(picture) if draw.random() < self.mirrored else picture
            return _channels_first(picture)
        changes = _CHANGES[self.preset]
        picture = v2.resized_crop(
            picture,
            *_crop(picture.width, changes.area, draw),
            size=[size, size],
            interpolation=InterpolationMode.BILINEAR,
        )
        picture = v2.horizontal_flip(picture) if draw.random() < self.mirrored else picture
        picture = _coloured(picture, changes, draw)
        pixels = _channels_first(picture)
        if draw.random() < changes.erased:
            top, left, height, width = _erased(size, draw)
            pixels[:, top : top + height, left : left + width] = 0
        return pixels


def choose_preset(wanted: str, table: PictureTable, image_size: int, side: float) -> tuple[str, str]:
    """(preset, why): what `auto` and `standard` are for the training pictures of `table`, `side` px wide; else what is wanted."""
    per_class = len(table) / max(1, len(set(table.labels)))
    preset, why = wanted, "as asked for"
    if wanted == "auto":
        why = f"for {len(table):,} pictures, {per_class:.0f} a class"
        if len(table) < FEW or per_class < FEW_PER_CLASS:
            preset = "strong"
        elif len(table) >= MANY and per_class >= MANY_PER_CLASS:
            preset = "light"
        else:
            preset = "standard"
    small = image_size <= SMALL_INPUT and side <= image_size
    if small and (preset == "standard" or (preset == "light" and wanted == "auto")):
        return "shifted", f"{why}; they are small, {side:.0f} px"
    return preset, why


def augmentation(
    preset: str, preprocess: Preprocess, side: float, *, mirror: bool = True
) -> tuple[Make, Augment | None, tuple[int, ...]]:
    """(what is made of a picture once, how that is changed at random, the shape of what is made).

    `none` is the model's own resizing and no change. The canvas is 256/224 of the network's input, as ImageNet evaluation has
    it, but not larger than the pictures, `side` px: enlarging them would only blur.
    """
    size = preprocess.image_size
    if preset == "none":
        return preprocess.pixels, None, (3, size, size)
    if preset != "shifted":
        size = max(size, int(min(round(size / CROP_SHARE), side)))
    changed = Augmentation(preset, preprocess.image_size, 0.5 if mirror else 0.0)
    return Canvas(preprocess, size), changed, (size, size, 3)


def typical_side(table: PictureTable, resize: str) -> float:
    """The median side, in pixels, that resizing goes by: the longer for "pad", else the shorter; of a few pictures of the table.

    Infinity when none of them can be read.
    """
    rows = np.unique(np.linspace(0, len(table) - 1, _LOOKED_AT).round().astype(int)).tolist() if len(table) else []
    sides = []
    for row in rows:
        try:
            size = read_picture(table.paths[row], table.box(row)).size
        except ImageError:
            continue
        sides.append(max(size) if resize == "pad" else min(size))
    return float(np.median(sides)) if sides else math.inf


# ---- drawing --------------------------------------------------------------------------------------------------------


def _crop(side: int, least: float, draw: random.Random) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a part of a square: a share of `least` to 1 of its area, its sides 4:5 to 5:4."""
    for _ in range(_TRIES):
        area = draw.uniform(least, 1.0) * side * side
        ratio = math.exp(draw.uniform(-math.log(1.25), math.log(1.25)))
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if max(height, width) <= side:
            return _below(side - height + 1, draw), _below(side - width + 1, draw), height, width
    return 0, 0, side, side


def _erased(side: int, draw: random.Random) -> tuple[int, int, int, int]:
    """The same for a part to erase: 2 to 33 % of the area, its sides 3:10 to 10:3 (Zhong et al., Random Erasing, 2020)."""
    for _ in range(_TRIES):
        area = draw.uniform(0.02, 0.33) * side * side
        ratio = math.exp(draw.uniform(math.log(0.3), math.log(3.3)))
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if max(height, width) < side:
            return _below(side - height + 1, draw), _below(side - width + 1, draw), height, width
    return 0, 0, 0, 0


def _coloured(picture: Image.Image, changes: _Changes, draw: random.Random) -> Image.Image:
    if changes.brightness:
        picture = v2.adjust_brightness(picture, _near_one(changes.brightness, draw))
    if changes.contrast:
        picture = v2.adjust_contrast(picture, _near_one(changes.contrast, draw))
    if changes.saturation:
        picture = v2.adjust_saturation(picture, _near_one(changes.saturation, draw))
    if draw.random() < changes.grey:
        picture = v2.rgb_to_grayscale(picture, num_output_channels=3)
    return picture


def _near_one(most: float, draw: random.Random) -> float:
    return draw.uniform(1.0 - most, 1.0 + most)


def _below(n: int, draw: random.Random) -> int:
    """A whole number from 0 to n - 1. Python promises that `random` stays the same in later versions, not `randrange`."""
    return int(draw.random() * n)


def _channels_first(picture: Image.Image) -> Picture:
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
