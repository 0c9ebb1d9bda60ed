"""Scores over ranks, as curves.

Shape suffixes: K ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret.data.table import PictureTable
from hashret.evaluation.compare import Representation, compare
from hashret.evaluation.gallery import GalleryRule

HIT_RANKS = 100
"""Up to which rank hits are drawn."""


@dataclass(frozen=True)
class RankCurves:
    """hit@k, recall@k and precision@k (K,) at some ranks k, ascending: means over queries, expected over the orders of ties."""

    ranks_K: NDArray[np.int64]
    hit_K: NDArray[np.float64]
    recall_K: NDArray[np.float64]
    precision_K: NDArray[np.float64]

    def first(self, ranks: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The ranks up to this one, as float64, and hit@k there."""
        few = self.ranks_K <= ranks
        return self.ranks_K[few].astype(np.float64), self.hit_K[few]

    def as_dict(self) -> dict[str, Any]:
        """The arrays as JSON values."""
        return {
            "ranks": self.ranks_K.tolist(),
            "hit": self.hit_K.tolist(),
            "recall": self.recall_K.tolist(),
            "precision": self.precision_K.tolist(),
        }


def rank_curves(
    representations: Sequence[Representation],
    queries: PictureTable,
    gallery: PictureTable,
    rule: GalleryRule,
    *,
    several_labels: bool = False,
) -> list[RankCurves]:
    """The curves of every representation, at up to some 50 ranks; arguments and errors as `compare`."""
    ranks = spread_ranks(len(gallery))
    results = compare(representations, queries, gallery, rule, ks=ranks, map_cutoffs=(), several_labels=several_labels)
    return [
        RankCurves(
            np.array(ranks, np.int64),
            *(
                np.array([each.scores[f"{kind}@{k}"].expected for k in ranks])
                for kind in ("hit", "recall", "precision")
            ),
        )
        for each in results
    ]


def spread_ranks(last: int) -> list[int]:
    """Ranks from 1 to `last`: the first ten, then each about a quarter above the one before; and HIT_RANKS, where it is below."""
    ranks, rank = {last, min(last, HIT_RANKS)}, 1
    while rank < last:
        ranks.add(rank)
        rank = rank + 1 if rank < 10 else round(rank * 1.25)
    return sorted(ranks)
