"""Float vectors as the rows of an index: what is kept of them, and the similarity of a row and a query by definition.

A row is `dim` numbers, float32 or float16, or a record of one float32 scale and `dim` int8 numbers, which stands for
scale x numbers (docs/format.md). Similarity is the sum of the products of a row's and a query's numbers, in float64 and in one
order (int8: times the scale), rounded to float32. Products of such numbers are exact in float64, so equal rows have equal
similarities wherever they stand.

Shape suffixes: N rows, Q queries, P pairs of a query and a row, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.errors import SearchError

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[Any]
"""Rows as they are kept: (N, D) float32 or float16, or (N,) records of `scale` and `values` (D) int8."""

DTYPES = ("float32", "float16", "int8")
DTYPES_IN_WORDS = "float32, float16 or int8"
METRICS = ("cosine", "inner_product")

MAX_DIM = 1 << 22
"""So long may a vector be for the bound on rounding in `errors` to hold."""
LONGEST = 2.0**63
"""So great may the length of a vector be: no similarity, and no part of one, overflows float32 then."""

COSINE_CAP = 1.0
"""No cosine similarity is above it, though rounding may have made vectors a little longer than 1."""

_STEPS = 127
"""int8 rows use -127 to 127; -128 has no counterpart."""
_BLOCK_VALUES = 1 << 18
"""Numbers converted at a time where whole additions are: 2 MiB of float64."""
_PAIR_VALUES = 1 << 15
"""Numbers multiplied at a time in exact sums: 256 KiB of float64 stay in the second-level cache."""
_ULP = 2.0**-24
"""Most that rounding to float32 changes a number, as a share of it."""


def check_dim(dim: object) -> int:
    """The number of dimensions; SearchError for what cannot be one."""
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not 1 <= dim <= MAX_DIM:
        raise SearchError(f"dim is {dim!r}, expected a whole number from 1 to {MAX_DIM}")
    return int(dim)


def row_type(dtype: str, dim: int) -> np.dtype[Any]:
    """What one row of an array of rows is, little-endian, as docs/format.md has it."""
    if dtype == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (dim,))])
    return np.dtype((np.dtype(dtype).newbyteorder("<"), (dim,)))


def empty_rows(n: int, dtype: str, dim: int) -> Rows:
    """Room for n rows."""
    return np.empty(n, row_type(dtype, dim))


def rows_of(features_ND: npt.ArrayLike, dim: int, dtype: str, metric: str, first: int = 0) -> Rows:
    """Vectors as rows: scaled to length 1 for cosine, as given for inner_product, then rounded to the dtype.

    SearchError for another shape, NaN, infinity, a vector longer than 2**63, a number too great for float16, and, for
    cosine, a vector of zeros; `first` is the number of the first vector in the message.
    """
    given = _floats(features_ND, dim)
    rows = empty_rows(len(given), dtype, dim)
    step = max(1, _BLOCK_VALUES // dim)
    for start in range(0, len(given), step):
        wide = _prepared(given[start : start + step], metric, first + start)
        if dtype == "int8":
            rows[start : start + step] = _quantised(wide)
            continue
        with np.errstate(over="ignore"):
            rows[start : start + step] = wide
        too_great = np.flatnonzero(~np.isfinite(rows[start : start + step]).all(axis=1))
        if len(too_great):
            raise SearchError(
                f"vector {first + start + too_great[0]} holds a number too great for {dtype}; keep it as float32"
            )
    return rows


def queries_of(features_QD: npt.ArrayLike, dim: int, metric: str) -> Similarities:
    """Queries (Q, dim) float32: scaled to length 1 for cosine, as given for inner_product; SearchError as in `rows_of`."""
    return np.ascontiguousarray(rows_of(features_QD, dim, "float32", metric), np.float32)


def unit_vectors(features_QD: npt.ArrayLike, dim: int) -> Similarities:
    """Queries (Q, dim) float32 of length 1; SearchError as in `rows_of`."""
    return queries_of(features_QD, dim, "cosine")


def dim_of(rows: Rows) -> int:
    """Numbers in a row, whatever the dtype."""
    return int(numbers_of(rows).shape[1])


def numbers_of(rows: Rows) -> npt.NDArray[Any]:
    """The numbers (N, D) of rows, without their scales; a view."""
    numbers: npt.NDArray[Any] = rows["values"] if rows.dtype.names else rows
    return numbers


def scales_of(rows: Rows) -> npt.NDArray[np.float32] | None:
    """The scales (N,) of int8 rows, None where there are none; a view."""
    return rows["scale"] if rows.dtype.names else None


def longest(rows: Rows, dtype: str, dim: int, metric: str) -> float:
    """At least the length of every row. Measured for inner_product; for cosine what rounding may add to 1."""
    if metric == "cosine":
        # A number is off by 2**-11 of itself or 2**-25 (float16), or by half a scale of at most 1/127 (int8).
        return 1 + 2**-10 + float(np.sqrt(dim)) * (0.51 / _STEPS if dtype == "int8" else 2**-24)
    greatest = 0.0
    step = max(1, _BLOCK_VALUES // dim)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        wide = numbers_of(some).astype(np.float32)
        squares = np.einsum("nd,nd->n", wide, wide)
        scales = scales_of(some)
        lengths = np.sqrt(squares, dtype=np.float64) * (1.0 if scales is None else scales.astype(np.float64))
        greatest = max(greatest, float(lengths.max(initial=0.0)))
    # Squares below the smallest float32 may have vanished, and the sum was rounded.
    return greatest * (1 + (dim + 16) * _ULP) + float(np.sqrt(dim)) * 2**-60


def checked_longest(vectors_ND: npt.NDArray[Any]) -> float:
    """`longest` for inner_product, of float vectors that nobody has checked yet; SearchError as in `rows_of`."""
    dim = vectors_ND.shape[1]
    greatest = 0.0
    step = max(1, _BLOCK_VALUES // dim)
    for start in range(0, len(vectors_ND), step):
        some = vectors_ND[start : start + step]
        with np.errstate(over="ignore", invalid="ignore"):
            wide = some.astype(np.float32)
            squares = np.einsum("nd,nd->n", wide, wide)
        # NaN, infinity and what is too long show in the sums, which rounding may have made a little larger, too.
        if not (squares < LONGEST**2 / 2).all():
            _prepared(some, "inner_product", start)
        greatest = max(greatest, longest(some, str(some.dtype), dim, "inner_product"))
    return greatest


def errors(longest_row: float, query_lengths_Q: npt.NDArray[np.float64], dim: int) -> npt.NDArray[np.float32]:
    """At least how far a float32 product of a row and each query is from their similarity, in any order of summation.

    D roundings of products and D of sums, each of at most 2**-24 of a sum that the two lengths bound (Cauchy-Schwarz):
    1 / (1 - 2**-24 D) <= 2 of D x 2**-24 for up to 2**22 dimensions. 16 more cover the scale, the rounding of the similarity
    itself, and that of bounds and thresholds. The second term covers numbers that vanish below the normal float32.
    """
    bound = 2 * (dim + 16) * _ULP * longest_row * query_lengths_Q + dim * 2.0**-125 * max(1.0, longest_row)
    return np.nextafter(bound.astype(np.float32), np.float32(np.inf))


def similarities(
    rows: Rows,
    which_P: npt.NDArray[np.int64],
    queries_QD: npt.NDArray[np.float64],
    query_P: npt.NDArray[np.int64],
) -> Similarities:
    """Similarities (P,) float32 of pairs by definition (see above): row which_P[i] of rows with query query_P[i]."""
    found = np.empty(len(which_P), np.float32)
    step = max(1, _PAIR_VALUES // queries_QD.shape[1])
    for start in range(0, len(which_P), step):
        some = rows[which_P[start : start + step]]
        wide = numbers_of(some).astype(np.float64)
        wide *= queries_QD[query_P[start : start + step]]
        sums = wide.sum(axis=1)
        scales = scales_of(some)
        found[start : start + step] = sums if scales is None else sums * scales
    return found


def exact(rows: Rows, which_P: npt.NDArray[np.int64], query_D: Similarities) -> Similarities:
    """Cosine similarities (P,) float32 of some rows with one query of length 1, as CosineIndex gives them."""
    wide = query_D.astype(np.float64)[None]
    found = similarities(rows, which_P, wide, np.zeros(len(which_P), np.int64))
    return np.minimum(found, np.float32(COSINE_CAP))


def _floats(features_ND: npt.ArrayLike, dim: int) -> npt.NDArray[Any]:
    """The vectors as an array (N, dim) of floats, or SearchError."""
    given = np.asarray(features_ND)
    if given.ndim != 2 or given.shape[1] != dim or not np.issubdtype(given.dtype, np.floating):
        raise SearchError(f"vectors have shape {given.shape} and dtype {given.dtype}, expected floats (N, {dim})")
    return given


def _prepared(some_ND: npt.NDArray[Any], metric: str, first: int) -> npt.NDArray[np.float64]:
    """Vectors in float64, of length 1 for cosine; `first` is the number of the first in a message."""
    wide = some_ND.astype(np.float64)
    if metric == "inner_product":
        with np.errstate(over="ignore", invalid="ignore"):
            wrong = np.flatnonzero(~((wide * wide).sum(axis=1) <= LONGEST**2))
        if len(wrong):
            raise SearchError(
                f"vector {first + wrong[0]} holds NaN or infinity or is longer than 2**63, expected finite numbers"
            )
        return wide
    # Scaled by the largest entry first, so that no square overflows or vanishes.
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wrong = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
    if len(wrong):
        raise SearchError(
            f"vector {first + wrong[0]} is all zeros or holds NaN or infinity, expected finite numbers with a direction"
        )
    wide /= largest
    wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return wide


def _quantised(wide_ND: npt.NDArray[np.float64]) -> Rows:
    """int8 rows: the scale is the largest number / 127, rounded up, so no number is off by more than half of it."""
    rows = empty_rows(len(wide_ND), "int8", wide_ND.shape[1])
    exact = np.abs(wide_ND).max(axis=1, initial=0.0) / _STEPS
    scales = exact.astype(np.float32)
    scales = np.where(scales < exact, np.nextafter(scales, np.float32(np.inf)), scales)
    rows["scale"] = scales
    divisors = np.where(scales == 0, 1.0, scales.astype(np.float64))
    rows["values"] = np.rint(wide_ND / divisors[:, None])
    return rows
