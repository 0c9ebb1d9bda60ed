"""Central similarity quantization (CSQ): every bit learns to be that of its class's code.

Shapes: D pictures of a batch, K bits, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hashret.training.objectives.base import Objective, Outputs, Scored


class Central(Objective):
    """Mean over pictures and bits of -[c log h + (1 - c) log(1 - h)], h the activation in 0..1, c the class's bit.

    The codes of the classes ("hash centres") are fixed and near orthogonal (class_codes.py), for any number of classes and
    bits. tanh(x) stretched to 0..1 is sigmoid(2x): computed from the logits, the loss and its gradient stay finite where the
    activation is exactly 0 or 1. The source adds a small weight of its quantisation term, which is that of penalties.py up to
    its shape. Source: Yuan et al., "Central Similarity Quantization for Efficient Image and Video Retrieval", 2020.
    """

    codes_CK: Tensor

    def __init__(self, *, activation: str, codes_CK: Tensor) -> None:
        super().__init__()
        self.steepness = 2.0 if activation == "tanh" else 1.0
        self.register_buffer("codes_CK", codes_CK)

    def describe(self) -> str:
        """There is no margin."""
        return "central similarity to fixed class codes"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss; the share of pictures whose code is nearest to their class's, and the share of bits that are its bits."""
        logits_DK = outputs.logits_DK
        codes_DK = self.codes_CK[labels_D]
        loss = functional.binary_cross_entropy_with_logits(self.steepness * logits_DK, (codes_DK + 1.0) / 2.0)
        with torch.no_grad():
            signs_DK = torch.where(logits_DK > 0, 1.0, -1.0).to(logits_DK.dtype)
            right = ((signs_DK @ self.codes_CK.T).argmax(dim=1) == labels_D).float().mean()
            bits = (signs_DK == codes_DK).float().mean()
        return Scored(loss, {"accuracy": right, "bits": bits})
