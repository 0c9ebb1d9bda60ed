"""The network: backbone, pooled features, head, logits."""

from __future__ import annotations

import torch
from torch import nn

from hashret.errors import UsageError
from hashret.model.backbones import make_backbone
from hashret.model.heads import HEADS, HashHead, ProjectionHead


class HashNet(nn.Module):
    """Pictures to logits and pooled features.

    `backbone` and `head` hold the parameters; `backbone_name`, `stem` and `image_size` are what it was built from,
    `classifier` the name of the backbone layer that was cut off, `feature_size` the width of the pooled features. `head` is
    "hash", which is trained, or "projection", which is fitted to features.
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
        head: str = "hash",
        initialise: bool = True,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise UsageError(f"the head is {head!r}; it can be {' or '.join(HEADS)}")
        made = make_backbone(backbone, image_size, stem, initialise=initialise)
        self.backbone_name = backbone
        self.image_size = image_size
        self.stem = stem
        self.classifier = made.classifier
        self.feature_size = made.feature_size
        self.code_size = code_size
        self.backbone = made.module
        self.head: HashHead | ProjectionHead = (
            HashHead(made.feature_size, code_size, activation, beta)
            if head == "hash"
            else ProjectionHead(made.feature_size, code_size)
        )

    def forward(self, pictures_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, code_size) and pooled features (N, feature_size), not normalised."""
        features_ND: torch.Tensor = self.backbone(pictures_NCHW)
        return self.head(features_ND), features_ND

    def activate(self, logits_NK: torch.Tensor) -> torch.Tensor:
        """Relaxed codes for the loss: see `HashHead.activate`. A head that was fitted has none but its logits."""
        return self.head.activate(logits_NK) if isinstance(self.head, HashHead) else logits_NK

    def use_head(self, head: ProjectionHead) -> None:
        """Take this head, which was fitted to the network's features, in place of its own."""
        self.head = head.to(next(self.backbone.parameters()).device)
        self.code_size = len(head.directions)
