"""Pooling: a feature map to one vector, by the average or by the generalised mean (GeM).

Source of GeM: Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

POOLINGS = ("average", "gem")


class GeM(nn.Module):
    """The generalised mean of each channel: (N, C, H, W) to (N, C, 1, 1), as adaptive average pooling to 1x1 gives it.

    (mean of x^p over the H x W places)^(1/p), with one learned exponent `p` that starts at 3. p = 1 is the average, and the
    larger p is, the nearer the greatest value. What is below `eps` counts as eps: the source pools what a ReLU leaves, where
    nothing is negative. A p below 1 counts as 1: an update can go too far, and at 0 there is no mean.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, map_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, C, 1, 1) of the map's dtype; computed in float32."""
        values = map_NCHW.float().clamp(min=self.eps)
        p = self.p.clamp(min=1.0)
        # Relative to the greatest of each channel, which changes no value and no gradient: no power overflows then.
        greatest = values.amax(dim=(2, 3), keepdim=True).detach()
        mean = (values / greatest).pow(p).mean(dim=(2, 3), keepdim=True)
        return (greatest * mean.pow(1 / p)).to(map_NCHW.dtype)


def last_pooling(module: nn.Module) -> str | None:
    """The name of the layer of a backbone that pools its last feature map to one vector by the average, None without one.

    Some backbones pool in their forward function (MobileNet V2, DenseNet, ShuffleNet, MNASNet), some keep several places (VGG,
    AlexNet), and ViT has no map.
    """
    found = None
    for name, layer in module.named_modules():
        if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
            parent = module.get_submodule(name.rpartition(".")[0])
            found = found if isinstance(parent, SqueezeExcitation) else name
    return found
