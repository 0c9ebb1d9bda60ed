"""An index folder that may hold codes and features side by side, appended to and deleted from in one commit each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Codes, bytes_per_code, check_codes
from hashret.errors import SearchError
from hashret.index import damage, durable, generations, storage
from hashret.index.base import new_segment, require_model, whole_numbers, without_replaced
from hashret.index.contents import MOST_IDS, Contents, Ids
from hashret.index.features import DTYPES, DTYPES_IN_WORDS, METRICS, check_dim, rows_of
from hashret.index.manifest import Manifest, check_model
from hashret.index.records import Record
from hashret.index.where import Condition

_Change = Callable[[Manifest, Contents], tuple[Contents, int]]
"""Takes what is there, and gives what is to be there and the next id."""


class Store:
    """An index folder: codes, features or both for every row, ids and records. Each change is on disk when it returns.

    `HammingIndex.load` and `CosineIndex.load` search what it holds. A Store sees the generation it opened or made last.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open an index folder; IndexFormatError when it is none or is damaged."""
        self.folder = Path(folder)
        self._manifest, self._contents = storage.load(self.folder)

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The store in a folder; IndexFormatError when it is none or is damaged."""
        return cls(folder)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        code_size: int | None = None,
        dim: int | None = None,
        feature_dtype: str = "float32",
        feature_metric: str = "cosine",
        model: Mapping[str, Any] | None = None,
    ) -> Store:
        """A new store in a folder that is absent or empty, for codes, features or both.

        code_size: bits of a code, or None without codes. dim: numbers in a feature, or None without features.
        feature_dtype: float32, float16 or int8. feature_metric: cosine (features are scaled to length 1) or inner_product
        (kept as they are). model: {"fingerprint", "name"} of what makes them.
        """
        if code_size is None and dim is None:
            raise SearchError("the index would hold neither codes nor features, expected code_size, dim or both")
        if code_size is not None:
            bytes_per_code(code_size)
        if feature_dtype not in DTYPES:
            raise SearchError(f"feature_dtype is {feature_dtype!r}, expected {DTYPES_IN_WORDS}")
        if feature_metric not in METRICS:
            raise SearchError(f"feature_metric is {feature_metric!r}, expected cosine or inner_product")
        described = storage.new_manifest(
            code_size=None if code_size is None else int(code_size),
            dim=None if dim is None else check_dim(dim),
            feature_dtype=None if dim is None else feature_dtype,
            model=None if model is None else dict(model),
            feature_metric="cosine" if dim is None else feature_metric,
        )
        storage.create(Path(folder), described, Contents(), 0)
        return cls(folder)

    def __len__(self) -> int:
        return len(self._contents)

    def __contains__(self, number: object) -> bool:
        """Whether a row with this id lives."""
        whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool) and 0 <= number < MOST_IDS
        return bool(whole) and bool(self._contents.locate(np.array([number], np.int64))[0][0] >= 0)

    @property
    def code_size(self) -> int | None:
        """Bits of a code, None without codes."""
        return self._manifest.code_size

    @property
    def dim(self) -> int | None:
        """Numbers in a feature, None without features."""
        return self._manifest.dim

    @property
    def metrics(self) -> list[str]:
        """What can be searched: hamming, the metric of features (cosine or inner_product), or both."""
        return self._manifest.metrics

    @property
    def feature_dtype(self) -> str | None:
        """How features are kept: float32, float16 or int8; None without features."""
        return self._manifest.feature_dtype

    @property
    def generation(self) -> int:
        """How many commits made this folder what it is."""
        return self._manifest.generation

    @property
    def model(self) -> dict[str, Any] | None:
        """The model that made the vectors, as given to `create`."""
        return None if self._manifest.model is None else dict(self._manifest.model)

    @property
    def ids(self) -> Ids:
        """Ids of all living rows, in order."""
        return self._contents.ids()

    def check_model(self, fingerprint: str) -> None:
        """SearchError when the vectors were made by a model with another fingerprint."""
        require_model(self._manifest.model, fingerprint)

    def append(
        self,
        codes: npt.ArrayLike | None = None,
        features: npt.ArrayLike | None = None,
        ids: npt.ArrayLike | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
        *,
        upsert: bool = False,
    ) -> Ids:
        """Ids (N,) int64 of the rows that were added, in one commit.

        codes (N, B) packed uint8 exactly when the store holds codes; features (N, dim) floats exactly when it holds
        features. ids continue after the largest ever given unless they are given. An id or
        string id that is here already is a SearchError, and nothing is added. upsert: what has such an id is replaced
        instead, keeps its id, and moves to the end.
        """
        n, vectors = _checked(self._manifest, codes, features)
        new_ids = np.empty(0, np.int64)

        def added(before: Manifest, contents: Contents) -> tuple[Contents, int]:
            nonlocal new_ids
            taken = ids
            if upsert:
                contents, taken = without_replaced(contents, n, ids, records, before.next_id)
            segment = new_segment(n, vectors, taken, records, before.next_id)
            new_ids = segment.ids
            after = contents.added(segment, ids_given=taken is not None)
            return after, max(before.next_id, int(new_ids.max(initial=-1)) + 1)

        self._change(added, anything=n > 0)
        return new_ids

    def chosen(self, where: str) -> Ids:
        """Ids of the living rows whose record meets a condition (where.py has the rules), in order."""
        return self._contents.where(Condition(where)).ids()

    def remove(self, ids: npt.ArrayLike) -> int:
        """How many rows were removed, in one commit; SearchError, and nothing removed, when an id is not here."""
        given = whole_numbers(ids)
        self._change(lambda before, contents: (contents.without(given), before.next_id), anything=len(given) > 0)
        return len(given)

    def replace(
        self,
        codes: npt.ArrayLike | None = None,
        features: npt.ArrayLike | None = None,
        ids: npt.ArrayLike | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
        *,
        remove: npt.ArrayLike = (),
        describe: npt.ArrayLike = (),
        descriptions: Sequence[Mapping[str, Any]] = (),
        generation: int | None = None,
    ) -> Ids:
        """Ids (N,) int64 of the rows given, once all this is one commit: rows removed, described anew, and added or replaced.

        codes, features, records: as for `append`; all left out when no rows are given. ids: what row each replaces, -1 for
        a new one. remove: ids of rows that go. describe: ids of rows that keep id, code and features and get the record in
        the same place of `descriptions`. Rows that are described or replaced move to the end, in this order. generation: what the
        change was made for; SearchError when the index is another by now, as when an id is not here or is named twice.
        """
        nothing: dict[str, Any] = {}
        n, vectors = (0, nothing) if codes is None and features is None else _checked(self._manifest, codes, features)
        taken = np.full(n, -1, np.int64) if ids is None else np.asarray(ids, np.int64)
        gone, described = np.asarray(remove, np.int64), np.asarray(describe, np.int64)
        new_ids = taken

        def replaced(before: Manifest, contents: Contents) -> tuple[Contents, int]:
            nonlocal new_ids
            if generation is not None:
                self._require_generation(before, generation)
            new_ids = np.where(taken < 0, before.next_id + np.cumsum(taken < 0) - 1, taken)
            after = contents.without(np.concatenate([gone, described, taken[taken >= 0]]))
            if len(described):
                # As they are kept: nothing is rounded a second time.
                same = new_segment(len(described), contents.vectors(described), described, descriptions, 0)
                after = after.added(same, ids_given=True)
            after = after.added(new_segment(n, vectors, new_ids, records, 0), ids_given=True)
            return after, max(before.next_id, int(new_ids.max(initial=-1)) + 1)

        self._change(replaced, anything=bool(n or len(gone) or len(described)))
        return new_ids

    def migrate(
        self,
        codes: npt.ArrayLike | None,
        features: npt.ArrayLike | None,
        ids: npt.ArrayLike,
        records: Sequence[Mapping[str, Any]],
        *,
        code_size: int | None,
        dim: int | None,
        model: Mapping[str, Any],
        generation: int,
    ) -> None:
        """The index holds these rows instead of its own, made by another model, in one commit.

        codes, features, records: as for `append`, of this code size and dim. ids: those of the rows they stand for; others of the
        index are gone. SearchError, and nothing changed, when the index is another than generation `generation` by now.
        """
        check_model(dict(model))
        described = dataclasses.replace(self._manifest, code_size=code_size, dim=dim, model=dict(model))
        n, vectors = _checked(described, codes, features)
        segment = new_segment(n, vectors, ids, records, 0)
        with durable.writer_lock(self.folder):
            there = storage.load(self.folder)[0]
            self._require_same(there.uid)
            self._require_generation(there, generation)
            if (self._contents.locate(segment.ids)[0] < 0).any():
                raise SearchError(f"an id to migrate is not in {self.folder}; nothing was changed")
            after = Contents((segment,) if n else ())
            self._manifest, self._contents = storage.commit(
                self.folder, dataclasses.replace(described, generation=there.generation), after, there.next_id
            )
            generations.remove_unused(self.folder, self._manifest)

    def records(self, ids: npt.ArrayLike, *, with_stamps: bool = False) -> list[Record | None]:
        """The record of each id: {"id", "path", "label", "split", **attributes}, or None where there is none.

        with_stamps: with the attribute by which a followed folder knows its pictures again, where there is one.
        """
        return self._contents.records(whole_numbers(ids), with_stamps=with_stamps)

    @property
    def has_records(self) -> bool:
        """Whether any row came with a record."""
        return any(segment.records is not None for segment in self._contents.segments)

    def codes(self, ids: npt.ArrayLike) -> Codes:
        """The codes (N, B) uint8 of these ids, in that order; SearchError for one that is not here, or an index without codes."""
        given = whole_numbers(ids)
        if self.code_size is None:
            raise SearchError(f"{self.folder} holds no codes, only features")
        if not len(given):
            return np.empty((0, bytes_per_code(self.code_size)), np.uint8)
        return self._contents.vectors(given)["codes"]

    def find(self, string_ids: Sequence[str]) -> Ids:
        """The id of the row whose record has each string id, -1 where there is none."""
        return self._contents.find(string_ids)

    def compact(self) -> int:
        """How many deleted rows left: the living ones are one segment now, in the same order, in one commit.

        Takes as much room on the disk as the index once more while it runs, and little memory. Nothing is done where that is
        so already. Rows without a record stay apart from those with one, in segments of their own.
        """
        with durable.writer_lock(self.folder):
            deleted = self._compact()
            generations.remove_unused(self.folder, self._manifest)
        return deleted

    def verify(self) -> int:
        """Bytes whose checksums were read and found right; IndexFormatError names the first bad file."""
        return damage.verify(self.folder)

    def _change(self, change: _Change, *, anything: bool) -> None:
        """Commit what a change makes of the contents as they are now, if it is anything; its errors leave all as it was."""
        with durable.writer_lock(self.folder):
            self._commit(change, anything)
            # Here this store holds the generation before no more.
            generations.remove_unused(self.folder, self._manifest)

    def _commit(self, change: _Change, anything: bool) -> None:
        before, contents = self._current()
        after, next_id = change(before, contents)
        if anything:
            self._manifest, self._contents = storage.commit(self.folder, before, after.tidied(), next_id)

    def _compact(self) -> int:
        before, contents = self._current()
        deleted = sum(len(segment) - segment.n_alive for segment in contents.segments)
        kinds = [segment.records is None for segment in contents.segments]
        if deleted or any(earlier == later for earlier, later in itertools.pairwise(kinds)):
            self._manifest, self._contents = storage.compact(self.folder, before, contents)
        return deleted

    def _current(self) -> tuple[Manifest, Contents]:
        before, contents = storage.load(self.folder)
        self._require_same(before.uid)
        return before, contents

    def _require_generation(self, there: Manifest, generation: int) -> None:
        if there.generation != generation:
            raise SearchError(
                f"{self.folder} was changed by another command meanwhile (generation {there.generation}, expected "
                f"{generation}), so nothing was changed; run the same command again"
            )

    def _require_same(self, uid: str) -> None:
        if uid != self._manifest.uid:
            raise SearchError(f"{self.folder} now holds another index than the one that was opened; open it again")


def _checked(
    described: Manifest, codes: npt.ArrayLike | None, features: npt.ArrayLike | None
) -> tuple[int, dict[str, Any]]:
    """How many rows are given, and their codes and features as they are kept; SearchError for what does not fit."""
    vectors: dict[str, Any] = {}
    lengths = set()
    code_size, dim = described.code_size, described.dim
    for name, given, wanted in (("codes", codes, code_size), ("features", features, dim)):
        if (given is None) != (wanted is None):
            holds = " and ".join(["codes"] * (code_size is not None) + ["features"] * (dim is not None))
            raise SearchError(f"{name} were {'not ' if given is None else ''}given, but the index holds {holds}")
    if codes is not None and code_size is not None:
        vectors["codes"] = check_codes(codes, code_size)
        lengths.add(len(vectors["codes"]))
    if features is not None and dim is not None:
        vectors["features"] = rows_of(features, dim, str(described.feature_dtype), described.feature_metric)
        lengths.add(len(vectors["features"]))
    if len(lengths) != 1:
        raise SearchError(f"there are {' and '.join(map(str, sorted(lengths)))} rows, expected as many of each")
    return lengths.pop(), vectors
