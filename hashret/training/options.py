"""Everything that decides a training run, and the check that it makes sense, before anything is computed.

Names no torch, so that the command line can show choices and defaults at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from hashret.errors import TrainingError, UsageError

MINING_RULES = ("batch-all", "semi-hard")
OPTIMIZERS = ("adamw", "adam", "sgd")
AUGMENTATIONS = ("auto", "none", "light", "standard", "strong", "shifted")
ACTIVATIONS = ("tanh", "sigmoid")
TASKS = ("auto", "closed", "unseen")
RESIZES = ("squash", "crop", "pad")
AMP = ("auto", "on", "off")
CACHES = ("auto", "on", "off")


@dataclass(frozen=True)
class TrainingOptions:
    """The settings of one run; `hashret train --help` explains each. Lengths in epochs, sizes in pixels or bits."""

    code_size: int = 64
    margin: float | Literal["auto"] = "auto"
    mining: str = "batch-all"
    backbone: str = "resnet18"
    weights: str = "none"
    activation: str = "tanh"
    image_size: int = 224
    resize: str = "squash"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    epochs: int = 30
    classes_per_batch: int | Literal["auto"] = "auto"
    pictures_per_class: int = 8
    optimizer: str = "adamw"
    lr: float = 1e-3
    head_lr_factor: float = 3.0
    weight_decay: float = 1e-4
    warmup: float = 1.0
    augment: str = "auto"
    task: str = "auto"
    validation: float = 0.15
    patience: int = 0
    seed: int = 0
    keep_epochs: bool = False
    amp: str = "auto"
    device: str = "auto"
    workers: int | None = None
    cache: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.code_size <= 1024:
            raise UsageError(f"code size is {self.code_size}; choose 1 to 1024 bits with --code-size")
        if self.margin != "auto" and not 0 < self.margin < math.inf:
            raise UsageError(f"margin is {self.margin}; it must be above 0 and finite, or 'auto'")
        for flag, name, allowed in (
            ("--mining", self.mining, MINING_RULES),
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--augment", self.augment, AUGMENTATIONS),
            ("--activation", self.activation, ACTIVATIONS),
            ("--task", self.task, TASKS),
            ("--resize", self.resize, RESIZES),
            ("--amp", self.amp, AMP),
            ("--cache", self.cache, CACHES),
        ):
            if name not in allowed:
                raise UsageError(f"{flag} is {name!r}; choose one of {', '.join(allowed)}")
        for flag, value, least in (
            ("--epochs", self.epochs, 1),
            ("--classes-per-batch", 2 if self.classes_per_batch == "auto" else self.classes_per_batch, 2),
            ("--pictures-per-class", self.pictures_per_class, 2),
            ("--image-size", self.image_size, 16),
            ("--patience", self.patience, 0),
            ("--weight-decay", self.weight_decay, 0),
            ("--warmup", self.warmup, 0),
            ("--seed", self.seed, 0),
        ):
            if not least <= value < math.inf:
                raise UsageError(f"{flag} is {value}; it must be at least {least}")
        if self.seed >= 1 << 64:
            raise UsageError(f"--seed is {self.seed}; it must be below 2^64, as torch takes no larger one")
        for flag, factor in (("--lr", self.lr), ("--head-lr-factor", self.head_lr_factor)):
            if not 0 < factor < math.inf:
                raise UsageError(f"{flag} is {factor}; it must be above 0 and finite")
        if not 0.0 < self.validation < 1.0:
            raise UsageError(f"--validation is {self.validation}; it is a share, above 0 and below 1")

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> TrainingOptions:
        """The inverse of `as_dict`; TrainingError for settings that this version does not know."""
        unknown = set(stored) - {field.name for field in fields(cls)}
        if unknown:
            raise TrainingError(
                f"the run was made with settings this version does not know: {', '.join(sorted(unknown))}"
            )
        # JSON knows lists only.
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        return cls(**values)
