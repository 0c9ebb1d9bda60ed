"""What one picture looks like apart from the car's shape: light, place, camera and paint, drawn from its own generator.

World frame: the car stands on the origin, z is up, the camera looks roughly along +x from negative x; metres.
Colours are linear RGB.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TIMES = ("morning", "noon", "afternoon", "night")

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (236, 236, 232), "silver": (176, 180, 184), "grey": (96, 100, 104), "black": (24, 25, 28),
    "red": (190, 18, 26), "maroon": (98, 14, 28), "orange": (226, 98, 18), "yellow": (238, 190, 30),
    "green": (30, 102, 58), "mint": (140, 200, 178), "blue": (28, 82, 188), "navy": (18, 32, 82),
    "brown": (96, 64, 42), "sand": (206, 186, 148),
}  # fmt: skip
"""Paints as sRGB; every class takes some of them, so a colour says nothing about the class."""

PLACES = ("street", "suburb", "field", "forest", "yard", "car park")

HILLS, TREES, BUILDINGS, WALL, POLES = 0, 1, 2, 3, 4
ASPHALT, SLABS, COBBLES, GRAVEL, GRASS = 0, 1, 2, 3, 4


class Light(NamedTuple):
    """One light: towards the sun (or the street lamp at night), its colour, the sky's colours, and how it is exposed."""

    time: int
    sun_x: float
    sun_y: float
    sun_z: float
    sun_r: float
    sun_g: float
    sun_b: float
    zenith_r: float
    zenith_g: float
    zenith_b: float
    horizon_r: float
    horizon_g: float
    horizon_b: float
    clouds: float  # cover, 0..1
    cloud_shift: float
    haze: float  # how much of the distance is veiled
    shadow_blur: float  # metres
    lamps: float  # 1: the car's lamps are on
    exposure: float
    warmth: float  # white balance: red up, blue down
    contrast: float
    noise: float


class Ground(NamedTuple):
    """The ground's surface."""

    kind: int
    r: float
    g: float
    b: float
    scale: float
    shift_x: float
    shift_y: float
    turn_cos: float
    turn_sin: float
    line_at: float  # a painted line parallel to y at this x; 99 for none
    line_yellow: float
    line_turn: float
    wet: float
    dapple: float  # shade of leaves
    pool_x: float  # street lamp's pool of light at night
    pool_y: float
    pool: float


class Paint(NamedTuple):
    """The coat of one picture's car, linear."""

    r: float
    g: float
    b: float
    metallic: float
    dirt: float


class Scene(NamedTuple):
    """All of it.

    layers_L10 float32, far ones first: kind, metres behind the car, height, cell, shift, r g b, variation, lit windows.
    """

    light: Light
    camera_height: float
    camera_distance: float  # in car lengths
    camera_side: float
    fill: float  # part of the frame that the car takes
    offset_x: float  # of the car from the middle of the frame, in frame sizes
    offset_y: float
    roll: float
    turn_jitter: float  # degrees added to the view
    ground: Ground
    layers_L10: NDArray[np.float32]
    paint: Paint
    noise_seed: int
    place: str


def linear(srgb: tuple[float, float, float]) -> tuple[float, float, float]:
    """Linear RGB, 0..1, of sRGB numbers 0..255."""
    values = (np.asarray(srgb, dtype=float) / 255.0).clip(0.0, 1.0)
    out = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(out[0]), float(out[1]), float(out[2])


def _light(time: str, rng: np.random.Generator) -> Light:
    def u(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    overcast = rng.random() < 0.22
    # Mornings are lit from the left, afternoons from the right: shadows fall across the picture, where they are seen.
    azimuth = np.radians(
        {"morning": u(35, 130), "noon": u(0, 360), "afternoon": u(230, 325), "night": u(100, 260)}[time]
    )
    height = np.radians({"morning": u(12, 24), "noon": u(55, 72), "afternoon": u(18, 34), "night": u(35, 60)}[time])
    if time == "morning":  # pale, rosy, misty
        sun, zenith, horizon = (2.1, 1.35, 0.9), (0.20, 0.28, 0.46), (0.72, 0.50, 0.46)
        haze, blur, clouds, exposure = u(0.35, 0.85), u(0.06, 0.14), u(0.1, 0.6), u(0.85, 1.3)
    elif time == "noon":  # white sun, blue sky, short hard shadows
        sun, zenith, horizon = (2.3, 2.2, 2.0), (0.09, 0.22, 0.56), (0.38, 0.54, 0.72)
        haze, blur, clouds, exposure = u(0.05, 0.25), u(0.03, 0.08), u(0.0, 0.65), u(0.85, 1.3)
    elif time == "afternoon":  # deep gold, warm sky, long clear shadows
        sun, zenith, horizon = (3.4, 1.9, 0.75), (0.17, 0.20, 0.30), (0.85, 0.52, 0.22)
        haze, blur, clouds, exposure = u(0.12, 0.4), u(0.05, 0.11), u(0.15, 0.7), u(0.85, 1.25)
    else:  # a street lamp, a dark sky
        sun, zenith, horizon = (0.30, 0.235, 0.15), (0.006, 0.009, 0.022), (0.028, 0.03, 0.05)
        haze, blur, clouds, exposure = u(0.0, 0.2), u(0.15, 0.35), u(0.0, 0.4), u(1.0, 1.8)
        if rng.random() < 0.4:  # bluish lamp, or moon
            sun = (0.17, 0.2, 0.27)
        overcast = False
    strength = u(0.8, 1.2)
    if overcast:
        strength *= 0.45
        blur, clouds = blur * 3, 0.95
        horizon = (0.55 * horizon[0] + 0.3, 0.55 * horizon[1] + 0.3, 0.55 * horizon[2] + 0.3)
        zenith = (0.6 * zenith[0] + 0.22, 0.6 * zenith[1] + 0.22, 0.6 * zenith[2] + 0.22)
    tint = rng.uniform(0.93, 1.07, 3)
    upper, lower = np.asarray(zenith) * tint, np.asarray(horizon) * tint
    lamps = {"night": 1.0, "morning": 0.5 * float(rng.random() < 0.5)}.get(time, 0.0)
    return Light(
        time=TIMES.index(time),
        sun_x=float(np.cos(azimuth) * np.cos(height)), sun_y=float(np.sin(azimuth) * np.cos(height)),
        sun_z=float(np.sin(height)),
        sun_r=strength * sun[0], sun_g=strength * sun[1], sun_b=strength * sun[2],
        zenith_r=float(upper[0]), zenith_g=float(upper[1]), zenith_b=float(upper[2]),
        horizon_r=float(lower[0]), horizon_g=float(lower[1]), horizon_b=float(lower[2]),
        clouds=clouds, cloud_shift=u(0, 256), haze=haze, shadow_blur=blur, lamps=lamps,
        exposure=exposure, warmth=u(-0.08, 0.08), contrast=u(0.85, 1.15), noise=u(0.004, 0.02),
    )  # fmt: skip


_TREE_GREENS = ((52, 84, 38), (70, 98, 44), (38, 66, 40), (96, 104, 50), (84, 92, 58), (134, 96, 52))
_FACADES = ((168, 150, 132), (140, 78, 62), (196, 188, 176), (112, 118, 124), (206, 184, 140), (158, 112, 92),
            (184, 198, 206), (90, 98, 110))  # fmt: skip


def _layers(place: str, rng: np.random.Generator) -> NDArray[np.float32]:
    rows: list[list[float]] = []

    def add(
        kind: int, distance: float, height: float, cell: float, colour: tuple[int, int, int], variation: float
    ) -> None:
        tone = rng.uniform(0.75, 1.25) * rng.uniform(0.92, 1.08, 3)
        r, g, b = (float(c) for c in np.asarray(linear(colour)) * tone)
        rows.append([kind, distance, height, cell, rng.uniform(0, 200), r, g, b, variation, rng.uniform(0.15, 0.6)])

    def green() -> tuple[int, int, int]:
        return _TREE_GREENS[int(rng.integers(len(_TREE_GREENS)))]

    def facade() -> tuple[int, int, int]:
        return _FACADES[int(rng.integers(len(_FACADES)))]

    u = rng.uniform
    if place in ("suburb", "field", "forest") or rng.random() < 0.4:
        add(HILLS, u(300, 900), u(20, 110), u(120, 400), (88, 108, 92), u(0.4, 1.0))
    if place == "street":
        add(BUILDINGS, u(60, 140), u(22, 60), u(14, 26), facade(), u(0.5, 0.9))
        add(BUILDINGS, u(22, 36), u(9, 20), u(9, 18), facade(), u(0.2, 0.5))
        if rng.random() < 0.5:
            add(TREES, u(15, 20), u(4, 7), u(5, 9), green(), u(0.6, 1.0))
        if rng.random() < 0.6:
            add(POLES, u(12, 18), u(6, 9), u(9, 16), (60, 62, 66), 0.0)
    elif place == "suburb":
        add(TREES, u(50, 80), u(8, 14), u(8, 16), green(), u(0.4, 0.8))
        add(BUILDINGS, u(24, 40), u(5, 8), u(14, 22), facade(), u(0.25, 0.6))
        add(TREES, u(16, 22), u(2, 5), u(4, 10), green(), u(0.7, 1.0))
    elif place == "field":
        add(TREES, u(90, 220), u(9, 16), u(10, 30), green(), u(0.5, 1.0))
        if rng.random() < 0.5:
            add(POLES, u(25, 50), u(6, 9), u(14, 30), (92, 78, 62), 0.0)
        if rng.random() < 0.4:
            add(WALL, u(18, 30), u(0.8, 1.2), u(0.3, 0.8), (120, 96, 70), 0.3)
    elif place == "forest":
        add(TREES, u(45, 70), u(18, 30), u(6, 12), green(), u(0.3, 0.6))
        add(TREES, u(17, 30), u(10, 18), u(4, 8), green(), u(0.5, 0.9))
    elif place == "yard":
        add(BUILDINGS, u(40, 70), u(12, 24), u(14, 26), facade(), u(0.3, 0.8))
        add(WALL, u(10, 16), u(2.2, 5.5), u(0.3, 1.0), facade(), u(0.2, 0.6))
    else:
        add(BUILDINGS, u(70, 160), u(10, 40), u(16, 40), facade(), u(0.4, 0.9))
        add(TREES, u(30, 50), u(5, 9), u(6, 12), green(), u(0.6, 1.0))
        add(POLES, u(16, 28), u(7, 11), u(10, 18), (80, 82, 86), 0.0)
    rows.sort(key=lambda row: -row[1])
    return np.array(rows, dtype=np.float32)


def _direction(angle: float) -> tuple[float, float]:
    return float(np.cos(angle)), float(np.sin(angle))


def _ground(place: str, rng: np.random.Generator) -> Ground:
    kinds = {"street": (ASPHALT, ASPHALT, SLABS, COBBLES), "suburb": (ASPHALT, SLABS, COBBLES, GRASS),
             "field": (GRAVEL, GRASS, ASPHALT), "forest": (GRAVEL, ASPHALT, GRASS), "yard": (SLABS, ASPHALT, COBBLES),
             "car park": (ASPHALT, ASPHALT, SLABS)}[place]  # fmt: skip
    kind = int(kinds[int(rng.integers(len(kinds)))])
    base = ((92, 93, 96), (160, 156, 148), (126, 116, 108), (168, 150, 122), (92, 118, 58))[kind]
    tone = rng.uniform(0.55, 1.3)
    r, g, b = (float(c * tone * t) for c, t in zip(linear(base), rng.uniform(0.93, 1.07, 3), strict=True))
    lined = kind == ASPHALT and rng.random() < 0.75
    u = rng.uniform
    return Ground(
        kind, r, g, b, float(u(0.8, 2.2) if kind == SLABS else u(0.16, 0.3)), float(u(0, 50)), float(u(0, 50)),
        *_direction(float(u(0, np.pi))), float(u(-3.4, 5)) if lined else 99.0, float(rng.random() < 0.25), float(u(-0.6, 0.6)),
        float(u(0.2, 0.7)) if kind == ASPHALT and rng.random() < 0.25 else 0.0,
        float(u(0.3, 0.8)) if place in ("forest", "suburb") and rng.random() < 0.5 else 0.0,
        float(u(-3, 4)), float(u(-5, 5)), float(u(0.5, 1.5)),
    )  # fmt: skip


def draw_scene(colour: str, time: str, rng: np.random.Generator) -> Scene:
    """One picture's scene; `colour` and `time` are given, everything else comes from `rng`."""
    u = rng.uniform
    place = PLACES[int(rng.integers(len(PLACES)))]
    light = _light(time, rng)
    base = np.asarray(linear(COLOURS[colour]))
    # The same paint differs from car to car and from film to film.
    shade = base * u(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)
    r, g, b = (float(c) for c in shade.clip(0.004, 0.92))
    paint = Paint(r, g, b, metallic=float(u(0.0, 1.0)), dirt=float(max(0.0, u(-0.6, 0.6))))
    return Scene(
        light=light, camera_height=float(np.exp(u(np.log(1.1), np.log(2.3)))), camera_distance=float(u(1.5, 2.6)),
        camera_side=float(u(-0.4, 0.4)), fill=float(u(0.78, 0.96)), offset_x=float(u(-0.25, 0.25)),
        offset_y=float(u(-0.25, 0.25)),
        roll=float(u(-0.035, 0.035)), turn_jitter=float(u(-5, 5)), ground=_ground(place, rng),
        layers_L10=_layers(place, rng), paint=paint, noise_seed=int(rng.integers(2**31)), place=place,
    )  # fmt: skip
