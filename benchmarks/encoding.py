"""How fast are codes made, beside the network alone, and how many bits turn when fewer digits are computed with?

What to expect. The network alone, on pictures that lie on the device as it wants them, is the most that encoding can reach. Out
of a cache of resized pictures only copying is left to do, beside the network: within 10 % was the aim. JPEG files have to be
decoded first, 1 to 3 ms each on one core, so that a GPU waits for them: what is lost is the cores'. float16 has 10 bits of
mantissa, bfloat16 7, so bfloat16's logits should be off eight times as far, and turn eight times as many bits: those whose logits
lie that near their thresholds. TF32 has float16's mantissa. A GPU is told what to do kernel by kernel, some microseconds each;
where pictures are few or small, that is what it waits for, and a CUDA graph or a compiled network shows how long.

How it is measured: rates are medians of rounds, sides in turns. The network alone runs on batches that are resident; encoding is
timed from the end of its first chunk to the end of its last, so without the start of processes. Bits are compared with those of
float32 on the CPU, whose matrix is made of the same pixels; each precision goes on for some seconds, and how many bits were
compared is said. Without --model the network's weights are random, and its batch norm is settled on the pictures, which
spreads every bit's logits around 0 as training does.

Run: python benchmarks/encoding.py [--quick] [--data TABLE] [--model RUN] [--device cpu] [--json] [--markdown docs/benchmarks.md];
under three minutes
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pages
import photos
import torch

from hashret.codes import binarize
from hashret.data.loading import PictureLoader, row_batches
from hashret.data.table import PictureTable
from hashret.encoding import encode_chunks
from hashret.model import Hasher, build
from hashret.model.device import pick_device
from hashret.model.precision import computing, pick_precision

Row = dict[str, Any]
Network = Callable[[torch.Tensor], Any]

VERSIONS = ("hashret", "torch", "torchvision", "numpy", "pillow")
PRECISIONS = ("float32", "bfloat16", "float16")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
WAYS = ("eager", "compiled", "CUDA graph")
RESIDENT = 8
"""Batches that lie on the device: more than its caches hold."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when float32 gives the same codes every time, 1 when it does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer pictures")
    parser.add_argument("--data", metavar="TABLE", help="pictures to encode (default: drawn for it)")
    parser.add_argument("--model", metavar="RUN", help="the model (default: ResNet-18 with random weights, 64 bits)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--pictures", type=int, metavar="N", help="pictures in a round of encoding")
    parser.add_argument("--image-size", type=int, metavar="PX", help="of the random network (default: 224, quick: 96)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures at once (default: 64, on a GPU 256)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="for the bits of each precision (default: 20, quick: 6)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the part there")
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    on_gpu = device.type == "cuda"
    batch_size = options.batch_size or (256 if on_gpu else 64)
    n = options.pictures or batch_size * (4 if not on_gpu else 16 if options.quick else 64)
    seconds = options.seconds or (6 if options.quick else 20)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HASHRET_CACHE"] = str(Path(folder) / "cache")
        table, distinct = photos.open_pictures(options.data, n, Path(folder) / "cars", quick=options.quick)
        size = options.image_size or (96 if options.quick else 224)
        hasher = Hasher.from_pretrained(options.model, device="cpu") if options.model else build(image_size=size)
        pixels = pixels_of(hasher, table.select(np.arange(min(distinct, 4096))))
        if not options.model:
            settle(hasher, pixels[:512])
        say(f"{n} pictures, {batch_size} at once, on {device}")
        bits = compare_bits(hasher, pixels, device, batch_size, seconds)
        speeds = measure(hasher, table, pixels, device, batch_size, options.rounds)
    document = {
        "question": (__doc__ or "").splitlines()[0],
        "command": " ".join(["python benchmarks/encoding.py", *flags_of(options)]),
        "machine": machine.describe(VERSIONS),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "network": f"{hasher.network.backbone_name}, {hasher.code_size} bits, pictures of {hasher.preprocess.image_size} px, "
        + ("trained" if options.model else "random weights, batch norm settled"),
        "pictures": n,
        "files": "drawn, JPEG of 512 × 384" if options.data is None else "of --data",
        "batch_size": batch_size,
        "rounds": options.rounds,
        **speeds,
        "bits": bits,
    }
    text = as_markdown(document)
    if options.markdown:
        pages.write_part(options.markdown, text)
    print(json.dumps(document, indent=1) if options.json else text)
    return 0 if document["answers"] == "equal" else 1


def flags_of(options: argparse.Namespace) -> list[str]:
    """What of the command line decides what is measured; where files lie does not matter."""
    given = [
        ("--quick", options.quick),
        ("--data TABLE", options.data),
        ("--model RUN", options.model),
        (f"--seconds {options.seconds:g}" if options.seconds else "", options.seconds),
    ]
    return [flag for flag, value in given if value]


def say(what: str) -> None:
    """Progress, on standard error."""
    print(what, file=sys.stderr)


def pixels_of(hasher: Hasher, table: PictureTable) -> torch.Tensor:
    """The resized pictures of a table, uint8 (N, 3, S, S)."""
    with PictureLoader(table, hasher.preprocess.pixels) as loader:
        return torch.cat([pictures for _, pictures in loader.batches(row_batches(len(table), 64))])


def settle(hasher: Hasher, pixels: torch.Tensor) -> None:
    """Have batch norm see the pictures, so that features and logits have mean 0 and deviation 1 over them."""
    for module in hasher.network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all batches
            module.reset_running_stats()
    hasher.network.train()
    with torch.no_grad():
        for part in pixels.split(64):
            if len(part) > 1:
                hasher.network(hasher.preprocess.normalise(part))
    hasher.network.eval()


# ---- speed ----------------------------------------------------------------------------------------------------------


def measure(
    hasher: Hasher, table: PictureTable, pixels: torch.Tensor, device: torch.device, batch_size: int, rounds: int
) -> Row:
    """Rates of the network alone and of encoding; and whether float32 gave the same codes in all rounds."""
    rows: list[Row] = []
    calls: list[Callable[[], float] | None] = []
    for precision, layout, way in sides(device):
        row = {"what": "network alone", "precision": precision, "layout": layout, "way": way}
        rows.append(row)
        if "not run" in way:
            calls.append(None)
            continue
        say(f"preparing the network alone: {precision}, {layout}, {way}")
        try:
            calls.append(network_alone(hasher, pixels, device, batch_size, precision, layout, way))
        except Exception as error:  # a compiler that is missing, an operation that no graph can hold
            row["way"] = f"{way}: not run, {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}"
            calls.append(None)
    encoder = copy.deepcopy(hasher).to(device)
    seen: dict[str, np.ndarray] = {}
    different = []
    asked = {f"encoding, {where}": ("auto", where) for where in ("from the cache", "from files")}
    asked["encoding, from the cache, --deterministic-codes"] = ("float32", "from the cache")
    if device.type != "cuda":
        del asked["encoding, from the cache, --deterministic-codes"]  # the same as without it

    def encoded(what: str) -> float:
        precision, where = asked[what]
        codes, rate = encode(encoder, table, precision, "on" if where == "from the cache" else "off", batch_size)
        exact = pick_precision(precision, device) == "float32"
        # float32 is deterministic: whatever the round, and on one device whatever the pictures come from.
        if exact and not np.array_equal(seen.setdefault(precision, codes), codes):
            different.append(what)
        return rate

    say("making the cache of resized pictures")
    encode(encoder, table, "auto", "on", batch_size)
    for what, (precision, _) in asked.items():
        described = {"precision": pick_precision(precision, device), "layout": "channels last", "way": "eager"}
        rows.append({"what": what, **described})
        calls.append(lambda what=what: encoded(what))  # type: ignore[misc]
    rates: list[list[float]] = [[] for _ in rows]
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for call, found in zip(calls, rates, strict=True):
            if call is not None:
                found.append(call())
    alone = {}
    for row, found in zip(rows, rates, strict=True):
        row["pictures_per_s"] = float(np.median(found)) if found else None
        key = row["precision"], row["layout"], row["way"]
        if row["what"] == "network alone":
            alone[key] = row["pictures_per_s"]
        elif alone.get(key):
            row["lost"] = 1 - row["pictures_per_s"] / alone[key]
    return {"rows": rows, "answers": "DIFFERENT: " + ", ".join(sorted(set(different))) if different else "equal"}


def sides(device: torch.device) -> Iterator[tuple[str, str, str]]:
    """Precision, layout and way of the network alone; what a device does not run says so."""
    on_gpu = device.type == "cuda"
    for precision, layout in itertools.product(PRECISIONS, LAYOUTS):
        if on_gpu or precision != "float16":
            yield precision, layout, "eager"
    if not on_gpu:
        yield "float16", "channels last", "eager: not run, CPUs emulate it"
    for way in WAYS[1:]:
        yield "float16", "channels last", way if on_gpu else f"{way}: not run, there is no GPU"


def network_alone(
    hasher: Hasher,
    pixels: torch.Tensor,
    device: torch.device,
    batch_size: int,
    precision: str,
    layout: str,
    way: str,
) -> Callable[[], float]:
    """A call that gives pictures a second of the network on batches that lie on the device, all of its preparation done."""
    network = copy.deepcopy(hasher.network).to(device, memory_format=LAYOUTS[layout]).eval()  # type: ignore[call-overload]
    batches_held = RESIDENT if device.type == "cuda" else 1
    batches = [
        hasher.preprocess.normalise(part.to(device)).contiguous(memory_format=LAYOUTS[layout])
        for part in pixels[np.resize(np.arange(len(pixels)), batch_size * batches_held)].split(batch_size)
    ]
    run: Network = network
    if way == "compiled":
        run = torch.compile(network)
    elif way == "CUDA graph":
        run = as_graph(network, batches[0], precision)
    views = 2 if hasher.preprocess.mirror else 1

    def once() -> float:
        passes = 4 if device.type == "cuda" else 1
        started = time.perf_counter()
        with torch.inference_mode(), computing(precision, device):
            for _ in range(passes * views):
                for batch in batches:
                    run(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return passes * sum(map(len, batches)) / (time.perf_counter() - started)

    once()
    return once


def as_graph(network: torch.nn.Module, batch: torch.Tensor, precision: str) -> Network:
    """The network on batches of one shape as a CUDA graph: its kernels start by one call."""
    fed = batch.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside), torch.inference_mode(), computing(precision, batch.device):
        for _ in range(3):
            network(fed)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Weights that autocast keeps are freed when it ends, and the graph would read them again.
    narrow = torch.autocast(
        "cuda", dtype=getattr(torch, precision), enabled=precision != "float32", cache_enabled=False
    )
    with torch.inference_mode(), narrow, torch.cuda.graph(graph):
        outputs = network(fed)

    def run(pictures: torch.Tensor) -> Any:
        fed.copy_(pictures)
        graph.replay()
        return outputs

    return run


def encode(
    hasher: Hasher, table: PictureTable, precision: str, cache: str, batch_size: int
) -> tuple[np.ndarray, float]:
    """The codes of the table, and pictures a second from the end of the first chunk to the end of the last."""
    chunk_size = max(batch_size, min(1024, len(table) // 4))
    codes, ends = [], []
    for chunk in encode_chunks(
        hasher, table, batch_size=batch_size, chunk_size=chunk_size, precision=precision, cache=cache, progress=False
    ):
        ends.append(time.perf_counter())
        assert chunk.codes is not None
        codes.append(chunk.codes)
    return np.concatenate(codes), (len(table) - len(codes[0])) / max(ends[-1] - ends[0], 1e-9)


# ---- bits -----------------------------------------------------------------------------------------------------------


def compare_bits(
    hasher: Hasher, pixels: torch.Tensor, device: torch.device, batch_size: int, seconds: float
) -> list[Row]:
    """For each device and precision: the bits that are not those of float32 on the CPU, and how near a threshold they lay."""
    say("codes by float32 on the CPU")
    expected = logits_by(hasher, pixels, torch.device("cpu"), "float32", batch_size, 3 * seconds)
    ways: list[tuple[str, torch.device | None]] = [(each, torch.device("cpu")) for each in ("bfloat16", "float16")]
    ways += [(each, device if device.type == "cuda" else None) for each in ("float32", "TF32", "float16", "bfloat16")]
    rows = []
    for precision, where in ways:
        row: Row = {"device": "GPU" if where is None or where.type == "cuda" else "CPU", "precision": precision}
        rows.append(row)
        if where is None:
            continue
        say(f"codes by {precision} on {where}")
        found = logits_by(hasher, pixels[: len(expected)], where, precision, batch_size, seconds)
        row.update(turned(hasher, expected[: len(found)], found))
    return rows


def turned(hasher: Hasher, expected_NK: np.ndarray, found_NK: np.ndarray) -> Row:
    """How two matrices of logits of the same pictures, and their bits, differ; distances in deviations of a bit's logits."""
    thresholds = hasher.thresholds if hasher.thresholds is not None else np.zeros(hasher.code_size, np.float32)
    deviation_K = np.maximum(expected_NK.std(axis=0), 1e-12)
    bits = [np.unpackbits(binarize(each, thresholds), axis=1) for each in (expected_NK, found_NK)]
    other_NK = (bits[0] != bits[1])[:, : hasher.code_size]
    away_NK = np.abs(expected_NK - thresholds) / deviation_K
    return {
        "bits": int(other_NK.size),
        "turned": int(other_NK.sum()),
        "per_million": 1e6 * float(other_NK.mean()),
        "codes_changed": float(other_NK.any(axis=1).mean()),
        "farthest": float(away_NK[other_NK].max()) if other_NK.any() else None,
        "error": float(np.sqrt((((found_NK - expected_NK) / deviation_K) ** 2).mean())),
    }


def logits_by(
    hasher: Hasher, pixels: torch.Tensor, device: torch.device, precision: str, batch_size: int, seconds: float
) -> np.ndarray:
    """Logits of as many of the pictures as some seconds are enough for, at least one batch; TF32: torch's default."""
    there = copy.deepcopy(hasher).to(device)
    if device.type == "cuda":
        there.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # So few that one batch of a precision that a CPU emulates does not take all of the time.
    parts: Iterable[torch.Tensor] = pixels.split(batch_size if device.type == "cuda" else min(batch_size, 16))
    logits = []
    started = time.perf_counter()
    for part in parts:
        with nullcontext() if precision == "TF32" else computing(precision, device):
            logits.append(there.run_batch(part)[0].cpu().numpy())
        if time.perf_counter() - started > seconds:
            break
    return np.concatenate(logits)


# ---- the page -------------------------------------------------------------------------------------------------------


def as_markdown(document: Row) -> str:
    """The document as a part of a page."""
    about = document["machine"]
    lines = [
        "# Encoding, measured",
        "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program.",
        "",
        f"- {document['device']}; {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"- {document['network']}; files: {document['files']}",
        f"- {document['batch_size']} pictures at once, {document['pictures']:,} in a round of encoding; median of "
        f"{document['rounds']} rounds, sides in turns; within 10 % of the network alone was the aim for the cache",
        f"- codes of float32 in all rounds: {document['answers']}",
        "",
        "| what | precision | layout | way | pictures/s | lost to the network alone |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        way, _, why = row["way"].partition(": ")
        rate = why if row["pictures_per_s"] is None else f"{row['pictures_per_s']:,.1f}"
        lost = f"{100 * row['lost']:.0f} %" if "lost" in row else ""
        lines.append(f"| {row['what']} | {row['precision']} | {row['layout']} | {way} | {rate} | {lost} |")
    lines += [
        "",
        "Bits that are not those of float32 on the CPU. Error (root mean square) and the distance from the threshold of the "
        "farthest bit that turned are in standard deviations of a bit's logits over the pictures.",
        "",
        "| device | precision | bits compared | turned | in a million | codes changed | farthest that turned | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["bits"]:
        cells = [row["device"], row["precision"]]
        if "bits" in row:
            farthest = "" if row["farthest"] is None else f"{row['farthest']:.5f}"
            cells += [f"{row['bits']:,}", f"{row['turned']:,}", f"{row['per_million']:.0f}"]
            cells += [f"{100 * row['codes_changed']:.2f} %", farthest, f"{row['error']:.2g}"]
        else:
            cells += ["not run: there is no GPU", *[""] * 5]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
