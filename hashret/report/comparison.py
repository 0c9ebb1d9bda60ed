"""Several runs or results side by side: their scores and curves in, one HTML page out.

Nothing here knows where scores come from: whoever has per-query scores and a name can be on the page. Shape suffixes: Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hashret.evaluation.compare import Result
from hashret.evaluation.curves import HIT_RANKS, RankCurves
from hashret.metrics import bootstrap_interval
from hashret.report import charts, heat
from hashret.report.analysis import Analysis
from hashret.report.heat import HeatMap
from hashret.report.page import fill, found_by, written
from hashret.report.ranking import Floats
from hashret.report.text import readable
from hashret.report.thumbnails import Thumbnails

SCORES = ("map@all", "map@10", "hit@1", "hit@10")
"""What stands in the table first, in this order, where anybody has it."""


@dataclass(frozen=True)
class Entry:
    """One way of ranking: its scores, query by query, under the name of its run or result.

    kind: what ranks, such as "codes" or "features"; only entries of one kind are set against each other. code_size: bits, where
    codes rank. query_ids: of the Q queries that are scored. per_query: score name -> (Q,). signatures: score name -> what the
    score means. curves: None where nobody kept them.
    """

    name: str
    kind: str
    code_size: int | None
    query_ids: Sequence[str]
    per_query: Mapping[str, Floats]
    signatures: Mapping[str, str]
    curves: RankCurves | None = None

    def mean(self, score: str) -> float:
        """The score, NaN without a query."""
        return float(self.per_query[score].mean()) if len(self.query_ids) else float("nan")

    def interval(self, score: str) -> tuple[float, float]:
        """Its 95 % interval over queries."""
        return bootstrap_interval(self.per_query[score])


@dataclass(frozen=True)
class Side:
    """A run or a result: a name, what it was made with, and its entries."""

    name: str
    settings: Mapping[str, Any]
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Table:
    """A table with its title, how to read it, a header and rows of text; the first column names the row."""

    title: str
    reading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Compared:
    """What a page says of the comparison as a whole: what was looked at and what came out, warnings, commands that make it.

    maps: of top-1 by view and light. tables: further ones.
    """

    sentences: Sequence[str]
    warnings: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = field(default=())
    maps: Sequence[HeatMap] = ()
    tables: Sequence[Table] = ()


def entry_of(result: Result, name: str, kind: str, query_ids: Sequence[str], curves: RankCurves | None) -> Entry:
    """A result of `evaluation.compare` as an entry. query_ids: of all its queries, scored or not."""
    scores = result.scores
    return Entry(
        name=name,
        kind=kind,
        code_size=scores.choices.code_size,
        query_ids=[each for each, scored in zip(query_ids, scores.scored_Q.tolist(), strict=True) if scored],
        per_query={score: scores.per_query(score) for score in SCORES if score in scores.names},
        signatures={score: scores.signature(score) for score in SCORES if score in scores.names},
        curves=curves,
    )


@dataclass(frozen=True)
class Difference:
    """By how much an entry's score is above another's on the same queries, and the 95 % interval of that."""

    mean: float
    interval: tuple[float, float]

    @property
    def is_told(self) -> bool:
        """Whether it can be told from chance: 0 is outside of the interval."""
        return not self.interval[0] <= 0 <= self.interval[1]


def difference(entry: Entry, base: Entry, score: str) -> Difference | None:
    """The paired difference of a score, entry less base; None where they have no such score of the same queries and meaning.

    Code sizes may differ: that is what is compared. Queries are paired by id.
    """
    if not entry.query_ids or score not in entry.per_query or score not in base.per_query:
        return None
    if _meaning(entry.signatures.get(score)) != _meaning(base.signatures.get(score)):
        return None
    place = {query: row for row, query in enumerate(base.query_ids)}
    if len(place) != len(entry.query_ids) or place.keys() != set(entry.query_ids):
        return None
    apart_Q = entry.per_query[score] - base.per_query[score][[place[query] for query in entry.query_ids]]
    return Difference(float(apart_Q.mean()), bootstrap_interval(apart_Q))


def base_of(sides: Sequence[Side], kind: str) -> Entry | None:
    """The entry that all others of a kind are set against: the first side's, None where it has none."""
    return next((entry for entry in sides[0].entries if entry.kind == kind), None)


def as_dict(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """The scores, intervals and differences as JSON values."""
    return [
        {
            "name": side.name,
            "entries": [
                {
                    "kind": entry.kind,
                    "code_size": entry.code_size,
                    "n_queries": len(entry.query_ids),
                    "scores": {
                        score: {
                            "expected": entry.mean(score),
                            "interval_95": entry.interval(score),
                            "signature": entry.signatures.get(score),
                            "less_the_first": _difference_as_dict(sides, entry, score),
                        }
                        for score in entry.per_query
                    },
                    "curves": None if entry.curves is None else entry.curves.as_dict(),
                }
                for entry in side.entries
            ],
        }
        for side in sides
    ]


def settings_that_differ(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """(setting, its value on each side) for all settings that not all sides share; "-" where a side has none."""
    names = list(dict.fromkeys(name for side in sides for name in side.settings))
    rows = [(name, [written(side.settings.get(name)) for side in sides]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def render_comparison(
    sides: Sequence[Side],
    compared: Compared,
    looked_into: Sequence[tuple[str, Analysis]] = (),
    examples: int = 0,
) -> str:
    """The HTML of a comparison, the same text for the same numbers.

    looked_into: models, by name, whose answers are shown picture by picture, all on the same pictures; `examples`: how many
    pictures each of their lists shows.
    """
    entries = [entry for side in sides for entry in side.entries]
    had = dict.fromkeys(score for entry in entries for score in entry.per_query)
    columns = [*(score for score in SCORES if score in had), *(score for score in had if score not in SCORES)]
    kinds = list(dict.fromkeys(entry.kind for entry in entries))
    thumbnails = Thumbnails(looked_into[0][1].pictures) if looked_into else None
    return fill(
        "comparison.html",
        names=[readable(side.name) for side in sides],
        sentences=[readable(sentence, 2000) for sentence in compared.sentences],
        warnings=[readable(sentence, 2000) for sentence in compared.warnings],
        columns=[score.replace("map@", "mAP@").replace("@all", "") for score in columns],
        rows=[_row(sides, entry, columns) for kind in kinds for entry in entries if entry.kind == kind],
        signatures=_signatures(entries, columns),
        curves=[chart for kind in kinds for chart in _curves(kind, [e for e in entries if e.kind == kind])],
        sizes=_sizes(entries),
        settings=[
            (readable(name), [readable(value, 400) for value in values]) for name, values in settings_that_differ(sides)
        ],
        commands=[(what, readable(command, 4000)) for what, command in compared.commands],
        conditions=heat.values(compared.maps),
        tables=[
            {
                "title": table.title,
                "reading": table.reading,
                "header": table.header,
                "rows": [[readable(cell, 400) for cell in row] for row in table.rows],
            }
            for table in compared.tables
        ],
        looked_into=[
            {
                "name": readable(name),
                "at": f"model-{number}-",
                "of": f": {readable(name)}",
                "found": found_by(analysis, thumbnails, examples),
            }
            for number, (name, analysis) in enumerate(looked_into, 1)
            if thumbnails is not None
        ],
        left_out=0 if thumbnails is None else thumbnails.left_out,
    )


def verdicts(sides: Sequence[Side], score: str = "map@all") -> list[str]:
    """A sentence for each entry that can be set against the first of its kind: how much better or worse it is."""
    said = []
    for side in sides[1:]:
        for entry in side.entries:
            base = base_of(sides, entry.kind)
            found = None if base is None else difference(entry, base, score)
            if base is None or found is None:
                continue
            between = f"{abs(found.mean):.4f} mAP, 95 % interval {found.interval[0]:+.4f} to {found.interval[1]:+.4f}"
            if found.is_told:
                how = f"{'better' if found.mean > 0 else 'worse'} than those of {base.name} by {between}"
            else:
                how = f"not to be told from those of {base.name} ({between.replace(' mAP', ' mAP apart')})"
            said.append(f"The {entry.kind} of {entry.name} are {how}.")
    return said


def _meaning(signature: str | None) -> str:
    """A signature without the number of bits."""
    return "|".join(part for part in (signature or "").split("|") if not part.startswith("bits:"))


def _difference_as_dict(sides: Sequence[Side], entry: Entry, score: str) -> dict[str, Any] | None:
    base = base_of(sides, entry.kind)
    found = None if base is None or base is entry else difference(entry, base, score)
    return None if found is None else {"mean": found.mean, "interval_95": found.interval}


def _row(sides: Sequence[Side], entry: Entry, columns: Sequence[str]) -> dict[str, Any]:
    base = base_of(sides, entry.kind)
    cells: list[dict[str, Any]] = []
    for score in columns:
        if score not in entry.per_query or not entry.query_ids:
            cells.append({"value": "", "interval": "", "apart": "", "told": False})
            continue
        found = None if base is None or base is entry else difference(entry, base, score)
        cells.append(
            {
                "value": f"{entry.mean(score):.4f}",
                "interval": "{:.3f} to {:.3f}".format(*entry.interval(score)),
                "apart": "" if found is None else f"{found.mean:+.4f}",
                "between": "" if found is None else "{:+.3f} to {:+.3f}".format(*found.interval),
                "told": found is not None and found.is_told,
            }
        )
    return {
        "name": readable(entry.name),
        "kind": readable(entry.kind),
        "bits": "" if entry.code_size is None else str(entry.code_size),
        "queries": f"{len(entry.query_ids):,}",
        "is_base": entry is base,
        "cells": cells,
    }


def _signatures(entries: Sequence[Entry], columns: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [
        (
            readable(f"{entry.name}: {entry.kind}"),
            [readable(entry.signatures[score], 400) for score in columns if score in entry.signatures],
        )
        for entry in entries
    ]


def _curves(kind: str, entries: Sequence[Entry]) -> list[dict[str, str]]:
    """Both charts of the entries of a kind that have curves."""
    drawn = [(entry.name, entry.curves) for entry in entries if entry.curves is not None]
    if not drawn:
        return []
    lines = [charts.Line(readable(name, 40), each.recall_K, each.precision_K) for name, each in drawn]
    few = [charts.Line(readable(name, 40), *each.first(HIT_RANKS)) for name, each in drawn]
    return [
        {
            "title": f"Precision and recall, by {readable(kind)}",
            "chart": charts.precision_recall(lines, readable(kind)),
            "reading": "The first 1, 2, 3 … pictures of each ranking, equal distances in any order. Higher is better.",
        },
        {
            "title": f"At least one right among the first, by {readable(kind)}",
            "chart": charts.hits(few, readable(kind)),
            "reading": "hit@k: how often one of the first k pictures is of the query's class.",
        },
    ]


def _sizes(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """A chart of scores by code size for each score; nothing where there is one code size."""
    sized = [entry for entry in entries if entry.code_size is not None and entry.query_ids]
    if len({entry.code_size for entry in sized}) < 2:
        return []
    found = []
    for score, title in (("map@all", "mAP"), ("hit@1", "hit@1")):
        points = [
            charts.Point(
                readable(entry.name, 40), float(entry.code_size or 0), entry.mean(score), entry.interval(score)
            )
            for entry in sized
            if score in entry.per_query
        ]
        if points:
            found.append({"title": f"{title} by code size", "chart": charts.sizes(points, title)})
    return found
