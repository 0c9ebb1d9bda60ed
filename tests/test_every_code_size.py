"""Every size of code against the oracle, at numbers of rows, queries and neighbours chosen to hurt: all sizes in minutes.

Kernels are compiled once for each number of words; all else is arithmetic on what is left over: bits of the last word, rows
of the last block, queries of the last group, neighbours beyond the last code.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest
from test_properties import KERNELS, WAYS, computed_by, same

from hashret import hamming
from hashret.codes import Bits, Codes, pack
from hashret.hamming import reference
from hashret.hamming.linear import FoundWithin
from hashret.hamming.merge import Found
from hashret.hamming.multi_index import MultiIndex

CODE_SIZES = [*range(1, 131), *range(191, 194), *range(255, 258), *range(511, 514), 1023, 1024]
FEW_CODE_SIZES = [9, 64, 130]
"""Of these the suite that everybody runs has a glance."""
ROWS = [0, 1, 63, 64, 65, 511, 512, 513, 1025]
QUERIES = [0, 1, 2, 17, 65]
BLOCK = 512
"""Rows of which each thread takes whole multiples: up to so many, one thread does it all."""


class Oracle(NamedTuple):
    """All living rows in order of (distance, row) for each of the queries, of which an answer shows the beginning."""

    distances: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, distances_QN: np.ndarray, alive: Bits | None) -> Oracle:
        """From the distances of all queries to all rows."""
        living = np.arange(distances_QN.shape[1]) if alive is None else np.flatnonzero(alive)
        near = distances_QN[:, living]
        order = np.argsort(near, axis=1, kind="stable")
        return cls(np.take_along_axis(near, order, axis=1).astype(np.int32), living[order])

    def nearest(self, n_queries: int, k: int) -> Found:
        """The answer to the first queries."""
        missing = (0, 0), (0, max(0, k - self.rows.shape[1]))
        distances, rows = (
            np.pad(array[:n_queries, :k], missing, constant_values=-1) for array in (self.distances, self.rows)
        )
        return distances, rows

    def within(self, n_queries: int, radius: int) -> FoundWithin:
        """The same for all rows within a radius."""
        inside = self.distances[:n_queries] <= radius
        offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
        return offsets, self.distances[:n_queries][inside], self.rows[:n_queries][inside]


@functools.cache
def codes_of(bits: int) -> tuple[Codes, Codes, np.ndarray, Bits]:
    """Gallery and queries, random, about few centres or equal; all distances between them; a flag a row."""
    rng = np.random.default_rng(bits)
    n = ROWS[-1] + QUERIES[-1]
    centres = rng.random((9, bits)) < 0.5
    flipped = rng.choice([0.0, 0.05, 0.5], n)[:, None]
    codes = pack(centres[rng.integers(0, 9, n)] ^ (rng.random((n, bits)) < flipped))
    gallery, queries = codes[: ROWS[-1]], codes[ROWS[-1] :]
    return gallery, queries, reference.distances(queries, gallery), rng.random(len(gallery)) < 0.6


def each_oracle(bits: int, n: int) -> list[tuple[Codes, Codes, Bits | None, Oracle]]:
    """The first n rows, all queries, flags or none, and the oracle."""
    gallery, queries, distances, flags = codes_of(bits)
    few = np.arange(n) % 10 == 3  # so few that they are copied together first
    return [(gallery[:n], queries, alive, Oracle.of(distances[:, :n], alive)) for alive in (None, flags[:n], few)]


def counts_of(n: int) -> list[int]:
    """Neighbours to ask for."""
    return sorted({1, 10, max(1, n), n + 3})


def radii_of(bits: int) -> list[int]:
    """Radii that hold the query's own code, its centre's, about half, and all."""
    return sorted({0, bits // 8, bits // 2, bits})


def code_sizes(few: list[int]) -> pytest.MarkDecorator:
    """The few sizes, and all others as slow."""
    slow = [pytest.param(bits, marks=pytest.mark.slow) for bits in CODE_SIZES if bits not in few]
    return pytest.mark.parametrize("bits", [*few, *slow])


@code_sizes(FEW_CODE_SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel(kernel: str, bits: int) -> None:
    """On every number of threads that differ; numpy takes query after query on one."""
    with computed_by(kernel):
        for n in ROWS:
            for gallery, queries, alive, oracle in each_oracle(bits, n):
                for n_queries in QUERIES if kernel != "numpy" else QUERIES[:3]:
                    for threads in (1, 2, 3) if n > BLOCK and kernel != "numpy" else (1,):
                        options = bits, alive, threads
                        for k in counts_of(n):
                            found = hamming.search(gallery, queries[:n_queries], k, *options)
                            assert same(found, oracle.nearest(n_queries, k)), (n, n_queries, k, threads)
                        for radius in radii_of(bits):
                            found_within = hamming.search_radius(gallery, queries[:n_queries], radius, *options)
                            assert same(found_within, oracle.within(n_queries, radius)), (n, n_queries, radius, threads)


@code_sizes(FEW_CODE_SIZES)
def test_buckets(bits: int) -> None:
    """Within their budget; and, where that does not take minutes, without one: every code comes out of a bucket."""
    for n in ROWS:
        index = MultiIndex.build(codes_of(bits)[0][:n], bits)
        for gallery, queries, alive, oracle in each_oracle(bits, n):
            for n_queries in QUERIES:
                for k in counts_of(n):
                    found = index.search(queries[:n_queries], k, alive, 1 + k % 3)
                    assert same(found, oracle.nearest(n_queries, k)), (n, n_queries, k)
                for radius in radii_of(bits):
                    found_within = index.search_radius(queries[:n_queries], radius, alive)
                    assert same(found_within, oracle.within(n_queries, radius)), (n, n_queries, radius)
            if bits > 130:
                continue
            for k in counts_of(n):
                found = WAYS["buckets"].search(gallery, queries[:2], k, bits, alive)
                assert same(found, oracle.nearest(2, k)), (n, k)
            for radius in radii_of(bits):
                found_within = WAYS["buckets"].within(gallery, queries[:2], radius, bits, alive)
                assert same(found_within, oracle.within(2, radius)), (n, radius)
