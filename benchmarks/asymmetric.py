"""What do a query's logits, or stored features, add to Hamming search on real pictures, and what do they cost?

What to expect. Hamming distance ties many pictures; logits break the ties, and weigh a bit by how sure the model is of the
query's. That needs no stored byte: the codes stay as they are. Features hold more than any code of them, at a hundred
times the bytes. Two-stage search pays for features only among the nearest codes, and finds only what the codes let through.

How it is measured: the index and the pictures it was made of; each picture is a query once and leaves its own gallery by id.
hit@1 and mAP over the whole ranking are exact expectations over tie orders (hashret.metrics); in a two-stage ranking the
codes that are not ranked anew follow by Hamming distance. Intervals: 95 %, bootstrap over queries; `more` is the difference
to Hamming, query by query. Latency: the search alone, ways in turns after a warm-up, one query at a time and in batches of 100.

Run: python benchmarks/asymmetric.py --index cars.index --model runs/cars64 --data cars.csv --split test
     [--rerank 100] [--threads 1] [--resume FOLDER] [--json]
     where the index was made by: hashret index ... --metric both
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np

from hashret import CosineIndex, HammingIndex, hamming
from hashret.codes import binarize
from hashret.data.sources import open_source
from hashret.errors import HashretError, UsageError
from hashret.hamming import asymmetric
from hashret.metrics import Choices, RetrievalScores, bootstrap_interval, retrieval_scores

K = 10
"""Neighbours of the searches whose time is taken."""
SINGLE, BATCHES, BATCH = 200, 20, 100
"""Queries asked one at a time; batches, and queries in each."""
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Queries:
    """The pictures of the table as a model sees them, and where the index has them."""

    table: Any
    ids: np.ndarray
    codes: np.ndarray
    logits: np.ndarray
    features: np.ndarray
    code_size: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Way:
    """A way to search: what it is called and costs, a search of some queries, and a ranking of everything for some rows."""

    name: str
    score: str
    bytes_per_picture: float
    search: Callable[[np.ndarray | slice], Any]
    distances: Callable[[slice], np.ndarray]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, type=Path, help="an index made with --metric both")
    parser.add_argument("--model", required=True, help="the model that made it")
    parser.add_argument("--data", required=True, help="the pictures that it was made of")
    parser.add_argument("--split", help="their split")
    parser.add_argument(
        "--rerank", type=int, default=100, help="codes that a two-stage search ranks anew (default 100)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of a search (default 1)")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="keep encoded pictures there for the next run")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        queries = encoded(options)
        ways = all_ways(options, queries)
        document = {
            "question": (__doc__ or "").splitlines()[0],
            "command": f"python benchmarks/asymmetric.py --model {Path(options.model).name} --data {Path(options.data).name}",
            "machine": machine.describe(),
            "index": {"pictures": len(queries), "code_size": queries.code_size, "dim": queries.features.shape[1]},
            "rerank": options.rerank,
            "threads": options.threads,
            "k": K,
            "ways": with_latencies(ways, with_scores(ways, queries)),
        }
    except HashretError as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps(document, indent=1) if options.json else as_text(document))
    return 0


def encoded(options: argparse.Namespace) -> Queries:
    """The queries; UsageError when the index holds other pictures than the table."""
    from hashret.encoding import encode_table
    from hashret.model.hasher import Hasher

    index, table = HammingIndex.load(options.index), open_source(options.data)
    table = table.where_split(options.split) if options.split else table
    ids = index.find(table.ids)
    if (ids < 0).any() or len(index) != len(table):
        raise UsageError(
            f"the index holds {len(index)} pictures, {int((ids >= 0).sum())} of the {len(table)} of {table.name}; "
            "name the data and the split that made it"
        )
    hasher = Hasher.from_pretrained(options.model)
    index.check_model(hasher.fingerprint())
    found = encode_table(hasher, table, what=("logits", "features"), resume_folder=options.resume)
    assert found.logits is not None and found.features is not None
    centred = found.logits if hasher.thresholds is None else found.logits - hasher.thresholds
    codes = binarize(found.logits, hasher.thresholds)
    return Queries(table, ids, codes, centred, found.features, hasher.code_size)


def all_ways(options: argparse.Namespace, queries: Queries) -> list[Way]:
    """Hamming, logits, two stages of either kind, and features alone."""
    codes, cosine = HammingIndex.load(options.index), CosineIndex.load(options.index)
    threads, rerank = options.threads, options.rerank
    code_bytes, feature_bytes = (stored_bytes(options.index, name) / len(queries) for name in ("codes", "features"))
    column_of = dict(zip(queries.ids.tolist(), range(len(queries)), strict=True))

    def by_distance(rows: slice) -> np.ndarray:
        return hamming.distances(queries.codes[rows], queries.codes, queries.code_size)

    def two_stage(some: np.ndarray | slice, kind: str, k: int, n: int) -> Any:
        given = {kind: (queries.logits if kind == "logits" else queries.features)[some]}
        return codes.search_two_stage(queries.codes[some], k, n, threads=threads, **given)

    def ranked_anew(rows: slice, kind: str) -> np.ndarray:
        """Hamming distances, but less than any of them, and ranked among themselves, what two stages find."""
        # One more is ranked, because a query is among its own nearest.
        found = two_stage(rows, kind, rerank + 1, rerank + 1)
        distances = by_distance(rows).astype(np.float64)
        most = float(np.nanmax(found.similarities))
        for row, (similarities, ids) in enumerate(zip(found.similarities, found.ids, strict=True)):
            columns = [column_of[number] for number in ids[ids >= 0].tolist()]
            distances[row, columns] = similarities[ids >= 0].astype(np.float64) * -1 + most - 1e6
        return distances

    return [
        Way(
            "hamming", "bits", code_bytes,
            lambda some: codes.search(queries.codes[some], K, threads),
            by_distance,
        ),
        Way(
            "asymmetric", "asymmetric", code_bytes,
            lambda some: codes.search(queries.logits[some], K, threads, metric="asymmetric"),
            lambda rows: -asymmetric.similarities(queries.logits[rows], queries.codes),
        ),
        Way(
            f"hamming, {rerank} nearest by logits", "asymmetric", code_bytes,
            lambda some: two_stage(some, "logits", K, rerank),
            lambda rows: ranked_anew(rows, "logits"),
        ),
        Way(
            f"hamming, {rerank} nearest by features", "cosine", code_bytes + feature_bytes,
            lambda some: two_stage(some, "features", K, rerank),
            lambda rows: ranked_anew(rows, "features"),
        ),
        Way(
            "cosine", "cosine", feature_bytes,
            lambda some: cosine.search(queries.features[some], K),
            lambda rows: np.float32(1) - queries.features[rows] @ queries.features.T,
        ),
    ]  # fmt: skip


def stored_bytes(index: Path, name: str) -> int:
    """Bytes of one kind of array in all segments of an index on disk."""
    return sum(file.stat().st_size for file in index.rglob(f"{name}.npy"))


def with_scores(ways: list[Way], queries: Queries) -> list[dict[str, Any]]:
    """A row a way: hit@1 and mAP of every picture in a gallery of all others, with intervals and the gain over Hamming."""
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


def with_latencies(ways: list[Way], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the time of a query alone and of a query in a batch."""
    rng = np.random.default_rng(0)
    single: dict[str, list[float]] = {way.name: [] for way in ways}
    batch: dict[str, list[float]] = {way.name: [] for way in ways}
    n = rows[0]["hit@1"]["n_queries"] + rows[0]["hit@1"]["n_excluded"]
    for times, count, size in ((single, SINGLE, 1), (batch, BATCHES, min(BATCH, n))):
        for turn in range(count + 3):
            some = rng.integers(0, n, size)
            for way in ways:
                started = time.perf_counter()
                way.search(some)
                if turn >= 3:  # the first warm up
                    times[way.name].append((time.perf_counter() - started) / size * 1e3)
    for row in rows:
        for name, times in (("one", single), ("batch", batch)):
            p50, p95, p99 = np.percentile(times[row["way"]], [50, 95, 99])
            row[name] = {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
    return rows


def as_text(document: dict[str, Any]) -> str:
    """The document as a table."""
    about, index = document["machine"], document["index"]
    lines = [
        document["question"], "",
        f"{index['pictures']:,} pictures, codes of {index['code_size']} bits, features of {index['dim']} numbers; "
        f"{document['rerank']} codes ranked anew; k = {document['k']}, {document['threads']} thread(s)",
        f"{about['cpu']}, {about['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()), "",
        "| way | hit@1 | more than hamming | mAP | more than hamming | bytes a picture | one query, ms (p50 / p95 / p99) "
        "| of a batch of 100, ms (p50) |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in document["ways"]:
        cells = [row["way"]]
        for name in ("hit@1", "map@all"):
            half = (row[name]["interval_95"][1] - row[name]["interval_95"][0]) / 2
            low, high = row[name]["more_interval_95"]
            cells += [
                f"{row[name]['expected']:.4f} ±{half:.4f}",
                f"{row[name]['more']:+.4f} ({low:+.4f} to {high:+.4f})",
            ]
        one = " / ".join(f"{row['one'][name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
        cells += [f"{row['bytes_per_picture']:,.0f}", one, f"{row['batch']['p50_ms']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
