"""Pixels of one picture: a z-buffer rasteriser and its shading, in numba, one thread a picture, without the GIL.

Three passes. `_cast_shadow` lays the car's shadow on a grid of the ground. `_paint_surroundings` paints sky, backdrop and
ground, one sample a pixel. `_rasterise` finds the triangle in front for 2x2 samples a pixel, and `_paint_car` shades them:
what a point of the body is made of (paint, glass, lamp, seam, grille) follows from where it lies on the car.
Everything is linear light until `_develop` turns it into sRGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hashret.data.turntable.bodies import Design, Mesh
from hashret.data.turntable.scene import Ground, Light, Paint, Scene, noise_texture

Function = TypeVar("Function", bound=Callable[..., Any])

SHADOW_CELLS = 160


def _kernel(function: Function) -> Function:
    """The function compiled; the compiled code is kept on disk for the next process."""
    compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "arcp", "nsz"})(function)
    return cast(Function, compiled)


# Materials of a point.
_PAINT, _GLASS, _BLACK, _CHROME, _LAMP, _TAIL, _PLATE, _GAP, _DARK, _TYRE, _RIM, _AMBER, _PLASTIC, _SIGN = range(14)


@_kernel
def _mix(a: float, b: float, part: float) -> float:
    return a + (b - a) * part


@_kernel
def _clamp(x: float) -> float:
    return min(1.0, max(0.0, x))


@_kernel
def _step(low: float, high: float, x: float) -> float:
    """0 below low, 1 above high, smooth between."""
    u = _clamp((x - low) / (high - low))
    return u * u * (3.0 - 2.0 * u)


@_kernel
def _noise(texture: NDArray[np.float32], x: float, y: float) -> float:
    """The wrapping texture at (x, y) cells, bilinear."""
    floor_x, floor_y = math.floor(x), math.floor(y)
    u, v = x - floor_x, y - floor_y
    i, j = int(floor_x) & 255, int(floor_y) & 255
    i1, j1 = (i + 1) & 255, (j + 1) & 255
    top = texture[j, i] * (1.0 - u) + texture[j, i1] * u
    low = texture[j1, i] * (1.0 - u) + texture[j1, i1] * u
    value: float = top * (1.0 - v) + low * v
    return value


@_kernel
def _speck(texture: NDArray[np.float32], x: float, y: float) -> float:
    """The wrapping texture's nearest cell at (x, y): for grain about as fine as the pixels."""
    value: float = texture[math.floor(y) & 255, math.floor(x) & 255]
    return value


@_kernel
def _hash(i: int, j: int) -> float:
    """A fixed number in 0..1 for a cell."""
    h = (i * 374761393 + j * 668265263 + 1013904223) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65535.0


@_kernel
def _inside(a: float, b: float, half_a: float, half_b: float, power: float) -> bool:
    """Whether (a, b) lies in the superellipse of these half axes."""
    u: float = abs(a) / half_a
    v: float = abs(b) / half_b
    if u >= 1.0 or v >= 1.0:
        return False
    if power > 7.0:
        u, v = u * u, v * v
        u, v = u * u, v * v
        u, v = u * u, v * v
        return u + v < 1.0
    if power > 3.0:
        u, v = u * u, v * v
    elif power > 2.2:
        return u * u * math.sqrt(u) + v * v * math.sqrt(v) < 1.0
    return u * u + v * v < 1.0


@_kernel
def _sky(light: Light, dx: float, dy: float, dz: float) -> tuple[float, float, float]:
    """The clear sky in a direction (unit length, dz >= 0), brighter round the sun."""
    t = math.sqrt(dz)
    r, g, b = (
        _mix(light.horizon_r, light.zenith_r, t),
        _mix(light.horizon_g, light.zenith_g, t),
        _mix(light.horizon_b, light.zenith_b, t),
    )
    if light.time != 3:
        near = max(0.0, dx * light.sun_x + dy * light.sun_y + dz * light.sun_z)
        near = near * near
        glow = 0.35 * near * near * (1.0 - 0.8 * light.clouds)
        r, g, b = r + glow * light.sun_r, g + glow * light.sun_g, b + glow * light.sun_b
    return r, g, b


@_kernel
def _project(
    vertices_V10: NDArray[np.float32], turn: float, camera_15: NDArray[np.float64], screen_V3: NDArray[np.float64]
) -> None:
    """Fills screen_V3 with pixel x, pixel y and 1 / depth of the turned vertices."""
    cos, sin = math.cos(turn), math.sin(turn)
    for i in range(len(vertices_V10)):
        px, py = vertices_V10[i, 0], vertices_V10[i, 1]
        x = px * cos - py * sin - camera_15[0]
        y = px * sin + py * cos - camera_15[1]
        z = vertices_V10[i, 2] - camera_15[2]
        depth = x * camera_15[3] + y * camera_15[4] + z * camera_15[5]
        across = x * camera_15[6] + y * camera_15[7] + z * camera_15[8]
        up = x * camera_15[9] + y * camera_15[10] + z * camera_15[11]
        screen_V3[i, 0] = camera_15[13] + camera_15[12] * across / depth
        screen_V3[i, 1] = camera_15[14] - camera_15[12] * up / depth
        screen_V3[i, 2] = 1.0 / depth


@_kernel
def _rasterise(
    screen_V3: NDArray[np.float64],
    triangles_T3: NDArray[np.int32],
    nearness_HW: NDArray[np.float32],
    owner_HW: NDArray[np.int32],
) -> None:
    """Fills owner_HW with the number of the nearest front-facing triangle (-1: none) at 2x2 samples a pixel."""
    height, width = owner_HW.shape
    owner_HW[:] = -1
    nearness_HW[:] = 0.0
    for k in range(len(triangles_T3)):
        a, b, c = triangles_T3[k, 0], triangles_T3[k, 1], triangles_T3[k, 2]
        ax, ay = 2.0 * screen_V3[a, 0], 2.0 * screen_V3[a, 1]
        bx, by = 2.0 * screen_V3[b, 0], 2.0 * screen_V3[b, 1]
        cx, cy = 2.0 * screen_V3[c, 0], 2.0 * screen_V3[c, 1]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        # Anticlockwise seen from outside is negative here, since y points down.
        if area >= -1e-9:
            continue
        x0, x1 = max(0, math.ceil(min(ax, bx, cx) - 0.5)), min(width - 1, math.floor(max(ax, bx, cx) - 0.5))
        y0, y1 = max(0, math.ceil(min(ay, by, cy) - 0.5)), min(height - 1, math.floor(max(ay, by, cy) - 0.5))
        inverse = 1.0 / area
        wa, wb, wc = screen_V3[a, 2], screen_V3[b, 2], screen_V3[c, 2]
        step_a, step_b = -(cy - by) * inverse, -(ay - cy) * inverse
        for y in range(y0, y1 + 1):
            py = y + 0.5
            px = x0 + 0.5
            u = ((cx - bx) * (py - by) - (cy - by) * (px - bx)) * inverse
            v = ((ax - cx) * (py - cy) - (ay - cy) * (px - cx)) * inverse
            for x in range(x0, x1 + 1):
                w = 1.0 - u - v
                if u >= 0.0 and v >= 0.0 and w >= 0.0:
                    nearness = u * wa + v * wb + w * wc
                    if nearness > nearness_HW[y, x]:
                        nearness_HW[y, x] = nearness
                        owner_HW[y, x] = k
                u += step_a
                v += step_b


@_kernel
def _cast_shadow(
    vertices_V10: NDArray[np.float32],
    triangles_T3: NDArray[np.int32],
    turn: float,
    sun_x: float,
    sun_y: float,
    sun_z: float,
    half: float,
    passes_cells: int,
    grid_GG: NDArray[np.float32],
    other_GG: NDArray[np.float32],
) -> None:
    """Fills grid_GG, which spans -half..half metres both ways, with how much of the sun the car takes away, 0..1."""
    size = grid_GG.shape[0]
    grid_GG[:] = 0.0
    cos, sin = math.cos(turn), math.sin(turn)
    scale = size / (2.0 * half)
    slide_x, slide_y = sun_x / sun_z, sun_y / sun_z
    # The shadow of a closed body is covered by every second triangle facing the sun; all of them is simpler.
    for k in range(len(triangles_T3)):
        a, b, c = triangles_T3[k, 0], triangles_T3[k, 1], triangles_T3[k, 2]
        xs = (vertices_V10[a, 0], vertices_V10[b, 0], vertices_V10[c, 0])
        ys = (vertices_V10[a, 1], vertices_V10[b, 1], vertices_V10[c, 1])
        zs = (vertices_V10[a, 2], vertices_V10[b, 2], vertices_V10[c, 2])
        ax = (xs[0] * cos - ys[0] * sin - zs[0] * slide_x + half) * scale
        ay = (xs[0] * sin + ys[0] * cos - zs[0] * slide_y + half) * scale
        bx = (xs[1] * cos - ys[1] * sin - zs[1] * slide_x + half) * scale
        by = (xs[1] * sin + ys[1] * cos - zs[1] * slide_y + half) * scale
        cx = (xs[2] * cos - ys[2] * sin - zs[2] * slide_x + half) * scale
        cy = (xs[2] * sin + ys[2] * cos - zs[2] * slide_y + half) * scale
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area < 1e-9:
            continue
        inverse = 1.0 / area
        x0, x1 = max(0, math.ceil(min(ax, bx, cx) - 0.5)), min(size - 1, math.floor(max(ax, bx, cx) - 0.5))
        y0, y1 = max(0, math.ceil(min(ay, by, cy) - 0.5)), min(size - 1, math.floor(max(ay, by, cy) - 0.5))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x + 0.5, y + 0.5
                u = ((cx - bx) * (py - by) - (cy - by) * (px - bx)) * inverse
                v = ((ax - cx) * (py - cy) - (ay - cy) * (px - cx)) * inverse
                if u >= 0.0 and v >= 0.0 and u + v <= 1.0:
                    grid_GG[y, x] = 1.0
    # Two box blurs make the soft edge; the light has a size.
    reach = passes_cells
    for _ in range(2):
        for y in range(size):
            total = 0.0
            for x in range(-reach, size):
                if x + reach < size:
                    total += grid_GG[y, x + reach]
                if x - reach - 1 >= 0:
                    total -= grid_GG[y, x - reach - 1]
                if x >= 0:
                    other_GG[x, y] = total / (2 * reach + 1)
        for y in range(size):
            total = 0.0
            for x in range(-reach, size):
                if x + reach < size:
                    total += other_GG[y, x + reach]
                if x - reach - 1 >= 0:
                    total -= other_GG[y, x - reach - 1]
                if x >= 0:
                    grid_GG[x, y] = total / (2 * reach + 1)


@_kernel
def _ground_light(
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
        lit *= 1.0 - ground.dapple * _step(-0.1, 0.35, _noise(soft, x * 9.0 + ground.shift_x, y * 9.0))
    sun = lit * max(0.12, light.sun_z)
    if light.time == 3:
        away_x, away_y = x - ground.pool_x, y - ground.pool_y
        sun *= 0.45 + 1.6 * ground.pool / (1.0 + (away_x * away_x + away_y * away_y) / 14.0)
    sky = 0.75 * open_sky
    r = sky * _mix(light.horizon_r, light.zenith_r, 0.5) + sun * light.sun_r
    g = sky * _mix(light.horizon_g, light.zenith_g, 0.5) + sun * light.sun_g
    b = sky * _mix(light.horizon_b, light.zenith_b, 0.5) + sun * light.sun_b
    if light.lamps > 0.0:
        ahead = along - 0.5 * length
        if ahead > 0.0:
            spread = 0.35 * width + 0.28 * ahead
            beam = _step(0.0, 1.6, ahead) / (1.0 + 0.035 * ahead * ahead) * math.exp(-((aside / spread) ** 2))
            r, g, b = r + 1.9 * beam * light.lamps, g + 1.8 * beam * light.lamps, b + 1.55 * beam * light.lamps
        behind = -along - 0.5 * length
        if behind > -0.1:
            glow = 0.5 * math.exp(-((aside / (0.6 * width)) ** 2) - 0.9 * max(0.0, behind)) * light.lamps
            r, g, b = r + glow, g + 0.05 * glow, b + 0.03 * glow
    return r, g, b


@_kernel
def _ground_colour(
    x: float, y: float, distance: float, ground: Ground, soft: NDArray[np.float32], grain: NDArray[np.float32]
) -> float:
    """The brightness of the ground's pattern at (x, y), about 1; paint lines are above 2."""
    fine = 1.0 / (1.0 + 0.12 * distance)
    tone = 1.0 + 0.22 * _noise(soft, x * 5.0 + ground.shift_x, y * 5.0 + ground.shift_y)
    tone += 0.3 * fine * _speck(grain, x * 60.0, y * 60.0)
    if ground.kind == 1 or ground.kind == 2:
        u, v = (
            (x * ground.turn_cos + y * ground.turn_sin) / ground.scale,
            (y * ground.turn_cos - x * ground.turn_sin) / ground.scale,
        )
        row = math.floor(v)
        if ground.kind == 2:
            u += 0.5 * (row % 2.0)
        cell = _hash(math.floor(u), int(row))
        tone *= 0.86 + 0.28 * cell
        edge = min(min(u - math.floor(u), math.floor(u) + 1.0 - u), min(v - row, row + 1.0 - v)) * ground.scale
        gap = 0.012 if ground.kind == 1 else 0.014
        if edge < gap + 0.002 * distance:
            tone *= 1.0 - 0.5 * fine * (1.0 if edge < gap else 0.4)
    elif ground.kind == 3:
        tone += 0.5 * fine * _speck(grain, x * 23.0, y * 23.0)
    elif ground.kind == 4:
        tone += 0.4 * fine * _speck(grain, x * 90.0 + y * 30.0, y * 25.0) + 0.15 * _noise(soft, x * 20.0, y * 20.0)
    if ground.line_at < 50.0:
        across = x - ground.line_at + y * ground.line_turn
        if abs(across) < 0.07 or (abs(across - 5.2) < 0.07 and (y * 0.25 - math.floor(y * 0.25)) < 0.5):
            tone = 3.0 + 0.4 * _noise(grain, x * 30.0, y * 30.0)
    return max(0.15, tone)


@_kernel
def _layer_hit(
    layers_L10: NDArray[np.float32],
    n: int,
    azimuth: float,
    z: float,
    light: Light,
    soft: NDArray[np.float32],
    grain: NDArray[np.float32],
) -> tuple[bool, float, float, float, float]:
    """Whether the backdrop layer is met at height z: (hit, r, g, b, own light)."""
    kind, distance, height, cell = int(layers_L10[n, 0]), layers_L10[n, 1], layers_L10[n, 2], layers_L10[n, 3]
    along = azimuth * distance + layers_L10[n, 4] * 7.0
    r, g, b, variation = layers_L10[n, 5], layers_L10[n, 6], layers_L10[n, 7], layers_L10[n, 8]
    if kind == 0:
        top = height * (0.45 + 0.4 * variation * _noise(soft, along / cell * 5.0, layers_L10[n, 4]))
        if z > top:
            return False, 0.0, 0.0, 0.0, 0.0
        tone = 0.8 + 0.3 * _noise(soft, along * 0.2, z * 0.5 + layers_L10[n, 4])
        return True, r * tone, g * tone, b * tone, 0.0
    if kind == 1:
        crown = (
            0.62
            + 0.3 * variation * _noise(soft, along / cell * 4.0, layers_L10[n, 4])
            + 0.1 * _noise(grain, along * 2.2, layers_L10[n, 4])
        )
        top = height * crown
        if z > top + 0.25 * height * 0.3 * _noise(grain, along * 3.0, z * 3.0):
            return False, 0.0, 0.0, 0.0, 0.0
        if z < 0.22 * height and layers_L10[n, 9] > 0.35:  # trunks under the crowns
            stem = along / (0.2 * cell)
            number = math.floor(stem)
            middle = 0.3 + 0.4 * _hash(int(number), 5)
            if abs(stem - number - middle) < 0.11:
                return True, 0.05, 0.04, 0.03, 0.0
            deep = 0.22 + 0.1 * _speck(grain, along * 4.0, z * 4.0)
            return True, deep * r, deep * g, deep * b, 0.0
        scale = 220.0 / (distance + 10.0)
        leaf = 0.7 * _speck(grain, along * scale, z * scale) + 0.8 * _noise(
            grain, along * 0.22 * scale, z * 0.22 * scale
        )
        tone = (0.75 + 0.5 * leaf + 0.4 * _noise(soft, along * 5.0, z * 5.0 + layers_L10[n, 4])) * (
            0.35 + 0.85 * _clamp(z / top)
        )
        tone = max(0.08, tone)
        return True, r * tone, g * tone, b * tone, 0.0
    if kind == 4:
        place = along / cell
        middle = math.floor(place) + 0.5
        if z > height or abs(place - middle) * cell > 0.09 + 0.01 * distance * 0.15:
            return False, 0.0, 0.0, 0.0, 0.0
        glow = 3.0 if (light.time == 3 and z > height - 0.5) else 0.0
        return True, r, g, b, glow
    if kind == 2:
        number = math.floor(along / cell)
        top = height * (1.0 - 0.6 * variation * _hash(number, 7))
        if z > top:
            return False, 0.0, 0.0, 0.0, 0.0
        tone = 0.7 + 0.6 * _hash(number, 3)
        r, g, b = r * tone * (0.85 + 0.3 * _hash(number, 11)), g * tone, b * tone * (0.85 + 0.3 * _hash(number, 13))
        wide, tall = 2.0 + 1.6 * _hash(number, 17), 2.9
        u, v = (along - number * cell) / wide, z / tall
        i, j = math.floor(u), math.floor(v)
        u, v = u - i, v - j
        if 0.22 < u < 0.78 and 0.3 < v < 0.82 and z < top - 0.6:
            draw = _hash(int(i) + number * 31, int(j))
            if light.time == 3 and draw < layers_L10[n, 9]:
                warm = 0.4 + 0.6 * _hash(int(i) + 5, int(j) + number)
                return True, 0.0, 0.0, 0.0, 0.55 * warm
            return True, 0.05 + 0.1 * draw, 0.06 + 0.1 * draw, 0.08 + 0.12 * draw, 0.0
        tone = 1.0 + 0.12 * _speck(grain, along * 8.0, z * 4.0)
        return True, r * tone, g * tone, b * tone, 0.0
    if z > height:
        return False, 0.0, 0.0, 0.0, 0.0
    tone = 1.0 + 0.25 * variation * _noise(soft, along * 8.0, z * 8.0) + 0.15 * _speck(grain, along * 25.0, z * 25.0)
    u, v = along / (cell * 1.2), z / (cell * 0.5)
    row_number = math.floor(v)
    u += 0.5 * (row_number % 2.0)
    if min(u - math.floor(u), v - row_number) < 0.06:
        tone *= 0.75
    if z > height - 0.12:
        tone *= 1.25
    return True, r * tone, g * tone, b * tone, 0.0


@_kernel
def _paint_surroundings(
    image_HW3: NDArray[np.float32],
    camera_15: NDArray[np.float64],
    light: Light,
    ground: Ground,
    layers_L10: NDArray[np.float32],
    car_4: NDArray[np.float64],
    shadow_GG: NDArray[np.float32],
    half: float,
    owner_HW: NDArray[np.int32],
    noise_2NN: NDArray[np.float32],
) -> None:
    """Paints sky, backdrop and ground wherever the car does not hide the whole pixel."""
    height, width = image_HW3.shape[0], image_HW3.shape[1]
    soft, grain = noise_2NN[0], noise_2NN[1]
    eye = camera_15[2]
    nearest = layers_L10[len(layers_L10) - 1, 1]
    sky_r = _mix(light.horizon_r, light.zenith_r, 0.5)
    sky_g = _mix(light.horizon_g, light.zenith_g, 0.5)
    sky_b = _mix(light.horizon_b, light.zenith_b, 0.5)
    for py in range(height):
        for px in range(width):
            if (
                owner_HW[2 * py, 2 * px] >= 0 and owner_HW[2 * py, 2 * px + 1] >= 0
                and owner_HW[2 * py + 1, 2 * px] >= 0 and owner_HW[2 * py + 1, 2 * px + 1] >= 0
            ):  # fmt: skip
                continue
            u = (px + 0.5 - camera_15[13]) / camera_15[12]
            v = -(py + 0.5 - camera_15[14]) / camera_15[12]
            dx = camera_15[3] + u * camera_15[6] + v * camera_15[9]
            dy = camera_15[4] + u * camera_15[7] + v * camera_15[10]
            dz = camera_15[5] + u * camera_15[8] + v * camera_15[11]
            flat = math.sqrt(dx * dx + dy * dy)
            rise = dz / flat
            hit, own = False, 0.0
            r = g = b = distance = 0.0
            if eye + nearest * rise > 0.0:
                azimuth = math.atan2(dy, dx)
                for n in range(len(layers_L10) - 1, -1, -1):
                    distance = layers_L10[n, 1]
                    z = eye + distance * rise
                    if z < 0.0:
                        break
                    hit, r, g, b, own = _layer_hit(layers_L10, n, azimuth, z, light, soft, grain)
                    if hit:
                        break
            if hit:
                # Backdrops stand upright: they take the sun from the camera's side, and half of the sky.
                front = 0.25 + 0.75 * max(0.0, -light.sun_x)
                lift = 0.55 if light.time != 3 else 0.6
                r = r * (lift * sky_r + 0.6 * front * light.sun_r) + own
                g = g * (lift * sky_g + 0.6 * front * light.sun_g) + own * 0.78
                b = b * (lift * sky_b + 0.6 * front * light.sun_b) + own * 0.42
            elif rise < -1e-4:
                distance = -eye / rise
                x, y = camera_15[0] + distance * dx / flat, camera_15[1] + distance * dy / flat
                tone = _ground_colour(x, y, distance, ground, soft, grain)
                lr, lg, lb = _ground_light(x, y, light, ground, car_4, shadow_GG, half, soft)
                if tone > 2.0:
                    r, g, b = 0.17 * tone, 0.17 * tone, 0.17 * tone * (1.0 - 0.75 * ground.line_yellow)
                else:
                    r, g, b = ground.r * tone, ground.g * tone, ground.b * tone
                r, g, b = r * lr, g * lg, b * lb
                if ground.wet > 0.0:
                    glance = ground.wet * (1.0 + rise / math.sqrt(1.0 + rise * rise)) ** 4
                    r, g, b = (
                        _mix(r, light.horizon_r, glance),
                        _mix(g, light.horizon_g, glance),
                        _mix(b, light.horizon_b, glance),
                    )
            else:
                long = math.sqrt(flat * flat + dz * dz)
                dx, dy, dz = dx / long, dy / long, max(0.0, dz / long)
                r, g, b = _sky(light, dx, dy, dz)
                over = 1.0 / (dz + 0.12)
                cloud = _noise(soft, dx * over * 14.0 + light.cloud_shift, dy * over * 14.0)
                part = light.clouds * _step(
                    0.5 - light.clouds,
                    1.1 - light.clouds,
                    cloud + 0.3 * _noise(soft, dx * over * 40.0, dy * over * 40.0),
                )
                if light.time == 3:
                    part *= 0.3
                    star = _hash(math.floor(dx * over * 420.0), math.floor(dy * over * 420.0))
                    if star > 0.9985:
                        r, g, b = r + 0.25, g + 0.25, b + 0.27
                white = 0.5 * light.sun_r + sky_r, 0.5 * light.sun_g + sky_g, 0.5 * light.sun_b + sky_b
                r = _mix(r, 0.75 * white[0], 0.75 * part)
                g = _mix(g, 0.75 * white[1], 0.75 * part)
                b = _mix(b, 0.75 * white[2], 0.75 * part)
                distance = 0.0
            if distance > 8.0:
                veil = light.haze * (1.0 - math.exp(-(distance - 8.0) / 110.0))
                r, g, b = _mix(r, light.horizon_r, veil), _mix(g, light.horizon_g, veil), _mix(b, light.horizon_b, veil)
            image_HW3[py, px, 0], image_HW3[py, px, 1], image_HW3[py, px, 2] = r, g, b


@_kernel
def _side_glass(d: Design, s: float, y: float, above: float, under: float) -> bool:
    """Whether a point of the side above the shoulder is window (else pillar or frame)."""
    if under < 0.035 or above < 0.035 + d.kick * max(0.0, s - d.kick_s) or above + under < 0.2:
        return False
    if s > d.glass_end + d.glass_end_lean * above:
        return False
    if d.pitch > 0.0:
        if y < 0.0 and d.door_1 < s < d.door_2:
            return True
        turn = (s - d.door_2) / d.pitch
        return abs(turn - math.floor(turn + 0.5)) * d.pitch > 0.05 and s > 0.1
    if s < d.roof_start and under < 0.05 + 0.02:
        return False
    lean = 0.12 * above
    half = d.pillar_width
    if d.pillar_1 > 0.0 and abs(s - d.pillar_1 - lean) < half:
        return False
    if d.pillar_2 > 0.0 and abs(s - d.pillar_2 - lean) < 0.8 * half:
        return False
    return not (d.pillar_3 > 0.0 and abs(s - d.pillar_3 - lean) < half)


@_kernel
def _front_material(d: Design, s: float, y: float, z: float, nx: float) -> int:
    """What the nose is made of; -1 where it is plain body."""
    side = abs(y)
    run = side + 0.8 * s
    across = run - d.lamp_y
    half = d.lamp_width if across < 0.0 else d.lamp_width + 0.6 * d.lamp_wrap
    rise = z - d.lamp_z - d.lamp_slant * max(across, -d.lamp_width)
    if s < 0.14 + d.lamp_wrap and _inside(across, rise, half, d.lamp_height, d.lamp_power):
        if d.lamp_ring == 0.0 and not _inside(across, rise, half * 0.82, d.lamp_height * 0.72, d.lamp_power):
            return _CHROME
        if d.lamp_ring == 2.0 and abs(across) < 0.012:
            return _BLACK
        if across > 0.55 * half and rise < 0.0:
            return _AMBER
        if (
            d.lamp_ring == 1.0
            and rise > -0.55 * d.lamp_height
            and not _inside(across + 0.15 * half, rise - 0.1 * d.lamp_height, 0.4 * half, 0.6 * d.lamp_height, 2.0)
        ):
            return _DARK
        return _LAMP
    if nx < 0.3:
        return _PLASTIC if z < d.bumper_black else -1
    plate = d.clearance + 0.2 + 2.0 * d.intake_height
    if side < 0.26 and abs(z - plate - 0.06) < 0.056:
        return _PLATE
    deep = z - d.grille_z
    wide = d.grille_width * (1.0 + d.grille_taper * 0.5 * deep / d.grille_height)
    if abs(deep) < d.grille_height and _inside(side, deep, wide, d.grille_height, d.grille_power):
        style = d.grille_style
        if style == 4.0 and side < 0.05:
            return -1
        if (
            d.grille_frame > 0.0
            and style != 0.0
            and not _inside(side, deep, wide - 0.022, d.grille_height - 0.018, d.grille_power)
        ):
            return _CHROME
        if style == 0.0:
            return -1 if _inside(side, deep, wide - 0.012, d.grille_height - 0.01, d.grille_power) else _GAP
        if side < 0.05 and abs(deep) < 0.045:
            return _CHROME
        if style == 1.0:
            bar = deep / 0.045
            return _CHROME if bar - math.floor(bar) < 0.32 else _DARK
        if style == 2.0 or style == 4.0:
            bar = side / 0.045
            return _CHROME if bar - math.floor(bar) < 0.35 else _DARK
        if style == 5.0:
            return _CHROME if abs(deep) < 0.2 * d.grille_height else _DARK
        u, v = (side + deep) / 0.05, (side - deep) / 0.05
        return _BLACK if min(u - math.floor(u), v - math.floor(v)) < 0.3 else _DARK
    intake = z - d.clearance - 0.12 - d.intake_height
    if _inside(side, intake, d.intake_width, d.intake_height, 8.0):
        return _DARK
    if d.fog_lamps > 0.0 and _inside(side - 0.36 * d.width, intake - 0.04, 0.06, 0.045, 2.0):
        return _CHROME
    return _PLASTIC if z < d.bumper_black else -1


@_kernel
def _rear_material(d: Design, s: float, y: float, z: float, nx: float) -> int:
    """What the tail is made of; -1 where it is plain body."""
    side, back = abs(y), d.length - s
    across = side + 0.8 * back - d.tail_lamp_y
    half = d.tail_lamp_width if across < 0.0 else d.tail_lamp_width + d.tail_lamp_wrap
    rise = z - d.tail_lamp_z - d.tail_lamp_slant * max(across, -d.tail_lamp_width)
    if back < 0.14 + d.tail_lamp_wrap and _inside(across, rise, half, d.tail_lamp_height, d.tail_lamp_power):
        if not _inside(across, rise, half - 0.014, d.tail_lamp_height - 0.014, d.tail_lamp_power):
            return _BLACK
        inner = abs(rise) < 0.25 * d.tail_lamp_height and across < 0.3 * half
        return _PLATE if inner else _TAIL
    if nx > -0.3:
        return _PLASTIC if z < d.bumper_black else -1
    if d.light_bar > 0.0 and side < d.tail_lamp_y and abs(z - d.tail_lamp_z) < 0.028:
        return _TAIL if d.light_bar == 1.0 else _CHROME
    if side < 0.26 and abs(z - d.plate_z) < 0.056:
        return _PLATE
    if side < 0.045 and abs(z - d.tail_lamp_z + 0.02) < 0.04:
        return _CHROME
    low = z - d.clearance - 0.2
    if d.exhausts > 0.0 and abs(low) < 0.04:
        pipe = side - 0.3 * d.width
        if (d.exhausts == 2.0 or y > 0.0) and _inside(pipe, low, 0.075, 0.04, 4.0):
            return _DARK if _inside(pipe, low, 0.055, 0.026, 4.0) else _CHROME
    edge = 0.4 * d.width
    if d.bed > 0.0 or d.tail_s > 0.93 * d.length:  # tailgate
        if abs(side - edge) < 0.006 and z > d.clearance + 0.28:
            return _GAP
        if side < edge and abs(z - d.clearance - 0.28) < 0.006:
            return _GAP
        if d.rear_glass == 2.0 and side < 0.006:
            return _GAP
    elif side < edge and abs(z - d.plate_z + 0.09) < 0.006 and d.plate_z > d.clearance + 0.4:
        return _GAP
    return _PLASTIC if z < d.bumper_black else -1


@_kernel
def _body_material(
    d: Design, s: float, t: float, above: float, under: float, y: float, z: float, nx: float, ny: float, nz: float
) -> int:
    """What a point of the loft is made of."""
    if t < 1.4:
        return _BLACK
    if d.bed > 0.0 and s > d.tail_s + 0.045 and s < d.length - 0.05 and t > 6.98:
        return _PLASTIC if t < 7.2 else _BLACK
    cabin = above + under
    if (t > 10.35 and cabin > 0.0) or (t > 10.0 and d.length > 8.0):  # bonnet, windscreen, roof, back glass, deck
        side = abs(y)
        edge = 10.62
        if d.cowl_s + 0.02 < s < d.roof_start + 0.01 and t > edge:
            if d.length > 8.0 and z > d.height - 0.42:
                return _SIGN if z < d.height - 0.14 else _BLACK
            return _GLASS
        if abs(s - d.cowl_s + 0.02) < 0.035 and side < 0.42 * d.width and s > 0.15:
            return _BLACK
        if d.rear_glass > 0.0 and d.roof_end + 0.03 < s < d.tail_s - (0.03 if d.bed == 0.0 else 0.0):
            if d.tail_s > 0.93 * d.length and z < max(d.belt + d.belt_rise, d.deck_height) + 0.06:
                rear = _rear_material(d, s, y, z, nx)
                return rear if rear >= 0 else _PAINT
            if z > d.height - 0.13 and d.tail_s > 0.93 * d.length:
                return _PAINT
            if t > edge + 0.15 and not (d.rear_glass == 2.0 and side < 0.09):
                return _GLASS
            return _PAINT
        if s < d.roof_start and s < d.cowl_s:
            front = _front_material(d, s, y, z, nx) if s < 0.5 else -1
            return front if front >= 0 else _PAINT
        if s > d.length - 0.35 and (nx < -0.2 or s > d.length - 0.2):
            rear = _rear_material(d, s, y, z, nx)
            return rear if rear >= 0 else _PAINT
        if d.black_roof > 0.0 and d.roof_start - 0.1 < s < d.tail_s:
            return _BLACK
        return _PAINT
    if t >= 6.9 and cabin > 0.14 and not (d.bed > 0.0 and s > d.tail_s + 0.04):  # the cabin's side
        if _side_glass(d, s, y, above, under):
            return _GLASS
        if d.stripe > 0.0 and above < 0.03 and d.cowl_s + 0.3 < s < d.glass_end:
            return _CHROME
        if d.black_roof > 0.0 and under < 0.03 and s > d.roof_start:
            return _BLACK
        inner = d.cowl_s + 0.45 < s < d.glass_end - 0.02 and under > 0.03 and above > 0.03
        if d.black_pillars > 0.0 and inner:
            return _BLACK
        if abs(s - d.door_2) < 0.007 or (d.door_3 > 0.0 and abs(s - d.door_3) < 0.007):
            return _GAP
        return _PAINT
    # Below the shoulder. The ends first, then arches, sills, doors.
    if s < 0.75:
        found = _front_material(d, s, y, z, nx)
        if found >= 0:
            return found
    if s > d.length - 0.65:
        found = _rear_material(d, s, y, z, nx)
        if found >= 0:
            return found
    if abs(ny) < 0.25:
        return _PAINT
    up = z - d.wheel_radius
    for axle in (d.front_axle, d.rear_axle):
        away = math.sqrt((s - axle) ** 2 + up * up) / d.wheel_radius
        if away < 1.15:
            return _BLACK
        if d.cladding > 0.0 and away < 1.32:
            return _PLASTIC
    if d.cladding > 0.0 and z < d.clearance + 0.2:
        return _PLASTIC
    if z < d.clearance + 0.05:
        return _PLASTIC
    low = d.clearance + 0.13
    if z > low:
        if abs(s - d.door_1) < 0.007 or abs(s - d.door_2) < 0.007:
            return _GAP
        if d.door_3 > 0.0 and abs(s - d.door_3) < 0.007:
            return _GAP
        last = d.door_3 if d.door_3 > 0.0 else d.door_2
        handle = d.belt + d.belt_rise * 0.5 - 0.1
        on_handle = abs(s - d.door_2 + 0.16) < 0.09 or (d.door_3 > 0.0 and abs(s - d.door_3 + 0.16) < 0.09)
        if on_handle and abs(z - handle) < 0.016 and d.length < 8.0:
            if d.handle_style == 0.0:
                return _BLACK
            if d.handle_style == 1.0:
                return _CHROME
            return _GAP if abs(z - handle) > 0.011 else _PAINT
        if d.pitch > 0.0 and y < 0.0 and d.door_1 < s < d.door_2 and z > low + 0.15:
            return _GLASS if abs(s - 0.5 * (d.door_1 + d.door_2)) > 0.02 else _BLACK
        if d.door_1 < s < last and abs(z - low) < 0.007:
            return _GAP
    elif abs(z - low) < 0.007 and d.door_1 < s < d.door_2:
        return _GAP
    return _PAINT


@_kernel
def _wheel_material(d: Design, u: float, v: float) -> int:
    """Tyre, rim or the dark between its spokes, at (u, v) of the disc."""
    radius = math.sqrt(u * u + v * v)
    if radius > d.rim:
        return _TYRE
    if radius > d.rim - 0.05 or radius < 0.13:
        return _RIM
    if d.spokes == 0.0:  # steel wheel with holes
        turn = math.atan2(v, u) / (2.0 * math.pi) * 12.0
        hole = abs(turn - math.floor(turn) - 0.5)
        return _DARK if (hole < 0.22 and 0.72 * d.rim < radius < 0.86 * d.rim) else _RIM
    turn = math.atan2(v, u) / (2.0 * math.pi) * d.spokes + d.spoke_twist * radius * 2.0
    offset = abs(turn - math.floor(turn + 0.5))
    narrow = d.spoke_width * (0.62 + 0.3 / (radius + 0.45) * 0.6)
    return _RIM if offset < 0.5 * narrow else _DARK


@_kernel
def _paint_car(
    image_HW3: NDArray[np.float32],
    owner_HW: NDArray[np.int32],
    screen_V3: NDArray[np.float64],
    vertices_V10: NDArray[np.float32],
    triangles_T3: NDArray[np.int32],
    parts_T: NDArray[np.int32],
    turn: float,
    camera_15: NDArray[np.float64],
    d: Design,
    light: Light,
    ground: Ground,
    paint: Paint,
    noise_2NN: NDArray[np.float32],
) -> None:
    """Shades the car's samples and lays them over the surroundings."""
    height, width = image_HW3.shape[0], image_HW3.shape[1]
    soft = noise_2NN[0]
    cos, sin = math.cos(turn), math.sin(turn)
    place = np.empty(10, np.float64)
    lane = max(0.15, light.sun_z) * (1.0 if light.time != 3 else 0.7)
    sky_r = _mix(light.horizon_r, light.zenith_r, 0.5)
    sky_g = _mix(light.horizon_g, light.zenith_g, 0.5)
    sky_b = _mix(light.horizon_b, light.zenith_b, 0.5)
    floor_r = ground.r * (0.7 * sky_r + lane * light.sun_r)
    floor_g = ground.g * (0.7 * sky_g + lane * light.sun_g)
    floor_b = ground.b * (0.7 * sky_b + lane * light.sun_b)
    for py in range(height):
        for px in range(width):
            covered = 0
            first = True
            had_x = had_y = had_z = 0.0
            sum_r = sum_g = sum_b = 0.0
            lr = lg = lb = mr = mg = mb = fresnel = facing = glint = 0.0
            for sub in range(4):
                oy, ox = 2 * py + (sub >> 1), 2 * px + (sub & 1)
                k = owner_HW[oy, ox]
                if k < 0:
                    continue
                covered += 1
                i0, i1, i2 = triangles_T3[k, 0], triangles_T3[k, 1], triangles_T3[k, 2]
                qx, qy = 0.5 * ox + 0.25, 0.5 * oy + 0.25
                ax, ay = screen_V3[i0, 0], screen_V3[i0, 1]
                bx, by = screen_V3[i1, 0], screen_V3[i1, 1]
                cx, cy = screen_V3[i2, 0], screen_V3[i2, 1]
                area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
                wa = ((cx - bx) * (qy - by) - (cy - by) * (qx - bx)) / area * screen_V3[i0, 2]
                wb = ((ax - cx) * (qy - cy) - (ay - cy) * (qx - cx)) / area * screen_V3[i1, 2]
                wc = ((bx - ax) * (qy - ay) - (by - ay) * (qx - ax)) / area * screen_V3[i2, 2]
                total = wa + wb + wc
                wa, wb, wc = wa / total, wb / total, wc / total
                for n in range(10):
                    place[n] = wa * vertices_V10[i0, n] + wb * vertices_V10[i1, n] + wc * vertices_V10[i2, n]
                x, y, z = place[0], place[1], place[2]
                nx, ny, nz = place[3], place[4], place[5]
                part = parts_T[k]
                if part == 0:
                    material = _body_material(d, place[6], place[7], place[8], place[9], y, z, nx, ny, nz)
                    if material == _PAINT and 0.4 < d.length - place[6] < d.length - 0.5 and place[7] < 6.0:
                        # The character line bends the panel's light.
                        bend = (z - d.crease_height - 0.02 * (place[6] - d.front_axle)) / 0.05
                        if abs(bend) < 3.0:
                            nz += 0.55 * d.crease * bend * math.exp(-0.5 * bend * bend) * -1.0
                elif part == 1:
                    material = _wheel_material(d, place[6], place[7]) if place[8] < 0.06 else _TYRE
                elif part == 2:
                    material = _BLACK
                else:
                    material = _PAINT
                # The light at a pixel's samples differs only where the surface turns: work it out again only there.
                if first or (nx - had_x) ** 2 + (ny - had_y) ** 2 + (nz - had_z) ** 2 > 0.004:
                    first = False
                    had_x, had_y, had_z = nx, ny, nz
                    norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
                    nx, ny, nz = nx * norm, ny * norm, nz * norm
                    wx, wy = nx * cos - ny * sin, nx * sin + ny * cos
                    vx = x * cos - y * sin - camera_15[0]
                    vy = x * sin + y * cos - camera_15[1]
                    vz = z - camera_15[2]
                    norm = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
                    vx, vy, vz = vx * norm, vy * norm, vz * norm
                    facing = -(vx * wx + vy * wy + vz * nz)
                    if facing < 0.02:
                        facing = 0.02
                    rx, ry, rz = vx + 2.0 * facing * wx, vy + 2.0 * facing * wy, vz + 2.0 * facing * nz
                    # What the point mirrors: sky, a dark skyline, or the ground.
                    if rz > 0.0:
                        mr, mg, mb = _sky(light, rx, ry, min(1.0, rz))
                        line = 0.1 + 0.06 * _noise(soft, math.atan2(ry, rx) * 20.0 + light.cloud_shift, 3.0)
                        if rz < line + 0.05:
                            dim = _mix(0.3, 1.0, _step(line - 0.03, line + 0.05, rz))
                            mr, mg, mb = mr * dim, mg * dim, mb * dim
                        elif light.clouds > 0.2:
                            puff = (
                                light.clouds
                                * 0.5
                                * _step(
                                    -0.1,
                                    0.5,
                                    _noise(soft, rx / (rz + 0.15) * 14.0 + light.cloud_shift, ry / (rz + 0.15) * 14.0),
                                )
                            )
                            if light.time == 3:
                                puff *= 0.2
                            mr, mg, mb = (
                                _mix(mr, sky_r + 0.3 * light.sun_r, puff),
                                _mix(mg, sky_g + 0.3 * light.sun_g, puff),
                                _mix(mb, sky_b + 0.3 * light.sun_b, puff),
                            )
                    else:
                        near = _mix(0.3, 1.0, _step(0.0, 0.9, z + rz * 0.5))
                        mr, mg, mb = floor_r * near, floor_g * near, floor_b * near
                    one_less = 1.0 - facing
                    fresnel = 0.045 + 0.955 * one_less * one_less * one_less * one_less * one_less
                    towards = max(0.0, wx * light.sun_x + wy * light.sun_y + nz * light.sun_z)
                    glint = max(0.0, rx * light.sun_x + ry * light.sun_y + rz * light.sun_z)
                    open_sky = (0.35 + 0.65 * _step(0.0, 0.9, z)) * (0.5 + 0.5 * nz)
                    below = (0.5 - 0.5 * nz) * 0.8
                    lr = open_sky * sky_r * 1.25 + below * floor_r + towards * light.sun_r
                    lg = open_sky * sky_g * 1.25 + below * floor_g + towards * light.sun_g
                    lb = open_sky * sky_b * 1.25 + below * floor_b + towards * light.sun_b
                r = g = b = 0.0
                mirror = 0.0
                if material == _PAINT:
                    cr, cg, cb = paint.r, paint.g, paint.b
                    if paint.dirt > 0.0 and part == 0:
                        grime = (
                            paint.dirt * _step(0.75, 0.2, z) * (0.7 + 0.5 * _noise(soft, x * 20.0, z * 30.0 + y * 9.0))
                        )
                        cr, cg, cb = (
                            _mix(cr, 0.2, _clamp(grime)),
                            _mix(cg, 0.17, _clamp(grime)),
                            _mix(cb, 0.13, _clamp(grime)),
                        )
                    flake = 1.0 + 0.5 * paint.metallic * (facing - 0.5)
                    r, g, b = cr * flake * lr, cg * flake * lg, cb * flake * lb
                    mirror = fresnel + 0.05 * paint.metallic
                    shine = glint**24 * 0.16 * paint.metallic + 2.2 * glint**300
                    r, g, b = r + shine * light.sun_r, g + shine * light.sun_g, b + shine * light.sun_b
                elif material == _GLASS:
                    r, g, b = 0.022 * lr, 0.025 * lg, 0.028 * lb
                    mirror = 0.035 + 1.1 * fresnel
                    shine = 1.5 * glint**500
                    r, g, b = r + shine * light.sun_r, g + shine * light.sun_g, b + shine * light.sun_b
                    if z < d.belt + 0.3 and d.length < 8.0:  # seats behind it
                        seat = _noise(soft, x * 26.0, 9.0)
                        if seat > 0.1:
                            r, g, b = r * 0.5, g * 0.5, b * 0.5
                elif material == _BLACK:
                    r, g, b = 0.012 * lr, 0.012 * lg, 0.013 * lb
                    mirror = 0.35 * fresnel
                elif material == _PLASTIC:
                    r, g, b = 0.045 * lr, 0.046 * lg, 0.048 * lb
                    mirror = 0.3 * fresnel
                elif material == _CHROME:
                    r, g, b = 0.12 * lr, 0.12 * lg, 0.125 * lb
                    mirror = 0.7
                elif material == _LAMP:
                    r, g, b = 0.5 * lr + 7.0 * light.lamps, 0.52 * lg + 6.8 * light.lamps, 0.56 * lb + 6.2 * light.lamps
                    mirror = 0.3
                elif material == _TAIL:
                    r, g, b = (
                        0.22 * lr + 2.6 * light.lamps,
                        0.008 * lg + 0.10 * light.lamps,
                        0.012 * lb + 0.06 * light.lamps,
                    )
                    mirror = fresnel + 0.04
                elif material == _AMBER:
                    r, g, b = 0.6 * lr + 1.2 * light.lamps, 0.25 * lg + 0.5 * light.lamps, 0.03 * lb
                    mirror = 0.08
                elif material == _PLATE:
                    letter = y / 0.055
                    inked = abs(y) < 0.22 and _hash(math.floor(letter * 2.0), math.floor(z * 30.0)) < 0.35
                    tone = 0.08 if inked else 0.75
                    r, g, b = (
                        tone * lr + 0.1 * light.lamps,
                        tone * lg + 0.1 * light.lamps,
                        tone * lb + 0.09 * light.lamps,
                    )
                elif material == _GAP:
                    r, g, b = 0.15 * paint.r * lr, 0.15 * paint.g * lg, 0.15 * paint.b * lb
                elif material == _DARK:
                    r, g, b = 0.015 * lr, 0.015 * lg, 0.016 * lb
                elif material == _TYRE:
                    r, g, b = 0.028 * lr, 0.028 * lg, 0.029 * lb
                elif material == _RIM:
                    tone = 0.07 if d.rim_dark > 0.0 else 0.42
                    r, g, b = tone * lr, tone * lg, 1.03 * tone * lb
                    mirror = 0.25
                else:  # destination sign of a bus
                    dots = _hash(math.floor(y * 22.0), math.floor(z * 22.0)) < 0.4 and abs(y) < 0.3 * d.width
                    bright = 1.1 if dots else 0.015
                    r, g, b = bright, 0.55 * bright, 0.05 * bright
                sum_r += r + mirror * mr
                sum_g += g + mirror * mg
                sum_b += b + mirror * mb
            if covered > 0:
                rest = (4 - covered) * 0.25
                # Very bright samples are capped, or one of them would eat its pixel's smooth edge.
                image_HW3[py, px, 0] = 0.25 * min(sum_r, 24.0) + rest * image_HW3[py, px, 0]
                image_HW3[py, px, 1] = 0.25 * min(sum_g, 24.0) + rest * image_HW3[py, px, 1]
                image_HW3[py, px, 2] = 0.25 * min(sum_b, 24.0) + rest * image_HW3[py, px, 2]


@_kernel
def _add_glow(image_HW3: NDArray[np.float32], x: float, y: float, radius: float, r: float, g: float, b: float) -> None:
    """Adds the halo of a lamp seen at (x, y)."""
    height, width = image_HW3.shape[0], image_HW3.shape[1]
    reach = 3.0 * radius
    for py in range(max(0, int(y - reach)), min(height, int(y + reach) + 1)):
        for px in range(max(0, int(x - reach)), min(width, int(x + reach) + 1)):
            away = ((px + 0.5 - x) ** 2 + (py + 0.5 - y) ** 2) / (radius * radius)
            if away < 9.0:
                halo = math.exp(-2.2 * math.sqrt(away)) * (1.0 - away / 9.0)
                image_HW3[py, px, 0] += r * halo
                image_HW3[py, px, 1] += g * halo
                image_HW3[py, px, 2] += b * halo


@_kernel
def _develop(
    image_HW3: NDArray[np.float32], light: Light, seed: int, grain: NDArray[np.float32], out_HW3: NDArray[np.uint8]
) -> None:
    """Fills out_HW3 with sRGB: exposure, white balance, film curve, contrast, vignette and grain."""
    height, width = image_HW3.shape[0], image_HW3.shape[1]
    gains = (
        1.25 * light.exposure * (1.0 + light.warmth),
        1.25 * light.exposure,
        1.25 * light.exposure * (1.0 - light.warmth),
    )
    # The curve is tabled over sqrt(e / (1 + e)), which is as fine in the dark as the result is.
    curve = np.empty(4097, np.float32)
    for i in range(4096):
        part = (i / 4096.0) ** 2
        value = (1.0 - math.exp(-part / (1.0 - part))) ** (1.0 / 2.2)
        curve[i] = 255.0 * (0.5 + (value - 0.5) * light.contrast) + 0.5
    curve[4096] = 255.0 * (0.5 + 0.5 * light.contrast) + 0.5
    shift_x, shift_y = seed & 255, (seed >> 8) & 255
    for py in range(height):
        v = 2.0 * py / height - 1.0
        for px in range(width):
            u = 2.0 * px / width - 1.0
            corner = 1.0 - 0.11 * (u * u + v * v)
            spot = grain[(py + shift_y) & 255, (px + shift_x) & 255] * light.noise * 255.0
            for n in range(3):
                exposed = gains[n] * corner * max(np.float32(0.0), image_HW3[py, px, n])
                value = curve[int(math.sqrt(exposed / (1.0 + exposed)) * 4096.0)] + spot
                out_HW3[py, px, n] = np.uint8(min(255.0, max(0.0, value)))


@lru_cache(maxsize=8)
def _record_type(kind: Hashable) -> np.dtype[Any]:
    return np.dtype([(name, np.float64) for name in kind._fields])  # type: ignore[attr-defined]


def _record(values: Any) -> Any:
    """The named tuple as a numpy record. Kernels take it by pointer; a tuple of 80 numbers would be copied at each call."""
    return np.array([tuple(values)], dtype=_record_type(values.__class__))[0]


@lru_cache(maxsize=1)
def _textures() -> NDArray[np.float32]:
    return noise_texture()


def _camera(mesh: Mesh, design: Design, scene: Scene, turn: float, width: int, height: int) -> NDArray[np.float64]:
    """The camera as 15 numbers: place, forward, right, up, focal length and centre in pixels, framed on the car."""
    distance = scene.camera_distance * max(design.length, 3.9)
    eye = np.array([-distance, scene.camera_side, scene.camera_height * (design.height / 1.5) ** 0.6])
    aim = np.array([0.0, 0.0, 0.45 * design.height])
    forward = (aim - eye) / np.linalg.norm(aim - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    cos, sin = np.cos(scene.roll), np.sin(scene.roll)
    right, up = cos * right + sin * up, cos * up - sin * right
    camera: NDArray[np.float64] = np.concatenate([eye, forward, right, up, [1.0, 0.0, 0.0]])
    seen = np.empty((len(mesh.vertices_V10), 3))
    _project(mesh.vertices_V10, turn, camera, seen)
    low, high = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
    frame = np.array([width, height], dtype=float)
    focal = float(scene.fill * (frame / (high - low)).min())
    free = frame - focal * (high - low)
    offset = np.array([scene.offset_x, scene.offset_y]) * np.maximum(free - 0.04 * frame, 0.0)
    centre = frame / 2 + offset - focal * (low + high) / 2
    camera[12:] = focal, centre[0], centre[1]
    return camera


def _lamp_glows(
    image_HW3: NDArray[np.float32], design: Design, light: Light, turn: float, camera: NDArray[np.float64]
) -> None:
    cos, sin = np.cos(turn), np.sin(turn)
    heads = light.lamps * (1.0 if light.time == 3 else 0.5)
    for end, lamp_y, lamp_z, colour in (
        (1.0, design.lamp_y, design.lamp_z, (1.1, 1.04, 0.92)),
        (-1.0, design.tail_lamp_y, design.tail_lamp_z, (0.6, 0.03, 0.02)),
    ):
        to_eye = np.array([camera[0] - end * cos * design.length / 2, camera[1] - end * sin * design.length / 2])
        facing = float(end * (to_eye[0] * cos + to_eye[1] * sin) / np.linalg.norm(to_eye))
        if facing <= 0.05:
            continue
        for side in (1.0, -1.0):
            x, y = end * (design.length / 2 - 0.12), side * lamp_y
            point = np.array([[x, y, lamp_z]], dtype=np.float32)
            seen = np.empty((1, 3))
            _project(np.concatenate([point, np.zeros((1, 7), np.float32)], axis=1), turn, camera, seen)
            radius = float(camera[12] * seen[0, 2]) * (0.26 if end > 0 else 0.2)
            strength = heads * min(1.0, 1.6 * facing)
            _add_glow(image_HW3, float(seen[0, 0]), float(seen[0, 1]), radius, *(strength * c for c in colour))


def render(mesh: Mesh, design: Design, scene: Scene, view: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture as uint8 (height, width, 3) sRGB of the car turned by `view` degrees (0: nose towards the camera).

    size is (width, height). Same arguments, same pixels. Any number of threads may call it.
    """
    width, height = size
    light, noise = scene.light, _textures()
    # The camera looks along +x, so a car turned by 180 degrees shows its nose.
    turn = float(np.radians(180.0 + view + scene.turn_jitter))
    camera = _camera(mesh, design, scene, turn, width, height)
    screen = np.empty((len(mesh.vertices_V10), 3))
    _project(mesh.vertices_V10, turn, camera, screen)
    owner = np.empty((2 * height, 2 * width), np.int32)
    nearness = np.empty((2 * height, 2 * width), np.float32)
    _rasterise(screen, mesh.triangles_T3, nearness, owner)
    half = 1.15 * design.length + (1.4 * design.height / max(light.sun_z, 0.2)) * 0.6
    shadow, other = np.empty((2, SHADOW_CELLS, SHADOW_CELLS), np.float32)
    blur_cells = max(0, round(light.shadow_blur * SHADOW_CELLS / (2 * half)))
    _cast_shadow(
        mesh.vertices_V10,
        mesh.triangles_T3,
        turn,
        light.sun_x,
        light.sun_y,
        light.sun_z,
        half,
        blur_cells,
        shadow,
        other,
    )
    car = np.array([np.cos(turn), np.sin(turn), design.length, design.width])
    # Backdrops are cylinders round the camera, as far behind the car as the scene says.
    layers = scene.layers_L10.copy()
    layers[:, 1] = 0.7 * layers[:, 1] + scene.camera_distance * max(design.length, 3.9) + 0.55 * design.length
    # Zeros: pixels that the car covers are not painted before it is laid over them, and 0 times what lies there must be 0.
    image = np.zeros((height, width, 3), np.float32)
    light_record, ground_record = _record(light), _record(scene.ground)
    _paint_surroundings(image, camera, light_record, ground_record, layers, car, shadow, half, owner, noise)
    _paint_car(
        image, owner, screen, mesh.vertices_V10, mesh.triangles_T3, mesh.parts_T, turn, camera, _record(design),
        light_record, ground_record, _record(scene.paint), noise,
    )  # fmt: skip
    if light.lamps > 0:
        _lamp_glows(image, design, light, turn, camera)
    out = np.empty((height, width, 3), np.uint8)
    _develop(image, light_record, scene.noise_seed, noise[1], out)
    return out


def warm_up() -> Any:
    """Compiles (or loads from the cache) every kernel, so that threads do not compile at the same time."""
    from hashret.data.turntable.bodies import build_mesh, draw_design
    from hashret.data.turntable.scene import draw_scene

    rng = np.random.default_rng(0)
    design = draw_design("hatchback", rng)
    return render(build_mesh(design), design, draw_scene("red", "night", rng), 0.0, (32, 24))
