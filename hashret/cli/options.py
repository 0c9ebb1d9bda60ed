"""Flags that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashret.data.table import PictureTable

SOURCE_HELP = (
    "a folder of class folders (train/val/test on top are recognised), a flat folder, a CSV (id,path,label,split,...), a "
    "zip of either, or a torchvision data set such as CIFAR10"
)


def add_data_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Declare --data, --split, --label-map and --on-bad; `open_data` reads the first three."""
    parser.add_argument("--data", "--dataset_name", required=required, metavar="SOURCE", help=SOURCE_HELP)
    add_table_arguments(parser)
    parser.add_argument(
        "--on-bad",
        choices=("skip", "fail"),
        default="fail",
        help="a picture that cannot be read: leave it out and list it in a file, or stop (default: %(default)s)",
    )


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --split and --label-map."""
    parser.add_argument(
        "--split", action="append", metavar="NAME", help="take only this split (repeat for several; default: all)"
    )
    parser.add_argument(
        "--label-map", metavar="CSV", help="merge labels: a CSV with the columns label,class; labels not in it stay"
    )


def open_data(args: argparse.Namespace) -> PictureTable:
    """The table that --data, --label-map and --split name. Raises DataError when there is no such source or split."""
    return open_table(args.data, args)


def open_table(source: str, args: argparse.Namespace, *, allow_duplicates: bool = False) -> PictureTable:
    """The table of `source` with --label-map and --split applied."""
    from hashret.data.sources import open_source

    table = open_source(source, args.label_map, allow_duplicates=allow_duplicates)
    return table.where_split(*args.split) if args.split else table
