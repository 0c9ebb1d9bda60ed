"""The page: numbers and pictures put into page.html and style.css, as one file that refers to no other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from hashret import __version__
from hashret.evaluation.curves import HIT_RANKS
from hashret.metrics import Score
from hashret.report import charts, heat, history, labels, picture_map, ranking
from hashret.report.analysis import CODES, FEATURES, LIGHT, SHORTLIST, SHOWN_NEIGHBOURS, TURN, Analysis
from hashret.report.picture_map import PictureMap
from hashret.report.ranking import Integers
from hashret.report.text import readable
from hashret.report.thumbnails import Thumbnails
from hashret.report.verdict import RunFacts, counted, sentences, shared_signature
from hashret.sheets import result_caption

GENERATOR = '<meta name="generator" content="hashret report">'
"""By which a report is known among other files; stands in its first lines."""

MATRIX_CLASSES, LISTED_PAIRS, LISTED_CLASSES, LISTED_SUSPECTS = 10, 15, 500, 200
MAP_CLASSES = 20
"""Of more, so many are drawn that colours tell them apart."""
SAME_PICTURE = 0.98
"""Two pictures whose pixels correlate so much are very likely one."""


@dataclass(frozen=True)
class Picture:
    """A thumbnail ("" where there is none) with what is written below it, and whether it is right, wrong, unknown or a query."""

    uri: str
    caption: list[str]
    label: str
    id: str
    kind: str


@dataclass(frozen=True)
class Row:
    """A query and what was found for it."""

    title: str
    query: Picture
    results: list[Picture]


def render(run: RunFacts, analysis: Analysis, examples: int) -> str:
    """The HTML of a report, the same text for the same numbers. `examples`: how many pictures each list shows, 0 for none."""
    thumbnails = Thumbnails(analysis.pictures)
    return fill(
        "page.html",
        name=readable(run.name),
        best_epoch=run.best_epoch,
        sentences=[readable(sentence, 2000) for sentence in sentences(run, analysis)],
        findings=[readable(sentence, 2000) for sentence in run.findings],
        panels=_panels(run),
        constants=[f"{readable(name)} {value:g}" for name, value in history.constants(run.history)],
        found={**found_by(analysis, thumbnails, examples), "conditions": _conditions(analysis), "named": _named(run)},
        at="",
        of="",
        settings=_settings(run),
        left_out=thumbnails.left_out,
    )


def found_by(analysis: Analysis, thumbnails: Thumbnails, examples: int) -> dict[str, Any]:
    """What found.html shows of a model: bits, scores, queries, classes, a map and doubted labels; no maps by view and light.

    thumbnails: of the analysis' pictures; models on the same pictures can share them.
    """
    pictures = _Pictures(analysis, thumbnails)
    return {
        "bits": _bits(analysis),
        "scores": _scores(analysis),
        "rank_curves": _rank_curves(analysis),
        "lost": _lost(analysis, pictures, examples),
        "worst": _ranked(analysis, pictures, analysis.worst(examples)),
        "best": _ranked(analysis, pictures, analysis.best(examples // 2)),
        "confused": _confused(analysis, pictures, examples),
        "classes": _classes(analysis),
        "conditions": {},
        "map": _map(analysis),
        "suspects": _suspects(analysis, pictures, examples),
        "named": {"n": 0},
        "twins": _twins(analysis, pictures, examples),
    }


def fill(template: str, **values: Any) -> str:
    """A template of this package with these values, in the frame that all pages share: one file that loads nothing.

    The page says so to the browser, too: nothing but its own script runs, and nothing is fetched.
    """
    script = _packaged("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = _environment().get_template(template)
    return page.render(
        generator=GENERATOR, policy=policy, style=_packaged("style.css"), script=script, version=__version__, **values
    ).lstrip()


class _Pictures:
    """Makes what is shown of a picture."""

    def __init__(self, analysis: Analysis, thumbnails: Thumbnails) -> None:
        self.analysis = analysis
        self.thumbnails = thumbnails

    def query(self, query: int) -> Picture:
        """The picture that asks."""
        return self._picture(int(self.analysis.query_rows_Q[query]), [], "query")

    def row(self, row: int) -> Picture:
        """A picture of which nothing is judged."""
        return self._picture(row, [], "unknown")

    def found(self, query: int, name: str, *, judged: bool = True) -> list[Picture]:
        """The nearest pictures of a query by codes or features, each right or wrong by its label unless that is doubted."""
        nearest = self.analysis.nearest[name]
        shown = []
        for rank, (row, distance) in enumerate(
            zip(
                nearest.rows_QK[query, :SHOWN_NEIGHBOURS].tolist(),
                nearest.distances_QK[query, :SHOWN_NEIGHBOURS].tolist(),
                strict=True,
            ),
            1,
        ):
            if row < 0:
                break
            label = int(self.analysis.labels_P[row])
            kind = (
                "unknown" if label < 0 or not judged else "right" if label == self.analysis.labels_Q[query] else "wrong"
            )
            caption = (
                result_caption(rank, distance, "")
                if name == CODES
                else result_caption(rank, 1 - distance, "", "cosine")
            )
            shown.append(self._picture(row, caption, kind))
        return shown

    def _picture(self, row: int, caption: list[str], kind: str) -> Picture:
        pictures = self.analysis.pictures
        uri = self.thumbnails.uri(row)
        return Picture(uri, caption, readable(pictures.labels[row]), readable(pictures.ids[row]), kind)


def _panels(run: RunFacts) -> list[dict[str, Any]]:
    numbers = history.epochs(run.history)
    return [
        {
            "title": readable(panel.title),
            "reading": panel.reading,
            "chart": charts.curves(panel, numbers, run.best_epoch),
        }
        for panel in history.panels(run.history)
    ]


def _bits(analysis: Analysis) -> dict[str, Any]:
    statistics = analysis.code_statistics
    balance_K = np.array(statistics.balance)
    return {
        "statistics": statistics,
        "classes": len(analysis.classes),
        "separation": analysis.distances.separation,
        "dead": [bit for bit, share in enumerate(statistics.balance) if share in (0.0, 1.0)][:50],
        "pairs": analysis.bit_pairs,
        "balance": charts.balance(balance_K),
        "correlation": charts.correlation_map(analysis.correlation_KK),
        "distances": charts.distances(analysis.distances),
        "activations": charts.activations(analysis.activations),
    }


def _scores(analysis: Analysis) -> dict[str, Any]:
    columns = ("map@all", "map@10", "hit@1", "hit@5", "hit@10", "recall@10")
    rows = []
    for name, result in analysis.results.items():
        cells = [
            {
                "value": f"{result.scores[score].expected:.4f}",
                "interval": "{:.3f} to {:.3f}".format(*analysis.interval(name, score)),
                "orders": _orders(result.scores[score]),
            }
            for score in columns
        ]
        signatures = [result.scores.signature(score) for score in columns]
        rows.append({"name": result.name, "cells": cells, "signatures": signatures})
    return {
        "columns": [name.replace("map@", "mAP@").replace("@all", "") for name in columns],
        "rows": rows,
        "signature": shared_signature(analysis.results[CODES].scores),
        "shortlist": SHORTLIST,
        "n_queries": analysis.results[CODES].scores.n_queries,
        "chart": charts.float_against_binary(analysis.ap[FEATURES], analysis.ap[CODES]),
        "crossed": analysis.crossed().tolist(),
    }


def _orders(score: Score) -> str:
    """The score in the worst and in the best order of ties; "" when they are as good as equal."""
    return f"{score.worst:.4f} to {score.best:.4f}" if score.best - score.worst >= 0.00005 else ""


def _lost(analysis: Analysis, pictures: _Pictures, examples: int) -> dict[str, Any]:
    lost = analysis.lost_to_bits()
    rows = [
        {
            "title": f"AP {analysis.ap[FEATURES][query]:.3f} by features, {analysis.ap[CODES][query]:.3f} by codes",
            "codes": [pictures.query(query), *pictures.found(query, CODES)],
            "features": [pictures.query(query), *pictures.found(query, FEATURES)],
        }
        for query in lost[: examples // 2]
    ]
    return {"n": len(lost), "rows": rows}


def _ranked(analysis: Analysis, pictures: _Pictures, queries: Sequence[int]) -> list[Row]:
    return [
        Row(f"AP {analysis.ap[CODES][query]:.3f}", pictures.query(query), pictures.found(query, CODES))
        for query in queries
    ]


def _rank_curves(analysis: Analysis) -> dict[str, str]:
    curves, radius = analysis.curves, analysis.radius_curve
    return {
        "precision_recall": charts.precision_recall(
            [
                *(charts.Line(name, curve.recall_K, curve.precision_K) for name, curve in curves.items()),
                charts.Line("within a radius", radius.recall_D, radius.precision_D, points=True),
            ],
            "codes and features",
        ),
        "hits": charts.hits(
            [charts.Line(name, *curve.first(HIT_RANKS)) for name, curve in curves.items()], "codes and features"
        ),
    }


def _classes(analysis: Analysis) -> dict[str, Any]:
    scores = analysis.class_scores()
    rows = [
        replace(each, label=readable(each.label), taken_for=readable(each.taken_for))
        for each in scores[:LISTED_CLASSES]
    ]
    return {"n": len(scores), "rows": rows}


_CONDITIONS = {
    TURN: heat.BY_TURN,
    LIGHT: heat.BY_LIGHT,
}


def _conditions(analysis: Analysis) -> dict[str, Any]:
    """Maps of top-1 by view and light, all shaded on one scale; nothing where the pictures tell neither."""
    return heat.values(
        [
            heat.HeatMap(
                f"By {name}: {_CONDITIONS[kind][0]}",
                _CONDITIONS[kind][1],
                [*found.conditions.rows, "all"],
                found.conditions.columns,
                *found.grid(name),
            )
            for kind, found in analysis.conditions.items()
            for name in found.found
        ]
    )


def _map(analysis: Analysis) -> dict[str, Any]:
    """Charts of the map of the pictures, or why there is none."""
    found = analysis.picture_map
    if found is None:
        why_not = (
            f"There is none of fewer than {picture_map.FEWEST_POINTS} pictures, and --map off makes none."
            if picture_map.is_installed()
            else "A map of the pictures is drawn with umap-learn, which is not installed: pip install 'hashret[umap]'"
        )
        return {"charts": [], "why_not": why_not}
    labels_P, classes = analysis.labels_P[found.rows_P], analysis.classes
    present = np.unique(labels_P)
    charts_of = [_map_chart("All classes", f"{counted(len(present), 'class', 'classes')}.", found, labels_P, classes)]
    if len(present) > MAP_CLASSES:
        drawn = np.sort(np.random.default_rng(picture_map.SEED).permutation(present)[:MAP_CLASSES])
        groups_P = np.where(np.isin(labels_P, drawn), np.searchsorted(drawn, labels_P), -1)
        names = [classes[each] for each in drawn.tolist()]
        reading = f"{MAP_CLASSES} classes drawn at random; grey are all others."
        charts_of.append(_map_chart(f"{MAP_CLASSES} random classes", reading, found, groups_P, names))
    splits_P = [analysis.pictures.splits[row] for row in found.rows_P.tolist()]
    splits = sorted(set(splits_P) - {""})
    if len(splits) > 1:
        groups_P = np.array([splits.index(split) if split else -1 for split in splits_P])
        reading = (
            "Where pictures of one split lie beside those of another, and not among them, they are of another kind."
        )
        charts_of.append(_map_chart(" against ".join(map(readable, splits)), reading, found, groups_P, splits))
    n = len(found.rows_P)
    points = counted(n, "picture") if n == found.n else f"{n:,} of {found.n:,} pictures, drawn at random,"
    return {"charts": charts_of, "points": points}


def _map_chart(title: str, reading: str, found: PictureMap, groups_P: Integers, names: Sequence[str]) -> dict[str, Any]:
    legend = [
        (colour, charts.CLASS_MARKS[charts.class_mark(i)], readable(name))
        for i, (colour, name) in enumerate(zip(charts.CLASS_COLOURS, names, strict=False))
    ]
    has_room = len(names) <= len(charts.CLASS_COLOURS)
    chart = charts.places(found.places_P2, groups_P, len(names), f"Map of {len(groups_P):,} pictures: {title}")
    return {"title": title, "reading": reading, "chart": chart, "legend": legend if has_room else []}


def _confused(analysis: Analysis, pictures: _Pictures, examples: int) -> dict[str, Any]:
    totals = np.bincount(analysis.answers.asked_P, weights=analysis.answers.counts_P, minlength=len(analysis.classes))
    wrong = ranking.confused(analysis.answers)
    pairs: list[dict[str, Any]] = []
    for asked, answered, count in list(zip(*(column.tolist() for column in wrong), strict=True))[:LISTED_PAIRS]:
        shown = analysis.mistaken(asked, answered, 2) if len(pairs) < examples else []
        pairs.append(
            {
                "asked": readable(analysis.classes[asked]),
                "answered": readable(analysis.classes[answered]),
                "count": _share_of_votes(count),
                "of": round(totals[asked]),
                "share": count / totals[asked],
                "examples": [(pictures.query(query), pictures.row(row)) for query, row in shown],
            }
        )
    chosen = ranking.most_confused_classes(analysis.answers, MATRIX_CLASSES)
    counts = ranking.matrix(analysis.answers, chosen)
    matrix = [
        {
            "label": readable(analysis.classes[each]),
            "of": round(totals[each]),
            "cells": [
                {
                    "count": _share_of_votes(count) if count > 0 else "",
                    "shade": round(0.6 * count / max(1.0, totals[each]), 3),
                    "right": i == j,
                }
                for j, count in enumerate(counts[i].tolist())
            ],
        }
        for i, each in enumerate(chosen)
    ]
    return {
        "n_wrong": _share_of_votes(float(wrong.counts_P.sum())),
        "n_pairs": len(wrong.counts_P),
        "pairs": pairs,
        "matrix": matrix,
    }


def _share_of_votes(count: float) -> str:
    """A number of votes, a whole one without decimals."""
    return f"{count:.0f}" if abs(count - round(count)) < 0.005 else f"{count:.1f}"


def _suspects(analysis: Analysis, pictures: _Pictures, examples: int) -> dict[str, Any]:
    found = analysis.suspects
    rows: list[dict[str, Any]] = []
    listed = []
    for query, label, confidence, support in zip(*(column[:LISTED_SUSPECTS].tolist() for column in found), strict=True):
        row = int(analysis.query_rows_Q[query])
        says = readable(analysis.classes[label])
        entry = {
            "id": readable(analysis.pictures.ids[row]),
            "label": readable(analysis.pictures.labels[row]),
            "says": says,
            "confidence": confidence,
            "support": support,
            "anyway": ranking.share(analysis.answers, int(analysis.labels_Q[query]), label),
        }
        listed.append(entry)
        if len(rows) < 2 * examples:
            rows.append(
                {**entry, "query": pictures.query(query), "results": pictures.found(query, FEATURES, judged=False)}
            )
    return {"n": len(found.queries_S), "votes": analysis.n_votes, "rows": rows, "listed": listed}


def _named(run: RunFacts) -> dict[str, Any]:
    """The training pictures whose labels the run itself doubts."""
    if run.suspects is None:
        return {"n": 0}
    neighbours = run.suspects.attributes.get("neighbours", [""] * len(run.suspects))
    columns = (run.suspects.ids, run.suspects.labels, neighbours)
    listed = [
        {"id": readable(picture), "label": readable(label), "says": readable(says)}
        for picture, label, says in zip(*(column[:LISTED_SUSPECTS] for column in columns), strict=True)
    ]
    return {"n": len(run.suspects), "listed": listed, "path": readable(run.suspects_path, 4000)}


def _twins(analysis: Analysis, pictures: _Pictures, examples: int) -> dict[str, Any]:
    found, likeness = analysis.twins, analysis.twin_pixels_T
    rows = [
        {
            "pictures": [pictures.row(first), pictures.row(second)],
            "bits": counted(bits, "bit"),
            "cosine": cosine,
            "pixels": pixels,
            "same": pixels >= SAME_PICTURE,
        }
        for first, second, bits, cosine, pixels in zip(
            *(
                column[:examples].tolist()
                for column in (found.first_T, found.second_T, found.bits_T, found.cosines_T, likeness)
            ),
            strict=True,
        )
    ]
    return {"n": found.n, "same": int((likeness >= SAME_PICTURE).sum()), "alike": labels.ALIKE, "rows": rows}


def _settings(run: RunFacts) -> dict[str, Any]:
    def pairs(values: Any) -> list[tuple[str, str]]:
        known = values if isinstance(values, Mapping) else {}
        return [(readable(name), readable(written(value), 400)) for name, value in known.items()]

    about = ("status", "data", "source", "task", "margin", "validation", "pictures", "device", "seconds", "result")
    return {
        "tables": [
            ("Run", pairs({name: run.document[name] for name in about if name in run.document})),
            ("Options", pairs(run.document.get("options"))),
            ("Model", pairs(run.model)),
            ("Versions", pairs({**_versions(run.document), "hashret of this report": __version__})),
        ],
        "commands": [(what, readable(command, 4000)) for what, command in run.commands],
    }


def _versions(document: Mapping[str, Any]) -> dict[str, Any]:
    found = document.get("versions")
    return dict(found) if isinstance(found, Mapping) else {}


def written(value: Any) -> str:
    """A value of JSON as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {written(each)}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(written(each) for each in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_packaged),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _packaged(name: str) -> str:
    return files("hashret.report").joinpath(name).read_text("utf-8")
