"""Which kernel answers a search, on how many threads, and what that should cost: the sum of what costs.py measured.

Every plan gives the same answer, so a wrong cost wastes time and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

from hashret.hamming.costs import NEAR_BYTES, Costs, are_measured, candidates, known_costs
from hashret.hamming.sample import BLOCK_ROWS
from hashret.hamming.splitting import merged, query_groups, taken_of_part
from hashret.hamming.threads import available_threads
from hashret.hamming.words import words_per_code

NUMPY_WORK = 1 << 14
"""Bytes compared up to which numpy never loads numba."""
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
class Plan:
    """Who computes a search, on how many threads, what it should take, and why."""

    kernel: str
    """numpy, row, table, multi-index, or lookup (asymmetric search); on a device row or tensor."""
    threads: int
    predicted_ms: float | None
    """None where nothing is predicted."""
    reason: str
    budget_ns: float = 0.0
    """Multi-index: the work of one thread that a query may take before it is left to a linear scan."""
    device: str = "cpu"
    """The name of the GPU that computes."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How a search was answered, and what it cost."""

    plan: Plan
    measured_ms: float
    codes: float
    """Codes compared with a query (allowed and alive), on average over the queries."""
    buckets: float = 0.0
    """Buckets looked up for a query, on average: multi-index hashing only."""
    left: int = 0
    """Queries that multi-index hashing left to a linear scan."""
    measured_costs: bool = dataclasses.field(default_factory=are_measured)
    """Whether the prediction rests on costs measured on this machine."""
    exact: bool = True

    def lines(self) -> list[str]:
        """The explanation in words."""
        plan = self.plan
        threads = "1 thread" if plan.threads == 1 else f"{plan.threads} threads"
        where = threads if plan.device == "cpu" else plan.device
        costs = "costs measured on this machine" if self.measured_costs else "costs of another machine"
        predicted = "not predicted" if plan.predicted_ms is None else f"predicted {plan.predicted_ms:.3f} ms ({costs})"
        looked_at = f"{self.codes:,.10g} codes compared with each query"
        if plan.kernel == "multi-index":
            left = f", {self.left:,} of the queries left to a linear scan" if self.left else ""
            looked_at = f"{self.buckets:,.0f} buckets looked up and {self.codes:,.0f} codes compared with a query{left}"
        return [
            f"{plan.kernel} kernel on {where}: {plan.reason}",
            f"{predicted}, measured {self.measured_ms:.3f} ms",
            f"{looked_at}; the answer is {'exact' if self.exact else 'not exact'}",
        ]


class Lookups(NamedTuple):
    """What multi-index hashing looks at for each of some queries that are like those to come."""

    efforts: list[list[int]]
    """Of each: buckets looked up, lines of memory waited for, codes compared."""
    enough: list[bool]
    """Whether that answers the query; where it does not, more may cost anything."""


def plan(
    n: int,
    n_bytes: int,
    n_queries: int,
    k: int | None,
    threads: int | None = None,
    *,
    found: float = 0.0,
    flags: int = 0,
    lookups: Lookups | None = None,
    loaded: bool = True,
) -> Plan:
    """The cheapest plan for a search among n codes, in memory and with kernels compiled.

    k None: a radius search that will give `found` codes a query. threads None: as many as pay, up to all cores. flags: how
    many codes have a flag (alive or not): n where the kernel meets the flags, more where n codes are copied together first.
    lookups: what buckets would cost, where there are any. loaded: whether numba is; one small search is not worth loading it.
    """
    costs = known_costs()
    asked = _Asked(costs, n, words_per_code(n_bytes), n_queries, k, found, masked=0 < flags <= n)
    before = flags * costs.flag + n * costs.copy if flags > n else 0.0
    work = n_queries * n * n_bytes
    if not loaded and (work <= NUMPY_WORK or (n_queries <= 8 and may_stay_cold(work, NUMPY_WORK_COLD))):
        predicted_ms = (before + asked.of_numpy()) / 1e6
        return Plan("numpy", 1, predicted_ms, "one small search, done before numba is loaded")
    most = available_threads() if threads is None else threads
    ways = asked.linear_ways({1, most} if threads is None else {threads})
    if lookups is not None and lookups.enough and n_queries:
        cheapest = min(ways).nanoseconds
        ways += [asked.by_buckets(lookups, cheapest, count) for count in sorted({1, min(n_queries, most)})]
    best, *others = sorted(ways)
    named = ", ".join(f"{way.kernel} on {way.threads}: {way.nanoseconds / 1e6:.3g} ms" for way in others)
    return Plan(best.kernel, best.threads, (before + best.nanoseconds) / 1e6, f"the cheapest; {named}", best.budget)


def or_on_device(cpu: Plan, device: str, kernel: str, nanoseconds: float) -> Plan:
    """The plan for the CPU, or that for a device where it is expected to take so long and that is less."""
    predicted_ms = nanoseconds / 1e6
    if cpu.predicted_ms is not None and cpu.predicted_ms <= predicted_ms:
        return dataclasses.replace(cpu, reason=f"{cpu.reason}; {device}: {predicted_ms:.3g} ms")
    on_cpu = (
        "" if cpu.predicted_ms is None else f"; {cpu.kernel} on {cpu.threads} of the CPU: {cpu.predicted_ms:.3g} ms"
    )
    return Plan(kernel, 1, predicted_ms, f"the cheapest{on_cpu}", device=device)


def scan_cost(n: int, n_bytes: int) -> float:
    """Nanoseconds that a linear scan for one query takes on one thread."""
    return min(_Asked(known_costs(), n, words_per_code(n_bytes), 1, 1).linear_ways({1})).nanoseconds


class _Way(NamedTuple):
    """A way to answer a search, and what it should take."""

    nanoseconds: float
    threads: int
    kernel: str
    budget: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A search, and what it costs on this machine."""

    costs: Costs
    n: int
    n_words: int
    n_queries: int
    k: int | None
    found: float = 0.0
    masked: bool = False

    def linear_ways(self, counts: set[int]) -> list[_Way]:
        """All codes compared by numpy, or by either kernel on so many threads."""
        costs = self.costs
        row_first, row_further = self.of_rows()
        table = self.of_tables()
        ways = [_Way(self.of_numpy(), 1, "numpy")]
        for count in sorted(counts):
            beginning = costs.call + (count - 1) * costs.thread
            taken, ending = self.of_answers(count)
            computing = self.faster(costs.table_speedup, count)
            row = row_first / self.faster(costs.row_speedup, count) + row_further / computing
            rows = beginning + row + taken * costs.row_take + ending
            tables = beginning + table / computing + taken * costs.table_take + ending
            ways += [_Way(rows, count, "row"), _Way(tables, count, "table")]
        return ways

    def by_buckets(self, lookups: Lookups, linear: float, count: int) -> _Way:
        """Buckets looked up for each query; those that they do not answer at the cost of a scan are then scanned for."""
        costs = self.costs
        faster = self.faster(costs.table_speedup, count)
        budget = max(0.0, linear - costs.call) * faster / self.n_queries
        work, taken, left = 0.0, 0.0, 0
        for (buckets, waits, codes), enough in zip(*lookups, strict=True):
            needed = buckets * costs.bucket + waits * costs.bucket_wait + codes * self.n_words * costs.bucket_word
            work += min(needed, budget)
            taken += self.found if self.k is None else candidates(codes, self.k)
            left += not enough or needed > budget
        a_query = (work + taken * costs.bucket_take) / len(lookups.enough)
        nanoseconds = costs.call + (count - 1) * costs.thread + self.n_queries * a_query / faster
        n_left = self.n_queries * left / len(lookups.enough)
        if n_left:
            again = dataclasses.replace(self, n_queries=max(1, round(n_left)))
            nanoseconds += min(1.0, n_left) * min(again.linear_ways({count})).nanoseconds
        return _Way(nanoseconds, count, "multi-index", budget)

    def of_numpy(self) -> float:
        """numpy, in all."""
        costs = self.costs
        taking = costs.numpy_take * (self.found if self.k is None else min(self.k, self.n))
        a_query = costs.numpy_query + self.n * (costs.numpy_code + self.n_words * costs.numpy_word) + taking
        return self.n_queries * a_query

    def of_answers(self, count: int) -> tuple[float, float]:
        """Candidates that each of so many threads takes in, and nanoseconds of putting what was found in order."""
        costs = self.costs
        if self.k is None:
            return 0.0, self.n_queries * self.found * costs.collect
        groups = query_groups(costs, self.n, self.n_words, self.n_queries, self.k, count)
        parts, queries = count // groups, self.n_queries / groups
        ordering = queries * min(self.k, self.n / parts) * costs.order
        merging = self.n_queries * merged(self.n, self.k, parts) * costs.merge
        return queries * taken_of_part(self.n, self.k, parts), ordering + merging

    def of_rows(self) -> tuple[float, float]:
        """The row kernel on one thread, without taking candidates: the first query, bound by memory, and all further ones."""
        costs, words = self.costs, self.n * self.n_words
        first = costs.row_first_near if 8 * words <= NEAR_BYTES else costs.row_first
        return words * first, words * max(0, self.n_queries - 1) * costs.row_next

    def of_tables(self) -> float:
        """The table kernel on one thread, without taking candidates."""
        costs = self.costs
        a_query = costs.block_query + (self.n_words - 1) * costs.block_query_more
        a_block = self.n_words * costs.block + (costs.block_flags if self.masked else 0.0)
        return -(-self.n // BLOCK_ROWS) * (a_block + self.n_queries * a_query)

    def faster(self, speedup: float, count: int) -> float:
        """How many times as fast so many threads are, when all are `speedup` times as fast."""
        gained = (speedup - 1) * (count - 1) / max(1, self.costs.threads - 1)
        return min(float(count), 1 + gained)


@functools.lru_cache(maxsize=1 << 10)
def share_within(n_bits: int, radius: int) -> float:
    """The share of codes at most `radius` away where bits are independent: a guess, and for real codes a low one."""
    near: int = sum(math.comb(n_bits, distance) for distance in range(min(radius, n_bits) + 1))
    total: int = 1 << n_bits
    return near / total
