"""GeM pooling and the projection: against plain loops, in every backbone that can have them, stored, loaded and trained."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import codes_alone, make_pictures
from safetensors.torch import save_file

from hashret.cli import main
from hashret.data.sources import open_source
from hashret.errors import ModelError, UsageError
from hashret.model import Hasher, HashNet, build
from hashret.model.backbones import make_backbone
from hashret.model.pooling import GeM, last_pooling
from hashret.training import loop
from hashret.training.objectives import Objective, Outputs, Scored
from hashret.training.optimizers import build_optimizer
from hashret.training.options import TrainingOptions
from hashret.training.processes import Processes
from hashret.training.runs import create_run
from hashret.training.updates import Updater

SMALL = "squeezenet1_1"
PIXELS = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def generalised_mean(map_NCHW: np.ndarray, p: float, eps: float) -> np.ndarray:
    """As the formula says, number by number, in float64."""
    n, c, h, w = map_NCHW.shape
    found = np.empty((n, c))
    for i in range(n):
        for j in range(c):
            total = 0.0
            for y in range(h):
                for x in range(w):
                    total += max(float(map_NCHW[i, j, y, x]), eps) ** p
            found[i, j] = (total / (h * w)) ** (1 / p)
    return found


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0, 8.0])
def test_the_generalised_mean_is_the_formula(p: float) -> None:
    values = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(1)) * 3
    pooled = GeM(p)(values)
    assert pooled.shape == (3, 4, 1, 1) and pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled[:, :, 0, 0].detach(), generalised_mean(values.numpy(), p, 1e-6), rtol=2e-6)


def test_between_the_average_and_the_greatest() -> None:
    values = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    average, greatest = values.mean(dim=(2, 3)), values.amax(dim=(2, 3))
    assert torch.allclose(GeM(1.0)(values)[:, :, 0, 0], average, atol=1e-6)
    assert torch.allclose(GeM(-2.0)(values)[:, :, 0, 0], average, atol=1e-6), "an exponent below 1 counts as 1"
    means = [GeM(p)(values)[:, :, 0, 0] for p in (1.0, 3.0, 10.0, 200.0)]
    assert all(bool((less < more).all()) for less, more in itertools.pairwise(means))
    assert torch.allclose(means[-1], greatest, rtol=0.02)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_map_overflows(scale: float) -> None:
    values = (torch.rand(2, 3, 4, 4) * scale).requires_grad_()
    layer = GeM(20.0)
    layer(values).sum().backward()
    assert torch.isfinite(layer(values)).all() and torch.isfinite(values.grad).all()
    assert layer.p.grad is not None and torch.isfinite(layer.p.grad).all()


def test_gradients_reach_the_exponent_and_the_map_as_differences_say() -> None:
    values = (
        torch.rand(2, 2, 3, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(3)) + 0.1
    ).requires_grad_()
    layer = GeM(3.0)
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]])[:, :, None, None]
    (layer(values) * weights).sum().backward()

    def total(array: np.ndarray, p: float) -> float:
        return float((generalised_mean(array, p, 1e-6) * weights[:, :, 0, 0].numpy()).sum())

    array, step = values.detach().numpy().astype(np.float64), 1e-5
    by_p = (total(array, 3 + step) - total(array, 3 - step)) / (2 * step)
    assert layer.p.grad is not None
    assert float(layer.p.grad) == pytest.approx(by_p, rel=1e-4)
    up, down = array.copy(), array.copy()
    up[1, 0, 2, 1] += step
    down[1, 0, 2, 1] -= step
    assert float(values.grad[1, 0, 2, 1]) == pytest.approx((total(up, 3) - total(down, 3)) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("resnet18", "avgpool"),
        ("resnet50", "avgpool"),
        ("regnet_y_400mf", "avgpool"),
        ("mobilenet_v3_small", "avgpool"),
        ("efficientnet_b0", "avgpool"),
        ("convnext_tiny", "avgpool"),
        ("googlenet", "avgpool"),
        ("squeezenet1_1", "classifier.3"),
        ("mobilenet_v2", None),
        ("densenet121", None),
        ("shufflenet_v2_x0_5", None),
        ("mnasnet0_5", None),
        ("vgg11", None),
        ("alexnet", None),
        ("vit_b_32", None),
    ],
)
def test_the_average_over_the_last_map_is_what_is_replaced(name: str, place: str | None) -> None:
    # Shapes alone, no weights are drawn; RegNet reckons with tensors as it is built.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        assert last_pooling(make_backbone(name, 64, initialise=False).module) == place
        if place is not None:
            made = make_backbone(name, 64, pooling="gem", initialise=False)
            assert made.fresh == [f"{place}.p"] and isinstance(made.module.get_submodule(place), GeM)
            return
        with pytest.raises(
            UsageError, match=rf"^{name} has no layer that averages its last feature map.*--pooling gem"
        ):
            make_backbone(name, 64, pooling="gem", initialise=False)


def test_with_an_exponent_of_one_the_network_is_the_one_that_averages() -> None:
    torch.manual_seed(0)
    average = HashNet(SMALL, 8, image_size=32).eval()
    gem = HashNet(SMALL, 8, image_size=32, pooling="gem").eval()
    gem.load_state_dict(average.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(gem(x)[1], average(x)[1])
    gem.backbone.get_parameter("classifier.3.p").data.fill_(1)
    torch.testing.assert_close(gem(x), average(x))


def test_a_projection_makes_the_features_that_all_else_reads() -> None:
    torch.manual_seed(0)
    hasher = build(SMALL, 8, image_size=32, project=5)
    network = hasher.network.eval()
    assert (network.pooled_size, network.feature_size, hasher.feature_size) == (512, 5, 5)
    logits, features = network(x := torch.randn(3, 3, 32, 32))
    assert network.projection is not None
    by_hand = network.backbone(x) @ network.projection.weight.T + network.projection.bias
    torch.testing.assert_close(features, by_hand)
    torch.testing.assert_close(logits, network.head(by_hand))
    vectors = hasher.features(x)
    assert vectors.shape == (3, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"pooling": "gem"}, {"project": 6}, {"pooling": "gem", "project": 6, "head": "projection"}]
)
def test_a_model_comes_back_with_the_same_codes(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    hasher = build(SMALL, 12, image_size=32, **options)
    hasher.network.eval()
    if options.get("pooling"):
        hasher.network.backbone.get_parameter("classifier.3.p").data.fill_(2.25)
    hasher.save_pretrained(tmp_path / "m")
    again = Hasher.from_pretrained(tmp_path / "m", device="cpu")
    stored = json.loads((tmp_path / "m" / "config.json").read_text("utf-8"))
    assert stored["format_version"] == 3
    assert stored["architecture"].get("pooling") == options.get("pooling")
    assert stored["architecture"].get("projection") == options.get("project")
    assert again.encode(PIXELS).tobytes() == hasher.encode(PIXELS).tobytes()
    assert again.features(PIXELS).tobytes() == hasher.features(PIXELS).tobytes()
    assert again.fingerprint() == hasher.fingerprint() and again.config == hasher.config
    again.save_pretrained(tmp_path / "n")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (tmp_path / "n" / "model.safetensors").read_bytes()


def test_the_exponent_decides_codes_and_so_the_fingerprint() -> None:
    torch.manual_seed(0)
    hasher = build(SMALL, 8, image_size=32, pooling="gem")
    before = hasher.fingerprint()
    hasher.network.backbone.get_parameter("classifier.3.p").data.add_(0.5)
    assert hasher.fingerprint() != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pooling": "median"}, "pooling is 'median'"),
        ({"projection": "6"}, "'6' numbers"),
        ({"projection": -1}, "-1 numbers"),
        ({"projection": 1 << 40}, "numbers; choose"),
        ({"projection": 7}, "shape"),
        ({"pooling": "average"}, "1 tensors too many"),
        ({"backbone": "shufflenet_v2_x0_5"}, "no layer that averages"),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    build(SMALL, 12, image_size=32, pooling="gem", project=6).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["architecture"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=words):
        Hasher.from_pretrained(tmp_path)


def test_a_classifiers_file_fills_the_backbone_and_what_is_new_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from torchvision import models

    classifier = models.squeezenet1_1(weights=None)
    save_file(classifier.state_dict(), tmp_path / "c.safetensors", metadata={"mean": "[0.5,0.5,0.5]", "std": "[1,1,1]"})
    with caplog.at_level("INFO", "hashret.model"):
        made = build(SMALL, 8, image_size=32, weights=tmp_path / "c.safetensors", pooling="gem", project=4)
    assert "classifier.3.p starts anew" in caplog.text
    own, theirs = made.network.backbone.state_dict(), classifier.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items() if name != "classifier.3.p")
    assert own["classifier.3.p"].tolist() == [3.0]


def test_a_run_starts_from_a_model_with_the_same_and_with_other_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = build(SMALL, 8, image_size=32, pooling="gem", project=4)
    source.network.backbone.get_parameter("classifier.3.p").data.fill_(4)
    source.save_pretrained(tmp_path)
    theirs = source.network.state_dict()
    same = build(SMALL, 8, image_size=32, weights=tmp_path, pooling="gem", project=4).network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in same.items())
    for options, of_projection in (
        ({"pooling": "gem"}, False),
        ({"pooling": "gem", "project": 5}, True),
    ):
        caplog.clear()
        with caplog.at_level("INFO", "hashret.model"):
            other = build(SMALL, 8, image_size=32, weights=tmp_path, **options)  # type: ignore[arg-type]
        assert "projects to 4" in caplog.text and "starts at random" in caplog.text
        assert (other.network.projection is not None) == of_projection
        assert float(other.network.backbone.get_parameter("classifier.3.p").detach()) == 4
    averaged = build(SMALL, 8, image_size=32, weights=tmp_path, project=4)
    assert torch.equal(averaged.network.state_dict()["projection.weight"], theirs["projection.weight"])


class Pull(Objective):
    def forward(self, outputs: Outputs, labels_D: torch.Tensor, progress: float) -> Scored:
        return Scored((outputs.logits_DK - 1).square().mean() + outputs.features_DF.square().mean())


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_what_is_new_learns_at_the_rate_of_the_head(layer_decay: float) -> None:
    network = HashNet(SMALL, 8, image_size=32, pooling="gem", project=4)
    plain = HashNet(SMALL, 8, image_size=32)
    options = codes_alone(code_size=8, lr=0.01, head_lr_factor=5.0, layer_decay=layer_decay)
    groups = build_optimizer(options, network.backbone, network.fresh_parameters()).param_groups
    without = build_optimizer(options, plain.backbone, plain.fresh_parameters()).param_groups
    assert [group["lr"] for group in groups] == [group["lr"] for group in without], (
        "the exponent is no stage of its own"
    )
    assert network.projection is not None
    fresh = {id(parameter) for parameter in groups[-1]["params"]}
    new = [network.projection.weight, network.projection.bias, network.backbone.get_parameter("classifier.3.p")]
    assert {id(parameter) for parameter in [*network.head.parameters(), *new]} == fresh and groups[-1]["lr"] == 0.05
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_an_update_moves_the_exponent_and_the_projection() -> None:
    torch.manual_seed(0)
    hasher = build("resnet18", 8, image_size=32, pooling="gem", project=4)
    before = {name: tensor.clone() for name, tensor in hasher.network.state_dict().items()}
    options = codes_alone(code_size=8, warmup=0, device="cpu", ema=0.9, amp="on")
    update = Updater(hasher, Pull(), options, torch.device("cpu"), 5, Processes())
    update.train_mode()
    update(PIXELS, torch.tensor([0, 0, 1, 1, 2, 2]), 0)
    after = hasher.network.state_dict()
    for name in ("backbone.avgpool.p", "projection.weight", "projection.bias", "head.linear.weight"):
        assert not torch.equal(before[name], after[name]), name
    assert update.features(PIXELS).shape == (6, 4)


def test_the_network_can_be_exported() -> None:
    torch.manual_seed(0)
    network = HashNet(SMALL, 8, image_size=32, pooling="gem", project=4).eval()
    x = torch.randn(2, 3, 32, 32)
    exported = torch.export.export(network, (x,)).module()
    for ours, theirs in zip(network(x), exported(x), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("objective", ["triplet", "classification"])
def test_one_epoch_with_both(objective: str, tmp_path: Path) -> None:
    pairs = {"classes_per_batch": 3, "pictures_per_class": 2} if objective == "triplet" else {"batch_size": 6}
    options = TrainingOptions(
        code_size=8,
        objective=objective,
        backbone=SMALL,
        pooling="gem",
        project=6,
        image_size=32,
        epochs=1,
        device="cpu",
        workers=0,
        cache="off",
        augment="light",
        **pairs,  # type: ignore[arg-type]
    )
    run = create_run(tmp_path / "run")
    result = loop.train(open_source(make_pictures(tmp_path / "p", 4, 6)), options, run)
    assert result.status == "done"
    hasher = Hasher.from_pretrained(run.folder, device="cpu")
    assert (hasher.network.pooling, hasher.network.project, hasher.feature_size) == ("gem", 6, 6)
    assert float(hasher.network.backbone.get_parameter("classifier.3.p").detach()) != 3
    assert TrainingOptions.from_dict(run.read()["options"]) == options


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--pooling", "max"], 2, "invalid choice: 'max'"),
        (["--project", "-1"], 2, "--project is -1"),
        (["--project", "100000"], 2, "100000 numbers"),
        (["--pooling", "gem", "--backbone", "mobilenet_v2"], 2, "no layer that averages"),
    ],
)
def test_options_that_cannot_apply(
    flags: list[str], status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(tmp_path / "p", 4, 6)
    typed = [
        "train",
        "--data",
        str(tmp_path / "p"),
        "--runs",
        str(tmp_path / "runs"),
        "--image-size",
        "32",
        "--device",
        "cpu",
    ]
    try:
        found = main([*typed, "--workers", "0", "--cache", "off", *flags])
    except SystemExit as stopped:
        found = int(stopped.code or 0)
    assert found == status and words in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*")), "nothing half-made is left"
