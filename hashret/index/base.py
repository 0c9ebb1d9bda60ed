"""What both indexes share: ids, records, deletes, and a folder that is replaced only as a whole."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hashret.errors import SearchError
from hashret.index import damage, durable, generations, manifest, records, storage
from hashret.index.contents import Contents, Ids, Segment, checked_ids
from hashret.index.manifest import Manifest
from hashret.index.records import Record
from hashret.index.where import Condition

Index = TypeVar("Index", bound="VectorIndex")


OWN_MODEL = "model"
"""Where in an index folder a model lies that was fitted to the index's own pictures."""


def was_fitted(described: Mapping[str, Any] | None) -> bool:
    """Whether codes were fitted to the pictures of an index, of whose model this is said: then no label was looked at."""
    return (described or {}).get("path") == OWN_MODEL


def require_model(model: Mapping[str, Any] | None, fingerprint: str) -> None:
    """SearchError when an index was made by a model with another fingerprint; an index that names none takes all."""
    described = model or {}
    own = described.get("fingerprint")
    if own is not None and own != fingerprint:
        raise SearchError(
            f"the index was made by the model {described.get('name') or 'unnamed'} with fingerprint {str(own)[:12]}, "
            f"and this is one with {fingerprint[:12]}; use the model that made the index, or encode it anew by this one "
            "(hashret index --migrate)"
        )


class VectorIndex:
    """An index of one kind of vectors, in memory, on disk, or on disk with unsaved changes."""

    def __init__(self, described: Manifest) -> None:
        self._manifest = described
        self._contents = Contents()
        self._next_id = 0
        self._folder: Path | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._contents)

    @property
    def model(self) -> dict[str, Any] | None:
        """The model that made the vectors: its fingerprint and name, as given when the index was made."""
        return None if self._manifest.model is None else dict(self._manifest.model)

    @property
    def ids(self) -> Ids:
        """Ids of all living vectors, in the order of their rows."""
        return self._contents.ids()

    def check_model(self, fingerprint: str) -> None:
        """SearchError when the vectors were made by a model with another fingerprint."""
        require_model(self._manifest.model, fingerprint)

    def remove(self, ids: npt.ArrayLike) -> int:
        """How many vectors were removed: all of these ids, or none and a SearchError when one is not here."""
        given = whole_numbers(ids)
        with self._lock:
            self._contents = self._contents.without(given)
        return len(given)

    def records(self, ids: npt.ArrayLike) -> list[Record | None]:
        """The record of each id: {"id", "path", "label", "split", **attributes}, or None where there is none."""
        return self._contents.records(whole_numbers(ids))

    def count(self, where: str) -> int:
        """How many vectors have a record that meets the condition (where.py has the rules)."""
        return len(self._chosen(where))

    def find(self, string_ids: Sequence[str]) -> Ids:
        """The id of the vector whose record has each string id, -1 where there is none."""
        return self._contents.find(string_ids)

    def save(self, folder: str | Path) -> None:
        """Store the index in a new or empty folder, or its changes in its own folder.

        A new folder appears whole or not at all, and becomes the index's own. In its own folder only new segments and
        deletes are written, then the manifest is replaced: whoever opens the folder sees all changes or none.
        SearchError when the folder holds anything else, or has been changed since this index was loaded from it.
        """
        target = Path(folder)
        with self._lock:
            if not (target / manifest.NAME).is_file():
                described = storage.new_manifest(
                    code_size=self._manifest.code_size,
                    dim=self._manifest.dim,
                    feature_dtype=self._manifest.feature_dtype,
                    model=self._manifest.model,
                )
                self._adopt(target, *storage.create(target, described, self._contents, self._next_id))
                return
            with durable.writer_lock(target):
                there = manifest.read(target)
                if self._folder is None or there.uid != self._manifest.uid:
                    raise SearchError(f"{target} holds another index; choose another name, or remove it first")
                if there.generation != self._manifest.generation:
                    raise SearchError(
                        f"{target} was changed by another writer (generation {there.generation}, "
                        f"this index knows {self._manifest.generation}); load it again and repeat the changes"
                    )
                self._adopt(target, *storage.commit(target, there, self._contents, self._next_id))
                generations.remove_unused(target, self._manifest)

    def refresh(self) -> bool:
        """Whether the folder holds another generation than this index, which it is from now on.

        Searches that others are at keep the generation they began with. SearchError when the index was never saved, has changes
        that were not, or when another index lies in its folder.
        """
        with self._lock:
            if self._folder is None:
                raise SearchError("the index has no folder to follow; save it, or load one")
            if any(segment.entry is None or segment.unsaved_deletes for segment in self._contents.segments):
                raise SearchError(f"this index has changes that are not in {self._folder}; save it first")
            there = manifest.read(self._folder)
            if there.uid != self._manifest.uid:
                raise SearchError(f"{self._folder} now holds another index than the one that was opened; open it again")
            if there.generation == self._manifest.generation:
                return False
            described, contents = storage.load(self._folder)
            if self._made_by(described) != self._made_by(self._manifest):
                raise SearchError(f"{self._folder} now holds vectors of another model; open it again")
            self._adopt(self._folder, described, contents)
            return True

    def verify(self) -> int:
        """Bytes whose checksums were read and found right, 0 in memory; IndexFormatError names the first bad file."""
        return 0 if self._folder is None else damage.verify(self._folder)

    def _made_by(self, described: Manifest) -> tuple[object, ...]:
        """What vectors and queries have to have in common."""
        own = self._own_part(described)
        return own.code_size, own.dim, own.feature_dtype, (own.model or {}).get("fingerprint")

    def _chosen(self, where: str | None) -> Contents:
        """The contents as they are now, of which only what the condition chooses lives."""
        return self._contents.where(None if where is None else Condition(where))

    def _adopt(self, folder: Path, described: Manifest, contents: Contents) -> None:
        """This index is what the folder holds."""
        self._folder, self._manifest, self._contents = folder, self._own_part(described), contents
        self._next_id = described.next_id

    def _own_part(self, described: Manifest) -> Manifest:
        """The description as far as this kind of index goes."""
        return described

    def _add(
        self,
        n: int,
        vectors: Mapping[str, Any],
        ids: npt.ArrayLike | None,
        given_records: Sequence[Mapping[str, Any]] | None,
        upsert: bool,
    ) -> Ids:
        """Take n vectors in; returns their ids."""
        with self._lock:
            if any(stored.codes is not None and stored.features is not None for stored in self._contents.segments):
                raise SearchError("this index holds codes and features; open it as a Store, whose append takes both")
            contents = self._contents
            if upsert:
                contents, ids = without_replaced(contents, n, ids, given_records, self._next_id)
            segment = new_segment(n, vectors, ids, given_records, self._next_id)
            self._contents = contents.added(segment, ids_given=ids is not None)
            self._next_id = max(self._next_id, int(segment.ids.max(initial=-1)) + 1)
        return segment.ids.copy()


def new_segment(
    n: int,
    vectors: Mapping[str, Any],
    ids: npt.ArrayLike | None,
    given_records: Sequence[Mapping[str, Any]] | None,
    next_id: int,
) -> Segment:
    """A checked segment in memory of n new rows."""
    new_ids = checked_ids(ids, n, next_id)
    kept = None
    if given_records is not None:
        kept = records.MemoryRecords(records.checked(given_records, new_ids.tolist()))
    return Segment(ids=new_ids, records=kept, **vectors)


def without_replaced(
    contents: Contents,
    n: int,
    ids: npt.ArrayLike | None,
    given_records: Sequence[Mapping[str, Any]] | None,
    next_id: int,
) -> tuple[Contents, Ids]:
    """The contents less what n new rows replace, and the ids of the new rows: what is replaced keeps its id.

    New rows replace what has their id or, where none are given, the string id of their record.
    """
    if ids is not None:
        taken = checked_ids(ids, len(np.asarray(ids)), next_id)
        return contents.without(taken[contents.locate(taken)[0] >= 0]), taken
    if given_records is None or not all(
        isinstance(record, Mapping) and record.get("id") is not None for record in given_records
    ):
        raise SearchError("an upsert replaces what has the same id; give ids, or records with ids")
    if len(given_records) != n:
        raise SearchError(f"there are {len(given_records)} records for {n} rows, expected one for each")
    taken = contents.find([str(record["id"]) for record in given_records])
    known = taken >= 0
    taken = np.where(known, taken, next_id + np.cumsum(~known) - 1)
    return contents.without(checked_ids(taken, len(taken), next_id)[known]), taken


def whole_numbers(ids: npt.ArrayLike) -> Ids:
    """Ids as a flat int64 array."""
    try:
        given = np.asarray(ids)
    except (ValueError, OverflowError):
        given = np.empty((), np.object_)
    if given.ndim != 1 or not (np.issubdtype(given.dtype, np.integer) or not len(given)):
        raise SearchError(f"ids have shape {given.shape} and dtype {given.dtype}, expected a list of whole numbers")
    return given.astype(np.int64)
