"""Codes from and to files of other programs: FAISS binary indexes, .npy arrays, Arrow and Parquet tables.

FAISS (IndexBinaryFlat, fourcc IBxF; IndexBinaryIDMap, IBMp and IBM2, around one) does not say in which order the bits of a byte
stand, so whoever reads or writes one has to: "big" is ours and np.packbits', "little" that of FAISS's own bit helpers. .npy
arrays are uint8 (N, B), or int8 as sentence-transformers' `binary` precision writes them (its `ubinary` less 128), most
significant bit first in both. Tables have a column `code` of fixed-size binary, and `id`, `path`, `label`, `split` and
attributes beside it where there are records; they need `pip install 'hashret[arrow]'`.

Layout of FAISS's files: faiss/impl/index_write.cpp (MIT licence), checked against the library in tests.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from hashret.codes import Codes, bytes_per_code
from hashret.errors import DataError, UsageError
from hashret.index import durable
from hashret.index.contents import Ids
from hashret.index.records import FIELDS, Record
from hashret.index.segments import header, map_array, read_header
from hashret.index.store import Store

BIT_ORDERS = ("big", "little")
ROWS = 1 << 18
"""Rows that are read or written at a time."""

_FLAT, _MAPPED = b"IBxF", (b"IBMp", b"IBM2")
_HEADER = struct.Struct("<iiqBi")
"""d, code_size, ntotal, is_trained, metric_type."""
_NPY = re.compile(
    r"\{'descr':'\|(?P<type>[ui]1)','fortran_order':False,'shape':\((?P<rows>\d{1,18}),(?P<bytes>\d{1,18})\),?\}",
    re.ASCII,
)
"""The header of an array of bytes, without blanks."""
_MOST_BYTES = 1 << 17
_SAYS_SIZE, _SAYS_ORDER = b"hashret.code_size", b"hashret.bit_order"
"""In the metadata of the tables that we write."""
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), axis=1)[:, 0]
"""Each byte with its bits the other way round."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows of a file: codes (N, B), most significant bit first; ids (N,) int64 and records where the file has them."""

    codes: Codes
    ids: Ids | None
    records: list[Record] | None


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of codes: how many, how many bytes each has, and the chunks; what it says of their bits, if it does."""

    n_rows: int
    n_bytes: int
    chunks: Iterator[Chunk]
    code_size: int | None = None
    bit_order: str | None = None


def kind_of(path: Path) -> str:
    """npy, parquet, arrow or faiss, by the name; UsageError for another."""
    kinds = {
        ".npy": "npy",
        ".parquet": "parquet",
        ".arrow": "arrow",
        ".feather": "arrow",
        ".faiss": "faiss",
        ".index": "faiss",
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path} is of no known kind; name a file that ends in {', '.join(sorted(kinds))}")
    return kind


def check_bit_order(path: Path, bit_order: str | None) -> str:
    """The order of bits: as given, or that of the kind of file; UsageError where a kind has none and none is given."""
    if kind_of(path) == "faiss":
        if bit_order is None:
            raise UsageError(
                f"{path} is a FAISS index, which does not say how bits stand in a byte; give --bit-order big (np.packbits, "
                "sentence-transformers) or little (faiss.vectors_to_binary and FAISS's bit helpers)"
            )
        return bit_order
    return bit_order or "big"


def read(path: Path, bit_order: str | None) -> Source:
    """The codes in a file, some at a time; DataError for a file that is not what its name says.

    bit_order: UsageError where it is needed and not given, or given and the file says another.
    """
    order = check_bit_order(path, bit_order)
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no file, expected a file of codes")
    try:
        source = {"npy": _read_npy, "faiss": _read_faiss, "parquet": _read_table, "arrow": _read_table}[kind_of(path)](
            path
        )
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    if source.bit_order is not None:
        if bit_order not in (None, source.bit_order):
            raise UsageError(
                f"--bit-order is {bit_order}, but {path} says its bits are {source.bit_order}; leave it out"
            )
        order = source.bit_order
    if order == "big":
        return source
    turned = (dataclasses.replace(chunk, codes=_REVERSED[chunk.codes]) for chunk in source.chunks)
    return dataclasses.replace(source, chunks=turned)


def into_store(
    source: Source,
    store: Store,
    ids: Sequence[str] | None = None,
    progress: Callable[[int], object] = lambda n_rows: None,
) -> int:
    """How many rows were added to a store, in one commit for each chunk; ids: a string id for each row."""
    done = 0
    for chunk in source.chunks:
        records: Sequence[Mapping[str, Any]] | None = chunk.records
        if ids is not None:
            beside = records or [{}] * len(chunk.codes)
            records = [{**record, "id": ids[done + row]} for row, record in enumerate(beside)]
        store.append(chunk.codes, ids=chunk.ids, records=records)
        done += len(chunk.codes)
        progress(len(chunk.codes))
    return done


def write(store: Store, path: Path, bit_order: str | None) -> int:
    """How many living rows of a store were written to a file, in their order; it appears whole or not at all."""
    order = check_bit_order(path, bit_order)
    if store.code_size is None:
        raise UsageError(f"{store.folder} holds no codes, only features")
    writers = {"npy": _write_npy, "faiss": _write_faiss, "parquet": _write_parquet, "arrow": _write_arrow}
    temporary = path.with_name(durable.temporary_name())
    try:
        writers[kind_of(path)](store, temporary, order)
        durable.flush(temporary)
        durable.rename(temporary, path)
    finally:
        durable.remove(temporary)
    return len(store)


def _chunks_of(store: Store, order: str, *, records: bool = False) -> Iterator[Chunk]:
    ids = store.ids
    for start in range(0, len(ids), ROWS):
        some = ids[start : start + ROWS]
        codes = store.codes(some)
        known = store.records(some) if records else None
        found = None
        if known is not None:
            blank = dict.fromkeys(FIELDS, "")
            found = [
                record or {**blank, "id": str(number)} for number, record in zip(some.tolist(), known, strict=True)
            ]
        yield Chunk(codes if order == "big" else _REVERSED[codes], some, found)


# ---- .npy ------------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> Source:
    found, start = read_header(path)
    described = _NPY.fullmatch(found)
    if described is None:
        raise DataError(
            f"{path} says it is {found[:200] or 'no .npy array'}, expected packed codes: uint8 or int8 of shape (N, B)"
        )
    n_rows, n_bytes = int(described["rows"]), int(described["bytes"])
    if start + n_rows * n_bytes != path.stat().st_size or not 0 < n_bytes <= _MOST_BYTES:
        raise DataError(
            f"{path} is damaged: it says it holds {n_rows} rows of {n_bytes} bytes in {path.stat().st_size}"
        )
    array = map_array(path, np.dtype((described["type"], (n_bytes,))), n_rows, start)

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(array), ROWS):
            some = np.asarray(array[start : start + ROWS])
            if some.dtype == np.int8:
                some = (some.astype(np.int16) + 128).astype(np.uint8)
            yield Chunk(np.ascontiguousarray(some), None, None)

    return Source(len(array), array.shape[1], chunks())


def _write_npy(store: Store, path: Path, order: str) -> None:
    row = np.dtype(("u1", (bytes_per_code(store.code_size or 0),)))
    with path.open("wb") as file:
        file.write(header(row, len(store)))
        for chunk in _chunks_of(store, order):
            file.write(np.ascontiguousarray(chunk.codes).data)


# ---- FAISS -----------------------------------------------------------------------------------------------------------


def _read_faiss(path: Path) -> Source:
    size = path.stat().st_size
    with path.open("rb") as file:
        fourcc = file.read(4)
        mapped = fourcc in _MAPPED
        if mapped:
            _, _, outer = _faiss_header(path, file)
            fourcc = file.read(4)
        if fourcc != _FLAT:
            raise DataError(
                f"{path} holds {fourcc!r}, expected a flat binary index of FAISS (IBxF), or one with ids (IBMp, IBM2) around it"
            )
        bits, n_bytes, n_rows = _faiss_header(path, file)
        start = file.tell() + 8
        (stored,) = _unpack(path, file, struct.Struct("<Q"))
        if bits != 8 * n_bytes or stored != n_rows * n_bytes or start + stored > size or (mapped and outer != n_rows):
            raise DataError(
                f"{path} is damaged: it says it holds {n_rows} codes of {bits} bits in {stored} of {size} bytes"
            )
    ids_at = start + stored + 8
    if mapped and ids_at + 8 * n_rows != size:
        raise DataError(f"{path} is damaged: it has {size} bytes, expected {ids_at + 8 * n_rows}")

    def chunks() -> Iterator[Chunk]:
        for row in range(0, n_rows, ROWS):
            n = min(ROWS, n_rows - row)
            codes = np.fromfile(path, np.uint8, n * n_bytes, offset=start + row * n_bytes).reshape(n, n_bytes)
            ids = np.fromfile(path, "<i8", n, offset=ids_at + 8 * row) if mapped else None
            yield Chunk(codes, ids, None)

    return Source(n_rows, n_bytes, chunks())


def _faiss_header(path: Path, file: IO[bytes]) -> tuple[int, int, int]:
    """Bits, bytes of a code and number of codes."""
    bits, n_bytes, n_rows, _, _ = _unpack(path, file, _HEADER)
    if not (0 < bits <= 1 << 20 and 0 < n_bytes <= _MOST_BYTES and n_rows >= 0):
        raise DataError(f"{path} is damaged: it says it holds {n_rows} codes of {bits} bits")
    return bits, n_bytes, n_rows


def _unpack(path: Path, file: IO[bytes], layout: struct.Struct) -> tuple[Any, ...]:
    content = file.read(layout.size)
    if len(content) < layout.size:
        raise DataError(f"{path} is damaged: it ends within its header")
    return layout.unpack(content)


def _write_faiss(store: Store, path: Path, order: str) -> None:
    n, n_bytes = len(store), bytes_per_code(store.code_size or 0)
    header = _HEADER.pack(8 * n_bytes, n_bytes, n, 1, 1)
    ids = store.ids
    counted_up = bool((ids == np.arange(n)).all())
    with path.open("wb") as file:
        if not counted_up:
            file.write(_MAPPED[0] + header)
        file.write(_FLAT + header + struct.pack("<Q", n * n_bytes))
        for chunk in _chunks_of(store, order):
            file.write(np.ascontiguousarray(chunk.codes).data)
        if not counted_up:
            file.write(struct.pack("<Q", n) + ids.astype("<i8").tobytes())


# ---- Arrow and Parquet -----------------------------------------------------------------------------------------------


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("Arrow and Parquet files need pyarrow; pip install 'hashret[arrow]'") from error
    return pyarrow


def _read_table(path: Path) -> Source:
    pa = _arrow()
    try:
        if kind_of(path) == "parquet":
            table = pa.parquet.ParquetFile(path)
            schema, n_rows = table.schema_arrow, table.metadata.num_rows
            batches = table.iter_batches(batch_size=ROWS)
        else:
            table = pa.ipc.open_file(pa.memory_map(str(path)))
            schema = table.schema
            n_rows = sum(table.get_batch(i).num_rows for i in range(table.num_record_batches))
            batches = (table.get_batch(i) for i in range(table.num_record_batches))
    except pa.ArrowException as error:
        raise DataError(f"{path} is no {kind_of(path)} file ({str(error).splitlines()[0]})") from error
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{path} has columns {', '.join(schema.names)}, expected every name once")
    code = schema.field("code").type if "code" in schema.names else None
    if code is None or not pa.types.is_fixed_size_binary(code):
        raise DataError(f"{path} has columns {', '.join(schema.names)}, expected one called code of fixed-size binary")

    def chunks() -> Iterator[Chunk]:
        try:
            for batch in batches:
                batch.validate(full=True)
                yield _chunk_of(path, pa, batch)
        except (pa.ArrowException, OSError, ValueError, SystemError, MemoryError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path} is damaged ({reason})") from error

    said = {name: value.decode("utf-8", "replace") for name, value in (schema.metadata or {}).items()}
    bits, order = said.get(_SAYS_SIZE), said.get(_SAYS_ORDER)
    if bits is not None and (not bits.isascii() or not bits.isdecimal() or -(-int(bits) // 8) != code.byte_width):
        raise DataError(f"{path} says its codes have {bits[:20]} bits, and they have {code.byte_width} bytes")
    if order not in (None, *BIT_ORDERS):
        raise DataError(f"{path} says its bits are {order[:20]!r}, expected big or little")
    return Source(n_rows, code.byte_width, chunks(), None if bits is None else int(bits), order)


def _chunk_of(path: Path, pa: Any, batch: Any) -> Chunk:
    """The rows of a record batch. A column `id` is the number where it holds whole numbers, else the string id, as `name` is."""
    codes = batch.column("code")
    if codes.null_count:
        raise DataError(f"{path} has a row without a code, expected one in each")
    width = codes.type.byte_width
    packed = np.frombuffer(codes.buffers()[1], np.uint8, len(codes) * width, codes.offset * width).reshape(-1, width)
    columns = {name: batch.column(name) for name in batch.schema.names if name != "code"}
    ids = None
    if "id" in columns and pa.types.is_integer(columns["id"].type):
        numbers = columns.pop("id")
        if numbers.null_count:
            raise DataError(f"{path} has a row without an id, expected one in each or in none")
        ids = numbers.to_numpy(zero_copy_only=False)
    if "name" in columns:
        columns["id"] = columns.pop("name")
    if not columns:
        return Chunk(packed, ids, None)
    records: list[Record] = []
    for row in batch.select([name for name in batch.schema.names if name != "code"]).to_pylist():
        if "name" in row:
            row["id"] = row.pop("name")
        elif ids is not None:
            del row["id"]
        attributes = _read_attributes(path, row.pop("attributes", None))
        records.append({**{name: value for name, value in row.items() if value is not None}, **attributes})
    return Chunk(packed, ids, records)


def _read_attributes(path: Path, text: Any) -> dict[str, Any]:
    """A column `attributes` holds JSON objects."""
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path} has attributes {str(text)[:60]!r}, expected a JSON object as text")
    return found


def _write_parquet(store: Store, path: Path, order: str) -> None:
    pa = _arrow()
    _write_table(store, order, lambda schema: pa.parquet.ParquetWriter(path, schema))


def _write_arrow(store: Store, path: Path, order: str) -> None:
    pa = _arrow()
    _write_table(store, order, lambda schema: pa.ipc.new_file(str(path), schema))


def _write_table(store: Store, order: str, writer_of: Callable[[Any], Any]) -> None:
    pa = _arrow()
    texts = ["name", "path", "label", "split", "attributes"] if store.has_records else []
    code = pa.binary(bytes_per_code(store.code_size or 0))
    schema = pa.schema([("code", code), ("id", pa.int64()), *((name, pa.string()) for name in texts)])
    schema = schema.with_metadata({_SAYS_SIZE: str(store.code_size), _SAYS_ORDER: order})
    with writer_of(schema) as writer:
        for chunk in _chunks_of(store, order, records=True):
            assert chunk.records is not None and chunk.ids is not None
            cells = [
                [
                    record["id"],
                    *(record[name] for name in FIELDS[1:]),
                    json.dumps(_attributes(record), ensure_ascii=False),
                ]
                for record in chunk.records
            ]
            columns = [pa.array([row[i] for row in cells], pa.string()) for i in range(len(texts))]
            codes = pa.FixedSizeBinaryArray.from_buffers(
                code, len(chunk.codes), [None, pa.py_buffer(np.ascontiguousarray(chunk.codes))]
            )
            writer.write_batch(pa.record_batch([codes, pa.array(chunk.ids), *columns], schema=schema))


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in FIELDS}
