"""Sides measured in turns, each in a process of its own: two OpenMP runtimes in one process slow each other down.

A side is a function from a task to a search: `prepare(task)` builds what it needs and returns a call that gives the answer, an
array. A script that serves sides calls `serve` when it is started with the name of one; `in_turns` starts it so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Task = dict[str, Any]
Search = Callable[[], np.ndarray]
Prepare = Callable[[Task], Search]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass
class Measured:
    """What a side answered, how long it took to prepare, and each of its searches, in seconds."""

    answer: np.ndarray
    prepared_s: float
    seconds: list[float]

    def summary(self) -> dict[str, float]:
        """Median, p95 and p99 of the searches in milliseconds, beside the preparation."""
        p50, p95, p99 = np.percentile(np.array(self.seconds) * 1e3, [50, 95, 99])
        return {
            "prepared_s": self.prepared_s,
            "median_ms": float(p50),
            "p95_ms": float(p95),
            "p99_ms": float(p99),
        }


def in_turns(script: str, sides: Sequence[str], task: Task, rounds: int) -> dict[str, Measured]:
    """Each side's answer to the task, which warms it up, and then `rounds` searches of each, side after side.

    task["threads"] is what BLAS and OpenMP are told, too; where task["warm"] is true, each search is timed the second time.
    """
    workers = {side: _start(script, side, task["threads"]) for side in sides}
    try:
        measured = {}
        for side, worker in workers.items():
            prepared = _ask(worker, task)
            measured[side] = Measured(np.load(prepared["answer"]), prepared["prepared_s"], [])
        for _ in range(rounds):
            for side, worker in workers.items():
                measured[side].seconds.append(_ask(worker, task)["seconds"])
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return measured


def serve(prepare: Prepare) -> None:
    """Answer tasks from standard input, one JSON document a line: the file of an answer first, then seconds of one search."""
    prepared: tuple[str, Search] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            task = json.loads(line)
            if prepared is None or prepared[0] != line:
                started = time.perf_counter()
                prepared = line, prepare(task)
                seconds = time.perf_counter() - started
                file = Path(folder) / "answer.npy"
                np.save(file, np.asarray(prepared[1]()))
                print(json.dumps({"prepared_s": seconds, "answer": str(file)}), flush=True)
                continue
            # A short search is asked twice and timed once: what the other sides left in the caches is not its cost.
            if task["warm"]:
                prepared[1]()
            started = time.perf_counter()
            prepared[1]()
            print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


def _start(script: str, side: str, threads: int) -> Any:
    """A process of one side, ready to be asked."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    command = [sys.executable, "-W", "ignore", script, side]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _ask(worker: Any, task: Task) -> dict[str, Any]:
    """A worker's answer to one task: to the first of its kind how it was prepared, then how long a search took."""
    worker.stdin.write(json.dumps(task) + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a side ended with status {worker.wait()}; its message is above")
    return dict(json.loads(line))
