"""A gallery on a device is pieces: consecutive rows, each with its codes in one array.

Shape suffixes: N codes, B bytes and W words of a code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes
from hashret.hamming import words
from hashret.hamming.gpu.device import Device, Held

SAMPLE_ROWS = 512
"""Rows that stand together in a sample; as in reach.cu."""


class Piece(NamedTuple):
    """Consecutive rows of a gallery on a device."""

    codes: Held
    """(N, W) uint64, aligned to 16 bytes."""
    alive: Held | None
    """A flag (N,) uint8 a row; None: all are alive."""
    first: int
    """The number of the first row among those of all pieces."""

    def __len__(self) -> int:
        return self.codes.shape[0]


class Pieces(Protocol):
    """Where a search finds the codes of a gallery, piece by piece."""

    device: Device
    n: int
    """Rows."""
    n_alive: int
    n_words: int
    """64-bit words of a code."""

    def each(self) -> Iterator[Piece]:
        """All pieces, in the order of their rows, in a turn of the device; one is valid until the next is asked for."""
        ...

    def sample(self, stride: int) -> Iterator[tuple[Piece, int, int]]:
        """Of every `stride` blocks of SAMPLE_ROWS rows one: pieces, the first row to look at, and the stride from there on."""
        ...


def sample_begin(first: int, stride: int) -> int:
    """Where in rows from number `first` on the sample's first block begins: so that small pieces share one."""
    return (-first // SAMPLE_ROWS) % stride * SAMPLE_ROWS


class Resident:
    """A gallery of which all pieces stay in the device's memory."""

    def __init__(
        self, device: Device, parts: Sequence[tuple[Codes, Bits | None]], n_bytes: int, before: Resident | None = None
    ) -> None:
        """parts: packed codes (N, n_bytes) and flags. before: what is there already; arrays that it holds are not sent again.

        Arrays are told apart by identity: nobody may change what is in them.
        """
        self.device = device
        self.n_words = words.words_per_code(n_bytes)
        self.n_alive = sum(len(codes) if alive is None else int(np.count_nonzero(alive)) for codes, alive in parts)
        self.n = 0
        self._sent: _Sent = {}
        self._pieces: list[Piece] = []
        known: _Sent = {} if before is None else before._sent
        with device.turn():
            for codes, alive in parts:
                if len(codes):
                    flags = None if alive is None else self._send(alive, known, lambda array: array.view(np.uint8))
                    self._pieces.append(Piece(self._send(codes, known, _as_words), flags, self.n))
                    self.n += len(codes)

    def holds(self, array: npt.NDArray[Any]) -> bool:
        """Whether an array is on the device already."""
        return id(array) in self._sent

    def each(self) -> Iterator[Piece]:
        """All pieces."""
        return iter(self._pieces)

    def sample(self, stride: int) -> Iterator[tuple[Piece, int, int]]:
        """Every stride-th block of all rows, wherever pieces begin."""
        for piece in self._pieces:
            begin = sample_begin(piece.first, stride)
            if begin < len(piece):
                yield piece, begin, stride

    def moved(self, before: Codes, after: Codes) -> None:
        """The same codes are another array from now on."""
        if id(before) in self._sent:
            self._sent[id(after)] = (after, self._sent.pop(id(before))[1])

    def _send(
        self, array: npt.NDArray[Any], known: _Sent, form: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    ) -> Held:
        """An array on the device, in the form that it has there."""
        sent = known.get(id(array)) or self._sent.get(id(array)) or (array, self.device.put(form(array)))
        self._sent[id(array)] = sent
        return sent[1]


_Sent = dict[int, tuple[npt.NDArray[Any], Held]]
"""Arrays on a device, by the identity of what they were sent from, which is held so that it stays its own."""


def _as_words(codes: Codes) -> words.Words:
    held = words.view(codes)
    return words.padded(codes) if held is None else held
