"""The lookup kernel: the k codes most similar to real-valued logits, exactly; asymmetric.py defines what similar means.

For each block of 1024 rows: turn it over, then for every query add up what each code costs at least, in whole units (see
lookups.py), and look at the few codes that may be among the k most similar, by row. Only the last step decides: it computes
the similarity as defined.

Why no code is lost. Let t be the sum of a query's |logits|, and c the cost of a code: the sum of the |logits| that its bits
do not agree with. The real similarity is t - 2c. The defined one is a float64 sum of at most 1024 terms, hence within
2e-13 t of it, rounded to float32, which keeps order. So a code is no more similar than the k-th, s, once
c >= (t - s) / 2 + 1e-12 t: the limit. Units are costs times a scale, rounded down group by group and stopped at 255, so a
code's sum of them is at most scale times c, but for a few roundings of float64 that a factor of 1 + 1e-9 covers. A code is
left out when its sum is above scale times the limit. Rows come in order, so one that is as similar as the k-th is too late.

Shape suffixes: N gallery codes, Q queries, K bits, W words of a code, H half bytes, V values of a half byte (16).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits
from hashret.hamming.asymmetric import rounded
from hashret.hamming.compiled import kernel
from hashret.hamming.lookups import BLOCK, TILE, group_bits, make_planes, near, tiles_at_once
from hashret.hamming.rows import popcount
from hashret.hamming.sliced import transpose_eight
from hashret.hamming.words import WORD_BYTES, Words

U = np.uint64
WORD_BITS = 8 * WORD_BYTES
EVERY_EIGHTH = U(0x0101010101010101)

UNITS = 254
"""Units of the limit right after tables are made, for codes of one word: 255 says "that much or more"."""
SHARE = 0.7
"""Part of it that is used for each word of longer codes: more would stop too many sums of a word at 255."""
COARSE = 0.7
"""Tables are made anew, in smaller units, once the limit is less than this part of what it was."""

HELD, LIMIT = 0, 1
"""Columns of state: candidates held; the limit, in units."""
NONE_FITS = -1
"""A limit: the k most similar codes are as similar as codes can be."""


@kernel
def score(block, at, halves, start, width):  # type: ignore[no-untyped-def]
    """The similarity, as defined, of the code at block[at :]; the query's tables of half bytes begin at `start`."""
    total = 0.0
    for w in range(len(width)):
        word = block[at + w]
        for _ in range(8):
            high, low = np.int64((word >> U(4)) & U(15)), np.int64(word & U(15))
            total += halves[start + high] + halves[start + 16 + low]
            word >>= U(8)
            start += 32
    return np.float32(total)


@kernel
def _worse(j, x, y, similarities, rows):  # type: ignore[no-untyped-def]
    """Whether candidate x of query j comes after candidate y."""
    if similarities[j, x] != similarities[j, y]:
        return similarities[j, x] < similarities[j, y]
    return rows[j, x] > rows[j, y]


@kernel
def sink(i, j, k, similarities, rows):  # type: ignore[no-untyped-def]
    """Put candidate i of query j where it belongs in a heap with the worst at the top, whose rest below i is in order."""
    while True:
        child = 2 * i + 1
        if child >= k:
            return
        if child + 1 < k and _worse(j, child + 1, child, similarities, rows):
            child += 1
        if not _worse(j, child, i, similarities, rows):
            return
        similarities[j, i], similarities[j, child] = similarities[j, child], similarities[j, i]
        rows[j, i], rows[j, child] = rows[j, child], rows[j, i]
        i = child


@kernel
def _units(total, kth, scale):  # type: ignore[no-untyped-def]
    """The limit that leaves out nothing more similar than kth: units, or the cost itself when scale is 1."""
    return ((total - kth) * (0.5 * (1 + 1e-9)) + 1e-12 * total) * scale * (1 + 1e-9)


@kernel
def _set_limit(j, most, totals, best, scales, similarities, state):  # type: ignore[no-untyped-def]
    """The limit of query j, whose k-th is at the top of its heap."""
    kth = np.float64(similarities[j, 0])
    if similarities[j, 0] >= best[j]:
        state[j, LIMIT] = NONE_FITS
    elif kth == -np.inf:
        # A sum that float32 cannot hold: nothing is left out.
        state[j, LIMIT] = np.int64(most)
    else:
        state[j, LIMIT] = np.int64(min(_units(totals[j], kth, scales[j]), most))


@kernel
def _make_tables(  # type: ignore[no-untyped-def]
    j, most, n_groups, logits, totals, scales, similarities, state, tables, table, costs
):
    """The tables of query j from tables[table :], in units of which the limit has `most`."""
    units = _units(totals[j], np.float64(similarities[j, 0]), 1.0)
    scales[j] = most / units
    bits = group_bits()
    per_word = (WORD_BITS + bits - 1) // bits
    for group in range(n_groups):
        word, first = group // per_word * WORD_BITS, group % per_word * bits
        costs[0] = 0.0
        size = 1
        for bit in range(first, min(first + bits, WORD_BITS)):
            weight = logits[j, word + bit] * scales[j]
            zero, one = max(weight, 0.0), max(-weight, 0.0)
            for i in range(size):
                costs[size + i] = costs[i] + one
                costs[i] += zero
            size *= 2
        for i in range(size):
            tables[table + i] = np.uint8(min(costs[i], 255.0))
        table += 1 << bits


@kernel
def _fill(block, first_row, alive, j, halves, width, k, similarities, rows, state):  # type: ignore[no-untyped-def]
    """Take codes, one after the other, until k are held; how many rows were seen."""
    n_words = len(width)
    table = j * n_words * 256
    for row in range(block.size // n_words):
        if state[j, HELD] == k:
            return row
        if alive.size == 0 or alive[row]:
            similarities[j, state[j, HELD]] = score(block, row * n_words, halves, table, width)
            rows[j, state[j, HELD]] = first_row + row
            state[j, HELD] += 1
    return block.size // n_words


@kernel
def _take(  # type: ignore[no-untyped-def]
    block, first_row, alive, from_row, tile, j, below, most, totals, best, halves, width, costs, hits, scales, k, similarities,
    rows, state,
):  # fmt: skip
    """Take those of the codes that hit, from tile `tile` on, that are more similar than query j's k-th, in row order."""
    n_words = len(width)
    n_rows = block.size // n_words
    for i in range(tiles_at_once()):
        if hits[i] == U(0):
            continue
        for v in range(8):
            seen = (hits[i] >> U(v)) & EVERY_EIGHTH
            while seen != U(0):
                low = seen & (U(0) - seen)
                seen ^= low
                lane = np.int64(popcount(low - U(1))) + v
                row = (tile + i) * TILE + 8 * v + (lane >> 3)
                cost = np.int64(costs[i * TILE + lane])
                # 0 is `below` or anything less.
                if cost > 0 and below + cost > state[j, LIMIT]:
                    continue
                if row < from_row or row >= n_rows:
                    continue
                if alive.size > 0 and not alive[row]:
                    continue
                similarity = score(block, row * n_words, halves, j * n_words * 256, width)
                if similarity > similarities[j, 0]:
                    similarities[j, 0] = similarity
                    rows[j, 0] = first_row + row
                    sink(0, j, k, similarities, rows)
                    _set_limit(j, most, totals, best, scales, similarities, state)


@kernel
def _turn_over(block, width, gathered, transposed, planes):  # type: ignore[no-untyped-def]
    """The planes of a block, word after word."""
    n_words = len(width)
    n_rows = block.size // n_words
    bits = group_bits()
    per_word = (WORD_BITS + bits - 1) // bits
    for w in range(n_words):
        source = gathered
        if n_words == 1 and n_rows == BLOCK:
            source = block
        else:
            for row in range(n_rows):
                gathered[row] = block[row * n_words + w]
            gathered[n_rows:] = U(0)
        for tile in range(BLOCK // TILE):
            transpose_eight(source, tile * TILE, transposed, 0, 1, (0,))
            make_planes(transposed, planes, w * per_word * BLOCK + tile * TILE)


@kernel
def scan(  # type: ignore[no-untyped-def]
    block_words, first_row, alive, width, last, logits, totals, best, halves, gathered, transposed, planes, tables,
    group_costs, costs, hits, scales, k, similarities, rows, state,
):  # fmt: skip
    """Take the codes of block_words (flat, starting at first_row) that are more similar than a query's k-th.

    last: a tuple with an entry for each group of the last word.
    """
    n_words = len(width)
    n_rows = block_words.size // n_words
    bits = group_bits()
    n_groups = (n_words - 1) * ((WORD_BITS + bits - 1) // bits) + len(last)
    table_bytes = n_groups * (1 << bits)
    most = np.float64(UNITS) if n_words == 1 else np.floor(UNITS * SHARE * n_words)
    for start in range(0, n_rows, BLOCK):
        stop = min(start + BLOCK, n_rows)
        block = block_words[start * n_words : stop * n_words]
        living = alive[start:stop] if alive.size > 0 else alive
        _turn_over(block, width, gathered, transposed, planes)
        for j in range(totals.size):
            begin = 0
            if state[j, HELD] < k:
                begin = _fill(block, first_row + start, living, j, halves, width, k, similarities, rows, state)
                if state[j, HELD] < k:
                    continue
                for i in range(k // 2 - 1, -1, -1):
                    sink(i, j, k, similarities, rows)
                _set_limit(j, most, totals, best, scales, similarities, state)
            if state[j, LIMIT] == NONE_FITS:
                continue
            if state[j, LIMIT] < COARSE * most:
                _make_tables(
                    j, most, n_groups, logits, totals, scales, similarities, state, tables, j * table_bytes, group_costs
                )
                _set_limit(j, most, totals, best, scales, similarities, state)
            for tile in range(begin // TILE // tiles_at_once() * tiles_at_once(), BLOCK // TILE, tiles_at_once()):
                below = max(state[j, LIMIT] - UNITS, 0)
                limit = max(state[j, LIMIT] - below, 0)
                if near(planes, tile * TILE, tables, j * table_bytes, width, last, limit, below, costs, hits):
                    _take(
                        block, first_row + start, living, begin, tile, j, below, most, totals, best, halves, width, costs, hits,
                        scales, k, similarities, rows, state,
                    )  # fmt: skip


@kernel
def _chip_bits():  # type: ignore[no-untyped-def]
    """Bits of a group on this chip."""
    return group_bits()


def _aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros that begin at a cache line: a vector across two lines takes twice as long to load."""
    memory = np.zeros(n_bytes + 63, np.uint8)
    skipped = -memory.ctypes.data % 64
    return memory[skipped : skipped + n_bytes]


class LookupScan:
    """The k most similar codes so far of a group of queries, among rows that come in order."""

    def __init__(
        self, logits_QK: npt.NDArray[np.float64], halves_QHV: npt.NDArray[np.float64], n_bytes: int, k: int
    ) -> None:
        """logits: as many as the words have bits, zeros beyond the last. halves: see `half_byte_tables`."""
        n, n_words = len(logits_QK), logits_QK.shape[1] // WORD_BITS
        bits = int(_chip_bits())
        per_word, bits_of_last = -(-WORD_BITS // bits), 8 * n_bytes - WORD_BITS * (n_words - 1)
        n_of_last = -(-bits_of_last // bits)
        # What the code of the same signs is summed to, in the same order.
        terms = np.abs(logits_QK).reshape(n, -1, 4)
        highest = ((terms[:, :, 0] + terms[:, :, 1]) + terms[:, :, 2]) + terms[:, :, 3]
        best = np.zeros(n)
        for half in range(0, highest.shape[1], 2):
            best += highest[:, half] + highest[:, half + 1]
        self._k = k
        self._arguments = (
            (0,) * n_words,
            (0,) * n_of_last,
            # Codes begin with the highest bit of their first byte, numbers with their lowest.
            np.ascontiguousarray(logits_QK.reshape(n, -1, 8)[:, :, ::-1]).reshape(n, -1),
            np.abs(logits_QK).sum(axis=1),
            rounded(best),
            halves_QHV.reshape(-1),
            _aligned(WORD_BYTES * BLOCK).view(np.uint64),
            _aligned(WORD_BYTES * TILE).view(np.uint64),
            _aligned(n_words * per_word * BLOCK),
            _aligned(n * ((n_words - 1) * per_word + n_of_last) << bits),
            np.zeros(1 << bits),
            _aligned(8 * TILE),
            np.zeros(8, np.uint64),
            np.zeros(n),
        )
        self._similarities = np.full((n, k), np.nan, np.float32)
        self._rows = np.full((n, k), -1, np.int64)
        self._state = np.zeros((n, 2), np.int64)

    def take(self, part: Words, first_row: int, alive: Bits) -> None:
        """Take consecutive rows in; alive: a flag a row, or empty when all are."""
        found = self._k, self._similarities, self._rows, self._state
        scan(part.reshape(-1), first_row, alive, *self._arguments, *found)

    def ordered(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Similarities (Q, k) float32 and rows (Q, k) int64, descending, equal ones by row, padded with NaN and -1."""
        order = np.lexsort((self._rows, -self._similarities), axis=1)
        return np.take_along_axis(self._similarities, order, axis=1), np.take_along_axis(self._rows, order, axis=1)
