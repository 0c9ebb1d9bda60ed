"""The layout of the tensor cores' binary matrix product, and the distances it makes. Nothing here needs a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.codes import bytes_per_code, pack
from hashret.hamming import reference, words
from hashret.hamming.gpu import fragments
from hashret.hamming.gpu.fragments import COLUMNS, LANES, ROWS

SHAPES = [128, 256]


def ptx_a(lane: int, i: int) -> tuple[int, int]:
    """Row and column of bit i of a lane's A, written as the PTX ISA writes it; k128 is the first half of k256."""
    row = lane >> 2 if i < 32 or 64 <= i < 96 else (lane >> 2) + 8
    column = (lane % 4) * 32 + (i & 0x1F)
    return row, column if i < 64 else column + 128


def ptx_b(lane: int, i: int) -> tuple[int, int]:
    """Row and column of bit i of a lane's B."""
    row = (lane % 4) * 32 + (i & 0x1F)
    return row if i < 32 else row + 128, lane >> 2


def ptx_c(lane: int, i: int) -> tuple[int, int]:
    """Row and column of a lane's i-th accumulator."""
    return (lane >> 2) + (0 if i < 2 else 8), (lane % 4) * 2 + (i & 1)


def bit_of(registers: np.ndarray, lane: int, i: int) -> int:
    return int(registers[lane, i // 32]) >> (i % 32) & 1


@pytest.mark.parametrize("bits", SHAPES)
def test_the_product_is_the_one_that_the_instruction_set_describes(bits: int) -> None:
    rng = np.random.default_rng(bits)
    a = rng.integers(0, 1 << 32, (LANES, bits // 64), np.uint32)
    b = rng.integers(0, 1 << 32, (LANES, bits // 128), np.uint32)
    c = rng.integers(-1000, 1000, (LANES, 4)).astype(np.int32)
    a_bits, b_bits = np.full((ROWS, bits), -1), np.full((bits, COLUMNS), -1)
    for lane in range(LANES):
        for i in range(bits // 2):
            a_bits[ptx_a(lane, i)] = bit_of(a, lane, i)
        for i in range(bits // 4):
            b_bits[ptx_b(lane, i)] = bit_of(b, lane, i)
    assert a_bits.min() == 0 and b_bits.min() == 0  # every place is held by some lane
    product = a_bits @ b_bits
    found = fragments.mma_and_popc(a, b, c)
    assert found.dtype == np.int32
    for lane in range(LANES):
        for i in range(4):
            assert found[lane, i] == c[lane, i] + product[ptx_c(lane, i)]


@pytest.mark.parametrize("bits", SHAPES)
def test_every_place_is_held_once(bits: int) -> None:
    for places, extent in ((fragments.a_places(bits), ROWS), (fragments.b_places(bits), COLUMNS)):
        held = np.ravel_multi_index(places, (extent, bits // 32))
        assert np.array_equal(np.sort(held, axis=None), np.arange(extent * bits // 32))
    held = np.ravel_multi_index(fragments.c_places(), (ROWS, COLUMNS))
    assert np.array_equal(np.sort(held, axis=None), np.arange(ROWS * COLUMNS))


@pytest.mark.parametrize(
    ("code_size", "expected"),
    [
        (1, [(0, 128)]),
        (64, [(0, 128)]),
        (65, [(0, 256)]),
        (128, [(0, 256)]),
        (192, [(0, 256), (4, 128)]),
        (1024, [(4 * i, 256) for i in range(8)]),
    ],
)
def test_steps_along_a_code(code_size: int, expected: list[tuple[int, int]]) -> None:
    assert fragments.steps(bytes_per_code(code_size)) == expected


@settings(deadline=None, max_examples=50)
@given(
    code_size=st.one_of(st.sampled_from([32, 64, 96, 128, 256, 512, 1024]), st.integers(1, 1024)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_accumulators_are_distances_and_their_sign_is_the_hit(code_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, queries = (pack(rng.random((n, code_size)) < rng.random()) for n in (ROWS, COLUMNS))
    codes[3] = queries[5]
    limits = rng.integers(0, code_size + 2, COLUMNS).astype(np.int32)
    found = fragments.below_limits(*(words.padded(x).view(np.uint32) for x in (codes, queries)), limits)
    row, column = fragments.c_places()
    distances = reference.distances(queries, codes)[column, row]
    assert np.array_equal(found + limits[column], distances)
    assert np.array_equal(found.view(np.uint32) >> 31, distances < limits[column])


@pytest.mark.parametrize("step", fragments.steps(24))
def test_the_second_half_is_the_complement_of_what_a_lane_or_its_neighbour_holds(step: fragments.Step) -> None:
    """What kernels rely on: they load each word of a code once."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 32, (ROWS, 6), np.uint32)
    queries = rng.integers(0, 1 << 32, (COLUMNS, 6), np.uint32)
    lane = np.arange(LANES)
    group, in_group = lane // 4, lane % 4
    a, b = fragments.code_registers(codes, step), fragments.query_registers(queries, step)
    if step.bits == 256:
        assert np.array_equal(a[:, :2], np.stack([codes[group, in_group], codes[group + 8, in_group]], 1))
        assert np.array_equal(a[:, 2:], ~a[:, :2])
        assert np.array_equal(b, np.stack([~queries[group, in_group], queries[group, in_group]], 1))
    else:
        flip = np.where(in_group < 2, 0, 0xFFFFFFFF).astype(np.uint32)
        held = np.stack([codes[group, 4 + in_group % 2], codes[group + 8, 4 + in_group % 2]], 1)
        assert np.array_equal(a, held ^ flip[:, None])
        assert np.array_equal(b, (~queries[group, 4 + in_group % 2] ^ flip)[:, None])
