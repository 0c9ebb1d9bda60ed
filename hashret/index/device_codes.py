"""The codes of an index on a GPU: sent once, followed through additions and deletions, searched where that is cheaper.

Shape suffixes: Q queries, K neighbours, B bytes of a code.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import numpy as np

from hashret.codes import Codes
from hashret.hamming import Explanation, planner
from hashret.hamming.gpu.costs import measured_costs
from hashret.hamming.gpu.device import Device
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import FoundWithin, Gallery, kernel_name
from hashret.hamming.merge import Found
from hashret.hamming.planner import Plan, share_within
from hashret.hamming.words import words_per_code
from hashret.index.contents import Contents


class _Held(NamedTuple):
    """What lies on the device."""

    contents: Contents
    resident: Resident
    gallery: Gallery


class DeviceCodes:
    """Codes of an index that lie on a device, for searches of any thread."""

    def __init__(self, device: Device, n_bytes: int, contents: Contents) -> None:
        """n_bytes: of a code. The codes of the contents are sent at once."""
        self.device = device
        self._n_bytes = n_bytes
        self._lock = threading.Lock()
        self._held = self._send(contents, None)
        self._costs = measured_costs(device)

    def plan(self, contents: Contents, n_queries: int, k: int, threads: int | None) -> Plan:
        """Where the k nearest are found sooner, here or on the CPU."""
        return self._plan(contents, n_queries, k, float(k), threads)

    def plan_radius(self, contents: Contents, n_queries: int, radius: int, threads: int | None) -> Plan:
        """Where all within a radius are found sooner."""
        return self._plan(contents, n_queries, None, len(contents) * share_within(8 * self._n_bytes, radius), threads)

    def search(self, contents: Contents, queries_QB: Codes, k: int, plan: Plan) -> tuple[Found, Explanation]:
        """Distances and places (Q, k) as `HammingIndex.search` orders them, found here."""
        started = time.perf_counter()
        within = max(1, min(k, sum(map(len, contents.segments))))
        distances, places = self._gallery(contents).search(queries_QB, within)
        beyond = ((0, 0), (0, k - within))
        found = np.pad(distances, beyond, constant_values=-1), np.pad(places, beyond, constant_values=-1)
        return found, _explained(plan, contents, started)

    def search_radius(
        self, contents: Contents, queries_QB: Codes, radius: int, plan: Plan
    ) -> tuple[FoundWithin, Explanation]:
        """Offsets, distances and places of all codes at most `radius` bits away, found here."""
        started = time.perf_counter()
        radii = np.full(len(queries_QB), radius, np.int64)
        return self._gallery(contents).search_radii(queries_QB, radii), _explained(plan, contents, started)

    def _plan(self, contents: Contents, n_queries: int, k: int | None, found: float, threads: int | None) -> Plan:
        """Where a search that finds so many codes a query is cheaper; k None: within a radius."""
        n = sum(map(len, contents.segments))
        flags = 0 if all(segment.alive is None for segment in contents.segments) else n
        cpu = planner.plan(n, self._n_bytes, n_queries, k, threads, found=found, flags=flags)
        # Flags of a condition are new with every search; what the index itself holds is sent once.
        sent = 0 if contents.chosen_from is None else flags
        multiplies = self.device.multiplies_bits
        nanoseconds = self._costs.of_search(n, words_per_code(self._n_bytes), n_queries, found, multiplies, sent)
        return planner.or_on_device(cpu, self.device.name, kernel_name(self.device, n_queries), nanoseconds)

    def moved(self, before: Codes, after: Codes) -> None:
        """The same codes are another array from now on; they are not sent again."""
        with self._lock:
            self._held.resident.moved(before, after)

    def _gallery(self, contents: Contents) -> Gallery:
        """The contents on the device."""
        whole = contents.chosen_from or contents
        with self._lock:
            if whole is not self._held.contents:
                self._held = self._send(whole, self._held.resident)
            return self._held.gallery if contents is whole else self._send(contents, self._held.resident).gallery

    def _send(self, contents: Contents, before: Resident | None) -> _Held:
        parts = []
        for segment in contents.segments:
            assert segment.codes is not None
            parts.append((segment.codes, segment.alive))
        resident = Resident(self.device, parts, self._n_bytes, before)
        return _Held(contents, resident, Gallery(resident))


def _explained(plan: Plan, contents: Contents, started: float) -> Explanation:
    return Explanation(plan, 1e3 * (time.perf_counter() - started), len(contents), measured_costs=True)
