"""Learning without labels: two views of a picture are to have one code, different from those of all other pictures.

Shapes: D views of a batch, two of each picture; K bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hashret.errors import TrainingError
from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.relaxed import signed

_LEAST_NORM = 1e-6


class SelfSupervised(Objective):
    """NT-Xent: mean over views i of -log [exp(cos(i, i') / τ) / Σ_{k ≠ i} exp(cos(i, k) / τ)], i' the other view of i's picture.

    Cosines are of the activations in -1..1, that is of relaxed codes: for codes of ±1 it is 1 - 2 · Hamming distance / K. A
    small temperature τ looks at the nearest strangers only, a large one at all. Labels are the numbers of pictures;
    TrainingError unless each occurs exactly twice. It is meant to be used with the balance term of penalties.py, which keeps
    all bits in use. Sources: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR),
    2020; on the hash layer: Qiu et al., "Unsupervised Hashing with Contrastive Information Bottleneck", 2021.
    """

    def __init__(self, *, temperature: float, activation: str) -> None:
        super().__init__()
        self.temperature, self.activation = temperature, activation

    def describe(self) -> str:
        """The temperature."""
        return f"self-supervised, two views a picture, temperature {self.temperature:g}"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss, and the share of views whose nearest other view is that of the same picture."""
        itself_DD = torch.eye(len(labels_D), dtype=torch.bool, device=labels_D.device)
        other_DD = (labels_D[:, None] == labels_D[None, :]) & ~itself_DD
        if not bool((other_DD.sum(dim=1) == 1).all()):
            raise TrainingError(
                "self-supervised learning found a batch that is not made of two views of each picture; "
                "give every picture of the batch exactly twice, with its number as the label"
            )
        other_D = other_DD.int().argmax(dim=1)
        u_DK = functional.normalize(signed(outputs.activations_DK, self.activation), dim=1, eps=_LEAST_NORM)
        scores_DD = (u_DK @ u_DK.T / self.temperature).masked_fill(itself_DD, -torch.inf)
        right = (scores_DD.detach().argmax(dim=1) == other_D).float().mean()
        return Scored(functional.cross_entropy(scores_DD, other_D), {"accuracy": right})
