"""Which gallery pictures count for which query.

A query never finds itself: its own picture leaves the gallery by id, never by distance 0. The turntable rule takes out more:
pictures of the same colour and time of day within 30 degrees of the query's view, which a network that has learnt nothing
would find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashret.data.table import PictureTable
from hashret.data.turntable.rule import allowed_pairs
from hashret.errors import UsageError

RULES = ("auto", "self", "turntable")
_PAIRS_AT_ONCE = 1 << 22
_TURNTABLE_COLUMNS = ("colour", "time", "view")
_ADVICE = "correct the column view, or take it out: then only a query's own picture leaves its gallery"
"""Right for every command, with --rule or without: a table that does not have the columns is none of a turntable."""


@dataclass(frozen=True)
class GalleryRule:
    """The rule by name ("self" or "turntable"), applied to pairs of rows."""

    name: str

    @property
    def signature(self) -> str:
        """What the rule is called in a score's signature."""
        return "left-out-by-id" if self.name == "self" else "left-out-by-id+same-colour-and-time-within-30-degrees"

    @property
    def sentence(self) -> str:
        """What the rule does, for people."""
        if self.name == "self":
            return "a query's own picture is left out by id"
        return (
            "a query's own picture, and those of its colour and time of day within 30 degrees of its view, are left out"
        )

    def between(self, queries: PictureTable, gallery: PictureTable) -> Callable[[slice], NDArray[np.bool_]]:
        """A function from some of the queries to bool (those, N): whether gallery picture n counts for query q.

        UsageError when the turntable rule meets a view that is no number of degrees.
        """
        query_ids_Q, gallery_ids_N = numbered(queries.ids, gallery.ids)
        if self.name == "self":
            return lambda rows: query_ids_Q[rows, None] != gallery_ids_N[None, :]
        colour_Q, colour_N = numbered(queries.attributes["colour"], gallery.attributes["colour"])
        time_Q, time_N = numbered(queries.attributes["time"], gallery.attributes["time"])
        view_Q, view_N = degrees(queries), degrees(gallery)
        return lambda rows: allowed_pairs(
            colour_Q[rows], time_Q[rows], view_Q[rows], colour_N, time_N, view_N,
            query_ids=query_ids_Q[rows], gallery_ids=gallery_ids_N,
        )  # fmt: skip

    def left_out(self, queries: PictureTable, gallery: PictureTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of queries and of gallery pictures, pair by pair, that do not count for one another. UsageError as `between`."""
        if self.name == "self":
            row_of = {name: row for row, name in enumerate(gallery.ids)}
            own = np.array([row_of.get(name, -1) for name in queries.ids], dtype=np.int64)
            return np.flatnonzero(own >= 0), own[own >= 0]
        counts = self.between(queries, gallery)
        step = max(1, _PAIRS_AT_ONCE // max(1, len(gallery)))
        parts = [np.nonzero(~counts(slice(start, start + step))) for start in range(0, len(queries), step)]
        query = [rows + step * i for i, (rows, _) in enumerate(parts)]
        nothing = np.empty(0, np.int64)
        return np.concatenate([nothing, *query]), np.concatenate([nothing, *(rows for _, rows in parts)])


def numbered(first: Sequence[str], second: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole numbers for the texts of both, equal exactly where the texts are: pairs of them compare quickly."""
    numbers: dict[str, int] = {}
    one, two = (
        np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)
        for texts in (first, second)
    )
    return one, two


def degrees(table: PictureTable) -> NDArray[np.float64]:
    """The views (N,) of a table. UsageError when one is no number."""
    views = table.attributes["view"]
    try:
        degrees_N = np.array([float(view) for view in views])
    except ValueError as error:
        raise UsageError(f"the views of {table.name} are not all in degrees ({error}); {_ADVICE}") from None
    if not np.isfinite(degrees_N).all():
        raise UsageError(f"a view of {table.name} is NaN or infinite, expected degrees; {_ADVICE}")
    return degrees_N


def gallery_rule(name: str, table: PictureTable) -> GalleryRule:
    """The rule called `name`; "auto" is "turntable" for a turntable set and "self" for all others.

    UsageError for the turntable rule on a table without the columns colour, time and view.
    """
    if name not in RULES:
        raise UsageError(f"--rule is {name!r}; choose one of {', '.join(RULES)}")
    if name == "auto":
        return GalleryRule("turntable" if is_turntable(table) else "self")
    missing = [column for column in _TURNTABLE_COLUMNS if column not in table.attributes]
    if name == "turntable" and missing:
        raise UsageError(f"{table.name} has no column {missing[0]!r}, which --rule turntable needs; use --rule self")
    return GalleryRule(name)


def is_turntable(table: PictureTable) -> bool:
    """Whether a table has the columns that `hashret data turntable` writes."""
    return {"body", "generation", *_TURNTABLE_COLUMNS} <= set(table.attributes)
