"""`hashret query`: the nearest pictures in an index, for photos or for a code."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import (
    add_json_argument,
    add_where_argument,
    check_where,
    check_writable,
    counted,
    model_place,
    positive,
    print_json,
    text_table,
)
from hashret.errors import UsageError
from hashret.showing import NEARNESS, place_of, records_of

if TYPE_CHECKING:
    from hashret.data.embeddings import Embeddings
    from hashret.hamming import Explanation
    from hashret.index.cosine import CosineIndex
    from hashret.index.hamming import HammingIndex

EXAMPLE = """\
Example:  hashret query --index cars.index photo.jpg -k 10 --sheet found.png

Finds the nearest pictures exactly: nearest first, equally near ones in the order in which they were indexed. Photos are
encoded by the model that made the index; --embedding takes float vectors in their place, for an index that was made of such.
--code takes a code in hexadecimal instead and needs no model (and no torch). With --radius all pictures up to that distance
are listed; --where "view = 90 and label = 'car'" searches only among pictures whose record meets a condition. --metric
asymmetric weighs every bit by how sure the model is of the photo's; --rerank 100 ranks only the 100 nearest codes, by
features where the index has them, or else by that."""

_COLUMNS = {"hamming": "bits", "asymmetric": "asymmetric", "cosine": "cosine"}
"""What the table calls it."""

SHEET_COLUMNS = 40
"""Results of a query that a contact sheet shows at most."""


@dataclasses.dataclass(frozen=True)
class _Queries:
    """What the index is asked with, a row a query; None what the search does not need."""

    codes: np.ndarray[Any, Any] | None = None
    logits: np.ndarray[Any, Any] | None = None
    features: np.ndarray[Any, Any] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "photos", nargs="*", metavar="PHOTO", help="pictures to search with (archive.zip::a/b.jpg works too)"
    )
    parser.add_argument("--index", required=True, type=Path, metavar="INDEX", help="the index folder")
    parser.add_argument("--code", metavar="HEX", help="search with this code, the first bit first, instead of a photo")
    parser.add_argument(
        "--embedding",
        type=Path,
        metavar="NPY",
        help="search with the float vectors in this file, in an index that was made of --embeddings or by features",
    )
    parser.add_argument("-k", type=positive, default=10, metavar="K", help="how many to find (default: %(default)s)")
    parser.add_argument(
        "--radius",
        type=float,
        metavar="R",
        help="find all within this instead: bits, or with --metric cosine the least similarity",
    )
    parser.add_argument(
        "--metric",
        choices=tuple(_COLUMNS),
        help="search codes by bits that differ, codes by the photo's logits, or float features (default: codes where the "
        "index has them)",
    )
    parser.add_argument(
        "--rerank",
        type=positive,
        metavar="N",
        help="rank only the N nearest codes, by --metric cosine or asymmetric (default: features where the index has them)",
    )
    add_where_argument(parser, "search only among pictures that meet this condition")
    parser.add_argument("--not-itself", action="store_true", help="leave out the result that is the query's own file")
    parser.add_argument(
        "--model", metavar="RUN", help="the model, if it no longer lies where it did when the index was made"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="say how the codes were searched, what it should have cost and what it did",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="for the search among codes (default: all cores)")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="write a contact sheet: each query, then what was found, right or wrong outlined where the index knows the "
        "query's label and its codes were not fitted without labels",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    _check(args)
    index, metric = _open(args)
    among = len(index)
    if args.where is not None:
        check_where(args.where, index.count)
        among = index.count(args.where)
    if args.explain:
        if metric == "cosine" or args.rerank:
            raise UsageError("--explain is about one search among codes; leave out --rerank and --metric cosine")
        _measure_costs()
    radius = _radius(args.radius, metric)
    queries, names = _queries(args, index, metric)
    started = time.perf_counter()
    found, explanations = _search(args, index, metric, queries, radius)
    search_ms = (time.perf_counter() - started) * 1000
    results = [records_of(distances, ids, index, metric) for distances, ids in found]
    labels = _own_labels(names, queries, results, index) if args.sheet else []
    if args.not_itself:
        results = [
            _without(name, hits)[: args.k if radius is None else None]
            for name, hits in zip(names, results, strict=True)
        ]
    if args.sheet:
        from hashret.index.base import was_fitted

        _write_sheet(args.sheet, names, labels, results, metric, judged=not was_fitted(index.model))
    if args.json:
        print_json(
            {
                "index": args.index,
                "metric": metric,
                "rerank": args.rerank,
                "exact": True,
                "pictures": len(index),
                **({} if args.where is None else {"where": args.where, "chosen": among}),
                "search_ms": round(search_ms, 3),
                "sheet": args.sheet,
                **({"explain": [dataclasses.asdict(each) for each in explanations]} if args.explain else {}),
                "queries": [{"query": name, "results": hits} for name, hits in zip(names, results, strict=True)],
            }
        )
        return 0
    here = str(Path.cwd()) + os.sep  # paths below it are shown as one would type them
    unit = _COLUMNS[metric]
    ranked = f"; the {min(args.rerank, among):,} nearest codes ranked by {unit} similarity" if args.rerank else ""
    met = "" if args.where is None else f" where {args.where}"
    for number, (name, hits) in enumerate(zip(names, results, strict=True)):
        what = f"the {len(hits):,} nearest of" if radius is None else f"{len(hits):,} within {radius:g} {unit} of"
        print("\n" * (number > 0) + f"{name}: {what} {counted(among, 'picture')}{met}{ranked}")
        rows = [
            [
                str(hit["rank"]),
                _number(hit[NEARNESS[metric]]),
                hit["label"] or "-",
                hit["id"],
                hit["path"].removeprefix(here),
            ]
            for hit in hits
        ]
        if rows:
            print(text_table(["rank", unit, "label", "id", "path"], rows))
    for explanation in explanations:
        print("\n" + "\n".join(explanation.lines()))
    if args.sheet:
        print(f"\ncontact sheet: {args.sheet}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if bool(args.photos) + (args.code is not None) + (args.embedding is not None) != 1:
        raise UsageError("give either photos or --code HEX or --embedding NPY to search with")
    of_pictures = {
        f"--metric {args.metric}": args.metric not in (None, "hamming"),
        "--rerank": args.rerank,
        "--sheet": args.sheet,
        "--not-itself": args.not_itself,
    }
    unfit = [flag for flag, given in of_pictures.items() if given]
    if args.code is not None and unfit:
        raise UsageError(
            f"--code is a code and no picture, so only codes can be searched; leave out {', '.join(unfit)}"
        )
    if args.embedding is not None and (args.sheet or args.not_itself):
        raise UsageError("--embedding is a vector and no picture; leave out --sheet and --not-itself")
    if args.radius is not None and (args.rerank or args.metric == "asymmetric"):
        raise UsageError("--radius is in bits or cosine similarity; leave it out with --metric asymmetric and --rerank")
    if args.rerank and args.metric == "hamming":
        raise UsageError("--rerank ranks the nearest codes by another score; choose --metric cosine or asymmetric")
    if args.rerank and args.rerank < args.k:
        raise UsageError(
            f"--rerank is {args.rerank}, but {args.k} are to be found among them; give {args.k} at least, or a smaller -k"
        )
    if args.sheet:
        if args.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UsageError(f"--sheet is {args.sheet}; name a .png or .jpg file")
        check_writable("--sheet", args.sheet)


def _open(args: argparse.Namespace) -> tuple[HammingIndex | CosineIndex, str]:
    """The index, and the metric that results are ranked by."""
    from hashret.index.cosine import CosineIndex
    from hashret.index.hamming import HammingIndex
    from hashret.index.store import Store

    if args.rerank:
        metric = args.metric or ("cosine" if "cosine" in Store.open(args.index).metrics else "asymmetric")
        if metric == "cosine":
            CosineIndex.load(args.index)  # says at once when there are no features
        return HammingIndex.load(args.index), metric
    if args.metric == "cosine":
        return CosineIndex.load(args.index), "cosine"
    if args.metric is None and args.code is None and "hamming" not in Store.open(args.index).metrics:
        return CosineIndex.load(args.index), "cosine"
    return HammingIndex.load(args.index), args.metric or "hamming"


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


def _queries(args: argparse.Namespace, index: HammingIndex | CosineIndex, metric: str) -> tuple[_Queries, list[str]]:
    """What the index is asked with, and what each query is called."""
    if args.code is not None:
        return _Queries(_code(args.code, index)), [args.code]
    if args.embedding is None:
        return _encode(args, index, metric), list(args.photos)

    from hashret.data.embeddings import open_embeddings

    vectors = open_embeddings(args.embedding, one_is_a_row=True)
    names = [str(args.embedding)] if len(vectors) == 1 else [f"{args.embedding}[{row}]" for row in range(len(vectors))]
    return _project(args, index, metric, vectors), names


def _project(args: argparse.Namespace, index: HammingIndex | CosineIndex, metric: str, vectors: Embeddings) -> _Queries:
    """The vectors with their codes or logits, as the search needs them, from the model that made the index."""
    if metric == "cosine" and not args.rerank:
        return _Queries(features=vectors)
    where = model_place(args.index, index.model, args.model)

    from hashret.codes import binarize
    from hashret.model.projection import Projection

    projection = Projection.from_pretrained(where)
    index.check_model(projection.fingerprint())
    logits = projection.embed(vectors)
    if metric == "asymmetric":
        return _Queries(binarize(logits), logits)
    return _Queries(binarize(logits), features=vectors if metric == "cosine" else None)


def _encode(args: argparse.Namespace, index: HammingIndex | CosineIndex, metric: str) -> _Queries:
    """Codes, logits or features of the photos, as the search needs them, from the model that made the index."""
    where = model_place(args.index, index.model, args.model)

    from hashret.codes import binarize
    from hashret.model.hasher import Hasher
    from hashret.model.precision import computing

    hasher = Hasher.from_pretrained(where, device=args.device)
    index.check_model(hasher.fingerprint())
    with computing("float32", hasher.device):  # few pictures gain nothing from less
        logits, features = hasher.run(args.photos)
    codes = binarize(logits, hasher.thresholds)
    if metric == "asymmetric":
        return _Queries(codes, logits if hasher.thresholds is None else logits - hasher.thresholds)
    return _Queries(codes, features=features if metric == "cosine" else None)


def _search(
    args: argparse.Namespace, index: Any, metric: str, queries: _Queries, radius: float | None
) -> tuple[list[tuple[Sequence[float], Sequence[int]]], list[Explanation]]:
    """For each query its distances and ids; with --not-itself one more than asked for, to make up for the one left out.

    With --explain then also how the segments of the index were searched.
    """
    among_codes = {} if metric == "cosine" else {"threads": args.threads, "explain": args.explain}
    given = {"hamming": queries.codes, "asymmetric": queries.logits, "cosine": queries.features}[metric]
    explanations: list[Explanation] = []
    if radius is not None:
        offsets, distances, ids, *how = index.search_radius(given, radius, **among_codes, where=args.where)
        explanations = how[0] if how else []
        return [(distances[a:b].tolist(), ids[a:b].tolist()) for a, b in pairwise(offsets)], explanations
    k = min(args.k + args.not_itself, max(1, len(index)))
    if args.rerank:
        ranked_by = {"features" if metric == "cosine" else "logits": given}
        among = args.rerank + args.not_itself
        distances, ids, _ = index.search_two_stage(
            queries.codes, k, among, threads=args.threads, **ranked_by, where=args.where
        )
    elif metric == "cosine":
        distances, ids = index.search(given, k, where=args.where)
    else:
        distances, ids, *how = index.search(given, k, metric=metric, **among_codes, where=args.where)
        explanations = how[0] if how else []
    found = [(d[i >= 0].tolist(), i[i >= 0].tolist()) for d, i in zip(distances, ids, strict=True)]
    return found, explanations


def _measure_costs() -> None:
    """Predictions rest on costs of this machine: measured now if they never were."""
    from hashret.hamming import costs

    if not costs.are_measured():
        print("measuring what searches cost on this machine, once ...", file=sys.stderr)
        costs.measure()


def _without(name: str, hits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results other than the query's own file, ranked anew."""
    own = place_of(name)
    others = [hit for hit in hits if place_of(hit["path"]) != own]
    return [{**hit, "rank": rank} for rank, hit in enumerate(others, 1)]


def _own_labels(
    names: Sequence[str],
    queries: _Queries,
    results: Sequence[Sequence[Mapping[str, Any]]],
    index: Any,
) -> list[str]:
    """The label of each query whose own file is in the index; "" for the others."""
    labels = []
    for row, (name, hits) in enumerate(zip(names, results, strict=True)):
        own = place_of(name)
        candidates = list(hits)
        if queries.codes is not None and own not in map(place_of, (hit["path"] for hit in hits)):
            # So many pictures may share its code that it is not among the first k.
            _, distances, ids = index.search_radius(queries.codes[row : row + 1], 0)
            candidates = list(records_of(distances.tolist(), ids.tolist(), index, "hamming"))
        labels.append(next((str(hit["label"]) for hit in candidates if place_of(hit["path"]) == own), ""))
    return labels


def _write_sheet(
    file: Path,
    names: Sequence[str],
    labels: Sequence[str],
    results: Sequence[Sequence[Mapping[str, Any]]],
    metric: str,
    judged: bool,
) -> None:
    """A contact sheet: each query, then what was found, if `judged` right or wrong outlined where labels are known."""
    from hashret.sheets import SheetPicture, SheetRow, contact_sheet
    from hashret.showing import sheet_pictures

    if max(map(len, results), default=0) > SHEET_COLUMNS:
        print(f"the contact sheet shows the first {SHEET_COLUMNS} results of each query", file=sys.stderr)
    rows = [
        SheetRow(
            SheetPicture(name, ["query", *([label] if label else [])]),
            sheet_pictures(hits[:SHEET_COLUMNS], metric, label if judged else ""),
        )
        for name, label, hits in zip(names, labels, results, strict=True)
    ]
    try:
        contact_sheet(rows).save(file)
    except OSError as error:
        raise UsageError(f"the sheet cannot be written to {file} ({error.strerror or error})") from error


def _number(distance: float) -> str:
    return str(distance) if isinstance(distance, int) else f"{distance:.4f}"
