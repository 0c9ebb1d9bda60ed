"""The GPU: the one module that knows how to find it, compile for it, and bring arrays there and back.

Kernels are CUDA C++, compiled for the chip by NVRTC through cuda-core (`pip install "hashret[gpu]"`); torch is not needed. All
else talks to a `Device`, and tests bring one that runs the same source on the CPU.

Threads take turns: what a search does on a device stands in `with device.turn():`, from its first array to its last.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hashret.errors import UsageError
from hashret.hamming.cache import user_cache

_log = logging.getLogger("hashret.hamming")


class Held(NamedTuple):
    """An array in a device's memory."""

    memory: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Kernels(Protocol):
    """The kernels of one source, ready to run."""

    def run(self, name: str, blocks: tuple[int, int], threads: int, *arguments: Held | int | None) -> None:
        """Start a kernel; what was started before it is done before it. None is a null pointer."""


class Device(Protocol):
    """What searches need of a GPU."""

    name: str
    multiprocessors: int
    multiplies_bits: bool
    """Whether its tensor cores have the binary product; others would be slower with it than without."""
    multiplies_floats: bool
    """Whether its tensor cores have the products of float16 and TF32."""

    def turn(self) -> AbstractContextManager[None]:
        """While it is held, no other thread uses the device; a thread may take it again meanwhile."""
        ...

    def kernels(self, source: str) -> Kernels:
        """The kernels of a source, compiled on first use."""
        ...

    def put(self, array: npt.NDArray[Any]) -> Held:
        """A copy on the device; ready for kernels that are started afterwards."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        """An array on the device, of anything."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        """An array of zeros on the device."""
        ...

    def get(self, held: Held) -> npt.NDArray[Any]:
        """A copy in memory, once all that was started is done."""
        ...


def multiplies_bits(arch: str) -> bool:
    """Whether a chip such as "sm_90" has the tensor cores' binary product; later ones emulate it."""
    return 80 <= int(arch.removeprefix("sm_")) < 100


def compiled(source: str, arch: str, log: Any = None) -> Any:
    """A source as cuda.core.ObjectCode for a chip such as "sm_90", kept in the user's cache folder; needs no GPU.

    log: a file for the compiler's report of registers and memory; then they are compiled anew.
    """
    from cuda.core import Program, ProgramOptions
    from cuda.core.utils import FileStreamProgramCache

    options = ProgramOptions(arch=arch, std="c++17", ptxas_options=["-v"] if log else None)
    program = Program(source, "c++", options)
    if log:
        return program.compile("cubin", logs=log)
    try:
        # Keys are of the source, the options and the compiler's version.
        cache = FileStreamProgramCache(user_cache() / "gpu-kernels", max_size_bytes=_CACHE_BYTES)
        return program.compile("cubin", cache=cache)
    except OSError as error:
        _log.warning("compiled kernels cannot be kept in %s (%s)", user_cache(), error.strerror)
        return program.compile("cubin")


def pick_device(name: str) -> Device | None:
    """The GPU called "cuda" or "cuda:1", or None for "cpu"; "auto" takes the first GPU where there is one, and logs which.

    UsageError for another name, and for a GPU that is not there: a missing one is never papered over.
    """
    if name == "cpu":
        return None
    if name == "auto":
        try:
            device = open_device()
        except UsageError as error:
            _log.info("device: cpu (%s)", str(error).partition(", but ")[2].partition("; ")[0])
            return None
        _log.info("device: cuda (%s)", device.name)
        return device
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise UsageError(f"there is no device {name!r} to search on; it can be auto, cpu, cuda or cuda:N")
    return open_device(int(number or 0))


@functools.cache
def open_device(number: int = 0) -> Device:
    """A CUDA GPU; UsageError with the reason where there is none."""
    asked = f"device cuda{f':{number}' if number else ''} was asked for, but"
    try:
        import cuda.core  # noqa: F401
        from cuda.pathfinder import DynamicLibNotFoundError
    except ImportError as error:
        raise UsageError(
            f'{asked} cuda-core is not installed; pip install "hashret[gpu]", or use device cpu'
        ) from error
    try:
        return CudaDevice(number)
    except DynamicLibNotFoundError as error:
        raise UsageError(f"{asked} there is no NVIDIA driver; use device cpu") from error
    except Exception as error:  # Whatever a missing or broken driver raises: the classes are not part of its interface.
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(f"{asked} there is no usable CUDA GPU ({why}); use device cpu") from error


class CudaDevice:
    """A GPU through cuda-core, on one stream."""

    def __init__(self, number: int) -> None:
        """The GPU of that number."""
        from cuda.core import Device as CoreDevice
        from cuda.core import LegacyPinnedMemoryResource

        self._device = CoreDevice(number)
        self._device.set_current()
        self._stream = self._device.create_stream()
        self._pinned = LegacyPinnedMemoryResource()
        self._staged: Any = None
        self._lock = threading.RLock()
        self._kernels: dict[str, Kernels] = {}
        self.name = str(self._device.name)
        self.multiprocessors = int(self._device.properties.multiprocessor_count)
        self._arch = f"sm_{self._device.arch}"
        self.multiplies_bits = multiplies_bits(self._arch)
        self.multiplies_floats = int(self._device.arch) >= 80

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While it is held, no other thread uses the device; a thread may take it again meanwhile.

        The thread's own device, which torch may have set, is current again afterwards.
        """
        from cuda.bindings import driver

        with self._lock:
            _, before = driver.cuCtxGetCurrent()
            self._device.set_current()
            try:
                yield
            finally:
                driver.cuCtxSetCurrent(before)

    def kernels(self, source: str) -> Kernels:
        """The kernels of a source, compiled on first use."""
        if source not in self._kernels:
            self._kernels[source] = _CudaKernels(compiled(source, self._arch), self._stream)
        return self._kernels[source]

    def put(self, array: npt.NDArray[Any]) -> Held:
        """A copy on the device, through pinned memory."""
        held = self.empty(array.shape, array.dtype)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if not flat.size:
            return held
        staged = self._staging(min(_PIECE, flat.size))
        for first in range(0, flat.size, _PIECE):
            part = flat[first : first + _PIECE]
            np.from_dlpack(staged).view(np.uint8)[: part.size] = part
            _piece(held.memory, first, part.size).copy_from(_piece(staged, 0, part.size), stream=self._stream)
            self._stream.sync()
        return held

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        """An array on the device, of anything."""
        n_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        return Held(self._device.allocate(n_bytes, stream=self._stream), shape, np.dtype(dtype))

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        """An array of zeros on the device."""
        held = self.empty(shape, dtype)
        held.memory.fill(0, stream=self._stream)
        return held

    def get(self, held: Held) -> npt.NDArray[Any]:
        """A copy in memory, once all that was started is done."""
        n_bytes = math.prod(held.shape) * held.dtype.itemsize
        staged = self._staging(max(1, n_bytes))
        _piece(held.memory, 0, max(1, n_bytes)).copy_to(_piece(staged, 0, max(1, n_bytes)), stream=self._stream)
        self._stream.sync()
        copied: npt.NDArray[Any] = np.from_dlpack(staged).view(np.uint8)[:n_bytes].copy()
        return copied.view(held.dtype).reshape(held.shape)

    def _staging(self, n_bytes: int) -> Any:
        """Pinned memory of that size at least, always the same: pinning takes longer than many a search."""
        if self._staged is None or self._staged.size < n_bytes:
            self._staged = self._pinned.allocate(max(n_bytes, _PIECE), stream=self._stream)
        return self._staged

    def copy(self, source: Held, target: Held) -> None:
        """Copy one array on the device over another of its size: what memory can do at most."""
        source.memory.copy_to(target.memory, stream=self._stream)

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Time on the device from the first thing that a call starts to the last."""
        from cuda.core import EventOptions

        options = EventOptions(timing_enabled=True)
        begun = self._stream.record(options=options)
        call()
        done = self._stream.record(options=options)
        done.sync()
        return float(done - begun)


class _CudaKernels:
    """Compiled kernels, and the stream that they run on."""

    def __init__(self, code: Any, stream: Any) -> None:
        self._code, self._stream = code, stream

    def run(self, name: str, blocks: tuple[int, int], threads: int, *arguments: Held | int | None) -> None:
        """Start a kernel; what was started before it is done before it. None is a null pointer."""
        from cuda.core import LaunchConfig, launch

        given = [x.memory if isinstance(x, Held) else np.int64(x or 0) for x in arguments]
        launch(self._stream, LaunchConfig(grid=blocks, block=threads), self._code.get_kernel(name), *given)


def _piece(memory: Any, first: int, n_bytes: int) -> Any:
    """So many bytes of a buffer as a buffer."""
    from cuda.core import Buffer

    return Buffer.from_handle(int(memory.handle) + first, n_bytes, owner=memory)


_CACHE_BYTES = 1 << 26
"""Compiled kernels kept, the last used ones; those of one code size and chip are a tenth of a megabyte."""
_PIECE = 1 << 26
"""Bytes of pinned memory that are filled at a time."""
