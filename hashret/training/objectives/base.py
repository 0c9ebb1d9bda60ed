"""What every objective is: the outputs of the network for a batch and its labels in, one number to minimise out.

Shapes: D pictures of a batch (of all processes together), K bits, F numbers of a pooled feature, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hashret.errors import TrainingError


class Outputs(NamedTuple):
    """What the network gives a batch, float32: logits (D, K), their activations (D, K) and pooled features (D, F)."""

    logits_DK: Tensor
    activations_DK: Tensor
    features_DF: Tensor


@dataclass(frozen=True)
class Scored:
    """The loss of a batch, and numbers that tell how learning goes, by name: scalars without gradients."""

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Something to minimise. Parameters of its own are trained with those of the head, and are not part of the model.

    `margin` is the number that the run's margin has come to, None where the objective has none; `margin_bits` what it asks
    for in bits, None where it is not about distances of codes. A subclass implements `score` and `describe`.
    """

    margin: float | None = None
    margin_bits: float | None = None
    several_labels = False
    """Whether a picture may have several labels at once: labels (D, C) of 0 and 1."""

    def forward(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss of a batch, computed in the precision of `outputs` whatever autocast is in force.

        labels: class numbers int64 (D,), or 0 and 1 (D, C) where `several_labels`. progress: the share of all updates that
        is done, 0 to 1. TrainingError for labels of the other form.
        """
        if labels_D.ndim != 1 and not self.several_labels:
            raise TrainingError(
                f"labels have the shape {tuple(labels_D.shape)}, and this objective takes one class number a picture; "
                "use --objective multilabel for pictures of several labels"
            )
        with torch.autocast(outputs.logits_DK.device.type, enabled=False):
            return self.score(outputs, labels_D, progress)

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """What `forward` gives back, for labels that have been checked."""
        raise NotImplementedError

    def describe(self) -> str:
        """The objective and its margin in one phrase, for the log."""
        raise NotImplementedError
