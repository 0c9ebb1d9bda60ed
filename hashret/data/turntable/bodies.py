"""Parametric car bodies: a design (one class) drawn from the ranges of its body kind, and its triangle mesh.

A body is one loft. Its side view is a profile (nose, bonnet, windscreen, roof, back glass, deck); at each station along
the length a cross section runs from the underside over the sill and the shoulder to the roof. Windows, lamps, seams and
wheel arches are no geometry: each vertex carries where it lies on the car, and `materials` decides the material there.

Frame of a car: x forward, y to its left, z up, origin on the ground under the middle; metres. `s` runs from the front
bumper (0) to the rear (length).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BODY, WHEEL, PLASTIC, PAINTED = 0, 1, 2, 3
"""What a triangle belongs to: the loft, a wheel, black trim, painted extra parts."""

SECTION_POINTS = 14
SHOULDER, GLASS_FOOT, ROOF_EDGE = 6, 7, 10
"""Places on the half cross section, as numbers of its points (`t` of a vertex)."""


class Design(NamedTuple):
    """Everything that tells one car model from another; metres, or a plain number where the comment says so."""

    length: float
    width: float
    height: float
    clearance: float
    wheel_radius: float
    front_axle: float  # s of the front wheels
    rear_axle: float
    nose_height: float  # bonnet's leading edge
    nose_drop: float  # how far the front rounds down
    nose_round: float  # over which length it does
    cowl_s: float  # foot of the windscreen
    cowl_height: float
    roof_start: float  # top of the windscreen
    roof_end: float
    tail_s: float  # foot of the back glass
    deck_height: float
    tail_height: float  # top of the rear face
    belt: float  # height of the window line at the windscreen
    belt_rise: float  # and how much higher it is at the rear
    roof_arc: float
    softness: float  # radius of the profile's bends
    tumblehome: float  # inward lean of the side glass, metres per metre
    nose_taper: float  # part of the width lost at the front
    tail_taper: float
    nose_bow: float  # how far the corners lie behind the middle of the face
    tail_bow: float
    bed: float  # 1: open load bed behind the cab
    # side
    glass_end: float
    glass_end_lean: float  # metres of s per metre of height
    kick_s: float  # the window line turns up here
    kick: float
    pillar_1: float  # s of the pillars; -1 for none
    pillar_2: float
    pillar_3: float
    pillar_width: float
    pitch: float  # > 0: windows repeat at this distance (bus)
    door_1: float  # s of the door gaps; -1 for none
    door_2: float
    door_3: float
    crease_height: float
    crease: float  # strength of the character line, 0..1
    cladding: float  # 1: unpainted arches and sills
    black_roof: float
    black_pillars: float
    handle_style: float  # 0 black, 1 chrome, 2 body colour
    stripe: float  # chrome strip under the windows
    # front
    lamp_y: float
    lamp_z: float
    lamp_width: float
    lamp_height: float
    lamp_slant: float
    lamp_power: float  # 2 = ellipse, 8 = nearly a rectangle
    lamp_wrap: float  # how far round the corner
    lamp_ring: float  # style of the light signature: 0 ring, 1 lower strip, 2 twin
    grille_z: float
    grille_width: float
    grille_height: float
    grille_taper: float
    grille_power: float
    grille_style: float  # 0 closed, 1 bars, 2 uprights, 3 mesh, 4 twin, 5 one thick bar
    grille_frame: float  # chrome frame
    intake_height: float
    intake_width: float
    fog_lamps: float
    bumper_black: float  # unpainted up to this height
    # rear
    tail_lamp_y: float
    tail_lamp_z: float
    tail_lamp_width: float
    tail_lamp_height: float
    tail_lamp_slant: float
    tail_lamp_power: float
    tail_lamp_wrap: float
    light_bar: float  # 1: red bar across, 2: chrome bar
    plate_z: float
    rear_glass: float  # 0 none, 1 one pane, 2 two panes
    exhausts: float
    # wheels and extras
    spokes: float
    spoke_width: float
    spoke_twist: float
    rim: float  # part of the wheel's radius
    rim_dark: float
    rails: float
    spoiler: float
    spare_wheel: float
    mirror_black: float
    mirror_size: float


class Kind(NamedTuple):
    """The ranges from which the designs of one body kind are drawn (low, high); parts of the length where marked *."""

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    clearance: tuple[float, float]
    wheel: tuple[float, float]
    axle: tuple[float, float]  # * front axle
    wheelbase: tuple[float, float]  # *
    nose: tuple[float, float]
    cowl: tuple[float, float]  # *
    cowl_height: tuple[float, float]
    roof_start: tuple[float, float]  # *
    roof_end: tuple[float, float]  # *
    tail: tuple[float, float]  # *
    deck: tuple[float, float]
    tumblehome: tuple[float, float]


KINDS: dict[str, Kind] = {
    "hatchback": Kind((3.95, 4.4), (1.74, 1.84), (1.41, 1.53), (0.16, 0.2), (0.30, 0.34), (0.19, 0.21), (0.6, 0.635),
                      (0.74, 0.86), (0.235, 0.28), (0.96, 1.03), (0.41, 0.46), (0.78, 0.87), (0.945, 0.97),
                      (0.92, 1.03), (0.28, 0.42)),
    "sedan": Kind((4.5, 5.1), (1.8, 1.92), (1.4, 1.5), (0.15, 0.19), (0.32, 0.36), (0.18, 0.2), (0.575, 0.61),
                  (0.7, 0.82), (0.26, 0.3), (0.95, 1.02), (0.4, 0.44), (0.64, 0.7), (0.81, 0.87),
                  (0.99, 1.08), (0.3, 0.45)),
    "suv": Kind((4.4, 4.95), (1.85, 2.0), (1.64, 1.86), (0.22, 0.3), (0.36, 0.41), (0.18, 0.2), (0.58, 0.61),
                (0.94, 1.1), (0.25, 0.29), (1.12, 1.24), (0.36, 0.42), (0.85, 0.93), (0.955, 0.98),
                (1.05, 1.2), (0.18, 0.32)),
    "van": Kind((4.9, 6.0), (1.94, 2.06), (1.95, 2.55), (0.2, 0.26), (0.33, 0.37), (0.165, 0.185), (0.57, 0.62),
                (0.94, 1.1), (0.1, 0.15), (1.2, 1.32), (0.21, 0.27), (0.965, 0.98), (0.985, 0.99),
                (1.1, 1.3), (0.06, 0.14)),
    "estate": Kind((4.5, 4.98), (1.8, 1.9), (1.43, 1.54), (0.15, 0.2), (0.32, 0.36), (0.18, 0.2), (0.575, 0.605),
                   (0.7, 0.84), (0.26, 0.29), (0.95, 1.02), (0.4, 0.43), (0.87, 0.93), (0.96, 0.98),
                   (0.92, 1.02), (0.28, 0.42)),
    "pick-up": Kind((5.1, 5.6), (1.85, 2.02), (1.74, 1.92), (0.28, 0.34), (0.38, 0.43), (0.165, 0.18), (0.59, 0.62),
                    (0.98, 1.14), (0.235, 0.27), (1.14, 1.24), (0.325, 0.37), (0.47, 0.62), (0.0, 0.0),
                    (1.0, 1.12), (0.16, 0.28)),
    "coupé": Kind((4.15, 4.75), (1.82, 1.95), (1.22, 1.35), (0.12, 0.15), (0.33, 0.36), (0.185, 0.21), (0.57, 0.6),
                  (0.6, 0.7), (0.31, 0.37), (0.84, 0.92), (0.48, 0.52), (0.59, 0.67), (0.84, 0.94),
                  (0.86, 0.95), (0.42, 0.58)),
    "bus": Kind((8.2, 12.0), (2.4, 2.55), (2.85, 3.3), (0.28, 0.34), (0.46, 0.5), (0.2, 0.24), (0.46, 0.54),
                (0.9, 1.1), (0.008, 0.012), (1.1, 1.4), (0.03, 0.055), (0.972, 0.982), (0.988, 0.992),
                (1.5, 1.9), (0.02, 0.06)),
    "minivan": Kind((4.55, 5.15), (1.84, 1.96), (1.62, 1.8), (0.16, 0.2), (0.32, 0.36), (0.175, 0.195), (0.6, 0.63),
                    (0.8, 0.95), (0.165, 0.21), (1.05, 1.14), (0.32, 0.38), (0.87, 0.93), (0.96, 0.98),
                    (1.0, 1.12), (0.2, 0.3)),
    "city car": Kind((3.3, 3.75), (1.6, 1.72), (1.46, 1.6), (0.15, 0.19), (0.27, 0.31), (0.17, 0.19), (0.64, 0.68),
                     (0.8, 0.95), (0.18, 0.235), (1.0, 1.08), (0.36, 0.42), (0.82, 0.92), (0.955, 0.975),
                     (0.88, 1.02), (0.24, 0.36)),
}  # fmt: skip
"""The body kinds; class number i of a set is of kind number i modulo their count."""


def draw_design(kind: str, rng: np.random.Generator) -> Design:
    """A new design of the body kind; every number comes from `rng` in a fixed order."""
    ranges = KINDS[kind]

    def pick(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def choice(*values: float) -> float:
        return float(values[int(rng.integers(len(values)))])

    def chance(probability: float) -> float:
        return float(rng.random() < probability)

    length, width, height = pick(*ranges.length), pick(*ranges.width), pick(*ranges.height)
    clearance, wheel = pick(*ranges.clearance), pick(*ranges.wheel)
    front_axle = pick(*ranges.axle) * length
    rear_axle = front_axle + pick(*ranges.wheelbase) * length
    nose, cowl, cowl_height = pick(*ranges.nose), pick(*ranges.cowl) * length, pick(*ranges.cowl_height)
    roof_start, roof_end = pick(*ranges.roof_start) * length, pick(*ranges.roof_end) * length
    tail, deck = pick(*ranges.tail) * length, pick(*ranges.deck)
    bus, van, pickup, tall = kind == "bus", kind == "van", kind == "pick-up", kind in ("van", "bus")
    if pickup:
        roof_end = choice(pick(0.465, 0.5), pick(0.575, 0.62), pick(0.575, 0.62)) * length
        tail = roof_end + pick(0.02, 0.14)
    tail_height = deck - pick(-0.02, 0.05) if kind in ("sedan", "coupé") else deck - pick(0.02, 0.08)
    belt = cowl_height - pick(-0.005, 0.05) + (pick(0.0, 0.25) if bus else 0.0)
    belt_rise = 0.0 if tall else pick(-0.01, 0.13)
    belt_rise = min(belt_rise, height - belt - 0.36)

    # Doors: the first gap lies behind the front wheel, the others divide what is left up to the rear wheel.
    door_1 = max(front_axle + wheel * 1.22, cowl + 0.02) if not bus else pick(0.35, 0.6)
    two_doors = kind == "coupé" or (pickup and roof_end < 0.52 * length) or (kind == "city car" and chance(0.5) > 0)
    if bus:
        door_2, door_3 = door_1 + pick(1.0, 1.3), -1.0
    elif van:
        door_2 = door_1 + pick(0.9, 1.05)
        door_3 = door_2 + pick(1.1, 1.3)
    elif pickup:
        door_2 = (door_1 + roof_end - 0.05) / 2 if not two_doors else roof_end - 0.08
        door_3 = roof_end - 0.08 if not two_doors else -1.0
    else:
        door_2 = door_1 + pick(1.12, 1.3) if two_doors else door_1 + pick(0.98, 1.08)
        door_3 = -1.0 if two_doors else min(door_2 + pick(0.8, 0.95), rear_axle + 0.15)
    glass_end = {"sedan": tail - pick(0.3, 0.55), "coupé": tail - pick(0.3, 0.7), "pick-up": roof_end - pick(0.06, 0.12),
                 "bus": length - pick(0.25, 0.7)}.get(kind, min(roof_end + 0.1, length - 0.15) - pick(0.0, 0.4))  # fmt: skip
    if van:
        glass_end = choice(door_2 - 0.03, door_2 - 0.03, door_3 - 0.05, length - 0.3)
    pillar_1 = door_2 - pick(0.0, 0.06)
    pillar_2 = door_3 - pick(0.0, 0.06) if door_3 > 0 else -1.0
    pillar_3 = -1.0
    if kind in ("minivan", "van") and glass_end > length - 0.8:
        pillar_3 = pillar_2 + (glass_end - pillar_2) * pick(0.45, 0.55)
    if bus:
        pillar_1 = pillar_2 = -1.0

    lamp_height = pick(0.05, 0.12) if not tall else pick(0.08, 0.15)
    lamp_power = choice(2.0, 2.5, 4.0, 8.0)
    round_lamp = chance(0.18)
    lamp_width = lamp_height * pick(1.0, 1.15) if round_lamp else pick(0.14, 0.28)
    if round_lamp:
        lamp_power = 2.0
    grille_height = pick(0.05, 0.17) * (1.25 if nose > 0.9 else 1.0)
    style = choice(0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    high_lamps = kind in ("estate", "suv", "van", "minivan", "city car") and chance(0.55) > 0
    if bus or van:
        lamp_up = pick(0.95, 1.35) if not high_lamps else pick(1.2, 1.5)
        tail_w, tail_h = pick(0.06, 0.1), pick(0.16, 0.3)
    elif high_lamps:
        lamp_up = tail_height + pick(-0.05, 0.12)
        tail_w, tail_h = pick(0.07, 0.12), pick(0.17, 0.3)
    else:
        lamp_up = tail_height - pick(0.1, 0.2)
        tail_w, tail_h = pick(0.12, 0.28), pick(0.05, 0.11)
    lamp_low = pick(0.16, 0.2) if not tall else pick(0.2, 0.32)
    return Design(
        length=length, width=width, height=height, clearance=clearance, wheel_radius=wheel,
        front_axle=front_axle, rear_axle=rear_axle,
        nose_height=nose, nose_drop=pick(0.05, 0.17) if not bus else 0.02,
        nose_round=pick(0.08, 0.3) if not bus else 0.03,
        cowl_s=cowl, cowl_height=cowl_height, roof_start=roof_start, roof_end=roof_end, tail_s=tail,
        deck_height=deck, tail_height=tail_height, belt=belt, belt_rise=belt_rise,
        roof_arc=pick(0.015, 0.07) if not tall else pick(0.005, 0.03),
        softness=pick(0.02, 0.11) if not tall else pick(0.02, 0.06),
        tumblehome=pick(*ranges.tumblehome),
        nose_taper=pick(0.06, 0.16) if not tall else pick(0.02, 0.06),
        tail_taper=pick(0.05, 0.13) if not tall else pick(0.01, 0.03),
        nose_bow=pick(0.1, 0.28) if not bus else pick(0.04, 0.12),
        tail_bow=pick(0.05, 0.18) if not tall else pick(0.01, 0.05),
        bed=float(pickup),
        glass_end=glass_end, glass_end_lean=pick(-0.75, 0.2) if not (tall or pickup) else 0.0,
        kick_s=glass_end - pick(0.25, 0.7), kick=choice(0.0, 0.0, pick(0.1, 0.45)) if not (tall or pickup) else 0.0,
        pillar_1=pillar_1, pillar_2=pillar_2, pillar_3=pillar_3, pillar_width=pick(0.03, 0.055),
        pitch=pick(1.05, 1.7) if bus else 0.0,
        door_1=door_1, door_2=door_2, door_3=door_3,
        crease_height=belt - pick(0.1, 0.45), crease=pick(0.1, 0.6),
        cladding=chance({"suv": 0.6, "pick-up": 0.4, "van": 0.4, "city car": 0.25}.get(kind, 0.06)),
        black_roof=chance(0.16) if not (tall or pickup) else 0.0, black_pillars=chance(0.55),
        handle_style=choice(0.0, 1.0, 2.0), stripe=chance(0.3),
        lamp_y=width / 2 * pick(0.68, 0.78), lamp_z=nose - lamp_low, lamp_width=lamp_width, lamp_height=lamp_height,
        lamp_slant=0.0 if round_lamp else pick(-0.1, 0.45), lamp_power=lamp_power,
        lamp_wrap=0.0 if round_lamp else pick(0.25, 0.55), lamp_ring=choice(0.0, 1.0, 2.0),
        grille_z=nose - lamp_low - pick(-0.02, 0.12), grille_width=pick(0.25, 0.62),
        grille_height=grille_height, grille_taper=pick(-0.5, 0.6), grille_power=choice(2.0, 4.0, 8.0),
        grille_style=style, grille_frame=chance(0.45),
        intake_height=pick(0.03, 0.09), intake_width=pick(0.3, 0.7), fog_lamps=chance(0.5),
        bumper_black=clearance + choice(0.0, 0.1, 0.3 if not bus else 0.1) * chance(0.6),
        tail_lamp_y=width / 2 * pick(0.78, 0.88), tail_lamp_z=lamp_up, tail_lamp_width=tail_w,
        tail_lamp_height=tail_h, tail_lamp_slant=pick(-0.4, 0.4), tail_lamp_power=choice(2.0, 4.0, 8.0),
        tail_lamp_wrap=pick(0.12, 0.4) if not tall else 0.06,
        light_bar=choice(0.0, 0.0, 0.0, 1.0, 2.0) if not tall else 0.0,
        plate_z=choice(clearance + 0.3, tail_height - pick(0.28, 0.36)),
        rear_glass=1.0 if not van else choice(0.0, 2.0, 2.0, 1.0), exhausts=choice(0.0, 1.0, 2.0) if not tall else 0.0,
        spokes=choice(5, 5, 6, 7, 8, 10, 12, 0), spoke_width=pick(0.22, 0.5), spoke_twist=choice(0.0, 0.0, pick(-1, 1)),
        rim=pick(0.62, 0.74) if not tall else pick(0.54, 0.62), rim_dark=chance(0.3),
        rails=chance({"estate": 0.7, "suv": 0.6, "minivan": 0.4}.get(kind, 0.0)),
        spoiler=chance({"hatchback": 0.6, "coupé": 0.5, "suv": 0.4, "sedan": 0.2, "city car": 0.3}.get(kind, 0.0)),
        spare_wheel=chance(0.3) if kind == "suv" else 0.0,
        mirror_black=chance(0.4), mirror_size=pick(0.85, 1.2) * (1.5 if tall else 1.0),
    )  # fmt: skip


def facelift(design: Design, rng: np.random.Generator) -> Design:
    """The second generation of a class: same body and window line, slightly other lamps, grille, rims and proportions."""
    scale = {
        "length": 0.015, "height": 0.012, "nose_height": 0.025, "nose_drop": 0.2, "lamp_width": 0.15,
        "lamp_height": 0.18, "grille_height": 0.25, "grille_width": 0.15, "intake_height": 0.3, "intake_width": 0.15,
        "tail_lamp_width": 0.12, "tail_lamp_height": 0.12, "crease": 0.3,
    }  # fmt: skip
    changed = {name: getattr(design, name) * (1 + float(rng.uniform(-part, part))) for name, part in scale.items()}
    grown = changed["length"] - design.length
    for name in ("roof_end", "tail_s", "glass_end", "kick_s", "rear_axle"):
        changed[name] = getattr(design, name) + grown
    changed["lamp_slant"] = design.lamp_slant + float(rng.uniform(-0.08, 0.08)) * (design.lamp_wrap > 0)
    changed["lamp_ring"] = float(rng.integers(3))
    changed["fog_lamps"] = float(rng.random() < 0.5)
    changed["spokes"] = float((5, 6, 7, 8, 10)[int(rng.integers(5))])
    changed["spoke_twist"] = float(rng.uniform(-0.5, 0.5))
    changed["lamp_z"] = design.lamp_z + changed["nose_height"] - design.nose_height
    changed["grille_z"] = design.grille_z + changed["nose_height"] - design.nose_height
    return design._replace(**changed)


@dataclass(frozen=True)
class Mesh:
    """A car as triangles.

    vertices_V10 float32: x y z, normal x y z, then where the vertex lies on the car: s, t (point of the cross section),
    height above the shoulder, depth under the roof edge. On a wheel: the place on its disc (forward, up; radius 1),
    depth behind its face, 0. triangles_T3 int32, anticlockwise from outside; parts_T int32.
    """

    vertices_V10: NDArray[np.float32]
    triangles_T3: NDArray[np.int32]
    parts_T: NDArray[np.int32]


class _Collector:
    """Gathers the grids of vertices a car is made of."""

    def __init__(self) -> None:
        self.vertices: list[NDArray[np.float64]] = []
        self.triangles: list[NDArray[np.int64]] = []
        self.parts: list[NDArray[np.int64]] = []
        self.count = 0

    def add_grid(
        self,
        points_RC3: NDArray[np.float64],
        place_RC4: NDArray[np.float64],
        part: int,
        *,
        flip: bool = False,
        normals_RC3: NDArray[np.float64] | None = None,
    ) -> None:
        """Takes a grid of points; its normal is (direction of rows) x (direction of columns), turned round by `flip`."""
        rows, columns = points_RC3.shape[:2]
        if normals_RC3 is None:
            normals_RC3 = np.cross(np.gradient(points_RC3, axis=0), np.gradient(points_RC3, axis=1))
            if flip:
                normals_RC3 = -normals_RC3
        normals_RC3 = normals_RC3 / np.maximum(np.linalg.norm(normals_RC3, axis=-1, keepdims=True), 1e-9)
        corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None]).reshape(-1) + self.count
        right, below, across = corner + 1, corner + columns, corner + columns + 1
        order = [(corner, below, right), (right, below, across)]
        if flip:
            order = [(a, c, b) for a, b, c in order]
        triangles = np.concatenate([np.stack(corners, axis=-1) for corners in order])
        self.vertices.append(np.concatenate([points_RC3, normals_RC3, place_RC4], axis=-1).reshape(-1, 10))
        self.triangles.append(triangles)
        self.parts.append(np.full(len(triangles), part))
        self.count += rows * columns

    def mesh(self) -> Mesh:
        return Mesh(
            np.ascontiguousarray(np.concatenate(self.vertices), dtype=np.float32),
            np.ascontiguousarray(np.concatenate(self.triangles), dtype=np.int32),
            np.ascontiguousarray(np.concatenate(self.parts), dtype=np.int32),
        )


def _smooth(values: NDArray[np.float64], sigma_cells: float) -> NDArray[np.float64]:
    """The curve with its corners rounded by a Gaussian; the ends keep their heights."""
    reach = max(1, int(3 * sigma_cells))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma_cells, 1e-6)) ** 2)
    padded = np.concatenate([np.full(reach, values[0]), values, np.full(reach, values[-1])])
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


@dataclass(frozen=True)
class _Curves:
    """The loft's curves at the stations: top line, shoulder, underside, half width, all metres."""

    s: NDArray[np.float64]
    top: NDArray[np.float64]
    shoulder: NDArray[np.float64]
    bottom: NDArray[np.float64]
    half_width: NDArray[np.float64]
    bow: NDArray[np.float64]
    in_bed: NDArray[np.bool_]


def _curves(d: Design) -> _Curves:
    # Rounding off happens on a centimetre grid, then the stations are taken from it.
    fine = np.linspace(0.0, d.length, int(d.length * 100) + 1)
    cabin_end = d.tail_s
    profile = [(0.0, d.nose_height - d.nose_drop), (d.nose_round * 0.35, d.nose_height - 0.35 * d.nose_drop),
               (d.nose_round, d.nose_height), (d.cowl_s, d.cowl_height), (d.roof_start, d.height - d.roof_arc * 0.4),
               (0.6 * d.roof_start + 0.4 * d.roof_end, d.height), (d.roof_end, d.height - d.roof_arc)]  # fmt: skip
    if d.bed:
        profile += [(cabin_end, d.deck_height), (d.length, d.deck_height)]
    else:
        profile += [(cabin_end, d.deck_height)]
        if cabin_end < d.length - 0.25:
            profile += [(d.length - 0.1, d.tail_height), (d.length - 0.03, d.tail_height - 0.04)]
        profile += [(d.length, d.tail_height - (0.1 if cabin_end < d.length - 0.12 else 0.03))]
    order = np.maximum.accumulate(np.array([p[0] for p in profile]) + np.arange(len(profile)) * 1e-4)
    heights = np.array([p[1] for p in profile])
    top = _smooth(np.interp(fine, order, heights), d.softness * 100)
    belt = d.belt + d.belt_rise * np.clip((fine - d.cowl_s) / max(d.tail_s - d.cowl_s, 0.1), 0.0, 1.0)
    # Where no cabin stands on it, the shoulder is the edge of bonnet or deck.
    shoulder = np.minimum(belt, top - 0.035)
    if d.bed:
        shoulder = np.where(fine > cabin_end, np.minimum(top, d.deck_height), shoulder)
    shoulder = _smooth(shoulder, 3.0)
    shoulder = np.minimum(shoulder, top - 0.02)
    approach, departure = np.clip(1 - fine / 0.45, 0, 1), np.clip(1 - (d.length - fine) / 0.5, 0, 1)
    bottom = d.clearance + 0.1 * approach**2 + 0.16 * departure**2
    long_taper = np.clip(1 - fine / 1.4, 0, 1) ** 2, np.clip(1 - (d.length - fine) / 1.4, 0, 1) ** 2
    corner = np.clip(1 - fine / 0.16, 0, 1) ** 2, np.clip(1 - (d.length - fine) / 0.12, 0, 1) ** 2
    width = (
        1
        - d.nose_taper * (0.7 * long_taper[0] + 0.3 * corner[0])
        - d.tail_taper * (0.7 * long_taper[1] + 0.3 * corner[1])
    )
    half_width = d.width / 2 * width
    glass_bow = 0.1 if d.roof_start - d.cowl_s > 0.3 else 0.05
    bow = np.interp(
        fine,
        np.maximum.accumulate([0.0, d.cowl_s * 0.9, d.cowl_s, d.roof_start, d.roof_start + 0.35,
                               max(d.roof_end - 0.2, d.roof_start + 0.4), d.tail_s, d.length]),
        [d.nose_bow, max(d.nose_bow * 0.4, glass_bow), glass_bow, glass_bow * 0.6, 0.0, 0.0,
         -0.6 * d.tail_bow, -d.tail_bow],
    )  # fmt: skip
    ends = np.array([0.0, 0.012, 0.03, 0.055, 0.09, 0.14, 0.2, 0.28, 0.36])
    around = np.array([-0.09, -0.045, 0.0, 0.045, 0.09])
    stations = np.concatenate([
        np.linspace(0.0, d.length, 30), ends, d.length - ends, d.cowl_s + around, d.roof_start + around,
        d.roof_end + around, d.tail_s + around, d.nose_round + around[1:4],
        np.linspace(d.cowl_s, d.roof_start, 5), np.linspace(d.roof_end, d.tail_s, 5),
    ])  # fmt: skip
    if d.bed:
        stations = np.concatenate([stations, [d.tail_s + 0.02, d.tail_s + 0.05, d.length - 0.07, d.length - 0.05]])
    stations = np.unique(np.round(np.clip(stations, 0.0, d.length), 3))
    keep = [0]
    for i in range(1, len(stations) - 1):
        if stations[i] - stations[keep[-1]] >= 0.011 and stations[-1] - stations[i] >= 0.011:
            keep.append(i)
    s = stations[[*keep, len(stations) - 1]]
    in_bed = (s > d.tail_s + 0.04) & (s < d.length - 0.055) if d.bed else np.zeros(len(s), bool)
    return _Curves(
        s, np.interp(s, fine, top), np.interp(s, fine, shoulder), np.interp(s, fine, bottom),
        np.interp(s, fine, half_width), np.interp(s, fine, bow), in_bed,
    )  # fmt: skip


def _add_loft(collector: _Collector, d: Design) -> None:
    c = _curves(d)
    low, w, shoulder, top = c.bottom, c.half_width, c.shoulder, c.top
    belly, cabin = shoulder - low, top - shoulder
    lean = d.tumblehome * np.maximum(cabin - 0.06, 0.0)
    rounding = np.minimum(0.055, 0.45 * cabin)
    foot = w * 0.955 - 0.012
    roof_y = foot - lean
    foot_z = shoulder + np.minimum(0.012, 0.3 * cabin)
    edge_z = top - rounding
    nothing = np.zeros_like(w)
    # The half section from the underside's middle to the roof's middle: (y, z) of each of its points.
    points = [
        (nothing, low), (0.82 * w, low), (0.94 * w, low + 0.05 * belly), (0.985 * w, low + 0.22 * belly),
        (w, low + 0.5 * belly), (0.996 * w, low + 0.78 * belly), (0.965 * w, shoulder),
        (foot, foot_z), (foot - 0.3 * lean, foot_z + 0.33 * (edge_z - foot_z)),
        (foot - 0.64 * lean, foot_z + 0.67 * (edge_z - foot_z)), (roof_y, edge_z),
        (roof_y - 0.05, top - 0.25 * rounding), (0.55 * roof_y, top), (nothing, top + 0.012),
    ]  # fmt: skip
    y = np.stack([p[0] for p in points], axis=1)
    z = np.stack([p[1] for p in points], axis=1)
    if d.bed:
        floor = d.deck_height - 0.42
        inside = c.in_bed
        y[inside, 7:] = np.stack([w - 0.05, w - 0.075, w - 0.08, w - 0.085, 0.8 * w, 0.4 * w, nothing], axis=1)[inside]
        z[inside, 7:] = np.array([d.deck_height + 0.005, d.deck_height - 0.1, floor + 0.05, floor, floor, floor, floor])
    t = np.broadcast_to(np.arange(SECTION_POINTS, dtype=float), y.shape)
    above, under = z - shoulder[:, None], edge_z[:, None] - z

    # Both sides in one grid: from the underside up the left side, over the roof, down the right side.
    def mirrored(half: NDArray[np.float64], sign: float) -> NDArray[np.float64]:
        return np.concatenate([half, sign * half[:, -2::-1]], axis=1)

    s = np.broadcast_to(c.s[:, None], (len(c.s), 2 * SECTION_POINTS - 1))
    y_full, z_full, t_full = mirrored(y, -1.0), mirrored(z, 1.0), mirrored(t, 1.0)
    x = d.length / 2 - s - c.bow[:, None] * (y_full / w[:, None]) ** 2
    place = np.stack([s, t_full, mirrored(above, 1.0), mirrored(under, 1.0)], axis=-1)
    grid = np.stack([x, y_full, z_full], axis=-1)
    collector.add_grid(grid, place, BODY)

    # Front and rear faces: rows across the car at the heights of the end sections.
    across = np.linspace(1.0, -1.0, 11)
    for end, flip in ((0, False), (-1, True)):
        rows = np.arange(1, SECTION_POINTS)
        face_y = y[end, rows][:, None] * across
        face_y[-1] = 0.5 * face_y[-2]
        face_z = np.broadcast_to(z[end, rows][:, None], face_y.shape)
        face_x = d.length / 2 - c.s[end] - c.bow[end] * (face_y / w[end]) ** 2
        sense = 1.0 if end == 0 else -1.0
        bend = 2 * c.bow[end] * face_y / w[end] ** 2
        rise = (face_z - face_z.mean()) / (np.ptp(face_z) + 1e-6)
        normals = np.stack([np.full_like(face_y, sense), sense * bend, 0.25 * rise], axis=-1)
        face_place = np.stack(
            [np.full_like(face_y, c.s[end]), np.broadcast_to(rows[:, None] * 1.0, face_y.shape).clip(max=SHOULDER),
             face_z - shoulder[end], np.zeros_like(face_y)], axis=-1)  # fmt: skip
        collector.add_grid(
            np.stack([face_x, face_y, face_z], axis=-1), face_place, BODY, flip=flip, normals_RC3=normals
        )


def _add_wheel(
    collector: _Collector, radius: float, x: float, y: float, z: float, width: float, side: float, *, face: float = 1.0
) -> None:
    """Adds a wheel whose face looks to `side` (+1 left, -1 right); with face = 0 it looks backwards (spare wheel)."""
    angle = np.linspace(0.0, 2 * np.pi, 25)
    ring = np.array(
        [[0.004, 0.0], [0.66, -0.006], [0.72, 0.004], [0.93, 0.0], [1.0, -0.04], [1.0, -width], [0.004, -width]]
    )
    forward = ring[:, :1] * np.cos(angle)
    up = ring[:, :1] * np.sin(angle)
    depth = np.broadcast_to(ring[:, 1:], forward.shape)
    place = np.stack([forward, up, -depth, np.zeros_like(up)], axis=-1)
    if face:
        points = np.stack([x + radius * forward, y + side * depth, z + radius * up], axis=-1)
        collector.add_grid(points, place, WHEEL, flip=side > 0)
    else:
        points = np.stack([x - depth, y + radius * forward, z + radius * up], axis=-1)
        collector.add_grid(points, place, WHEEL, flip=True)


def _add_ellipsoid(
    collector: _Collector, centre: tuple[float, float, float], radii: tuple[float, float, float], part: int
) -> None:
    polar = np.linspace(0.0, np.pi, 7)[:, None]
    around = np.linspace(0.0, 2 * np.pi, 11)[None]
    unit = np.stack(
        [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) * np.ones_like(around)], axis=-1
    )
    # A squared-off sphere: the exponent makes a mirror housing of it.
    shaped = np.sign(unit) * np.abs(unit) ** 0.7
    collector.add_grid(
        np.array(centre) + shaped * np.array(radii),
        np.zeros((*unit.shape[:2], 4)),
        part,
        normals_RC3=unit / np.array(radii),
    )


def _add_tube(collector: _Collector, path_N3: NDArray[np.float64], radius_y: float, radius_z: float, part: int) -> None:
    around = np.linspace(0.0, 2 * np.pi, 7)
    ring = np.stack([np.zeros_like(around), radius_y * np.cos(around), radius_z * np.sin(around)], axis=-1)
    points = path_N3[:, None] + ring[None]
    collector.add_grid(points, np.zeros((*points.shape[:2], 4)), part, flip=path_N3[0, 0] < path_N3[-1, 0])


def build_mesh(d: Design) -> Mesh:
    """The triangles of one design; the same design gives the same mesh."""
    collector = _Collector()
    _add_loft(collector, d)
    tyre = 0.21 if d.wheel_radius < 0.45 else 0.3
    c = _curves(d)
    for axle in (d.front_axle, d.rear_axle):
        half = float(np.interp(axle, c.s, c.half_width))
        for side in (1.0, -1.0):
            _add_wheel(
                collector, d.wheel_radius, d.length / 2 - axle, side * (half + 0.022), d.wheel_radius, tyre, side
            )
    mirror_s = d.cowl_s + 0.42 if d.length < 8 else 0.05
    if d.length < 8 and d.cowl_s < 1.0:
        mirror_s = d.cowl_s + 0.55
    for side in (1.0, -1.0):
        half = float(np.interp(mirror_s, c.s, c.half_width))
        mirror_z = float(np.interp(mirror_s, c.s, c.shoulder)) + (0.09 if d.length < 8 else 0.9)
        size = d.mirror_size
        _add_ellipsoid(
            collector, (d.length / 2 - mirror_s, side * (half + 0.06 * size), mirror_z),
            (0.055 * size, 0.105 * size, 0.068 * size if d.length < 8 else 0.2), PLASTIC if d.mirror_black else PAINTED,
        )  # fmt: skip
    if d.rails:
        along = np.linspace(d.roof_start + 0.15, d.roof_end - 0.05, 9)
        roof_y = np.interp(along, c.s, c.half_width) * 0.955 - d.tumblehome * (d.height - d.belt) - 0.06
        roof_z = np.interp(along, c.s, c.top) + 0.035 * np.sin(np.linspace(0, np.pi, 9)) ** 0.35
        for side in (1.0, -1.0):
            path = np.stack([d.length / 2 - along, side * roof_y, roof_z], axis=-1)
            _add_tube(collector, path, 0.022, 0.02, PLASTIC)
    if d.spoiler:
        back = d.roof_end + 0.03 if d.tail_s > 0.94 * d.length else d.length - 0.12
        half = float(np.interp(back, c.s, c.half_width)) * (0.62 if d.tail_s > 0.94 * d.length else 0.8)
        height = float(np.interp(back, c.s, c.top))
        height = max(height, float(np.interp(back - 0.15, c.s, c.top))) + (0.0 if d.tail_s > 0.94 * d.length else 0.06)
        _add_ellipsoid(collector, (d.length / 2 - back, 0.0, height), (0.13, half, 0.028), PAINTED)
    if d.spare_wheel:
        _add_wheel(collector, d.wheel_radius * 0.9, -d.length / 2 - 0.04, 0.0, d.tail_height - 0.28, 0.2, 1.0, face=0.0)
    return collector.mesh()
