"""The peers of benchmarks/gpu.py, each in a process of its own: prints one JSON document of times and a digest of the distances.

torch: bits as -1 and 1 in int8, a product of matrices and the largest k, piece by piece. faiss: GpuIndexBinaryFlat.

Run: python benchmarks/gpu_sides.py torch|faiss '{"n": 1000000, "bits": 64, "queries": 1000, "k": 10, "rounds": 3}'
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PIECE = 1 << 18
"""Codes that torch compares at a time: a quarter of a billion products with 1,000 queries."""


def data(n: int, bits: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Random codes and queries, the same in every process."""
    rng = np.random.default_rng([n, bits, queries])
    gallery = np.empty((n, bits // 8), np.uint8)
    for start in range(0, n, 1 << 24):
        part = gallery[start : start + (1 << 24)]
        part[:] = np.frombuffer(rng.bytes(part.size), np.uint8).reshape(part.shape)
    return gallery, np.frombuffer(rng.bytes(queries * bits // 8), np.uint8).reshape(queries, -1)


def digest(distances: np.ndarray) -> str:
    """What answers are compared by."""
    return hashlib.sha256(np.ascontiguousarray(distances, np.int32)).hexdigest()


def torch_search(task: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], np.ndarray]] | str:
    """A search and its distances, or why there is none."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA GPU"
    gallery, queries = data(task["n"], task["bits"], task["queries"])
    bits, k = task["bits"], task["k"]
    shifts = torch.arange(7, -1, -1, device="cuda", dtype=torch.uint8)

    def signs(codes: torch.Tensor) -> torch.Tensor:
        return ((codes[:, :, None] >> shifts & 1).to(torch.int8) * 2 - 1).reshape(len(codes), bits)

    pieces = [signs(torch.from_numpy(gallery[i : i + PIECE]).cuda()) for i in range(0, len(gallery), PIECE)]
    asked = signs(torch.from_numpy(queries.copy()).cuda())
    found = [torch.empty(0)]

    def search() -> None:
        best = torch.empty((len(asked), 0), dtype=torch.int32, device="cuda")
        for piece in pieces:
            # Sizes of integer products are multiples of 8 there; what was added is the farthest.
            missing = -len(piece) % 8
            alike = torch._int_mm(asked, torch.nn.functional.pad(piece, (0, 0, 0, missing)).T)[:, : len(piece)]
            best = torch.cat([best, alike.topk(min(k, len(piece)), dim=1).values], 1).topk(
                min(k, best.shape[1] + k), 1
            )[0]
        torch.cuda.synchronize()
        found[0] = (bits - best) // 2

    return search, lambda: found[0].cpu().numpy()


def faiss_search(task: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], np.ndarray]] | str:
    """The same for FAISS."""
    try:
        import faiss
    except ImportError:
        return "faiss is not installed"
    if not hasattr(faiss, "GpuIndexBinaryFlat"):
        return f"faiss {faiss.__version__} was built without its GPU part"
    if not faiss.get_num_gpus():
        return f"faiss {faiss.__version__} finds no CUDA GPU"
    gallery, queries = data(task["n"], task["bits"], task["queries"])
    index = faiss.GpuIndexBinaryFlat(faiss.StandardGpuResources(), task["bits"])
    index.add(gallery)
    found = [np.empty(0)]

    def search() -> None:
        found[0] = index.search(queries, task["k"])[0]

    return search, lambda: found[0]


SIDES = {"torch": torch_search, "faiss": faiss_search}


def run(side: str, task: dict[str, Any]) -> dict[str, Any]:
    """Median milliseconds until the answer is there, and the digest of its distances; or why not."""
    prepared = SIDES[side](task)
    if isinstance(prepared, str):
        return {"not_run": prepared}
    search, distances = prepared
    search()
    times = []
    for _ in range(task["rounds"]):
        started = time.perf_counter()
        search()
        times.append(1e3 * (time.perf_counter() - started))
    return {"ms": float(np.median(times)), "distances": digest(distances())}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], json.loads(sys.argv[2]))))
