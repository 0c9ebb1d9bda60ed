"""`hashret data`: make, check and look at tables of pictures."""

from __future__ import annotations

import argparse
import importlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import (
    SOURCE_HELP,
    add_table_arguments,
    counted,
    open_table,
    positive,
    print_json,
)
from hashret.errors import DataError, UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable

NAME = "data"
HELP = "make, check and look at tables of pictures"

DESCRIPTION = """\
Example:  hashret data check cars/

Tables of pictures: write one as CSV, look for problems, see it at a glance, or make a data set to try things with.
`hashret data COMMAND --help` explains each."""

TABLE = """\
Example:  hashret data table cars/ --out cars.csv

Writes any source as one CSV: id, path, label, split and attributes. Edit it, add columns (x1,y1,x2,y2 cut out a box),
and give it to any command as --data. --unseen 0.5 or --hold-out 0.2 make the splits train and test."""

CHECK = """\
Example:  hashret data check cars/

Decodes every picture and prints one line a problem. Errors: a missing file, an unreadable picture, an id that occurs twice,
exactly the same picture (pixel for pixel, whatever the file format) in two splits. Warnings: a label with a single picture,
near-duplicates in two splits, mirrored or not (crops are not found). Exit status 0 when there is no error, else 1."""

SHEET = """\
Example:  hashret data sheet cars/ --out cars.png --classes 8 --per-class 6

One picture that shows the data set: a row for each of some classes (spread evenly, or drawn with --seed); without labels,
a grid of pictures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their flags."""
    parser.description = DESCRIPTION
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)

    table = _subcommand(commands, "table", "write any source as one CSV", TABLE)
    _source(table)
    table.add_argument("--out", required=True, type=Path, metavar="CSV", help="the CSV to write")
    splitting = table.add_mutually_exclusive_group()
    splitting.add_argument(
        "--unseen", type=float, metavar="SHARE", help="make the last SHARE of the classes, by name, the split test"
    )
    splitting.add_argument(
        "--hold-out", type=float, metavar="SHARE", help="make a random SHARE of every class's pictures the split test"
    )
    table.add_argument("--seed", type=int, default=0, metavar="N", help="for --hold-out (default: %(default)s)")

    check = _subcommand(commands, "check", "one line for each problem of a data set", CHECK)
    _source(check)
    check.add_argument("--threads", type=positive, metavar="N", help="decode on N threads (default: one a core)")

    sheet = _subcommand(commands, "sheet", "a contact sheet of a data set", SHEET)
    _source(sheet)
    sheet.add_argument("--out", required=True, type=Path, metavar="PNG", help="the picture to write (.png or .jpg)")
    sheet.add_argument(
        "--classes", type=positive, default=10, metavar="N", help="at most N classes (default: %(default)s)"
    )
    sheet.add_argument(
        "--per-class", type=positive, default=8, metavar="N", help="at most N pictures of each (default: %(default)s)"
    )
    sheet.add_argument(
        "--size", type=positive, default=144, metavar="PIXELS", help="side of a picture (default: %(default)s)"
    )
    sheet.add_argument("--seed", type=int, metavar="N", help="draw classes and pictures at random with this seed")

    _mount_turntable(commands)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    status: int = args.run_data(args)
    return status


def _subcommand(commands: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run_data={"table": run_table, "check": run_check, "sheet": run_sheet}.get(name))
    return parser


def _mount_turntable(commands: Any) -> None:
    # By name, so that the data commands need nothing of the renderer until it is asked for.
    turntable = importlib.import_module("hashret.cli.turntable")
    parser = _subcommand(commands, turntable.NAME, turntable.HELP, "")
    turntable.add_arguments(parser)
    parser.set_defaults(run_data=turntable.run)


def _source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    add_table_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run_table(args: argparse.Namespace) -> int:
    """Write a source as CSV; prints what it holds."""
    from hashret.data.splitting import split_pictures, split_unseen_classes

    table = open_table(args.source, args)
    if args.unseen is not None:
        table = split_unseen_classes(table, args.unseen)
    elif args.hold_out is not None:
        table = split_pictures(table, args.hold_out, args.seed)
    table.write_csv(args.out)
    summary = summarise(table)
    if args.json:
        print_json({"out": args.out, **summary})
    else:
        print(f"{args.out}: {_in_words(summary)}")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print the problems of a source; the exit status is 1 when one of them is an error."""
    from hashret.data.check import check

    table = open_table(args.source, args, allow_duplicates=True)
    problems = check(table, threads=args.threads)
    counts = Counter(problem.severity for problem in problems)
    if args.json:
        document = {**summarise(table), "errors": counts["error"], "warnings": counts["warning"]}
        document["problems"] = [problem.as_dict() for problem in problems]
        print_json(document)
    else:
        for problem in problems:
            print(problem)
        found = f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}"
        print(f"{table.name}: {_in_words(summarise(table))}; {found}")
    return 1 if counts["error"] else 0


def run_sheet(args: argparse.Namespace) -> int:
    """Draw a contact sheet of a source."""
    from hashret.sheets import SheetPicture, grid

    if args.out.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise UsageError(f"--out is {args.out}; expected a name that ends in .png or .jpg")
    table = open_table(args.source, args)
    rows = choose_rows(table, args.classes, args.per_class, args.seed)
    pictures = [
        None
        if row is None
        else SheetPicture(
            table.paths[row], [table.labels[row] or table.ids[row].rpartition("/")[2]], box=table.box(row)
        )
        for row in rows
    ]
    title = f"{table.name}: {_in_words(summarise(table))}"
    sheet = grid(pictures, columns=args.per_class, picture_side=args.size, title=title)
    try:
        sheet.save(args.out, quality=92)  # PNG takes no notice of it
    except OSError as error:
        raise DataError(f"{args.out} cannot be written ({error.strerror}); choose another --out") from error
    shown = [table.ids[row] for row in rows if row is not None]
    if args.json:
        print_json({"out": args.out, "size": list(sheet.size), "shown": shown})
    else:
        print(f"{args.out}: {counted(len(shown), 'picture')} of {len(table):,}, {sheet.width}x{sheet.height} pixels")
    return 0


def choose_rows(table: PictureTable, classes: int, per_class: int, seed: int | None) -> list[int | None]:
    """Rows for a sheet with `per_class` columns, class after class; None fills up the line of a smaller class.

    Classes and the pictures of each are spread evenly over the table, or drawn with `seed`. A table without labels gives
    classes x per_class pictures in a row.
    """
    import numpy as np

    random = None if seed is None else np.random.default_rng(seed)

    def some(n: int, wanted: int) -> list[int]:
        if n <= wanted:
            return list(range(n))
        if random is not None:
            return sorted(random.choice(n, wanted, replace=False).tolist())
        return [i * n // wanted for i in range(wanted)]

    numbers, names = table.class_ids()
    if not names:
        return list(some(len(table), classes * per_class))
    rows: list[int | None] = []
    for number in some(len(names), classes):
        members = np.flatnonzero(numbers == number)
        chosen = [int(members[i]) for i in some(len(members), per_class)]
        rows += [*chosen, *[None] * (per_class - len(chosen))]
    return rows


def summarise(table: PictureTable) -> dict[str, Any]:
    """Counts of a table: pictures, classes, unlabelled, pictures by split, attribute names."""
    splits = Counter(table.splits)
    return {
        "name": table.name,
        "pictures": len(table),
        "classes": len(set(table.labels) - {""}),
        "unlabelled": sum(not label for label in table.labels),
        "splits": {split: splits[split] for split in sorted(splits) if split},
        "attributes": list(table.attributes),
    }


def _in_words(summary: dict[str, Any]) -> str:
    words = [counted(summary["pictures"], "picture")]
    if summary["classes"]:
        words.append(counted(summary["classes"], "class", "classes"))
        if summary["unlabelled"]:
            words.append(f"{summary['unlabelled']:,} without a label")
    else:
        words.append("no labels")
    words += [f"{split} {count:,}" for split, count in summary["splits"].items()]
    return ", ".join(words)
