"""Conditions on records: what they choose, beside plain Python, and that nothing typed into one reaches SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashret.errors import SearchError
from hashret.index import CosineIndex, HammingIndex, Store
from hashret.index.records import MemoryRecords, StoredRecords
from hashret.index.records import write as write_records
from hashret.index.where import Condition

ROWS: list[dict[str, Any]] = [
    {"id": "a", "label": "car", "view": 90, "time": "day"},
    {"id": "b", "label": "red car", "view": "90", "time": "night"},
    {"id": "c", "label": "자동차", "view": 105.5, "time": "it's dusk"},
    {"id": "d", "label": "", "view": "90 degrees", "exposure time": 0.25},
    {"id": "e", "label": "car", "view": -15, "flag": True, "tags": ["x"]},
    {"id": "f", "label": "Car", "view": " 9e1 ", "flag": 1},
    {"id": "g", "label": "car", "view": 10**20, "none": None},
]
RECORDS = [{"path": "", "split": "", **row} for row in ROWS]


@pytest.fixture(scope="module", params=["memory", "stored"])
def columns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "memory":
        return MemoryRecords(RECORDS)
    path = tmp_path_factory.mktemp("records") / "metadata.sqlite"
    write_records(path, RECORDS)
    return StoredRecords(path, len(RECORDS))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("view = 90", "abf"),
        ("view == 90.0", "abf"),
        ("view = '90'", "ab"),
        ("view != 90", "cdeg"),
        ("view <> '90'", "cdefg"),
        ("view < 90", "e"),
        ("view <= +9e1", "abef"),
        ("view > 90 AND view < 1e6", "c"),
        ("view > 99999999999999999999", "g"),
        ("view = 100000000000000000001", ""),
        ("label = 'car'", "aeg"),
        ("label in ('car', 'red car')", "abeg"),
        ("label not in ('car')", "bcdf"),
        ("view in (90, '90 degrees')", "abdf"),
        ("time = 'it''s dusk'", "c"),
        ("label = '자동차'", "c"),
        ("label > 'car'", "bc"),
        ("time is null", "defg"),
        ("time is not null", "abc"),
        ("not time = 'day'", "bcdefg"),
        ("time != 'day'", "bc"),
        ("time not in ('day')", "bc"),
        ('"exposure time" < .5', "d"),
        ("flag = 'true'", "e"),
        ("flag = 1", "f"),
        ("tags = '[\"x\"]'", "e"),
        ("none is null", "abcdefg"),
        ("view = 90 or label = 'car' and time = 'day'", "abf"),
        ("(view = 90 or label = 'car') and time = 'day'", "a"),
        ("not (view = 90) and not not label = 'car'", "eg"),
        ("id in ('a', 'zz') or split = 'train'", "a"),
        ("nothing.like-it is null", "abcdefg"),
        ("label = ''", "d"),
        ("  view=90  ", "abf"),
    ],
)
def test_what_a_condition_chooses(columns: Any, text: str, ids: str) -> None:
    chosen = Condition(text).mask(columns)
    assert chosen.dtype == np.bool_
    assert "".join(row["id"] for row, is_chosen in zip(ROWS, chosen, strict=True) if is_chosen) == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found its end, expected the name"),
        ("view", "found its end, expected a comparison"),
        ("view = ", "found its end, expected a number, or a text in single quotes"),
        ("view = night", "found 'night' at character 8, expected a number, or a text in single quotes"),
        ("view = 90 time = 'x'", "found \"time = 'x'\" at character 11, expected and, or, or the end"),
        ("(view = 90", "expected a closing bracket"),
        ("view = 'x", 'found "\'x" at character 8'),
        ("view in 90", "expected an opening bracket"),
        ("view in (90", "expected a comma or a closing bracket"),
        ("view not 90", "expected in"),
        ("view is 90", "expected null"),
        ("90 = view", "expected the name of an attribute"),
        ("view = 90; drop table records", "found '; drop table records' at character 10"),
        ("view = 90 -- all", "found '-- all' at character 11"),
        ("view = 9x", "found '9x' at character 8"),
        ("and = 1", "expected the name of an attribute"),
        ("(" * 200 + "view = 90" + ")" * 200, "at most 100 brackets"),
        ("not " * 5000 + "view = 90", "at most 100 brackets"),
    ],
)
def test_what_is_no_condition_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(SearchError) as caught:
        Condition(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


HOSTILE = ["x'; DROP TABLE records; --", '"', "'", "a) OR (1=1", "%", "\\", "$.x", "? ?", "\0", "ü\n"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_values_are_never_sql(tmp_path: Path, text: str) -> None:
    rows = [
        {"id": "a", "path": "", "label": text, "split": "", text: 1},
        {"id": "b", "path": "", "label": "", "split": ""},
    ]
    write_records(tmp_path / "m.sqlite", rows)
    columns = StoredRecords(tmp_path / "m.sqlite", 2)
    value, name = "'" + text.replace("'", "''") + "'", '"' + text.replace('"', '""') + '"'
    assert Condition(f"label = {value}").mask(columns).tolist() == [True, False]
    assert Condition(f"{name} = 1").mask(columns).tolist() == [True, False]
    assert [record["id"] for record in columns.at([0, 1])] == ["a", "b"]


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_one_sentence(text: str) -> None:
    try:
        condition = Condition(text)
    except SearchError as error:
        assert len(str(error).splitlines()) == 1 or not text.isprintable()
        return
    assert condition.mask(MemoryRecords(RECORDS)).shape == (len(RECORDS),)


def random_index(rng: np.random.Generator, n: int) -> tuple[HammingIndex, np.ndarray]:
    codes = rng.integers(0, 4, (n, 8), dtype=np.uint8)
    records = [{"id": f"r{i}", "part": int(i % 100), "half": "even" if i % 2 == 0 else "odd"} for i in range(n)]
    index = HammingIndex(64)
    index.add(codes, records=records)
    return index, codes


@pytest.mark.parametrize(("where", "share"), [("part < 0", 0), ("part = 7", 1), ("part < 50", 50), ("part >= 0", 100)])
@pytest.mark.parametrize("batch", [1, 64])
def test_a_filtered_search_is_exact_at_any_selectivity(tmp_path: Path, where: str, share: int, batch: int) -> None:
    """As a search of an index that holds only what is chosen; with deletes, several segments and buckets beside them."""
    rng = np.random.default_rng(share)
    index, codes = random_index(rng, 5000)
    index.remove(np.arange(0, 5000, 3))
    index.save(tmp_path / "i")
    index = HammingIndex.load(tmp_path / "i")
    parts = np.arange(5000) % 100
    chosen = np.flatnonzero((np.arange(5000) % 3 > 0) & (parts == 7 if share == 1 else parts < share))
    only = HammingIndex(64)
    only.add(codes[chosen], ids=chosen)
    queries = rng.integers(0, 4, (batch, 8), dtype=np.uint8)
    assert index.count(where) == len(chosen)
    for buckets in (False, True):
        if buckets:
            index.build_multi_index()
        for k in (1, 10, 60):
            for found, expected in zip(index.search(queries, k, where=where), only.search(queries, k), strict=True):
                assert np.array_equal(found, expected)
        for found, expected in zip(
            index.search_radius(queries, 9, where=where), only.search_radius(queries, 9), strict=True
        ):
            assert np.array_equal(found, expected)
        logits = rng.standard_normal((batch, 64)).astype(np.float32)
        found = index.search(logits, 10, metric="asymmetric", where=where)
        expected = only.search(logits, 10, metric="asymmetric")
        assert np.array_equal(found[0], expected[0], equal_nan=True) and np.array_equal(found[1], expected[1])
        found = index.search_two_stage(queries, 5, 20, logits=logits, where=where)
        expected = only.search_two_stage(queries, 5, 20, logits=logits)
        assert np.array_equal(found[0], expected[0], equal_nan=True) and np.array_equal(found[1], expected[1])


def test_features_are_filtered_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 5))
    index = CosineIndex(5)
    index.add(features, records=[{"id": str(i), "part": i % 7} for i in range(300)])
    index.add(features[:3])
    queries = rng.standard_normal((4, 5))
    only = CosineIndex(5)
    rows = np.flatnonzero(np.arange(300) % 7 == 3)
    only.add(features[rows], ids=rows)
    for found, expected in zip(index.search(queries, 50, where="part = 3"), only.search(queries, 50), strict=True):
        assert np.array_equal(found, expected, equal_nan=True)
    assert index.count("part is null") == 3, "rows without a record have no attributes"
    for found, expected in zip(
        index.search_radius(queries, 0.5, where="part = 3"), only.search_radius(queries, 0.5), strict=True
    ):
        assert np.array_equal(found, expected)


def test_a_store_says_what_a_condition_chooses(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "i", code_size=8)
    store.append(np.zeros((3, 1), np.uint8), records=[{"id": str(i), "view": 10 * i} for i in range(3)])
    store.remove([1])
    assert store.chosen("view >= 10").tolist() == [2]
    with pytest.raises(SearchError, match="cannot be read"):
        store.chosen("view >= ")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000, "2" * 16_000 + "a", "\u0669\u0660"])
def test_numbers_that_are_none_are_refused_at_once(number: str) -> None:
    with pytest.raises(SearchError, match="cannot be read"):
        Condition(f"view < {number}")
    with pytest.raises(SearchError, match="a condition is a text"):
        Condition(5)  # type: ignore[arg-type]
