"""A gallery that is larger than the device's memory: read from its mapped files once for every group of queries.

Each piece is copied while kernels work on the one before (feeding.py). The sample that says how far to reach stays on the
device, so that no more than one pass is needed, unless a query has to be done again.

The arithmetic: PCIe 5 with 16 lanes brings about 55 GB/s, 7 G codes of 64 bits a second. At 20 T pairs/s kernels take as long as
the bus from about 3,000 queries on; fewer at once wait for it, and cost what 3,000 do.

Shape suffixes: N codes, B bytes of a code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import words
from hashret.hamming.gpu.arrays import padded
from hashret.hamming.gpu.device import Device
from hashret.hamming.gpu.pieces import SAMPLE_ROWS, Piece, Pieces, Resident, sample_begin

PIECE_BYTES = 1 << 26
"""Bytes that are brought at once: a millisecond of the bus, a hundred times what starting its kernels takes."""
SHARE = 0.8
"""Of free memory, what codes may take; the rest is for what searches need, and for others."""

Parts = Sequence[tuple[Codes, Bits | None]]


def place(device: Device, parts: Parts, n_bytes: int, before: Pieces | None = None) -> Pieces:
    """The gallery in the device's memory where it fits into a share of what is free, else streamed; same answers either way.

    parts: packed codes (N, n_bytes) in memory or mapped, and flags; nobody may change what is in them. before: what is there
    already; arrays that it holds are not sent again.
    """
    resident = before if isinstance(before, Resident) else None
    new = 0
    for codes, alive in parts:
        if resident is None or not resident.holds(codes):
            new += len(codes) * words.WORD_BYTES * words.words_per_code(n_bytes)
        if alive is not None and (resident is None or not resident.holds(alive)):
            new += len(codes)
    if new <= SHARE * device.free_bytes():
        return Resident(device, parts, n_bytes, resident)
    return Streamed(device, parts, n_bytes)


class Streamed:
    """A gallery whose pieces are brought to the device in turn."""

    def __init__(self, device: Device, parts: Parts, n_bytes: int) -> None:
        """parts: packed codes (N, n_bytes) in memory or mapped, and flags."""
        self.device = device
        self.n_words = words.words_per_code(n_bytes)
        self.n = sum(len(codes) for codes, _ in parts)
        self.n_alive = sum(len(codes) if alive is None else int(np.count_nonzero(alive)) for codes, alive in parts)
        self._parts = [part for part in parts if len(part[0])]
        self._samples: dict[int, Piece] = {}
        rows = max(1, PIECE_BYTES // (SAMPLE_ROWS * n_bytes)) * SAMPLE_ROWS
        self._cuts = [
            (codes[first : first + rows], None if alive is None else alive[first : first + rows])
            for codes, alive in self._parts
            for first in range(0, len(codes), rows)
        ]

    def each(self) -> Iterator[Piece]:
        """All pieces, as they come over the bus; codes that are no whole words are padded on the device."""
        first = 0
        streamed = self.device.stream([codes for codes, _ in self._cuts])
        for held, (codes, alive) in zip(streamed, self._cuts, strict=True):
            flags = None if alive is None else self.device.put(alive.view(np.uint8))
            yield Piece(padded(self.device, held), flags, first)
            first += len(codes)

    def sample(self, stride: int) -> Iterator[tuple[Piece, int, int]]:
        """The sample's blocks, together; read and sent once. All pieces where every block is asked for."""
        if stride == 1:
            for piece in self.each():
                yield piece, 0, 1
            return
        if stride not in self._samples:
            self._samples[stride] = self._sampled(stride)
        yield self._samples[stride], 0, 1

    def _sampled(self, stride: int) -> Piece:
        """One block of rows in `stride`, wherever parts begin, with its flags."""
        blocks: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = []
        first = 0
        for codes, alive in self._parts:
            for begin in range(sample_begin(first, stride), len(codes), stride * SAMPLE_ROWS):
                rows = slice(begin, begin + SAMPLE_ROWS)
                blocks.append((codes[rows], np.ones(len(codes[rows]), np.bool_) if alive is None else alive[rows]))
            first += len(codes)
        codes, flags = (np.concatenate(of_blocks) for of_blocks in zip(*blocks, strict=True))
        held_flags = None if flags.all() else self.device.put(flags.view(np.uint8))
        return Piece(self.device.put(words.padded(codes)), held_flags, 0)
