"""Which kernel answers a search, on how many threads, and what that should cost.

Costs are a handful of numbers measured on the machine (`measure`, about two seconds, kept in the user's cache folder); until
they are, those of one two-core server stand in. Every plan gives the same answer, so a wrong cost wastes time and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hashret.hamming.cache import user_cache
from hashret.hamming.sample import BLOCK_ROWS, SAMPLED_BLOCKS, rank_in_sample, samples
from hashret.hamming.threads import available_threads
from hashret.hamming.words import words_per_code

_log = logging.getLogger("hashret.hamming")

NUMPY_WORK = 1 << 14
"""Bytes compared up to which numpy is always quicker than a compiled kernel's start."""
NUMPY_WORK_COLD = 1 << 27
"""Bytes compared, in all the life of a process, up to which numpy beats loading numba and its cached kernels."""


_cold_bytes = 0


def may_stay_cold(n_bytes: int, budget: int) -> bool:
    """Whether numpy may compare so many bytes more before starting numba is earned; they are counted if so.

    A process that asks once is answered before numba would be loaded; one that keeps asking, four times at most, loads it.
    """
    global _cold_bytes
    if _cold_bytes + n_bytes > budget:
        return False
    _cold_bytes += max(n_bytes, budget // 4)
    return True


@dataclasses.dataclass(frozen=True)
class Costs:
    """What kernels cost on one machine, in nanoseconds; a word is 64 bits of a code."""

    row_first: float = 0.30
    """Row kernel: a word, for the first query (memory)."""
    row_next: float = 0.14
    """Row kernel: a word, for each further query."""
    block: float = 310.0
    """Table kernel: turning a block of 512 rows over and making its tables, a word of the code."""
    block_query: float = 15.0
    """Table kernel: a query and a block, codes of one word."""
    block_query_more: float = 19.0
    """The same for each further word."""
    take: float = 25.0
    """A candidate for the k nearest."""
    call: float = 40_000.0
    """A search of nothing."""
    thread: float = 60_000.0
    """Waking one thread more."""
    row_speedup: float = 1.8
    """Row kernel, one query, on all threads: how many times as fast."""
    table_speedup: float = 1.9
    """The same for the table kernel."""
    threads: int = 2
    """What "all threads" were."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Who computes a search. kernel: "numpy", "row" or "table"; predicted_ms: what it should take, in milliseconds."""

    kernel: str
    threads: int
    predicted_ms: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How a search was answered; every answer is exact."""

    plan: Plan
    measured_ms: float
    codes: int
    """Codes in the index that were compared with every query (allowed and alive)."""
    measured_costs: bool
    """Whether the prediction rests on costs measured on this machine."""

    def lines(self) -> list[str]:
        """The explanation in words."""
        costs = "costs measured on this machine" if self.measured_costs else "costs of another machine"
        threads = "1 thread" if self.plan.threads == 1 else f"{self.plan.threads} threads"
        return [
            f"{self.plan.kernel} kernel on {threads}: {self.plan.reason}",
            f"predicted {self.plan.predicted_ms:.2f} ms ({costs}), measured {self.measured_ms:.2f} ms",
            f"{self.codes:,} codes compared with each query; the answer is exact",
        ]


def plan(
    n: int, n_bytes: int, n_queries: int, k: int | None, threads: int | None = None, *, loaded: bool = True
) -> Plan:
    """The cheapest plan for a search. k None: a radius search. threads None: as many as pay, up to all cores.

    loaded: whether numba is; one small search is not worth loading it.
    """
    costs = known_costs()
    work = n_queries * n * n_bytes
    if work <= NUMPY_WORK:
        return Plan("numpy", 1, costs.call / 1e6 + work / 1e6, "too little work for a compiled kernel")
    if not loaded and n_queries <= 8 and may_stay_cold(work, NUMPY_WORK_COLD):
        return Plan("numpy", 1, costs.call / 1e6 + work / 1e6, "one small search, done before numba is loaded")
    n_words = words_per_code(n_bytes)
    counts = sorted({1, available_threads()}) if threads is None else [threads]
    plans = []
    for kernel, alone, speedup in (
        ("row", row_cost(costs, n, n_words, n_queries), costs.row_speedup),
        ("table", table_cost(costs, n, n_words, n_queries), costs.table_speedup),
    ):
        for count in counts:
            faster = 1.0 if count == 1 else 1 + (speedup - 1) * (count - 1) / max(1, costs.threads - 1)
            taking = 0.0 if k is None else costs.take * n_queries * candidates(n / count, k)
            nanoseconds = costs.call + alone / faster + taking + (count - 1) * costs.thread
            plans.append((nanoseconds, count, kernel))
    nanoseconds, count, kernel = min(plans)
    others = ", ".join(f"{name} on {c}: {ns / 1e6:.2f} ms" for ns, c, name in sorted(plans)[1:])
    return Plan(kernel, count, nanoseconds / 1e6, f"the cheapest; {others}")


def row_cost(costs: Costs, n: int, n_words: int, n_queries: int) -> float:
    """Nanoseconds of the row kernel on one thread, without taking candidates."""
    return n * n_words * (costs.row_first + max(0, n_queries - 1) * costs.row_next)


def table_cost(costs: Costs, n: int, n_words: int, n_queries: int) -> float:
    """Nanoseconds of the table kernel on one thread, without taking candidates."""
    a_query = costs.block_query + (n_words - 1) * costs.block_query_more
    return -(-n // BLOCK_ROWS) * (n_words * costs.block + n_queries * a_query)


def candidates(n: float, k: int) -> float:
    """Codes in random order that are, when they are met, among the k nearest so far, or pass the limit of a sample."""
    if n <= k:
        return n
    in_row_order = k * (1 + math.log(n / k))
    return min(in_row_order, SAMPLED_BLOCKS * rank_in_sample(k)) if samples(int(n), k) else in_row_order


@functools.cache
def known_costs() -> Costs:
    """The costs measured on this machine, or the defaults."""
    try:
        stored = json.loads(_costs_file().read_text("utf-8"))
        measured: dict[str, Any] = {field.name: float(stored[field.name]) for field in dataclasses.fields(Costs)}
        return Costs(**{**measured, "threads": int(measured["threads"])})
    except (OSError, ValueError, KeyError, TypeError):
        return Costs()


def are_measured() -> bool:
    """Whether the costs of this machine are known."""
    return _costs_file().exists()


def measure() -> Costs:
    """Measure the costs on this machine and keep them for all later searches."""
    from hashret.hamming.linear import search
    from hashret.hamming.rows import RowScan
    from hashret.hamming.tables import TableScan

    rng = np.random.default_rng(0)
    n, threads = 1 << 21, available_threads()
    one = rng.integers(0, 256, (n, 8), dtype=np.uint8)
    two = one.reshape(n // 2, 16)

    def took(scan: type, gallery: np.ndarray, n_queries: int, k: int, count: int = 1) -> float:
        # Not from the gallery: a query that finds itself leaves nothing nearer to look for.
        queries = rng.integers(0, 256, (n_queries, gallery.shape[1]), dtype=np.uint8)
        return _best(lambda: search(scan, gallery, queries, k, None, count))

    def of_block(gallery: np.ndarray, n_words: int) -> tuple[float, float]:
        few, many = took(TableScan, gallery, 8, 10), took(TableScan, gallery, 72, 10)
        blocks = len(gallery) / BLOCK_ROWS
        a_query = (many - few) / 64 / blocks
        return max(1.0, few / blocks - 8 * a_query) / n_words, a_query

    took(TableScan, two[:1024], 8, 1), took(RowScan, one[:1024], 1, 1)  # compile, or load from the cache
    call = took(RowScan, one[:512], 1, 1)
    first, five = took(RowScan, one, 1, 10), took(RowScan, one, 5, 10)
    block, block_query = of_block(one, 1)
    _, block_query_two = of_block(two, 2)
    many_taken, few_taken = took(TableScan, one, 16, 200), took(TableScan, one, 16, 10)
    taken = 16 * (candidates(n, 200) - candidates(n, 10))
    costs = Costs(
        row_first=first / n,
        row_next=(five - first) / 4 / n,
        block=block,
        block_query=block_query,
        block_query_more=max(1.0, block_query_two - block_query),
        take=max(1.0, (many_taken - few_taken) / taken),
        call=call,
        thread=max(1.0, took(RowScan, one[:1024], 1, 1, threads) - call) / max(1, threads - 1),
        row_speedup=max(1.0, first / took(RowScan, one, 1, 10, threads)),
        table_speedup=max(1.0, took(TableScan, one, 72, 10) / took(TableScan, one, 72, 10, threads)),
        threads=threads,
    )
    file = _costs_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dataclasses.asdict(costs), indent=2) + "\n", "utf-8")
    except OSError as error:
        _log.warning("the measured costs cannot be kept in %s (%s)", file, error.strerror)
    known_costs.cache_clear()
    return costs


def _best(call: Callable[[], object]) -> float:
    """Nanoseconds of the fastest of five."""
    times = []
    for _ in range(5):
        started = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - started)
    return float(min(times))


def _costs_file() -> Path:
    """Where this machine's costs are kept: by its name and its cores, for caches that several machines share."""
    return user_cache() / "costs" / f"{platform.node() or 'machine'}-{os.cpu_count()}.json"
