"""Pairs of near codes from substrings that they share: for small radii hundreds of times less work, and exact.

Two codes at most r bits apart are equal in at least one of r + 1 substrings, for r bits cannot lie in all of them. So rows are
put into buckets by each substring, and only rows of one bucket are compared. A pair is taken from the first substring in which
it is equal. How many pairs share a bucket is counted before it is decided: codes that are much alike are left to the tables.

    masks (S, W)            the bits of each substring
    starts (S, buckets + 1) where each bucket begins in `rows`
    rows (S, N) int32       the rows of each bucket, ascending
    extracts (S, N) uint32  32 other bits of each of those rows: read one after the other they tell nearly all pairs apart,
                            and the codes, which lie anywhere in memory, are fetched for few
    halves (S,)             which half of which word these are

Shape suffixes: N codes, W words of a code, S substrings, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hashret.hamming import words
from hashret.hamming.compiled import kernel
from hashret.hamming.rows import popcount
from hashret.hamming.words import Words

LEAST_ROWS = 1 << 16
"""Below, the tables take less than finding the buckets does: a tenth of a microsecond a row and substring."""
LEAST_BITS = 10
"""Shorter substrings are shared by too many."""
COMPARISON_COST = 120
"""Pairs that the tables compare (40 a ns) while one pair of a bucket is looked at."""
MOST_BYTES = 1 << 30
"""Memory that buckets may take: they are not worth more."""

U = np.uint64


class Pairs(NamedTuple):
    """Pairs of codes, ascending by (first, second): first < second, int64 (P,), and their distances, int32 (P,)."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]


@kernel
def bucket_of(codes, row, masks, part, width, shift):  # type: ignore[no-untyped-def]
    """The bucket of a row by one substring; equal substrings share one, and others may by chance."""
    mixed = U(0)
    for w in range(len(width)):
        mixed = (mixed ^ (codes[row * len(width) + w] & masks[part, w])) * U(0x9E3779B97F4A7C15)
        mixed ^= mixed >> U(29)
    return np.int64((mixed * U(0x9E3779B97F4A7C15)) >> shift)


@kernel
def half_of(codes, row, half, width):  # type: ignore[no-untyped-def]
    """32 bits of a row: the lower or the upper half of a word."""
    return (codes[row * len(width) + (half >> 1)] >> U(32 * (half & 1))) & U(0xFFFFFFFF)


@kernel
def fill(codes, masks, halves, width, shift, starts, rows, extracts):  # type: ignore[no-untyped-def]
    """Sort the rows into buckets by counting. starts (S, buckets + 2) comes zeroed; its last column is left over."""
    n = codes.size // len(width)
    for part in range(masks.shape[0]):
        for row in range(n):
            starts[part, bucket_of(codes, row, masks, part, width, shift) + 2] += 1
        for bucket in range(1, starts.shape[1]):
            starts[part, bucket] += starts[part, bucket - 1]
        for row in range(n):
            # While a bucket is filled its end stands in place of the next one's start, where it belongs afterwards.
            after = bucket_of(codes, row, masks, part, width, shift) + 1
            rows[part, starts[part, after]] = row
            extracts[part, starts[part, after]] = half_of(codes, row, halves[part], width)
            starts[part, after] += 1


@kernel
def first_equal_part(codes, i, j, masks, parts, width):  # type: ignore[no-untyped-def]
    """The first of so many substrings in which two rows are equal; `parts` when there is none."""
    for part in range(parts):
        different = U(0)
        for w in range(len(width)):
            different |= (codes[i * len(width) + w] ^ codes[j * len(width) + w]) & masks[part, w]
        if different == U(0):
            return part
    return parts


@kernel
def near_in_buckets(  # type: ignore[no-untyped-def]
    codes, first, stop, radius, masks, halves, width, shift, starts, rows, extracts, found
):
    """How many (row, later row, distance) were written to `found`, in no order; -1 when they are more than it holds."""
    count = 0
    for i in range(first, stop):
        for part in range(masks.shape[0]):
            bucket = bucket_of(codes, i, masks, part, width, shift)
            extract = half_of(codes, i, halves[part], width)
            # Rows of a bucket ascend: from its end, until they are no later than this one.
            for place in range(starts[part, bucket + 1] - 1, starts[part, bucket] - 1, -1):
                j = np.int64(rows[part, place])
                if j <= i:
                    break
                if popcount(extract ^ U(extracts[part, place])) > U(radius):
                    continue
                distance = U(0)
                for w in range(len(width)):
                    distance += popcount(codes[i * len(width) + w] ^ codes[j * len(width) + w])
                if distance > U(radius) or first_equal_part(codes, i, j, masks, part + 1, width) != part:
                    continue
                if count == found.shape[0]:
                    return -1
                found[count, 0] = i
                found[count, 1] = j
                found[count, 2] = np.int64(distance)
                count += 1
    return count


@dataclass(frozen=True)
class Buckets:
    """The rows of codes in buckets, one set of them a substring: the arrays above."""

    radius: int
    codes: Words
    """Flat."""
    masks: Words
    halves: npt.NDArray[np.int64]
    width: tuple[int, ...]
    shift: np.uint64
    starts: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]
    extracts: npt.NDArray[np.uint32]

    @classmethod
    def if_few_share(cls, codes_NW: Words, radius: int, code_size: int) -> Buckets | None:
        """Buckets for this radius, or None where comparing all pairs is as quick. 8 to 12 bytes a code and substring."""
        n, n_words = codes_NW.shape
        parts = radius + 1
        if not LEAST_ROWS <= n < 2**31 or code_size // parts < LEAST_BITS or 12 * parts * n > MOST_BYTES:
            return None
        masks = words.padded(
            np.packbits(np.arange(code_size) * parts // code_size == np.arange(parts)[:, None], axis=1)
        )
        bucket_bits = min(code_size // parts, n.bit_length() - 1)
        starts = np.zeros((parts, (1 << bucket_bits) + 2), np.int32)
        made = cls(
            radius,
            codes_NW.reshape(-1),
            masks,
            _other_halves(masks),
            (0,) * n_words,
            U(64 - bucket_bits),
            starts,
            np.empty((parts, n), np.int32),
            np.empty((parts, n), np.uint32),
        )
        fill(made.codes, masks, made.halves, made.width, made.shift, starts, made.rows, made.extracts)
        sizes = np.diff(starts[:, :-1]).astype(np.int64)
        shared = int((sizes * (sizes - 1) // 2).sum())
        return made if shared * COMPARISON_COST < n * (n - 1) // 2 else None

    def pairs(self, first: int, stop: int, most: int) -> Pairs | None:
        """The near pairs whose first row is in first..stop, or None when they are more than `most`."""
        found = np.empty((most, 3), np.int64)
        by_substring = self.masks, self.halves, self.width, self.shift, self.starts, self.rows, self.extracts
        count = near_in_buckets(self.codes, first, stop, self.radius, *by_substring, found)
        if count < 0:
            return None
        found = found[:count]
        found = found[np.lexsort((found[:, 1], found[:, 0]))]
        return Pairs(found[:, 0].copy(), found[:, 1].copy(), found[:, 2].astype(np.int32))


def _other_halves(masks_SW: Words) -> npt.NDArray[np.int64]:
    """For each substring (S) the half word with most bits of other substrings: 2w is the lower half of word w."""
    others = np.bitwise_or.reduce(masks_SW, axis=0) & ~masks_SW
    halves = np.stack([others & U(0xFFFFFFFF), others >> U(32)], axis=2).reshape(len(masks_SW), -1)
    found: npt.NDArray[np.int64] = np.bitwise_count(halves).argmax(axis=1).astype(np.int64)
    return found
