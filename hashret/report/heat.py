"""Maps of top-1 by condition, as the page shows them: tables whose cells are shaded, all on one scale.

Shape suffixes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret.report.text import readable
from hashret.report.verdict import counted

BY_TURN = ("the query's time by how far the view is turned", "time \\ turned by")
BY_LIGHT = ("the query's time of day by that of what is found", "asked \\ found")
"""What the maps of both conditions are called, and what stands in their corners."""

Grid = NDArray[np.float64]


@dataclass(frozen=True)
class HeatMap:
    """One map: top-1 (R, C), NaN where nobody asks; how many pictures a query then has to find, and how many queries ask."""

    title: str
    corner: str
    rows: Sequence[str]
    columns: Sequence[str]
    top1_RC: Grid
    findable_RC: Grid
    queries_RC: NDArray[np.int64]


def values(maps: Sequence[HeatMap]) -> dict[str, Any]:
    """What heat.html shows of the maps; nothing where no map has a value."""
    known = [value for each in maps for value in each.top1_RC[~np.isnan(each.top1_RC)].tolist()]
    if not known:
        return {}
    low, high = min(known), max(known)

    def cell(value: float, findable: float, queries: int) -> dict[str, Any]:
        empty = bool(np.isnan(value))
        return {
            "value": "" if empty else f"{100 * value:.0f}",
            "findable": f"{findable:.1f}",
            "about": counted(queries, "query", "queries"),
            "shade": 0.0 if high == low or empty else round(0.6 * (value - low) / (high - low), 3),
        }

    shown = [
        {
            "title": each.title,
            "corner": each.corner,
            "columns": [readable(column) for column in each.columns],
            "rows": [
                {"label": readable(label), "cells": [cell(*found) for found in zip(*numbers, strict=True)]}
                for label, *numbers in zip(
                    each.rows, each.top1_RC.tolist(), each.findable_RC.tolist(), each.queries_RC.tolist(), strict=True
                )
            ],
        }
        for each in maps
    ]
    return {"maps": shown, "low": f"{100 * low:.0f}", "high": f"{100 * high:.0f}"}
