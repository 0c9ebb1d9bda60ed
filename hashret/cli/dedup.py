"""`hashret dedup`: groups of near-duplicates in an index or among the pictures of a folder."""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_writable,
    counted,
    not_negative,
    open_data,
    positive,
    print_json,
    text_table,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, UsageError
from hashret.showing import box_of

if TYPE_CHECKING:
    from hashret.index.hamming import HammingIndex
    from hashret.index.near_duplicates import NearDuplicates
    from hashret.sheets import SheetPicture

EXAMPLE = """\
Example:  hashret dedup --index cars.index --radius 3 --sheet groups.png --out groups.csv

Finds every pair of pictures whose codes are at most --radius bits apart, exactly, and lists the groups that such pairs form.
A chain of near pictures is one group, so its ends may be farther apart than the radius. The distance of a picture is that to
the first of its group. Nothing is deleted. With --data and --model pictures are encoded first; interrupted, that goes on where
it stopped when the same command is typed again. To ask more than once make an index (hashret index), whose codes stay."""

COLUMNS = ("group", "id", "path", "label", "distance")
LISTED = 8
"""Pictures of a group that its line names at most."""
SHEET_GROUPS, SHEET_COLUMNS = 50, 12
"""Groups, and pictures of each, that a contact sheet shows at most."""
_RECORDS_AT_ONCE = 4096


@dataclass(frozen=True)
class Group:
    """Pictures that are near-duplicates of each other: their records, and distances to the first."""

    number: int
    records: Sequence[Mapping[str, Any]]
    distances: Sequence[int]

    def rows(self) -> list[dict[str, Any]]:
        """The columns of each picture."""
        return [
            {"group": self.number, "id": r["id"], "path": r.get("path", ""), "label": r.get("label", ""), "distance": d}
            for r, d in zip(self.records, self.distances, strict=True)
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("--index", type=Path, metavar="INDEX", help="the index folder to look through")
    add_data_arguments(parser, required=False)
    parser.add_argument("--model", metavar="RUN", help="with --data: a run or model folder; RUN@3 is its third epoch")
    parser.add_argument(
        "--radius", type=not_negative, default=3, metavar="R", help="bits that may differ (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="CSV", help=f"write a line for each picture of a group: {','.join(COLUMNS)}"
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="write a contact sheet: a row for each group; a picture with another label than the first is crossed",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="for the search among codes (default: all cores)")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    _check(args)
    source = str(args.index or args.data)
    # What was encoded is kept until all that was asked for is written: comparing may take long, too.
    with contextlib.nullcontext() if args.data is None else kept_until_done(_workplace(args)) as workplace:
        index, skipped_list = _index(args, workplace)
        found = _near_duplicates(index, args.radius, args.threads)
        _say_chains(found, args.radius)
        if args.out:
            _write_csv(args.out, index, found)
        sheet = args.sheet if len(found) else None
        if sheet:
            _write_sheet(sheet, index, found, f"{source}: {_in_words(found, args.radius, len(index))}")
        elif args.sheet:
            print("there are no groups, so no contact sheet was written", file=sys.stderr)
    if args.json:
        print_json(
            {
                "source": source,
                "radius": args.radius,
                "exact": True,
                "pictures": len(index),
                "in_groups": len(found.ids),
                "out": args.out,
                "sheet": sheet,
                "skipped_list": skipped_list,
                "groups": [_document(group) for group in _groups(index, found)],
            }
        )
        return 0
    if len(found):
        lines = [_line(group) for group in _groups(index, found)]
        print(text_table(["group", "pictures", "bits", "ids"], lines))
    print(f"{source}: {_in_words(found, args.radius, len(index))}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if (args.index is None) == (args.data is None):
        raise UsageError("give either --index INDEX, or --data SOURCE with --model RUN")
    if args.data is not None and args.model is None:
        raise UsageError("--data needs --model RUN, the model that turns its pictures into codes")
    if args.index is not None and (args.model or args.split or args.label_map):
        raise UsageError("an index holds codes and labels already; leave out --model, --split and --label-map")
    if args.sheet:
        if args.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UsageError(f"--sheet is {args.sheet}; name a .png or .jpg file")
        check_writable("--sheet", args.sheet)
    if args.out:
        check_writable("--out", args.out)
    elif args.data is not None and not os.access(Path.cwd(), os.W_OK):
        raise UsageError(
            f"nothing can be written to {Path.cwd()}, where what is encoded is kept until it is compared; name a file in "
            "another folder with --out"
        )


def _workplace(args: argparse.Namespace) -> Path:
    """The folder that keeps what is encoded: named after --out, or after the pictures and the model where nothing is written.

    Then a digest of both tells apart what is called alike, and it lies in the folder where the command is typed.
    """
    if args.out:
        return unfinished_beside(args.out)
    job = [str(_source(args)), str(Path(args.model).absolute()), sorted(args.split or [])]
    digest = hashlib.sha256(json.dumps(job).encode(errors="surrogatepass")).hexdigest()
    return unfinished_beside(Path(f"{_source(args).name}.{digest[:8]}"))


def _source(args: argparse.Namespace) -> Path:
    """The pictures' place with a name even where "." was typed; a data set of torchvision's is as if it lay here."""
    return Path(args.data).resolve()


def _index(args: argparse.Namespace, workplace: Path | None) -> tuple[HammingIndex, Path | None]:
    """The index that was named, or one in memory of the pictures that were; and where those left out are listed."""
    from hashret.index.hamming import HammingIndex

    if workplace is None:
        return HammingIndex.load(args.index), None
    table = open_data(args)

    from hashret.model.hasher import Hasher

    hasher = Hasher.from_pretrained(args.model, device=args.device)
    listed = Path(f"{args.out or _source(args).name}.skipped.txt")
    encoded, skipped_list = encode(args, hasher, table, ["codes"], workplace, listed, "nothing was compared")
    assert encoded.codes is not None
    index = HammingIndex(hasher.code_size)
    index.add(encoded.codes, records=table.select(encoded.rows).records())
    return index, skipped_list


def _near_duplicates(index: HammingIndex, radius: int, threads: int | None) -> NearDuplicates:
    """The groups; a bar on a terminal where it takes longer than two seconds."""
    from tqdm import tqdm

    from hashret.index.near_duplicates import near_duplicates

    with tqdm(desc="comparing", unit="pair", unit_scale=True, disable=None, delay=2, leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return near_duplicates(index, radius, threads, report)


def _say_chains(found: NearDuplicates, radius: int) -> None:
    """Say on standard error which groups hold more than near-duplicates of their first picture."""
    farthest = [max(found.distances[start:stop].tolist()) for start, stop in pairwise(found.offsets.tolist())]
    chains = [distance for distance in farthest if distance > radius]
    if chains:
        one, many = "group is a chain of near pictures that leads", "groups are chains of near pictures that lead"
        print(
            f"{counted(len(chains), one, many)} up to {max(chains)} bits away from the first; a smaller --radius cuts it",
            file=sys.stderr,
        )


def _groups(index: HammingIndex, found: NearDuplicates) -> Iterator[Group]:
    """The groups with their records, of which only some thousands are read at a time."""
    number = 0
    while number < len(found):
        start = found.offsets[number]
        stop = number + 1
        while stop < len(found) and found.offsets[stop + 1] - start <= _RECORDS_AT_ONCE:
            stop += 1
        ids = found.ids[start : found.offsets[stop]]
        records = [record or {"id": str(i)} for i, record in zip(ids.tolist(), index.records(ids), strict=True)]
        distances = found.distances[start : found.offsets[stop]].tolist()
        for begin, end in pairwise((found.offsets[number : stop + 1] - start).tolist()):
            number += 1
            yield Group(number, records[begin:end], distances[begin:end])


def _in_words(found: NearDuplicates, radius: int, n: int) -> str:
    bits = counted(radius, "bit")
    if not len(found):
        return f"no near-duplicates within {bits} among {counted(n, 'picture')}"
    surplus = len(found.ids) - len(found)
    return (
        f"{counted(len(found), 'group')} within {bits}, {len(found.ids):,} of {counted(n, 'picture')}; "
        f"{surplus:,} besides the first of each"
    )


def _line(group: Group) -> list[str]:
    """What the printed table says of a group."""
    names = [str(record["id"]) for record in group.records[:LISTED]]
    more = len(group.records) - len(names)
    ids = "  ".join(names) + (f"  and {more:,} more" if more else "")
    return [str(group.number), str(len(group.records)), str(max(group.distances)), ids]


def _document(group: Group) -> dict[str, Any]:
    """A group as JSON."""
    pictures = [{name: row[name] for name in COLUMNS[1:]} for row in group.rows()]
    return {"group": group.number, "largest_distance": max(group.distances), "pictures": pictures}


def _write_csv(file: Path, index: HammingIndex, found: NearDuplicates) -> None:
    """A line for each picture of a group; the file is there whole or not at all."""
    from hashret.index import durable

    text = io.StringIO(newline="")
    text.write(",".join(COLUMNS) + "\n")
    # Every text in quotes: a carriage return in a name would otherwise stay bare.
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for group in _groups(index, found):
        writer.writerows(group.rows())
    try:
        durable.replace_file(file, text.getvalue().encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror}); choose another --out") from error


def _write_sheet(file: Path, index: HammingIndex, found: NearDuplicates, title: str) -> None:
    """A contact sheet: a row for each group, its first picture set apart."""
    from hashret.sheets import SheetRow, contact_sheet

    shown = list(islice(_groups(index, found), SHEET_GROUPS))
    if len(found) > len(shown) or max(len(group.records) for group in shown) > SHEET_COLUMNS:
        print(
            f"the contact sheet shows at most {SHEET_GROUPS} groups and {SHEET_COLUMNS} pictures of each",
            file=sys.stderr,
        )
    rows = []
    for group in shown:
        first, *others = [_sheet_picture(group, place) for place in range(min(len(group.records), SHEET_COLUMNS))]
        rows.append(SheetRow(first, others))
    try:
        contact_sheet(rows, title=title).save(file)
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror or error}); choose another --sheet") from error


def _sheet_picture(group: Group, place: int) -> SheetPicture:
    """A picture of a group; wrong where its label is known to be another than that of the first."""
    from hashret.sheets import SheetPicture

    record, label = group.records[place], group.records[place].get("label", "")
    expected = group.records[0].get("label", "")
    near = counted(group.distances[place], "bit")
    heading = near if place else f"group {group.number} · {counted(len(group.records), 'picture')}"
    return SheetPicture(
        record.get("path", ""),
        [heading, label, str(record["id"]).rpartition("/")[2]],
        False if label and expected and label != expected else None,
        box_of(record),
    )
