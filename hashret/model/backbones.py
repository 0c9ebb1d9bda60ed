"""Backbones: torchvision's classification networks, cut off before their last layer.

Every network of `torchvision.models` ends in one layer that turns features into class scores: a Linear, or a 1x1
convolution in SqueezeNet. That layer becomes an identity, and so does the dropout directly before it; everything else
stays as torchvision built it, under torchvision's names, so that its weight files fit. What comes out is (N, feature_size):
the pooled features.

The small-picture stem, for pictures of 64 px and under: most networks halve the picture twice before their first block,
which leaves 8x8 of a 32-px picture. `stem="small"` undoes that:

| family | change |
| --- | --- |
| ResNet, ResNeXt, Wide ResNet, DenseNet | the 7x7 convolution of stride 2 becomes 3x3 of stride 1 (new weights), no max-pooling |
| ShuffleNet V2 | the first convolution has stride 1, no max-pooling |
| MobileNet V2/V3, EfficientNet, MNASNet, RegNet | the first convolution has stride 1 |
| AlexNet, ConvNeXt, GoogLeNet, Inception, MaxViT, SqueezeNet, Swin, VGG, ViT | as it is |

`pooling="gem"` puts the generalised mean in the place of the average over the last feature map, where a layer of its own
computes that: ResNet and its kin, RegNet, MobileNet V3, EfficientNet, ConvNeXt, Swin, GoogLeNet, Inception, MaxViT, SqueezeNet.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hashret.errors import UsageError
from hashret.model.pooling import POOLINGS, GeM, last_pooling

SMALL_PICTURE_PX = 64
STEMS = ("standard", "small")

_SEVEN_BY_SEVEN = ("resnet", "resnext", "wide_resnet", "densenet")
_POOL_AFTER_STEM = ("shufflenet",)
_STRIDE_ONLY = ("mobilenet", "efficientnet", "mnasnet", "regnet")


@dataclass(frozen=True)
class Backbone:
    """A network from (N, 3, H, W) to (N, feature_size), and the name of the layer that was cut off.

    `fresh`: names of parameters that torchvision's network has not, so that no weights file needs to hold them.
    """

    module: nn.Module
    feature_size: int
    classifier: str
    fresh: Sequence[str] = ()


def backbone_names() -> list[str]:
    """The names that `make_backbone` takes: torchvision's classification models, sorted."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return sorted(names)


def has_small_stem(name: str) -> bool:
    """Whether the family of backbone `name` has a small-picture stem."""
    return name.startswith((*_SEVEN_BY_SEVEN, *_POOL_AFTER_STEM, *_STRIDE_ONLY))


def make_backbone(
    name: str, image_size: int = 224, stem: str = "standard", pooling: str = "average", *, initialise: bool = True
) -> Backbone:
    """The backbone called `name`, with random weights from torch's generator, in train mode.

    `image_size` (pixels) matters to networks built for one size (ViT, MaxViT). `stem` is "standard" or "small" (see the
    table above), `pooling` "average" (whatever torchvision has there) or "gem". `initialise=False` allows cheaper starting
    values where weights will be loaded anyway. UsageError for an unknown name, a size the network cannot have, and GeM where
    no layer averages the last feature map.
    """
    from torchvision import models

    known = backbone_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "for example resnet18, mobilenet_v2 or convnext_tiny"
        raise UsageError(
            f"there is no backbone {name!r} among torchvision's {len(known)} classification models; {hint}"
        )
    if stem not in STEMS:
        raise UsageError(f"stem is {stem!r}; it can be {' or '.join(STEMS)}")
    if pooling not in POOLINGS:
        raise UsageError(f"pooling is {pooling!r}; it can be {' or '.join(POOLINGS)}")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # The auxiliary classifiers only serve training on class labels.
        options = {"aux_logits": False, "init_weights": initialise}
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    elif name.startswith("maxvit"):
        options = {"input_size": (image_size, image_size)}
    try:
        module: nn.Module = models.get_model(name, weights=None, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UsageError(f"{name} cannot be built for pictures of {image_size} px ({reason}); try 224") from error
    if stem == "small":
        _shrink_stem(name, module)
    classifier, feature_size = _cut_classifier(module)
    if pooling == "average":
        return Backbone(module, feature_size, classifier)
    place = last_pooling(module)
    if place is None:
        raise UsageError(
            f"{name} has no layer that averages its last feature map, which GeM could take the place of; take a backbone that "
            "has (resnet50, regnet_y_400mf, efficientnet_b0 ...), or leave --pooling gem out"
        )
    _replace(module, place, GeM())
    return Backbone(module, feature_size, classifier, [f"{place}.p"])


def check_image_size(name: str, module: nn.Module, feature_size: int, image_size: int) -> None:
    """Nothing, if one black picture of `image_size` px passes through the backbone; UsageError otherwise."""
    was_training = module.training
    module.eval()
    device = next(module.parameters()).device
    try:
        with torch.inference_mode():
            shape = tuple(module(torch.zeros(1, 3, image_size, image_size, device=device)).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UsageError(
            f"{name} cannot take pictures of {image_size} px ({reason}); try a larger size or 224"
        ) from error
    finally:
        module.train(was_training)
    if shape != (1, feature_size):
        raise UsageError(f"{name} gives features of shape {shape}, not (1, {feature_size}); take another backbone")


def _cut_classifier(module: nn.Module) -> tuple[str, int]:
    """The name and the input width of the last layer, which is an identity afterwards, like the dropout before it."""
    named = list(module.named_modules())
    position = max(i for i, (_, layer) in enumerate(named) if isinstance(layer, nn.Linear | nn.Conv2d))
    name, layer = named[position]
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    _replace(module, name, nn.Identity())
    while position > 0 and isinstance(named[position - 1][1], nn.Dropout):
        position -= 1
        _replace(module, named[position][0], nn.Identity())
    return name, int(width)


def _replace(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Puts `layer` where `path` points (torch 2.5 has set_submodule; 2.4 has not)."""
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)


def _first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d))


def _shrink_stem(name: str, module: nn.Module) -> None:
    if not has_small_stem(name):
        return
    place, first = _first_convolution(module)
    if name.startswith(_SEVEN_BY_SEVEN):
        small = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None)
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        _replace(module, place, small)
    else:
        first.stride = (1, 1)
    if name.startswith((*_SEVEN_BY_SEVEN, *_POOL_AFTER_STEM)):
        pool = next(path for path, layer in module.named_modules() if isinstance(layer, nn.MaxPool2d))
        _replace(module, pool, nn.Identity())
