"""Flags that several commands share, spelled once."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashret.data.table import PictureTable

SOURCE_HELP = (
    "a folder of class folders (train/val/test on top are recognised), a flat folder, a CSV (id,path,label,split,...), a "
    "zip of either, or a torchvision data set such as CIFAR10"
)


def add_data_arguments(parser: argparse.ArgumentParser, *, required: bool = True, split: bool = True) -> None:
    """Declare --data, --label-map, --on-bad and, unless the command has its own idea of splits, --split."""
    parser.add_argument(
        "--data", "--dataset-name", "--dataset_name", dest="data", required=required, metavar="SOURCE", help=SOURCE_HELP
    )
    add_table_arguments(parser, split=split)
    parser.add_argument(
        "--on-bad",
        choices=("skip", "fail"),
        default="fail",
        help="a picture that cannot be read: leave it out and list it in a file, or stop (default: %(default)s)",
    )


def add_table_arguments(parser: argparse.ArgumentParser, *, split: bool = True) -> None:
    """Declare --label-map and --split."""
    if split:
        parser.add_argument(
            "--split", action="append", metavar="NAME", help="take only this split (repeat for several; default: all)"
        )
    parser.add_argument(
        "--label-map", metavar="CSV", help="merge labels: a CSV with the columns label,class; labels not in it stay"
    )


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --device, --workers and --batch-size, for commands that run a model over pictures."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: by cores and job)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="pictures at once (default: %(default)s)"
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def open_data(args: argparse.Namespace) -> PictureTable:
    """The table that --data, --label-map and --split name. Raises DataError when there is no such source or split."""
    return open_table(args.data, args)


def open_table(source: str, args: argparse.Namespace, *, allow_duplicates: bool = False) -> PictureTable:
    """The table of `source` with --label-map and --split applied."""
    from hashret.data.sources import open_source

    table = open_source(source, args.label_map, allow_duplicates=allow_duplicates)
    split = getattr(args, "split", None)
    return table.where_split(*split) if split else table


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Lines of aligned columns: the first to the left, numbers to the right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def print_json(document: Any) -> None:
    """Print one JSON document, in any script."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return value.item()  # a numpy number


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
