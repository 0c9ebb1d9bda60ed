"""Pieces of an array brought to a device, each while kernels work on the one before it.

Three things go on at once: cores of the host copy piece i + 2 into pinned memory, the bus brings piece i + 1 from there to the
device, kernels work on piece i. Two pinned and two device buffers are enough, as every one of the three waits, where it must,
for the one that had the buffer before: in order of what is waited for,

    fill i + 2      the copy of piece i has left the pinned buffer       (the host waits for an event)
    copy i + 2      it is filled; kernels are done with piece i          (the copying stream waits for an event)
    kernels i + 2   the copy has arrived                                 (the kernels' stream waits for an event)

The arithmetic: PCIe 5 with 16 lanes brings about 55 GB/s. A core copies about 10 GB/s, so filling takes several of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from hashret.hamming import threads

if TYPE_CHECKING:
    from hashret.hamming.gpu.device import Held

Bytes = npt.NDArray[np.uint8]

PART_BYTES = 1 << 20
"""Bytes that are worth a core of their own."""


class Event(Protocol):
    """A moment of a stream."""

    def sync(self) -> None:
        """Wait until the device is there."""


class Stream(Protocol):
    """What a device does one after the other; as in cuda.core."""

    def record(self) -> Event:
        """The moment when all that was started here is done."""
        ...

    def wait(self, event_or_stream: Any, /) -> None:
        """What is started here from now on begins after that."""


class Pinned(Protocol):
    """Memory of the host that a device copies from by itself."""

    def room(self, n_bytes: int) -> Bytes:
        """So many of its bytes, to be written; what was sent from here has left it."""
        ...

    def send(self, target: Held, stream: Any) -> None:
        """Start to copy its first bytes over an array on the device."""


def fill(room: Bytes, array: npt.NDArray[Any]) -> None:
    """Copy an array's bytes, on as many cores as it is worth."""
    flat = as_bytes(array)
    cores = min(threads.available_threads(), -(-flat.size // PART_BYTES))
    step = -(-flat.size // max(1, cores))
    parts = [slice(first, first + step) for first in range(0, flat.size, max(1, step))]
    threads.run([partial(np.copyto, room[part], flat[part]) for part in parts], max(1, cores))


def as_bytes(array: npt.NDArray[Any]) -> Bytes:
    """An array's bytes, row after row; no copy where they stand so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def feed(
    pieces: Sequence[npt.NDArray[Any]],
    pinned: Sequence[Pinned],
    targets: Sequence[Held],
    kernels: Stream,
    copies: Stream,
) -> Iterator[Held]:
    """Every piece on the device; one may be used by what is started before the next is asked for.

    pinned, targets: two each; targets have room for the largest piece. kernels: the stream of whoever uses the pieces.
    """
    used: list[Event | None] = [None, None]
    # Whatever had the targets before is done with them before they are written.
    copies.wait(kernels)
    with ThreadPoolExecutor(1, "hashret-feed") as filler:
        filling = [filler.submit(fill, pinned[0].room(pieces[0].nbytes), pieces[0])] if pieces else []
        for number, piece in enumerate(pieces):
            slot = number % 2
            filling.pop().result()
            if (before := used[slot]) is not None:
                copies.wait(before)
            held = targets[slot]._replace(shape=piece.shape, dtype=piece.dtype)
            pinned[slot].send(held, copies)
            kernels.wait(copies.record())
            if number + 1 < len(pieces):
                # Waits for the copy before this one; the device still has this one's to do, and kernels.
                room = pinned[1 - slot].room(pieces[number + 1].nbytes)
                filling.append(filler.submit(fill, room, pieces[number + 1]))
            yield held
            used[slot] = kernels.record()
