"""`hashret show` and `hashret.show`: the right neighbours, framed as the labels say, of the index or of other pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hashret as package
from hashret.cli import main
from hashret.data.sources import open_source
from hashret.errors import SearchError, UsageError
from hashret.index import CosineIndex, HammingIndex, InnerProductIndex
from hashret.model.hasher import build
from hashret.sheets.contact import RIGHT, WRONG
from hashret.showing import nearest_of, show


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of turntable cars, a few models."""
    folder = tmp_path_factory.mktemp("cars") / "set"
    words = ["data", "turntable", "--out", folder, "--classes", 3, "--test-classes", 2, "--pictures-per-class", 8]
    assert main([str(word) for word in [*words, "--size", "96x72", "--workers", 1]]) == 0
    return folder / "table.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt nothing: what is near is not in question."""
    import torch

    torch.manual_seed(0)
    return build("squeezenet1_1", 16, image_size=48).save_pretrained(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def index(cars: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes and features of the training cars."""
    out = tmp_path_factory.mktemp("index") / "cars.index"
    words = ["index", "--model", model, "--data", cars, "--split", "train", "--out", out, "--metric", "both"]
    assert main([str(word) for word in [*words, "--device", "cpu", "--workers", 0]]) == 0
    return out


def has(picture: Image.Image, colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.asarray(picture) == wanted).all(axis=2).any())


@pytest.mark.parametrize("metric", ["hamming", "cosine"])
@pytest.mark.parametrize("row", [0, 23])
def test_the_neighbours_are_those_that_the_index_finds(index: Path, metric: str, row: int) -> None:
    opened: Any = HammingIndex.load(index) if metric == "hamming" else CosineIndex.load(index)
    own = int(opened.ids[row])
    vector = opened.codes([own]) if metric == "hamming" else opened.vectors([own])
    _, ids = opened.search(vector, 24)
    expected = [record["id"] for number, record in zip(ids[0], opened.records(ids[0]), strict=True) if number != own]
    shown = nearest_of(index, row, 23, metric=metric)
    assert [hit["id"] for hit in shown.results] == expected and len(expected) == 23
    assert [hit["rank"] for hit in shown.results] == list(range(1, 24))
    assert shown.query["id"] == opened.records([own])[0]["id"] and shown.query["row"] == row
    assert nearest_of(opened, row, 5).results == nearest_of(index, row, 5, metric=metric).results
    by_id = nearest_of(opened, str(shown.query["id"]), 23)
    assert by_id.results == shown.results and by_id.query == shown.query
    assert len(nearest_of(opened, str(row), 100).results) == 23, "all there are"


def test_the_picture_frames_right_and_wrong(index: Path) -> None:
    shown = nearest_of(index, 3, 20)
    labels = {hit["label"] == shown.query["label"] for hit in shown.results}
    picture = package.show(index, 3)
    assert isinstance(picture, Image.Image) and picture.mode == "RGB"
    assert labels == {True, False} and has(picture, RIGHT) and has(picture, WRONG)
    one_line, two_lines = show(index, 3, k=10), show(index, 3, k=11)
    assert one_line.width == two_lines.width == picture.width and two_lines.height > 1.8 * one_line.height - 40
    assert show(index, 3, k=1).width < one_line.width
    assert picture.tobytes() == show(HammingIndex.load(index), 3).tobytes()


def test_the_first_cell_is_the_row_and_the_second_its_nearest(index: Path) -> None:
    shown, picture = nearest_of(index, 5, 2), show(index, 5, k=2)
    for path, left in ((shown.query["path"], 18), (shown.results[0]["path"], 18 + 162 + 18)):
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert("RGB").resize((144, 108)), np.int64)
        cell = np.asarray(picture.crop((left, 9 + 18 + 18, left + 144, 9 + 18 + 18 + 108)), np.int64)
        assert np.abs(cell - expected)[20:-20, 20:-40].mean() < 6, path


def test_other_pictures_are_encoded_by_the_model(index: Path, cars: Path, model: Path) -> None:
    table = open_source(str(cars)).where_split("test")
    shown = nearest_of(index, 2, 6, data=table, model=model)
    assert shown.query["id"] == table.ids[2] and len(shown.results) == 6
    assert {hit["label"] for hit in shown.results} <= set(open_source(str(cars)).where_split("train").labels)
    by_id = nearest_of(index, table.ids[2], 6, data=table, model=model, metric="cosine")
    assert by_id.query == shown.query and by_id.metric == "cosine"
    # A picture that is in the index, too, is not its own neighbour, though found from outside.
    from_outside = nearest_of(index, 4, 23, data=open_source(str(cars)).where_split("train"), model=model)
    assert [hit["id"] for hit in from_outside.results] == [hit["id"] for hit in nearest_of(index, 4, 23).results]


def test_the_command_writes_a_png_and_says_so(hashret: Callable, index: Path, cars: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.png"
    status, said, _ = hashret("show", index, 7, "-k", 5, "--out", out)
    assert status == 0 and said.startswith(f"{out}: row 7 (") and said.endswith("5 pictures nearest to it\n")
    with Image.open(out) as picture:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture), np.asarray(show(index, 7, 5)))
    status, said, err = hashret(
        "show", index, 1, "--data", cars, "--split", "test", "--device", "cpu", "--out", out, "--json"
    )
    assert status == 0, err
    document = json.loads(said)
    assert document["out"] == str(out) and document["query"]["split"] == "test" and len(document["results"]) == 20
    assert document["metric"] == "hamming" and document["results"][0]["distance"] >= 0


def test_the_default_name_is_the_row(
    hashret: Callable, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = nearest_of(index, 2, 1).query["id"]
    assert hashret("show", index, "2", "-k", 1)[0] == 0 and hashret("show", index, name, "-k", 1)[0] == 0
    first, second = sorted(tmp_path.iterdir(), key=lambda path: len(path.name))
    assert first.name == "show-2.png" and first.read_bytes() == second.read_bytes()


def test_vectors_come_back_as_they_are_kept() -> None:
    vectors = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    for dtype, off in (("float32", 1e-7), ("float16", 1e-3), ("int8", 1e-2)):
        for kind in (CosineIndex, InnerProductIndex):
            index = kind(8, dtype)
            index.add(vectors[:2])
            index.add(vectors[2:])
            index.remove([1])
            expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if kind is CosineIndex else vectors
            found = index.vectors([4, 0])
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected[[4, 0]], atol=off * np.abs(expected).max())
            assert index.vectors([]).shape == (0, 8)
            with pytest.raises(SearchError, match="id 1 is not"):
                index.vectors([1])


def test_an_index_without_paths_has_nothing_to_draw() -> None:
    index = InnerProductIndex(4)
    with pytest.raises(UsageError, match="0 pictures: none"):
        show(index, 0)
    index.add(np.eye(4))
    with pytest.raises(UsageError, match="knows no path"):
        show(index, 0)


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        (24, {}, "the row is 24, but the index holds 24 pictures: rows 0 to 23"),
        (-1, {}, "the row is -1"),
        ("24", {}, "the row is 24"),
        ("no car", {}, "no picture with the id 'no car'"),
        (1.5, {}, "the row is 1.5"),
        (True, {}, "the row is True"),
        (0, {"metric": "l2"}, "metric is 'l2'"),
        (0, {"metric": "inner_product"}, "InnerProductIndex|features for cosine|load it with"),
        (0, {"model": "m"}, "both, data and model"),
        (0, {"k": 0}, "k is 0"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(row: Any, settings: dict[str, Any], words: str, index: Path) -> None:
    with pytest.raises((UsageError, SearchError), match=words):
        show(index, row, **settings)


def test_wrong_words_on_the_command_line(hashret: Callable, index: Path, cars: Path, tmp_path: Path) -> None:
    for words, status, sentence in (
        (["show", index, 99, "--out", tmp_path / "a.png"], 2, "rows 0 to 23"),
        (["show", index, 0, "--out", tmp_path / "a.txt"], 2, "name a .png"),
        (["show", index, 0, "--out", tmp_path / "none" / "a.png"], 2, "there is no folder"),
        (["show", index, 0, "--model", "m"], 2, "add --data"),
        (["show", tmp_path, 0, "--out", tmp_path / "a.png"], 1, "index"),
        (
            ["show", index, "x", "--data", cars, "--out", tmp_path / "a.png", "--device", "cpu"],
            2,
            "no picture with the id 'x'",
        ),
    ):
        found, _, err = hashret(*words)
        assert found == status and sentence in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_an_open_index_is_searched_by_its_own_metric(index: Path) -> None:
    with pytest.raises(UsageError, match="searched by hamming, not cosine"):
        show(HammingIndex.load(index), 0, metric="cosine")
    with pytest.raises(UsageError, match="is a dict"):
        show({}, 0)  # type: ignore[arg-type]


def test_query_offers_the_metrics_that_its_indexes_have(hashret: Callable, index: Path) -> None:
    status, _, err = hashret("query", "--index", index, "x.jpg", "--metric", "inner_product")
    assert status == 2 and "invalid choice: 'inner_product'" in err
