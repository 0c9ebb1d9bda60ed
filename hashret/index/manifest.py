"""The manifest: the one small file that says what an index holds. Replacing it is the only commit.

docs/format.md has the rules. Everything in it is checked before any other file is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hashret import __version__
from hashret.codes import BIT_ORDER, MAX_CODE_SIZE
from hashret.errors import IndexFormatError, IndexVersionError, SearchError, damaged
from hashret.index import durable
from hashret.index.features import DTYPES, MAX_DIM, METRICS

FORMAT = "hashret-index"
FORMAT_VERSION = 3
"""The newest; an index that an older version can describe is written as that, so that older readers keep reading it."""
NAME = "manifest.json"
SEGMENTS, COPIES, SET_ASIDE = "segments", "generations", "damaged"
"""Folders of an index: of its segments, of copies of manifests, and of what a repair copied there before it replaced it."""
PLACES = (SEGMENTS, COPIES, SET_ASIDE)

CODES, FEATURES, IDS, METADATA = "codes.npy", "features.npy", "ids.npy", "metadata.sqlite"
BLOCKS = "blocks.npy"
_SEGMENT_FILES = {CODES, FEATURES, IDS, METADATA, BLOCKS}
COPY_NAME = re.compile(r"[0-9]{6,20}\.json")
_NAME = re.compile(r"[0-9a-z][0-9a-z-]{0,99}")
_DELETED_NAME = re.compile(r"deleted-[0-9a-z-]{1,99}\.npy")
_LARGEST_MANIFEST = 1 << 26
_DEEPEST_MODEL = 50


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of an immutable file."""

    n_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class SegmentEntry:
    """A segment: a folder of immutable files, and at most one file of the rows deleted since."""

    name: str
    rows: int
    files: dict[str, FileEntry]
    deleted: str | None = None
    """Name of a file in the segment's folder: the deleted rows, ascending int64."""
    n_deleted: int = 0


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an index holds."""

    uid: str
    """Random name of this index; a copy of the folder keeps it."""
    generation: int
    """Counts commits from 1."""
    next_id: int
    """One more than the largest id ever given."""
    code_size: int | None
    dim: int | None
    feature_dtype: str | None
    model: dict[str, Any] | None
    segments: tuple[SegmentEntry, ...]
    feature_metric: str = "cosine"
    """What features are for: cosine, of length 1; or inner_product, as they were given."""

    @property
    def metrics(self) -> list[str]:
        """Metrics that can be searched: hamming, the metric of features, or both."""
        return ["hamming"] * (self.code_size is not None) + [self.feature_metric] * (self.dim is not None)

    @property
    def format_version(self) -> int:
        """The oldest format version that can describe this index."""
        if any(BLOCKS in segment.files for segment in self.segments):
            return 3
        return 2 if self.dim is not None and (self.feature_dtype == "int8" or self.feature_metric != "cosine") else 1


def copy_of(folder: Path, generation: int) -> Path:
    """Where the copy of the manifest of a generation lies (generations.py)."""
    return folder / COPIES / f"{generation:06d}.json"


def write(folder: Path, manifest: Manifest, after: Iterable[Path] = ()) -> None:
    """Commit: readers that open the folder from now on see this manifest, whole. First `after` is brought to the disk."""
    content = {
        "format": FORMAT,
        "format_version": manifest.format_version,
        "written_by": f"hashret {__version__}",
        "bit_order": BIT_ORDER,
        "metrics": manifest.metrics,
        **dataclasses.asdict(manifest),
    }
    content = json.loads(json.dumps(content))  # as a reader will have it
    _parse(folder / NAME, content)  # what a reader would refuse is not written
    content["checksum"] = _checksum(content)
    spelled = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    copy = copy_of(folder, manifest.generation)
    if not copy.parent.exists():
        durable.make_folder(copy.parent)
    if os.path.lexists(copy):
        durable.remove(copy)  # of a writer that died
    durable.write_file(copy, [spelled])
    durable.replace_file(folder / NAME, spelled, [*after, copy, copy.parent])


def check_places(folder: Path) -> None:
    """IndexFormatError where a folder of an index is a link, or no folder: what is read and written there is elsewhere then."""
    for name in PLACES:
        place = folder / name
        if place.is_symlink():
            raise damaged(place, "it is a link to another folder")
        if place.exists() and not place.is_dir():
            raise damaged(place, "it is no folder")


def read(folder: Path) -> Manifest:
    """The checked manifest of an index folder; IndexFormatError when it is none, is damaged, or is newer than this."""
    check_places(folder)
    path = folder / NAME
    if not path.is_file():
        raise IndexFormatError(f"{folder} is no hashret index: it has no {NAME}; give the folder that `index` wrote")
    return read_file(path)


def read_file(path: Path) -> Manifest:
    """The checked manifest in this file, as `read` gives it."""
    if path.is_symlink():
        raise damaged(path, "it is a link to another file")
    if not path.is_file():
        raise damaged(path, "it is no file")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise damaged(path, "it is far too large")
    try:
        spelled = path.read_bytes().decode("utf-8")
        content = json.loads(spelled, object_pairs_hook=_named_once, parse_constant=no_number)
        # Escapes can spell halves of characters, which no text file can hold.
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise IndexFormatError(f"{path} does not describe a hashret index: its format is not {FORMAT!r}")
    version = content.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise damaged(path, "its format version is no whole number")
    if version > FORMAT_VERSION:
        raise IndexVersionError(
            f"{path.parent} has index format {version}, this hashret {__version__} reads up to {FORMAT_VERSION}; "
            "upgrade hashret, or build the index again with this version"
        )
    if content.pop("checksum", None) != _checksum(content):
        raise damaged(path, "its checksum is wrong")
    if content.get("bit_order") != BIT_ORDER:
        raise IndexFormatError(f"{path} has bit order {content.get('bit_order')!r}, expected {BIT_ORDER!r}")
    return _parse(path, content)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return dict(pairs)


def no_number(name: str) -> None:
    """For json.loads: NaN and Infinity, which Python reads, are no JSON."""
    raise ValueError(f"{name} is no JSON")


def check_model(model: dict[str, Any] | None) -> None:
    """SearchError for what a manifest has no room for: what is no JSON, or is nested too deep."""
    try:
        spelled = json.loads(json.dumps(model, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise SearchError(
            f"the model cannot be written as JSON ({error}); give texts, numbers, lists and mappings"
        ) from error
    if _depth(spelled) > _DEEPEST_MODEL:
        raise SearchError(f"the model is nested more than {_DEEPEST_MODEL} deep; give fewer mappings in each other")


def _depth(value: Any) -> int:
    """How deep mappings and lists stand in each other."""
    level, deep = [value], 0
    while level := [inner for each in level if isinstance(each, (dict, list)) for inner in _inner(each)]:
        deep += 1
    return deep


def _inner(each: Any) -> list[Any]:
    return list(each.values()) if isinstance(each, dict) else each


def _parse(path: Path, content: dict[str, Any]) -> Manifest:
    """The fields, each of its type and in its range."""

    def number(of: dict[str, Any], key: str, low: int = 0, high: int = 2**62) -> int:
        value = of.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise damaged(path, f"{key} is {value!r}")
        return value

    def text(of: dict[str, Any], key: str, spelling: re.Pattern[str] = _NAME) -> str:
        value = of.get(key)
        if not isinstance(value, str) or not spelling.fullmatch(value):
            raise damaged(path, f"{key} is {value!r}")
        return value

    def segment(entry: Any) -> SegmentEntry:
        if not isinstance(entry, dict) or not isinstance(entry.get("files"), dict):
            raise damaged(path, "a segment is not described")
        deleted = text(entry, "deleted", _DELETED_NAME) if entry.get("deleted") is not None else None
        files: dict[str, FileEntry] = {}
        for name, file in entry["files"].items():
            if not isinstance(file, dict) or (name not in _SEGMENT_FILES and name != deleted):
                raise damaged(path, f"a segment lists {name!r}")
            digest = file.get("sha256")
            if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise damaged(path, f"{name} has no SHA-256")
            files[name] = FileEntry(number(file, "n_bytes"), digest)
        wanted = {IDS} | ({CODES} if code_size else set()) | ({FEATURES} if dim else set()) | ({deleted} - {None})
        if not wanted <= files.keys():
            raise damaged(path, f"a segment lacks {', '.join(sorted(map(str, wanted - files.keys())))}")
        rows = number(entry, "rows", 1)
        n_deleted = number(entry, "n_deleted", 0, rows if deleted is not None else 0)
        return SegmentEntry(text(entry, "name"), rows, files, deleted, n_deleted)

    code_size = number(content, "code_size", 1, MAX_CODE_SIZE) if content.get("code_size") is not None else None
    dim = number(content, "dim", 1, MAX_DIM) if content.get("dim") is not None else None
    dtype = content.get("feature_dtype")
    if dtype not in ((None,) if dim is None else DTYPES) or (code_size is None and dim is None):
        raise damaged(path, f"feature_dtype is {dtype!r}")
    feature_metric = content.get("feature_metric", "cosine")
    if feature_metric not in METRICS:
        raise damaged(path, f"feature_metric is {feature_metric!r}")
    model = content.get("model")
    if not (model is None or isinstance(model, dict)) or not isinstance(content.get("segments"), list):
        raise damaged(path, "model or segments have the wrong type")
    if _depth(model) > _DEEPEST_MODEL:
        raise damaged(path, f"its model is nested more than {_DEEPEST_MODEL} deep")
    parsed = Manifest(
        uid=text(content, "uid"),
        generation=number(content, "generation", 1),
        next_id=number(content, "next_id"),
        code_size=code_size,
        dim=dim,
        feature_dtype=dtype,
        model=model,
        segments=tuple(segment(entry) for entry in content["segments"]),
        feature_metric=feature_metric,
    )
    if len({entry.name for entry in parsed.segments}) < len(parsed.segments):
        raise damaged(path, "a segment is named twice")
    if content.get("metrics", parsed.metrics) != parsed.metrics:
        raise damaged(path, f"metrics are {content['metrics']!r}, expected {parsed.metrics}")
    if parsed.format_version > content["format_version"]:
        raise damaged(path, f"what it describes needs format version {parsed.format_version}")
    return parsed


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the manifest without its checksum, in a spelling that does not depend on layout."""
    spelled = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(spelled.encode()).hexdigest()
