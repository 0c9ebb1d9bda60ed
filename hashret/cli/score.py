"""`hashret score`: the scores of answers in a file: top-1 of nearest neighbours, MAP@5 of classes, or those of a TREC run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hashret.cli.options import add_json_argument, counted, positive, print_json, text_table
from hashret.errors import DataError, UsageError

EXAMPLE = """\
Example:  hashret score neighbours.txt --labels labels.csv
          hashret score submission.csv --labels table.csv --split test
          hashret score cars.run --qrels cars.qrels -k 1 10 --map-k 100

With --labels: the share of pictures whose nearest other picture has their own label, top-1, leave one out. The list has a line
`query_id nearest_id` for every labelled picture, as `hashret submit` writes it; the labels are a CSV file with the columns
id and label. Standard output is the number alone, in full.

A file whose first line is `id,classes` is a competition's submission: up to five classes a picture, best first, parted by blanks,
-1 for a picture of no class. It is checked, each picture once and nothing else, and its MAP@5 is printed in full. The
labels then are a CSV file with the columns id and label (several parted by ;) or id and classes (by blanks), of which --split
chooses pictures; pictures without any are of no class, and classes of all pictures may be named.

With --qrels: the scores of a TREC run (`query Q0 picture rank score tag`) by what its qrels (`query 0 picture relevance`) say is
relevant. Pictures of equal score are tied, and scores are exact under ties; relevant pictures that are not in the run were
not found."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "answers", type=Path, metavar="FILE", help="`query_id nearest_id` a line, a submission, or a TREC run"
    )
    judge = parser.add_mutually_exclusive_group(required=True)
    judge.add_argument("--labels", type=Path, metavar="CSV", help="the columns id and label")
    judge.add_argument("--qrels", type=Path, metavar="TXT", help="the qrels of a TREC run")
    parser.add_argument(
        "--classes", action="store_true", help="the file is a submission of classes, whatever its first line is"
    )
    parser.add_argument(
        "--split",
        action="append",
        metavar="NAME",
        help="pictures that a submission answers (default: all labelled ids)",
    )
    parser.add_argument("-k", type=positive, nargs="+", metavar="K", help="cutoffs of a run (default: 1 10)")
    parser.add_argument("--map-k", type=positive, nargs="*", metavar="K", help="cutoffs of mAP beside all ranks")
    parser.add_argument("--measures", nargs="+", metavar="NAME", help="more scores of a run: ndcg@10, map@R ...")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Read, compare, print."""
    from hashret.evaluation import competition

    of_classes = args.classes or (args.qrels is None and competition.is_submission(args.answers))
    if args.qrels is not None and (args.classes or args.split):
        raise UsageError("--classes and --split are about submissions, and --qrels about TREC runs; leave one out")
    if args.split and not of_classes:
        raise UsageError(
            f"--split is about submissions, and {args.answers} does not begin with `id,classes`; leave it out"
        )
    if args.qrels is not None:
        return _score_run(args)
    for flag, given in (("-k", args.k), ("--map-k", args.map_k), ("--measures", args.measures)):
        if given is not None:
            raise UsageError(
                f"{flag} is for --qrels, and --labels gives {'MAP@5' if of_classes else 'top-1'} alone; leave it out"
            )
    if of_classes:
        return _score_classes(args)
    from hashret.evaluation import nearest_lists

    nearest, labels = nearest_lists.read(args.answers), nearest_lists.read_labels(args.labels)
    right = nearest_lists.hits(nearest, labels, str(args.answers))
    if not labels:
        raise DataError(f"{args.labels} has no labels, so there is nothing to score")
    top1 = right / len(labels)
    if args.json:
        print_json({"top1": top1, "right": right, "queries": len(labels), "classes": len(set(labels.values()))})
        return 0
    print(f"{right:,} of {len(labels):,} have a nearest neighbour of their own label", file=sys.stderr)
    print(repr(top1))
    return 0


def _score_classes(args: argparse.Namespace) -> int:
    from hashret.evaluation import competition
    from hashret.evaluation.strangers import STRANGER

    truths, splits = competition.read_truths(args.labels)
    asked = {name: truth for name, truth in truths.items() if not args.split or splits[name] in args.split}
    if not asked:
        there = ", ".join(sorted(set(splits.values()) - {""})) or "none"
        raise DataError(
            f"{args.labels} has no picture"
            + (f" of the split {', '.join(args.split)} (it has {there})" if args.split else "")
            + ", so there is nothing to score"
        )
    classes = set().union(*truths.values()) - {STRANGER}
    answers = competition.read(args.answers, list(asked), classes)
    score = competition.score(answers, asked)
    strangers = sum(STRANGER in truth for truth in asked.values())
    if args.json:
        print_json({"map@5": score, "pictures": len(asked), "strangers": strangers, "classes": len(classes)})
        return 0
    print(
        f"MAP@5 of {counted(len(asked), 'picture')}, {strangers:,} of them of no class: the sum of precision at each true class "
        "in the list, divided by min(5, true classes)",
        file=sys.stderr,
    )
    print(repr(score))
    return 0


def _score_run(args: argparse.Namespace) -> int:
    from hashret.evaluation import trec

    cutoffs = [None, *sorted(set(args.map_k or []))]
    scores = trec.scores(
        trec.read_run(args.answers),
        trec.read_qrels(args.qrels),
        sorted(set(args.k or [1, 10])),
        cutoffs,
        measures=args.measures or [],
    )
    if not scores.n_queries:
        raise DataError(f"{args.qrels} names nothing relevant for any query, so there is nothing to score")
    if args.json:
        print_json({"run": args.answers, "qrels": args.qrels, **scores.as_dict()})
        return 0
    print(f"{args.answers}: {counted(scores.n_queries, 'query', 'queries')}")
    if scores.n_excluded:
        print(f"{counted(scores.n_excluded, 'query', 'queries')} with nothing relevant left out of the scores")
    rows = [
        [name, *(f"{value:.4f}" for value in (score.expected, score.worst, score.best))]
        for name, score in ((name, scores[name]) for name in scores.names)
    ]
    print("\n" + text_table(["", "expected", "worst order of ties", "best"], rows))
    print(f"\nSignature, of {scores.names[0]}: {scores.signature(scores.names[0])} (in full, one a score: --json)")
    return 0
