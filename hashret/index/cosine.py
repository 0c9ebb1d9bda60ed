"""Indexes of float vectors: exact nearest neighbours by cosine similarity or inner product.

Shape suffixes: N vectors, Q queries, K neighbours, D dimensions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from hashret.errors import SearchError
from hashret.hamming.arguments import checked_k, checked_threads
from hashret.index import features, manifest, storage, tiled
from hashret.index.base import VectorIndex, whole_numbers
from hashret.index.contents import Contents, Ids
from hashret.index.features import Rows, Similarities
from hashret.index.manifest import Manifest
from hashret.index.tiled import Stretch

if TYPE_CHECKING:
    from hashret.index.device_features import DeviceFeatures

Index = TypeVar("Index", bound="FeatureIndex")


class FeatureIndex(VectorIndex):
    """What CosineIndex and InnerProductIndex share: vectors with ids and records, searched exactly.

    Similarities are descending, equal ones give the earlier row. Products in float32 find the candidates; their similarities
    are then summed in float64 in one fixed order, so equal vectors tie exactly and the answer does not depend on batches,
    tiles, threads or BLAS. Memory for a search is bounded, whatever the numbers of vectors, queries and neighbours.

    Vectors are kept as float32; as float16, half of that; or as int8 and a scale for each, about a quarter. Search is exact
    for the vectors as they are kept, and keeping them moves the similarity of a vector x and a query q by at most
    |x| |q| / 2000 (float16) or max(|x|) sum(|q|) / 253 (int8, typically by less than a tenth of that).
    """

    _METRIC: ClassVar[str]
    _CAP: ClassVar[float] = math.inf
    """No similarity is above it."""

    def __init__(self, dim: int, dtype: str = "float32", model: Mapping[str, Any] | None = None) -> None:
        """An empty index. dim: numbers in a vector. dtype: how they are kept, float32, float16 or int8."""
        dim = features.check_dim(dim)
        if dtype not in features.DTYPES:
            raise SearchError(f"dtype is {dtype!r}, expected {features.DTYPES_IN_WORDS}")
        kept = None if model is None else dict(model)
        super().__init__(
            storage.new_manifest(code_size=None, dim=dim, feature_dtype=dtype, model=kept, feature_metric=self._METRIC)
        )
        self._measured: dict[int, tuple[Rows, float]] = {}
        self._on_device: DeviceFeatures | None = None

    @classmethod
    def load(cls: type[Index], folder: str | Path) -> Index:
        """The index of a folder, memory-mapped; IndexFormatError when it is damaged, SearchError without such features."""
        described, contents = storage.load(Path(folder))
        if described.dim is None or described.feature_dtype is None:
            raise SearchError(f"{folder} holds no features, only codes; build it with --metric cosine or both")
        if described.feature_metric != cls._METRIC:
            right = {"cosine": "CosineIndex", "inner_product": "InnerProductIndex"}[described.feature_metric]
            raise SearchError(f"{folder} holds features for {described.feature_metric}; load it with {right}")
        index = cls(described.dim, described.feature_dtype)
        index._adopt(Path(folder), described, contents)
        return index

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        assert self._manifest.dim is not None
        return self._manifest.dim

    @property
    def dtype(self) -> str:
        """How vectors are kept: float32, float16 or int8."""
        return str(self._manifest.feature_dtype)

    @property
    def device(self) -> str:
        """Where the vectors lie for searches: cpu, or the name of a GPU."""
        return "cpu" if self._on_device is None else self._on_device.device.name

    def to(self: Index, device: str) -> Index:
        """This index, whose vectors lie on a GPU from now on ("cuda", "cuda:1", "auto": if there is one), or no more ("cpu").

        Searches give the same bytes as before: the GPU finds which vectors may be among the nearest, the CPU ranks them. Few
        queries among few vectors (up to four million numbers in all) the CPU searches alone, and those that are about equally
        near to thousands of vectors. What is added or deleted later goes there with the next search. UsageError where there is
        no such GPU, SearchError where the vectors do not fit into its memory.
        """
        from hashret.hamming.gpu.device import pick_device

        picked = pick_device(device)
        if picked is None:
            self._on_device = None
            return self
        from hashret.index.device_features import DeviceFeatures

        on_device = DeviceFeatures(picked, self.dtype, self.dim)
        on_device.hold(self._stretches(self._contents))
        self._on_device = on_device
        return self

    def add(
        self,
        features_ND: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
        *,
        upsert: bool = False,
    ) -> Ids:
        """Ids (N,) int64 of the vectors taken in; as `HammingIndex.add`. SearchError, and nothing added, for NaN or infinity."""
        rows = features.rows_of(features_ND, self.dim, self.dtype, self._METRIC)
        return self._add(len(rows), {"features": rows}, ids, records, upsert)

    def vectors(self, ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The vectors (N, dim) float32 of these ids as they are kept, in that order; SearchError for one that is not here."""
        given = whole_numbers(ids)
        if not len(given):
            return np.empty((0, self.dim), np.float32)
        rows = self._contents.vectors(given)["features"]
        scales = features.scales_of(rows)
        numbers = features.numbers_of(rows).astype(np.float32)
        return numbers if scales is None else numbers * scales[:, None]

    def save(self, folder: str | Path) -> None:
        """As `VectorIndex.save`: store the index in a new or empty folder, or its changes in its own folder."""
        target = Path(folder)
        if self._METRIC == "cosine" or (target / manifest.NAME).is_file():
            super().save(target)
            return
        with self._lock:
            described = storage.new_manifest(
                code_size=None,
                dim=self.dim,
                feature_dtype=self.dtype,
                model=self._manifest.model,
                feature_metric=self._METRIC,
            )
            self._adopt(target, *storage.create(target, described, self._contents, self._next_id))

    def search(
        self, features_QD: npt.ArrayLike, k: int, threads: int | None = None, *, where: str | None = None
    ) -> tuple[Similarities, Ids]:
        """Similarities (Q, k) float32 descending, padded with NaN, and ids (Q, k) int64, padded with -1.

        Equal similarities give the earlier row. threads: for fewer than 20 queries, None takes all cores; larger batches
        are multiplied by BLAS, on the threads that OMP_NUM_THREADS or its like allow. where: as in `HammingIndex.search`.
        """
        k, n_threads = checked_k(k), checked_threads(threads)
        contents = self._chosen(where)
        queries = features.queries_of(features_QD, self.dim, self._METRIC)
        search = tiled.search if self._on_device is None else self._on_device.search
        similarities, rows = search(self._stretches(contents), queries, int(k), self._CAP, n_threads)
        return similarities, _ids(contents, rows)

    def search_radius(
        self, features_QD: npt.ArrayLike, radius: float, threads: int | None = None, *, where: str | None = None
    ) -> tuple[npt.NDArray[np.int64], Similarities, Ids]:
        """Offsets (Q + 1) int64, similarities float32 and ids int64 of all vectors at least as similar as `radius`.

        Those of query i are from offsets[i] to offsets[i + 1], descending, equal ones give the earlier row. radius: the
        least similarity, for cosine from -1 to 1. threads, where: as in `search`.
        """
        self._check_radius(radius)
        n_threads = checked_threads(threads)
        contents = self._chosen(where)
        queries = features.queries_of(features_QD, self.dim, self._METRIC)
        search = tiled.search_radius if self._on_device is None else self._on_device.search_radius
        offsets, similarities, rows = search(self._stretches(contents), queries, radius, self._CAP, n_threads)
        return offsets, similarities, _ids(contents, rows)

    def _check_radius(self, radius: float) -> None:
        if not abs(radius) <= 2.0**127:
            raise SearchError(f"radius is {radius!r}, expected the least similarity wanted, from -2**127 to 2**127")

    def _stretches(self, contents: Contents) -> list[Stretch]:
        """The rows of all segments, numbered through, with bounds on their lengths, which are measured once."""
        measured: dict[int, tuple[Rows, float]] = {}
        stretches = []
        first = 0
        for segment in contents.segments:
            rows = segment.features
            assert rows is not None
            # Arrays are told apart by identity, which is theirs for as long as they are held here.
            known = self._measured.get(id(rows))
            measured[id(rows)] = known or (rows, features.longest(rows, self.dtype, self.dim, self._METRIC))
            stretches.append(Stretch(rows, first, segment.alive, measured[id(rows)][1]))
            first += len(segment)
        self._measured = measured
        return stretches

    def _own_part(self, described: Manifest) -> Manifest:
        return dataclasses.replace(described, code_size=None)


class CosineIndex(FeatureIndex):
    """Vectors of length 1 with ids and records; search is exact, by cosine similarity (see FeatureIndex).

    Vectors are scaled to length 1 as they come in; a vector of zeros has no direction and is a SearchError.

    >>> import numpy as np
    >>> index = CosineIndex(dim=2)
    >>> index.add(np.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [0, 1]
    >>> similarities, ids = index.search(np.array([[0.0, 1.0]]), k=3)
    >>> similarities.tolist(), ids.tolist()
    ([[1.0, 0.0, nan]], [[1, 0, -1]])
    """

    _METRIC = "cosine"
    _CAP = features.COSINE_CAP

    def _check_radius(self, radius: float) -> None:
        if not -1 <= radius <= 1:
            raise SearchError(f"radius is {radius!r}, expected the least similarity wanted, from -1 to 1")


class InnerProductIndex(FeatureIndex):
    """Vectors as they are, with ids and records; search is exact, by inner product (see FeatureIndex).

    Longer vectors are nearer. Vectors and queries may be zeros, and no longer than 2**63.

    >>> import numpy as np
    >>> index = InnerProductIndex(dim=2)
    >>> index.add(np.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [0, 1]
    >>> similarities, ids = index.search(np.array([[2.0, 1.0]]), k=3)
    >>> similarities.tolist(), ids.tolist()
    ([[3.0, 2.0, nan]], [[1, 0, -1]])
    """

    _METRIC = "inner_product"


def _ids(contents: Contents, rows: Ids) -> Ids:
    """Ids of rows numbered through all segments; -1 stays."""
    ids = np.full(rows.shape, -1, np.int64)
    first = 0
    for segment in contents.segments:
        here = (rows >= first) & (rows < first + len(segment))
        ids[here] = segment.ids[rows[here] - first]
        first += len(segment)
    return ids
