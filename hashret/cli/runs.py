"""`hashret runs`: training runs with their scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import add_json_argument, print_json, text_table
from hashret.errors import TrainingError

if TYPE_CHECKING:
    from hashret.training.runs import Run

EXAMPLE = """\
Example:  hashret runs --runs runs

One line a run, the best validation mAP first: of codes, or of features where codes are not trained. Scores of runs compare
only when data, task and validation are the same.
The last column names what the log shows to have gone wrong; docs/health.md says what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs lie (default: %(default)s)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table of runs; a run that cannot be read has a line that says so."""
    from hashret.training.runs import find_runs

    found = [_summary(each) for each in find_runs(args.runs)]
    found.sort(key=lambda summary: -(summary["val_map"] or 0.0))
    if args.json:
        print_json(found)
        return 0
    if not found:
        print(f"no runs in {args.runs}; `hashret train` makes one")
        return 0
    columns = (
        "run",
        "status",
        "epochs",
        "best",
        "val_map",
        "val_hit1",
        "bits",
        "objective",
        "margin",
        "backbone",
        "task",
        "data",
        "findings",
    )
    print(text_table(list(columns), [[_cell(column, summary[column]) for column in columns] for summary in found]))
    return 0


def _summary(run: Run) -> dict[str, Any]:
    """What a run set out to do, and how far it came: by its log, which a running or killed one has too."""
    from hashret.training.diagnosis import found_in
    from hashret.training.runs import best_of

    try:
        document, history = run.read(), run.history()
    except (TrainingError, OSError, ValueError):
        document, history = {"status": "unreadable"}, []
    options = document.get("options", {})
    best = best_of(history, options)
    return {
        "run": run.folder.name,
        "status": document["status"],
        "epochs": f"{max((line['epoch'] for line in history), default=0)}/{options['epochs']}" if options else None,
        "best": best.epoch,
        "val_map": best.map,
        "val_hit1": best.hit1,
        "bits": options.get("code_size"),
        "objective": options.get("objective"),
        "margin": document.get("margin"),
        "backbone": options.get("backbone"),
        "task": document.get("task"),
        "validation": document.get("validation"),
        "data": document.get("data"),
        "findings": [finding.cause for finding in found_in(document, history)],
    }


def _cell(column: str, value: Any) -> str:
    if value is None or value == []:
        return "-"
    if column == "findings":
        return "; ".join(value)
    if column in ("val_map", "val_hit1"):
        return f"{value:.4f}"
    return f"{value:g}" if column == "margin" else str(value)
