"""The ways to search an index of codes and features, and how good each is on the pictures that the index holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hashret import CosineIndex, HammingIndex, hamming
from hashret.codes import binarize
from hashret.hamming import asymmetric
from hashret.index import features as kept_features
from hashret.metrics import Choices, RetrievalScores, bootstrap_interval, retrieval_scores

K = 10
"""Neighbours that a search is asked for."""
WARM_UP = 8
"""Searches of each way that are not counted: a process that asks so often has loaded the compiled kernels."""
ROWS_AT_ONCE = 256


class Vectors(NamedTuple):
    """Pictures as a model sees them: packed codes, logits less the thresholds, features."""

    codes: np.ndarray
    logits: np.ndarray
    features: np.ndarray

    def at(self, rows: Any) -> Vectors:
        """Some of them."""
        return Vectors(*(array[rows] for array in self))


@dataclass(frozen=True)
class Queries:
    """The pictures of a table, and where an index has them."""

    table: Any
    ids: np.ndarray
    vectors: Vectors
    code_size: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Way:
    """A way to search: what it is called and costs, a search that gives ids, and a ranking of everything for some rows."""

    name: str
    score: str
    bytes_per_picture: float
    search: Callable[[Vectors], np.ndarray]
    distances: Callable[[slice], np.ndarray]


def encoded(hasher: Any, table: Any, ids: np.ndarray, resume: Path | None = None) -> Queries:
    """All pictures of the table, which an index has by these ids."""
    from hashret.encoding import encode_table

    found = encode_table(hasher, table, what=("logits", "features"), resume_folder=resume)
    assert found.logits is not None and found.features is not None
    vectors = as_vectors(hasher, found.logits, found.features)
    return Queries(table, ids, vectors, hasher.code_size)


def as_vectors(hasher: Any, logits: np.ndarray, features: np.ndarray) -> Vectors:
    """What a network gives, as searches take it."""
    centred = logits if hasher.thresholds is None else logits - hasher.thresholds
    return Vectors(binarize(logits, hasher.thresholds), centred, features)


def code_ways(folder: Path, queries: Queries, rerank: int, threads: int | None) -> list[Way]:
    """What needs nothing stored but codes."""
    index = HammingIndex.load(folder)
    of_codes = stored_bytes(folder, "codes") / len(queries)
    return [
        Way(
            "hash", "bits", of_codes,
            lambda some: index.search(some.codes, K, threads)[1],
            lambda rows: _bits(queries, rows),
        ),
        Way(
            "asymmetric", "asymmetric", of_codes,
            lambda some: index.search(some.logits, K, threads, metric="asymmetric")[1],
            lambda rows: -asymmetric.similarities(queries.vectors.logits[rows], queries.vectors.codes),
        ),
        _two_stage(index, queries, "logits", "two-stage by logits", of_codes, rerank, threads),
    ]  # fmt: skip


def feature_ways(folder: Path, queries: Queries, rerank: int, threads: int | None) -> list[Way]:
    """What needs features, by themselves or beside the codes."""
    index = CosineIndex.load(folder)
    of_codes, of_features = (stored_bytes(folder, name) / len(queries) for name in ("codes", "features"))
    kind = "" if index.dtype == "float32" else f" in {index.dtype}"
    given = queries.vectors.features
    rows = kept_features.rows_of(given, index.dim, index.dtype, "cosine")
    scales = kept_features.scales_of(rows)
    kept = kept_features.numbers_of(rows).astype(np.float32)
    if scales is not None:
        kept *= scales[:, None]
    name = f"two-stage by features{kind}"
    return [
        _two_stage(HammingIndex.load(folder), queries, "features", name, of_codes + of_features, rerank, threads),
        Way(
            f"cosine{kind}", "cosine", of_features,
            lambda some: index.search(some.features, K, threads)[1],
            lambda rows: np.float32(1) - given[rows] @ kept.T,
        ),
    ]  # fmt: skip


def _bits(queries: Queries, rows: slice) -> np.ndarray:
    return hamming.distances(queries.vectors.codes[rows], queries.vectors.codes, queries.code_size)


def _two_stage(
    index: HammingIndex, queries: Queries, kind: str, name: str, n_bytes: float, rerank: int, threads: int | None
) -> Way:
    column_of = dict(zip(queries.ids.tolist(), range(len(queries)), strict=True))

    def found(some: Vectors, k: int, among: int) -> Any:
        return index.search_two_stage(some.codes, k, among, threads=threads, **{kind: getattr(some, kind)})

    def ranked_anew(rows: slice) -> np.ndarray:
        """Hamming distances, but less than any of them, and ranked among themselves, what two stages find."""
        # One more is ranked, because a query is among its own nearest.
        ranked = found(queries.vectors.at(rows), rerank + 1, rerank + 1)
        distances = _bits(queries, rows).astype(np.float64)
        most = float(np.nanmax(ranked.similarities))
        for row, (similarities, ids) in enumerate(zip(ranked.similarities, ranked.ids, strict=True)):
            columns = [column_of[number] for number in ids[ids >= 0].tolist()]
            distances[row, columns] = similarities[ids >= 0].astype(np.float64) * -1 + most - 1e6
        return distances

    score = "asymmetric" if kind == "logits" else "cosine"
    return Way(name, score, n_bytes, lambda some: found(some, K, rerank).ids, ranked_anew)


def stored_bytes(folder: Path, name: str) -> int:
    """Bytes of one kind of array in all segments of an index on disk."""
    return sum(file.stat().st_size for file in folder.rglob(f"{name}.npy"))


def with_scores(ways: list[Way], queries: Queries) -> list[dict[str, Any]]:
    """A row a way: hit@1 and mAP of every picture in a gallery of all others, with intervals and the gain over the first."""
    _, labels = np.unique(np.array(queries.table.labels), return_inverse=True)
    rows, base = [], None
    for way in ways:
        parts = []
        for start in range(0, len(queries), ROWS_AT_ONCE):
            some = slice(start, min(start + ROWS_AT_ONCE, len(queries)))
            valid = np.arange(some.start, some.stop)[:, None] != np.arange(len(queries))
            choices = Choices(way.name, queries.code_size)
            relevant = labels[some, None] == labels
            parts.append(retrieval_scores(way.distances(some), relevant, valid, (1,), (None,), choices))
        scores = RetrievalScores.merge(parts)
        base = base or scores
        row: dict[str, Any] = {"way": way.name, "score": way.score, "bytes_per_picture": way.bytes_per_picture}
        for name in ("hit@1", "map@all"):
            more = scores.per_query(name) - base.per_query(name)
            row[name] = scores[name].as_dict() | {
                "interval_95": bootstrap_interval(scores.per_query(name)),
                "more": float(more.mean()),
                "more_interval_95": bootstrap_interval(more),
            }
        rows.append(row)
    return rows
