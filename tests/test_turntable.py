"""The turntable set: same seed same bytes, the design it promises, pictures that show what their row says."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashret.cli import main
from hashret.cli.turntable import add_arguments, run, size_of
from hashret.data.turntable.bodies import KINDS, build_mesh, draw_design, facelift
from hashret.data.turntable.generate import COLUMNS, GENERATIONS, VIEWS, draw_classes, generate, plan
from hashret.data.turntable.render import render
from hashret.data.turntable.rule import allowed_pairs, raw_pixels
from hashret.data.turntable.scene import COLOURS, TIMES, draw_scene
from hashret.errors import DataError, UsageError

SMALL = {"classes": 3, "test_classes": 2, "pictures_per_class": 24, "seed": 5, "size": (96, 72), "progress": False}


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("turntable") / "set", workers=2, **SMALL).parent


# --- the set -----------------------------------------------------------------------------------------------------------


def test_the_table_names_every_picture_and_nothing_else(small_set: Path) -> None:
    rows = rows_of(small_set / "table.csv")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 5 * 24
    assert len({row["id"] for row in rows}) == len(rows)
    files = {str(p.relative_to(small_set).as_posix()) for p in small_set.rglob("*.jpg")}
    assert files == {row["path"] for row in rows}
    for row in rows:
        assert row["path"] == f"pictures/{row['split']}/{row['label']}/{row['id']}.jpg"
    assert not list(small_set.rglob("*.part"))


def test_pictures_are_rgb_jpegs_of_the_size_asked_for(small_set: Path) -> None:
    for row in rows_of(small_set / "table.csv")[::7]:
        with Image.open(small_set / row["path"]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (96, 72))
            picture.load()


def test_test_classes_are_unseen(small_set: Path) -> None:
    labels: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in rows_of(small_set / "table.csv"):
        labels[row["split"]].add(row["label"])
    assert (len(labels["train"]), len(labels["test"])) == (3, 2)
    assert not labels["train"] & labels["test"]


def test_attributes_hold_the_whole_design(small_set: Path) -> None:
    by_label: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(small_set / "table.csv"):
        by_label.setdefault(row["label"], []).append(row)
    for rows in by_label.values():
        assert {int(row["view"]) for row in rows} == set(VIEWS)
        assert Counter(row["time"] for row in rows) == dict.fromkeys(TIMES, 6)
        assert {int(row["generation"]) for row in rows} == set(GENERATIONS)
        assert 2 <= len({row["colour"] for row in rows}) <= 4
        assert len({row["body"] for row in rows}) == 1
        assert rows[0]["body"] in KINDS
        assert {row["colour"] for row in rows} <= set(COLOURS)


def test_the_card_tells_how_the_set_was_made(small_set: Path) -> None:
    card = json.loads((small_set / "turntable.json").read_text(encoding="utf-8"))
    assert card["seed"] == 5
    assert card["size"] == [96, 72]
    assert card["format_version"] == 1


# --- determinism and resuming ------------------------------------------------------------------------------------------


def test_workers_change_no_byte(small_set: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", workers=1, **SMALL)
    assert digest(tmp_path / "again") == digest(small_set)


def test_another_seed_gives_other_cars(small_set: Path, tmp_path: Path) -> None:
    table = generate(tmp_path / "other", **{**SMALL, "seed": 6, "pictures_per_class": 1})
    assert {r["label"] for r in rows_of(table)} != {r["label"] for r in rows_of(small_set / "table.csv")}


def test_an_interrupted_set_is_finished_and_complete_pictures_are_kept(small_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    arguments = {**SMALL, "pictures_per_class": 4}
    rows = rows_of(generate(out, **arguments))
    before = digest(out)
    # What an interruption leaves: no table, missing files, a truncated one, a part of one.
    (out / "table.csv").unlink()
    (out / rows[0]["path"]).unlink()
    (out / rows[1]["path"]).write_bytes((out / rows[1]["path"]).read_bytes()[:200])
    (out / rows[2]["path"]).write_bytes(b"")
    part = (out / rows[3]["path"]).with_name(f".{rows[3]['id']}.jpg.part")
    part.write_bytes(b"half")
    (out / rows[3]["path"]).unlink()
    kept = out / rows[5]["path"]
    age = kept.stat().st_mtime_ns
    generate(out, **arguments)
    assert digest(out) == before
    assert kept.stat().st_mtime_ns == age


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    car = draw_classes(1, "train", ["Tamiro"], 3)[0]
    assert plan(car, 200, 3)[:77] == plan(car, 77, 3)


def test_the_full_design_is_each_combination_once_then_again() -> None:
    car = draw_classes(1, "test", ["Tamiro"], 3)[0]
    pictures = plan(car, 768 + 24, 3)
    full = Counter((p.generation, p.colour, p.view, p.time) for p in pictures[:768])
    assert len(full) == 768
    assert set(full.values()) == {1}
    assert {p.take for p in pictures[:768]} == {0}
    assert {p.take for p in pictures[768:]} == {1}
    assert len({p.id for p in pictures}) == len(pictures)


@pytest.mark.parametrize("change", [{"seed": 6}, {"size": (64, 48)}, {"classes": 4}, {"pictures_per_class": 25}])
def test_sets_are_not_mixed(small_set: Path, change: dict[str, object]) -> None:
    before = digest(small_set)
    with pytest.raises(DataError, match=next(iter(change))):
        generate(small_set, **{**SMALL, **change})
    assert digest(small_set) == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="no turntable set"):
        generate(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="no turntable set"):
        generate(tmp_path / "mine.txt", **SMALL)


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    (tmp_path / "turntable.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        generate(tmp_path, **SMALL)


@pytest.mark.parametrize(
    "change",
    [{"classes": -1}, {"classes": 0, "test_classes": 0}, {"pictures_per_class": 0}, {"seed": -1}, {"seed": 2**63},
     {"size": (16, 384)}, {"size": (512, 5000)}, {"workers": 0}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        generate(tmp_path / "out", **{**SMALL, **change})
    assert not (tmp_path / "out").exists()


# --- classes -----------------------------------------------------------------------------------------------------------


def test_class_names_are_unique_and_pronounceable(tmp_path: Path) -> None:
    table = generate(tmp_path / "set", classes=40, test_classes=40, pictures_per_class=1, size=(32, 32), progress=False)
    labels = {row["label"] for row in rows_of(table)}
    assert len({label.lower() for label in labels}) == 80
    assert all(label.isascii() and label.isalpha() and label[0].isupper() and len(label) <= 16 for label in labels)


def test_body_kinds_take_turns_and_every_class_has_its_own_design() -> None:
    cars = draw_classes(2 * len(KINDS), "train", [f"L{i}" for i in range(2 * len(KINDS))], 0)
    assert Counter(car.body for car in cars) == dict.fromkeys(KINDS, 2)
    assert len({car.designs[0] for car in cars}) == len(cars)
    assert all(len(set(car.colours)) == 4 for car in cars)


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_are_closed_upright_and_as_large_as_they_say(kind: str) -> None:
    for seed in range(6):
        design = draw_design(kind, rng(seed))
        for model in (design, facelift(design, rng(seed, 1))):
            mesh = build_mesh(model)
            points = mesh.vertices_V10[:, :3]
            assert np.isfinite(mesh.vertices_V10).all()
            assert mesh.triangles_T3.min() >= 0
            assert mesh.triangles_T3.max() < len(points)
            np.testing.assert_allclose(np.linalg.norm(mesh.vertices_V10[:, 3:6], axis=1), 1.0, atol=1e-4)
            assert -0.01 <= points[:, 2].min() <= 0.01
            assert abs(points[:, 2].max() - model.height) < 0.15
            assert model.length - 0.1 <= np.ptp(points[:, 0]) < model.length + 0.5
            # The two sides are mirror images.
            assert points[:, 1].max() == pytest.approx(-points[:, 1].min(), abs=0.01)
            # Triangles run anticlockwise seen from outside: their own normal agrees with their vertices'.
            corners = points[mesh.triangles_T3].astype(float)
            faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            large = np.linalg.norm(faces, axis=1) > 1e-4
            agreement = np.einsum("ij,ij->i", faces, mesh.vertices_V10[mesh.triangles_T3, 3:6].mean(axis=1))
            assert (agreement[large] > 0).mean() > 0.985


def test_a_facelift_stays_the_same_car() -> None:
    design = draw_design("estate", rng(0))
    new = facelift(design, rng(1))
    assert new != design
    assert abs(new.length / design.length - 1) < 0.02
    assert (new.belt, new.width, new.lamp_power, new.grille_style) == (
        design.belt, design.width, design.lamp_power, design.grille_style)  # fmt: skip


# --- pictures ----------------------------------------------------------------------------------------------------------


def brightness(kind: str, time: str, seed: int) -> float:
    design = draw_design(kind, rng(seed))
    return float(render(build_mesh(design), design, draw_scene("silver", time, rng(seed, 1)), 45.0, (96, 72)).mean())


def test_nights_are_dark_and_noons_bright() -> None:
    mean = {time: np.mean([brightness("sedan", time, seed) for seed in range(12)]) for time in TIMES}
    assert mean["night"] < 0.55 * mean["noon"]
    assert mean["night"] < 0.65 * min(mean["morning"], mean["afternoon"])


def test_afternoons_are_warmer_than_noons() -> None:
    def warmth(time: str) -> float:
        found = []
        for seed in range(12):
            design = draw_design("van", rng(seed))
            scene = draw_scene("white", time, rng(seed, 2))
            picture = render(build_mesh(design), design, scene, 300.0, (96, 72)).astype(float)
            found.append(picture[..., 0].mean() / picture[..., 2].mean())
        return float(np.mean(found))

    assert warmth("afternoon") > 1.15 * warmth("noon")


@pytest.mark.parametrize("kind", KINDS)
def test_the_car_is_in_the_frame_at_the_size_the_scene_says(kind: str) -> None:
    """Two paints on one scene differ exactly where the car's paint is seen."""
    design = draw_design(kind, rng(1))
    mesh = build_mesh(design)
    for view in (0, 75, 180, 255):
        scene = draw_scene("red", "noon", rng(view))
        other = scene._replace(paint=scene.paint._replace(r=0.02, g=0.3, b=0.9))
        change = np.abs(
            render(mesh, design, scene, view, (160, 120)).astype(int) - render(mesh, design, other, view, (160, 120))
        ).sum(axis=2) > 20  # fmt: skip
        rows, columns = np.nonzero(change)
        assert 0.02 < change.mean() < 0.65
        part = max(np.ptp(columns) / 160, np.ptp(rows) / 120)
        assert part == pytest.approx(scene.fill, abs=0.22)
        assert part < scene.fill + 0.04


def test_turning_by_half_shows_the_other_end() -> None:
    """Head lamps are white and tail lamps red, and at night each lights its own half of the turntable."""
    design = draw_design("sedan", rng(2))
    mesh = build_mesh(design)
    scene = draw_scene("black", "night", rng(7))
    front = render(mesh, design, scene, 0.0, (128, 96)).astype(int)
    rear = render(mesh, design, scene, 180.0, (128, 96)).astype(int)
    assert (front.min(axis=2) > 225).sum() > 3 * (rear.min(axis=2) > 225).sum()
    red = lambda p: ((p[..., 0] > 150) & (p[..., 1] < 0.6 * p[..., 0])).sum()  # noqa: E731
    assert red(rear) > red(front)


def test_the_same_scene_gives_the_same_pixels() -> None:
    design = draw_design("bus", rng(2))
    mesh = build_mesh(design)
    scene = draw_scene("blue", "morning", rng(3))
    first = render(mesh, design, scene, 30.0, (64, 48))
    assert first.shape == (48, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, render(mesh, design, scene, 30.0, (64, 48)))


# --- the rule and the raw-pixel control --------------------------------------------------------------------------------

pictures = st.lists(
    st.tuples(st.sampled_from(["red", "blue"]), st.sampled_from(TIMES), st.sampled_from(VIEWS)), min_size=0, max_size=8
)


@settings(deadline=None, max_examples=60)
@given(pictures, pictures)
def test_the_rule_equals_plain_loops(queries: list[tuple[str, str, int]], gallery: list[tuple[str, str, int]]) -> None:
    columns = [[row[i] for row in rows] for rows in (queries, gallery) for i in range(3)]
    found = allowed_pairs(*columns)
    assert found.shape == (len(queries), len(gallery))
    for q, (colour, time, view) in enumerate(queries):
        for n, (other_colour, other_time, other_view) in enumerate(gallery):
            steps = 0
            while (view + steps) % 360 != other_view and (view - steps) % 360 != other_view:
                steps += 15
            assert found[q, n] == (not (colour == other_colour and time == other_time and steps <= 30))


def test_the_rule_takes_a_table_s_text_and_leaves_the_query_out() -> None:
    found = allowed_pairs(
        ["red"], ["noon"], ["345"], ["red", "red", "red", "blue", "red"], ["noon"] * 5, ["15", "30", "315", "345", "180"],
        query_ids=["a"], gallery_ids=["b", "c", "d", "e", "a"],
    )  # fmt: skip
    np.testing.assert_array_equal(found, [[False, True, False, True, False]])


def test_raw_pixels_are_a_unit_vector_of_the_small_picture() -> None:
    gradient = Image.fromarray(np.tile(np.arange(128, dtype=np.uint8)[None, :, None], (96, 1, 3)))
    vector = raw_pixels(gradient)
    assert vector.shape == (32 * 32 * 3,)
    assert vector.dtype == np.float32
    assert math.isclose(float(np.linalg.norm(vector)), 1.0, rel_tol=1e-5)
    assert abs(float(vector.mean())) < 1e-6
    assert not raw_pixels(Image.new("L", (5, 9), 77)).any()


# --- the command -------------------------------------------------------------------------------------------------------


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


def test_the_command_makes_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--classes", "1", "--test-classes", "1", "--pictures-per-class", "2", "--size", "64x48", "--workers", "2"]
    assert run(parsed("--out", str(tmp_path / "cars"), *flags, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pictures"] == 4
    assert len(rows_of(Path(document["table"]))) == 4
    assert run(parsed("--out", str(tmp_path / "cars"), *flags)) == 0
    assert "4 pictures of 1 + 1 car models" in capsys.readouterr().out


def test_the_command_is_mounted_under_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cars"
    flags = ["--classes", "1", "--test-classes", "0", "--pictures-per-class", "1", "--size", "32x32"]
    assert main(["data", "turntable", "--out", str(out), *flags]) == 0
    assert (out / "table.csv").exists()
    assert main(["data", "turntable", "--out", str(out), *flags, "--seed", "-3"]) == 2
    assert "seed" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["data", "turntable", "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("Example:  hashret data turntable --out cars")


@pytest.mark.parametrize("text", ["512", "x384", "512x", "a x b", "-5x9", ""])
def test_sizes_that_are_none_are_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no size"):
        size_of(text)


def test_sizes_are_width_then_height() -> None:
    assert size_of("640x480") == size_of("640X480") == (640, 480)


# --- slow: the set is not trivial --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("test_classes", "pictures"), [(12, 40), (20, 48)])
def test_raw_pixels_and_an_untrained_network_stay_below_half(tmp_path: Path, test_classes: int, pictures: int) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    table = generate(
        tmp_path / "set", classes=0, test_classes=test_classes, pictures_per_class=pictures, progress=False
    )
    rows = rows_of(table)
    labels = np.array([row["label"] for row in rows])
    attributes = [[row[name] for row in rows] for name in ("colour", "time", "view")]
    ids = [row["id"] for row in rows]
    allowed = allowed_pairs(*attributes, *attributes, query_ids=ids, gallery_ids=ids)
    shown = [Image.open(table.parent / row["path"]).convert("RGB") for row in rows]

    def top1(features_ND: np.ndarray) -> float:
        unit = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
        nearest = np.where(allowed, unit @ unit.T, -2.0).argmax(axis=1)
        return float((labels[nearest] == labels).mean())

    assert top1(np.stack([raw_pixels(p) for p in shown])) < 0.5
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    network.fc = torch.nn.Identity()
    network.eval()
    small = np.stack([np.asarray(p.resize((128, 128)), dtype=np.float32) for p in shown])
    batch = (torch.from_numpy(small).permute(0, 3, 1, 2) / 255 - 0.45) / 0.225
    with torch.no_grad():
        features = torch.cat([network(part) for part in batch.split(64)]).numpy()
    assert top1(features) < 0.5


def test_no_pixel_depends_on_what_was_in_memory_before(monkeypatch: pytest.MonkeyPatch) -> None:
    design, scene = draw_design("hatchback", rng(0)), draw_scene("red", "noon", rng(1))
    mesh = build_mesh(design)
    # Compiles first: kernels look numpy up by the module's name for it.
    clean = render(mesh, design, scene, 30.0, (64, 48))

    def poisoned(*arguments: object) -> np.ndarray:
        array = np.empty(*arguments)  # type: ignore[call-overload]
        array.reshape(-1).view(np.uint8)[:] = 255  # NaN, or -1
        return array

    for module in ("render", "projection", "shadow", "postprocessing"):
        monkeypatch.setattr(f"hashret.data.turntable.{module}.np", _Numpy(poisoned))
    np.testing.assert_array_equal(render(mesh, design, scene, 30.0, (64, 48)), clean)


class _Numpy:
    """numpy with another `empty`."""

    def __init__(self, empty: object) -> None:
        self.empty = empty

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)
