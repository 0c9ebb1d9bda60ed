"""Codes of classes: distinct, far apart, the same each time, and quick to make."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.errors import TrainingError
from hashret.training.objectives.class_codes import class_codes, hadamard, nested_class_codes, separation
from hashret.training.objectives.margins import guaranteed_distance


def least_distance(codes: np.ndarray) -> int:
    return min((int((a != b).sum()) for i, a in enumerate(codes) for b in codes[:i]), default=codes.shape[1])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 80), st.integers(1, 40), st.integers(0, 5))
def test_any_number_of_classes_and_bits(classes: int, bits: int, seed: int) -> None:
    if classes > 2**bits:
        with pytest.raises(TrainingError, match=rf"{classes} classes cannot have codes of their own in {bits} bits"):
            class_codes(classes, bits, seed)
        return
    codes = class_codes(classes, bits, seed)
    assert codes.shape == (classes, bits) and codes.dtype == np.int8 and set(np.unique(codes)) <= {-1, 1}
    assert len(np.unique(codes, axis=0)) == classes
    assert least_distance(codes) >= max(1, guaranteed_distance(2 * classes, bits)) or classes == 1
    np.testing.assert_array_equal(codes, class_codes(classes, bits, seed))


def test_advice_is_enough() -> None:
    with pytest.raises(TrainingError, match="raise --code-size to 4 or more"):
        class_codes(9, 3)
    assert len(class_codes(16, 4)) == 16


@pytest.mark.parametrize("order", [4 * i for i in range(1, 33)])
def test_hadamard(order: int) -> None:
    matrix = hadamard(order)
    if order in (28, 36, 52, 56, 76, 92, 100, 112, 116, 124):
        assert matrix is None
    else:
        assert matrix is not None
        np.testing.assert_array_equal(matrix.astype(int) @ matrix.T.astype(int), order * np.eye(order))


def test_there_is_no_hadamard_matrix_of_other_orders() -> None:
    assert [order for order in range(1, 40) if order % 4 and hadamard(order) is not None] == [1, 2]


@pytest.mark.parametrize(
    ("classes", "bits"), [(64, 64), (128, 64), (10, 64), (24, 12), (40, 20), (2, 1), (4, 2), (37, 48)]
)
def test_few_classes_are_half_the_code_apart(classes: int, bits: int) -> None:
    apart = separation(class_codes(classes, bits))
    assert apart.least == (bits // 2 if classes > 2 else bits if classes > bits else bits // 2)


@pytest.mark.parametrize(("classes", "bits"), [(64, 64), (10, 32), (200, 64), (16, 16)])
def test_no_bit_is_constant_for_all_classes(classes: int, bits: int) -> None:
    assert abs(class_codes(classes, bits).mean(axis=0)).max() < 1


def test_separation_counts_pairs() -> None:
    codes = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (700, 24))
    distances = [int((a != b).sum()) for i, a in enumerate(codes) for b in codes[:i]]
    assert separation(codes).least == min(distances)
    assert separation(codes).mean == pytest.approx(np.mean(distances))
    assert separation(codes[:1]) == (separation(codes[:0])) and separation(codes[:1]).least == 24


def test_ten_thousand_classes_take_seconds() -> None:
    started = time.perf_counter()
    codes = class_codes(10_000, 64)
    assert time.perf_counter() - started < 30  # on a busy machine
    apart = separation(codes)
    assert apart.least >= guaranteed_distance(20_000, 64) >= 15 and 31.5 < apart.mean < 32.5


@pytest.mark.parametrize(("classes", "lengths"), [(30, [16, 32, 64]), (200, [16, 20]), (5000, [16, 32]), (10, [24])])
def test_prefixes_are_class_codes(classes: int, lengths: list[int]) -> None:
    book = nested_class_codes(classes, lengths)
    assert book.shape == (classes, lengths[-1]) and set(np.unique(book)) == {-1, 1}
    least = [separation(book[:, :length]).least for length in lengths]
    assert least[0] >= max(1, guaranteed_distance(2 * classes, lengths[0])) and least == sorted(least)
    assert abs(book.mean(axis=0)).max() < 1
    if len(lengths) == 1:
        np.testing.assert_array_equal(book, class_codes(classes, lengths[0]))


def test_too_many_classes_for_the_shortest_prefix() -> None:
    with pytest.raises(TrainingError, match="70000 classes cannot have codes of their own in 16 bits"):
        nested_class_codes(70_000, [16, 32])
