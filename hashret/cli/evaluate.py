"""`hashret evaluate`: how good a model's codes and features are on a table's splits."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import add_compute_arguments, add_data_arguments, add_json_argument, print_json, text_table
from hashret.errors import UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.evaluation.compare import Representation, Result
    from hashret.model.hasher import Hasher

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
    parser.add_argument("-k", type=int, nargs="+", default=[1, 10], metavar="K", help="cutoffs (default: 1 10)")
    parser.add_argument(
        "--map-k", type=int, nargs="*", default=[10], metavar="K", help="cutoffs of mAP beside all ranks (default: 10)"
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
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the JSON document to this file too")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, compare, print."""
    from hashret.data.readable import keep_readable, write_skipped
    from hashret.data.sources import open_source
    from hashret.evaluation.compare import compare
    from hashret.evaluation.gallery import gallery_rule, is_turntable
    from hashret.model.hasher import Hasher

    whole = open_source(args.data, args.label_map)
    rule = gallery_rule(args.rule, whole)
    split = args.split or ("test" if "test" in whole.splits else None)
    queries = whole.where_split(split) if split else whole
    gallery = whole.where_split(args.gallery_split) if args.gallery_split else queries
    queries = queries.select(np.array([bool(label) for label in queries.labels], dtype=bool))
    hasher = Hasher.from_pretrained(args.model, device=args.device)
    if args.on_bad == "skip":
        (queries, skipped), (gallery, more) = (keep_readable(table, on_bad="skip") for table in (queries, gallery))
        skipped_list = Path(f"{Path(args.model).name}.skipped.txt")
        if skipped or more:
            write_skipped(skipped_list, sorted({*skipped, *more}))
            print(
                f"{len({*skipped, *more})} pictures cannot be read; they are listed in {skipped_list}", file=sys.stderr
            )
    controls = args.controls == "on" or (args.controls == "auto" and is_turntable(whole))
    results = compare(
        _representations(hasher, queries, gallery, args, controls=controls),
        queries,
        gallery,
        rule,
        ks=sorted(set(args.k)),
        map_cutoffs=[None, *sorted(set(args.map_k))],
    )
    document = {
        "model": args.model,
        "model_protocol": hasher.protocol,
        "data": whole.name,
        "queries": {"split": split, "pictures": len(queries), "classes": len(set(queries.labels))},
        "gallery": {"split": args.gallery_split or split, "pictures": len(gallery)},
        "rule": rule.sentence,
        "results": [result.as_dict() for result in results],
    }
    if args.out:
        try:
            args.out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise UsageError(f"the scores cannot be written to {args.out} ({error.strerror})") from error
    if args.json:
        print_json(document)
    else:
        _print(document, results)
    return 0


def _representations(
    hasher: Hasher, queries: PictureTable, gallery: PictureTable, args: argparse.Namespace, *, controls: bool
) -> list[Representation]:
    """Codes and features of the model, and the controls, for queries and gallery."""
    from hashret.encoding import encode_table
    from hashret.evaluation.compare import Representation
    from hashret.evaluation.controls import pixel_vectors, untrained_features

    def both(make: Any) -> tuple[Any, Any]:
        """What `make` gives for queries and gallery; made once where they are the same table."""
        of_queries = make(queries)
        return of_queries, of_queries if gallery.ids == queries.ids else make(gallery)

    encoded, searched = both(
        lambda table: encode_table(
            hasher, table, what=("codes", "features"), batch_size=args.batch_size, workers=args.workers
        )
    )
    compared = [
        Representation(f"hash, {hasher.code_size} bits", encoded.codes, searched.codes, hasher.code_size),
        Representation(f"float, {hasher.feature_size} numbers", encoded.features, searched.features),
    ]
    if controls:
        compared += [
            Representation("control: raw 32×32 pixels", *both(pixel_vectors)),
            Representation(
                "control: untrained network",
                *both(lambda table: untrained_features(hasher, table, workers=args.workers)),
            ),
        ]
    return compared


def _print(document: dict[str, Any], results: list[Result]) -> None:
    queries, gallery = document["queries"], document["gallery"]
    print(
        f"{document['data']}: {queries['pictures']} queries of {queries['classes']} classes, "
        f"gallery of {gallery['pictures']}; {document['rule']}"
    )
    excluded = results[0].scores.n_excluded
    if excluded:
        print(f"{excluded} queries have nothing to find and are left out of the scores")
    names = [name for name in results[0].scores.names if "/" not in name]
    header = ["", *(_title(name) for name in names)]
    rows = [[result.name, *(_cell(result, name) for name in names)] for result in results]
    print("\n" + text_table(header, rows))
    print("\nmAP: expected over tie orders (worst to best order). ± is half of the 95 % interval over queries.")
    print("Signatures:")
    for signature in dict.fromkeys(result.scores.signature(name) for name in names for result in results):
        print(f"  {signature}")


def _title(name: str) -> str:
    return "top-1 (hit@1)" if name == "hit@1" else name.replace("map@", "mAP@")


def _cell(result: Result, name: str) -> str:
    score = result.scores[name]
    if name == "hit@1":
        interval = result.as_dict()["hit@1_interval_95"]
        return f"{score.expected:.4f}" + (f" ±{(interval[1] - interval[0]) / 2:.3f}" if interval else "")
    if name.startswith("map@") and score.best - score.worst >= 0.00005:
        return f"{score.expected:.4f} ({score.worst:.4f} to {score.best:.4f})"
    return f"{score.expected:.4f}"
