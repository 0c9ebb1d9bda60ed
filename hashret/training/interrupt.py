"""Ctrl-C and SIGTERM, noticed between two batches instead of in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Whether the user asked to stop."""

    requested: bool = False


@contextlib.contextmanager
def noticing_interrupts() -> Iterator[Interrupt]:
    """An Interrupt that the first Ctrl-C or SIGTERM sets; a second one stops at once, as usual.

    Outside the main thread, where Python delivers no signals, it is never set.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def notice(number: int, frame: FrameType | None) -> None:
        interrupt.requested = True
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, notice)
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
