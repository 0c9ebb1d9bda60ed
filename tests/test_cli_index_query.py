"""`hashret index` and `hashret query` as a user types them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, make_pictures
from PIL import Image

from hashret import encoding
from hashret.data.sources import open_source
from hashret.encoding import encode_table
from hashret.index import CosineIndex, HammingIndex, records
from hashret.index.store import Store
from hashret.model.hasher import Hasher

ROOT = Path(__file__).parent.parent
CPU = ["--device", "cpu", "--workers", 0]


@pytest.fixture(scope="module")
def both_index(tiny_run: Path, closed_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes and features of the closed set; tests only read it."""
    from hashret.cli import main

    out = tmp_path_factory.mktemp("index") / "hues.index"
    words = ["index", "--model", tiny_run, "--data", closed_set, "--out", out, "--metric", "both", *CPU]
    assert main([str(word) for word in words]) == 0
    return out


@pytest.fixture(scope="module")
def encoded(tiny_run: Path, closed_set: Path) -> encoding.Encoded:
    hasher = Hasher.from_pretrained(tiny_run, device="cpu")
    return encode_table(hasher, open_source(closed_set), what=("codes", "features"), workers=0)


@pytest.fixture(scope="session")
def other_run(closed_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that made none of the indexes."""
    from hashret.cli import main

    runs = tmp_path_factory.mktemp("other")
    words = ["train", "--data", str(closed_set), "--runs", str(runs), "--exp-name", "other", *TINY, "--epochs", "1"]
    assert main([*words, "--seed", "5"]) == 0
    return runs / "other"


def ask(hashret: Callable, *words: object) -> dict[str, Any]:
    status, out, err = hashret("query", *words, "--json")
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def ids(document: dict[str, Any], query: int = 0) -> list[str]:
    return [hit["id"] for hit in document["queries"][query]["results"]]


# ---- index


def test_index_says_what_it_holds(hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path) -> None:
    for metric, holds in (
        ("hamming", "codes of 16 bits"),
        ("cosine", "features of 512 numbers"),
        ("both", "codes of 16 bits and features of 512 numbers"),
    ):
        out = tmp_path / metric
        words = ["index", "--model", tiny_run, "--data", closed_set, "--out", out, "--metric", metric, *CPU]
        assert hashret(*words)[:2] == (0, f"{out}: 48 pictures added, 48 in all, {holds}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both", "cosine", "hamming"], "nothing beside them"


def test_index_holds_what_the_model_says(
    both_index: Path, encoded: encoding.Encoded, closed_set: Path, tiny_run: Path
) -> None:
    index, features, table = HammingIndex.load(both_index), CosineIndex.load(both_index), open_source(closed_set)
    assert index.records(range(48)) == table.records()
    distances, found = index.search(encoded.codes, 1)
    assert (distances == 0).all() and (encoded.codes[found[:, 0]] == encoded.codes).all()
    similarities, found = features.search(encoded.features, 1)
    assert np.allclose(similarities, 1, atol=1e-5)
    assert index.verify() > 0
    hasher = Hasher.from_pretrained(tiny_run, device="cpu")
    assert index.model == {
        "fingerprint": hasher.fingerprint(),
        "name": str(tiny_run),
        "path": str(tiny_run),
        "thresholds": hasher.config["thresholds"],
        "preprocessing": hasher.config["preprocessing"],
    }


def test_index_json_is_one_document(hashret: Callable, tiny_run: Path, unseen_set: Path, tmp_path: Path) -> None:
    words = ["--model", tiny_run, "--data", unseen_set, "--split", "test", "--out", tmp_path / "i", *CPU, "--json"]
    status, out, _ = hashret("index", *words)
    assert status == 0
    assert json.loads(out) == {
        "index": str(tmp_path / "i"), "added": 24, "skipped": 0, "skipped_list": None, "pictures": 24,
        "metrics": ["hamming"], "code_size": 16, "dim": None,
    }  # fmt: skip
    assert {record["split"] for record in HammingIndex.load(tmp_path / "i").records(range(24))} == {"test"}


def test_kept_epochs_are_named_with_an_at(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_run.parent.parent)
    (tiny_run.parent.parent / "runs").symlink_to(tiny_run.parent)  # as where a user trains: RUN lies in ./runs
    words = ["--data", closed_set, "--out", tmp_path / "i", *CPU]
    assert hashret("index", "--model", "tiny@1", *words).status == 0
    first = Hasher.from_pretrained(tiny_run / "epochs" / "001", device="cpu").fingerprint()
    assert Store.open(tmp_path / "i").model["fingerprint"] == first
    photo = closed_set / "class00" / "00.png"
    assert ids(ask(hashret, "--index", tmp_path / "i", photo, "--device", "cpu", "-k", 48)).count("class00/00.png") == 1
    status, _, err = hashret("index", "--model", "tiny@7", "--data", closed_set, "--out", tmp_path / "j", *CPU)
    assert status == 1 and "has no epoch 7: it kept 1, 2" in err
    status, _, err = hashret("index", "--model", "nobody@1", "--data", closed_set, "--out", tmp_path / "j", *CPU)
    assert status == 1 and "there is no model 'nobody'" in err and "tiny" in err
    assert not (tmp_path / "j").exists()


def test_what_is_there_is_not_written_over(
    hashret: Callable, tiny_run: Path, closed_set: Path, both_index: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (both_index, tmp_path / "file", closed_set):
        before = sorted(out.rglob("*"))
        status, _, err = hashret("index", "--model", tiny_run, "--data", closed_set, "--out", out, *CPU)
        assert status == 2 and "exists; choose another --out, add to it with --append" in err
        assert sorted(out.rglob("*")) == before
    status, _, err = hashret("index", "--model", tiny_run, "--data", closed_set, "--out", tmp_path / "file" / "i", *CPU)
    assert status == 2 and err == (
        f"hashret: --out is {tmp_path / 'file' / 'i'}, but nothing can be written to {tmp_path / 'file'}; choose another place\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestAppend:
    @pytest.fixture
    def half(self, hashret: Callable, tiny_run: Path, unseen_set: Path, tmp_path: Path) -> Path:
        out = tmp_path / "half.index"
        words = ["--model", tiny_run, "--data", unseen_set, "--split", "train", "--out", out, *CPU]
        assert hashret("index", *words).status == 0
        return out

    def append(self, hashret: Callable, model: Path, data: Path, out: Path, *more: object) -> Any:
        return hashret("index", "--model", model, "--data", data, "--out", out, "--append", *CPU, *more)

    def test_new_pictures_are_added(
        self, hashret: Callable, half: Path, tiny_run: Path, unseen_set: Path, tmp_path: Path
    ) -> None:
        status, out, _ = self.append(hashret, tiny_run, unseen_set, half, "--split", "test")
        assert (status, out) == (0, f"{half}: 24 pictures added, 72 in all, codes of 16 bits\n")
        whole = tmp_path / "whole"
        assert hashret("index", "--model", tiny_run, "--data", unseen_set, "--out", whole, *CPU).status == 0
        one, two = HammingIndex.load(half), HammingIndex.load(whole)
        records = {record["id"]: record for record in two.records(two.ids)}
        assert {record["id"]: record for record in one.records(one.ids)} == records

    def test_a_picture_that_is_there_refuses_all(
        self, hashret: Callable, half: Path, tiny_run: Path, unseen_set: Path
    ) -> None:
        generation = Store.open(half).generation
        status, out, err = self.append(hashret, tiny_run, unseen_set, half)
        assert (status, out) == (2, "")
        assert "48 ids of hues are in" in err and "the first is 'train/class00/00.png', so nothing was added" in err
        assert len(Store.open(half)) == 48 and Store.open(half).generation == generation

    def test_another_model_is_refused(self, hashret: Callable, half: Path, other_run: Path, unseen_set: Path) -> None:
        status, out, err = self.append(hashret, other_run, unseen_set, half, "--split", "test")
        assert (status, out) == (1, "")
        assert "the index was made by the model" in err and "use the model that made the index" in err
        assert len(Store.open(half)) == 48

    def test_another_metric_is_refused(self, hashret: Callable, half: Path, tiny_run: Path, unseen_set: Path) -> None:
        for metric in ("both", "cosine"):
            status, _, err = self.append(hashret, tiny_run, unseen_set, half, "--split", "test", "--metric", metric)
            assert status == 2 and "holds hamming; leave --metric out when appending" in err
        assert self.append(hashret, tiny_run, unseen_set, half, "--split", "test", "--metric", "hamming").status == 0

    def test_from_within(
        self, hashret: Callable, half: Path, tiny_run: Path, unseen_set: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(half)
        status, out, err = self.append(hashret, tiny_run, unseen_set, Path(), "--split", "test")
        assert (status, out) == (0, ".: 24 pictures added, 72 in all, codes of 16 bits\n"), err
        assert [path.name for path in half.parent.iterdir()] == ["half.index"]

    def test_no_index_there(self, hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path) -> None:
        status, _, err = self.append(hashret, tiny_run, closed_set, tmp_path / "none")
        assert status == 1 and "is no hashret index" in err


def test_interrupted_encoding_goes_on_where_it_stopped(
    hashret: Callable,
    tiny_run: Path,
    closed_set: Path,
    tmp_path: Path,
    encoded: encoding.Encoded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(encode_table.__kwdefaults__, "chunk_size", 8)
    run_batch, batches = Hasher.run_batch, []

    def stopped_in_the_fourth(self: Hasher, pictures: Any) -> Any:
        batches.append(len(pictures))
        if len(batches) == 4:
            raise KeyboardInterrupt
        return run_batch(self, pictures)

    monkeypatch.setattr(Hasher, "run_batch", stopped_in_the_fourth)
    out = tmp_path / "i"
    words = ["index", "--model", tiny_run, "--data", closed_set, "--out", out, *CPU]
    status, said, err = hashret(*words)
    assert (status, said) == (130, "") and not out.exists()
    assert "the same command goes on from there" in err and err.endswith("hashret: interrupted\n")
    assert len(list((tmp_path / "i.unfinished").iterdir())) == 3
    status, said, err = hashret(*words)
    assert status == 0 and "24 of 48 pictures are encoded already" in err
    assert batches == [8] * 4 + [8] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    distances, _ = HammingIndex.load(out).search(encoded.codes, 1)
    assert len(Store.open(out)) == 48 and (distances == 0).all()


def test_an_index_appears_whole_or_not_at_all(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    words = ["index", "--model", tiny_run, "--data", closed_set, "--out", tmp_path / "i", *CPU]
    with monkeypatch.context() as patch:
        patch.setattr(records, "_write", full)
        status, _, err = hashret(*words)
    assert status == 1 and "cannot be written (database or disk is full); make room on the disk" in err
    assert not (tmp_path / "i").exists()
    (tmp_path / "i").mkdir()
    status, out, err = hashret(*words)
    assert status == 0 and "48 in all" in out and "48 of 48 pictures are encoded already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["i"] and HammingIndex.load(tmp_path / "i").verify() > 0


def test_bad_pictures_stop_it_or_are_listed(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(closed_set, tmp_path / "set")
    (data / "class00" / "깨짐.png").write_bytes(b"no picture")
    (data / "class03" / "00.png").write_bytes((data / "class03" / "00.png").read_bytes()[:300])
    words = ["index", "--model", tiny_run, "--data", data, "--out", tmp_path / "i", *CPU]
    status, out, err = hashret(*words)
    assert (status, out) == (1, "") and "깨짐.png" in err
    assert [path.name for path in tmp_path.iterdir()] == ["set"], "nothing was encoded, so nothing is kept"
    status, out, err = hashret(*words, "--on-bad", "skip", "--json")
    listed = tmp_path / "i.skipped.txt"
    assert status == 0 and f"2 pictures cannot be read; they are listed in {listed}" in err
    document = json.loads(out)
    assert (document["added"], document["skipped"], document["skipped_list"]) == (47, 2, str(listed))
    lines = [line.split("\t") for line in listed.read_text("utf-8").splitlines()]
    assert [Path(path).name for path, _ in lines] == ["깨짐.png", "00.png"] and all(reason for _, reason in lines)


def test_nothing_readable_is_no_index(hashret: Callable, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").touch()
    words = ["--model", tiny_run, "--data", tmp_path / "set", "--out", tmp_path / "i", "--on-bad", "skip", *CPU]
    status, _, err = hashret("index", *words)
    assert status == 1 and "none of the 1 picture of set can be read; nothing was indexed" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.skipped.txt", "set"]


# ---- query


def test_a_photo_finds_itself_and_what_is_near(
    hashret: Callable, both_index: Path, closed_set: Path, encoded: encoding.Encoded
) -> None:
    photos = [closed_set / "class02" / "03.png", closed_set / "class05" / "00.png"]
    document = ask(hashret, "--index", both_index, *photos, "-k", 7, "--device", "cpu")
    assert (document["metric"], document["exact"], document["pictures"]) == ("hamming", True, 48)
    bits = np.unpackbits(encoded.codes, axis=1).astype(int)
    table = open_source(closed_set)
    for query, photo in enumerate(photos):
        assert document["queries"][query]["query"] == str(photo)
        distances = np.abs(bits - bits[table.paths.index(str(photo))]).sum(axis=1)
        nearest = np.argsort(distances, kind="stable")[:7]
        results = document["queries"][query]["results"]
        assert [hit["rank"] for hit in results] == list(range(1, 8))
        assert [hit["distance"] for hit in results] == distances[nearest].tolist()
        assert [(hit["id"], hit["label"], hit["path"]) for hit in results] == [
            (table.ids[row], table.labels[row], table.paths[row]) for row in nearest
        ]


def test_the_same_by_features(hashret: Callable, both_index: Path, closed_set: Path, encoded: encoding.Encoded) -> None:
    photo = closed_set / "class02" / "03.png"
    document = ask(hashret, "--index", both_index, photo, "-k", 5, "--metric", "cosine", "--device", "cpu")
    own = open_source(closed_set).ids.index("class02/03.png")
    similarities = np.sort(encoded.features @ encoded.features[own])[::-1]
    results = document["queries"][0]["results"]
    assert document["metric"] == "cosine" and results[0]["id"] == "class02/03.png"
    assert np.allclose([hit["similarity"] for hit in results], similarities[:5], atol=1e-5)
    least = float(similarities[11:13].mean())
    within = ask(hashret, "--index", both_index, photo, "--radius", least, "--metric", "cosine", "--device", "cpu")
    assert len(ids(within)) == 12


def test_the_table_is_aligned(hashret: Callable, both_index: Path, closed_set: Path) -> None:
    photo = closed_set / "class01" / "00.png"
    status, out, _ = hashret("query", "--index", both_index, photo, photo, "-k", 2, "--device", "cpu")
    one, two = out.strip().split("\n\n")
    assert status == 0 and one == two
    heading, names, *hits = one.splitlines()
    assert heading == f"{photo}: the 2 nearest of 48 pictures"
    assert names.split() == ["rank", "bits", "label", "id", "path"] and len(hits) == 2
    assert names.index("label") == hits[0].index("class0") == hits[1].index("class0")


def test_paths_are_shown_as_one_would_type_them(
    hashret: Callable, both_index: Path, closed_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--index", both_index, closed_set / "class01" / "00.png", "-k", 1, "--device", "cpu"]
    for here, shown in ((closed_set.parent, "hues/class0"), (both_index.parent, str(closed_set))):
        monkeypatch.chdir(here)
        assert hashret("query", *words).out.splitlines()[-1].split()[-1].startswith(shown)
    assert ask(hashret, *words)["queries"][0]["results"][0]["path"].startswith(str(closed_set))


def test_everything_within_a_radius(
    hashret: Callable, both_index: Path, closed_set: Path, encoded: encoding.Encoded
) -> None:
    photo = closed_set / "class04" / "01.png"
    own = open_source(closed_set).ids.index("class04/01.png")
    bits = np.unpackbits(encoded.codes, axis=1).astype(int)
    distances = np.abs(bits - bits[own]).sum(axis=1)
    for radius in (0, 1, 3, 16, 99):
        document = ask(hashret, "--index", both_index, photo, "--radius", radius, "--device", "cpu")
        found = [hit["distance"] for hit in document["queries"][0]["results"]]
        assert found == sorted(distances[distances <= radius].tolist())
    _, out, _ = hashret("query", "--index", both_index, photo, "--radius", "16", "--device", "cpu")
    assert out.startswith(f"{photo}: 48 within 16 bits of 48 pictures\n")


@pytest.mark.parametrize("radius", ["-1", "0.5", "nan", "inf", "1e400"])
def test_what_is_no_radius(hashret: Callable, both_index: Path, radius: str) -> None:
    status, _, err = hashret("query", "--index", both_index, "--code", "0000", f"--radius={radius}")
    assert status == 2 and "for codes it is a whole number of bits, from 0" in err
    status, _, err = hashret("query", "--index", both_index, "x.jpg", "--metric", "cosine", "--radius", "2")
    assert status == 2 and "from -1 to 1" in err


def test_a_code_needs_neither_torch_nor_numba(both_index: Path, encoded: encoding.Encoded, closed_set: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'torchvision', 'numba'): sys.modules[name] = None\n"
        "from hashret.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["query", "--index", both_index, "--code", encoded.codes[5].tobytes().hex(), "-k", "3", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)["queries"][0]["results"]
    assert results[0]["distance"] == 0 and "similarity" not in results[0] and len(results) == 3


@pytest.mark.parametrize("code", ["", "0", "00", "000000", "zzzz", "0x00"])
def test_what_is_no_code(hashret: Callable, both_index: Path, code: str) -> None:
    status, out, err = hashret("query", "--index", both_index, "--code", code)
    assert (status, out) == (2, "") and f"--code is {code!r}" in err and "4 hexadecimal digits are due" in err


def test_codes_are_read_as_people_write_them(hashret: Callable, tmp_path: Path) -> None:
    index = HammingIndex(12)
    index.add(np.array([[0xAB, 0xC0]], np.uint8))
    index.save(tmp_path / "i")
    for code in ("abc0", "0xABC0", "ab c0"):
        (query,) = ask(hashret, "--index", tmp_path / "i", "--code", code)["queries"]
        assert [hit["distance"] for hit in query["results"]] == [0]
    status, _, err = hashret("query", "--index", tmp_path / "i", "--code", "abcd")
    assert status == 2 and "--code is 'abcd': the last 4 bits of a row are not zero" in err
    _, out, _ = hashret("query", "--index", tmp_path / "i", "--code", "abc0", "-k", 10**12)
    assert out == "abc0: the 1 nearest of 1 picture\nrank  bits  label  id  path\n   1     0      -   0\n"


def test_an_index_without_pictures(hashret: Callable, tmp_path: Path) -> None:
    HammingIndex(8).save(tmp_path / "i")
    assert hashret("query", "--index", tmp_path / "i", "--code", "00").out == "00: the 0 nearest of 0 pictures\n"
    assert ids(ask(hashret, "--index", tmp_path / "i", "--code", "00", "--radius", 8)) == []


def test_metrics_that_the_index_does_not_hold(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path
) -> None:
    for metric in ("hamming", "cosine"):
        words = ["--model", tiny_run, "--data", closed_set, "--out", tmp_path / metric, "--metric", metric, *CPU]
        assert hashret("index", *words).status == 0
    photo = closed_set / "class00" / "00.png"
    status, _, err = hashret("query", "--index", tmp_path / "hamming", photo, "--metric", "cosine")
    assert status == 1 and "holds no features, only codes" in err
    status, _, err = hashret("query", "--index", tmp_path / "cosine", "--code", "0000")
    assert status == 1 and "holds no codes, only features" in err
    document = ask(hashret, "--index", tmp_path / "cosine", photo, "--device", "cpu", "--radius", 0.5)
    assert document["metric"] == "cosine" and document["queries"][0]["results"][0]["id"] == "class00/00.png"


def test_not_itself(
    hashret: Callable, both_index: Path, closed_set: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    photo = closed_set / "class03" / "02.png"
    with_itself = ids(ask(hashret, "--index", both_index, photo, "-k", 48, "--device", "cpu"))
    assert "class03/02.png" in with_itself
    expected = [name for name in with_itself if name != "class03/02.png"]
    link = tmp_path / "link.png"
    link.symlink_to(photo)
    monkeypatch.chdir(closed_set / "class00")
    for spelling in (photo, "../class03/02.png", closed_set / "class00" / ".." / "class03" / "02.png", link):
        for k in (1, 5, 47, 48):
            document = ask(hashret, "--index", both_index, spelling, "-k", k, "--not-itself", "--device", "cpu")
            assert ids(document) == expected[:k]
            assert [hit["rank"] for hit in document["queries"][0]["results"]] == list(range(1, min(k, 47) + 1))
    stranger = make_pictures(tmp_path / "other", classes=1, pictures=1, first=9) / "class09" / "00.png"
    assert len(ids(ask(hashret, "--index", both_index, stranger, "-k", 48, "--not-itself", "--device", "cpu"))) == 48


@pytest.fixture(scope="module")
def logits(tiny_run: Path, closed_set: Path) -> np.ndarray:
    hasher = Hasher.from_pretrained(tiny_run, device="cpu")
    logits = encode_table(hasher, open_source(closed_set), what=("logits",), workers=0).logits
    assert logits is not None and hasher.thresholds is None
    return logits


class TestAsymmetric:
    """Ranking by logits, and two-stage search."""

    def test_by_logits(
        self, hashret: Callable, both_index: Path, closed_set: Path, encoded: encoding.Encoded, logits: np.ndarray
    ) -> None:
        photo = closed_set / "class02" / "03.png"
        document = ask(hashret, "--index", both_index, photo, "-k", 6, "--metric", "asymmetric", "--device", "cpu")
        own = open_source(closed_set).ids.index("class02/03.png")
        signs = 2.0 * np.unpackbits(encoded.codes, axis=1) - 1
        similarities = np.sort(signs @ logits[own])[::-1]
        results = document["queries"][0]["results"]
        assert (document["metric"], document["rerank"], document["exact"]) == ("asymmetric", None, True)
        assert np.allclose([hit["similarity"] for hit in results], similarities[:6], atol=1e-4)
        _, out, _ = hashret("query", "--index", both_index, photo, "-k", 1, "--metric", "asymmetric", "--device", "cpu")
        heading, names, _ = out.splitlines()
        assert heading == f"{photo}: the 1 nearest of 48 pictures" and names.split()[:3] == [
            "rank",
            "asymmetric",
            "label",
        ]

    def test_thresholds_are_subtracted(
        self, hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path, logits: np.ndarray
    ) -> None:
        hasher = Hasher.from_pretrained(tiny_run, device="cpu")
        hasher.thresholds = np.median(logits, axis=0)
        hasher.save_pretrained(tmp_path / "model")
        out = tmp_path / "i"
        assert hashret("index", "--model", tmp_path / "model", "--data", closed_set, "--out", out, *CPU).status == 0
        photo = closed_set / "class02" / "03.png"
        document = ask(hashret, "--index", out, photo, "-k", 48, "--metric", "asymmetric", "--device", "cpu")
        own = open_source(closed_set).ids.index("class02/03.png")
        most = np.abs(logits[own] - hasher.thresholds).sum()
        found = {hit["id"]: hit["similarity"] for hit in document["queries"][0]["results"]}
        assert np.isclose(found["class02/03.png"], most, rtol=1e-3) and max(found.values()) == found["class02/03.png"]

    def test_the_nearest_codes_ranked_by_features(self, hashret: Callable, both_index: Path, closed_set: Path) -> None:
        photo = closed_set / "class05" / "00.png"
        words = ["--index", both_index, photo, "--device", "cpu"]
        nearest = ids(ask(hashret, *words, "-k", 12))
        by_features = ask(hashret, *words, "-k", 48, "--metric", "cosine")["queries"][0]["results"]
        expected = [(hit["id"], hit["similarity"]) for hit in by_features if hit["id"] in nearest]
        for metric in ((), ("--metric", "cosine")):
            document = ask(hashret, *words, "-k", 5, "--rerank", 12, *metric)
            assert (document["metric"], document["rerank"]) == ("cosine", 12)
            found = document["queries"][0]["results"]
            assert [(hit["id"], hit["similarity"]) for hit in found] == expected[:5]
        _, out, _ = hashret("query", *words, "-k", 5, "--rerank", 1000)
        assert out.startswith(
            f"{photo}: the 5 nearest of 48 pictures; the 48 nearest codes ranked by cosine similarity\n"
        )

    def test_the_nearest_codes_ranked_by_logits(
        self, hashret: Callable, both_index: Path, tiny_run: Path, closed_set: Path, tmp_path: Path
    ) -> None:
        photo = closed_set / "class05" / "00.png"
        words = [photo, "--device", "cpu"]
        nearest = ids(ask(hashret, "--index", both_index, *words, "-k", 12))
        everything = ids(ask(hashret, "--index", both_index, *words, "-k", 48, "--metric", "asymmetric"))
        expected = [name for name in everything if name in nearest]
        only_codes = tmp_path / "i"
        assert hashret("index", "--model", tiny_run, "--data", closed_set, "--out", only_codes, *CPU).status == 0
        for index, metric in ((both_index, ("--metric", "asymmetric")), (only_codes, ())):
            document = ask(hashret, "--index", index, *words, "-k", 12, "--rerank", 12, *metric)
            assert (document["metric"], document["rerank"]) == ("asymmetric", 12) and ids(document) == expected
        without = ask(hashret, "--index", only_codes, *words, "-k", 11, "--rerank", 11, "--not-itself")
        assert ids(without) == [name for name in expected if name != "class05/00.png"][:11]

    def test_sheets_and_labels(self, hashret: Callable, both_index: Path, closed_set: Path, tmp_path: Path) -> None:
        for flags in (["--metric", "asymmetric"], ["--rerank", 20, "--metric", "cosine"]):
            sheet = tmp_path / "s.png"
            words = [
                "query",
                "--index",
                both_index,
                closed_set / "class04" / "01.png",
                "-k",
                12,
                "--sheet",
                sheet,
                *flags,
            ]
            status, _, err = hashret(*words, "--device", "cpu")
            assert status == 0, err
            with Image.open(sheet) as picture:
                colours = {colour for _, colour in picture.getcolors(1 << 24)}
            assert {(0x00, 0x7A, 0x58), (0xD5, 0x5E, 0x00)} & colours, "the query's own label is known"

    def test_what_does_not_fit_is_one_sentence(
        self, hashret: Callable, both_index: Path, tiny_run: Path, closed_set: Path, tmp_path: Path
    ) -> None:
        for metric in ("hamming", "cosine"):
            words = ["--model", tiny_run, "--data", closed_set, "--out", tmp_path / metric, "--metric", metric, *CPU]
            assert hashret("index", *words).status == 0
        photo = closed_set / "class00" / "00.png"
        both, codes, features = both_index, tmp_path / "hamming", tmp_path / "cosine"
        for index, words, status, message in (
            (
                both,
                ["--code", "0000", "--metric", "asymmetric"],
                2,
                "only codes can be searched; leave out --metric asymmetric",
            ),
            (both, ["--code", "0000", "--rerank", 9, "--not-itself"], 2, "leave out --rerank, --not-itself"),
            (
                both,
                [photo, "--metric", "asymmetric", "--radius", 3],
                2,
                "leave it out with --metric asymmetric and --rerank",
            ),
            (both, [photo, "--rerank", 30, "--radius", 3], 2, "leave it out with --metric asymmetric and --rerank"),
            (both, [photo, "--rerank", 30, "--metric", "hamming"], 2, "choose --metric cosine or asymmetric"),
            (both, [photo, "--rerank", 9], 2, "--rerank is 9, but 10 are to be found among them; give 10 at least"),
            (codes, [photo, "--rerank", 30, "--metric", "cosine"], 1, "holds no features, only codes"),
            (features, [photo, "--rerank", 30], 1, "holds no codes, only features"),
            (features, [photo, "--metric", "asymmetric"], 1, "holds no codes, only features"),
        ):
            found = hashret("query", "--index", index, *words, "--device", "cpu")
            assert found[:2] == (status, "") and message in found.err and found.err.count("\n") == 1


def test_pictures_in_a_zip(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "hues"), "zip", closed_set))
    out = tmp_path / "i"
    assert hashret("index", "--model", tiny_run, "--data", archive, "--out", out, *CPU).status == 0
    monkeypatch.chdir(tmp_path)
    photo = "hues.zip::class03/02.png"
    document = ask(hashret, "--index", out, photo, "-k", 48, "--sheet", "s.png", "--device", "cpu")
    assert f"{archive}::class03/02.png" in [hit["path"] for hit in document["queries"][0]["results"]]
    others = ask(hashret, "--index", out, photo, "-k", 48, "--not-itself", "--device", "cpu")
    assert sorted([*ids(others), "class03/02.png"]) == sorted(ids(document))


def test_a_missing_or_broken_photo_is_named(hashret: Callable, both_index: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    for photo in (tmp_path / "none.jpg", tmp_path / "broken.jpg", tmp_path):
        status, out, err = hashret("query", "--index", both_index, photo, "--device", "cpu")
        assert (status, out) == (1, "") and str(photo) in err and err.count("\n") == 1


def test_a_model_that_moved(
    hashret: Callable, tiny_run: Path, other_run: Path, closed_set: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    Hasher.from_pretrained(tiny_run, device="cpu").save_pretrained(model)
    out = tmp_path / "i"
    assert hashret("index", "--model", model, "--data", closed_set, "--out", out, *CPU).status == 0
    query = ["query", "--index", out, closed_set / "class00" / "00.png", "--device", "cpu"]
    assert hashret(*query).status == 0
    model.rename(tmp_path / "moved")
    status, _, err = hashret(*query)
    assert status == 2 and f"the model of the index, {model}, is gone; say where it lies now with --model" in err
    assert hashret(*query, "--model", tmp_path / "moved").status == 0
    status, _, err = hashret(*query, "--model", other_run)
    assert status == 1 and "the index was made by the model" in err and "use the model that made the index" in err
    # Another model that took the place of the first.
    shutil.copytree(other_run, model)
    status, _, err = hashret(*query)
    assert status == 1 and "use the model that made the index" in err


def test_attributes_stand_apart_whatever_their_names(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path
) -> None:
    table = open_source(closed_set).select([0, 1])
    table.attributes = {"rank": ["first", "second"], "distance": ["far", "near"], "색": ["빨강", "파랑"]}
    table.write_csv(tmp_path / "t.csv")
    out = tmp_path / "i"
    assert hashret("index", "--model", tiny_run, "--data", tmp_path / "t.csv", "--out", out, *CPU).status == 0
    assert hashret("query", "--index", out, "--code", "0000").status == 0
    hits = ask(hashret, "--index", out, "--code", "0000")["queries"][0]["results"]
    assert [hit["rank"] for hit in hits] == [1, 2] and all(isinstance(hit["distance"], int) for hit in hits)
    attributes = {hit["id"]: hit["attributes"] for hit in hits}
    assert attributes["class00/00.png"] == {"rank": "first", "distance": "far", "색": "빨강"}


def test_a_damaged_index_is_named(hashret: Callable, both_index: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(both_index, tmp_path / "i")
    codes = next(copy.rglob("codes.npy"))
    codes.write_bytes(codes.read_bytes()[:-1])
    status, _, err = hashret("query", "--index", copy, "--code", "0000")
    assert status == 1 and str(codes) in err and "is damaged" in err and err.count("\n") == 1


# ---- sheets


@pytest.fixture
def hangul_index(hashret: Callable, tiny_run: Path, tmp_path: Path) -> Path:
    """Three classes with Hangul names, as some file systems decompose them."""
    data = make_pictures(tmp_path / "차", classes=3, pictures=4)
    for folder, name in zip(sorted(data.iterdir()), ("소나타", "아반떼", "그랜저"), strict=True):
        folder.rename(data / unicodedata.normalize("NFD", name))
    out = tmp_path / "차.index"
    assert hashret("index", "--model", tiny_run, "--data", data, "--out", out, *CPU).status == 0
    return out


def photo_of(index: Path, label: str, number: int = 0) -> str:
    loaded = HammingIndex.load(index)
    return [record["path"] for record in loaded.records(loaded.ids) if record and record["label"] == label][number]


def test_hangul_labels_line_up_and_are_drawn(hashret: Callable, hangul_index: Path, tmp_path: Path) -> None:
    photos = [photo_of(hangul_index, label) for label in ("소나타", "그랜저")]
    sheet = tmp_path / "결과.png"
    status, out, err = hashret("query", "--index", hangul_index, *photos, "-k", 12, "--sheet", sheet, "--device", "cpu")
    assert status == 0, err
    assert out.endswith(f"\ncontact sheet: {sheet}\n") and "소나타" in out
    with Image.open(sheet) as picture:
        assert picture.width > 13 * 144 and picture.height > 2 * 144
        # Labels are known, for the queries are in the index: right and wrong are outlined.
        colours = {colour for _, colour in picture.getcolors(1 << 24)}
        assert {(0x00, 0x7A, 0x58), (0xD5, 0x5E, 0x00)} <= colours
    rows = [line for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 24 and all(unicodedata.is_normalized("NFC", row) for row in rows)


def test_a_query_is_known_even_where_many_codes_tie(
    hashret: Callable, hangul_index: Path, tiny_run: Path, tmp_path: Path
) -> None:
    # All pictures are the same: the last one is not among its own nearest four.
    data = tmp_path / "same"
    for label in ("a", "b"):
        (data / label).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), "red").save(data / label / f"{i}.png")
    out, sheet = tmp_path / "same.index", tmp_path / "s.png"
    assert hashret("index", "--model", tiny_run, "--data", data, "--out", out, *CPU).status == 0
    query = ["--index", out, data / "b" / "3.png", "-k", 3, "--sheet", sheet, "--device", "cpu"]
    document = ask(hashret, *query)
    assert {hit["label"] for hit in document["queries"][0]["results"]} == {"a"} and document["sheet"] == str(sheet)
    with Image.open(sheet) as picture:
        assert (0xD5, 0x5E, 0x00) in {colour for _, colour in picture.getcolors(1 << 24)}, "wrong, as is known"


def test_strangers_are_outlined_as_unknown(hashret: Callable, both_index: Path, tmp_path: Path) -> None:
    stranger = make_pictures(tmp_path / "other", classes=1, pictures=1, first=9) / "class09" / "00.png"
    sheet = tmp_path / "s.jpg"
    words = ["query", "--index", both_index, stranger, "--sheet", sheet, "--device", "cpu", "-k", 47]
    status, _, err = hashret(*words)
    assert status == 0 and "the contact sheet shows the first 40 results of each query" in err
    with Image.open(sheet) as picture:
        assert picture.format == "JPEG" and picture.width < 42 * 170


def test_sheets_show_the_part_that_was_indexed(hashret: Callable, tiny_run: Path, tmp_path: Path) -> None:
    half = Image.new("RGB", (64, 32), (255, 0, 255))
    half.paste((0, 255, 255), (0, 0, 32, 32))
    half.save(tmp_path / "half.png")
    (tmp_path / "t.csv").write_text("id,path,label,x1,y1,x2,y2\na,half.png,x,0,0,32,32\n")
    out, sheet = tmp_path / "i", tmp_path / "s.png"
    assert hashret("index", "--model", tiny_run, "--data", tmp_path / "t.csv", "--out", out, *CPU).status == 0
    (tmp_path / "cyan.png").symlink_to(tmp_path / "gone.png")
    Image.new("RGB", (32, 32), (0, 255, 255)).save(tmp_path / "gone.png")
    words = ["query", "--index", out, tmp_path / "cyan.png", "--sheet", sheet, "--device", "cpu"]
    assert hashret(*words).status == 0
    with Image.open(sheet) as picture:
        colours = {colour for count, colour in picture.getcolors(1 << 24) if count > 500}
    assert (0, 255, 255) in colours and (255, 0, 255) not in colours


def test_a_sheet_that_cannot_be_written(hashret: Callable, both_index: Path, closed_set: Path, tmp_path: Path) -> None:
    (tmp_path / "s.png").mkdir()
    status, _, err = hashret(
        "query", "--index", both_index, closed_set / "class00" / "00.png", "--sheet", tmp_path / "s.png"
    )
    assert status == 2 and "which is a folder" in err


# ---- slow


@pytest.mark.slow
def test_a_code_among_a_million_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wall time is printed, not asserted: it is the machine's. The answer is asserted."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (1_000_000, 8), dtype=np.uint8)
    index = HammingIndex(64)
    index.add(
        codes, records=[{"id": f"p{i}", "path": f"/p/{i}.jpg", "label": str(i % 1000)} for i in range(len(codes))]
    )
    index.save(tmp_path / "million.index")
    del index
    query = codes[123_456]
    words = [sys.executable, ROOT / "query.py", "--index", tmp_path / "million.index", "--code", query.tobytes().hex()]
    distances = np.bitwise_count(codes ^ query).sum(axis=1, dtype=np.int64)
    expected = [f"p{row}" for row in np.argsort(distances, kind="stable")[:10]]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run([*map(str, words), "--json"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
        assert ids(json.loads(done.stdout)) == expected
    with capsys.disabled():
        print(
            f"\nquery --code among 1,000,000 codes of 64 bits: {sorted(seconds)[2]:.2f} s (median of 5, from the shell)"
        )
