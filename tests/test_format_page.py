"""A reader written from docs/format.md alone, with struct, numpy and the standard library: the page says all that one needs."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashret.index import CosineIndex, HammingIndex, Store

GOLDEN = Path(__file__).parent / "golden"


class Stranger:
    """An index folder, as the page describes it. Nothing of hashret is used here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        assert (
            manifest["format"] == "hashret-index" and manifest["format_version"] <= 3 and manifest["bit_order"] == "big"
        )
        checksum = manifest.pop("checksum")
        spelled = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert hashlib.sha256(spelled.encode("ascii")).hexdigest() == checksum
        self.manifest = manifest
        self.code_size, self.dim = manifest["code_size"], manifest["dim"]
        self.ids: list[int] = []
        self.codes: list[bytes] = []
        self.features: list[np.ndarray] = []
        self.records: dict[int, dict[str, Any]] = {}
        for segment in manifest["segments"]:
            self._read(segment)

    def _read(self, segment: dict[str, Any]) -> None:
        content = {}
        for name, file in segment["files"].items():
            content[name] = (self.folder / "segments" / segment["name"] / name).read_bytes()
            assert len(content[name]) == file["n_bytes"]
            assert hashlib.sha256(content[name]).hexdigest() == file["sha256"]
        deleted: set[int] = set()
        if segment["deleted"] is not None:
            rows = rows_of(content[segment["deleted"]])
            deleted = {struct.unpack("<q", row)[0] for row in rows}
            assert len(deleted) == segment["n_deleted"]
        living = [row for row in range(segment["rows"]) if row not in deleted]
        ids = [struct.unpack("<q", row)[0] for row in rows_of(content["ids.npy"])]
        assert len(ids) == segment["rows"]
        self.ids += [ids[row] for row in living]
        if self.code_size is not None:
            codes = rows_of(content["codes.npy"])
            assert all(len(code) == -(-self.code_size // 8) for code in codes)
            self.codes += [codes[row] for row in living]
        if self.dim is not None:
            features = [self._feature(row) for row in rows_of(content["features.npy"])]
            self.features += [features[row] for row in living]
        if "metadata.sqlite" in segment["files"]:
            path = self.folder / "segments" / segment["name"] / "metadata.sqlite"
            database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
            for row, name, place, label, split, attributes in database.execute("SELECT * FROM records"):
                if row not in deleted:
                    known = {"id": name, "path": place, "label": label, "split": split}
                    self.records[ids[row]] = {**known, **json.loads(attributes)}
            database.close()

    def _feature(self, row: bytes) -> np.ndarray:
        if self.manifest["feature_dtype"] == "int8":
            return struct.unpack("<f", row[:4])[0] * np.frombuffer(row, "i1", offset=4).astype(np.float64)
        return np.frombuffer(row, {"float32": "<f4", "float16": "<f2"}[self.manifest["feature_dtype"]]).astype(
            np.float64
        )

    def nearest(self, query: bytes, k: int) -> list[tuple[int, int]]:
        """Distance and id of the k nearest, by the rule of ties: the earlier row."""
        asked = int.from_bytes(query, "big")
        distances = [(asked ^ int.from_bytes(code, "big")).bit_count() for code in self.codes]
        order = sorted(range(len(distances)), key=lambda row: (distances[row], row))
        return [(distances[row], self.ids[row]) for row in order[:k]]


def rows_of(npy: bytes) -> list[bytes]:
    """The rows of a .npy file of version 1 or 2."""
    assert npy[:6] == b"\x93NUMPY" and npy[6] in (1, 2)
    size, start = (struct.unpack("<H", npy[8:10])[0], 10) if npy[6] == 1 else (struct.unpack("<I", npy[8:12])[0], 12)
    header = npy[start : start + size].decode("latin1")
    n_rows = int(header.split("'shape': (")[1].split(",")[0])
    data = npy[start + size :]
    assert (start + size) % 64 == 0 and "'fortran_order': False" in header and len(data) % max(n_rows, 1) == 0
    width = len(data) // max(n_rows, 1)
    return [data[at : at + width] for at in range(0, len(data), width)]


def fresh(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    store = Store.create(folder, code_size=37, dim=5, feature_dtype="float16")
    codes = rng.integers(0, 2, (9000, 37), dtype=np.uint8)
    packed = np.packbits(codes, axis=1)
    records = [{"id": f"그림{i}", "path": f"{i}.jpg", "view": i % 24} for i in range(9000)]
    store.append(packed[:8000], rng.standard_normal((8000, 5)), records=records[:8000])
    store.append(packed[8000:], rng.standard_normal((1000, 5)), records=records[8000:])
    store.remove(np.arange(0, 9000, 7))
    return folder


@pytest.mark.parametrize("which", ["index-v1", "index-v2", "index-v3", "fresh"])
def test_a_stranger_reads_what_hashret_reads(tmp_path: Path, which: str) -> None:
    folder = fresh(tmp_path / "fresh") if which == "fresh" else GOLDEN / which
    stranger = Stranger(folder)
    assert stranger.manifest["format_version"] == {"index-v1": 1, "index-v2": 2, "index-v3": 3, "fresh": 3}[which]
    index = HammingIndex.load(folder)
    assert stranger.ids == index.ids.tolist()
    for id_, record in zip(stranger.ids, index.records(stranger.ids), strict=True):
        assert stranger.records.get(id_) == record
    for query in stranger.codes[::700]:
        distances, ids = index.search(np.frombuffer(query, np.uint8)[None], 25)
        found = [(d, i) for d, i in zip(distances[0].tolist(), ids[0].tolist(), strict=True) if i >= 0]
        assert found == stranger.nearest(query, 25)
    if stranger.dim is not None and stranger.manifest.get("feature_metric", "cosine") == "cosine":
        cosine = CosineIndex.load(folder)
        query = np.linspace(-1, 1, stranger.dim)
        similarities, ids = cosine.search(query[None], 10)
        wanted = np.array(stranger.features) @ (query / np.linalg.norm(query))
        best = np.sort(wanted)[::-1][: len(similarities[0])]
        assert np.allclose(similarities[0][: len(best)], best, atol=1e-6)
        by_id = dict(zip(stranger.ids, wanted, strict=True))
        assert np.allclose([by_id[i] for i in ids[0].tolist() if i >= 0], best, atol=1e-6)
