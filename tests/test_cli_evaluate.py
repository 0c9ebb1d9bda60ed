"""`hashret evaluate` as a user types it; its JSON against plain loops on the same codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluation import plain_scores

from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.encoding import encode_table
from hashret.model.hasher import Hasher

CPU = ["--device", "cpu", "--workers", 0]


def evaluated(hashret: Callable, *words: object) -> dict[str, Any]:
    status, out, err = hashret("evaluate", *words, "--map-k", 1, 5, 10, *CPU, "--json")
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def plain(
    run: Path,
    queries: PictureTable,
    gallery: PictureTable,
    ks: list[int],
    counts: Callable[[int, int], bool] | None = None,
) -> list[dict[str, float]]:
    """Scores of codes and features of both, each query's own picture left out by id."""
    hasher = Hasher.from_pretrained(run, device="cpu")
    one, two = (encode_table(hasher, table, what=("codes", "features"), workers=0) for table in (queries, gallery))
    bits_QK, bits_NK = (np.unpackbits(each.codes, axis=1).astype(int) for each in (one, two))
    hamming_QN = np.abs(bits_QK[:, None] - bits_NK[None]).sum(axis=2)
    cosine_QN = np.float32(1) - one.features @ two.features.T
    means = []
    for distances_QN in (hamming_QN, cosine_QN):
        scored = []
        for q in range(len(queries)):
            members = [n for n in range(len(gallery)) if gallery.ids[n] != queries.ids[q]]
            members = [n for n in members if counts is None or counts(q, n)]
            relevant = [gallery.labels[n] == queries.labels[q] for n in members]
            scores = plain_scores([distances_QN[q, n].item() for n in members], relevant, ks)
            if scores is not None:
                scored.append(scores)
        means.append({name: float(np.mean([scores[name] for scores in scored])) for name in scored[0]})
    return means


def assert_equal(document: dict[str, Any], expected: list[dict[str, float]]) -> None:
    for result, scores in zip(document["results"], expected, strict=True):
        for name, score in scores.items():
            assert result["scores"][name]["expected"] == pytest.approx(score, abs=1e-6), (result["name"], name)
            assert result["scores"][name]["worst"] <= score + 1e-6 and score <= result["scores"][name]["best"] + 1e-6
            assert result["scores"][name]["signature"].count("|") >= 6


def test_the_test_split_against_itself(hashret: Callable, tiny_run: Path, unseen_set: Path, tmp_path: Path) -> None:
    words = ["--model", tiny_run, "--data", unseen_set, "-k", 1, 5, "--out", tmp_path / "scores.json"]
    document = evaluated(hashret, *words)
    test = open_source(unseen_set).where_split("test")
    assert_equal(document, plain(tiny_run, test, test, [1, 5]))
    assert [result["name"] for result in document["results"]] == ["hash, 16 bits", "float, 512 numbers"]
    assert document["queries"] == {"split": "test", "pictures": 24, "classes": 3}
    assert document["gallery"] == {"split": "test", "pictures": 24}
    assert (document["data"], document["skipped"], document["rule"]) == (
        "hues", 0, "a query's own picture is left out by id",
    )  # fmt: skip
    assert all(result["n_queries"] == 24 and result["n_excluded"] == 0 for result in document["results"])
    assert json.loads((tmp_path / "scores.json").read_text("utf-8")) == document


def test_one_split_against_another(hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path) -> None:
    # Queries and gallery of different sizes, in table order mixed; some pictures have no label, one class is alone.
    table = open_source(closed_set)
    table.splits = ["query" if row % 4 == 1 else "gallery" for row in range(len(table))]
    table.labels[1], table.labels[2] = "", ""
    table.labels[5] = "nobody else"
    table.write_csv(tmp_path / "t.csv")
    words = ["--model", tiny_run, "--data", tmp_path / "t.csv", "--split", "query", "--gallery-split", "gallery"]
    document = evaluated(hashret, *words)
    queries = table.select([row for row in range(len(table)) if row % 4 == 1 and table.labels[row]])
    assert (document["queries"]["pictures"], document["gallery"]) == (11, {"split": "gallery", "pictures": 36})
    assert document["results"][0]["n_excluded"] == 1
    assert_equal(document, plain(tiny_run, queries, table.where_split("gallery"), [1, 10]))
    status, out, _ = hashret("evaluate", *words, *CPU)
    assert status == 0
    assert out.startswith(
        f"the split 'query' of {tmp_path / 't.csv'}: 11 queries of 6 classes in a gallery of 36 pictures (the split 'gallery'); "
    )
    assert "1 query with nothing to find left out of the scores" in out


def test_without_splits_all_pictures_are_scored(hashret: Callable, tiny_run: Path, closed_set: Path) -> None:
    _, _, err = hashret("evaluate", "--model", tiny_run, "--data", closed_set, *CPU)
    assert err.startswith("hues has no split 'test', so all its pictures are scored") and err.count("\n") == 1
    document = evaluated(hashret, "--model", tiny_run, "--data", closed_set)
    assert document["queries"] == {"split": None, "pictures": 48, "classes": 6}
    table = open_source(closed_set)
    assert_equal(document, plain(tiny_run, table, table, [1, 10]))


def test_kept_epochs(hashret: Callable, tiny_run: Path, unseen_set: Path) -> None:
    document = evaluated(hashret, "--model", f"{tiny_run}@1", "--data", unseen_set)
    test = open_source(unseen_set).where_split("test")
    assert_equal(document, plain(tiny_run / "epochs" / "001", test, test, [1, 10]))


def test_labels_can_be_merged(hashret: Callable, tiny_run: Path, unseen_set: Path, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("label,class\nclass06,차\nclass07,차\n", "utf-8")
    document = evaluated(hashret, "--model", tiny_run, "--data", unseen_set, "--label-map", tmp_path / "map.csv")
    test = open_source(unseen_set, tmp_path / "map.csv").where_split("test")
    assert document["queries"]["classes"] == 2
    assert_equal(document, plain(tiny_run, test, test, [1, 10]))


def test_the_turntable_rule_and_the_controls(
    hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path
) -> None:
    table = open_source(closed_set)
    n = len(table)
    table.attributes = {
        "body": ["suv"] * n, "generation": ["1"] * n, "colour": [["red", "blue"][row % 2] for row in range(n)],
        "time": ["noon"] * n, "view": [str(row * 45 % 360) for row in range(n)],
    }  # fmt: skip
    table.write_csv(tmp_path / "t.csv")
    document = evaluated(hashret, "--model", tiny_run, "--data", tmp_path / "t.csv")
    assert "within 30 degrees" in document["rule"]
    assert [result["name"] for result in document["results"]][2:] == [
        "control: raw 32×32 pixels", "control: untrained network",
    ]  # fmt: skip

    def counts(q: int, other: int) -> bool:
        apart = abs(q * 45 % 360 - other * 45 % 360)
        return not (q % 2 == other % 2 and min(apart, 360 - apart) <= 30)

    assert_equal({"results": document["results"][:2]}, plain(tiny_run, table, table, [1, 10], counts))
    alone = evaluated(hashret, "--model", tiny_run, "--data", tmp_path / "t.csv", "--rule", "self", "--controls", "off")
    assert_equal(alone, plain(tiny_run, table, table, [1, 10]))
    status, out, _ = hashret("evaluate", "--model", tiny_run, "--data", tmp_path / "t.csv", *CPU)
    assert status == 0 and "raw 32×32 pixels  untrained network" in out and "are controls" in out
    status, _, err = hashret("evaluate", "--model", tiny_run, "--data", closed_set, "--rule", "turntable", *CPU)
    assert status == 2 and "hues has no column 'colour', which --rule turntable needs; use --rule self" in err


def test_bad_pictures_stop_it_or_are_listed(
    hashret: Callable, tiny_run: Path, unseen_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(unseen_set, tmp_path / "set")
    (data / "test" / "class06" / "03.png").write_bytes(b"no picture")
    (data / "train" / "class00" / "00.png").write_bytes(b"in neither queries nor gallery")
    status, out, err = hashret("evaluate", "--model", tiny_run, "--data", data, *CPU)
    assert (status, out) == (1, "") and "03.png" in err and err.count("\n") == 1
    monkeypatch.chdir(tmp_path)
    document = evaluated(hashret, "--model", tiny_run, "--data", data, "--on-bad", "skip")
    assert (document["skipped"], document["skipped_list"]) == (1, "tiny.skipped.txt")
    assert Path("tiny.skipped.txt").read_text().startswith(str(data / "test" / "class06" / "03.png") + "\t")
    test = open_source(data).where_split("test")
    readable = test.select([row for row in range(24) if row != 3])
    assert_equal(document, plain(tiny_run, readable, readable, [1, 10]))
    document = evaluated(hashret, "--model", tiny_run, "--data", data, "--on-bad", "skip", "--out", tmp_path / "s.json")
    assert document["skipped_list"] == str(tmp_path / "s.json.skipped.txt") and Path(document["skipped_list"]).exists()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--split", "val"], "has no split 'val'; it has 'test' (24), 'train' (48)"),
        (["--gallery-split", "val"], "has no split 'val'"),
        (
            ["--split", "test", "--gallery-split", "train"],
            "none of the 24 queries has a picture of its own class to find",
        ),
    ],
)
def test_what_cannot_be_scored(
    hashret: Callable, tiny_run: Path, unseen_set: Path, words: list[str], found: str
) -> None:
    status, out, err = hashret("evaluate", "--model", tiny_run, "--data", unseen_set, *words, *CPU)
    assert (status, out) == (1, "") and found in err and err.count("\n") == 1


def test_pictures_without_labels(hashret: Callable, tiny_run: Path, closed_set: Path, tmp_path: Path) -> None:
    flat = shutil.copytree(closed_set / "class00", tmp_path / "flat")
    status, out, err = hashret("evaluate", "--model", tiny_run, "--data", flat, *CPU)
    assert (status, out) == (1, "") and "flat has no labelled picture, so no answer can be right" in err


def test_the_table_shows_the_documents_numbers(hashret: Callable, tiny_run: Path, unseen_set: Path) -> None:
    words = ["--model", tiny_run, "--data", unseen_set]
    document = evaluated(hashret, *words)
    status, out, _ = hashret("evaluate", *words, *CPU)
    lines = out.splitlines()
    assert status == 0
    assert lines[2].split("  ")[-1] == "divided by" and "hash, 16 bits" in lines[2] and "float, 512 numbers" in lines[2]
    shown = {line.split("  ")[0].strip(): line for line in lines[3:]}
    for title, name in (
        ("hit@1 (top-1)", "hit@1"),
        ("recall@10", "recall@10"),
        ("mAP@all", "map@all"),
        ("mAP@10", "map@10"),
    ):
        for result in document["results"]:
            assert f"{result['scores'][name]['expected']:.4f}" in shown[title]
    tied = document["results"][0]["scores"]["map@10"]
    assert f"{tied['worst']:.4f} {tied['best']:.4f}" in out
    assert "Signature of every score: ties:exact-expectation|self:left-out-by-id|no-relevant:excluded|" in out


def test_nested_codes_logits_and_two_stages_stand_beside_hash_and_float(
    hashret: Callable, closed_set: Path, tiny_run: Path, tmp_path: Path
) -> None:
    nested = Hasher.from_pretrained(tiny_run, device="cpu")
    nested.protocol["nested"] = [3, 8]
    nested.save_pretrained(tmp_path / "nested")
    words = ["--model", tmp_path / "nested", "--data", closed_set, "--two-stage", 5, "--logits"]
    document = evaluated(hashret, *words)
    bits = nested.code_size
    names = [result["name"] for result in document["results"]]
    assert names == [
        f"hash, {bits} bits",
        f"float, {nested.feature_size} numbers",
        "two-stage, 5",
        "first 3 bits",
        "first 8 bits",
        f"float, {bits} activations",
    ]
    table = open_source(closed_set)
    encoded = encode_table(nested, table, what=("codes", "logits"), workers=0)
    of_bits = (encoded.logits > 0).astype(int)
    apart = [np.abs(of_bits[:, None, :length] - of_bits[None, :, :length]).sum(axis=2) for length in (3, 8)]
    relaxed = np.tanh(encoded.logits)
    relaxed /= np.linalg.norm(relaxed, axis=1, keepdims=True)
    for result, distances in zip(document["results"][3:], [*apart, 1 - relaxed @ relaxed.T], strict=True):
        scored = []
        for q in range(len(table)):
            others = [n for n in range(len(table)) if n != q]
            relevant = [table.labels[n] == table.labels[q] for n in others]
            scored.append(plain_scores([distances[q, n].item() for n in others], relevant, [1]))
        assert result["scores"]["hit@1"]["expected"] == pytest.approx(
            np.mean([scores["hit@1"] for scores in scored if scores]), abs=2e-3
        )
    assert "hamming-5-then-cosine" in document["results"][2]["scores"]["hit@1"]["signature"]
