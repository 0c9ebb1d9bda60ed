"""`hashret protocol`: named protocols, what they ask for, and running them."""

from __future__ import annotations

import argparse

from hashret.errors import UsageError

VERBS = ("list", "show", "run")

EXAMPLE = """\
Example:  hashret protocol list

A protocol is a card: which pictures are learnt from, which ask, which are searched, what is scored and how, and what others
published for it. `hashret protocol list` names them, `hashret protocol show NAME` prints one, `hashret protocol run NAME` trains,
searches and scores by it. `hashret compare` ranks results of one protocol."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the verbs have files of their own."""
    parser.description = EXAMPLE
    parser.add_argument("verb", nargs="?", metavar="|".join(VERBS), help="what to do")


def run(args: argparse.Namespace) -> int:
    """UsageError: a verb was left out, or is none."""
    found = "nothing" if args.verb is None else repr(args.verb)
    raise UsageError(f"hashret protocol takes {', '.join(VERBS)}, found {found}; try `hashret protocol list`")
