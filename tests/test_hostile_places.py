"""What stands where an index has its folders and files, and is none: nothing outside is touched, nothing waits, one sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashret.errors import IndexFormatError, SearchError
from hashret.index import HammingIndex, Store, damage, durable, generations, info, manifest
from hashret.index.segments import read_array

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and links of POSIX")
TOKEN = "0123abcd"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    store = Store.create(tmp_path / "i", code_size=64)
    store.append(np.arange(24, dtype=np.uint8).reshape(3, 8), records=[{"id": f"p{i}", "path": "x"} for i in range(3)])
    store.remove([1])
    return store.folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else, with names that an index could use."""
    place = tmp_path / "outside"
    (place / "sub" / "000001-0123abcd").mkdir(parents=True)
    for name in ("precious", "000001.json", "sub/000001-0123abcd/ids.npy"):
        (place / name).write_text("precious")
    (place / "000002-0123abcd").mkdir()
    return place


def all_of(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else b"" for path in place.rglob("*")}


CHANGES: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.append(np.zeros((1, 8), np.uint8), records=[{"id": "new"}]),
    "remove": lambda store: store.remove([0]),
    "remove nothing": lambda store: store.remove([]),
    "compact": lambda store: store.compact(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", manifest.PLACES)
@pytest.mark.parametrize("when", ["before it is opened", "after"])
def test_a_folder_that_is_a_link_is_refused(index: Path, outside: Path, name: str, change: str, when: str) -> None:
    store, before = Store.open(index), all_of(outside)
    shutil.rmtree(index / name, ignore_errors=True)
    (index / name).symlink_to(outside)
    with pytest.raises(IndexFormatError, match="it is a link to another folder"):
        CHANGES[change](Store.open(index) if when == "before it is opened" else store)
    for read in (damage.verify, damage.repair, info.describe, HammingIndex.load):
        with pytest.raises(IndexFormatError, match="it is a link to another folder"):
            read(index)
    assert all_of(outside) == before


@pytest.mark.parametrize("change", CHANGES)
def test_an_empty_index_writes_through_no_link(tmp_path: Path, outside: Path, change: str) -> None:
    store, before = Store.create(tmp_path / "e", code_size=64), all_of(outside)
    shutil.rmtree(tmp_path / "e" / "segments")
    (tmp_path / "e" / "segments").symlink_to(outside)
    with pytest.raises(IndexFormatError, match="it is a link to another folder"):
        CHANGES[change](store)
    assert all_of(outside) == before


@pytest.mark.parametrize("name", manifest.PLACES)
def test_a_folder_that_is_a_file_is_refused(index: Path, name: str) -> None:
    shutil.rmtree(index / name, ignore_errors=True)
    (index / name).write_text("x")
    for use in (Store.open, damage.verify, damage.repair):
        with pytest.raises(IndexFormatError, match="it is no folder"):
            use(index)
    (index / name).unlink()


def test_copies_that_are_none_are_not_followed_and_make_nobody_wait(index: Path, outside: Path) -> None:
    before, store = all_of(outside), Store.open(index)
    copies, number = index / "generations", store.generation
    os.mkfifo(copies / "000001.json")
    (copies / f"{number + 1:06d}.json").symlink_to(outside / "precious")
    (copies / f"{number + 5:06d}.json").symlink_to(outside)
    (copies / "000009.json").mkdir()
    (copies / "mine").mkdir()
    (copies / "mine" / "notes").write_text("kept")
    (index / "segments" / "mine").mkdir()
    store.remove([0])
    store.append(np.zeros((1, 8), np.uint8))
    assert all_of(outside) == before and (copies / "mine" / "notes").read_text() == "kept"
    assert (index / "segments" / "mine").is_dir() and len(Store.open(index)) == 2
    # The copy of this very generation: readers then have no lease, and wait for nobody.
    own = manifest.copy_of(index, store.generation)
    own.unlink()
    os.mkfifo(own)
    assert generations.lease(index, store.generation) is None
    assert damage.verify(index) and len(HammingIndex.load(index)) == 2
    store.remove([2])
    assert damage.repair(index).damages == []


def test_a_manifest_that_is_a_folder_or_a_pipe(index: Path) -> None:
    (index / "manifest.json").unlink()
    for make in (os.mkdir, os.mkfifo):
        make(index / "manifest.json")
        for use in (Store.open, damage.verify):
            with pytest.raises(IndexFormatError, match=r"has no manifest\.json"):
                use(index)
        if make is os.mkdir:
            with pytest.raises(IndexFormatError, match=r"has no manifest\.json"):
                damage.repair(index)
            (index / "manifest.json").rmdir()
    assert damage.repair(index).manifest_from is not None, "a file takes the place of a pipe"
    assert len(Store.open(index)) == 2


@pytest.mark.parametrize("name", ["codes.npy", "metadata.sqlite", "ids.npy", "deleted"])
def test_repair_copies_no_pipes(index: Path, name: str) -> None:
    (entry,) = manifest.read(index).segments
    path = index / "segments" / entry.name / (str(entry.deleted) if name == "deleted" else name)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IndexFormatError):
        Store.open(index)
    done = damage.repair(index)
    assert [each.file for each in done.damages] == [path.name]
    assert damage.verify(index) >= 0 and not (index / "damaged" / entry.name / path.name).exists()


def rewritten(index: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and make its checksum right."""
    content = json.loads((index / "manifest.json").read_text("utf-8"))
    change(content)
    content.pop("checksum")
    content["checksum"] = manifest._checksum(content)
    (index / "manifest.json").write_text(json.dumps(content), "utf-8")


def nested(deep: int) -> Any:
    value: Any = 1
    for _ in range(deep):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.update(segments=m["segments"] * 2), "a segment is named twice"),
        (lambda m: m.update(segments=m["segments"] * 30_000), "a segment is named twice"),
        (lambda m: m["segments"][0].update(deleted=None), "a segment lists|n_deleted is 1"),
        (lambda m: m.update(model={"name": nested(600)}), "its model is nested more than 50 deep"),
        (lambda m: m.update(model={"name": "\ud800"}), "it is not JSON"),
        (lambda m: m.update(metrics=["cosine"]), "metrics are"),
    ],
)
def test_manifests_that_cannot_be_are_refused(index: Path, change: Callable[..., object], why: str) -> None:
    rewritten(index, change)
    for use in (Store.open, damage.verify, info.describe):
        with pytest.raises(IndexFormatError, match=why):
            use(index)


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace('"format":', '"format": "hashret-index", "format":', 1).encode(),
    ],
)
def test_manifests_in_other_spellings_are_refused(index: Path, spell: Callable[[str], bytes]) -> None:
    (index / "manifest.json").write_bytes(spell((index / "manifest.json").read_text("utf-8")))
    with pytest.raises(IndexFormatError, match="it is not JSON"):
        Store.open(index)


def with_records(index: Path, *statements: str) -> None:
    """Change the SQLite file of the only segment, and make size and checksum right."""
    (entry,) = manifest.read(index).segments
    path = index / "segments" / entry.name / "metadata.sqlite"
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    digest = damage.digest_of(damage.parts_of(path))
    file = {"n_bytes": digest.n_bytes, "sha256": digest.sha256}
    rewritten(index, lambda content: content["segments"][0]["files"].update({"metadata.sqlite": file}))


COLUMNS = "row INTEGER PRIMARY KEY, id TEXT, path TEXT, label TEXT, split TEXT, attributes TEXT"
COPIED = ("ALTER TABLE records RENAME TO old", "INSERT INTO records SELECT * FROM old", "DROP TABLE old")


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (
            ["PRAGMA writable_schema = ON", "UPDATE sqlite_master SET sql = CAST(sql AS BLOB)"],
            "it has no table|SQLite says",
        ),
        (
            [
                "DROP TABLE records",
                "CREATE TABLE records(row INTEGER PRIMARY KEY, path, label, split, attributes, "
                "id TEXT AS (hex(zeroblob(400000000))))",
                "INSERT INTO records VALUES (0, '', '', '', '{}'), (1, '', '', '', '{}'), (2, '', '', '', '{}')",
            ],
            "has other columns than row, id, path",
        ),
        (["UPDATE records SET attributes = '{\"id\": 7}'"], "an attribute called id"),
        (["UPDATE records SET attributes = '{\"path\": null}'"], "an attribute called path"),
        (['UPDATE records SET attributes = \'{"v": "\\ud800"}\''], "are no JSON object"),
        (["UPDATE records SET attributes = '{\"v\": NaN}'"], "are no JSON object"),
    ],
)
def test_records_that_cannot_be_are_refused(index: Path, statements: list[str], why: str) -> None:
    with_records(index, *statements)
    for use in (
        damage.verify,
        lambda folder: Store.open(folder).records([0]),
        lambda folder: Store.open(folder).compact(),
        info.describe,
    ):
        with pytest.raises(IndexFormatError, match=why):
            use(index)


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (["UPDATE records SET id = 'p0'"], "the string id 'p0' is given to two rows"),
        (["INSERT INTO records VALUES (3, 'x', '', '', '', '{}')"], "it has 4 records of 4 rows, expected 3"),
        (["DELETE FROM records WHERE row = 2"], "it has 2 records of 2 rows, expected 3"),
        (
            [COPIED[0], f"CREATE TABLE records({COLUMNS.replace(' PRIMARY KEY', '')})", COPIED[1], COPIED[1], COPIED[2]],
            "it has 6 records of 3 rows, expected 3",
        ),
        (
            ["PRAGMA writable_schema = ON", "UPDATE sqlite_master SET sql = 'CREATE INDEX records_id ON records (path)' "
             "WHERE name = 'records_id'"],
            "SQLite says: ",
        ),
    ],
)  # fmt: skip
def test_verify_and_repair_find_what_opening_does_not(index: Path, statements: list[str], why: str) -> None:
    with_records(index, *statements)
    Store.open(index)
    for use in (damage.verify, damage.repair):
        with pytest.raises(IndexFormatError, match=why):
            use(index)


def test_checksums_of_blocks_are_checked_too(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "i", code_size=64)
    store.append(np.random.default_rng(0).integers(0, 256, (20_000, 8), dtype=np.uint8))
    (entry,) = manifest.read(store.folder).segments
    path = store.folder / "segments" / entry.name / "blocks.npy"
    blocks = read_array(path, entry.files["blocks.npy"], np.dtype("<u8"), 6).copy()

    def replaced(array: np.ndarray) -> None:
        path.unlink()
        np.save(path, array)
        digest = damage.digest_of(damage.parts_of(path))
        file = {"n_bytes": digest.n_bytes, "sha256": digest.sha256}
        rewritten(store.folder, lambda content: content["segments"][0]["files"].update({"blocks.npy": file}))

    for wrong, why in (
        (blocks ^ np.uint64(1), "its checksums are not those of"),
        (blocks[:-1], "it does not fit the files"),
        (blocks.astype(np.int64), "it does not fit the files"),
    ):
        replaced(wrong)
        with pytest.raises(IndexFormatError, match=why):
            damage.verify(store.folder)
        done = damage.repair(store.folder)
        assert done.rows_lost == 0 and {each.file for each in done.damages} == {"blocks.npy"}
        damage.verify(store.folder)
        (entry,) = manifest.read(store.folder).segments
        path = store.folder / "segments" / entry.name / "blocks.npy"
    path.unlink()
    with pytest.raises(IndexFormatError, match=r"blocks\.npy is missing"):
        Store.open(store.folder)


def test_a_writer_writes_nothing_that_no_reader_takes(index: Path) -> None:
    described = manifest.read(index)
    before = (index / "manifest.json").read_bytes()
    with pytest.raises(IndexFormatError, match="generation is"):
        manifest.write(index, dataclasses.replace(described, generation=2**62 + 1))
    assert (index / "manifest.json").read_bytes() == before
    with pytest.raises(FileExistsError):
        durable.write_file(index / "manifest.json", [b"x"])


def test_verify_holds_what_it_reads(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer compacts and compacts again between two files that are read."""
    really, done = damage.digest_of, []

    def slowly(parts: Any) -> Any:
        if not done:
            done.append(Store.open(index).compact())
            Store.open(index).remove([0])
            Store.open(index).compact()
        return really(parts)

    monkeypatch.setattr(damage, "digest_of", slowly)
    assert damage.verify(index) > 0 and done == [1]


def test_a_repair_takes_no_number_that_a_reader_may_hold(index: Path) -> None:
    store = Store.open(index)
    store.append(np.zeros((1, 8), np.uint8))
    store.append(np.zeros((1, 8), np.uint8))
    held = Store.open(index)
    older = Store.open(index).generation
    for path in (index / "manifest.json", manifest.copy_of(index, older)):
        path.write_bytes(path.read_bytes()[:-10])
    shutil.copy(index / "manifest.json", index / "generations" / f"{older:06d}.json")
    copies = sorted((index / "generations").iterdir())
    if len(copies) == 1:  # what is not held is gone: nothing is left to repair from
        with pytest.raises(IndexFormatError):
            damage.repair(index)
        return
    damage.repair(index)
    assert Store.open(index).generation > held.generation


def test_the_folders_above_a_new_index_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    really = durable._flush
    monkeypatch.setattr(durable, "_flush", lambda path: (flushed.append(path), really(path)))
    Store.create(tmp_path / "a" / "b" / "i", code_size=8)
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(flushed)


def test_records_are_read_wherever_the_process_goes(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(index.parent)
    store = Store.open(index.name)
    monkeypatch.chdir("/")
    assert [record and record["id"] for record in store.records([0, 2])] == ["p0", "p2"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux says where an open file is by now")
def test_a_reader_whose_folder_is_moved_keeps_all_of_it(index: Path) -> None:
    reader = HammingIndex.load(index)
    index.rename(index.parent / "elsewhere")
    assert [record and record["id"] for record in reader.records([0, 2])] == ["p0", "p2"]
    assert reader.search(np.zeros((1, 8), np.uint8), 3, where="id = 'p2'")[1].tolist() == [[2, -1, -1]]


def test_ids_that_are_here_already_are_not_given_again(index: Path) -> None:
    rewritten(index, lambda content: content.update(next_id=1))
    with pytest.raises((IndexFormatError, SearchError)):
        Store.open(index).append(np.zeros((2, 8), np.uint8))


def test_a_link_in_place_of_a_segment_that_is_held_is_not_followed(index: Path, outside: Path) -> None:
    before, store = all_of(outside), Store.open(index)
    held = json.loads((index / "manifest.json").read_text("utf-8"))
    held["segments"][0]["name"] = "000009-aaaaaaaa"
    (index / "segments" / "000009-aaaaaaaa").symlink_to(outside)
    (index / "manifest.json").rename(index / "kept")
    (index / "manifest.json").write_text(json.dumps(held), "utf-8")
    rewritten(index, lambda content: None)
    shutil.copy(index / "manifest.json", index / "generations" / "900000.json")
    (index / "kept").rename(index / "manifest.json")
    lease = generations.lease(index, 900_000)
    assert lease is not None
    store.append(np.zeros((1, 8), np.uint8))
    assert all_of(outside) == before


def test_a_copy_that_cannot_be_opened_is_taken_for_held(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = Store.open(index), Store.open(index)
    monkeypatch.setattr(generations, "_opened", lambda copy: None)
    writer.remove([0])
    writer.compact()
    assert [record and record["id"] for record in reader.records([0, 2])] == ["p0", "p2"]


def test_repair_leaves_everything_as_it_is_where_a_folder_is_a_link(index: Path, outside: Path) -> None:
    for name in manifest.PLACES:
        if (index / name).exists():
            (index / name).rename(index / "away")
        (index / name).symlink_to(outside)
        before = all_of(index), all_of(outside)
        with pytest.raises(IndexFormatError, match="it is a link"):
            damage.repair(index)
        assert (all_of(index), all_of(outside)) == before
        (index / name).unlink()
        if (index / "away").exists():
            (index / "away").rename(index / name)


def test_a_row_that_is_back_does_not_keep_a_string_id_that_a_later_one_has(index: Path) -> None:
    store = Store.open(index)
    store.append(np.ones((90, 8), np.uint8), records=[{"id": f"r{i}"} for i in range(90)])
    store.remove([int(store.find(["r7"])[0])])
    store.append(np.ones((1, 8), np.uint8), records=[{"id": "r7", "label": "new"}])
    (deleted,) = (index / "segments").rglob("deleted-*.npy")
    deleted.write_bytes(deleted.read_bytes()[:-1] + b"x")
    damage.repair(index)
    damage.verify(index)
    after = Store.open(index)
    assert [record and record["label"] for record in after.records(after.find(["r7"]))] == ["new"] and len(after) == 92


def test_a_stray_copy_with_a_huge_number_does_not_stop_a_repair(index: Path) -> None:
    (index / "generations" / ("9" * 20 + ".json")).write_text("x")
    codes = next((index / "segments").rglob("codes.npy"))
    codes.write_bytes(codes.read_bytes()[:-1] + b"x")
    damage.repair(index)
    assert Store.open(index).generation < 100 and damage.verify(index) == 0, "all rows were in the block"


def test_an_index_without_copies_is_read_again_where_a_file_is_gone(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(index / "generations")
    really, done = damage.digest_of, []

    def slowly(parts: Any) -> Any:
        if not done:
            done.append(Store.open(index).compact())
        return really(parts)

    monkeypatch.setattr(damage, "digest_of", slowly)
    assert damage.verify(index) > 0 and done == [1]


@pytest.mark.parametrize("model", [{"name": nested(60)}, {"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_models_that_cannot_be_written_are_refused_by_what_they_are(tmp_path: Path, model: dict[str, Any]) -> None:
    with pytest.raises(SearchError, match="the model "):
        Store.create(tmp_path / "i", code_size=8, model=model)
    assert not (tmp_path / "i").exists()


def test_numbers_as_keys_become_texts(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "i", code_size=8, model={"x": {2: 1, 10: 2}})
    assert store.model == {"x": {"2": 1, "10": 2}}


def test_processes_may_make_the_same_folders_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = durable.make_folder

    def faster(path: Path) -> None:
        path.mkdir(exist_ok=True)
        really(path)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "make_folder", faster)
        durable.make_parents(tmp_path / "a" / "b" / "i")
    Store.create(tmp_path / "c" / "d" / ".." / "i", code_size=8)
    assert (tmp_path / "a" / "b").is_dir() and len(Store.open(tmp_path / "c" / "i")) == 0
