"""One picture from mesh and scene: the passes in their order, one thread a picture, without the GIL.

The car's shadow is laid on a grid of the ground; sky, backdrop and ground are painted wherever the car does not hide them;
the car's samples are shaded and laid over. Everything is linear light until `develop` turns it into sRGB.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret.data.turntable.bodies import Design, Mesh, build_mesh, draw_design
from hashret.data.turntable.noise import noise_texture
from hashret.data.turntable.postprocessing import add_lamp_glows, develop
from hashret.data.turntable.projection import frame_camera, project, rasterise
from hashret.data.turntable.scene import Scene, draw_scene
from hashret.data.turntable.shading import paint_car
from hashret.data.turntable.shadow import ground_shadow
from hashret.data.turntable.surroundings import paint_surroundings


@lru_cache(maxsize=8)
def _record_type(kind: Hashable) -> np.dtype[Any]:
    return np.dtype([(name, np.float64) for name in kind._fields])  # type: ignore[attr-defined]


def _record(values: Any) -> Any:
    """The named tuple as a numpy record. Kernels take it by pointer; a tuple of 80 numbers would be copied at each call."""
    return np.array([tuple(values)], dtype=_record_type(values.__class__))[0]


def render(mesh: Mesh, design: Design, scene: Scene, view: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture as uint8 (height, width, 3) sRGB of the car turned by `view` degrees (0: nose towards the camera).

    size is (width, height). Same arguments, same pixels. Any number of threads may call it.
    """
    width, height = size
    light, noise = scene.light, noise_texture()
    # The camera looks along +x, so a car turned by 180 degrees shows its nose.
    turn = float(np.radians(180.0 + view + scene.turn_jitter))
    camera = frame_camera(mesh, design, scene, turn, width, height)
    screen = np.empty((len(mesh.vertices_V10), 3))
    project(mesh.vertices_V10, turn, camera, screen)
    owner = np.empty((2 * height, 2 * width), np.int32)
    nearness = np.empty((2 * height, 2 * width), np.float32)
    rasterise(screen, mesh.triangles_T3, nearness, owner)
    shadow, half = ground_shadow(mesh, design, light, turn)
    car = np.array([np.cos(turn), np.sin(turn), design.length, design.width])
    # Backdrops are cylinders round the camera, as far behind the car as the scene says.
    layers = scene.layers_L10.copy()
    layers[:, 1] = 0.7 * layers[:, 1] + scene.camera_distance * max(design.length, 3.9) + 0.55 * design.length
    # Zeros: pixels that the car covers are not painted before it is laid over them, and 0 times what lies there must be 0.
    image = np.zeros((height, width, 3), np.float32)
    light_record, ground_record = _record(light), _record(scene.ground)
    paint_surroundings(image, camera, light_record, ground_record, layers, car, shadow, half, owner, noise)
    paint_car(
        image, owner, screen, mesh.vertices_V10, mesh.triangles_T3, mesh.parts_T, turn, camera, _record(design),
        light_record, ground_record, _record(scene.paint), noise,
    )  # fmt: skip
    if light.lamps > 0:
        add_lamp_glows(image, design, light, turn, camera)
    out = np.empty((height, width, 3), np.uint8)
    develop(image, light_record, scene.noise_seed, noise[1], out)
    return out


def warm_up() -> Any:
    """Compiles (or loads from the cache) every kernel, so that threads do not compile at the same time."""
    rng = np.random.default_rng(0)
    design = draw_design("hatchback", rng)
    return render(build_mesh(design), design, draw_scene("red", "night", rng), 0.0, (32, 24))
