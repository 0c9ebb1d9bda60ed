"""What lens and film make of the linear light: halos of lamps, tone mapping, vignette and grain."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.bodies import Design
from hashret.data.turntable.kernels import kernel
from hashret.data.turntable.projection import project
from hashret.data.turntable.scene import Light


def add_lamp_glows(
    image_HW3: NDArray[np.float32], design: Design, light: Light, turn: float, camera: NDArray[np.float64]
) -> None:
    """Adds the halos of the lamps that face the camera."""
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
            project(np.concatenate([point, np.zeros((1, 7), np.float32)], axis=1), turn, camera, seen)
            radius = float(camera[12] * seen[0, 2]) * (0.26 if end > 0 else 0.2)
            strength = heads * min(1.0, 1.6 * facing)
            _add_glow(image_HW3, float(seen[0, 0]), float(seen[0, 1]), radius, *(strength * c for c in colour))


@kernel
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


@kernel
def develop(
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
