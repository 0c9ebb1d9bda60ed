"""`hashret index info`: what an index holds, and what it takes on the disk."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from hashret.cli.options import add_json_argument, counted, print_json

EXAMPLE = """\
Example:  hashret index info cars.index

Says what an index holds: how many pictures, codes and features, the model that made them, attributes that --where can ask for,
and how many bytes each part takes. Only small files are read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index folder")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from hashret.index.info import describe

    found = describe(args.index)
    if args.json:
        print_json({"index": args.index, **dataclasses.asdict(found)})
        return 0
    print(
        "\n".join(
            [f"{args.index}: {counted(found.pictures, 'picture')} in generation {found.generation}", *found.lines()]
        )
    )
    return 0
