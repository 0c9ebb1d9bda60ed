"""The sides of the product quantisation benchmark, as rounds.py serves them; the answer of each is (2, Q, k): nearness, and rows.

All read the vectors of length 1 in folder/vectors.npy and folder/queries.npy, and leave what a vector takes in folder/SIDE.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rounds import Prepare, Search, Task, serve

PARTS, CENTROIDS, CELLS = 32, 256, 8
BITS = 8 * PARTS
EXACT, LOCAL, FEWER, PLAIN, HASHED = "exact", "LOPQ", "LOPQ, 2 of 8 cells", "FAISS IndexPQ", f"ITQ, {BITS} bits"


def given(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The vectors and the queries."""
    folder = Path(task["folder"])
    return np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "queries.npy")


def told(task: Task, side: str, code: float, other: float, what: str) -> None:
    """Leave the bytes of a vector: its code, and what it needs beside that."""
    document = {"code": code, "other": other, "what": what}
    (Path(task["folder"]) / f"{side}.json").write_text(json.dumps(document), "utf-8")


def exact(task: Task) -> Search:
    """Every vector, by inner product."""
    from hashret.index.inner_products import max_inner_products

    vectors, queries = given(task)
    told(task, EXACT, vectors.shape[1] * 4, 0, "")
    for _ in range(4):  # as in a process that keeps asking: the kernels are loaded
        max_inner_products(queries[:8], vectors, task["k"], threads=task["threads"])
    return lambda: np.stack(max_inner_products(queries, vectors, task["k"], threads=task["threads"]))


def local(task: Task) -> Search:
    """Locally optimised product quantisation, all cells; the index is left in folder/local."""
    from hashret.index.product import ProductIndex

    vectors, _ = given(task)
    folder = Path(task["folder"]) / "local"
    made = ProductIndex.fit(vectors, CELLS, PARTS, CENTROIDS, iterations=task["iterations"])
    made.save(folder)
    return _local(task, made, LOCAL, None)


def fewer(task: Task) -> Search:
    """The same index, of which the two cells nearest to a query are looked into."""
    from hashret.index.product import ProductIndex

    return _local(task, ProductIndex.load(Path(task["folder"]) / "local"), FEWER, 2)


def _local(task: Task, index: Any, side: str, cells: int | None) -> Search:
    _, queries = given(task)
    counted = index.bytes_per_picture
    told(
        task,
        side,
        counted.code,
        counted.row + counted.tables,
        f"row number {counted.row:.0f}, tables {counted.tables:.1f}",
    )
    return lambda: np.stack(index.search(queries, task["k"], threads=task["threads"], cells=cells))


def plain(task: Task) -> Search:
    """FAISS's product quantiser for all vectors, without rotation."""
    import faiss

    vectors, queries = given(task)
    faiss.omp_set_num_threads(task["threads"])
    index = faiss.IndexPQ(vectors.shape[1], PARTS, CENTROIDS.bit_length() - 1, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(vectors))
    index.add(np.ascontiguousarray(vectors))
    tables = 4 * vectors.shape[1] * CENTROIDS / len(vectors)
    told(task, PLAIN, PARTS, tables, f"tables {tables:.1f}")
    return lambda: np.stack(index.search(queries, task["k"]))


def hashed(task: Task) -> Search:
    """Codes of as many bits by ITQ, and Hamming distance; negated, so that larger is nearer."""
    import importlib

    from hashret import hamming
    from hashret.model.projection import codes_of
    from hashret.training import posthoc

    importlib.import_module("hashret.hamming.linear")
    vectors, queries = given(task)
    head = posthoc.itq(posthoc.principal_components(vectors, BITS), BITS)
    codes, asked = codes_of([head], vectors)[0], codes_of([head], queries)[0]
    tables = 4 * (BITS + 1) * vectors.shape[1] / len(vectors)
    told(task, HASHED, codes.shape[1], tables, f"directions {tables:.1f}")

    def search() -> np.ndarray:
        distances, rows = hamming.search(codes, asked, task["k"], threads=task["threads"])
        return np.stack([-distances.astype(np.float64), rows])

    return search


SIDES: dict[str, tuple[Prepare, str]] = {
    EXACT: (exact, "hashret"),
    LOCAL: (local, "faiss"),
    FEWER: (fewer, "faiss"),
    PLAIN: (plain, "faiss"),
    HASHED: (hashed, "torch"),
}


if __name__ == "__main__":
    serve(SIDES[sys.argv[1]][0])
