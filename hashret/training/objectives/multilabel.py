"""Multi-label classification: binary cross-entropy for every class by itself.

Shapes: D pictures of a batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.classification import read, said
from hashret.training.objectives.dropout import dropout


class Multilabel(Objective):
    """Mean over pictures and classes of -[y log p + (1 - y) log(1 - p)], p = sigmoid(W x + b), y whether the class applies.

    x is the pooled features, then the hash head gets no gradient, or the activations; in training the share `share` of it is
    dropped. Labels are 0 and 1 (D, C), or class numbers (D,) for pictures that all have one label. Computed from the scores
    before the sigmoid, so that none is too large. Source: Bishop, "Pattern Recognition and Machine Learning", 2006, section
    4.3 (independent logistic outputs).
    """

    several_labels = True

    def __init__(self, *, through: str, width: int, n_classes: int, share: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.through = through
        self.classifier = nn.Linear(width, n_classes)
        self.dropout = dropout(share, seed)

    def describe(self) -> str:
        """What is read, and what that means for the hash head."""
        return f"multi-label classification through {said(self.through)}"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss, and the share of pictures whose highest score belongs to one of their labels."""
        scores_DC = self.classifier(self.dropout(read(outputs, self.through)))
        applies_DC = functional.one_hot(labels_D, scores_DC.shape[1]) if labels_D.ndim == 1 else labels_D
        best_D = scores_DC.detach().argmax(dim=1)
        right = torch.gather(applies_DC, 1, best_D[:, None]).float().mean()
        loss = functional.binary_cross_entropy_with_logits(scores_DC, applies_DC.to(scores_DC.dtype))
        return Scored(loss, {"accuracy": right})
