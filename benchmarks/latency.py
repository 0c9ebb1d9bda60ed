"""How long does a user wait: from a picture to an answer, and from a code to an answer?

What to expect. Resident in one process, a picture costs its decoding and the network; the search adds microseconds to a few
milliseconds. From the shell, starting Python, torch and the model outweighs all of it; a bare code needs neither torch nor numba.

How it is measured: pictures of the test split against an index of that split (hit@1 is theirs, the query itself left out by id);
larger galleries hold random codes, as only their time matters. Every step is timed apart, in one process after a warm-up;
cold commands are timed from the shell. p50, p95 and p99 over the queries.

Run: python benchmarks/latency.py --model RUN --data TABLE [--split test] [--sizes 1000000 10000000] [--cold 5] [--json]
                                  [--markdown docs/latency.md]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

QUERIES = 200
Timed = dict[str, list[float]]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a trained run")
    parser.add_argument("--data", required=True, help="a table of pictures")
    parser.add_argument("--split", default="test", help="the split that is index and queries (default test)")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[1_000_000, 10_000_000], help="codes in larger galleries"
    )
    parser.add_argument("--cold", type=int, default=5, help="commands a row from the shell (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        words = ["index", "--model", options.model, "--data", options.data, "--split", options.split, "--out", index]
        _hashret(*words, "--metric", "both")
        document = {
            "question": (__doc__ or "").splitlines()[0],
            "command": f"python benchmarks/latency.py --model {Path(options.model).name} --data {Path(options.data).name}",
            "machine": machine.describe(),
            "resident": resident(options, index),
            "larger": [larger(size) for size in options.sizes],
            "cold": cold(options, index),
        }
    text = as_markdown(document)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    print(json.dumps(document, indent=1) if options.json else text)
    return 0


def resident(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Each step of a query in one process, by way of searching: decoding, model, search and metadata in milliseconds."""
    import torch

    from hashret import CosineIndex, HammingIndex, Hasher
    from hashret.codes import binarize, bytes_per_code
    from hashret.data.sources import open_source
    from hashret.images import read_picture

    table = open_source(options.data).where_split(options.split)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(table))[:QUERIES]
    hasher = Hasher.from_pretrained(options.model, device="cpu")
    codes, features = HammingIndex.load(folder), CosineIndex.load(folder)
    label_of = {record["id"]: record["label"] for record in codes.records(codes.ids) if record}
    shared: Timed = {"decode": [], "model": []}
    ways: dict[str, Timed] = {
        name: {"search": [], "metadata": []} for name in ("hash", "asymmetric", "two-stage", "cosine")
    }
    right: dict[str, list[bool]] = {name: [] for name in ways}

    def by_hash(logits: np.ndarray, feature: np.ndarray) -> np.ndarray:
        return codes.search(binarize(logits, hasher.thresholds), 11)[1]

    def by_logits(logits: np.ndarray, feature: np.ndarray) -> np.ndarray:
        return codes.search(logits, 11, metric="asymmetric")[1]

    def two_stage(logits: np.ndarray, feature: np.ndarray) -> np.ndarray:
        return codes.search_two_stage(binarize(logits, hasher.thresholds), 11, 100, features=feature).ids

    def by_cosine(logits: np.ndarray, feature: np.ndarray) -> np.ndarray:
        return features.search(feature, 11)[1]

    searches: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "hash": by_hash, "asymmetric": by_logits, "two-stage": two_stage, "cosine": by_cosine,
    }  # fmt: skip
    for turn, row in enumerate([*rows[:5], *rows]):
        steps = [time.perf_counter()]
        pixels = hasher.preprocess.pixels(read_picture(table.paths[row], box=table.box(row)))
        steps.append(time.perf_counter())
        with torch.inference_mode():
            logits, feature = (tensor.numpy() for tensor in hasher.run_batch(pixels[None]))
        steps.append(time.perf_counter())
        for name, search in searches.items():
            started = time.perf_counter()
            ids = search(logits, feature)
            searched = time.perf_counter()
            codes.records(ids[0])
            done = time.perf_counter()
            if turn < 5:
                continue  # warm-up
            others = [record for record in codes.records(ids[0]) if record and record["id"] != table.ids[row]]
            ways[name]["search"].append(searched - started)
            ways[name]["metadata"].append(done - searched)
            right[name].append(label_of[others[0]["id"]] == table.labels[row])
        if turn >= 5:
            for name, seconds in zip(shared, np.diff(steps), strict=True):
                shared[name].append(float(seconds))
    of_code, of_features = bytes_per_code(codes.code_size), 4 * features.dim
    bytes_per_picture = {
        "hash": of_code, "asymmetric": of_code, "two-stage": of_code + of_features, "cosine": of_features,
    }  # fmt: skip
    return {
        "pictures": len(codes),
        "queries": len(rows),
        "shared": {name: _percentiles(times) for name, times in shared.items()},
        "ways": [
            {
                "way": name,
                **{step: _percentiles(times) for step, times in timed.items()},
                "total": _percentiles([sum(parts) for parts in zip(*shared.values(), *timed.values(), strict=True)]),
                "hit@1": float(np.mean(right[name])),
                "bytes_per_picture": bytes_per_picture[name],
            }
            for name, timed in ways.items()
        ],
    }


def larger(n: int) -> dict[str, Any]:
    """From one code of 64 bits to its 10 nearest among n random ones, in one process."""
    from hashret import hamming

    rng = np.random.default_rng(0)
    gallery = rng.integers(0, 256, (n, 8), dtype=np.uint8)
    queries = rng.integers(0, 256, (50, 8), dtype=np.uint8)
    logits = rng.standard_normal((50, 64), np.float32)
    from hashret.hamming import asymmetric

    found: dict[str, Any] = {"codes": n}
    for name, search in (
        ("hash", lambda i: hamming.search(gallery, queries[i : i + 1], 10)),
        ("asymmetric", lambda i: asymmetric.search(gallery, logits[i : i + 1], 10)),
    ):
        search(0)
        times = []
        for i in range(len(queries)):
            started = time.perf_counter()
            search(i)
            times.append(time.perf_counter() - started)
        found[name] = _percentiles(times)
    return found


def cold(options: argparse.Namespace, index: Path) -> list[dict[str, Any]]:
    """Whole commands from the shell: a picture, and a code alone."""
    from hashret import Hasher
    from hashret.data.sources import open_source

    photo = open_source(options.data).where_split(options.split).paths[0]
    code = Hasher.from_pretrained(options.model, device="cpu").encode(photo)[0].tobytes().hex()
    rows = []
    for what, words in (
        ("start-up alone: hashret --version", ["--version"]),
        ("code to answer: hashret query --code", ["query", "--index", index, "--code", code]),
        ("picture to answer: hashret query PHOTO", ["query", "--index", index, photo]),
    ):
        times = []
        for _ in range(options.cold + 1):
            started = time.perf_counter()
            _hashret(*words)
            times.append(time.perf_counter() - started)
        rows.append({"what": what, **_percentiles(times[1:])})
    return rows


def _hashret(*words: object) -> None:
    """Run a command as the shell does."""
    program = "import sys; from hashret.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, *map(str, words)], check=True, capture_output=True)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    p50, p95, p99 = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def as_markdown(document: dict[str, Any]) -> str:
    """The document as a page."""
    about, resident_part = document["machine"], document["resident"]

    def cells(times: dict[str, float]) -> str:
        return " / ".join(f"{times[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms"))

    lines = [
        "# Latency, measured", "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program. "
        "Milliseconds, p50 / p95 / p99.", "",
        f"- {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()), "",
        f"## In one process, {resident_part['pictures']:,} pictures, {resident_part['queries']} queries", "",
        f"Decoding {cells(resident_part['shared']['decode'])}, network {cells(resident_part['shared']['model'])}.", "",
        "| way | search | metadata | picture to answer | hit@1 | bytes a picture |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for way in resident_part["ways"]:
        lines.append(
            f"| {way['way']} | {cells(way['search'])} | {cells(way['metadata'])} | {cells(way['total'])} "
            f"| {way['hit@1']:.3f} | {way['bytes_per_picture']} |"
        )
    lines += ["", "## One code among many, in one process", "", "| codes | hash | asymmetric |", "|---|---|---|"]
    lines += [f"| {row['codes']:,} | {cells(row['hash'])} | {cells(row['asymmetric'])} |" for row in document["larger"]]
    lines += ["", "## From the shell", "", "| command | ms |", "|---|---|"]
    lines += [f"| {row['what']} | {cells(row)} |" for row in document["cold"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
