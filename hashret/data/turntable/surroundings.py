"""What lies round the car: the ground's pattern, the backdrop's layers, the clouded sky, one sample a pixel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.kernels import clamp, kernel, mix, smoothstep
from hashret.data.turntable.light import ground_light, sky_radiance
from hashret.data.turntable.noise import cell_hash, noise, speck
from hashret.data.turntable.scene import Ground, Light


@kernel
def _ground_colour(
    x: float, y: float, distance: float, ground: Ground, soft: NDArray[np.float32], grain: NDArray[np.float32]
) -> float:
    """The brightness of the ground's pattern at (x, y), about 1; paint lines are above 2."""
    fine = 1.0 / (1.0 + 0.12 * distance)
    tone = 1.0 + 0.22 * noise(soft, x * 5.0 + ground.shift_x, y * 5.0 + ground.shift_y)
    tone += 0.3 * fine * speck(grain, x * 60.0, y * 60.0)
    if ground.kind == 1 or ground.kind == 2:
        u, v = (
            (x * ground.turn_cos + y * ground.turn_sin) / ground.scale,
            (y * ground.turn_cos - x * ground.turn_sin) / ground.scale,
        )
        row = math.floor(v)
        if ground.kind == 2:
            u += 0.5 * (row % 2.0)
        cell = cell_hash(math.floor(u), int(row))
        tone *= 0.86 + 0.28 * cell
        edge = min(min(u - math.floor(u), math.floor(u) + 1.0 - u), min(v - row, row + 1.0 - v)) * ground.scale
        gap = 0.012 if ground.kind == 1 else 0.014
        if edge < gap + 0.002 * distance:
            tone *= 1.0 - 0.5 * fine * (1.0 if edge < gap else 0.4)
    elif ground.kind == 3:
        tone += 0.5 * fine * speck(grain, x * 23.0, y * 23.0)
    elif ground.kind == 4:
        tone += 0.4 * fine * speck(grain, x * 90.0 + y * 30.0, y * 25.0) + 0.15 * noise(soft, x * 20.0, y * 20.0)
    if ground.line_at < 50.0:
        across = x - ground.line_at + y * ground.line_turn
        if abs(across) < 0.07 or (abs(across - 5.2) < 0.07 and (y * 0.25 - math.floor(y * 0.25)) < 0.5):
            tone = 3.0 + 0.4 * noise(grain, x * 30.0, y * 30.0)
    return max(0.15, tone)


@kernel
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
        top = height * (0.45 + 0.4 * variation * noise(soft, along / cell * 5.0, layers_L10[n, 4]))
        if z > top:
            return False, 0.0, 0.0, 0.0, 0.0
        tone = 0.8 + 0.3 * noise(soft, along * 0.2, z * 0.5 + layers_L10[n, 4])
        return True, r * tone, g * tone, b * tone, 0.0
    if kind == 1:
        crown = (
            0.62
            + 0.3 * variation * noise(soft, along / cell * 4.0, layers_L10[n, 4])
            + 0.1 * noise(grain, along * 2.2, layers_L10[n, 4])
        )
        top = height * crown
        if z > top + 0.25 * height * 0.3 * noise(grain, along * 3.0, z * 3.0):
            return False, 0.0, 0.0, 0.0, 0.0
        if z < 0.22 * height and layers_L10[n, 9] > 0.35:  # trunks under the crowns
            stem = along / (0.2 * cell)
            number = math.floor(stem)
            middle = 0.3 + 0.4 * cell_hash(int(number), 5)
            if abs(stem - number - middle) < 0.11:
                return True, 0.05, 0.04, 0.03, 0.0
            deep = 0.22 + 0.1 * speck(grain, along * 4.0, z * 4.0)
            return True, deep * r, deep * g, deep * b, 0.0
        scale = 220.0 / (distance + 10.0)
        leaf = 0.7 * speck(grain, along * scale, z * scale) + 0.8 * noise(grain, along * 0.22 * scale, z * 0.22 * scale)
        tone = (0.75 + 0.5 * leaf + 0.4 * noise(soft, along * 5.0, z * 5.0 + layers_L10[n, 4])) * (
            0.35 + 0.85 * clamp(z / top)
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
        top = height * (1.0 - 0.6 * variation * cell_hash(number, 7))
        if z > top:
            return False, 0.0, 0.0, 0.0, 0.0
        tone = 0.7 + 0.6 * cell_hash(number, 3)
        r, g, b = (
            r * tone * (0.85 + 0.3 * cell_hash(number, 11)),
            g * tone,
            b * tone * (0.85 + 0.3 * cell_hash(number, 13)),
        )
        wide, tall = 2.0 + 1.6 * cell_hash(number, 17), 2.9
        u, v = (along - number * cell) / wide, z / tall
        i, j = math.floor(u), math.floor(v)
        u, v = u - i, v - j
        if 0.22 < u < 0.78 and 0.3 < v < 0.82 and z < top - 0.6:
            draw = cell_hash(int(i) + number * 31, int(j))
            if light.time == 3 and draw < layers_L10[n, 9]:
                warm = 0.4 + 0.6 * cell_hash(int(i) + 5, int(j) + number)
                return True, 0.0, 0.0, 0.0, 0.55 * warm
            return True, 0.05 + 0.1 * draw, 0.06 + 0.1 * draw, 0.08 + 0.12 * draw, 0.0
        tone = 1.0 + 0.12 * speck(grain, along * 8.0, z * 4.0)
        return True, r * tone, g * tone, b * tone, 0.0
    if z > height:
        return False, 0.0, 0.0, 0.0, 0.0
    tone = 1.0 + 0.25 * variation * noise(soft, along * 8.0, z * 8.0) + 0.15 * speck(grain, along * 25.0, z * 25.0)
    u, v = along / (cell * 1.2), z / (cell * 0.5)
    row_number = math.floor(v)
    u += 0.5 * (row_number % 2.0)
    if min(u - math.floor(u), v - row_number) < 0.06:
        tone *= 0.75
    if z > height - 0.12:
        tone *= 1.25
    return True, r * tone, g * tone, b * tone, 0.0


@kernel
def paint_surroundings(
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
    sky_r = mix(light.horizon_r, light.zenith_r, 0.5)
    sky_g = mix(light.horizon_g, light.zenith_g, 0.5)
    sky_b = mix(light.horizon_b, light.zenith_b, 0.5)
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
                lr, lg, lb = ground_light(x, y, light, ground, car_4, shadow_GG, half, soft)
                if tone > 2.0:
                    r, g, b = 0.17 * tone, 0.17 * tone, 0.17 * tone * (1.0 - 0.75 * ground.line_yellow)
                else:
                    r, g, b = ground.r * tone, ground.g * tone, ground.b * tone
                r, g, b = r * lr, g * lg, b * lb
                if ground.wet > 0.0:
                    glance = ground.wet * (1.0 + rise / math.sqrt(1.0 + rise * rise)) ** 4
                    r, g, b = (
                        mix(r, light.horizon_r, glance),
                        mix(g, light.horizon_g, glance),
                        mix(b, light.horizon_b, glance),
                    )
            else:
                long = math.sqrt(flat * flat + dz * dz)
                dx, dy, dz = dx / long, dy / long, max(0.0, dz / long)
                r, g, b = sky_radiance(light, dx, dy, dz)
                over = 1.0 / (dz + 0.12)
                cloud = noise(soft, dx * over * 14.0 + light.cloud_shift, dy * over * 14.0)
                part = light.clouds * smoothstep(
                    0.5 - light.clouds,
                    1.1 - light.clouds,
                    cloud + 0.3 * noise(soft, dx * over * 40.0, dy * over * 40.0),
                )
                if light.time == 3:
                    part *= 0.3
                    star = cell_hash(math.floor(dx * over * 420.0), math.floor(dy * over * 420.0))
                    if star > 0.9985:
                        r, g, b = r + 0.25, g + 0.25, b + 0.27
                white = 0.5 * light.sun_r + sky_r, 0.5 * light.sun_g + sky_g, 0.5 * light.sun_b + sky_b
                r = mix(r, 0.75 * white[0], 0.75 * part)
                g = mix(g, 0.75 * white[1], 0.75 * part)
                b = mix(b, 0.75 * white[2], 0.75 * part)
                distance = 0.0
            if distance > 8.0:
                veil = light.haze * (1.0 - math.exp(-(distance - 8.0) / 110.0))
                r, g, b = mix(r, light.horizon_r, veil), mix(g, light.horizon_g, veil), mix(b, light.horizon_b, veil)
            image_HW3[py, px, 0], image_HW3[py, px, 1], image_HW3[py, px, 2] = r, g, b
