"""The turntable data set: which pictures it has, their files, and their table.

The full design of a class is 2 generations x 4 colours x 24 views x 4 times = 768 pictures. `plan` takes as many of them as
asked for, spread evenly; beyond 768 the design starts again with other scenes. A picture depends on the seed and on its own
place in the design alone, so neither the number of workers nor an interruption changes a byte of it.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hashret.data.turntable.bodies import KINDS, Design, Mesh, build_mesh, draw_design, facelift
from hashret.data.turntable.scene import COLOURS, TIMES, Scene, draw_scene
from hashret.errors import DataError, UsageError

FORMAT_VERSION = 1
JPEG_QUALITY = 90
VIEWS = tuple(range(0, 360, 15))
GENERATIONS = (1, 2)
COLOURS_PER_CLASS = 4
SPLITS = ("train", "test")
COLUMNS = (
    "id", "path", "label", "split", "body", "generation", "colour", "view", "time", "take", "place", "camera_height",
    "camera_distance",
)  # fmt: skip

# What the generators of random numbers are for; part of their keys, never renumbered.
_DESIGN_KEY, _PLAN_KEY, _PICTURE_KEY, _NAME_KEY = range(4)

# The syllables reach these too, and labels name folders and files: such a name is drawn again. Another list would
# rename the classes of some seeds.
_REAL_CARS = ("fabia", "lada", "lotus", "megan", "nova", "polo", "sonata", "tata", "vela")
_RUDE_PARTS = ("sex", "fag", "rape", "nazi", "pis", "kak", "fuk", "tit", "nig")


@dataclass(frozen=True)
class CarClass:
    """One car model: its label, split, body kind, the designs of its generations and the colours it is sold in."""

    number: int  # within its split
    label: str
    split: str
    body: str
    designs: tuple[Design, ...]
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One picture of the plan; `take` counts the pictures of the same design point, from 0."""

    car: CarClass
    generation: int
    colour: str
    view: int
    time: str
    take: int

    @property
    def id(self) -> str:
        """A name that is unique in the set."""
        name = f"{self.car.label}-{self.generation}-{self.colour}-{self.view:03d}-{self.time}"
        return f"{name}-{self.take}" if self.take else name

    @property
    def path(self) -> str:
        """The file, below the set's folder."""
        return f"pictures/{self.car.split}/{self.car.label}/{self.id}.jpg"

    def scene(self, seed: int) -> Scene:
        """The picture's light, place, camera and paint."""
        key = (
            _PICTURE_KEY, SPLITS.index(self.car.split), self.car.number, self.generation,
            tuple(COLOURS).index(self.colour), self.view, TIMES.index(self.time), self.take,
        )  # fmt: skip
        return draw_scene(self.colour, self.time, _generator(seed, *key))


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _labels(count: int, seed: int) -> list[str]:
    """Invented names that can be pronounced, all different."""
    rng = _generator(seed, _NAME_KEY)
    consonants = tuple("bdfgklmnprstvz")
    onsets = (*consonants, "br", "dr", "gr", "kr", "tr", "st")  # clusters only begin a name
    vowels = ("a", "e", "i", "o", "u", "a", "e", "o", "ia")
    codas = ("", "", "", "n", "r", "l", "s", "x")

    def one_of(parts: tuple[str, ...]) -> str:
        return parts[int(rng.integers(len(parts)))]

    names: list[str] = []
    seen = set(_REAL_CARS)
    while len(names) < count:
        name = one_of(onsets) + one_of(vowels) + one_of(consonants) + one_of(vowels)
        if rng.random() < 0.5:
            name += one_of(consonants) + one_of(vowels[:8])
        name += one_of(codas)
        if name not in seen and not any(part in name for part in _RUDE_PARTS):
            seen.add(name)
            names.append(name.capitalize())
    return names


def _features(design: Design) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What makes two cars of one body kind look different, in units of a difference that shows."""
    d = design
    return np.array([
        d.length / 0.35, d.height / 0.09, d.nose_height / 0.06, (d.roof_end - d.roof_start) / 0.25, d.cowl_s / 0.15,
        d.tail_s / 0.2, d.belt_rise / 0.05, d.softness / 0.04, d.lamp_width / 0.05, d.lamp_height / 0.03,
        d.lamp_slant / 0.2, d.grille_width / 0.15, d.grille_height / 0.05, d.grille_style / 1.5,
        d.tail_lamp_width / 0.06, d.tail_lamp_height / 0.06, d.tail_lamp_z / 0.1, d.glass_end / 0.3, d.kick / 0.2,
        d.wheel_radius / 0.02, d.cladding * 1.5, d.black_roof * 1.5, d.stripe, d.plate_z / 0.3, d.lamp_power / 3.0,
    ])  # fmt: skip


def draw_classes(count: int, split: str, labels: list[str], seed: int) -> list[CarClass]:
    """`count` car models for a split. Body kinds take turns; within a kind each new model keeps away from the others."""
    kinds = list(KINDS)
    classes: list[CarClass] = []
    for number in range(count):
        rng = _generator(seed, _DESIGN_KEY, SPLITS.index(split), number)
        kind = kinds[number % len(kinds)]
        others = [_features(c.designs[0]) for c in classes if c.body == kind]
        candidates = [draw_design(kind, rng) for _ in range(6)]
        away = [min((float(np.linalg.norm(_features(c) - o)) for o in others), default=0.0) for c in candidates]
        first = candidates[int(np.argmax(away))]
        colours = tuple(str(c) for c in rng.choice(list(COLOURS), COLOURS_PER_CLASS, replace=False))
        classes.append(CarClass(number, labels[number], split, kind, (first, facelift(first, rng)), colours))
    return classes


def plan(car: CarClass, count: int, seed: int) -> list[Picture]:
    """The first `count` pictures of a class; a longer plan begins with the shorter one.

    Every 24 pictures hold each view once and each time six times; every 96 hold each view at each time once.
    """
    rng = _generator(seed, _PLAN_KEY, SPLITS.index(car.split), car.number)
    coats = [(generation, colour) for generation in GENERATIONS for colour in car.colours]
    n_views, n_times, n_coats = len(VIEWS), len(TIMES), len(coats)
    time_shift = rng.permutation(n_views) % n_times
    coat_shift = rng.permutation(n_views * n_times).reshape(n_views, n_times) % n_coats
    coat_order = rng.permutation(n_coats)
    pictures: list[Picture] = []
    block = 0
    while len(pictures) < count:
        for view in rng.permutation(n_views):
            time = (block + time_shift[view]) % n_times
            coat = coat_order[(block // n_times + coat_shift[view, time]) % n_coats]
            generation, colour = coats[int(coat)]
            take = block // (n_times * n_coats)
            pictures.append(Picture(car, generation, colour, VIEWS[int(view)], TIMES[int(time)], take))
        block += 1
    return pictures[:count]


def _encode(picture: Picture, mesh: Mesh, seed: int, size: tuple[int, int]) -> bytes:
    """The picture as JPEG."""
    from hashret.data.turntable.render import render

    pixels = render(mesh, picture.car.designs[picture.generation - 1], picture.scene(seed), float(picture.view), size)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _is_complete(path: Path) -> bool:
    """Whether the file is a JPEG that was written to its end."""
    try:
        with path.open("rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == b"\xff\xd9"
    except OSError:
        return False


def _write_whole(path: Path, content: bytes) -> None:
    """Writes the file in one step: it is there complete, or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _check(classes: int, test_classes: int, pictures_per_class: int, seed: int, size: tuple[int, int]) -> None:
    if classes < 0 or test_classes < 0 or classes + test_classes < 1:
        raise UsageError(
            f"a turntable set of {classes} training and {test_classes} test classes cannot be made: "
            "give numbers from 0, at least one class in all"
        )
    if pictures_per_class < 1:
        raise UsageError(f"pictures per class is {pictures_per_class}, but must be 1 or more")
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed is {seed}, but must be 0 or more and below 2**63")
    if not all(32 <= side <= 4096 for side in size):
        raise UsageError(f"the picture size is {size[0]}x{size[1]}, but each side must be 32 to 4096 pixels")


def _claim_folder(out: Path, parameters: dict[str, Any]) -> None:
    """Makes the folder ours: new, or begun earlier with the same parameters."""
    card = out / "turntable.json"
    if card.exists():
        try:
            found = json.loads(card.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{card} is damaged ({error}): delete {out} and start again") from error
        if found != parameters:
            names = [n for n in parameters if not isinstance(found, dict) or found.get(n) != parameters[n]]
            raise DataError(
                f"{out} holds a turntable set with other parameters ({', '.join(names) or 'format'}): "
                "repeat the ones in its turntable.json to finish it, or choose another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is no turntable set: choose a new or an empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_whole(card, (json.dumps(parameters, indent=2) + "\n").encode())
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}): choose a folder that you may write to") from error


def _write_table(path: Path, pictures: list[Picture], seed: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in pictures:
        scene = p.scene(seed)
        writer.writerow([
            p.id, p.path, p.car.label, p.car.split, p.car.body, p.generation, p.colour, p.view, p.time, p.take,
            scene.place, f"{scene.camera_height:.2f}", f"{scene.camera_distance:.2f}",
        ])  # fmt: skip
    _write_whole(path, text.getvalue().encode("utf-8"))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def generate(
    out: str | Path,
    *,
    classes: int = 84,
    test_classes: int = 78,
    pictures_per_class: int = 96,
    seed: int = 0,
    size: tuple[int, int] = (512, 384),
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """The path of the new set's table.csv; the set is a folder of JPEG files, that table, and turntable.json.

    The classes of the test split appear in no other. size is (width, height) in pixels; `workers` threads draw (all cores
    by default). The same arguments give the same bytes on the same machine, whatever the number of workers. After an
    interruption the same call goes on where it stopped. Raises UsageError for arguments out of range, DataError for a
    folder that holds something else.
    """
    out = Path(out)
    _check(classes, test_classes, pictures_per_class, seed, size)
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, but must be 1 or more")
    parameters = {
        "format": "hashret turntable", "format_version": FORMAT_VERSION, "classes": classes, "test_classes": test_classes,
        "pictures_per_class": pictures_per_class, "seed": seed, "size": list(size), "jpeg_quality": JPEG_QUALITY,
    }  # fmt: skip
    _claim_folder(out, parameters)
    labels = _labels(classes + test_classes, seed)
    cars = draw_classes(classes, "train", labels[:classes], seed)
    cars += draw_classes(test_classes, "test", labels[classes:], seed)
    plans = [plan(car, pictures_per_class, seed) for car in cars]
    pictures = [p for planned in plans for p in planned]
    missing = [[p for p in planned if not _is_complete(out / p.path)] for planned in plans]
    _draw(out, missing, len(pictures), seed, size, workers or _usable_cores(), progress)
    table = out / "table.csv"
    _write_table(table, pictures, seed)
    return table


def _draw(
    out: Path, missing: list[list[Picture]], total: int, seed: int, size: tuple[int, int], workers: int, progress: bool
) -> None:
    """Draws and writes the missing pictures, class by class."""
    wanted = sum(map(len, missing))
    if not wanted:
        return
    from hashret.data.turntable.render import warm_up

    warm_up()

    def tasks() -> Iterator[tuple[Picture, Mesh]]:
        for planned in missing:
            if planned:
                (out / planned[0].path).parent.mkdir(parents=True, exist_ok=True)
                meshes = [build_mesh(design) for design in planned[0].car.designs]
                for picture in planned:
                    yield picture, meshes[picture.generation - 1]

    def draw(picture: Picture, mesh: Mesh) -> None:
        _write_whole(out / picture.path, _encode(picture, mesh, seed, size))

    bar = tqdm(total=total, initial=total - wanted, unit="picture", disable=None if progress else True, delay=2)
    queue = tasks()
    with bar, ThreadPoolExecutor(workers) as pool:
        running: set[Future[None]] = set()
        try:
            while True:
                # A few tasks a worker are enough; the rest of the plan need not wait in memory as meshes.
                while len(running) < 4 * workers and (task := next(queue, None)) is not None:
                    running.add(pool.submit(draw, *task))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                bar.update(len(done))
        except OSError as error:
            raise DataError(
                f"a picture cannot be written below {out} ({error.strerror}): free space, then repeat the command"
            ) from error
        finally:
            for future in running:
                future.cancel()
