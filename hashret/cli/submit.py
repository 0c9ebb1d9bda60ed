"""`hashret submit`: the nearest other picture of every picture, as the text file that retrieval tasks take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_writable,
    counted,
    open_data,
    positive,
    print_json,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.evaluation.compare import Representation

EXAMPLE = """\
Example:  hashret submit --model runs/cars64 --data cars.csv --split test --out neighbours.txt

Writes a line `query_id nearest_id` for every picture: the nearest other one by cosine of float features, or with --metric hamming
by codes, of which equally near ones give the earlier picture. With --labels, a CSV file with the columns id and label, every id
is checked against it and the list is scored, as `hashret score` does.

With --trec K the file is a run as trec_eval and its kin read it, of the K nearest of every picture. --qrels writes what is
relevant beside it: the pictures of a query's label that count for it."""


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
    parser.add_argument("--trec", type=positive, metavar="K", help="write a TREC run of the K nearest instead")
    parser.add_argument("--qrels", type=Path, metavar="TXT", help="with --trec: write what is relevant there")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, search, write, score."""
    from hashret.evaluation import nearest_lists
    from hashret.evaluation.compare import Representation
    from hashret.evaluation.gallery import gallery_rule
    from hashret.model.hasher import Hasher

    _check(args)
    table = open_data(args)
    nearest_lists.check_ids(table.ids)
    labels = None if args.labels is None else _labels(args.labels, table)
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
    document: dict[str, Any] = {
        "out": args.out,
        "skipped": len(encoded.skipped),
        "skipped_list": skipped_list,
        "metric": args.metric,
        "rule": rule.sentence,
    }
    valid = rule.between(pictures, pictures)
    if args.trec is not None:
        document |= _write_trec(args, representation, pictures, valid)
    else:
        found = nearest_lists.nearest(representation, valid)
        nearest = {
            name: pictures.ids[rows[0]] for name, (rows, _) in zip(pictures.ids, found, strict=True) if len(rows)
        }
        nearest_lists.write(args.out, nearest)
        document |= {"queries": len(nearest), "without_neighbour": len(pictures) - len(nearest)}
        if labels is not None:
            right = nearest_lists.hits(nearest, labels, str(args.out))
            document |= {"right": right, "labelled": len(labels), "top1": right / len(labels)}
    if args.json:
        print_json(document)
    else:
        _say(args, document, table.name)
    return 0


def _check(args: argparse.Namespace) -> None:
    """UsageError for flags that do not go together, and files that cannot or must not be written."""
    if args.trec is not None and args.labels is not None:
        raise UsageError("--labels scores a list of the nearest, and --trec writes a run; leave one out")
    if args.qrels is not None and args.trec is None:
        raise UsageError("--qrels is written beside a TREC run; add --trec K, or leave --qrels out")
    for flag, file in (("--out", args.out), ("--qrels", args.qrels)):
        if file is not None:
            check_writable(flag, file)
            if file.exists():
                raise UsageError(f"{flag} is {file}, which exists; choose another name, or remove it first")


def _labels(file: Path, table: PictureTable) -> dict[str, str]:
    """The labels of a file that has one for every picture of the table."""
    from hashret.evaluation.nearest_lists import read_labels

    labels = read_labels(file)
    unlabelled = [name for name in table.ids if name not in labels]
    if unlabelled:
        raise DataError(
            f"{file} has no label for {counted(len(unlabelled), 'picture')} of {table.name}, the first is {unlabelled[0]}; check "
            "that both are of the same pictures"
        )
    return labels


def _write_trec(
    args: argparse.Namespace, representation: Representation, pictures: PictureTable, valid: Any
) -> dict[str, Any]:
    """Write the run, and the qrels where they are asked for; what was written."""
    from hashret.evaluation import nearest_lists, trec

    def similarities(distances: Any) -> list[float]:
        return list((-distances if args.metric == "hamming" else 1 - distances).tolist())

    found = nearest_lists.nearest(representation, valid, args.trec)
    answers = (
        (name, [pictures.ids[row] for row in rows.tolist()], similarities(distances))
        for name, (rows, distances) in zip(pictures.ids, found, strict=True)
    )
    lines = trec.write_run(args.out, answers, f"hashret-{args.metric}")
    if args.qrels is not None:
        same = trec.relevant_pictures(pictures.ids, pictures.labels, valid)
        trec.write_qrels(args.qrels, same)
    return {"queries": len(pictures), "lines": lines, "qrels": args.qrels}


def _say(args: argparse.Namespace, document: dict[str, Any], name: str) -> None:
    queries, rule = counted(document["queries"], "picture"), document["rule"]
    if args.trec is not None:
        print(f"{args.out}: a TREC run of {queries} of {name}, {document['lines']:,} lines; {rule}")
        if args.qrels is not None:
            print(f"{args.qrels}: what is relevant; `hashret score {args.out} --qrels {args.qrels}` scores the run")
        return
    print(f"{args.out}: the nearest other picture of {queries} of {name}; {rule}")
    if document["without_neighbour"]:
        print(f"{counted(document['without_neighbour'], 'picture')} with no other to find left out")
    if "top1" in document:
        right, labelled = document["right"], document["labelled"]
        print(f"top-1 {document['top1']!r}: {right:,} of {labelled:,} have a nearest neighbour of their own label")
