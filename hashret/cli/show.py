"""`hashret show`: a picture and its nearest ones as one PNG."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from hashret.cli.options import (
    SOURCE_HELP,
    add_json_argument,
    add_table_arguments,
    check_writable,
    counted,
    model_place,
    open_table,
    positive,
    print_json,
)
from hashret.errors import UsageError
from hashret.showing import METRICS, nearest_of

EXAMPLE = """\
Example:  hashret show cars.index 12 -k 20

Draws the picture in row 12 of the index and its 20 nearest others into show-12.png, right and wrong ones framed where the index
knows labels. No model is needed: the row's own code is searched. With --data the picture is a row of other data, which the model
that made the index encodes: `hashret show cars.index 3 --data queries/`. A row is a number from 0, or an id."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index folder")
    parser.add_argument("row", metavar="ROW", help="a row number, counted from 0, or an id")
    parser.add_argument("-k", type=positive, default=20, metavar="K", help="how many to find (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="PNG", help="the picture to write (default: show-ROW.png)")
    parser.add_argument("--data", metavar="SOURCE", help=f"the row is one of these pictures: {SOURCE_HELP}")
    add_table_arguments(parser)
    parser.add_argument(
        "--metric", choices=METRICS, help="what is near (default: codes where the index has them, else features)"
    )
    parser.add_argument(
        "--model",
        metavar="RUN",
        help="with --data: the model, if it no longer lies where it did when the index was made",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search, draw, write."""
    named = re.sub(r"[^\w.-]+", "-", args.row)
    out = args.out or Path(f"show-{named}.png")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--out is {out}; name a .png or .jpg file")
    check_writable("--out", out)
    unread = [
        f"--{name.replace('_', '-')}" for name in ("model", "split", "label_map") if getattr(args, name) is not None
    ]
    if args.data is None and unread:
        raise UsageError(f"{unread[0]} is about other pictures than the index's own; add --data, or leave it out")
    data = model = None
    if args.data is not None:
        from hashret.index.store import Store

        data = open_table(args.data, args)
        where = model_place(args.index, Store.open(args.index).model, args.model)

        from hashret.model.hasher import Hasher

        model = Hasher.from_pretrained(where, device=args.device)
    shown = nearest_of(args.index, args.row, args.k, data=data, model=model, metric=args.metric)
    try:
        shown.picture().save(out)
    except OSError as error:
        raise UsageError(f"the picture cannot be written to {out} ({error.strerror or error})") from error
    if args.json:
        print_json(
            {
                "index": args.index,
                "metric": shown.metric,
                "exact": True,
                "out": out,
                "query": dict(shown.query),
                "results": list(shown.results),
            }
        )
    else:
        label = f" ({shown.query['label']})" if shown.query["label"] else ""
        print(f"{out}: row {shown.query['row']}{label} and {counted(len(shown.results), 'picture')} nearest to it")
    return 0
