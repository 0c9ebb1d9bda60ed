"""What is known of each code: string id, path, label, split and attributes, in memory or in a read-only SQLite file."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hashret.errors import SearchError, damaged
from hashret.index.manifest import no_number
from hashret.index.where import Column

Record = dict[str, Any]
FIELDS = ("id", "path", "label", "split")
STAMP = "hashret.stamp"
"""The attribute by which a followed folder knows its pictures again (docs/format.md); records are shown without it."""

_COLUMNS = ("row", *FIELDS, "attributes")
_VARIABLES = 500
"""Values in one SQL statement; every SQLite takes 999."""


class Records(Protocol):
    """Records of the rows of one segment."""

    def at(self, rows: Sequence[int]) -> list[Record]:
        """The records of some rows, in that order."""

    def rows_of(self, ids: Sequence[str]) -> dict[str, list[int]]:
        """The rows that carry these string ids; ids without a row are absent."""

    def column(self, name: str) -> Column:
        """A field or an attribute of all rows; None where a row has no such attribute."""


def checked(records: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> list[Record]:
    """Records with all fields: id (the number as text by default), path, label, split ("" by default), attributes.

    SearchError for another number of records, an id given twice, or attributes that JSON cannot hold.
    """
    if len(records) != len(ids):
        raise SearchError(f"there are {len(records)} records for {len(ids)} codes, expected one for each")
    found: list[Record] = []
    for number, record in zip(ids, records, strict=True):
        if not isinstance(record, Mapping):
            raise SearchError(f"a record is a {type(record).__name__}, expected a mapping of names to values")
        given = {name: record.get(name) for name in FIELDS}
        default = {"id": str(number)}
        fields = {name: default.get(name, "") if value is None else str(value) for name, value in given.items()}
        attributes = {str(name): value for name, value in record.items() if name not in FIELDS}
        try:
            spelled = json.dumps([fields, attributes], ensure_ascii=False, allow_nan=False, default=_plain)
            # Undecodable file names carry lone surrogates, which no text file can hold.
            fields, attributes = json.loads(spelled.encode().decode())
        except (TypeError, ValueError) as error:
            raise SearchError(f"the record of {fields['id']!r} cannot be stored as text: {error}") from error
        found.append({**fields, **attributes})
    seen: set[str] = set()
    for record in found:
        if record["id"] in seen:
            raise SearchError(f"the id {record['id']!r} is given twice, expected every id once; nothing was added")
        seen.add(record["id"])
    return found


def _plain(value: Any) -> Any:
    """A number of numpy's as one of Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no number, text, list or mapping of these")


class MemoryRecords:
    """Records held in memory."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = list(records)
        self._rows: dict[str, list[int]] = {}
        for row, record in enumerate(self._records):
            self._rows.setdefault(record["id"], []).append(row)

    def at(self, rows: Sequence[int]) -> list[Record]:
        """The records of some rows, in that order."""
        return [dict(self._records[row]) for row in rows]

    def rows_of(self, ids: Sequence[str]) -> dict[str, list[int]]:
        """The rows that carry these string ids."""
        return {name: self._rows[name] for name in ids if name in self._rows}

    def column(self, name: str) -> Column:
        """A field or an attribute of all rows."""
        return _column(len(self._records), ((row, record.get(name)) for row, record in enumerate(self._records)))


class NoRecords:
    """What conditions see of rows without records."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows

    def column(self, name: str) -> Column:
        """Nothing for any row."""
        return Column([None], np.zeros(self._n_rows, np.int32))


class StoredRecords:
    """Records in an SQLite file, opened read-only for each call so that threads and forks share nothing."""

    def __init__(self, path: Path, n_rows: int) -> None:
        self._path = path.absolute()  # wherever the process goes meanwhile
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._n_rows = n_rows
        self._columns: dict[str, Column] = {}

    def at(self, rows: Sequence[int]) -> list[Record]:
        """The records of some rows, in that order; IndexFormatError when one is missing."""
        found: dict[int, Record] = {}
        statement = "SELECT row, id, path, label, split, attributes FROM records WHERE row IN "
        for row, *fields, attributes in self._select(statement, [int(row) for row in rows]):
            if not all(isinstance(field, str) for field in fields):
                raise damaged(self._path, f"the record of row {row} holds something other than text")
            found[row] = {**dict(zip(FIELDS, fields, strict=True)), **self._attributes(attributes)}
        missing = [row for row in rows if row not in found]
        if missing:
            raise damaged(self._path, f"it has no record of row {missing[0]}")
        return [dict(found[row]) for row in rows]

    def rows_of(self, ids: Sequence[str]) -> dict[str, list[int]]:
        """The rows that carry these string ids."""
        found: dict[str, list[int]] = {}
        # SQLite takes no lone surrogates, and no record has them.
        spelled = [name for name in ids if _is_text(name)]
        for name, row in self._select("SELECT id, row FROM records WHERE id IN ", spelled):
            found.setdefault(name, []).append(self._row(row))
        return found

    def column(self, name: str) -> Column:
        """A field or an attribute of all rows; kept, since filters ask again."""
        if name not in self._columns:
            cells: Iterator[tuple[int, Any]]
            if name in FIELDS:
                cells = ((self._row(row), value) for row, value in self._execute(f"SELECT row, {name} FROM records"))
            else:
                # SQLite's own JSON functions end names and texts at a NUL.
                found = self._execute("SELECT row, attributes FROM records")
                cells = ((self._row(row), self._attributes(attributes).get(name)) for row, attributes in found)
            self._columns[name] = _column(self._n_rows, cells)
        return self._columns[name]

    def check(self) -> None:
        """IndexFormatError where it does not hold one record for each row, or its own order of ids is wrong."""
        ((n_lines, n_rows),) = self._execute("SELECT COUNT(*), COUNT(DISTINCT row) FROM records")
        if n_lines != self._n_rows or n_rows != self._n_rows:
            raise damaged(self._path, f"it has {n_lines} records of {n_rows} rows, expected {self._n_rows}")
        ((found,),) = self._execute("PRAGMA integrity_check(1)")
        if found != "ok":
            raise damaged(self._path, f"SQLite says: {found}")

    def _row(self, row: Any) -> int:
        if not isinstance(row, int) or not 0 <= row < self._n_rows:
            raise damaged(self._path, f"it has a record of row {row!r}, which is not there")
        return row

    def _attributes(self, text: Any) -> dict[str, Any]:
        try:
            found = json.loads(text, parse_constant=no_number)
            if "\\u" in text:
                # Escapes can spell halves of characters, which no text file can hold.
                json.dumps(found, ensure_ascii=False).encode()
        except (ValueError, TypeError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise damaged(self._path, "the attributes of a record are no JSON object")
        for name in FIELDS:
            if name in found:
                raise damaged(self._path, f"a record has an attribute called {name}, which is a field")
        return found

    def _select(self, statement: str, values: Sequence[int | str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(values), _VARIABLES):
            some = values[start : start + _VARIABLES]
            yield from self._execute(f"{statement}({','.join('?' * len(some))})", *some)

    def _execute(self, statement: str, *values: int | str) -> Iterator[tuple[Any, ...]]:
        # Immutable: no lock files beside it, so it works from a read-only medium.
        # Linux says where an open file is by now: its folder may have been moved.
        at = Path(f"/proc/self/fd/{self._descriptor}")
        address = (at if at.exists() else self._path).resolve().as_uri() + "?mode=ro&immutable=1"
        try:
            with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
                # A view or a virtual table could do anything, and for ever.
                connection.execute("PRAGMA trusted_schema = OFF")
                kind = connection.execute("SELECT type, sql FROM sqlite_schema WHERE name = 'records'").fetchone()
                if kind is None or kind[0] != "table" or not isinstance(kind[1], str) or "virtual" in kind[1].lower():
                    raise damaged(self._path, "it has no table 'records'")
                # A computed column could be as large as it likes.
                columns = connection.execute("PRAGMA table_xinfo(records)").fetchall()
                if [(name, hidden) for _, name, *_, hidden in columns] != [(name, 0) for name in _COLUMNS]:
                    raise damaged(self._path, f"its table 'records' has other columns than {', '.join(_COLUMNS)}")
                yield from connection.execute(statement, values)
        except sqlite3.Error as error:
            raise damaged(self._path, f"SQLite says: {error}") from error


def _is_text(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(name.encode() or True)
    except UnicodeEncodeError:
        return False


def _column(n_rows: int, cells: Iterable[tuple[int, Any]]) -> Column:
    """The column of these rows and values; None for rows that do not come."""
    values: list[Any] = [None]
    # True and 1 and 1.0 are one key of a dictionary, but not one value.
    known: dict[tuple[type, Any], int] = {}
    codes = np.zeros(n_rows, np.int32)
    for row, value in cells:
        if value is None:
            continue
        key = (type(value), value if isinstance(value, (str, int, float)) else json.dumps(value, sort_keys=True))
        code = known.get(key)
        if code is None:
            code = known[key] = len(values)
            values.append(value)
        codes[row] = code
    return Column(values, codes)


def write(path: Path, records: Iterable[Record]) -> None:
    """Write the records of a segment, row by row, to a new SQLite file; SearchError when the disk refuses."""
    try:
        _write(path, records)
    except sqlite3.Error as error:
        raise SearchError(f"the records of the index cannot be written ({error}); make room on the disk") from error


def _write(path: Path, records: Iterable[Record]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        # The file is finished before anyone else sees it, so a journal would protect nothing.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "CREATE TABLE records (row INTEGER PRIMARY KEY, id TEXT NOT NULL, path TEXT NOT NULL, "
            "label TEXT NOT NULL, split TEXT NOT NULL, attributes TEXT NOT NULL)"
        )
        connection.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)",
            (
                (
                    row,
                    *(record[name] for name in FIELDS),
                    json.dumps({k: v for k, v in record.items() if k not in FIELDS}, ensure_ascii=False),
                )
                for row, record in enumerate(records)
            ),
        )
        connection.execute("CREATE INDEX records_id ON records (id)")
        connection.commit()
