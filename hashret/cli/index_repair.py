"""`hashret index repair`: an index without what is damaged."""

from __future__ import annotations

import argparse
from pathlib import Path

from hashret.cli.options import add_json_argument, counted, print_json

EXAMPLE = """\
Example:  hashret index repair cars.index

Keeps of a damaged index what is whole, and says what is lost: pictures whose codes, ids or features are in a damaged block, and
the paths and labels of a segment whose records are damaged. The damaged files are copied to INDEX/damaged first; remove that
folder when nothing in it is needed. `hashret index PICTURES --out INDEX --sync` indexes again what is lost."""

SHOWN = 20
"""Lost pictures that are named, without --json."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index folder")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Repair and print what was found and what is left."""
    from tqdm import tqdm

    from hashret.index import damage, storage

    with tqdm(desc="reading", unit="B", unit_scale=True, disable=None, delay=2, leave=False) as bar:
        done = damage.repair(args.index, bar.update)
    left = len(storage.load(args.index)[1])
    if args.json:
        print_json(
            {
                "index": args.index,
                "damages": [{"segment": each.segment, "file": each.file, "why": each.why} for each in done.damages],
                "manifest_from": done.manifest_from,
                "lost": done.lost,
                "rows_lost": done.rows_lost,
                "records_lost": done.records_lost,
                "deletes_lost": done.deletes_lost,
                "pictures": left,
            }
        )
        return 0
    for each in done.damages:
        print(each.why)
    if done.manifest_from is not None:
        print(f"the manifest was damaged, and was taken from {done.manifest_from.name}")
    if done.records_lost:
        print(f"{counted(done.records_lost, 'picture')} kept, but without path, label and attributes")
    if done.deletes_lost:
        print(f"{counted(done.deletes_lost, 'picture')} that had been removed may be back")
    for name in done.lost[:SHOWN]:
        print(f"lost: {name}")
    if len(done.lost) > SHOWN:
        print(f"lost: {len(done.lost) - SHOWN:,} more (--json names all)")
    damaged = bool(done.damages or done.manifest_from)
    said = f"repaired, {done.rows_lost:,} lost" if damaged else "nothing is damaged"
    print(f"{args.index}: {said}, {counted(left, 'picture')}")
    return 0
