"""`hashret index info, verify, repair, compact, remove` and `--upsert`, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hashret.index import HammingIndex, Store, manifest
from hashret.index.manifest import SEGMENTS


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Six pictures of two views, codes of 16 bits."""
    store = Store.create(
        tmp_path / "차.index", code_size=16, model={"fingerprint": "0123456789abcdef", "name": "runs/x"}
    )
    codes = np.arange(12, dtype=np.uint8).reshape(6, 2)
    names = [f"차{i}" for i in range(6)]
    store.append(
        codes, records=[{"id": name, "path": f"{name}.jpg", "view": 15 * (i % 2)} for i, name in enumerate(names)]
    )
    return store.folder


def flip(index: Path, name: str, at: int) -> Path:
    (entry,) = manifest.read(index).segments
    path = index / SEGMENTS / entry.name / name
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    return path


def test_info(hashret: Callable, index: Path) -> None:
    hashret("index", "remove", index, "차0")
    status, out, err = hashret("index", "info", index)
    assert (status, err) == (0, "")
    records = sum(path.stat().st_size for path in index.rglob("metadata.sqlite"))
    other = (index / manifest.NAME).stat().st_size + sum(path.stat().st_size for path in index.rglob("deleted*"))
    assert out == (
        f"{index}: 5 pictures in generation 3\n"
        "holds: codes of 16 bits\n"
        "model: runs/x, fingerprint 0123456789ab\n"
        "attributes: view\n"
        "segments: 1, with 1 deleted rows\n"
        f"bytes: codes 140, ids 176, records {records:,}, other {other:,}; codes and ids take 6.32 times their own bytes\n"
        "format: version 1\n"
    )
    document = json.loads(hashret("index", "info", index, "--json").out)
    assert document["pictures"] == 5 and document["attributes"] == ["view"] and document["code_bytes"] == 140


def test_verify_and_repair(hashret: Callable, index: Path) -> None:
    total = sum(file.n_bytes for file in manifest.read(index).segments[0].files.values())
    assert hashret("index", "verify", index) == (0, f"{index}: whole, {total:,} bytes read\n", "")
    assert json.loads(hashret("index", "verify", index, "--json").out)["whole"] is True
    assert hashret("index", "repair", index) == (0, f"{index}: nothing is damaged, 6 pictures\n", "")

    path = flip(index, "metadata.sqlite", -1)
    why = f"{path} is damaged (its checksum is wrong); restore the folder from a copy or build the index again"
    status, out, err = hashret("index", "verify", index)
    segment = path.parent.name
    assert status == 1 and out == f"{why} - 6 rows of {segment}\n"
    assert err == (
        f"hashret: 1 file of {index} is damaged; restore the folder from a copy, or keep the rest with "
        f"`hashret index repair {index}`\n"
    )
    document = json.loads(hashret("index", "verify", index, "--json").out)
    assert document["damages"] == [{"segment": segment, "file": "metadata.sqlite", "rows": 6, "why": why}]
    status, out, err = hashret("index", "repair", index)
    assert (status, err) == (0, "")
    assert out == (
        f"{why}\n6 pictures kept, but without path, label and attributes\n{index}: repaired, 0 lost, 6 pictures\n"
    )
    assert hashret("index", "verify", index).status == 0


def test_repair_names_what_is_lost(hashret: Callable, index: Path) -> None:
    flip(index, "codes.npy", -1)
    out = hashret("index", "repair", index).out
    assert out.splitlines()[1:] == [*(f"lost: 차{i}" for i in range(6)), f"{index}: repaired, 6 lost, 0 pictures"]


def test_repair_as_json(hashret: Callable, index: Path) -> None:
    flip(index, "ids.npy", -1)
    document = json.loads(hashret("index", "repair", index, "--json").out)
    assert document["lost"] == [f"차{i}" for i in range(6)] and document["pictures"] == 0
    assert [each["file"] for each in document["damages"]] == ["ids.npy"]


def test_compact(hashret: Callable, index: Path) -> None:
    Store.open(index).append(np.zeros((1, 2), np.uint8))
    hashret("index", "remove", index, "차0", "차1")
    ids = HammingIndex.load(index).ids.tolist()
    status, out, err = hashret("index", "compact", index)
    assert (status, err) == (0, "")
    assert out.startswith(f"{index}: 5 pictures in 2 segments (before 2), 2 removed rows dropped, ")
    assert HammingIndex.load(index).ids.tolist() == ids == [2, 3, 4, 5, 6]
    generation = manifest.read(index).generation
    document = json.loads(hashret("index", "compact", index, "--json").out)
    assert document["removed_rows"] == 0 and document["bytes"] == document["bytes_before"]
    assert manifest.read(index).generation == generation, "nothing to do is no commit"


def test_remove_by_condition(hashret: Callable, index: Path) -> None:
    said = f"{index}: 3 pictures would be removed (차1, 차3, 차5), 3 would be left\n"
    assert hashret("index", "remove", index, "--where", "view = 15", "--dry-run") == (0, said, "")
    assert len(HammingIndex.load(index)) == 6
    document = json.loads(hashret("index", "remove", index, "--where", "view = 15", "--json").out)
    assert document == {"index": str(index), "removed": 3, "dry_run": False, "pictures": 3}
    assert HammingIndex.load(index).ids.tolist() == [0, 2, 4]
    assert hashret("index", "remove", index, "--where", "view = 15").out == f"{index}: 0 pictures removed, 3 left\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either ids of pictures to remove or --where CONDITION"),
        (["차1", "--where", "view = 0"], "give either ids of pictures to remove or --where CONDITION"),
        (["차1", "x", "y"], "2 ids are not in {index}, the first is 'x'; nothing was removed"),
        (
            ["--where", "view ="],
            "the condition 'view =' cannot be read: found its end, expected a number, or a text in",
        ),
    ],
)
def test_what_cannot_be_removed(hashret: Callable, index: Path, words: list[str], message: str) -> None:
    status, out, err = hashret("index", "remove", index, *words)
    assert (status, out) == (2, "") and message.format(index=index) in err
    assert len(HammingIndex.load(index)) == 6


@pytest.mark.parametrize("verb", ["info", "verify", "repair", "compact", "remove"])
def test_help_opens_with_an_example_and_no_index_is_one_sentence(hashret: Callable, tmp_path: Path, verb: str) -> None:
    out = hashret("index", verb, "--help").out
    assert out.startswith(f"Example:  hashret index {verb} ") and f"usage: hashret index {verb}" in out
    status, out, err = hashret("index", verb, tmp_path / "none", *(["x"] if verb == "remove" else []))
    assert status == 1 and out == "" and len(err.splitlines()) == 1
    assert "is no hashret index" in err


def test_query_where(hashret: Callable, index: Path) -> None:
    status, out, err = hashret("query", "--index", index, "--code", "0001", "-k", 2, "--where", "view = 15")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "0001: the 2 nearest of 3 pictures where view = 15"
    assert [line.split()[3] for line in out.splitlines()[2:]] == ["차1", "차3"]
    document = json.loads(
        hashret("query", "--index", index, "--code", "0001", "--where", "id in ('차4')", "--radius", 16, "--json").out
    )
    assert (document["where"], document["pictures"], document["chosen"]) == ("id in ('차4')", 6, 1)
    assert [hit["id"] for hit in document["queries"][0]["results"]] == ["차4"]
    status, _, err = hashret("query", "--index", index, "--code", "0001", "--where", "veiw = 15")
    assert status == 2 and "no picture in the index has an attribute 'veiw'" in err
    status, _, err = hashret("query", "--index", index, "--code", "0001", "--where", "view = ")
    assert status == 2 and "cannot be read" in err


def test_upsert(hashret: Callable, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors, (first, second) = rng.standard_normal((40, 8)), (tmp_path / "a.npy", tmp_path / "b.npy")
    np.save(first, vectors)
    np.save(second, vectors[:2] + 1)
    (tmp_path / "a.txt").write_text("".join(f"v{i}\n" for i in range(40)))
    (tmp_path / "b.txt").write_text("v3\nnew\n")
    index = tmp_path / "i"
    made = ["index", "--embeddings", first, "--ids", tmp_path / "a.txt", "--out", index, "--code-size", 8]
    assert hashret(*made).status == 0
    more = ["index", "--embeddings", second, "--ids", tmp_path / "b.txt", "--out", index]
    assert "1 id of b.npy is in" in hashret(*more, "--append").err
    assert hashret(*more, "--upsert").status == 0
    store = Store.open(index)
    assert len(store) == 41 and store.find(["v3", "new"]).tolist() == [3, 40]
    assert store.ids.tolist()[-2:] == [3, 40]


@pytest.mark.parametrize("where", ["veiw is null", "not veiw = 90", "label = 'a' or veiw is null"])
def test_a_misspelt_attribute_removes_nothing(hashret: Callable, index: Path, where: str) -> None:
    for words in (["--dry-run"], []):
        status, _, err = hashret("index", "remove", index, "--where", where, *words)
        assert status == 2 and "has an attribute 'veiw'" in err


def test_rows_without_a_record_are_removed_by_their_number(hashret: Callable, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "i", code_size=8)
    store.append(np.array([[1], [2], [3]], np.uint8))
    store.append(np.array([[4]], np.uint8), records=[{"id": "1"}])
    status, out, err = hashret("index", "remove", tmp_path / "i", "2", "1", "--json")
    assert status == 0 and json.loads(out)["removed"] == 2, err
    assert Store.open(tmp_path / "i").ids.tolist() == [0, 1], "a record's id goes before a number"
    for name in ("3", "7", "-1", "9" * 30, "\udcff"):
        assert hashret("index", "remove", tmp_path / "i", name).status == 2
