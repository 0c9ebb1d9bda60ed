"""`hashret protocol show`: one card, for people."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hashret.cli.options import add_json_argument, print_json, text_table

if TYPE_CHECKING:
    from hashret.protocols.card import Card

EXAMPLE = """\
Example:  hashret protocol show cub-hash

Prints a protocol's card: the data, who asks whom, what is scored, the recipes as flags of `hashret train`, and published values
with their sources."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("name", metavar="NAME", help="a protocol of `hashret protocol list`")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the card."""
    from hashret.protocols.cards import find_card

    card = find_card(args.name)
    if args.json:
        print_json({"hash": card.hash, **card.as_dict()})
    else:
        print(_in_words(card))
    return 0


def _in_words(card: Card) -> str:
    gallery = " and ".join(card.gallery)
    facts = {
        "data": f"{card.source} (read as {card.reader}; docs/releases.md)",
        "asks": f"every picture of {' and '.join(card.queries)}",
        "searched": f"the pictures of {gallery}" if gallery else "all other queries",
        "rule": "a query never finds itself, by id" + ("; of a turntable set, nor near views" if card.rule == "auto" else ""),
        "classes": f"of {card.least_pictures} pictures in the gallery at least" if card.least_pictures else "all",
        "score": f"{card.metric} (beside it: {', '.join([*(f'hit@{k}' for k in card.ks), 'map@all', *card.measures])})",
        "code sizes": ", ".join(f"{bits} bits" for bits in card.code_sizes),
    }  # fmt: skip
    lines = [f"{card.name}, version {card.version} (card {card.hash}): {card.title}", card.about, ""]
    lines += [f"  {name:<11} {text}" for name, text in facts.items()]
    for split, size in card.sizes.items():
        lines.append(f"  {'':<11} {split}: {size.pictures:,} pictures of {size.classes:,} classes")
    for of, recipe in card.recipes.items():
        lines += ["", f"Trained for {of}:", *_wrapped(f"hashret train {flags(recipe)}")]
    if card.published:
        rows = [
            [
                each.of,
                "" if each.bits is None else str(each.bits),
                each.score,
                f"{each.value:.4f}",
                each.source,
                each.note,
            ]
            for each in card.published
        ]
        lines += ["", "Published:", text_table(["of", "bits", "score", "value", "source", "note"], rows)]
    if card.notes:
        lines += ["", *(line for note in card.notes for line in _wrapped(f"- {note}"))]
    return "\n".join(lines)


def flags(settings: Mapping[str, Any]) -> str:
    """Settings as they are typed."""
    words = []
    for name, value in settings.items():
        words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
