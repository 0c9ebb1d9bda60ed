"""Nested codes: the first 16, 32, 64, … bits of a code are a code by themselves.

Shapes: D pictures of a batch, K bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hashret.training.objectives.base import Objective, Outputs, Scored


def prefixes(code_size: int) -> list[int]:
    """The lengths in bits that are trained: 16 and its doubles below the code size, and the code size."""
    lengths = [16 << i for i in range(code_size.bit_length()) if 16 << i < code_size]
    return [*lengths, code_size]


class Nested(Objective):
    """The mean of one objective on each prefix of the code, each with the margin for its length.

    `build` makes the objective for a number of bits. Class codes of a prefix must be prefixes of class codes
    (`class_codes.nested_class_codes`), or the lengths would contradict each other. Source: Kusupati et al., "Matryoshka
    Representation Learning", 2022.
    """

    def __init__(self, code_size: int, build: Callable[[int], Objective]) -> None:
        super().__init__()
        self.lengths = prefixes(code_size)
        self.objectives = nn.ModuleList(build(length) for length in self.lengths)
        self.margin, self.margin_bits = self.whole.margin, self.whole.margin_bits
        self.several_labels = self.whole.several_labels

    @property
    def whole(self) -> Objective:
        """The objective of the whole code."""
        whole = self.objectives[-1]
        assert isinstance(whole, Objective)
        return whole

    def describe(self) -> str:
        """The objective of the whole code, and the prefixes."""
        return f"{self.whole.describe()}; nested in {', '.join(map(str, self.lengths))} bits"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss; scalars of the whole code by their own names, those of a prefix of 16 bits as `name_16_bits`."""
        losses: list[Tensor] = []
        scalars: dict[str, Tensor] = {}
        for length, objective in zip(self.lengths, self.objectives, strict=True):
            prefix = Outputs(outputs.logits_DK[:, :length], outputs.activations_DK[:, :length], outputs.features_DF)
            scored = objective(prefix, labels_D, progress)
            losses.append(scored.loss)
            of_prefix = "" if length == self.lengths[-1] else f"_{length}_bits"
            scalars |= {f"{name}{of_prefix}": value for name, value in scored.scalars.items()}
            scalars[f"loss_{length}_bits"] = scored.loss.detach()
        return Scored(torch.stack(losses).mean(), scalars)
