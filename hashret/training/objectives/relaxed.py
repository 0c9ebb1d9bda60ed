"""Activations as relaxed codes: what a bit is worth in them, and how a gradient passes through the sign."""

from __future__ import annotations

import torch
from torch import Tensor

BIT = {"tanh": 4.0, "sigmoid": 1.0}
"""Squared distance of activations (tanh -1..1, sigmoid 0..1) that differ in one bit."""


def signed(activations: Tensor, activation: str) -> Tensor:
    """Activations between -1 and 1: tanh as it is, sigmoid stretched to it."""
    return activations if activation == "tanh" else 2.0 * activations - 1.0


def unsigned(codes: Tensor, activation: str) -> Tensor:
    """Codes of ±1 in the range of the activations: the inverse of `signed`."""
    return codes if activation == "tanh" else (codes + 1.0) / 2.0


def straight_through(logits_DK: Tensor, activations_DK: Tensor, activation: str) -> Tensor:
    """The codes (bit 1 exactly when logit > 0), in the range of the activations; gradients pass as if they were these.

    Source: Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons", 2013.
    """
    ones_and_minus_ones = torch.where(logits_DK > 0, 1.0, -1.0).to(activations_DK.dtype)
    codes_DK = unsigned(ones_and_minus_ones, activation)
    return activations_DK + (codes_DK - activations_DK).detach()


def squared_distances(activations_AK: Tensor, others_NK: Tensor) -> Tensor:
    """Squared Euclidean distances (A, N) between rows, never negative.

    For activations in ±1 this is 4 × the Hamming distance of their codes.
    """
    squares_A = (activations_AK * activations_AK).sum(dim=1)
    squares_N = (others_NK * others_NK).sum(dim=1)
    return (squares_A[:, None] + squares_N[None, :] - 2.0 * activations_AK @ others_NK.T).clamp_min(0.0)
