"""An index of packed binary codes: exact nearest neighbours by Hamming distance.

Shape suffixes: N codes, Q queries, K neighbours, B bytes of a code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret import hamming
from hashret.codes import bytes_per_code, check_codes
from hashret.errors import SearchError
from hashret.index import storage
from hashret.index.base import VectorIndex
from hashret.index.contents import Ids
from hashret.index.manifest import Manifest


class HammingIndex(VectorIndex):
    """Packed codes with ids and records; search is exact, ascending by (distance, row), for any number of threads.

    >>> import numpy as np
    >>> index = HammingIndex(code_size=8)
    >>> index.add(np.array([[0b00000000], [0b11110000], [0b00000001]], np.uint8)).tolist()
    [0, 1, 2]
    >>> distances, ids = index.search(np.array([[0]], np.uint8), k=4)
    >>> distances.tolist(), ids.tolist()
    ([[0, 1, 4, -1]], [[0, 2, 1, -1]])
    """

    def __init__(self, code_size: int, model: Mapping[str, Any] | None = None) -> None:
        """An empty index. code_size: bits, 1 to 1024. model: {"fingerprint", "name"} of what makes the codes."""
        bytes_per_code(code_size)
        kept = None if model is None else dict(model)
        super().__init__(storage.new_manifest(code_size=int(code_size), dim=None, feature_dtype=None, model=kept))

    @classmethod
    def load(cls, folder: str | Path) -> HammingIndex:
        """The index of a folder, memory-mapped; IndexFormatError when it is damaged, SearchError without codes."""
        described, contents = storage.load(Path(folder))
        if described.code_size is None:
            raise SearchError(f"{folder} holds no codes, only features; build it with --metric hamming or both")
        index = cls(described.code_size)
        index._adopt(Path(folder), described, contents)
        return index

    @property
    def code_size(self) -> int:
        """Bits of a code."""
        assert self._manifest.code_size is not None
        return self._manifest.code_size

    def add(
        self,
        codes_NB: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> Ids:
        """Ids (N,) int64 of the codes taken in: those given, or continuing after the largest id ever given.

        records: {"id", "path", "label", "split", any attributes} for each code. The codes are copied. All are added,
        or none and a CodeError or SearchError: for an id or string id that is here already, for instance.
        """
        codes = check_codes(codes_NB, self.code_size).copy()
        return self._add(len(codes), {"codes": codes}, ids, records)

    def search(self, codes_QB: npt.ArrayLike, k: int, threads: int | None = None) -> tuple[npt.NDArray[np.int32], Ids]:
        """Distances (Q, k) int32 and ids (Q, k) int64, ascending by (distance, row), padded with -1."""
        contents = self._contents
        queries = check_codes(codes_QB, self.code_size)
        empty = np.zeros((0, queries.shape[1]), np.uint8)
        parts = [hamming.search(empty, queries, k, self.code_size)]
        for segment in contents.segments:
            assert segment.codes is not None
            within = max(1, min(k, len(segment)))
            distances, rows = hamming.search(
                segment.codes, queries, within, self.code_size, segment.alive, threads=threads
            )
            parts.append((distances, np.where(rows >= 0, segment.ids[rows], -1)))
        return hamming.merge(parts, k)

    def search_radius(
        self, codes_QB: npt.ArrayLike, radius: int, threads: int | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Ids]:
        """Offsets (Q + 1) int64, distances int32 and ids int64 of all codes at most `radius` bits away.

        Those of query i are from offsets[i] to offsets[i + 1], ascending by (distance, row).
        """
        contents = self._contents
        queries = check_codes(codes_QB, self.code_size)
        empty = np.zeros((0, queries.shape[1]), np.uint8)
        offsets, distances, ids = hamming.search_radius(empty, queries, radius, self.code_size)
        query_of = [np.zeros(0, np.int64)]
        all_distances, all_ids = [distances], [ids]
        for segment in contents.segments:
            assert segment.codes is not None
            offsets, distances, rows = hamming.search_radius(
                segment.codes, queries, radius, self.code_size, segment.alive, threads=threads
            )
            query_of.append(np.repeat(np.arange(len(queries)), np.diff(offsets)))
            all_distances.append(distances)
            all_ids.append(segment.ids[rows])
        query, distances, ids = np.concatenate(query_of), np.concatenate(all_distances), np.concatenate(all_ids)
        if len(contents.segments) > 1:
            # lexsort is stable: within a query and a distance, earlier segments stay first.
            order = np.lexsort((distances, query))
            query, distances, ids = query[order], distances[order], ids[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(query, minlength=len(queries)))]).astype(np.int64)
        return offsets, distances, ids

    def _own_part(self, described: Manifest) -> Manifest:
        return dataclasses.replace(described, dim=None, feature_dtype=None)
