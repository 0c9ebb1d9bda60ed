"""What searches cost on a device: a handful of numbers, measured once, in under a second, and kept in the user's cache folder.

Until they are measured, a model of an H200 stands in (docs/kernels.md). planner.py weighs them against those of the CPU.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hashret.hamming.cache import user_cache
from hashret.hamming.gpu.device import Device
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import BATCH_FROM, Gallery

_log = logging.getLogger("hashret.hamming")


@dataclasses.dataclass(frozen=True)
class DeviceCosts:
    """What searches cost on one device, in nanoseconds; a word is 64 bits of a code."""

    call: float = 60_000.0
    """A search among next to nothing, from queries in memory to answers in memory."""
    word: float = 0.002
    """Reading a word, for the first query."""
    pair: float = 0.0005
    """A word and each further query, few queries."""
    batch: float = 0.0001
    """A word and a query, in batches."""
    answer: float = 2.0
    """One of the k nearest, put in order and brought back."""
    sent: float = 0.05
    """A byte brought to the device."""

    def of_search(
        self, n: int, n_words: int, n_queries: int, found: float, multiplies_bits: bool, n_bytes_sent: int = 0
    ) -> float:
        """Nanoseconds of a search among n codes that finds so many a query; so many bytes are brought there first."""
        words = n * n_words
        if n_queries >= BATCH_FROM and multiplies_bits:
            scan = max(words * self.word, words * n_queries * self.batch)
        else:
            scan = words * (self.word + max(0, n_queries - 1) * self.pair)
        return self.call + scan + n_queries * min(found, n) * self.answer + n_bytes_sent * self.sent


def known_costs(device: Device) -> DeviceCosts | None:
    """The costs measured on a device; None before that, and where the file lacks some or is damaged."""
    try:
        stored = json.loads(_file(device).read_text("utf-8"))
        return DeviceCosts(**{field.name: float(stored[field.name]) for field in dataclasses.fields(DeviceCosts)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measured_costs(device: Device) -> DeviceCosts:
    """The costs of a device, measured now unless they are known."""
    return known_costs(device) or measure(device)


def measure(device: Device, n: int = 1 << 22, n_queries: int = 1 << 10) -> DeviceCosts:
    """Measure the costs of a device among n codes and keep them for all later searches."""
    rng = np.random.default_rng(0)
    codes = np.frombuffer(rng.bytes(8 * n), np.uint8).reshape(n, 8)
    queries = np.frombuffer(rng.bytes(8 * n_queries), np.uint8).reshape(n_queries, 8)
    few, many = 10, min(1000, n // 4)

    def send() -> Gallery:
        return Gallery(Resident(device, [(codes, None)], 8))

    whole, tiny = send(), Gallery(Resident(device, [(codes[:1024], None)], 8))
    took = _best(
        {
            "call": lambda: tiny.search(queries[:1], 1),
            "one": lambda: whole.search(queries[:1], few),
            "three": lambda: whole.search(queries[: BATCH_FROM - 2], few),
            "batch": lambda: whole.search(queries, few),
            "tiny batch": lambda: tiny.search(queries, few),
            "batch, many": lambda: whole.search(queries, many),
            "send": send,
        }
    )
    costs = DeviceCosts(
        call=took["call"],
        word=_positive(took["one"] - took["call"], n),
        pair=_positive(took["three"] - took["one"], n * (BATCH_FROM - 3)),
        batch=_positive(took["batch"] - took["tiny batch"], n * n_queries),
        answer=_positive(took["batch, many"] - took["batch"], n_queries * (many - few)),
        sent=_positive(took["send"], codes.nbytes),
    )
    file = _file(device)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dataclasses.asdict(costs), indent=2) + "\n", "utf-8")
    except OSError as error:
        _log.warning("the measured costs cannot be kept in %s (%s)", file, error.strerror)
    return costs


def _best(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Nanoseconds of the fastest of three of each, called in turns, after one to warm up."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    for turn in range(4):
        for name, call in calls.items():
            started = time.perf_counter_ns()
            call()
            if turn:
                times[name].append(time.perf_counter_ns() - started)
    return {name: float(min(measured)) for name, measured in times.items()}


def _positive(nanoseconds: float, count: int) -> float:
    """The cost of one of so many, whatever noise made of a difference."""
    return max(nanoseconds, 1.0) / count


def _file(device: Device) -> Path:
    """Where the costs of this kind of device are kept."""
    return user_cache() / "costs" / f"gpu-{re.sub(r'[^A-Za-z0-9]+', '-', device.name)}.json"
