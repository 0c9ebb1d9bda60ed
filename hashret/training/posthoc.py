"""Codes without training: directions fitted to float features, whose signs are the bits. No labels are looked at.

Features are scaled to length 1 and centred; logits are their products with the directions. Three ways to choose those:

    itq        principal components, turned so that values come as near to +-1 as a rotation can bring them
               (Gong & Lazebnik 2011, Iterative Quantization)
    pca_sign   principal components as they are
    lsh        random directions, normally distributed (Charikar 2002)

More bits than there are principal components (fewer numbers or pictures than bits): further directions would hold nothing but
rounding, so `itq` goes on with random rotations of the same components, as many as are needed (ITQ from other starts would end
near what it found before, and repeat bits). `pca_sign` leaves the rest 0.
Where all features are equal there is nothing to centre or to turn, and `itq` is `lsh` about the origin.

Shape suffixes: N vectors, D numbers of a vector, R principal components, K bits, C components that are turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hashret.data.embeddings import Embeddings
from hashret.model.heads import ProjectionHead
from hashret.model.projection import unit_vectors

Floats = npt.NDArray[np.float32]

SAMPLE = 50_000
"""Vectors that are looked at most; where there are more, so many are drawn."""
ITERATIONS = 50
"""Of ITQ, as in its source."""

_NOISE = 1e-5
"""A component of vectors of length 1 that deviates less is rounding: float32 keeps seven digits."""
_ROWS_AT_ONCE = 4096

Report = Callable[[], object]
"""Called after every iteration."""


@dataclass(frozen=True)
class Principal:
    """Vectors of length 1, less their mean, and the components along which they vary, in descending order."""

    centred_ND: Floats
    mean_D: Floats
    components_RD: Floats


def principal_components(vectors: Embeddings, most: int, seed: int = 0) -> Principal:
    """The `most` first principal components of the vectors, fewer where the vectors vary along fewer.

    vectors: (N, D) floats of any length, N from 1; of more than SAMPLE rows, so many are drawn with the seed. Components whose
    deviation is rounding are left out. Each has a positive number where its largest is. Where none is left, the mean is 0.
    """
    sample = _sample(vectors, seed)
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = sample - mean
    variances, components = _eigen(centred)
    kept = np.flatnonzero(variances > _NOISE**2)[:most]
    if not len(kept):
        return Principal(sample, np.zeros_like(mean), np.empty((0, sample.shape[1]), np.float32))
    components = components[kept]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return Principal(centred, mean, (components * np.sign(largest)).astype(np.float32))


def itq(principal: Principal, code_size: int, seed: int = 0, report: Report | None = None) -> ProjectionHead:
    """A head whose directions are principal components turned by ITQ."""
    width = min(code_size, len(principal.components_RD))
    if width == 0:
        return lsh(principal, code_size, seed)
    rng = np.random.default_rng([seed, code_size])
    components = principal.components_RD[:width]
    values = principal.centred_ND @ components.T
    rotations = [itq_rotation(values, rng, report)[0]]
    while len(rotations) * width < code_size:
        rotations.append(random_rotation(width, rng))
    turned = np.concatenate([rotation.T.astype(np.float32) @ components for rotation in rotations])
    return _head(principal.mean_D, turned[:code_size])


def pca_sign(principal: Principal, code_size: int, seed: int = 0) -> ProjectionHead:
    """A head whose directions are principal components; a bit for which there is none is always 0."""
    directions = np.zeros((code_size, len(principal.mean_D)), np.float32)
    found = principal.components_RD[:code_size]
    directions[: len(found)] = found
    return _head(principal.mean_D, directions)


def lsh(principal: Principal, code_size: int, seed: int = 0) -> ProjectionHead:
    """A head of random directions of length 1; the first bits of a longer code are those of a shorter one."""
    directions = np.random.default_rng(seed).standard_normal((code_size, len(principal.mean_D)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return _head(principal.mean_D, directions.astype(np.float32))


def itq_rotation(
    values_NC: Floats, rng: np.random.Generator, report: Report | None = None
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """The rotation (C, C) that ITQ turns centred values by, and the quantisation loss before each iteration.

    In turns the signs of the turned values are taken, and the rotation that brings the values nearest to them (the orthogonal
    Procrustes problem), from a random rotation on. The loss, the squared distance of turned values and signs, never rises.
    """
    rotation = random_rotation(values_NC.shape[1], rng)
    losses = []
    signs_NC = np.empty_like(values_NC)
    constant = values_NC.size + float(np.square(values_NC, dtype=np.float64).sum())
    for _ in range(ITERATIONS):
        np.matmul(values_NC, rotation.astype(np.float32), out=signs_NC)
        np.copysign(np.float32(1), signs_NC, out=signs_NC)
        products_CC = (values_NC.T @ signs_NC).astype(np.float64)
        # |sign - value|^2 = 1 - 2 sign value + value^2, and a rotation keeps the sum of squares.
        losses.append(constant - 2 * float((rotation * products_CC).sum()))
        left, _, right = np.linalg.svd(products_CC)
        rotation = left @ right
        if report is not None:
            report()
    return rotation, losses


def random_rotation(width: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """An orthogonal matrix (width, width), every one equally likely (QR of normal numbers, signs put right: Stewart 1980)."""
    q, r = np.linalg.qr(rng.standard_normal((width, width)))
    rotation: npt.NDArray[np.float64] = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return rotation


def sampled_rows(n: int, seed: int) -> npt.NDArray[np.int64]:
    """Which of n vectors are looked at, ascending: all, or SAMPLE of them drawn with the seed."""
    if n <= SAMPLE:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, SAMPLE, replace=False))


def _sample(vectors: Embeddings, seed: int) -> Floats:
    """At most SAMPLE of the vectors, in their order, of length 1."""
    rows = sampled_rows(len(vectors), seed)
    sample = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        sample[start : start + _ROWS_AT_ONCE] = unit_vectors(vectors[rows[start : start + _ROWS_AT_ONCE]])
    return sample


def _eigen(centred_ND: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Variances (R,), descending, and components (R, D) of length 1; R is the smaller of N and D."""
    n, dim = centred_ND.shape
    if n < dim:
        # Fewer vectors than numbers: the same from their products with each other, (N, N) instead of (D, D).
        wide = centred_ND.astype(np.float64)
        values, vectors = np.linalg.eigh(wide @ wide.T)
        components = vectors.T @ wide
        lengths = np.linalg.norm(components, axis=1, keepdims=True)
        components = np.divide(components, lengths, out=np.zeros_like(components), where=lengths > 0)
    else:
        products: npt.NDArray[Any] = np.zeros((dim, dim))
        for start in range(0, n, _ROWS_AT_ONCE):
            wide = centred_ND[start : start + _ROWS_AT_ONCE].astype(np.float64)
            products += wide.T @ wide
        values, vectors = np.linalg.eigh(products)
        components = vectors.T
    return values[::-1] / n, components[::-1]


def _head(mean_D: Floats, directions_KD: Floats) -> ProjectionHead:
    head = ProjectionHead(len(mean_D), len(directions_KD))
    head.load_state_dict({"mean": torch.from_numpy(mean_D), "directions": torch.from_numpy(directions_KD)})
    return head
