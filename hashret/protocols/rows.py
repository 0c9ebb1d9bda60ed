"""What is scored side by side for each model: its codes and features, and what they have to beat.

Beside a model's own rows: ITQ and LSH fitted to its features on the training pictures, ITQ fitted to those of the searched
pictures, the features its network had before it was trained, raw pixels, and random codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret.codes import bytes_per_code
from hashret.encoding import encode_table
from hashret.evaluation.compare import Asymmetric, Representation, TwoStage
from hashret.evaluation.controls import pixel_vectors, untrained_features
from hashret.model.folder import epoch_folder
from hashret.model.hasher import Hasher, build
from hashret.model.heads import ProjectionHead
from hashret.model.projection import codes_of
from hashret.protocols.card import FLOAT, HASH
from hashret.protocols.parts import Parts
from hashret.training import posthoc
from hashret.training.options import TrainingOptions
from hashret.training.runs import RUN_FILE, Run

CODES, ASYMMETRIC, FEATURES, TWO_STAGE = "codes", "asymmetric", "features", "two-stage"
ITQ, LSH, GALLERY_ITQ, FROZEN, PIXELS, RANDOM = "itq", "lsh", "itq of the gallery", "frozen", "pixels", "random"
CONTROLS = (ITQ, LSH, GALLERY_ITQ, FROZEN, PIXELS, RANDOM)
SHORTLIST = 100
"""Codes that two-stage search ranks anew."""


@dataclass(frozen=True)
class Row:
    """One line of a result: which model it is of, what stands for the pictures, and the bits of its codes."""

    model: str
    kind: str
    representation: Representation

    @property
    def bits(self) -> int | None:
        """Bits of its codes; None for floats."""
        return self.representation.code_size


def rows_of_model(
    name: str,
    of: str,
    hasher: Hasher,
    parts: Parts,
    code_sizes: Sequence[int],
    valid: Callable[[slice], NDArray[np.bool_]],
    *,
    workplace: Path,
    workers: int | None,
) -> list[Row]:
    """The rows of one model. A float model has no codes of its own; codes of `code_sizes` are fitted to its features.

    valid: which gallery pictures count for some queries, as the rule of the gallery says.
    """
    tested = np.union1d(parts.queries, parts.gallery)
    everything = np.union1d(tested, parts.train)
    encoded = encode_table(
        hasher,
        parts.table.select(everything),
        what=("codes", "features", "logits"),
        workers=workers,
        resume_folder=workplace,
        precision="float32",  # scores of a protocol are compared between machines
    )
    assert encoded.codes is not None and encoded.features is not None and encoded.logits is not None
    queries, gallery, train = (
        np.searchsorted(everything, rows) for rows in (parts.queries, parts.gallery, parts.train)
    )

    def row(kind: str, title: str, vectors: NDArray[Any], bits: int | None = None) -> Row:
        return Row(name, kind, Representation(f"{name}: {title}", vectors[queries], vectors[gallery], bits))

    rows = []
    if of != FLOAT:
        rows.append(row(CODES, "codes", encoded.codes, hasher.code_size))
        logits = encoded.logits if hasher.thresholds is None else encoded.logits - hasher.thresholds
        title = f"{name}: codes, asked with logits"
        asked = Asymmetric(title, logits[queries], encoded.codes[gallery], hasher.code_size)
        rows.append(Row(name, ASYMMETRIC, asked))
    rows.append(row(FEATURES, f"features, {hasher.feature_size:,} numbers", encoded.features))
    if of != FLOAT:
        both = TwoStage(
            f"{name}: the {SHORTLIST} nearest codes, ranked by features",
            encoded.codes[queries],
            encoded.codes[gallery],
            hasher.code_size,
            query_vectors=encoded.features[queries],
            gallery_vectors=encoded.features[gallery],
            valid=valid,
            within=SHORTLIST,
        )
        rows.append(Row(name, TWO_STAGE, both))
    for bits in code_sizes if of == FLOAT else (hasher.code_size,):
        learnt, searched = (
            posthoc.principal_components(encoded.features[of_part], bits) for of_part in (train, gallery)
        )
        # The third is what `hashret index` fits to a folder: no label is needed, and no picture is held back.
        heads = {
            (ITQ, "ITQ"): posthoc.itq(learnt, bits),
            (LSH, "LSH"): posthoc.lsh(learnt, bits),
            (GALLERY_ITQ, "ITQ of the searched pictures"): posthoc.itq(searched, bits),
        }
        for (kind, title), head in heads.items():
            rows.append(row(kind, f"{title}, {bits} bits", codes_of([head], encoded.features)[0], bits))
    return rows


def frozen_row(
    hasher: Hasher, options: TrainingOptions | None, parts: Parts, *, workplace: Path, workers: int | None
) -> Row:
    """The features of a network as it was before it was trained: with the weights it began with, or random ones (seed 0)."""
    tested = np.union1d(parts.queries, parts.gallery)
    table = parts.table.select(tested)
    if options is None or options.weights == "none":
        features = untrained_features(hasher, table, workers=workers)
        title = "features of an untrained network"
    else:
        begun = build(
            options.backbone, 1, weights=options.weights, image_size=options.image_size, mean=options.mean, std=options.std,
            resize=options.resize, mirror=hasher.preprocess.mirror, device=hasher.device,
        )  # fmt: skip
        found = encode_table(
            begun, table, what=("features",), workers=workers, resume_folder=workplace, precision="float32"
        ).features
        assert found is not None
        features, title = found, "features before training"
    queries, gallery = (np.searchsorted(tested, rows) for rows in (parts.queries, parts.gallery))
    name = f"{title}, {features.shape[1]:,} numbers"
    return Row("", FROZEN, Representation(name, features[queries], features[gallery]))


def pixels_row(parts: Parts) -> Row:
    """Pictures at 32×32 pixels, compared as they are: what scores without any model, by backgrounds, light and paint."""
    tested = np.union1d(parts.queries, parts.gallery)
    vectors = pixel_vectors(parts.table.select(tested))
    queries, gallery = (np.searchsorted(tested, rows) for rows in (parts.queries, parts.gallery))
    return Row("", PIXELS, Representation("raw pixels, 32×32", vectors[queries], vectors[gallery]))


def random_row(parts: Parts, bits: int) -> Row:
    """Random codes, the same for the same picture: what guessing scores."""
    rng = np.random.default_rng(0)
    codes = np.packbits(rng.integers(0, 2, (len(parts.table), bits), dtype=np.uint8), axis=1)
    assert codes.shape[1] == bytes_per_code(bits)
    return Row(
        "", RANDOM, Representation(f"random codes, {bits} bits", codes[parts.queries], codes[parts.gallery], bits)
    )


def run_of(folder: Path) -> Run | None:
    """The run that trained a model, also where it is one of the run's epochs; None for a model without its run."""
    for place in (folder, folder.parent.parent):
        if (place / RUN_FILE).is_file() and (place == folder or epoch_folder(place, 0).parent == folder.parent):
            return Run(place)
    return None


def kind_of(folder: Path, hasher: Hasher) -> tuple[str, bool]:
    """Whether a model is of HASH or FLOAT, by whether its codes were trained; and whether that is known.

    Its run says so. Without it the model does where it can: a classifier is kept of the objectives that are one, and what it
    reads is what was trained; a head that was fitted to features makes codes in earnest. Any other is taken for one of codes.
    """
    options = options_of(folder)
    if options is not None:
        return (HASH if options.trains_codes else FLOAT), True
    if hasher.classifier is not None:
        return (FLOAT if hasher.classifier.through == "features" else HASH), True
    return HASH, isinstance(hasher.network.head, ProjectionHead)


def options_of(folder: Path) -> TrainingOptions | None:
    """The settings that a model was trained with; None for a model without its run."""
    run = run_of(folder)
    return None if run is None else TrainingOptions.from_dict(run.read()["options"])
