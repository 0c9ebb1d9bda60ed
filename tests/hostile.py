"""A folder of hostile indexes, each one change away from a whole one: `python tests/hostile.py FOLDER` writes them all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hashret.index import Store, manifest

ARRAYS = ("ids.npy", "codes.npy", "features.npy")
Change = Callable[[Path], object]


def make_whole(folder: Path) -> Path:
    """An index of codes, features and records, with deleted rows."""
    rng = np.random.default_rng(0)
    store = Store.create(folder, code_size=12, dim=3, model={"fingerprint": "abcd", "name": "m"})
    codes = rng.integers(0, 256, (20, 2), dtype=np.uint8) & np.array([255, 240], np.uint8)
    store.append(codes, rng.standard_normal((20, 3)), records=[{"id": f"r{i}", "view": i} for i in range(20)])
    store.remove([3, 4])
    _named_the_same_always(folder)
    return folder


def _named_the_same_always(folder: Path) -> None:
    """Segment and files with names that are not drawn, so that a manifest kept from another run fits."""
    segments = folder / "segments"

    def rename(content: dict[str, Any]) -> None:
        (segment,) = content["segments"]
        (segments / segment["name"]).rename(segments / "000002-00000000")
        deleted = "deleted-000003-00000000.npy"
        (segments / "000002-00000000" / segment["deleted"]).rename(segments / "000002-00000000" / deleted)
        segment["files"][deleted] = segment["files"].pop(segment["deleted"])
        segment.update(name="000002-00000000", deleted=deleted)
        content["uid"] = "0" * 32

    spelled_anew(folder, rename)


def spelled_anew(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Another manifest whose checksum is right: written by somebody who knows the format."""
    content = json.loads((folder / manifest.NAME).read_text("utf-8"))
    change(content)
    content.pop("checksum", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / manifest.NAME).write_text(json.dumps(content), "utf-8")


def path_of(folder: Path, name: str) -> Path:
    """A file of the only segment; "deleted" is the file of deleted rows."""
    (segment,) = json.loads((folder / manifest.NAME).read_text("utf-8"))["segments"]
    return folder / "segments" / segment["name"] / (segment["deleted"] if name == "deleted" else name)


def with_content(folder: Path, name: str, content: bytes) -> None:
    """Another file, and a manifest that says it is right."""
    path = path_of(folder, name)
    path.write_bytes(content)

    def known(described: dict[str, Any]) -> None:
        described["segments"][0]["files"][path.name] = {
            "n_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    spelled_anew(folder, known)


def npy(array: np.ndarray, **options: Any) -> bytes:
    """An array as np.save writes it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def sqlite(folder: Path, *statements: str) -> bytes:
    """A database that these statements make."""
    path = folder / "made.sqlite"
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    content = path.read_bytes()
    path.unlink()
    return content


RECORDS = "CREATE TABLE records (row INTEGER PRIMARY KEY, id, path, label, split, attributes)"
ROWS = (
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19) "
    "INSERT INTO records SELECT i, 'r' || i, '', '', '', {} FROM n"
)


def cut(folder: Path, name: str, n: int) -> None:
    """The first n bytes of a file; below 0: all but so many."""
    path = path_of(folder, name)
    path.write_bytes(path.read_bytes()[:n])


def longer(path: Path) -> None:
    """One byte more."""
    path.write_bytes(path.read_bytes() + b"0")


def flipped(folder: Path, path: Path, at: int) -> None:
    """One bit of a byte turned."""
    content = bytearray((folder / path).read_bytes())
    content[at] ^= 1 << at % 8
    (folder / path).write_bytes(content)


def linked(path: Path, elsewhere: Path) -> None:
    """A link to the same content in another place."""
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def set_in_manifest(**fields: Any) -> Change:
    return lambda folder: spelled_anew(folder, lambda content: content.update(fields))


def set_in_segment(**fields: Any) -> Change:
    return lambda folder: spelled_anew(folder, lambda content: content["segments"][0].update(fields))


def set_in_file(name: str, **fields: Any) -> Change:
    return lambda folder: spelled_anew(folder, lambda content: content["segments"][0]["files"][name].update(fields))


def renamed_file(old: str, new: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        files = content["segments"][0]["files"]
        files[new] = files.pop(old)

    return lambda folder: spelled_anew(folder, change)


def cases(whole: Path) -> Iterator[tuple[str, Change]]:
    """The name of each, and how it is made of a copy of the whole one."""
    names = [*ARRAYS, "deleted", "metadata.sqlite"]
    for name in names:
        size = path_of(whole, name).stat().st_size
        for n in sorted({0, 1, 6, 8, 10, 64, 127, 128, 129, 136, size // 2, size - 1}):
            if n < size:
                yield f"{name} cut to {n}", lambda folder, name=name, n=n: cut(folder, name, n)
                yield (
                    f"{name} cut to {n} as the manifest says",
                    lambda folder, name=name, n=n: with_content(folder, name, path_of(folder, name).read_bytes()[:n]),
                )
        yield f"{name} longer", lambda folder, name=name: longer(path_of(folder, name))
        yield (
            f"{name} longer as the manifest says",
            lambda folder, name=name: with_content(folder, name, path_of(folder, name).read_bytes() + b"0" * 64),
        )
        yield f"no {name}", lambda folder, name=name: path_of(folder, name).unlink()
        yield (
            f"{name} a folder",
            lambda folder, name=name: (path_of(folder, name).unlink(), path_of(folder, name).mkdir()),
        )
        yield (
            f"{name} a link",
            lambda folder, name=name: linked(path_of(folder, name), folder.with_name(folder.name + ".file")),
        )
        for at in range(128):
            yield (
                f"{name} byte {at} turned",
                lambda folder, name=name, at=at: flipped(folder, path_of(folder, name), at),
            )
        yield f"{name} last byte damaged", lambda folder, name=name: flipped(folder, path_of(folder, name), -1)
    size = (whole / manifest.NAME).stat().st_size
    for at in range(0, size, 3):
        yield f"manifest byte {at} turned", lambda folder, at=at: flipped(folder, Path(manifest.NAME), at)
    for n in (0, 1, size // 2, size - 2):
        yield (
            f"manifest cut to {n}",
            lambda folder, n=n: (folder / manifest.NAME).write_bytes((folder / manifest.NAME).read_bytes()[:n]),
        )
    yield "manifest a link", lambda folder: linked(folder / manifest.NAME, folder.with_name(folder.name + ".file"))
    yield "manifest of deep brackets", lambda folder: (folder / manifest.NAME).write_text("[" * 100_000)
    yield "manifest huge", lambda folder: os.truncate(folder / manifest.NAME, 1 << 40)
    yield "segments a link", lambda folder: linked(folder / "segments", folder.with_name(folder.name + ".folder"))
    yield (
        "segment a link",
        lambda folder: linked(path_of(folder, "ids.npy").parent, folder.with_name(folder.name + ".folder")),
    )
    for version in (99, 4, 0, -1, "1", None, 1.0, True):
        yield f"version {version!r}", set_in_manifest(format_version=version)
    for field, values in {
        "format": ["faiss", None],
        "bit_order": ["little", None],
        "code_size": [0, -1, 1025, 2**62, 2**70, 12.0, "12", True, [12], 24],
        "dim": [0, -3, 2**40, 2**70, 3.0, "3", 4],
        "feature_dtype": ["float64", "object", None, 3, "float16", "int8"],
        "feature_metric": ["dot", None, 3],
        "next_id": [-1, 2**62 + 1, 2**70, 1.5, None],
        "generation": [0, -1, 2**70, "1"],
        "uid": ["", "../x", None, "x" * 200],
        "model": ["m", 3, []],
        "segments": [None, {}, "x", [None], [[]], [{}]],
    }.items():
        for value in values:
            yield f"{field} {value!r}", set_in_manifest(**{field: value})
    for field, values in {
        "name": ["..", ".", "", "../..", "/etc", "a/b", "a\\b", "A", "x\0", "none", "x" * 300, None, "ä"],
        "rows": [0, -1, 19, 21, 2**31, 2**62, 2**70, 20.0, "20", None],
        "n_deleted": [-1, 1, 3, 20, 21, 2**62, "2"],
        "deleted": ["../x.npy", "/etc/passwd", "ids.npy", "deleted-1.npy", "deleted-../x.npy", 3],
        "files": [None, {}, []],
    }.items():
        for value in values:
            yield f"segment {field} {value!r}", set_in_segment(**{field: value})
    for name in (*ARRAYS, "metadata.sqlite"):
        for field, values in {
            "n_bytes": [-1, 0, 2**62, 2**70, 1.5, "1"],
            "sha256": ["", "0" * 64, None, "G" * 64],
        }.items():
            for value in values:
                yield f"{name} {field} {value!r}", set_in_file(name, **{field: value})
        for new in ("../ids.npy", "/etc/passwd", "other.npy", "", "ids.npy\0"):
            yield f"{name} called {new!r}", renamed_file(name, new)
    numbers = np.arange(20)
    for name, arrays in {
        "ids.npy": {
            "big-endian": npy(numbers.astype(">i8")),
            "int32": npy(numbers.astype("<i4")),
            "unsigned": npy(numbers.astype("<u8")),
            "two columns": npy(np.zeros((20, 2), "<i8")),
            "fewer": npy(numbers[:19].astype("<i8")),
            "version 2": npy(numbers.astype("<i8"), version=(2, 0)),
            "objects": npy(np.array([None] * 20, object), allow_pickle=True),
            "twice": npy(numbers.astype("<i8") // 2),
            "negative": npy(numbers.astype("<i8") - 5),
            "too large": npy(numbers.astype("<i8") + 2**62),
            "a header that lies": npy(numbers.astype("<i8")).replace(b"(20,)", b"(2**9"),
            "a huge header": npy(numbers.astype("<i8")).replace(b"(20,), ", b"(9999999999999999999,), "),
            "code in the header": npy(numbers.astype("<i8")).replace(b"(20,)", b"exit("),
            "a header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(300),
            "no data of its own": npy(numbers.astype("<i8"))[:128],
        },
        "codes.npy": {
            "columns first": npy(np.asfortranarray(np.zeros((20, 2), np.uint8))),
            "signed": npy(np.zeros((20, 2), np.int8)),
            "tail bits": npy(np.full((20, 2), 255, np.uint8)),
        },
        "features.npy": {
            "NaN": npy(np.full((20, 3), np.nan, np.float32)),
            "infinity": npy(np.full((20, 3), np.inf, np.float32)),
            "float64": npy(np.ones((20, 3))),
        },
        "deleted": {
            "backwards": npy(np.array([4, 3], "<i8")),
            "twice": npy(np.array([3, 3], "<i8")),
            "outside": npy(np.array([3, 20], "<i8")),
            "negative": npy(np.array([-1, 3], "<i8")),
        },
    }.items():
        for what, content in arrays.items():
            yield f"{name} {what}", lambda folder, name=name, content=content: with_content(folder, name, content)
    for what, statements in {
        "empty": ["SELECT 1"],
        "no such table": ["CREATE TABLE other (row)"],
        "other columns": ["CREATE TABLE records (row INTEGER PRIMARY KEY, id)"],
        "no rows": [RECORDS],
        "a view without end": [
            "CREATE VIEW records AS WITH RECURSIVE n(row) AS (SELECT 0 UNION ALL SELECT row + 1 FROM n) "
            "SELECT row, 'x' AS id, '' AS path, '' AS label, '' AS split, '{}' AS attributes FROM n"
        ],
        "no objects": [RECORDS, ROWS.format("'[]'")],
        "no JSON": [RECORDS, ROWS.format("'x'")],
        "nothing": [RECORDS, ROWS.format("NULL")],
        "deep": [RECORDS, ROWS.format(f"'{'[' * 100_000}'")],
        "numbers for text": [RECORDS, ROWS.format("'{}'"), "UPDATE records SET id = 7"],
        "no UTF-8": [RECORDS, ROWS.format("'{}'"), "UPDATE records SET id = CAST(x'ff41' AS TEXT)"],
        "rows that are not there": [RECORDS, ROWS.format("'{}'"), "UPDATE records SET row = row + 100"],
    }.items():
        yield (
            f"records: {what}",
            lambda folder, statements=statements: with_content(folder, "metadata.sqlite", sqlite(folder, *statements)),
        )
    yield "records that are text", lambda folder: with_content(folder, "metadata.sqlite", b"id,path\n" * 2000)


def make_all(out: Path) -> Iterator[tuple[str, Path]]:
    """Each hostile index in a folder of its own below `out`; the name of each, and where."""
    whole = make_whole(out / "whole")
    for number, (name, change) in enumerate(cases(whole)):
        folder = out / f"{number:04d}"
        shutil.copytree(whole, folder)
        change(folder)
        yield name, folder


if __name__ == "__main__":
    for name, folder in make_all(Path(sys.argv[1])):
        print(f"{folder}\t{name}")
