"""How long does exact search take, against FAISS, USearch and this machine's own limits?

What to expect. One query reads every code once, so reading memory is its limit. A batch reads a block of codes once for many
queries and is bound by adding: the table kernel needs 57 to 80 vector operations for a query and 512 codes of 64 bits.
Multi-index hashing looks at a few hundred codes and is bound by the latency of memory.

How it is measured: every side runs in a process of its own; after a warm-up that is checked, rounds alternate between the
sides; the median counts. Up to 100 queries are searched twice a round and timed once, so that no side pays for the caches
of another. Distances of all exact sides are compared in the same run. Data come from fixed seeds.

Run: python benchmarks/search.py [--quick] [--only WORDS] [--threads 1 2] [--json] [--markdown docs/benchmarks.md]
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
import pages
import sides
from rounds import in_turns

FULL, QUICK = "full", "quick"
Row = dict[str, Any]


def grid(quick: bool) -> list[Row]:
    """The rows: what is searched, by whom, and how many times as fast as the peer it must be."""
    sizes = [200_000] if quick else [1_000_000, 10_000_000]
    largest = sizes[-1]
    exact = ["hashret", "FAISS Flat"]
    rows: list[Row] = [
        _row("batch", bits, n, 200 if quick else 1000, 10, exact, must=must, aim=aim)
        for bits, must, aim in ((64, 22, 40), (128, 12, 22), (256, 9, 18))
        for n in sizes
    ]
    rows += [
        _row("small batch", 64, sizes[0], 16, 10, [*exact, "USearch exact"], must=8, aim=15),
        _row("one query", 64, largest, 1, 10, [*exact, sides.READING], must=2, aim=2),
        *(_row(f"k = {k:,}", 64, largest, 100, k, exact) for k in (10, 1_000, 10_000)),
        _row("filter, 1 % allowed", 64, largest, 100, 10, exact, allowed=0.01),
        _row(
            "one query, clustered", 64, largest, 1, 10,
            ["hashret multi-index", "hashret", "FAISS Flat", "FAISS MultiHash", *([] if not quick else ["FAISS HNSW"])],
            data="clustered", must=20, aim=100, against="hashret",
        ),
        _row("asymmetric", 64, sizes[0], 100, 10, ["hashret asymmetric", "FAISS Flat"], must=3, aim=8),
    ]  # fmt: skip
    if not quick:
        approximate = ["hashret", "FAISS Flat", "FAISS MultiHash", "FAISS HNSW"]
        rows.append(_row("one query, clustered, beside HNSW", 64, sizes[0], 1, 10, approximate, data="clustered"))
    return rows


def _row(what: str, bits: int, n: int, queries: int, k: int, who: list[str], **more: Any) -> Row:
    return {"what": what, "bits": bits, "n": n, "queries": queries, "k": k, "sides": who, "data": "random", **more}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all exact answers agree, 1 when some do not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose name contains this")
    parser.add_argument("--threads", type=int, nargs="+", help="thread counts (default: 1 and all cores)")
    parser.add_argument("--rounds", type=int, default=5, help="measured searches a row and side (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    threads = options.threads or sorted({1, machine.cores()})
    rows = [row for row in grid(options.quick) if (options.only or "") in row["what"]]
    document: dict[str, Any] = {
        "question": (__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/search.py{' --quick' if options.quick else ''}",
        "rounds": options.rounds,
        "machine": machine.describe(),
        "limits": {
            "vector_operations_per_s": machine.vector_operations(),
            "read_bytes_per_s": {
                str(count): machine.read_bandwidth(8 * max(row["n"] for row in rows), count) for count in threads
            },
        },
        "rows": [],
    }
    for row in rows:
        for count in threads:
            if not options.json:
                print(f"{row['what']}, {row['bits']} bits, {row['n']:,} codes, {count} thread(s) ...", file=sys.stderr)
            document["rows"].append(measure({**row, "threads": count}, options.rounds, document["limits"]))
    text = as_markdown(document)
    if options.markdown:
        pages.write_part(options.markdown, text)
    print(json.dumps(document, indent=1) if options.json else text)
    return 1 if any(side.get("answers") == "DIFFERENT" for row in document["rows"] for side in row["results"]) else 0


def measure(row: Row, rounds: int, limits: dict[str, Any]) -> Row:
    """One row: all sides prepared and checked one after the other, then measured in turns."""
    task = {key: row[key] for key in ("bits", "n", "queries", "k", "data", "threads", "allowed") if key in row}
    task["warm"] = row["queries"] <= 100
    present = [side for side in row["sides"] if sides.installed(side)]
    measured = in_turns(sides.__file__, present, task, rounds)
    results: dict[str, Row] = {side: {"side": side} for side in row["sides"]}
    distances = {side: each.answer for side, each in measured.items()}
    times = {side: each.seconds for side, each in measured.items()}
    oracle = distances.get("FAISS Flat")
    base = row.get("against", "FAISS Flat")
    for side, result in results.items():
        if side not in times:
            result["not_run"] = f"{sides.SIDES[side][1]} is not installed"
            continue
        median = float(np.median(times[side]))
        result |= measured[side].summary()
        result["g_pairs_per_s"] = row["n"] * row["queries"] / median / 1e9
        result["answers"] = _compared(side, distances[side], oracle)
        if base in times:
            result["times"] = float(np.median(times[base])) / median
        result |= _of_limit(side, row, times, limits)
    return {**task, "what": row["what"], "must": row.get("must"), "aim": row.get("aim"), "against": base,
            "results": list(results.values())}  # fmt: skip


def _compared(side: str, distances: np.ndarray, oracle: np.ndarray | None) -> str:
    """Whether an exact side's distances are the oracle's, or the share of the k nearest that an approximate one found."""
    if side == "hashret asymmetric":
        return "not compared: another distance"
    if side == sides.READING:
        return "nothing to compare"
    if oracle is None:
        return "not compared: FAISS is not installed"
    if side in ("FAISS MultiHash", "FAISS HNSW"):
        return f"recall {np.mean((distances <= oracle[:, -1:]) & (distances >= 0)):.3f}"
    return "equal" if np.array_equal(distances.astype(np.int64), oracle.astype(np.int64)) else "DIFFERENT"


def _of_limit(side: str, row: Row, times: dict[str, list[float]], limits: dict[str, Any]) -> Row:
    """The share of the machine's own limit that a search reached, where the limit is known.

    For one query that is reading the gallery, in turns with the others: how fast that is depends on what they leave in caches.
    """
    if side != "hashret" or "allowed" in row or row["k"] > 10:
        return {}
    seconds = float(np.median(times[side]))
    if sides.READING in times:
        return {"of_limit": float(np.median(times[sides.READING])) / seconds, "limit": "reading memory, in turns"}
    if row["queries"] >= 100 and row["bits"] == 64:
        # 63 planes: 20 groups of three and 3 single planes, less 5 counters and 1 overflow, two operations each; 6 to compare.
        operations = row["queries"] * row["n"] / 512 * (2 * (20 * 2 + 3 - 6) + 6)
        limit = limits["vector_operations_per_s"] * row["threads"]
        return {
            "of_limit": operations / seconds / limit,
            "limit": "vector operations (as if all 63 planes were summed)",
        }
    return {}


def as_markdown(document: Row) -> str:
    """The document as a page."""
    about, limits = document["machine"], document["limits"]
    bandwidth = ", ".join(f"{v / 1e9:.1f} GB/s on {count} thread(s)" for count, v in limits["read_bytes_per_s"].items())
    lines = [
        "# Search, measured", "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program.", "",
        f"- {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"- limits measured in the same run: reading memory, best of nine, {bandwidth}; "
        f"{limits['vector_operations_per_s'] / 1e9:.1f} G vector operations a second on one core",
        f"- median of {document['rounds']} rounds, sides in turns; \"times\" is how many times as fast as FAISS Flat, "
        "unless the row says otherwise; \"must\" and \"aim\" were set before, for a machine without VPOPCNTDQ", "",
        "| search | bits | codes | queries | k | threads | side | median ms | p95 ms | p99 ms | G pairs/s | times | must | aim "
        "| of limit | answers |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in document["rows"]:
        for place, result in enumerate(row["results"]):
            cells = [
                row["what"],
                row["bits"],
                f"{row['n']:,}",
                row["queries"],
                f"{row['k']:,}",
                row["threads"],
                result["side"],
            ]
            if "not_run" in result:
                cells += ["not run: " + result["not_run"], *[""] * 8]
            else:
                cells += [f"{result[name]:.3f}" for name in ("median_ms", "p95_ms", "p99_ms")]
                cells += [f"{result['g_pairs_per_s']:.2f}"]
                against = "" if row["against"] == "FAISS Flat" else f" × {row['against']}"
                cells += [f"{result['times']:.1f}{against}" if "times" in result else ""]
                cells += [(row[name] or "") if place == 0 else "" for name in ("must", "aim")]
                cells += [f"{100 * result['of_limit']:.0f} % {result['limit']}" if "of_limit" in result else ""]
                cells += [result["answers"]]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
