"""An index of float vectors: exact nearest neighbours by cosine similarity, the baseline beside the codes.

Shape suffixes: N vectors, Q queries, K neighbours, D dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.errors import SearchError
from hashret.index import features, storage
from hashret.index.base import VectorIndex
from hashret.index.contents import Ids
from hashret.index.features import Similarities
from hashret.index.manifest import Manifest


class CosineIndex(VectorIndex):
    """Vectors of length 1 with ids and records; search is exact, descending by similarity, earlier rows first.

    A matrix product finds the candidates; their similarities are then summed in float64 in one fixed order, so equal
    vectors tie exactly and the answer does not depend on blocks or threads. float16 halves the memory and moves
    similarities by less than 0.001.

    >>> import numpy as np
    >>> index = CosineIndex(dim=2)
    >>> index.add(np.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [0, 1]
    >>> similarities, ids = index.search(np.array([[0.0, 1.0]]), k=3)
    >>> similarities.tolist(), ids.tolist()
    ([[1.0, 0.0, nan]], [[1, 0, -1]])
    """

    def __init__(self, dim: int, dtype: str = "float32", model: Mapping[str, Any] | None = None) -> None:
        """An empty index. dim: numbers in a vector. dtype: how they are kept, float32 or float16."""
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
            raise SearchError(f"dim is {dim!r}, expected a whole number from 1")
        if dtype not in ("float16", "float32"):
            raise SearchError(f"dtype is {dtype!r}, expected float16 or float32")
        kept = None if model is None else dict(model)
        super().__init__(storage.new_manifest(code_size=None, dim=int(dim), feature_dtype=dtype, model=kept))

    @classmethod
    def load(cls, folder: str | Path) -> CosineIndex:
        """The index of a folder, memory-mapped; IndexFormatError when it is damaged, SearchError without features."""
        described, contents = storage.load(Path(folder))
        if described.dim is None or described.feature_dtype is None:
            raise SearchError(f"{folder} holds no features, only codes; build it with --metric cosine or both")
        index = cls(described.dim, described.feature_dtype)
        index._adopt(Path(folder), described, contents)
        return index

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        assert self._manifest.dim is not None
        return self._manifest.dim

    def add(
        self,
        features_ND: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> Ids:
        """Ids (N,) int64 of the vectors taken in, which are scaled to length 1; as `HammingIndex.add`.

        SearchError, and nothing added, for a vector of zeros, NaN or infinity.
        """
        vectors = features.unit_vectors(features_ND, self.dim, str(self._manifest.feature_dtype))
        return self._add(len(vectors), {"features": vectors}, ids, records)

    def search(self, features_QD: npt.ArrayLike, k: int) -> tuple[Similarities, Ids]:
        """Similarities (Q, k) float32 descending, padded with NaN, and ids (Q, k) int64, padded with -1.

        Equal similarities give the earlier row.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise SearchError(f"k is {k!r}, expected a whole number from 1")
        contents = self._contents
        queries = features.unit_vectors(features_QD, self.dim)
        similarities = np.full((len(queries), k), np.nan, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        for segment in contents.segments:
            assert segment.features is not None
            for block in features.query_blocks(len(queries), len(segment)):
                near = features.approximate(segment.features, queries[block], segment.alive)
                within = min(k, len(segment))
                # Whatever rounding did, the k nearest are no farther below the approximate k-th than the tolerance.
                kth = np.partition(near, len(segment) - within, axis=1)[:, len(segment) - within]
                for row, query in enumerate(range(block.start, block.stop)):
                    candidates = np.flatnonzero(
                        (near[row] >= kth[row] - features.tolerance(self.dim)) & (near[row] > -np.inf)
                    )
                    values = features.exact(segment.features, candidates, queries[query])
                    # Earlier segments come first, and a stable sort keeps equal similarities in the order of rows.
                    known = ids[query] >= 0
                    values = np.concatenate([similarities[query, known], values])
                    merged = np.concatenate([ids[query, known], segment.ids[candidates]])
                    order = np.argsort(-values, kind="stable")[:k]
                    similarities[query, : len(order)], ids[query, : len(order)] = values[order], merged[order]
        return similarities, ids

    def search_radius(
        self, features_QD: npt.ArrayLike, radius: float
    ) -> tuple[npt.NDArray[np.int64], Similarities, Ids]:
        """Offsets (Q + 1) int64, similarities float32 and ids int64 of all vectors at least as similar as `radius`.

        radius: the least similarity, from -1 to 1. Each query's are descending, equal ones give the earlier row.
        """
        if not -1 <= radius <= 1:
            raise SearchError(f"radius is {radius!r}, expected the least similarity wanted, from -1 to 1")
        contents = self._contents
        queries = features.unit_vectors(features_QD, self.dim)
        found: list[tuple[list[Similarities], list[Ids]]] = [([], []) for _ in range(len(queries))]
        for segment in contents.segments:
            assert segment.features is not None
            for block in features.query_blocks(len(queries), len(segment)):
                near = features.approximate(segment.features, queries[block], segment.alive)
                for row, query in enumerate(range(block.start, block.stop)):
                    candidates = np.flatnonzero(near[row] >= radius - features.tolerance(self.dim))
                    values = features.exact(segment.features, candidates, queries[query])
                    inside = values >= np.float32(radius)
                    found[query][0].append(values[inside])
                    found[query][1].append(segment.ids[candidates[inside]])
        offsets = np.zeros(len(queries) + 1, np.int64)
        all_similarities: list[Similarities] = [np.empty(0, np.float32)]
        all_ids: list[Ids] = [np.empty(0, np.int64)]
        for query, (values_of, ids_of) in enumerate(found):
            values = np.concatenate([all_similarities[0], *values_of])
            order = np.argsort(-values, kind="stable")
            all_similarities.append(values[order])
            all_ids.append(np.concatenate([all_ids[0], *ids_of])[order])
            offsets[query + 1] = offsets[query] + len(order)
        return offsets, np.concatenate(all_similarities), np.concatenate(all_ids)

    def _own_part(self, described: Manifest) -> Manifest:
        return dataclasses.replace(described, code_size=None)
