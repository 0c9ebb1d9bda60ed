"""How good the codes of the held-out pictures are: each picture queries all the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hashret import codes, hamming
from hashret.data.loading import PictureLoader, row_batches
from hashret.metrics import RetrievalScores, retrieval_scores
from hashret.model.hasher import Hasher

_BATCH = 128
_PAIRS_AT_ONCE = 1 << 22


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


def validate(hasher: Hasher, loader: PictureLoader, labels_N: NDArray[np.int64]) -> Validation:
    """Scores of the codes that `hasher` gives the loader's pictures, whose class numbers are `labels_N`."""
    batches = loader.batches(row_batches(len(labels_N), _BATCH))
    logits_NK = np.concatenate([hasher.run_batch(pixels)[0].cpu().numpy() for _, pixels in batches])
    codes_NB = codes.binarize(logits_NK, hasher.thresholds)
    statistics = codes.statistics(codes_NB, hasher.code_size)
    step = max(1, _PAIRS_AT_ONCE // len(labels_N))
    everyone = np.arange(len(labels_N))
    scores = RetrievalScores.merge(
        retrieval_scores(
            hamming.distances(codes_NB[start : start + step], codes_NB, hasher.code_size),
            labels_N[start : start + step, None] == labels_N[None, :],
            everyone[start : start + step, None] != everyone[None, :],
            ks=(1,),
        )
        for start in range(0, len(labels_N), step)
    )
    return Validation(scores["map@all"].expected, scores.top1, statistics.mean_imbalance, statistics.dead_bits)
