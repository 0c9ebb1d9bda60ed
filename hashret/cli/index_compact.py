"""`hashret index compact`: an index as one segment, without what was removed."""

from __future__ import annotations

import argparse
from pathlib import Path

from hashret.cli.options import add_json_argument, counted, print_json

EXAMPLE = """\
Example:  hashret index compact cars.index

Writes an index anew as one segment without the rows that were removed since: smaller, and a little faster to search. Ids, order
and answers stay. While it runs the index takes its room on the disk once more; whoever searches it meanwhile is not disturbed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index folder")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compact and print what that gave."""
    from hashret.index.info import describe
    from hashret.index.store import Store

    before = describe(args.index)
    Store.open(args.index).compact()
    after = describe(args.index)
    sizes = [each.total_bytes for each in (before, after)]
    if args.json:
        document = {"index": args.index, "pictures": after.pictures, "removed_rows": before.deleted - after.deleted}
        print_json({**document, "bytes_before": sizes[0], "bytes": sizes[1]})
        return 0
    print(
        f"{args.index}: {counted(after.pictures, 'picture')} in {counted(after.segments, 'segment')} (before {before.segments}), "
        f"{before.deleted - after.deleted:,} removed rows dropped, {sizes[1]:,} bytes (before {sizes[0]:,})"
    )
    return 0
