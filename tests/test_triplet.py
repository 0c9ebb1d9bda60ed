"""The triplet loss, its mining rules and its parts, recomputed with plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hashret.training.objectives.base import Outputs
from hashret.training.objectives.class_codes import class_codes
from hashret.training.objectives.memory import WARM_UP, CodeMemory
from hashret.training.objectives.mining import MINING, Candidates, within_batch
from hashret.training.objectives.relaxed import squared_distances, straight_through
from hashret.training.objectives.triplet import Triplet, triplet_loss
from hashret.training.options import HINGES, MINING_RULES

RULES = pytest.mark.parametrize(("mining", "hinge"), [(mining, hinge) for mining in MINING_RULES for hinge in HINGES])


def naive_violations(
    d: list[list[float]], positives: list[list[int]], negatives: list[list[int]], margin: float, mining: str
) -> list[float]:
    """d(a, p) - d(a, n) + margin of every triplet that counts."""
    violations = []
    for a in range(len(d)):
        if not positives[a] or not negatives[a]:
            continue
        if mining == "hard":
            violations.append(max(d[a][p] for p in positives[a]) - min(d[a][n] for n in negatives[a]) + margin)
            continue
        for p in positives[a]:
            if mining == "semi-hard":
                farther = [d[a][n] for n in negatives[a] if d[a][n] > d[a][p]]
                chosen = [min(farther) if farther else max(d[a][n] for n in negatives[a])]
            else:
                chosen = [d[a][n] for n in negatives[a]]
            violations += [d[a][p] - each + margin for each in chosen]
    return violations


def naive_loss(violations: list[float], hinge: str) -> float:
    if hinge == "relu":
        active = [x for x in violations if x > 0]
        return sum(active) / max(len(active), 1)
    return sum(max(x, 0) + math.log1p(math.exp(-abs(x))) for x in violations) / max(len(violations), 1)


def in_batch(labels: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    n = range(len(labels))
    return [[j for j in n if j != i and labels[j] == labels[i]] for i in n], [
        [j for j in n if labels[j] != labels[i]] for i in n
    ]


def distances(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    return [[float(((a - b) ** 2).sum()) for b in y] for a in x]


@RULES
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    bits=st.integers(1, 6),
    margin=st.floats(0.1, 8),
    equal=st.booleans(),
)
def test_loss_of_a_batch(
    mining: str, hinge: str, seed: int, labels: list[int], bits: int, margin: float, equal: bool
) -> None:
    """Batches of one class, of one picture, of singletons only, of one bit, and with equal rows are all among them."""
    x = np.tanh(np.random.default_rng(seed).normal(size=(len(labels), bits)))
    if equal:
        x[1:] = x[0]
    violations = naive_violations(distances(x, x), *in_batch(labels), margin, mining)
    result = triplet_loss(torch.tensor(x), torch.tensor(labels), margin=margin, mining=mining, hinge=hinge)
    assert result.triplets == len(violations)
    assert result.active == sum(x > 0 for x in violations)
    assert result.loss.item() == pytest.approx(naive_loss(violations, hinge), rel=1e-9, abs=1e-9)


@RULES
def test_gradients_are_those_of_the_definition(mining: str, hinge: str) -> None:
    torch.manual_seed(0)
    x = torch.tanh(torch.randn(9, 5, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4])
    loss = lambda x: triplet_loss(x, labels, margin=2.0, mining=mining, hinge=hinge).loss  # noqa: E731
    assert torch.autograd.gradcheck(loss, (x,))
    if mining == "batch-all":
        terms = [
            (x[a] - x[p]).square().sum() - (x[a] - x[n]).square().sum() + 2.0
            for a, (ps, ns) in enumerate(zip(*in_batch(labels.tolist()), strict=True))
            for p in ps
            for n in ns
        ]
        violations = torch.stack(terms)
        plain = violations[violations > 0].mean() if hinge == "relu" else violations.exp().log1p().mean()
        torch.testing.assert_close(*(torch.autograd.grad(each, x)[0] for each in (loss(x), plain)))


@RULES
def test_a_step_moves_classes_apart(mining: str, hinge: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    before = triplet_loss(x, labels, margin=4.0, mining=mining, hinge=hinge)
    before.loss.backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    after = triplet_loss(x.detach() - 0.01 * x.grad, labels, margin=4.0, mining=mining, hinge=hinge)
    assert after.loss < before.loss


@RULES
@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5], [0]])
def test_a_batch_without_triplets_has_a_loss_of_zero_with_a_gradient(
    mining: str, hinge: str, labels: list[int]
) -> None:
    x = torch.randn(len(labels), 4, requires_grad=True)
    result = triplet_loss(x, torch.tensor(labels), margin=1.0, mining=mining, hinge=hinge)
    result.loss.backward()
    assert result.loss.item() == 0.0 and result.active == 0 and result.share == 0
    assert x.grad is not None and torch.equal(x.grad, torch.zeros_like(x))


@RULES
def test_a_number_that_is_none_is_not_hidden(mining: str, hinge: str) -> None:
    x = torch.randn(6, 4)
    x[2, 1] = torch.nan
    assert triplet_loss(x, torch.arange(6) // 2, margin=1.0, mining=mining, hinge=hinge).loss.isnan()


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that was made meanwhile."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.untyped_storage().nbytes() // each.element_size())
        return made


@RULES
def test_large_batches_need_no_cubic_memory(mining: str, hinge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 pictures, 16 a class: 15.5 million triplets, and no tensor larger than a few matrices of distances."""
    monkeypatch.setattr("hashret.training.objectives.mining._TRIPLETS_AT_ONCE", 1 << 20)
    rng = np.random.default_rng(0)
    labels = np.arange(1024) // 16
    x = np.tanh(rng.normal(size=(1024, 32)) + 0.5 * rng.normal(size=(64, 32))[labels]).astype(np.float32)
    activations = torch.tensor(x, requires_grad=True)
    with LargestTensor() as largest:
        result = triplet_loss(activations, torch.tensor(labels), margin=32.0, mining=mining, hinge=hinge)
        result.loss.backward()
    assert largest.elements <= 2 * 1024 * 1024
    d = squared_distances(torch.tensor(x), torch.tensor(x)).numpy().astype(np.float64)
    violations = []
    for a in range(1024):
        positive = d[a][(labels == labels[a]) & (np.arange(1024) != a)]
        negative = np.sort(d[a][labels != labels[a]])
        if mining == "hard":
            violations.append(positive[positive.argmax()] - negative[:1] + 32.0)
        elif mining == "semi-hard":
            at = np.minimum(np.searchsorted(negative, positive, side="right"), len(negative) - 1)
            violations.append(positive - negative[at] + 32.0)
        else:
            violations.append((positive[:, None] - negative[None, :] + 32.0).ravel())
    every = np.concatenate(violations)
    assert result.triplets == len(every)
    assert result.active == pytest.approx((every > 0).sum(), rel=1e-5)
    terms = np.maximum(every, 0).sum() / (every > 0).sum() if hinge == "relu" else np.logaddexp(0, every).mean()
    assert result.loss.item() == pytest.approx(terms, rel=1e-4)


@pytest.mark.parametrize("hinge", HINGES)
@pytest.mark.parametrize("mining", ["batch-all", "hard"])
def test_the_judge_agrees(mining: str, hinge: str) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner

    torch.manual_seed(1)
    labels = torch.randint(0, 5, (24,))
    ours, theirs = (torch.tanh(torch.randn(24, 16, generator=torch.manual_seed(1))) for _ in range(2))
    ours.requires_grad_(), theirs.requires_grad_()
    squared = LpDistance(normalize_embeddings=False, power=2)
    judge = TripletMarginLoss(margin=8.0, distance=squared, smooth_loss=hinge == "softplus")
    chosen = BatchHardMiner(distance=squared)(theirs, labels) if mining == "hard" else None
    wanted = judge(theirs, labels, chosen)
    found = triplet_loss(ours, labels, margin=8.0, mining=mining, hinge=hinge).loss
    found.backward(), wanted.backward()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_squared_distance_of_signs_is_four_times_hamming() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (20, 33))
    hamming = (bits[:, None] != bits[None]).sum(-1)
    signs = torch.tensor(2.0 * bits - 1.0)
    np.testing.assert_allclose(squared_distances(signs, signs).numpy(), 4 * hamming, atol=1e-4)


def test_every_rule_has_a_name() -> None:
    assert tuple(MINING) == MINING_RULES


# ---- the parts of the objective


def outputs(logits_DK: torch.Tensor, activation: str = "tanh") -> Outputs:
    activate = torch.tanh if activation == "tanh" else torch.sigmoid
    return Outputs(logits_DK, activate(logits_DK), torch.zeros(len(logits_DK), 3))


def objective(**changes: Any) -> Triplet:
    settings: dict[str, Any] = {
        "margin": 4.0, "mining": "batch-all", "hinge": "relu", "activation": "tanh", "code_size": 8, **changes,
    }  # fmt: skip
    return Triplet(**settings)


LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_the_sign_branch_is_the_loss_of_the_codes_with_a_growing_weight(activation: str) -> None:
    logits = torch.randn(7, 8, generator=torch.manual_seed(0)).requires_grad_()
    low, high = (-1.0, 1.0) if activation == "tanh" else (0.0, 1.0)
    plain = objective(activation=activation)(outputs(logits, activation), LABELS, 0.5).loss
    codes = torch.where(logits > 0, high, low)
    for progress in (0.0, 0.25, 1.0):
        branched = objective(activation=activation, sign_weight=2.0)(outputs(logits, activation), LABELS, progress)
        signs = triplet_loss(codes, LABELS, margin=4.0, mining="batch-all")
        torch.testing.assert_close(branched.loss, plain + 2.0 * progress * signs.loss)
        assert branched.scalars["active_signs"] == signs.share


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_gradients_pass_the_sign_as_they_would_the_activation(activation: str) -> None:
    logits = torch.tensor([[-2.0, 0.0, 0.5, 1e4, -1e4]], requires_grad=True)
    made = outputs(logits, activation)
    codes = straight_through(made.logits_DK, made.activations_DK, activation)
    low = -1.0 if activation == "tanh" else 0.0
    assert codes.tolist() == [[low, low, 1.0, 1.0, low]]
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    through, straight = (
        torch.autograd.grad((each * weights).sum(), logits, retain_graph=True)[0]
        for each in (codes, made.activations_DK)
    )
    assert torch.equal(through, straight) and torch.isfinite(through).all()


@pytest.mark.parametrize("mining", MINING_RULES)
def test_the_proxy_part_is_the_loss_against_codes_of_classes(mining: str) -> None:
    codes = torch.from_numpy(class_codes(4, 8)).float()
    logits = torch.randn(7, 8, generator=torch.manual_seed(0))
    with_proxies = objective(mining=mining, proxy_weight=0.5, codes_CK=codes)
    plain = objective(mining=mining)(outputs(logits), LABELS, 0.0).loss
    scored = with_proxies(outputs(logits), LABELS, 0.0)
    own = [[label] for label in LABELS.tolist()]
    others = [[c for c in range(4) if c != label] for label in LABELS.tolist()]
    d = distances(torch.tanh(logits).numpy(), codes.numpy())
    violations = naive_violations(d, own, others, 4.0, mining)
    assert scored.loss.item() == pytest.approx(plain.item() + 0.5 * naive_loss(violations, "relu"), rel=1e-5)
    scored.loss.backward()
    (proxies,) = with_proxies.parameters()
    assert proxies.grad is not None and proxies.grad.abs().sum() > 0


@pytest.mark.parametrize("hinge", HINGES)
def test_the_judge_agrees_on_proxies(hinge: str) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss

    squared = LpDistance(normalize_embeddings=False, power=2)
    judge = TripletMarginLoss(margin=4.0, distance=squared, smooth_loss=hinge == "softplus")
    codes = torch.from_numpy(class_codes(4, 8)).float()
    logits = torch.randn(7, 8, generator=torch.manual_seed(0))
    plain, joined = (
        objective(hinge=hinge, **parts)(outputs(logits), LABELS, 0.0).loss
        for parts in ({}, {"proxy_weight": 1.0, "codes_CK": codes})
    )
    wanted = judge(torch.tanh(logits), LABELS, ref_emb=codes, ref_labels=torch.arange(4))
    torch.testing.assert_close(joined - plain, wanted, rtol=1e-4, atol=1e-5)


def test_the_memory_part_compares_with_what_came_before() -> None:
    remembering = objective(memory=9)
    generator = torch.manual_seed(0)
    batches = [
        (torch.randn(4, 8, generator=generator), torch.randint(0, 3, (4,), generator=generator)) for _ in range(5)
    ]
    seen_rows: list[np.ndarray] = []
    seen_labels: list[int] = []
    for i, (logits, labels) in enumerate(batches):
        progress = WARM_UP * (i - 1)
        plain = objective()(outputs(logits), labels, progress).loss
        scored = remembering(outputs(logits), labels, progress)
        rows, names = seen_rows[-9:], seen_labels[-9:]
        same = [[j for j, other in enumerate(names) if other == label] for label in labels.tolist()]
        rest = [[j for j, other in enumerate(names) if other != label] for label in labels.tolist()]
        d = distances(torch.tanh(logits).numpy(), np.array(rows)) if rows else [[]] * 4
        violations = naive_violations(d, same, rest, 4.0, "batch-all")
        part = naive_loss(violations, "relu") if progress >= WARM_UP else 0.0
        assert scored.loss.item() == pytest.approx(plain.item() + part, rel=1e-5)
        seen_rows += list(torch.tanh(logits).numpy())
        seen_labels += labels.tolist()
    assert remembering.memory is not None and remembering.memory.filled() == 1.0


def test_a_batch_larger_than_the_memory_leaves_its_end() -> None:
    memory = CodeMemory(3, 2)
    memory.remember(torch.arange(10.0).reshape(5, 2), torch.arange(5))
    assert sorted(memory.labels_M.tolist()) == [2, 3, 4]
    empty = CodeMemory(3, 2).compared(torch.ones(2, 2), torch.tensor([0, 1]))
    assert not empty.positive_AN.any() and not empty.negative_AN.any()


@pytest.mark.parametrize("hinge", HINGES)
def test_the_judge_remembers_alike(hinge: str) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import CrossBatchMemory, TripletMarginLoss

    squared = LpDistance(normalize_embeddings=False, power=2)
    loss = TripletMarginLoss(margin=4.0, distance=squared, smooth_loss=hinge == "softplus")
    judge, memory = CrossBatchMemory(loss, 8, memory_size=10), CodeMemory(10, 8)
    generator = torch.manual_seed(0)
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    for _ in range(6):
        rows = torch.tanh(torch.randn(4, 8, generator=generator))
        labels = torch.randint(0, 3, (4,), generator=generator)
        if before is not None:
            memory.remember(*before)
            ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
            old = torch.tensor([True] * 4 + [False] * 4)
            wanted = judge(torch.cat([before[0], theirs]), torch.cat([before[1], labels]), enqueue_mask=old)
            found = MINING["batch-all"](memory.compared(ours, labels), 4.0, hinge).loss
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                *(torch.autograd.grad(loss, x)[0] for loss, x in ((found, ours), (wanted, theirs))),
                rtol=1e-3,
                atol=1e-5,
            )
        before = rows, labels


def test_candidates_that_are_neither_do_not_count() -> None:
    d = torch.tensor([[1.0, 2.0, 0.0]])
    for rule in MINING.values():
        mined = rule(
            Candidates(d, torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])), 3.0, "relu"
        )
        assert (mined.loss, mined.triplets, mined.active) == (2.0, 1, 1)
    assert within_batch(d[:, :1], torch.tensor([0])).positive_AN.tolist() == [[False]]
