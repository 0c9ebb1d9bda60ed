"""`hashret rethreshold`: the thresholds of a model's bits, set by pictures of a new domain."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_folder_can_be_made,
    counted,
    open_data,
    print_json,
    taken,
    text_table,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, UsageError

if TYPE_CHECKING:
    from hashret.codes import Codes
    from hashret.data.table import PictureTable
    from hashret.model.hasher import Hasher

EXAMPLE = """\
Example:  hashret rethreshold --model runs/cars64 --data warehouse/ --out models/warehouse64

A bit that splits the pictures a model was trained on in halves may be nearly always 1 on others, and then tells nothing. This
sets the threshold of every bit to the median of its logit over the pictures given, so that each bit is balanced there, and
writes the model with these thresholds as a new folder. Labels are not needed; the network stays as it is. Codes of the new
model do not compare with those of the old one: indexes have to be built again."""

FEW_PICTURES = 50
"""With fewer pictures than this the medians are too uncertain to go without a warning."""
MOST_QUERIES = 2000
"""Labelled pictures that are asked for their nearest at most, evenly spaced over the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("--model", required=True, metavar="RUN", help="a run or model folder; RUN@3 is its third epoch")
    add_data_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="MODEL", help="the model folder to write")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, set the thresholds, write the model, say what it changes."""
    if taken(args.out):
        raise UsageError(f"{args.out} exists; choose another --out")
    check_folder_can_be_made("--out", args.out)
    table = open_data(args)

    from hashret import codes
    from hashret.model.hasher import Hasher
    from hashret.model.thresholds import balanced_thresholds

    hasher = Hasher.from_pretrained(args.model, device=args.device)
    old = hasher.fingerprint()
    out = args.out.resolve()
    with kept_until_done(unfinished_beside(out)) as unfinished:
        listed = out.with_name(out.name + ".skipped.txt")
        encoded, skipped_list = encode(args, hasher, table, ["logits"], unfinished, listed, "no thresholds were set")
        assert encoded.logits is not None
        if len(encoded) < 2:
            raise DataError(f"{table.name} has 1 picture that can be read, which has no middle; give many (2 at least)")
        before = codes.binarize(encoded.logits, hasher.thresholds)
        hasher.thresholds = balanced_thresholds(encoded.logits)
        after = codes.binarize(encoded.logits, hasher.thresholds)
        hasher.protocol["thresholds"] = {"pictures": len(encoded), "data": table.name, "model": old}
        hasher.scores = {}  # those of the old codes
        _write(hasher, unfinished / "model", out)
    document = {
        "model": args.model,
        "out": args.out,
        "data": table.name,
        "pictures": len(encoded),
        "skipped": len(encoded.skipped),
        "skipped_list": skipped_list,
        "code_size": hasher.code_size,
        "fingerprint_before": old,
        "fingerprint_after": hasher.fingerprint(),
        "bits_changed_mean": float(np.bitwise_count(before ^ after).sum(axis=1).mean()),
        "balance_uncertainty_95": _uncertainty(len(encoded)),
        "before": codes.statistics(before, hasher.code_size).as_dict(),
        "after": codes.statistics(after, hasher.code_size).as_dict(),
        "hit@1": _hits(table.select(encoded.rows), before, after, hasher.code_size),
    }
    _warn(document)
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0


def _uncertainty(pictures: int) -> float:
    """How far the share of ones of a bit may be off one half on other pictures of the same kind; in 95 % of bits it is nearer.

    The share of all pictures below the median of n of them is distributed as Beta((n + 1) / 2, (n + 1) / 2), whatever the
    distribution of logits, so its standard deviation is 1 / (2 sqrt(n + 2)) (David and Nagaraja, Order Statistics, 2003, 2.3).
    """
    return 1.96 * 0.5 / math.sqrt(pictures + 2)


def _write(hasher: Hasher, made: Path, out: Path) -> None:
    """The model in its place, where it appears whole."""
    from hashret.index import durable

    shutil.rmtree(made, ignore_errors=True)
    hasher.save_pretrained(made)
    durable.move_folder(made, out)


def _hits(table: PictureTable, before: Codes, after: Codes, code_size: int) -> dict[str, Any] | None:
    """hit@1 of the codes before and after, each labelled picture among all others; None where no two share a label."""
    labelled = np.flatnonzero([label != "" for label in table.labels])
    if not len(labelled):
        return None
    from hashret.evaluation.compare import Representation, compare
    from hashret.evaluation.gallery import GalleryRule

    rows = labelled[np.linspace(0, len(labelled) - 1, min(len(labelled), MOST_QUERIES)).astype(np.int64)]
    results = compare(
        [Representation(name, codes[rows], codes, code_size) for name, codes in (("before", before), ("after", after))],
        table.select(rows),
        table,
        GalleryRule("self"),
        ks=[1],
        map_cutoffs=[],
    )
    scores = results[0].scores
    if not scores.n_queries:
        return None
    found: dict[str, Any] = {result.name: result.scores["hit@1"].expected for result in results}
    return {**found, "queries": scores.n_queries, "signature": scores.signature("hit@1")}


def _warn(document: dict[str, Any]) -> None:
    """Say on standard error what makes the thresholds doubtful."""
    pictures, dead = document["pictures"], document["after"]["dead_bits"]
    if pictures < FEW_PICTURES:
        off = f"{100 * document['balance_uncertainty_95']:.0f} points"
        print(
            f"thresholds of {pictures} pictures are uncertain: on other pictures of the same kind the share of ones of a bit may "
            f"be {off} off 50 %, and for one bit in 20 more; give {FEW_PICTURES} pictures or more",
            file=sys.stderr,
        )
    if dead:
        print(
            f"{counted(dead, 'bit')} cannot be balanced, for the logit is the same in every picture; "
            "are the pictures all alike?",
            file=sys.stderr,
        )


def _print(document: dict[str, Any]) -> None:
    before, after = document["before"], document["after"]
    rows = [
        [
            "share of ones, mean distance from 50 %",
            *(f"{100 * each['mean_imbalance']:.1f} %" for each in (before, after)),
        ],
        ["dead bits", *(str(each["dead_bits"]) for each in (before, after))],
        ["entropy of a bit", *(f"{each['entropy_bits']:.3f}" for each in (before, after))],
        ["distinct codes", *(f"{each['distinct_codes']:,}" for each in (before, after))],
    ]
    hits = document["hit@1"]
    if hits:
        rows.append(["hit@1 (top-1)", f"{hits['before']:.4f}", f"{hits['after']:.4f}"])
    print(f"{document['data']}: {counted(document['pictures'], 'picture')}, codes of {document['code_size']} bits\n")
    print(text_table(["", "before", "after"], rows))
    if hits:
        print(
            f"\nhit@1: {counted(hits['queries'], 'labelled picture')} among all others of {document['data']}, {hits['signature']}"
        )
    print(f"\n{document['bits_changed_mean']:.1f} of {document['code_size']} bits of a code changed, on average")
    if document["fingerprint_before"] == document["fingerprint_after"]:
        print(f"{document['out']}: the same thresholds as before")
        return
    print(
        f"{document['out']}: the model with these thresholds; indexes of {document['model']} have to be built again with it "
        "(hashret index)"
    )
