"""The codes of an index on a GPU: sent once, followed through additions and deletions, searched where that is cheaper.

Shape suffixes: Q queries, K neighbours, B bytes of a code.
"""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hashret.codes import Codes, bytes_per_code
from hashret.errors import SearchError
from hashret.hamming import Explanation, planner
from hashret.hamming.gpu.arrays import borrow_codes
from hashret.hamming.gpu.costs import measured_costs
from hashret.hamming.gpu.device import Device, Held, device_of
from hashret.hamming.gpu.pieces import Pieces, Resident
from hashret.hamming.gpu.search import FoundWithin, Gallery, kernel_name
from hashret.hamming.gpu.streaming import place
from hashret.hamming.merge import Found
from hashret.hamming.planner import Plan, share_within
from hashret.hamming.words import words_per_code
from hashret.index.contents import Contents, Ids


class _Placed(NamedTuple):
    """What lies on the device, or is streamed there."""

    contents: Contents
    pieces: Pieces
    gallery: Gallery


class DeviceCodes:
    """Codes of an index that lie on a device, for searches of any thread."""

    def __init__(self, device: Device, code_size: int, contents: Contents) -> None:
        """The codes of the contents are sent at once."""
        self.device = device
        self._code_size, self._n_bytes = code_size, bytes_per_code(code_size)
        self._lock = threading.Lock()
        self._placed = self._place(contents, None)
        self._ids: dict[int, tuple[Ids, Held]] = {}
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

    def search_array(self, contents: Contents, queries_QB: Any, k: int) -> tuple[Any, Any, Explanation]:
        """Distances and ids for queries that lie on the device, in arrays of their library there."""
        started = time.perf_counter()
        gallery = self._gallery(contents)
        with self.device.turn():
            queries = self._borrowed(queries_QB)
            distances, places = gallery.search_held(queries, k)
            ids = gallery.ids_held(places, self._stretches(contents))
            answer = self.device.lend(distances, queries_QB), self.device.lend(ids, queries_QB)
        kernel = kernel_name(self.device, queries.shape[0])
        plan = Plan(kernel, 1, None, "the queries lie there", device=self.device.name)
        return (*answer, _explained(plan, contents, started))

    def fetched(self, queries_QB: Any) -> Codes:
        """Queries that lie on the device, in memory."""
        with self.device.turn():
            words_QW = self.device.get(self._borrowed(queries_QB))
        return words_QW.view(np.uint8)[:, : self._n_bytes]

    def lent(self, arrays: tuple[npt.NDArray[Any], ...], like: Any) -> tuple[Any, ...]:
        """Arrays of an answer on the device, of the library of the queries."""
        with self.device.turn():
            return tuple(self.device.lend(self.device.put(array), like) for array in arrays)

    def moved(self, before: Codes, after: Codes) -> None:
        """The same codes are another array from now on; they are not sent again."""
        with self._lock:
            if isinstance(self._placed.pieces, Resident):
                self._placed.pieces.moved(before, after)

    def _plan(self, contents: Contents, n_queries: int, k: int | None, found: float, threads: int | None) -> Plan:
        """Where a search that finds so many codes a query is cheaper; k None: within a radius."""
        n = sum(map(len, contents.segments))
        flags = 0 if all(segment.alive is None for segment in contents.segments) else n
        cpu = planner.plan(n, self._n_bytes, n_queries, k, threads, found=found, flags=flags)
        # Flags of a condition are new with every search; what the index itself holds is sent once, if there is room.
        sent = self._placed.pieces.passing_bytes + (0 if contents.chosen_from is None else flags)
        multiplies = self.device.multiplies_bits
        nanoseconds = self._costs.of_search(n, words_per_code(self._n_bytes), n_queries, found, multiplies, sent)
        return planner.or_on_device(cpu, self.device.name, kernel_name(self.device, n_queries), nanoseconds)

    def _gallery(self, contents: Contents) -> Gallery:
        """The contents on the device."""
        whole = contents.chosen_from or contents
        with self._lock:
            if whole is not self._placed.contents:
                self._placed = self._place(whole, self._placed.pieces)
            return self._placed.gallery if contents is whole else self._place(contents, self._placed.pieces).gallery

    def _place(self, contents: Contents, before: Pieces | None) -> _Placed:
        parts = []
        for segment in contents.segments:
            assert segment.codes is not None
            parts.append((segment.codes, segment.alive))
        pieces = place(self.device, parts, self._n_bytes, before)
        return _Placed(contents, pieces, Gallery(pieces))

    def _borrowed(self, queries_QB: Any) -> Held:
        """Queries that lie on the device, as words; SearchError where they lie on another."""
        if device_of(queries_QB) is not self.device:
            raise SearchError(f"the queries lie on another GPU than the codes ({self.device.name}); copy them there")
        return borrow_codes(self.device, queries_QB, self._code_size)

    def _stretches(self, contents: Contents) -> list[tuple[int, Held | int]]:
        """The ids of the segments as the device needs them; those that do not count up are sent once."""
        ids = {}
        stretches: list[tuple[int, Held | int]] = []
        for segment in contents.segments:
            if segment.counted_up:
                stretches.append((len(segment), int(segment.ids[0])))
                continue
            held = self._ids.get(id(segment.ids)) or (segment.ids, self.device.put(segment.ids))
            ids[id(segment.ids)] = held
            stretches.append((len(segment), held[1]))
        self._ids = ids
        return stretches


def _explained(plan: Plan, contents: Contents, started: float) -> Explanation:
    return Explanation(plan, 1e3 * (time.perf_counter() - started), len(contents), measured_costs=True)
