"""What every objective is: the outputs of the network for a batch and its labels in, one number to minimise out.

Shapes: D pictures of a batch (of all processes together), K bits, F numbers of a pooled feature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn


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
    """Something to minimise. Parameters of its own are trained with those of the head, and are not part of the model."""

    def forward(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss of a batch. labels: class numbers int64. progress: the share of all updates that is done, 0 to 1."""
        raise NotImplementedError
