"""Every objective besides triplets, recomputed with plain loops; what all objectives have in common; margins."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import codes_alone
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.errors import TrainingError, UsageError
from hashret.training.objectives import Objective, Outputs, build_objective
from hashret.training.objectives.central import Central
from hashret.training.objectives.class_codes import class_codes
from hashret.training.objectives.classification import Classification
from hashret.training.objectives.cosine import Cosine
from hashret.training.objectives.dtsh import DTSH
from hashret.training.objectives.margins import auto_bits, guaranteed_distance
from hashret.training.objectives.multilabel import Multilabel
from hashret.training.objectives.nested import Nested, prefixes
from hashret.training.objectives.penalties import Penalised, dependence, imbalance, quantisation_error
from hashret.training.objectives.self_supervised import SelfSupervised
from hashret.training.objectives.warm_up import WarmedUp
from hashret.training.options import HINGES, MINING_RULES, OBJECTIVES, READ_BY, TrainingOptions


def outputs(logits_DK: torch.Tensor, activation: str = "tanh", features_DF: torch.Tensor | None = None) -> Outputs:
    activate = torch.tanh if activation == "tanh" else torch.sigmoid
    return Outputs(
        logits_DK, activate(logits_DK), torch.zeros(len(logits_DK), 3) if features_DF is None else features_DF
    )


def random_batch(seed: int, pictures: int, bits: int, classes: int, dtype: torch.dtype = torch.float64) -> Any:
    generator = torch.manual_seed(seed)
    logits = 2 * torch.randn(pictures, bits, generator=generator, dtype=dtype)
    return logits, torch.randint(0, classes, (pictures,), generator=generator)


def codes(classes: int, bits: int) -> torch.Tensor:
    return torch.from_numpy(class_codes(classes, bits)).float()


def softmax_loss(scores: list[float], wanted: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[wanted]


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


SHAPES = {
    "seed": st.integers(0, 2**31),
    "pictures": st.integers(2, 7),
    "bits": st.integers(1, 6),
    "classes": st.integers(2, 4),
}


def few(test: Any) -> Any:
    return settings(deadline=None, max_examples=30)(given(**SHAPES)(test))


# ---- formulas


@pytest.mark.parametrize("through", ["features", "codes"])
@few
def test_classification(through: str, seed: int, pictures: int, bits: int, classes: int) -> None:
    logits, labels = random_batch(seed, pictures, bits, classes)
    features = torch.randn(pictures, bits, dtype=torch.float64)
    objective = Classification(through=through, width=bits, n_classes=classes).double()
    scored = objective(outputs(logits, features_DF=features), labels, 0.0)
    read = features if through == "features" else torch.tanh(logits)
    weight, bias = objective.classifier.weight.tolist(), objective.classifier.bias.tolist()
    scores = [
        [sum(w * x for w, x in zip(row, each, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        for each in read.tolist()
    ]
    losses = [softmax_loss(row, label) for row, label in zip(scores, labels.tolist(), strict=True)]
    right = [row.index(max(row)) == label for row, label in zip(scores, labels.tolist(), strict=True)]
    assert scored.loss.item() == pytest.approx(sum(losses) / pictures)
    assert scored.scalars["accuracy"].item() == pytest.approx(sum(right) / pictures)


@pytest.mark.parametrize("through", ["features", "codes"])
@few
def test_multilabel(through: str, seed: int, pictures: int, bits: int, classes: int) -> None:
    logits, numbers = random_batch(seed, pictures, bits, classes)
    applies = torch.randint(0, 2, (pictures, classes)).float()
    features = torch.randn(pictures, bits, dtype=torch.float64)
    objective = Multilabel(through=through, width=bits, n_classes=classes).double()
    read = features if through == "features" else torch.tanh(logits)
    scores = objective.classifier(read).tolist()
    for labels, wanted in ((applies, applies), (numbers, torch.eye(classes)[numbers])):
        scored = objective(outputs(logits, features_DF=features), labels, 0.0)
        terms = [
            softplus(-score) if y else softplus(score)
            for row, ys in zip(scores, wanted.tolist(), strict=True)
            for score, y in zip(row, ys, strict=True)
        ]
        right = [ys[row.index(max(row))] for row, ys in zip(scores, wanted.tolist(), strict=True)]
        assert scored.loss.item() == pytest.approx(sum(terms) / len(terms))
        assert scored.scalars["accuracy"].item() == pytest.approx(sum(right) / pictures)


@pytest.mark.parametrize("name", ["features", "codes"])
def test_through_features_gives_the_hash_head_no_gradient(name: str) -> None:
    logits = torch.randn(4, 8, requires_grad=True)
    features = torch.randn(4, 3, requires_grad=True)
    loss = Classification(through=name, width=3 if name == "features" else 8, n_classes=2)(
        outputs(logits, features_DF=features), torch.tensor([0, 1, 0, 1]), 0.0
    ).loss
    gradients = torch.autograd.grad(loss, (logits, features), allow_unused=True)
    assert [gradient is None for gradient in gradients] == ([True, False] if name == "features" else [False, True])


@few
def test_cosine(seed: int, pictures: int, bits: int, classes: int) -> None:
    bits = bits + 1  # a bit has only two codes
    logits, labels = random_batch(seed, pictures, bits, classes)
    book = codes(classes, bits)
    scored = Cosine(margin=0.3, codes_CK=book.double())(outputs(logits), labels, 0.0)
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        length = math.sqrt(sum(x * x for x in row))
        cosines = [
            sum(x * c for x, c in zip(row, code, strict=True)) / length / math.sqrt(bits) for code in book.tolist()
        ]
        losses.append(softmax_loss([8 * (cosine - 0.3 * (c == label)) for c, cosine in enumerate(cosines)], label))
    assert scored.loss.item() == pytest.approx(sum(losses) / pictures)


def test_cosine_scale_grows_with_very_many_classes() -> None:
    assert Cosine(margin=0.2, codes_CK=codes(2, 4)).scale == Cosine(margin=0.2, codes_CK=codes(100, 64)).scale == 8
    assert Cosine(margin=0.2, codes_CK=torch.ones(10001, 2)).scale == pytest.approx(math.sqrt(2) * math.log(10000))


def test_the_judge_agrees_on_cosine_margins() -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.losses import CosFaceLoss

    logits, labels = random_batch(0, 12, 16, 5, torch.float32)
    logits.requires_grad_()
    judge = CosFaceLoss(num_classes=5, embedding_size=16, margin=0.2, scale=8)
    judge.W.data = codes(5, 16).T.contiguous()
    found, wanted = Cosine(margin=0.2, codes_CK=codes(5, 16))(outputs(logits), labels, 0.0).loss, judge(logits, labels)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@few
def test_central(activation: str, seed: int, pictures: int, bits: int, classes: int) -> None:
    bits = bits + 1
    logits, labels = random_batch(seed, pictures, bits, classes)
    book = codes(classes, bits)
    made = outputs(logits, activation)
    scored = Central(activation=activation, codes_CK=book.double())(made, labels, 0.0)
    terms, agree, right = [], [], []
    for row, signs, label in zip(made.activations_DK.tolist(), logits.tolist(), labels.tolist(), strict=True):
        for activated, logit, c in zip(row, signs, book[label].tolist(), strict=True):
            h = (activated + 1) / 2 if activation == "tanh" else activated
            terms.append(-math.log(h if c > 0 else 1 - h))
            agree.append((logit > 0) == (c > 0))
        hamming = [sum((x > 0) != (c > 0) for x, c in zip(signs, code, strict=True)) for code in book.tolist()]
        right.append(hamming.index(min(hamming)) == label)
    assert scored.loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)
    assert scored.scalars["bits"].item() == pytest.approx(sum(agree) / len(agree))
    assert scored.scalars["accuracy"].item() == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@few
def test_dtsh(activation: str, seed: int, pictures: int, bits: int, classes: int) -> None:
    logits, labels = random_batch(seed, pictures, bits, classes)
    made = outputs(logits, activation)
    u = (made.activations_DK if activation == "tanh" else 2 * made.activations_DK - 1).tolist()
    theta = [[sum(x * y for x, y in zip(a, b, strict=True)) / 2 for b in u] for a in u]
    terms = [
        softplus(-(theta[q][p] - theta[q][n] - 1.5))
        for q in range(pictures)
        for p in range(pictures)
        for n in range(pictures)
        if p != q and labels[p] == labels[q] != labels[n]
    ]
    loss = DTSH(margin=1.5, activation=activation)(made, labels, 0.0).loss
    assert loss.item() == pytest.approx(sum(terms) / max(len(terms), 1))


def test_the_judge_agrees_on_dtsh() -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import DotProductSimilarity
    from pytorch_metric_learning.losses import TripletMarginLoss

    logits, labels = random_batch(0, 14, 16, 4, torch.float32)
    logits.requires_grad_()
    inner_products = DotProductSimilarity(normalize_embeddings=False)
    judge = TripletMarginLoss(margin=3.0, smooth_loss=True, distance=inner_products)
    found = DTSH(margin=3.0, activation="tanh")(outputs(logits), labels, 0.0).loss
    wanted = judge(torch.tanh(logits) / math.sqrt(2), labels)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@few
def test_self_supervised(activation: str, seed: int, pictures: int, bits: int, classes: int) -> None:
    logits, _ = random_batch(seed, 2 * pictures, bits, classes)
    made = outputs(logits, activation)
    labels = torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat(np.arange(pictures), 2)))
    u = (made.activations_DK if activation == "tanh" else 2 * made.activations_DK - 1).tolist()

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    losses = []
    for i, a in enumerate(u):
        others = [k for k in range(len(u)) if k != i]
        same = next(place for place, k in enumerate(others) if labels[k] == labels[i])
        losses.append(softmax_loss([cosine(a, u[k]) / 0.3 for k in others], same))
    scored = SelfSupervised(temperature=0.3, activation=activation)(made, labels, 0.0)
    assert scored.loss.item() == pytest.approx(sum(losses) / len(losses))


def test_the_judge_agrees_on_two_views() -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.losses import NTXentLoss

    logits, _ = random_batch(0, 12, 16, 2, torch.float32)
    labels = torch.arange(6).repeat(2)
    logits.requires_grad_()
    found = SelfSupervised(temperature=0.2, activation="tanh")(outputs(logits), labels, 0.0).loss
    wanted = NTXentLoss(temperature=0.2)(torch.tanh(logits), labels)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)))


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 2]])
def test_views_come_in_pairs(labels: list[int]) -> None:
    with pytest.raises(TrainingError, match="a batch that is not made of two views of each picture"):
        SelfSupervised(temperature=0.3, activation="tanh")(
            outputs(torch.randn(len(labels), 8)), torch.tensor(labels), 0.0
        )


@few
def test_penalties(seed: int, pictures: int, bits: int, classes: int) -> None:
    u = torch.tanh(random_batch(seed, pictures, bits, classes)[0])
    rows = u.tolist()
    means = [sum(row[i] for row in rows) / pictures for i in range(bits)]
    products = [
        (sum(row[i] * row[j] for row in rows) / pictures) ** 2 for i in range(bits) for j in range(bits) if i != j
    ]
    errors = [(abs(x) - 1) ** 2 for row in rows for x in row]
    assert imbalance(u).item() == pytest.approx(sum(mean * mean for mean in means) / bits)
    assert dependence(u).item() == pytest.approx(sum(products) / max(1, len(products)))
    assert quantisation_error(u).item() == pytest.approx(sum(errors) / len(errors))


def test_penalties_at_their_ends() -> None:
    square = torch.from_numpy(class_codes(8, 8)).float()
    everything = torch.cat([square, -square])
    assert imbalance(everything) == dependence(everything) == quantisation_error(everything) == 0
    assert imbalance(torch.ones(5, 3)) == dependence(torch.ones(5, 3)) == quantisation_error(torch.zeros(5, 3)) == 1


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_penalties_join_any_objective(activation: str) -> None:
    logits, labels = random_batch(0, 6, 8, 3)
    made = outputs(logits, activation)
    u = made.activations_DK if activation == "tanh" else 2 * made.activations_DK - 1
    plain = DTSH(margin=2.0, activation=activation)
    scored = Penalised(plain, balance=0.5, quantisation=0.25, activation=activation)(made, labels, 0.0)
    wanted = plain(made, labels, 0.0).loss + 0.5 * (imbalance(u) + dependence(u)) + 0.25 * quantisation_error(u)
    torch.testing.assert_close(scored.loss, wanted)
    assert set(scored.scalars) == {"active", "balance", "dependence", "quantisation"}


# ---- nested codes


@pytest.mark.parametrize(
    ("bits", "lengths"),
    [(17, [16, 17]), (32, [16, 32]), (64, [16, 32, 64]), (100, [16, 32, 64, 100]), (128, [16, 32, 64, 128]), (8, [8])],
)
def test_prefixes(bits: int, lengths: list[int]) -> None:
    assert prefixes(bits) == lengths


def test_nested_is_the_mean_over_prefixes_each_with_its_margin() -> None:
    logits, labels = random_batch(0, 8, 40, 3, torch.float32)
    options = codes_alone(objective="dtsh", code_size=40, nested=True)
    built = build_objective(options, n_classes=3, feature_size=3, task="closed")
    assert isinstance(built, Nested) and built.margin == auto_bits(task="closed", n_classes=3, code_size=40)
    scored = built(outputs(logits), labels, 0.0)
    losses = {
        length: DTSH(margin=auto_bits(task="closed", n_classes=3, code_size=length), activation="tanh")(
            outputs(logits[:, :length]), labels, 0.0
        )
        for length in (16, 32, 40)
    }
    torch.testing.assert_close(scored.loss, sum(each.loss for each in losses.values()) / 3)
    assert set(scored.scalars) == {
        "active",
        "active_16_bits",
        "active_32_bits",
        "loss_16_bits",
        "loss_32_bits",
        "loss_40_bits",
    }
    assert scored.scalars["active"] == losses[40].scalars["active"]
    assert scored.scalars["active_16_bits"] == losses[16].scalars["active"]
    assert scored.scalars["loss_32_bits"] == losses[32].loss


@pytest.mark.parametrize("name", ["cosine", "central"])
def test_nested_class_codes_do_not_contradict_each_other(name: str) -> None:
    options = codes_alone(objective=name, code_size=64, nested=True)
    built = build_objective(options, n_classes=30, feature_size=3, task="closed")
    books = [each.codes_CK for each in built.objectives]
    for shorter, longer in itertools.pairwise(books):
        assert torch.equal(longer[:, : shorter.shape[1]], shorter)


# ---- a classifier beside


def test_a_classifier_beside_codes_reads_features_alone() -> None:
    logits, features, labels = batch_for("triplet", dtype=torch.float64)
    both = build("triplet", {"classify": 0.5}).double()
    alone = build("triplet", {}).double()
    logits.requires_grad_(), features.requires_grad_()
    scored, triplets = both(outputs(logits, features_DF=features), labels, 0.0), alone(outputs(logits), labels, 0.0)
    weight, bias = both.classification.classifier.weight, both.classification.classifier.bias
    by_hand = sum(
        softmax_loss((weight @ features[i] + bias).tolist(), int(labels[i])) for i in range(len(labels))
    ) / len(labels)
    assert scored.loss.item() == pytest.approx(triplets.loss.item() + 0.5 * by_hand)
    assert set(scored.scalars) == {"active", "accuracy", "loss_classification"}
    of_codes, of_features = torch.autograd.grad(scored.loss, (logits, features), retain_graph=True)
    torch.testing.assert_close(of_codes, torch.autograd.grad(triplets.loss, logits)[0])
    assert of_features.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, 3),  # half of 7, and codes have the longer one
        ({"classify_first": 2}, 2),
        ({"classify_first": 0}, 0),
        ({"code_gradient": 0.1}, 0),
        ({"objective": "cosine"}, 3),
        ({"objective": "classification"}, 0),
        ({"objective": "self"}, 0),
        ({"epochs": 1}, 0),
    ],
)
def test_codes_wait_for_features_where_they_leave_these_alone(changes: dict[str, Any], first: int) -> None:
    options = TrainingOptions(**{"epochs": 7, **changes})
    assert options.codes_from == first
    built = build_objective(options, n_classes=4, feature_size=5, task="closed")
    assert isinstance(built, WarmedUp) == (first > 0)
    if first:
        assert built.share == first / 7
        assert built.first is built.main.classification  # what it has learned is not thrown away
        assert built.describe().startswith(f"classification alone for the first {100 * first / 7:.3g} % of all updates")


# ---- what all have in common


def settings_of(name: str) -> list[dict[str, Any]]:
    """Every kind of the objective."""
    if name == "triplet":
        rules = [{"mining": mining, "hinge": hinge} for mining in MINING_RULES for hinge in HINGES]
        return [
            *rules,
            {"sign_weight": 1.0, "proxy_weight": 1.0, "memory": 8, "balance": 1.0, "nested": True},
            {"classify": 0.5},
        ]
    if name in ("classification", "multilabel"):
        return [{}, {"through": "codes", "quantisation": 1.0, "nested": True}]
    return [{}, {"balance": 1.0, "quantisation": 1.0, "nested": True}, {"activation": "sigmoid"}]


EVERY = [
    pytest.param(name, changes, id=" ".join([name, *(f"{key}={value}" for key, value in changes.items())]))
    for name in OBJECTIVES
    for changes in settings_of(name)
]


def build(name: str, changes: dict[str, Any], **more: Any) -> Objective:
    options = codes_alone(**{"objective": name, "code_size": 24, **changes, **more})
    torch.manual_seed(0)
    return build_objective(options, n_classes=4, feature_size=5, task="closed")


def batch_for(name: str, scale: float = 2.0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.manual_seed(3)
    logits = scale * torch.randn(8, 24, generator=generator, dtype=dtype)
    features = torch.randn(8, 5, generator=generator, dtype=dtype)
    labels = torch.arange(4).repeat(2) if name == "self" else torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    return logits, features, labels


@pytest.mark.parametrize(("name", "changes"), EVERY)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_losses_and_gradients_are_finite_at_any_logits(name: str, changes: dict[str, Any], scale: float) -> None:
    logits, features, labels = batch_for(name, scale)
    logits.requires_grad_(), features.requires_grad_()
    objective = build(name, changes)
    for progress in (0.0, 0.5, 1.0):
        scored = objective(outputs(logits, changes.get("activation", "tanh"), features), labels, progress)
        scored.loss.backward()
        assert scored.loss.isfinite() and scored.loss.dtype == torch.float32 and scored.loss.ndim == 0
        for each in (logits, features, *objective.parameters()):
            assert each.grad is None or each.grad.isfinite().all()
        assert all(
            value.ndim == 0 and not value.requires_grad and value.isfinite() for value in scored.scalars.values()
        )


@pytest.mark.parametrize(("name", "changes"), EVERY)
def test_a_number_that_is_none_is_not_hidden(name: str, changes: dict[str, Any]) -> None:
    logits, features, labels = batch_for(name)
    logits[1] = features[1] = math.nan
    assert build(name, changes)(outputs(logits, changes.get("activation", "tanh"), features), labels, 0.5).loss.isnan()


@pytest.mark.parametrize(("name", "changes"), EVERY)
def test_gradients_are_derivatives(name: str, changes: dict[str, Any]) -> None:
    logits, features, labels = batch_for(name, 1.0, torch.float64)
    objective = build(name, changes).double()
    # Progress 0: a straight-through gradient is no derivative.
    loss = lambda x, f: objective(outputs(x, changes.get("activation", "tanh"), f), labels, 0.0).loss  # noqa: E731
    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), features.requires_grad_()))


@pytest.mark.parametrize(("name", "changes"), EVERY)
def test_autocast_and_determinism(name: str, changes: dict[str, Any]) -> None:
    logits, features, labels = batch_for(name)
    losses = []
    torch.use_deterministic_algorithms(True)
    try:
        for autocast in (False, True):
            objective = build(name, changes)
            x = logits.clone().requires_grad_()
            made = outputs(x, changes.get("activation", "tanh"), features)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                for progress in (0.2, 0.9):
                    scored = objective(made, labels, progress)
            scored.loss.backward()
            losses.append((scored.loss, x.grad))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(losses[0][0], losses[1][0])
    assert (losses[0][1] is None) == (losses[1][1] is None)
    assert losses[0][1] is None or torch.equal(losses[0][1], losses[1][1])


@pytest.mark.parametrize(("name", "changes"), EVERY)
def test_a_state_is_taken_up_exactly(name: str, changes: dict[str, Any]) -> None:
    logits, features, labels = batch_for(name)
    made = outputs(logits, changes.get("activation", "tanh"), features)
    whole, resumed = build(name, changes), build(name, changes, seed=5)
    whole(made, labels, 0.4)
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(whole(made, labels, 0.5).loss, resumed(made, labels, 0.5).loss)


@pytest.mark.parametrize(("name", "changes"), EVERY)
def test_several_labels_are_for_multilabel(name: str, changes: dict[str, Any]) -> None:
    logits, features, _ = batch_for(name)
    several = torch.eye(4).repeat(2, 1)
    objective = build(name, changes)
    if name == "multilabel":
        assert objective(outputs(logits, features_DF=features), several, 0.0).loss.isfinite()
    else:
        with pytest.raises(TrainingError, match=r"shape \(8, 4\), and this objective takes one class number a picture"):
            objective(outputs(logits, features_DF=features), several, 0.0)


@pytest.mark.parametrize(("name", "changes"), EVERY)
def test_every_objective_says_what_it_is(name: str, changes: dict[str, Any]) -> None:
    objective = build(name, changes)
    said = objective.describe()
    assert said and "\n" not in said
    if objective.margin is not None:
        assert f"margin {objective.margin:g}" in said
    assert (objective.margin is None) == (name in ("classification", "multilabel", "central", "self"))


def test_the_phrases() -> None:
    assert build("triplet", {"margin": 8.0}).describe() == "triplet, batch-all, margin 8 (2 bits)"
    assert (
        build("classification", {}).describe()
        == "classification through pooled features (codes are fitted to them afterwards)"
    )
    assert build("self", {}).describe() == "self-supervised, two views a picture, temperature 0.3, balance 1"
    assert build("triplet", {"margin": 8.0, "classify": 0.5}).describe() == (
        "triplet, batch-all, margin 8 (2 bits), beside 0.5 × classification through pooled features"
    )
    assert build("dtsh", {"nested": True}).describe().endswith("bits; nested in 16, 24 bits")


# ---- settings


CHANGED: dict[str, Any] = {
    "margin": 8.0, "mining": "hard", "hinge": "softplus", "sign_weight": 1.0, "proxy_weight": 1.0, "memory": 64,
    "temperature": 0.1, "through": "codes", "classify": 0.5, "code_gradient": 0.5, "classify_first": 2, "head_start": "random",
    "batch_size": 64, "dropout": 0.5,
    "classes_per_batch": 4, "pictures_per_class": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("setting", CHANGED)
def test_a_setting_that_is_not_read_is_refused(name: str, setting: str) -> None:
    changes = {"objective": name, setting: CHANGED[setting]}
    if name in READ_BY[setting]:
        TrainingOptions(**changes)
    else:
        with pytest.raises(
            UsageError, match=rf"--{setting.replace('_', '-')} is .*, but --objective {name} does not read it"
        ):
            TrainingOptions(**changes)


@pytest.mark.parametrize("name", ["classification", "multilabel"])
@pytest.mark.parametrize("changes", [{"balance": 1.0}, {"quantisation": 1.0}, {"nested": True}])
def test_what_is_about_codes_is_refused_where_codes_are_not_trained(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=rf"--{next(iter(changes))} is about codes, .* add --through codes, or leave it out"
    ):
        TrainingOptions(objective=name, **changes)
    TrainingOptions(objective=name, through="codes", **changes)


def test_every_setting_that_can_go_unread_is_tried() -> None:
    assert set(CHANGED) == set(READ_BY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "easy"}, "--objective is 'easy'; choose one of triplet, classification"),
        ({"hinge": "square"}, "--hinge is 'square'"),
        ({"sign_weight": -1.0}, "--sign-weight is -1.0; it must be at least 0"),
        ({"proxy_weight": math.nan}, "--proxy-weight is nan"),
        ({"memory": -1}, "--memory is -1"),
        ({"balance": math.inf}, "--balance is inf"),
        ({"quantisation": -0.1}, "--quantisation is -0.1"),
        ({"objective": "self", "temperature": 0.0}, "--temperature is 0.0; it must be above 0"),
        ({"classify": 0.0}, "--classify is 0 and --code-gradient 0, so nothing would train the backbone"),
        ({"classify_first": 30}, "--classify-first is 30 of 30 epochs, which leaves none for --objective triplet"),
        ({"classify_first": -1}, "--classify-first is -1"),
        ({"head_start": "pca"}, "--head-start is 'pca'; choose one of itq, random"),
        ({"nested": True, "code_size": 16}, "--nested needs a code of more than 16 bits, and --code-size is 16"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingOptions(**changes)


# ---- margins


def naive_guarantee(n_codes: int, bits: int) -> int:
    best = 0
    for d in range(1, bits + 2):
        if n_codes * sum(math.comb(bits, i) for i in range(d)) <= 2**bits:
            best = d
    return best


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 40))
def test_guaranteed_distance(n_codes: int, bits: int) -> None:
    assert guaranteed_distance(n_codes, bits) == naive_guarantee(n_codes, bits)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16, 32, 48, 64, 128, 1024])
def test_auto_margins_fall_with_the_number_of_classes_and_grow_with_the_code(bits: int) -> None:
    many = [2, 3, 5, 10, 30, 100, 1000, 10_000, 1_000_000]
    closed = [auto_bits(task="closed", n_classes=n, code_size=bits) for n in many]
    assert closed == sorted(closed, reverse=True) and bits / 4 <= closed[-1] and closed[0] == bits / 2
    unseen = {auto_bits(task="unseen", n_classes=n, code_size=bits) for n in many}
    assert len(unseen) == 1 and 0 < min(unseen) <= min(4, bits / 4) and (bits < 8 or min(unseen) >= 2)
    for task in ("closed", "unseen"):
        assert auto_bits(task=task, n_classes=30, code_size=bits) <= auto_bits(
            task=task, n_classes=30, code_size=2 * bits
        )


def test_auto_margins_as_published() -> None:
    bits = {n: auto_bits(task="closed", n_classes=n, code_size=64) for n in (2, 10, 100, 10_000)}
    assert bits == {2: 32, 10: 27, 100: 23, 10_000: 17}
    assert [auto_bits(task="unseen", n_classes=98, code_size=k) for k in (4, 16, 32, 48, 64, 128)] == [1, 2, 2, 3, 4, 4]
    assert build("triplet", {}, code_size=64).margin == 4 * auto_bits(task="closed", n_classes=4, code_size=64)
    assert build("triplet", {"activation": "sigmoid"}).margin == auto_bits(task="closed", n_classes=4, code_size=24)
    assert build("cosine", {}).margin == 0.2 and build("dtsh", {"margin": 3.5}).margin == 3.5


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_tiny_codes_and_batches(name: str, bits: int) -> None:
    classes = 2
    options = TrainingOptions(objective=name, code_size=bits)
    objective = build_objective(options, n_classes=classes, feature_size=5, task="closed")
    logits = torch.randn(2, bits, requires_grad=True)
    labels = torch.tensor([0, 0] if name == "self" else [0, 1])
    loss = objective(outputs(logits, features_DF=torch.randn(2, 5)), labels, 0.5).loss
    assert loss.isfinite()
