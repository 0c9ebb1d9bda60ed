"""How long does exact search take on a GPU, against its memory, its model, torch and FAISS, and are the answers those of the CPU?

What to expect (an H200: 132 multiprocessors, 4.8 TB/s). One query reads every code once: 8 GB of 64-bit codes take 1.7 ms.
A batch is bound by its tensor cores and by two instructions for each of their products: 26 to 29 T pairs/s at 64 bits, half of
that at 128, by the arithmetic in hashret/hamming/gpu/kernels/tensor.cu. k costs little: a few k codes of each query are sorted.

How it is measured: after a check of all bytes against the CPU, on fresh random codes, all ties, odd sizes and deletions, each
search is warmed up and then measured in rounds between two events on the device; the median counts, and its answer is compared
with the CPU's, too. Galleries are far larger than the caches. Stages are measured one kernel at a time, in a search of their own.
Peers run in processes of their own. "must" and "aim" were set before. Without a GPU the kernels are compiled, what the compiler
says of them is reported, and every row is "not run".

Run: python benchmarks/gpu.py [--quick] [--only WORDS] [--json] [--markdown docs/benchmarks.md]; a CUDA GPU and
pip install "hashret[gpu]"; under ten minutes.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_sides
import machine
import numpy as np
import pages

from hashret import hamming
from hashret.codes import pack
from hashret.errors import UsageError
from hashret.hamming.gpu import device as devices
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import Gallery, source
from hashret.hamming.gpu.streaming import Streamed
from hashret.index import CosineIndex

Row = dict[str, Any]

VERSIONS = ("hashret", "numpy", "numba", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "torch", "faiss-gpu-cu12")
ARCHITECTURES = ("sm_80", "sm_90")
PEERS = ("torch", "faiss")


def grid(quick: bool) -> list[Row]:
    """The rows: what is searched, and what was set before: a share of bandwidth, T pairs a second, times as fast as a peer."""
    few, many = (1 << 24, 1 << 22) if quick else (1_000_000_000, 100_000_000)
    return [
        _row("one query", 64, few, 1, 10, must={"of_bandwidth": 0.75}, aim={"of_bandwidth": 0.92}),
        _row("three queries", 64, few, 3, 10),
        _row("one query", 128, few // 2, 1, 10),
        _row("one query, a fifth deleted", 64, few // 2, 1, 10, alive=0.8),
        _row("four queries", 64, many, 4, 10),
        _row("eight queries", 64, many, 8, 10),
        _row("batch", 32, many, 1000, 10),
        _row("batch", 64, many, 1000, 10, must={"t_pairs_per_s": 5}, aim={"t_pairs_per_s": 20}, beside=True),
        _row("batch, k = 1,000", 64, many, 1000, 1000, must={"of_k_10": 2}),
        _row("batch, k = 10,000", 64, many // 10, 100, 10_000),
        _row("batch, a fifth deleted", 64, many, 1000, 10, alive=0.8),
        _row("batch", 128, many, 1000, 10, must={"t_pairs_per_s": 2.5}, aim={"t_pairs_per_s": 10}, beside=True),
        _row("batch", 256, many // 4, 1000, 10),
        _row("batch", 1024, many // 16, 1000, 10),
        _row("batch, streamed", 64, many, 1000, 10, streamed=True),
        _row("one query, 512 numbers", "float32", many // 100, 1, 10),
        _row("batch, 512 numbers", "float32", many // 100, 1000, 10),
        _row("batch, 512 numbers", "float16", many // 100, 1000, 10),
    ]


def _row(what: str, bits: int | str, n: int, queries: int, k: int, **more: Any) -> Row:
    return {"what": what, "bits": bits, "n": n, "queries": queries, "k": k, **more}


PEER_MUST, PEER_AIM = 10, 50
"""Times as fast as a peer."""
SIGNS = {"of_bandwidth": ">=", "t_pairs_per_s": ">=", "of_k_10": "<="}

NUMBERS = 512
"""Of a vector."""

CHECKS = [
    # bits, codes, queries, k, distinct codes
    (64, 1_000_003, 9, 10, None),
    (64, 999_999, 1, 1000, None),
    (64, 1_200_000, 6, 100, 2),
    (64, 2_000_001, 5, 10, 1),
    (64, 700_001, 3, 10_000, 50_000),
    (96, 300_007, 17, 50, None),
    (128, 600_011, 40, 10, None),
    (250, 80_003, 1025, 33, None),
    (1000, 50_021, 301, 20, 4000),
    (1, 100_000, 5, 7, None),
    (64, 65, 5, 100, None),
    (64, 1, 2, 3, None),
]


def check(device: Any, checks: list[tuple[int, int, int, int, int | None]]) -> int:
    """How many searches gave the bytes of the CPU; AssertionError for the first that did not."""
    rng = np.random.default_rng()
    done = 0
    for bits, n, n_queries, k, distinct in checks:
        gallery = pack(rng.integers(0, 2, (distinct or n, bits), np.uint8))
        if distinct:
            gallery = gallery[rng.integers(0, distinct, n)]
        queries = pack(rng.integers(0, 2, (n_queries, bits), np.uint8))
        for alive in (None, rng.random(n) < 0.8):
            held = _held(device, gallery, alive)
            expected = hamming.search(gallery, queries, k, bits, alive)
            _compare(held.search(queries, k), expected, f"{n} codes of {bits} bits, k = {k}")
            radius = max(0, int(expected[0][:, :10].max()) - 1)
            radii = np.full(n_queries, radius)
            within = hamming.search_radius(gallery, queries, radius, bits, alive)
            _compare(held.search_radii(queries, radii), within, f"{n} codes of {bits} bits within {radius}")
            done += 2
    return done


def _held(device: Any, gallery: np.ndarray, alive: np.ndarray | None) -> Gallery:
    """In two pieces, as an index that was added to has them."""
    cut = len(gallery) * 2 // 3
    pieces = (slice(0, cut), slice(cut, len(gallery)))
    parts = [(gallery[piece], None if alive is None else alive[piece]) for piece in pieces]
    return Gallery(Resident(device, parts, gallery.shape[1]))


def _compare(found: tuple[Any, ...], expected: tuple[Any, ...], what: str) -> None:
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True)), f"another answer: {what}"


def measure(device: Any, row: Row, rounds: int, bandwidth: float) -> Row:
    """One row: median milliseconds of a search, on the device and until its answer is in memory, and what limits it."""
    if isinstance(row["bits"], str):
        return measure_vectors(device, row, rounds, bandwidth)
    gallery, queries = gpu_sides.data(row["n"], row["bits"], row["queries"])
    alive = np.random.default_rng(1).random(row["n"]) < row["alive"] if "alive" in row else None
    held = (
        Gallery(Streamed(device, [(gallery, alive)], row["bits"] // 8))
        if "streamed" in row
        else _held(device, gallery, alive)
    )
    times = _times(device, functools.partial(held.search, queries, row["k"]), rounds)
    found = held.search(queries, row["k"])
    _compare(found, hamming.search(gallery, queries, row["k"], alive=alive), f"{row['what']}, {row['bits']} bits")
    seconds = times["device_ms"] / 1e3
    read_ms = 1e3 * (gallery.nbytes + (0 if alive is None else row["n"])) / bandwidth
    result = {**row, **times, "t_pairs_per_s": row["n"] * row["queries"] / seconds / 1e12}
    result["of_bandwidth"] = read_ms / times["device_ms"]
    result["of_model"] = max(read_ms, _computing_ms(device, row)) / times["device_ms"]
    result["stages_ms"] = stages(device, held, queries, row["k"])
    del held  # Peers need the memory.
    if row.get("beside"):
        task = {name: row[name] for name in ("n", "bits", "queries", "k")}
        result["peers"] = {side: peer(side, task, gpu_sides.digest(found[0])) for side in PEERS}
    return result


def measure_vectors(device: Any, row: Row, rounds: int, bandwidth: float) -> Row:
    """The same for an index of vectors: random directions."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((row["n"], NUMBERS), np.float32)
    queries = rng.standard_normal((row["queries"], NUMBERS), np.float32)
    index = CosineIndex(NUMBERS, row["bits"])
    index.add(vectors)
    expected = index.search(queries, row["k"])
    index.to("cuda")
    times = _times(device, functools.partial(index.search, queries, row["k"]), rounds)
    _compare(index.search(queries, row["k"]), expected, f"{row['what']}, {row['bits']}")
    seconds = times["device_ms"] / 1e3
    n_bytes = row["n"] * NUMBERS * np.dtype(row["bits"]).itemsize
    # 495 and 990 TFLOP/s, two for a product and its sum, whatever the chip.
    products_ms = row["n"] * row["queries"] * NUMBERS * 2 / {"float32": 495e9, "float16": 990e9}[row["bits"]]
    read_ms = 1e3 * n_bytes / bandwidth
    return {
        **row,
        **times,
        "t_pairs_per_s": row["n"] * row["queries"] / seconds / 1e12,
        "of_bandwidth": read_ms / times["device_ms"],
        "of_model": max(read_ms, products_ms) / times["device_ms"],
    }


def _computing_ms(device: Any, row: Row) -> float:
    """The model of docs/kernels.md for a batch, on an H200: clocks of a multiprocessor for 1,024 pairs at 1.76 GHz."""
    if row["queries"] < 5:
        return 0.0
    # 16 LOP3 at 64 lanes a clock take 8 clocks for any code; products of 128 bits a clock each take more from 256 bits on.
    clocks = max(8.0, 8.0 * math.ceil(row["bits"] / 64) / 2)
    return float(row["n"] * row["queries"] / 1024 * clocks / (device.multiprocessors * 1.76e9) * 1e3)


def stages(device: Any, held: Gallery, queries: np.ndarray, k: int) -> dict[str, float]:
    """Milliseconds of each kernel in one search, in which each is waited for before the next."""
    spent: dict[str, float] = defaultdict(float)
    kernels = held._kernels

    class Timed:
        def run(self, name: str, *arguments: Any) -> None:
            spent[name] += device.milliseconds(lambda: kernels.run(name, *arguments))

    held._kernels = Timed()
    try:
        held.search(queries, k)
    finally:
        held._kernels = kernels
    return dict(spent)


def _times(device: Any, call: Callable[[], Any], rounds: int) -> Row:
    """Medians of a call after it was made twice to warm up."""
    for _ in range(2):
        call()
    on_device, until_answered = [], []
    with device.turn():
        for _ in range(rounds):
            started = time.perf_counter()
            on_device.append(device.milliseconds(call))
            until_answered.append(1e3 * (time.perf_counter() - started))
    return {"device_ms": float(np.median(on_device)), "answered_ms": float(np.median(until_answered))}


def peer(side: str, task: Row, expected: str) -> Row:
    """A peer's times, and whether its distances are ours."""
    command = [sys.executable, str(Path(__file__).parent / "gpu_sides.py"), side, json.dumps({**task, "rounds": 3})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        return {"not_run": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:200]}
    answer: Row = json.loads(done.stdout.splitlines()[-1])
    if "ms" in answer:
        answer["distances"] = "equal" if answer["distances"] == expected else "DIFFERENT"
    return answer


def read_bandwidth(device: Any, n_bytes: int) -> float:
    """Bytes a second that a copy on the device reads and writes, together."""
    with device.turn():
        source, target = (device.zeros((n_bytes,), np.uint8) for _ in range(2))
        times = _times(device, lambda: device.copy(source, target), 5)
    return 2 * n_bytes / times["device_ms"] * 1e3


def compiler_report() -> list[Row] | str:
    """Registers, shared memory and spilled bytes of each kernel for codes of 64 and 128 bits; or why there is none."""
    try:
        import cuda.core  # noqa: F401
    except ImportError:
        return "cuda-core is not installed"
    found = []
    for arch in ARCHITECTURES:
        for n_words in (1, 2):
            log = io.StringIO()
            started = time.perf_counter()
            devices.compiled(source(n_words, devices.multiplies_bits(arch)), arch, log)
            seconds = time.perf_counter() - started
            for part in log.getvalue().split("Compiling entry function")[1:]:
                name, spilled, registers, shared = (
                    re.search(pattern, part)
                    for pattern in (
                        r"'(\w+)'",
                        r"(\d+) bytes spill stores",
                        r"Used (\d+) registers",
                        r"(\d+) bytes smem",
                    )
                )
                assert name and spilled and registers
                numbers = (int(registers[1]), int(shared[1]) if shared else 0, int(spilled[1]))
                found.append(
                    {
                        "arch": arch,
                        "bits": 64 * n_words,
                        "kernel": name[1],
                        **dict(zip(("registers", "shared_bytes", "spilled_bytes"), numbers, strict=True)),
                        "compiled_s": seconds,
                    }
                )
    return found


def verdict(row: Row, bars: dict[str, float]) -> str:
    """What was set, and whether it was reached."""
    (name, bar), *_ = bars.items()
    words = {"of_bandwidth": f"{100 * bar:.0f} % of bandwidth", "t_pairs_per_s": f"{bar:g} T pairs/s"}
    text = words.get(name, f"{bar:g} x k = 10")
    if name not in row:
        return text
    reached = row[name] >= bar if SIGNS[name] == ">=" else row[name] <= bar
    return f"{text}: {'reached' if reached else 'missed'}"


def against_k_10(rows: list[Row]) -> None:
    """How many times as long the search for more neighbours takes as that for ten among the same codes."""
    tens = {(row["bits"], row["n"], row["queries"], row.get("alive")): row for row in rows if row["k"] == 10}
    for row in rows:
        ten = tens.get((row["bits"], row["n"], row["queries"], row.get("alive")))
        if row["k"] > 10 and ten:
            row["of_k_10"] = row["device_ms"] / ten["device_ms"]


def as_markdown(document: Row) -> str:
    """The document as a part of a page."""
    about = document["machine"]
    lines = [
        "# Search on a GPU, measured",
        "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program.",
        "",
    ]
    if "not_run" in document:
        lines += [f"**Not run: {document['not_run']}. The figures of a GPU are still missing.**", ""]
    lines += [
        f"- {document.get('gpu', 'no GPU')}; {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    ]
    if "not_run" not in document:
        lines += [
            f"- a copy on the device reads and writes {document['bandwidth_bytes_per_s'] / 1e12:.2f} TB/s",
            f"- {document['checked']} searches compared with the CPU before, and each row's answer, byte for byte: all equal",
            f"- median of {document['rounds']} rounds between events on the device; of model: the longer of reading all codes "
            "and computing (docs/kernels.md), over what it took",
        ]
    lines += [
        "",
        "| search | bits or type | codes | queries | k | device ms | answered ms | T pairs/s | of bandwidth | of model "
        "| must | aim |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        cells = [row["what"], row["bits"], f"{row['n']:,}", f"{row['queries']:,}", f"{row['k']:,}"]
        if "device_ms" in row:
            cells += [f"{row['device_ms']:.3f}", f"{row['answered_ms']:.3f}", f"{row['t_pairs_per_s']:.3f}"]
            cells += [f"{100 * row['of_bandwidth']:.0f} %", f"{100 * row['of_model']:.0f} %"]
        else:
            cells += ["not run", "", "", "", ""]
        cells += [verdict(row, row[bars]) if bars in row else "" for bars in ("must", "aim")]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    peers = [(row, side, found) for row in document["rows"] for side, found in row.get("peers", {}).items()]
    if peers:
        lines += ["", f"| beside | peer | peer ms | times as fast (must {PEER_MUST}, aim {PEER_AIM}) | distances |"]
        lines += ["|---|---|---|---|---|"]
    for row, side, found in peers:
        name = f"{row['what']}, {row['bits']} bits"
        if "ms" in found:
            times = found["ms"] / row["answered_ms"]
            lines.append(f"| {name} | {side} | {found['ms']:.1f} | {times:.1f} | {found['distances']} |")
        else:
            lines.append(f"| {name} | {side} | not run: {found['not_run']} | | |")
    if any("stages_ms" in row for row in document["rows"]):
        lines += ["", "| where the time goes | bits | kernels, ms |", "|---|---|---|"]
    for row in document["rows"]:
        if "stages_ms" in row:
            spent = ", ".join(f"{name} {ms:.3f}" for name, ms in row["stages_ms"].items())
            lines.append(f"| {row['what']} | {row['bits']} | {spent} |")
    return "\n".join([*lines, "", *_compiled_lines(document["compiled"])]) + "\n"


def _compiled_lines(compiled: list[Row] | str) -> list[str]:
    """What the compiler says of the kernels."""
    if isinstance(compiled, str):
        return [f"Not compiled here: {compiled}."]
    places = list(dict.fromkeys((each["arch"], each["bits"]) for each in compiled))
    found = {(each["kernel"], each["arch"], each["bits"]): each for each in compiled}
    lines = [
        "| registers / shared bytes / spilled bytes | "
        + " | ".join(f"{arch}, {bits} bits" for arch, bits in places)
        + " |",
        "|---" * (1 + len(places)) + "|",
    ]
    for kernel in sorted({each["kernel"] for each in compiled}):
        cells = [found[kernel, arch, bits] for arch, bits in places]
        numbers = [f"{each['registers']} / {each['shared_bytes']:,} / {each['spilled_bytes']}" for each in cells]
        lines.append(f"| {kernel} | " + " | ".join(numbers) + " |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all answers agree, 1 when some do not, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small galleries, a minute")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=9, help="measured searches a row (default 9)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    options = parser.parse_args(arguments)
    document: Row = {
        "question": (__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/gpu.py{' --quick' if options.quick else ''}",
        "rounds": options.rounds,
        "machine": machine.describe(VERSIONS),
        "compiled": compiler_report(),
        "rows": [row for row in grid(options.quick) if (options.only or "") in row["what"]],
    }
    try:
        device = devices.open_device(0)
        document["gpu"] = device.name
        measure_all(device, document, options.quick)
    except UsageError as error:
        document["not_run"] = str(error).partition(", but ")[2].partition("; ")[0]
        for row in document["rows"]:
            if row.get("beside"):
                row["peers"] = {side: {"not_run": document["not_run"]} for side in PEERS}
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    text = as_markdown(document)
    if options.markdown:
        pages.write_part(options.markdown, text)
    print(json.dumps(document, indent=1) if options.json else text)
    if "not_run" in document:
        return 2
    found = [found for row in document["rows"] for found in row.get("peers", {}).values()]
    return 1 if any(each.get("distances") == "DIFFERENT" for each in found) else 0


def measure_all(device: Any, document: Row, quick: bool) -> None:
    """Check, then measure every row; AssertionError for an answer that is not the CPU's."""
    document["checked"] = check(device, CHECKS)
    bandwidth = read_bandwidth(device, 1 << 28 if quick else 1 << 33)
    document["bandwidth_bytes_per_s"] = bandwidth
    for i, row in enumerate(document["rows"]):
        print(f"{row['what']}, {row['bits']} bits, {row['n']:,} codes ...", file=sys.stderr)
        document["rows"][i] = measure(device, row, document["rounds"], bandwidth)
    against_k_10(document["rows"])


if __name__ == "__main__":
    sys.exit(main())
