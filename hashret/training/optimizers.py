"""Optimizers by name, which part of the network learns how fast, and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from hashret.training.options import TrainingOptions


def build_optimizer(
    options: TrainingOptions, backbone: nn.Module, fresh: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimizer whose groups learn at rates of their own; the last group is `fresh`, the head and all else that starts anew.

    What of the backbone is in `fresh` (the exponent of GeM) is not in its stages.

    The backbone's last stage learns at `lr`, each one before it at `layer_decay` times the rate of the next: early layers of
    a pretrained network are general already. `fresh` learns at `lr × head_lr_factor`. Source of the rates: Howard and
    Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018 (discriminative fine-tuning).
    """
    fresh = list(fresh)
    anew = set(map(id, fresh))
    stages = stages_of(backbone) if options.layer_decay < 1 else [list(backbone.parameters())]
    stages = [left for stage in stages if (left := [each for each in stage if id(each) not in anew])]
    groups: list[dict[str, Any]] = [
        {"params": stage, "lr": options.lr * options.layer_decay ** (len(stages) - 1 - i)}
        for i, stage in enumerate(stages)
    ]
    groups.append({"params": fresh, "lr": options.lr * options.head_lr_factor})
    spec = options.optimizer_spec
    settings = spec.settings
    if spec.name == "sgd":
        momentum = settings["momentum"]
        return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, weight_decay=options.weight_decay)
    kind = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
    betas = settings["beta1"], settings["beta2"]
    return kind(groups, betas=betas, eps=settings["eps"], weight_decay=options.weight_decay)


def stages_of(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a backbone from first to last, by the parts that it is made of: ResNet's stem and four layers, say.

    A part that holds nearly all of them (MobileNet's `features`, the encoder of ViT) is taken apart in turn.
    """
    total = _size(backbone.parameters())
    # Parameters of the module itself (a class token) come first, as they enter first.
    stages = [list(backbone.parameters(recurse=False))]
    for part in backbone.children():
        holds_nearly_all = _size(part.parameters()) > 0.9 * total and any(True for _ in part.children())
        stages += stages_of(part) if holds_nearly_all else [list(part.parameters())]
    return [stage for stage in stages if stage]


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def build_schedule(
    optimizer: torch.optim.Optimizer, options: TrainingOptions, steps_an_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule, advanced once a step: linear from near 0 over the warm-up, then the shape that is asked for.

    cosine: half a cosine down to 0. constant: as it is. step: times `step_factor` after every `step_epochs` epochs. The optimizer
    adam_inverse_sqrt has warm-up and shape of its own (`OptimizerSpec.inverse_sqrt`).
    """
    spec = options.optimizer_spec
    if spec.warmup_updates:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: spec.inverse_sqrt(options.lr, step))
    steps, warmup_steps = options.epochs * steps_an_epoch, round(options.warmup * steps_an_epoch)
    shapes: dict[str, Callable[[int], float]] = {
        "cosine": lambda step: (
            0.5 * (1 + math.cos(math.pi * min(1.0, _share(step - warmup_steps, steps - warmup_steps))))
        ),
        "constant": lambda step: 1.0,
        "step": lambda step: options.step_factor ** (step // (options.step_epochs * steps_an_epoch)),
    }
    shape = shapes[options.schedule]

    def factor(step: int) -> float:
        return (step + 1) / (warmup_steps + 1) if step < warmup_steps else shape(step)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _share(part: int, whole: int) -> float:
    return part / max(1, whole)
