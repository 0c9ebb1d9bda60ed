"""How long does exact float search take, against FAISS, USearch, plain numpy and this machine's own limits?

What to expect. One query reads every number once, so reading memory is its limit, and rows of half the bytes take half the
time. A thousand queries share what is read and are bound by multiplying: choosing the nearest must not cost much more than
the matrix product alone. Sixteen lie between.

How it is measured: every side runs in a process of its own, told how many threads to use; after a warm-up whose answer is
checked, rounds alternate between the sides; the median counts. Up to 100 queries are searched twice a round and timed once,
so that no side pays for the caches of another. All search the same rows of length 1, mapped from one index folder (FAISS and
its copy in memory: it maps none). Similarities are compared with numpy's; of hashret the order is checked, too: descending,
equal ones by row. Queries are near rows that are there twice, so there are equal ones.

Run: python benchmarks/cosine.py [--quick] [--only WORDS] [--threads 1 2] [--json] [--markdown docs/cosine.md]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cosine_sides as sides
import machine
import numpy as np
from rounds import Measured, in_turns

Row = dict[str, Any]
DIM = 512
ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1}
TOLERANCE = {"USearch exact": {"float32": 1e-5, "float16": 2e-3}}
"""Most that similarities may differ where it is not 1e-5: USearch rounds the queries to float16, too."""
BANDWIDTH_BYTES = 1 << 29
LONG, LONG_ROUNDS = 10**8, 3
"""Queries times rows from which a row takes long, and then is searched so many times."""


def grid(quick: bool) -> list[Row]:
    """The rows of the table; those that search the same vectors stand together."""
    sizes = [20_000] if quick else [100_000, 1_000_000]
    batch = 200 if quick else 1_000
    peers = ["hashret", "FAISS", "USearch exact", "numpy"]
    rows = []
    for n in sizes:
        for dtype in ITEM_BYTES:
            vectors: Row = {"dtype": dtype, "n": n, "k": 10, "not_run": {}}
            if dtype == "int8":
                vectors["not_run"] = {"USearch exact": "it rounds queries to int8, too"}
            rows += [
                {**vectors, "what": "one query", "queries": 1, "sides": peers},
                {**vectors, "what": "small batch", "queries": 16, "sides": peers},
            ]
            large = {**vectors, "what": "batch", "queries": batch, "sides": [*peers, "product alone"]}
            if n == 1_000_000:
                slow = ["USearch exact"] if dtype == "float32" else ["USearch exact", "FAISS"]
                large["not_run"] = dict.fromkeys(slow, "most of a minute a search") | vectors["not_run"]
            rows.append(large)
            if dtype == "float32" and n == sizes[0]:
                rows.append({**large, "what": "k = 1,000", "k": 1_000})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all answers agree, 1 when some do not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose name contains this")
    parser.add_argument("--threads", type=int, nargs="+", help="thread counts (default: 1 and all cores)")
    parser.add_argument(
        "--rounds",
        type=int,
        default=9,
        help=f"measured searches a row and side (default 9; at most {LONG_ROUNDS} in rows that take long)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    threads = options.threads or sorted({1, machine.cores()})
    document: dict[str, Any] = {
        "question": (__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/cosine.py{' --quick' if options.quick else ''}",
        "rounds": options.rounds,
        "dim": DIM,
        "machine": machine.describe(),
        "read_bytes_per_s": {str(count): machine.read_bandwidth(BANDWIDTH_BYTES, count) for count in threads},
        "rows": [],
    }
    rows = [row for row in grid(options.quick) if (options.only or "") in row["what"]]
    for n, dtype in dict.fromkeys((row["n"], row["dtype"]) for row in rows):
        with tempfile.TemporaryDirectory() as folder:
            sides.make(Path(folder), n, DIM, dtype)
            for row in rows:
                for count in threads if (row["n"], row["dtype"]) == (n, dtype) else ():
                    if not options.json:
                        print(f"{row['what']}, {n:,} rows of {dtype}, {count} thread(s) ...", file=sys.stderr)
                    task = {**row, "folder": folder, "threads": count, "warm": row["queries"] <= 100}
                    long = row["n"] * row["queries"] >= LONG
                    rounds = min(options.rounds, LONG_ROUNDS) if long else options.rounds
                    document["rows"].append(measure(task, rounds, document["read_bytes_per_s"]))
    text = as_markdown(document)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    print(json.dumps(document, indent=1) if options.json else text)
    wrong = [side for row in document["rows"] for side in row["results"] if "DIFFERENT" in side.get("answers", "")]
    return 1 if wrong else 0


def measure(task: Row, rounds: int, read_bytes_per_s: dict[str, float]) -> Row:
    """One row: all sides prepared and checked one after the other, then measured in turns."""
    missing = {side: f"{sides.SIDES[side][1]} is not installed" for side in task["sides"] if not sides.installed(side)}
    not_run = {**task["not_run"], **missing}
    measured = in_turns(sides.__file__, [side for side in task["sides"] if side not in not_run], task, rounds)
    results = []
    for side in task["sides"]:
        if side in not_run:
            results.append({"side": side, "not_run": not_run[side]})
            continue
        result: Row = {"side": side, **measured[side].summary()}
        seconds = result["median_ms"] / 1e3
        result["g_products_per_s"] = task["n"] * task["queries"] * DIM / seconds / 1e9
        if "FAISS" in measured:
            result["times"] = measured["FAISS"].summary()["median_ms"] / result["median_ms"]
        if task["queries"] == 1:
            bandwidth = read_bytes_per_s[str(task["threads"])]
            result["of_limit"] = task["n"] * DIM * ITEM_BYTES[task["dtype"]] / seconds / bandwidth
        result["answers"] = _compared(side, task["dtype"], measured)
        results.append(result)
    kept = ("what", "dtype", "n", "queries", "k", "threads")
    return {**{name: task[name] for name in kept}, "rounds": rounds, "results": results}


def _compared(side: str, dtype: str, measured: dict[str, Measured]) -> str:
    """How far similarities are from numpy's, and whether hashret's stand in the order they must."""
    if side == "product alone":
        return "none: no neighbours are chosen"
    if side == "FAISS" and dtype == "int8":
        return "not compared: rows without scales"
    similarities, rows = measured[side].answer
    most = float(np.abs(similarities - measured["numpy"].answer[0]).max())
    if not most <= TOLERANCE.get(side, {}).get(dtype, 1e-5):
        return f"DIFFERENT by {most:.0e}"
    if side != "hashret":
        return f"within {most:.0e}"
    falling = similarities[:, 1:] < similarities[:, :-1]
    tied = similarities[:, 1:] == similarities[:, :-1]
    ordered = falling | (tied & (rows[:, 1:] > rows[:, :-1]))
    return f"within {most:.0e}, {int(tied.sum()):,} ties by row" if ordered.all() else "DIFFERENT order"


def as_markdown(document: Row) -> str:
    """The document as a page."""
    about = document["machine"]
    limits = document["read_bytes_per_s"].items()
    bandwidth = ", ".join(f"{speed / 1e9:.1f} GB/s on {count} thread(s)" for count, speed in limits)
    lines = [
        "# Float search, measured", "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program.", "",
        f"- {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"- random directions of {document['dim']} numbers; queries near rows that are there twice",
        f"- median of {document['rounds']} rounds ({LONG_ROUNDS} at most where a thousand queries are asked), sides in turns, "
        f"each in a process of its own; reading memory, measured in the same run: {bandwidth}", "",
        "One query reads every number once: look at the share of the memory's speed. A batch multiplies: look at how close it "
        "comes to `product alone`, which chooses no neighbours. `times` is how many times as fast as FAISS, which reads a copy "
        "of its own in memory: IndexFlatIP for float32, IndexScalarQuantizer for the others (its int8 rows have no scales, so "
        "its answers are others). hashret maps its rows from disk. `answers` is the largest difference to numpy's "
        "similarities; of hashret also how many equal ones stood in the order of rows, as they must.", "",
        "| search | rows | of | queries | k | threads | side | median ms | p95 ms | p99 ms | G products/s | times "
        "| of reading memory | answers |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in document["rows"]:
        shown = [row["what"], f"{row['n']:,}", row["dtype"], f"{row['queries']:,}", f"{row['k']:,}", row["threads"]]
        for result in row["results"]:
            cells = [*shown, result["side"]]
            if "not_run" in result:
                cells += ["not run: " + result["not_run"], *[""] * 6]
            else:
                cells += [f"{result[name]:.2f}" for name in ("median_ms", "p95_ms", "p99_ms")]
                cells += [f"{result['g_products_per_s']:.1f}", f"{result['times']:.2f}" if "times" in result else ""]
                cells += [f"{100 * result['of_limit']:.0f} %" if "of_limit" in result else "", result["answers"]]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
