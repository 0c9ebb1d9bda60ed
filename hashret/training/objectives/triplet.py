"""Triplet loss: pictures of one class come nearer to each other than to others, by a margin.

Shapes: D pictures of a batch, K bits, C classes, M remembered pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.memory import WARM_UP, CodeMemory
from hashret.training.objectives.mining import MINING, Candidates, Mined, within_batch
from hashret.training.objectives.relaxed import BIT, squared_distances, straight_through, unsigned


def triplet_loss(activations_DK: Tensor, labels_D: Tensor, *, margin: float, mining: str, hinge: str = "relu") -> Mined:
    """Mean over triplets of `hinge(d(a,p) - d(a,n) + margin)`, d the squared Euclidean distance of the activations.

    hinge "relu" is max(0, x), averaged over the active triplets; "softplus" is log(1 + exp(x)), averaged over all: a smooth
    margin that never quite lets go. Zero (with a gradient of zero) when the batch holds no triplet. `margin` is in squared
    distance: 8 is 2 bits of a tanh code. Sources: Schroff, Kalenichenko, Philbin, "FaceNet", 2015; Hermans, Beyer, Leibe,
    "In Defense of the Triplet Loss for Person Re-Identification", 2017 (softplus, mean over the active).
    """
    distances_DD = squared_distances(activations_DK, activations_DK)
    return MINING[mining](within_batch(distances_DD, labels_D), margin, hinge)


class Triplet(Objective):
    """A sum of triplet losses with one margin, mining rule and hinge:

    - of the activations of the batch (`triplet_loss`);
    - of its codes, the gradient passed straight through the sign, times a weight that grows linearly from 0 to `sign_weight`:
      training begins smooth and ends on what is searched;
    - of its activations against codes of classes, times `proxy_weight`: the positive is the code of the anchor's class, the
      negatives those of all other classes, so a batch hears of classes it does not hold. The class codes start as `codes_CK`
      (±1) and are learned. After Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", 2017, whose
      proxies enter another loss;
    - of its activations against the last `memory` pictures (memory.py), from a tenth of all updates on.
    """

    def __init__(
        self,
        *,
        margin: float,
        mining: str,
        hinge: str,
        activation: str,
        code_size: int,
        sign_weight: float = 0.0,
        proxy_weight: float = 0.0,
        codes_CK: Tensor | None = None,
        memory: int = 0,
    ) -> None:
        super().__init__()
        self.margin: float = margin
        self.margin_bits: float = margin / BIT[activation]
        self.mining, self.hinge, self.activation = mining, hinge, activation
        self.sign_weight, self.proxy_weight = sign_weight, proxy_weight
        self.memory = CodeMemory(memory, code_size) if memory else None
        self.proxies_CK = None if codes_CK is None else nn.Parameter(unsigned(codes_CK, activation))

    def describe(self) -> str:
        """The margin, in squared distance and in bits."""
        return f"triplet, {self.mining}, margin {self.margin:g} ({self.margin_bits:g} bits)"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss; `active` is the share of the batch's triplets that violate the margin, `active_…` that of each other part."""
        activations_DK = outputs.activations_DK
        batch = self._loss(within_batch(squared_distances(activations_DK, activations_DK), labels_D))
        loss, scalars = batch.loss, {"active": batch.share}
        if self.sign_weight:
            codes_DK = straight_through(outputs.logits_DK, activations_DK, self.activation)
            signs = self._loss(within_batch(squared_distances(codes_DK, codes_DK), labels_D))
            loss = loss + progress * self.sign_weight * signs.loss
            scalars["active_signs"] = signs.share
        if self.proxies_CK is not None:
            own_DC = labels_D[:, None] == torch.arange(len(self.proxies_CK), device=labels_D.device)[None, :]
            distances_DC = squared_distances(activations_DK, self.proxies_CK)
            proxies = self._loss(Candidates(distances_DC, own_DC, ~own_DC))
            loss = loss + self.proxy_weight * proxies.loss
            scalars["active_proxies"] = proxies.share
        if self.memory is not None:
            remembered = self._loss(self.memory.compared(activations_DK, labels_D))
            if progress >= WARM_UP:
                loss = loss + remembered.loss
            self.memory.remember(activations_DK, labels_D)
            scalars["active_memory"] = remembered.share
        return Scored(loss, scalars)

    def _loss(self, candidates: Candidates) -> Mined:
        return MINING[self.mining](candidates, self.margin, self.hinge)
