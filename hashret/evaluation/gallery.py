"""Which gallery pictures count for which query.

A query never finds itself: its own picture leaves the gallery by id, never by distance 0. The turntable rule takes out more:
pictures of the same colour and time of day within 30 degrees of the query's view, which a network that has learnt nothing
would find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashret.data.table import PictureTable
from hashret.data.turntable.rule import allowed_pairs
from hashret.errors import UsageError

RULES = ("auto", "self", "turntable")
_TURNTABLE_COLUMNS = ("colour", "time", "view")


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

    def valid(self, queries: PictureTable, gallery: PictureTable) -> NDArray[np.bool_]:
        """bool (Q, N): whether gallery picture n counts for query q."""
        query_ids, gallery_ids = np.array(queries.ids), np.array(gallery.ids)
        if self.name == "self":
            others: NDArray[np.bool_] = query_ids[:, None] != gallery_ids[None, :]
            return others
        return allowed_pairs(
            *(np.array(queries.attributes[column]) for column in _TURNTABLE_COLUMNS),
            *(np.array(gallery.attributes[column]) for column in _TURNTABLE_COLUMNS),
            query_ids=query_ids,
            gallery_ids=gallery_ids,
        )


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
