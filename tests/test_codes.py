"""The bit contract, judged by written-out bytes and by numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret import codes
from hashret.errors import CodeError

SIZES = [1, 7, 8, 9, 63, 64, 65, 127, 128, 1000, 1024]


def test_written_out_bytes() -> None:
    logits = np.array([[1.0, -1, 2, 0, 0.5, -3, -0.0, 1e-30, 7], [-1, -1, -1, -1, -1, -1, -1, -1, -1]], np.float32)
    assert codes.binarize(logits).tolist() == [[0b10101001, 0b10000000], [0, 0]]


def test_a_logit_equal_to_its_threshold_gives_zero() -> None:
    thresholds = np.array([0.5, -0.5], np.float32)
    assert codes.binarize(np.array([[0.5, -0.4]], np.float32), thresholds).tolist() == [[0b01000000]]
    assert codes.binarize(np.array([[0.6, -0.5]], np.float32), thresholds).tolist() == [[0b10000000]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_errors(bad: float) -> None:
    logits = np.zeros((3, 8), np.float32)
    logits[1, 2] = bad
    with pytest.raises(CodeError, match="row 1"):
        codes.binarize(logits)
    with pytest.raises(CodeError, match="threshold"):
        codes.binarize(np.zeros((3, 8)), np.full(8, bad))


@pytest.mark.parametrize(
    "logits", [np.zeros(4), np.zeros((2, 2), bool), np.zeros((2, 0)), np.zeros((2, 1025)), np.array([["a"]])]
)
def test_what_is_not_a_table_of_logits_is_refused(logits: np.ndarray) -> None:
    with pytest.raises(CodeError):
        codes.binarize(logits)


def test_thresholds_of_another_length_are_refused() -> None:
    with pytest.raises(CodeError, match="one for each of the 4"):
        codes.binarize(np.zeros((2, 4)), np.zeros(3))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 1024), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_pack_and_unpack_are_inverse(code_size: int, n: int, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, (n, code_size)).astype(bool)
    packed = codes.pack(bits)
    assert packed.shape == (n, codes.bytes_per_code(code_size)) and packed.dtype == np.uint8
    assert (codes.unpack(packed, code_size) == bits).all()
    assert (codes.pack(bits.astype(np.float32)) == packed).all()
    assert (codes.binarize(np.where(bits, 0.1, -0.1)) == packed).all()


@pytest.mark.parametrize("code_size", [0, -1, 1025, 8.0, True, "8"])
def test_code_sizes_out_of_range_are_refused(code_size: object) -> None:
    with pytest.raises(CodeError, match="from 1 to 1024"):
        codes.bytes_per_code(code_size)  # type: ignore[arg-type]


def test_check_refuses_dtype_shape_and_tail() -> None:
    good = np.zeros((2, 2), np.uint8)
    assert codes.check_codes(good, 12) is good
    with pytest.raises(CodeError, match="dtype int64"):
        codes.check_codes(good.astype(int), 12)
    with pytest.raises(CodeError, match=r"\(N, 3\)"):
        codes.check_codes(good, 17)
    with pytest.raises(CodeError, match="shape"):
        codes.check_codes(good[0], 12)
    good[1, 1] = 1
    with pytest.raises(CodeError, match="last 4 bits"):
        codes.check_codes(good, 12)
    codes.check_codes(good, 16)


def test_pack_refuses_what_is_not_a_bit() -> None:
    with pytest.raises(CodeError, match="0 and 1"):
        codes.pack(np.array([[0, 1, 2]]))
    with pytest.raises(CodeError, match="shape"):
        codes.pack(np.array([0, 1]))


@pytest.mark.parametrize("code_size", SIZES)
def test_statistics_agree_with_numpy(code_size: int) -> None:
    rng = np.random.default_rng(code_size)
    bits = rng.random((300, code_size)) < rng.random(code_size)
    stats = codes.statistics(codes.pack(bits), code_size)
    assert np.allclose(stats.balance, bits.mean(axis=0))
    assert np.isclose(stats.mean_imbalance, np.abs(bits.mean(axis=0) - 0.5).mean())
    assert stats.distinct_codes == len(np.unique(bits, axis=0))
    varies = bits.any(axis=0) & ~bits.all(axis=0)
    assert stats.dead_bits == (~varies).sum()
    if varies.sum() > 1:
        expected = np.abs(np.corrcoef(bits[:, varies].T.astype(float)))[np.triu_indices(varies.sum(), 1)]
        assert np.isclose(stats.mean_correlation, expected.mean())
        assert np.isclose(stats.max_correlation, expected.max())
    assert json.loads(json.dumps(stats.as_dict()))["n"] == 300


def test_statistics_of_a_collapsed_and_of_a_perfect_set() -> None:
    collapsed = codes.statistics(np.full((5, 2), 255, np.uint8), 16)
    assert (collapsed.dead_bits, collapsed.distinct_codes, collapsed.entropy_bits) == (16, 1, 0.0)
    assert (collapsed.mean_imbalance, collapsed.mean_correlation, collapsed.max_correlation) == (0.5, 0.0, 0.0)
    perfect = codes.statistics(codes.pack(np.array([[0, 0], [0, 1], [1, 0], [1, 1]])), 2)
    assert (perfect.entropy_bits, perfect.mean_imbalance, perfect.max_correlation) == (1.0, 0.0, 0.0)
    with pytest.raises(CodeError, match="no codes"):
        codes.statistics(np.zeros((0, 1), np.uint8), 8)


@given(n=st.integers(0, 4), code_size=st.integers(1, 40), data=st.data())
def test_a_prefix_is_the_first_bits(n: int, code_size: int, data: st.DataObject) -> None:
    bits = np.random.default_rng(code_size).integers(0, 2, (n, code_size)).astype(bool)
    length = data.draw(st.integers(1, code_size))
    assert codes.unpack(codes.prefix(codes.pack(bits), code_size, length), length).tolist() == bits[:, :length].tolist()
    with pytest.raises(
        CodeError, match=f"a prefix of {code_size + 1} bits was asked for, expected 1 to the {code_size}"
    ):
        codes.prefix(codes.pack(bits), code_size, code_size + 1)
