"""Scores of codes from counts of distances: every pair is looked at once, by a kernel, and nothing is kept but the counts.

Shape suffixes: Q queries, N gallery codes, B bytes of a code, D distances from 0 to the code size, C classes, P pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Codes
from hashret.errors import UsageError
from hashret.hamming import words
from hashret.metrics.groups import Counts, of_histograms
from hashret.metrics.scores import Choices, RetrievalScores, named, scores_of_groups

_QUERIES_AT_ONCE = 256
"""Queries that are counted, and scored, at a time: what bounds the memory, and when progress is told."""


@dataclasses.dataclass(frozen=True)
class Histograms:
    """For each query, how many gallery codes stand at each distance, and how many relevant ones: int64 (Q, code_size + 1)."""

    size_QD: Counts
    relevant_QD: Counts

    @property
    def code_size(self) -> int:
        """Bits of a code."""
        return int(self.size_QD.shape[1]) - 1

    def scores(
        self,
        ks: Sequence[int] = (1, 5, 10),
        map_cutoffs: Sequence[int | None] = (None,),
        *,
        measures: Sequence[str] = (),
        distance: str = "hamming",
        self_match: str = "left-out-by-id",
    ) -> RetrievalScores:
        """The scores of these rankings, as `retrieval_scores` gives and names them; the last two go into their signatures."""
        names, choices = named(ks, map_cutoffs, measures), Choices(distance, self.code_size, self_match)
        starts = range(0, max(1, len(self.size_QD)), _QUERIES_AT_ONCE)
        parts = [slice(start, start + _QUERIES_AT_ONCE) for start in starts]
        return RetrievalScores.merge(
            scores_of_groups(of_histograms(self.size_QD[part], self.relevant_QD[part]), names, choices)
            for part in parts
        )

    def curve(self) -> Curve:
        """Precision and recall of all codes within each radius, means over the queries that have something to find."""
        scored = self.relevant_QD.sum(axis=1) > 0
        size, relevant = np.cumsum(self.size_QD[scored], axis=1), np.cumsum(self.relevant_QD[scored], axis=1)
        precision = np.divide(relevant, size, out=np.full(size.shape, np.nan), where=size > 0)
        answered = (size > 0).sum(axis=0)
        sums = np.nansum(precision, axis=0)
        return Curve(
            precision_D=np.divide(sums, answered, out=np.full(len(sums), np.nan), where=answered > 0),
            recall_D=(relevant / relevant[:, -1:]).mean(axis=0) if len(relevant) else np.full(len(sums), np.nan),
            empty_D=len(size) - answered,
        )


@dataclasses.dataclass(frozen=True)
class Curve:
    """Of every radius from 0 to the code size: a precision-recall curve without a choice of ranks, so without ties.

    precision_D: mean share of relevant codes within the radius, over the queries that have any code there; NaN without one.
    recall_D: mean share of the relevant codes that are within it. empty_D: queries without a code there.
    """

    precision_D: npt.NDArray[np.float64]
    recall_D: npt.NDArray[np.float64]
    empty_D: npt.NDArray[np.int64]


def distance_histograms(
    queries_QB: Codes,
    gallery_NB: Codes,
    code_size: int,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    left_out: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Histograms:
    """How far the codes of a gallery are from each query, counted; memory: the gallery once more, and the counts.

    query_labels, gallery_labels: whole numbers (Q,) and (N,), relevant is what has the same one from 0, and nothing has a
    negative one; or bool (Q, C) and (N, C), relevant is what shares a class (multi-label). left_out: rows of queries and of
    gallery codes (P,) each, pairs that are no part of the ranking: a query's own picture, for instance. progress is called with
    how many queries were done since. CodeError, SearchError and UsageError for what does not fit.
    """
    from hashret.hamming import histograms as kernels  # starts numba

    of_queries, of_gallery = np.asarray(query_labels), np.asarray(gallery_labels)
    _check_labels(of_queries, of_gallery, len(queries_QB), len(gallery_NB))
    size = np.zeros((len(queries_QB), code_size + 1), np.int64)
    relevant = np.zeros_like(size)
    same_class = of_queries.ndim == 1
    if same_class:
        # Codes of a class stand together, so what is relevant to a query is a range of rows.
        order = np.argsort(of_gallery, kind="stable")
        together, sorted_labels = np.ascontiguousarray(gallery_NB[order]), of_gallery[order]
        among_Q2 = np.stack([np.searchsorted(sorted_labels, of_queries, side) for side in ("left", "right")], axis=1)
        among_Q2[of_queries < 0] = 0
    else:
        together = np.ascontiguousarray(gallery_NB)
        query_bits, gallery_bits = _as_words(of_queries), _as_words(of_gallery)
    for start in range(0, len(queries_QB), _QUERIES_AT_ONCE):
        some = slice(start, start + _QUERIES_AT_ONCE)
        queries = queries_QB[some]
        size[some] = kernels.count(together, queries, code_size, threads=threads)
        if same_class:
            relevant[some] = kernels.count(together, queries, code_size, among=among_Q2[some], threads=threads)
        else:
            relevant[some] = kernels.count_sharing(
                together, queries, code_size, gallery_bits, query_bits[some], threads=threads
            )
        if progress is not None:
            progress(len(queries))
    if left_out is not None:
        query, row = (np.asarray(rows, np.int64) for rows in left_out)
        apart = np.bitwise_count(words.padded(queries_QB[query]) ^ words.padded(gallery_NB[row])).sum(axis=1)
        np.subtract.at(size, (query, apart), 1)
        alike = _relevant(of_queries[query], of_gallery[row])
        np.subtract.at(relevant, (query[alike], apart[alike]), 1)
    return Histograms(size, relevant)


def _relevant(of_queries: npt.NDArray[Any], of_gallery: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each of some pairs is relevant."""
    if of_queries.ndim == 2:
        shared: npt.NDArray[np.bool_] = (of_queries & of_gallery).any(axis=1)
        return shared
    same: npt.NDArray[np.bool_] = (of_queries == of_gallery) & (of_queries >= 0)
    return same


def _as_words(labels_NC: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """A bit a class."""
    return words.padded(np.packbits(labels_NC, axis=1))


def _check_labels(of_queries: npt.NDArray[Any], of_gallery: npt.NDArray[Any], n_queries: int, n: int) -> None:
    for name, labels, rows in (("query_labels", of_queries, n_queries), ("gallery_labels", of_gallery, n)):
        whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        several = labels.ndim == 2 and labels.dtype == np.bool_
        if not (whole or several) or len(labels) != rows:
            raise UsageError(
                f"{name} have shape {labels.shape} and dtype {labels.dtype}, expected {rows} whole numbers, or bool of shape "
                f"({rows}, classes)"
            )
    if of_queries.shape[1:] != of_gallery.shape[1:]:
        raise UsageError(
            f"query_labels have shape {of_queries.shape} and gallery_labels {of_gallery.shape}, expected the same classes"
        )
