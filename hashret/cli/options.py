"""Flags that several commands share, spelled once."""

from __future__ import annotations

import argparse
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.errors import UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable

SOURCE_HELP = (
    "a folder of class folders (train/val/test on top are recognised), a flat folder, a CSV (id,path,label,split,...), a "
    "zip of either, a release and its folder (cub:, cub-unseen:, dogs:, compcars:, lists:, car-retrieval: or "
    "distractors:FOLDER), or a torchvision data set such as CIFAR10"
)


def add_data_arguments(parser: argparse.ArgumentParser, *, required: bool = True, split: bool = True) -> None:
    """Declare --data, --label-map, --on-bad and, unless the command has its own idea of splits, --split."""
    parser.add_argument(
        "--data", "--dataset-name", "--dataset_name", dest="data", required=required, metavar="SOURCE", help=SOURCE_HELP
    )
    add_table_arguments(parser, split=split)
    parser.add_argument(
        "--on-bad",
        choices=("skip", "fail"),
        default="fail",
        help="a picture that cannot be read: leave it out and list it in a file, or stop (default: fail)",
    )


def add_table_arguments(parser: argparse.ArgumentParser, *, split: bool = True) -> None:
    """Declare --label-map and --split."""
    if split:
        parser.add_argument(
            "--split", action="append", metavar="NAME", help="take only this split (repeat for several; default: all)"
        )
    parser.add_argument(
        "--label-map", metavar="CSV", help="merge labels: a CSV with the columns label,class; labels not in it stay"
    )


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what commands that run a model over pictures have in common: see `encoding_settings`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--workers", type=not_negative, metavar="N", help="processes that read pictures (default: by cores and job)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="pictures at once (default: %(default)s)"
    )
    parser.add_argument(
        "--deterministic-codes",
        action="store_true",
        help="on a GPU, compute in float32 (without TF32, by deterministic algorithms): the codes of a CPU up to rounding; "
        "without it, in float16, which is faster and turns about one bit in several thousand, next to its threshold; CPUs "
        "always compute in float32",
    )
    parser.add_argument(
        "--cache",
        choices=("auto", "on", "off"),
        default="off",
        help="keep pictures resized in the user's cache folder for the next time the same ones are encoded, the same bytes; "
        "auto: where that takes at most half of the memory and of the free disk (default: %(default)s)",
    )


def encoding_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_compute_arguments` declares, but for the device, as `encode_table` takes it."""
    return {
        "batch_size": args.batch_size,
        "workers": args.workers,
        "precision": "float32" if args.deterministic_codes else "auto",
        "cache": args.cache,
    }


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_where_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare --where."""
    parser.add_argument(
        "--where",
        type=_condition,
        metavar="CONDITION",
        help=f'{what}: id, path, label, split and attributes compared with numbers and texts, as in "view = 90 and time in '
        "('day', 'night')\"; =, !=, <, <=, >, >=, in, is null, and, or, not, brackets",
    )


def check_where(where: str, count: Callable[[str], int]) -> None:
    """UsageError where a condition asks for an attribute that no picture has; count: how many meet another condition.

    A misspelt name would be null for all of them, and `is null` or `not` then choose everything.
    """
    from hashret.index.records import FIELDS
    from hashret.index.where import Condition

    for name in Condition(where).names:
        quoted = '"' + name.replace('"', '""') + '"'
        if name not in FIELDS and not count(f"{quoted} is not null"):
            raise UsageError(
                f"no picture in the index has an attribute {name!r}; `hashret index info` lists what there is"
            )


def open_data(args: argparse.Namespace) -> PictureTable:
    """The table that --data, --label-map and --split name. Raises DataError when there is no such source or split."""
    return open_table(args.data, args)


def open_table(source: str, args: argparse.Namespace, *, allow_duplicates: bool = False) -> PictureTable:
    """The table of `source` with --label-map and --split applied."""
    from hashret.data.sources import open_source

    table = open_source(source, args.label_map, allow_duplicates=allow_duplicates)
    split = getattr(args, "split", None)
    return table.where_split(*split) if split else table


def model_place(index: Path, described: Mapping[str, Any] | None, given: str | None) -> str | Path:
    """Where the model of an index lies: as --model says (`given`), or as the index was told when it was made.

    index, described: the folder of the index and what it says of its model, whose path may be one inside the folder.
    UsageError when neither says, or when nothing is there any more.
    """
    path = (described or {}).get("path")
    if given is not None:
        return given
    if path is None:
        raise UsageError("the index does not say which model made it; name one with --model")
    where = index / str(path)
    if not where.exists():
        raise UsageError(f"the model of the index, {where}, is gone; say where it lies now with --model")
    return where


def positive(text: str) -> int:
    """The number that a flag's text writes, from 1."""
    return _whole_number(text, 1)


def not_negative(text: str) -> int:
    """The number that a flag's text writes, from 0."""
    return _whole_number(text, 0)


def _condition(text: str) -> str:
    from hashret.errors import SearchError
    from hashret.index.where import Condition

    try:
        Condition(text)
    except SearchError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _whole_number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from {least}")
    return number


def taken(place: Path) -> bool:
    """Whether something is there already; an empty folder is nothing yet."""
    return place.exists() and (not place.is_dir() or any(place.iterdir()))


def check_writable(flag: str, file: Path) -> None:
    """UsageError when `file`, which `flag` names, cannot be written; asked before long work, not after it."""
    folder = file.absolute().parent
    if file.is_dir():
        raise UsageError(f"{flag} is {file}, which is a folder; name a file")
    if not folder.is_dir():
        raise UsageError(f"{flag} is {file}, but there is no folder {folder}; make it, or choose another name")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{flag} is {file}, but nothing can be written to {folder}; choose another name")


def check_folder_can_be_made(flag: str, folder: Path) -> None:
    """UsageError when `folder`, which `flag` names, can be neither written nor made; asked before long work."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UsageError(f"{flag} is {folder}, but nothing can be written to {place}; choose another place")


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 picture, 2,000 pictures."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def say_skipped(n: int, file: Path) -> None:
    """Say on standard error how many pictures were left out, and where they are listed."""
    were = "picture cannot be read; it is" if n == 1 else "pictures cannot be read; they are"
    print(f"{n:,} {were} listed in {file}", file=sys.stderr)


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Lines of aligned columns, numbers to the right; wide characters count as two columns, line breaks are escaped."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(header))]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = []
        for cell, width, right in zip(row, widths, numeric, strict=True):
            space = " " * (width - _width(cell))
            padded.append(space + cell if right else cell + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """The text without anything that would move a terminal's cursor; Unicode's composed form, as terminals show it."""
    composed = unicodedata.normalize("NFC", text)
    if composed.isprintable():
        return composed
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in composed)


def _width(text: str) -> int:
    """Columns that a terminal needs: two for a Hangul syllable or a Han character, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def print_json(document: Any) -> None:
    """Print one JSON document, in any script."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return value.item()  # a numpy number


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
