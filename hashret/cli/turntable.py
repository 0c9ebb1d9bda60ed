"""`hashret data turntable`: make the project's own data set of cars."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from hashret.errors import UsageError

NAME = "turntable"
HELP = "make the embedded car data set (unseen classes in its test split)"

DESCRIPTION = """\
Example:  hashret data turntable --out cars --classes 24 --test-classes 12 --pictures-per-class 48

Draws pictures of invented car models: parametric bodies, two generations and four colours a model, 24 views, four times of
day. Writes OUT/table.csv, OUT/pictures/SPLIT/LABEL/ID.jpg and OUT/turntable.json. After an interruption the same command
goes on where it stopped.
"""


def size_of(text: str) -> tuple[int, int]:
    """(width, height) of text like 512x384."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give WIDTHxHEIGHT in pixels, such as 512x384")
    return int(width), int(height)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options to the parser."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", metavar="FOLDER", required=True, help="new folder for the set")
    parser.add_argument("--classes", type=int, default=84, metavar="N", help="car models in the train split (84)")
    parser.add_argument(
        "--test-classes", type=int, default=78, metavar="N", help="other models, for the test split (78)"
    )
    parser.add_argument(
        "--pictures-per-class",
        type=int,
        default=96,
        metavar="N",
        help="pictures of a model (96; the full design has 768)",
    )
    parser.add_argument("--size", type=size_of, default=(512, 384), metavar="WxH", help="picture size (512x384)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed gives other cars and pictures (0)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="drawing threads (all cores); changes no byte")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """0 when the set is complete; prints where it is and how fast it was made."""
    if not args.out.strip():
        raise UsageError("--out is empty: give the folder for the set")
    # numba loads here, not when the command line is read.
    from hashret.data.turntable.generate import generate

    started = time.perf_counter()
    table = generate(
        Path(args.out), classes=args.classes, test_classes=args.test_classes,
        pictures_per_class=args.pictures_per_class, seed=args.seed, size=args.size, workers=args.workers,
        progress=not args.json,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    pictures = (args.classes + args.test_classes) * args.pictures_per_class
    if args.json:
        print(json.dumps({
            "table": str(table), "pictures": pictures, "classes": args.classes, "test_classes": args.test_classes,
            "seed": args.seed, "seconds": round(seconds, 2),
        }))  # fmt: skip
    else:
        print(f"{pictures} pictures of {args.classes} + {args.test_classes} car models in {seconds:.1f} s: {table}")
    return 0
