"""Contents to a folder and back: new segments are written, then the manifest is replaced; readers map files."""

from __future__ import annotations

import dataclasses
import itertools
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hashret.errors import IndexFormatError, SearchError
from hashret.index import durable, generations, manifest, segments
from hashret.index.contents import Contents, Segment
from hashret.index.manifest import SEGMENTS, Manifest, SegmentEntry


def load(folder: Path) -> tuple[Manifest, Contents]:
    """The manifest and the mapped contents of an index folder; sizes, types and shapes are checked, not every byte."""
    while True:
        described, lease = generations.current(folder)
        try:
            read = tuple(segments.read(folder, described, entry) for entry in described.segments)
        except (IndexFormatError, FileNotFoundError):
            if lease is not None or _is_current(folder, described):
                raise
            continue  # a writer has replaced it, and removed what it named
        if lease is not None or _is_current(folder, described):
            return described, Contents(tuple(dataclasses.replace(segment, lease=lease) for segment in read))


def _is_current(folder: Path, described: Manifest) -> bool:
    return manifest.read(folder).generation == described.generation


def commit(folder: Path, before: Manifest, contents: Contents, next_id: int) -> tuple[Manifest, Contents]:
    """Store what is new in the contents as the next generation; the caller holds the writer lock."""
    generation = before.generation + 1
    entries, unflushed = [], []
    for segment in contents.segments:
        if segment.entry is None:
            entry, written = segments.write(folder, [segment], generation)
        elif segment.unsaved_deletes:
            entry, written = segments.write_deleted(folder, segment, segment.entry, generation)
        else:
            entry, written = segment.entry, []
        entries.append(entry)
        unflushed += written
    return _replaced(folder, before, entries, next_id, unflushed)


def _replaced(
    folder: Path, before: Manifest, entries: Sequence[SegmentEntry], next_id: int, unflushed: Sequence[Path]
) -> tuple[Manifest, Contents]:
    """Make these segments the next generation; what was written for it is brought to the disk first."""
    after = dataclasses.replace(before, generation=before.generation + 1, next_id=next_id, segments=tuple(entries))
    manifest.write(folder, after, dict.fromkeys(unflushed))
    return load(folder)


def compact(folder: Path, before: Manifest, contents: Contents) -> tuple[Manifest, Contents]:
    """The same rows in the same order as one segment, without deleted ones; the caller holds the writer lock.

    Where only some rows have records there are more segments: one of those with, one of those without, as they follow. They
    are written beside the old ones, some rows at a time: that takes their room on the disk once more, and little memory.
    """
    living = [segment for segment in contents.segments if segment.n_alive]
    entries: list[SegmentEntry] = []
    unflushed: list[Path] = []
    for _, alike in itertools.groupby(living, key=lambda segment: segment.records is None):
        entry, written = segments.write(folder, list(alike), before.generation + 1)
        entries.append(entry)
        unflushed += written
    return _replaced(folder, before, entries, before.next_id, unflushed)


def create(folder: Path, described: Manifest, contents: Contents, next_id: int) -> tuple[Manifest, Contents]:
    """Store contents in a new folder, which appears whole; SearchError when something else is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SearchError(f"{folder} exists and is not this index's own folder; choose another name, or append to it")
    temporary = folder.parent / durable.temporary_name()
    try:
        durable.make_parents(folder)
        durable.make_folder(temporary)
        durable.make_folder(temporary / SEGMENTS)
        # The stored segments of another folder are written anew here, without their deleted rows.
        living = tuple(_part(segment.living(), described) for segment in contents.segments if segment.n_alive)
        commit(temporary, described, Contents(living), next_id)
        durable.move_folder(temporary, folder)
    except OSError as error:
        raise SearchError(f"the index {folder} cannot be written ({error.strerror or error})") from error
    finally:
        durable.remove(temporary)
    return load(folder)


def new_manifest(
    *,
    code_size: int | None,
    dim: int | None,
    feature_dtype: str | None,
    model: dict[str, Any] | None,
    feature_metric: str = "cosine",
) -> Manifest:
    """The description of an index that holds nothing yet; SearchError for a model that cannot be written."""
    manifest.check_model(model)
    return Manifest(secrets.token_hex(16), 0, 0, code_size, dim, feature_dtype, model, (), feature_metric)


def _part(segment: Segment, described: Manifest) -> Segment:
    """The segment with what the description has room for."""
    codes = None if described.code_size is None else segment.codes
    return dataclasses.replace(segment, codes=codes, features=None if described.dim is None else segment.features)
