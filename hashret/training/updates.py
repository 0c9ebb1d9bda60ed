"""One update of the network: forward, objective, backward, step; and all that changes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hashret.errors import TrainingError
from hashret.model.classifier import Classifier
from hashret.model.hasher import Hasher
from hashret.model.network import HashNet
from hashret.training.objectives import Objective, Outputs, Scored, trained_classifier
from hashret.training.optimizers import build_optimizer, build_schedule
from hashret.training.options import TrainingOptions
from hashret.training.processes import Processes


class Update(NamedTuple):
    """What was computed: outputs without gradients, what the objective said of them, and the norm of all gradients."""

    outputs: Outputs
    scored: Scored
    gradient_norm: float


class Updater:
    """A network, what it minimises, and how: `__call__` is one update.

    `kept` is the Hasher worth keeping: the one that is trained or, with `--ema`, one whose weights are a running mean of
    its weights, which scores better than the last of them. Its classifier, where the objective is one, is that of the objective,
    or its running mean; class_names: of the numbers that labels are.
    """

    def __init__(
        self,
        hasher: Hasher,
        objective: Objective,
        options: TrainingOptions,
        device: torch.device,
        steps_an_epoch: int,
        processes: Processes,
        class_names: Sequence[str] = (),
    ) -> None:
        self.processes = processes
        self.hasher, self.objective, self.options, self.device = hasher, objective.to(device), options, device
        self.network = hasher.network.to(device)
        self.network.to(memory_format=torch.channels_last)
        # Compiled, it is the same module with the same parameters under the same names.
        self.backbone = torch.compile(self.network.backbone) if options.compile else self.network.backbone
        self.steps = options.epochs * steps_an_epoch
        self.optimizer = build_optimizer(
            options, self.network.backbone, [*self.network.fresh_parameters(), *self.objective.parameters()]
        )
        self.schedule = build_schedule(self.optimizer, options, steps_an_epoch)
        self.autocast = _autocast_dtype(options.amp, device)
        self.average: AveragedModel | None = None
        self.average_layer: AveragedModel | None = None
        self.kept = hasher
        layer = trained_classifier(self.objective)
        if options.ema:
            self.average = _running_mean(self.network, options.ema)
            assert isinstance(self.average.module, HashNet)
            self.kept = hasher.with_network(self.average.module)
            if layer is not None:
                self.average_layer = _running_mean(layer, options.ema)
                assert isinstance(self.average_layer.module, nn.Linear)
                layer = self.average_layer.module
        if layer is not None:
            probabilities = "sigmoid" if self.objective.several_labels else "softmax"
            self.kept.classifier = Classifier(layer, class_names, through=options.through, probabilities=probabilities)

    @property
    def lr(self) -> float:
        """The learning rate of the backbone's last stage now."""
        return float(self.schedule.get_last_lr()[-2])

    def train_mode(self) -> None:
        """Dropout on, and batch norm as the settings have it."""
        self.network.train()
        if self.options.freeze_norm:
            for module in self.network.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def __call__(self, pixels: Tensor, labels_D: Tensor, step: int) -> Update:
        """Update number `step`, from this process's share of the pixels, uint8 (D, 3, S, S), and the labels of all."""
        outputs = Outputs(*(self.processes.gather(output) for output in self.outputs(pixels)))
        scored = self.objective(outputs, labels_D.to(self.device), step / self.steps)
        if not bool(torch.isfinite(scored.loss)):
            raise TrainingError(
                f"the loss became {scored.loss.item()}; lower --lr (now {self.options.lr:g}), then train anew"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scored.loss)
        self.processes.add_gradients(self.network)
        norm = self.gradient_norm()
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        if self.average_layer is not None:
            layer = trained_classifier(self.objective)
            assert layer is not None
            self.average_layer.update_parameters(layer)
        return Update(Outputs(*(output.detach() for output in outputs)), scored, norm)

    def start_head(self, head: dict[str, Tensor]) -> None:
        """Have the hash head, and that of the running mean of weights, go on from this state."""
        self.network.head.load_state_dict(head)
        self.kept.network.head.load_state_dict(head)

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Features (D, F) of pixels as the network gives them outside training, in float32."""
        self.network.eval()
        return self.pooled(pixels).float()

    def outputs(self, pixels: Tensor) -> Outputs:
        """What the network makes of pixels, in float32; the share `--code-gradient` of what codes want reaches the backbone."""
        share = self.options.share_of_codes
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            features_DF = self.pooled(pixels)
            read_DF = features_DF if share == 1 else share * features_DF + (1 - share) * features_DF.detach()
            logits_DK = self.network.head(read_DF)
        logits_DK = logits_DK.float()
        return Outputs(logits_DK, self.network.activate(logits_DK), features_DF.float())

    def pooled(self, pixels: Tensor) -> Tensor:
        """Features (D, F) of pixels: pooled, and projected where the network does."""
        pictures = self.hasher.preprocess.normalise(pixels.to(self.device, non_blocking=True))
        return self.network.features_of(self.backbone(pictures.contiguous(memory_format=torch.channels_last)))

    def gradient_norm(self) -> float:
        """The L2 norm of all gradients, which are scaled down to `--clip` where it is larger."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        most = self.options.clip or math.inf
        return float(torch.nn.utils.clip_grad_norm_(parameters, most))

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on exactly from here needs."""
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "average_layer": None if self.average_layer is None else self.average_layer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.average_layer is not None:
            self.average_layer.load_state_dict(state["average_layer"])


def _running_mean(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network that follows it, `decay` of itself kept at each update; batch-norm statistics too.

    Source: Tarvainen and Valpola, "Mean teachers are better role models", 2017. The first updates count fully: a mean of
    random beginnings is worth nothing, so the decay grows as (1 + n) / (10 + n) to its value.
    """

    def average(old: Sequence[Tensor], new: Sequence[Tensor], updates: Tensor | int) -> None:
        now = min(decay, (1 + int(updates)) / (10 + int(updates)))
        for kept, fresh in zip(old, new, strict=True):
            if kept.is_floating_point():
                kept.lerp_(fresh, 1 - now)
            else:
                kept.copy_(fresh)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes it natively; None computes in float32.

    bfloat16 has float32's range, so no loss scaling is needed. "auto" keeps CPUs in float32: few gain from it.
    """
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return None
    return torch.bfloat16
