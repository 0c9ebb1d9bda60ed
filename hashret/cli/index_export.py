"""`hashret index export`: the codes of an index as a file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hashret.cli.options import add_json_argument, check_writable, counted, print_json
from hashret.errors import DataError, UsageError

if TYPE_CHECKING:
    from hashret.index.store import Store

EXAMPLE = """\
Example:  hashret index export cars.index --out codes.parquet

Writes the codes of an index, in their order, to a file whose name says of which kind: .npy (packed codes, as the `ubinary` of
sentence-transformers), .faiss (a flat binary index; with ids around it unless they count from 0), .parquet or .arrow (code, id,
name, path, label, split and attributes; needs pip install 'hashret[arrow]'). A FAISS index does not say how bits stand in a
byte, so --bit-order has to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index folder")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the file to write")
    add_bit_order_argument(parser)
    parser.add_argument("--ids", type=Path, metavar="TXT", help="write the string ids there too, one a line")
    add_json_argument(parser)


def add_bit_order_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --bit-order."""
    parser.add_argument(
        "--bit-order",
        choices=("big", "little"),
        help="the first bit is the most (big) or the least (little) significant of a byte (default: big; FAISS needs it said)",
    )


def run(args: argparse.Namespace) -> int:
    """Write and print."""
    from hashret.index import exchange
    from hashret.index.store import Store

    store = Store.open(args.index)
    exchange.check_bit_order(args.out, args.bit_order)
    if args.ids is not None and args.ids.resolve() == args.out.resolve():
        raise UsageError(f"--out and --ids are both {args.out}; choose another name for one")
    for flag, file in (("--out", args.out), ("--ids", args.ids)):
        if file is not None:
            check_writable(flag, file)
            if file.exists():
                raise UsageError(f"{flag} is {file}, which exists; choose another name, or remove it first")
    names = [] if args.ids is None else _names(store)
    written = exchange.write(store, args.out, args.bit_order)
    if args.ids is not None:
        args.ids.write_text("".join(f"{name}\n" for name in names), "utf-8")
    if args.json:
        print_json(
            {"index": args.index, "file": args.out, "codes": written, "code_size": store.code_size, "ids": args.ids}
        )
        return 0
    print(f"{args.out}: {counted(written, 'code')} of {store.code_size} bits")
    return 0


def _names(store: Store) -> list[str]:
    """The string id of every row; DataError for one that is no line of its own."""
    records = store.records(store.ids)
    names = [
        str(i) if record is None else str(record["id"]) for i, record in zip(store.ids.tolist(), records, strict=True)
    ]
    for name in names:
        if name != name.strip() or not name or "\n" in name or "\r" in name:
            raise DataError(
                f"the id {name!r} is empty or has a line break or blanks at an end, so it cannot be a line of --ids; write "
                ".parquet or .arrow, which hold the ids"
            )
    return names
