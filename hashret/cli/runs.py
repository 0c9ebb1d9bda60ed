"""`hashret runs`: training runs with their scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hashret.cli.options import add_json_argument, print_json, text_table

EXAMPLE = """\
Example:  hashret runs --runs runs

One line a run, the best validation mAP first. Scores of runs compare only when data, task and validation are the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs lie (default: %(default)s)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table of runs."""
    from hashret.training.runs import find_runs

    found = [_summary(each.folder.name, each.read()) for each in find_runs(args.runs)]
    found.sort(key=lambda summary: -(summary["val_map"] or 0.0))
    if args.json:
        print_json(found)
        return 0
    if not found:
        print(f"no runs in {args.runs}; `hashret train` makes one")
        return 0
    columns = ("run", "status", "epochs", "best", "val_map", "val_hit1", "bits", "margin", "backbone", "task", "data")
    print(text_table(list(columns), [[_cell(summary[column]) for column in columns] for summary in found]))
    return 0


def _summary(name: str, document: dict[str, Any]) -> dict[str, Any]:
    result = document.get("result", {})
    options = document["options"]
    return {
        "run": name,
        "status": document["status"],
        "epochs": f"{result.get('epochs', 0)}/{options['epochs']}",
        "best": result.get("best_epoch"),
        "val_map": result.get("best_map"),
        "val_hit1": result.get("best_hit1"),
        "bits": options["code_size"],
        "margin": document["margin"],
        "backbone": options["backbone"],
        "task": document["task"],
        "validation": document["validation"],
        "data": document["data"],
    }


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
