"""An objective of codes beside a classifier: features that tell pictures apart, and codes that say so."""

from __future__ import annotations

from torch import Tensor

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.classification import Classification


class Classified(Objective):
    """`objective` plus `weight` times the loss of a classifier that reads the pooled features.

    The classifier keeps in the features what few bits have no room for. They rank the nearest codes anew in two-stage search,
    and a code is no better than the features it is made of. After Yao, Long, Mei, Rui, "Deep Semantic-Preserving and
    Ranking-Based Hashing for Image Retrieval", 2016, who train a classifier and triplets of codes on one network.
    """

    def __init__(self, objective: Objective, classification: Classification, *, weight: float) -> None:
        super().__init__()
        self.objective, self.classification, self.weight = objective, classification, weight
        self.margin, self.margin_bits = objective.margin, objective.margin_bits

    def describe(self) -> str:
        """Both, and the weight."""
        return f"{self.objective.describe()}, beside {self.weight:g} × classification through pooled features"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss, and the scalars of both."""
        scored, classified = (
            self.objective(outputs, labels_D, progress),
            self.classification(outputs, labels_D, progress),
        )
        scalars = {**scored.scalars, **classified.scalars, "loss_classification": classified.loss.detach()}
        return Scored(scored.loss + self.weight * classified.loss, scalars)
