"""Multi-index hashing: exact nearest codes of one query, or a few, out of a handful of buckets where they are near.

A code is cut into m substrings, each about as long as makes 2**bits the number of codes. For every substring the codes
are sorted by its value (a bucket is one value), so the codes of a bucket stand one after the other. A search asks for the
buckets whose values differ from the query's in 0 bits, in each substring in turn, then in 1 bit, 2 bits, and so on. By the
pigeonhole principle, after substring j (from 0) at radius s every code at most s * m + j away has been seen: a code
not yet seen differs in more than s bits in the substrings up to j and in at least s in the others. The search ends
when the k-th distance found is no greater than that, so ties at the k-th distance are all known.

A code may lie in several of these buckets. It counts in the first only: its other substrings tell whether an earlier bucket
held it, so no memory of what was seen is needed.

Budget. The number of buckets explodes with the radius, so a search begins with what it may cost: the time that a linear scan
would take, by the costs of costs.py. Before a radius its buckets are charged (of the substrings that the k-th distance so far
still asks for), before codes are compared those. What the budget does not pay for is left to the scan. A search so takes at
most about twice the time of a scan, whatever the data, and stays exact.

What to expect. When the buckets are made, some codes of the gallery are asked for, with a growing radius: a search for the k
nearest looks at the same buckets as one with the k-th distance as its radius, so that one record tells the cost of any k and
any radius. planner.py so knows beforehand whether buckets or a scan are cheaper.

Source: Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014.
Shape suffixes: N gallery codes, Q queries, P substrings, B bytes of a code.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes, bytes_per_code
from hashret.errors import SearchError
from hashret.hamming import exact, planner, words
from hashret.hamming import threads as pool
from hashret.hamming.arguments import FEW_ALIVE, checked, checked_k, checked_radius
from hashret.hamming.compiled import kernel
from hashret.hamming.costs import known_costs
from hashret.hamming.linear import FoundWithin
from hashret.hamming.merge import Found
from hashret.hamming.planner import Explanation, Lookups, Plan
from hashret.hamming.rows import popcount
from hashret.hamming.words import Words, words_per_code

MAX_SUBSTRING_BITS = 24
"""2**24 buckets take 64 MiB a substring; more would cost more than they sort out."""
MIN_SUBSTRING_BITS = 8
"""Shorter substrings, for a small gallery of long codes, would only multiply the copies."""
MAX_ROWS = 2**32 - 1
"""Row numbers take 4 bytes."""

SAMPLE = 32
"""Codes of the gallery that tell what searches cost."""
SAMPLED_FLAGS = 256
"""Flags that tell how many codes are alive."""
ROOM = 1 << 12
"""Codes within a radius that a thread collects without counting them first."""

U = np.uint64
ONE = np.uint64(1)
WORD_BITS = np.uint64(64)
CHUNK = 64
"""Buckets that are looked up before codes are compared, so that their waits for memory overlap."""
KEY_SHIFT = np.int64(48)
"""A candidate is one number, distance << 48 | row: ascending keys are ascending by (distance, row)."""
KEY_ROW = np.int64((1 << 48) - 1)
HELD, LIMIT, GREATEST = 0, 1, 2
"""Of a running search: candidates held; the distance, and the key, beyond which a code is of no interest."""
FIRST, LAST, BEYOND, N_BITS, FIRST_BUCKET = 0, 1, 2, 3, 4
"""Of a substring: the words in which it begins and ends, bits of the last word beyond it, its bits, its first bucket."""
BUCKETS, WAITS, CODES = 0, 1, 2
"""Of its effort: buckets looked up, lines of memory waited for, codes compared."""
LINE_SHIFT = U(3)
"""A line of memory holds eight words."""
MOST_WAITS = U(4)
"""Lines of a bucket that are waited for; by then the processor has seen where it is going, and fetches the next ones ahead."""
LITTLE_ENDIAN = sys.byteorder == "little"


@kernel
def in_bit_order(word):  # type: ignore[no-untyped-def]
    """The word with the first bit of the code as its highest; LLVM knows the pattern as one instruction."""
    if LITTLE_ENDIAN:
        word = ((word >> U(8)) & U(0x00FF00FF00FF00FF)) | ((word & U(0x00FF00FF00FF00FF)) << U(8))
        word = ((word >> U(16)) & U(0x0000FFFF0000FFFF)) | ((word & U(0x0000FFFF0000FFFF)) << U(16))
        word = (word >> U(32)) | (word << U(32))
    return word


@kernel
def substring(first, last, beyond, n_bits):  # type: ignore[no-untyped-def]
    """The n_bits bits that end `beyond` bits before the end of word `last`, and may begin in the word before, `first`."""
    value = last >> beyond
    if beyond + n_bits > WORD_BITS:
        value |= first << (WORD_BITS - beyond)
    return value & ((ONE << n_bits) - ONE)


@kernel
def bucket_of(part, i, n_words, cuts, p):  # type: ignore[no-untyped-def]
    """Substring p of code i of a part (flat words)."""
    first = in_bit_order(part[U(i * n_words) + cuts[p, FIRST]])
    last = in_bit_order(part[U(i * n_words) + cuts[p, LAST]])
    return substring(first, last, cuts[p, BEYOND], cuts[p, N_BITS])


@kernel
def count(part, n_words, cuts, p, starts):  # type: ignore[no-untyped-def]
    """Count the codes of each bucket of substring p two places behind it; part: flat words."""
    for i in range(part.size // n_words):
        starts[bucket_of(part, i, n_words, cuts, p) + U(2)] += np.uint32(1)


@kernel
def accumulate(starts):  # type: ignore[no-untyped-def]
    """Counts become the place where a bucket begins, one place behind it; the sum of squared counts comes back."""
    total = np.uint32(0)
    squares = 0.0
    for i in range(starts.size):
        squares += float(starts[i]) * float(starts[i])
        total += starts[i]
        starts[i] = total
    return squares


@kernel
def fill(part, first_row, n_words, cuts, p, starts, rows, codes):  # type: ignore[no-untyped-def]
    """Put the codes of consecutive rows into their buckets; after the last, starts[b] is where bucket b begins."""
    for i in range(part.size // n_words):
        bucket = bucket_of(part, i, n_words, cuts, p) + ONE
        at = np.int64(starts[bucket])
        starts[bucket] += np.uint32(1)
        rows[at] = first_row + i
        for w in range(n_words):
            codes[at * n_words + w] = in_bit_order(part[i * n_words + w])


@kernel
def sink(keys, at, size):  # type: ignore[no-untyped-def]
    """Restore a heap, largest key first, whose key at `at` may be too small."""
    key = keys[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[at] = keys[child]
        at = child
    keys[at] = key


@kernel
def rise(keys, at):  # type: ignore[no-untyped-def]
    """Restore a heap, largest key first, whose key at `at` may be too large."""
    key = keys[at]
    while at > 0 and keys[(at - 1) >> 1] < key:
        keys[at] = keys[(at - 1) >> 1]
        at = (at - 1) >> 1
    keys[at] = key


@kernel
def take(key, nearest, keys, state):  # type: ignore[no-untyped-def]
    """Take a code that is near enough: see `probe`."""
    held = state[HELD]
    if held < keys.size:
        keys[held] = key
        if nearest:
            rise(keys, held)
    elif nearest:
        keys[0] = key
        sink(keys, 0, held)
        held -= 1
    state[HELD] = held + 1
    if nearest and held + 1 == keys.size:
        # A code as far as the k-th may still have an earlier row.
        state[LIMIT] = keys[0] >> KEY_SHIFT
        state[GREATEST] = keys[0] - 1


@kernel
def next_flips(flips, end):  # type: ignore[no-untyped-def]
    """The next larger number with as many bits set (Gosper); beyond the last one, no less than `end`, a power of two."""
    if flips == U(0):
        return end
    low = flips & (U(0) - flips)
    carried = flips + low
    return ((flips ^ carried) >> (U(2) + popcount(low - ONE))) | carried


@kernel
def seen_before(codes, first, query, cuts, p, radius):  # type: ignore[no-untyped-def]
    """Whether a code that differs in `radius` bits in substring p was in a bucket that came earlier."""
    for other in range(cuts.shape[0]):
        if other != p:
            begin, end = cuts[other, FIRST], cuts[other, LAST]
            begins, ends = codes[first + begin] ^ query[begin], codes[first + end] ^ query[end]
            differing = np.int64(popcount(substring(begins, ends, cuts[other, BEYOND], cuts[other, N_BITS])))
            if differing < radius or (differing == radius and other < p):
                return True
    return False


@kernel
def compare(n_buckets, begins, ends, query, width, p, radius, cuts, rows, codes, alive, nearest, keys, state):  # type: ignore[no-untyped-def]
    """Take the codes of some buckets that are near enough, alive, and met for the first time."""
    n_words = U(len(width))
    limit = U(state[LIMIT])
    for bucket in range(n_buckets):
        for at in range(begins[bucket], ends[bucket]):
            distance = U(0)
            for w in range(len(width)):
                distance += popcount(codes[at * n_words + U(w)] ^ query[w])
            if distance > limit:
                continue
            key = (np.int64(distance) << KEY_SHIFT) | np.int64(rows[at])
            if key > state[GREATEST] or seen_before(codes, at * n_words, query, cuts, p, radius):
                continue
            if alive.size == 0 or alive[key & KEY_ROW]:
                take(key, nearest, keys, state)
                limit = U(state[LIMIT])


@kernel
def look_up(value, flips, end_of_flips, starts, first_bucket, first_code, n_words, begins, ends):  # type: ignore[no-untyped-def]
    """Where the codes of the next buckets begin and end, empty ones left out.

    Comes back with the flips to go on with, how many buckets were looked up and are not empty, how many lines of memory will be
    waited for, and how many codes they hold.
    """
    n_buckets, n_full, n_waits, n_codes = 0, 0, U(0), U(0)
    while n_buckets < CHUNK and flips < end_of_flips:
        bucket = first_bucket + (value ^ flips)
        begin, end = U(starts[bucket]), U(starts[bucket + ONE])
        # Written in any case: a branch on memory would end the overlap.
        begins[n_full] = first_code + begin
        ends[n_full] = first_code + end
        n_full += int(begin < end)
        n_waits += min(((end - begin) * n_words + U(7)) >> LINE_SHIFT, MOST_WAITS)
        n_codes += end - begin
        n_buckets += 1
        flips = next_flips(flips, end_of_flips)
    return flips, n_buckets, n_full, np.int64(n_waits), np.int64(n_codes)


@kernel
def ring_buckets(rings, radius, limit):  # type: ignore[no-untyped-def]
    """Buckets at a radius, of the substrings that have to be asked to see all codes within the limit."""
    m = rings.shape[0]
    total = 0
    for p in range(m):
        if radius * m + p <= limit:
            total += rings[p, radius]
    return total


@kernel
def probe(query, width, tables, alive, budget, nearest, keys, state, effort, steps, begins, ends):  # type: ignore[no-untyped-def]
    """Put the keys of living codes within a limit into `keys`; whether the budget did.

    budget: what may be spent, and what a bucket, a wait and a word of a code cost, in nanoseconds. nearest: keep the smallest
    keys.size of them, as a heap; otherwise all, in any order, counting those without room. state, effort: as named above.
    steps: row d becomes the effort after which all codes at most d away are known; or empty. begins, ends: memory.
    """
    cuts, rings, starts, rows, codes = tables
    m = cuts.shape[0]
    n_rows, n_words = U(rows.size // m), U(len(width))
    most, a_bucket, a_wait, a_word = budget
    work = 0.0
    for radius in range(rings.shape[1]):
        if work + ring_buckets(rings, radius, state[LIMIT]) * a_bucket > most:
            return False
        for p in range(m):
            # Codes not seen so far are at least this far away.
            if radius * m + p > state[LIMIT]:
                return True
            n_bits, end_of_flips = cuts[p, N_BITS], ONE << cuts[p, N_BITS]
            value = substring(query[cuts[p, FIRST]], query[cuts[p, LAST]], cuts[p, BEYOND], n_bits)
            flips = (ONE << U(radius)) - ONE
            while flips < end_of_flips:
                flips, n_buckets, n_full, n_waits, n_codes = look_up(
                    value, flips, end_of_flips, starts, cuts[p, FIRST_BUCKET], n_rows * U(p), n_words, begins, ends
                )
                effort[BUCKETS] += n_buckets
                work += n_buckets * a_bucket + n_waits * a_wait + n_codes * len(width) * a_word
                if work > most:
                    return False
                effort[WAITS] += n_waits
                effort[CODES] += n_codes
                compare(n_full, begins, ends, query, width, p, radius, cuts, rows, codes, alive, nearest, keys, state)
            if radius * m + p < steps.shape[0]:
                for i in range(steps.shape[1]):
                    steps[radius * m + p, i] = effort[i]
    return True


@kernel
def search(queries, width, tables, alive, budget, farthest, distances, rows, answered, effort):  # type: ignore[no-untyped-def]
    """Write the nearest codes of each query, ascending, padded with -1; answered: whether the budget did.

    farthest: no code is farther. effort (Q, 3): as named above.
    """
    query = np.empty(len(width), np.uint64)
    begins, ends = np.empty(CHUNK + 1, np.uint64), np.empty(CHUNK + 1, np.uint64)
    keys = np.empty(distances.shape[1], np.int64)
    state, no_steps = np.empty(3, np.int64), np.empty((0, 3), np.int64)
    for j in range(queries.shape[0]):
        for w in range(len(width)):
            query[w] = in_bit_order(queries[j, w])
        begin_search(farthest, state)
        answered[j] = probe(query, width, tables, alive, budget, True, keys, state, effort[j], no_steps, begins, ends)
        distances[j] = -1
        rows[j] = -1
        for last in range(state[HELD] - 1, -1, -1):
            distances[j, last] = keys[0] >> KEY_SHIFT
            rows[j, last] = keys[0] & KEY_ROW
            keys[0] = keys[last]
            sink(keys, 0, last)


@kernel
def begin_search(farthest, state):  # type: ignore[no-untyped-def]
    """Nothing is found yet, and all codes up to `farthest` are of interest."""
    state[HELD] = 0
    state[LIMIT] = farthest
    state[GREATEST] = ((farthest + 1) << KEY_SHIFT) - 1


@kernel
def within(queries, width, tables, alive, budget, radius, keys, counts, answered, effort, steps):  # type: ignore[no-untyped-def]
    """Collect the keys of all living codes within the radius of each query in turn, in any order, as long as there is room.

    counts: codes within the radius of each query; those of one for which the budget did not do give way to the next one's.
    steps: see `probe`.
    """
    query = np.empty(len(width), np.uint64)
    begins, ends = np.empty(CHUNK + 1, np.uint64), np.empty(CHUNK + 1, np.uint64)
    state = np.empty(3, np.int64)
    at = 0
    for j in range(queries.shape[0]):
        for w in range(len(width)):
            query[w] = in_bit_order(queries[j, w])
        begin_search(radius, state)
        room = keys[min(at, keys.size) :]
        answered[j] = probe(query, width, tables, alive, budget, False, room, state, effort[j], steps, begins, ends)
        counts[j] = state[HELD]
        if answered[j]:
            at += counts[j]


class Probed(NamedTuple):
    """What the buckets gave within a budget, and what was looked at."""

    found: tuple[npt.NDArray[Any], ...]
    """Distances (Q, k) int32 and rows (Q, k) int64; or counts (Q,) and keys one query after the other, of a radius search."""
    answered: Bits
    """Of each query: whether the budget did; if not, what was found is not yet the answer."""
    effort: npt.NDArray[np.int64]
    """(Q, 3): buckets looked up, lines waited for, codes compared."""


@dataclass(frozen=True, eq=False)
class MultiIndex:
    """Buckets of a gallery by each substring: made from the codes, kept beside them, made anew when they change."""

    gallery_NB: Codes = field(repr=False)
    """The codes as they were given, not copied: scanned where buckets would cost more."""
    code_size: int
    occupancy: float
    """Codes in the bucket that a code of the gallery lies in, on average."""
    _tables: tuple[npt.NDArray[Any], ...] = field(repr=False)
    """cuts (P, 5): where each substring lies, as named above; rings (P, radii): its buckets at each radius; starts (all buckets)
    uint32: where each begins among the substring's codes; rows (P * N) uint32 and codes (P * N * words), bucket by bucket."""
    _sample: list[_Sampled] = field(repr=False)
    """What some codes of the gallery, asked for, took."""

    @classmethod
    def build(
        cls, gallery_NB: npt.ArrayLike, code_size: int, n_substrings: int | None = None, threads: int | None = None
    ) -> MultiIndex:
        """The buckets of packed codes (N, B) uint8, made substring by substring on several threads.

        n_substrings: None takes the fewest whose buckets hold a code or more on average; at most 24 bits each. threads: None
        takes all cores. A memory-mapped gallery is read, not copied. It must not change while it is searched.
        CodeError, SearchError for what does not fit.
        """
        no_queries = np.empty((0, bytes_per_code(code_size)), np.uint8)
        gallery, _, _, n_threads = checked(gallery_NB, no_queries, code_size, None, threads)
        if len(gallery) > MAX_ROWS:
            raise SearchError(
                f"the gallery has {len(gallery)} codes, expected at most {MAX_ROWS}; build one for each part"
            )
        cuts = _cuts(code_size, _substrings(len(gallery), code_size, n_substrings))
        bits = cuts[:, N_BITS].astype(int).tolist()
        rings = np.array([[math.comb(b, radius) for radius in range(max(bits) + 1)] for b in bits], np.int64)
        n, n_words = len(gallery), words_per_code(gallery.shape[1])
        starts = np.zeros(sum((1 << b) + 2 for b in bits), np.uint32)
        rows = np.empty(len(cuts) * n, np.uint32)
        codes = np.empty(len(cuts) * n * n_words, np.uint64)
        tasks = [functools.partial(_sort, gallery, cuts, p, starts, rows, codes) for p in range(len(cuts))]
        squares = pool.run(tasks, n_threads)
        tables = cuts, rings, starts, rows, codes
        made = cls(gallery, int(code_size), sum(squares) / max(1, len(rows)), tables, [])
        asked = [gallery[i : i + 1] for i in range(0, n, n // SAMPLE or 1)[:SAMPLE]]
        sample = pool.run([functools.partial(made._ask, code) for code in asked], n_threads)
        return dataclasses.replace(made, _sample=sample)

    @staticmethod
    def bytes_needed(n: int, code_size: int, n_substrings: int | None = None) -> int:
        """The memory that buckets of n codes take, beside the codes."""
        cuts = _cuts(code_size, _substrings(n, code_size, n_substrings))
        per_code = 4 + 8 * words_per_code(bytes_per_code(code_size))
        return sum(4 * ((1 << int(bits)) + 2) + n * per_code for bits in cuts[:, N_BITS])

    @property
    def n_bytes(self) -> int:
        """The memory that the buckets take, beside the codes."""
        return sum(table.nbytes for table in self._tables[2:])

    @property
    def n_substrings(self) -> int:
        """Substrings that a code is cut into."""
        return len(self._tables[0])

    def beside(self, gallery_NB: Codes) -> MultiIndex:
        """The same for another array of the same codes, one that is mapped from a file for instance; they are not compared."""
        return dataclasses.replace(self, gallery_NB=gallery_NB)

    @overload
    def search(
        self,
        queries_QB: npt.ArrayLike,
        k: int,
        alive: npt.ArrayLike | None = None,
        threads: int | None = None,
        *,
        explain: Literal[False] = False,
    ) -> Found: ...

    @overload
    def search(
        self,
        queries_QB: npt.ArrayLike,
        k: int,
        alive: npt.ArrayLike | None = None,
        threads: int | None = None,
        *,
        explain: Literal[True],
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], Explanation]: ...

    def search(
        self,
        queries_QB: npt.ArrayLike,
        k: int,
        alive: npt.ArrayLike | None = None,
        threads: int | None = None,
        *,
        explain: bool = False,
    ) -> Any:
        """Distances (Q, k) int32 and rows (Q, k) int64 of the k nearest gallery codes: the bytes of `hamming.search`.

        Ascending by (distance, row), padded with -1. Arguments as there; the answer does not depend on `threads`. The buckets
        are used when the planner expects them to be cheaper than a scan, and for the queries that turn out to be so.
        """
        started = time.perf_counter()
        gallery, queries, living, _ = checked(self.gallery_NB, queries_QB, self.code_size, alive, threads)
        k = checked_k(k)
        share = _share_alive(living)
        plan = self._plan(len(queries), k, threads, share, self._lookups(lambda asked: asked.radius_of(k / share + 1)))
        if plan.kernel != "multi-index":
            scanned, explained = exact.nearest(gallery, queries, k, living, threads)
            return (*scanned, _with_reason(plan, explained(started))) if explain else scanned
        probed = self._probe(queries, k, living, plan.budget_ns, plan.threads)
        distances, rows = probed.found
        left = np.flatnonzero(~probed.answered)
        if len(left):
            distances[left], rows[left] = exact.nearest(gallery, queries[left], k, living, threads)[0]
        return (distances, rows, self._explained(plan, started, probed, living)) if explain else (distances, rows)

    @overload
    def search_radius(
        self,
        queries_QB: npt.ArrayLike,
        radius: int,
        alive: npt.ArrayLike | None = None,
        threads: int | None = None,
        *,
        explain: Literal[False] = False,
    ) -> FoundWithin: ...

    @overload
    def search_radius(
        self,
        queries_QB: npt.ArrayLike,
        radius: int,
        alive: npt.ArrayLike | None = None,
        threads: int | None = None,
        *,
        explain: Literal[True],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64], Explanation]: ...

    def search_radius(
        self,
        queries_QB: npt.ArrayLike,
        radius: int,
        alive: npt.ArrayLike | None = None,
        threads: int | None = None,
        *,
        explain: bool = False,
    ) -> Any:
        """Offsets (Q + 1) int64, distances int32 and rows int64 of all codes at most `radius` away: CSR as in `hamming`.

        Arguments as there; the buckets are used as `search` uses them.
        """
        started = time.perf_counter()
        gallery, queries, living, _ = checked(self.gallery_NB, queries_QB, self.code_size, alive, threads)
        radius = min(checked_radius(radius), self.code_size)
        share = _share_alive(living)
        plan = self._plan(len(queries), None, threads, share, self._lookups(lambda _: radius), radius)
        if plan.kernel != "multi-index":
            radii = np.full(len(queries), radius)
            found, explained = exact.within(gallery, queries, radii, living, threads)
            return (*found, _with_reason(plan, explained(started))) if explain else found
        probed = self._probe_within(queries, radius, living, plan.budget_ns, plan.threads)
        counts, keys = probed.found
        parts = _split(keys, np.cumsum([0, *counts]))
        left = np.flatnonzero(~probed.answered)
        if len(left):
            radii = np.full(len(left), radius)
            offsets, distances, rows = exact.within(gallery, queries[left], radii, living, threads)[0]
            scanned = _split(distances.astype(np.int64) << KEY_SHIFT | rows, offsets)
            for query, part in zip(left.tolist(), scanned, strict=True):
                parts[query] = part
        for part in parts:
            part.sort()
        keys = np.concatenate([keys[:0], *parts])
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        found = offsets, (keys >> KEY_SHIFT).astype(np.int32), keys & KEY_ROW
        return (*found, self._explained(plan, started, probed, living)) if explain else found

    def effort(self, queries_QB: Codes, radius: int) -> npt.NDArray[np.float64]:
        """Buckets looked up, lines waited for, and codes compared (3,), on average over queries that ask for all codes
        within a radius, whatever that costs: for measuring."""
        effort: npt.NDArray[np.float64] = self._probe_within(queries_QB, radius, None, math.inf, 1).effort.mean(axis=0)
        return effort

    def _ask(self, code_1B: Codes) -> _Sampled:
        """What a search for a code takes at each radius, up to what a scan costs."""
        n_words = words_per_code(code_1B.shape[1])
        budget_ns = planner.scan_cost(*self.gallery_NB.shape)
        tables, flags, budget = self._arguments(None, budget_ns)
        # All codes that are looked at count, so that one search tells of every radius.
        most = min(len(self.gallery_NB), int(budget_ns / known_costs().bucket_word / n_words))
        keys, counts, answered = np.empty(most, np.int64), np.empty(1, np.int64), np.empty(1, np.bool_)
        steps, effort = np.full((self.code_size + 1, 3), -1), np.zeros((1, 3), np.int64)
        padded, width = words.padded(code_1B), (0,) * n_words
        within(padded, width, tables, flags, budget, self.code_size, keys, counts, answered, effort, steps)
        steps = steps[: int((steps[:, BUCKETS] >= 0).sum())]
        distances = keys[: int(counts[0])] >> KEY_SHIFT
        found = np.cumsum(np.bincount(distances, minlength=len(steps)))[: len(steps)]
        return _Sampled(steps.tolist(), found.tolist(), len(self.gallery_NB))

    def _lookups(self, radius_of: Callable[[_Sampled], int]) -> Lookups:
        """What codes of the gallery looked up within the radius that each of them needs."""
        found = Lookups([], [])
        for asked in self._sample:
            radius, known = radius_of(asked), len(asked.efforts)
            found.efforts.append(asked.efforts[min(radius, known - 1)] if known else [0, 0, 0])
            found.enough.append(radius < known)
        return found

    def _plan(
        self, n_queries: int, k: int | None, threads: int | None, share: float, lookups: Lookups, radius: int = 0
    ) -> Plan:
        """Buckets or a scan; radius: of a search without k."""
        n, n_bytes = self.gallery_NB.shape
        among = n if share * FEW_ALIVE > 1 else round(n * share)
        found = 0.0
        if k is None:
            seen = [asked.found[radius] for asked in self._sample if radius < len(asked.found)]
            found = share * (sum(seen) / len(seen) if seen else n * planner.share_within(self.code_size, radius))
        flags = n if share < 1 else 0
        return planner.plan(among, n_bytes, n_queries, k, threads, found=found, flags=flags, lookups=lookups)

    def _probe(self, queries: Codes, k: int, living: Bits | None, budget_ns: float, n_threads: int) -> Probed:
        """The k nearest of each query, where its budget does."""
        n_queries = len(queries)
        probed = Probed(
            (np.empty((n_queries, k), np.int32), np.empty((n_queries, k), np.int64)),
            np.empty(n_queries, np.bool_),
            np.zeros((n_queries, 3), np.int64),
        )
        out = *probed.found, probed.answered, probed.effort
        arguments = *self._arguments(living, budget_ns), 8 * queries.shape[1]
        padded = words.padded(queries)
        width = (0,) * padded.shape[1]
        tasks = [
            functools.partial(search, padded[part], width, *arguments, *(array[part] for array in out))
            for part in _parts(n_queries, n_threads)
        ]
        pool.run(tasks, n_threads)
        return probed

    def _probe_within(
        self, queries: Codes, radius: int, living: Bits | None, budget_ns: float, n_threads: int
    ) -> Probed:
        """The codes within the radius of each query, where its budget does."""
        padded = words.padded(queries)
        width = (0,) * padded.shape[1]
        arguments = *self._arguments(living, budget_ns), radius
        no_steps = np.empty((0, 3), np.int64)

        def collect(part: slice) -> Probed:
            n_queries = part.stop - part.start
            counts, answered = np.empty(n_queries, np.int64), np.empty(n_queries, np.bool_)
            keys = np.empty(ROOM, np.int64)
            while True:
                effort = np.zeros((n_queries, 3), np.int64)
                within(padded[part], width, *arguments, keys, counts, answered, effort, no_steps)
                counts[~answered] = 0
                n_found = int(counts.sum())
                if n_found <= len(keys):
                    return Probed((counts, keys[:n_found]), answered, effort)
                keys = np.empty(n_found, np.int64)

        tasks = [functools.partial(collect, part) for part in _parts(len(queries), n_threads)]
        probed = pool.run(tasks, n_threads)
        counts, keys = (np.concatenate([each.found[i] for each in probed]) for i in (0, 1))
        return Probed(
            (counts, keys),
            np.concatenate([each.answered for each in probed]),
            np.concatenate([each.effort for each in probed]),
        )

    def _arguments(self, living: Bits | None, budget_ns: float) -> tuple[Any, ...]:
        """What kernels take: tables, alive, budget."""
        costs = known_costs()
        return self._tables, _flags(living), (float(budget_ns), costs.bucket, costs.bucket_wait, costs.bucket_word)

    def _explained(self, plan: Plan, started: float, probed: Probed, living: Bits | None) -> Explanation:
        """How a search that began at `started` was answered."""
        milliseconds = 1e3 * (time.perf_counter() - started)
        left = int(np.count_nonzero(~probed.answered))
        buckets, _, codes = (float(mean) for mean in probed.effort.mean(axis=0))
        if left:
            n = len(self.gallery_NB) if living is None else int(np.count_nonzero(living))
            codes += n * left / len(probed.answered)
        return Explanation(plan, milliseconds, codes, buckets, left)


class _Sampled(NamedTuple):
    """A code of the gallery, asked for with the radius 0, 1, 2 and so on, as long as that is cheaper than a scan."""

    efforts: list[list[int]]
    """At each radius: buckets looked up, lines waited for, codes compared."""
    found: list[int]
    """Codes within each radius; the code itself is one."""
    n: int

    def radius_of(self, rank: float) -> int:
        """The radius within which so many codes were found; one more than was asked for if none."""
        return bisect.bisect_left(self.found, min(rank, self.n))


def _parts(n: int, count: int) -> list[slice]:
    """At most `count` consecutive slices of 0..n, one at least."""
    each = max(1, -(-n // count))
    return [slice(first, min(n, first + each)) for first in range(0, max(1, n), each)]


def _split(keys: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The keys of each query."""
    return [keys[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]


def _share_alive(living: Bits | None) -> float:
    """About which share of the codes is alive, from some of their flags; never 0."""
    if living is None or not len(living):
        return 1.0
    some = living[:: len(living) // SAMPLED_FLAGS or 1]
    return max(1, int(np.count_nonzero(some))) / len(some)


def _with_reason(plan: Plan, scanned: Explanation) -> Explanation:
    """How a scan answered, with what speaks against buckets."""
    return dataclasses.replace(scanned, plan=dataclasses.replace(scanned.plan, reason=plan.reason))


def _substrings(n: int, code_size: int, wanted: int | None) -> int:
    """How many substrings to make; SearchError for a number wanted that cannot be."""
    least = -(-code_size // MAX_SUBSTRING_BITS)
    if wanted is None:
        longest = max(math.log2(max(1, n)), MIN_SUBSTRING_BITS)
        return max(least, math.ceil(code_size / longest))
    if isinstance(wanted, bool) or not isinstance(wanted, (int, np.integer)) or not least <= wanted <= code_size:
        raise SearchError(f"n_substrings is {wanted!r}, expected a whole number from {least} to {code_size}")
    return int(wanted)


def _cuts(code_size: int, n_substrings: int) -> Words:
    """Where each of so many substrings lies (P, 5); their bits differ by one at most."""
    edges = [code_size * p // n_substrings for p in range(n_substrings + 1)]
    cuts, buckets = [], 0
    for begin, end in itertools.pairwise(edges):
        cuts.append((begin // 64, (end - 1) // 64, 63 - (end - 1) % 64, end - begin, buckets))
        buckets += (1 << end - begin) + 2
    return np.array(cuts, np.uint64)


def _sort(
    gallery: Codes, cuts: Words, p: int, starts: npt.NDArray[np.uint32], rows: npt.NDArray[np.uint32], codes: Words
) -> float:
    """Put all codes into the buckets of substring p; the sum of squares of how many they hold."""
    n, n_words = len(gallery), words_per_code(gallery.shape[1])
    n_buckets, first_bucket = 1 << int(cuts[p, N_BITS]), int(cuts[p, FIRST_BUCKET])
    own_starts = starts[first_bucket : first_bucket + n_buckets + 2]
    own_rows, own_codes = rows[p * n : (p + 1) * n], codes[p * n * n_words : (p + 1) * n * n_words]
    for _, tile in words.tiles(gallery, 0, n):
        count(tile.reshape(-1), n_words, cuts, p, own_starts)
    squares = accumulate(own_starts)
    for first_row, tile in words.tiles(gallery, 0, n):
        fill(tile.reshape(-1), first_row, n_words, cuts, p, own_starts, own_rows, own_codes)
    return float(squares)


def _flags(living: Bits | None) -> Bits:
    """A flag a code, or none when all are alive; read-only, so that kernels are compiled once."""
    flags = np.ascontiguousarray(np.zeros(0, np.bool_) if living is None else living).view()
    flags.flags.writeable = False
    return flags
