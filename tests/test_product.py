"""Product quantisation: searched as an oracle that decodes every code would, better than a plain one, stored and damaged."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hashret.errors import IndexFormatError, IndexVersionError, SearchError
from hashret.index import product
from hashret.index.inner_products import max_inner_products
from hashret.index.product import ProductIndex

pytest.importorskip("faiss")

METRICS = ["cosine", "inner_product"]


def in_cells(n: int, dim: int, seed: int = 0, centres: int = 6) -> np.ndarray:
    """Vectors about a few centres, each spread along some directions of its own: what a rotation a cell is for."""
    rng = np.random.default_rng(1)
    middles = 2 * rng.standard_normal((centres, dim))
    spread = rng.standard_normal((centres, dim // 4, dim))
    rng = np.random.default_rng(seed)
    which = rng.integers(0, centres, n)
    along = rng.standard_normal((n, dim // 4))
    made = middles[which] + np.einsum("ni,nid->nd", along, spread[which]) + 0.1 * rng.standard_normal((n, dim))
    return made.astype(np.float32)


def quickly(vectors: np.ndarray, **settings: Any) -> ProductIndex:
    return ProductIndex.fit(vectors, **{"coarse": 3, "parts": 4, "centroids": 16, "iterations": 3, **settings})


def decoded(index: ProductIndex) -> np.ndarray:
    """What every code stands for, in float64: centroids side by side, turned back, and the centre of the cell."""
    codes, cells = index.codes()
    found = np.empty((len(index), index.dim))
    for row, (code, cell) in enumerate(zip(codes, cells, strict=True)):
        parts = [index.centroids_CMSV[cell, part, :, number] for part, number in enumerate(code)]
        turned = np.concatenate(parts).astype(np.float64)
        found[row] = turned @ index.rotations_CDD[cell].T.astype(np.float64) + index.coarse_CD[cell]
    return found


def true_similarities(index: ProductIndex, queries: np.ndarray) -> np.ndarray:
    wide = queries.astype(np.float64)
    if index.metric == "inner_product":
        return wide @ decoded(index).T
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return 1 - np.square(wide[:, None] - decoded(index)[None]).sum(axis=2) / 2


@pytest.fixture(scope="module", params=METRICS)
def index(request: pytest.FixtureRequest) -> ProductIndex:
    return quickly(in_cells(600, 16), metric=request.param)


# ---- search


@pytest.mark.parametrize(("queries", "k"), [(0, 3), (1, 1), (7, 10), (5, 600), (3, 700)])
def test_similarities_are_those_of_what_the_codes_stand_for(index: ProductIndex, queries: int, k: int) -> None:
    asked = in_cells(queries, 16, seed=2)
    similarities, rows = index.search(asked, k)
    assert similarities.dtype == np.float32 and rows.dtype == np.int64
    assert similarities.shape == rows.shape == (queries, k)
    true = true_similarities(index, asked)
    held = min(k, len(index))
    assert (rows[:, held:] == -1).all() and np.isnan(similarities[:, held:]).all()
    similarities, rows = similarities[:, :held], rows[:, :held]
    tolerance = 1e-4 if index.metric == "inner_product" else 1e-5
    np.testing.assert_allclose(similarities, np.take_along_axis(true, rows, axis=1), rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(similarities, -np.sort(-true, axis=1)[:, :held], rtol=1e-4, atol=tolerance)
    for one, numbers in zip(similarities, rows, strict=True):
        assert len(set(numbers.tolist())) == held
        assert all(a > b or (a == b and i < j) for (a, i), (b, j) in itertools.pairwise(zip(one, numbers, strict=True)))


def test_equal_codes_tie_and_the_earlier_row_comes_first() -> None:
    vectors = in_cells(300, 16)
    index = quickly(np.concatenate([vectors, vectors, vectors[:50]]))
    similarities, rows = index.search(vectors[:20], 650)
    tied = similarities[:, 1:] == similarities[:, :-1]
    assert tied.sum() > 20 * 300 and (rows[:, 1:] > rows[:, :-1])[tied].all()
    codes, cells = index.codes()
    for number in range(300):
        assert cells[number] == cells[number + 300] and codes[number].tolist() == codes[number + 300].tolist()
    # The k-th place among ties goes to the earlier row, too.
    assert index.search(vectors[:20], 5)[1].tolist() == rows[:, :5].tolist()


def test_nothing_depends_on_threads_or_on_the_other_queries(
    index: ProductIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = in_cells(9, 16, seed=5)
    whole = index.search(queries, 12, threads=1)
    monkeypatch.setattr(product, "_PART_ROWS", 50)
    for threads in (1, 2, 3, 16):
        for group in (slice(0, 9), slice(4, 5), slice(7, 9)):
            some = index.search(queries[group], 12, threads=threads)
            assert [part.tobytes() for part in some] == [part[group].tobytes() for part in whole]


def test_fewer_cells_look_into_the_nearest_only(index: ProductIndex) -> None:
    queries = in_cells(6, 16, seed=3)
    all_cells = index.search(queries, 600)
    assert [part.tobytes() for part in index.search(queries, 600, cells=3)] == [part.tobytes() for part in all_cells]
    _, cells = index.codes()
    wide = queries.astype(np.float64)
    if index.metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    for query, (values, rows), (some_values, some_rows) in zip(
        wide, zip(*all_cells, strict=True), zip(*index.search(queries, 600, cells=1), strict=True), strict=True
    ):
        centres = index.coarse_CD.astype(np.float64)
        near = centres @ query if index.metric == "inner_product" else -np.square(centres - query).sum(axis=1)
        inside = cells[rows] == near.argmax()
        assert some_rows[: inside.sum()].tolist() == rows[inside].tolist() and (some_rows[inside.sum() :] == -1).all()
        assert some_values[: inside.sum()].tobytes() == values[inside].tobytes()
    for wrong in (0, 4, 1.0, True):
        with pytest.raises(SearchError, match="cells is"):
            index.search(queries, 5, cells=wrong)  # type: ignore[arg-type]


# ---- quantising


def test_every_part_has_the_nearest_centroid_of_its_cell(index: ProductIndex) -> None:
    vectors = in_cells(600, 16).astype(np.float64)
    if index.metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes, cells = index.codes()
    distances = np.square(vectors[:, None] - index.coarse_CD.astype(np.float64)[None]).sum(axis=2)
    assert (np.take_along_axis(distances, cells[:, None], 1)[:, 0] <= distances.min(axis=1) + 1e-5).all()
    for row in range(0, 600, 7):
        turned = (vectors[row] - index.coarse_CD[cells[row]]) @ index.rotations_CDD[cells[row]].astype(np.float64)
        for part in range(4):
            far = np.square(turned[4 * part : 4 * part + 4, None] - index.centroids_CMSV[cells[row], part]).sum(axis=0)
            assert far[codes[row, part]] <= far[: index.used_C[cells[row]]].min() + 1e-5
    for rotation in index.rotations_CDD:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-4)


def test_recall_is_above_that_of_a_plain_quantiser_where_cells_differ() -> None:
    import faiss

    vectors, queries = in_cells(4_000, 32), in_cells(200, 32, seed=9)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    truth = max_inner_products(queries, vectors, 10)[1]

    def recall(rows: np.ndarray) -> float:
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]))

    ours = ProductIndex.fit(vectors, coarse=6, parts=8, centroids=16, iterations=8)
    plain = faiss.ProductQuantizer(32, 8, 4)
    plain.cp.min_points_per_centroid = 1
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    plain.train(vectors)
    rebuilt = plain.decode(plain.compute_codes(vectors))
    faiss.omp_set_num_threads(before)
    theirs = max_inner_products(2 * queries, rebuilt, 10)[1]
    assert recall(ours.search(queries, 10)[1]) > max(recall(theirs) + 0.15, 0.6)
    one_cell = ProductIndex.fit(vectors, coarse=1, parts=8, centroids=16, iterations=8)
    assert recall(ours.search(queries, 10)[1]) > recall(one_cell.search(queries, 10)[1])


def test_a_cell_of_few_vectors_keeps_them_as_they_are() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(0, 1, (500, 8)), rng.normal(40, 1, (9, 8)), np.full((1, 8), -90.0)])
    index = quickly(vectors, metric="inner_product")
    cells = index.codes()[1]
    assert sorted(index.used_C.tolist()) == [1, 9, 16] and len(np.unique(cells)) == 3
    np.testing.assert_allclose(decoded(index)[500:], vectors[500:], rtol=1e-5)
    np.testing.assert_array_equal(index.rotations_CDD[cells[505]], np.eye(8))
    index.add(np.full((3, 8), 41.0))  # later vectors take what centroids there are
    assert index.codes()[0][-1].max() < 9


@pytest.mark.parametrize("n", [3, 40])
def test_fewer_vectors_than_centroids_are_found_exactly(n: int) -> None:
    vectors = in_cells(n, 8)
    index = ProductIndex.fit(vectors, coarse=3, parts=2)
    assert index.search(vectors, 1)[1][:, 0].tolist() == list(range(n))
    np.testing.assert_allclose(index.search(vectors, 1)[0][:, 0], 1, atol=1e-5)


def test_vectors_added_later_and_in_turns_are_those_added_at_once() -> None:
    vectors = in_cells(700, 16)
    at_once, in_turns = quickly(vectors[:400]), quickly(vectors[:400])
    assert at_once.add(vectors[400:]).tolist() == list(range(400, 700))
    for start in range(400, 700, 100):
        in_turns.add(vectors[start : start + 100].astype(np.float64))
    assert in_turns.add(np.empty((0, 16), np.float32)).tolist() == [] and len(in_turns) == 700
    for one, other in zip(at_once.search(vectors[:5], 20), in_turns.search(vectors[:5], 20), strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_same_seed_gives_the_same_bytes_and_large_data_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = in_cells(600, 16)
    monkeypatch.setattr(product, "SAMPLE_PER_CELL", 100)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        quickly(vectors, seed=seed).save(tmp_path / name)
    a, b, c = ((tmp_path / name / product.FILE).read_bytes() for name in "abc")
    assert a == b != c
    assert len(ProductIndex.load(tmp_path / "a")) == 600


def test_memory_is_counted_by_what_it_is_for(index: ProductIndex) -> None:
    counted = index.bytes_per_picture
    assert (counted.code, counted.row) == (4, 4)
    # Centres, rotations, centroids and half their squared lengths, in float32.
    tables = 4 * (3 * 16 + 3 * 16 * 16 + 3 * 16 * 16 + 3 * 4 * 16)
    assert counted.tables == tables / 600 and counted.total == 8 + tables / 600
    empty = ProductIndex("cosine", index.coarse_CD, index.rotations_CDD, index.centroids_CMSV, index.used_C)
    with pytest.raises(SearchError, match="holds no vectors"):
        _ = empty.bytes_per_picture
    similarities, rows = empty.search(np.ones((2, 16)), 3)
    assert np.isnan(similarities).all() and (rows == -1).all()


# ---- bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"coarse": 0}, "coarse is 0"),
        ({"coarse": 60}, "50 vectors for 60 cells"),
        ({"parts": 3}, "cannot be cut into 3"),
        ({"parts": 17}, "parts is 17"),
        ({"centroids": 100}, "power of two"),
        ({"centroids": 512}, "centroids is 512"),
        ({"centroids": True}, "centroids is True"),
        ({"seed": -1}, "seed is -1, expected a whole number from 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"metric": "l2"}, "metric is 'l2'"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SearchError, match=words):
        quickly(in_cells(50, 16), **settings)


def test_vectors_that_cannot_be(index: ProductIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, words in (
        (np.ones(3), "shape"),
        (np.ones((60, 16), np.int64), "int64"),
        (np.where(np.arange(960).reshape(60, 16) == 16 * 41, np.nan, 1.0), "vector 41"),
    ):
        with pytest.raises(SearchError, match=words):
            quickly(wrong)
    monkeypatch.setattr(product, "_BLOCK_ROWS", 8)
    before = len(index)
    bad = np.ones((30, 16))
    bad[21, 3] = np.inf
    for wrong, words in ((np.ones((2, 15)), r"\(N, 16\)"), (bad, "vector 21 ")):
        with pytest.raises(SearchError, match=words):
            index.add(wrong)
        with pytest.raises(SearchError, match=words):
            index.search(wrong, 3)
    assert len(index) == before
    if index.metric == "cosine":
        with pytest.raises(SearchError, match="zeros"):
            index.search(np.zeros((1, 16)), 1)
    with pytest.raises(SearchError, match="k is 0"):
        index.search(np.ones((1, 16)), 0)


def test_without_faiss_or_torch_an_index_is_searched_and_not_trained(index: ProductIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "i")
    code = f"""
import sys
for name in ("faiss", "torch"): sys.modules[name] = None
import numpy as np
from hashret.index.product import ProductIndex
from hashret.errors import SearchError
index = ProductIndex.load({str(tmp_path / "i")!r})
index.add(np.ones((1, 16)))
assert index.search(np.ones((1, 16)), 3)[1].shape == (1, 3)
try: ProductIndex.fit(np.eye(16), coarse=2, parts=4)
except SearchError as error: assert "hashret[pq]" in str(error), error
else: raise SystemExit("trained without FAISS")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- on disk


def test_saved_and_loaded_it_answers_the_same_and_is_saved_the_same(index: ProductIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "new" / "i")
    again = ProductIndex.load(tmp_path / "new" / "i")
    queries = in_cells(5, 16, seed=8)
    for one, other in zip(index.search(queries, 20), again.search(queries, 20), strict=True):
        assert one.tobytes() == other.tobytes()
    assert again.bytes_per_picture == index.bytes_per_picture and again.metric == index.metric
    again.save(tmp_path / "j")
    first, second = ((tmp_path / name / product.FILE).read_bytes() for name in ("new/i", "j"))
    assert first == second
    again.add(queries)
    again.save(tmp_path / "j")
    assert len(ProductIndex.load(tmp_path / "j")) == 605
    assert [path.name for path in (tmp_path / "j").iterdir()] == [product.FILE]


Change = Callable[[dict[str, np.ndarray], dict[str, Any]], None]


def put(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda tensors, described: tensors.update({name: np.ascontiguousarray(value(tensors[name]))})


def said(**changes: Any) -> Change:
    return lambda tensors, described: described.update(changes)


HOSTILE: dict[str, tuple[Change, str]] = {
    "foreign": (said(format="something"), "no index of product quantisation"),
    "newer": (said(format_version=2), "install a newer one"),
    "odd version": (said(format_version="1"), "format version is '1'"),
    "metric": (said(metric="l1"), "metric is 'l1'"),
    "missing": (lambda tensors, described: tensors.__delitem__("used"), "expected cells, centroids"),
    "wide": (put("coarse", lambda a: a.astype(np.float64)), "coarse is float64"),
    "short cells": (put("cells", lambda a: a[:-1]), "cells has shape"),
    "short rotation": (put("rotations", lambda a: a[:, :-1]), "rotations has shape"),
    "flat": (put("codes", lambda a: a.reshape(-1)), "codes is uint8 of shape"),
    "other parts": (put("codes", lambda a: np.tile(a, (1, 2))), "centroids has shape"),
    "not a number": (put("centroids", lambda a: a * np.nan), "NaN"),
    "unused cell": (put("used", lambda a: a * 0), "uses none"),
    "too many used": (put("used", lambda a: a + 1), "more than 16"),
    "cell beyond": (put("cells", lambda a: a + 1), "beyond the 3"),
    "code beyond": (put("used", lambda a: a // 2), "centroid that its cell has not"),
    "another number": (lambda tensors, described: described.update(digest="0"), "not those that were written"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_sentence(name: str, index: ProductIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    tensors = load_file(tmp_path / product.FILE)
    described = {"format": "hashret-product", "format_version": 1, "metric": index.metric}
    change, words = HOSTILE[name]
    change(tensors, described)
    described.setdefault("digest", product._digest(tensors))
    save_file(tensors, tmp_path / product.FILE, {"hashret": json.dumps(described)})
    with pytest.raises(IndexVersionError if name == "newer" else IndexFormatError, match=words) as raised:
        ProductIndex.load(tmp_path)
    assert "\n" not in str(raised.value) and product.FILE in str(raised.value)


def test_a_file_cut_off_or_changed_anywhere_is_refused(index: ProductIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    file = tmp_path / product.FILE
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for cut in [0, 1, 7, 100, *rng.integers(0, len(whole), 10)]:
        file.write_bytes(whole[:cut])
        with pytest.raises(IndexFormatError):
            ProductIndex.load(tmp_path)
    for place in rng.integers(len(whole) - 5_000, len(whole), 40):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(0, 8)
        file.write_bytes(changed)
        with pytest.raises(IndexFormatError):
            ProductIndex.load(tmp_path)
    file.unlink()
    with pytest.raises(IndexFormatError, match="there is no"):
        ProductIndex.load(tmp_path)
    (tmp_path / "a file").write_text("")
    with pytest.raises(SearchError, match="cannot be written"):
        index.save(tmp_path / "a file" / "i")
