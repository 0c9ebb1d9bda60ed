"""How long does the exact search for the k nearest binary codes take, against FAISS IndexBinaryFlat?

What to expect: one query reads every code once, so it cannot be quicker than the memory (8 bytes a 64-bit code; a core
reads 8-12 GB/s, more from cache). A batch reads a block of codes once for many queries and is bound by arithmetic: XOR,
popcount and minimum for each pair. A cold query pays for the start of Python, numpy and mapping the file.

How it is measured: codes and queries are random, the same in every process. Each side runs in a process of its own,
because two OpenMP runtimes in one process slow each other down; rounds alternate between the processes after a warm-up.
The distances of every pair of rows are compared in the same run.

Run: python benchmarks/search.py [--n 1000000 --bits 64 --k 10 --batch 100 --threads 1 2] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDES = {"hashret": "hashret", "FAISS IndexBinaryFlat": "faiss-cpu"}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all answers agree, 1 when some do not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="codes in the gallery (default 1000000)")
    parser.add_argument("--bits", type=int, default=64, help="code size, a multiple of 8 (default 64)")
    parser.add_argument("--k", type=int, default=10, help="neighbours (default 10)")
    parser.add_argument("--batch", type=int, default=100, help="queries of the batch rows (default 100)")
    parser.add_argument("--threads", type=int, nargs="+", help="thread counts (default: 1 and all cores)")
    parser.add_argument("--rounds", type=int, default=40, help="measured searches a row and side (default 40)")
    parser.add_argument("--seconds", type=float, default=6.0, help="a row's rounds end after this long (default 6)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.bits % 8 or min(options.n, options.k, options.batch, options.rounds, *(options.threads or [1])) < 1:
        parser.error("--bits must be a multiple of 8 (FAISS knows no other), all other numbers at least 1")
    if options.worker:
        return serve(options)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options.threads or sorted({1, cores})
    rows = []
    workers = {side: start_worker(side, options) for side in SIDES if installed(SIDES[side])}
    try:
        for batch in dict.fromkeys((1, options.batch)):
            for count in threads:
                rows += measure(workers, options, batch, count)
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    rows.append(cold_query(options))
    document = {
        "question": (__doc__ or "").splitlines()[0],
        "n": options.n,
        "bits": options.bits,
        "k": options.k,
        "device": "cpu",
        "machine": {"cpu": cpu_name(), "cores": cores, "system": platform.platform()},
        "versions": versions(),
        "rows": rows,
    }
    print(json.dumps(document, indent=1) if options.json else as_text(document))
    return 1 if any(row.get("answers") == "DIFFERENT" for row in rows) else 0


def measure(workers: dict[str, Any], options: argparse.Namespace, batch: int, threads: int) -> list[dict[str, Any]]:
    """One row a side: rounds alternate between the sides, answers are compared."""
    times: dict[str, list[float]] = {side: [] for side in workers}
    digests = {side: ask(worker, {"batch": batch, "threads": threads})["digest"] for side, worker in workers.items()}
    started = time.perf_counter()
    for _ in range(options.rounds):
        for side, worker in workers.items():
            times[side].append(ask(worker, {"batch": batch, "threads": threads})["seconds"])
        if time.perf_counter() - started > options.seconds:
            break
    rows = []
    for side in SIDES:
        row: dict[str, Any] = {"what": f"batch of {batch}" if batch > 1 else "one query", "side": side}
        row |= {"batch": batch, "threads": threads}
        if side not in workers:
            rows.append(row | {"not_run": f"{SIDES[side]} is not installed"})
            continue
        median = float(np.median(times[side]))
        rows.append(
            row
            | latencies(times[side])
            | {"g_codes_per_s": options.n * batch / median / 1e9, "answers": answers(digests)}
            | ({"speedup": float(np.median(times[side]) / np.median(times["hashret"]))} if len(workers) > 1 else {})
        )
    return rows


def answers(digests: dict[str, str]) -> str:
    """Whether the distances of all sides are the same."""
    if len(digests) < 2:
        return "not compared"
    return "equal" if len(set(digests.values())) == 1 else "DIFFERENT"


def latencies(seconds: list[float]) -> dict[str, Any]:
    """Median, p95 and p99 in milliseconds."""
    median, p95, p99 = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return {"rounds": len(seconds), "median_ms": float(median), "p95_ms": float(p95), "p99_ms": float(p99)}


def cold_query(options: argparse.Namespace) -> dict[str, Any]:
    """The row of `query --code`: a new process opens an index on disk and answers one code, seen from the shell."""
    from hashret import HammingIndex

    program = (
        "import sys, numpy as np; from hashret import HammingIndex\n"
        "index = HammingIndex.load(sys.argv[1])\n"
        "print(index.search(np.frombuffer(bytes.fromhex(sys.argv[2]), np.uint8)[None], int(sys.argv[3]))[0][0, 0])\n"
    )
    gallery, queries = make_codes(options.n, options.bits)
    with tempfile.TemporaryDirectory() as folder:
        index = HammingIndex(options.bits)
        index.add(gallery)
        index.save(Path(folder) / "index")
        seconds = []
        for i in range(6):
            command = [sys.executable, "-c", program, str(Path(folder) / "index"), queries[i].tobytes().hex()]
            started = time.perf_counter()
            answer = subprocess.run([*command, str(options.k)], check=True, capture_output=True, text=True).stdout
            seconds.append(time.perf_counter() - started)
            nearest = int(np.bitwise_count(gallery ^ queries[i]).sum(axis=1, dtype=np.int64).min())
            equal = int(answer) == nearest
            if not equal:
                break
    row = {"what": "one code, new process (as `query --code`)", "side": "hashret", "batch": 1, "threads": 1}
    return row | latencies(seconds[1:] or seconds) | {"answers": "equal" if equal else "DIFFERENT"}


def make_codes(n: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The gallery and more queries than any row needs, the same in every process."""
    rng = np.random.default_rng(0)
    gallery = rng.integers(0, 256, (n, bits // 8), dtype=np.uint8)
    return gallery, rng.integers(0, 256, (10_000, bits // 8), dtype=np.uint8)


def serve(options: argparse.Namespace) -> int:
    """A side's process: answers each line {"batch", "threads"} with the seconds of one search and its distances' hash."""
    gallery, queries = make_codes(options.n, options.bits)
    if options.worker == "hashret":
        from hashret.hamming import rows

        def search(batch: np.ndarray, threads: int) -> np.ndarray:
            return rows.search(gallery, batch, min(options.k, options.n), None, threads)[0]
    else:
        import faiss

        flat = faiss.IndexBinaryFlat(options.bits)
        flat.add(gallery)

        def search(batch: np.ndarray, threads: int) -> np.ndarray:
            faiss.omp_set_num_threads(threads)
            return flat.search(batch, min(options.k, options.n))[0]

    for line in sys.stdin:
        request = json.loads(line)
        batch = np.resize(queries, (request["batch"], queries.shape[1]))
        started = time.perf_counter()
        distances = search(batch, request["threads"])
        seconds = time.perf_counter() - started
        digest = hashlib.sha256(np.ascontiguousarray(distances, np.int32).tobytes()).hexdigest()
        print(json.dumps({"seconds": seconds, "digest": digest}), flush=True)
    return 0


def start_worker(side: str, options: argparse.Namespace) -> Any:
    """A process of one side, ready to be asked."""
    numbers = ["--n", options.n, "--bits", options.bits, "--k", options.k, "--worker", side]
    command = [sys.executable, "-W", "ignore", __file__, *map(str, numbers)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(worker: Any, request: dict[str, int]) -> dict[str, Any]:
    """A worker's answer to one request."""
    worker.stdin.write(json.dumps(request) + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"A worker ended with status {worker.wait()}; its message is above.")
    return dict(json.loads(line))


def installed(distribution: str) -> bool:
    """Whether a side can run here."""
    return distribution == "hashret" or importlib.util.find_spec("faiss") is not None


def versions() -> dict[str, str]:
    """Versions of all that takes part."""
    found = {"python": platform.python_version()}
    for name in ("hashret", "numpy", "numba", "faiss-cpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    """The processor as the system names it, with the vector units that decide the speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    flags = values.get("flags\t\t", "").split()
    units = [unit for unit in ("avx2", "avx512f", "avx512_vpopcntdq") if unit in flags]
    name = next((value.strip() for key, value in values.items() if key.strip() == "model name"), platform.machine())
    return f"{name} ({', '.join(units)})" if units else name


def as_text(document: dict[str, Any]) -> str:
    """The document as a table."""
    lines = [
        document["question"],
        f"{document['n']} codes of {document['bits']} bits, k = {document['k']}; "
        f"{document['machine']['cpu']}, {document['machine']['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in document["versions"].items()),
        f"{'':42} {'':22} {'threads':>7} {'median':>10} {'p95':>10} {'p99':>10} {'G codes/s':>10}  answers  times hashret's",
    ]
    for row in document["rows"]:
        start = f"{row['what']:42} {row['side']:22} {row['threads']:7}"
        if "not_run" in row:
            lines.append(f"{start} not run: {row['not_run']}")
            continue
        cells = "".join(f" {row[name]:7.2f} ms" for name in ("median_ms", "p95_ms", "p99_ms"))
        rate = f"{row['g_codes_per_s']:10.2f}" if "g_codes_per_s" in row else " " * 10
        ratio = f"{row['speedup']:.1f}" if "speedup" in row else ""
        lines.append(f"{start}{cells} {rate}  {row['answers']:8} {ratio}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
