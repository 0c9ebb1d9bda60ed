"""A device for hashret.hamming.gpu that runs the kernels on the CPU: their own source, compiled with cuda_on_cpu.h before it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from simulated_streams import SimulatedStream, Streams

from hashret.errors import SearchError
from hashret.hamming.gpu import feeding
from hashret.hamming.gpu.device import Held, Strided, given_to

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
HEADER = Path(__file__).parent / "cuda_on_cpu.h"

GUARD = 64
"""Bytes on either side of an array that nobody may write to."""
JUNK = 0xA5


@functools.cache
def library(source: str) -> ctypes.CDLL:
    """The kernels of a source, compiled once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        return load(source, Path(folder))


def load(kernels: str, folder: Path) -> ctypes.CDLL:
    """Kernels with the simulator before them, compiled in a folder."""
    assert COMPILER is not None
    text = f"{HEADER.read_text('utf-8')}\n{kernels}"
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    (folder / f"{name}.cpp").write_text(text, "utf-8")
    built = folder / f"{name}.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    done = subprocess.run([COMPILER, *options, f"{name}.cpp", "-o", built], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(built))


class DeviceArray:
    """An array of another library on a device, as far as it speaks DLPack; what it has started is done when it is asked."""

    def __init__(self, array: npt.NDArray[Any], device: tuple[int, int] = (2, 0), gives: bool = True) -> None:
        self.array, self._device, self._gives = array, device, gives
        self.asked: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> npt.NDArray[Any]:
        self.asked.append(stream)
        if not self._gives:
            raise BufferError("it is not given away")
        return self.array


def from_dlpack(lent: DeviceArray) -> DeviceArray:
    """As libraries have it: this one is that of DeviceArray."""
    return DeviceArray(lent.__dlpack__(stream=1))


class SimulatedPinned:
    """Pinned memory: what is sent from it is read when it is copied, not before."""

    def __init__(self) -> None:
        self._bytes: feeding.Bytes = np.empty(0, np.uint8)
        self._sent: feeding.Event | None = None

    def room(self, n_bytes: int) -> feeding.Bytes:
        if self._sent is not None:
            self._sent.sync()
        if len(self._bytes) < n_bytes:
            self._bytes = np.full(n_bytes, JUNK, np.uint8)
        return self._bytes[:n_bytes]

    def send(self, target: Held, stream: SimulatedStream) -> None:
        to = bytes_of(target)
        stream.start(lambda: np.copyto(to, self._bytes[: len(to)]))
        self._sent = stream.record()


def bytes_of(held: Held) -> feeding.Bytes:
    """What it has of its memory."""
    n_bytes = int(np.prod(held.shape, dtype=np.int64)) * held.dtype.itemsize
    found: feeding.Bytes = held.memory.reshape(-1).view(np.uint8)[:n_bytes]
    return found


class SimulatedGpu:
    """A device of few multiprocessors; `seed` draws the order in which threads, blocks and streams run.

    Kernels run when they are started, copies of pieces when something waits for them, or by chance before.
    """

    name = "simulated"
    multiprocessors = 2

    def __init__(self, seed: int = 0, multiplies_bits: bool = True, free: int = 1 << 30) -> None:
        """free: bytes of memory that it says it has."""
        self.multiplies_bits = multiplies_bits
        self.multiplies_floats = True
        self.free = free
        self._random = np.random.default_rng(seed)
        streams = Streams(seed)
        self._stream, self._copies = streams.new(), streams.new()
        self._pinned = (SimulatedPinned(), SimulatedPinned())
        self._guards: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.RLock()
        self._holder = 0
        self.started: list[str] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            before, self._holder = self._holder, threading.get_ident()
            try:
                yield
            finally:
                self._holder = before

    def kernels(self, source: str) -> SimulatedKernels:
        return SimulatedKernels(self, library(source))

    def put(self, array: npt.NDArray[Any]) -> Held:
        held = self.empty(array.shape, array.dtype)
        held.memory[...] = array
        return held

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        assert self._holder == threading.get_ident(), "it is another thread's turn"
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        whole = np.full(n_bytes + 3 * GUARD, JUNK, np.uint8)
        start = GUARD + -whole.ctypes.data % GUARD
        self._guards += [whole[:start], whole[start + n_bytes :]]
        return Held(whole[start : start + n_bytes].view(dtype).reshape(shape), shape, np.dtype(dtype))

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        held = self.empty(shape, dtype)
        held.memory[...] = 0
        return held

    def get(self, held: Held) -> npt.NDArray[Any]:
        assert self._holder == threading.get_ident(), "it is another thread's turn"
        self._stream.sync()
        return bytes_of(held).copy().view(held.dtype).reshape(held.shape)

    def stream(self, pieces: Sequence[npt.NDArray[Any]]) -> Iterator[Held]:
        targets = [self.empty((max((piece.nbytes for piece in pieces), default=0),), np.uint8) for _ in range(2)]
        for held in feeding.feed(pieces, self._pinned, targets, self._stream, self._copies):
            yield held
            # Who asked for the next is done with this one.
            bytes_of(held)[...] = JUNK

    def free_bytes(self) -> int:
        return self.free

    def look_at(self, array: DeviceArray) -> Strided:
        assert self._holder == threading.get_ident(), "it is another thread's turn"
        if array.__dlpack_device__() != (2, 0):
            raise SearchError(f"an array lies on cuda:{array.__dlpack_device__()[1]}, expected cuda:0")
        seen = array.__dlpack__(stream=7)
        return Strided(seen, seen.ctypes.data, seen.shape, seen.strides, seen.dtype)

    def lend(self, held: Held, like: Any) -> Any:
        assert self._holder == threading.get_ident(), "it is another thread's turn"
        self._stream.sync()
        return given_to(like, DeviceArray(bytes_of(held).view(held.dtype).reshape(held.shape)))

    def part(self, held: Held, start: int, stop: int) -> Held:
        memory = held.memory[start:stop]
        return Held(memory, memory.shape, held.dtype)

    def copy(self, source: Held, target: Held) -> None:
        target.memory[...] = source.memory

    def milliseconds(self, call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)

    def run(self, built: ctypes.CDLL, name: str, blocks: tuple[int, int], threads: int, given: list[Any]) -> None:
        """Run a kernel to its end; no thread may wait for ever, and none may write beside an array."""
        assert self._holder == threading.get_ident(), "it is another thread's turn"
        assert len(given) <= 16 and blocks[0] > 0 and 0 < blocks[1] < 1 << 16 and 0 < threads <= 1024
        self._stream.sync()
        numbers = [x.memory.ctypes.data if isinstance(x, Held) else x or 0 for x in given]
        arguments = (ctypes.c_uint64 * 16)(*numbers)
        seed = int(self._random.integers(1 << 31))
        assert built.simulate(getattr(built, name), *blocks, threads, arguments, seed), (
            f"{name}: a barrier is not reached by all"
        )
        assert all((guard == JUNK).all() for guard in self._guards), f"{name} wrote beside an array"
        self.started.append(name)


class SimulatedKernels:
    """The kernels for one code size."""

    def __init__(self, gpu: SimulatedGpu, built: ctypes.CDLL) -> None:
        self._gpu, self._built = gpu, built

    def run(self, name: str, blocks: tuple[int, int], threads: int, *arguments: Held | int | None) -> None:
        self._gpu.run(self._built, name, blocks, threads, list(arguments))
