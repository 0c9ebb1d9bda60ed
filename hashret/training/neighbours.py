"""The latest code of every training picture, kept while they train, and what each one's neighbours say of its label.

A picture whose nearest pictures, epoch after epoch, mostly carry one other label is probably labelled wrongly, or shows two
things. The idea is that of Zhu, Dong, Liu, "Detecting Corrupted Labels Without Training a Model to Predict", 2022: labels are
checked by the k nearest in feature space. Features know longer than codes what a picture shows: wrong labels can make codes
collapse. They are kept as a print, the signs of random projections, whose Hamming distance grows with the angle between
features (Charikar, "Similarity Estimation Techniques from Rounding Algorithms", 2002).

Shapes: N training pictures, W watched ones, K bits, R bits of a print, F numbers of a feature, D pictures of a batch, E
neighbours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hashret import codes, hamming

MOST_WATCHED = 20_000
"""Pictures watched where there are more: an epoch's look at them stays below a second or two."""
ENOUGH_OF_A_CLASS = 100
"""Pictures of a class that are watched before other classes are left out."""
NEIGHBOURS = 15
PRINT_BITS = 256
SUSPICIOUS = 0.5
"""By how much the share of neighbours with one other label must exceed the share with the own label."""


class Suspect(NamedTuple):
    """A training picture whose neighbours contradict its label: its row, their most frequent label, and by how much."""

    row: int
    rival: int
    suspicion: float


class TrainingCodes:
    """Codes and prints of training pictures as last computed, and a running mean of what their neighbours say."""

    def __init__(
        self,
        labels_N: NDArray[np.int64] | NDArray[np.bool_],
        *,
        code_size: int,
        feature_size: int,
        device: torch.device,
        seed: int,
    ) -> None:
        # A picture of several labels agrees with those that have the very same ones, and is never a suspect; neither is one
        # that is a class of its own.
        self.one_label = labels_N.ndim == 1
        classes_N = np.asarray(labels_N if self.one_label else _sets_of_labels(labels_N), np.int64)
        self.rows_W = _watched(classes_N, seed)
        self.labels_W = classes_N[self.rows_W]
        self.alone = len(np.unique(self.labels_W)) == len(self.labels_W)
        self.place_N = np.full(len(classes_N), -1)
        self.place_N[self.rows_W] = np.arange(len(self.rows_W))
        self.seed = seed
        self.epochs = 0
        self.code_size = code_size
        n = len(self.rows_W)
        projection = torch.randn((feature_size, PRINT_BITS), generator=torch.Generator().manual_seed(seed))
        self.projection_FR = projection.to(device)
        self.mean_F: Tensor | None = None
        self.bits_WX = torch.zeros((n, code_size + PRINT_BITS), dtype=torch.bool, device=device)
        self.seen_W = torch.zeros(n, dtype=torch.bool)
        self.suspicion_W = torch.zeros(n, dtype=torch.float64)
        self.rival_W = torch.full((n,), -1)
        self.dead: list[int] = []

    def keep(self, rows_D: NDArray[np.int64], bits_DK: Tensor, features_DF: Tensor) -> None:
        """Take note of the codes, bool, and of the features of these training rows; nothing waits for the device."""
        mean_F = features_DF.mean(dim=0)
        self.mean_F = mean_F if self.mean_F is None else torch.lerp(self.mean_F, mean_F, 0.1)
        prints_DR = (features_DF - self.mean_F) @ self.projection_FR > 0
        bits_DX = torch.cat([bits_DK, prints_DR], dim=1)
        place_D = torch.from_numpy(self.place_N[rows_D])
        watched_D = place_D >= 0
        if not bool(watched_D.all()):
            place_D, bits_DX = place_D[watched_D], bits_DX[watched_D.to(bits_DX.device)]
        self.bits_WX[place_D.to(self.bits_WX.device)] = bits_DX
        self.seen_W[place_D] = True

    def end_epoch(self) -> dict[str, float]:
        """What the codes look like, the share of suspects, and how far neighbours share labels (agreement), where any can."""
        seen = np.flatnonzero(self.seen_W.numpy())
        # Equal distances give the earlier row, so rows are shuffled: which of many equal codes are looked at is chance.
        order = np.random.default_rng([self.seed, self.epochs]).permutation(seen)
        bits_WX, labels_W = self.bits_WX.cpu().numpy()[order], self.labels_W[order]
        packed = codes.pack(bits_WX[:, : self.code_size])
        numbers: dict[str, float] = {}
        if not self.alone:
            numbers["agreement"] = float(neighbour_labels(packed, labels_W, self.code_size)[0].mean())
        if self.one_label and not self.alone:
            own, other, rival = neighbour_labels(codes.pack(bits_WX[:, self.code_size :]), labels_W, PRINT_BITS)
            at = torch.from_numpy(order)
            rivalry = torch.from_numpy((other - own) * _classes_hold(labels_W, own >= other))
            self.suspicion_W[at] = 0.5 * self.suspicion_W[at] + 0.5 * rivalry
            self.rival_W[at] = torch.from_numpy(rival)
        self.epochs += 1
        statistics = codes.statistics(packed, self.code_size)
        self.dead = statistics.dead
        return {
            "imbalance": statistics.mean_imbalance,
            "dead_bits": float(statistics.dead_bits),
            "entropy": statistics.entropy_bits,
            "correlation": statistics.mean_correlation,
            "effective_bits": statistics.effective_bits,
            "distinct": statistics.distinct_codes / statistics.n,
            **numbers,
            "suspect_share": float((self.suspicion_W >= SUSPICIOUS).double().mean()),
        }

    def suspects(self) -> list[Suspect]:
        """The pictures with the most suspicious labels, the worst first."""
        suspicion = self.suspicion_W.numpy()
        places = np.argsort(-suspicion, kind="stable")[: int((suspicion >= SUSPICIOUS).sum())]
        return [Suspect(int(self.rows_W[w]), int(self.rival_W[w]), float(suspicion[w])) for w in places]

    def state_dict(self) -> dict[str, Any]:
        """What going on needs."""
        return {
            "epochs": self.epochs,
            "mean": self.mean_F,
            "bits": torch.from_numpy(np.packbits(self.bits_WX.cpu().numpy(), axis=1)),
            "seen": self.seen_W,
            "suspicion": self.suspicion_W,
            "rival": self.rival_W,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.epochs = int(state["epochs"])
        self.mean_F = state["mean"]
        bits_WX = np.unpackbits(state["bits"].cpu().numpy(), axis=1, count=self.bits_WX.shape[1])
        self.bits_WX.copy_(torch.from_numpy(bits_WX.astype(np.bool_)))
        self.seen_W.copy_(state["seen"])
        self.suspicion_W.copy_(state["suspicion"])
        self.rival_W.copy_(state["rival"])


def neighbour_labels(
    codes_WB: codes.Codes, labels_W: NDArray[np.int64], code_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Shares (W,) of the NEIGHBOURS nearest others that carry the own label, and the most frequent other one; and that label.

    Where a class has fewer others, the own share is of those: a small class cannot fill a neighbourhood. Without a neighbour
    of another label that share is 0 and the label -1.
    """
    n = len(codes_WB)
    found = hamming.search(codes_WB, codes_WB, min(NEIGHBOURS + 1, n), code_size)[1]
    # Among many equal codes a picture may not find itself; then the last one found is one too many.
    is_self = found == np.arange(n)[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    labels_WE = labels_W[found[~is_self].reshape(n, -1)]
    same = labels_WE == labels_W[:, None]
    alike = np.bincount(labels_W)[labels_W] - 1
    own = np.minimum(same.sum(axis=1) / np.maximum(np.minimum(alike, labels_WE.shape[1]), 1), 1.0)
    votes = np.where(same, 0, (labels_WE[:, :, None] == labels_WE[:, None, :]).sum(axis=2))
    if not votes.shape[1]:
        return own, np.zeros(n), np.full(n, -1)
    best = votes.argmax(axis=1)[:, None]
    most = np.take_along_axis(votes, best, axis=1)[:, 0]
    rival = np.where(most > 0, np.take_along_axis(labels_WE, best, axis=1)[:, 0], -1)
    return own, most / votes.shape[1], rival


def _classes_hold(labels_W: NDArray[np.int64], agrees_W: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether most pictures (W,) of a picture's class agree with it: a class that is not learned accuses no picture."""
    agreeing = np.bincount(labels_W, weights=agrees_W) / np.maximum(np.bincount(labels_W), 1)
    held: NDArray[np.bool_] = agreeing[labels_W] >= 0.5
    return held


def _sets_of_labels(flags_NC: NDArray[Any]) -> NDArray[np.int64]:
    """A number (N,) for each different row of flags."""
    return np.unique(flags_NC, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _watched(labels_N: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows to watch: all, or a like number of every class; of very many classes some, so that pictures keep neighbours."""
    if len(labels_N) <= MOST_WATCHED:
        return np.arange(len(labels_N))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels_N))
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    sizes = np.bincount(labels_N)
    rank = np.arange(len(by_class)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    each = max(ENOUGH_OF_A_CLASS, MOST_WATCHED // len(sizes))
    classes = rng.permutation(len(sizes))
    classes = classes[np.cumsum(np.minimum(sizes, each)[classes]) <= MOST_WATCHED]
    return np.sort(by_class[(rank < each) & np.isin(labels_N[by_class], classes)])
