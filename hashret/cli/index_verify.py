"""`hashret index verify`: whether every byte of an index is what it was when it was written."""

from __future__ import annotations

import argparse
from pathlib import Path

from hashret.cli.options import add_json_argument, counted, print_json
from hashret.errors import IndexFormatError

EXAMPLE = """\
Example:  hashret index verify cars.index

Reads every byte of an index and compares checksums. Where something is damaged it says which file, and how many pictures that
concerns, and ends with exit status 1; `hashret index repair` keeps the others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index folder")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Read, compare and print; 1 where something is damaged."""
    from tqdm import tqdm

    from hashret.index import damage, manifest

    described = manifest.read(args.index)
    total = sum(file.n_bytes for entry in described.segments for file in entry.files.values())
    with tqdm(total=total, desc="reading", unit="B", unit_scale=True, disable=None, delay=2, leave=False) as bar:
        found = list(damage.find(args.index, described, bar.update))
    if not found:
        damage.check_rows(args.index)
    if args.json:
        damages = [{"segment": each.segment, "file": each.file, "rows": each.n_rows, "why": each.why} for each in found]
        print_json({"index": args.index, "bytes": total, "whole": not found, "damages": damages})
    for each in found if not args.json else ():
        print(f"{each.why} - {counted(each.n_rows, 'row')} of {each.segment}")
    if found:
        raise IndexFormatError(
            f"{counted(len(found), 'file')} of {args.index} {'is' if len(found) == 1 else 'are'} damaged; restore the folder "
            f"from a copy, or keep the rest with `hashret index repair {args.index}`"
        )
    if not args.json:
        print(f"{args.index}: whole, {total:,} bytes read")
    return 0
