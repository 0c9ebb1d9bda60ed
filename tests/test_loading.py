"""Loading: the same batches whoever decodes them, seeded randomness, bad pictures as values."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hashret.data.loading import PictureLoader, default_workers, row_batches
from hashret.data.table import PictureTable
from hashret.errors import DataError, ImageError, UsageError


def resized(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((6, 6)))


def noisy(pixels: np.ndarray, draw: random.Random) -> np.ndarray:
    return pixels + np.array([draw.random() for _ in range(pixels.size)]).reshape(pixels.shape)


def noisy_loader(table: PictureTable, workers: int) -> PictureLoader:
    return PictureLoader(table, resized, augment=noisy, workers=workers)


def plain(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.resize((4, 4))).copy())


def broken(picture: Image.Image) -> torch.Tensor:
    raise RuntimeError("a bug in a transform")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PictureTable:
    folder = tmp_path_factory.mktemp("사진")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(23):
        path = folder / f"차 {number}.png"
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    Path(paths[5]).write_text("no picture")
    paths[17] = str(folder / "missing.png")
    return make_table(paths)


def make_table(paths: list[str], **attributes: list[str]) -> PictureTable:
    n = len(paths)
    return PictureTable(
        ids=[str(i) for i in range(n)], paths=paths, labels=[""] * n, splits=[""] * n, attributes=attributes
    )


def gathered(loader: PictureLoader, batches: Any, **options: Any) -> list[tuple[list[int], list[Any], list[Any]]]:
    return [(rows.tolist(), pictures.tolist(), bad) for rows, pictures, bad in loader.read(batches, **options)]


PLAN = [[3, 1, 1], [5, 22, 17], [5], [], [0]]


@pytest.fixture(scope="module")
def expected(table: PictureTable) -> list[tuple[list[int], list[Any], list[Any]]]:
    return gathered(noisy_loader(table, 0), PLAN, seed=[7, 2])


def test_batches_are_the_rows_asked_for(table: PictureTable) -> None:
    loader = PictureLoader(table, plain, workers=0)
    batches = list(loader.read(PLAN))
    assert [batch.rows.tolist() for batch in batches] == [[3, 1, 1], [22], [], [], [0]]
    assert [[picture.row for picture in batch.bad] for batch in batches] == [[], [5, 17], [5], [], []]
    for batch in batches:
        assert batch.rows.dtype == torch.int64
        for row, picture in zip(batch.rows.tolist(), batch.pictures, strict=True):
            assert torch.equal(picture, plain(Image.open(table.paths[row])))
    bad = batches[1].bad
    assert [picture.path for picture in bad] == [table.paths[5], table.paths[17]]
    assert "차 5.png" in bad[0].message
    assert "missing.png" in bad[1].message


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(table: PictureTable, expected: Any, workers: int) -> None:
    state = torch.get_rng_state()
    with noisy_loader(table, workers) as loader:
        assert gathered(loader, PLAN, seed=[7, 2]) == expected
        # The same workers again, after a call that was given up half-way.
        next(iter(loader.read(PLAN * 20, seed=1)))
        assert gathered(loader, PLAN, seed=[7, 2]) == expected
        assert gathered(loader, [], seed=1) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_decide_and_nothing_else(table: PictureTable, expected: Any) -> None:
    loader = noisy_loader(table, 0)
    state = torch.get_rng_state()
    torch.manual_seed(1234)
    random.seed(1234)
    assert gathered(loader, PLAN, seed=[7, 2]) == expected
    torch.set_rng_state(state)
    assert gathered(loader, PLAN, seed=(7, 2)) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert gathered(loader, PLAN, seed=[7, 3]) != expected
    assert gathered(loader, PLAN, seed=7) != expected
    # The same row twice in one batch is augmented twice.
    assert expected[0][1][1] != expected[0][1][2]


def test_a_plan_can_be_taken_up_at_any_batch(table: PictureTable, expected: Any) -> None:
    loader = noisy_loader(table, 0)
    for skip in range(len(PLAN)):
        assert gathered(loader, PLAN[skip:], seed=[7, 2], skip=skip) == expected[skip:]


def test_strict_batches_name_the_bad_picture(table: PictureTable) -> None:
    loader = PictureLoader(table, plain, workers=0)
    rows, pictures = next(iter(loader.batches([[2, 3]])))
    assert rows.tolist() == [2, 3]
    assert pictures.shape == (2, 4, 4, 3)
    with pytest.raises(ImageError, match=r"차 5\.png"):
        list(loader.batches([[2], [5]]))


def test_boxes_are_cut_out(table: PictureTable) -> None:
    texts = {"x1": ["2", ""], "y1": ["1", ""], "x2": ["9", ""], "y2": ["8", ""]}
    boxed = make_table(table.paths[:2], **texts)
    batch = next(iter(PictureLoader(boxed, plain, workers=0).read([[0, 1]])))
    first, second = (Image.open(path) for path in boxed.paths)
    assert torch.equal(batch.pictures[0], plain(first.crop((2, 1, 9, 8))))
    assert torch.equal(batch.pictures[1], plain(second))
    # A box beside the picture is a bad picture, not a bad table.
    boxed = make_table(table.paths[:1], x1=["20"], y1=["20"], x2=["30"], y2=["30"])
    assert [bad.row for bad in next(iter(PictureLoader(boxed, plain, workers=0).read([[0]]))).bad] == [0]


def test_a_bug_in_a_transform_is_no_bad_picture(table: PictureTable) -> None:
    for workers in (0, 1):
        with (
            PictureLoader(table, broken, workers=workers) as loader,
            pytest.raises(RuntimeError, match="a bug in a transform"),
        ):
            list(loader.read([[0]]))


@pytest.mark.parametrize("plan", [[[23]], [[-1]], [[0], [0, 99]]])
def test_rows_outside_the_table(table: PictureTable, plan: list[list[int]]) -> None:
    with pytest.raises(DataError, match="rows 0 to 22"):
        list(PictureLoader(table, plain, workers=0).read(plan))


def test_wrong_numbers(table: PictureTable) -> None:
    with pytest.raises(UsageError, match="there is no seed"):
        list(noisy_loader(table, 0).read(PLAN))
    with pytest.raises(UsageError, match="0 or more"):
        PictureLoader(table, plain, workers=-1)
    with pytest.raises(UsageError, match="at least 1"):
        row_batches(10, 0)


@pytest.mark.parametrize(
    ("n", "size", "lengths"), [(0, 3, []), (1, 3, [1]), (3, 3, [3]), (4, 3, [3, 1]), (7, 100, [7])]
)
def test_row_batches(n: int, size: int, lengths: list[int]) -> None:
    batches = row_batches(n, size)
    assert [len(batch) for batch in batches] == lengths
    assert [row for batch in batches for row in batch] == list(range(n))
    rows = np.arange(n, dtype=np.int64)[::-1]
    assert [row for batch in row_batches(rows, size) for row in batch] == rows.tolist()


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def cores(n: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(n)), raising=False)

    cores(1)
    assert default_workers() == default_workers(10**6) == 0
    cores(4)
    assert (default_workers(), default_workers(999), default_workers(1000)) == (4, 0, 4)
    cores(96)
    assert default_workers() == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert default_workers() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 0


SCRIPT = """
import json, sys
from hashret.data.loading import PictureLoader
from hashret.data.table import PictureTable
from hashret.model.preprocess import Preprocess

if __name__ == "__main__":
    paths = json.loads(sys.argv[1])
    n = len(paths)
    table = PictureTable(ids=[str(i) for i in range(n)], paths=paths, labels=[""] * n, splits=[""] * n)
    with PictureLoader(table, Preprocess(8).pixels, workers=2) as loader:
        print(sum(int(batch.pictures.sum()) for batch in loader.read([[i] for i in range(n)])))
"""


def test_a_script_with_workers_ends_cleanly(table: PictureTable, tmp_path: Path) -> None:
    paths = table.paths[:4]
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(tmp_path / "script.py"), json.dumps(paths)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert int(done.stdout) > 0


def test_the_next_batch_is_made_while_one_is_used(table: PictureTable) -> None:
    made: list[int] = []
    in_use, next_begun = threading.Event(), threading.Event()

    def make(picture: Image.Image) -> np.ndarray:
        made.append(threading.get_ident())
        if len(made) > 1:
            assert in_use.wait(10)
            next_begun.set()
        return resized(picture)

    batches = PictureLoader(table, make, workers=0).read([[0], [1], [2], [3], [4]])
    next(batches)
    in_use.set()
    assert next_begun.wait(10), "nothing was made while the first batch was in use"
    assert len(list(batches)) == 4
    assert set(made) != {threading.get_ident()} and len(set(made)) == 1


def test_a_reader_that_is_given_up_leaves_no_thread(table: PictureTable) -> None:
    before = threading.active_count()
    batches = PictureLoader(table, plain, workers=0).read([[row] for row in range(20)])
    next(batches)
    batches.close()
    assert threading.active_count() == before
