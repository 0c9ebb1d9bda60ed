"""`hashret index --migrate` as a user types it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_pictures, settle

from hashret.errors import SearchError
from hashret.index import HammingIndex, Store
from hashret.model.hasher import Hasher

CPU = ["--device", "cpu", "--workers", 0]


@pytest.fixture(scope="module")
def other(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model: as tiny_run, with thresholds of its own."""
    hasher = Hasher.from_pretrained(tiny_run, device="cpu")
    hasher.thresholds = np.linspace(-0.3, 0.3, hasher.code_size, dtype=np.float32)
    folder = tmp_path_factory.mktemp("other") / "model"
    hasher.save_pretrained(folder)
    return folder


@pytest.fixture
def place(hashret: Callable, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `set` of 12 pictures and an index that follows it; the working folder."""
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path / "set", classes=3, pictures=4)
    settle(tmp_path)
    words = ["index", "--sync", "--model", tiny_run, "--data", "set", "--out", "set.index", "--metric", "both", *CPU]
    assert hashret(*words).status == 0
    return tmp_path


def test_the_index_is_as_a_new_one_and_follows_on(hashret: Callable, place: Path, other: Path) -> None:
    store = Store.open("set.index")
    store.remove([2])
    ids, records = store.ids.tolist(), store.records(store.ids)
    reader = HammingIndex.load("set.index")
    before = reader.search(store.codes(store.ids), 5)
    status, out, err = hashret("index", "--migrate", other, "--out", "set.index", *CPU)
    assert status == 0, err
    assert out == f"set.index: 11 pictures by {other} now, before by {store.model['name']}\n"

    after = Store.open("set.index")
    assert after.ids.tolist() == ids and after.records(after.ids) == records
    assert after.metrics == ["hamming", "cosine"] and after.generation == store.generation + 1
    hasher = Hasher.from_pretrained(other, device="cpu")
    expected = hasher.encode([record["path"] for record in records])
    assert np.array_equal(after.codes(ids), expected)
    config = hasher.config
    assert {key: after.model[key] for key in ("fingerprint", "thresholds", "preprocessing")} == {
        "fingerprint": hasher.fingerprint(),
        "thresholds": config["thresholds"],
        "preprocessing": config["preprocessing"],
    }
    for found, was in zip(reader.search(store.codes(ids), 5), before, strict=True):
        assert np.array_equal(found, was), "who had it open goes on with the old codes"
    with pytest.raises(SearchError, match="vectors of another model"):
        reader.refresh()

    document = json.loads(hashret("index", "--sync", "--data", "set", "--out", "set.index", *CPU, "--json").out)
    assert (document["added"], document["unchanged"]) == (1, 11), "the removed one comes back, the others are known"
    photo = records[0]["path"]
    assert hashret("query", "--index", "set.index", photo, "-k", 1).status == 0
    status, _, err = hashret("index", "--migrate", other, "--out", "set.index", *CPU)
    assert status == 2 and "nothing to migrate" in err


def test_a_picture_that_is_gone_stops_it_or_is_left_out(hashret: Callable, place: Path, other: Path) -> None:
    store = Store.open("set.index")
    gone = Path(store.records([3])[0]["path"])
    gone.unlink()
    status, out, err = hashret("index", "--migrate", other, "--out", "set.index", *CPU)
    assert status == 1 and out == "" and str(gone) in err
    assert Store.open("set.index").generation == store.generation
    document = json.loads(
        hashret("index", "--migrate", other, "--out", "set.index", *CPU, "--on-bad", "skip", "--json").out
    )
    assert (document["pictures"], document["skipped"]) == (11, 1)
    assert 3 not in Store.open("set.index").ids.tolist()


def test_a_picture_that_changed_is_encoded_as_it_is_and_seen_by_the_next_sync(
    hashret: Callable, place: Path, other: Path
) -> None:
    store = Store.open("set.index")
    paths = [record["path"] for record in store.records(store.ids)]
    content = Path(paths[0]).read_bytes()
    shutil.copy(paths[5], paths[0])
    settle(place)
    assert hashret("index", "--migrate", other, "--out", "set.index", *CPU).status == 0
    codes = Store.open("set.index").codes([0, 5])
    assert np.array_equal(codes[0], codes[1])
    Path(paths[0]).write_bytes(content)
    settle(place)
    document = json.loads(hashret("index", "--sync", "--data", "set", "--out", "set.index", *CPU, "--json").out)
    assert document["encoded_anew"] == 1, "the codes of what it was in between do not stay"
    hasher = Hasher.from_pretrained(other, device="cpu")
    assert np.array_equal(Store.open("set.index").codes(store.ids), hasher.encode(paths))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["set"], "leave out PICTURES"),
        (["--sync", "--data", "set"], "leave out PICTURES, --sync"),
        (["--model", "x"], "leave out --model"),
        (["--append"], "leave out --append"),
        (["--code-size", "8"], "leave out --code-size"),
        (["--dry-run", "--metric", "both"], "leave out --dry-run, --metric"),
        (["--label-map", "x.csv", "--ids", "x.txt"], "leave out --ids, --label-map"),
    ],
)
def test_flags_that_do_not_go_together(
    hashret: Callable, place: Path, other: Path, flags: list[str], message: str
) -> None:
    status, _, err = hashret("index", "--migrate", other, "--out", "set.index", *flags)
    assert status == 2 and message in err


def test_an_index_of_embeddings_has_no_pictures(hashret: Callable, place: Path, other: Path) -> None:
    np.save("x.npy", np.random.default_rng(0).standard_normal((20, 8)))
    assert hashret("index", "--embeddings", "x.npy", "--out", "x.index", "--code-size", 8).status == 0
    status, _, err = hashret("index", "--migrate", other, "--out", "x.index")
    assert status == 1 and "20 rows of x.index have no path of a picture, so nothing was changed" in err
