"""Does the planner know what a search will take?

What to expect. A plan adds up a handful of costs that are measured once on the machine; for its choice of kernel and threads
it needs to be right within a factor of two. What it cannot know: whether the codes are in a cache, what else the machine
does, and how far from their neighbours the queries of multi-index hashing lie (it asks for some codes of the gallery instead).

How it is measured: the costs first, into a folder of their own, so that they are of this minute. Then the grid of search.py, in
one process: for each row as many batches of different queries as there are rounds, after a warm-up with another; predicted and
measured are what the search itself says (`explain=True`), the median of the rounds counts, and the ratio is the larger of the
two divided by the smaller. Each answer is compared with another kernel's. Data come from fixed seeds.

Run: python benchmarks/predictions.py [--quick] [--only WORDS] [--threads 1 2] [--json] [--markdown docs/predictions.md]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import sides

from hashret import hamming
from hashret.codes import Bits, Codes
from hashret.hamming import costs, linear
from hashret.hamming.arguments import gathered
from hashret.hamming.multi_index import MultiIndex
from hashret.hamming.rows import RowScan
from hashret.hamming.tables import TableScan

WITHIN = 2.0
"""How far a prediction may be off."""
CHECKED = 16
"""Queries of a batch whose answers are compared with another kernel's."""
Row = dict[str, Any]


def grid(quick: bool) -> list[Row]:
    """The searches: those of search.py, and every size, code size and batch in between."""
    sizes = [200_000] if quick else [1_000_000, 10_000_000]
    largest = sizes[-1]
    batches = (1, 16, 100) if quick else (1, 16, 100, 1000)
    return [
        *(
            _row("k nearest", bits, n, queries, 10)
            for bits in (64, 128, 256)
            for n in sizes
            for queries in batches
        ),
        *(_row("k nearest", 64, largest, queries, k) for k in (1_000, 10_000) for queries in (1, 100)),
        *(_row("filter, 1 % allowed", 64, largest, queries, 10, allowed=0.01) for queries in (1, 100)),
        *(_row("filter, half allowed", 64, largest, queries, 10, allowed=0.5) for queries in (1, 100)),
        *(_row("radius", 64, largest, queries, radius=16) for queries in (1, 100)),
        *(
            _row("multi-index, clustered", bits, n, queries, 10, data="clustered")
            for bits in (64, 128)
            for n in sizes
            for queries in (1, 100)
        ),
        _row("multi-index, clustered, radius", 64, largest, 100, radius=6, data="clustered"),
        _row("multi-index, random", 64, largest, 1, 10, data="random with buckets"),
    ]  # fmt: skip


def _row(what: str, bits: int, n: int, queries: int, k: int | None = None, **more: Any) -> Row:
    return {"what": what, "bits": bits, "n": n, "queries": queries, "k": k, "data": "random", **more}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all answers agree, however good the predictions are; 1 when some do not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose name contains this")
    parser.add_argument("--threads", type=int, nargs="+", help="thread counts (default: 1 and all cores)")
    parser.add_argument("--rounds", type=int, default=7, help="measured searches a row (default 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    threads = options.threads or sorted({1, machine.cores()})
    rows = [row for row in grid(options.quick) if (options.only or "") in row["what"]]
    # The kernels stay where they are kept; only the costs go to a folder of this run.
    with tempfile.TemporaryDirectory() as folder:
        costs.user_cache = lambda: Path(folder)  # type: ignore[attr-defined]
        costs.measured_costs.cache_clear()
        costs.measure()  # compiles what is not compiled yet
        started = time.perf_counter()
        measured_costs = costs.measure()
        document: dict[str, Any] = {
            "question": (__doc__ or "").splitlines()[0],
            "command": f"python benchmarks/predictions.py{' --quick' if options.quick else ''}",
            "rounds": options.rounds,
            "machine": machine.describe(),
            "measuring_s": time.perf_counter() - started,
            "costs": dataclasses.asdict(measured_costs),
            "rows": [],
        }
        # Galleries and buckets are made once: searches of one gallery follow one another.
        for row in sorted(rows, key=lambda row: (row["data"], row["bits"], row["n"])):
            for count in threads:
                if not options.json:
                    print(f"{_name(row)}, {count} thread(s) ...", file=sys.stderr)
                document["rows"].append(measure({**row, "threads": count}, options.rounds))
    document["within"] = sum(row["ratio"] <= WITHIN for row in document["rows"])
    text = as_markdown(document)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    print(json.dumps(document, indent=1) if options.json else text)
    return 1 if any(row["answers"] == "DIFFERENT" for row in document["rows"]) else 0


def measure(row: Row, rounds: int) -> Row:
    """One row: predicted and measured milliseconds of its rounds, the plan, and whether its answers are right."""
    kind = row["data"].removesuffix(" with buckets")
    gallery, queries = sides.data(kind, row["n"], row["bits"])
    alive = np.random.default_rng(1).random(len(gallery)) < row["allowed"] if "allowed" in row else None
    index = buckets(kind, row["n"], row["bits"]) if row["data"] != "random" else None
    predicted, measured = [], []
    explanation = None
    for number in range(rounds + 1):
        # Other queries each time, or buckets would be in the cache from the last.
        batch = np.roll(queries, -number * row["queries"], axis=0)[: row["queries"]]
        *found, explanation = _search(row, index, gallery, batch, alive)
        if number:
            predicted.append(explanation.plan.predicted_ms)
            measured.append(explanation.measured_ms)
    assert explanation is not None
    wanted, found_ms = statistics.median(predicted), statistics.median(measured)
    return {
        **row,
        "kernel": explanation.plan.kernel,
        "on_threads": explanation.plan.threads,
        "predicted_ms": wanted,
        "measured_ms": found_ms,
        "least_ms": min(measured),
        "ratio": max(wanted / found_ms, found_ms / wanted),
        "codes": explanation.codes,
        "buckets": explanation.buckets,
        "answers": "equal" if _right(row, found, gallery, batch, alive, explanation.plan.kernel) else "DIFFERENT",
    }


@functools.lru_cache(maxsize=1)
def buckets(kind: str, n: int, bits: int) -> MultiIndex:
    """Multi-index hashing over the gallery of this kind."""
    return MultiIndex.build(sides.data(kind, n, bits)[0], bits)


def _search(row: Row, index: MultiIndex | None, gallery: Codes, batch: Codes, alive: Bits | None) -> Any:
    """The answer of a row's search, and its explanation."""
    options: dict[str, Any] = {"alive": alive, "threads": row["threads"], "explain": True}
    on: Any = hamming if index is None else index
    where = (gallery, batch) if index is None else (batch,)
    return on.search(*where, row["k"], **options) if row["k"] else on.search_radius(*where, row["radius"], **options)


def _right(row: Row, found: list[Any], gallery: Codes, batch: Codes, alive: Bits | None, kernel: str) -> bool:
    """Whether another kernel gives the first queries the same answers."""
    scan: Any = RowScan if kernel == "table" else TableScan
    among, flags, numbers = gathered(gallery, alive)
    few = batch[:CHECKED]
    if row["k"]:
        distances, rows = linear.search(scan, among, few, row["k"], flags, 1)
        expected: list[Any] = [distances, rows if numbers is None else numbers[rows]]
        return all(np.array_equal(a[:CHECKED], b) for a, b in zip(found, expected, strict=True))
    offsets, distances, rows = linear.search_radii(scan, among, few, np.full(len(few), row["radius"]), flags, 1)
    expected = [offsets, distances, rows if numbers is None else numbers[rows]]
    lengths = len(offsets), offsets[-1], offsets[-1]
    return all(np.array_equal(a[:length], b) for a, b, length in zip(found, expected, lengths, strict=True))


def _name(row: Row) -> str:
    near = f"k = {row['k']:,}" if row["k"] else f"radius {row['radius']}"
    return f"{row['what']}, {row['bits']} bits, {row['n']:,} codes, {row['queries']} queries, {near}"


def as_markdown(document: Row) -> str:
    """The document as a page."""
    about, rows = document["machine"], document["rows"]
    lines = [
        "# Predictions, measured", "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program.", "",
        f"- **{document['within']} of {len(rows)}** searches took what was predicted, within {WITHIN:g} times",
        f"- {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"- costs measured in {document['measuring_s']:.1f} s, in nanoseconds, see hashret/hamming/costs.py: "
        + ", ".join(f"{name} {value:.4g}" for name, value in document["costs"].items()),
        f"- median of {document['rounds']} rounds, other queries in each; the ratio is the larger divided by the smaller", "",
        "| search | bits | codes | queries | k or radius | threads | plan | predicted ms | measured ms | ratio | "
        "codes compared | buckets | answers |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] <= WITHIN else f"**{row['ratio']:.2f}**"
        cells = [
            row["what"],
            row["bits"],
            f"{row['n']:,}",
            row["queries"],
            f"{row['k']:,}" if row["k"] else f"radius {row['radius']}",
            row["threads"],
            f"{row['kernel']} on {row['on_threads']}",
            f"{row['predicted_ms']:.3f}",
            f"{row['measured_ms']:.3f}",
            ratio,
            f"{row['codes']:,.0f}",
            f"{row['buckets']:,.0f}" if row["buckets"] else "",
            row["answers"],
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
