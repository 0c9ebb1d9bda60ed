"""The network that is trained: backbone, pooled features, hash head, logits."""

from __future__ import annotations

import torch
from torch import nn

from hashret.model.backbones import make_backbone
from hashret.model.heads import HashHead


class HashNet(nn.Module):
    """Pictures to logits and pooled features.

    `backbone` and `head` hold the parameters; `backbone_name`, `stem` and `image_size` are what it was built from,
    `classifier` the name of the backbone layer that was cut off, `feature_size` the width of the pooled features.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        code_size: int = 64,
        *,
        image_size: int = 224,
        stem: str = "standard",
        activation: str = "tanh",
        beta: float = 1.0,
        initialise: bool = True,
    ) -> None:
        super().__init__()
        made = make_backbone(backbone, image_size, stem, initialise=initialise)
        self.backbone_name = backbone
        self.image_size = image_size
        self.stem = stem
        self.classifier = made.classifier
        self.feature_size = made.feature_size
        self.code_size = code_size
        self.backbone = made.module
        self.head = HashHead(made.feature_size, code_size, activation, beta)

    def forward(self, pictures_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, code_size) and pooled features (N, feature_size), not normalised."""
        features_ND: torch.Tensor = self.backbone(pictures_NCHW)
        return self.head(features_ND), features_ND

    def activate(self, logits_NK: torch.Tensor) -> torch.Tensor:
        """Relaxed codes for the loss: see `HashHead.activate`."""
        return self.head.activate(logits_NK)
