"""An index of packed binary codes: exact nearest neighbours by Hamming distance, by a query's logits, or by both in turn.

Shape suffixes: N codes, Q queries, K neighbours, B bytes of a code, R codes that are ranked anew, D numbers of a feature.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from hashret import hamming
from hashret.codes import Codes, bytes_per_code, check_codes
from hashret.errors import SearchError
from hashret.hamming import Explanation, asymmetric
from hashret.hamming.arguments import checked_k, checked_radius, checked_threads
from hashret.hamming.planner import Plan
from hashret.index import near_duplicates, storage
from hashret.index.base import VectorIndex, whole_numbers
from hashret.index.contents import Contents, Ids, Segment
from hashret.index.features import COSINE_CAP, Similarities, numbers_of, queries_of
from hashret.index.features import similarities as similarities_of
from hashret.index.manifest import Manifest

if TYPE_CHECKING:
    from hashret.hamming.self_join import Pairs
    from hashret.index.device_codes import DeviceCodes


class TwoStage(NamedTuple):
    """The answer of a two-stage search; `score` names what its similarities are: asymmetric, cosine or inner_product."""

    similarities: Similarities
    ids: Ids
    score: str


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
        self._on_device: DeviceCodes | None = None

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
        *,
        upsert: bool = False,
    ) -> Ids:
        """Ids (N,) int64 of the codes taken in: those given, or continuing after the largest id ever given.

        records: {"id", "path", "label", "split", any attributes} for each code. The codes are copied. All are added,
        or none and a CodeError or SearchError: for an id or string id that is here already, for instance. upsert: what has
        such an id is replaced instead, keeps its id, and moves to the end.
        """
        codes = check_codes(codes_NB, self.code_size).copy()
        return self._add(len(codes), {"codes": codes}, ids, records, upsert)

    def codes(self, ids: npt.ArrayLike) -> Codes:
        """The codes (N, B) uint8 of these ids, in that order; SearchError for one that is not here."""
        given = whole_numbers(ids)
        if not len(given):
            return np.empty((0, bytes_per_code(self.code_size)), np.uint8)
        return self._contents.vectors(given)["codes"]

    @property
    def device(self) -> str:
        """Where the codes lie for searches: cpu, or the name of a GPU."""
        return "cpu" if self._on_device is None else self._on_device.device.name

    def to(self, device: str) -> HammingIndex:
        """This index, whose codes lie on a GPU from now on ("cuda", "cuda:1", "auto": if there is one), or no more ("cpu").

        Searches by Hamming distance give the same bytes as before and are computed there unless the CPU is expected to be done
        sooner, as with few queries among few codes: see `explain`. What is added or deleted later goes there with the next
        search. Asymmetric similarities and pairs (`self_join`) are computed on the CPU. UsageError where there is no such GPU.
        """
        from hashret.hamming.gpu.device import pick_device

        picked = pick_device(device)
        if picked is None:
            self._on_device = None
            return self
        from hashret.index.device_codes import DeviceCodes

        self._on_device = DeviceCodes(picked, bytes_per_code(self.code_size), self._contents)
        return self

    def build_multi_index(self, threads: int | None = None) -> int:
        """Bytes of memory that buckets beside the codes take, once made: seconds for millions of codes.

        From then on `search` and `search_radius` look near neighbours up in them wherever that is expected to be cheaper than
        comparing all codes; answers are the same bytes. Buckets live in memory, with this object: they are not saved, and codes
        that are added later have none until this is called again, which makes only what is missing. Deleted codes are left
        out. Others may search, add and remove meanwhile. threads: None takes all cores. SearchError for what does not fit.
        """
        from hashret.hamming.multi_index import MultiIndex  # starts numba

        checked_threads(threads)
        made = {
            id(segment.codes): MultiIndex.build(segment.codes, self.code_size, threads=threads)
            for segment in self._contents.segments
            if segment.codes is not None and segment.multi_index is None
        }
        with self._lock:
            # Those of codes that are still here; `made` holds the codes, so that no other array can have taken their place.
            segments = [
                dataclasses.replace(segment, multi_index=made.get(id(segment.codes), segment.multi_index))
                for segment in self._contents.segments
            ]
            self._contents = Contents(tuple(segments))
        return sum(segment.multi_index.n_bytes for segment in segments if segment.multi_index is not None)

    @overload
    def search(
        self,
        queries: npt.ArrayLike,
        k: int,
        threads: int | None = None,
        metric: Literal["hamming"] = "hamming",
        *,
        explain: Literal[False] = False,
        where: str | None = None,
    ) -> tuple[npt.NDArray[np.int32], Ids]: ...

    @overload
    def search(
        self,
        queries: npt.ArrayLike,
        k: int,
        threads: int | None = None,
        metric: Literal["hamming"] = "hamming",
        *,
        explain: Literal[True],
        where: str | None = None,
    ) -> tuple[npt.NDArray[np.int32], Ids, list[Explanation]]: ...

    @overload
    def search(
        self,
        queries: npt.ArrayLike,
        k: int,
        threads: int | None = None,
        *,
        metric: Literal["asymmetric"],
        explain: Literal[False] = False,
        where: str | None = None,
    ) -> tuple[Similarities, Ids]: ...

    @overload
    def search(
        self,
        queries: npt.ArrayLike,
        k: int,
        threads: int | None = None,
        *,
        metric: Literal["asymmetric"],
        explain: Literal[True],
        where: str | None = None,
    ) -> tuple[Similarities, Ids, list[Explanation]]: ...

    def search(
        self,
        queries: npt.ArrayLike,
        k: int,
        threads: int | None = None,
        metric: str = "hamming",
        *,
        explain: bool = False,
        where: str | None = None,
    ) -> Any:
        """Distances (Q, k) int32 and ids (Q, k) int64, ascending by (distance, row), padded with -1.

        queries: packed codes (Q, B). With metric "asymmetric" they are logits (Q, code_size), the model's thresholds already
        subtracted, and the answer is similarities (Q, k) float32, descending, equal ones by row, padded with NaN: how they
        are summed is defined in hamming/asymmetric.py. explain: a third thing comes back, how each segment of the index was
        searched, what that should have cost and what it did. where: only among those whose record meets this condition
        ("view = 90 and label = 'car'", where.py has the rules); SearchError where it cannot be read.
        """
        contents = self._chosen(where)
        near, places, explanations = self._nearest(contents, queries, k, threads, metric, explain)
        found = near, _ids_at(contents, places)
        return (*found, explanations) if explain else found

    def self_join(self, radius: int, threads: int | None = None) -> Iterator[Pairs]:
        """All pairs of ids at most `radius` bits apart, in chunks, ascending by their rows; see near_duplicates.py."""
        return near_duplicates.self_join_index(self, radius, threads)

    def search_two_stage(
        self,
        codes_QB: npt.ArrayLike,
        k: int,
        rerank: int,
        *,
        logits: npt.ArrayLike | None = None,
        features: npt.ArrayLike | None = None,
        threads: int | None = None,
        where: str | None = None,
    ) -> TwoStage:
        """Similarities (Q, k) float32 and ids (Q, k) int64 of the best of the `rerank` nearest codes, and the score's name.

        The first stage takes the `rerank` nearest by (Hamming distance, row). The second ranks them by the queries' logits
        (Q, code_size), as `search` takes them, or by their features (Q, D), where the index holds features beside its
        codes: with the same similarities as an asymmetric search, or as the index of these features (CosineIndex, mostly),
        descending, equal ones by row, padded with NaN and -1. Both stages are exact; what the first leaves out is not found.
        where: as in `search`. SearchError unless either logits or features are given, and rerank is at least k.
        """
        if (logits is None) == (features is None):
            raise SearchError("a two-stage search ranks either by logits or by features; give one of them")
        for name, number, least in (("k", k, 1), ("rerank", rerank, k)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise SearchError(f"{name} is {number!r}, expected a whole number from {least}")
        contents = self._chosen(where)
        within = min(int(rerank), max(1, len(contents)))
        _, places, _ = self._nearest(contents, codes_QB, within, threads, "hamming")
        # In the order of rows, which a stable sort keeps where similarities are equal.
        places.sort(axis=1)
        if logits is not None:
            similarities = self._by_logits(contents, places, logits)
        else:
            similarities = self._by_features(contents, places, features)
        found = asymmetric.merge([(similarities, _ids_at(contents, places))], k)
        return TwoStage(*found, self._manifest.feature_metric if logits is None else "asymmetric")

    @overload
    def search_radius(
        self,
        codes_QB: npt.ArrayLike,
        radius: int,
        threads: int | None = None,
        *,
        explain: Literal[False] = False,
        where: str | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Ids]: ...

    @overload
    def search_radius(
        self,
        codes_QB: npt.ArrayLike,
        radius: int,
        threads: int | None = None,
        *,
        explain: Literal[True],
        where: str | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Ids, list[Explanation]]: ...

    def search_radius(
        self,
        codes_QB: npt.ArrayLike,
        radius: int,
        threads: int | None = None,
        *,
        explain: bool = False,
        where: str | None = None,
    ) -> Any:
        """Offsets (Q + 1) int64, distances int32 and ids int64 of all codes at most `radius` bits away.

        Those of query i are from offsets[i] to offsets[i + 1], ascending by (distance, row). explain: a fourth thing comes
        back, as in `search`. where: as in `search`.
        """
        contents = self._chosen(where)
        queries = check_codes(codes_QB, self.code_size)
        radius, _ = min(checked_radius(radius), self.code_size), checked_threads(threads)
        plan, device = None, self._on_device
        if device is not None:
            plan = device.plan_radius(contents, len(queries), radius, threads)
            if plan.device != "cpu":
                (offsets, distances, places), how = device.search_radius(contents, queries, radius, plan)
                ids = _ids_at(contents, places)
                return (offsets, distances, ids, [how]) if explain else (offsets, distances, ids)
        empty = np.zeros((0, queries.shape[1]), np.uint8)
        offsets, distances, ids = hamming.search_radius(empty, queries, radius, self.code_size, threads=threads)
        query_of = [np.zeros(0, np.int64)]
        all_distances, all_ids = [distances], [ids]
        explanations: list[Explanation] = []
        for segment in contents.segments:
            buckets = segment.multi_index
            search: Any = (
                functools.partial(hamming.search_radius, segment.codes) if buckets is None else buckets.search_radius
            )
            offsets, distances, rows, *explained = search(
                queries, radius, alive=segment.alive, threads=threads, explain=explain
            )
            query_of.append(np.repeat(np.arange(len(queries)), np.diff(offsets)))
            all_distances.append(distances)
            all_ids.append(segment.ids[rows])
            explanations += explained
        query, distances, ids = np.concatenate(query_of), np.concatenate(all_distances), np.concatenate(all_ids)
        if len(contents.segments) > 1:
            # lexsort is stable: within a query and a distance, earlier segments stay first.
            order = np.lexsort((distances, query))
            query, distances, ids = query[order], distances[order], ids[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(query, minlength=len(queries)))]).astype(np.int64)
        return (offsets, distances, ids, _because(plan, explanations)) if explain else (offsets, distances, ids)

    def _nearest(
        self,
        contents: Contents,
        queries: npt.ArrayLike,
        k: int,
        threads: int | None,
        metric: str,
        explain: bool = False,
    ) -> tuple[npt.NDArray[Any], Ids, list[Explanation]]:
        """What `search` gives, with places instead of ids: rows counted through all segments."""
        if metric not in ("hamming", "asymmetric"):
            raise SearchError(f"metric is {metric!r}, expected hamming or asymmetric")
        by_distance = metric == "hamming"
        given: npt.NDArray[Any] = (check_codes if by_distance else asymmetric.check_logits)(queries, self.code_size)
        kind: Any = hamming if by_distance else asymmetric
        k, _ = checked_k(k), checked_threads(threads)
        plan, device = None, self._on_device
        if by_distance and device is not None:
            plan = device.plan(contents, len(given), k, threads)
            if plan.device != "cpu":
                found, how = device.search(contents, given, k, plan)
                return (*found, [how])
        parts: list[tuple[npt.NDArray[Any], Ids]] = []
        explanations: list[Explanation] = []
        start = 0
        for segment in contents.segments:
            within = max(1, min(k, len(segment)))
            buckets = segment.multi_index if by_distance else None
            search: Any = functools.partial(kind.search, segment.codes) if buckets is None else buckets.search
            near, rows, *explained = search(given, within, alive=segment.alive, threads=threads, explain=explain)
            parts.append((near, np.where(rows >= 0, rows + start, -1)))
            explanations += explained
            start += len(segment)
        if start < k:
            missing = len(given), k - start
            near = np.full(missing, -1, np.int32) if by_distance else np.full(missing, np.nan, np.float32)
            parts.append((near, np.full(missing, -1, np.int64)))
        return (*kind.merge(parts, k), _because(plan, explanations))

    def _by_logits(self, contents: Contents, places_QR: Ids, logits: npt.ArrayLike) -> Similarities:
        """Similarities (Q, R) of the logits to the codes at these places, NaN where there is none."""
        given = _as_many(asymmetric.check_logits(logits, self.code_size), places_QR, "logits")
        blank = np.zeros(bytes_per_code(self.code_size), np.uint8)
        codes = _rows_at([segment.codes for segment in contents.segments], places_QR, blank)
        return np.where(places_QR < 0, np.float32(np.nan), asymmetric.rescore(given, codes))

    def _by_features(self, contents: Contents, places_QR: Ids, features: npt.ArrayLike | None) -> Similarities:
        """Similarities (Q, R) of the features to those at these places, NaN where there is none."""
        given = np.asarray(features)
        dim = given.shape[-1] if given.ndim else 0
        for segment in contents.segments:
            if segment.features is None:
                raise SearchError(
                    "the index holds no features, only codes; build it with --metric both, or rank by logits"
                )
            dim = numbers_of(segment.features).shape[1]
        metric = self._manifest.feature_metric
        queries = _as_many(queries_of(given, dim, metric), places_QR, "features").astype(np.float64)
        found = np.full(places_QR.shape, np.nan, np.float32)
        start = 0
        for segment in contents.segments:
            assert segment.features is not None
            here = (places_QR >= start) & (places_QR < start + len(segment))
            found[here] = similarities_of(segment.features, places_QR[here] - start, queries, np.nonzero(here)[0])
            start += len(segment)
        return np.minimum(found, np.float32(COSINE_CAP)) if metric == "cosine" else found

    def _adopt(self, folder: Path, described: Manifest, contents: Contents) -> None:
        """This index is what the folder holds; buckets go over to the codes that are the same there."""
        before = self._contents.segments
        if self._on_device is None:
            before = tuple(segment for segment in before if segment.multi_index is not None)
        segments = [self._as_before(segment, before) for segment in contents.segments]
        super()._adopt(folder, described, Contents(tuple(segments)))

    def _as_before(self, segment: Segment, before: Sequence[Segment]) -> Segment:
        """The segment with the buckets of one that held the same codes, which stay on the device, too."""
        for other in before:
            if _same_codes(segment, other):
                assert segment.codes is not None and other.codes is not None
                if self._on_device is not None:
                    self._on_device.moved(other.codes, segment.codes)
                buckets = other.multi_index
                return (
                    segment
                    if buckets is None
                    else dataclasses.replace(segment, multi_index=buckets.beside(segment.codes))
                )
        return segment

    def _own_part(self, described: Manifest) -> Manifest:
        return dataclasses.replace(described, dim=None, feature_dtype=None)


def _because(plan: Plan | None, explanations: list[Explanation]) -> list[Explanation]:
    """The explanations, with why the search was left to the CPU where there is a device, too."""
    if plan is None:
        return explanations
    plans = [dataclasses.replace(how.plan, reason=plan.reason) for how in explanations]
    return [dataclasses.replace(how, plan=how_plan) for how, how_plan in zip(explanations, plans, strict=True)]


def _same_codes(segment: Segment, other: Segment) -> bool:
    assert segment.codes is not None and other.codes is not None
    same_file = segment.entry is not None and other.entry is not None and segment.entry.name == other.entry.name
    return same_file or np.array_equal(segment.codes, other.codes)


def _as_many(queries: npt.NDArray[Any], places_QR: Ids, name: str) -> npt.NDArray[Any]:
    """The queries, when they are as many as the codes of the first stage."""
    if len(queries) != len(places_QR):
        raise SearchError(
            f"there are {len(places_QR)} codes and {name} of {len(queries)} queries, expected as many of each"
        )
    return queries


def _ids_at(contents: Contents, places: Ids) -> Ids:
    """The ids at these places, -1 where there is none."""
    return _rows_at([segment.ids for segment in contents.segments], places, np.array(-1))


def _rows_at(arrays: Sequence[npt.NDArray[Any] | None], places: Ids, blank: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of arrays that follow one another; `blank` where the place is -1."""
    found = np.full((*places.shape, *blank.shape), blank)
    start = 0
    for array in arrays:
        assert array is not None
        here = (places >= start) & (places < start + len(array))
        found[here] = array[places[here] - start]
        start += len(array)
    return found
