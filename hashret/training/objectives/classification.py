"""Classification: cross-entropy of a linear layer, the float baseline.

Shapes: D pictures of a batch, C classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.dropout import dropout


class Classification(Objective):
    """Mean over pictures of -log softmax(W x + b)[label], x the pooled features or the activations.

    With `through` "features" the hash head gets no gradient at all: the pooled features are what is trained, as a float
    baseline and as a start for other objectives, and codes are fitted to them when training is done (ITQ). With "codes" the
    classifier reads the activations, so bits must tell the classes apart. Sources: Zhai and Wu, "Classification is a Strong
    Baseline for Deep Metric Learning", 2019 (features); Lin, Yang, Hsiao, Chen, "Deep Learning of Binary Hash Codes for Fast
    Image Retrieval", 2015 (through codes). In training, the share `share` of what is read is dropped.
    """

    def __init__(self, *, through: str, width: int, n_classes: int, share: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.through = through
        self.classifier = nn.Linear(width, n_classes)
        self.dropout = dropout(share, seed)

    def describe(self) -> str:
        """What is read, and what that means for the hash head."""
        return f"classification through {said(self.through)}"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss, and the share of pictures whose class has the highest score."""
        scores_DC = self.classifier(self.dropout(read(outputs, self.through)))
        right = scores_DC.detach().argmax(dim=1) == labels_D
        return Scored(functional.cross_entropy(scores_DC, labels_D), {"accuracy": right.float().mean()})


def read(outputs: Outputs, through: str) -> Tensor:
    """What a classifier reads: pooled features (D, F) or activations (D, K)."""
    return outputs.features_DF if through == "features" else outputs.activations_DK


def said(through: str) -> str:
    """The same in words."""
    return "pooled features (codes are fitted to them afterwards)" if through == "features" else "codes"
