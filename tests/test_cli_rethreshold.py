"""`hashret rethreshold` as a user types it, and the thresholds it sets."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from hashret import codes
from hashret.data.sources import open_source
from hashret.encoding import encode_table
from hashret.errors import ModelError
from hashret.model.hasher import Hasher
from hashret.model.thresholds import balanced_thresholds

CPU = ["--device", "cpu", "--workers", 0]


# ---- thresholds


@settings(max_examples=300, deadline=None)
@given(
    logits=st.one_of(
        arrays.arrays(
            np.float32,
            st.tuples(st.integers(1, 30), st.integers(1, 4)),
            elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
        ),
        arrays.arrays(
            np.float32,
            st.tuples(st.integers(1, 30), st.integers(1, 4)),
            elements=st.floats(-(2.0**60), 2.0**60, width=32),
        ),
    )
)
def test_no_threshold_balances_better(logits: np.ndarray) -> None:
    thresholds = balanced_thresholds(logits)
    assert thresholds.dtype == np.float32 and thresholds.shape == logits.shape[1:]
    n = len(logits)
    for column, threshold in zip(logits.T, thresholds, strict=True):
        ones = int((column > threshold).sum())
        possible = {int((column > cut).sum()) for cut in column}  # n too, below the least, is as dead as 0
        assert abs(2 * ones - n) == min(abs(2 * each - n) for each in possible)
        median = np.float32(np.median(column))
        if abs(2 * int((column > median).sum()) - n) <= n % 2:
            assert threshold == median, "the median, where it balances"


def test_many_logits_at_the_median() -> None:
    logits = np.array([[0, 1, 1, 1, 2], [0, 1, 1, 2, 2], [0, 0, 1, 1, 1], [3, 3, 3, 3, 3]], np.float32).T
    assert balanced_thresholds(logits).tolist() == [0.5, 1.0, 0.5, 3.0]
    near = np.array([[1.0], [np.nextafter(np.float32(1), np.float32(2))]], np.float32)
    assert (near > balanced_thresholds(near)).sum() == 1, "nothing lies between, so it is the lower one"


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.zeros(3), np.array([[np.nan]]), np.array([[np.inf]])])
def test_what_has_no_median(logits: np.ndarray) -> None:
    with pytest.raises(ModelError, match="at least one and all finite"):
        balanced_thresholds(logits.astype(np.float32))


# ---- the command


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 darker pictures of other classes, in Hangul folders and without splits."""
    root = make_pictures(tmp_path_factory.mktemp("domain") / "창고", classes=5, pictures=12, first=7)
    for i, folder in enumerate(sorted(root.iterdir())):
        for path in folder.iterdir():
            with Image.open(path) as picture:
                dark = picture.point(lambda value: value // 3)
            dark.save(path)
        folder.rename(root / f"부품 {i}")
    return root


def rethreshold(hashret: Callable, *words: object) -> dict[str, Any]:
    status, out, err = hashret("rethreshold", *words, *CPU, "--json")
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def test_bits_are_balanced_in_the_new_domain(hashret: Callable, tiny_run: Path, domain: Path, tmp_path: Path) -> None:
    out = tmp_path / "모델" / "창고16"
    document = rethreshold(hashret, "--model", tiny_run, "--data", domain, "--out", out)
    old, new = Hasher.from_pretrained(tiny_run, device="cpu"), Hasher.from_pretrained(out, device="cpu")
    table = open_source(domain)
    logits = encode_table(old, table, what=["logits"], workers=0).logits
    assert logits is not None and np.array_equal(new.thresholds, balanced_thresholds(logits))
    before, after = (encode_table(each, table, workers=0).codes for each in (old, new))
    bits = codes.unpack(after, 16)
    assert (bits.mean(axis=0) == 0.5).all(), "60 pictures, and no two logits alike"
    assert document["before"] == codes.statistics(before, 16).as_dict()
    assert document["after"] == codes.statistics(after, 16).as_dict()
    assert document["after"]["mean_imbalance"] == 0 < document["before"]["mean_imbalance"]
    assert document["bits_changed_mean"] == (codes.unpack(before, 16) != bits).sum(axis=1).mean() > 0
    assert (document["fingerprint_before"], document["fingerprint_after"]) == (old.fingerprint(), new.fingerprint())
    assert document["pictures"] == 60 and document["hit@1"]["queries"] == 60
    assert new.scores == {} and new.protocol["thresholds"] == {
        "pictures": 60, "data": "창고", "model": old.fingerprint(),
    }  # fmt: skip
    assert {name: value.tolist() for name, value in new.network.state_dict().items()} == {
        name: value.tolist() for name, value in old.network.state_dict().items()
    }
    assert [path.name for path in out.parent.iterdir()] == ["창고16"], "nothing beside it"


def test_hit_at_1_is_that_of_evaluate(hashret: Callable, tiny_run: Path, domain: Path, tmp_path: Path) -> None:
    hits = rethreshold(hashret, "--model", tiny_run, "--data", domain, "--out", tmp_path / "m")["hit@1"]
    for model, name in ((tiny_run, "before"), (tmp_path / "m", "after")):
        status, out, err = hashret("evaluate", "--model", model, "--data", domain, "--json", *CPU)
        assert status == 0, err
        assert json.loads(out)["results"][0]["scores"]["hit@1"]["expected"] == pytest.approx(hits[name])


def test_what_is_printed(hashret: Callable, tiny_run: Path, domain: Path, tmp_path: Path) -> None:
    words = ["rethreshold", "--data", domain, *CPU]
    status, out, err = hashret(*words, "--model", tiny_run, "--out", tmp_path / "m")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "창고: 60 pictures, codes of 16 bits" and lines[2].split() == ["before", "after"]
    table = {line[:40].strip(): line[40:].split() for line in lines[3:8]}
    assert table["share of ones, mean distance from 50 %"][2:] == ["0.0", "%"] and table["dead bits"][1] == "0"
    assert re.search(r"hit@1: 60 labelled pictures among all others of 창고, .*cutoff:1", out)
    assert re.search(r"\n\d+\.\d of 16 bits of a code changed, on average\n", out)
    assert lines[-1] == (
        f"{tmp_path / 'm'}: the model with these thresholds; indexes of {tiny_run} have to be built again with it (hashret index)"
    )
    status, out, err = hashret(*words, "--model", tmp_path / "m", "--out", tmp_path / "same")
    assert status == 0 and "0.0 of 16 bits" in out and out.endswith("same: the same thresholds as before\n")


def test_an_index_of_the_old_model_is_refused(
    hashret: Callable, tiny_run: Path, domain: Path, closed_set: Path, tmp_path: Path
) -> None:
    rethreshold(hashret, "--model", tiny_run, "--data", domain, "--out", tmp_path / "m")
    assert hashret("index", "--model", tiny_run, "--data", closed_set, "--out", tmp_path / "old", *CPU).status == 0
    photo = closed_set / "class00" / "00.png"
    query = ["query", photo, "--model", tmp_path / "m", "--device", "cpu"]
    status, _, err = hashret(*query, "--index", tmp_path / "old")
    assert status == 1 and "use the model that made the index" in err
    for metric in ("hamming", "asymmetric"):
        out = tmp_path / metric
        assert hashret("index", "--model", tmp_path / "m", "--data", closed_set, "--out", out, *CPU).status == 0
        status, out, err = hashret(*query, "--index", out, "--metric", metric)
        assert status == 0 and "class00/00.png" in out, err


def test_few_pictures_are_warned_of(hashret: Callable, tiny_run: Path, domain: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    words = ["rethreshold", "--model", tiny_run, "--data", few, *CPU, "--json"]
    status, _, err = hashret(*words, "--out", tmp_path / "none")
    assert status == 1 and "holds no pictures" in err
    pictures = sorted(domain.rglob("*.png"))
    shutil.copy(pictures[0], few / "0.png")
    status, _, err = hashret(*words, "--out", tmp_path / "one")
    assert status == 1 and "few has 1 picture that can be read, which has no middle" in err
    for i in range(1, 10):
        shutil.copy(pictures[6 * i], few / f"{i}.png")
    status, out, err = hashret(*words, "--out", tmp_path / "ten")
    assert status == 0 and "thresholds of 10 pictures are uncertain" in err and "be 28 points off 50 %" in err
    assert json.loads(out)["hit@1"] is None, "no labels, no score"
    assert not (tmp_path / "none").exists() and not (tmp_path / "one").exists()
    assert not list(tmp_path.glob("*.unfinished/model"))


def test_pictures_all_alike_leave_dead_bits(hashret: Callable, tiny_run: Path, tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / "same").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(tmp_path / "same" / f"{i}.png")
    words = ["--model", tiny_run, "--data", tmp_path / "same", "--out", tmp_path / "m", *CPU]
    status, _, err = hashret("rethreshold", *words)
    assert status == 0 and "16 bits cannot be balanced, for the logit is the same in every picture" in err


def test_bad_pictures(hashret: Callable, tiny_run: Path, domain: Path, tmp_path: Path) -> None:
    data = shutil.copytree(domain, tmp_path / "set")
    (data / "부품 0" / "깨짐.png").write_bytes(b"no picture")
    words = ["rethreshold", "--model", tiny_run, "--data", data, "--out", tmp_path / "m", *CPU, "--json"]
    status, out, err = hashret(*words)
    assert (status, out) == (1, "") and "깨짐.png" in err and not (tmp_path / "m").exists()
    status, out, err = hashret(*words, "--on-bad", "skip")
    document = json.loads(out)
    assert status == 0 and (document["pictures"], document["skipped"]) == (60, 1)
    assert Path(document["skipped_list"]) == tmp_path / "m.skipped.txt"


def test_what_is_there_stays(hashret: Callable, tiny_run: Path, domain: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tiny_run, domain):
        before = sorted(out.rglob("*"))
        status, _, err = hashret("rethreshold", "--model", tiny_run, "--data", domain, "--out", out, *CPU)
        assert status == 2 and "exists; choose another --out" in err and sorted(out.rglob("*")) == before
    status, _, err = hashret("rethreshold", "--model", tmp_path / "none", "--data", domain, "--out", tmp_path / "m")
    assert status == 1 and "there is no model" in err and sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_model_appears_whole_or_not_at_all(
    hashret: Callable, tiny_run: Path, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["rethreshold", "--model", tiny_run, "--data", domain, "--out", tmp_path / "m", *CPU]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Hasher, "save_pretrained", interrupted)
        status, _, err = hashret(*words)
    assert status == 130 and "the same command goes on from there" in err and not (tmp_path / "m").exists()
    status, _, err = hashret(*words)
    assert status == 0 and "60 of 60 pictures are encoded already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_as_from_the_shell(domain: Path, tiny_run: Path, tmp_path: Path) -> None:
    words = ["rethreshold", "--model", tiny_run, "--data", domain, "--out", tmp_path / "m", *CPU]
    command = [sys.executable, "-m", "hashret", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "bits of a code changed" in done.stdout
