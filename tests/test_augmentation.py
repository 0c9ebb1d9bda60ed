"""Augmentation: every preset's changes, drawn from one generator; and which preset `auto` takes."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hashret.data.table import PictureTable
from hashret.model.preprocess import Preprocess
from hashret.training import augmentation as subject
from hashret.training.augmentation import Augmentation, Canvas, augmentation, choose_preset, typical_side
from hashret.training.options import AUGMENTATIONS

PRESETS = [preset for preset in AUGMENTATIONS if preset not in ("auto", "none")]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(size: int) -> np.ndarray:
    """A picture in which every place has a colour of its own: red grows to the right, green downwards."""
    ramp = np.linspace(0, 255, size).round().astype(np.uint8)
    return np.stack(
        [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 128, np.uint8)], -1
    )


def make_table(paths: list[str], labels: list[str] | None = None, **attributes: list[str]) -> PictureTable:
    n = len(paths)
    return PictureTable([str(i) for i in range(n)], paths, labels or [""] * n, [""] * n, attributes)


# ---- what is changed


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("canvas", [24, 27, 31])
def test_pixels_come_from_the_generator_alone(preset: str, canvas: int) -> None:
    picture = np.asarray(noise(canvas, canvas))
    picture.flags.writeable = False
    change = pickle.loads(pickle.dumps(Augmentation(preset, 24)))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first, again, other = (change(picture, random.Random(seed)) for seed in (1, 1, 2))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert first.shape == (3, 24, 24) and first.dtype == np.uint8 and first.flags.c_contiguous
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [16, 17, 224])
def test_any_size(preset: str, size: int) -> None:
    for seed in range(5):
        assert Augmentation(preset, size)(smooth(size), random.Random(seed)).shape == (3, size, size)


@pytest.mark.parametrize("preset", ["light", "standard", "strong", "shifted"])
def test_none_is_mirrored_where_that_would_make_another_thing_of_it(preset: str) -> None:
    """A picture that brightens to the right does so in every part; where a part is erased or black, neither side is brighter."""
    ramp = np.repeat(np.linspace(60, 190, 24)[None, :, None], 24, axis=0).repeat(3, axis=2).astype(np.uint8)
    counts = []
    for mirror in (False, True):
        _, change, _ = augmentation(preset, Preprocess(24), 24.0, mirror=mirror)
        assert change is not None
        seen = [change(ramp, random.Random(seed))[0, 8:16].mean(axis=0, dtype=float) for seed in range(100)]
        counts.append((sum(row[14] > row[9] for row in seen), sum(row[14] < row[9] for row in seen)))
    (rises, falls), (either, other) = counts
    assert rises > 70 and falls < 10 and min(either, other) > 20


def test_half_are_mirrored() -> None:
    change = Augmentation("light", 24)
    rising = [
        int(pixels[0, :, -1].mean()) > int(pixels[0, :, 0].mean())
        for pixels in (change(smooth(24), random.Random(seed)) for seed in range(400))
    ]
    assert 0.4 < np.mean(rising) < 0.6


@pytest.mark.parametrize(("preset", "least"), [("light", 0.7), ("standard", 0.4), ("strong", 0.2)])
def test_crops_keep_their_least_share(preset: str, least: float) -> None:
    side = 200
    shares, ratios, places = [], [], []
    for seed in range(500):
        top, left, height, width = subject._crop(side, least, random.Random(seed))
        assert 0 <= top <= side - height and 0 <= left <= side - width
        shares.append(height * width / side**2)
        ratios.append(width / height)
        places.append((top, left))
    assert least - 0.01 < min(shares) < least + 0.05 and max(shares) > 0.9
    assert 0.78 < min(ratios) < 0.9 < 1.1 < max(ratios) < 1.27
    assert len(set(places)) > 100


def test_shifting_moves_whole_pixels_and_leaves_black_behind() -> None:
    change = Augmentation("shifted", 32)
    canvas = 1 + smooth(32) // 2
    seen = set()
    for seed in range(2000):
        pixels = change(canvas, random.Random(seed)).transpose(1, 2, 0)
        there = pixels.any(axis=-1)
        top, left = np.argwhere(there).min(axis=0)
        bottom, right = np.argwhere(there).max(axis=0) + 1
        assert there[top:bottom, left:right].all()
        mirrored = pixels[top, left, 0] > pixels[top, right - 1, 0]
        back = pixels[:, ::-1] if mirrored else pixels
        left, right = (32 - right, 32 - left) if mirrored else (left, right)
        down, across = (top or bottom - 32), (left or right - 32)
        assert abs(down) <= 4 and abs(across) <= 4
        source = canvas[max(0, -down) : 32 - max(0, down), max(0, -across) : 32 - max(0, across)]
        assert np.array_equal(back[top:bottom, left:right], source)
        seen.add((int(down), int(across), bool(mirrored)))
    assert len(seen) == 9 * 9 * 2, "every shift of up to 4 px, mirrored and not"


def test_colours_change_as_far_as_the_preset_says() -> None:
    grey = np.full((24, 24, 3), 100, np.uint8)
    light, standard, strong = (
        [Augmentation(preset, 24)(grey, random.Random(seed)) for seed in range(300)]
        for preset in ("light", "standard", "strong")
    )
    assert all((pixels == 100).all() for pixels in light)
    brightness = [pixels.mean() for pixels in standard]
    assert 79 <= min(brightness) < 85 and 115 < max(brightness) <= 121
    erased = [(pixels == 0).all(axis=0).mean() for pixels in strong]
    assert 0.15 < np.mean([share > 0 for share in erased]) < 0.35
    assert max(erased) < 0.4
    coloured = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    without_colour = [
        (np.ptp(Augmentation("strong", 24)(coloured, random.Random(seed)), axis=0) == 0).all() for seed in range(300)
    ]
    assert 0.05 < np.mean(without_colour) < 0.16


# ---- what it is changed on


def test_a_canvas_of_the_inputs_size_is_what_the_network_sees() -> None:
    for resize in ("squash", "pad"):
        preprocess = Preprocess(20, resize)
        canvas = Canvas(preprocess, 20)(noise(50, 33))
        assert np.array_equal(canvas.transpose(2, 0, 1), preprocess.pixels(noise(50, 33)).numpy())


def test_the_canvas_of_crop_is_the_centre_square() -> None:
    picture = noise(50, 30)
    square = picture.crop((10, 0, 40, 30))
    assert np.array_equal(Canvas(Preprocess(20, "crop"), 30)(picture), np.asarray(square))
    # Its middle 224/256 is what the network sees later.
    canvas = Image.fromarray(Canvas(Preprocess(224, "crop"), 256)(Image.fromarray(smooth(256))))
    middle = np.asarray(canvas)[16:-16, 16:-16].transpose(2, 0, 1)
    assert np.array_equal(middle, Preprocess(224, "crop").pixels(Image.fromarray(smooth(256))).numpy())


@pytest.mark.parametrize(
    ("preset", "side", "size"),
    [
        ("none", 500, 224),
        ("shifted", 500, 224),
        ("light", 500, 256),
        ("light", float("inf"), 256),
        ("strong", 240.5, 240),
        ("standard", 100, 224),
    ],
)
def test_the_canvas_leaves_room_but_enlarges_nothing(preset: str, side: float, size: int) -> None:
    preprocess = Preprocess(224)
    make, change, shape = augmentation(preset, preprocess, side)
    made = np.asarray(make(noise(70, 60)))
    assert made.shape == shape and size in shape
    pixels = made if change is None else change(made, random.Random(0))
    assert pixels.shape == (3, 224, 224) and pixels.dtype == np.uint8
    assert (change is None) == (preset == "none")
    assert repr(make) != repr(augmentation(preset, Preprocess(112), side)[0]), "caches are told apart by it"
    assert " at 0x" not in repr(make)


def test_the_side_that_resizing_goes_by(tmp_path: Path) -> None:
    paths = []
    for number, (width, height) in enumerate([(40, 30), (80, 20), (50, 60)]):
        paths.append(str(tmp_path / f"{number}.png"))
        noise(width, height).save(paths[-1])
    (tmp_path / "broken.png").write_bytes(b"")
    table = make_table([*paths, str(tmp_path / "broken.png"), str(tmp_path / "missing.png")])
    assert typical_side(table, "squash") == typical_side(table, "crop") == 30
    assert typical_side(table, "pad") == 60
    boxed = make_table(paths[:1], x1=["5"], y1=["5"], x2=["17"], y2=["13"])
    assert (typical_side(boxed, "squash"), typical_side(boxed, "pad")) == (8, 12)
    for nothing in (make_table([]), table.select([3, 4])):
        assert typical_side(nothing, "squash") == float("inf")
    many = make_table([paths[0]] * 1000)
    assert typical_side(many, "squash") == 30


# ---- which one


@pytest.mark.parametrize(
    ("pictures", "classes", "preset"),
    [
        (0, 0, "strong"),
        (999, 2, "strong"),
        (1000, 2, "standard"),
        (8054, 98, "standard"),  # Cars
        (59_551, 11_318, "strong"),  # Stanford Online Products: 5 of each
        (49_999, 10, "standard"),
        (50_000, 10, "light"),  # CIFAR-10
        (50_000, 101, "standard"),
        (1_281_167, 1000, "light"),  # ImageNet
    ],
)
def test_auto_goes_by_the_number_of_pictures(pictures: int, classes: int, preset: str) -> None:
    labels = [f"{number % classes}" for number in range(pictures)]
    table = PictureTable.__new__(PictureTable)
    table.ids, table.labels = labels, labels
    chosen, why = choose_preset("auto", table, 224, 500)
    assert chosen == preset and f"{pictures:,} pictures" in why
    small = choose_preset("auto", table, 32, 32)
    assert small[0] == ("strong" if preset == "strong" else "shifted")


@pytest.mark.parametrize(
    ("wanted", "image_size", "side", "preset"),
    [
        ("standard", 32, 32, "shifted"),
        ("standard", 32, 28, "shifted"),
        ("standard", 64, 64, "shifted"),
        ("standard", 32, 33, "standard"),
        ("standard", 65, 20, "standard"),
        ("standard", 32, float("inf"), "standard"),
        ("light", 32, 32, "light"),
        ("strong", 32, 32, "strong"),
        ("none", 32, 32, "none"),
        ("shifted", 224, 500, "shifted"),
    ],
)
def test_what_is_asked_for_is_kept_but_small_pictures_are_moved(
    wanted: str, image_size: int, side: float, preset: str
) -> None:
    table = make_table(["x"] * 4, ["a", "a", "b", "b"])
    chosen, why = choose_preset(wanted, table, image_size, side)
    assert chosen == preset
    assert why == ("as asked for" if chosen == wanted else f"as asked for; they are small, {side:.0f} px")
