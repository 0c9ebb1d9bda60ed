"""Codes to other programs and back; the programs themselves are the judges."""

from __future__ import annotations

import errno
import json
import os
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
    assert "holds 1 ids for 20 rows" in hashret(*back[:4], tmp_path / "d", *back[5:]).err
    assert not (tmp_path / "d").exists() and not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("order", ["big", "little"])
def test_tables_say_how_their_bits_stand(hashret: Callable, tmp_path: Path, suffix: str, order: str) -> None:
    store, file = made(tmp_path / "a", 20, 12), tmp_path / f"codes.{suffix}"
    assert hashret("index", "export", store.folder, "--out", file, "--bit-order", order).status == 0
    assert hashret("index", "import", file, "--out", tmp_path / "b").status == 0
    again = Store.open(tmp_path / "b")
    assert again.code_size == 12 and np.array_equal(again.codes(again.ids), store.codes(store.ids))
    other = "little" if order == "big" else "big"
    for words, message in (
        (["--bit-order", other], f"--bit-order is {other}, but {file} says its bits are {order}; leave it out"),
        (["--code-size", "16"], f"--code-size is 16, but {file} says its codes have 12 bits; leave it out"),
    ):
        status, _, err = hashret("index", "import", file, "--out", tmp_path / "c", *words)
        assert status == 2 and message in err and not (tmp_path / "c").exists()


def test_an_index_without_records_has_none_after_a_round_trip(tmp_path: Path) -> None:
    store = made(tmp_path / "a", 9, records=False)
    exchange.write(store, tmp_path / "c.parquet", None)
    again = Store.create(tmp_path / "b", code_size=64)
    exchange.into_store(exchange.read(tmp_path / "c.parquet", None), again)
    assert not again.has_records and again.records(again.ids) == [None] * 9


def test_names_of_their_own_do_not_cost_the_records(hashret: Callable, tmp_path: Path) -> None:
    store = made(tmp_path / "a", 5)
    exchange.write(store, tmp_path / "c.parquet", None)
    (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
    words = ["index", "import", tmp_path / "c.parquet", "--out", tmp_path / "b", "--ids", tmp_path / "names.txt"]
    assert hashret(*words).status == 0
    before, after = store.records(store.ids), Store.open(tmp_path / "b").records(store.ids)
    assert after == [{**(old or {}), "id": name} for old, name in zip(before, "vwxyz", strict=True)]
    (tmp_path / "names.txt").write_bytes(b"\xff\n" * 5)
    status, _, err = hashret(*words[:4], tmp_path / "d", *words[5:])
    assert status == 1 and "cannot be read as UTF-8 text" in err and err.count("\n") == 1


def test_what_is_exported_appears_whole_or_not_at_all(
    hashret: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path / "a", 50)
    status, _, err = hashret("index", "export", store.folder, "--out", tmp_path / "x.npy", "--ids", tmp_path / "x.npy")
    assert status == 2 and "choose another name for one" in err and not (tmp_path / "x.npy").exists()

    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("c.npy", "c.faiss", "c.parquet", "c.arrow"):
        with monkeypatch.context() as patch:
            patch.setattr(exchange, "_chunks_of", full)
            status, _, err = hashret("index", "export", store.folder, "--out", tmp_path / name, "--bit-order", "big")
        assert status == 1 and "no space left" in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    store.append(np.zeros((1, 8), np.uint8), records=[{"id": "two\nlines"}])
    status, _, err = hashret("index", "export", store.folder, "--out", tmp_path / "x.npy", "--ids", tmp_path / "x.txt")
    assert status == 1 and "'two\\nlines' is empty or has a line break" in err and not (tmp_path / "x.npy").exists()


def table_of(**columns: Any) -> pa.Table:
    return pa.table({"code": pa.array([b"12345678"] * 2, pa.binary(8)), **columns})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (table_of(attributes=["{", "{}"]), "has attributes '{', expected a JSON object as text"),
        (table_of(attributes=["[1]", "{}"]), "expected a JSON object as text"),
        (table_of(attributes=["null", "{}"]), "expected a JSON object as text"),
        (table_of(attributes=["[" * 100_000, "{}"]), "expected a JSON object as text"),
        (table_of(attributes=[1, 2]), "expected a JSON object as text"),
        (table_of(attributes=[{"a": 1}, {"a": 2}]), "expected a JSON object as text"),
        (table_of(id=pa.array([1, None])), "has a row without an id"),
        (table_of(id=pa.array([1, 2**64 - 1], pa.uint64())), "ids go from 1 to 18446744073709551615"),
        (pa.Table.from_arrays([table_of()["code"]] * 2, names=["code", "code"]), "expected every name once"),
        (
            table_of(label=["a", "b"]).replace_schema_metadata({"hashret.code_size": "90"}),
            "says its codes have 90 bits",
        ),
        (table_of().replace_schema_metadata({"hashret.bit_order": "middle"}), "says its bits are 'middle'"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_that_do_not_fit_are_one_sentence(
    hashret: Callable, tmp_path: Path, table: pa.Table, message: str, suffix: str
) -> None:
    file = tmp_path / f"t.{suffix}"
    try:
        if suffix == "parquet":
            pq.write_table(table, file)
        else:
            with pa.ipc.new_file(str(file), table.schema) as writer:
                writer.write_table(table)
    except pa.ArrowException:
        pytest.fail("the table cannot be written")
    status, out, err = hashret("index", "import", file, "--out", tmp_path / "i")
    assert status == 1 and not out and message in err and err.count("\n") == 1 and not (tmp_path / "i").exists()


@pytest.mark.parametrize("suffix", ["npy", "faiss", "parquet", "arrow"])
def test_a_pipe_is_no_file_of_codes(hashret: Callable, tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"p.{suffix}")
    words = ["index", "import", tmp_path / f"p.{suffix}", "--out", tmp_path / "i", "--bit-order", "big"]
    status, _, err = hashret(*words)
    assert status == 1 and "is no file, expected a file of codes" in err
