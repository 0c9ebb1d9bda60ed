"""Backbones against torchvision, weights from every source, preprocessing, the Hasher, and models on disk."""

from __future__ import annotations

import json
import logging
import pickle
import struct
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import models
from torchvision.transforms import v2

from hashret import codes
from hashret.errors import CodeError, ImageError, ModelError, UsageError
from hashret.model import Hasher, HashNet, Preprocess, build, epoch_folder, is_model, kept_epochs, resolve_model
from hashret.model import folder as model_folder
from hashret.model.backbones import backbone_names, check_image_size, has_small_stem, make_backbone
from hashret.model.device import pick_device
from hashret.model.heads import HashHead
from hashret.model.weights import load_backbone, read_tensors

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
MOBILENET = DATA / "mobilenet_v2_imagenet_fp16.safetensors"
CARS = DATA / "stanford_cars_96"
HALF = (0.5, 0.5, 0.5)
# The smallest network of torchvision: 0.3 M parameters.
TINY = "shufflenet_v2_x0_5"


def a_picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def tiny(code_size: int = 12, **options: Any) -> Hasher:
    torch.manual_seed(0)
    return build(TINY, code_size, image_size=32, **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hasher() -> Hasher:
    made = tiny()
    made.network.eval()
    return made


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for h, w in ((40, 50), (32, 32), (9, 70), (64, 20), (1, 1))
    ]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    with caplog.at_level(logging.INFO, logger="hashret.model"):
        yield lambda: "\n".join(record.getMessage() for record in caplog.records)


# ---- backbones ----------------------------------------------------------------------------------------------------------

FAMILIES = [
    ("resnet18", 32, 512, "fc"),
    ("mobilenet_v2", 32, 1280, "classifier.1"),
    ("shufflenet_v2_x0_5", 32, 1024, "fc"),
    ("squeezenet1_1", 32, 512, "classifier.1"),
    ("mnasnet0_5", 32, 1280, "classifier.1"),
    ("mobilenet_v3_small", 32, 1024, "classifier.3"),
    ("regnet_y_400mf", 32, 440, "fc"),
]
LARGE_FAMILIES = [
    ("resnet34", 64, 512, "fc"),
    ("resnet50", 64, 2048, "fc"),
    ("resnet101", 64, 2048, "fc"),
    ("resnext50_32x4d", 64, 2048, "fc"),
    ("wide_resnet50_2", 64, 2048, "fc"),
    ("alexnet", 64, 4096, "classifier.6"),
    ("vgg11_bn", 64, 4096, "classifier.6"),
    ("densenet121", 64, 1024, "classifier"),
    ("efficientnet_b0", 64, 1280, "classifier.1"),
    ("efficientnet_v2_s", 64, 1280, "classifier.1"),
    ("mobilenet_v3_large", 64, 1280, "classifier.3"),
    ("mnasnet1_3", 64, 1280, "classifier.1"),
    ("regnet_x_800mf", 64, 672, "fc"),
    ("convnext_tiny", 64, 768, "classifier.2"),
    ("googlenet", 96, 1024, "fc"),
    ("inception_v3", 96, 2048, "fc"),
    ("maxvit_t", 224, 512, "classifier.5"),
    ("swin_t", 64, 768, "head"),
    ("swin_v2_t", 64, 768, "head"),
    ("vit_b_32", 64, 768, "heads.head"),
]


@pytest.mark.parametrize(
    ("name", "size", "width", "classifier"),
    [*FAMILIES, *(pytest.param(*family, marks=pytest.mark.slow) for family in LARGE_FAMILIES)],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_features_are_what_torchvisions_last_layer_sees(name: str, size: int, width: int, classifier: str) -> None:
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    torch.manual_seed(0)
    original = models.get_model(name, weights=None, **options).eval()
    made = make_backbone(name, size, initialise=False)
    assert (made.feature_size, made.classifier) == (width, classifier)
    report = load_backbone(made.module, original.state_dict(), name=name, classifier=classifier, source="torchvision")
    assert report.dropped
    assert all(key.startswith(f"{classifier}.") for key in report.dropped)

    seen: list[torch.Tensor] = []
    original.get_submodule(classifier).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        original(batch)
        ours = made.module.eval()(batch)
    expected = torch.relu(seen[0]).mean(dim=(2, 3)) if seen[0].ndim == 4 else seen[0]
    assert ours.shape == (2, width)
    torch.testing.assert_close(ours, expected)


def test_every_torchvision_classifier_is_offered() -> None:
    names = backbone_names()
    assert {"resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16"} <= set(names)
    assert names == sorted(names)
    assert not any("fcn" in name or "rcnn" in name for name in names)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "mobilenet_v3_small"]
)
def test_the_small_stem_keeps_four_times_the_area_or_more(name: str) -> None:
    def last_map(stem: str) -> torch.Size:
        module = make_backbone(name, 32, stem).module.eval()
        shapes: list[torch.Size] = []
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda _, __, out: shapes.append(out.shape))
        with torch.inference_mode():
            assert module(torch.zeros(1, 3, 32, 32)).ndim == 2
        return next(shape for shape in reversed(shapes) if shape[-1] > 1 or shape is shapes[-1])

    assert has_small_stem(name)
    assert last_map("small")[-1] >= 2 * last_map("standard")[-1]


def test_the_resnet_small_stem_is_the_known_one() -> None:
    module = make_backbone("resnet18", 32, "small").module
    assert (module.conv1.kernel_size, module.conv1.stride, module.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(module.maxpool, torch.nn.Identity)


def test_densenet_has_the_small_stem_and_vit_has_none() -> None:
    assert not has_small_stem("vit_b_16")
    module = make_backbone("densenet121", 32, "small", initialise=False).module
    assert module.features.conv0.stride == (1, 1)
    assert isinstance(module.features.pool0, torch.nn.Identity)


@pytest.mark.parametrize(("size", "stem"), [(32, "small"), (64, "small"), (65, "standard")])
def test_the_stem_goes_by_the_picture_size(size: int, stem: str) -> None:
    assert build(TINY, 8, image_size=size).network.stem == stem


def test_the_dropout_before_the_classifier_goes_and_others_stay() -> None:
    def dropouts(module: torch.nn.Module) -> int:
        return sum(isinstance(layer, torch.nn.Dropout) for layer in module.modules())

    assert dropouts(make_backbone("mobilenet_v2").module) == 0
    assert dropouts(make_backbone("squeezenet1_1").module) == 0
    assert dropouts(make_backbone("alexnet", 64).module) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone": "resnet81"}, ["resnet81", "did you mean", "resnet18"]),
        ({"backbone": "zzzz"}, ["for example resnet18"]),
        ({"backbone": ""}, ["there is no backbone ''"]),
        ({"backbone": "inception_v3", "image_size": 32}, ["inception_v3", "32 px"]),
        ({"backbone": "vit_b_32", "image_size": 100}, ["vit_b_32", "100 px"]),
        ({"stem": "tiny"}, ["standard or small"]),
        ({"activation": "relu"}, ["tanh or sigmoid"]),
        ({"beta": 0}, ["above 0"]),
        ({"resize": "stretch"}, ["squash"]),
        ({"interpolation": "nearest"}, ["bicubic"]),
        ({"mean": (1, 2)}, ["three numbers"]),
        ({"mean": (0.5, 0.5, float("nan"))}, ["finite"]),
        ({"std": (1, 1, 0)}, ["above 0"]),
        ({"image_size": 0}, ["1 to 4096"]),
        ({"image_size": 32.5}, ["whole number"]),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build(**{"backbone": TINY, "code_size": 8, "image_size": 64, **options})
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_backbone_that_gives_no_vectors_is_refused() -> None:
    class Map(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    with pytest.raises(UsageError, match="shape"):
        check_image_size("map", Map(), 4, 8)


# ---- head ---------------------------------------------------------------------------------------------------------------


def test_the_head_is_a_linear_without_bias_and_batch_norm() -> None:
    head = HashHead(5, 3)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "linear.weight": (3, 5),
        "norm.weight": (3,),
        "norm.bias": (3,),
    }
    features = torch.randn(64, 5) * 7 + 3
    logits = head(features)
    torch.testing.assert_close(logits.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    linear = features @ head.linear.weight.T
    torch.testing.assert_close(
        logits, (linear - linear.mean(0)) / (linear.var(0, correction=0) + head.norm.eps).sqrt(), atol=1e-4, rtol=1e-4
    )


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=9),
    beta=st.sampled_from([0.5, 1.0, 10.0]),
)
@settings(deadline=None, max_examples=60)
def test_activations_cross_their_middle_where_the_bit_turns(logits: list[float], beta: float) -> None:
    x = torch.tensor(logits)
    x = torch.where(x.abs() < 1e-6, torch.zeros(()), x)  # below float32's steps around 0.5
    bits = x > 0
    assert torch.equal(HashHead(2, 1, "tanh", beta).activate(x) > 0, bits)
    assert torch.equal(HashHead(2, 1, "sigmoid", beta).activate(x) > 0.5, bits)
    torch.testing.assert_close(HashHead(2, 1, "tanh", beta).activate(x), torch.tanh(beta * x))
    torch.testing.assert_close(HashHead(2, 1, "sigmoid", beta).activate(x), 1 / (1 + torch.exp(-beta * x)))


@pytest.mark.parametrize("code_size", [0, -1, 1025, True, 8.0, "8"])
def test_code_sizes_out_of_range(code_size: Any) -> None:
    with pytest.raises(UsageError, match="1 to 1024"):
        HashHead(2, code_size)


def test_the_network_gives_logits_and_features() -> None:
    network = HashNet(TINY, 7, image_size=32).eval()
    x = torch.rand(2, 3, 32, 32)
    logits, features = network(x)
    assert logits.shape == (2, 7)
    assert features.shape == (2, network.feature_size)
    torch.testing.assert_close(features, network.backbone(x))
    torch.testing.assert_close(logits, network.head(features))
    assert all(p.dtype == torch.float32 for p in network.parameters())


# ---- preprocessing ------------------------------------------------------------------------------------------------------


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    resize=st.sampled_from(["squash", "crop", "pad"]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
@settings(deadline=None, max_examples=80)
def test_any_picture_becomes_a_square_and_grey_stays_grey(
    width: int, height: int, size: int, resize: str, interpolation: str
) -> None:
    preprocess = Preprocess(size, resize, interpolation, mean=HALF, std=HALF)
    pixels = preprocess.pixels(Image.new("RGB", (width, height), (128, 128, 128)))
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == torch.uint8
    assert bool((pixels == 128).all())


def test_normalising_is_the_formula_and_leaves_its_input() -> None:
    preprocess = Preprocess(4, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    pixels = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    expected = (pixels.numpy() / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 1.0, 2.0])[
        :, None, None
    ]
    np.testing.assert_allclose(preprocess.normalise(pixels).numpy(), expected, atol=1e-6)
    as_float = pixels.float()
    preprocess.normalise(as_float)
    assert torch.equal(as_float, pixels.float())
    assert torch.equal(preprocess.normalise(pixels[None])[0], preprocess.normalise(pixels))


def test_squash_is_pillows_resize(pictures: list[Image.Image]) -> None:
    for picture in pictures:
        expected = np.asarray(picture.resize((24, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        np.testing.assert_array_equal(Preprocess(24).pixels(picture).numpy(), expected)


def test_crop_is_what_torchvisions_imagenet_evaluation_sees() -> None:
    # A smooth picture: torchvision rounds the size in between and the crop's corner to whole pixels.
    y, x = np.mgrid[0:300, 0:420]
    picture = Image.fromarray(np.stack([x / 420, y / 300, (x + y) / 720], -1).__mul__(255).astype(np.uint8))
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(picture)
    ours = Preprocess(224, "crop").pixels(picture)
    assert int((ours.int() - theirs.int()).abs().max()) <= 2


def test_pad_keeps_the_shape_and_fills_with_the_mean() -> None:
    pixels = Preprocess(8, "pad", mean=(0, 0.5, 1)).pixels(Image.new("RGB", (20, 10), (9, 9, 9)))
    assert bool((pixels[:, 2:6] == 9).all())
    assert pixels[:, 0, 0].tolist() == pixels[:, 7, 7].tolist() == [0, 128, 255]


def test_preprocessing_is_stored_exactly() -> None:
    preprocess = Preprocess(33, "crop", "bicubic", (0.1, 0.2, 0.30000001), (0.5, 1 / 3, 2.0))
    stored = json.loads(json.dumps(preprocess.as_dict()))
    assert Preprocess.from_dict(stored) == preprocess
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess
    with pytest.raises(KeyError):
        Preprocess.from_dict({"image_size": 3})


def test_preprocessing_takes_rgb_only() -> None:
    with pytest.raises(UsageError, match="mode L"):
        Preprocess(8).pixels(Image.new("L", (3, 3)))


# ---- Hasher -------------------------------------------------------------------------------------------------------------


def test_paths_pictures_and_tensors_give_the_same_codes(
    hasher: Hasher, pictures: list[Image.Image], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    expected = hasher.embed(pictures)
    np.testing.assert_array_equal(hasher.embed(paths), expected)
    np.testing.assert_array_equal(hasher.embed([str(paths[0]), pictures[1], *paths[2:]]), expected)
    np.testing.assert_array_equal(hasher.embed(torch.stack([hasher.preprocess(p) for p in pictures])), expected)
    for i, picture in enumerate(pictures):
        alone = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
        np.testing.assert_allclose(hasher.embed(alone), expected[i : i + 1], atol=1e-5)
        np.testing.assert_allclose(hasher.embed(alone[None]), expected[i : i + 1], atol=1e-5)
    np.testing.assert_allclose(hasher.embed(paths[0]), expected[:1], atol=1e-5)
    np.testing.assert_allclose(hasher.embed(str(paths[0])), expected[:1], atol=1e-5)
    np.testing.assert_allclose(hasher.embed(pictures[0]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_do_not_matter(hasher: Hasher, pictures: list[Image.Image], batch_size: int) -> None:
    np.testing.assert_allclose(hasher.embed(pictures, batch_size), hasher.embed(pictures), atol=1e-5)
    np.testing.assert_array_equal(hasher.encode(pictures, batch_size), hasher.encode(pictures))


def test_grey_and_transparent_pictures_in_memory_are_read_as_from_disk(hasher: Hasher, tmp_path: Path) -> None:
    for number, mode in enumerate(("L", "RGBA", "P", "CMYK", "1")):
        picture = Image.effect_noise((30, 20), 90).convert(mode)
        path = tmp_path / f"{number}.{'tif' if mode == 'CMYK' else 'png'}"
        picture.save(path)
        np.testing.assert_array_equal(hasher.encode(picture), hasher.encode(path))


def test_bits_are_signs_of_logits_and_features_have_length_one(hasher: Hasher, pictures: list[Image.Image]) -> None:
    logits, packed, features = hasher.embed(pictures), hasher.encode(pictures), hasher.features(pictures)
    assert (logits.dtype, packed.dtype, features.dtype) == (np.float32, np.uint8, np.float32)
    assert (logits.shape, packed.shape, features.shape) == ((5, 12), (5, 2), (5, hasher.feature_size))
    np.testing.assert_array_equal(codes.unpack(packed, 12), logits > 0)
    assert not (packed[:, 1] & 0x0F).any()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_thresholds_move_the_bits_and_travel(hasher: Hasher, pictures: list[Image.Image], tmp_path: Path) -> None:
    logits = hasher.embed(pictures)
    thresholds = np.median(logits, axis=0)
    moved = Hasher(hasher.network, hasher.preprocess, thresholds=thresholds)
    np.testing.assert_array_equal(codes.unpack(moved.encode(pictures), 12), logits > thresholds)
    again = Hasher.from_pretrained(moved.save_pretrained(tmp_path / "m"), device="cpu")
    assert again.thresholds is not None
    np.testing.assert_array_equal(again.thresholds, thresholds)
    assert again.fingerprint() == moved.fingerprint() != hasher.fingerprint()
    for wrong in ([0.0] * 11, [float("nan")] * 12, 0.0):
        with pytest.raises(UsageError, match="12 finite numbers"):
            Hasher(hasher.network, hasher.preprocess, thresholds=wrong)


def test_nothing_in_gives_nothing_of_the_right_shape(hasher: Hasher) -> None:
    for empty in ([], torch.empty(0, 3, 32, 32), torch.empty(0, 3, 9, 9, dtype=torch.uint8)):
        assert hasher.encode(empty).shape == (0, 2)
        assert hasher.embed(empty).shape == (0, 12)
        assert hasher.features(empty).shape == (0, hasher.feature_size)


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        None,
        [7],
        [None],
        torch.zeros(2, 4, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.int64),
        torch.zeros(8, 8),
        {"a.jpg"},
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused(hasher: Hasher, wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
        hasher.encode(wrong)


def test_an_unreadable_picture_is_named_and_batch_size_checked(hasher: Hasher, tmp_path: Path) -> None:
    (tmp_path / "나쁨.jpg").write_text("no picture")
    with pytest.raises(ImageError, match="나쁨"):
        hasher.encode([tmp_path / "나쁨.jpg"])
    with pytest.raises(UsageError, match="at least 1"):
        hasher.encode([], batch_size=0)


def test_numbers_that_are_none_are_no_code(hasher: Hasher) -> None:
    with pytest.raises(CodeError):
        hasher.encode(torch.full((1, 3, 32, 32), float("nan")))


def test_encoding_leaves_mode_statistics_gradients_and_random_state(pictures: list[Image.Image]) -> None:
    made = tiny()
    made.network.train()
    made.network.head.eval()  # a part that is held still in training stays so
    modes = [module.training for module in made.network.modules()]
    fingerprint, state = made.fingerprint(), torch.get_rng_state()
    threads = torch.get_num_threads()
    made.encode(pictures)
    assert made.network.training and [module.training for module in made.network.modules()] == modes
    assert made.fingerprint() == fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in made.network.parameters())
    assert torch.get_num_threads() == threads
    half = torch.rand(2, 3, 32, 32).half()
    assert made.embed(half).dtype == np.float32


def test_seeds_make_weights() -> None:
    torch.manual_seed(3)
    first = build(TINY, 8, image_size=32).fingerprint()
    torch.manual_seed(3)
    assert build(TINY, 8, image_size=32).fingerprint() == first
    assert build(TINY, 8, image_size=32).fingerprint() != first


def test_a_mirror_makes_codes_that_a_mirrored_picture_shares(pictures: list[Image.Image], tmp_path: Path) -> None:
    plain, both = tiny(), tiny(mirror=True)
    turned = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    logits, features = both.run(pictures)
    np.testing.assert_allclose(logits, (plain.embed(pictures) + plain.embed(turned)) / 2, atol=1e-5)
    mean = plain.features(pictures) + plain.features(turned)
    np.testing.assert_allclose(features, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    # Resizing is symmetric, so a mirrored picture is the same one.
    np.testing.assert_allclose(both.embed(turned), logits, atol=1e-4)
    assert both.fingerprint() != plain.fingerprint()
    assert (plain.config["format_version"], both.config["format_version"]) == (1, 2)
    assert "mirror" not in plain.config["preprocessing"]
    again = Hasher.from_pretrained(both.save_pretrained(tmp_path / "both"))
    assert again.preprocess == both.preprocess and again.fingerprint() == both.fingerprint()
    np.testing.assert_array_equal(again.encode(pictures), both.encode(pictures))


def test_fingerprint_holds_what_decides_codes_and_nothing_else(hasher: Hasher) -> None:
    def other(**changes: Any) -> str:
        return Hasher(hasher.network, Preprocess(32, **changes)).fingerprint()

    plain = hasher.fingerprint()
    assert len(plain) == 64
    assert other() == plain
    assert len({plain, other(resize="crop"), other(interpolation="bicubic"), other(mean=HALF), other(std=HALF)}) == 5
    scored = Hasher(hasher.network, hasher.preprocess, scores={"map": 1}, protocol={"data": "x"}, weights="y")
    assert scored.fingerprint() == plain
    made = tiny()
    assert made.fingerprint() == plain
    made.network.head.norm.num_batches_tracked += 1
    made.network.head.beta = 3.0
    assert made.fingerprint() == plain
    with torch.no_grad():
        made.network.head.norm.running_mean[3] += 1e-6
    assert made.fingerprint() != plain
    made = tiny()
    made.network.to(memory_format=torch.channels_last)
    assert made.fingerprint() == plain


# ---- on disk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "sigmoid", "beta": 2.5, "code_size": 1},
        {"resize": "crop", "interpolation": "bicubic", "stem": "standard", "mean": HALF, "std": (0.1, 0.2, 1 / 3)},
    ],
    ids=str,
)
def test_a_model_comes_back_as_it_was_saved(
    options: dict[str, Any], pictures: list[Image.Image], tmp_path: Path
) -> None:
    made = tiny(**options)
    made.protocol, made.scores = {"data": "차"}, {"map": 0.25, "epoch": 3}
    assert made.save_pretrained(tmp_path / "모델") == tmp_path / "모델"
    before = torch.get_rng_state()
    again = Hasher.from_pretrained(str(tmp_path / "모델"), device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.network.training
    assert again.config == made.config
    assert again.fingerprint() == made.fingerprint()
    np.testing.assert_array_equal(again.embed(pictures), made.embed(pictures))
    assert sorted(p.name for p in (tmp_path / "모델").iterdir()) == ["config.json", "model.safetensors"]
    stored = json.loads((tmp_path / "모델" / "config.json").read_text("utf-8"))
    assert stored["architecture"]["backbone"] == TINY
    assert stored["thresholds"] is None


def test_saving_twice_gives_the_same_bytes_and_spares_other_files(hasher: Hasher, tmp_path: Path) -> None:
    hasher.save_pretrained(tmp_path)
    (tmp_path / "log.jsonl").write_text("kept")
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    hasher.save_pretrained(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first


def test_a_network_in_channels_last_is_saved_plainly(pictures: list[Image.Image], tmp_path: Path) -> None:
    made = tiny()
    made.network.to(memory_format=torch.channels_last)
    again = Hasher.from_pretrained(made.save_pretrained(tmp_path / "m"), device="cpu")
    assert again.fingerprint() == made.fingerprint()


def test_a_hand_edited_config_counts(hasher: Hasher, tmp_path: Path) -> None:
    hasher.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["scores"] = {"map": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Hasher.from_pretrained(tmp_path, device="cpu").scores == {"map": 0.5}


class PowerCut(BaseException):
    """Not an Exception, so that nothing catches it."""


@pytest.mark.parametrize("existing", [False, True])
def test_a_save_cut_off_anywhere_leaves_the_old_or_the_new_model(
    existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model(value: float) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return {"value": value, "preprocessing": {"mean": [0], "std": [1]}}, {"w": torch.full((3,), value)}

    def stop_after(steps: int) -> None:
        left = [steps]

        def guard(call: Callable[..., Any]) -> Callable[..., Any]:
            def guarded(*args: Any, **named: Any) -> Any:
                if left[0] <= 0:
                    raise PowerCut
                left[0] -= 1
                return call(*args, **named)

            return guarded

        for owner, name in (
            (Path, "replace"),
            (Path, "unlink"),
            (model_folder, "_sync"),
            (model_folder, "save_file"),
            (model_folder.os, "fsync"),
        ):
            monkeypatch.setattr(owner, name, guard(getattr(owner, name)))

    seen = set()
    for steps in range(40):
        folder = tmp_path / f"{existing}{steps}"
        if existing:
            model_folder.write_model(folder, *model(1.0))
        stop_after(steps)
        try:
            model_folder.write_model(folder, *model(2.0))
            finished = True
        except PowerCut:
            finished = False
        monkeypatch.undo()
        if is_model(folder) or existing:
            config, tensors = model_folder.read_model(folder)
            assert config["value"] == tensors["w"][0].item(), f"a mixture after {steps} steps"
            seen.add(config["value"])
        # Whatever was left behind, the next save works.
        model_folder.write_model(folder, *model(3.0))
        assert model_folder.read_model(folder)[0]["value"] == 3.0
        if finished:
            break
    assert finished
    assert steps > 6
    assert seen == ({1.0, 2.0} if existing else {2.0})


def test_a_folder_that_cannot_be_written_is_said(hasher: Hasher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="could not be written"):
        hasher.save_pretrained(tmp_path / "file" / "model")
    for value in ({"map": {1, 2}}, {"map": float("nan")}):
        with pytest.raises(ModelError, match="plain JSON"):
            Hasher(hasher.network, hasher.preprocess, scores=value).save_pretrained(tmp_path / "m")


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            part, _, inner = key.partition("__")
            target = config[part] if inner else config
            name = inner or part
            if value is None:
                del target[name]
            else:
                target[name] = value
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def _bytes(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "bad json": (lambda f: (f / "config.json").write_text('{"format": '), "no readable JSON"),
    "not utf-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), "no readable JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    "another tool's": (_edit(format="transformers"), "no hashret model"),
    "no format": (_edit(format=None), "no hashret model"),
    "newer": (_edit(format_version=4), "install a newer hashret"),
    "odd version": (_edit(format_version="1"), "format version '1'"),
    "no code size": (_edit(code_size=None), "no key 'code_size'"),
    "no preprocessing": (_edit(preprocessing=None), "no key 'preprocessing'"),
    "no mean": (_edit(preprocessing__mean=None), "no key 'mean'"),
    "no thresholds": (_edit(thresholds=None), "no key 'thresholds'"),
    "huge code": (_edit(code_size=4096), "1 to 1024"),
    "code as text": (_edit(code_size="12"), "1 to 1024"),
    "unknown backbone": (_edit(architecture__backbone="resnet19"), "no backbone 'resnet19'"),
    "backbone a list": (_edit(architecture__backbone=["a"]), "cannot be used"),
    "other backbone": (_edit(architecture__backbone="squeezenet1_1"), "lacks"),
    "other code size": (_edit(code_size=13), "shape"),
    "thresholds too few": (_edit(thresholds=[1, 2]), "12 finite numbers"),
    "architecture a word": (_edit(architecture="resnet18"), "cannot be used"),
    "scores a number": (_edit(scores=3), "cannot be used"),
    "std of zero": (_edit(preprocessing__std=[1, 1, 0]), "above 0"),
    "beta a word": (_edit(activation__beta="steep"), "cannot be used"),
    "cut short": (_bytes(lambda b: b[: len(b) // 2]), "damaged"),
    "empty": (_bytes(lambda b: b""), "damaged"),
    "garbage": (_bytes(lambda b: b"garbage" * 100), "damaged"),
    "header too long": (_bytes(lambda b: struct.pack("<Q", 1 << 60) + b[8:]), "damaged"),
    "a tensor gone": (
        _tensors(lambda t: t.pop("head.linear.weight")),
        "lacks 1 tensors (the first is head.linear.weight)",
    ),
    "a tensor more": (_tensors(lambda t: t.update(extra=torch.zeros(1))), "1 tensors too many (the first is extra)"),
    "a tensor of another shape": (_tensors(lambda t: t.update({"head.norm.bias": torch.zeros(2)})), "shape (2,)"),
}


@pytest.fixture(scope="module")
def saved(hasher: Hasher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = hasher.save_pretrained(tmp_path_factory.mktemp("saved"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_in_one_sentence(damage: str, saved: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in saved.items():
        (tmp_path / name).write_bytes(content)
    change, words = DAMAGE[damage]
    change(tmp_path)
    with pytest.raises(ModelError) as caught:
        Hasher.from_pretrained(tmp_path, device="cpu")
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_two_models_are_no_model(hasher: Hasher, saved: dict[str, bytes], tmp_path: Path) -> None:
    torch.manual_seed(1)
    build(TINY, 12, image_size=32).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(saved["config.json"])
    with pytest.raises(ModelError, match="two different models"):
        Hasher.from_pretrained(tmp_path, device="cpu")


def test_names_of_models(saved: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in saved.items():
            (folder / name).write_bytes(content)
        return folder

    monkeypatch.chdir(tmp_path)
    run = place(tmp_path / "runs" / "CUB_32")
    for epoch in (1, 12):
        place(epoch_folder(run, epoch))
    (run / "epochs" / "007").mkdir()
    assert kept_epochs(run) == [1, 12]
    assert resolve_model("CUB_32").resolve() == run
    assert resolve_model("runs/CUB_32").resolve() == run
    assert resolve_model(run) == run
    assert resolve_model("CUB_32@12").resolve() == run / "epochs" / "012"
    assert resolve_model(f"{run}@1") == run / "epochs" / "001"
    assert resolve_model("runs/CUB_32/epochs/001").resolve() == run / "epochs" / "001"
    assert resolve_model("CUB_32@012").resolve() == run / "epochs" / "012"
    elsewhere = place(tmp_path / "elsewhere" / "a@3")
    assert resolve_model("a@3", runs=tmp_path / "elsewhere") == elsewhere
    assert Hasher.from_pretrained("CUB_32@1", device="cpu").code_size == 12
    # A folder of that name that is no model does not hide the run.
    (tmp_path / "CUB_32").mkdir()
    assert resolve_model("CUB_32").resolve() == run

    (tmp_path / "runs" / "new").mkdir()
    (tmp_path / "runs" / "new" / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for spec, words in {
        "CUB_32@2": "no epoch 2: it kept 1, 12",
        "new@1": "train with --keep-epochs",
        "new": "not finished an epoch",
        "empty": "save_pretrained",
        "CUB_33": "runs in runs: CUB_32",
        "CUB_33@1": "no model 'CUB_33'",
        "runs/CUB_32/config.json": "is a file",
        "": "no model ''",
    }.items():
        with pytest.raises(ModelError) as caught:
            resolve_model(spec)
        assert words in str(caught.value), (spec, str(caught.value))
    with pytest.raises(ModelError, match="there are no runs"):
        resolve_model("x", runs="nowhere")


# ---- weights ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    state: dict[str, torch.Tensor] = models.get_model(TINY, weights=None, num_classes=11).state_dict()
    return state


def _same(made: Hasher, state: dict[str, torch.Tensor]) -> bool:
    return all(
        torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in made.network.backbone.state_dict().items()
    )


def test_a_file_of_weights_in_every_wrapping(
    classifier: dict[str, torch.Tensor], tmp_path: Path, said: Callable[[], str]
) -> None:
    wrapped = {f"_orig_mod.module.{name}": tensor for name, tensor in classifier.items()}
    torch.save(classifier, tmp_path / "plain.pth")
    torch.save({"state_dict": wrapped, "epoch": 3, "optimizer": {"lr": [0.1]}}, tmp_path / "checkpoint.pt")
    save_file({f"backbone.{name}": tensor for name, tensor in classifier.items()}, tmp_path / "prefixed.safetensors")
    counters = {name: tensor for name, tensor in classifier.items() if not name.endswith("num_batches_tracked")}
    save_file(counters, tmp_path / "old.safetensors", metadata={"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 2]"})
    for name in ("plain.pth", "checkpoint.pt", "prefixed.safetensors"):
        made = build(TINY, 8, weights=tmp_path / name, image_size=32, mean=HALF, std=HALF)
        assert _same(made, classifier), name
        assert made.network.stem == "standard"
        assert made.preprocess.mean == HALF
        assert f"weights {name}" in said()
    assert "2 not used" in said()
    assert "fc.bias, fc.weight" in said()
    made = build(TINY, 8, weights=str(tmp_path / "old.safetensors"), image_size=32)
    assert (made.preprocess.mean, made.preprocess.std) == ((0.1, 0.2, 0.3), (1, 1, 2))
    assert made.config["architecture"]["weights"] == "old.safetensors"
    assert build(TINY, 8, weights=tmp_path / "old.safetensors", image_size=32, mean=HALF).preprocess.std == (1, 1, 2)


def test_half_precision_becomes_single(classifier: dict[str, torch.Tensor], tmp_path: Path) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in classifier.items()}
    save_file(halves, tmp_path / "half.safetensors")
    made = build(TINY, 8, weights=tmp_path / "half.safetensors", image_size=32, mean=HALF, std=HALF)
    assert all(p.dtype == torch.float32 for p in made.network.parameters())
    assert _same(made, halves)


def test_weights_that_cannot_be_used(classifier: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def refused(error: type[Exception], words: str, file: str, **options: Any) -> None:
        with pytest.raises(error) as caught:
            build(TINY, 8, weights=tmp_path / file, image_size=32, **{"mean": HALF, "std": HALF, **options})
        assert words in str(caught.value), caught.value
        assert "\n" not in str(caught.value)

    torch.save(classifier, tmp_path / "good.pth")
    refused(UsageError, "--mean and --std", "good.pth", mean=None, std=None)
    refused(UsageError, "--mean and --std", "good.pth", std=None)
    refused(ModelError, "there is no weights file", "none.pth")
    refused(ModelError, "there is no model", "none")

    less = dict(classifier)
    del less["conv1.0.weight"]
    save_file(less, tmp_path / "less.safetensors")
    refused(ModelError, "lacks 1 of the", "less.safetensors")
    save_file({**classifier, "conv1.0.weight": torch.zeros(24, 3, 5, 5)}, tmp_path / "shape.safetensors")
    refused(ModelError, "conv1.0.weight of shape (24, 3, 5, 5)", "shape.safetensors")
    save_file({**classifier, "conv1.1.bias": torch.full((24,), torch.nan)}, tmp_path / "nan.safetensors")
    refused(ModelError, "NaN or infinity in conv1.1.bias", "nan.safetensors")
    save_file(classifier, tmp_path / "meta.safetensors", metadata={"mean": "oops", "std": "[1,1,1]"})
    refused(ModelError, "no lists of numbers", "meta.safetensors")

    content = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    refused(ModelError, "cut.pth", "cut.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(ModelError, "empty.pth", "empty.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"12")
    refused(ModelError, "no readable safetensors", "cut.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(ModelError, "no dictionary of tensors", "list.pth")
    torch.save({}, tmp_path / "nothing.pth")
    refused(ModelError, "no dictionary of tensors", "nothing.pth")


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("import pathlib; pathlib.Path('exploded').write_text('')",))


def test_code_in_a_weights_file_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "bomb.pth")
    Path("pickle.pth").write_bytes(pickle.dumps({"weight": Bomb()}))
    for name in ("bomb.pth", "pickle.pth"):
        with pytest.raises(ModelError, match="pickles can run code"):
            read_tensors(Path(name))
    assert not Path("exploded").exists()


def test_fine_tuning_from_a_model(
    hasher: Hasher, tmp_path: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Hasher(hasher.network, Preprocess(32, mean=(0.1, 0.2, 0.3)))
    source.save_pretrained(tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    same = build(TINY, 12, weights="first", image_size=48)
    assert (same.network.stem, same.preprocess.mean, same.preprocess.image_size) == ("small", (0.1, 0.2, 0.3), 48)
    assert all(torch.equal(t, same.network.state_dict()[n]) for n, t in hasher.network.state_dict().items())
    assert "hash head of" in said()
    assert "was loaded, 12 bits" in said()
    other = build(TINY, 16, weights=tmp_path / "runs" / "first", image_size=32)
    assert other.code_size == 16
    assert _same(other, hasher.network.backbone.state_dict())
    assert "has 12 bits; a new one of 16 starts at random" in said()
    # Its file of tensors alone is a weights file like any other, and says mean and std.
    alone = build(TINY, 12, weights=tmp_path / "runs" / "first" / "model.safetensors", image_size=32, stem="small")
    assert _same(alone, hasher.network.backbone.state_dict())
    assert alone.preprocess.mean == (0.1, 0.2, 0.3)
    with pytest.raises(UsageError, match=f"give --backbone {TINY}"):
        build("squeezenet1_1", 12, weights="first", image_size=32)


def test_imagenet_weights(
    classifier: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    asked: list[str] = []

    def download(url: str, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        return dict(classifier)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    made = build(TINY, 8, weights="imagenet", image_size=32)
    assert _same(made, classifier)
    assert made.preprocess.mean == (0.485, 0.456, 0.406)
    assert made.network.stem == "standard"
    assert made.weights == "IMAGENET1K_V1"
    assert len(asked) == 1
    assert asked[0].startswith("https://download.pytorch.org/models/shufflenetv2_x0.5")

    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError) as caught:
        build(TINY, 8, weights="imagenet", image_size=32)
    for words in ("could not be downloaded", asked[0], "--weights FILE", "--weights none"):
        assert words in str(caught.value)


def test_version_one_weights_are_taken_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    from hashret.model.weights import imagenet_tensors

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: {})
    assert imagenet_tensors("resnet50")[2] == "IMAGENET1K_V1"
    assert imagenet_tensors("googlenet")[1] == (HALF, HALF)
    assert imagenet_tensors("vit_h_14")[2].startswith("IMAGENET1K_SWAG")


@pytest.mark.slow
def test_position_embeddings_follow_the_picture_size(said: Callable[[], str]) -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    torch.manual_seed(0)
    state = models.vit_b_32(weights=None, image_size=224).state_dict()
    state["encoder.pos_embedding"] = torch.randn(1, 50, 768)
    theirs = interpolate_embeddings(image_size=96, patch_size=32, model_state=dict(state))
    made = make_backbone("vit_b_32", 96)
    load_backbone(made.module, state, name="vit_b_32", classifier=made.classifier, source="f")
    torch.testing.assert_close(made.module.state_dict()["encoder.pos_embedding"], theirs["encoder.pos_embedding"])
    assert "interpolated to 9 patches" in said()


# ---- devices ------------------------------------------------------------------------------------------------------------


def test_devices(said: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    assert "device: cpu" in said()
    for name, words in {
        "cuda": "finds no CUDA GPU",
        "cuda:3": "finds no CUDA",
        "mps": "no Apple GPU",
        "gpu": "auto, cpu",
        "meta": "auto, cpu",
        "": "auto, cpu",
    }.items():
        with pytest.raises(UsageError, match=words):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert str(pick_device("cuda:1")) == "cuda:1"
    assert pick_device("auto").type == "cuda"
    with pytest.raises(UsageError, match="2 CUDA GPUs"):
        pick_device("cuda:2")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_agrees_with_the_cpu(pictures: list[Image.Image]) -> None:
    made = tiny()
    on_cpu = made.embed(pictures)
    np.testing.assert_allclose(made.to("cuda").embed(pictures), on_cpu, atol=1e-2)
    assert made.device.type == "cuda"


# ---- real weights, real pictures ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not MOBILENET.exists() or not CARS.exists(), reason="the real weights and pictures are not here")
def test_real_imagenet_features_find_the_same_car(said: Callable[[], str]) -> None:
    with pytest.raises(UsageError, match="--mean and --std"):
        build("mobilenet_v2", 64, weights=MOBILENET, image_size=96)
    made = build("mobilenet_v2", 64, weights=MOBILENET, image_size=96, mean=HALF, std=HALF)
    assert "classifier.1.bias, classifier.1.weight" in said()
    assert "260 tensors loaded" in said()
    classes = [f"{number:03d}" for number in range(99, 197, 9)]
    paths = [path for name in classes for path in sorted((CARS / name).iterdir())[:8]]
    labels = np.repeat(np.arange(len(classes)), 8)
    features = made.features(paths)
    similarities = features @ features.T
    np.fill_diagonal(similarities, -1)
    hit = (labels[similarities.argmax(1)] == labels).mean()
    # Chance is 7 of 87; these features reached 0.40 here.
    assert hit > 0.3
