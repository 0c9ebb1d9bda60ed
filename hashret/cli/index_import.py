"""`hashret index import`: an index of codes that other programs made."""

from __future__ import annotations

import argparse
from pathlib import Path

from hashret.cli.index_export import add_bit_order_argument
from hashret.cli.options import add_json_argument, check_folder_can_be_made, counted, positive, print_json, taken
from hashret.cli.unfinished import unfinished_beside
from hashret.errors import UsageError

EXAMPLE = """\
Example:  hashret index import codes.parquet --out codes.index

Makes an index of packed codes in a file: .npy (uint8, or int8 as the `binary` of sentence-transformers), .faiss (a flat binary
index, with or without ids around it), .parquet or .arrow (a column called code of fixed-size binary; id, name, path, label, split
and other columns beside it are kept). No model belongs to such an index: search it with --code, or from Python."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("file", type=Path, metavar="FILE", help="the file of codes")
    parser.add_argument("--out", required=True, type=Path, metavar="INDEX", help="the index folder to write")
    parser.add_argument(
        "--code-size",
        type=positive,
        metavar="BITS",
        help="where the last byte is not full (default: all bits of all bytes)",
    )
    add_bit_order_argument(parser)
    parser.add_argument("--ids", type=Path, metavar="TXT", help="names of the codes, one a line")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Read, write and print; the index appears whole or not at all."""
    from tqdm import tqdm

    from hashret.data.embeddings import read_ids
    from hashret.index import durable, exchange
    from hashret.index.store import Store

    if taken(args.out):
        raise UsageError(f"{args.out} exists; choose another --out")
    check_folder_can_be_made("--out", args.out)
    source = exchange.read(args.file, args.bit_order)
    bits = args.code_size or source.code_size or 8 * source.n_bytes
    if source.code_size not in (None, bits):
        raise UsageError(
            f"--code-size is {bits}, but {args.file} says its codes have {source.code_size} bits; leave it out"
        )
    if -(-bits // 8) != source.n_bytes:
        raise UsageError(f"--code-size is {bits}, but {args.file} holds codes of {source.n_bytes} bytes")
    names = None if args.ids is None else read_ids(args.ids, source.n_rows)
    out = args.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_beside(out)
    durable.remove(unfinished)  # of an import that was killed
    try:
        with tqdm(
            total=source.n_rows, desc="importing", unit="code", unit_scale=True, disable=None, delay=2, leave=False
        ) as bar:
            store = Store.create(unfinished, code_size=bits)
            exchange.into_store(source, store, names, bar.update)
        durable.move_folder(unfinished, out)
    finally:
        durable.remove(unfinished)
    n = len(Store.open(out))
    if args.json:
        print_json({"index": args.out, "codes": n, "code_size": bits})
        return 0
    print(f"{args.out}: {counted(n, 'code')} of {bits} bits")
    return 0
