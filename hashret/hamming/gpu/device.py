"""The GPU: the one module that knows how to find it, compile for it, and bring arrays there and back.

Kernels are CUDA C++, compiled for the chip by NVRTC through cuda-core (`pip install "hashret[gpu]"`); torch is not needed. All
else talks to a `Device`, and tests bring one that runs the same source on the CPU.

Threads take turns: what a search does on a device stands in `with device.turn():`, from its first array to its last.

All that is started runs on one stream, in order; pieces of a large array are copied on a second one (feeding.py). Memory comes
from the driver's pool: it is taken and given back in the order of the stream, by whatever thread drops the last reference.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hashret.errors import DeviceMemoryError, SearchError, UsageError
from hashret.hamming.cache import user_cache
from hashret.hamming.gpu.feeding import Bytes, Event, as_bytes, feed, fill

_log = logging.getLogger("hashret.hamming")


class Held(NamedTuple):
    """An array in a device's memory."""

    memory: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Strided(NamedTuple):
    """An array of another library in a device's memory, as it lies there."""

    memory: Any
    """From its first item on."""
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """From one item of an axis to the next, in bytes."""
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

    def part(self, held: Held, start: int, stop: int) -> Held:
        """Some consecutive rows of an array, not copied."""
        ...

    def stream(self, pieces: Sequence[npt.NDArray[Any]]) -> Iterator[Held]:
        """Every piece on the device, one after the other; each is copied while kernels work on the one before.

        A piece may be used by what is started before the next is asked for. pieces: not empty, in memory or in mapped files.
        """
        ...

    def free_bytes(self) -> int:
        """Memory that can still be had, as far as nobody else takes it."""
        ...

    def look_at(self, array: Any) -> Strided:
        """Where an array of another library lies; what is started from now on sees what its library has started before.

        SearchError for one on another device, and for one that its library does not give away.
        """
        ...

    def lend(self, held: Held, like: Any) -> Any:
        """The array without a copy, once all that was started is done; of the library of `like`, which has memory on the device.

        Where that library takes no DLPack it is an object that gives it. The memory lives as long as what is returned, and is
        used again after the work on it on that library's stream of this moment, which DLPack tells; who uses yet another stream
        keeps the array until that work is done. held: made by `empty`, `zeros` or `put`.
        """
        ...


def multiplies_bits(arch: str) -> bool:
    """Whether a chip such as "sm_90" has the tensor cores' binary product; later ones emulate it."""
    return 80 <= int(arch.removeprefix("sm_")) < 100


def given_to(like: Any, lent: Any) -> Any:
    """Something that gives DLPack as an array of the library of `like`, or as it is where that library takes none."""
    # torch has from_dlpack at its top; JAX, whose arrays are of a module below, says where its functions are.
    library: Any = sys.modules.get(type(like).__module__.partition(".")[0])
    if not hasattr(library, "from_dlpack") and hasattr(like, "__array_namespace__"):
        library = like.__array_namespace__()
    return library.from_dlpack(lent) if hasattr(library, "from_dlpack") else lent


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
            device = open_device(0)
        except UsageError as error:
            _log.info("device: cpu (%s)", str(error).partition(", but ")[2].partition("; ")[0])
            return None
        _log.info("device: cuda (%s)", device.name)
        return device
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise UsageError(f"there is no device {name!r} to search on; it can be auto, cpu, cuda or cuda:N")
    return open_device(int(number or 0))


def device_of(array: Any) -> Device:
    """The GPU in whose memory an array lies (arrays.is_on_device)."""
    number = array.__dlpack_device__()[1] if hasattr(array, "__dlpack_device__") else 0
    return open_device(int(number))


@functools.cache
def open_device(number: int) -> Device:
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
    """A GPU through cuda-core."""

    def __init__(self, number: int) -> None:
        """The GPU of that number."""
        from cuda.core import Device as CoreDevice

        self._device = CoreDevice(number)
        self._lock = threading.RLock()
        self._number = number
        self._kernels: dict[str, Kernels] = {}
        with self.turn():
            self._stream = self._device.create_stream()
            self._copies = self._device.create_stream()
        self._pinned = (_Pinned(self._stream), _Pinned(self._stream))
        self._idle: list[tuple[_Pinned, _Pinned]] = []
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
        """A copy on the device, through pinned memory: one buffer is filled while the other is sent."""
        held = self.empty(array.shape, array.dtype)
        flat = as_bytes(array)
        for number, first in enumerate(range(0, flat.size, _PIECE)):
            part, pinned = flat[first : first + _PIECE], self._pinned[number % 2]
            fill(pinned.room(part.size), part)
            pinned.send(Held(_piece(held.memory, first, part.size), part.shape, part.dtype), self._stream)
        return held

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        """An array on the device, of anything."""
        n_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        try:
            memory = self._device.allocate(n_bytes, stream=self._stream)
        except Exception as error:  # cuda-core has no class of its own for this.
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise DeviceMemoryError(
                f"{self.name} has no {n_bytes:,} bytes left; ask for fewer neighbours or queries or a smaller radius, free "
                "memory there, or use device cpu"
            ) from error
        return Held(memory, shape, np.dtype(dtype))

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Held:
        """An array of zeros on the device."""
        held = self.empty(shape, dtype)
        held.memory.fill(0, stream=self._stream)
        return held

    def get(self, held: Held) -> npt.NDArray[Any]:
        """A copy in memory, once all that was started is done."""
        copied = np.empty(held.shape, held.dtype)
        flat = copied.reshape(-1).view(np.uint8)
        for first in range(0, flat.size, _PIECE):
            part = flat[first : first + _PIECE]
            fill(part, self._pinned[0].fetched(_piece(held.memory, first, part.size)))
        if not flat.size:
            self._stream.sync()
        return copied

    def part(self, held: Held, start: int, stop: int) -> Held:
        """Some consecutive rows of an array, not copied."""
        row = math.prod(held.shape[1:]) * held.dtype.itemsize
        return Held(_piece(held.memory, start * row, (stop - start) * row), (stop - start, *held.shape[1:]), held.dtype)

    def stream(self, pieces: Sequence[npt.NDArray[Any]]) -> Iterator[Held]:
        """Every piece on the device, one after the other; each is copied while kernels work on the one before."""
        most = max((piece.nbytes for piece in pieces), default=0)
        targets = [self.empty((most,), np.uint8) for _ in range(2)]
        # Not those of `put` and `get`, which may be called meanwhile, nor those of a stream that nobody has read to its end.
        pinned = self._idle.pop() if self._idle else (_Pinned(self._stream), _Pinned(self._stream))
        try:
            yield from feed(pieces, pinned, targets, self._stream, self._copies)
        finally:
            self._idle.append(pinned)

    def free_bytes(self) -> int:
        """Memory that can still be had: what nobody has, and what this process's pool keeps ready."""
        from cuda.bindings import driver

        with self.turn():
            status, free, _ = driver.cuMemGetInfo()
            if status != driver.CUresult.CUDA_SUCCESS:
                raise RuntimeError(f"cuMemGetInfo: {status!r}")
            # A device without memory pools, some virtual ones, keeps nothing ready.
            pool = getattr(self._device.memory_resource, "attributes", None)
            return int(free) + (pool.reserved_mem_current - pool.used_mem_current if pool else 0)

    def look_at(self, array: Any) -> Strided:
        """Where an array of another library lies; what is started from now on sees what its library has started before."""
        from cuda.core import Buffer
        from cuda.core.utils import StridedMemoryView

        # By this the array's library, or for the CUDA array interface cuda.core, makes our stream wait for theirs.
        stream = int(self._stream.handle)
        try:
            if hasattr(array, "__dlpack__"):
                # Not the array itself: cuda.core reads torch's by where their fields are in memory instead of asking them.
                asked = SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=array.__dlpack_device__)
                view = StridedMemoryView.from_dlpack(asked, stream_ptr=stream)
            else:
                view = StridedMemoryView.from_cuda_array_interface(array, stream_ptr=stream)
            shape, dtype, steps = view.shape, view.dtype, view.strides
        except Exception as error:  # Whatever the other library raises for an array that it does not give away.
            why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise SearchError(
                f"an array of {type(array).__module__} cannot be read on {self._place} ({why}); "
                "give a plain array that lies there, or one of numpy"
            ) from error
        # Managed memory is everywhere.
        managed = hasattr(array, "__dlpack__") and int(array.__dlpack_device__()[0]) == 13
        if view.device_id != self._number and not managed:
            raise SearchError(
                f"an array lies on cuda:{view.device_id}, expected {self._place}, where the codes are; copy it there"
            )
        if steps is None:
            strides = tuple(math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
        else:
            strides = tuple(step * dtype.itemsize for step in steps)
        # It is read as far as its strides say; the view keeps it alive.
        memory = Buffer.from_handle(view.ptr, math.prod(shape) * dtype.itemsize, owner=view)
        return Strided(memory, view.ptr, shape, strides, dtype)

    @property
    def _place(self) -> str:
        return f"cuda:{self._number}"

    def lend(self, held: Held, like: Any) -> Any:
        """The array without a copy, once all that was started is done; of the library of `like`."""
        from cuda.core.utils import StridedMemoryView

        view = StridedMemoryView.from_buffer(held.memory, held.shape, dtype=held.dtype)
        self._stream.sync()
        return given_to(like, _Lent(held.memory, view))

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


class _Lent:
    """An array that gives DLPack, and hears there on which stream it will be used."""

    def __init__(self, memory: Any, view: Any) -> None:
        self._memory, self._view = memory, view
        self._free_after(1)

    def __dlpack_device__(self) -> tuple[int, int]:
        """As DLPack has it."""
        found: tuple[int, int] = self._view.__dlpack_device__()
        return found

    def __dlpack__(self, *, stream: int | None = None, **asked: Any) -> Any:
        """As DLPack has it."""
        if stream is not None and stream > 0:
            self._free_after(stream)
        return self._view.__dlpack__(stream=stream, **asked)

    def _free_after(self, stream: int) -> None:
        """Work that is on a stream by then ends before the pool gives the memory to somebody else."""
        from cuda.core import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM, Stream

        # DLPack's numbers of the two streams that have no handle of their own.
        named = {1: LEGACY_DEFAULT_STREAM, 2: PER_THREAD_DEFAULT_STREAM}
        self._memory.set_deallocation_stream(named[stream] if stream in named else Stream.from_handle(stream))


class _CudaKernels:
    """Compiled kernels, and the stream that they run on."""

    def __init__(self, code: Any, stream: Any) -> None:
        self._code, self._stream = code, stream

    def run(self, name: str, blocks: tuple[int, int], threads: int, *arguments: Held | int | None) -> None:
        """Start a kernel; what was started before it is done before it. None is a null pointer."""
        from cuda.core import LaunchConfig, launch

        given = [x.memory if isinstance(x, Held) else np.int64(x or 0) for x in arguments]
        launch(self._stream, LaunchConfig(grid=blocks, block=threads), self._code.get_kernel(name), *given)


class _Pinned:
    """Memory of the host that the device copies to and from by itself; kept, as pinning takes longer than many a search."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._buffer: Any = None
        self._sent: Event | None = None

    def room(self, n_bytes: int) -> Bytes:
        """So many of its bytes, to be written; what was sent from here has left it."""
        from cuda.core import LegacyPinnedMemoryResource

        if self._sent is not None:
            self._sent.sync()
        if self._buffer is None or self._buffer.size < n_bytes:
            self._buffer = LegacyPinnedMemoryResource().allocate(max(n_bytes, _PIECE), stream=self._stream)
        # By its address: numpy before 2.1 takes DLPack for reading only.
        return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(int(self._buffer.handle)))

    def send(self, target: Held, stream: Any) -> None:
        """Start to copy its first bytes over an array on the device."""
        n_bytes = math.prod(target.shape) * target.dtype.itemsize
        _piece(target.memory, 0, n_bytes).copy_from(_piece(self._buffer, 0, n_bytes), stream=stream)
        self._sent = stream.record()

    def fetched(self, memory: Any) -> Bytes:
        """A buffer's bytes, once all that was started is done; to be copied before anything else goes through here."""
        room = self.room(memory.size)
        memory.copy_to(_piece(self._buffer, 0, memory.size), stream=self._stream)
        self._stream.sync()
        return room


def _piece(memory: Any, first: int, n_bytes: int) -> Any:
    """So many bytes of a buffer as a buffer."""
    from cuda.core import Buffer

    return Buffer.from_handle(int(memory.handle) + first, n_bytes, owner=memory)


_CACHE_BYTES = 1 << 26
"""Compiled kernels kept, the last used ones; those of one code size and chip are a tenth of a megabyte."""
_PIECE = 1 << 26
"""Bytes of pinned memory that are filled at a time."""
