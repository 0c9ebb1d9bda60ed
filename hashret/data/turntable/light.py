"""The light of the scene: what comes from the sky in a direction, and what falls on a place of the ground."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.kernels import kernel, mix, smoothstep
from hashret.data.turntable.noise import noise
from hashret.data.turntable.scene import Ground, Light


@kernel
def sky_radiance(light: Light, dx: float, dy: float, dz: float) -> tuple[float, float, float]:
    """The clear sky in a direction (unit length, dz >= 0), brighter round the sun."""
    t = math.sqrt(dz)
    r, g, b = (
        mix(light.horizon_r, light.zenith_r, t),
        mix(light.horizon_g, light.zenith_g, t),
        mix(light.horizon_b, light.zenith_b, t),
    )
    if light.time != 3:
        near = max(0.0, dx * light.sun_x + dy * light.sun_y + dz * light.sun_z)
        near = near * near
        glow = 0.35 * near * near * (1.0 - 0.8 * light.clouds)
        r, g, b = r + glow * light.sun_r, g + glow * light.sun_g, b + glow * light.sun_b
    return r, g, b


@kernel
def ground_light(
    x: float,
    y: float,
    light: Light,
    ground: Ground,
    car_4: NDArray[np.float64],
    shadow_GG: NDArray[np.float32],
    half: float,
    soft: NDArray[np.float32],
) -> tuple[float, float, float]:
    """The light that falls on the ground at (x, y): sky under the car's cover, sun less shadow, the car's own lamps."""
    cos, sin, length, width = car_4[0], car_4[1], car_4[2], car_4[3]
    along, aside = x * cos + y * sin, y * cos - x * sin
    off_x, off_y = max(0.0, abs(along) - 0.46 * length), max(0.0, abs(aside) - 0.45 * width)
    cover = 1.0 - math.sqrt(off_x * off_x + off_y * off_y) / 0.85
    open_sky = 1.0 - 0.86 * cover * cover if cover > 0.0 else 1.0
    size = shadow_GG.shape[0]
    u, v = (x + half) * size / (2.0 * half) - 0.5, (y + half) * size / (2.0 * half) - 0.5
    lit = 1.0
    if u >= 0.0 and v >= 0.0 and u < size - 1.001 and v < size - 1.001:
        i, j = int(u), int(v)
        u, v = u - i, v - j
        lit = 1.0 - (
            (shadow_GG[j, i] * (1 - u) + shadow_GG[j, i + 1] * u) * (1 - v)
            + (shadow_GG[j + 1, i] * (1 - u) + shadow_GG[j + 1, i + 1] * u) * v
        )
    if ground.dapple > 0.0:
        lit *= 1.0 - ground.dapple * smoothstep(-0.1, 0.35, noise(soft, x * 9.0 + ground.shift_x, y * 9.0))
    sun = lit * max(0.12, light.sun_z)
    if light.time == 3:
        away_x, away_y = x - ground.pool_x, y - ground.pool_y
        sun *= 0.45 + 1.6 * ground.pool / (1.0 + (away_x * away_x + away_y * away_y) / 14.0)
    sky = 0.75 * open_sky
    r = sky * mix(light.horizon_r, light.zenith_r, 0.5) + sun * light.sun_r
    g = sky * mix(light.horizon_g, light.zenith_g, 0.5) + sun * light.sun_g
    b = sky * mix(light.horizon_b, light.zenith_b, 0.5) + sun * light.sun_b
    if light.lamps > 0.0:
        ahead = along - 0.5 * length
        if ahead > 0.0:
            spread = 0.35 * width + 0.28 * ahead
            beam = smoothstep(0.0, 1.6, ahead) / (1.0 + 0.035 * ahead * ahead) * math.exp(-((aside / spread) ** 2))
            r, g, b = r + 1.9 * beam * light.lamps, g + 1.8 * beam * light.lamps, b + 1.55 * beam * light.lamps
        behind = -along - 0.5 * length
        if behind > -0.1:
            glow = 0.5 * math.exp(-((aside / (0.6 * width)) ** 2) - 0.9 * max(0.0, behind)) * light.lamps
            r, g, b = r + glow, g + 0.05 * glow, b + 0.03 * glow
    return r, g, b
