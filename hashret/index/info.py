"""What an index holds and what it takes on the disk, for people."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path
from typing import Any

from hashret.codes import bytes_per_code
from hashret.index import manifest, storage
from hashret.index.manifest import CODES, FEATURES, IDS, METADATA, SEGMENTS

ID_BYTES = 8
RECORDS_READ = 1000
"""Of each segment, where attributes are looked for."""


@dataclasses.dataclass(frozen=True)
class Info:
    """What an index holds; bytes are those of the files."""

    format_version: int
    generation: int
    pictures: int
    deleted: int
    """Rows that are deleted and still take room, until the index is compacted."""
    segments: int
    code_size: int | None
    dim: int | None
    feature_dtype: str | None
    metrics: list[str]
    model: dict[str, Any] | None
    attributes: list[str]
    """Names of attributes that the first 1,000 records of each segment have."""
    code_bytes: int
    id_bytes: int
    feature_bytes: int
    record_bytes: int
    other_bytes: int
    """Checksums of blocks, lists of deleted rows, the manifest."""
    unused_bytes: int
    """Files of earlier generations that a reader still holds, of a writer that died, or set aside by a repair."""

    @property
    def total_bytes(self) -> int:
        """What the current generation takes."""
        return self.code_bytes + self.id_bytes + self.feature_bytes + self.record_bytes + self.other_bytes

    @property
    def overhead(self) -> float | None:
        """What codes and ids take for each byte that they are, None without codes; headers and deleted rows take more."""
        if self.code_size is None or not self.pictures:
            return None
        return (self.code_bytes + self.id_bytes) / (self.pictures * (bytes_per_code(self.code_size) + ID_BYTES))

    def lines(self) -> list[str]:
        """For people."""
        holds = [
            *([f"codes of {self.code_size} bits"] if self.code_size is not None else []),
            *([f"features of {self.dim} {self.feature_dtype} numbers"] if self.dim is not None else []),
        ]
        model = self.model or {}
        made_by = "not said"
        if model:
            made_by = f"{model.get('name') or 'unnamed'}, fingerprint {str(model.get('fingerprint'))[:12]}"
        parts = [
            ("codes", self.code_bytes),
            ("ids", self.id_bytes),
            ("features", self.feature_bytes),
            ("records", self.record_bytes),
            ("other", self.other_bytes),
            ("unused", self.unused_bytes),
        ]
        ratio = "" if self.overhead is None else f"; codes and ids take {self.overhead:.2f} times their own bytes"
        lines = [
            f"holds: {' and '.join(holds)}",
            f"model: {made_by}",
            f"attributes: {', '.join(self.attributes) or 'none'}",
            f"segments: {self.segments}, with {self.deleted:,} deleted rows",
            f"bytes: {', '.join(f'{name} {size:,}' for name, size in parts if size)}{ratio}",
            f"format: version {self.format_version}",
        ]
        if self.deleted > self.pictures:
            lines.append("more rows are deleted than not: `hashret index compact` makes it smaller")
        return lines


def _size(path: Path) -> int:
    """Bytes of a file, 0 of anything else, and of what a writer just removed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def describe(folder: Path) -> Info:
    """What an index holds; IndexFormatError when it is none or is damaged. Nothing but small files and sizes is read."""
    described, contents = storage.load(folder)
    sizes: dict[str, int] = {}
    for entry in described.segments:
        for name, file in entry.files.items():
            sizes[name] = sizes.get(name, 0) + file.n_bytes
    own = sum(sizes.get(name, 0) for name in (CODES, IDS, FEATURES, METADATA))
    beside = (folder / manifest.NAME).stat().st_size
    places = [folder / SEGMENTS, folder / manifest.SET_ASIDE]
    on_disk = sum(_size(path) for place in places for path in place.rglob("*"))
    attributes: list[str] = []
    for segment in contents.segments:
        if segment.records is not None:
            for record in segment.records.at(range(min(len(segment), RECORDS_READ))):
                attributes += [name for name in record if name not in attributes]
    hidden = {"id", "path", "label", "split"}
    return Info(
        format_version=described.format_version,
        generation=described.generation,
        pictures=len(contents),
        deleted=sum(entry.n_deleted for entry in described.segments),
        segments=len(described.segments),
        code_size=described.code_size,
        dim=described.dim,
        feature_dtype=described.feature_dtype,
        metrics=described.metrics,
        model=described.model,
        attributes=[name for name in attributes if name not in hidden and not name.startswith("hashret.")],
        code_bytes=sizes.get(CODES, 0),
        id_bytes=sizes.get(IDS, 0),
        feature_bytes=sizes.get(FEATURES, 0),
        record_bytes=sizes.get(METADATA, 0),
        other_bytes=sum(sizes.values()) - own + beside,
        unused_bytes=on_disk - sum(sizes.values()),
    )
