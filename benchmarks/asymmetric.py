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
from pathlib import Path
from typing import Any

import machine
import numpy as np
import ways
from ways import Queries, Way

from hashret import HammingIndex
from hashret.data.sources import open_source
from hashret.errors import HashretError, UsageError

SINGLE, BATCHES, BATCH = 200, 20, 100
"""Queries asked one at a time; batches, and queries in each."""


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
        chosen = options.index, queries, options.rerank, options.threads
        all_ways = ways.code_ways(*chosen) + ways.feature_ways(*chosen)
        document = {
            "question": (__doc__ or "").splitlines()[0],
            "command": f"python benchmarks/asymmetric.py --model {Path(options.model).name} --data {Path(options.data).name}",
            "machine": machine.describe(),
            "index": {
                "pictures": len(queries),
                "code_size": queries.code_size,
                "dim": queries.vectors.features.shape[1],
            },
            "rerank": options.rerank,
            "threads": options.threads,
            "k": ways.K,
            "ways": with_latencies(all_ways, queries, ways.with_scores(all_ways, queries)),
        }
    except HashretError as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps(document, indent=1) if options.json else as_text(document))
    return 0


def encoded(options: argparse.Namespace) -> Queries:
    """The queries; UsageError when the index holds other pictures than the table."""
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
    return ways.encoded(hasher, table, ids, options.resume)


def with_latencies(all_ways: list[Way], queries: Queries, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the time of a query alone and of a query in a batch."""
    rng = np.random.default_rng(0)
    single: dict[str, list[float]] = {way.name: [] for way in all_ways}
    batch: dict[str, list[float]] = {way.name: [] for way in all_ways}
    for times, count, size in ((single, SINGLE, 1), (batch, BATCHES, min(BATCH, len(queries)))):
        for turn in range(count + ways.WARM_UP):
            some = queries.vectors.at(rng.integers(0, len(queries), size))
            for way in all_ways:
                started = time.perf_counter()
                way.search(some)
                if turn >= ways.WARM_UP:
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
        "| way | hit@1 | more than hash | mAP | more than hash | bytes a picture | one query, ms (p50 / p95 / p99) "
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
