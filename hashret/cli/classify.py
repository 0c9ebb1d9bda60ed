"""`hashret classify`: the likeliest classes of every picture, -1 for what is of no class, as a competition's CSV."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_folder_can_be_made,
    check_writable,
    counted,
    not_negative,
    positive,
    print_json,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.encoding import Encoded
    from hashret.evaluation.strangers import Answers
    from hashret.model.hasher import Hasher

VALIDATION = "val"
OUTSIDE = "outside"

EXAMPLE = """\
Example:  hashret classify --model runs/whales --data whales.csv --out submission.csv --outside beaches/

Writes a line `id,classes` for every picture of --split: the five likeliest classes, best first, -1 standing before the first that
is not likely enough. What is enough is chosen on the split 'val', mixed with pictures of no class: those of --outside and of the
split 'outside'. Where the pictures to classify are labelled, one half of these strangers chooses and the other half judges.

The model needs a classifier (--objective multilabel or classification); with --by hamming, asymmetric or agreement codes do, and
classes are those that the nearest pictures of --gallery-split vote for. docs/strangers.md says what each means."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("--model", required=True, metavar="RUN", help="a run or model folder; RUN@3 is its third epoch")
    add_data_arguments(parser, split=False)
    parser.add_argument(
        "--split", metavar="NAME", help="the pictures to classify (default: test, where the table has it, else all)"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="CSV", help="the submission to write")
    parser.add_argument(
        "--by",
        choices=("scores", "hamming", "asymmetric", "agreement"),
        default="scores",
        help="what makes a picture strange: low class scores; bits to the nearest code; the distance of its logits to the "
        "nearest code; nearest pictures of different classes (default: %(default)s)",
    )
    parser.add_argument(
        "--gallery-split", default="train", metavar="NAME", help="whose pictures vote without scores (default: train)"
    )
    parser.add_argument(
        "--neighbours", type=positive, default=10, metavar="N", help="how many of them vote (default: %(default)s)"
    )
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="classes whose score is below T come after -1; without scores, -1 is first where a picture is stranger than T",
    )
    threshold.add_argument(
        "--strangers-share", type=float, metavar="SHARE", help="guess it: this share of the lists begins with -1"
    )
    parser.add_argument(
        "--outside", action="append", default=[], metavar="SOURCE", help="pictures of no class (repeat for several)"
    )
    parser.add_argument(
        "--mixture", type=float, default=0.3, metavar="SHARE", help="of strangers, to choose by (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="which strangers choose, which judge (default: 0)"
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="FOLDER",
        help="draw the most predicted classes, and samples beside training pictures",
    )
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, choose the threshold, write, draw, say."""
    from hashret.data.sources import open_source
    from hashret.evaluation import competition
    from hashret.evaluation.strangers import STRANGER
    from hashret.model.hasher import Hasher

    _check(args)
    table = open_source(args.data, args.label_map)
    tables = _parts(args, table)
    training = _labelled(table, "train") if args.plots is not None and "train" in table.splits else None
    hasher = Hasher.from_pretrained(args.model, device=args.device)
    names = hasher.class_names if args.by == "scores" else tables["gallery"].label_matrix()[1]
    competition.check_names(names)
    if "validation" in tables:
        for part in ("validation", "asked"):
            _check_known(tables[part], names)
    what = {"scores": ["scores"], "asymmetric": ["codes", "logits"]}.get(args.by, ["codes"])
    with kept_until_done(unfinished_beside(args.out)) as unfinished:
        listed = args.out.with_name(args.out.name + ".skipped.txt")
        joined = _joined(list(tables.values()), table.name)
        encoded, skipped_list = encode(args, hasher, joined, what, unfinished, listed, "nothing was written")
        seen = _taken_apart(tables, encoded)
        answers = {part: _answers(args, each, seen, hasher, names) for part, each in seen.items() if part != "gallery"}
        threshold, document = _decided(args, seen, answers)
        lists = answers["asked"].with_strangers(threshold)
        answered = dict(zip(seen["asked"].table.ids, lists, strict=True))
        # A submission answers every picture, and what cannot be read shows no class.
        written = {name: answered.get(name, [STRANGER]) for name in tables["asked"].ids}
        competition.write(args.out, written)
    document |= {
        "out": args.out,
        "pictures": len(written),
        "called_strangers": sum(classes[:1] == [STRANGER] for classes in written.values()),
        "skipped": len(encoded.skipped),
        "skipped_list": skipped_list,
    }
    if args.plots is not None:
        document["plots"] = _draw(args.plots, seen["asked"].table, lists, training)
    if args.json:
        print_json(document)
    else:
        _say(args, document)
    return 0


def _check(args: argparse.Namespace) -> None:
    """UsageError for flags that do not go together, and for what cannot or must not be written."""
    check_writable("--out", args.out)
    if args.out.exists():
        raise UsageError(f"--out is {args.out}, which exists; choose another name, or remove it first")
    if args.threshold is not None and not math.isfinite(args.threshold):
        raise UsageError(f"--threshold is {args.threshold}; it must be a finite number")
    if args.strangers_share is not None and not 0 <= args.strangers_share <= 1:
        raise UsageError(f"--strangers-share is {args.strangers_share}; it is a share, from 0 to 1")
    if not 0 < args.mixture < 1:
        raise UsageError(f"--mixture is {args.mixture}; it is a share, above 0 and below 1")
    if args.outside and (args.threshold is not None or args.strangers_share is not None):
        raise UsageError("--outside chooses a threshold, and one is given or guessed; leave one of the two out")
    if args.plots is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError("plots are drawn with matplotlib, which is not installed; pip install 'hashret[report]'")
        check_folder_can_be_made("--plots", args.plots)


def _parts(args: argparse.Namespace, table: PictureTable) -> dict[str, PictureTable]:
    """The pictures by what they are for: "asked"; without scores "gallery"; to choose by "validation" and "strangers"."""
    from hashret.data.sources import open_source

    split = args.split or ("test" if "test" in table.splits else None)
    parts = {"asked": table if split is None else table.where_split(split)}
    if args.by != "scores":
        if split in (None, args.gallery_split):
            raise UsageError(
                f"--by {args.by} compares with the pictures of --gallery-split {args.gallery_split}, and those to classify are "
                "among them; choose another --split"
            )
        parts["gallery"] = _labelled(table, args.gallery_split)
    if args.threshold is not None or args.strangers_share is not None:
        return parts
    outside = [open_source(source) for source in args.outside]
    outside += [table.where_split(OUTSIDE)] if OUTSIDE in table.splits else []
    if not outside or VALIDATION not in table.splits:
        missing = f"a split {VALIDATION!r}" if outside else f"pictures of no class (--outside, or a split {OUTSIDE!r})"
        raise UsageError(
            f"a threshold is chosen on a split {VALIDATION!r} mixed with pictures of no class, and {table.name} comes without "
            f"{missing}; add them, or give --threshold or --strangers-share"
        )
    if split == VALIDATION:
        raise UsageError(
            f"the split {VALIDATION!r} chooses the threshold, which cannot judge it then; choose another --split"
        )
    parts["validation"] = _labelled(table, VALIDATION)
    strangers = _joined(outside, table.name)
    first_row = {key: row for row, key in reversed(list(enumerate(_keys(strangers))))}
    parts["strangers"] = strangers.select(sorted(first_row.values()))
    _check_apart(parts)
    return parts


def _labelled(table: PictureTable, split: str) -> PictureTable:
    """The labelled pictures of a split; DataError where there are none."""
    part = table.where_split(split)
    labelled = part.select(np.array([label != "" for label in part.labels], dtype=bool))
    if not len(labelled):
        raise DataError(f"no picture of the split {split!r} of {table.name} has a label; label some")
    return labelled


def _check_apart(parts: dict[str, PictureTable]) -> None:
    """DataError where a stranger is also asked about, or known: the threshold, and the score, would know too much."""
    strangers = set(_keys(parts["strangers"]))
    for part, what in (
        ("asked", "to be classified"),
        ("validation", f"in the split {VALIDATION!r}"),
        ("gallery", "in the gallery"),
    ):
        for name, key in zip(parts[part].ids, _keys(parts[part]), strict=True) if part in parts else ():
            if key in strangers:
                raise DataError(
                    f"the picture {name!r} is {what}, and among the strangers that choose the threshold, too; take it out of one "
                    "of the two, or the score knows what it should not"
                )


def _check_known(table: PictureTable, names: Sequence[str]) -> None:
    """DataError for a picture none of whose classes can be answered."""
    known = set(names)
    for name, classes in zip(table.ids, table.label_lists(), strict=True):
        if classes and not known & set(classes):
            raise DataError(
                f"the picture {name!r} has the label {';'.join(classes)}, which is none of the {len(known):,} classes that can "
                "be answered; leave its label empty, or take it out"
            )


def _keys(table: PictureTable) -> list[str]:
    """What tells pictures apart wherever they come from: file and box."""
    return [f"{os.path.realpath(path)} {table.box(row) or ''}" for row, path in enumerate(table.paths)]


def _joined(tables: Sequence[PictureTable], name: str) -> PictureTable:
    """The pictures of several tables, with numbers for ids, and their boxes."""
    from hashret.data.table import BOX_COLUMNS, PictureTable

    n = sum(len(table) for table in tables)
    boxes = {
        column: [text for table in tables for text in table.attributes.get(column, [""] * len(table))]
        for column in BOX_COLUMNS
    }
    paths = [path for table in tables for path in table.paths]
    return PictureTable([str(i) for i in range(n)], paths, [""] * n, [""] * n, boxes, name)


class _Seen(NamedTuple):
    """The pictures of a part that could be read, and what the model makes of them."""

    table: PictureTable
    scores: NDArray[np.float32] | None
    codes: NDArray[np.uint8] | None
    logits: NDArray[np.float32] | None


def _taken_apart(tables: dict[str, PictureTable], encoded: Encoded) -> dict[str, _Seen]:
    """The parts of what was encoded together. DataError where nothing of a part can be read."""
    seen, first = {}, 0
    for part, table in tables.items():
        at = np.flatnonzero((encoded.rows >= first) & (encoded.rows < first + len(table)))
        if not len(at):
            raise DataError(
                f"none of the {counted(len(table), 'picture')} that are {part} can be read; nothing was written"
            )
        seen[part] = _Seen(
            table.select(encoded.rows[at] - first),
            None if encoded.scores is None else encoded.scores[at],
            None if encoded.codes is None else encoded.codes[at],
            None if encoded.logits is None else encoded.logits[at],
        )
        first += len(table)
    return seen


def _answers(
    args: argparse.Namespace, part: _Seen, seen: dict[str, _Seen], hasher: Hasher, names: Sequence[str]
) -> Answers:
    """What is answered about the pictures of a part, by file and box."""
    from hashret.evaluation import strangers

    keys = _keys(part.table)
    if part.scores is not None:
        return strangers.of_scores(keys, part.scores, names)
    gallery = seen["gallery"]
    assert part.codes is not None and gallery.codes is not None
    logits = part.logits
    if logits is not None and hasher.thresholds is not None:
        logits = logits - hasher.thresholds
    classes = gallery.table.label_lists()
    return strangers.by_codes(
        args.by, keys, part.codes, logits, gallery.codes, classes, hasher.code_size, args.neighbours
    )


def _decided(
    args: argparse.Namespace, seen: dict[str, _Seen], answers: dict[str, Answers]
) -> tuple[float, dict[str, Any]]:
    """The threshold on levels, and how it came about; "threshold" is that of scores, or of strangeness."""
    from hashret.evaluation import strangers

    sign = 1.0 if args.by == "scores" else -1.0
    document: dict[str, Any] = {"by": args.by, "calibration": None, "assessment": None}
    if args.threshold is not None:
        threshold = sign * args.threshold
    elif args.strangers_share is not None:
        threshold = strangers.threshold_of_share(answers["asked"], args.strangers_share)
    else:
        known, outside = (answers["validation"], seen["validation"].table.label_lists()), answers["strangers"]
        truths = seen["asked"].table.label_lists()
        labelled = [row for row, classes in enumerate(truths) if classes]
        if labelled:
            chosen, judging = strangers.halves(outside.ids, args.seed)
            calibration = strangers.calibrate(*known, outside.select(chosen), share=args.mixture)
            judged = answers["asked"].select(labelled), [truths[row] for row in labelled]
            document["assessment"] = strangers.assess(calibration, *judged, outside.select(judging)).as_dict()
        else:
            calibration = strangers.calibrate(*known, outside, share=args.mixture)
        threshold = calibration.threshold
        document["calibration"] = calibration.as_dict() | {"threshold": sign * threshold}
    return threshold, {"threshold": sign * threshold, **document}


def _draw(
    folder: Path, pictures: PictureTable, lists: Sequence[Sequence[str]], training: PictureTable | None
) -> list[Path]:
    """The plots, where they lie."""
    from hashret.report import answers

    folder.mkdir(parents=True, exist_ok=True)
    drawn = [folder / "predicted-classes.png"]
    answers.predicted_classes(lists, drawn[0])
    if training is not None:
        drawn.append(folder / "predicted-against-training.png")
        answers.predicted_against_training(pictures, lists, answers.examples_of(training)).save(drawn[1])
    return drawn


def _say(args: argparse.Namespace, document: dict[str, Any]) -> None:
    called = document["called_strangers"]
    unit = {"scores": "a class score below", "hamming": "bits to the nearest code above"}
    rule = unit.get(args.by, "strangeness above")
    print(
        f"{args.out}: classes of {counted(document['pictures'], 'picture')}, -1 first for {called:,} "
        f"({100 * called / document['pictures']:.1f} %): {rule} {document['threshold']:.4g}"
    )
    if document["skipped"]:
        print(
            f"{counted(document['skipped'], 'picture')} cannot be read; those to be classified are answered with -1 alone"
        )
    calibration, assessment = document["calibration"], document["assessment"]
    if calibration:
        print(
            f"chosen on {counted(calibration['known'], 'picture')} of {VALIDATION!r} and {calibration['strangers']:,} of no "
            f"class, {100 * calibration['share']:g} % of the mixture: {_maps(calibration)}"
        )
    if assessment:
        print(
            f"judged by {counted(assessment['known'], 'labelled picture')} to classify and {assessment['strangers']:,} others of "
            f"no class: {_maps(assessment)}; AUROC {assessment['auroc']:.4f}, {100 * assessment['fpr_at_95_tpr']:.1f} % of the "
            "known called strange where 95 % of the strangers are"
        )
    for path in document.get("plots", ()):
        print(path)


def _maps(scores: dict[str, Any]) -> str:
    return f"MAP@{scores['k']} {scores['map_before']:.4f} without -1, {scores['map_after']:.4f} with it"
