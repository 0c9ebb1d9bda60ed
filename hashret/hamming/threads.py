"""A pool of our own for kernels that release the interpreter lock.

numba's `prange` aborts the process when two callers use its always-present threading layer at once; plain threads
do not. The caller works too instead of waiting, so that callers at once cannot starve each other, and a search on two
threads wakes one thread only: that is most of what it costs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")

_invitations: SimpleQueue[Callable[[], None]] = SimpleQueue()
_workers: list[Thread] = []
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
    numbers = itertools.count()
    finished: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        while (number := next(numbers)) < len(tasks):
            try:
                finished.put((number, tasks[number](), None))
            except BaseException as error:
                finished.put((number, None, error))

    helpers = min(threads, len(tasks)) - 1
    _hire(helpers)
    for _ in range(helpers):
        _invitations.put(work)
    work()
    outcomes = sorted((finished.get() for _ in tasks), key=lambda outcome: outcome[0])
    for _, _, error in outcomes:
        if error is not None:
            raise error
    return [result for _, result, _ in outcomes]


def _hire(count: int) -> None:
    """Have at least so many threads waiting for invitations."""
    with _lock:
        while len(_workers) < count:
            worker = Thread(target=_wait, args=(_invitations,), name=f"hashret-search-{len(_workers)}", daemon=True)
            worker.start()
            _workers.append(worker)


def _wait(invitations: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        invitations.get()()


def _forget_workers() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that nobody will release."""
    global _lock, _invitations
    _workers.clear()
    _lock, _invitations = Lock(), SimpleQueue()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
