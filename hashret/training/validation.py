"""How good the codes of the held-out pictures are: each picture queries all the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from hashret import codes, hamming, metrics
from hashret.data.loading import PictureLoader
from hashret.data.table import PictureTable
from hashret.model.hasher import Hasher

_BATCH = 128


@dataclass(frozen=True)
class Validation:
    """mAP over all ranks and hit@1, expected over tie orders; mean |share of ones - 0.5| and constant bits of the codes."""

    map: float
    hit1: float
    imbalance: float
    dead_bits: int

    def as_dict(self) -> dict[str, float]:
        """The scores as JSON values."""
        return asdict(self)
