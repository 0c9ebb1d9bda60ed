"""How good the codes of the held-out pictures are: each picture queries all the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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


def validate(
    hasher: Hasher,
    loader: PictureLoader,
    labels: NDArray[np.int64] | NDArray[np.bool_],
    *,
    views: int = 1,
    seed: int | None = None,
) -> Validation:
    """Scores of the codes that `hasher` gives the loader's pictures, each asking for the others of its class.

    labels: class numbers (N,), or which labels each has (N, C): then pictures that share one belong together. views: each
    picture comes so many times, changed at random from `seed`; its views are then what it asks for.
    """
    rows = np.repeat(np.arange(len(labels)), views)
    labels_N = np.repeat(labels, views, axis=0)
    logits_NK = np.concatenate(
        [
            hasher.run_batch(pixels)[0].cpu().numpy()
            for _, pixels in loader.batches(row_batches(rows, _BATCH), seed=seed)
        ]
    )
    codes_NB = codes.binarize(logits_NK, hasher.thresholds)
    statistics = codes.statistics(codes_NB, hasher.code_size)
    step = max(1, _PAIRS_AT_ONCE // len(rows))
    everyone = np.arange(len(rows))
    scores = RetrievalScores.merge(
        retrieval_scores(
            hamming.distances(codes_NB[start : start + step], codes_NB, hasher.code_size),
            _together(labels_N[start : start + step], labels_N),
            everyone[start : start + step, None] != everyone[None, :],
            ks=(1,),
        )
        for start in range(0, len(rows), step)
    )
    return Validation(scores["map@all"].expected, scores.top1, statistics.mean_imbalance, statistics.dead_bits)


def _together(some: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether pictures belong together (some, all): by class number, or by a label that both have."""
    together: NDArray[np.bool_] = some[:, None] == labels[None, :] if labels.ndim == 1 else some @ labels.T
    return together
