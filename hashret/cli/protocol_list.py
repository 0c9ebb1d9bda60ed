"""`hashret protocol list`: the protocols, a line each."""

from __future__ import annotations

import argparse

from hashret.cli.options import add_json_argument, print_json, text_table

EXAMPLE = """\
Example:  hashret protocol list

The protocols that hashret knows, a line each: name, what it is of, what is scored, and the bits of the codes that are trained."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from hashret.protocols.cards import CARDS

    if args.json:
        print_json([{"hash": card.hash, **card.as_dict()} for card in CARDS.values()])
        return 0
    rows = [[card.name, card.title, card.metric, " ".join(map(str, card.code_sizes))] for card in CARDS.values()]
    print(text_table(["protocol", "of", "score", "bits"], rows))
    return 0
