"""A binary code for every class, as far from those of the other classes as can be had.

Shapes: C classes, K bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hashret.errors import TrainingError
from hashret.training.objectives.margins import guaranteed_distance

Codes = NDArray[np.int8]

_COMPARISONS = 1 << 28
"""About how many pairs of words the search for a code book may compare: a second of one core at 64 bits."""
_MOST_DRAWS, _DRAWN_AT_ONCE, _SIGN_DRAWS = 1024, 256, 64


def class_codes(n_classes: int, code_size: int, seed: int = 0) -> Codes:
    """Distinct codes (C, K) of ±1, the same for the same seed on every machine.

    - Up to 2K classes where a Hadamard matrix of order K can be made (`hadamard`): rows of it, each or its negative, beyond K
      classes rows and their negatives: all K/2 or K bits apart, which no more than 2K codes can be (Plotkin). Of some random
      choices of signs the one is taken that keeps every bit from being the same for too many classes.
    - Up to half of all words: codes drawn at random, each kept when it is at least d bits from those before. d starts at
      Plotkin's bound and is lowered whenever too few of the drawn codes can be kept; it cannot fall below what
      Gilbert and Varshamov guarantee for 2C codes, where at least every second word can be kept.
    - Beyond: a random selection of all words.

    TrainingError for more classes than words. Sources: Yuan et al., "Central Similarity Quantization", 2020 (Hadamard rows
    and random codes as centres); Plotkin 1960; Gilbert 1952.
    """
    if code_size < 64 and n_classes > 1 << code_size:
        raise TrainingError(
            f"{n_classes} classes cannot have codes of their own in {code_size} bits; raise --code-size to "
            f"{(n_classes - 1).bit_length()} or more"
        )
    rng = np.random.default_rng([seed, n_classes, code_size])
    matrix = hadamard(code_size) if n_classes <= 2 * code_size else None
    if matrix is not None and n_classes <= code_size:
        rows = matrix[rng.permutation(code_size)[:n_classes]]
        signs = rng.choice(np.array([-1, 1], np.int8), (_SIGN_DRAWS, n_classes))
        uneven = abs(signs.astype(np.int64) @ rows).max(axis=1)
        rows *= signs[uneven.argmin(), :, None]
        return rows
    if matrix is not None:
        both = np.concatenate([matrix, -matrix])
        return both[rng.permutation(2 * code_size)[:n_classes]]
    if code_size < 63 and 2 * n_classes > 1 << code_size:
        words = rng.permutation(1 << code_size)[:n_classes]
        return np.where((words[:, None] >> np.arange(code_size)) & 1, 1, -1).astype(np.int8)
    return _packed_at_random(n_classes, code_size, rng)


def nested_class_codes(n_classes: int, lengths: Sequence[int], seed: int = 0) -> Codes:
    """Codes (C, K) of ±1, K the last of the rising `lengths`, whose prefixes of each length are class codes as well.

    They are class codes of the first length, joined to class codes of what each further length adds: then no bit is asked
    to be 1 by one prefix and 0 by another, and the least distances add up. Where an addition has fewer words than there are
    classes, classes share words there. One length gives `class_codes`. TrainingError for more classes than words of the
    first length.
    """
    parts = [class_codes(n_classes, lengths[0], seed)]
    for shorter, longer in pairwise(lengths):
        words = class_codes(min(n_classes, 1 << (longer - shorter)), longer - shorter, seed + longer)
        parts.append(words[np.random.default_rng([seed, longer]).permutation(n_classes) % len(words)])
    return np.concatenate(parts, axis=1)


def hadamard(order: int) -> Codes | None:
    """A matrix (K, K) of ±1 with orthogonal rows, None where none of the two constructions gives one.

    They give the orders 2^a and 2^a · (q + 1) for primes q = 3 mod 4: of 4, 8, 12, … 128 all but 28, 36, 52, 56, 76, 92,
    100, 112, 116 and 124. Sources: Sylvester 1867 (doubling); Paley 1933 (quadratic residues).
    """
    if order == 1:
        return np.ones((1, 1), np.int8)
    if order % 4 == 0 and _is_prime(order - 1):
        return _paley(order - 1)
    half = hadamard(order // 2) if order % 2 == 0 else None
    return None if half is None else np.block([[half, half], [half, -half]])


@dataclass(frozen=True)
class Separation:
    """The least and the mean Hamming distance between two codes of different classes, in bits."""

    least: int
    mean: float


def separation(codes_CK: Codes) -> Separation:
    """How far apart the codes are, over all pairs; both numbers are the code size where there is no pair."""
    n, code_size = codes_CK.shape
    if n < 2:
        return Separation(code_size, float(code_size))
    codes = codes_CK.astype(np.float32)
    least, total = code_size, 0.0
    for start in range(0, n, _DRAWN_AT_ONCE):
        rows = codes[start : start + _DRAWN_AT_ONCE]
        distances = (code_size - rows @ codes[start:].T) / 2
        above = np.triu(np.ones(distances.shape, bool), 1)
        total += float(distances[above].sum(dtype=np.float64))
        least = min(least, int(distances[above].min(initial=code_size)))
    return Separation(least, total / (n * (n - 1) / 2))


def _packed_at_random(n_classes: int, code_size: int, rng: np.random.Generator) -> Codes:
    # The more classes, the fewer words can be tried for each.
    draws = min(_MOST_DRAWS, max(2, _COMPARISONS // n_classes**2))
    at_once = max(draws, _DRAWN_AT_ONCE)
    distance = code_size if n_classes < 2 else code_size * n_classes // (2 * (n_classes - 1))
    least = guaranteed_distance(2 * n_classes, code_size)
    # Products of ±1 are whole numbers, exact in float32 whatever the order of the sum.
    codes = np.empty((n_classes, code_size), np.float32)
    n = 0
    while n < n_classes:
        words = rng.integers(0, 2, (at_once, code_size), dtype=np.int8).astype(np.float32) * 2 - 1
        most_alike = code_size - 2 * distance
        before = n
        for word in words[(words @ codes[:n].T).max(axis=1, initial=-code_size) <= most_alike]:
            if n < n_classes and (codes[before:n] @ word).max(initial=-code_size) <= most_alike:
                codes[n] = word
                n += 1
        if (n - before) * draws < at_once and distance > least:
            distance -= 1
    return codes.astype(np.int8)


def _paley(q: int) -> Codes:
    """Order q + 1, for a prime q = 3 mod 4: the identity plus a skew matrix of quadratic residues."""
    residues = np.full(q, -1, np.int8)
    residues[np.arange(1, q) ** 2 % q] = 1
    residues[0] = 0
    numbers = np.arange(q)
    skew = np.zeros((q + 1, q + 1), np.int8)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = residues[(numbers[:, None] - numbers[None, :]) % q]
    return skew + np.eye(q + 1, dtype=np.int8)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
