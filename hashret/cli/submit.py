"""`hashret submit`: the nearest other picture of every picture, as the text file that retrieval tasks take."""

from __future__ import annotations

import argparse
from pathlib import Path

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_writable,
    counted,
    open_data,
    print_json,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, UsageError

EXAMPLE = """\
Example:  hashret submit --model runs/cars64 --data cars.csv --split test --out neighbours.txt

Writes a line `query_id nearest_id` for every picture: the nearest other one by cosine of float features, or with --metric hamming
by codes, of which equally near ones give the earlier picture. With --labels, a CSV file with the columns id and label, every id
is checked against it and the list is scored, as `hashret score` does."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("--model", required=True, metavar="RUN", help="a run or model folder; RUN@3 is its third epoch")
    add_data_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="TXT", help="the list to write")
    parser.add_argument(
        "--metric", choices=("cosine", "hamming"), default="cosine", help="what is near (default: %(default)s)"
    )
    parser.add_argument(
        "--rule",
        choices=("auto", "self", "turntable"),
        default="auto",
        help="what leaves a query's gallery: itself, or near views as well; auto: by the table (default: %(default)s)",
    )
    parser.add_argument("--labels", type=Path, metavar="CSV", help="score the list: the columns id and label")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, search, write, score."""
    from hashret.evaluation import nearest_lists
    from hashret.evaluation.compare import Representation
    from hashret.evaluation.gallery import gallery_rule
    from hashret.model.hasher import Hasher

    check_writable("--out", args.out)
    if args.out.exists():
        raise UsageError(f"--out is {args.out}, which exists; choose another name, or remove it first")
    table = open_data(args)
    nearest_lists.check_ids(table.ids)
    labels = None if args.labels is None else nearest_lists.read_labels(args.labels)
    unlabelled = [] if labels is None else [name for name in table.ids if name not in labels]
    if unlabelled:
        raise DataError(
            f"{args.labels} has no label for {counted(len(unlabelled), 'picture')} of {table.name}, the first is "
            f"{unlabelled[0]}; check that both are of the same pictures"
        )
    rule = gallery_rule(args.rule, table)
    hasher = Hasher.from_pretrained(args.model, device=args.device)
    with kept_until_done(unfinished_beside(args.out)) as unfinished:
        what = "features" if args.metric == "cosine" else "codes"
        listed = args.out.with_name(args.out.name + ".skipped.txt")
        encoded, skipped_list = encode(args, hasher, table, [what], unfinished, listed, "nothing was written")
    pictures = table.select(encoded.rows)
    vectors = encoded.features if args.metric == "cosine" else encoded.codes
    assert vectors is not None
    representation = Representation(what, vectors, vectors, hasher.code_size if args.metric == "hamming" else None)
    queries, nearest = nearest_lists.nearest_others(representation, rule.between(pictures, pictures))
    lines = {
        pictures.ids[query]: pictures.ids[row] for query, row in zip(queries.tolist(), nearest.tolist(), strict=True)
    }
    nearest_lists.write(args.out, lines)
    document = {
        "out": args.out,
        "queries": len(lines),
        "without_neighbour": len(pictures) - len(lines),
        "skipped": len(encoded.skipped),
        "skipped_list": skipped_list,
        "metric": args.metric,
        "rule": rule.sentence,
    }
    if labels is not None:
        right = nearest_lists.hits(lines, labels, str(args.out))
        document |= {"right": right, "top1": right / len(labels)}
    if args.json:
        print_json(document)
        return 0
    print(f"{args.out}: the nearest other picture of {counted(len(lines), 'picture')} of {table.name}; {rule.sentence}")
    if len(lines) < len(pictures):
        print(f"{counted(len(pictures) - len(lines), 'picture')} with no other to find left out")
    if labels is not None:
        print(f"top-1 {document['top1']!r}: {right:,} of {len(labels):,} have a nearest neighbour of their own label")
    return 0
