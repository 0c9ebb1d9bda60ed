"""`hashret protocol run`: pictures through a protocol to a result."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import add_json_argument, counted, positive, print_json, text_table
from hashret.cli.train import add_training_arguments, given_settings
from hashret.errors import UsageError

if TYPE_CHECKING:
    from hashret.protocols.card import Card

EXAMPLE = """\
Example:  hashret protocol run cub-hash --data CUB_200_2011 --code-size 64 --out results/cub64

Looks for pictures that are in two splits, trains by the card's recipes (or takes --model), encodes, searches and scores, and
writes a result into --out that carries the card's hash. Float features, ITQ, LSH, the network before training, raw pixels and
random codes are scored beside the codes; classes seen in training apart from unseen ones. Any setting of `hashret train` can be
given in place of the card's: the result then says what was changed. Typed again, the command goes on where it was interrupted."""

SOURCE_FLAGS = {"arch": "backbone", "epoch": "epochs", "lr_shrink": "step_factor"}
"""Flags that the source of compcars had, and what they are here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.usage = "hashret protocol run NAME --data SOURCE --out RESULT [options]"
    parser.add_argument("name", metavar="NAME", help="a protocol of `hashret protocol list`")
    parser.add_argument(
        "--data",
        "--dataset-name",
        "--dataset_name",
        dest="data",
        metavar="SOURCE",
        help="the release's folder, or any table with the protocol's splits; car-retrieval: turntable draws its stand-in",
    )
    parser.add_argument("--out", type=Path, metavar="RESULT", help="the folder of the result, with the models in it")
    parser.add_argument("--exp-name", "--exp_name", metavar="NAME", help="as --out results/NAME")
    parser.add_argument(
        "--model", action="append", default=[], metavar="RUN", help="score this model; repeat for several"
    )
    parser.add_argument(
        "--of", choices=("hash", "float"), action="append", default=[], help="train only this recipe (default: all)"
    )
    parser.add_argument(
        "--leaks",
        choices=("on", "off"),
        default="on",
        help="look for pictures in two splits first (default: %(default)s)",
    )
    parser.add_argument(
        "--least-pictures",
        type=positive,
        metavar="N",
        help="of a class in the gallery, in place of what the card asks for: another card, whose results rank among themselves",
    )
    source = parser.add_argument_group("flags of the source of compcars, for compcars only")
    source.add_argument("--arch", help="as --backbone")
    source.add_argument("--epoch", type=int, help="as --epochs")
    source.add_argument("--lr_shrink", type=float, help="what the rate is multiplied by every --step-epochs")
    source.add_argument(
        "--show_batch", action="store_true", help="write a picture of a training batch into RESULT first"
    )
    source.add_argument("--dpath", metavar="SOURCE", help="as --data")
    source.add_argument("--save_path", type=Path, metavar="RESULT", help="as --out")
    code = parser.add_argument_group("code and loss")
    code.add_argument(
        "--code-size",
        "--code_size",
        type=positive,
        nargs="+",
        metavar="BITS",
        help="one or several (default: the card's)",
    )
    add_training_arguments(parser, code)
    parser.set_defaults(label_map=None, keep_epochs=None)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the protocol; print the result."""
    from hashret.protocols.cards import find_card

    card = find_card(args.name)
    if args.least_pictures is not None:
        if card.several_labels:
            raise UsageError(
                f"--least-pictures is {args.least_pictures}, but a picture of {card.name} can be of several classes, large and "
                "small; leave it out"
            )
        card = dataclasses.replace(card, least_pictures=args.least_pictures)
    _translate(args, card)
    if args.exp_name is not None:
        if args.out is not None:
            raise UsageError("--exp-name and --out both name the result; give one of them")
        if Path(args.exp_name).name != args.exp_name or args.exp_name in ("", ".", ".."):
            raise UsageError(f"--exp-name is {args.exp_name!r}; it is a name and no path (--out takes a path)")
        args.out = Path("results") / args.exp_name
    if args.data is None or args.out is None:
        missing = "--data SOURCE" if args.data is None else "--out RESULT"
        raise UsageError(f"{missing} is missing; `hashret protocol show {card.name}` says what it reads")
    code_sizes = tuple(dict.fromkeys(args.code_size or ()))
    args.code_size = None
    given = given_settings(args)
    trains = sorted(given.keys() - {"device", "workers"}) + ["of"] * bool(args.of) + ["show_batch"] * args.show_batch
    if args.model and trains:
        flag = trains[0] if trains[0] == "show_batch" else trains[0].replace("_", "-")
        raise UsageError(f"--model takes a trained model, so --{flag} would change nothing; leave one out")

    from hashret.protocols.run import Request, run_protocol

    request = Request(
        given=given,
        code_sizes=code_sizes,
        of=tuple(args.of),
        models=tuple(args.model),
        leaks=args.leaks == "on",
        batch=args.show_batch,
        device=args.device or "auto",
        workers=args.workers,
    )
    document = run_protocol(card, args.data, args.out, request)
    if args.json:
        print_json(document)
    else:
        _print(document, args.out)
    return 0


def _translate(args: argparse.Namespace, card: Card) -> None:
    """Take the flags that the source of compcars had for those that they mean. UsageError for them with another card."""
    pairs = {**SOURCE_FLAGS, "dpath": "data", "save_path": "out"}
    typed = [name for name in pairs if getattr(args, name) is not None] + ["show_batch"] * args.show_batch
    if typed and card.name != "compcars":
        ours = pairs.get(typed[0])
        advice = f"use --{ours.replace('_', '-')}" if ours else "leave it out"
        raise UsageError(f"--{typed[0]} is a flag of compcars only; {advice}")
    for name in typed:
        if name == "show_batch":
            continue
        ours = pairs[name]
        if getattr(args, ours) is not None:
            raise UsageError(f"--{name} and --{ours.replace('_', '-')} mean the same; give one of them")
        setattr(args, ours, getattr(args, name))
        if name == "lr_shrink":
            args.schedule = args.schedule or "step"


def _print(document: dict[str, Any], out: Path) -> None:
    """The result for people: what was scored, published values, and what is to be known before the scores are believed."""
    from hashret.protocols.result import caveats

    card, data = document["protocol"], document["data"]
    metric = card["metric"]
    queries, gallery = counted(data["queries_scored"], "query", "queries"), counted(data["gallery"], "picture")
    print(f"{card['name']} (card {document['protocol_hash']}), {data['name']}: {queries} in a gallery of {gallery}")
    print(document["rule"][0].upper() + document["rule"][1:] + ".")
    shown = list(dict.fromkeys([metric, "hit@1", "map@all"]))
    seen, unseen = data["queries_of_seen_classes"], data["queries_scored"] - data["queries_of_seen_classes"]
    both = seen and unseen
    lines = []
    for row in document["rows"]:
        low, high = row["intervals_95"][metric]
        cells = [f"{row['scores'][metric]['expected']:.4f} ±{(high - low) / 2:.4f}"]
        cells += [f"{row['scores'][name]['expected']:.4f}" for name in shown[1:]]
        cells += [f"{row[group][metric]:.4f}" for group in ("seen", "unseen") if both]
        lines.append([row["name"], *cells])
    header = ["", *shown, *([f"{metric} seen", f"{metric} unseen"] if both else [])]
    print("\n" + text_table(header, lines))
    if not both:
        print(f"\nAll queries are of classes that were {'' if seen else 'not '}trained on.")
    _print_searches(document)
    _print_strangers(document)
    _print_published(document)
    for sentence in caveats(document):
        print(sentence)
    print(f"{out}: result.json, per_query.npz; rank results of this protocol with: hashret compare {out} RESULT")


def _print_searches(document: dict[str, Any]) -> None:
    lines = [
        [f"{model}: {way}", *(f"{found['recall'][k]:.4f}" for k in found["recall"]), f"{found['bytes_a_picture']:.1f}"]
        for model, ways in (document["searches"] or {}).items()
        for way, found in ways.items()
    ]
    if lines:
        ks = next(iter(next(iter(document["searches"].values())).values()))["recall"]
        names = ["searched by", *(f"recall@{k} of exact" for k in ks), "bytes a picture"]
        print("\n" + text_table(names, lines) + "\n")


def _print_strangers(document: dict[str, Any]) -> None:
    if document["strangers"] is None:
        return
    lines = []
    for model, ways in document["strangers"].items():
        for way, found in ways.items():
            judged = found["assessment"]
            values = (judged["map_before"], judged["map_after"], judged["auroc"], judged["fpr_at_95_tpr"])
            lines.append([f"{model}: by {way}", *(f"{value:.4f}" for value in values)])
    names = ["strangers told", "class-list MAP@5 without -1", "with it", "AUROC", "FPR at 95 % TPR"]
    print("\n" + text_table(names, lines) + "\n")


def _print_published(document: dict[str, Any]) -> None:
    for each in document["protocol"]["published"]:
        bits = "" if each["bits"] is None else f", {each['bits']} bits"
        note = f"; {each['note']}" if each["note"] else ""
        print(f"Published: {each['score']} {each['value']:.4f} ({each['of']}{bits}; {each['source']}{note})")
