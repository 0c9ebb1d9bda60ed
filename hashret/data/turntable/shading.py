"""How the car looks: each material under the scene's light, with what it mirrors, 2x2 samples a pixel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.bodies import Design
from hashret.data.turntable.kernels import clamp, kernel, mix, smoothstep
from hashret.data.turntable.light import sky_radiance
from hashret.data.turntable.materials import (
    AMBER,
    BLACK,
    CHROME,
    DARK,
    GAP,
    GLASS,
    LAMP,
    PAINT,
    PLASTIC,
    PLATE,
    RIM,
    TAIL,
    TYRE,
    body_material,
    wheel_material,
)
from hashret.data.turntable.noise import cell_hash, noise
from hashret.data.turntable.scene import Ground, Light, Paint


@kernel
def paint_car(
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
    sky_r = mix(light.horizon_r, light.zenith_r, 0.5)
    sky_g = mix(light.horizon_g, light.zenith_g, 0.5)
    sky_b = mix(light.horizon_b, light.zenith_b, 0.5)
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
                    material = body_material(d, place[6], place[7], place[8], place[9], y, z, nx, ny)
                    if material == PAINT and 0.4 < d.length - place[6] < d.length - 0.5 and place[7] < 6.0:
                        # The character line bends the panel's light.
                        bend = (z - d.crease_height - 0.02 * (place[6] - d.front_axle)) / 0.05
                        if abs(bend) < 3.0:
                            nz += 0.55 * d.crease * bend * math.exp(-0.5 * bend * bend) * -1.0
                elif part == 1:
                    material = wheel_material(d, place[6], place[7]) if place[8] < 0.06 else TYRE
                elif part == 2:
                    material = BLACK
                else:
                    material = PAINT
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
                        mr, mg, mb = sky_radiance(light, rx, ry, min(1.0, rz))
                        line = 0.1 + 0.06 * noise(soft, math.atan2(ry, rx) * 20.0 + light.cloud_shift, 3.0)
                        if rz < line + 0.05:
                            dim = mix(0.3, 1.0, smoothstep(line - 0.03, line + 0.05, rz))
                            mr, mg, mb = mr * dim, mg * dim, mb * dim
                        elif light.clouds > 0.2:
                            puff = (
                                light.clouds
                                * 0.5
                                * smoothstep(
                                    -0.1,
                                    0.5,
                                    noise(soft, rx / (rz + 0.15) * 14.0 + light.cloud_shift, ry / (rz + 0.15) * 14.0),
                                )
                            )
                            if light.time == 3:
                                puff *= 0.2
                            mr, mg, mb = (
                                mix(mr, sky_r + 0.3 * light.sun_r, puff),
                                mix(mg, sky_g + 0.3 * light.sun_g, puff),
                                mix(mb, sky_b + 0.3 * light.sun_b, puff),
                            )
                    else:
                        near = mix(0.3, 1.0, smoothstep(0.0, 0.9, z + rz * 0.5))
                        mr, mg, mb = floor_r * near, floor_g * near, floor_b * near
                    one_less = 1.0 - facing
                    fresnel = 0.045 + 0.955 * one_less * one_less * one_less * one_less * one_less
                    towards = max(0.0, wx * light.sun_x + wy * light.sun_y + nz * light.sun_z)
                    glint = max(0.0, rx * light.sun_x + ry * light.sun_y + rz * light.sun_z)
                    open_sky = (0.35 + 0.65 * smoothstep(0.0, 0.9, z)) * (0.5 + 0.5 * nz)
                    below = (0.5 - 0.5 * nz) * 0.8
                    lr = open_sky * sky_r * 1.25 + below * floor_r + towards * light.sun_r
                    lg = open_sky * sky_g * 1.25 + below * floor_g + towards * light.sun_g
                    lb = open_sky * sky_b * 1.25 + below * floor_b + towards * light.sun_b
                r = g = b = 0.0
                mirror = 0.0
                if material == PAINT:
                    cr, cg, cb = paint.r, paint.g, paint.b
                    if paint.dirt > 0.0 and part == 0:
                        grime = (
                            paint.dirt
                            * smoothstep(0.75, 0.2, z)
                            * (0.7 + 0.5 * noise(soft, x * 20.0, z * 30.0 + y * 9.0))
                        )
                        cr, cg, cb = (
                            mix(cr, 0.2, clamp(grime)),
                            mix(cg, 0.17, clamp(grime)),
                            mix(cb, 0.13, clamp(grime)),
                        )
                    flake = 1.0 + 0.5 * paint.metallic * (facing - 0.5)
                    r, g, b = cr * flake * lr, cg * flake * lg, cb * flake * lb
                    mirror = fresnel + 0.05 * paint.metallic
                    shine = glint**24 * 0.16 * paint.metallic + 2.2 * glint**300
                    r, g, b = r + shine * light.sun_r, g + shine * light.sun_g, b + shine * light.sun_b
                elif material == GLASS:
                    r, g, b = 0.022 * lr, 0.025 * lg, 0.028 * lb
                    mirror = 0.035 + 1.1 * fresnel
                    shine = 1.5 * glint**500
                    r, g, b = r + shine * light.sun_r, g + shine * light.sun_g, b + shine * light.sun_b
                    if z < d.belt + 0.3 and d.length < 8.0:  # seats behind it
                        seat = noise(soft, x * 26.0, 9.0)
                        if seat > 0.1:
                            r, g, b = r * 0.5, g * 0.5, b * 0.5
                elif material == BLACK:
                    r, g, b = 0.012 * lr, 0.012 * lg, 0.013 * lb
                    mirror = 0.35 * fresnel
                elif material == PLASTIC:
                    r, g, b = 0.045 * lr, 0.046 * lg, 0.048 * lb
                    mirror = 0.3 * fresnel
                elif material == CHROME:
                    r, g, b = 0.12 * lr, 0.12 * lg, 0.125 * lb
                    mirror = 0.7
                elif material == LAMP:
                    r, g, b = 0.5 * lr + 7.0 * light.lamps, 0.52 * lg + 6.8 * light.lamps, 0.56 * lb + 6.2 * light.lamps
                    mirror = 0.3
                elif material == TAIL:
                    r, g, b = (
                        0.22 * lr + 2.6 * light.lamps,
                        0.008 * lg + 0.10 * light.lamps,
                        0.012 * lb + 0.06 * light.lamps,
                    )
                    mirror = fresnel + 0.04
                elif material == AMBER:
                    r, g, b = 0.6 * lr + 1.2 * light.lamps, 0.25 * lg + 0.5 * light.lamps, 0.03 * lb
                    mirror = 0.08
                elif material == PLATE:
                    letter = y / 0.055
                    inked = abs(y) < 0.22 and cell_hash(math.floor(letter * 2.0), math.floor(z * 30.0)) < 0.35
                    tone = 0.08 if inked else 0.75
                    r, g, b = (
                        tone * lr + 0.1 * light.lamps,
                        tone * lg + 0.1 * light.lamps,
                        tone * lb + 0.09 * light.lamps,
                    )
                elif material == GAP:
                    r, g, b = 0.15 * paint.r * lr, 0.15 * paint.g * lg, 0.15 * paint.b * lb
                elif material == DARK:
                    r, g, b = 0.015 * lr, 0.015 * lg, 0.016 * lb
                elif material == TYRE:
                    r, g, b = 0.028 * lr, 0.028 * lg, 0.029 * lb
                elif material == RIM:
                    tone = 0.07 if d.rim_dark > 0.0 else 0.42
                    r, g, b = tone * lr, tone * lg, 1.03 * tone * lb
                    mirror = 0.25
                else:  # destination sign of a bus
                    dots = cell_hash(math.floor(y * 22.0), math.floor(z * 22.0)) < 0.4 and abs(y) < 0.3 * d.width
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
