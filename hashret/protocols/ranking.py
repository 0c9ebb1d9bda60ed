"""Results of one card, compared query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hashret.errors import UsageError
from hashret.metrics import bootstrap_interval
from hashret.protocols.result import Result
from hashret.protocols.rows import CONTROLS


@dataclass(frozen=True)
class Ranked:
    """A row of one of the results: its score, and by how much it is below the first of the ranking, with 95 % intervals."""

    result: str
    name: str
    kind: str
    bits: int | None
    score: float
    interval: tuple[float, float]
    below_first: float
    below_interval: tuple[float, float]

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference leaves 0 out: chance in the choice of queries does not explain it."""
        return self.below_interval[0] > 0 or self.below_interval[1] < 0


def check_same_card(results: Sequence[Result]) -> None:
    """UsageError unless all are of the same card, the same version of it, the same pictures in the same parts, and one rule.

    Pictures are the same by id, label and split, and by the bytes of their files as far as results know them.
    """
    first = results[0]
    for other in results[1:]:
        if other.card != first.card:
            one, two = (f"{each.folder} is of {each.card[0]} (card {each.card[1]})" for each in (first, other))
            raise UsageError(f"{one} and {two}; scores of different protocols cannot be ranked")
        same = other.document["splits_hash"] == first.document["splits_hash"] and other.query_ids == first.query_ids
        if not same:
            raise UsageError(
                f"{first.folder} and {other.folder} are of {first.card[0]}, but of other pictures, labels or splits; run both on "
                "the same data"
            )
        if other.document["rule"] != first.document["rule"]:
            raise UsageError(
                f"{first.folder} and {other.folder} are of {first.card[0]}, but other pictures leave a query's gallery "
                f"({first.document['rule']}; {other.document['rule']}); run both on the same data"
            )
    known = [result for result in results if result.document["pictures_hash"] is not None]
    for other in known[1:]:
        if other.document["pictures_hash"] != known[0].document["pictures_hash"]:
            raise UsageError(
                f"{known[0].folder} and {other.folder} are of the same ids, labels and splits, but the files of the pictures "
                "differ; run both on one copy of the data"
            )


def names_of(results: Sequence[Result]) -> list[str]:
    """What results are called: by their folders' names, or by their paths where those are the same."""
    short = [result.folder.absolute().name for result in results]
    return [name if short.count(name) == 1 else str(result.folder) for name, result in zip(short, results, strict=True)]


def rank(results: Sequence[Result], *, controls: bool = False) -> list[Ranked]:
    """All rows of all results, the best first, ties in the order given; controls (of rows.CONTROLS) only when asked for.

    Differences are of the same queries (paired bootstrap, 1,000 resamples), each against the first row of the ranking.
    """
    check_same_card(results)
    metric = results[0].metric
    found: list[tuple[Result, str, int, dict[str, Any]]] = [
        (result, called, number, row)
        for result, called in zip(results, names_of(results), strict=True)
        for number, row in enumerate(result.document["rows"])
        if controls or row["kind"] not in CONTROLS
    ]
    found.sort(key=lambda each: -each[3]["scores"][metric]["expected"])
    if not found:
        return []
    best = found[0][0].per_query[found[0][2], metric]
    ranked = []
    for result, called, number, row in found:
        below = best - result.per_query[number, metric]
        ranked.append(
            Ranked(
                called,
                row["name"],
                row["kind"],
                row["bits"],
                row["scores"][metric]["expected"],
                tuple(row["intervals_95"][metric]),
                float(below.mean()),
                bootstrap_interval(below),
            )
        )
    return ranked
