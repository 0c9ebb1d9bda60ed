"""What goes wrong in a run, and what to change: a run's history in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hashret.training.options import TrainingOptions


class Finding(NamedTuple):
    """A recognised cause, as one word, and the sentence that names it and says what to change."""

    cause: str
    sentence: str


def diagnose(history: Sequence[Mapping[str, Any]], options: TrainingOptions) -> list[Finding]:
    """What the lines of a run's log show to be wrong, the worst first; nothing while all is well."""
    del history, options
    return []
