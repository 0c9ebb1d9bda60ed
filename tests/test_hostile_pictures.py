"""A folder of hostile pictures through index, query and train: named, left out or refused, and nothing else harmed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import hostile_pictures
import pytest
from conftest import TINY, make_pictures

from hashret.index import Store

CPU = ["--device", "cpu", "--workers", 0]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "pictures"
    hostile_pictures.make(folder)
    return folder


def test_index_leaves_out_what_cannot_be_read(hashret: Callable, hostile: Path, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"
    words = ["index", "--model", tiny_run, "--data", hostile, "--out", out, *CPU]
    status, _, err = hashret(*words)
    assert status == 1 and len(err.strip().splitlines()) == 1 and "cannot read" in err, "the first stops it"
    assert not out.exists()

    status, said, err = hashret(*words, "--on-bad", "skip", "--json")
    assert status == 0, err
    document = json.loads(said)
    store = Store.open(out)
    indexed = {Path(record["path"]).name for record in store.records(store.ids) if record}
    assert indexed == hostile_pictures.READABLE and document["added"] == len(indexed)
    listed = Path(document["skipped_list"]).read_text("utf-8")
    left_out = {path.name for path in hostile.iterdir() if path.is_file()} - hostile_pictures.READABLE
    assert document["skipped"] >= len(left_out) and all(name in listed for name in left_out)

    status, said, err = hashret(
        "index", "--sync", "--model", tiny_run, "--data", hostile, "--out", out, *CPU, "--on-bad", "skip", "--json"
    )
    assert status == 0 and json.loads(said)["pictures"] == len(indexed), err


def test_query_names_the_picture(hashret: Callable, hostile: Path, tiny_run: Path, tmp_path: Path) -> None:
    good = make_pictures(tmp_path / "good", classes=2, pictures=2)
    assert hashret("index", "--model", tiny_run, "--data", good, "--out", tmp_path / "i", *CPU).status == 0
    for path in sorted(hostile.iterdir()):
        status, out, err = hashret("query", "--index", tmp_path / "i", path, "-k", 1, "--device", "cpu")
        if path.name in hostile_pictures.READABLE:
            assert status == 0 and out, f"{path.name}: {err}"
        else:
            assert status == 1 and out == "" and len(err.strip().splitlines()) == 1 and path.name in err, (
                f"{path.name}: {err}"
            )


def test_training_leaves_them_out_too(hashret: Callable, hostile: Path, tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", classes=4, pictures=6)
    for number, folder in enumerate(sorted(path for path in data.iterdir() if path.is_dir())):
        for path in sorted(hostile.iterdir())[number::4]:
            if path.is_file():
                shutil.copy(path, folder / f"hostile {path.name}")
    words = ["train", "--data", data, "--runs", tmp_path / "runs", "--exp-name", "t", *TINY]
    status, _, err = hashret(*words)
    assert status == 1 and "hostile" in err.strip().splitlines()[-1]
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    status, _, err = hashret(*words, "--on-bad", "skip")
    assert status == 0, err
    assert "listed in" in err


def test_the_checker_names_them_all(hashret: Callable, hostile: Path) -> None:
    status, out, err = hashret("data", "check", hostile)
    assert status == 1
    for path in hostile.iterdir():
        if path.is_file() and path.name not in hostile_pictures.READABLE:
            assert path.name in out, f"{path.name}: {err}"
