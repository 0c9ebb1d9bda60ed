"""`hashret query`: the nearest pictures in an index, for photos or for a code."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import add_json_argument, check_writable, counted, positive, print_json, text_table
from hashret.errors import UsageError

if TYPE_CHECKING:
    from hashret.images import Box
    from hashret.index.cosine import CosineIndex
    from hashret.index.hamming import HammingIndex

EXAMPLE = """\
Example:  hashret query --index cars.index photo.jpg -k 10 --sheet found.png

Finds the nearest pictures exactly: nearest first, equally near ones in the order in which they were indexed. Photos are
encoded by the model that made the index. --code takes a code in hexadecimal instead and needs no model (and no torch).
With --radius all pictures up to that distance are listed."""

_NEARNESS = {"hamming": "distance", "cosine": "similarity"}
"""How results call their nearness: bits, smaller is nearer, or cosine, larger is nearer."""

SHEET_COLUMNS = 40
"""Results of a query that a contact sheet shows at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "photos", nargs="*", metavar="PHOTO", help="pictures to search with (archive.zip::a/b.jpg works too)"
    )
    parser.add_argument("--index", required=True, type=Path, metavar="INDEX", help="the index folder")
    parser.add_argument("--code", metavar="HEX", help="search with this code, the first bit first, instead of a photo")
    parser.add_argument("-k", type=positive, default=10, metavar="K", help="how many to find (default: %(default)s)")
    parser.add_argument(
        "--radius",
        type=float,
        metavar="R",
        help="find all within this instead: bits, or with --metric cosine the least similarity",
    )
    parser.add_argument(
        "--metric",
        choices=tuple(_NEARNESS),
        help="search codes or float features (default: codes where the index has them)",
    )
    parser.add_argument("--not-itself", action="store_true", help="leave out the result that is the query's own file")
    parser.add_argument(
        "--model", metavar="RUN", help="the model, if it no longer lies where it did when the index was made"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument("--threads", type=positive, metavar="N", help="for the search among codes (default: all cores)")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="write a contact sheet: each query, then what was found, right or wrong outlined where the index knows the "
        "query's label",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    _check(args)
    index = _open(args)
    metric = "hamming" if hasattr(index, "code_size") else "cosine"
    radius = _radius(args.radius, metric)
    if args.code is None:
        queries, names = _encode(args, index, metric), list(args.photos)
    else:
        queries, names = _code(args.code, index), [args.code]
    started = time.perf_counter()
    found = _search(args, index, metric, queries, radius)
    search_ms = (time.perf_counter() - started) * 1000
    results = [_records(distances, ids, index, metric) for distances, ids in found]
    labels = _own_labels(names, queries, results, index, metric) if args.sheet else []
    if args.not_itself:
        results = [
            _without(name, hits)[: args.k if radius is None else None]
            for name, hits in zip(names, results, strict=True)
        ]
    if args.sheet:
        _write_sheet(args.sheet, names, labels, results, metric)
    if args.json:
        print_json(
            {
                "index": args.index,
                "metric": metric,
                "exact": True,
                "pictures": len(index),
                "search_ms": round(search_ms, 3),
                "sheet": args.sheet,
                "queries": [{"query": name, "results": hits} for name, hits in zip(names, results, strict=True)],
            }
        )
        return 0
    here = str(Path.cwd()) + os.sep  # paths below it are shown as one would type them
    unit = "bits" if metric == "hamming" else "cosine"
    for number, (name, hits) in enumerate(zip(names, results, strict=True)):
        what = f"the {len(hits):,} nearest of" if radius is None else f"{len(hits):,} within {radius:g} {unit} of"
        print("\n" * (number > 0) + f"{name}: {what} {counted(len(index), 'picture')}")
        rows = [
            [
                str(hit["rank"]),
                _number(hit[_NEARNESS[metric]]),
                hit["label"] or "-",
                hit["id"],
                hit["path"].removeprefix(here),
            ]
            for hit in hits
        ]
        if rows:
            print(text_table(["rank", unit, "label", "id", "path"], rows))
    if args.sheet:
        print(f"\ncontact sheet: {args.sheet}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if bool(args.photos) == (args.code is not None):
        raise UsageError("give either photos or --code HEX to search with")
    if args.code is not None and (args.metric == "cosine" or args.sheet or args.not_itself):
        raise UsageError(
            "--code searches codes and has no picture; leave out --metric cosine, --sheet and --not-itself"
        )
    if args.sheet:
        if args.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UsageError(f"--sheet is {args.sheet}; name a .png or .jpg file")
        check_writable("--sheet", args.sheet)


def _open(args: argparse.Namespace) -> HammingIndex | CosineIndex:
    from hashret.index.cosine import CosineIndex
    from hashret.index.hamming import HammingIndex
    from hashret.index.store import Store

    if args.metric is None and args.code is None and "hamming" not in Store.open(args.index).metrics:
        return CosineIndex.load(args.index)
    return CosineIndex.load(args.index) if args.metric == "cosine" else HammingIndex.load(args.index)


def _radius(radius: float | None, metric: str) -> float | None:
    """The radius as the index takes it: whole bits, or a similarity."""
    if radius is None:
        return None
    if metric == "cosine":
        if not -1 <= radius <= 1:
            raise UsageError(f"--radius is {radius:g}; for features it is the least cosine similarity, from -1 to 1")
        return radius
    if not math.isfinite(radius) or radius < 0 or radius != int(radius):
        raise UsageError(f"--radius is {radius:g}; for codes it is a whole number of bits, from 0")
    return int(radius)


def _code(text: str, index: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The packed code (1, B) that `text` writes in hexadecimal."""
    from hashret.codes import bytes_per_code, check_codes
    from hashret.errors import CodeError

    n_bytes = bytes_per_code(index.code_size)
    try:
        code = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        code = b""
    if len(code) != n_bytes:
        raise UsageError(
            f"--code is {text!r}; the index holds codes of {index.code_size} bits, so {2 * n_bytes} hexadecimal digits are due"
        )
    try:
        return check_codes(np.frombuffer(code, np.uint8)[None], index.code_size)
    except CodeError as error:
        raise UsageError(f"--code is {text!r}: {error}") from error


def _encode(args: argparse.Namespace, index: HammingIndex | CosineIndex, metric: str) -> np.ndarray[Any, Any]:
    """Codes or features of the photos, from the model that made the index."""
    model = index.model or {}
    where = args.model or model.get("path")
    if where is None:
        raise UsageError("the index does not say which model made it; name one with --model")
    if args.model is None and not Path(where).exists():
        raise UsageError(f"the model of the index, {where}, is gone; say where it lies now with --model")

    from hashret.model.hasher import Hasher

    hasher = Hasher.from_pretrained(where, device=args.device)
    index.check_model(hasher.fingerprint())
    return hasher.encode(args.photos) if metric == "hamming" else hasher.features(args.photos)


def _search(
    args: argparse.Namespace, index: Any, metric: str, queries: np.ndarray[Any, Any], radius: float | None
) -> list[tuple[Sequence[float], Sequence[int]]]:
    """For each query its distances and ids; with --not-itself one more than asked for, to make up for the one left out."""
    threads = {"threads": args.threads} if metric == "hamming" else {}
    if radius is None:
        k = min(args.k + bool(args.not_itself), max(1, len(index)))
        distances, ids = index.search(queries, k, **threads)
        return [(d[i >= 0].tolist(), i[i >= 0].tolist()) for d, i in zip(distances, ids, strict=True)]
    offsets, distances, ids = index.search_radius(queries, radius, **threads)
    return [(distances[a:b].tolist(), ids[a:b].tolist()) for a, b in pairwise(offsets)]


def _records(distances: Sequence[float], ids: Sequence[int], index: Any, metric: str) -> list[dict[str, Any]]:
    """Rank (from 1), distance in bits or cosine similarity, id, path, label, split and attributes of each result."""
    results = []
    for rank, (distance, number, record) in enumerate(zip(distances, ids, index.records(ids), strict=True), 1):
        attributes = dict(record or {"id": str(number)})
        known = {name: attributes.pop(name, "") for name in ("id", "path", "label", "split")}
        results.append({"rank": rank, _NEARNESS[metric]: distance, **known, "attributes": attributes})
    return results


def _place(path: str) -> tuple[str, str]:
    """What two spellings of a path share: the file, links followed, and the member where the file is a zip."""
    from hashret.images import split_zip_path

    archive, member = split_zip_path(path) or (path, "")
    return os.path.realpath(archive), str(member)


def _without(name: str, hits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results other than the query's own file, ranked anew."""
    own = _place(name)
    others = [hit for hit in hits if _place(hit["path"]) != own]
    return [{**hit, "rank": rank} for rank, hit in enumerate(others, 1)]


def _own_labels(
    names: Sequence[str],
    queries: np.ndarray[Any, Any],
    results: Sequence[Sequence[Mapping[str, Any]]],
    index: Any,
    metric: str,
) -> list[str]:
    """The label of each query whose own file is in the index; "" for the others."""
    labels = []
    for row, (name, hits) in enumerate(zip(names, results, strict=True)):
        own = _place(name)
        candidates = list(hits)
        if metric == "hamming" and own not in map(_place, (hit["path"] for hit in hits)):
            # So many pictures may share its code that it is not among the first k.
            _, distances, ids = index.search_radius(queries[row : row + 1], 0)
            candidates = list(_records(distances.tolist(), ids.tolist(), index, metric))
        labels.append(next((str(hit["label"]) for hit in candidates if _place(hit["path"]) == own), ""))
    return labels


def _write_sheet(
    file: Path,
    names: Sequence[str],
    labels: Sequence[str],
    results: Sequence[Sequence[Mapping[str, Any]]],
    metric: str,
) -> None:
    """A contact sheet: each query, then what was found, right or wrong outlined where labels are known."""
    from hashret.sheets import SheetPicture, SheetRow, contact_sheet, result_caption

    if max(map(len, results), default=0) > SHEET_COLUMNS:
        print(f"the contact sheet shows the first {SHEET_COLUMNS} results of each query", file=sys.stderr)
    rows = [
        SheetRow(
            SheetPicture(name, ["query", *([label] if label else [])]),
            [
                SheetPicture(
                    hit["path"],
                    result_caption(hit["rank"], hit[_NEARNESS[metric]], hit["label"], metric),
                    (hit["label"] == label) if label and hit["label"] else None,
                    _box(hit["attributes"]),
                )
                for hit in hits[:SHEET_COLUMNS]
            ],
        )
        for name, label, hits in zip(names, labels, results, strict=True)
    ]
    try:
        contact_sheet(rows).save(file)
    except OSError as error:
        raise UsageError(f"the sheet cannot be written to {file} ({error.strerror or error})") from error


def _box(attributes: Mapping[str, Any]) -> Box | None:
    """The part of the picture that was indexed, None for all of it."""
    try:
        x1, y1, x2, y2 = (float(attributes[column]) for column in ("x1", "y1", "x2", "y2"))
    except (KeyError, ValueError, TypeError):
        return None
    return x1, y1, x2, y2


def _number(distance: float) -> str:
    return str(distance) if isinstance(distance, int) else f"{distance:.4f}"
