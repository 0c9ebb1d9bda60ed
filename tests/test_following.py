"""An index that follows a folder: any changes, then one commit, hold what a new index would hold."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret import following
from hashret.data.loading import BadPicture
from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.encoding import Encoded
from hashret.errors import DataError, SearchError
from hashret.following import Changes, bring_up_to_date, compare
from hashret.images import open_archive, split_zip_path
from hashret.index import HammingIndex, durable
from hashret.index.records import STAMP
from hashret.index.store import Store

BITS, DIM = 64, 4


def content(path: str) -> bytes:
    inside = split_zip_path(path)
    return open_archive(inside[0]).read(inside[1], 1 << 20) if inside else Path(path).read_bytes()


def code_of(path: str, box: Any) -> np.ndarray:
    """A code that tells bytes and boxes apart, as a network would at best."""
    return np.frombuffer(hashlib.sha256(content(path) + repr(box).encode()).digest()[: BITS // 8], np.uint8)


def encode(table: PictureTable, *, features: bool = False) -> Encoded:
    """The codes of a table; a picture whose bytes are "broken" or cannot be had is skipped."""
    rows, codes, skipped = [], [], []
    for row, path in enumerate(table.paths):
        try:
            broken = content(path) == b"broken"
        except OSError:
            broken = True
        if broken:
            skipped.append(BadPicture(row, path, "it is broken"))
        else:
            rows.append(row)
            codes.append(code_of(path, table.box(row)))
    codes_NB = np.array(codes, np.uint8).reshape(-1, BITS // 8)
    features_ND = codes_NB[:, :DIM].astype(np.float32) + 1 if features else None
    return Encoded(np.array(rows, np.int64), codes_NB, features_ND, None, skipped)


def encode_new(changes: Changes, *, features: bool = False) -> Encoded:
    """What `bring_up_to_date` takes."""
    return changes.in_table_order(encode(changes.to_encode(), features=features))


def sync(folder: Path, data: Path, *, features: bool = False, dtype: str = "float32") -> tuple[Changes, list[str]]:
    """Bring the index to the pictures as they are, or make it."""
    new = not folder.exists()
    options: dict[str, Any] = {"dim": DIM, "feature_dtype": dtype} if features else {}
    store = Store.create(folder, code_size=BITS, **options) if new else Store.open(folder)
    changes = compare(open_source(data), None if new else store)
    encoded = encode_new(changes, features=features) if changes.encode_rows else None
    return changes, bring_up_to_date(store, changes, encoded)


def holds(folder: Path, data: Path) -> bool:
    """Whether the index holds what one that is made now would hold, up to the order of rows."""
    index, table = HammingIndex.load(folder), open_source(data)
    records = {record["id"]: record for record in index.records(index.ids) if record}
    wanted = {record["id"]: dict(record) for record in table.records()}
    if records != wanted or len(index) != len(wanted):
        return False
    codes = np.array([code_of(path, table.box(row)) for row, path in enumerate(table.paths)])
    starts, distances, ids = index.search_radius(codes, 0)
    own = index.find(table.ids)
    return not distances.any() and all(
        set(own[(codes == codes[row]).all(axis=1)]) == set(ids[starts[row] : starts[row + 1]])
        for row in range(len(table))
    )


def ints(folder: Path) -> dict[str, int]:
    """The number of every string id."""
    index = HammingIndex.load(folder)
    return {record["id"]: int(i) for i, record in zip(index.ids, index.records(index.ids), strict=True) if record}


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve pictures of three classes, one of them in Hangul, none the same."""
    root = tmp_path / "pictures"
    for label in ("a", "b", "소나타"):
        for i in range(4):
            write(root / label / f"{i}.jpg", f"{label}{i}")
    return root


@pytest.fixture
def index(tmp_path: Path, data: Path) -> Path:
    folder = tmp_path / "i"
    changes, _ = sync(folder, data)
    assert len(changes.added) == 12 and holds(folder, data)
    settle(data)
    sync(folder, data)
    return folder


def settle(data: Path) -> None:
    """Let the clock of the file system go on, so that times tell what changed."""
    last = max(path.lstat().st_ctime_ns for path in data.rglob("*"))
    while time.time_ns() <= last + following._FINE_TICK_NS:
        time.sleep(0.01)


def kinds(changes: Changes) -> dict[str, Any]:
    """What changed, without what did not."""
    found = {
        kind: getattr(changes, kind)
        for kind in ("added", "changed", "encoded_anew", "moved", "updated", "touched", "removed")
    }
    return {kind: names for kind, names in found.items() if names}


class Reading:
    """The paths whose bytes are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        digest = following._digest

        def noted(path: str) -> str | None:
            self.paths.append(path)
            return digest(path)

        monkeypatch.setattr(following, "_digest", noted)


def test_what_is_unchanged_is_not_read(index: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(monkeypatch)
    generation = Store.open(index).generation
    changes, _ = sync(index, data)
    assert kinds(changes) == {} and len(changes.unchanged_rows) == 12 and reading.paths == []
    assert Store.open(index).generation == generation, "nothing to commit"


def test_stamps_are_not_shown(index: Path) -> None:
    store = Store.open(index)
    assert all(STAMP not in record for record in store.records(store.ids) if record)
    assert all(len(record[STAMP].split()[1]) == 32 for record in store.records(store.ids, with_stamps=True) if record)


def test_one_of_each_kind_in_one_commit(index: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, generation = ints(index), Store.open(index).generation
    write(data / "a" / "새 것.jpg", "new")
    write(data / "a" / "0.jpg", "changed")
    (data / "a" / "1.jpg").rename(data / "b" / "moved.jpg")
    (data / "a" / "2.jpg").unlink()
    (data / "a" / "3.jpg").touch()
    reading = Reading(monkeypatch)
    changes, _ = sync(index, data)
    assert kinds(changes) == {
        "added": ["a/새 것.jpg"],
        "changed": ["a/0.jpg"],
        "moved": [("a/1.jpg", "b/moved.jpg")],
        "touched": ["a/3.jpg"],
        "removed": ["a/2.jpg"],
    }
    assert len(reading.paths) == 4 and sorted(changes.to_encode().ids) == ["a/0.jpg", "a/새 것.jpg"]
    assert Store.open(index).generation == generation + 1 and holds(index, data)
    after = ints(index)
    assert after["b/moved.jpg"] == before["a/1.jpg"], "the number stays with the code"
    assert after["a/0.jpg"] == before["a/0.jpg"], "as by an upsert"
    assert after["a/새 것.jpg"] == 12 and before["a/2.jpg"] not in after.values()
    assert Store.open(index).verify() > 0


@pytest.mark.parametrize("same_times", [False, True])
def test_a_swap_of_two_names(index: Path, data: Path, same_times: bool) -> None:
    one, two = data / "a" / "0.jpg", data / "소나타" / "1.jpg"
    if same_times:  # and the same size: only the time of change tells
        write(two, "xy")
        for path in (one, two):
            os.utime(path, ns=(10**18, 10**18))
        settle(data)
        sync(index, data)
    before = ints(index)
    one.rename(data / "t")
    two.rename(one)
    (data / "t").rename(two)
    changes, _ = sync(index, data)
    assert kinds(changes) == {"moved": [("소나타/1.jpg", "a/0.jpg"), ("a/0.jpg", "소나타/1.jpg")]}
    assert holds(index, data) and ints(index)["a/0.jpg"] == before["소나타/1.jpg"]


def test_a_chain_of_renames_whose_first_is_new(index: Path, data: Path) -> None:
    before = ints(index)
    for i in (2, 1, 0):
        (data / "a" / f"{i}.jpg").rename(data / "a" / f"{i + 1}.jpg")
    write(data / "a" / "0.jpg", "new")
    changes, _ = sync(index, data)
    assert kinds(changes) == {
        "added": ["a/0.jpg"],
        "moved": [(f"a/{i}.jpg", f"a/{i + 1}.jpg") for i in range(3)],
        "removed": ["a/3.jpg"],
    }, "what was last in the chain was written over"
    assert holds(index, data) and ints(index)["a/3.jpg"] == before["a/2.jpg"]


def test_a_name_in_another_case_and_another_unicode_form(index: Path, data: Path) -> None:
    (data / "a" / "0.jpg").rename(data / "a" / "0.JPG")
    (data / "소나타").rename(data / unicodedata.normalize("NFD", "소나타"))
    changes, _ = sync(index, data)
    assert changes.to_encode().ids == [] and ("a/0.jpg", "a/0.JPG") in changes.moved and len(changes.moved) == 5
    assert holds(index, data)


def test_the_same_picture_at_two_places_is_two(index: Path, data: Path) -> None:
    shutil.copy2(data / "a" / "0.jpg", data / "b" / "copy.jpg")
    settle(data)
    changes, _ = sync(index, data)
    assert kinds(changes) == {"added": ["b/copy.jpg"]} and holds(index, data)
    (data / "a" / "0.jpg").unlink()
    changes, _ = sync(index, data)
    assert kinds(changes) == {"removed": ["a/0.jpg"]} and holds(index, data)


def test_a_picture_that_is_gone_gives_its_code_before_one_that_was_changed(index: Path, data: Path) -> None:
    write(data / "b" / "same.jpg", "a0")
    sync(index, data)
    before = ints(index)
    write(data / "a" / "0.jpg", "other")
    (data / "b" / "same.jpg").rename(data / "b" / "z.jpg")
    changes, _ = sync(index, data)
    assert kinds(changes) == {"changed": ["a/0.jpg"], "moved": [("b/same.jpg", "b/z.jpg")]}
    assert ints(index) == {
        **{name: i for name, i in before.items() if name != "b/same.jpg"},
        "b/z.jpg": before["b/same.jpg"],
    }


def test_links_are_followed(index: Path, data: Path, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.jpg", "one"), write(tmp_path / "two.jpg", "two")
    link = data / "a" / "link.jpg"
    link.symlink_to(one)
    sync(index, data)
    assert holds(index, data)
    link.unlink()
    link.symlink_to(two)
    changes, _ = sync(index, data)
    assert kinds(changes) == {"changed": ["a/link.jpg"]} and holds(index, data)
    two.unlink()
    changes, kept = sync(index, data)
    assert kinds(changes) == {"changed": ["a/link.jpg"]} and kept == ["a/link.jpg"], (
        "a dangling link is a broken picture"
    )


def test_a_picture_that_is_broken_now_stays_as_it_was(index: Path, data: Path) -> None:
    before, generation = ints(index), Store.open(index).generation
    write(data / "a" / "0.jpg", "broken")
    write(data / "a" / "new.jpg", "broken")
    changes, kept = sync(index, data)
    assert kept == ["a/0.jpg"] and changes.added == ["a/new.jpg"]
    assert ints(index) == before and Store.open(index).generation == generation
    _, distances, ids = HammingIndex.load(index).search_radius(
        np.frombuffer(hashlib.sha256(b"a0None").digest()[:8], np.uint8)[None], 0
    )
    assert ids.tolist() == [before["a/0.jpg"]] and distances.tolist() == [0]
    write(data / "a" / "0.jpg", "whole")
    (data / "a" / "new.jpg").unlink()
    assert sync(index, data)[1] == [] and holds(index, data)


def test_labels_and_attributes_of_a_csv(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.jpg", f"{i}")
    table = tmp_path / "t.csv"
    table.write_text("id,path,label,색\n" + "".join(f"p{i},{i}.jpg,x,빨강\n" for i in range(4)), "utf-8")
    folder = tmp_path / "i"
    sync(folder, table)
    settle(tmp_path)
    sync(folder, table)
    table.write_text("id,path,label,색\np0,0.jpg,y,빨강\np1,1.jpg,x,파랑\np2,2.jpg,x,빨강\np9,3.jpg,x,빨강\n", "utf-8")
    changes, _ = sync(folder, table)
    assert kinds(changes) == {"updated": ["p0", "p1"], "moved": [("p3", "p9")]} and holds(folder, table)
    table.write_text("id,path,label\np0,0.jpg,y\np1,1.jpg,x\np2,2.jpg,x\np9,3.jpg,x\n", "utf-8")
    changes, _ = sync(folder, table)
    assert kinds(changes) == {"updated": ["p0", "p1", "p2", "p9"]} and holds(folder, table)
    table.write_text(f"id,path,{STAMP}\np0,0.jpg,x\n", "utf-8")
    with pytest.raises(DataError, match="which is the index's own; rename or remove it"):
        compare(open_source(table), None)


def test_boxes_are_part_of_the_picture(tmp_path: Path) -> None:
    write(tmp_path / "0.jpg", "0")
    table, folder = tmp_path / "t.csv", tmp_path / "i"
    table.write_text("id,path,x1,y1,x2,y2\nl,0.jpg,0,0,5,5\nr,0.jpg,5,0,9,5\nall,0.jpg,,,,\n")
    sync(folder, table)
    assert holds(folder, table)
    settle(tmp_path)
    sync(folder, table)
    table.write_text("id,path,x1,y1,x2,y2\nl,0.jpg,0,0,5.0,5\nr,0.jpg,6,0,9,5\nall,0.jpg,,,,\n")
    changes, _ = sync(folder, table)
    assert kinds(changes) == {"changed": ["r"], "updated": ["l"]} and holds(folder, table)
    table.write_text("id,path,x1,y1,x2,y2\nl,0.jpg,6,0,9,5\nr,0.jpg,0,0,5,5\nall,0.jpg,,,,\n")
    changes, _ = sync(folder, table)
    assert len(changes.moved) == 2 and not changes.encode_rows and holds(folder, table), "a swap of boxes"


def test_a_zip_is_followed_by_its_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, folder = tmp_path / "차.zip", tmp_path / "i"

    def pack(**members: str) -> None:
        with zipfile.ZipFile(archive, "w") as opened:
            for name, text in members.items():
                opened.writestr(f"{name}.jpg", text)

    pack(사진="1", b="2", c="3")
    sync(folder, archive)
    reading = Reading(monkeypatch)
    pack(c="3", d="4", 사진="1", b="x")
    changes, _ = sync(folder, archive)
    assert kinds(changes) == {"added": ["d.jpg"], "changed": ["b.jpg"]} and holds(folder, archive)
    assert len(reading.paths) == 2, "the others are known by the zip's own checksums"
    pack(e="3", d="1", 사진="4")
    changes, _ = sync(folder, archive)
    assert kinds(changes) == {
        "moved": [("사진.jpg", "d.jpg"), ("c.jpg", "e.jpg"), ("d.jpg", "사진.jpg")],
        "removed": ["b.jpg"],
    }
    assert holds(folder, archive)


def test_another_place_with_the_same_pictures(index: Path, data: Path, tmp_path: Path) -> None:
    before = ints(index)
    data.rename(tmp_path / "elsewhere")
    changes, _ = sync(index, tmp_path / "elsewhere")
    assert len(changes.moved) == 12 and not changes.encode_rows and holds(index, tmp_path / "elsewhere")
    assert ints(index) == before and changes.moved[0] == (str(data / "a/0.jpg"), str(tmp_path / "elsewhere/a/0.jpg"))


def test_an_index_that_was_built_without_stamps(data: Path, tmp_path: Path) -> None:
    folder, table = tmp_path / "i", open_source(data)
    store = Store.create(folder, code_size=BITS)
    encoded = encode(table)
    store.append(encoded.codes, records=table.records())
    before = ints(folder)
    (data / "a" / "0.jpg").rename(data / "a" / "9.jpg")
    changes, _ = sync(folder, data)
    assert len(changes.encoded_anew) == 11 and changes.added == ["a/9.jpg"] and changes.removed == ["a/0.jpg"]
    assert holds(folder, data) and all(i == before[name] for name, i in ints(folder).items() if name != "a/9.jpg")
    settle(data)
    assert not sync(folder, data)[0].encode_rows


def test_codes_without_records_follow_nothing(data: Path, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "i", code_size=BITS)
    store.append(np.zeros((3, 8), np.uint8))
    with pytest.raises(SearchError, match="3 of the 3 pictures of the index have no record"):
        compare(open_source(data), store)


def test_a_change_that_was_made_for_another_generation_is_refused(index: Path, data: Path) -> None:
    write(data / "a" / "new.jpg", "new")
    store = Store.open(index)
    changes = compare(open_source(data), store)
    sync(index, data)
    with pytest.raises(SearchError, match=r"was changed by another command meanwhile \(generation 4, expected 3\)"):
        bring_up_to_date(store, changes, encode_new(changes))
    assert holds(index, data)


def test_a_file_that_changes_while_it_is_read_is_read_again(index: Path, data: Path) -> None:
    write(data / "a" / "0.jpg", "half")
    store = Store.open(index)
    changes = compare(open_source(data), store)
    write(data / "a" / "0.jpg", "half and half")
    encoded = encode_new(changes)
    write(data / "a" / "0.jpg", "whole")
    bring_up_to_date(store, changes, encoded)
    settle(data)
    changes, _ = sync(index, data)
    assert kinds(changes) == {"encoded_anew": ["a/0.jpg"]} and holds(index, data)


def test_a_change_within_a_tick_of_the_clock_is_seen(index: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that counts whole seconds a second change leaves size and times as they were."""
    stat = os.stat

    def coarse(path: Any, *args: Any, **options: Any) -> Any:
        found = stat(path, *args, **options)
        times = {name: getattr(found, name) // 10**9 * 10**9 for name in ("st_mtime_ns", "st_ctime_ns")}
        return SimpleNamespace(st_size=found.st_size, st_mode=found.st_mode, **times)

    monkeypatch.setattr(following, "os", SimpleNamespace(stat=coarse, name=os.name))
    while time.time() % 1 > 0.5:
        time.sleep(0.02)
    write(data / "a" / "0.jpg", "one")
    sync(index, data)
    write(data / "a" / "0.jpg", "two")
    changes, _ = sync(index, data)
    assert changes.changed == ["a/0.jpg"] and holds(index, data)


def test_what_comes_last_is_encoded_last(data: Path, tmp_path: Path) -> None:
    """So finished parts of an interrupted run stay as they are when pictures come to the folder."""
    first = compare(open_source(data), None).to_encode().ids
    settle(data)
    write(data / "a" / "00.jpg", "new")
    write(data / "a" / "1.jpg", "changed")
    second = compare(open_source(data), None).to_encode().ids
    assert sorted(second[-2:]) == ["a/00.jpg", "a/1.jpg"]
    assert [name for name in first if name != "a/1.jpg"] == second[:-2]
    sync(tmp_path / "i", data)
    index = HammingIndex.load(tmp_path / "i")
    assert [record["id"] for record in index.records(index.ids) if record] == open_source(data).ids, (
        "rows as in the table"
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_features_that_stay_are_not_rounded_again(data: Path, tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / "i"
    sync(folder, data, features=True, dtype=dtype)
    store = Store.open(folder)
    before = {name: store._contents.vectors(store.find([name]))["features"].tobytes() for name in open_source(data).ids}
    (data / "a" / "1.jpg").rename(data / "b" / "moved.jpg")
    write(data / "a" / "new.jpg", "new")
    for path in data.rglob("*.jpg"):
        path.touch()
    sync(folder, data, features=True, dtype=dtype)
    store = Store.open(folder)
    before["b/moved.jpg"] = before.pop("a/1.jpg")
    for name, features in before.items():
        assert store._contents.vectors(store.find([name]))["features"].tobytes() == features
    assert holds(folder, data) and store.verify() > 0


@pytest.fixture(scope="module")
def unflushed() -> Iterator[None]:
    """Commits that do not wait for the disk: there are many, and what survives a power cut is not the question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "flush", lambda *paths: None)
        yield


@pytest.mark.usefixtures("unflushed")
def test_an_index_that_is_changed_often_stays_a_few_segments(index: Path, data: Path) -> None:
    rng = random.Random(0)
    for day in range(40):
        write(data / "a" / f"day{day}.jpg", f"day {day}")
        write(rng.choice(sorted(data.rglob("*.jpg"))), f"changed on day {day}")
        sync(index, data)
    assert holds(index, data)
    store = Store.open(index)
    assert len(store._manifest.segments) <= 7, "52 pictures, 40 commits"
    assert all(2 * entry.n_deleted <= entry.rows for entry in store._manifest.segments)


# ---- any changes ----------------------------------------------------------------------------------------------------

NAMES = [f"{label}/{i}.jpg" for label in ("a", "b", "차") for i in range(3)]
CONTENTS = ["1", "2", "33", "broken"]
one_change = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.sampled_from(CONTENTS)),
    st.tuples(st.just("move"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("swap"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("copy"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("touch"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("sync"), st.just(""), st.just("")),
)


def apply(data: Path, change: tuple[str, str, str]) -> None:
    kind, one, two = data / change[0], data / change[1], data / change[2]
    if kind.name == "write":
        write(one, change[2])
    elif one.is_file() and kind.name == "remove":
        one.unlink()
    elif one.is_file() and kind.name == "touch":
        one.touch()
    elif one.is_file() and kind.name in ("move", "copy") and one != two:
        two.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copy2 if kind.name == "copy" else os.replace)(one, two)
    elif one.is_file() and two.is_file() and kind.name == "swap" and one != two:
        one.rename(data / "t")
        two.rename(one)
        (data / "t").rename(two)


@pytest.mark.usefixtures("unflushed")
@settings(max_examples=120, deadline=None)
@given(changes=st.lists(one_change, min_size=1, max_size=14))
def test_any_changes_lead_where_a_new_index_would_be(tmp_path_factory: pytest.TempPathFactory, changes: Any) -> None:
    root = tmp_path_factory.mktemp("any")
    data, folder = root / "data", root / "i"
    for name in NAMES[:5]:
        write(data / name, name[-5])
    for change in [*changes, ("sync", "", "")]:
        if change[0] != "sync":
            apply(data, change)
            continue
        write(data / "a" / "always.jpg", "always")
        before = ints(folder) if folder.exists() else {}
        said, kept = sync(folder, data)
        after = ints(folder)
        new = [name for name in said.added if content(str(data / name)) != b"broken"]
        assert len(after) == len(before) + len(new) - len(said.removed), "what is said adds up"
        stays = set(kept)
        assert stays == {name for name in after if content(str(data / name)) == b"broken"}
        # What is broken now stays as it was; all else is as in a new index.
        assert all(after[name] == before[name] for name in stays)
        index = HammingIndex.load(folder)
        table = open_source(data)
        good = table.select([row for row, name in enumerate(table.ids) if content(str(data / name)) != b"broken"])
        assert set(after) == set(good.ids) | stays
        codes = np.array([code_of(path, None) for path in good.paths])
        found = Store.open(folder)._contents.vectors(index.find(good.ids))["codes"]
        assert np.array_equal(found, codes)
        assert index.records(index.find(good.ids)) == good.records()
        assert len(set(after.values())) == len(after)
        index.verify()
    shutil.rmtree(root)
