"""A pool of our own for kernels that release the interpreter lock.

numba's `prange` aborts the process when two callers use its always-present threading layer at once; plain threads
do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

T = TypeVar("T")

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = Lock()


def available_threads() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(tasks: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """Results in the order of the tasks, which run on at most `threads` threads; the first failure is raised."""
    if threads == 1 or len(tasks) <= 1:
        return [task() for task in tasks]
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="hashret-search")
        pool = _pools[threads]
    return [future.result() for future in [pool.submit(task) for task in tasks]]


def _forget_pools() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that nobody will release."""
    global _lock
    _pools.clear()
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)
