"""The triplet loss and its mining rules, recomputed with plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.training.objectives.mining import MINING
from hashret.training.objectives.triplet import auto_margin, squared_distances, triplet_loss
from hashret.training.options import MINING_RULES


def naive_terms(x: np.ndarray, labels: list[int], margin: float, mining: str) -> list[float]:
    n = len(x)
    d = [[float(((x[i] - x[j]) ** 2).sum()) for j in range(n)] for i in range(n)]
    terms = []
    for a in range(n):
        for p in range(n):
            if p == a or labels[p] != labels[a]:
                continue
            negatives = [j for j in range(n) if labels[j] != labels[a]]
            if mining == "semi-hard":
                farther = [d[a][j] for j in negatives if d[a][j] > d[a][p]]
                chosen = [min(farther)] if farther else [max(d[a][j] for j in negatives)]
            else:
                chosen = [d[a][j] for j in negatives]
            terms += [max(0.0, d[a][p] - each + margin) for each in chosen]
    return terms


@pytest.mark.parametrize("mining", MINING_RULES)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 9), classes=st.integers(2, 4), margin=st.floats(0.1, 8))
def test_loss_is_the_mean_of_the_active_terms(mining: str, seed: int, n: int, classes: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    x = np.tanh(rng.normal(size=(n, 5)))
    labels = [0, *rng.integers(0, classes, n - 2).tolist(), classes]  # at least two classes
    terms = naive_terms(x, labels, margin, mining)
    active = [term for term in terms if term > 1e-6]
    result = triplet_loss(torch.tensor(x), torch.tensor(labels), margin=margin, mining=mining)
    assert result.triplets == len(terms)
    assert abs(result.active - len(active)) <= sum(1 for term in terms if abs(term) < 1e-5)
    assert result.loss.item() == pytest.approx(sum(active) / max(len(active), 1), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("mining", MINING_RULES)
def test_gradients_are_finite_and_move_classes_apart(mining: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    before = triplet_loss(x, labels, margin=4.0, mining=mining)
    before.loss.backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    after = triplet_loss(x.detach() - 0.01 * x.grad, labels, margin=4.0, mining=mining)
    assert after.loss < before.loss


@pytest.mark.parametrize("mining", MINING_RULES)
@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5]])
def test_a_batch_without_triplets_has_a_loss_of_zero_with_a_gradient(mining: str, labels: list[int]) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    result = triplet_loss(x, torch.tensor(labels), margin=1.0, mining=mining)
    result.loss.backward()
    assert result.loss.item() == 0.0 and result.active == 0
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_squared_distance_of_signs_is_four_times_hamming() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (20, 33))
    hamming = (bits[:, None] != bits[None]).sum(-1)
    signs = torch.tensor(2.0 * bits - 1.0)
    np.testing.assert_allclose(squared_distances(signs).numpy(), 4 * hamming, atol=1e-4)


def test_every_rule_has_a_name() -> None:
    assert tuple(MINING) == MINING_RULES


def test_auto_margin_is_in_bits() -> None:
    assert auto_margin(task="closed", code_size=64, activation="tanh") == 16 * 4
    assert auto_margin(task="unseen", code_size=64, activation="tanh") == 4 * 4
    assert auto_margin(task="unseen", code_size=64, activation="sigmoid") == 4
    assert math.isclose(auto_margin(task="unseen", code_size=4, activation="tanh"), 4.0)
