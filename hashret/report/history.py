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
    _Group(
        "Loss",
        r"(val_)?loss(_max|_\d+_bits)?",
        "What training minimises. It should fall and then level off; it rises where codes join the classifier.",
    ),
    _Group(
        "Validation mAP",
        r"val_(\w+_)?map",
        "How well all pictures of a class come before the others, over all ranks. Up is good; the best epoch is the highest.",
    ),
    _Group(
        "Validation hit@1",
        r"val_(\w+_)?hit_?1",
        "How often the nearest picture is of the right class. It should rise with mAP.",
    ),
    _Group(
        "Float mAP less binary mAP",
        r"val_(\w+_)?gap",
        "What is lost by keeping bits only. Near 0 is good; if it grows, the network hides what it knows in numbers near 0.",
    ),
    _Group(
        "From activation to bit",
        r"gap",
        "How far activations are from the bits that they become: 0 is a code already, 1 says nothing. It should fall.",
    ),
    _Group(
        "Distances in a batch",
        r"within|between",
        "Mean distance of two pictures of one class, and of two classes, in bits. The farther apart the curves the better.",
    ),
    _Group("Learning rate", r"lr|learning_rate", "How large the steps are: it warms up, then falls to 0."),
    _Group(
        "Active share",
        r"active|active_\w+|idle",
        "The share of triplets that still break the margin. At 0 nothing is left to learn from; if it stays near 1, nothing is "
        "learnt. Idle is the share of updates without one.",
    ),
    _Group(
        "Imbalance of bits",
        r"(val_)?(im)?balance",
        "How far a bit's share of ones is from one half, on average. Near 0 is good; 0.5 means that bits never change.",
    ),
    _Group(
        "Dead bits", r"(val_)?dead(_bits)?", "Bits that are the same for every picture, and so tell nothing. 0 is good."
    ),
    _Group(
        "Entropy of a bit", r"(val_)?entropy(_bits)?", "How much a bit tells, on average. Near 1 is good, 0 is nothing."
    ),
    _Group(
        "Correlation of bits",
        r"(val_)?(\w+_)?correlation",
        "How much bits repeat one another, on average. Near 0 is good; 1 means that they all say the same.",
    ),
    _Group(
        "Effective bits",
        r"(val_)?effective_bits",
        "How many independent bits would tell as much. More is good; near 1 all bits say the same.",
    ),
    _Group(
        "Distinct codes",
        r"(val_)?distinct(_codes)?",
        "How many of the codes differ. It may fall while classes draw together; near 0 all pictures have one code.",
    ),
    _Group(
        "Neighbours agree",
        r"(val_)?agreement",
        "The share of a picture's nearest pictures that carry its label. It should rise.",
    ),
    _Group(
        "Gradient", r"grad(ient)?(_\w+)?", "The length of the gradient. Sudden peaks, or a fall to 0, mean trouble."
    ),
    _Group(
        "Turning of the head",
        r"turn(_max)?",
        "By how many degrees an update turns a bit's weights: up to 8, or 1 where it began as ITQ. It should come to rest.",
    ),
    _Group(
        "Suspicious labels",
        r"suspect_share",
        "The share of training pictures whose neighbours, epoch after epoch, mostly carry one other label. Near 0 is good.",
    ),
    _Group(
        "Pictures per second",
        r"(images|pictures)_?(/|per)_?s(econd)?|throughput",
        "How fast training went. It should be level.",
    ),
    _Group(
        "Waiting for pictures",
        r"(\w+_)?wait(ing|ed)?(_\w+)?",
        "How much the network waited for pictures. If it is high, give more --workers.",
    ),
    _Group("Seconds since the start", r"seconds", "A straight line means that every epoch took as long."),
)
_TITLES = {
    "loss": "mean",
    "loss_max": "largest",
    "gradient": "mean",
    "gradient_max": "largest",
    "turn": "mean",
    "turn_max": "largest",
    "val_map": "codes",
    "val_hit1": "codes",
    "val_float_map": "activations",
    "val_float_hit1": "activations",
    "within": "one class",
    "between": "two classes",
    "lr": "learning rate",
    "active": "active triplets",
    "idle": "idle updates",
}
"""What curves are called among others in their group, where that is not "training" or "validation"."""


def panels(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The groups of which the log has numbers, in a fixed order; numbers of no group that change have a panel each at the end."""
    keys = _keys(history)
    found = []
    for group in _GROUPS:
        members = [key for key in keys if _group(key) is group]
        if members:
            curves = [
                Curve(
                    key, _TITLES.get(key, "validation" if key.startswith("val_") else "training"), _values(history, key)
                )
                for key in members
            ]
            found.append(Panel(group.title, group.reading, curves))
    others = [key for key in keys if _group(key) is None and _constant(history, key) is None][:MOST_OTHER]
    return found + [
        Panel(_words(key), "Also in the log.", [Curve(key, _words(key), _values(history, key))]) for key in others
    ]


def constants(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Names and values of the numbers of no group that are the same in every epoch."""
    values = {key: _constant(history, key) for key in _keys(history) if _group(key) is None}
    return [(_words(key), value) for key, value in values.items() if value is not None]


def epochs(history: Sequence[Mapping[str, Any]]) -> list[int]:
    """The number of each line's epoch: what it says, or its place from 1."""
    return [line["epoch"] if isinstance(line.get("epoch"), int) else place for place, line in enumerate(history, 1)]


def _keys(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that hold a finite number in any line, in the order in which they come."""
    keys = dict.fromkeys(key for line in history for key in line if not math.isnan(_number(line[key])))
    return [key for key in keys if key != "epoch"]


def _group(key: str) -> _Group | None:
    return next((group for group in _GROUPS if re.fullmatch(group.pattern, key)), None)


def _values(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [_number(line.get(key)) for line in history]


def _constant(history: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The value that all lines have, None where there is more than one."""
    values = set(_values(history, key))
    return values.pop() if len(values) == 1 and not any(map(math.isnan, values)) else None


def _words(key: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in key.replace("_", " ")[:60])


def _number(value: Any) -> float:
    """The value, or NaN for what is none or cannot be drawn."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else math.nan
