"""Arrays on their way to and from a device: borrowed, lent and streamed, on the simulated one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from simulated_gpu import DeviceArray, SimulatedGpu
from simulated_streams import SimulatedStream, Streams

from hashret.codes import pack
from hashret.errors import CodeError, SearchError
from hashret.hamming import words
from hashret.hamming.gpu import feeding
from hashret.hamming.gpu.arrays import borrow, borrow_codes, is_on_device, padded
from hashret.hamming.gpu.device import Held, given_to

needs_compiler = pytest.mark.skipif(simulated_gpu.COMPILER is None, reason="there is no C++ compiler to simulate with")


def aligned(array: np.ndarray, off: int = 0) -> np.ndarray:
    """A copy that begins so many bytes beyond a multiple of 64."""
    whole = np.empty(array.nbytes + 128, np.uint8)
    start = -whole.ctypes.data % 64 + off
    copy: np.ndarray = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_arrays_on_a_device_are_told_from_others() -> None:
    for host in (np.zeros(3), [1, 2], "x", None, b"", np.float32(1)):
        assert not is_on_device(host)
    assert is_on_device(DeviceArray(np.zeros(1))) and is_on_device(DeviceArray(np.zeros(1), (13, 0)))
    assert not is_on_device(DeviceArray(np.zeros(1), (1, 0))) and not is_on_device(DeviceArray(np.zeros(1), (3, 0)))
    assert is_on_device(SimpleNamespace(__cuda_array_interface__={}))


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it should be": aligned,
    "8 bytes off": lambda x: aligned(x, 8),
    "a byte off": lambda x: aligned(x, 1),
    "columns first": lambda x: aligned(x.T).T,
    "every second row": lambda x: aligned(np.repeat(x, 2, axis=0))[::2],
    "every third byte": lambda x: aligned(np.repeat(x, 3, axis=1))[:, ::3],
    "backwards": lambda x: aligned(x[::-1, ::-1])[::-1, ::-1],
    "all rows the same": lambda x: np.broadcast_to(aligned(x[:1]), x.shape) if len(x) else x,
}


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [1, 8, 60, 64, 65, 128, 1024])
def test_codes_become_words_on_the_device(layout: str, bits: int) -> None:
    rng = np.random.default_rng(bits)
    gpu = SimulatedGpu(bits)
    for n in (0, 1, 2, 300):
        codes = LAYOUTS[layout](pack(rng.integers(0, 2, (n, bits))))
        with gpu.turn():
            held = borrow_codes(gpu, DeviceArray(codes), bits)
            assert held.dtype == np.uint64 and np.array_equal(gpu.get(held), words.padded(codes))
            shares = bits >= 57 and bits % 64 in (0, 60) and n and (layout == "as it should be" or n == 1)
            if shares and layout not in ("8 bytes off", "a byte off", "columns first", "every third byte", "backwards"):
                assert held.memory is codes


@needs_compiler
def test_codes_that_are_none_are_refused() -> None:
    gpu = SimulatedGpu()
    codes = np.full((3, 8), 0xF0, np.uint8)
    with gpu.turn():
        borrow_codes(gpu, DeviceArray(codes), 60)
        with pytest.raises(CodeError, match="the last 5 bits of a row are not zero, expected zeros beyond bit 59"):
            borrow_codes(gpu, DeviceArray(codes), 59)
        with pytest.raises(CodeError, match=r"codes have shape \(3, 8\), expected \(N, 4\) for 32 bits"):
            borrow_codes(gpu, DeviceArray(codes), 32)
        with pytest.raises(CodeError, match="codes have dtype float32, expected packed uint8"):
            borrow_codes(gpu, DeviceArray(np.zeros((3, 8), np.float32)), 64)
        with pytest.raises(SearchError, match="an array lies on cuda:1"):
            borrow_codes(gpu, DeviceArray(codes, (2, 1)), 64)


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.bool_])
def test_any_array_is_borrowed(dtype: type) -> None:
    rng = np.random.default_rng(0)
    gpu = SimulatedGpu()
    for n in (0, 1, 33):
        array = rng.integers(0, 2, (n, 7)).astype(dtype)
        for make in LAYOUTS.values():
            given = make(array)
            with gpu.turn():
                held = borrow(gpu, DeviceArray(given), dtype, (None, 7), "vectors")
                assert held.shape == (n, 7) and np.array_equal(gpu.get(held), given)
        column = aligned(array)[:, 3]
        with gpu.turn():
            assert np.array_equal(gpu.get(borrow(gpu, DeviceArray(column), dtype, (n,), "flags")), column)
    with gpu.turn():
        whole = aligned(array)
        assert borrow(gpu, DeviceArray(whole), dtype, (33, 7), "vectors").memory is whole
        with pytest.raises(SearchError, match=r"flags has shape \(33, 7\), expected \(33,\)"):
            borrow(gpu, DeviceArray(whole), dtype, (33,), "flags")
        with pytest.raises(SearchError, match=r"vectors has shape \(33, 7\), expected \(any, 8\)"):
            borrow(gpu, DeviceArray(whole), dtype, (None, 8), "vectors")
        with pytest.raises(SearchError, match=r"vectors has dtype .*, expected float64"):
            borrow(gpu, DeviceArray(whole), np.float64, (None, 7), "vectors")


def test_an_answer_is_of_the_library_that_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGpu()
    values = np.arange(12, dtype=np.int32).reshape(3, 4)
    with gpu.turn():
        held = gpu.put(values)
        lent = gpu.lend(held, DeviceArray(values))
    assert isinstance(lent, DeviceArray) and np.array_equal(lent.array, values)
    assert np.shares_memory(lent.array, held.memory)

    class Foreign:
        """Of a library whose functions are elsewhere, as JAX has it."""

        def __array_namespace__(self) -> Any:
            return SimpleNamespace(from_dlpack=lambda lent: ("foreign", lent))

    class Unknown:
        """Of a library that takes no DLPack."""

    for kind in (Foreign, Unknown):
        kind.__module__ = "library_without.arrays"
    monkeypatch.setitem(sys.modules, "library_without", SimpleNamespace())  # type: ignore[arg-type]
    assert given_to(Foreign(), lent) == ("foreign", lent)
    assert given_to(Unknown(), lent) is lent
    monkeypatch.delitem(sys.modules, "library_without")
    assert given_to(Unknown(), lent) is lent


def cut(array: np.ndarray, rows: int) -> list[np.ndarray]:
    return [array[first : first + rows] for first in range(0, len(array), rows)]


@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 100])
def test_pieces_arrive_whole_and_in_order(rows_at_once: int) -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 6, 7, 8, 20):
        array = rng.integers(0, 1 << 60, (n, 2)).astype(np.uint64)
        for seed in range(5):
            gpu = SimulatedGpu(seed)
            with gpu.turn():
                pieces = [gpu.get(held) for held in gpu.stream(cut(array, rows_at_once))]
            assert all(len(piece) == rows_at_once for piece in pieces[:-1])
            assert np.array_equal(np.concatenate([array[:0], *pieces]), array)


def test_a_stream_that_is_left_early_leaves_the_device_usable() -> None:
    array = np.arange(40, dtype=np.uint64).reshape(20, 2)
    for seed in range(10):
        gpu = SimulatedGpu(seed)
        with gpu.turn():
            for _ in range(3):
                pieces = gpu.stream(cut(array, 2))
                next(pieces)
                next(pieces)
                pieces.close()
            found = [gpu.get(held) for held in gpu.stream([array[:3], array[3:4], array[4:]])]
        assert np.array_equal(np.concatenate(found), array)


class Careless(SimulatedStream):
    """A stream that forgets to wait."""

    def wait(self, event_or_stream: Any, /) -> None:
        pass


def fed(seed: int, careless: str = "") -> bool:
    """Whether kernels that run when they get round to it, but in order, see what they should, in every one of two passes."""
    streams = Streams(seed)
    kernels, copies = streams.new(), streams.new()
    pinned = (simulated_gpu.SimulatedPinned(), simulated_gpu.SimulatedPinned())
    for name, stream in (("kernels", kernels), ("copies", copies)):
        if name == careless:
            stream.__class__ = Careless
    if careless == "host":
        for buffer in pinned:
            buffer.send = (
                lambda target, stream, buffer=buffer: stream.start(  # type: ignore[method-assign]
                    lambda: np.copyto(simulated_gpu.bytes_of(target), buffer._bytes[: target.memory.nbytes])
                )
            )
    array = np.arange(24, dtype=np.uint64).reshape(12, 2)
    targets = [Held(np.zeros((2, 2), np.uint64), (2, 2), np.dtype(np.uint64)) for _ in range(2)]
    seen: list[np.ndarray] = []
    for _ in range(2):
        for held in feeding.feed(cut(array, 2), pinned, targets, kernels, copies):
            kernels.start(lambda memory=held.memory: seen.append(memory.copy()))
    kernels.sync()
    return np.array_equal(np.concatenate(seen), np.concatenate([array, array]))


def test_pieces_are_copied_while_kernels_run_in_any_order() -> None:
    assert all(fed(seed) for seed in range(200))


def test_a_copy_nobody_wants_any_more_does_not_land_on_what_comes_after() -> None:
    for seed in range(20):
        streams = Streams(seed)
        kernels, copies = streams.new(), streams.new()
        pinned = (simulated_gpu.SimulatedPinned(), simulated_gpu.SimulatedPinned())
        memory = np.zeros((2, 1), np.uint64)
        targets = [Held(memory, (2, 1), memory.dtype)] * 2
        pieces = feeding.feed(cut(np.ones((6, 1), np.uint64), 2), pinned, targets, kernels, copies)
        next(pieces)
        pieces.close()
        kernels.start(lambda memory=memory: memory.fill(5))
        kernels.sync()
        copies.sync()
        assert (memory == 5).all()


@pytest.mark.parametrize("careless", ["kernels", "copies", "host"])
def test_a_forgotten_wait_is_found(careless: str) -> None:
    assert not all(fed(seed, careless) for seed in range(20))


def test_filling_copies_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "PART_BYTES", 5)
    monkeypatch.setattr(feeding.threads, "available_threads", lambda: 3)
    for n in (0, 1, 4, 5, 6, 15, 16, 100):
        array = np.random.default_rng(n).integers(0, 256, (n, 3), np.uint8)
        room = np.full(3 * n, 7, np.uint8)
        feeding.fill(room, array)
        assert room.tobytes() == array.tobytes()
        feeding.fill(room, array[::-1])
        assert room.tobytes() == array[::-1].tobytes()


@needs_compiler
@pytest.mark.parametrize("bits", [8, 64, 96])
def test_streamed_codes_are_padded_on_the_device(bits: int) -> None:
    codes = pack(np.random.default_rng(0).integers(0, 2, (50, bits)))
    gpu = SimulatedGpu()
    with gpu.turn():
        found = [gpu.get(padded(gpu, held)) for held in gpu.stream(cut(codes, 16))]
    assert np.array_equal(np.concatenate(found), words.padded(codes))
