"""`hashret index --sync` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, make_pictures, settle

from hashret import following
from hashret.data.sources import open_source
from hashret.encoding import encode_table
from hashret.index import CosineIndex, HammingIndex
from hashret.index.store import Store
from hashret.model.hasher import Hasher

CPU = ["--device", "cpu", "--workers", 0]

STOPPED = """
import sys, time
from hashret.cli import main
from hashret.encoding import encode_table
from hashret.model.hasher import Hasher

run_batch, batches = Hasher.run_batch, []

def stops(self, pictures):
    batches.append(len(pictures))
    if len(batches) == 4:
        print("in the fourth", flush=True)
        time.sleep(60)
    return run_batch(self, pictures)

Hasher.run_batch = stops
encode_table.__kwdefaults__["chunk_size"] = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def made(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `set` of 24 pictures of three classes, and `set.index`, which follows it; tests take copies."""
    from hashret.cli import main

    root = tmp_path_factory.mktemp("made")
    make_pictures(root / "set", classes=3)
    words = ["index", "--sync", "--model", tiny_run, "--data", root / "set", "--out", root / "set.index", *CPU]
    assert main([str(word) for word in words]) == 0
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set and its index, to be changed; the working folder."""
    place = tmp_path / "자리"
    shutil.copytree(made, place)
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def sync(hashret: Callable, place: Path) -> Callable[..., dict[str, Any]]:
    """Bring the index to the set; what is said as JSON."""

    def run(*words: object) -> dict[str, Any]:
        status, out, err = hashret("index", "--sync", "--data", "set", "--out", "set.index", *CPU, "--json", *words)
        assert status == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    found = run()  # the copies have times of their own
    assert found["moved"] == 24, "paths are others, bytes the same"
    settle(place)
    run()
    return run


def said(document: dict[str, Any]) -> dict[str, int]:
    """How many of each kind, without those of none."""
    kinds = (
        "added",
        "changed",
        "encoded_anew",
        "moved",
        "updated",
        "touched",
        "removed",
        "unchanged",
        "skipped",
        "kept",
    )
    return {kind: document[kind] for kind in kinds if document[kind]}


def is_as_new(index: Path, data: Path, model: Path) -> bool:
    """Whether the index holds the code of every picture of the folder, as the model makes it now, and nothing else."""
    table, loaded = open_source(data), HammingIndex.load(index)
    codes = encode_table(Hasher.from_pretrained(model, device="cpu"), table, workers=0).codes
    own = loaded.find(table.ids)
    starts, _, found = loaded.search_radius(codes, 0)
    near = [own[i] in found[starts[i] : starts[i + 1]] for i in range(len(table))]
    return len(loaded) == len(table) and loaded.records(own) == table.records() and all(near) and loaded.verify() > 0


def change_all_ways(data: Path) -> None:
    make_pictures(data / "새로", classes=1, pictures=2, first=5)
    for i in range(2):
        (data / "새로" / "class05" / f"{i:02d}.png").rename(data / "class00" / f"새 {i}.png")
    shutil.rmtree(data / "새로")
    shutil.copy(data / "class01" / "00.png", data / "class02" / "07.png")
    (data / "class00" / "03.png").rename(data / "class01" / unicodedata.normalize("NFD", "옮김.png"))
    (data / "class00" / "04.png").unlink()
    (data / "class00" / "05.png").touch()


def test_a_new_index_and_then_nothing_to_do(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "i"
    words = ["index", "--sync", "--model", tiny_run, "--data", closed_set, "--out", out, *CPU]
    assert hashret(*words)[:2] == (0, f"{out}: 48 added; 48 pictures in all\n")
    generation = Store.open(out).generation
    assert hashret(*words)[:2] == (0, f"{out}: 48 unchanged; 48 pictures in all\n")
    assert Store.open(out).generation == generation
    assert [path.name for path in out.parent.iterdir()] == ["i"], "nothing beside it"
    assert is_as_new(out, closed_set, tiny_run)
    plain = tmp_path / "plain"
    assert hashret("index", "--model", tiny_run, "--data", closed_set, "--out", plain, *CPU).status == 0
    code = "0000"
    asked = [json.loads(hashret("query", "--index", index, "--code", code, "--json").out) for index in (out, plain)]
    assert asked[0]["queries"] == asked[1]["queries"], "records are shown alike"


def test_all_kinds_of_change(sync: Callable, place: Path, tiny_run: Path, hashret: Callable) -> None:
    change_all_ways(place / "set")
    settle(place)
    words = ["index", "--sync", "--dry-run", "--data", "set", "--out", "set.index"]
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    status, out, err = hashret(*words)
    assert (status, err) == (0, "")
    assert out == (
        "added         class00/새 0.png\n"
        "added         class00/새 1.png\n"
        "changed       class02/07.png\n"
        "moved         class00/03.png -> class01/옮김.png\n"
        "touched       class00/05.png\n"
        "removed       class00/04.png\n"
        "set.index would have: 2 added, 1 changed, 1 moved, 1 touched, 1 removed, 20 unchanged; nothing was written\n"
    )
    document = json.loads(hashret(*words, "--json").out)
    assert document["changes"]["moved"] == [["class00/03.png", "class01/옮김.png"]] and document["pictures"] == 25
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before, "a dry run writes nothing"
    generation = Store.open(place / "set.index").generation
    assert sync() == {
        "index": "set.index", "dry_run": False, "added": 2, "changed": 1, "encoded_anew": 0, "moved": 1, "updated": 0,
        "touched": 1, "removed": 1, "unchanged": 20, "skipped": 0, "kept": 0, "skipped_list": None, "pictures": 25,
        "metrics": ["hamming"], "code_size": 16, "dim": None,
    }  # fmt: skip
    assert Store.open(place / "set.index").generation == generation + 1
    assert is_as_new(place / "set.index", place / "set", tiny_run)
    assert said(sync()) == {"unchanged": 25}


def test_a_class_folder_that_is_renamed(sync: Callable, place: Path, tiny_run: Path, monkeypatch: Any) -> None:
    (place / "set" / "class00").rename(place / "set" / "소나타")
    monkeypatch.setattr(Hasher, "from_pretrained", None)  # no model is needed, for nothing is encoded
    assert said(sync()) == {"moved": 8, "unchanged": 16}
    index = HammingIndex.load(place / "set.index")
    assert [record["label"] for record in index.records(index.ids) if record].count("소나타") == 8
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert is_as_new(place / "set.index", place / "set", tiny_run)


def test_what_needs_no_encoding_needs_no_torch(sync: Callable, place: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'torchvision', 'numba'): sys.modules[name] = None\n"
        "from hashret.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    (place / "set" / "class00" / "00.png").rename(place / "set" / "class01" / "moved.png")
    words = ["index", "--sync", "--data", "set", "--out", "set.index"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "1 moved, 23 unchanged" in done.stdout


def test_both_metrics_and_their_dtype_are_the_index_own(
    hashret: Callable, place: Path, tiny_run: Path, closed_set: Path
) -> None:
    words = ["index", "--sync", "--data", "set", "--out", "both.index", *CPU]
    flags = ["--metric", "both", "--feature-dtype", "int8"]
    assert hashret(*words, "--model", tiny_run, *flags).status == 0
    change_all_ways(place / "set")
    assert hashret(*words).status == 0 and is_as_new(place / "both.index", place / "set", tiny_run)
    store, table = Store.open("both.index"), open_source("set")
    assert (store.metrics, store.feature_dtype) == (["hamming", "cosine"], "int8")
    features = encode_table(
        Hasher.from_pretrained(tiny_run, device="cpu"), table, what=["features"], workers=0
    ).features
    # Features of 8 bits hardly tell pictures of one colour apart: a picture's own need not come first, but as near as that.
    similarities, found = CosineIndex.load("both.index").search(features, len(table))
    own = similarities[found == store.find(table.ids)[:, None]]
    assert own.shape == (len(table),) and (own > similarities[:, 0] - 5e-3).all()
    for flags, message in (
        (["--metric", "hamming"], "both.index holds hamming and cosine; leave --metric out"),
        (["--feature-dtype", "float16"], "both.index keeps features as int8; leave --feature-dtype out"),
    ):
        status, _, err = hashret(*words, *flags)
        assert status == 2 and message in err


def test_only_the_model_that_made_it(
    hashret: Callable, sync: Callable, place: Path, tiny_run: Path, closed_set: Path, tmp_path: Path
) -> None:
    status, _, err = hashret(
        "train", "--data", closed_set, "--runs", tmp_path, "--exp-name", "other", *TINY, "--epochs", 1, "--seed", 5
    )
    assert status == 0, err
    words = ["index", "--sync", "--data", "set", "--out", "set.index", *CPU]
    for more in ((), ("--dry-run",)):
        status, _, err = hashret(*words, "--model", tmp_path / "other", *more)
        assert status == 1 and "use the model that made the index" in err
    assert said(sync("--model", tiny_run)) == {"unchanged": 24}
    new = ["index", "--sync", "--data", "set", "--out", "none.index", *CPU]
    status, _, err = hashret(*new, "--model", tiny_run, "--feature-dtype", "int8")
    assert status == 2 and "--feature-dtype is for float features" in err


def test_a_model_that_is_gone(hashret: Callable, place: Path, tiny_run: Path) -> None:
    Hasher.from_pretrained(tiny_run, device="cpu").save_pretrained(place / "model")
    words = ["index", "--sync", "--data", "set", "--out", "i", *CPU]
    assert hashret(*words, "--model", "model").status == 0
    (place / "model").rename(place / "there")
    (place / "set" / "class00" / "00.png").unlink()
    assert hashret(*words).status == 0, "nothing to encode, so no model is asked for"
    shutil.copy("set/class00/01.png", "set/class00/new.png")
    status, _, err = hashret(*words)
    assert status == 2 and "model, is gone; say where it lies now with --model" in err.replace(str(place) + "/", "")
    assert hashret(*words, "--model", "there").status == 0


@pytest.mark.parametrize("flags", [["--dry-run"], ["--allow-removals"], ["--sync", "--append"], ["--sync", "--upsert"]])
def test_flags_that_do_not_go_together(hashret: Callable, place: Path, tiny_run: Path, flags: list[str]) -> None:
    status, _, err = hashret("index", "--model", tiny_run, "--data", "set", "--out", "set.index", *flags)
    assert status == 2 and "--sync" in err and err.count("\n") == 1


def test_a_disk_that_is_not_there_empties_nothing(hashret: Callable, sync: Callable, place: Path) -> None:
    words = ["index", "--sync", "--data", "set", "--out", "set.index", *CPU]
    before = Store.open("set.index").generation
    (place / "set").rename(place / "mounted")
    (place / "set").mkdir()
    status, _, err = hashret(*words)
    assert status == 1 and "set holds no pictures" in err
    status, _, err = hashret(*words, "--allow-removals")
    assert status == 1 and "set holds no pictures" in err, "an empty folder is never meant"
    shutil.copytree("mounted/class00", "set/class00")
    shutil.copytree("mounted/class01/", "set/class01")
    for i in range(5):
        (place / "set" / "class01" / f"{i:02d}.png").unlink()
    status, _, err = hashret(*words)
    assert (
        status == 1
        and (
            "13 of the 24 pictures of set.index are not in set any more, so nothing was done; see that its disk is there and the "
            "folder is the right one, or let them go with --allow-removals"
        )
        in err
    )
    assert Store.open("set.index").generation == before and sorted(path.name for path in place.iterdir()) == [
        "mounted", "set", "set.index",
    ]  # fmt: skip
    status, out, err = hashret(*words, "--dry-run")
    assert status == 0 and "13 removed" in out and "would be refused without --allow-removals" in err
    document = sync("--allow-removals")
    assert document["removed"] == 13 and document["pictures"] == 11


def test_half_may_go_and_a_small_index_may_shrink_but_not_vanish(
    hashret: Callable, tiny_run: Path, tmp_path: Path
) -> None:
    data = make_pictures(tmp_path / "set", classes=2, pictures=2)
    words = ["index", "--sync", "--data", data, "--out", tmp_path / "i", *CPU]
    assert hashret(*words, "--model", tiny_run).status == 0
    shutil.rmtree(data / "class01")
    (data / "class00" / "01.png").unlink()
    assert hashret(*words).status == 0
    make_pictures(data / "other", classes=1, first=4)
    (data / "class00" / "00.png").unlink()
    status, _, err = hashret(*words)
    assert status == 1 and "1 of the 1 picture of" in err and len(Store.open(tmp_path / "i")) == 1


def test_broken_pictures(hashret: Callable, sync: Callable, place: Path, tiny_run: Path) -> None:
    words = ["index", "--sync", "--data", "set", "--out", "set.index", *CPU]
    half = place / "set" / "class01" / "02.png"
    whole = half.read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    (place / "set" / "class00" / "깨짐.png").write_bytes(b"no picture")
    (place / "set" / "class02" / "00.png").unlink()
    generation = Store.open("set.index").generation
    status, _, err = hashret(*words)
    assert status == 1 and "cannot read" in err and Store.open("set.index").generation == generation
    document = sync("--on-bad", "skip")
    assert said(document) == {"removed": 1, "unchanged": 22, "skipped": 2, "kept": 1}
    assert document["pictures"] == 23 and Path(document["skipped_list"]).read_text("utf-8").count("\n") == 2
    status, out, err = hashret(*words, "--on-bad", "skip")
    assert status == 0 and out == "set.index: 22 unchanged; 23 pictures in all\n", (
        "nothing can be encoded, and nothing fails"
    )
    assert "1 picture that cannot be read now stays in the index as before" in err
    assert "2 pictures cannot be read; they are listed in" in err
    half.write_bytes(whole)
    (place / "set" / "class00" / "깨짐.png").unlink()
    assert said(sync()) in ({"touched": 1, "unchanged": 22}, {"unchanged": 23})
    assert is_as_new(place / "set.index", place / "set", tiny_run)


def test_an_index_that_was_not_made_with_sync(hashret: Callable, place: Path, tiny_run: Path) -> None:
    words = ["index", "--data", "set", "--out", "plain.index", *CPU]
    settle(place)
    assert hashret(*words, "--model", tiny_run).status == 0
    before = HammingIndex.load("plain.index").find(open_source("set").ids)
    status, out, err = hashret(*words, "--sync")
    assert status == 0 and out == "plain.index: 24 encoded anew; 24 pictures in all\n"
    assert "24 pictures were encoded anew, for the index had nothing to compare their files with; now it has" in err
    assert np.array_equal(HammingIndex.load("plain.index").find(open_source("set").ids), before)
    assert hashret(*words, "--sync").out == "plain.index: 24 unchanged; 24 pictures in all\n"


def test_pictures_appended_to_an_index_that_follows(
    hashret: Callable, sync: Callable, place: Path, tiny_run: Path
) -> None:
    more = make_pictures(place / "more", classes=1, pictures=2, first=4)
    words = ["--model", tiny_run, "--data", more, "--out", "set.index", *CPU]
    assert hashret("index", "--append", *words).status == 0
    assert said(sync()) == {"removed": 2, "unchanged": 24}, "they are not in the folder"


def test_a_zip(hashret: Callable, place: Path, tiny_run: Path) -> None:
    words = ["index", "--sync", "--data", "차.zip", "--out", "zip.index", *CPU, "--json"]

    def pack() -> None:
        (place / "차.zip").unlink(missing_ok=True)
        Path(shutil.make_archive("t", "zip", place / "set")).rename(place / "차.zip")

    pack()
    assert hashret(*words, "--model", tiny_run).status == 0
    change_all_ways(place / "set")
    pack()
    assert said(json.loads(hashret(*words).out)) == {
        "added": 2,
        "changed": 1,
        "moved": 1,
        "removed": 1,
        "unchanged": 21,
    }
    assert is_as_new(place / "zip.index", place / "차.zip", tiny_run)


def test_a_csv_and_one_split_of_it(hashret: Callable, place: Path, tiny_run: Path) -> None:
    table = open_source("set")
    table.splits = ["train"] * 12 + ["test"] * 12
    table.write_csv("t.csv")
    words = ["index", "--sync", "--data", "t.csv", "--split", "test", "--out", "csv.index", *CPU, "--json"]
    settle(place)
    assert said(json.loads(hashret(*words, "--model", tiny_run).out)) == {"added": 12}
    table.splits[0], table.labels[20] = "test", "아반떼"
    table.write_csv("t.csv")
    assert said(json.loads(hashret(*words).out)) == {"added": 1, "updated": 1, "unchanged": 11}
    index = HammingIndex.load("csv.index")
    assert index.records(index.find([table.ids[20]]))[0]["label"] == "아반떼"


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number,status", [("SIGINT", 130), ("SIGKILL", -9)])
def test_a_stopped_sync_leaves_the_old_index_and_goes_on(
    hashret: Callable, sync: Callable, place: Path, tiny_run: Path, number: str, status: int
) -> None:
    make_pictures(place / "set" / "more", classes=2, pictures=10, first=4)
    (place / "set" / "class00" / "00.png").unlink()
    (place / "set" / "class00" / "01.png").rename(place / "set" / "class00" / "moved.png")
    old = {path: path.read_bytes() for path in (place / "set.index").rglob("*") if path.is_file()}
    words = ["index", "--sync", "--data", "set", "--out", "set.index", *map(str, CPU)]
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as running:
        assert running.stdout is not None and running.stdout.readline() == "in the fourth\n"
        other = hashret(*words)
        assert other.status == 1 and "another command is bringing set.index up to date; wait for it" in other.err
        running.send_signal(getattr(signal, number))
        _, err = running.communicate(timeout=60)
    assert running.returncode == status, err
    assert {path: path.read_bytes() for path in (place / "set.index").rglob("*") if path.is_file()} == old
    assert len(list((place / "set.index.unfinished").glob("chunk-*.npz"))) == 3
    make_pictures(place / "set" / "aaa", classes=1, pictures=1, first=9)  # meanwhile life goes on
    chunked = encode_table.__kwdefaults__["chunk_size"]
    encode_table.__kwdefaults__["chunk_size"] = 4
    try:
        done = hashret(*words)
    finally:
        encode_table.__kwdefaults__["chunk_size"] = chunked
    assert done.status == 0 and "12 of 21 pictures are encoded already" in done.err
    assert done.out == "set.index: 21 added, 1 moved, 1 removed, 22 unchanged; 44 pictures in all\n"
    assert is_as_new(place / "set.index", place / "set", tiny_run)
    assert sorted(path.name for path in place.iterdir()) == ["set", "set.index"]


def test_an_index_that_another_command_changed_meanwhile(
    hashret: Callable, sync: Callable, place: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(place / "set" / "more", classes=1, pictures=3, first=4)
    run_batch = Hasher.run_batch

    def meanwhile(self: Hasher, pictures: Any) -> Any:
        store = Store.open("set.index")
        store.remove(store.find(["class00/00.png"]))
        return run_batch(self, pictures)

    words = ["index", "--sync", "--data", "set", "--out", "set.index", *CPU]
    with monkeypatch.context() as patch:
        patch.setattr(Hasher, "run_batch", meanwhile)
        status, _, err = hashret(*words)
    assert status == 1 and "was changed by another command meanwhile" in err and "run the same command again" in err
    status, out, err = hashret(*words)
    assert status == 0 and "4 added" in out and is_as_new(place / "set.index", place / "set", tiny_run)


def test_a_reader_sees_the_old_index_or_the_new(hashret: Callable, sync: Callable, place: Path) -> None:
    sizes, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            index = HammingIndex.load("set.index")
            assert len([record for record in index.records(index.ids) if record]) == len(index)
            sizes.add(len(index))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        make_pictures(place / "set" / "more", classes=1, pictures=3, first=4)
        for i in range(5):
            (place / "set" / "class00" / f"{i:02d}.png").unlink()
        document = sync()
    finally:
        stop.set()
        reader.join()
    assert document["pictures"] == 22 and sizes <= {24, 22}


def test_what_cannot_be_written_is_said_first(hashret: Callable, place: Path, tiny_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    words = ["index", "--sync", "--model", tiny_run, "--data", "set", *CPU]
    status, _, err = hashret(*words, "--out", file / "i")
    assert status == 2 and "nothing can be written" in err
    for out in (file, place / "set"):
        status, _, err = hashret(*words, "--out", out)
        assert status in (1, 2) and err.count("\n") == 1
        assert "is no hashret index" in err or "nothing can be written" in err
    assert file.read_text() == "mine" and sorted(path.name for path in place.iterdir()) == ["set", "set.index"]


@pytest.mark.slow
def test_a_hundred_thousand_unchanged_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds are printed, not asserted: they are the machine's. That nothing is read is asserted."""
    n = 100_000
    data = tmp_path / "data"
    for label in range(100):
        (data / f"{label:02d}").mkdir(parents=True)
    for i in range(n):
        (data / f"{i % 100:02d}" / f"{i:06d}.jpg").write_bytes(b"%d" % i)
    store = Store.create(tmp_path / "i", code_size=64)
    started = time.perf_counter()
    changes = following.compare(open_source(data), None)
    first = time.perf_counter() - started
    codes = np.random.default_rng(0).integers(0, 256, (n, 8), np.uint8)
    store.replace(codes, records=changes.records(range(n)))
    seconds = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "_digest", None)
        for what in ("the first time", "again"):
            started = time.perf_counter()
            table = open_source(data)
            listed = time.perf_counter()
            changes = following.compare(table, Store.open(tmp_path / "i"))
            seconds[what] = (listed - started, time.perf_counter() - listed)
            assert len(changes.unchanged_rows) == n and os.cpu_count()
    with capsys.disabled():
        print(f"\n{n:,} pictures: all new and read {first:.1f} s")
        for what, (listing, comparing) in seconds.items():
            print(f"unchanged, {what}: listing {listing:.2f} s, comparing {comparing:.2f} s")
