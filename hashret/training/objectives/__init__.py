"""What training minimises: one objective a file, all of one shape (base.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hashret.training.objectives.base import Objective, Outputs, Scored
from hashret.training.objectives.central import Central
from hashret.training.objectives.class_codes import nested_class_codes
from hashret.training.objectives.classification import Classification
from hashret.training.objectives.classified import Classified
from hashret.training.objectives.cosine import AUTO_MARGIN, Cosine
from hashret.training.objectives.dtsh import DTSH
from hashret.training.objectives.margins import auto_bits
from hashret.training.objectives.multilabel import Multilabel
from hashret.training.objectives.nested import Nested, prefixes
from hashret.training.objectives.penalties import Penalised
from hashret.training.objectives.relaxed import BIT
from hashret.training.objectives.self_supervised import SelfSupervised
from hashret.training.objectives.triplet import Triplet
from hashret.training.objectives.warm_up import WarmedUp
from hashret.training.options import READ_BY, TrainingOptions

__all__ = ["Objective", "Outputs", "Scored", "build_objective", "trained_classifier"]


def build_objective(options: TrainingOptions, *, n_classes: int, feature_size: int, task: str) -> Objective:
    """The objective that the settings ask for, for classes 0 to n_classes - 1 and the task "closed" or "unseen"."""

    book_CK: Tensor | None = None
    if options.objective in ("cosine", "central") or options.proxy_weight:
        lengths = prefixes(options.code_size) if options.nested else [options.code_size]
        book_CK = torch.from_numpy(nested_class_codes(n_classes, lengths, options.seed)).float()

    def build(code_size: int) -> Objective:
        codes_CK = None if book_CK is None else book_CK[:, :code_size].contiguous()
        bits = auto_bits(task=task, n_classes=n_classes, code_size=code_size)
        width = feature_size if options.through == "features" else code_size
        return _build(options, code_size=code_size, n_classes=n_classes, codes_CK=codes_CK, bits=bits, width=width)

    objective = Nested(options.code_size, build) if options.nested else build(options.code_size)
    balance = options.balance
    if balance == "auto":
        balance = 1.0 if options.objective == "self" else 0.0
    if balance or options.quantisation:
        objective = Penalised(
            objective, balance=balance, quantisation=options.quantisation, activation=options.activation
        )
    if options.objective in READ_BY["classify"] and (options.classify or options.codes_from):
        classifier = Classification(
            through="features", width=feature_size, n_classes=n_classes, share=options.dropout, seed=options.seed
        )
        if options.classify:
            objective = Classified(objective, classifier, weight=options.classify)
        if options.codes_from:
            objective = WarmedUp(classifier, objective, share=options.codes_from / options.epochs)
    return objective


def trained_classifier(objective: Objective) -> nn.Linear | None:
    """The layer by which an objective that is a classifier tells classes apart, of the whole code; None of any other.

    The classifier that stands beside an objective of codes is not meant: it is there for the features alone.
    """
    while isinstance(objective, Penalised | Nested):
        objective = objective.objective if isinstance(objective, Penalised) else objective.whole
    return objective.classifier if isinstance(objective, Classification | Multilabel) else None


def _build(
    options: TrainingOptions, *, code_size: int, n_classes: int, codes_CK: Tensor | None, bits: float, width: int
) -> Objective:
    """The objective for codes, or prefixes of codes, of `code_size` bits; bits: what the margin "auto" is worth."""
    if options.objective == "classification":
        return Classification(
            through=options.through, width=width, n_classes=n_classes, share=options.dropout, seed=options.seed
        )
    if options.objective == "multilabel":
        return Multilabel(
            through=options.through, width=width, n_classes=n_classes, share=options.dropout, seed=options.seed
        )
    if options.objective == "cosine":
        assert codes_CK is not None
        margin = AUTO_MARGIN if options.margin == "auto" else float(options.margin)
        return Cosine(margin=margin, codes_CK=codes_CK)
    if options.objective == "central":
        assert codes_CK is not None
        return Central(activation=options.activation, codes_CK=codes_CK)
    if options.objective == "dtsh":
        margin = bits if options.margin == "auto" else float(options.margin)
        return DTSH(margin=margin, activation=options.activation)
    if options.objective == "self":
        return SelfSupervised(temperature=options.temperature, activation=options.activation)
    margin = bits * BIT[options.activation] if options.margin == "auto" else float(options.margin)
    return Triplet(
        margin=margin,
        mining=options.mining,
        hinge=options.hinge,
        activation=options.activation,
        code_size=code_size,
        sign_weight=options.sign_weight,
        proxy_weight=options.proxy_weight,
        codes_CK=codes_CK,
        memory=options.memory,
    )
