"""The checker: each kind of problem found, none made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from hashret.cli import main
from hashret.data import PictureTable, open_source
from hashret.data.check import NEAR_CORRELATION, NEAR_RADIUS, Problem, check, look_at_all, near_duplicates

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def scene(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A smooth random picture: as unlike another as two photos are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def table_of(root: Path, pictures: list[tuple[str, str, str]]) -> PictureTable:
    """A table of (file name, label, split); ids are the file names."""
    return PictureTable(
        [name for name, _, _ in pictures],
        [str(root / name) for name, _, _ in pictures],
        [label for _, label, _ in pictures],
        [split for _, _, split in pictures],
    )


def found(problems: list[Problem]) -> list[tuple[str, str, tuple[str, ...]]]:
    for problem in problems:
        assert "\n" not in str(problem)
        assert str(problem).startswith(problem.severity)
    return [(problem.severity, problem.kind, problem.ids) for problem in problems]


def test_a_sound_table_has_no_problems(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(12)]
    for i, name in enumerate(names):
        scene(i).save(tmp_path / name)
    table = table_of(tmp_path, [(name, "ab"[i % 2], ["train", "test"][i // 6]) for i, name in enumerate(names)])
    assert check(table, threads=2) == []
    assert check(table.select([])) == []


def test_every_kind_of_problem(tmp_path: Path) -> None:
    for i in range(6):
        scene(i).save(tmp_path / f"{i}.png")
    scene(0).save(tmp_path / "같은.bmp")  # the same pixels in another format
    ImageEnhance.Brightness(scene(1)).enhance(1.1).save(tmp_path / "near.jpg", quality=60)
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    rows = [
        *((f"{i}.png", "cat", "train") for i in range(6)),
        ("같은.bmp", "cat", "test"),
        ("near.jpg", "cat", "test"),
        ("bad.jpg", "cat", "test"),
        ("empty.jpg", "cat", "train"),
        ("gone.jpg", "cat", ""),
        ("link.jpg", "cat", ""),
        ("5.png", "", ""),
    ]
    table = table_of(tmp_path, rows)
    table.labels[4] = "혼자"
    assert found(check(table)) == [
        ("error", "unreadable picture", ("bad.jpg",)),
        ("error", "unreadable picture", ("empty.jpg",)),
        ("error", "missing file", ("gone.jpg",)),
        ("error", "missing file", ("link.jpg",)),
        ("error", "duplicate id", ("5.png",)),
        ("error", "same picture in two splits", ("0.png", "같은.bmp")),
        ("warning", "label with a single picture", ("4.png",)),
        ("warning", "near-duplicate in two splits", ("near.jpg", "1.png")),
    ]


def test_the_same_picture_within_one_split_is_no_problem(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        scene(3).save(tmp_path / name)
    assert check(table_of(tmp_path, [("a.png", "x", "train"), ("b.png", "x", "train"), ("c.png", "x", "")])) == []


def test_boxes_make_different_pictures_of_one_file(tmp_path: Path) -> None:
    scene(1, (200, 100)).save(tmp_path / "a.png")
    table = PictureTable(["l", "r", "bad", "out"], [str(tmp_path / "a.png")] * 4, ["x"] * 4, ["train", "test", "", ""])
    table.attributes = {
        "x1": ["0", "100", "x", "300"],
        "y1": ["0", "0", "0", "0"],
        "x2": ["100", "200", "9", "400"],
        "y2": ["100", "100", "9", "50"],
    }
    assert found(check(table)) == [("error", "unreadable picture", ("bad",)), ("error", "unreadable picture", ("out",))]


def test_near_duplicates_are_found_and_others_are_not(tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        picture = scene(i)
        picture.save(tmp_path / f"{i}.png")
        rows.append((f"{i}.png", "x", "train"))
        changed = [
            picture.resize((48, 36), Image.Resampling.LANCZOS),
            ImageEnhance.Brightness(picture).enhance(0.9),
            ImageEnhance.Contrast(picture).enhance(1.15),
        ][i % 3]
        changed.save(tmp_path / f"{i}.jpg", quality=50)
        rows.append((f"{i}.jpg", "x", "test"))
    pairs = {problem.ids for problem in check(table_of(tmp_path, rows)) if problem.severity == "warning"}
    assert pairs == {(f"{i}.jpg", f"{i}.png") for i in range(60)}


def test_mirrored_copies_are_found(tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        picture = scene(i, (93, 71))  # no multiple of what the thumbnails have
        picture.save(tmp_path / f"{i}.png")
        rows.append((f"{i}.png", "x", "train"))
        mirrored = ImageOps.mirror(picture)
        name = f"{i}m.png" if i % 2 else f"{i}m.jpg"
        mirrored.save(tmp_path / name, **({} if i % 2 else {"quality": 50}))
        rows.append((name, "x", "test"))
    problems = check(table_of(tmp_path, rows))
    assert found(problems) == [
        ("warning", "near-duplicate in two splits", (name, f"{name.partition('m')[0]}.png"))
        for name, _, split in rows
        if split == "test"
    ]
    assert problems[0].message == "0m.jpg (test) looks nearly the same as 0.png (train), mirrored"


def test_a_copy_of_a_symmetric_picture_is_not_called_mirrored(tmp_path: Path) -> None:
    half = np.asarray(scene(1, (48, 72)))
    symmetric = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    symmetric.save(tmp_path / "a.png")
    symmetric.save(tmp_path / "b.jpg", quality=60)
    (problem,) = check(table_of(tmp_path, [("a.png", "x", "train"), ("b.jpg", "x", "test")]))
    assert problem.message == "b.jpg (test) looks nearly the same as a.png (train)"
    # Its own mirrored picture has the very same pixels: one problem, not two.
    ImageOps.mirror(symmetric).save(tmp_path / "c.png")
    (problem,) = check(table_of(tmp_path, [("a.png", "x", "train"), ("c.png", "x", "test")]))
    assert problem.kind == "same picture in two splits"


def test_near_duplicates_are_those_of_plain_loops(tmp_path: Path) -> None:
    rows = []
    rng = np.random.default_rng(0)
    for i in range(40):
        # A few scenes with noise of all strengths, so that many pairs lie on both sides of what counts as near.
        noisy = np.asarray(scene(i % 4)) + rng.normal(0, 3 * (i % 10) + 1, (72, 96, 3))
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        (ImageOps.mirror(picture) if i % 3 == 0 else picture).save(tmp_path / f"{i:02d}.png")
        rows.append((f"{i:02d}.png", "x", "test"))
    looks, unreadable = look_at_all(table_of(tmp_path, rows), threads=2)
    assert not unreadable
    queries, gallery = np.arange(5, 40), np.arange(0, 30)
    counted_QN = rng.random((len(queries), len(gallery))) < 0.5

    def near(query: int, other: int) -> tuple[float, bool] | None:
        for mirrored, asked in ((False, looks.hashes_NB[query]), (True, looks.mirrored_NB[query])):
            alike = np.corrcoef(looks.thumb(query, mirrored), looks.thumbs_ND[other])[0, 1]
            if np.unpackbits(asked ^ looks.hashes_NB[other]).sum() <= NEAR_RADIUS and alike >= NEAR_CORRELATION:
                return float(alike), mirrored
        return None

    for counts in (None, counted_QN.__getitem__):
        expected = []
        for number, query in enumerate(queries.tolist()):
            of = {
                other: found
                for place, other in enumerate(gallery.tolist())
                if other != query and (counts is None or counted_QN[number, place]) and (found := near(query, other))
            }
            if of:
                best = max(of, key=lambda other: of[other][0])
                expected.append((query, best, of[best][1], len(of)))
        assert list(near_duplicates(looks, queries, gallery, counts)) == expected
        assert len({mirrored for _, _, mirrored, _ in expected}) == 2 and len(expected) > 10


def test_all_alike_pictures_do_not_explode(tmp_path: Path) -> None:
    # Blank pictures of slightly different grey: one difference hash for all, 90,000 pairs.
    Image.new("L", (16, 16), 200).save(tmp_path / "a.png")
    Image.new("L", (16, 16), 201).save(tmp_path / "b.png")
    Image.new("L", (16, 16), 20).save(tmp_path / "dark.png")
    paths = [*["a.png"] * 300, *["b.png"] * 300, "dark.png"]
    table = PictureTable(
        [str(i) for i in range(601)],
        [str(tmp_path / p) for p in paths],
        ["x"] * 601,
        ["train"] * 300 + ["test"] * 300 + ["val"],
    )
    problems = check(table)
    assert {problem.kind for problem in problems} == {"near-duplicate in two splits"}
    assert len(problems) == 300


def test_three_splits_with_one_picture(tmp_path: Path) -> None:
    scene(0).save(tmp_path / "a.png")
    names = ["a", "b", "c", "d"]
    table = PictureTable(names, [str(tmp_path / "a.png")] * 4, ["x"] * 4, ["train", "val", "test", "test"])
    (problem,) = check(table)
    assert problem.ids == ("a", "b", "c")
    assert problem.message == "exactly the same picture is in 3 splits: a (train), b (val), c (test) and 1 more"


def test_threads_do_not_change_the_answer(tmp_path: Path) -> None:
    for i in range(30):
        scene(i % 10).save(tmp_path / f"{i}.png")
    table = table_of(tmp_path, [(f"{i}.png", "x", ["train", "test"][i % 3 == 0]) for i in range(30)])
    assert check(table, threads=1) == check(table, threads=7) != []


def test_check_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "차"
    for split, seed in (("train", 0), ("train", 1), ("test", 2)):
        (root / split / "쏘나타").mkdir(parents=True, exist_ok=True)
        scene(seed).save(root / split / "쏘나타" / f"{seed}.png")
    assert main(["data", "check", str(root)]) == 0
    assert capsys.readouterr().out == "차: 3 pictures, 1 class, test 1, train 2; 0 errors, 0 warnings\n"
    (root / "test" / "쏘나타" / "깨짐.jpg").write_bytes(b"x")
    assert main(["data", "check", str(root)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("error: test/쏘나타/깨짐.jpg: cannot read ")
    assert last.endswith("1 error, 0 warnings")
    assert main(["data", "check", str(root), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["errors"], document["warnings"], document["pictures"]) == (1, 0, 4)
    assert document["problems"][0]["kind"] == "unreadable picture"
    (tmp_path / "t.csv").write_text("id,path\n1,차/train/쏘나타/0.png\n1,차/train/쏘나타/1.png\n", "utf-8")
    assert main(["data", "check", str(tmp_path / "t.csv")]) == 1
    assert "the id '1' occurs 2 times" in capsys.readouterr().out


def test_real_cars_hold_pictures_twice() -> None:
    if not (SHARED / "stanford_cars_96").exists():
        pytest.skip("needs the data set stanford_cars_96, which is not here")
    whole = open_source(SHARED / "stanford_cars_96")
    table = whole.select([row for row, label in enumerate(whole.labels) if label in {"013", "014", "064", "071"}])
    table.splits = ["train" if label in {"013", "064"} else "test" for label in table.labels]
    problems = check(table)
    assert [problem.ids for problem in problems if problem.severity == "error"] == [
        ("013/02641.jpg", "014/07765.jpg"),
        ("064/05614.jpg", "071/05334.jpg"),
    ]


def test_real_cars_hold_mirrored_pictures() -> None:
    if not (SHARED / "stanford_cars_96").exists():
        pytest.skip("needs the data set stanford_cars_96, which is not here")
    whole = open_source(SHARED / "stanford_cars_96")
    table = whole.select([row for row, label in enumerate(whole.labels) if label in {"100", "136"}])
    table.splits = ["test" if name in ("100/03741.jpg", "136/00648.jpg") else "train" for name in table.ids]
    assert [(problem.ids, problem.message.endswith(", mirrored")) for problem in check(table)] == [
        (("100/03741.jpg", "100/07909.jpg"), True),
        (("136/00648.jpg", "136/03569.jpg"), True),
    ]
