"""TREC's text files: runs (what was found for each query, with scores) and qrels (what is relevant), written, read and scored.

A run has lines `query Q0 picture rank score tag`, qrels have `query 0 picture relevance`. What decides the order of a run is the
score, as in trec_eval; pictures of equal score are tied, and scores are exact under ties as everywhere here, where trec_eval
would order them by name. What is relevant but not in the run was not found.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hashret.errors import DataError
from hashret.metrics import Choices, RetrievalScores
from hashret.metrics.groups import group
from hashret.metrics.scores import named, scores_of_groups

Run = dict[str, dict[str, float]]
"""The score of each picture found, by query."""
Qrels = dict[str, set[str]]
"""The relevant pictures of each query."""


def read_run(path: Path) -> Run:
    """What was found. DataError for a file that is no run."""
    run: Run = {}
    for number, words in _lines(path, 6, "query Q0 picture rank score tag"):
        query, _, picture, _, text, _ = words
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"{path} line {number} has the score {text}, expected a finite number")
        found = run.setdefault(query, {})
        if picture in found:
            raise DataError(
                f"{path} line {number} names {picture} a second time for the query {query}, expected it once"
            )
        found[picture] = score
    return run


def read_qrels(path: Path) -> Qrels:
    """What is relevant: a relevance of 1 or more. Queries without anything relevant are there, with none. DataError as above."""
    qrels: Qrels = {}
    for number, (query, _, picture, text) in _lines(path, 4, "query 0 picture relevance"):
        if not text.removeprefix("-").isdecimal():
            raise DataError(f"{path} line {number} has the relevance {text}, expected a whole number")
        relevant = qrels.setdefault(query, set())
        if int(text) > 0:
            relevant.add(picture)
    return qrels


def write_run(path: Path, found: Iterable[tuple[str, Sequence[str], Sequence[float]]], tag: str) -> int:
    """Write (query, pictures, their scores), best first; how many lines. Ids are those that nearest_lists.check_ids lets pass."""
    n_lines = 0
    with path.open("w", encoding="utf-8") as opened:
        for query, pictures, scores in found:
            for rank, (picture, score) in enumerate(zip(pictures, scores, strict=True), 1):
                opened.write(f"{query} Q0 {picture} {rank} {score!r} {tag}\n")
            n_lines += len(pictures)
    return n_lines


def write_qrels(path: Path, qrels: Mapping[str, Iterable[str]]) -> None:
    """Write the relevant pictures of each query."""
    with path.open("w", encoding="utf-8") as opened:
        opened.writelines(f"{query} 0 {picture} 1\n" for query, pictures in qrels.items() for picture in pictures)


def relevant_pictures(
    ids: Sequence[str], labels: Sequence[str], valid: Callable[[slice], NDArray[np.bool_]]
) -> dict[str, list[str]]:
    """The pictures of each labelled one's label that count for it; valid as GalleryRule.between gives it."""
    rows_of: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    relevant = {}
    for query, label in enumerate(labels):
        if label:
            rows = np.array(rows_of[label])
            relevant[ids[query]] = [ids[row] for row in rows[valid(slice(query, query + 1))[0, rows]].tolist()]
    return relevant


def scores(
    run: Run,
    qrels: Qrels,
    ks: Sequence[int] = (1, 10),
    map_cutoffs: Sequence[int | None] = (None,),
    *,
    measures: Sequence[str] = (),
) -> RetrievalScores:
    """The scores of the queries of the qrels, in their order; one that the run does not answer finds nothing.

    Queries without anything relevant are left out and counted. DataError when the run answers none of the queries.
    """
    if not run.keys() & qrels.keys():
        raise DataError("the run answers none of the queries of the qrels; check that both are of the same queries")
    names = named(ks, map_cutoffs, measures)
    choices = Choices("score", None, "as-in-run")
    parts = []
    for query, relevant in qrels.items():
        found = run.get(query, {})
        distances = -np.array([list(found.values())], np.float64).reshape(1, len(found))
        flags = np.array([[picture in relevant for picture in found]], np.bool_).reshape(1, len(found))
        ranked = dataclasses.replace(group(distances, flags, None), n_relevant_Q=np.array([len(relevant)]))
        parts.append(scores_of_groups(ranked, names, choices))
    return RetrievalScores.merge(parts)


def _lines(path: Path, n_words: int, expected: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened, 1):
                words = line.split()
                if words and len(words) != n_words:
                    raise DataError(f"{path} line {number} is {line.strip()[:80]!r}, expected `{expected}`")
                if words:
                    yield number, words
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise DataError(f"{path} cannot be read ({reason})") from None
