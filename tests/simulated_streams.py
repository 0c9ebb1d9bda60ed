"""Streams of a device on the CPU: what is started on one runs in order, and in any order with what runs on others.

Nothing runs before somebody waits for something; then chance says which stream goes on, so that what relies on luck fails for
some seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np


class Streams:
    """Streams of one device, and the chance that orders them."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._streams: list[SimulatedStream] = []

    def new(self) -> SimulatedStream:
        stream = SimulatedStream(self)
        self._streams.append(stream)
        return stream

    def run_until(self, event: SimulatedEvent) -> None:
        while not event.reached:
            ready = [stream for stream in self._streams if stream.is_ready()]
            assert ready, "streams wait for each other"
            ready[self._random.integers(len(ready))].run_one()


class SimulatedEvent:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.reached = False

    def reach(self) -> None:
        self.reached = True

    def sync(self) -> None:
        self._streams.run_until(self)


class SimulatedStream:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._waiting: deque[SimulatedEvent | Callable[[], object]] = deque()

    def start(self, call: Callable[[], object]) -> None:
        self._waiting.append(call)

    def record(self) -> SimulatedEvent:
        event = SimulatedEvent(self._streams)
        self.start(event.reach)
        return event

    def wait(self, event_or_stream: SimulatedEvent | SimulatedStream, /) -> None:
        other = event_or_stream
        self._waiting.append(other if isinstance(other, SimulatedEvent) else other.record())

    def sync(self) -> None:
        self.record().sync()

    def is_ready(self) -> bool:
        if not self._waiting:
            return False
        first = self._waiting[0]
        return first.reached if isinstance(first, SimulatedEvent) else True

    def run_one(self) -> None:
        first = self._waiting.popleft()
        if not isinstance(first, SimulatedEvent):
            first()
