"""The optimizer as one text, `adam,lr=1e-3,beta2=0.98`: its name, then settings as key=value, parted by commas.

The form in which XLM's and fairseq's kin take an optimizer. Names no torch, as the settings of a run are checked without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hashret.errors import UsageError

_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
OPTIMIZERS: dict[str, dict[str, float]] = {
    "adamw": _ADAM,
    "adam": _ADAM,
    "sgd": {"momentum": 0.9},
    "adam_inverse_sqrt": {**_ADAM, "warmup_updates": 4000, "warmup_init_lr": 1e-7},
}
"""Optimizers by name, each with the settings of its own and what they are unless said otherwise."""

OF_ALL = ("lr", "weight_decay")
"""Settings of every optimizer; flags of their own give what is not in the text."""


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer's name, its own settings, complete, and those of OF_ALL that the text gives."""

    name: str
    settings: dict[str, float]
    given: dict[str, float]

    @property
    def warmup_updates(self) -> int:
        """Updates until the highest rate is reached, where the optimizer has a rate over time of its own; 0 where it has none."""
        return int(self.settings.get("warmup_updates", 0))

    def inverse_sqrt(self, lr: float, updates: int) -> float:
        """The learning rate of `adam_inverse_sqrt` after so many updates, as a share of its highest, `lr`.

        Linear from warmup_init_lr to lr over warmup_updates, then lr · sqrt(warmup_updates / updates). Sources: Vaswani et al.,
        "Attention Is All You Need", 2017; in this form, with a rate to start from, fairseq's inverse_sqrt schedule.

        >>> spec = parse("adam_inverse_sqrt,warmup_updates=100,warmup_init_lr=0")
        >>> [spec.inverse_sqrt(1e-3, updates) for updates in (0, 50, 100, 400)]
        [0.0, 0.5, 1.0, 0.5]
        """
        if updates >= self.warmup_updates:
            return math.sqrt(self.warmup_updates / updates)
        start = self.settings["warmup_init_lr"] / lr
        return start + (1 - start) * updates / self.warmup_updates


def parse(text: str) -> OptimizerSpec:
    """What the text says; UsageError for another name, a key that the optimizer does not have, and a number that cannot be."""
    name, *parts = (part.strip() for part in text.split(","))
    if name not in OPTIMIZERS:
        raise UsageError(
            f"--optimizer is {text!r}; choose one of {', '.join(OPTIMIZERS)}, settings behind it as in adam,beta2=0.98"
        )
    known = (*OF_ALL, *OPTIMIZERS[name])
    found: dict[str, float] = {}
    for part in parts:
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in known:
            raise UsageError(
                f"--optimizer has {part!r} after {name}, expected one of {', '.join(known)}, each as in lr=1e-3"
            )
        if key in found:
            raise UsageError(f"--optimizer gives {key} twice; leave one out")
        found[key] = _number(key, value)
    given = {key: value for key, value in found.items() if key in OF_ALL}
    own = {key: value for key, value in found.items() if key not in OF_ALL}
    return OptimizerSpec(name, {**OPTIMIZERS[name], **own}, given)


def _number(key: str, text: str) -> float:
    """The number of a setting, in the range that it has."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    ranges = {
        "lr": ("above 0", 0 < value < math.inf),
        "eps": ("above 0", 0 < value < math.inf),
        "weight_decay": ("at least 0", 0 <= value < math.inf),
        "warmup_init_lr": ("at least 0", 0 <= value < math.inf),
        "warmup_updates": ("a whole number from 1", 1 <= value < math.inf and value == int(value)),
    }
    expected, fits = ranges.get(key, ("at least 0 and below 1", 0 <= value < 1))
    if not fits:
        raise UsageError(f"--optimizer has {key}={text}, expected a number: {expected}")
    return value
