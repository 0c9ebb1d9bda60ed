"""What do protocols score, run for real on the data that is at hand?

Results of `hashret protocol run` are written into docs/protocols.md: what was scored, beside what it has to beat, with 95 %
intervals, what was changed of a card's recipe, and which turns of the view break retrieval where pictures tell.

Run: python benchmarks/protocols.py RESULT … --markdown docs/protocols.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import machine
import pages

from hashret.protocols.ranking import rank
from hashret.protocols.result import Result, caveats, read_result

TITLE = "# Measured"
PACKAGES = ("hashret", "torch", "torchvision", "numpy")


def main(arguments: list[str] | None = None) -> int:
    """Write the part of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the part there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    results = [read_result(folder) for folder in options.results]
    text = as_markdown(results)
    if options.markdown:
        pages.write_part(options.markdown, text)
    print(json.dumps([result.document for result in results], indent=1) if options.json else text)
    return 0


def as_markdown(results: list[Result]) -> str:
    """The part, results in the order given."""
    at = machine.describe(PACKAGES)
    versions = ", ".join(f"{name} {version}" for name, version in dict(at["versions"]).items())  # type: ignore[call-overload]
    lines = [
        TITLE,
        "",
        f"Written by `python benchmarks/protocols.py` from results of `hashret protocol run`. {at['cpu']}, {at['cores']} cores; "
        f"{versions}. ± is half of the 95 % interval over queries.",
        "",
    ]
    for result in results:
        lines += _one(result)
    return "\n".join(lines).rstrip() + "\n"


def _one(result: Result) -> list[str]:
    document, metric = result.document, result.metric
    data, card = document["data"], document["protocol"]
    shown = list(dict.fromkeys([metric, "hit@1", "map@all"]))
    lines = [
        f"## {card['name']}: {card['title']}",
        "",
        f"Card {document['protocol_hash']}; {data['queries_scored']:,} queries in a gallery of {data['gallery']:,} pictures; "
        f"{document['rule']}.",
        "",
        f"| | {' | '.join(shown)} |",
        "|" + "---|" * (len(shown) + 1),
    ]
    for row in document["rows"]:
        low, high = row["intervals_95"][metric]
        cells = [f"{row['scores'][metric]['expected']:.3f} ±{(high - low) / 2:.3f}"]
        cells += [f"{row['scores'][name]['expected']:.3f}" for name in shown[1:]]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    lines += [""]
    ranked = rank([result])
    for row in ranked[1:]:
        low, high = row.below_interval
        lines.append(f"- {row.name}: {100 * row.below_first:.1f} points of {metric} below {ranked[0].name} "
                     f"(95 % interval {100 * low:.1f} to {100 * high:.1f})")  # fmt: skip
    lines += [f"- {sentence}" for sentence in caveats(document)]
    return [*lines, "", *_turns(document)]


def _turns(document: dict[str, Any]) -> list[str]:
    """hit@1 by turn of the view, of each way of ranking; nothing for pictures that do not tell."""
    if document["conditions"] is None:
        return []
    found = document["conditions"]["time by turn"]
    lines = [
        "hit@1 in percent where, of the query's class, only pictures turned so far are in the gallery, by the query's time:",
        "",
        f"| | time | {' | '.join(found['columns'])} |",
        "|" + "---|" * (len(found["columns"]) + 2),
    ]
    for name, top1 in found["top1"].items():
        for time, values in zip(found["rows"], top1, strict=True):
            cells = ["–" if value is None else f"{100 * value:.0f}" for value in values]
            lines.append(f"| {name} | {time} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
