"""Dropout whose masks depend on the seed and on how often it was used, and on nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """In training, each number is 0 with probability `share`, else divided by 1 - share, so that means stay.

    The use is counted in the module's state: a run that goes on draws the masks that it would have drawn, on any device, and
    several processes that train as one draw the same. Source: Srivastava et al., "Dropout", 2014.
    """

    uses: Tensor

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self.share, self.seed = share, seed
        self.register_buffer("uses", torch.zeros((), dtype=torch.int64))

    def forward(self, numbers: Tensor) -> Tensor:
        """The numbers, some of them 0; as they are outside training."""
        if not self.training:
            return numbers
        rng = np.random.default_rng([self.seed, int(self.uses)])
        self.uses += 1
        kept = torch.from_numpy(rng.random(tuple(numbers.shape), dtype=np.float32) >= self.share)
        return numbers * kept.to(numbers.device) / (1 - self.share)


def dropout(share: float, seed: int) -> nn.Module:
    """A Dropout of this share, or what leaves all as it is."""
    return Dropout(share, seed) if share else nn.Identity()
