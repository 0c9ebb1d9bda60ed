"""Procedural noise: the wrapping textures, how they are looked up, and a fixed random number for a cell."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.kernels import kernel


@lru_cache(maxsize=1)
def noise_texture() -> NDArray[np.float32]:
    """float32 (2, 256, 256), both wrapping round, mean 0, about -1..1: cloud-like noise, and fine grain."""
    rng = np.random.default_rng(20_011)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None]) * 256
    frequency[0, 0] = 1.0
    out = []
    for power in (1.55, 0.45):
        spectrum = np.fft.fft2(rng.standard_normal((256, 256))) / frequency**power
        spectrum[0, 0] = 0.0
        field = np.fft.ifft2(spectrum).real
        out.append((field / (2.2 * field.std())).clip(-1.5, 1.5))
    return np.ascontiguousarray(np.stack(out), dtype=np.float32)


@kernel
def noise(texture: NDArray[np.float32], x: float, y: float) -> float:
    """The wrapping texture at (x, y) cells, bilinear."""
    floor_x, floor_y = math.floor(x), math.floor(y)
    u, v = x - floor_x, y - floor_y
    i, j = int(floor_x) & 255, int(floor_y) & 255
    i1, j1 = (i + 1) & 255, (j + 1) & 255
    top = texture[j, i] * (1.0 - u) + texture[j, i1] * u
    low = texture[j1, i] * (1.0 - u) + texture[j1, i1] * u
    value: float = top * (1.0 - v) + low * v
    return value


@kernel
def speck(texture: NDArray[np.float32], x: float, y: float) -> float:
    """The wrapping texture's nearest cell at (x, y): for grain about as fine as the pixels."""
    value: float = texture[math.floor(y) & 255, math.floor(x) & 255]
    return value


@kernel
def cell_hash(i: int, j: int) -> float:
    """A fixed number in 0..1 for a cell."""
    h = (i * 374761393 + j * 668265263 + 1013904223) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65535.0
