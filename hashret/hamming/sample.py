"""A first limit for large k: search one block in sixty-four, and let the rest begin from there.

A scan that starts knowing nothing takes about k (1 + ln(n/k)) codes for near ones before it has seen the k nearest; the
distance of a rank in a sample bounds theirs at once. The rank leaves room for chance; where it was not enough, too few
codes are found, which shows, and the search is done again without a limit.

Shape suffixes: N gallery codes, B bytes of a code.
"""

from __future__ import annotations

import math

import numpy as np

from hashret.codes import Bits, Codes

BLOCK_ROWS = 512
SAMPLED_BLOCKS = 64
"""One block in so many is in the sample."""
FROM_K = 256
FROM_ROWS = 1 << 19


def samples(n: int, k: int) -> bool:
    """Whether a sample pays."""
    return k >= FROM_K and n >= FROM_ROWS and k * 4 <= n


def rank_in_sample(k: int) -> int:
    """The rank in the sample within whose distance the k nearest of all rows lie, but for a chance in some ten thousand."""
    expected = k / SAMPLED_BLOCKS
    return math.ceil(expected + 4 * math.sqrt(expected) + 8)


def sample(codes_NB: Codes, alive: Bits | None) -> tuple[Codes, Bits | None]:
    """A copy of every 64th block of rows, and their flags."""
    stride = BLOCK_ROWS * SAMPLED_BLOCKS
    whole = len(codes_NB) // stride * stride
    blocks = np.asarray(codes_NB)[:whole].reshape(-1, SAMPLED_BLOCKS, BLOCK_ROWS, codes_NB.shape[1])[:, 0]
    flags = None if alive is None else alive[:whole].reshape(-1, SAMPLED_BLOCKS, BLOCK_ROWS)[:, 0].reshape(-1)
    return np.ascontiguousarray(blocks).reshape(-1, codes_NB.shape[1]), flags
