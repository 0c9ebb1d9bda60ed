"""A memory of recent codes, to compare a batch with more pictures than it holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hashret.training.objectives.mining import Candidates
from hashret.training.objectives.relaxed import squared_distances

WARM_UP = 0.1
"""Before this share of all updates a memory is filled and not used: the codes in it are out of date at once."""


class CodeMemory(nn.Module):
    """The activations (M, K) and labels (M,) of the last M pictures, without gradients; they are saved for resuming.

    The network changes slowly, so codes of some batches ago are near what it would give those pictures now. A picture of the
    batch may be in the memory as well, from an earlier epoch: differently augmented it is one more positive of its class,
    at a small distance, so nothing is done about it. Source: Wang, Zhang, Huang, Scott, "Cross-Batch Memory for Embedding
    Learning", 2020.
    """

    NOTHING = -1
    """The label of a place that holds no picture yet."""

    activations_MK: Tensor
    labels_M: Tensor
    place: Tensor

    def __init__(self, size: int, code_size: int) -> None:
        super().__init__()
        self.register_buffer("activations_MK", torch.zeros(size, code_size))
        self.register_buffer("labels_M", torch.full((size,), self.NOTHING))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def compared(self, activations_DK: Tensor, labels_D: Tensor) -> Candidates:
        """A batch as anchors, what is remembered as candidates."""
        same_DM = labels_D[:, None] == self.labels_M[None, :]
        # A copy: the memory is written to before gradients are computed.
        distances_DM = squared_distances(activations_DK, self.activations_MK.clone())
        return Candidates(distances_DM, same_DM, ~same_DM & (self.labels_M != self.NOTHING))

    @torch.no_grad()
    def remember(self, activations_DK: Tensor, labels_D: Tensor) -> None:
        """Put a batch in the places of the oldest pictures; of a batch larger than the memory, the last M pictures."""
        size = len(self.labels_M)
        activations, labels = activations_DK[-size:], labels_D[-size:]
        places = (self.place + torch.arange(len(labels), device=labels.device)) % size
        self.activations_MK[places] = activations.to(self.activations_MK.dtype)
        self.labels_M[places] = labels
        self.place.copy_((self.place + len(labels)) % size)

    def filled(self) -> Tensor:
        """The share of places that hold a picture."""
        return (self.labels_M != self.NOTHING).float().mean()
