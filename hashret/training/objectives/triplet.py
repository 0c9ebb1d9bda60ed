"""Triplet loss on activations: a picture is nearer to its own class than to any other, by a margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.mining import MINING

BIT = {"tanh": 4.0, "sigmoid": 1.0}
"""Squared distance of activations (tanh -1..1, sigmoid 0..1) that differ in one bit."""


@dataclass(frozen=True)
class TripletResult:
    """The loss of one batch, and what it was made of."""

    loss: Tensor
    triplets: int
    active: int


def squared_distances(activations_DK: Tensor) -> Tensor:
    """Squared Euclidean distances (D, D) between the rows, float32, never negative.

    For activations in ±1 this is 4 × the Hamming distance of their codes.
    """
    x = activations_DK.float()
    squares = (x * x).sum(dim=1)
    return (squares[:, None] + squares[None, :] - 2.0 * x @ x.T).clamp_min(0.0)


def triplet_loss(activations_DK: Tensor, labels_D: Tensor, *, margin: float, mining: str) -> TripletResult:
    """Mean over the active triplets of `max(0, d(a,p) - d(a,n) + margin)`, d the squared Euclidean distance.

    The mean is over triplets that still violate the margin, not over all: once most are satisfied, a mean over all shrinks
    the gradient with every success and training stops early. Zero (with a gradient of zero) when no triplet is active or
    the batch holds no triplet. `margin` is in squared distance: 8 is 2 bits of a tanh code. Sources: Schroff et al.,
    "FaceNet", 2015 (loss, semi-hard); Hermans, Beyer, Leibe, "In Defense of the Triplet Loss", 2017 (batch all, mean over
    the non-zero terms).
    """
    d_positive, d_negative = MINING[mining](squared_distances(activations_DK), labels_D)
    terms = torch.relu(d_positive - d_negative + margin)
    active = int((terms > 0).sum())
    return TripletResult(terms.sum() / max(active, 1), len(terms), active)


class Triplet(Objective):
    """`triplet_loss` of the activations."""

    def __init__(self, *, margin: float, mining: str) -> None:
        super().__init__()
        self.margin, self.mining = margin, mining

    def forward(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss, and the share of triplets that are active."""
        result = triplet_loss(outputs.activations_DK, labels_D, margin=self.margin, mining=self.mining)
        return Scored(result.loss, {"active": torch.tensor(result.active / max(result.triplets, 1))})


def auto_margin(*, task: str, code_size: int, activation: str) -> float:
    """The margin that `--margin auto` stands for, in squared distance of the activations.

    A closed set may push its classes far apart, so a quarter of the code: random codes are half of it apart. Unseen
    classes need the room between the known ones: 4 bits. One bit is BIT[activation].
    """
    bits = code_size / 4 if task == "closed" else min(4.0, code_size / 4)
    return bits * BIT[activation]
