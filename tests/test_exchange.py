"""Codes to other programs and back; the programs themselves are the judges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashret.codes import binarize
from hashret.errors import DataError, UsageError
from hashret.index import HammingIndex, Store, exchange


def made(folder: Path, n: int, bits: int = 64, *, remove: bool = False, records: bool = True) -> Store:
    rng = np.random.default_rng(n)
    store = Store.create(folder, code_size=bits)
    codes = np.packbits(rng.integers(0, 2, (n, bits), dtype=np.uint8), axis=1)
    store.append(codes, records=[{"id": f"그림 {i}", "label": "차", "view": i} for i in range(n)] if records else None)
    if remove:
        store.remove(np.arange(0, n, 3))
    return store


def turned(codes: np.ndarray) -> np.ndarray:
    return np.packbits(np.unpackbits(codes, axis=1), axis=1, bitorder="little")


@pytest.mark.parametrize("n", [0, 1, 1000])
@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("remove", [False, True])
def test_faiss_reads_what_we_write(tmp_path: Path, n: int, order: str, remove: bool) -> None:
    store = made(tmp_path / "i", n, remove=remove and n > 1)
    assert exchange.write(store, tmp_path / "x.faiss", order) == len(store)
    theirs = faiss.read_index_binary(str(tmp_path / "x.faiss"))
    assert (theirs.ntotal, theirs.d) == (len(store), 64)
    if not len(store):
        return
    codes = store.codes(store.ids)
    queries = codes[:5] if order == "big" else turned(codes[:5])
    distances, ids = theirs.search(queries, 10)
    expected = HammingIndex.load(store.folder).search(codes[:5], 10)
    n_found = min(10, len(store))
    assert np.array_equal(distances[:, :n_found], expected[0][:, :n_found])
    assert ids[:, 0].tolist() == store.ids[:5].tolist(), "ids are ours, not rows"


@pytest.mark.parametrize("with_ids", ["none", "IDMap", "IDMap2"])
@pytest.mark.parametrize("order", ["big", "little"])
def test_we_read_what_faiss_writes(tmp_path: Path, with_ids: str, order: str) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (700, 16), dtype=np.uint8)
    flat = faiss.IndexBinaryFlat(128)
    ids = np.arange(700)
    if with_ids == "none":
        index = flat
        index.add(codes)
    else:
        ids = 3 * np.arange(700)[::-1] + 5
        index = getattr(faiss, f"IndexBinary{with_ids}")(flat)
        index.add_with_ids(codes, ids)
    faiss.write_index_binary(index, str(tmp_path / "x.index"))
    source = exchange.read(tmp_path / "x.index", order)
    assert (source.n_rows, source.n_bytes) == (700, 16)
    store = Store.create(tmp_path / "i", code_size=128)
    assert exchange.into_store(source, store) == 700
    assert store.ids.tolist() == ids.tolist()
    assert np.array_equal(store.codes(ids), codes if order == "big" else turned(codes))


def test_ubinary_and_binary_of_sentence_transformers(tmp_path: Path) -> None:
    """`quantize_embeddings(embeddings, precision=...)` of sentence-transformers 6.2.0 made the files from these embeddings."""
    theirs = Path(__file__).parent / "golden" / "sentence-transformers"
    embeddings = np.random.default_rng(0).standard_normal((20, 384)).astype(np.float32)
    embeddings[0, :3] = 0
    ours = binarize(embeddings)
    for precision in ("ubinary", "binary"):
        (chunk,) = exchange.read(theirs / f"{precision}.npy", None).chunks
        assert np.array_equal(chunk.codes, ours) and chunk.codes.flags.c_contiguous
    store = Store.create(tmp_path / "i", code_size=384)
    exchange.into_store(exchange.read(theirs / "binary.npy", None), store)
    exchange.write(store, tmp_path / "again.npy", None)
    assert (tmp_path / "again.npy").read_bytes() == (theirs / "ubinary.npy").read_bytes()


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize(("n", "bits"), [(0, 8), (1, 1), (500, 37)])
def test_tables_keep_everything(
    tmp_path: Path, suffix: str, n: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "ROWS", 64)
    store = made(tmp_path / "i", n, bits, remove=n > 1)
    exchange.write(store, tmp_path / f"x.{suffix}", None)
    again = Store.create(tmp_path / "again", code_size=bits)
    exchange.into_store(exchange.read(tmp_path / f"x.{suffix}", None), again)
    assert again.ids.tolist() == store.ids.tolist()
    assert np.array_equal(again.codes(again.ids), store.codes(store.ids))
    assert again.records(again.ids) == store.records(store.ids)
    if suffix == "parquet" and n:
        table = pq.read_table(tmp_path / "x.parquet")
        assert table.column("name").to_pylist()[0] == store.records(store.ids[:1])[0]["id"]
        assert table.schema.metadata[b"hashret.code_size"] == str(bits).encode()


def test_tables_of_others(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 4), dtype=np.uint8)
    code = pa.array([row.tobytes() for row in codes], pa.binary(4))
    pq.write_table(pa.table({"code": code, "id": ["a", "b", "c"], "price": [1.5, None, 2.0]}), tmp_path / "x.parquet")
    (chunk,) = exchange.read(tmp_path / "x.parquet", None).chunks
    assert np.array_equal(chunk.codes, codes) and chunk.ids is None
    assert chunk.records == [{"id": "a", "price": 1.5}, {"id": "b"}, {"id": "c", "price": 2.0}]
    pq.write_table(pa.table({"id": np.array([7, 9, 8]), "code": code}), tmp_path / "y.parquet")
    (chunk,) = exchange.read(tmp_path / "y.parquet", "little").chunks
    assert chunk.ids is not None and chunk.ids.tolist() == [7, 9, 8] and chunk.records is None
    assert np.array_equal(chunk.codes, turned(codes))


def cut(n: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:n]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut(0), "holds b''"),
        (cut(3), "expected a flat binary index"),
        (cut(10), "ends within its header"),
        (cut(28), "ends within its header"),
        (cut(100), "is damaged"),
        (lambda content: b"IxFI" + content[4:], "expected a flat binary index"),
        (lambda content: content[:4] + b"\xff" * 16 + content[20:], "is damaged"),
        (lambda content: content[:12] + (2**62).to_bytes(8, "little") + content[20:], "is damaged"),
        (lambda content: content[:4] + (63).to_bytes(4, "little") + content[8:], "is damaged"),
    ],
)
def test_damaged_faiss_files_are_one_sentence(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    exchange.write(made(tmp_path / "i", 20), tmp_path / "x.faiss", "big")
    (tmp_path / "x.faiss").write_bytes(change((tmp_path / "x.faiss").read_bytes()))
    with pytest.raises(DataError, match=message):
        exchange.read(tmp_path / "x.faiss", "big")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"no array", "says it is no .npy array"),
        ("x.npy", np.zeros((2, 3), np.float32), "'descr':'<f4'"),
        ("x.npy", np.zeros(3, np.uint8), "expected packed codes"),
        ("x.parquet", b"PAR1 no table", "is no parquet file"),
        ("x.arrow", b"", "is no arrow file"),
        ("x.parquet", pa.table({"id": [1]}), "has columns id, expected one called code"),
        ("x.parquet", pa.table({"code": [b"ab"]}), "fixed-size binary"),
        ("none.npy", None, "cannot be read"),
    ],
)
def test_what_is_no_file_of_codes_is_one_sentence(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        pq.write_table(content, path)
    with pytest.raises(DataError, match=message):
        exchange.read(path, None)


def test_a_faiss_file_needs_its_bit_order_and_a_name_its_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say how bits stand"):
        exchange.read(tmp_path / "x.faiss", None)
    with pytest.raises(UsageError, match="of no known kind"):
        exchange.read(tmp_path / "x.txt", None)


def test_the_commands(hashret: Callable, tmp_path: Path) -> None:
    store = made(tmp_path / "차.index", 30, 60, remove=True)
    file, ids = tmp_path / "차.faiss", tmp_path / "ids.txt"
    assert hashret("index", "export", store.folder, "--out", file).status == 2, "the order of bits is not said"
    assert not file.exists()
    status, out, err = hashret("index", "export", store.folder, "--out", file, "--bit-order", "little", "--ids", ids)
    assert (status, out, err) == (0, f"{file}: 20 codes of 60 bits\n", "")
    assert (
        "exists; choose another name"
        in hashret("index", "export", store.folder, "--out", file, "--bit-order", "big").err
    )
    back = ["index", "import", file, "--out", tmp_path / "b", "--bit-order", "little", "--ids", ids]
    assert hashret(*back, "--code-size", 40).status == 2
    assert hashret(*back).status == 0, "the last four bits are zeros"
    status, out, err = hashret(*back[:4], tmp_path / "c", *back[5:], "--code-size", 60, "--json")
    assert (status, err) == (0, "") and json.loads(out) == {"index": str(tmp_path / "c"), "codes": 20, "code_size": 60}
    again = Store.open(tmp_path / "c")
    assert again.ids.tolist() == store.ids.tolist() and np.array_equal(again.codes(again.ids), store.codes(store.ids))
    assert [record["id"] for record in again.records(again.ids)] == ids.read_text("utf-8").splitlines()
    assert "exists" in hashret(*back).err
    (tmp_path / "ids.txt").write_text("one\n")
    assert "has 1 lines for 20 codes" in hashret(*back[:4], tmp_path / "d", *back[5:]).err
    assert not (tmp_path / "d").exists() and not list(tmp_path.glob(".tmp-*"))
