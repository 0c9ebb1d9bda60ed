"""A competition's CSV: written, read, checked line by line, and scored, by functions and as people type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashret.errors import DataError
from hashret.evaluation import competition

ANSWERS = {"a.jpg": ["cat", "-1", "dog"], "b, c.jpg": ["-1"], "개.jpg": ["새", "cat", "dog", "ant", "bee"]}
GOOD = "id,classes\n1,cat dog\n2,-1 cat\n"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "submission.csv"
    competition.write(file, ANSWERS)
    assert file.read_text("utf-8") == 'id,classes\na.jpg,cat -1 dog\n"b, c.jpg",-1\n개.jpg,새 cat dog ant bee\n'
    assert competition.read(file, list(ANSWERS), ["cat", "dog", "새", "ant", "bee"]) == ANSWERS
    assert competition.is_submission(file) and [path.name for path in tmp_path.iterdir()] == ["submission.csv"]


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1).filter(
    lambda s: s == s.strip()
)


@given(st.dictionaries(st.text("ab,\" 'é", min_size=1), st.lists(st.sampled_from("vwxyz"), min_size=1, unique=True)))
def test_any_ids_come_back(tmp_path_factory: pytest.TempPathFactory, answers: dict[str, list[str]]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    competition.write(file, answers)
    assert competition.read(file, list(answers), "vwxyz") == answers


@pytest.mark.parametrize("name", ["", "two words", "tab\there", "line\n", " cat"])
def test_a_class_that_has_no_room(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is empty or has blanks, and classes are parted by blanks"):
        competition.write(tmp_path / "s.csv", {"1": [name]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: found '', expected the header `id,classes`"),
        (GOOD.replace("classes", "Id"), "line 1: found 'id,Id', expected the header `id,classes`"),
        ("1,cat\n2,dog\n", "line 1: found '1,cat', expected the header"),
        (GOOD.replace("id,classes", "classes,id"), "line 1: found 'classes,id'"),
        (GOOD.replace(",", ";"), "line 1: found 'id;classes'"),
        (GOOD + "3,cat\n", "line 4: the id '3' is none of the 2 to be answered"),
        (GOOD + "1,cat\n", "line 4: the id '1' comes a second time"),
        (GOOD.replace("2,-1 cat\n", ""), "has no line for 1 of the 2 ids, the first is '2'"),
        ("id,classes\n", "has no line for 2 of the 2 ids, the first is '1'"),
        (GOOD.replace("cat dog", "a b c d e f"), "line 2: found 6 classes for '1', expected 1 to 5"),
        (GOOD.replace("cat dog", ""), "line 2: found 0 classes for '1', expected 1 to 5"),
        (GOOD.replace("cat dog", "cat dog cat"), "line 2: the class 'cat' is named twice"),
        (GOOD.replace("dog", "cow"), "line 2: there is no class 'cow' among the 2 of the table"),
        (GOOD.replace("-1 cat", "-1 cat -1"), "line 3: the class '-1' is named twice"),
        (GOOD.replace("cat dog", "cat,dog"), "line 2: found 3 fields, expected an id, a comma and classes"),
        (GOOD.replace("2,", "\n\n2,").replace("-1", "cow"), "line 5: there is no class 'cow'"),
        (GOOD.replace("1,cat", '1,"cat'), "line 3: not readable as CSV"),
    ],
)
def test_every_line_is_checked(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "s.csv"
    file.write_text(text, "utf-8")
    with pytest.raises(DataError) as refused:
        competition.read(file, ["1", "2"], ["cat", "dog"])
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_other_bytes(tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    file.write_bytes(b"id,classes\n1,caf\xe9\n")
    with pytest.raises(DataError, match="line 2: the file is not UTF-8"):
        competition.read(file, ["1"])
    file.write_bytes("\ufeffid,classes\r\n1,cat\r\n".encode())
    assert competition.is_submission(file) and competition.read(file, ["1"]) == {"1": ["cat"]}
    with pytest.raises(DataError, match="cannot be read"):
        competition.read(tmp_path / "none.csv", ["1"])


# ---- the command

TABLE = "id,path,label,split\n1,1.jpg,dog,test\n2,2.jpg,,test\n3,3.jpg,cat;dog,train\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "s.csv").write_text(GOOD)
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path / "s.csv", tmp_path / "table.csv"


def test_a_submission_is_scored(hashret: Callable[..., Any], files: tuple[Path, Path]) -> None:
    submission, table = files
    status, out, err = hashret("score", submission, "--labels", table, "--split", "test")
    assert (status, out) == (0, "0.75\n") and "MAP@5 of 2 pictures, 1 of them of no class" in err
    document = json.loads(hashret("score", submission, "--labels", table, "--split", "test", "--json").out)
    assert document == {"map@5": 0.75, "pictures": 2, "strangers": 1, "classes": 2}
    submission.write_text(GOOD + "3,cat\n")  # one of two true classes, in a list of one
    assert float(hashret("score", submission, "--labels", table, "--classes").out) == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_labels_as_the_competition_has_them(hashret: Callable[..., Any], files: tuple[Path, Path]) -> None:
    files[1].write_text("id,classes\n1,dog cat\n2,-1\n")
    assert float(hashret("score", files[0], "--labels", files[1]).out) == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "test", "-k", "3"], "-k is for --qrels, and --labels gives MAP@5 alone"),
        (["--split", "val"], "has no picture of the split val (it has test, train), so there is nothing to score"),
        ([], "has no line for 1 of the 3 ids, the first is '3'"),
    ],
)
def test_what_cannot_be_scored(
    hashret: Callable[..., Any], files: tuple[Path, Path], words: list[str], message: str
) -> None:
    status, out, err = hashret("score", files[0], "--labels", files[1], *words)
    assert status in (1, 2) and not out and message in err and err.count("\n") == 1


def test_neither_header_nor_flag_makes_it_a_list_of_neighbours(
    hashret: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    submission, table = files
    submission.write_text(GOOD.replace("id,classes", "id,class"))
    assert "line 1 is 'id,class', expected `query_id nearest_id`" in hashret("score", submission, "--labels", table).err
    assert "expected the header `id,classes`" in hashret("score", submission, "--labels", table, "--classes").err
    assert "--split is about submissions" in hashret("score", submission, "--labels", table, "--split", "test").err
    assert "leave one out" in hashret("score", submission, "--qrels", table, "--classes").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has in its first line: nothing; expected the columns id and label, or id and classes"),
        ("id,class\n1,cat\n", "has in its first line: id, class; expected"),
        ("id,label\n1,cat\n1,dog\n", "line 3: the id '1' comes a second time"),
        ("id,label\n,cat\n", "line 2: the id is empty"),
        ("id,label\n1,cat,dog\n", "line 2: found 3 fields, expected 2"),
        ('id,label\n1,"cat\n', "not readable as CSV"),
        ("id,label\n", "has no picture, so there is nothing to score"),
    ],
)
def test_labels_that_are_none(hashret: Callable[..., Any], files: tuple[Path, Path], text: str, message: str) -> None:
    files[1].write_text(text)
    status, _, err = hashret("score", files[0], "--labels", files[1])
    assert status == 1 and message in err
