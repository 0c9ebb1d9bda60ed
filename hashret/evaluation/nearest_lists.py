"""Lists of nearest neighbours as text, `query_id nearest_id` a line: written, read, and scored by labels.

The form in which the car-retrieval task takes its answers: every picture is a query, and names the nearest other one.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hashret.errors import DataError
from hashret.evaluation.compare import Representation

_PAIRS_AT_ONCE = 1 << 22


def nearest(
    representation: Representation, valid: Callable[[slice], NDArray[np.bool_]], k: int = 1
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each query the rows and the distances of its k nearest, fewer where fewer count, ascending by (distance, row).

    valid: which gallery pictures (rows, N) count for some queries, as GalleryRule.between gives it.
    """
    n_queries, n = len(representation.queries), len(representation.gallery)
    step = max(1, _PAIRS_AT_ONCE // max(1, n))
    for start in range(0, n_queries, step):
        some = slice(start, min(start + step, n_queries))
        for distances, counts in zip(representation.distances(some).astype(np.float64), valid(some), strict=True):
            rows = np.flatnonzero(counts)
            near = distances[rows]
            if len(rows) > k:
                within = near <= np.partition(near, k - 1)[k - 1]
                rows, near = rows[within], near[within]
            order = np.argsort(near, kind="stable")[:k]
            yield rows[order], near[order]


def check_ids(ids: Sequence[str]) -> None:
    """DataError for an id that a line has no room for: an empty one, or one with a blank in it."""
    for name in ids:
        if len(name.split()) != 1 or name != name.strip():
            raise DataError(
                f"the id {name!r} is empty or has blanks, and a line is `query_id nearest_id`; give the pictures other ids in a "
                "table (hashret data table)"
            )


def write(path: Path, nearest: Mapping[str, str]) -> None:
    """Write a list: the nearest of each query, by ids that `check_ids` lets pass."""
    path.write_text("".join(f"{query} {other}\n" for query, other in nearest.items()), "utf-8")


def read(path: Path) -> dict[str, str]:
    """The nearest of each query, in the order of the lines. DataError for a file that is no such list."""
    nearest: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        ids = line.split()
        if not ids:
            continue
        if len(ids) != 2:
            raise DataError(f"{path} line {number} is {line[:80]!r}, expected `query_id nearest_id`")
        if ids[0] in nearest:
            raise DataError(f"{path} line {number} answers {ids[0]} a second time, expected one line a query")
        nearest[ids[0]] = ids[1]
    return nearest


def read_labels(path: Path) -> dict[str, str]:
    """The label of each id, of a CSV file with the columns id and label. DataError for a file that is none."""
    rows = csv.DictReader(_text(path).splitlines())
    header = rows.fieldnames or []
    missing = [column for column in ("id", "label") if column not in header]
    if missing:
        found = ", ".join(header)[:120] or "nothing"
        raise DataError(
            f"{path} has no column {missing[0]!r} in its first line ({found}), expected the columns id and label"
        )
    labels: dict[str, str] = {}
    for row in rows:
        name, label = row["id"], row["label"]
        if not name or not label:
            raise DataError(f"{path} line {rows.line_num} has no {'label' if name else 'id'}, expected both")
        if name in labels:
            raise DataError(f"{path} line {rows.line_num} has the id {name} a second time, expected every id once")
        labels[name] = label
    return labels


def hits(nearest: Mapping[str, str], labels: Mapping[str, str], listed: str = "the list") -> int:
    """How many queries have a nearest neighbour of their own label.

    DataError unless every labelled picture is a query, and nothing but another labelled picture is nearest to one.
    """
    unanswered = [name for name in labels if name not in nearest]
    if unanswered:
        raise DataError(
            f"{listed} has no line for {len(unanswered):,} of the {len(labels):,} labelled ids, the first is "
            f"{unanswered[0]}; expected one for each"
        )
    right = 0
    for query, other in nearest.items():
        for name in (query, other):
            if name not in labels:
                raise DataError(
                    f"{listed} names {name}, which has no label; check that list and labels are of the same pictures"
                )
        if other == query:
            raise DataError(f"{listed} names {query} as nearest to itself, expected the nearest other picture")
        right += labels[query] == labels[other]
    return right


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise DataError(f"{path} cannot be read ({reason})") from None
