"""Indexes in memory and on disk: answers, ids that stay, atomic commits, and damage that is named."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hashret.codes import pack
from hashret.errors import CodeError, IndexFormatError, SearchError
from hashret.hamming import reference
from hashret.index import CosineIndex, HammingIndex, Store, durable, manifest, storage
from hashret.index.contents import all_differ

GOLDEN = Path(__file__).parent / "golden" / "index-v1"


def random_codes(rng: np.random.Generator, n: int, bits: int = 64) -> np.ndarray:
    return pack(rng.integers(0, 2, (n, bits)))


def hangul_records(n: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "id": f"사진-{i}",
            "path": f"/자동차/{i}.jpg",
            "label": "현대 쏘나타",
            "split": "test",
            "view": 15 * i,
            "색": "🚗 red",
        }
        for i in range(first, first + n)
    ]


def save_new(path: Path, n: int = 50, **options: Any) -> HammingIndex:
    index = HammingIndex(64, **options)
    index.add(random_codes(np.random.default_rng(n), n), records=hangul_records(n))
    index.save(path)
    return index


class OracleMachine(RuleBasedStateMachine):
    """Additions, removals, saves and loads in any order, against a plain list of (id, code)."""

    @initialize(bits=st.sampled_from([1, 9, 64, 65]), seed=st.integers(0, 2**32 - 1))
    def start(self, bits: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.bits = bits
        self.index = HammingIndex(bits)
        self.ids: list[int] = []
        self.codes = np.zeros((0, (bits + 7) // 8), np.uint8)
        self.next_id = 0
        self.root = Path(tempfile.mkdtemp(dir=TEMPORARY_ROOT)) / "index"
        self.saved = False

    @rule(n=st.integers(0, 20), own=st.booleans(), described=st.booleans())
    def add(self, n: int, own: bool, described: bool) -> None:
        codes = random_codes(self.rng, n, self.bits)
        ids = np.arange(self.next_id, self.next_id + n)
        if own:
            ids = self.rng.permutation(ids + self.rng.integers(0, 5))
        records = [{"id": f"r{i}", "label": "x"} for i in ids] if described else None
        given = self.index.add(codes, ids if own else None, records)
        assert given.tolist() == ids.tolist()
        self.next_id = max([self.next_id, *(int(i) + 1 for i in ids)])
        self.ids += ids.tolist()
        self.codes = np.concatenate([self.codes, codes])

    @precondition(lambda self: self.ids)
    @rule(share=st.floats(0, 1))
    def remove(self, share: float) -> None:
        chosen = self.rng.permutation(self.ids)[: max(1, int(share * len(self.ids)))]
        assert self.index.remove(chosen) == len(chosen)
        keep = ~np.isin(self.ids, chosen)
        self.ids, self.codes = np.array(self.ids)[keep].tolist(), self.codes[keep]

    @rule()
    def save(self) -> None:
        self.index.save(self.root)
        self.saved = True

    @precondition(lambda self: self.saved)
    @rule()
    def save_and_load(self) -> None:
        self.index.save(self.root)
        self.index = HammingIndex.load(self.root)
        self.index.verify()

    @invariant()
    def answers_equal_the_oracle(self) -> None:
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.ids) and self.index.ids.tolist() == self.ids
        queries = random_codes(self.rng, 2, self.bits)
        distances, rows = reference.search(self.codes, queries, 7)
        found_distances, found_ids = self.index.search(queries, 7)
        ids = np.array([*self.ids, -1])
        assert np.array_equal(found_distances, distances) and np.array_equal(found_ids, ids[rows])
        assert found_distances.dtype == np.int32 and found_ids.dtype == np.int64
        expected = reference.search_radius(self.codes, queries, self.bits // 2)
        found = self.index.search_radius(queries, self.bits // 2)
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
        assert np.array_equal(found[2], ids[expected[2]])


TEMPORARY_ROOT = ""


def test_any_sequence_of_changes_keeps_ids_with_their_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TEMPORARY_ROOT", str(tmp_path))
    monkeypatch.setattr(durable, "flush", lambda *paths: None)  # hundreds of saves; the disk is not what is tested here
    case = OracleMachine.TestCase
    case.settings = settings(
        max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case().runTest()


def test_an_empty_index_answers(tmp_path: Path) -> None:
    index = HammingIndex(9)
    query = np.zeros((2, 2), np.uint8)
    for _ in range(2):
        distances, ids = index.search(query, 3)
        assert distances.tolist() == ids.tolist() == [[-1] * 3] * 2
        assert [part.tolist() for part in index.search_radius(query, 9)] == [[0, 0, 0], [], []]
        assert index.search(query[:0], 3)[0].shape == (0, 3)
        assert len(index) == 0 and index.records([]) == [] and index.find([]).tolist() == []
        index.save(tmp_path / "empty")
        index = HammingIndex.load(tmp_path / "empty")
    cosine = CosineIndex(4)
    similarities, ids = cosine.search(np.ones((2, 4)), 3)
    assert np.isnan(similarities).all() and (ids == -1).all()
    assert cosine.search(np.ones((0, 4)), 3)[0].shape == (0, 3)
    assert [part.tolist() for part in cosine.search_radius(np.ones((2, 4)), 0.5)] == [[0, 0, 0], [], []]


def test_a_duplicate_is_an_error_and_nothing_is_added() -> None:
    index = HammingIndex(64)
    rng = np.random.default_rng(0)
    index.add(random_codes(rng, 3), [5, 7, 9], hangul_records(3))
    for ids, records in (
        ([1, 2, 7], None),
        ([1, 2, 2], None),
        (None, hangul_records(3, first=2)),
        (None, [{"id": "a"}, {"id": "b"}, {"id": "a"}]),
        ([1, -2, 3], None),
        ([1.0, 2.0, 3.0], None),
        ([1, 2], None),
        (None, hangul_records(2, first=10)),
        (None, [{"id": "a", "x": object()}, {}, {}]),
        (None, [{"id": "a", "path": "\udcff"}, {}, {}]),
    ):
        with pytest.raises(SearchError):
            index.add(random_codes(rng, 3), ids, records)
        assert len(index) == 3
    assert index.add(random_codes(rng, 2)).tolist() == [10, 11]
    index.remove([9, 11])
    assert index.add(random_codes(rng, 1)).tolist() == [12], "a removed id is not given out again by itself"
    assert index.add(random_codes(rng, 1), [9]).tolist() == [9], "but may be taken again on purpose"
    for missing in ([11], [5, 5], [5, 99]):
        with pytest.raises(SearchError, match="nothing was removed"):
            index.remove(missing)
    assert index.ids.tolist() == [5, 7, 10, 12, 9]


@given(st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2**62)), max_size=30))
def test_ids_that_stand_twice_are_seen(ids: list[int]) -> None:
    assert all_differ(np.array(ids, np.int64)) == (len(set(ids)) == len(ids))


def test_what_does_not_fit_is_refused() -> None:
    index = HammingIndex(12)
    with pytest.raises(CodeError, match="last 4 bits"):
        index.add(np.array([[0, 1]], np.uint8))
    with pytest.raises(CodeError, match="shape"):
        index.search(np.zeros((1, 3), np.uint8), 1)
    with pytest.raises(SearchError, match="k is 0"):
        index.search(np.zeros((1, 2), np.uint8), 0)
    with pytest.raises(SearchError, match="radius"):
        index.search_radius(np.zeros((1, 2), np.uint8), -1)
    with pytest.raises(CodeError):
        HammingIndex(0)
    with pytest.raises(SearchError):
        CosineIndex(0)
    with pytest.raises(SearchError):
        CosineIndex(3, "float64")
    cosine = CosineIndex(3)
    for bad in ([[0.0, 0, 0]], [[1.0, np.nan, 0]], [[np.inf, 0, 0]], [[1.0, 2]], [[1, 2, 3]]):
        with pytest.raises(SearchError):
            cosine.add(np.array(bad))
        with pytest.raises(SearchError):
            cosine.search(np.array(bad), 1)
    with pytest.raises(SearchError, match="k is 0"):
        cosine.search(np.ones((1, 3)), 0)
    with pytest.raises(SearchError, match="radius"):
        cosine.search_radius(np.ones((1, 3)), 2)


def test_records_in_any_script_survive_the_disk(tmp_path: Path) -> None:
    index = HammingIndex(64, model={"fingerprint": "abc", "name": "runs/cars"})
    index.add(random_codes(np.random.default_rng(0), 700), records=hangul_records(700))
    index.add(random_codes(np.random.default_rng(1), 2))
    for _ in range(2):
        found = index.records([3, 699, 700, 12345, -1, 0])
        assert [record and record["id"] for record in found] == ["사진-3", "사진-699", None, None, None, "사진-0"]
        assert found[0] == hangul_records(1, first=3)[0]
        assert index.find(["사진-5", "nobody"]).tolist() == [5, -1]
        assert len(index.records(index.ids)) == 702
        index.save(tmp_path / "자동차.index")
        index = HammingIndex.load(tmp_path / "자동차.index")
    assert index.model == {"fingerprint": "abc", "name": "runs/cars"}
    index.remove([5])
    assert index.find(["사진-5"]).tolist() == [-1] and index.records([5]) == [None]


def test_a_query_by_another_model_is_refused(tmp_path: Path) -> None:
    save_new(tmp_path / "i", model={"fingerprint": "a" * 64, "name": "runs/cars"})
    for index in (HammingIndex.load(tmp_path / "i"), Store.open(tmp_path / "i")):
        index.check_model("a" * 64)
        with pytest.raises(SearchError, match="runs/cars with fingerprint aaaaaaaaaaaa"):
            index.check_model("b" * 64)
    HammingIndex(64).check_model("anything")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cosine_equals_float64_and_ties_go_to_the_earlier_row(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((3000, 33)).astype(np.float32)
    gallery[1000:2000] = gallery[:1000]
    gallery[2500:2505] = gallery[7] * np.array([[0.5], [2], [1e20], [1e-20], [3]], np.float32)
    queries = np.concatenate([gallery[:20], rng.standard_normal((5, 33)).astype(np.float32)])
    index = CosineIndex(33, dtype)
    index.add(gallery[:1500])
    index.add(gallery[1500:])
    kept = np.concatenate([segment.features for segment in index._contents.segments]).astype(np.float64)
    unit = (queries / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    truth = np.minimum((kept[None] * unit[:, None].astype(np.float64)).sum(axis=2).astype(np.float32), 1)
    for folder in (None, tmp_path / "i"):
        if folder is not None:
            index.save(folder)
            index = CosineIndex.load(folder)
        similarities, ids = index.search(queries, 40)
        for query in range(len(queries)):
            order = np.argsort(-truth[query], kind="stable")[:40]
            assert np.array_equal(ids[query], order)
            assert np.array_equal(similarities[query], truth[query][order])
        if dtype == "float32":
            assert ids[7, :3].tolist() == [7, 1007, 2500] and similarities.dtype == np.float32
        offsets, near, found = index.search_radius(queries, 0.3)
        for query in range(len(queries)):
            order = np.argsort(-truth[query], kind="stable")
            order = order[truth[query][order] >= np.float32(0.3)]
            assert np.array_equal(found[offsets[query] : offsets[query + 1]], order)
            assert np.array_equal(near[offsets[query] : offsets[query + 1]], truth[query][order])
        # One query at a time goes through other blocks of the matrix product, and gives the same bytes.
        alone = [index.search(queries[i : i + 1], 40) for i in range(len(queries))]
        assert np.array_equal(np.concatenate([a[0] for a in alone]), similarities)
        assert np.array_equal(np.concatenate([a[1] for a in alone]), ids)
    index.remove([7, 1007])
    assert index.search(queries[7:8], 2)[1].tolist() == [[2500, 2501]] or dtype == "float16"
    assert not set(index.search(queries[7:8], 2998)[1][0].tolist()) & {7, 1007}
    assert np.isnan(index.search(queries[:1], 3000)[0][0, 2998:]).all()


def test_a_loaded_index_is_mapped(tmp_path: Path) -> None:
    save_new(tmp_path / "i")
    segment = HammingIndex.load(tmp_path / "i")._contents.segments[0]
    assert segment.codes is not None and not segment.codes.flags.writeable
    assert isinstance(segment.codes.base, np.memmap) or isinstance(segment.codes, np.memmap)


def test_many_small_additions_make_few_segments() -> None:
    rng = np.random.default_rng(0)
    index = HammingIndex(64)
    codes = random_codes(rng, 500)
    for i in range(500):
        index.add(codes[i : i + 1], records=[{"id": str(i), "label": "x"}])
    assert len(index._contents.segments) < 12
    assert np.array_equal(index.search(codes[:9], 5)[1], reference.search(codes, codes[:9], 5)[1])
    assert index.records([321])[0] == {"id": "321", "path": "", "label": "x", "split": ""}


def test_saving_to_its_own_folder_writes_only_what_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    save_new(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    index = HammingIndex.load(folder)
    snapshot = HammingIndex.load(folder)
    index.add(random_codes(np.random.default_rng(9), 5))
    index.remove([3, 51])
    index.save(folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert manifest.read(folder).generation == 2 and len(manifest.read(folder).segments) == 2
    assert len(HammingIndex.load(folder)) == 53 and len(snapshot) == 50, "what was loaded keeps its generation"
    assert 3 in snapshot.ids and 3 not in HammingIndex.load(folder).ids
    with pytest.raises(SearchError, match="changed by another writer"):
        snapshot.save(folder)
    copy = tmp_path / "copy"
    index.save(copy)
    assert HammingIndex.load(copy).ids.tolist() == HammingIndex.load(folder).ids.tolist()
    assert not list(copy.rglob("deleted*")), "a new folder holds no deleted rows"
    with pytest.raises(SearchError, match="another index"):
        index.save(folder)


def test_nothing_else_is_ever_overwritten(tmp_path: Path) -> None:
    save_new(tmp_path / "a")
    with pytest.raises(SearchError, match="another index"):
        HammingIndex(64).save(tmp_path / "a")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_bytes(b"x")
    for target in (tmp_path / "photos", tmp_path / "photos" / "x.jpg"):
        with pytest.raises(SearchError, match="own folder"):
            HammingIndex(64).save(target)
    with pytest.raises(SearchError, match="own folder"):
        Store.create(tmp_path / "a", code_size=64)
    (tmp_path / "empty").mkdir()
    HammingIndex(64).save(tmp_path / "empty")
    assert len(HammingIndex.load(tmp_path / "a")) == 50 and len(HammingIndex.load(tmp_path / "empty")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty", "photos"], "no temporary is left"


def test_a_store_holds_codes_and_features_side_by_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes, features = random_codes(rng, 30), rng.standard_normal((30, 8)).astype(np.float32)
    store = Store.create(tmp_path / "s", code_size=64, dim=8, model={"fingerprint": "f", "name": "n"})
    assert store.metrics == ["hamming", "cosine"] and len(store) == 0
    assert store.append(codes[:20], features[:20], records=hangul_records(20)).tolist() == list(range(20))
    assert store.append(codes[20:], features[20:], records=hangul_records(10, 20)).tolist() == list(range(20, 30))
    for arguments in (
        {"codes": codes},
        {"features": features},
        {},
        {"codes": codes[:3], "features": features[:4]},
        {"codes": codes[:1], "features": features[:1], "ids": [4]},
        {"codes": codes[:1], "features": features[:1], "records": hangul_records(1)},
        {"codes": codes[:1], "features": np.zeros((1, 8))},
    ):
        with pytest.raises(SearchError):
            store.append(**arguments)  # type: ignore[arg-type]
    assert store.append(codes[:0], features[:0]).tolist() == []
    assert store.remove([2, 25]) == 2 and len(store) == 28 and store.generation == 4
    assert store.records([1, 2])[1] is None and store.find(["사진-7"]).tolist() == [7]
    hamming, cosine = HammingIndex.load(tmp_path / "s"), CosineIndex.load(tmp_path / "s")
    assert hamming.search(codes[4:5], 1)[1].tolist() == cosine.search(features[4:5], 1)[1].tolist() == [[4]]
    assert 2 not in hamming.ids and 2 not in cosine.ids and store.verify() > 0
    with pytest.raises(SearchError, match="Store"):
        hamming.add(codes[:1])
    hamming.remove([4])
    hamming.save(tmp_path / "s")
    assert 4 not in CosineIndex.load(tmp_path / "s").ids
    hamming.save(tmp_path / "only-codes")
    assert manifest.read(tmp_path / "only-codes").metrics == ["hamming"]
    assert not list((tmp_path / "only-codes").rglob("features.npy"))
    with pytest.raises(SearchError, match="no features"):
        CosineIndex.load(tmp_path / "only-codes")
    with pytest.raises(SearchError, match="no codes"):
        Store.create(tmp_path / "f", dim=3)
        HammingIndex.load(tmp_path / "f")
    with pytest.raises(SearchError, match="neither"):
        Store.create(tmp_path / "g")


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    index = save_new(tmp_path / "i")
    store = Store.open(tmp_path / "i")
    with durable.writer_lock(tmp_path / "i"):
        for change in (lambda: index.save(tmp_path / "i"), lambda: store.remove([1])):
            with pytest.raises(SearchError, match="being written"):
                change()
    assert store.remove([1]) == 1


def test_a_store_appends_to_what_others_appended(tmp_path: Path) -> None:
    first, second = Store.create(tmp_path / "s", code_size=64), Store.open(tmp_path / "s")
    codes = random_codes(np.random.default_rng(0), 4)
    assert first.append(codes).tolist() == [0, 1, 2, 3]
    assert second.append(codes).tolist() == [4, 5, 6, 7]
    assert len(Store.open(tmp_path / "s")) == len(second) == 8


class TestReplace:
    """One commit that removes, describes anew, replaces and adds."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        store = Store.create(tmp_path / "s", code_size=64)
        store.append(random_codes(np.random.default_rng(0), 6), records=hangul_records(6))
        return store

    def test_all_at_once(self, store: Store) -> None:
        codes = store._contents.vectors(store.ids)["codes"]
        fresh = random_codes(np.random.default_rng(1), 2)
        described = {"id": "다른", "path": "/x", "label": "y", "split": "", "색": 1}
        ids = store.replace(
            fresh,
            ids=[2, -1],
            records=[*hangul_records(3)[2:], {"id": "new"}],
            remove=[5],
            describe=[0],
            descriptions=[described],
        )
        assert ids.tolist() == [2, 6] and store.ids.tolist() == [1, 3, 4, 0, 2, 6] and store.generation == 3
        again = Store.open(store.folder)
        assert np.array_equal(again._contents.vectors(again.ids)["codes"], [*codes[[1, 3, 4, 0]], *fresh])
        assert again.records([0]) == [described] and again.find(["사진-0", "다른", "new", "사진-5"]).tolist() == [
            -1,
            0,
            6,
            -1,
        ]
        assert again.verify() > 0 and again.replace().tolist() == [] and again.replace(remove=again.ids).tolist() == []
        assert len(again) == 0 and again._manifest.segments == () and again._manifest.next_id == 7
        assert again.replace(fresh).tolist() == [7, 8], "numbers are not given out again"

    def test_names_may_change_places(self, store: Store) -> None:
        one, two = store.records([0, 1])
        store.replace(describe=[0, 1], descriptions=[two, one])
        assert store.find(["사진-0", "사진-1"]).tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"remove": [9]}, "the id 9 is not in the index"),
            ({"remove": [1], "describe": [1], "descriptions": [{"id": "x"}]}, "given twice"),
            ({"describe": [9], "descriptions": [{"id": "x"}]}, "the id 9 is not in the index"),
            ({"describe": [1], "descriptions": []}, "0 records for 1 codes"),
            ({"describe": [1], "descriptions": [{"id": "사진-2"}]}, "'사진-2' is in the index already"),
            ({"describe": [1, 2], "descriptions": [{"id": "x"}, {"id": "x"}]}, "'x' is given twice"),
            ({"codes": np.zeros((1, 8), np.uint8), "ids": [9]}, "the id 9 is not in the index"),
            ({"codes": np.zeros((1, 8), np.uint8), "ids": [1, 2]}, "expected 1 whole numbers"),
            ({"codes": np.zeros((1, 8), np.uint8), "records": [{"id": "사진-2"}]}, "'사진-2' is in the index already"),
            ({"codes": np.zeros((1, 8), np.uint8), "features": np.zeros((1, 2))}, "features were given"),
            ({"remove": [1], "generation": 1}, "changed by another command meanwhile"),
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, store: Store, change: dict[str, Any], message: str) -> None:
        before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
        with pytest.raises(SearchError, match=message):
            store.replace(**change)
        assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before

    def test_a_crash_leaves_the_old_index(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        class Crash(BaseException):
            pass

        def crash(*_: object) -> None:
            raise Crash

        before = store.ids.tolist()
        monkeypatch.setattr(durable, "replace_file", crash)
        with pytest.raises(Crash):
            store.replace(random_codes(np.random.default_rng(1), 2), records=hangul_records(8)[6:], remove=[0, 1, 2])
        monkeypatch.undo()
        again = Store.open(store.folder)
        assert again.ids.tolist() == before and again.verify() > 0

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 12))
    def test_any_sequence_is_what_a_list_would_be(self, seed: int, steps: int) -> None:
        rng = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                durable, "flush", lambda *paths: None
            )  # hundreds of commits; their order on the disk is not the question
            store = Store.create(Path(root) / "s", code_size=9, dim=3, feature_dtype="int8")
            rows: list[tuple[int, bytes, str]] = []
            kept_features: dict[int, bytes] = {}
            next_id = 0
            for step in range(steps):
                order = rng.permutation(len(rows))
                some = np.sort(rng.integers(0, len(rows) + 1, 3))
                remove, describe, again = (
                    [rows[i][0] for i in part]
                    for part in (order[: some[0]], order[some[0] : some[1]], order[some[1] : some[2]])
                )
                taken = [*again, *[-1] * int(rng.integers(0, 6))]
                codes = random_codes(rng, len(taken), 9)
                features = rng.normal(size=(len(taken), 3)).astype(np.float32)
                names = [f"{step}-{i}" for i in range(len(taken))]
                given = store.replace(
                    codes, features, taken, [{"id": name} for name in names],
                    remove=remove, describe=describe, descriptions=[{"id": f"d{step}-{i}"} for i in describe],
                    generation=store.generation,
                ).tolist()  # fmt: skip
                fresh = range(next_id, next_id + taken.count(-1))
                assert given == [*again, *fresh]
                next_id += len(fresh)
                by_id = {row[0]: row for row in rows}
                gone = {*remove, *describe, *again}
                rows = [row for row in rows if row[0] not in gone]
                rows += [(i, by_id[i][1], f"d{step}-{i}") for i in describe]
                rows += [(i, code.tobytes(), name) for i, code, name in zip(given, codes, names, strict=True)]
                assert store.ids.tolist() == [row[0] for row in rows]
                assert [record["id"] for record in store.records(store.ids) if record] == [row[2] for row in rows]
                if rows:
                    vectors = store._contents.vectors(store.ids)
                    assert [code.tobytes() for code in vectors["codes"]] == [row[1] for row in rows]
                    now = {i: f.tobytes() for i, f in zip(store.ids.tolist(), vectors["features"], strict=True)}
                    assert all(now[i] == kept_features[i] for i in now if i not in given)
                    kept_features = now
                for entry in store._manifest.segments:
                    assert 2 * entry.n_deleted <= entry.rows
            store.verify()


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_at_any_step_leaves_the_old_or_the_new_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Fail at the n-th flush of a commit, as a crash would: what is on disk loads and verifies."""
    save_new(tmp_path / "i")
    index = HammingIndex.load(tmp_path / "i")
    index.add(random_codes(np.random.default_rng(1), 5), records=hangul_records(5, 100))
    index.remove([0])
    real, calls = durable.flush, [0]

    def failing(*paths: Path) -> None:
        calls[0] += 1
        if calls[0] == step:
            raise KeyboardInterrupt
        real(*paths)

    monkeypatch.setattr(durable, "flush", failing)
    interrupted = False
    try:
        index.save(tmp_path / "i")
    except KeyboardInterrupt:
        interrupted = True
    monkeypatch.setattr(durable, "flush", real)
    there = HammingIndex.load(tmp_path / "i")
    assert there.verify() > 0
    assert len(there) in ((50, 54) if interrupted else (54,))
    Store.open(tmp_path / "i").append(random_codes(np.random.default_rng(2), 1))
    assert not list((tmp_path / "i").rglob(f"{durable.TEMPORARY}*")), "the next writer cleans up"


def damage_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(bytes(content))


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    """A manifest with other fields whose checksum is right: hostile rather than damaged."""
    content = json.loads((folder / manifest.NAME).read_text())
    content.update(changes)
    content.pop("checksum")
    content["checksum"] = manifest._checksum(content)
    (folder / manifest.NAME).write_text(json.dumps(content))


def test_every_kind_of_damage_is_one_sentence(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    index = save_new(whole)
    index.remove([3])
    index.save(whole)
    parts = [whole / manifest.NAME, *sorted((whole / storage.SEGMENTS).rglob("*"))]
    names = [path.relative_to(whole) for path in parts if path.is_file()]
    assert len(names) == 5

    def refused(folder: Path, *, by_verify: bool = False) -> None:
        with pytest.raises(IndexFormatError) as caught:
            loaded = HammingIndex.load(folder)
            if by_verify:
                loaded.verify()
        text = str(caught.value)
        assert not text.endswith(".") and "\n" not in text and str(folder) in text
        shutil.rmtree(folder)

    for i, name in enumerate(names):
        for kind in ("missing", "short", "long", "empty", "other", "bit"):
            folder = tmp_path / f"{i}-{kind}"
            shutil.copytree(whole, folder)
            path = folder / name
            content = path.read_bytes()
            if kind == "missing":
                path.unlink()
            elif kind == "bit":
                damage_byte(path, len(content) * 3 // 4)
            else:
                changed = {"short": content[:-9], "long": content + b" x", "empty": b"", "other": b"?" * len(content)}
                path.write_bytes(changed[kind])
            refused(folder, by_verify=kind in ("bit", "other"))
    with pytest.raises(IndexFormatError, match="no hashret index"):
        HammingIndex.load(tmp_path)
    with pytest.raises(IndexFormatError, match="no hashret index"):
        Store.open(tmp_path / "nowhere")


def test_hostile_manifests_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    save_new(whole)
    segment = json.loads((whole / manifest.NAME).read_text())["segments"][0]
    hostile: list[dict[str, Any]] = [
        {"format": "other"},
        {"format_version": "1"},
        {"format_version": 0},
        {"bit_order": "little"},
        {"code_size": 5000},
        {"code_size": 128},
        {"code_size": None},
        {"code_size": True},
        {"dim": 4},
        {"dim": 4, "feature_dtype": "float32"},
        {"feature_dtype": "object"},
        {"uid": "../x"},
        {"uid": 3},
        {"next_id": -1},
        {"model": "x"},
        {"segments": None},
        {"segments": [3]},
        {"segments": [{**segment, "name": "../../etc"}]},
        {"segments": [{**segment, "name": "nowhere"}]},
        {"segments": [{**segment, "rows": 49}]},
        {"segments": [{**segment, "rows": 2**61}]},
        {"segments": [{**segment, "files": {}}]},
        {"segments": [{**segment, "files": {**segment["files"], "/etc/passwd": segment["files"]["ids.npy"]}}]},
        {"segments": [{**segment, "deleted": "ids.npy", "n_deleted": 50}]},
        {"segments": [{**segment, "deleted": "deleted-1.npy", "n_deleted": 1}]},
    ]
    for changes in hostile:
        folder = tmp_path / "hostile"
        shutil.copytree(whole, folder)
        rewrite_manifest(folder, **changes)
        with pytest.raises(IndexFormatError):
            HammingIndex.load(folder)
        shutil.rmtree(folder)
    for content in (b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format": "hashret-index"}'):
        (whole / manifest.NAME).write_bytes(content)
        with pytest.raises(IndexFormatError):
            HammingIndex.load(whole)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    save_new(tmp_path / "i")
    path = next((tmp_path / "i").rglob("ids.npy"))
    np.save(path, np.array([print] * 50, dtype=object), allow_pickle=True)
    content = json.loads((tmp_path / "i" / manifest.NAME).read_text())
    content["segments"][0]["files"]["ids.npy"]["n_bytes"] = path.stat().st_size
    rewrite_manifest(tmp_path / "i", segments=content["segments"])
    with pytest.raises(IndexFormatError, match=r"expected \{'descr':'<i8'"):
        HammingIndex.load(tmp_path / "i")


def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    save_new(tmp_path / "i")
    rewrite_manifest(tmp_path / "i", format_version=4)
    with pytest.raises(IndexFormatError, match=r"index format 4, this hashret .* reads up to 3; upgrade hashret"):
        HammingIndex.load(tmp_path / "i")


def test_searches_and_changes_at_the_same_time() -> None:
    rng = np.random.default_rng(0)
    index = HammingIndex(64)
    codes = random_codes(rng, 3000)
    index.add(codes)

    def search(_: int) -> bool:
        distances, ids = index.search(codes[:4], 3)
        return bool((distances[:, 0] == 0).all() and (ids[:, 0] == np.arange(4)).all())

    def change(i: int) -> None:
        index.add(codes[i * 10 : i * 10 + 10], np.arange(10_000 + i * 10, 10_010 + i * 10))
        index.remove([2999 - i])

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        searches, changes = pool.map(search, range(60)), pool.map(change, range(40))
        assert all(searches) and len(list(changes)) == 40
    assert len(index) == 3000 + 400 - 40


def golden_arrays() -> tuple[np.ndarray, np.ndarray]:
    """What the golden folder holds: 12 codes of 20 bits and features, rows 3 and 8 removed."""
    steps = np.arange(12)
    codes = pack((steps[:, None] * np.arange(1, 21)[None, :]) % 7 < 3)
    features = np.stack([np.cos(steps), np.sin(steps), np.full(12, 0.5)], axis=1).astype(np.float32)
    return codes, features


def write_golden(folder: Path) -> None:
    """How tests/golden/index-v1 was made; never run again for that version, whose bytes stay as they are."""
    codes, features = golden_arrays()
    store = Store.create(folder, code_size=20, dim=3, model={"fingerprint": "0123abcd", "name": "runs/golden"})
    records = [
        {"id": f"g{i}", "path": f"사진/{i}.jpg", "label": "차" if i % 2 else "car", "split": "test", "view": 15 * i}
        for i in range(12)
    ]
    store.append(codes[:7], features[:7], records=records[:7])
    store.append(codes[7:], features[7:], ids=np.arange(107, 112), records=records[7:])
    store.remove([3, 108])


@pytest.mark.parametrize("kind", ["golden", "fresh"])
def test_the_golden_folder_of_version_1_is_read(tmp_path: Path, kind: str) -> None:
    folder = GOLDEN
    if kind == "fresh":
        folder = tmp_path / "index"
        write_golden(folder)
    codes, features = golden_arrays()
    hamming, cosine = HammingIndex.load(folder), CosineIndex.load(folder)
    ids = [0, 1, 2, 4, 5, 6, 107, 109, 110, 111]
    rows = np.array([0, 1, 2, 4, 5, 6, 7, 9, 10, 11])
    assert hamming.ids.tolist() == cosine.ids.tolist() == ids
    assert hamming.verify() == cosine.verify() > 0
    assert hamming.code_size == 20 and cosine.dim == 3
    assert hamming.model == {"fingerprint": "0123abcd", "name": "runs/golden"}
    distances, found = hamming.search(codes, 10)
    expected = reference.search(codes[rows], codes, 10)
    assert np.array_equal(distances, expected[0]) and np.array_equal(found, np.array(ids)[expected[1]])
    similarities, nearest = cosine.search(features[rows], 1)
    assert nearest[:, 0].tolist() == ids and np.allclose(similarities, 1, atol=1e-6)
    assert hamming.records([109, 3]) == [
        {"id": "g9", "path": "사진/9.jpg", "label": "차", "split": "test", "view": 135},
        None,
    ]


def test_a_million_codes_are_queried_from_disk_without_torch_or_numba(tmp_path: Path) -> None:
    index = HammingIndex(64)
    index.add(np.random.default_rng(0).integers(0, 256, (1_000_000, 8), dtype=np.uint8))
    index.save(tmp_path / "i")
    program = (
        "import sys, time; start = time.perf_counter(); import numpy as np; from hashret import HammingIndex\n"
        "index = HammingIndex.load(sys.argv[1])\n"
        "distances, ids = index.search(np.full((1, 8), 7, np.uint8), 10)\n"
        "took = time.perf_counter() - start\n"
        "assert ids.min() >= 0 and not {'numba', 'torch'} & set(sys.modules)\n"
        "assert took < 1, took\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "i")], check=True, timeout=60)


def test_the_part_of_a_name_that_is_not_text_is_an_error_not_a_crash(tmp_path: Path) -> None:
    index = HammingIndex(8)
    with pytest.raises(SearchError, match="cannot be stored as text"):
        index.add(
            np.zeros((1, 1), np.uint8), records=[{"id": "x", "path": b"\xff.jpg".decode("utf-8", "surrogateescape")}]
        )


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SearchError, match="cannot be written"):
        HammingIndex(8).save(tmp_path / "file" / "index")


def test_storage_reads_what_was_committed(tmp_path: Path) -> None:
    save_new(tmp_path / "i")
    described, contents = storage.load(tmp_path / "i")
    assert described.metrics == ["hamming"] and len(contents) == 50


def test_ids_run_out_before_anything_is_committed(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "i", code_size=8)
    store.append(np.array([[1]], np.uint8), ids=[2**62 - 1])
    generation = store.generation
    for change in (
        lambda: store.append(np.array([[2]], np.uint8)),
        lambda: store.append(np.array([[2]], np.uint8), records=[{"id": "new"}], upsert=True),
        lambda: store.replace(np.array([[2]], np.uint8)),
    ):
        with pytest.raises(SearchError, match="2\\*\\*62 - 1"):
            change()
    index = HammingIndex.load(tmp_path / "i")
    with pytest.raises(SearchError, match="give ids"):
        index.add(np.array([[2]], np.uint8))
    assert Store.open(tmp_path / "i").generation == generation
    store.append(np.array([[2]], np.uint8), ids=[5])
    assert store.ids.tolist() == [2**62 - 1, 5]


def test_what_is_no_id_and_no_record_is_one_sentence(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "i", code_size=8)
    store.append(
        np.array([[1], [2]], np.uint8),
        records=[{"id": None, "label": None, "n": np.int64(3), "x": np.float32(0.5)}, {"id": "b"}],
    )
    assert store.records([0]) == [{"id": "0", "path": "", "label": "", "split": "", "n": 3, "x": 0.5}]
    for wrong in (["a"], 5, [[0]], [2**63 + 0.5], [1.7], [True], [10**30]):
        for read in (store.records, store.codes, store.remove):
            with pytest.raises(SearchError, match="expected a list of whole numbers"):
                read(wrong)
    assert store.find(["\udcff", "b", 5]).tolist() == [-1, 1, -1]  # type: ignore[list-item]
    with pytest.raises(SearchError, match="give ids, or records with ids"):
        store.append(np.array([[3]], np.uint8), records=[{"id": None}], upsert=True)
    for records in (["x"], [None], [{"id": "y", "v": object()}], [{"id": "y", "v": float("nan")}]):
        with pytest.raises(SearchError):
            store.append(np.array([[3]], np.uint8), records=records)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="there are 1 records for 2 rows"):
        store.append(np.array([[3], [4]], np.uint8), records=[{"id": "b"}], upsert=True)
    assert (
        0 in store and 1 in store and 2 not in store and "b" not in store and True not in store and 2**70 not in store
    )
