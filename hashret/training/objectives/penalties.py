"""What any objective can be joined with: bits that are balanced and independent, and activations near the ends of their range.

Shapes: D pictures of a batch, K bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.relaxed import signed


def imbalance(u_DK: Tensor) -> Tensor:
    """Mean over bits of (mean over pictures of u)²: 0 when every bit is as often 1 as 0, 1 when all are constant. u in -1..1.

    Source: Weiss, Torralba, Fergus, "Spectral Hashing", 2008 (balanced bits); as a loss: Yang, Lin, Chen, "Supervised
    Learning of Semantics-Preserving Hash via Deep Convolutional Neural Networks" (SSDH), 2018.
    """
    return u_DK.mean(dim=0).square().mean()


def dependence(u_DK: Tensor) -> Tensor:
    """Mean over pairs of different bits of (mean over pictures of u_i · u_j)²: 0 when no bit tells of another. u in -1..1.

    Source: Weiss, Torralba, Fergus, "Spectral Hashing", 2008 (uncorrelated bits).
    """
    bits = u_DK.shape[1]
    products_KK = u_DK.T @ u_DK / len(u_DK)
    different_KK = ~torch.eye(bits, dtype=torch.bool, device=u_DK.device)
    return (products_KK.square() * different_KK).sum() / max(1, bits * (bits - 1))


def quantisation_error(u_DK: Tensor) -> Tensor:
    """Mean over pictures and bits of (|u| - 1)²: what taking signs changes. u in -1..1.

    Source: Wang, Shi, Kitani, "Deep Supervised Hashing with Triplet Labels", 2016, as ‖sign(u) - u‖².
    """
    return (u_DK.abs() - 1.0).square().mean()


class Penalised(Objective):
    """An objective plus `balance` · (imbalance + dependence) plus `quantisation` · quantisation_error of the activations."""

    def __init__(self, objective: Objective, *, balance: float, quantisation: float, activation: str) -> None:
        super().__init__()
        self.objective = objective
        self.margin, self.margin_bits = objective.margin, objective.margin_bits
        self.several_labels = objective.several_labels
        self.balance, self.quantisation, self.activation = balance, quantisation, activation

    def describe(self) -> str:
        """The objective and the weights."""
        weights = {"balance": self.balance, "quantisation": self.quantisation}
        return ", ".join(
            [self.objective.describe(), *(f"{name} {weight:g}" for name, weight in weights.items() if weight)]
        )

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss, and the terms before they are weighted."""
        scored = self.objective(outputs, labels_D, progress)
        loss, scalars = scored.loss, dict(scored.scalars)
        u_DK = signed(outputs.activations_DK, self.activation)
        if self.balance:
            terms = {"balance": imbalance(u_DK), "dependence": dependence(u_DK)}
            loss = loss + self.balance * (terms["balance"] + terms["dependence"])
            scalars |= {name: term.detach() for name, term in terms.items()}
        if self.quantisation:
            error = quantisation_error(u_DK)
            loss = loss + self.quantisation * error
            scalars["quantisation"] = error.detach()
        return Scored(loss, scalars)
