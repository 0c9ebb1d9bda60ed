"""Lists of nearest neighbours: made, written, read, and scored, by the commands as people type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hashret.evaluation import nearest_lists
from hashret.evaluation.compare import Representation

PUBLISHED = "0.8449212384573601"
"""Top-1 of the car-retrieval task's baseline: 9,333 of 11,046."""


@pytest.fixture
def source_task(tmp_path: Path) -> tuple[Path, Path]:
    """Neighbours and labels of 11,046 pictures of 78 classes, 9,333 of which find their own class."""
    n, right = 11_046, 9_333
    labels = np.arange(n) % 78
    nearest = (np.arange(n) + np.where(np.arange(n) < right, 78, 1)) % n
    nearest[:right] = [i + 78 if i + 78 < n else i - 78 for i in range(right)]
    assert (labels[nearest] == labels).sum() == right
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"{i},car{label}\n" for i, label in enumerate(labels)))
    (tmp_path / "neighbours.txt").write_text("".join(f"{i} {j}\n" for i, j in enumerate(nearest)))
    return tmp_path / "neighbours.txt", tmp_path / "labels.csv"


def test_the_published_score_comes_out_exactly(hashret: Callable, source_task: tuple[Path, Path]) -> None:
    neighbours, labels = source_task
    status, out, err = hashret("score", neighbours, "--labels", labels)
    assert (status, out) == (0, PUBLISHED + "\n") and "9,333 of 11,046" in err
    document = json.loads(hashret("score", neighbours, "--labels", labels, "--json").out)
    assert document == {"top1": float(PUBLISHED), "right": 9333, "queries": 11046, "classes": 78}


GOOD_LIST, GOOD_LABELS = "1 2\n2 1\n3 1\n", "id,label\n1,a\n2,a\n3,b\n"


@pytest.mark.parametrize(
    ("listed", "labels", "message"),
    [
        (GOOD_LIST.replace("3 1", "3"), GOOD_LABELS, "line 3 is '3', expected `query_id nearest_id`"),
        (GOOD_LIST + "1 3\n", GOOD_LABELS, "line 4 answers 1 a second time"),
        (GOOD_LIST[:-4], GOOD_LABELS, "has no line for 1 of the 3 labelled ids, the first is 3"),
        (GOOD_LIST.replace("3 1", "3 3"), GOOD_LABELS, "names 3 as nearest to itself"),
        (GOOD_LIST.replace("3 1", "3 9"), GOOD_LABELS, "names 9, which has no label"),
        (GOOD_LIST + "4 1\n", GOOD_LABELS, "names 4, which has no label"),
        (GOOD_LIST, GOOD_LABELS.replace("id,", "name,"), "has no column 'id' in its first line (name, label)"),
        (GOOD_LIST, GOOD_LABELS + "3,b\n", "line 5 has the id 3 a second time"),
        (GOOD_LIST, GOOD_LABELS + "4,\n", "line 5 has no label"),
        (GOOD_LIST, "", "has no column 'id' in its first line (nothing)"),
        ("", "id,label\n", "has no labels, so there is nothing to score"),
        (b"\xff\xfe1", GOOD_LABELS, "it is no UTF-8 text"),
        (None, GOOD_LABELS, "cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_list_is_one_sentence(
    hashret: Callable, tmp_path: Path, listed: str | bytes | None, labels: str, message: str
) -> None:
    if listed is not None:
        (tmp_path / "n.txt").write_bytes(listed if isinstance(listed, bytes) else listed.encode())
    (tmp_path / "l.csv").write_text(labels)
    status, out, err = hashret("score", tmp_path / "n.txt", "--labels", tmp_path / "l.csv")
    assert status == 1 and out == "" and message in err and err.count("\n") == 1


def test_blank_lines_a_byte_order_mark_and_other_columns_are_no_matter(hashret: Callable, tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_bytes(b"\xef\xbb\xbf1\t2\r\n\r\n2  1\r\n3 1")
    (tmp_path / "l.csv").write_bytes(b'\xef\xbb\xbfview,label,id\n90,"a, b",1\n0,"a, b",2\n15,c,3\n')
    assert hashret("score", tmp_path / "n.txt", "--labels", tmp_path / "l.csv").out == repr(2 / 3) + "\n"


def test_nearest_others_are_those_of_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_lists, "_PAIRS_AT_ONCE", 90)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (40, 1), dtype=np.uint8)
    valid = rng.random((40, 40)) < 0.5
    valid[7] = False
    for k in (1, 3, 39, 50):
        found = list(nearest_lists.nearest(Representation("codes", codes, codes, 8), lambda rows: valid[rows], k))
        for q, (rows, distances) in enumerate(found):
            near = sorted((bin(int(codes[q, 0] ^ codes[n, 0])).count("1"), n) for n in range(40) if valid[q, n])[:k]
            assert list(zip(distances.tolist(), rows.tolist(), strict=True)) == near
    none = np.zeros((0, 1), np.uint8)
    nothing = nearest_lists.nearest(Representation("", codes, none, 8), lambda rows: valid[rows, :0])
    assert [len(rows) for rows, _ in nothing] == [0] * 40


@pytest.mark.parametrize("metric", ["cosine", "hamming"])
def test_submit_writes_what_score_reads(
    hashret: Callable, closed_set: Path, tiny_run: Path, tmp_path: Path, metric: str
) -> None:
    table = tmp_path / "set.csv"
    assert hashret("data", "table", closed_set, "--out", table).status == 0
    rows = [line.split(",") for line in table.read_text().splitlines()]
    at = {name: rows[0].index(name) for name in ("id", "label")}
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"{row[at['id']]},{row[at['label']]}\n" for row in rows[1:]))
    out = tmp_path / "neighbours.txt"
    words = ["submit", "--model", tiny_run, "--data", table, "--metric", metric, "--device", "cpu", "--workers", "0"]
    status, text, err = hashret(*words, "--out", out, "--labels", labels, "--json")
    assert status == 0, err
    document = json.loads(text)
    assert document["queries"] == len(rows) - 1 == len(out.read_text().splitlines())
    assert hashret("score", out, "--labels", labels).out == repr(document["top1"]) + "\n"
    evaluated = hashret("evaluate", "--model", tiny_run, "--data", table, "--device", "cpu", "--workers", "0", "--json")
    results = json.loads(evaluated.out)["results"]
    score = next(each for each in results if each["name"].startswith("float" if metric == "cosine" else "hash"))
    top1 = score["scores"]["hit@1"]
    assert top1["worst"] - 1e-9 <= document["top1"] <= top1["best"] + 1e-9
    assert "which exists; choose another name" in hashret(*words, "--out", out).err
    labels.write_text("\n".join(labels.read_text().splitlines()[:-2]) + "\n")
    status, _, err = hashret(*words, "--out", tmp_path / "other.txt", "--labels", labels)
    assert status == 1 and "has no label for 2 pictures of" in err and not (tmp_path / "other.txt").exists()
