"""The classifier that a model was trained with, where it is kept: from what the network gives to a probability of each class.

Shapes: N pictures, C classes, W numbers that are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hashret.errors import ModelError, UsageError

THROUGH = ("features", "codes")
PROBABILITIES = ("softmax", "sigmoid")
TENSORS = "classifier."
"""How the names of its tensors begin in a model's file."""


class Classifier:
    """A linear layer of C classes, their names, what it reads, and how its scores become probabilities.

    through: "features", pooled and of their own length, or "codes", the activations. probabilities: "softmax", which add up to
    1, where a picture has one class; "sigmoid", of each class by itself. No code depends on a classifier.
    """

    def __init__(self, layer: nn.Linear, class_names: Sequence[str], *, through: str, probabilities: str) -> None:
        if through not in THROUGH or probabilities not in PROBABILITIES:
            raise UsageError(
                f"a classifier reads {through!r} and gives {probabilities!r}; expected {' or '.join(THROUGH)}, "
                f"{' or '.join(PROBABILITIES)}"
            )
        if len(class_names) != layer.out_features or len(set(class_names)) != len(class_names):
            raise UsageError(
                f"a classifier of {layer.out_features} classes has {len(set(class_names))} different names; expected one each"
            )
        self.layer = layer
        self.class_names = list(class_names)
        self.through, self.probabilities = through, probabilities

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says of it."""
        return {"classes": list(self.class_names), "through": self.through, "probabilities": self.probabilities}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by the names that they have in a model's file."""
        return {f"{TENSORS}{name}": tensor for name, tensor in self.layer.state_dict().items()}

    def probabilities_of(self, scores_NC: torch.Tensor) -> torch.Tensor:
        """What the scores of the layer come to, in 0..1."""
        return scores_NC.softmax(dim=1) if self.probabilities == "softmax" else scores_NC.sigmoid()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], width: int) -> Classifier:
        """A classifier of the shape that `config` describes, its tensors still to be filled."""
        classes = config["classes"]
        if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
            raise ModelError("the classes of its classifier are no list of names")
        return cls(
            nn.Linear(width, len(classes)), classes, through=config["through"], probabilities=config["probabilities"]
        )
