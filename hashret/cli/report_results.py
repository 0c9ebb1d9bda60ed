"""`hashret report RESULT …`: one HTML page about results of one protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import counted, print_json
from hashret.cli.report import again, check_out, is_result, write_page
from hashret.cli.unfinished import kept_until_done, unfinished_beside
from hashret.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from hashret.protocols.result import Result
    from hashret.report.analysis import Analysis
    from hashret.report.comparison import Entry, Side, Table
    from hashret.report.heat import HeatMap

KINDS = {
    "itq": "ITQ codes of the features",
    "asymmetric": "codes, asked with logits",
    "itq of the gallery": "ITQ codes fitted to the gallery",
    "lsh": "LSH codes of the features",
    "frozen": "features before training",
    "pixels": "raw pixels",
    "random": "random codes",
}
"""What kinds of rows are called that are not called what they are."""


def run_results(args: argparse.Namespace) -> int:
    """Read, write the page, print where it is. UsageError for what is no result, and for results of different cards."""
    from hashret.protocols.ranking import check_same_card, names_of
    from hashret.protocols.result import caveats, read_result
    from hashret.report.comparison import Compared, as_dict, render_comparison

    others = [name for name in args.runs if not is_result(Path(name))]
    if others:
        raise UsageError(
            f"{others[0]} is no result, and {args.runs[0]} or another one is; name results alone, or runs alone"
        )
    given = next((flag for flag in ("data", "split", "label_map") if getattr(args, flag)), None)
    given = "on_bad" if given is None and args.on_bad == "skip" else given
    if given is not None:
        raise UsageError(
            f"a result says what it is of, so --{given.replace('_', '-')} would change nothing; leave it out"
        )
    folders = [Path(name) for name in args.runs]
    out = args.out or (folders[0] / "report.html" if len(folders) == 1 else Path("compare.html"))
    check_out(out)
    results = [read_result(folder) for folder in folders]
    check_same_card(results)
    first = results[0].document
    data = first["data"]
    said = [
        f"Protocol {first['protocol']['name']} (card {first['protocol_hash']}): {first['protocol']['title']}.",
        f"{first['protocol']['about']} {counted(data['queries_scored'], 'query', 'queries')} in a gallery of "
        f"{counted(data['gallery'], 'picture')}; {first['rule']}.",
    ]
    several = len(results) > 1
    warnings = [
        f"{called}: {sentence}" if several else sentence
        for called, result in zip(names_of(results), results, strict=True)
        for sentence in caveats(result.document)
    ]
    sides = [
        _side(called, result, f"{called}: " if several else "")
        for called, result in zip(names_of(results), results, strict=True)
    ]
    tables = [*_published(first), *_searches(results), *_strangers(results), *_seen_and_unseen(results)]
    with kept_until_done(unfinished_beside(out)) as workplace:
        looked_into, not_shown = _looked_into(args, results, workplace)
        warnings += not_shown
        compared = Compared(said, warnings, [("Make this page again", again(args))], _maps(results), tables)
        n_bytes = write_page(out, render_comparison(sides, compared, looked_into, args.examples))
    if args.json:
        found = {name: analysis.as_dict() for name, analysis in looked_into}
        document = {"sentences": said, "warnings": warnings, "results": as_dict(sides), "looked_into": found}
        print_json({"out": out, "bytes": n_bytes, **document})
    else:
        print("\n".join([*said, *warnings]))
        print(f"{out}: {counted(len(results), 'result')}; {n_bytes / 1e6:.1f} MB")
    return 0


def _looked_into(
    args: argparse.Namespace, results: list[Result], workplace: Path
) -> tuple[list[tuple[str, Analysis]], list[str]]:
    """Every model of the results once, by name, with what it finds; and sentences about those of which that cannot be shown."""
    from hashret.protocols.findings import find_again, tested_again
    from hashret.protocols.ranking import names_of
    from hashret.report import picture_map

    with_map = args.map == "auto" and picture_map.is_installed()
    found: list[tuple[str, Analysis]] = []
    not_shown = []
    try:
        tested = tested_again(results[0])
    except DataError as error:
        return [], [f"What was found is not shown picture by picture: {error}."]
    met = set()
    for called, result in zip(names_of(results), results, strict=True):
        for model in result.document["models"]:
            if model["fingerprint"] in met:
                continue
            met.add(model["fingerprint"])
            name = f"{called}: {model['name']}" if len(results) > 1 else model["name"]
            try:
                row, analysis = find_again(
                    result,
                    model,
                    tested,
                    workplace=workplace,
                    device=args.device,
                    workers=args.workers,
                    batch_size=args.batch_size,
                    with_map=with_map,
                )
            except (DataError, ModelError) as error:
                not_shown.append(f"What {name} finds is not shown picture by picture: {error}.")
                continue
            found.append((f"{called}: {row}" if len(results) > 1 else row, analysis))
    return found, not_shown


def _side(called: str, result: Result, prefix: str) -> Side:
    """A result on the page; rows of several results are told apart by what these are called, before their names."""
    from hashret.report.comparison import Side

    document = result.document
    settings: dict[str, Any] = {"hashret": document["hashret_version"], "seconds": document["seconds"]}
    for model in document["models"]:
        own = model["settings"] or {}
        # By what it is, so that models that are called differently show where their settings differ.
        title = f"{model['of']} {own['code_size']} bits" if model["of"] == "hash" and own else model["of"]
        settings |= {f"{title}: {name}": value for name, value in own.items()}
    return Side(called, settings, [_entry(result, n, prefix) for n in range(len(document["rows"]))])


def _entry(result: Result, number: int, prefix: str) -> Entry:
    from hashret.evaluation.curves import RankCurves
    from hashret.report.comparison import Entry

    row = result.document["rows"][number]
    per_query = {name: values for (of, name), values in result.per_query.items() if of == number}
    curve = result.document["curves"].get(row["name"])
    return Entry(
        name=prefix + row["name"],
        kind=KINDS.get(row["kind"], row["kind"]),
        code_size=row["bits"],
        query_ids=result.query_ids,
        per_query=per_query,
        signatures={name: row["scores"][name]["signature"] for name in per_query},
        curves=None
        if curve is None
        else RankCurves(*(np.array(curve[name]) for name in ("ranks", "hit", "recall", "precision"))),
    )


def _published(document: dict[str, Any]) -> list[Table]:
    from hashret.report.comparison import Table

    rows = [
        [each["of"], str(each["bits"] or ""), each["score"], f"{each['value']:.4f}", each["source"], each["note"]]
        for each in document["protocol"]["published"]
    ]
    reading = "What others published for this protocol; of the whole release, by a training of their own."
    return [Table("Published", reading, ["of", "bits", "score", "value", "source", "note"], rows)] if rows else []


def _searches(results: list[Result]) -> list[Table]:
    from hashret.protocols.ranking import names_of
    from hashret.report.comparison import Table

    ways = [
        (f"{called}: {model}, {way}", found)
        for called, result in zip(names_of(results), results, strict=True)
        for model, by_way in (result.document["searches"] or {}).items()
        for way, found in by_way.items()
    ]
    if not ways:
        return []
    ks = list(ways[0][1]["recall"])
    rows = [
        [name, *(f"{found['recall'][k]:.4f}" for k in ks), f"{found['bytes_a_picture']:.1f}"] for name, found in ways
    ]
    reading = (
        "Features searched by a product quantiser: the share of the exact nearest that it finds, and memory a picture."
    )
    return [Table("Searches", reading, ["searched by", *(f"recall@{k}" for k in ks), "bytes a picture"], rows)]


def _strangers(results: list[Result]) -> list[Table]:
    from hashret.protocols.ranking import names_of
    from hashret.report.comparison import Table

    rows = []
    for called, result in zip(names_of(results), results, strict=True):
        for model, ways in (result.document["strangers"] or {}).items():
            for way, found in ways.items():
                judged = found["assessment"]
                values = (judged["map_before"], judged["map_after"], judged["auroc"], judged["fpr_at_95_tpr"])
                rows.append([f"{called}: {model}, by {way}", *(f"{value:.4f}" for value in values)])
    reading = (
        "Lists of five classes, with and without the class of strangers before the first that is not likely enough; the "
        "threshold was chosen on validation with other strangers mixed in. FPR: known pictures called strange where 95 % of the "
        "strangers are."
    )
    header = ["told by", "MAP@5 without -1", "with it", "AUROC", "FPR at 95 % TPR"]
    return [Table("Strangers", reading, header, rows)] if rows else []


def _seen_and_unseen(results: list[Result]) -> list[Table]:
    from hashret.protocols.ranking import names_of
    from hashret.report.comparison import Table

    metric = results[0].metric
    rows = [
        [f"{called}: {row['name']}", f"{row['seen'][metric]:.4f}", f"{row['unseen'][metric]:.4f}"]
        for called, result in zip(names_of(results), results, strict=True)
        for row in result.document["rows"]
        if row["seen"]["n_queries"] and row["unseen"]["n_queries"]
    ]
    title, reading = "Classes seen and unseen", f"{metric} of queries whose class was trained on, and of all others."
    return [Table(title, reading, ["", "seen", "unseen"], rows)] if rows else []


def _maps(results: list[Result]) -> list[HeatMap]:
    from hashret.protocols.ranking import names_of
    from hashret.report.heat import BY_LIGHT, BY_TURN, HeatMap

    called_by = {"time by turn": BY_TURN, "time by time": BY_LIGHT}

    def grid(values: list[list[float | None]]) -> Any:
        return np.array([[np.nan if value is None else value for value in line] for line in values])

    several = len(results) > 1
    return [
        HeatMap(
            f"{called + ', ' if several else ''}{name}: {called_by[kind][0]}",
            called_by[kind][1],
            found["rows"],
            found["columns"],
            grid(top1),
            grid(found["findable"]),
            np.array(found["queries"]),
        )
        for called, result in zip(names_of(results), results, strict=True)
        for kind, found in (result.document["conditions"] or {}).items()
        for name, top1 in found["top1"].items()
    ]
