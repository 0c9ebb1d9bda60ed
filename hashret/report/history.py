"""The log of a run as groups of curves: what is known by name has its place, and what is not comes last."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_OTHER = 12
"""Numbers that no group knows which are drawn at most."""


@dataclass(frozen=True)
class Curve:
    """A number of the log over the epochs; NaN where an epoch has none."""

    key: str
    title: str
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis, and one sentence on how to read them."""

    title: str
    reading: str
    curves: list[Curve]


@dataclass(frozen=True)
class _Group:
    title: str
    pattern: str
    """Of the keys that belong here, whole."""
    reading: str


_GROUPS = (
    _Group("Loss", r"(val_)?loss", "What training minimises. It should fall and then level off."),
    _Group(
        "Validation mAP",
        r"(?=.*val)\w*map\w*",
        "How well all pictures of a class come before the others, over all ranks. Up is good; the best epoch is the highest.",
    ),
    _Group(
        "Validation hit@1",
        r"(?=.*val)\w*hit_?1\w*",
        "How often the nearest picture is of the right class. It should rise with mAP.",
    ),
    _Group(
        "Float less binary",
        r"\w*gap\w*",
        "What is lost by keeping bits only. Near 0 is good; if it grows, the network hides what it knows in numbers near 0.",
    ),
    _Group("Learning rate", r"lr|learning_rate", "How large the steps are: it warms up, then falls to 0."),
    _Group(
        "Active share",
        r"\w*active\w*",
        "The share of triplets that still break the margin. At 0 there is nothing left to learn from; near 1, nothing is learnt.",
    ),
    _Group(
        "Imbalance of bits",
        r"\w*(imbalance|balance)\w*",
        "How far a bit's share of ones is from one half, on average. Below 0.1 is good; 0.5 means that bits never change.",
    ),
    _Group("Dead bits", r"\w*dead\w*", "Bits that are the same for every picture, and so tell nothing. 0 is good."),
    _Group(
        "Correlation of bits",
        r"\w*correlat\w*",
        "How much bits repeat one another, on average. Near 0 is good; 1 means that they all say the same.",
    ),
    _Group(
        "Distinct codes",
        r"\w*distinct\w*",
        "How many different codes the pictures get. Falling towards the number of classes is normal; towards 1 is a collapse.",
    ),
    _Group("Gradient", r"\w*grad\w*", "The length of the gradient. Sudden peaks or a fall to 0 mean trouble."),
    _Group(
        "Pictures per second",
        r"\w*(images|pictures)_?(/|per)_?s\w*|\w*throughput\w*",
        "How fast training went. It should be level.",
    ),
    _Group(
        "Waiting for pictures",
        r"\w*wait\w*",
        "The share of the time, or the time, in which the network waited for pictures. If it is high, add --workers.",
    ),
    _Group("Seconds since the start", r"seconds", "A straight line means that every epoch took as long."),
)
_TITLES = {
    "loss": "training loss",
    "lr": "learning rate",
    "active": "active triplets",
    "imbalance": "training batches",
    "val_imbalance": "validation",
    "val_map": "codes",
    "val_hit1": "codes",
    "val_dead_bits": "validation",
    "seconds": "seconds",
}


def panels(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The groups of which the log has numbers, in a fixed order; numbers of no group have a panel each at the end."""
    keys = [key for key in dict.fromkeys(key for line in history for key in line) if key != "epoch"]
    keys = [key for key in keys if any(_is_number(line.get(key)) for line in history)]
    curves = {}
    for key in keys:
        title = _TITLES.get(key, key.replace("_", " "))
        curves[key] = Curve(key, title, [_number(line.get(key)) for line in history])
    drawn = []
    for group in _GROUPS:
        members = [key for key in curves if re.fullmatch(group.pattern, key)]
        if members:
            drawn.append(Panel(group.title, group.reading, [curves.pop(key) for key in members]))
    others = list(curves.values())[:MOST_OTHER]
    return drawn + [Panel(curve.title, "Also in the log.", [curve]) for curve in others]


def epochs(history: Sequence[Mapping[str, Any]]) -> list[int]:
    """The number of each line's epoch: what it says, or its place from 1."""
    return [line["epoch"] if isinstance(line.get("epoch"), int) else place for place, line in enumerate(history, 1)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """The value, or NaN for what is none or cannot be drawn."""
    return float(value) if _is_number(value) and math.isfinite(value) else math.nan
