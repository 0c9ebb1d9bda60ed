"""How long does exact search take on a GPU, against its memory, torch and FAISS, and are the answers those of the CPU?

What to expect (an H200: 132 multiprocessors, 4.8 TB/s). One query reads every code once: 8 GB of 64-bit codes take 1.7 ms.
A batch is bound by its tensor cores and by two instructions for each of their products: 26 to 29 T pairs/s at 64 bits, half of
that at 128, by the arithmetic in hashret/hamming/gpu/kernels/tensor.cu. k costs little: a few k codes of each query are sorted.

How it is measured: after a check of all bytes against the CPU, on fresh random codes, all ties, odd sizes and deletions, each
search is warmed up and then measured in rounds between two events on the device; the median counts. Galleries are far larger
than the caches. "must" and "aim" were set before.

Run: python benchmarks/gpu.py [--quick] [--only WORDS] [--json] [--markdown docs/benchmarks.md]; a CUDA GPU and
pip install "hashret[gpu]"; under ten minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pages

from hashret import hamming
from hashret.codes import Codes, pack
from hashret.errors import UsageError
from hashret.hamming.gpu.device import open_device
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import Gallery

Row = dict[str, Any]

VERSIONS = ("hashret", "numpy", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "torch")


def grid(quick: bool) -> list[Row]:
    """The rows: what is searched, and the share of bandwidth, pairs a second or times as fast as torch that were set before."""
    few, many = (1 << 24, 1 << 22) if quick else (1_000_000_000, 100_000_000)
    return [
        _row("one query", 64, few, 1, 10, must="75 % of bandwidth", aim="92 %"),
        _row("three queries", 64, few, 3, 10),
        _row("one query", 128, few // 2, 1, 10),
        _row("batch", 64, many, 1000, 10, must="5 T pairs/s", aim="20 T", torch=True),
        _row("batch", 128, many, 1000, 10, must="2.5 T pairs/s", aim="10 T", torch=True),
        _row("batch, k = 1,000", 64, many, 1000, 1000, must="within 2 x of k = 10"),
        _row("batch, k = 10,000", 64, many // 10, 100, 10_000),
    ]


def _row(what: str, bits: int, n: int, queries: int, k: int, **more: Any) -> Row:
    return {"what": what, "bits": bits, "n": n, "queries": queries, "k": k, **more}


CHECKS = [
    # bits, codes, queries, k, distinct codes
    (64, 1_000_003, 9, 10, None),
    (64, 999_999, 1, 1000, None),
    (64, 1_200_000, 6, 100, 2),
    (64, 700_001, 3, 10_000, 50_000),
    (96, 300_007, 17, 50, None),
    (128, 600_011, 40, 10, None),
    (1000, 50_021, 301, 20, 4000),
    (1, 100_000, 5, 7, None),
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
            held = Gallery(Resident(device, [(gallery, alive)], gallery.shape[1]))
            expected = hamming.search(gallery, queries, k, bits, alive)
            _compare(held.search(queries, k), expected, f"{n} codes of {bits} bits, k = {k}")
            radius = max(0, int(expected[0][:, :10].max()) - 1)
            radii = np.full(n_queries, radius)
            within = hamming.search_radius(gallery, queries, radius, bits, alive)
            _compare(held.search_radii(queries, radii), within, f"{n} codes of {bits} bits within {radius}")
            done += 2
    return done


def _compare(found: tuple[Any, ...], expected: tuple[Any, ...], what: str) -> None:
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True)), f"another answer: {what}"


def measure(device: Any, row: Row, rounds: int, bandwidth: float) -> Row:
    """One row: median milliseconds of a search, on the device and until its answer is in memory, and what limits it."""
    rng = np.random.default_rng(0)
    gallery: Codes = rng.integers(0, 256, (row["n"], row["bits"] // 8), np.uint8)
    queries: Codes = rng.integers(0, 256, (row["queries"], row["bits"] // 8), np.uint8)
    held = Gallery(Resident(device, [(gallery, None)], gallery.shape[1]))
    times = _times(device, lambda: held.search(queries, row["k"]), rounds)
    seconds = times["device_ms"] / 1e3
    result = {**row, **times, "t_pairs_per_s": row["n"] * row["queries"] / seconds / 1e12}
    if row["queries"] <= 3:
        result["of_bandwidth"] = gallery.nbytes / seconds / bandwidth
    if row.get("torch"):
        answer = held.search(queries, row["k"])[0]
        del held
        result["torch"] = _torch(gallery, queries, row["k"], answer)
    return result


def _times(device: Any, call: Callable[[], Any], rounds: int) -> Row:
    """Medians of a call after it was made twice to warm up."""
    for _ in range(2):
        call()
    on_device, until_answered = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        on_device.append(device.milliseconds(call))
        until_answered.append(1e3 * (time.perf_counter() - started))
    return {"device_ms": float(np.median(on_device)), "answered_ms": float(np.median(until_answered))}


def _torch(gallery: Codes, queries: Codes, k: int, expected: np.ndarray) -> Row:
    """torch's way: bits as -1 and 1 in int8, a product of matrices and the largest k, piece by piece."""
    try:
        import torch
    except ImportError:
        return {"not_run": "torch is not installed"}
    if not torch.cuda.is_available():
        return {"not_run": f"torch {torch.__version__} finds no CUDA GPU"}
    bits, piece = 8 * gallery.shape[1], 1 << 18
    shifts = torch.arange(7, -1, -1, device="cuda", dtype=torch.uint8)

    def signs(codes: torch.Tensor) -> torch.Tensor:
        return ((codes[:, :, None] >> shifts & 1).to(torch.int8) * 2 - 1).reshape(len(codes), bits)

    held = torch.cat([signs(torch.from_numpy(gallery[i : i + piece]).cuda()) for i in range(0, len(gallery), piece)])
    asked = signs(torch.from_numpy(queries).cuda())

    def search() -> torch.Tensor:
        best = torch.empty((len(asked), 0), dtype=torch.int32, device="cuda")
        for i in range(0, len(held), piece):
            alike = torch._int_mm(asked, held[i : i + piece].T)
            best = torch.cat([best, alike.topk(min(k, alike.shape[1]), dim=1).values], 1).topk(k, dim=1).values
        return (bits - best) // 2

    found = search()
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        search()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    equal = np.array_equal(found.cpu().numpy(), expected)
    return {"device_ms": float(np.median(times)), "distances": "equal" if equal else "DIFFERENT"}


def read_bandwidth(device: Any, n_bytes: int) -> float:
    """Bytes a second that a copy on the device reads and writes, together."""
    with device.turn():
        source, target = (device.zeros((n_bytes,), np.uint8) for _ in range(2))
        times = _times(device, lambda: device.copy(source, target), 5)
    return 2 * n_bytes / times["device_ms"] * 1e3


def as_markdown(document: Row) -> str:
    """The document as a part of a page."""
    about = document["machine"]
    lines = [
        "# Search on a GPU, measured",
        "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program.",
        "",
        f"- {document['gpu']}; {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"- a copy on the device reads and writes {document['bandwidth_bytes_per_s'] / 1e12:.2f} TB/s",
        f"- {document['checked']} searches compared with the CPU before, byte for byte: all equal",
        f"- median of {document['rounds']} rounds between events on the device; FAISS GPU: not run, it has no package",
        "",
        "| search | bits | codes | queries | k | device ms | answered ms | T pairs/s | of bandwidth | torch ms | times | must "
        "| aim |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        cells = [row["what"], row["bits"], f"{row['n']:,}", f"{row['queries']:,}", f"{row['k']:,}"]
        cells += [f"{row['device_ms']:.3f}", f"{row['answered_ms']:.3f}", f"{row['t_pairs_per_s']:.3f}"]
        cells += [f"{100 * row['of_bandwidth']:.0f} %" if "of_bandwidth" in row else ""]
        torch_row = row.get("torch", {})
        if "device_ms" in torch_row:
            cells += [f"{torch_row['device_ms']:.1f}, distances {torch_row['distances']}"]
            cells += [f"{torch_row['device_ms'] / row['device_ms']:.1f}"]
        else:
            cells += [f"not run: {torch_row['not_run']}" if torch_row else "", ""]
        cells += [row.get("must", ""), row.get("aim", "")]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None, device: Any = None) -> int:
    """Exit status: 0 when all answers agree, 1 when some do not, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small galleries, a minute")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=9, help="measured searches a row (default 9)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    try:
        device = device or open_device()
    except UsageError as error:
        print(f"not run: {error}", file=sys.stderr)
        return 2
    rows = [row for row in grid(options.quick) if (options.only or "") in row["what"]]
    try:
        checked = check(device, CHECKS)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    bandwidth = read_bandwidth(device, 1 << 28 if options.quick else 1 << 33)
    document: Row = {
        "question": (__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/gpu.py{' --quick' if options.quick else ''}",
        "rounds": options.rounds,
        "gpu": device.name,
        "machine": machine.describe(VERSIONS),
        "bandwidth_bytes_per_s": bandwidth,
        "checked": checked,
        "rows": [],
    }
    for row in rows:
        print(f"{row['what']}, {row['bits']} bits, {row['n']:,} codes ...", file=sys.stderr)
        document["rows"].append(measure(device, row, options.rounds, bandwidth))
    text = as_markdown(document)
    if options.markdown:
        pages.write_part(options.markdown, text)
    print(json.dumps(document, indent=1) if options.json else text)
    different = any(row.get("torch", {}).get("distances") == "DIFFERENT" for row in document["rows"])
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
