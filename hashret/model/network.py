"""The network: backbone, pooled features, perhaps a projection of them, head, logits."""

from __future__ import annotations

import torch
from torch import nn

from hashret.errors import UsageError
from hashret.model.backbones import make_backbone
from hashret.model.heads import HEADS, HashHead, ProjectionHead

MAX_PROJECTION = 1 << 16


class HashNet(nn.Module):
    """Pictures to logits and features.

    The features are what the backbone pools ("average" or "gem"); with `project` they are a learned linear function of that, with
    so many numbers, in whose place they are used everywhere. `backbone`, `projection` (None without) and `head` hold the
    parameters; `backbone_name`, `stem`, `pooling`, `project` and `image_size` are what it was built from, `classifier` the name
    of the backbone layer that was cut off, `pooled_size` the width of what is pooled and `feature_size` that of the features.
    `head` is "hash", which is trained, or "projection", which is fitted to features.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        code_size: int = 64,
        *,
        image_size: int = 224,
        stem: str = "standard",
        pooling: str = "average",
        project: int = 0,
        activation: str = "tanh",
        beta: float = 1.0,
        head: str = "hash",
        initialise: bool = True,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise UsageError(f"the head is {head!r}; it can be {' or '.join(HEADS)}")
        if isinstance(project, bool) or not isinstance(project, int) or not 0 <= project <= MAX_PROJECTION:
            raise UsageError(
                f"features are to be projected to {project!r} numbers; choose 1 to {MAX_PROJECTION}, or 0 for none"
            )
        made = make_backbone(backbone, image_size, stem, pooling, initialise=initialise)
        self.backbone_name = backbone
        self.image_size = image_size
        self.stem = stem
        self.pooling = pooling
        self.project = project
        self.classifier = made.classifier
        self.pooled_size = made.feature_size
        self.feature_size = project or made.feature_size
        self.code_size = code_size
        self.fresh_in_backbone = made.fresh
        self.backbone = made.module
        self.projection = nn.Linear(made.feature_size, project) if project else None
        self.head: HashHead | ProjectionHead = (
            HashHead(self.feature_size, code_size, activation, beta)
            if head == "hash"
            else ProjectionHead(self.feature_size, code_size)
        )

    def forward(self, pictures_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, code_size) and features (N, feature_size), not normalised."""
        features_ND = self.features_of(self.backbone(pictures_NCHW))
        return self.head(features_ND), features_ND

    def features_of(self, pooled_NP: torch.Tensor) -> torch.Tensor:
        """Features (N, feature_size) of what the backbone gives, (N, pooled_size): the same without a projection."""
        if self.projection is None:
            return pooled_NP
        features_ND: torch.Tensor = self.projection(pooled_NP)
        return features_ND

    def fresh_parameters(self) -> list[nn.Parameter]:
        """What starts anew whatever the backbone starts from: those of the head, of the projection and of GeM."""
        projection = [] if self.projection is None else list(self.projection.parameters())
        in_backbone = [self.backbone.get_parameter(name) for name in self.fresh_in_backbone]
        return [*self.head.parameters(), *projection, *in_backbone]

    def activate(self, logits_NK: torch.Tensor) -> torch.Tensor:
        """Relaxed codes for the loss: see `HashHead.activate`. A head that was fitted has none but its logits."""
        return self.head.activate(logits_NK) if isinstance(self.head, HashHead) else logits_NK

    def use_head(self, head: ProjectionHead) -> None:
        """Take this head, which was fitted to the network's features, in place of its own."""
        self.head = head.to(next(self.backbone.parameters()).device)
        self.code_size = len(head.directions)
