"""Pairs become groups: rows that are connected by near pairs, directly or through others. Union-find, one number a row.

Shape suffixes: N codes, B bytes and W words of a code, P pairs, G groups, M members of all groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hashret.codes import Codes
from hashret.errors import SearchError
from hashret.hamming import words
from hashret.hamming.compiled import kernel
from hashret.hamming.self_join import Pairs, Progress, Rows, living, self_join


class Groups(NamedTuple):
    """Groups of two rows or more, ordered by their smallest row; rows of a group ascend.

    offsets (G + 1) int64: those of group g are rows[offsets[g] : offsets[g + 1]]. rows (M) int64.
    """

    offsets: Rows
    rows: Rows


def groups(pairs: Iterable[Pairs], n: int) -> Groups:
    """The connected groups of `n` rows, given pairs in chunks as `self_join` yields them; rows without a pair are in none.

    A chain of near rows is one group, so its ends may be farther apart than the radius. Memory: one int64 a row, and then
    the answer. SearchError for a pair of rows that are not among the n.
    """
    components = _Components(n)
    for chunk in pairs:
        components.join(chunk.first, chunk.second)
    return components.groups()


def near_groups(
    codes_NB: npt.ArrayLike,
    radius: int,
    code_size: int | None = None,
    alive: npt.ArrayLike | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Groups:
    """The groups of `self_join`, which has the arguments, with equal codes compared once.

    A thousand equal codes are half a million pairs, but one code to compare.
    """
    codes, numbers = living(codes_NB, code_size, alive)
    if numbers is None:
        numbers = np.arange(len(codes))
    first_equal = _first_equal(codes)
    is_first = first_equal == np.arange(len(codes))
    different = numbers[is_first]
    pairs = self_join(
        codes if is_first.all() else codes[is_first], radius, code_size, threads=threads, progress=progress
    )
    components = _Components(len(np.asarray(codes_NB)))
    components.join(numbers[first_equal[~is_first]], numbers[~is_first])
    for chunk in pairs:
        components.join(different[chunk.first], different[chunk.second])
    return components.groups()


def _first_equal(codes_NB: Codes) -> Rows:
    """The first row with the same code as each row (N)."""
    columns_WN = words.padded(codes_NB).T
    order = np.lexsort(columns_WN)  # stable: the rows of equal codes ascend
    begins = np.zeros(len(order), np.bool_)
    begins[:1] = True
    for column in columns_WN:
        ascending = column[order]
        begins[1:] |= ascending[1:] != ascending[:-1]
    starts = np.flatnonzero(begins)
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
    return first


class _Components:
    """A forest of rows: the parent of a row is itself or an earlier row of its group, so a root is the smallest row."""

    def __init__(self, n: int) -> None:
        self._parent = np.arange(n)

    def join(self, first: Rows, second: Rows) -> None:
        """The rows of each pair are in one group from now on."""
        n = len(self._parent)
        # Kernels do not look whether an index is in its array.
        if len(first) != len(second):
            raise SearchError(f"pairs have {len(first)} first and {len(second)} second rows, expected as many")
        for rows in (first, second):
            if len(rows) and not 0 <= rows.min() <= rows.max() < n:
                raise SearchError(f"pairs name the rows {rows.min()} to {rows.max()}, expected rows from 0 to {n - 1}")
        _unite(np.ascontiguousarray(first, np.int64), np.ascontiguousarray(second, np.int64), self._parent)

    def groups(self) -> Groups:
        """The groups as they are now."""
        _flatten(self._parent)
        sizes = np.bincount(self._parent, minlength=len(self._parent))
        members = np.flatnonzero(sizes[self._parent] > 1)
        rows = members[np.argsort(self._parent[members], kind="stable")]
        offsets = np.concatenate([[0], np.cumsum(sizes[sizes > 1])]).astype(np.int64)
        return Groups(offsets, rows)


@kernel
def _root(row, parent):  # type: ignore[no-untyped-def]
    """The root of a row's tree. Each row passed is hung up one higher, so the way is shorter the next time."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@kernel
def _unite(first, second, parent):  # type: ignore[no-untyped-def]
    """Join the trees of each pair: the later root is hung to the earlier one."""
    for pair in range(first.size):
        a = _root(first[pair], parent)
        b = _root(second[pair], parent)
        if a < b:
            parent[b] = a
        elif b < a:
            parent[a] = b


@kernel
def _flatten(parent):  # type: ignore[no-untyped-def]
    """Every row's parent becomes its root. Parents come before their children, so one pass does."""
    for row in range(parent.size):
        parent[row] = parent[parent[row]]
