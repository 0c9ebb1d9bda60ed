"""How good the codes of the validation pictures are, as a retrieval among themselves.

Shapes: N pictures, K bits, B bytes, Q queries of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret import codes, hamming
from hashret.data.loading import PictureLoader, row_batches
from hashret.errors import TrainingError
from hashret.metrics import RetrievalScores, retrieval_scores
from hashret.model.hasher import Hasher

_BATCH = 128
_PAIRS_AT_ONCE = 1 << 22
LEVELS = 1023
"""Steps into which float distances are rounded, so that they are counted as Hamming distances are, and not sorted."""


@dataclass(frozen=True)
class Validation:
    """mAP over all ranks and hit@1, both expected over tie orders, of the codes and of floats beside them; the codes.

    The floats are what training compares: the activations, or the features where codes are not trained.
    """

    map: float
    hit1: float
    float_map: float
    float_hit1: float
    classes: int
    codes: codes.CodeStatistics

    def as_dict(self) -> dict[str, float]:
        """The numbers by name, JSON-ready. score_gap is what binary codes lose: float_map - map."""
        return {
            "map": self.map,
            "hit1": self.hit1,
            "float_map": self.float_map,
            "float_hit1": self.float_hit1,
            "score_gap": self.float_map - self.map,
            "imbalance": self.codes.mean_imbalance,
            "dead_bits": self.codes.dead_bits,
            "entropy": self.codes.entropy_bits,
            "correlation": self.codes.mean_correlation,
            "effective_bits": self.codes.effective_bits,
            "distinct": self.codes.distinct_codes / self.codes.n,
            "classes": self.classes,
        }


def validate(
    hasher: Hasher,
    loader: PictureLoader,
    labels: NDArray[np.int64] | NDArray[np.bool_],
    *,
    views: int = 1,
    seed: int | None = None,
    by_features: bool = False,
) -> Validation:
    """Scores of what `hasher` gives the loader's pictures, each asking for the others of its class.

    labels: class numbers (N,), or which labels each has (N, C): then pictures that share one belong together. views: each
    picture comes so many times, changed at random from `seed`; its views are then what it asks for. by_features: the float scores
    are those of the features, not of the activations. TrainingError when the network's outputs are no finite numbers.
    """
    rows = np.repeat(np.arange(len(labels)), views)
    logits_NK, floats = [], []
    for _, pixels in loader.batches(row_batches(rows, _BATCH), seed=seed):
        logits, features = hasher.run_batch(pixels)
        logits_NK.append(logits.cpu().numpy())
        floats.append((features if by_features else hasher.network.activate(logits)).cpu().numpy())
    return scores(
        np.concatenate(logits_NK),
        np.concatenate(floats),
        np.repeat(labels, views, axis=0),
        thresholds_K=hasher.thresholds,
    )


def scores(
    logits_NK: NDArray[np.float32],
    activations_NK: NDArray[np.float32],
    labels: NDArray[Any],
    *,
    thresholds_K: NDArray[np.float32] | None = None,
) -> Validation:
    """Scores of pictures by what the network gives them: each asks for the others, by code and by activations.

    labels: class numbers (N,) or flags (N, C), as in `validate`.
    """
    if not np.isfinite(logits_NK).all():
        raise TrainingError(
            "the network gives validation pictures NaN or infinity, though its loss is finite: its weights have grown out of "
            "range; lower --lr, then train anew"
        )
    code_size = logits_NK.shape[1]
    codes_NB = codes.binarize(logits_NK, thresholds_K)
    squares_N = (activations_NK * activations_NK).sum(axis=1)
    level = 4.0 * max(float(squares_N.max()), float(np.finfo(np.float32).tiny)) / LEVELS

    def float_distances(chunk: slice) -> NDArray[np.int16]:
        """Squared Euclidean, in steps of the largest there could be: 1023 steps."""
        products = activations_NK[chunk] @ activations_NK.T
        apart = squares_N[chunk, None] + squares_N[None, :] - 2.0 * products
        levels: NDArray[np.int16] = np.rint(apart.clip(0.0) / level).astype(np.int16)
        return levels

    binary = _score(lambda chunk: hamming.distances(codes_NB[chunk], codes_NB, code_size), labels)
    floats = _score(float_distances, labels)
    return Validation(
        map=binary["map@all"].expected,
        hit1=binary.top1,
        float_map=floats["map@all"].expected,
        float_hit1=floats.top1,
        classes=len(np.unique(labels)) if labels.ndim == 1 else labels.shape[1],
        codes=codes.statistics(codes_NB, code_size),
    )


def _score(distances: Callable[[slice], NDArray[np.integer]], labels: NDArray[Any]) -> RetrievalScores:
    """hit@1 and mAP of all, in chunks of bounded memory; `distances` gives those of some pictures to all."""
    n = len(labels)
    step = max(1, _PAIRS_AT_ONCE // n)
    everyone = np.arange(n)
    return RetrievalScores.merge(
        retrieval_scores(
            distances(slice(start, start + step)),
            _together(labels[start : start + step], labels),
            everyone[start : start + step, None] != everyone[None, :],
            ks=(1,),
        )
        for start in range(0, n, step)
    )


def _together(some: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether pictures belong together (some, all): by class number, or by a label that both have."""
    together: NDArray[np.bool_] = some[:, None] == labels[None, :] if labels.ndim == 1 else some @ labels.T
    return together
