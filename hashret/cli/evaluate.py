"""`hashret evaluate`: how good a model's codes and features are on a table's splits."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_writable,
    counted,
    encoding_settings,
    positive,
    print_json,
    say_skipped,
    text_table,
)
from hashret.cli.unfinished import skipping_named
from hashret.errors import DataError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.evaluation.compare import Representation, Result
    from hashret.metrics import Score
    from hashret.model.hasher import Hasher

CONTROL = "control: "
"""How names of representations begin that a model has to beat."""

EXAMPLE = """\
Example:  hashret evaluate --model runs/cars64 --data cars.csv --split test

Scores hash codes and float features side by side. Every picture of --split queries all others of it (itself left out by
id), or with --gallery-split those of another split. Scores are exact under ties: expected over all orders of pictures at equal
distance, the worst and the best order beside it. Turntable sets get two controls and leave near views out of the gallery."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("--model", required=True, metavar="RUN", help="a run or model folder; RUN@3 is its third epoch")
    add_data_arguments(parser, split=False)
    parser.add_argument("--split", metavar="NAME", help="the queries (default: test, where the table has it, else all)")
    parser.add_argument("--gallery-split", metavar="NAME", help="what they search (default: the queries themselves)")
    parser.add_argument("-k", type=positive, nargs="+", default=[1, 10], metavar="K", help="cutoffs (default: 1 10)")
    parser.add_argument(
        "--map-k",
        type=positive,
        nargs="*",
        default=[10],
        metavar="K",
        help="cutoffs of mAP beside all ranks (default: 10)",
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="more scores: map@R, precision@R, ndcg@10, ndcg@all, precision-within@2, recall-within@2, empty-within@2 ... "
        "(docs/metrics.md); those within a radius are of codes alone",
    )
    parser.add_argument(
        "--rule",
        choices=("auto", "self", "turntable"),
        default="auto",
        help="what leaves a query's gallery: itself, or near views as well; auto: by the table (default: %(default)s)",
    )
    parser.add_argument(
        "--controls",
        choices=("auto", "on", "off"),
        default="auto",
        help="score raw pixels and an untrained network too; auto: on turntable sets (default: %(default)s)",
    )
    parser.add_argument(
        "--two-stage",
        type=positive,
        metavar="N",
        help="score two-stage search too: the N nearest codes, ranked anew by float features",
    )
    parser.add_argument("--logits", action="store_true", help="score the float numbers that become bits, too")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the JSON document to this file too")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, compare, print."""
    from hashret.data.readable import write_skipped
    from hashret.data.sources import open_source
    from hashret.evaluation.compare import Representation, compare
    from hashret.evaluation.gallery import gallery_rule, is_turntable
    from hashret.metrics.scores import named

    named(args.k, args.map_k, args.measures)  # names that are none, before the long work
    if args.out:
        check_writable("--out", args.out)
    whole = open_source(args.data, args.label_map)
    rule = gallery_rule(args.rule, whole)
    split = args.split or ("test" if "test" in whole.splits else None)
    if split is None:
        print(
            f"{whole.name} has no split 'test', so all its pictures are scored: if the model was trained on them, its scores "
            "on new pictures will be lower (hashret data table makes splits)",
            file=sys.stderr,
        )
    gallery_split = args.gallery_split or split
    gallery_rows = _rows(whole, gallery_split)
    query_rows = np.array([row for row in _rows(whole, split) if whole.labels[row]], dtype=np.int64)
    if not len(query_rows):
        raise DataError(f"{_part(whole.name, split)} has no labelled picture, so no answer can be right; label some")

    from hashret.model.hasher import Hasher

    hasher = Hasher.from_pretrained(args.model, device=args.device)
    controls = args.controls == "on" or (args.controls == "auto" and is_turntable(whole))
    rows, vectors, skipped = _encode(hasher, whole, np.union1d(query_rows, gallery_rows), args, controls=controls)
    query_rows, gallery_rows = np.intersect1d(query_rows, rows), np.intersect1d(gallery_rows, rows)
    skipped_list = None
    if skipped:
        skipped_list = Path(f"{args.out or Path(args.model).name}.skipped.txt")
        write_skipped(skipped_list, skipped)
        say_skipped(len(skipped), skipped_list)
    queries, gallery = whole.select(query_rows), whole.select(gallery_rows)
    of_queries, of_gallery = np.searchsorted(rows, query_rows), np.searchsorted(rows, gallery_rows)
    representations = [Representation(name, each[of_queries], each[of_gallery], bits) for name, each, bits in vectors]
    if args.two_stage:
        representations.insert(2, _two_stage(representations, rule.between(queries, gallery), args.two_stage))
    results = compare(
        representations,
        queries,
        gallery,
        rule,
        ks=sorted(set(args.k)),
        map_cutoffs=[None, *sorted(set(args.map_k))],
        measures=args.measures,
    )
    if not results[0].scores.n_queries:
        raise DataError(
            f"none of the {counted(len(queries), 'query', 'queries')} has a picture of its own class to find in the "
            "gallery; score classes with two pictures at least"
        )
    document = {
        "model": args.model,
        "model_protocol": hasher.protocol,
        "data": whole.name,
        "queries": {"split": split, "pictures": len(queries), "classes": len(set(queries.labels))},
        "gallery": {"split": gallery_split, "pictures": len(gallery)},
        "skipped": len(skipped),
        "skipped_list": None if skipped_list is None else str(skipped_list),
        "rule": rule.sentence,
        "results": [result.as_dict() for result in results],
    }
    if args.out:
        args.out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if args.json:
        print_json(document)
    else:
        _print(document, results, args.measures)
    return 0


def _rows(table: PictureTable, split: str | None) -> NDArray[np.int64]:
    """The rows of a split, or all of them. DataError when the table has no such split."""
    if split is None:
        return np.arange(len(table))
    table.where_split(split)
    return np.flatnonzero([each == split for each in table.splits])


def _part(name: str, split: str | None) -> str:
    return name if split is None else f"the split {split!r} of {name}"


def _encode(
    hasher: Hasher, whole: PictureTable, rows: NDArray[np.int64], args: argparse.Namespace, *, controls: bool
) -> tuple[NDArray[np.int64], list[tuple[str, NDArray[Any], int | None]], list[tuple[str, str]]]:
    """The rows that can be read; name, vectors of these rows and bits (for codes) of all that is compared; the others."""
    from hashret import codes
    from hashret.encoding import encode_table
    from hashret.evaluation.controls import pixel_vectors, untrained_features

    table = whole.select(rows)
    with skipping_named():
        encoded = encode_table(
            hasher,
            table,
            what=("codes", "features", *(["logits"] if args.logits else [])),
            on_bad=args.on_bad,
            **encoding_settings(args),
        )
    assert encoded.codes is not None and encoded.features is not None
    readable = table.select(encoded.rows)
    vectors: list[tuple[str, NDArray[Any], int | None]] = [
        (f"hash, {hasher.code_size} bits", encoded.codes, hasher.code_size),
        (f"float, {hasher.feature_size} numbers", encoded.features, None),
    ]
    # A nested code is a valid code at every length that it was trained for.
    for length in hasher.protocol.get("nested", []):
        vectors.append((f"first {length} bits", codes.prefix(encoded.codes, hasher.code_size, length), length))
    if encoded.logits is not None:
        vectors.append((f"float, {hasher.code_size} activations", _activations(hasher, encoded.logits), None))
    if controls:
        vectors += [
            (f"{CONTROL}raw 32×32 pixels", pixel_vectors(readable), None),
            (f"{CONTROL}untrained network", untrained_features(hasher, readable, workers=args.workers), None),
        ]
    return rows[encoded.rows], vectors, [(picture.path, picture.message) for picture in encoded.skipped]


def _activations(hasher: Hasher, logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model trained in place of bits, around 0 and of length 1, float32 (N, K)."""
    import torch

    logits = torch.from_numpy(logits_NK)
    around_0 = hasher.network.activate(logits) - hasher.network.activate(torch.zeros_like(logits))
    activations_NK: NDArray[np.float32] = torch.nn.functional.normalize(around_0, dim=1).numpy()
    return activations_NK


def _two_stage(
    representations: list[Representation], valid: Callable[[slice], NDArray[np.bool_]], within: int
) -> Representation:
    """The first representation's codes, the `within` nearest of them ranked anew by the second one's vectors."""
    from hashret.evaluation.compare import TwoStage

    codes, vectors = representations[:2]
    return TwoStage(
        f"two-stage, {within}",
        codes.queries,
        codes.gallery,
        codes.code_size,
        query_vectors=vectors.queries,
        gallery_vectors=vectors.gallery,
        valid=valid,
        within=within,
    )


def _print(document: dict[str, Any], results: list[Result], measures: Sequence[str]) -> None:
    queries, gallery = document["queries"], document["gallery"]
    print(
        f"{_part(document['data'], queries['split'])}: {counted(queries['pictures'], 'query', 'queries')} of "
        f"{counted(queries['classes'], 'class', 'classes')} in a gallery of {counted(gallery['pictures'], 'picture')}"
        + (f" (the split {gallery['split']!r})" if gallery["split"] != queries["split"] else "")
        + f"; {document['rule']}"
    )
    scores = results[0].scores
    if scores.n_excluded:
        print(f"{counted(scores.n_excluded, 'query', 'queries')} with nothing to find left out of the scores")
    names = [name for name in scores.names if "/" not in name or name in measures]
    intervals = [result["hit@1_interval_95"] for result in document["results"]]
    rows = []
    for name in names:
        cells = [f"{result.scores[name].expected:.4f}" if name in result.scores.names else "" for result in results]
        if name == "hit@1":
            halves = [(interval[1] - interval[0]) / 2 if interval else math.nan for interval in intervals]
            cells = [f"{cell} ±{half:.4f}" for cell, half in zip(cells, halves, strict=True)]
        rows.append([_title(name), *cells, _denominator(scores.signature(name))])
        if name.startswith(("map@", "ndcg@")) and any(_tied(result.scores[name]) for result in results):
            rows.append(["  worst, best order", *(_range(result.scores[name]) for result in results), ""])
    columns = [result.name.removeprefix(CONTROL) for result in results]
    print("\n" + text_table(["", *columns, "divided by"], rows))
    print("\n±: half of the 95 % interval over queries. mAP: expected over all orders of equally distant pictures.")
    if any(result.name.startswith(CONTROL) for result in results):
        print("Raw pixels and the untrained network are controls: what a model has to beat.")
    signatures = [
        result.scores.signature(name).split("|") for result in results for name in names if name in result.scores.names
    ]
    shared = [part for part in signatures[0] if all(part in signature for signature in signatures)]
    print(f"Signature of every score: {'|'.join(shared)} (in full, one a score: --json)")


def _title(name: str) -> str:
    return "hit@1 (top-1)" if name == "hit@1" else name.replace("map@", "mAP@").replace("ndcg@", "nDCG@")


def _denominator(signature: str) -> str:
    return next(part for part in signature.split("|") if part.startswith("denominator:")).partition(":")[2]


def _tied(score: Score) -> bool:
    return score.best - score.worst >= 0.00005


def _range(score: Score) -> str:
    return f"{score.worst:.4f} {score.best:.4f}" if _tied(score) else "-"
