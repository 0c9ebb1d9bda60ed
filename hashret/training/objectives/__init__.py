"""What training minimises: one objective a file, all of one shape (base.py)."""

from __future__ import annotations

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.triplet import Triplet
from hashret.training.options import TrainingOptions

__all__ = ["Objective", "Outputs", "Scored", "build_objective"]


def build_objective(options: TrainingOptions, margin: float) -> Objective:
    """The objective that the settings ask for."""
    return Triplet(margin=margin, mining=options.mining)
