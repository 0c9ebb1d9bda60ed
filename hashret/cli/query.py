"""`hashret query`: the nearest pictures in an index, for photos or for a code."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import add_json_argument, print_json, text_table
from hashret.errors import UsageError

if TYPE_CHECKING:
    from hashret.index.cosine import CosineIndex
    from hashret.index.hamming import HammingIndex

EXAMPLE = """\
Example:  hashret query --index cars.index photo.jpg -k 10 --sheet found.png

Finds the nearest pictures exactly: ascending by distance, equal distances in the order in which the pictures were indexed.
Photos are encoded by the model that made the index. --code takes a code in hexadecimal instead and needs no model (and no
torch). With --radius all pictures up to that distance are listed."""

_NEARNESS = {"hamming": "distance", "cosine": "similarity"}
"""How results call their nearness: bits, smaller is nearer, or cosine, larger is nearer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "photos", nargs="*", metavar="PHOTO", help="pictures to search with (archive.zip::a/b.jpg works too)"
    )
    parser.add_argument("--index", required=True, type=Path, metavar="INDEX", help="the index folder")
    parser.add_argument("--code", metavar="HEX", help="search with this code, the first bit first, instead of a photo")
    parser.add_argument("-k", type=int, default=10, metavar="K", help="how many to find (default: %(default)s)")
    parser.add_argument(
        "--radius",
        type=float,
        metavar="R",
        help="find all within this: bits for codes, the least cosine similarity for --metric cosine",
    )
    parser.add_argument("--metric", choices=("hamming", "cosine"), help="default: hamming where the index holds codes")
    parser.add_argument("--not-itself", action="store_true", help="leave out the result that is the query's own file")
    parser.add_argument(
        "--model", metavar="RUN", help="the model, if it no longer lies where it did when the index was made"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="for the search (default: all cores)")
    parser.add_argument(
        "--sheet", type=Path, metavar="PNG", help="write a contact sheet: each query, then what was found"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    _check(args)
    index = _open(args)
    metric = "hamming" if hasattr(index, "code_size") else "cosine"
    queries, names = (
        (_code(args.code, index), [args.code]) if args.code else (_encode(args, index, metric), args.photos)
    )
    started = time.perf_counter()
    found = _search(args, index, metric, queries)
    search_ms = (time.perf_counter() - started) * 1000
    records = [_records(distances, ids, index, metric) for distances, ids in found]
    results = [
        _without(name, hits)[: None if args.radius is not None else args.k] if args.not_itself else hits
        for name, hits in zip(names, records, strict=True)
    ]
    if args.sheet:
        labels = [_own_label(name, hits) for name, hits in zip(names, records, strict=True)]
        _write_sheet(args.sheet, names, labels, results, metric)
    if args.json:
        print_json(
            {
                "index": args.index,
                "metric": metric,
                "exact": True,
                "pictures": len(index),
                "search_ms": round(search_ms, 3),
                "queries": [{"query": name, "results": hits} for name, hits in zip(names, results, strict=True)],
            }
        )
        return 0
    for name, hits in zip(names, results, strict=True):
        print(f"{name}: {len(hits)} of {len(index)} pictures")
        header = ["rank", "bits" if metric == "hamming" else "cosine", "id", "label", "path"]
        rows = [
            [str(hit["rank"]), _number(hit[_NEARNESS[metric]]), hit["id"], hit["label"] or "-", hit["path"]]
            for hit in hits
        ]
        print(text_table(header, rows) + "\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    if bool(args.photos) == (args.code is not None):
        raise UsageError("give either photos or --code HEX to search with")
    if args.k < 1:
        raise UsageError(f"-k is {args.k}; it must be at least 1")
    if args.code is not None and (args.metric == "cosine" or args.sheet or args.not_itself):
        raise UsageError(
            "--code searches codes and has no picture; leave out --metric cosine, --sheet and --not-itself"
        )
    if args.radius is not None and args.metric != "cosine" and (args.radius < 0 or args.radius != int(args.radius)):
        raise UsageError(f"--radius is {args.radius:g}; for codes it is a whole number of bits")
    if args.sheet and args.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet is {args.sheet}; name a .png or .jpg file")


def _open(args: argparse.Namespace) -> HammingIndex | CosineIndex:
    from hashret.index.cosine import CosineIndex
    from hashret.index.hamming import HammingIndex
    from hashret.index.store import Store

    if args.metric is None and args.code is None and "hamming" not in Store.open(args.index).metrics:
        return CosineIndex.load(args.index)
    return CosineIndex.load(args.index) if args.metric == "cosine" else HammingIndex.load(args.index)


def _code(text: str, index: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The packed code (1, B) that `text` writes in hexadecimal."""
    from hashret.codes import bytes_per_code

    n_bytes = bytes_per_code(index.code_size)
    try:
        code = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        code = b""
    if len(code) != n_bytes:
        raise UsageError(
            f"--code is {text!r}; the index holds codes of {index.code_size} bits, so {2 * n_bytes} hexadecimal digits are due"
        )
    return np.frombuffer(code, np.uint8)[None]


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
    args: argparse.Namespace, index: Any, metric: str, queries: np.ndarray[Any, Any]
) -> list[tuple[Sequence[float], Sequence[int]]]:
    """For each query its distances and ids; with --not-itself one more than asked for, to make up for the one left out."""
    threads = {"threads": args.threads} if metric == "hamming" else {}
    if args.radius is None:
        distances, ids = index.search(queries, args.k + bool(args.not_itself), **threads)
        return [(d[i >= 0].tolist(), i[i >= 0].tolist()) for d, i in zip(distances, ids, strict=True)]
    radius = int(args.radius) if metric == "hamming" else args.radius
    offsets, distances, ids = index.search_radius(queries, radius, **threads)
    return [(distances[a:b].tolist(), ids[a:b].tolist()) for a, b in pairwise(offsets)]


def _records(distances: Sequence[float], ids: Sequence[int], index: Any, metric: str) -> list[dict[str, Any]]:
    """Rank (from 1), distance in bits or cosine similarity, and record of each result."""
    nearness = _NEARNESS[metric]
    bare = ({"id": str(number), "path": "", "label": "", "split": ""} for number in ids)
    return [
        {"rank": rank, nearness: distance, **(record or nothing)}
        for rank, (distance, record, nothing) in enumerate(zip(distances, index.records(ids), bare, strict=True), 1)
    ]


def _is_own(name: str, hit: Mapping[str, Any]) -> bool:
    return hit["path"] in (name, str(Path(name).absolute()))


def _without(name: str, hits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results other than the query's own file, ranked anew."""
    others = [hit for hit in hits if not _is_own(name, hit)]
    return [{**hit, "rank": rank} for rank, hit in enumerate(others, 1)]


def _own_label(name: str, hits: Sequence[Mapping[str, Any]]) -> str:
    """The query's label, known when its own file was found; "" otherwise."""
    return next((str(hit["label"]) for hit in hits if _is_own(name, hit)), "")


def _write_sheet(
    file: Path,
    names: Sequence[str],
    labels: Sequence[str],
    results: Sequence[Sequence[Mapping[str, Any]]],
    metric: str,
) -> None:
    """A contact sheet: each query, then what was found, right or wrong outlined where labels are known."""
    from hashret.sheets import SheetPicture, SheetRow, contact_sheet, result_caption

    rows = [
        SheetRow(
            SheetPicture(name, ["query", *([label] if label else [])]),
            [
                SheetPicture(
                    hit["path"],
                    result_caption(hit["rank"], hit[_NEARNESS[metric]], hit["label"], metric),
                    (hit["label"] == label) if label and hit["label"] else None,
                )
                for hit in hits
            ],
        )
        for name, label, hits in zip(names, labels, results, strict=True)
    ]
    try:
        contact_sheet(rows).save(file)
    except OSError as error:
        raise UsageError(f"the sheet cannot be written to {file} ({error.strerror or error})") from error


def _number(distance: float) -> str:
    return str(distance) if isinstance(distance, int) else f"{distance:.4f}"
