"""Optimizers by name, and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


def build_optimizer(
    name: str,
    backbone: nn.Module,
    fresh: Sequence[nn.Parameter],
    *,
    lr: float,
    head_lr_factor: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """An optimizer with two groups: the backbone at `lr`; the head, and all else that starts anew, at `lr × head_lr_factor`."""
    groups = [
        {"params": list(backbone.parameters()), "lr": lr},
        {"params": list(fresh), "lr": lr * head_lr_factor},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.Adam(groups, weight_decay=weight_decay)
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def cosine_with_warmup(
    optimizer: torch.optim.Optimizer, *, steps: int, warmup_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule, advanced once a step: linear from near 0 over `warmup_steps`, then half a cosine down to 0."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
