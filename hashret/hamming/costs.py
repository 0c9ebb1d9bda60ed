"""What searches cost on one machine: a handful of numbers, measured once in a few seconds and kept in the user's cache folder.

Until they are measured, those of one two-core server stand in. Each has a meaning of its own; planner.py adds them up.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hashret.codes import Codes
from hashret.hamming.cache import user_cache
from hashret.hamming.sample import BLOCK_ROWS, SAMPLED_BLOCKS, rank_in_sample, samples
from hashret.hamming.threads import available_threads

_log = logging.getLogger("hashret.hamming")


NEAR_BYTES = 1 << 24
"""Codes in so many bytes are taken to stay in the processor's caches from one search to the next."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """What searches cost on one machine, in nanoseconds; a word is 64 bits of a code."""

    call: float = 30_000.0
    """A compiled search of next to nothing, with planning it."""
    numpy_query: float = 20_000.0
    """numpy: a query, among no codes."""
    numpy_code: float = 0.5
    """numpy: a query and a code, whatever its length."""
    numpy_word: float = 2.5
    """The same for each word of the code."""
    numpy_take: float = 40.0
    """numpy: one of the k nearest."""
    row_first: float = 0.40
    """Row kernel: a word, for the first query (memory)."""
    row_first_near: float = 0.25
    """The same where the gallery fits into the processor's caches."""
    row_next: float = 0.04
    """Row kernel: a word, for each further query; four share a load, so the first few cost less than this."""
    row_take: float = 150.0
    """Row kernel: a code that may be among the k nearest when it is met, with looking for it in its block."""
    block: float = 310.0
    """Table kernel: turning a block of 512 rows over and making its tables, a word of the code."""
    block_query: float = 15.0
    """Table kernel: a query and a block, codes of one word."""
    block_query_more: float = 19.0
    """The same for each further word."""
    block_flags: float = 250.0
    """Table kernel: the flags of a block, where not all codes are alive."""
    table_take: float = 20.0
    """Table kernel: a code that may be among the k nearest when it is met."""
    order: float = 80.0
    """One of the k nearest, put in order and given back, by either kernel."""
    collect: float = 100.0
    """A code within a radius, with putting it in order."""
    merge: float = 40.0
    """One of the k nearest of one thread's rows, put in order with those of the others."""
    flag: float = 0.2
    """Where few codes are alive: looking at a flag."""
    copy: float = 20.0
    """Copying one of these few codes."""
    bucket: float = 10.0
    """Multi-index hashing: looking up a bucket."""
    bucket_wait: float = 30.0
    """Multi-index hashing: waiting for one of the first lines of memory of a bucket's codes."""
    bucket_word: float = 1.2
    """Multi-index hashing: a word of a code compared in a bucket."""
    bucket_take: float = 200.0
    """Multi-index hashing: a code that is near enough, looked at again and kept."""
    thread: float = 60_000.0
    """Waking one thread more."""
    row_speedup: float = 1.8
    """Row kernel, one query, on all threads: how many times as fast."""
    table_speedup: float = 1.9
    """The same for the table kernel, and for all but the first query of the row kernel: what computing gains."""
    threads: int = 2
    """What "all threads" were."""


def candidates(n: float, k: int) -> float:
    """Codes in random order that are, when they are met, among the k nearest so far, or pass the limit of a sample."""
    if n <= k:
        return n
    in_row_order = k * (1 + math.log(n / k))
    return min(in_row_order, SAMPLED_BLOCKS * rank_in_sample(k)) if samples(int(n), k) else in_row_order


@functools.cache
def measured_costs() -> Costs | None:
    """The costs measured on this machine; None before that, and where the file lacks some or is damaged."""
    try:
        stored = json.loads(_file().read_text("utf-8"))
        measured: dict[str, Any] = {field.name: float(stored[field.name]) for field in dataclasses.fields(Costs)}
        return Costs(**{**measured, "threads": int(measured["threads"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_costs() -> Costs:
    """The costs measured on this machine, or those of another."""
    return measured_costs() or Costs()


def are_measured() -> bool:
    """Whether the costs of this machine are known."""
    return measured_costs() is not None


def measure() -> Costs:
    """Measure the costs on this machine, two to four seconds, and keep them for all later searches."""
    costs = Costs(**_of_scans(), **_of_buckets())
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dataclasses.asdict(costs), indent=2) + "\n", "utf-8")
    except OSError as error:
        _log.warning("the measured costs cannot be kept in %s (%s)", file, error.strerror)
    measured_costs.cache_clear()
    return costs


ROUNDS = 5
"""Times that everything is measured, in turns, so that what else the machine does for a second does not count."""


def _of_scans() -> dict[str, Any]:
    """What numpy, the row kernel and the table kernel cost: differences of searches that differ in one thing."""
    from hashret.hamming import linear, plain, planner
    from hashret.hamming.arguments import FEW_ALIVE, gathered
    from hashret.hamming.merge import merge
    from hashret.hamming.rows import RowScan
    from hashret.hamming.tables import TableScan

    rng = np.random.default_rng(0)
    # A gallery that stays in the caches, but for the one that shows what memory costs a single query.
    n, large, threads = NEAR_BYTES // 2 // 8, 1 << 23, available_threads()
    one = _codes(rng, large, 8)
    two = one[:n].reshape(n // 2, 16)
    # Not from the gallery: a query that finds itself leaves nothing nearer to look for.
    queries = _codes(rng, 72, 8)
    queries_of_two = _codes(rng, 72, 16)
    few, many = 1 << 18, 10_000
    all_but_one = np.arange(n) > 0
    some, fewer = (rng.random(n) < share / FEW_ALIVE for share in (0.5, 0.05))
    top = np.sort(rng.integers(0, 64, (16, 1 << 12), np.int32)), rng.integers(0, n, (16, 1 << 12))

    def nearest(scan: Any, n_queries: int, k: int = 10, rows: int = n, count: int = 1, alive: Any = None) -> Any:
        return functools.partial(linear.search, scan, one[:rows], queries[:n_queries], k, alive, count)

    def nothing(count: int) -> Any:
        planner.plan(1024, 8, 1, 1, count)
        return linear.search(RowScan, one[:1024], queries[:1], 1, None, count)

    def within(radius: int) -> Any:
        return functools.partial(linear.search_radii, TableScan, one[:n], queries[:16], np.full(16, radius), None, 1)

    took = _best(
        {
            "nothing": functools.partial(nothing, 1),
            "nothing on threads": functools.partial(nothing, threads),
            "numpy, nothing": lambda: plain.search(one[:1], queries[:1], 10, None),
            "numpy": lambda: plain.search(one[: n // 2], queries[:1], 10, None),
            "numpy, two words": lambda: plain.search(two, queries_of_two[:1], 10, None),
            "numpy, few": lambda: plain.search(one[:few], queries[:1], 10, None),
            "numpy, few, many": lambda: plain.search(one[:few], queries[:1], many, None),
            "row, 16": nearest(RowScan, 16),
            "row, 16, many": nearest(RowScan, 16, k=many),
            "row": nearest(RowScan, 1),
            "row, large": nearest(RowScan, 1, rows=large),
            "row, large, on threads": nearest(RowScan, 1, rows=large, count=threads),
            "table, 8": nearest(TableScan, 8),
            "table, 8, flags": nearest(TableScan, 8, alive=all_but_one),
            "table, 8, many": nearest(TableScan, 8, k=many),
            "table, 8, few": nearest(TableScan, 8, rows=few),
            "table, 8, few, k 1000": nearest(TableScan, 8, rows=few, k=1000),
            "table, 72": nearest(TableScan, 72),
            "table, 72, large": nearest(TableScan, 72, rows=large),
            "table, 72, large, on threads": nearest(TableScan, 72, rows=large, count=threads),
            "table, 8, two words": lambda: linear.search(TableScan, two, queries_of_two[:8], 10, None, 1),
            "table, 72, two words": lambda: linear.search(TableScan, two, queries_of_two, 10, None, 1),
            "near": within(10),
            "far": within(19),
            "some": lambda: gathered(one[:n], some),
            "fewer": lambda: gathered(one[:n], fewer),
            "merge": lambda: merge([top, top], top[0].shape[1]),
        }
    )
    blocks = n // BLOCK_ROWS
    block_query = (took["table, 72"] - took["table, 8"]) / 64 / blocks
    block_query_of_two = (took["table, 72, two words"] - took["table, 8, two words"]) / 64 / (blocks / 2)
    numpy_one, numpy_two = (2 * (took[name] - took["numpy, nothing"]) / n for name in ("numpy", "numpy, two words"))
    # A large gallery gives hardly more candidates than k (see sample.py), a smaller one several times as many.
    taken, taken_of_few = candidates(n, many) - candidates(n, 10), candidates(few, 1000) - candidates(few, 10)
    taking = (took["table, 8, many"] - took["table, 8"]) / 8
    taking_of_few = (took["table, 8, few, k 1000"] - took["table, 8, few"]) / 8
    table_take, order = np.linalg.solve([[taken, many], [taken_of_few, 1000]], [taking, taking_of_few])
    order = _at_least(1.0, order)
    row_taking = (took["row, 16, many"] - took["row, 16"]) / 16
    collected = len(within(19)()[1]) - len(within(10)()[1])
    n_some, n_fewer = np.count_nonzero(some), np.count_nonzero(fewer)
    copy = (took["some"] - took["fewer"]) / (n_some - n_fewer)
    return {
        "call": took["nothing"],
        "numpy_query": took["numpy, nothing"],
        "numpy_code": _at_least(0.1, 2 * numpy_one - numpy_two),
        "numpy_word": _at_least(0.1, numpy_two - numpy_one),
        "numpy_take": _at_least(1.0, (took["numpy, few, many"] - took["numpy, few"]) / many),
        "row_first": took["row, large"] / large,
        "row_first_near": _at_least(0.01, (took["row"] - took["nothing"]) / n),
        "row_next": _at_least(0.01, (took["row, 16"] - took["row"]) / 15 / n),
        "row_take": _at_least(1.0, (row_taking - many * order) / taken),
        "block": _at_least(1.0, took["table, 8"] / blocks - 8 * block_query),
        "block_query": block_query,
        "block_query_more": _at_least(1.0, block_query_of_two - block_query),
        "block_flags": _at_least(1.0, (took["table, 8, flags"] - took["table, 8"]) / blocks),
        "table_take": _at_least(1.0, table_take),
        "order": order,
        "collect": _at_least(1.0, (took["far"] - took["near"]) / collected),
        "merge": took["merge"] / 2 / top[0].size,
        "flag": _at_least(0.01, (took["fewer"] - copy * n_fewer) / n),
        "copy": _at_least(1.0, copy),
        "thread": _at_least(1.0, took["nothing on threads"] - took["nothing"]) / max(1, threads - 1),
        "row_speedup": _at_least(1.0, took["row, large"] / took["row, large, on threads"]),
        "table_speedup": _at_least(1.0, took["table, 72, large"] / took["table, 72, large, on threads"]),
        "threads": threads,
    }


def _of_buckets() -> dict[str, Any]:
    """What multi-index hashing costs: buckets that hold a code or none, dozens, and hundreds."""
    from hashret.hamming import exact
    from hashret.hamming.multi_index import MultiIndex

    rng = np.random.default_rng(2)
    n_queries = 16

    def took(gallery: Codes, n_substrings: int, radius: int) -> tuple[float, Any]:
        """Nanoseconds a query, and what it looked at. Each is asked once: again, it would find its buckets in the cache."""
        index = MultiIndex.build(gallery, 64, n_substrings, threads=1)
        index.effort(gallery[:1], radius)
        times, efforts = [], []
        for first in range(1, 1 + ROUNDS * n_queries, n_queries):
            started = time.thread_time_ns()
            efforts.append(index.effort(gallery[first : first + n_queries], radius))
            times.append((time.thread_time_ns() - started) / n_queries)
        best = int(np.argmin(times))
        return times[best], efforts[best]

    n = 1 << 20
    random = _codes(rng, n, 8)
    measured = [took(random, 3, 10), took(random, 4, 10), took(random[: n // 2], 6, 11)]
    costs = np.linalg.solve([effort for _, effort in measured], [nanoseconds for nanoseconds, _ in measured])
    # The same with near neighbours: of 64 bits, four of each are flipped.
    centres = _codes(rng, n // 128, 8)[rng.integers(0, n // 128, n)]
    flipped = functools.reduce(np.bitwise_and, (_codes(rng, n, 8) for _ in range(4)))
    clustered, radius = centres ^ flipped, 8
    nanoseconds, effort = took(clustered, 3, radius)
    found = np.diff(exact.search_radius(clustered, clustered[:n_queries], radius, threads=1)[0]).mean()
    bucket, wait, word = costs
    return {
        "bucket": _at_least(1.0, bucket),
        "bucket_wait": _at_least(1.0, wait),
        "bucket_word": _at_least(0.05, word),
        "bucket_take": _at_least(1.0, (nanoseconds - effort @ costs) / found),
    }


def _codes(rng: np.random.Generator, n: int, n_bytes: int) -> Codes:
    """Random codes; the generator's own bytes are many times as fast as its integers of one byte."""
    return np.frombuffer(rng.bytes(n * n_bytes), np.uint8).reshape(n, n_bytes)


def _at_least(least: float, measured: float) -> float:
    """What was measured, but for what noise may make of a difference: costs are positive."""
    return max(least, float(measured))


def _best(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Nanoseconds of the fastest of each, all called in turns.

    Those on one thread are measured in time of the processor, so that who waits for it behind others does not count as slow.
    """
    times: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            clock = time.perf_counter_ns if name.endswith("on threads") else time.thread_time_ns
            # Once to compile, or to have in the caches what the other calls took from them.
            call()
            started = clock()
            call()
            times[name].append(clock() - started)
    return {name: float(min(measured)) for name, measured in times.items()}


def _file() -> Path:
    """Where the costs are kept: by machine, for caches that several share, and by the cores that may be used."""
    return user_cache() / "costs" / f"{platform.node() or 'machine'}-{available_threads()}.json"
