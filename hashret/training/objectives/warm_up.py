"""Warm-up by classification: the backbone first learns what the classes look like, then what the codes need."""

from __future__ import annotations

from torch import Tensor

from hashret.training.objectives.base import Objective, Outputs, Scored


class WarmedUp(Objective):
    """`first` for the first `share` of all updates, `main` for the rest.

    Random codes pull a pretrained backbone in random directions; a classifier on the pooled features does not.
    """

    def __init__(self, first: Objective, main: Objective, *, share: float) -> None:
        super().__init__()
        self.first, self.main, self.share = first, main, share
        self.margin, self.margin_bits = main.margin, main.margin_bits
        self.several_labels = main.several_labels

    def describe(self) -> str:
        """When the two change over, and what `main` is."""
        return (
            f"classification alone for the first {100 * self.share:.3g} % of all updates; then {self.main.describe()}"
        )

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss and the scalars of the one whose turn it is; the other's parameters are left alone."""
        if progress < self.share:
            return self.first(outputs, labels_D, progress)  # type: ignore[no-any-return]
        return self.main(outputs, labels_D, (progress - self.share) / (1 - self.share))  # type: ignore[no-any-return]
