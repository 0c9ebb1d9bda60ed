"""Which triplets count, and the loss they come to, without ever listing them all.

A triplet is an anchor, a positive (another picture of its class) and a negative (a picture of another class); its
violation is d(a,p) - d(a,n) + margin. Every rule takes a matrix of distances from anchors to candidates and says which
candidates are positives and negatives of each anchor; candidates may be the batch itself, remembered codes or the codes
of classes. Distances may be of any kind (squared Euclidean here, negated similarity for DTSH), as long as near is small.

Shapes: A anchors, N candidates, P pairs of anchor and positive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_TRIPLETS_AT_ONCE = 1 << 22
"""How many triplets batch-all with softplus holds at a time; hinge never holds any."""


@dataclass(frozen=True)
class Mined:
    """The loss of one batch; how many triplets counted, and how many of them violate the margin (int64 scalars)."""

    loss: Tensor
    triplets: Tensor
    active: Tensor

    @property
    def share(self) -> Tensor:
        """The share of triplets that are active; 0 where there are none."""
        return self.active / self.triplets.clamp_min(1)


@dataclass(frozen=True)
class Candidates:
    """Distances (A, N), and which candidates are positives and which negatives of each anchor, truth values (A, N)."""

    distances_AN: Tensor
    positive_AN: Tensor
    negative_AN: Tensor


def within_batch(distances_DD: Tensor, labels_D: Tensor) -> Candidates:
    """Every picture of a batch as an anchor, with all the others as candidates."""
    same_DD = labels_D[:, None] == labels_D[None, :]
    itself_DD = torch.eye(len(labels_D), dtype=torch.bool, device=labels_D.device)
    return Candidates(distances_DD, same_DD & ~itself_DD, ~same_DD)


def batch_all(candidates: Candidates, margin: float, hinge: str) -> Mined:
    """The mean over all triplets: relu over the active ones, softplus over all.

    relu: with the anchor's negatives sorted, how many of them each positive violates the margin with is a binary search, and
    the other way round, how many positives each negative does. So the sum over triplets is a weighted sum of distances whose
    weights are these counts: exact, with exact gradients, in A·N·log N time and A·N memory. The mean over active triplets is
    that of Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017: once most triplets
    are satisfied, a mean over all would shrink the gradient with every success.
    """
    return _all_relu(candidates, margin) if hinge == "relu" else _all_softplus(candidates, margin)


def semi_hard(candidates: Candidates, margin: float, hinge: str) -> Mined:
    """One triplet a positive pair: the nearest negative that is farther than the positive.

    Where no negative is farther, the farthest negative stands in. Source: Schroff, Kalenichenko, Philbin, "FaceNet", 2015,
    in the form that was published with TensorFlow's metric-learning losses.
    """
    distances_AN, positive_AN, negative_AN = (
        candidates.distances_AN,
        candidates.positive_AN,
        candidates.negative_AN,
    )
    with torch.no_grad():
        sorted_AN, order_AN = distances_AN.masked_fill(~negative_AN, torch.inf).sort(dim=1)
        farther_AN = torch.searchsorted(sorted_AN, distances_AN.contiguous(), side="right")
        last_A = negative_AN.sum(dim=1) - 1
        column_AN = order_AN.gather(1, torch.minimum(farther_AN, last_A[:, None]).clamp_min(0))
        pairs_AN = positive_AN & (last_A >= 0)[:, None]
    violations_AN = distances_AN - distances_AN.gather(1, column_AN) + margin
    return _mean(violations_AN[pairs_AN], hinge)


def hard(candidates: Candidates, margin: float, hinge: str) -> Mined:
    """One triplet an anchor: its farthest positive and its nearest negative.

    Source: "batch hard" of Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017.
    """
    whole_A = candidates.positive_AN.any(dim=1) & candidates.negative_AN.any(dim=1)
    distances_AN = candidates.distances_AN[whole_A]
    farthest_A = distances_AN.masked_fill(~candidates.positive_AN[whole_A], -torch.inf).amax(dim=1)
    nearest_A = distances_AN.masked_fill(~candidates.negative_AN[whole_A], torch.inf).amin(dim=1)
    return _mean(farthest_A - nearest_A + margin, hinge)


MINING: dict[str, Callable[[Candidates, float, str], Mined]] = {
    "batch-all": batch_all,
    "semi-hard": semi_hard,
    "hard": hard,
}


def _mean(violations_T: Tensor, hinge: str) -> Mined:
    """The mean of relu over active triplets, or of softplus over all; zero with a gradient of zero where there is none."""
    active = (violations_T > 0).sum()
    triplets = torch.full_like(active, violations_T.numel())
    if hinge == "relu":
        return Mined(torch.relu(violations_T).sum() / active.clamp_min(1), triplets, active)
    return Mined(functional.softplus(violations_T).sum() / triplets.clamp_min(1), triplets, active)


def _all_relu(candidates: Candidates, margin: float) -> Mined:
    distances_AN, positive_AN, negative_AN = (
        candidates.distances_AN,
        candidates.positive_AN,
        candidates.negative_AN,
    )
    with torch.no_grad():
        reach_AN = distances_AN + margin
        # Both searches compare the same rounded numbers, so both count the same triplets.
        negatives_AN = distances_AN.masked_fill(~negative_AN, torch.inf).sort(dim=1).values
        reaches_AN = reach_AN.masked_fill(~positive_AN, -torch.inf).sort(dim=1).values
        as_positive_AN = torch.searchsorted(negatives_AN, reach_AN) * positive_AN
        as_negative_AN = torch.searchsorted(reaches_AN, distances_AN.contiguous(), side="right")
        as_negative_AN = (distances_AN.shape[1] - as_negative_AN) * negative_AN
        active = as_positive_AN.sum()
        triplets = _count(candidates)
    total = ((as_positive_AN - as_negative_AN) * distances_AN).sum() + margin * active.to(distances_AN.dtype)
    return Mined(total / active.clamp_min(1), triplets, active)


def _all_softplus(candidates: Candidates, margin: float) -> Mined:
    """The sum and its derivatives are added up over chunks of pairs, and joined to the distances at the end.

    The derivative by a distance is a sum of logistic functions, which one pass over the triplets gives along with the loss:
    nothing of the size of the triplets is kept for the backward pass.
    """
    distances_AN, negative_AN = candidates.distances_AN, candidates.negative_AN
    with torch.no_grad():
        anchor_P, positive_P = torch.nonzero(candidates.positive_AN, as_tuple=True)
        weights_AN = torch.zeros_like(distances_AN)
        value = distances_AN.new_zeros(())
        active = torch.zeros((), dtype=torch.int64, device=distances_AN.device)
        chunk = max(1, _TRIPLETS_AT_ONCE // max(1, distances_AN.shape[1]))
        for start in range(0, len(anchor_P), chunk):
            anchor, positive = anchor_P[start : start + chunk], positive_P[start : start + chunk]
            violations = distances_AN[anchor, positive][:, None] - distances_AN[anchor] + margin
            violations = violations.masked_fill(~negative_AN[anchor], -torch.inf)
            active += (violations > 0).sum()
            value += functional.softplus(violations).sum()
            slopes = torch.sigmoid(violations)
            weights_AN.index_add_(0, anchor, -slopes)
            weights_AN[anchor, positive] += slopes.sum(dim=1)
        triplets = _count(candidates)
    # The weighted sum brings the gradient, the rest the value.
    weighted = (weights_AN * distances_AN).sum()
    total = weighted + (value - weighted).detach()
    return Mined(total / triplets.clamp_min(1), triplets, active)


def _count(candidates: Candidates) -> Tensor:
    return (candidates.positive_AN.sum(dim=1) * candidates.negative_AN.sum(dim=1)).sum()
