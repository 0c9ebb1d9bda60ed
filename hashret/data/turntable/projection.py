"""From the turntable to the frame: the camera, where vertices fall, and which triangle is in front (z-buffer)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.bodies import Design, Mesh
from hashret.data.turntable.kernels import kernel
from hashret.data.turntable.scene import Scene


@kernel
def project(
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


def frame_camera(mesh: Mesh, design: Design, scene: Scene, turn: float, width: int, height: int) -> NDArray[np.float64]:
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
    project(mesh.vertices_V10, turn, camera, seen)
    low, high = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
    frame = np.array([width, height], dtype=float)
    focal = float(scene.fill * (frame / (high - low)).min())
    free = frame - focal * (high - low)
    offset = np.array([scene.offset_x, scene.offset_y]) * np.maximum(free - 0.04 * frame, 0.0)
    centre = frame / 2 + offset - focal * (low + high) / 2
    camera[12:] = focal, centre[0], centre[1]
    return camera


@kernel
def rasterise(
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
