"""`hashret index remove`: pictures out of an index."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hashret.cli.options import add_json_argument, add_where_argument, check_where, counted, print_json, printable
from hashret.errors import UsageError

if TYPE_CHECKING:
    from hashret.index.contents import Ids
    from hashret.index.store import Store

EXAMPLE = """\
Example:  hashret index remove cars.index --where "label = 'car 12' and view >= 180"

Takes pictures out of an index, by id or by a condition on their records: all that are named in one commit, or none. The files of
the pictures are not touched, and what was removed takes room until `hashret index compact`."""

SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index folder")
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of pictures, as `hashret query` shows them")
    add_where_argument(parser, "all that meet this condition")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Remove and print."""
    import numpy as np

    from hashret.index.store import Store

    if bool(args.ids) == (args.where is not None):
        raise UsageError("give either ids of pictures to remove or --where CONDITION")
    store = Store.open(args.index)
    if args.where is not None:
        ids = store.chosen(args.where)
        if len(ids):
            check_where(args.where, lambda condition: len(store.chosen(condition)))
    else:
        names = list(dict.fromkeys(args.ids))
        ids = _found(store, names)
        unknown = [name for name, found in zip(names, (ids >= 0).tolist(), strict=True) if not found]
        if unknown:
            raise UsageError(
                f"{counted(len(unknown), 'id')} {'is' if len(unknown) == 1 else 'are'} not in {args.index}, the first is "
                f"{unknown[0]!r}; nothing was removed"
            )
    shown = [record["id"] for record in store.records(ids[:SHOWN]) if record is not None]
    if not args.dry_run and len(ids):
        store.remove(np.asarray(ids))
    left = len(store) - (len(ids) if args.dry_run else 0)
    if args.json:
        print_json({"index": args.index, "removed": len(ids), "dry_run": args.dry_run, "pictures": left})
        return 0
    would = "would be removed" if args.dry_run else "removed"
    named = f" ({', '.join(map(printable, shown))}{', ...' if len(ids) > SHOWN else ''})" if shown else ""
    print(f"{args.index}: {counted(len(ids), 'picture')} {would}{named}, {left:,} {'would be ' * args.dry_run}left")
    return 0


def _found(store: Store, names: list[str]) -> Ids:
    """The id of the row of each name, -1 where there is none: by string id, or the number of a row that has no record."""
    import numpy as np

    ids = store.find(names)
    for place in np.flatnonzero(ids < 0).tolist():
        name = names[place]
        number = int(name) if name.isascii() and name.isdecimal() and len(name) < 20 else -1
        if number in store and store.records([number]) == [None]:
            ids[place] = number
    return ids
