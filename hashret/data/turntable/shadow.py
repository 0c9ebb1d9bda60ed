"""The shadow that the car casts on the ground."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.bodies import Design, Mesh
from hashret.data.turntable.kernels import kernel
from hashret.data.turntable.scene import Light

SHADOW_CELLS = 160


def ground_shadow(mesh: Mesh, design: Design, light: Light, turn: float) -> tuple[NDArray[np.float32], float]:
    """How much of the sun the turned car takes away, 0..1, on a square grid of the ground, and half the grid's side (m)."""
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
    return shadow, half


@kernel
def _cast_shadow(
    vertices_V10: NDArray[np.float32],
    triangles_T3: NDArray[np.int32],
    turn: float,
    sun_x: float,
    sun_y: float,
    sun_z: float,
    half: float,
    reach: int,
    grid_GG: NDArray[np.float32],
    other_GG: NDArray[np.float32],
) -> None:
    """Fills grid_GG, which spans -half..half metres both ways, with how much of the sun the car takes away, 0..1.

    other_GG is room for the blur, which reaches `reach` cells.
    """
    size = grid_GG.shape[0]
    grid_GG[:] = 0.0
    cos, sin = math.cos(turn), math.sin(turn)
    scale = size / (2.0 * half)
    slide_x, slide_y = sun_x / sun_z, sun_y / sun_z
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
        # The triangles that face the sun cover the whole shadow of a closed body.
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
