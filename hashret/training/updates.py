"""One update of the network: forward, objective, backward, step; and all that changes with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hashret.errors import TrainingError
from hashret.model.hasher import Hasher
from hashret.training.objectives import Objective, Outputs, Scored
from hashret.training.optimizers import build_optimizer, cosine_with_warmup
from hashret.training.options import TrainingOptions


class Update(NamedTuple):
    """What was computed: outputs without gradients, what the objective said of them, and the norm of all gradients."""

    outputs: Outputs
    scored: Scored
    gradient_norm: float


class Updater:
    """A network, what it minimises, and how: `__call__` is one update."""

    def __init__(
        self, hasher: Hasher, objective: Objective, options: TrainingOptions, device: torch.device, steps_an_epoch: int
    ) -> None:
        self.hasher, self.objective, self.options, self.device = hasher, objective.to(device), options, device
        self.network = hasher.network.to(device)
        self.network.to(memory_format=torch.channels_last)
        self.steps = options.epochs * steps_an_epoch
        self.optimizer = build_optimizer(
            options.optimizer,
            self.network.backbone,
            [*self.network.head.parameters(), *self.objective.parameters()],
            lr=options.lr,
            head_lr_factor=options.head_lr_factor,
            weight_decay=options.weight_decay,
        )
        self.schedule = cosine_with_warmup(
            self.optimizer, steps=self.steps, warmup_steps=round(options.warmup * steps_an_epoch)
        )
        self.autocast = _autocast_dtype(options.amp, device)

    @property
    def lr(self) -> float:
        """The backbone's learning rate now."""
        return float(self.schedule.get_last_lr()[0])

    def __call__(self, pixels: Tensor, labels_D: Tensor, step: int) -> Update:
        """Update number `step`, from uint8 pixels (D, 3, S, S) and their labels."""
        pictures = self.hasher.preprocess.normalise(pixels.to(self.device, non_blocking=True))
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            logits, features = self.network(pictures)
        logits = logits.float()
        outputs = Outputs(logits, self.network.activate(logits), features.float())
        scored = self.objective(outputs, labels_D.to(self.device), step / self.steps)
        if not bool(torch.isfinite(scored.loss)):
            raise TrainingError(
                f"the loss became {scored.loss.item()}; lower --lr (now {self.options.lr:g}), then train anew"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scored.loss)
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        self.optimizer.step()
        self.schedule.step()
        return Update(Outputs(*(output.detach() for output in outputs)), scored, norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on exactly from here needs."""
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def _autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes it natively; None computes in float32.

    bfloat16 has float32's range, so no loss scaling is needed. "auto" keeps CPUs in float32: few gain from it.
    """
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return None
    return torch.bfloat16
