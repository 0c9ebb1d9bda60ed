"""One update: who learns how fast, what is clipped, frozen, averaged; each against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import codes_alone
from torch import nn

from hashret.model.backbones import make_backbone
from hashret.model.hasher import Hasher, build
from hashret.training.objectives import Objective, Outputs, Scored
from hashret.training.optimizers import build_optimizer, build_schedule, stages_of
from hashret.training.options import TrainingOptions
from hashret.training.processes import Processes
from hashret.training.updates import Updater

PIXELS = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


class Pull(Objective):
    """Logits to 1; a parameter of its own to 0."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.tensor(3.0))
        self.scale = scale

    def forward(self, outputs: Outputs, labels_D: torch.Tensor, progress: float) -> Scored:
        return Scored(self.scale * ((outputs.logits_DK - 1).square().mean() + self.own.square()))


def updater(objective: Objective | None = None, **changes: Any) -> Updater:
    torch.manual_seed(0)
    hasher = build("resnet18", 8, image_size=32)
    settings = {"lr": 1e-3, "warmup": 0, "epochs": 10, "device": "cpu", **changes}
    options = codes_alone(code_size=8, **settings)
    made = Updater(hasher, objective or Pull(), options, torch.device("cpu"), 5, Processes())
    made.train_mode()
    return made


def weights(hasher: Hasher) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in hasher.network.parameters()])


@pytest.mark.parametrize(("name", "n"), [("resnet18", 6), ("mobilenet_v2", 19), ("vit_b_16", 16), ("squeezenet1_1", 9)])
def test_stages_hold_every_parameter_once_from_first_to_last(name: str, n: int) -> None:
    backbone = make_backbone(name, 32, initialise=False).module
    stages = stages_of(backbone)
    held = [id(parameter) for stage in stages for parameter in stage]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in backbone.parameters()}
    assert len(stages) == n and all(stages)


def test_each_stage_learns_at_a_share_of_the_next_ones_rate() -> None:
    made = updater(lr=0.1, layer_decay=0.5, head_lr_factor=2.0)
    assert [group["lr"] for group in made.optimizer.param_groups] == pytest.approx(
        [0.1 / 32, 0.1 / 16, 0.1 / 8, 0.1 / 4, 0.1 / 2, 0.1, 0.2]
    )
    assert made.lr == pytest.approx(0.1)
    assert any(p is made.objective.own for p in made.optimizer.param_groups[-1]["params"])
    assert len(updater().optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 8),
        ("step", [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * (i - 2) / 6) for i in range(8)]),
    ],
)
def test_the_schedule_warms_up_and_then_takes_its_shape(schedule: str, expected: list[float]) -> None:
    options = TrainingOptions(epochs=4, lr=1.0, head_lr_factor=1.0, warmup=1, schedule=schedule, step_epochs=2)
    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(options, nn.Sequential(layer), [])
    shape = build_schedule(optimizer, options, steps_an_epoch=2)
    rates = []
    for _ in range(8):
        rates.append(shape.get_last_lr()[0])
        optimizer.step()
        shape.step()
    assert rates == pytest.approx([1 / 3, 2 / 3, *expected[2:]])


def test_gradients_are_scaled_down_to_the_norm_that_is_asked_for() -> None:
    free, clipped = updater(Pull(100)), updater(Pull(100), clip=0.5)
    norm = free(PIXELS, LABELS, 0).gradient_norm
    assert clipped(PIXELS, LABELS, 0).gradient_norm == pytest.approx(norm) and norm > 5
    scale = [
        math.sqrt(sum(float(p.grad.square().sum()) for g in made.optimizer.param_groups for p in g["params"]))
        for made in (free, clipped)
    ]
    assert scale == pytest.approx([norm, 0.5], rel=1e-3)


def test_the_running_mean_is_the_recurrence_it_says() -> None:
    made = updater(ema=0.5)
    assert made.kept is not made.hasher and made.kept.network is not made.network
    mean = None
    for step in range(6):
        made(PIXELS, LABELS, step)
        now = weights(made.hasher)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = now if mean is None else decay * mean + (1 - decay) * now
    assert mean is not None
    assert torch.allclose(weights(made.kept), mean, atol=1e-6)
    statistics = [network.head.norm.running_mean for network in (made.network, made.kept.network)]
    assert not torch.equal(*statistics)
    assert updater().kept.network is not None


def test_a_state_goes_on_to_the_same_bytes() -> None:
    whole, parts = (
        updater(ema=0.9, clip=1.0, schedule="step", step_epochs=1),
        updater(ema=0.9, clip=1.0, schedule="step"),
    )
    for step in range(4):
        whole(PIXELS, LABELS, step)
    parts = updater(ema=0.9, clip=1.0, schedule="step", step_epochs=1)
    for step in range(2):
        parts(PIXELS, LABELS, step)
    resumed = updater(ema=0.9, clip=1.0, schedule="step", step_epochs=1)
    resumed.load_state_dict(parts.state_dict())
    for step in range(2, 4):
        resumed(PIXELS, LABELS, step)
    assert torch.equal(weights(resumed.hasher), weights(whole.hasher))
    assert torch.equal(weights(resumed.kept), weights(whole.kept))
    assert torch.equal(resumed.objective.own, whole.objective.own)


def test_frozen_norm_keeps_the_statistics_it_began_with() -> None:
    frozen, free = updater(freeze_norm=True), updater()
    for made in (frozen, free):
        made(PIXELS, LABELS, 0)
    assert frozen.network.head.norm.running_mean.eq(0).all() and not free.network.head.norm.running_mean.eq(0).all()
    assert frozen.network.head.norm.weight.grad is not None
    assert frozen.network.training and not frozen.network.backbone.bn1.training


def test_a_compiled_network_learns_the_same() -> None:
    plain, compiled = updater(), updater(compile=True)
    losses = [
        [float(made(PIXELS, LABELS, step).scored.loss.detach()) for step in range(3)] for made in (plain, compiled)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert set(compiled.network.state_dict()) == set(plain.network.state_dict())


def test_bfloat16_is_close_to_float32() -> None:
    logits = [updater(amp=amp).outputs(PIXELS).logits_DK for amp in ("off", "on")]
    assert logits[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*logits).min() > 0.99


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_codes_move_the_backbone_by_their_share(share: float) -> None:
    """The head's own gradients, what it gives, and what the features' other readers say stay the same."""
    made = updater(code_gradient=share, classify=1.0)
    whole = updater()
    gradients = []
    for each in (made, whole):
        each.outputs(PIXELS).logits_DK.square().mean().backward()
        gradients.append({name: p.grad for name, p in each.network.named_parameters()})
    for name, gradient in gradients[1].items():
        expected = gradient if name.startswith("head.") else share * gradient
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-4, atol=1e-6)
    made.network.zero_grad()
    made.outputs(PIXELS).features_DF.mean().backward()
    assert all(p.grad.abs().sum() > 0 for name, p in made.network.backbone.named_parameters() if "conv" in name)
