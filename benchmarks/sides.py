"""The sides of the search benchmark, as rounds.py serves them; the answer of each is distances (Q, k)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import Any

import numpy as np
from rounds import Prepare, Search, Task, serve

QUERIES = 2000
READING = "reading memory"
"""The side that only reads."""


@functools.lru_cache(maxsize=1)
def data(kind: str, n: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Gallery and queries, the same in every process.

    random: independent bits. clustered: 100,000 random centres, each code a centre with every bit flipped with probability
    0.05, queries made the same way.
    """
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.integers(0, 256, (n, bits // 8), dtype=np.uint8), rng.integers(
            0, 256, (QUERIES, bits // 8), dtype=np.uint8
        )
    centres = rng.integers(0, 256, (100_000, bits // 8), dtype=np.uint8)

    def around(count: int) -> np.ndarray:
        codes = centres[rng.integers(0, len(centres), count)]
        for start in range(0, count, 1 << 18):
            stop = min(count, start + (1 << 18))
            codes[start:stop] ^= np.packbits(rng.random((stop - start, bits), np.float32) < 0.05, axis=1)
        return codes

    return around(n), around(QUERIES)


def of(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Gallery and the task's queries."""
    gallery, queries = data(task["data"], task["n"], task["bits"])
    return gallery, queries[: task["queries"]]


def hashret(task: Task) -> Search:
    """Linear search, planned."""
    from hashret import hamming

    # As in a process that keeps asking: without the kernels loaded, a single query would be numpy's.
    importlib.import_module("hashret.hamming.linear")
    gallery, queries = of(task)
    alive = None
    if "allowed" in task:
        alive = np.random.default_rng(1).random(len(gallery)) < task["allowed"]
    return lambda: hamming.search(gallery, queries, task["k"], alive=alive, threads=task["threads"])[0]


def multi_index(task: Task) -> Search:
    """Multi-index hashing, built once."""
    index = _multi_index(task["data"], task["n"], task["bits"])
    _, queries = of(task)
    return lambda: index.search(queries, task["k"], threads=task["threads"])[0]


@functools.lru_cache(maxsize=1)
def _multi_index(kind: str, n: int, bits: int) -> Any:
    from hashret.hamming.multi_index import MultiIndex

    return MultiIndex.build(data(kind, n, bits)[0], bits)


def asymmetric(task: Task) -> Search:
    """All codes by the real-valued logits of the queries."""
    from hashret.hamming import asymmetric as module

    gallery, _ = of(task)
    logits = np.random.default_rng(2).standard_normal((task["queries"], task["bits"]), np.float32)
    return lambda: module.search(gallery, logits, task["k"], threads=task["threads"])[0]


def read_memory(task: Task) -> Search:
    """Reading the gallery and nothing else: what one query at least costs."""
    from machine import reader

    read = reader(of(task)[0], task["threads"])

    def search() -> np.ndarray:
        read()
        return np.empty((0, 0))

    return search


def faiss_flat(task: Task) -> Search:
    """FAISS IndexBinaryFlat."""
    import faiss

    gallery, queries = of(task)
    index = _faiss("flat", task["data"], task["n"], task["bits"])
    faiss.omp_set_num_threads(task["threads"])
    if "allowed" in task:
        alive = np.random.default_rng(1).random(len(gallery)) < task["allowed"]
        index = faiss.IndexBinaryFlat(task["bits"])
        index.add(gallery[alive])  # FAISS filters no binary index: the least it could do is to search what is allowed
    return lambda: index.search(queries, task["k"])[0]


def faiss_multi_hash(task: Task) -> Search:
    """FAISS IndexBinaryMultiHash, approximate."""
    return _approximate(task, "multi-hash")


def faiss_hnsw(task: Task) -> Search:
    """FAISS IndexBinaryHNSW, approximate."""
    return _approximate(task, "hnsw")


def _approximate(task: Task, kind: str) -> Search:
    import faiss

    _, queries = of(task)
    index = _faiss(kind, task["data"], task["n"], task["bits"])
    faiss.omp_set_num_threads(task["threads"])
    return lambda: index.search(queries, task["k"])[0]


@functools.lru_cache(maxsize=1)
def _faiss(kind: str, data_kind: str, n: int, bits: int) -> Any:
    import faiss

    gallery, _ = data(data_kind, n, bits)
    if kind == "flat":
        index = faiss.IndexBinaryFlat(bits)
    elif kind == "multi-hash":
        index = faiss.IndexBinaryMultiHash(bits, 4, bits // 4)
        index.nflip = 1
    else:
        index = faiss.IndexBinaryHNSW(bits, 16)
        index.hnsw.efSearch = 64
    index.add(gallery)
    return index


def usearch_exact(task: Task) -> Search:
    """USearch exact search."""
    from usearch.index import MetricKind, search

    gallery, queries = of(task)
    return lambda: (
        search(gallery, queries, task["k"], MetricKind.Hamming, exact=True, threads=task["threads"]).distances
    )


SIDES: dict[str, tuple[Prepare, str]] = {
    "hashret": (hashret, "hashret"),
    "hashret multi-index": (multi_index, "hashret"),
    "hashret asymmetric": (asymmetric, "hashret"),
    READING: (read_memory, "hashret"),
    "FAISS Flat": (faiss_flat, "faiss"),
    "FAISS MultiHash": (faiss_multi_hash, "faiss"),
    "FAISS HNSW": (faiss_hnsw, "faiss"),
    "USearch exact": (usearch_exact, "usearch"),
}


def installed(side: str) -> bool:
    """Whether a side can run here."""
    return importlib.util.find_spec(SIDES[side][1]) is not None


if __name__ == "__main__":
    serve(SIDES[sys.argv[1]][0])
