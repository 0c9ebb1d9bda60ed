"""How much of exact search do 32 bytes a vector keep, by product quantisers or by bits, and what does a query cost?

What to expect. All codes here take 32 bytes. Product quantisation keeps of each of 32 parts the nearest of 256 centroids: it
knows how far, where a bit only knows which side. A rotation of each cell's own fits the parts to how the vectors of that cell
vary, so LOPQ keeps more than one quantiser for all where cells differ. In return 256 bits are compared by counting, and 32
table entries are looked up one by one.

How it is measured: every side in a process of its own, on one thread (FAISS's OpenMP and torch's obstruct each other in one
process), sides in turns, the median counts. Vectors are drawn here: a mixture of clusters, each spread along some directions
of its own, with noise, scaled to length 1; or those of --embeddings, the last of which are the queries. Recall@k is the share
of the k nearest by exact search among the k that come first. Queries are no training vectors; the vectors searched are.
Answers are checked in the same run: exact search against a product in float64, LOPQ's similarities against decoded codes, the
order of bits'.

Run: python benchmarks/product.py [--quick] [--n N] [--dim D] [--embeddings FILE.npy] [--json] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pages
import product_sides as sides
from rounds import Measured, in_turns

Row = dict[str, Any]
RECALLS = (1, 10, 20)
CLUSTERS, RANK, NOISE = 20, 24, 0.05
PACKAGES = ("hashret", "numpy", "numba", "faiss-cpu", "torch")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all answers are right, 1 when some are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6,000 vectors of 64 numbers, few iterations; minutes")
    parser.add_argument("--n", type=int, help="vectors that are drawn (default: 20,000)")
    parser.add_argument("--dim", type=int, help="numbers in a vector (default: 128)")
    parser.add_argument("--queries", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--iterations", type=int, help="of OPQ in each cell (default: 20)")
    parser.add_argument("--embeddings", type=Path, metavar="NPY", help="measure on these vectors instead")
    parser.add_argument("--rounds", type=int, default=5, help="searches of each side (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the part there")
    options = parser.parse_args(arguments)
    n, dim = options.n or (6_000 if options.quick else 20_000), options.dim or (64 if options.quick else 128)
    iterations = options.iterations or (2 if options.quick else 20)
    if options.embeddings:
        everything = np.load(options.embeddings, mmap_mode="r")
        vectors, queries = everything[: -options.queries], everything[-options.queries :]
        n, dim, source = *vectors.shape, f"embeddings {options.embeddings.name}"
    else:
        vectors, queries = drawn(n, dim, 1), drawn(options.queries, dim, 2)
        source = f"a mixture of {CLUSTERS} clusters of rank {RANK}, noise {NOISE:g}"
    with tempfile.TemporaryDirectory() as folder:
        for name, each in (("vectors", vectors), ("queries", queries)):
            wide = np.asarray(each, np.float32)
            np.save(Path(folder) / f"{name}.npy", wide / np.linalg.norm(wide, axis=1, keepdims=True))
        k = max(RECALLS)
        task = {"folder": folder, "k": k, "threads": 1, "iterations": iterations, "warm": False}
        able = [side for side in sides.SIDES if sides_installed(side)]
        measured = in_turns(sides.__file__, able, task, options.rounds)
        truth = nearest(*(np.load(Path(folder) / f"{name}.npy") for name in ("queries", "vectors")), k)
        rows = [
            result(side, measured, truth, Path(folder))
            if side in measured
            else {"side": side, "not_run": f"{sides.SIDES[side][1]} is not installed"}
            for side in sides.SIDES
        ]
    document = {
        "question": (__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/product.py{' --quick' if options.quick else ''}",
        "machine": machine.describe(PACKAGES),
        "case": f"{n:,} vectors of {dim} numbers ({source}), {len(queries)} queries at once, k {k}, 1 thread; "
        f"{sides.CELLS} cells, {sides.PARTS} parts of {sides.CENTROIDS} centroids, {iterations} iterations of OPQ",
        "rounds": options.rounds,
        "rows": rows,
    }
    if options.markdown:
        pages.write_part(options.markdown, as_markdown(document))
    print(json.dumps(document, indent=1) if options.json else as_markdown(document))
    return 1 if any("DIFFERENT" in row.get("answers", "") for row in rows) else 0


def sides_installed(side: str) -> bool:
    """Whether a side can run here."""
    import importlib.util

    return importlib.util.find_spec(sides.SIDES[side][1]) is not None


def drawn(n: int, dim: int, seed: int) -> np.ndarray:
    """Vectors (n, dim) float32 of the mixture, the same clusters for every seed."""
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((CLUSTERS, dim))
    # Along its directions a cluster deviates less and less, as principal components of features do.
    spread = rng.standard_normal((CLUSTERS, RANK, dim)) / np.sqrt(1 + np.arange(RANK))[:, None]
    rng = np.random.default_rng(seed)
    which = rng.integers(0, CLUSTERS, n)
    made = np.empty((n, dim), np.float32)
    for cluster in range(CLUSTERS):
        here = np.flatnonzero(which == cluster)
        made[here] = middles[cluster] + rng.standard_normal((len(here), RANK)) @ spread[cluster]
    return made + NOISE * rng.standard_normal((n, dim), np.float32)


def nearest(queries_QD: np.ndarray, vectors_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Inner products (Q, k) in float64, descending, and rows (Q, k)."""
    products = queries_QD.astype(np.float64) @ vectors_ND.astype(np.float64).T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, rows, axis=1), rows


def result(side: str, measured: dict[str, Measured], truth: tuple[np.ndarray, np.ndarray], folder: Path) -> Row:
    """What one side found, took and cost."""
    near, rows = measured[side].answer
    n_queries = len(rows)
    found: Row = {"side": side}
    for k in RECALLS:
        hits = sum(len(set(a[:k]) & set(b[:k])) for a, b in zip(rows.tolist(), truth[1].tolist(), strict=True))
        found[f"recall@{k}"] = hits / (k * n_queries)
    found["bytes"] = json.loads((folder / f"{side}.json").read_text("utf-8"))
    summary = measured[side].summary()
    found["ms_per_query"], found["prepared_s"] = summary["median_ms"] / n_queries, summary["prepared_s"]
    found["answers"] = _checked(side, near, rows.astype(np.int64), truth, folder)
    return found


def _checked(side: str, near: np.ndarray, rows: np.ndarray, truth: tuple[np.ndarray, np.ndarray], folder: Path) -> str:
    """How far what a side says of its results is from what it should be."""
    if side == sides.EXACT:
        off = float(np.abs(near - truth[0]).max())
    elif side in (sides.LOCAL, sides.FEWER):
        queries = np.load(folder / "queries.npy").astype(np.float64)
        off = float(np.nanmax(np.abs(near - _by_decoding(folder / "local", queries, rows))))
    elif side == sides.HASHED:
        return "descending" if (np.diff(near, axis=1) <= 0).all() else "DIFFERENT order"
    else:
        return "not checked"
    return f"within {off:.0e}" if off < 1e-4 else f"DIFFERENT by {off:.0e}"


def _by_decoding(folder: Path, queries_QD: np.ndarray, rows_QK: np.ndarray) -> np.ndarray:
    """1 less half of the squared distances of queries and what codes stand for, in float64; NaN where there is no row."""
    from hashret.index.product import ProductIndex

    index = ProductIndex.load(folder)
    codes, cells = index.codes()
    found = np.full(rows_QK.shape, np.nan)
    for query, rows, line in zip(queries_QD, rows_QK, found, strict=True):
        for place, row in enumerate(rows[rows >= 0]):
            cell = cells[row]
            turned = index.centroids_CMSV[cell, np.arange(len(codes[row])), :, codes[row]].reshape(-1)
            stands_for = index.coarse_CD[cell] + index.rotations_CDD[cell].astype(np.float64) @ turned
            line[place] = 1 - np.square(query - stands_for).sum() / 2
    return found


def as_markdown(document: Row) -> str:
    """The part of the page."""
    at = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    lines = [
        "# Product quantisation, measured",
        "",
        f"{document['question']} {document['case']}. Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by "
        f"the program. {at['cpu']}, {at['cores']} cores; {at['system']}; {versions}. Median of {document['rounds']} rounds.",
        "",
        "| side | "
        + " | ".join(f"recall@{k}" for k in RECALLS)
        + " | bytes of a code | beside it | ms a query | made in s | answers |",
        "|---" * (len(RECALLS) + 6) + "|",
    ]
    for row in document["rows"]:
        if "not_run" in row:
            lines.append(f"| {row['side']} | not run: {row['not_run']} " + "| " * (len(RECALLS) + 4) + "|")
            continue
        recalls = " | ".join(f"{row[f'recall@{k}']:.3f}" for k in RECALLS)
        lines.append(
            f"| {row['side']} | {recalls} | {row['bytes']['code']:.0f} | {row['bytes']['what']} | {row['ms_per_query']:.3f} "
            f"| {row['prepared_s']:.1f} | {row['answers']} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
