"""`hashret score`: the leave-one-out top-1 of a list of nearest neighbours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hashret.cli.options import add_json_argument, print_json
from hashret.errors import DataError

EXAMPLE = """\
Example:  hashret score neighbours.txt --labels labels.csv

Prints the share of pictures whose nearest other picture has their own label: top-1, leave one out. The list has a line
`query_id nearest_id` for every labelled picture, as `hashret submit` writes it; the labels are a CSV file with the columns
id and label. Standard output is the number alone, in full."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("neighbours", type=Path, metavar="NEIGHBOURS", help="a text file, `query_id nearest_id` a line")
    parser.add_argument("--labels", required=True, type=Path, metavar="CSV", help="the columns id and label")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Read, compare, print."""
    from hashret.evaluation import nearest_lists

    nearest, labels = nearest_lists.read(args.neighbours), nearest_lists.read_labels(args.labels)
    right = nearest_lists.hits(nearest, labels, str(args.neighbours))
    if not labels:
        raise DataError(f"{args.labels} has no labels, so there is nothing to score")
    top1 = right / len(labels)
    if args.json:
        print_json({"top1": top1, "right": right, "queries": len(labels), "classes": len(set(labels.values()))})
        return 0
    print(f"{right:,} of {len(labels):,} have a nearest neighbour of their own label", file=sys.stderr)
    print(repr(top1))
    return 0
