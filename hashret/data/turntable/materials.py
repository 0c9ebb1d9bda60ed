"""What each point of a car is made of, from where it lies on it: paint, windows, lamps, grille, seams, tyres."""

from __future__ import annotations

import math

from hashret.data.turntable.bodies import Design
from hashret.data.turntable.kernels import kernel

PAINT, GLASS, BLACK, CHROME, LAMP, TAIL, PLATE, GAP, DARK, TYRE, RIM, AMBER, PLASTIC, SIGN = range(14)


@kernel
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


@kernel
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


@kernel
def _front_material(d: Design, s: float, y: float, z: float, nx: float) -> int:
    """What the nose is made of; -1 where it is plain body."""
    side = abs(y)
    run = side + 0.8 * s
    across = run - d.lamp_y
    half = d.lamp_width if across < 0.0 else d.lamp_width + 0.6 * d.lamp_wrap
    rise = z - d.lamp_z - d.lamp_slant * max(across, -d.lamp_width)
    if s < 0.14 + d.lamp_wrap and _inside(across, rise, half, d.lamp_height, d.lamp_power):
        if d.lamp_ring == 0.0 and not _inside(across, rise, half * 0.82, d.lamp_height * 0.72, d.lamp_power):
            return CHROME
        if d.lamp_ring == 2.0 and abs(across) < 0.012:
            return BLACK
        if across > 0.55 * half and rise < 0.0:
            return AMBER
        if (
            d.lamp_ring == 1.0
            and rise > -0.55 * d.lamp_height
            and not _inside(across + 0.15 * half, rise - 0.1 * d.lamp_height, 0.4 * half, 0.6 * d.lamp_height, 2.0)
        ):
            return DARK
        return LAMP
    if nx < 0.3:
        return PLASTIC if z < d.bumper_black else -1
    plate = d.clearance + 0.2 + 2.0 * d.intake_height
    if side < 0.26 and abs(z - plate - 0.06) < 0.056:
        return PLATE
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
            return CHROME
        if style == 0.0:
            return -1 if _inside(side, deep, wide - 0.012, d.grille_height - 0.01, d.grille_power) else GAP
        if side < 0.05 and abs(deep) < 0.045:
            return CHROME
        if style == 1.0:
            bar = deep / 0.045
            return CHROME if bar - math.floor(bar) < 0.32 else DARK
        if style == 2.0 or style == 4.0:
            bar = side / 0.045
            return CHROME if bar - math.floor(bar) < 0.35 else DARK
        if style == 5.0:
            return CHROME if abs(deep) < 0.2 * d.grille_height else DARK
        u, v = (side + deep) / 0.05, (side - deep) / 0.05
        return BLACK if min(u - math.floor(u), v - math.floor(v)) < 0.3 else DARK
    intake = z - d.clearance - 0.12 - d.intake_height
    if _inside(side, intake, d.intake_width, d.intake_height, 8.0):
        return DARK
    if d.fog_lamps > 0.0 and _inside(side - 0.36 * d.width, intake - 0.04, 0.06, 0.045, 2.0):
        return CHROME
    return PLASTIC if z < d.bumper_black else -1


@kernel
def _rear_material(d: Design, s: float, y: float, z: float, nx: float) -> int:
    """What the tail is made of; -1 where it is plain body."""
    side, back = abs(y), d.length - s
    across = side + 0.8 * back - d.tail_lamp_y
    half = d.tail_lamp_width if across < 0.0 else d.tail_lamp_width + d.tail_lamp_wrap
    rise = z - d.tail_lamp_z - d.tail_lamp_slant * max(across, -d.tail_lamp_width)
    if back < 0.14 + d.tail_lamp_wrap and _inside(across, rise, half, d.tail_lamp_height, d.tail_lamp_power):
        if not _inside(across, rise, half - 0.014, d.tail_lamp_height - 0.014, d.tail_lamp_power):
            return BLACK
        inner = abs(rise) < 0.25 * d.tail_lamp_height and across < 0.3 * half
        return PLATE if inner else TAIL
    if nx > -0.3:
        return PLASTIC if z < d.bumper_black else -1
    if d.light_bar > 0.0 and side < d.tail_lamp_y and abs(z - d.tail_lamp_z) < 0.028:
        return TAIL if d.light_bar == 1.0 else CHROME
    if side < 0.26 and abs(z - d.plate_z) < 0.056:
        return PLATE
    if side < 0.045 and abs(z - d.tail_lamp_z + 0.02) < 0.04:
        return CHROME
    low = z - d.clearance - 0.2
    if d.exhausts > 0.0 and abs(low) < 0.04:
        pipe = side - 0.3 * d.width
        if (d.exhausts == 2.0 or y > 0.0) and _inside(pipe, low, 0.075, 0.04, 4.0):
            return DARK if _inside(pipe, low, 0.055, 0.026, 4.0) else CHROME
    edge = 0.4 * d.width
    if d.bed > 0.0 or d.tail_s > 0.93 * d.length:  # tailgate
        if abs(side - edge) < 0.006 and z > d.clearance + 0.28:
            return GAP
        if side < edge and abs(z - d.clearance - 0.28) < 0.006:
            return GAP
        if d.rear_glass == 2.0 and side < 0.006:
            return GAP
    elif side < edge and abs(z - d.plate_z + 0.09) < 0.006 and d.plate_z > d.clearance + 0.4:
        return GAP
    return PLASTIC if z < d.bumper_black else -1


@kernel
def body_material(
    d: Design, s: float, t: float, above: float, under: float, y: float, z: float, nx: float, ny: float
) -> int:
    """What a point of the loft is made of."""
    if t < 1.4:
        return BLACK
    if d.bed > 0.0 and s > d.tail_s + 0.045 and s < d.length - 0.05 and t > 6.98:
        return PLASTIC if t < 7.2 else BLACK
    cabin = above + under
    if (t > 10.35 and cabin > 0.0) or (t > 10.0 and d.length > 8.0):  # bonnet, windscreen, roof, back glass, deck
        side = abs(y)
        edge = 10.62
        if d.cowl_s + 0.02 < s < d.roof_start + 0.01 and t > edge:
            if d.length > 8.0 and z > d.height - 0.42:
                return SIGN if z < d.height - 0.14 else BLACK
            return GLASS
        if abs(s - d.cowl_s + 0.02) < 0.035 and side < 0.42 * d.width and s > 0.15:
            return BLACK
        if d.rear_glass > 0.0 and d.roof_end + 0.03 < s < d.tail_s - (0.03 if d.bed == 0.0 else 0.0):
            if d.tail_s > 0.93 * d.length and z < max(d.belt + d.belt_rise, d.deck_height) + 0.06:
                rear = _rear_material(d, s, y, z, nx)
                return rear if rear >= 0 else PAINT
            if z > d.height - 0.13 and d.tail_s > 0.93 * d.length:
                return PAINT
            if t > edge + 0.15 and not (d.rear_glass == 2.0 and side < 0.09):
                return GLASS
            return PAINT
        if s < d.roof_start and s < d.cowl_s:
            front = _front_material(d, s, y, z, nx) if s < 0.5 else -1
            return front if front >= 0 else PAINT
        if s > d.length - 0.35 and (nx < -0.2 or s > d.length - 0.2):
            rear = _rear_material(d, s, y, z, nx)
            return rear if rear >= 0 else PAINT
        if d.black_roof > 0.0 and d.roof_start - 0.1 < s < d.tail_s:
            return BLACK
        return PAINT
    if t >= 6.9 and cabin > 0.14 and not (d.bed > 0.0 and s > d.tail_s + 0.04):  # the cabin's side
        if _side_glass(d, s, y, above, under):
            return GLASS
        if d.stripe > 0.0 and above < 0.03 and d.cowl_s + 0.3 < s < d.glass_end:
            return CHROME
        if d.black_roof > 0.0 and under < 0.03 and s > d.roof_start:
            return BLACK
        inner = d.cowl_s + 0.45 < s < d.glass_end - 0.02 and under > 0.03 and above > 0.03
        if d.black_pillars > 0.0 and inner:
            return BLACK
        if abs(s - d.door_2) < 0.007 or (d.door_3 > 0.0 and abs(s - d.door_3) < 0.007):
            return GAP
        return PAINT
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
        return PAINT
    up = z - d.wheel_radius
    for axle in (d.front_axle, d.rear_axle):
        away = math.sqrt((s - axle) ** 2 + up * up) / d.wheel_radius
        if away < 1.15:
            return BLACK
        if d.cladding > 0.0 and away < 1.32:
            return PLASTIC
    if d.cladding > 0.0 and z < d.clearance + 0.2:
        return PLASTIC
    if z < d.clearance + 0.05:
        return PLASTIC
    low = d.clearance + 0.13
    if z > low:
        if abs(s - d.door_1) < 0.007 or abs(s - d.door_2) < 0.007:
            return GAP
        if d.door_3 > 0.0 and abs(s - d.door_3) < 0.007:
            return GAP
        last = d.door_3 if d.door_3 > 0.0 else d.door_2
        handle = d.belt + d.belt_rise * 0.5 - 0.1
        on_handle = abs(s - d.door_2 + 0.16) < 0.09 or (d.door_3 > 0.0 and abs(s - d.door_3 + 0.16) < 0.09)
        if on_handle and abs(z - handle) < 0.016 and d.length < 8.0:
            if d.handle_style == 0.0:
                return BLACK
            if d.handle_style == 1.0:
                return CHROME
            return GAP if abs(z - handle) > 0.011 else PAINT
        if d.pitch > 0.0 and y < 0.0 and d.door_1 < s < d.door_2 and z > low + 0.15:
            return GLASS if abs(s - 0.5 * (d.door_1 + d.door_2)) > 0.02 else BLACK
        if d.door_1 < s < last and abs(z - low) < 0.007:
            return GAP
    elif abs(z - low) < 0.007 and d.door_1 < s < d.door_2:
        return GAP
    return PAINT


@kernel
def wheel_material(d: Design, u: float, v: float) -> int:
    """Tyre, rim or the dark between its spokes, at (u, v) of the disc."""
    radius = math.sqrt(u * u + v * v)
    if radius > d.rim:
        return TYRE
    if radius > d.rim - 0.05 or radius < 0.13:
        return RIM
    if d.spokes == 0.0:  # steel wheel with holes
        turn = math.atan2(v, u) / (2.0 * math.pi) * 12.0
        hole = abs(turn - math.floor(turn) - 0.5)
        return DARK if (hole < 0.22 and 0.72 * d.rim < radius < 0.86 * d.rim) else RIM
    turn = math.atan2(v, u) / (2.0 * math.pi) * d.spokes + d.spoke_twist * radius * 2.0
    offset = abs(turn - math.floor(turn + 0.5))
    narrow = d.spoke_width * (0.62 + 0.3 / (radius + 0.45) * 0.6)
    return RIM if offset < 0.5 * narrow else DARK
