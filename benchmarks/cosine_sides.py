"""The sides of the float search benchmark, as rounds.py serves them; the answer of each is (2, Q, k): similarities, and rows.

All read the rows that hashret stored, mapped from its index folder, so that all search the same numbers.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rounds import Prepare, Search, Task, serve

TILE_ROWS = 1 << 14
"""Rows that numpy multiplies at a time: a thousand queries have 64 MiB of products with them."""
COPIES, NOISE, QUERIES = 1_000, 0.5, 1_000
"""Rows that are there twice, the first and the last ones; how far queries are from those; queries made."""


def make(folder: Path, n: int, dim: int, dtype: str) -> None:
    """An index of n random directions in folder/index, and queries in folder/queries.npy: noisy copies of the first rows.

    The last rows repeat the first, so that the nearest of a query tie.
    """
    from hashret import CosineIndex

    rng = np.random.default_rng(0)
    copies = min(COPIES, n // 2)
    rows = rng.standard_normal((n, dim), np.float32)
    rows[n - copies :] = rows[:copies]
    near = rng.integers(0, copies, QUERIES)
    np.save(folder / "queries.npy", rows[near] + np.float32(NOISE) * rng.standard_normal((QUERIES, dim), np.float32))
    index = CosineIndex(dim, dtype)
    index.add(rows)
    index.save(folder / "index")


def queries_of(task: Task) -> np.ndarray:
    """The task's queries, of length 1."""
    queries: np.ndarray = np.load(Path(task["folder"]) / "queries.npy")[: task["queries"]]
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


@functools.lru_cache(maxsize=1)
def rows_of(folder: str) -> np.ndarray:
    """The rows of the index, mapped: float32, float16, or records of a scale and int8 values."""
    (file,) = (Path(folder) / "index").rglob("features.npy")
    return np.asarray(np.load(file, mmap_mode="r"))


def numbers_of(rows: np.ndarray) -> np.ndarray:
    """The rows without their scales."""
    return rows["values"] if rows.dtype.names else rows


def hashret(task: Task) -> Search:
    """CosineIndex, mapped."""
    from hashret import CosineIndex

    index, queries = CosineIndex.load(Path(task["folder"]) / "index"), queries_of(task)
    for _ in range(
        4
    ):  # a process's first searches may be numpy's, the fifth has the kernels: latency.py has their start
        index.search(queries[:16], task["k"], threads=task["threads"])
    return lambda: np.stack(index.search(queries, task["k"], threads=task["threads"]))


def faiss_flat(task: Task) -> Search:
    """FAISS over float32 in memory (IndexFlatIP), or what it has for float16 and int8 (IndexScalarQuantizer)."""
    import faiss

    index, queries = _faiss(task["folder"]), queries_of(task)
    faiss.omp_set_num_threads(task["threads"])
    if faiss.cvar.distance_compute_blas_threshold >= 1_000:
        # Queries x numbers from which it multiplies by BLAS (earlier versions: queries). The default of 1.15 is meant for
        # many threads, and with few makes small batches three times as slow as this does.
        faiss.cvar.distance_compute_blas_threshold = 800 * task["threads"]
    return lambda: np.stack(index.search(queries, task["k"]))


@functools.lru_cache(maxsize=1)
def _faiss(folder: str) -> Any:
    import faiss

    numbers = numbers_of(rows_of(folder))
    dim = numbers.shape[1]
    kinds = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit_direct_signed}
    if numbers.dtype == np.float32:
        index = faiss.IndexFlatIP(dim)
    else:
        index = faiss.IndexScalarQuantizer(dim, kinds[str(numbers.dtype)], faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(numbers), TILE_ROWS):
        index.add(np.ascontiguousarray(numbers[start : start + TILE_ROWS], np.float32))
    return index


def usearch_exact(task: Task) -> Search:
    """USearch over the mapped rows, without an index; queries must be of their dtype."""
    from usearch.index import MetricKind, search

    rows = rows_of(task["folder"])
    queries = queries_of(task).astype(rows.dtype)

    def nearest() -> np.ndarray:
        found = search(rows, queries, task["k"], MetricKind.Cos, exact=True, threads=task["threads"])
        shape = len(queries), task["k"]  # one query is answered without its dimension
        return np.stack([1 - found.distances.reshape(shape), found.keys.reshape(shape)])

    return nearest


def numpy_plain(task: Task) -> Search:
    """A matrix product and np.argpartition, tile by tile, in float32."""
    rows, queries, k = rows_of(task["folder"]), queries_of(task), task["k"]

    def nearest() -> np.ndarray:
        best, where = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start, products in _products(rows, queries):
            if products.shape[1] > k:
                some = np.argpartition(products, -k, axis=1)[:, -k:]
                products = np.take_along_axis(products, some, axis=1)
            else:
                some = np.broadcast_to(np.arange(products.shape[1]), products.shape)
            best, where = np.hstack([best, products]), np.hstack([where, start + some])
            if best.shape[1] > k:
                some = np.argpartition(best, -k, axis=1)[:, -k:]
                best, where = np.take_along_axis(best, some, axis=1), np.take_along_axis(where, some, axis=1)
        order = np.lexsort((where, -best))
        return np.stack([np.take_along_axis(best, order, axis=1), np.take_along_axis(where, order, axis=1)])

    return nearest


def product_alone(task: Task) -> Search:
    """The matrix products of `numpy_plain`, thrown away."""
    rows, queries = rows_of(task["folder"]), queries_of(task)

    def multiply() -> np.ndarray:
        for _ in _products(rows, queries):
            pass
        return np.empty(0)

    return multiply


def _products(rows: np.ndarray, queries: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), TILE_ROWS):
        tile = rows[start : start + TILE_ROWS]
        products = queries @ numbers_of(tile).astype(np.float32, copy=False).T
        yield start, products * tile["scale"] if rows.dtype.names else products


SIDES: dict[str, tuple[Prepare, str]] = {
    "hashret": (hashret, "hashret"),
    "FAISS": (faiss_flat, "faiss"),
    "USearch exact": (usearch_exact, "usearch"),
    "numpy": (numpy_plain, "numpy"),
    "product alone": (product_alone, "numpy"),
}


def installed(side: str) -> bool:
    """Whether a side can run here."""
    return importlib.util.find_spec(SIDES[side][1]) is not None


if __name__ == "__main__":
    serve(SIDES[sys.argv[1]][0])
