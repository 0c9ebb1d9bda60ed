"""Cosine-margin softmax to fixed class codes (the OrthoHash family).

Shapes: D pictures of a batch, K bits, C classes.
"""

from __future__ import annotations

from math import log, sqrt

import torch
from torch import Tensor
from torch.nn import functional

from hashret.training.objectives.base import Objective, Outputs, Scored

AUTO_MARGIN = 0.2
"""The margin of the source's published settings."""
_LEAST_NORM = 1e-6


class Cosine(Objective):
    """Mean over pictures of the cross-entropy of s · (cos(x, code of class c) - m · [c is the picture's class]), over classes c.

    x is the logits: their signs are the bits, and a vector of logits that points at a code of ±1 has the same size in every
    bit, so that taking signs loses little. The class codes are fixed and near orthogonal (class_codes.py). The margin m is
    in cosine: a picture's own class must lead by it. s is 8, the source's setting, or √2 · log(C - 1) where that is more, as
    with many classes a smaller one could not bring the loss near 0. Sources: Hoe et al., "One Loss for All: Deep Hashing with
    a Single Cosine Similarity based Learning Objective", 2021; the margin: Wang et al., "CosFace", 2018; s for many classes:
    Zhang et al., "AdaCos", 2019.
    """

    codes_CK: Tensor

    def __init__(self, *, margin: float, codes_CK: Tensor) -> None:
        super().__init__()
        self.margin: float = margin
        self.scale = max(8.0, sqrt(2) * log(max(2, len(codes_CK) - 1)))
        self.register_buffer("codes_CK", codes_CK)

    def describe(self) -> str:
        """The margin in cosine."""
        return f"cosine softmax to fixed class codes, margin {self.margin:g} in cosine"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss; the share of pictures nearest to their class's code, and the mean cosine to it."""
        logits_DK = outputs.logits_DK
        codes_CK = self.codes_CK / sqrt(self.codes_CK.shape[1])
        cosines_DC = functional.normalize(logits_DK, dim=1, eps=_LEAST_NORM) @ codes_CK.T
        own_DC = functional.one_hot(labels_D, len(codes_CK))
        loss = functional.cross_entropy(self.scale * (cosines_DC - self.margin * own_DC), labels_D)
        with torch.no_grad():
            right = (cosines_DC.argmax(dim=1) == labels_D).float().mean()
            cosine = (cosines_DC * own_DC).sum(dim=1).mean()
        return Scored(loss, {"accuracy": right, "cosine": cosine})
