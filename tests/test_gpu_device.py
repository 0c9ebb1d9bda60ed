"""The device of cuda-core, on memory of the host: every call that it makes is one that cuda-core has, with streams in any order.

Buffers are cuda-core's own, with what needs a driver written over; views and DLPack are cuda-core's. No GPU is needed.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from simulated_streams import SimulatedEvent, SimulatedStream, Streams

pytest.importorskip("cuda.core", reason="cuda-core is not installed")
pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")

import cuda.core
import cuda.core.utils
from cuda.bindings import driver
from cuda.core import Buffer, EventOptions, LaunchConfig, MemoryResource

from hashret.errors import DeviceMemoryError, SearchError
from hashret.hamming.gpu import device
from hashret.hamming.gpu.device import CudaDevice

JUNK = 0xA5


class HostMemory(MemoryResource):
    """Gives memory of the host, full of junk."""

    is_device_accessible = False
    is_host_accessible = True
    device_id = 0
    attributes = SimpleNamespace(reserved_mem_current=500, used_mem_current=200)

    def __init__(self) -> None:
        self.held: dict[int, np.ndarray] = {}

    def allocate(self, size: int, *, stream: Any = None) -> HostBuffer:
        array = np.full(size + 64, JUNK, np.uint8)
        start = int(array.ctypes.data) + -array.ctypes.data % 64
        self.held[start] = array
        return HostBuffer._init(start, size, mr=self)

    def deallocate(self, ptr: Any, size: int, *, stream: Any = None) -> None:
        del self.held[int(ptr)]


class HostBuffer(Buffer):
    """A buffer of cuda-core in memory of the host; what it starts on a stream happens when the stream gets there."""

    freed_after: Any = None

    @staticmethod
    def from_handle(ptr: Any, size: int, mr: Any = None, owner: Any = None, *, stream: Any = None) -> HostBuffer:
        return HostBuffer._init(ptr, size, mr=mr, owner=owner, stream=stream)

    def copy_from(self, src: Buffer, *, stream: Any, options: Any = None) -> None:
        assert self.size == src.size
        stream.start(lambda: ctypes.memmove(int(self.handle), int(src.handle), self.size))

    def copy_to(self, dst: Any = None, *, stream: Any, options: Any = None) -> Any:
        dst.copy_from(self, stream=stream)
        return dst

    def fill(self, value: Any, *, stream: Any) -> None:
        stream.start(lambda: ctypes.memset(int(self.handle), value, self.size))

    def set_deallocation_stream(self, stream: Any) -> None:
        self.freed_after = stream


class TimedStream(SimulatedStream):
    handle = 7

    def record(self, event: Any = None, options: EventOptions | None = None) -> SimulatedEvent:
        made = super().record()
        made.__class__ = TimedEvent
        return made


class TimedEvent(SimulatedEvent):
    def __sub__(self, other: SimulatedEvent) -> float:
        assert self.reached and other.reached
        return 2.5


class HostDevice:
    """A device whose memory is the host's."""

    name = "host"
    arch = "90"
    properties = SimpleNamespace(multiprocessor_count=3)

    def __init__(self, number: int) -> None:
        self.memory_resource = HostMemory()
        self.current = 0
        self.streams = Streams(number)

    def set_current(self, ctx: Any = None) -> None:
        self.current += 1

    def create_stream(self, obj: Any = None, options: Any = None) -> SimulatedStream:
        assert self.current
        stream = self.streams.new()
        stream.__class__ = TimedStream
        return stream

    def allocate(self, size: int, *, stream: Any) -> HostBuffer:
        assert isinstance(stream, SimulatedStream)
        return self.memory_resource.allocate(size, stream=stream)


@pytest.fixture(params=range(5))
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaDevice:
    monkeypatch.setattr(cuda.core, "Device", HostDevice)
    monkeypatch.setattr(cuda.core, "Buffer", HostBuffer)
    monkeypatch.setattr(cuda.core, "LegacyPinnedMemoryResource", HostMemory)
    monkeypatch.setattr(driver, "cuCtxGetCurrent", lambda: (driver.CUresult.CUDA_SUCCESS, "before"))
    monkeypatch.setattr(driver, "cuCtxSetCurrent", lambda context: None)
    monkeypatch.setattr(driver, "cuMemGetInfo", lambda: (driver.CUresult.CUDA_SUCCESS, 1000, 2000))
    monkeypatch.setattr(device, "_PIECE", 64)
    return CudaDevice(request.param)


@pytest.mark.parametrize("name", ["from_handle", "copy_from", "copy_to", "fill", "set_deallocation_stream"])
def test_what_is_written_over_is_called_as_in_cuda_core(name: str) -> None:
    def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, bool]]:
        found = inspect.signature(function).parameters.values()
        return [(x.name, x.kind, x.default is inspect.Parameter.empty) for x in found]

    assert parameters(getattr(HostBuffer, name)) == parameters(getattr(Buffer, name))


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "keywords"),
    [
        (cuda.core.Device, "allocate", (1,), {"stream": None}),
        (cuda.core.Device, "create_stream", (), {}),
        (cuda.core.Device, "set_current", (), {}),
        (cuda.core.LegacyPinnedMemoryResource, "allocate", (1,), {"stream": None}),
        (cuda.core.Stream, "record", (), {"options": None}),
        (cuda.core.Stream, "wait", (None,), {}),
        (cuda.core.Stream, "sync", (), {}),
        (cuda.core.Event, "sync", (), {}),
        (cuda.core.ObjectCode, "get_kernel", ("name",), {}),
    ],
)
def test_what_the_device_calls_is_there(kind: type, name: str, arguments: tuple[Any, ...], keywords: Any) -> None:
    inspect.signature(getattr(kind, name)).bind(None, *arguments, **keywords)


def test_what_needs_no_gpu_is_taken_by_cuda_core() -> None:
    assert EventOptions(timing_enabled=True).timing_enabled and callable(cuda.core.Event.__sub__)
    config = LaunchConfig(grid=(5, 3), block=256)
    assert config.grid == (5, 3, 1) and config.block == (256, 1, 1)
    assert driver.CUresult.CUDA_SUCCESS == 0
    for name in ("cuCtxGetCurrent", "cuCtxSetCurrent", "cuMemGetInfo"):
        assert callable(getattr(driver, name))


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 17, 100])
def test_arrays_come_and_go(gpu: CudaDevice, n: int) -> None:
    """64 bytes at a time, so that pinned buffers are used again while copies from them wait."""
    array = np.random.default_rng(n).integers(0, 1 << 60, (n, 2))
    with gpu.turn():
        held, other = gpu.put(array), gpu.put(array + 1)
        assert np.array_equal(gpu.get(held), array) and np.array_equal(gpu.get(other), array + 1)
        assert not gpu.get(gpu.zeros((n, 3), np.int32)).any()
        if n > 2:
            assert np.array_equal(gpu.get(gpu.part(held, 1, n - 1)), array[1:-1])
        gpu.copy(other, held)
        assert np.array_equal(gpu.get(held), array + 1)
        assert gpu.milliseconds(lambda: gpu.copy(held, other)) == 2.5


def test_pieces_are_streamed_while_others_are_put_and_got(gpu: CudaDevice) -> None:
    array = np.arange(60, dtype=np.uint64).reshape(30, 2)
    for rows in (1, 4, 7):
        pieces = [array[first : first + rows] for first in range(0, 30, rows)]
        with gpu.turn():
            next(gpu.stream(pieces))  # one that nobody reads to its end
            found = []
            for held in gpu.stream(pieces):
                assert np.array_equal(gpu.get(gpu.put(array)), array)
                found.append(gpu.get(held))
        assert np.array_equal(np.concatenate(found), array)


def test_memory_that_is_free_counts_what_the_pool_keeps(gpu: CudaDevice) -> None:
    assert gpu.free_bytes() == 1300


def test_kernels_get_addresses_and_numbers_of_64_bits(gpu: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cuda.core, "launch", lambda *given: seen.append(given))
    monkeypatch.setattr(device, "compiled", lambda source, arch: SimpleNamespace(get_kernel=lambda name: (name, arch)))
    with gpu.turn():
        held = gpu.put(np.zeros(3))
        gpu.kernels("source").run("kernel", (4, 2), 128, held, 1 << 40, None)
    stream, config, kernel, *given = seen[0]
    assert kernel == ("kernel", "sm_90") and config.grid == (4, 2, 1) and isinstance(stream, SimulatedStream)
    assert given[0] is held.memory and given[1:] == [1 << 40, 0] and all(type(x) is np.int64 for x in given[1:])
    from cuda.core._kernel_arg_handler import ParamHolder

    handed = ParamHolder(given)  # as cuda-core hands them over; it holds what it points to
    addresses = (ctypes.c_void_p * 3).from_address(handed.ptr)
    assert [ctypes.c_int64.from_address(a or 0).value for a in addresses] == [int(held.memory.handle), 1 << 40, 0]


class Foreign:
    """An array of another library, which lies on the host but says that it does not."""

    def __init__(self, array: np.ndarray, place: tuple[int, int]) -> None:
        self._array, self._place, self.asked = array, place, list[int]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._place

    def __dlpack__(self, *, stream: int, max_version: tuple[int, int] | None = None) -> Any:
        self.asked.append(stream)
        return self._array.__dlpack__(max_version=max_version)


@pytest.mark.parametrize("gpu", [0], indirect=True)
def test_arrays_of_others_are_seen_as_they_lie(gpu: CudaDevice) -> None:
    whole = np.arange(48, dtype=np.float32).reshape(6, 8)
    for array in (whole, whole[1::2, ::3], whole[::-1, 2:4], whole.T, whole[:, 3], whole[:0]):
        given = Foreign(array, (2, 0))
        with gpu.turn():
            seen = gpu.look_at(given)
        assert given.asked == [7] and seen.shape == array.shape and seen.dtype == array.dtype
        assert all(n == 1 or a == b for n, a, b in zip(array.shape, seen.strides, array.strides, strict=True))
        if array.size:
            assert seen.address == array.ctypes.data == int(seen.memory.handle)
    with gpu.turn():
        assert gpu.look_at(Foreign(whole, (13, 0))).shape == (6, 8)
        with pytest.raises(SearchError, match=r"an array lies on cuda:1, expected cuda:0, where the codes are"):
            gpu.look_at(Foreign(whole, (2, 1)))
        with pytest.raises(SearchError, match=r"an array of .* cannot be read on cuda:0 \(.*\); give a plain array"):
            gpu.look_at(SimpleNamespace(__dlpack__=None))
        with pytest.raises(SearchError, match=r"an array of builtins cannot be read on cuda:0"):
            gpu.look_at(3)


@pytest.mark.parametrize("gpu", [0], indirect=True)
def test_an_answer_is_lent_and_lives_as_long_as_it_is_used(gpu: CudaDevice) -> None:
    values = np.arange(12, dtype=np.int32).reshape(3, 4)
    with gpu.turn():
        held = gpu.put(values)
        memory = gpu._device.memory_resource.held
        assert len(memory) == 1
        lent = gpu.lend(held, values)
        assert held.memory.freed_after is cuda.core.LEGACY_DEFAULT_STREAM
    del held
    assert isinstance(lent, np.ndarray) and np.array_equal(lent, values) and len(memory) == 1
    del lent
    assert not memory
    with gpu.turn():
        held = gpu.put(values)
        lent = gpu.lend(held, object())
    assert np.array_equal(np.from_dlpack(lent), values) and lent.__dlpack_device__() == (1, 0)
    for stream, freed_after in ((2, cuda.core.PER_THREAD_DEFAULT_STREAM), (1, cuda.core.LEGACY_DEFAULT_STREAM)):
        lent.__dlpack__(stream=stream)
        assert held.memory.freed_after is freed_after
    lent.__dlpack__(stream=640)
    assert int(held.memory.freed_after.handle) == 640
    lent.__dlpack__(stream=-1)
    assert int(held.memory.freed_after.handle) == 640
    with gpu.turn():
        assert np.from_dlpack(gpu.lend(gpu.put(values[:0]), object())).shape == (0, 4)


def test_turns_put_back_what_was_current(monkeypatch: pytest.MonkeyPatch, gpu: CudaDevice) -> None:
    back: list[Any] = []
    monkeypatch.setattr(driver, "cuCtxSetCurrent", back.append)
    with gpu.turn(), gpu.turn():
        pass
    assert back == ["before", "before"]


def test_a_full_device_is_one_sentence(gpu: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size: int, *, stream: Any) -> None:
        raise RuntimeError(
            "CUDA_ERROR_OUT_OF_MEMORY: the API call failed because it was unable to allocate enough memory"
        )

    monkeypatch.setattr(gpu._device, "allocate", full)
    with (
        gpu.turn(),
        pytest.raises(DeviceMemoryError, match=r"^host has no 8,000 bytes left; ask for fewer .* use device cpu$"),
    ):
        gpu.empty((1000,), np.int64)
    monkeypatch.setattr(gpu._device, "allocate", lambda size, *, stream: 1 / 0)
    with gpu.turn(), pytest.raises(ZeroDivisionError):
        gpu.empty((1000,), np.int64)
