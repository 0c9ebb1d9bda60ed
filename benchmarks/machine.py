"""What the machine is and what it can do at most: the limits that speeds are compared with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

VERSIONS = ("hashret", "numpy", "numba", "llvmlite", "faiss-cpu", "usearch")


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(packages: Sequence[str] = VERSIONS) -> dict[str, object]:
    """The processor with the vector units that decide the speed, cores, system and versions of the packages."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {"cpu": _cpu(), "cores": cores(), "system": platform.platform(), "versions": found}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = [unit for unit in ("avx2", "avx512f", "avx512_vpopcntdq") if unit in values.get("flags", "").split()]
    name = values.get("model name", platform.machine())
    return f"{name} ({', '.join(units)})" if units else name


def reader(memory: np.ndarray, threads: int) -> Callable[[], object]:
    """A call that reads all of an array, on so many threads, with a compiled loop that does nothing else.

    The loop asks for memory 8 KB ahead: one core alone reads a third less without.
    """
    import numba

    from hashret.hamming.sliced import prefetch

    @numba.njit(nogil=True)
    def read(lines: np.ndarray) -> np.ndarray:
        seen = np.zeros(lines.shape[1], np.uint64)
        flat = lines.reshape(-1)
        for i in range(len(lines)):
            for ahead in range(0, lines.shape[1], 8):
                prefetch(flat, i * lines.shape[1] + 1024 + ahead)
            line = lines[i]
            for j in range(seen.size):
                seen[j] ^= line[j]
        return seen

    words = memory.reshape(-1).view(np.uint64)
    parts = np.array_split(words[: len(words) // 64 * 64].reshape(-1, 64), threads)
    read(parts[0][:8])
    if threads == 1:
        return lambda: read(parts[0])
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(read, parts))


def read_bandwidth(n_bytes: int, threads: int) -> float:
    """Bytes a second that `threads` threads read from memory of n_bytes: the best of nine."""
    read = reader(np.ones(n_bytes // 8, np.uint64), threads)
    best = float("inf")
    for _ in range(9):
        started = time.perf_counter()
        read()
        best = min(best, time.perf_counter() - started)
    return n_bytes / best


def vector_operations() -> float:
    """512-bit three-input operations a second on one core, from registers: the limit of the table kernel."""
    import numba
    from numba import types
    from numba.extending import intrinsic

    from hashret.hamming.vectors import CARRY, SUM, Builder

    chains, steps, calls = 8, 64, 50_000

    @intrinsic
    def work(typing_context, memory):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            b = Builder(context, builder)
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            kept = [b.load(data, b.word(8 * i)) for i in range(chains)]
            fixed = [b.load(data, b.word(8 * (chains + i))) for i in range(8)]
            for step in range(steps):
                x, y = fixed[step % 8], fixed[(3 * step + 1) % 8]
                kept = [b.logic(CARRY if step % 2 else SUM, each, x, y) for each in kept]
            for i, each in enumerate(kept):
                b.store(each, data, b.word(8 * i))
            return context.get_dummy_value()

        return types.void(memory), codegen

    @numba.njit
    def repeat(memory: np.ndarray, times: int) -> None:
        for _ in range(times):
            work(memory)

    memory = np.random.default_rng(0).integers(0, 1 << 63, 8 * (chains + 8)).astype(np.uint64)
    repeat(memory, 10)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        repeat(memory, calls)
        best = min(best, time.perf_counter() - started)
    return chains * steps * calls / best
