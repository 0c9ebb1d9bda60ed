"""`hashret compare`: results of one protocol, ranked."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from hashret.cli.options import add_json_argument, print_json, text_table

EXAMPLE = """\
Example:  hashret compare results/cub64 results/cub64_margin16

Ranks what results of one protocol scored, the best first. Differences are those of the same queries, each against the first of
the ranking, with 95 % intervals (paired bootstrap); where such an interval holds 0, chance in the choice of queries explains the
difference. Results of different cards, or of other pictures or splits, are not ranked."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT", help="folders that `hashret protocol run` made"
    )
    parser.add_argument(
        "--controls",
        choices=("on", "off"),
        default="off",
        help="rank ITQ, LSH, frozen features, raw pixels, random codes too (default: off)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the ranking."""
    from hashret.protocols.ranking import names_of, rank
    from hashret.protocols.result import caveats, read_result

    results = [read_result(folder) for folder in args.results]
    ranked = rank(results, controls=args.controls == "on")
    name, hashed = results[0].card
    metric, n = results[0].metric, len(results[0].query_ids)
    said = {called: caveats(result.document) for called, result in zip(names_of(results), results, strict=True)}
    if args.json:
        print_json(
            {
                "protocol": name,
                "protocol_hash": hashed,
                "splits_hash": results[0].document["splits_hash"],
                "metric": metric,
                "signature": results[0].document["rows"][0]["scores"][metric]["signature"],
                "queries": n,
                "ranking": [{**dataclasses.asdict(row), "differs": row.differs} for row in ranked],
                "caveats": said,
            }
        )
        return 0
    print(f"{name} (card {hashed}), {n:,} queries, by {metric}\n")
    rows = []
    for place, row in enumerate(ranked):
        low, high = row.below_interval
        below = "" if place == 0 else f"{row.below_first:.4f} ({low:.4f} to {high:.4f})"
        half = (row.interval[1] - row.interval[0]) / 2
        sure = "" if place == 0 or row.differs else "could be chance"
        rows.append([row.result, row.name, f"{row.score:.4f} ±{half:.4f}", below, sure])
    print(text_table(["result", "", metric, "below the first (95 %)", ""], rows))
    for called, sentences in said.items():
        for sentence in sentences:
            print(f"{called}: {sentence}")
    return 0
