"""How fast are exact scores of codes, beside the way that most papers' code computes mAP?

What to expect. hashret counts distances by a kernel, at about a nanosecond a pair, and computes the expectation over the orders
of ties, the worst and the best of them from the counts. The usual way makes a matrix of distances by a product of ±1 vectors,
sorts each row and sums the precision at the relevant places: sorting costs some tens of nanoseconds a pair, and the order of
ties is an accident.

How it is measured: both in one run, each in a process of its own with as many threads as there are cores, peak memory read
there. The usual way scores some of the queries, as it would take minutes for all, and its time is scaled. Its mAP must lie
between our worst and best of these queries, and our expectation must equal the formula written with plain loops for a few.

Run: python benchmarks/metrics.py [--quick] [--json] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pages

BITS, CLASSES = 64, 10
LARGER = 20
"""Times the gallery, for the row that shows that memory grows with the codes alone."""
PACKAGES = ("hashret", "numpy", "numba")
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all answers are right, 1 when some are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 queries and 6,000 codes")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the part there")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    n_queries, n = (1_000, 6_000) if options.quick else (10_000, 60_000)
    if options.way:
        print(json.dumps(WAYS[options.way](n_queries, n * LARGER if options.way == "larger" else n)))
        return 0
    found = {way: _in_a_process(way, options.quick) for way in WAYS}
    ours, usual = found["counted"], found["sorted"]
    right = all(
        low - 1e-9 <= value <= high + 1e-9
        for low, value, high in zip(ours["worst"], usual["ap"], ours["best"], strict=False)
    ) and all(
        np.allclose(each["expected"][: len(each["by_loops"])], each["by_loops"], rtol=0, atol=1e-12)
        for each in (ours, found["larger"])
    )
    document = {
        "question": (__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/metrics.py{' --quick' if options.quick else ''}",
        "machine": machine.describe(PACKAGES),
        "case": f"{n_queries:,} queries × {n:,} codes of {BITS} bits, {CLASSES} classes, mAP over all ranks",
        "seconds": {way: each["seconds"] for way, each in found.items()},
        "peak_mib": {way: each["peak_mib"] for way, each in found.items()},
        "times_faster": usual["seconds"] / ours["seconds"],
        "codes_of_larger": n * LARGER,
        "queries_sorted": len(usual["ap"]),
        "answers": "equal" if right else "DIFFERENT",
    }
    if options.markdown:
        pages.write_part(options.markdown, as_markdown(document))
    print(json.dumps(document, indent=1) if options.json else as_markdown(document))
    return 0 if right else 1


def _in_a_process(way: str, quick: bool) -> Row:
    words = [sys.executable, __file__, "--way", way, *(["--quick"] if quick else [])]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _data(n_queries: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes that are near a code of their class, so that distances tie as those of trained codes do."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2, (CLASSES, BITS), dtype=np.uint8)
    of_queries, of_codes = rng.integers(0, CLASSES, n_queries), rng.integers(0, CLASSES, n)
    queries, codes = (
        np.concatenate(
            [
                np.packbits(centres[part] ^ (rng.random((len(part), BITS)) < 0.3), axis=1)
                for part in np.array_split(
                    labels, max(1, len(labels) // 10_000)
                )  # else this would take the most memory
            ]
        )
        for labels in (of_queries, of_codes)
    )
    return queries, codes, of_queries, of_codes


def counted(n_queries: int, n: int) -> Row:
    """Expected, worst and best mAP by counts of distances; the first queries also by plain loops."""
    from hashret.metrics import distance_histograms

    queries, codes, of_queries, of_codes = _data(n_queries, n)
    distance_histograms(queries[:8], codes, BITS, of_queries[:8], of_codes)  # compiles, or loads what was compiled
    started = time.perf_counter()
    scores = distance_histograms(queries, codes, BITS, of_queries, of_codes).scores((), (None,))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    values = {order: scores.per_query("map@all", order)[:200].tolist() for order in ("expected", "worst", "best")}
    loops = [by_loops(queries[i], codes, of_queries[i] == of_codes) for i in range(3)]
    return {"seconds": seconds, "peak_mib": peak, **values, "by_loops": loops}


def by_loops(query: np.ndarray, codes: np.ndarray, relevant: np.ndarray) -> float:
    """The expectation of AP over the orders of ties, place by place."""
    distances = np.unpackbits(query ^ codes, axis=1).sum(axis=1)
    closer = right = 0
    total = 0.0
    for distance in np.unique(distances):
        here = relevant[distances == distance]
        size, found = len(here), int(here.sum())
        for place in range(1, size + 1):
            others = (found - 1) * (place - 1) / (size - 1) if size > 1 else 0.0
            total += found / size * (right + 1 + others) / (closer + place) if found else 0.0
        closer, right = closer + size, right + found
    return total / int(relevant.sum())


def sorted_(n_queries: int, n: int) -> Row:
    """AP in the order that a sort happens to leave ties in, by products, argsort and cumulative sums; the time for all."""
    queries, codes, of_queries, of_codes = _data(n_queries, n)
    signs, signs_of_queries = (
        np.where(np.unpackbits(each, axis=1), 1, -1).astype(np.float32) for each in (codes, queries)
    )
    some = 200
    average = []
    started = time.perf_counter()
    for start in range(0, some, 50):
        distances = 0.5 * (BITS - signs_of_queries[start : start + 50] @ signs.T)
        for row, label in zip(distances, of_queries[start : start + 50], strict=True):
            relevant = (of_codes == label)[np.argsort(row)]
            hits = np.cumsum(relevant)[relevant]
            average.append(float((hits / (np.flatnonzero(relevant) + 1)).mean()))
    seconds = (time.perf_counter() - started) * n_queries / some
    return {
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ap": average,
    }


WAYS = {"counted": counted, "sorted": sorted_, "larger": counted}


def as_markdown(document: Row) -> str:
    """The part of the page."""
    at = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    names = {
        "counted": "hashret: expected, worst and best order of ties",
        "larger": f"hashret, {document['codes_of_larger']:,} codes",
        "sorted": f"matrix, argsort, cumulative sum: one order of ties ({document['queries_sorted']} queries, scaled)",
    }
    return "\n".join(
        [
            "# Scoring, measured",
            "",
            f"{document['question']} {document['case']}. Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written "
            f"by the program. {at['cpu']}, {at['cores']} cores; {at['system']}; {versions}.",
            "",
            "| way | seconds | peak memory |",
            "|---|---|---|",
            *(
                f"| {names[way]} | {document['seconds'][way]:.2f} | {document['peak_mib'][way]:.0f} MiB |"
                for way in WAYS
            ),
            "",
            f"{document['times_faster']:.0f} times as fast; 20 times and 1 GiB were the aim. Answers: {document['answers']}.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
