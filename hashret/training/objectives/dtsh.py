"""DTSH: the likelihood that a picture is more similar to those of its class than to others, over all triplets of a batch.

Shapes: D pictures of a batch, K bits.
"""

from __future__ import annotations

from torch import Tensor

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.mining import batch_all, within_batch
from hashret.training.objectives.relaxed import signed


class DTSH(Objective):
    """Mean over triplets (q, p, n) of -log sigmoid(Θ(q,p) - Θ(q,n) - α), Θ(i,j) = ½ u_i·u_j, u the activations in -1..1.

    For codes of ±1, Θ = K/2 - Hamming distance: the margin α is in bits. As -log sigmoid(x) = log(1 + exp(-x)), it is the
    triplet loss with softplus and -Θ in place of the distance, and computed as such, stably and in bounded memory. The
    source adds a weight of the quantisation term of penalties.py, and takes α = K/2. Source: Wang, Shi, Kitani, "Deep
    Supervised Hashing with Triplet Labels", 2016.
    """

    def __init__(self, *, margin: float, activation: str) -> None:
        super().__init__()
        self.margin: float = margin
        self.margin_bits: float = margin
        self.activation = activation

    def describe(self) -> str:
        """The margin in bits."""
        return f"DTSH, margin {self.margin:g} bits"

    def score(self, outputs: Outputs, labels_D: Tensor, progress: float) -> Scored:
        """The loss, and the share of triplets that violate the margin."""
        u_DK = signed(outputs.activations_DK, self.activation)
        mined = batch_all(within_batch(-0.5 * u_DK @ u_DK.T, labels_D), self.margin, "softplus")
        return Scored(mined.loss, {"active": mined.share})
