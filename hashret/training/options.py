"""Everything that decides a training run, and the check that it makes sense, before anything is computed.

Names no torch, so that the command line can show choices and defaults at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from hashret.errors import TrainingError, UsageError
from hashret.training.optimizer_spec import OptimizerSpec, parse

OBJECTIVES = ("triplet", "classification", "multilabel", "cosine", "central", "dtsh", "self")
MINING_RULES = ("batch-all", "semi-hard", "hard")
HINGES = ("relu", "softplus")
THROUGH = ("features", "codes")
SCHEDULES = ("cosine", "step", "constant")
AUGMENTATIONS = ("auto", "none", "light", "standard", "strong", "shifted")
ACTIVATIONS = ("tanh", "sigmoid")
TASKS = ("auto", "closed", "unseen")
RESIZES = ("squash", "crop", "pad")
AMP = ("auto", "on", "off")
CACHES = ("auto", "on", "off")
HEAD_STARTS = ("itq", "random")
POOLINGS = ("average", "gem")
MIRRORS = ("always", "training", "never")

OF_PAIRS = ("triplet", "dtsh")
"""Objectives that compare pictures of a batch, which then holds P classes with K pictures each."""

READ_BY = {
    "classes_per_batch": OF_PAIRS,
    "pictures_per_class": OF_PAIRS,
    "batch_size": tuple(name for name in OBJECTIVES if name not in OF_PAIRS),
    "margin": ("triplet", "cosine", "dtsh"),
    "mining": ("triplet",),
    "hinge": ("triplet",),
    "sign_weight": ("triplet",),
    "proxy_weight": ("triplet",),
    "memory": ("triplet",),
    "temperature": ("self",),
    "classify": ("triplet", "cosine", "central", "dtsh"),
    "code_gradient": ("triplet", "cosine", "central", "dtsh"),
    "classify_first": ("triplet", "cosine", "central", "dtsh"),
    "head_start": OF_PAIRS,
    "through": ("classification", "multilabel"),
    "dropout": tuple(name for name in OBJECTIVES if name != "self"),
}
"""Which objectives read a setting that not all do. A setting that is changed and not read is refused."""


OF_SCHEDULE = ("schedule", "warmup", "step_epochs")
"""Settings of the learning rate over time, which an optimizer may have itself."""


@dataclass(frozen=True)
class TrainingOptions:
    """The settings of one run; `hashret train --help` explains each. Lengths in epochs, sizes in pixels or bits."""

    code_size: int = 64
    objective: str = "triplet"
    margin: float | Literal["auto"] = "auto"
    mining: str = "batch-all"
    hinge: str = "relu"
    sign_weight: float = 0.0
    proxy_weight: float = 0.0
    memory: int = 0
    temperature: float = 0.3
    through: str = "features"
    dropout: float = 0.0
    balance: float | Literal["auto"] = "auto"
    quantisation: float = 0.0
    nested: bool = False
    classify: float = 1.0
    code_gradient: float = 0.0
    classify_first: int | Literal["auto"] = "auto"
    head_start: str = "itq"
    backbone: str = "resnet18"
    weights: str = "none"
    pooling: str = "average"
    project: int = 0
    activation: str = "tanh"
    image_size: int = 224
    resize: str = "squash"
    mirror: str = "always"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    epochs: int = 30
    classes_per_batch: int | Literal["auto"] = "auto"
    pictures_per_class: int = 4
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float = 1e-3
    head_lr_factor: float = 3.0
    weight_decay: float = 1e-4
    layer_decay: float = 1.0
    schedule: str = "cosine"
    step_epochs: int = 40
    step_factor: float = 0.1
    warmup: float = 1.0
    clip: float = 0.0
    ema: float = 0.0
    freeze_norm: bool = False
    augment: str = "auto"
    task: str = "auto"
    validation: float = 0.15
    patience: int = 0
    seed: int = 0
    keep_epochs: bool = False
    amp: str = "auto"
    compile: bool = False
    device: str = "auto"
    workers: int | None = None
    cache: str = "auto"

    def __post_init__(self) -> None:
        self._take_from_optimizer()
        if not 1 <= self.code_size <= 1024:
            raise UsageError(f"code size is {self.code_size}; choose 1 to 1024 bits with --code-size")
        if self.margin != "auto" and not 0 < self.margin < math.inf:
            raise UsageError(f"margin is {self.margin}; it must be above 0 and finite, or 'auto'")
        for flag, name, allowed in (
            ("--objective", self.objective, OBJECTIVES),
            ("--mining", self.mining, MINING_RULES),
            ("--hinge", self.hinge, HINGES),
            ("--through", self.through, THROUGH),
            ("--schedule", self.schedule, SCHEDULES),
            ("--augment", self.augment, AUGMENTATIONS),
            ("--activation", self.activation, ACTIVATIONS),
            ("--task", self.task, TASKS),
            ("--resize", self.resize, RESIZES),
            ("--amp", self.amp, AMP),
            ("--cache", self.cache, CACHES),
            ("--head-start", self.head_start, HEAD_STARTS),
            ("--mirror", self.mirror, MIRRORS),
            ("--pooling", self.pooling, POOLINGS),
        ):
            if name not in allowed:
                raise UsageError(f"{flag} is {name!r}; choose one of {', '.join(allowed)}")
        for flag, value, least in (
            ("--epochs", self.epochs, 1),
            ("--classes-per-batch", 2 if self.classes_per_batch == "auto" else self.classes_per_batch, 2),
            ("--pictures-per-class", self.pictures_per_class, 2),
            ("--batch-size", self.batch_size, 2),
            ("--image-size", self.image_size, 16),
            ("--patience", self.patience, 0),
            ("--project", self.project, 0),
            ("--weight-decay", self.weight_decay, 0),
            ("--warmup", self.warmup, 0),
            ("--step-epochs", self.step_epochs, 1),
            ("--clip", self.clip, 0),
            ("--seed", self.seed, 0),
            ("--sign-weight", self.sign_weight, 0),
            ("--proxy-weight", self.proxy_weight, 0),
            ("--memory", self.memory, 0),
            ("--balance", 0 if self.balance == "auto" else self.balance, 0),
            ("--quantisation", self.quantisation, 0),
            ("--classify", self.classify, 0),
            ("--classify-first", self.codes_from, 0),
        ):
            if not least <= value < math.inf:
                raise UsageError(f"{flag} is {value}; it must be at least {least}")
        if self.seed >= 1 << 64:
            raise UsageError(f"--seed is {self.seed}; it must be below 2^64, as torch takes no larger one")
        for flag, factor in (
            ("--lr", self.lr),
            ("--head-lr-factor", self.head_lr_factor),
            ("--temperature", self.temperature),
        ):
            if not 0 < factor < math.inf:
                raise UsageError(f"{flag} is {factor}; it must be above 0 and finite")
        if not 0 < self.step_factor <= 1:
            raise UsageError(f"--step-factor is {self.step_factor}; it must be above 0 and at most 1")
        if self.step_factor != 0.1 and self.schedule != "step":
            raise UsageError(
                f"--step-factor is {self.step_factor}, but --schedule {self.schedule} does not read it (step would); leave it out"
            )
        if not 0 <= self.code_gradient <= 1:
            raise UsageError(f"--code-gradient is {self.code_gradient}; it is a share, from 0 to 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout is {self.dropout}; it is a share, at least 0 and below 1")
        if not 0 < self.layer_decay <= 1:
            raise UsageError(f"--layer-decay is {self.layer_decay}; it must be above 0 and at most 1")
        if not 0 <= self.ema < 1:
            raise UsageError(f"--ema is {self.ema}; it must be at least 0 and below 1")
        if not 0.0 < self.validation < 1.0:
            raise UsageError(f"--validation is {self.validation}; it is a share, above 0 and below 1")
        self._check_that_all_is_read()

    def _take_from_optimizer(self) -> None:
        """Have `lr` and `weight_decay` be what the text of --optimizer says; UsageError where a flag says otherwise."""
        spec = self.optimizer_spec
        # What is the text's already was taken from it before: settings that were stored, or that replace() hands on.
        said = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        check_said_once({name for name in said if getattr(self, name) != spec.given.get(name)}, spec)
        for name, value in spec.given.items():
            object.__setattr__(self, name, value)

    def _check_that_all_is_read(self) -> None:
        """UsageError for a setting of the loss that was changed and that the objective does not read."""
        default = {field.name: field.default for field in fields(self)}
        changed = {name for name, value in default.items() if getattr(self, name) != value}
        for name, readers in READ_BY.items():
            if name in changed and self.objective not in readers:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, but --objective {self.objective} does not read it "
                    f"({', '.join(readers)} would); leave it out"
                )
        about_codes = sorted(changed & {"balance", "quantisation", "nested"})
        if about_codes and not self.trains_codes:
            raise UsageError(
                f"--{about_codes[0]} is about codes, which --objective {self.objective} does not train through features; "
                "add --through codes, or leave it out"
            )
        if self.dropout and self.objective in READ_BY["classify"] and not (self.classify or self.codes_from):
            raise UsageError(
                f"--dropout is {self.dropout}, but without --classify there is no classifier; leave it out"
            )
        if not self.classify and not self.code_gradient and self.trains_codes and self.objective in READ_BY["classify"]:
            raise UsageError(
                "--classify is 0 and --code-gradient 0, so nothing would train the backbone; raise one of the two"
            )
        if self.codes_from and self.codes_from >= self.epochs:
            raise UsageError(
                f"--classify-first is {self.codes_from} of {self.epochs} epochs, which leaves none for "
                f"--objective {self.objective}; lower it, or raise --epochs"
            )
        if self.nested and self.code_size <= 16:
            raise UsageError(f"--nested needs a code of more than 16 bits, and --code-size is {self.code_size}")

    @property
    def optimizer_spec(self) -> OptimizerSpec:
        """The optimizer with its settings."""
        return parse(self.optimizer)

    @property
    def learns_from(self) -> str:
        """What the objective needs to know of a picture: its class ("classes"), its "labels", or nothing ("pictures")."""
        return learns_from(self.objective)

    @property
    def trains_codes(self) -> bool:
        """Whether the hash head is trained: an objective through features leaves it as it began."""
        return self.objective not in READ_BY["through"] or self.through == "codes"

    @property
    def codes_from(self) -> int:
        """The epochs, from the first on, in which classes are told apart and codes not yet learned: see `--classify-first`."""
        if self.classify_first != "auto":
            return self.classify_first
        alone = self.objective in READ_BY["classify_first"] and self.classify > 0 and self.code_gradient == 0
        return self.epochs // 2 if alone else 0

    @property
    def share_of_codes(self) -> float:
        """The share of the codes' gradient that reaches the backbone: all of it where no classifier could shape features."""
        return self.code_gradient if self.objective in READ_BY["code_gradient"] else 1.0

    @property
    def starts_from_itq(self) -> bool:
        """Whether the head, when codes begin to be learned, starts from ITQ of the features: else it stays random."""
        return self.head_start == "itq" and self.objective in OF_PAIRS

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


def check_said_once(asked_for: Collection[str], spec: OptimizerSpec) -> None:
    """UsageError for a setting that is asked for by name and that --optimizer decides, too."""
    taken = [*spec.given, *(OF_SCHEDULE if spec.warmup_updates else ())]
    both = [name for name in taken if name in asked_for]
    if not both:
        return
    why = (
        f"its text has {both[0]}={spec.given[both[0]]:g}"
        if both[0] in spec.given
        else f"{spec.name} warms up and slows down by itself (warmup_updates, warmup_init_lr)"
    )
    raise UsageError(
        f"--{both[0].replace('_', '-')} is given, and --optimizer decides it: {why}; leave one of them out"
    )


def learns_from(objective: str) -> str:
    """What an objective needs to know of a picture: its class ("classes"), its "labels", or nothing ("pictures")."""
    return {"multilabel": "labels", "self": "pictures"}.get(objective, "classes")
