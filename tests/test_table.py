"""The table of pictures and its CSV contract."""

from __future__ import annotations

import os
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashret.data.table import CORE_COLUMNS, PictureTable, read_label_map
from hashret.errors import DataError

NFD = unicodedata.normalize("NFD", "쏘나타")
NFC = "쏘나타"


def table(**changes: object) -> PictureTable:
    columns: dict[str, object] = {
        "ids": ["1", "2", "3", "4"],
        "paths": ["/p/1.jpg", "/p/2.jpg", "/p/3.jpg", "/p/4.jpg"],
        "labels": ["dog", "dog", "cat", ""],
        "splits": ["train", "test", "train", ""],
        "attributes": {"view": ["0", "15", "30", "45"]},
    }
    return PictureTable(**{**columns, **changes})  # type: ignore[arg-type]


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "표.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ---- CSV

# Any text that CSV as UTF-8 can hold: no lone surrogates; no NUL, which Python 3.10 does not read back.
texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
names = texts.filter(
    lambda text: text == text.strip() != "" and text.lower() not in {*CORE_COLUMNS, "x1", "y1", "x2", "y2"}
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_csv_gives_back_what_was_written(tmp_path: Path, data: st.DataObject) -> None:
    ids = data.draw(st.lists(texts.filter(bool), max_size=6, unique_by=lambda t: unicodedata.normalize("NFC", t)))
    column = st.lists(texts, min_size=len(ids), max_size=len(ids))
    path_texts = texts.filter(lambda text: text.strip("./ ") != "")
    paths = [f"/somewhere/{data.draw(path_texts)}".rstrip("/") for _ in ids]
    original = PictureTable(
        ids, paths, data.draw(column), data.draw(column), data.draw(st.dictionaries(names, column, max_size=3))
    )
    path = tmp_path / "t.csv"
    original.write_csv(path)
    back = PictureTable.read_csv(path)
    assert (back.ids, back.labels, back.splits) == (original.ids, original.labels, original.splits)
    assert [Path(p) for p in back.paths] == [Path(p) for p in map(_absolute, original.paths)]
    assert list(back.attributes.items()) == list(original.attributes.items())


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100  Path.absolute keeps "..", which write_csv takes out


def test_paths_are_relative_to_the_folder_of_the_csv(tmp_path: Path) -> None:
    folder = tmp_path / "설정 A"
    folder.mkdir()
    below, beside = str(folder / NFD / "1.jpg"), str(tmp_path / "other" / "2.jpg")
    inside = f"{folder / 'cars.zip'}::{NFD}/3.jpg"
    original = table(paths=[below, beside, inside, str(tmp_path / "설정 AB" / "4.jpg")])
    original.write_csv(folder / "t.csv")
    lines = (folder / "t.csv").read_text("utf-8").splitlines()
    assert lines[0] == "id,path,label,split,view"
    assert lines[1] == f"1,{NFD}/1.jpg,dog,train,0"
    assert lines[3].startswith(f"3,cars.zip::{NFD}/3.jpg,")
    assert PictureTable.read_csv(folder / "t.csv").paths == original.paths
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert PictureTable.read_csv(moved / "t.csv").paths[0] == str(moved / NFD / "1.jpg")


def test_relative_paths_are_written_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PictureTable(["a"], ["x/1.jpg"], [""], [""]).write_csv("t.csv")
    assert PictureTable.read_csv("t.csv").paths == [str(tmp_path / "x/1.jpg")]


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_minimal_csv_with_and_without_byte_order_mark(tmp_path: Path, start: str) -> None:
    back = PictureTable.read_csv(written(tmp_path, f"{start}path,ID\r\na.jpg,1\r\n\r\nb.jpg,2"))
    assert back.ids == ["1", "2"]
    assert back.paths == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert back.labels == back.splits == ["", ""]
    assert back.attributes == {}


def test_header_only_is_an_empty_table(tmp_path: Path) -> None:
    empty = PictureTable.read_csv(written(tmp_path, "id,path,label\n"))
    assert len(empty) == 0
    assert empty.class_ids()[0].dtype == np.int64
    assert empty.class_ids()[1] == []
    assert len(empty.select([])) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("id,label\n1,cat\n", "no column 'path'.*id, label"),
        ("path\na.jpg\n", "no column 'id'"),
        ("id;path;label\n1;a.jpg;x\n", "semicolons"),
        ("id\tpath\n", "tabs"),
        ("id,path,id\n1,a,2\n", "'id' occurs twice"),
        ("id,path\n1,a.jpg\n2\n", "line 3: found 1 fields, expected 2"),
        ("id,path\n1,a.jpg,extra\n", "line 2: found 3 fields"),
        ("id,path\n1,a.jpg\n1,b.jpg\n", "'1' occurs 2 times"),
        ("id,path\n1,a.jpg\n,b.jpg\n", "line 3: the id is empty"),
        ("id,path\n1,a.jpg\n2,\n", "line 3: the path is empty"),
        ('id,path\n1,"a.jpg\n', "not readable as CSV"),
        ("id,path,\n1,a.jpg,x\n", "cannot be named ''"),
        (f"id,path\n{NFC},a.jpg\n{NFD},b.jpg\n", "occurs 2 times"),
        ("id,path,label\n1,a.jpg,쏘나타\n".encode("cp949"), "line 2: the file is not UTF-8"),
        ("id,path\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_bad_csv_is_refused_in_one_sentence(tmp_path: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)표\.csv.*{reason}"):
        PictureTable.read_csv(written(tmp_path, text))


def test_missing_and_unwritable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*none\.csv"):
        PictureTable.read_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        PictureTable.read_csv(tmp_path)
    with pytest.raises(DataError, match="cannot be written"):
        table().write_csv(tmp_path / "no" / "t.csv")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no Unicode name"):
        table(paths=["/p/\udcc7.jpg", "b", "c", "d"]).write_csv(tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


def test_duplicates_are_let_in_only_for_checking(tmp_path: Path) -> None:
    path = written(tmp_path, "id,path\n1,a.jpg\n1,b.jpg\n")
    assert PictureTable.read_csv(path, allow_duplicates=True).ids == ["1", "1"]


# ---- columns


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="labels has 1 entries for 4 ids"):
        table(labels=["dog"])
    with pytest.raises(DataError, match="view has 2 entries"):
        table(attributes={"view": ["1", "2"]})
    with pytest.raises(DataError, match="'path'"):
        table(attributes={"path": ["1"] * 4})


def test_labels_and_ids_are_composed_and_paths_are_not() -> None:
    one = PictureTable([NFD], [f"/{NFD}.jpg"], [f" {NFD} "], ["train "])
    assert (one.ids, one.labels, one.splits) == ([NFC], [NFC], ["train"])
    assert one.paths == [f"/{NFD}.jpg"]


def test_select_and_where_split() -> None:
    whole = table()
    assert whole.select([3, 0, 0]).ids == ["4", "1", "1"]
    assert whole.select(np.array([2, 1])).attributes == {"view": ["30", "15"]}
    assert whole.select(np.array([True, False, False, True])).ids == ["1", "4"]
    assert whole.select([True, False, False, True]).ids == ["1", "4"]  # type: ignore[list-item]
    assert whole.where_split("train").ids == ["1", "3"]
    assert whole.where_split("train", "test").ids == ["1", "2", "3"]
    with pytest.raises(DataError, match=r"no split 'val'; it has 'test' \(1\), 'train' \(2\)"):
        whole.where_split("val")
    with pytest.raises(DataError, match="it has no splits"):
        table(splits=[""] * 4).where_split("val")
    for bad in ([4], [-1], np.array([True]), np.array([[1]]), np.array([0.5])):
        with pytest.raises(DataError):
            whole.select(bad)


def test_class_ids_and_records() -> None:
    numbers, classes = table().class_ids()
    assert numbers.tolist() == [1, 1, 0, -1]
    assert classes == ["cat", "dog"]
    assert table().records()[1] == {"id": "2", "path": "/p/2.jpg", "label": "dog", "split": "test", "view": "15"}


def test_boxes() -> None:
    boxed = table(
        attributes={
            "x1": ["1", "", "5", "nan"],
            "y1": ["2.5", "", "", "1"],
            "x2": ["30", " ", "7", "2"],
            "y2": ["40", "", "8", "3"],
        }
    )
    assert boxed.box(0) == (1.0, 2.5, 30.0, 40.0)
    assert boxed.box(1) is None
    for row in (2, 3):
        with pytest.raises(DataError, match=f"box of '{row + 1}'.*four numbers"):
            boxed.box(row)
    assert table().box(0) is None


# ---- label maps


@pytest.mark.parametrize("header", ["label,class", "from,to", "class_id,class_name", "note,class,label"])
def test_label_map_merges_labels(tmp_path: Path, header: str) -> None:
    columns = header.split(",")
    old, new = ("label", "class") if "label" in columns else columns[:2]
    rows = [{old: "dog", new: "animal"}, {old: NFD, new: "car"}, {old: "unused", new: "x"}]
    lines = [header, *(",".join(row.get(column, "") for column in columns) for row in rows)]
    path = written(tmp_path, "\n".join(lines))
    merged = table(labels=["dog", "cat", NFC, ""]).with_label_map(path)
    assert merged.labels == ["animal", "cat", "car", ""]
    assert read_label_map(path)[NFC] == "car"


def test_label_map_is_not_transitive_and_takes_a_dict() -> None:
    assert table().with_label_map({"dog": "cat", "cat": "dog"}).labels == ["cat", "cat", "dog", ""]


def test_bad_label_maps(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"columns a, b.*label,class"):
        table().with_label_map(written(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(DataError, match=r"line 3: 'dog' is mapped to 'y'.*'x'"):
        table().with_label_map(written(tmp_path, "label,class\ndog,x\ndog,y\n"))
    with pytest.raises(DataError, match=r"names no label .*'horse'.*'cat', 'dog'"):
        table().with_label_map({"horse": "animal"})
    with pytest.raises(DataError, match="no file"):
        table().with_label_map(tmp_path / "none.csv")


def test_a_large_table_is_read_and_written_quickly(tmp_path: Path) -> None:
    n = 100_000
    numbers = [str(i) for i in range(n)]
    large = PictureTable(
        numbers,
        [f"{tmp_path}/{i}.jpg" for i in range(n)],
        [f"종류 {i % 100}" for i in range(n)],
        ["train"] * n,
        {"view": numbers},
    )
    start = time.perf_counter()
    large.write_csv(tmp_path / "t.csv")
    back = PictureTable.read_csv(tmp_path / "t.csv")
    numbers_N, classes = back.class_ids()
    seconds = time.perf_counter() - start
    assert back.paths == large.paths
    assert (len(numbers_N), len(classes)) == (n, 100)
    assert seconds < 10  # 0.5 s on one core; far from a Path or a dict for each row on a busy machine
