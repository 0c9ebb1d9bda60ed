"""Which triplets of a batch count: every rule turns a distance matrix into (anchor-positive, anchor-negative) distances.

Shapes: D batch size; T triplets. Distances are squared Euclidean between activations, so for ±1 codes 4 × Hamming distance.
"""

from __future__ import annotations

import torch
from torch import Tensor


def batch_all(distances_DD: Tensor, labels_D: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (T,), (T,) of every valid triplet: positive of the anchor's class (not itself), negative of another.

    Memory is D × positives × D: 64 classes × 4 pictures hold 0.2 M triplets, 16 × 16 hold 0.9 M.
    """
    same_DD = labels_D[:, None] == labels_D[None, :]
    anchor, positive = _positive_pairs(same_DD)
    negative_PD = ~same_DD[anchor]
    d_positive = distances_DD[anchor, positive][:, None].expand_as(negative_PD)[negative_PD]
    d_negative = distances_DD[anchor][negative_PD]
    return d_positive, d_negative


def semi_hard(distances_DD: Tensor, labels_D: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (T,), (T,), one triplet a positive pair: the nearest negative that is farther than the positive.

    Where no negative is farther, the farthest negative stands in. Source: Schroff, Kalenichenko, Philbin, "FaceNet", 2015,
    in the form that was published with TensorFlow's metric-learning losses.
    """
    same_DD = labels_D[:, None] == labels_D[None, :]
    anchor, positive = _positive_pairs(same_DD)
    if bool(same_DD.all()):  # a batch of one class has no negatives
        anchor, positive = anchor[:0], positive[:0]
    d_positive = distances_DD[anchor, positive]
    candidates_PD = distances_DD[anchor]
    negative_PD = ~same_DD[anchor]
    farther_PD = negative_PD & (candidates_PD > d_positive[:, None])
    nearest_farther = candidates_PD.masked_fill(~farther_PD, torch.inf).amin(dim=1)
    farthest = candidates_PD.masked_fill(~negative_PD, -torch.inf).amax(dim=1)
    # `where` passes gradients into both branches; the infinite one is cut off before that.
    has_farther = farther_PD.any(dim=1)
    d_negative = torch.where(has_farther, nearest_farther.masked_fill(~has_farther, 0.0), farthest)
    return d_positive, d_negative


MINING = {"batch-all": batch_all, "semi-hard": semi_hard}


def _positive_pairs(same_DD: Tensor) -> tuple[Tensor, Tensor]:
    off_diagonal = ~torch.eye(len(same_DD), dtype=torch.bool, device=same_DD.device)
    anchor, positive = torch.nonzero(same_DD & off_diagonal, as_tuple=True)
    return anchor, positive
