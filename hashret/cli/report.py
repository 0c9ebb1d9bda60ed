"""`hashret report`: one HTML page about a run: curves, bit health, mistakes, suspected labels."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_writable,
    counted,
    not_negative,
    print_json,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.model.hasher import Hasher
    from hashret.report.analysis import Analysis
    from hashret.report.verdict import RunFacts
    from hashret.training.runs import Run
    from hashret.training.splits import TrainingSplit

EXAMPLE = """\
Example:  hashret report runs/cars64                 (writes runs/cars64/report.html)
          hashret report runs/cars64 runs/cars32    (writes compare.html)
          hashret report results/cub64               (a result of hashret protocol run; several of one protocol)

Shows how a run learnt, what its bits are worth, what codes lose against float features, the queries that fail, the classes
that are confused and the labels that are doubted, in one HTML page that holds its pictures itself. It looks at the run's own
validation pictures, or with --split at those of a split. Of several runs it makes one page that sets their scores, curves and
settings side by side, on the pictures of the first. Of results it shows what was scored, and below it for each model its bits,
queries, confused classes and classes one by one. Encoding goes on where it was interrupted when the command is typed again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder, or its name in runs/; RUN@3 is its third epoch; or a result; others are set against the first",
    )
    # The data and label map of the run serve where nothing else is said.
    add_data_arguments(parser, required=False)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="HTML",
        help="where to write (default: report.html, or report-SPLIT.html, in the run; of several runs compare.html here)",
    )
    parser.add_argument(
        "--examples",
        type=not_negative,
        default=12,
        metavar="N",
        help="about how many examples each list shows, with pictures; 0: numbers only (default: %(default)s)",
    )
    parser.add_argument(
        "--map",
        choices=("auto", "off"),
        default="auto",
        help="lay the pictures out on a plane by UMAP, which takes a while: where umap-learn is installed, or not at all "
        "(default: %(default)s)",
    )
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, compute, write the page, print where it is."""
    if any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2")):
        raise UsageError(
            "a report is drawn with matplotlib and jinja2, which are not installed; pip install 'hashret[report]'"
        )
    if any(is_result(Path(name)) for name in args.runs):
        from hashret.cli.report_results import run_results

        return run_results(args)
    if len(args.runs) > 1:
        from hashret.cli.report_several import run_several

        return run_several(args)
    from hashret.model.folder import resolve_model

    model_folder = resolve_model(args.runs[0])
    run_folder = run_of(model_folder)
    document = run_folder.read()
    out = args.out or run_folder.folder / ("-".join(["report", *(args.split or [])]).replace("/", "-") + ".html")
    check_out(out)
    looked_at = looked_at_by(args, document, run_folder)

    from hashret.data.table import PictureTable
    from hashret.model.hasher import Hasher
    from hashret.report.page import render
    from hashret.report.verdict import sentences

    named = PictureTable.read_csv(run_folder.suspects_path) if run_folder.suspects_path.is_file() else None
    hasher = Hasher.from_pretrained(model_folder, device=args.device)
    with kept_until_done(unfinished_beside(out)) as workplace:
        analysis, n_skipped, skipped_list = _analysis(args, hasher, looked_at, workplace, Path(f"{out}.skipped.txt"))
        if named is not None:
            analysis = analysis.without_suspects(set(named.ids))
        facts = _facts(args, run_folder, document, looked_at, hasher, n_skipped, named)
        n_bytes = write_page(out, render(facts, analysis, args.examples))
    said = sentences(facts, analysis)
    if args.json:
        print_json(
            {
                "run": run_folder.folder,
                "out": out,
                "bytes": n_bytes,
                "data": analysis.pictures.name,
                "validated": looked_at.validated,
                "pictures": len(analysis.pictures),
                "queries": len(analysis.query_rows_Q),
                "epoch": facts.model_epoch,
                "best_epoch": facts.best_epoch,
                "skipped": n_skipped,
                "skipped_list": skipped_list,
                "findings": facts.findings,
                "named_while_training": [] if named is None else named.ids,
                "sentences": said,
                **analysis.as_dict(),
            }
        )
        return 0
    n_doubted = len(analysis.suspects.queries_S) + (0 if named is None else len(named))
    doubted, alike = counted(n_doubted, "label"), counted(analysis.twins.n, "pair")
    print("\n".join(said))
    print(f"{out}: {doubted} to look at, {alike} alike under two labels; {n_bytes / 1e6:.1f} MB")
    return 0


def _analysis(
    args: argparse.Namespace, hasher: Hasher, looked_at: LookedAt, workplace: Path, listed: Path
) -> tuple[Analysis, int, Path | None]:
    """The numbers of the report; how many pictures were left out, and where they are listed."""
    from hashret.evaluation.gallery import gallery_rule
    from hashret.report import picture_map
    from hashret.report.analysis import CODES, Encodings, analyse

    what = ("codes", "features", "logits")
    encoded, skipped_list = encode(args, hasher, looked_at.table, what, workplace, listed, "no report was written")
    assert encoded.codes is not None and encoded.features is not None and encoded.logits is not None
    gallery = looked_at.table.select(encoded.rows)
    labelled = np.flatnonzero([label != "" for label in gallery.labels])
    if not len(labelled):
        raise DataError(
            f"{looked_at.words} have no label where they can be read, so no answer can be right; label some"
        )
    # A run validates with each picture against all others; what a table asks for besides belongs to other splits.
    rule = gallery_rule("self" if looked_at.validated else "auto", gallery)
    encodings = Encodings(hasher.code_size, encoded.codes, encoded.logits, encoded.features, hasher.thresholds)
    with_map = args.map == "auto" and picture_map.is_installed()
    analysis = analyse(gallery, labelled, encodings, rule, with_map=with_map)
    if not analysis.results[CODES].scores.n_queries:
        raise DataError(
            f"none of {looked_at.words} has another picture of its own class, so there is nothing to find; look at "
            "classes with two pictures at least"
        )
    return analysis, len(encoded.skipped), skipped_list


@dataclass(frozen=True)
class LookedAt:
    """The pictures of a report, in a table and in words, and whether they are those that the run was validated on."""

    table: PictureTable
    words: str
    validated: bool


def is_result(folder: Path) -> bool:
    """Whether a folder is what `hashret protocol run` made."""
    return (folder / "result.json").is_file()


def run_of(model_folder: Path) -> Run:
    """The run that a model folder is, or in which it was kept. UsageError for a model without one."""
    from hashret.training.runs import RUN_FILE, Run

    for folder in (model_folder, model_folder.parent.parent):
        if (folder / RUN_FILE).is_file():
            return Run(folder)
    raise UsageError(
        f"{model_folder} is a model, but no training run (it has no {RUN_FILE}); name the folder that `hashret train` made"
    )


def history_of(run: Run) -> list[dict[str, Any]]:
    """The lines of the log that are whole: a run that trains may be writing its last one."""
    lines = []
    if run.log_path.is_file():
        for text in run.log_path.read_text("utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                lines.append(line)
    return lines


def check_out(out: Path) -> None:
    """UsageError unless the page can be written there, over nothing or over an earlier report."""
    from hashret.report.page import GENERATOR

    check_writable("--out", out)
    if out.exists() and GENERATOR.encode() not in out.read_bytes()[:4096]:
        raise UsageError(f"--out is {out}, which exists and is no report of hashret; name another file, or remove it")


def looked_at_by(args: argparse.Namespace, document: Mapping[str, Any], run: Run) -> LookedAt:
    """The pictures of the splits that were named, or else those that the run was validated on, found as it found them."""
    from hashret.data.sources import open_source

    source = document["source"] or {}
    data = args.data or source.get("data")
    if data is None:
        raise UsageError(
            f"{run.folder} was started from Python, where its pictures were given; name them with --data SOURCE"
        )
    whole = open_source(data, args.label_map or source.get("label_map"))
    if args.split:
        named = " and ".join(repr(split) for split in args.split)
        table = whole.where_split(*args.split)
        if not any(table.labels):
            raise DataError(
                f"the split {named} of {whole.name} has no labelled picture, so no answer can be right; label some"
            )
        return LookedAt(table, f"the {counted(len(table), 'picture')} of the split {named} of {whole.name}", False)
    split = split_as_trained(whole, document)
    found = {"train": len(split.train), "validation": len(split.validation)}
    noted = document.get("pictures", found)
    if found != noted:
        raise DataError(
            f"{whole.name} gives {found['train']:,} pictures to train on and {found['validation']:,} to validate on, but "
            f"{run.folder} had {noted['train']:,} and {noted['validation']:,}; name its pictures with --data, or look at a "
            "split with --split"
        )
    words = f"the {counted(len(split.validation), 'validation picture')} ({split.how})"
    return LookedAt(split.validation, words, True)


def split_as_trained(whole: PictureTable, document: Mapping[str, Any]) -> TrainingSplit:
    """What a run trained on and what it was validated on, of the table that it was given."""
    from hashret.training.options import TrainingOptions, learns_from
    from hashret.training.splits import split_for_training

    left_out = set((document["source"] or {}).get("skipped") or ())
    readable = whole.select(np.array([row_id not in left_out for row_id in whole.ids], dtype=bool))
    asked = {**TrainingOptions().as_dict(), **document["options"]}
    return split_for_training(
        readable,
        task=asked["task"],
        validation=asked["validation"],
        seed=asked["seed"],
        learns_from=learns_from(asked.get("objective", "triplet")),
    )


def write_page(out: Path, page: str) -> int:
    """Write the page, whole; its bytes. DataError when it cannot be written."""
    from hashret.index import durable

    content = page.encode("utf-8", errors="backslashreplace")
    try:
        durable.replace_file(out, content)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); choose another --out") from error
    return len(content)


def _facts(
    args: argparse.Namespace,
    run: Run,
    document: Mapping[str, Any],
    looked_at: LookedAt,
    hasher: Hasher,
    n_skipped: int,
    named: PictureTable | None,
) -> RunFacts:
    """What the report says of the run and its model."""
    from hashret.report.verdict import RunFacts
    from hashret.training.diagnosis import found_in
    from hashret.training.runs import best_of

    epoch = hasher.scores.get("epoch")
    config = hasher.config
    training = train_command(run.folder, document)
    commands = [("Train this model again", training)] if training else []
    history = history_of(run)
    return RunFacts(
        name=run.folder.resolve().name,
        document=document,
        history=history,
        model_epoch=epoch if isinstance(epoch, int) else None,
        pictures=looked_at.words,
        validated=looked_at.validated,
        logged=hasher.scores if looked_at.validated else {},
        n_skipped=n_skipped,
        commands=[*commands, ("Make this report again", again(args))],
        model={
            **config["architecture"],
            "code_size": hasher.code_size,
            "activation": config["activation"]["name"],
            "thresholds": "0" if hasher.thresholds is None else "its own, one a bit",
            **config["preprocessing"],
            "fingerprint": hasher.fingerprint(),
        },
        findings=[finding.sentence for finding in found_in(document, history)],
        suspects=named,
        suspects_path=str(run.suspects_path),
        best_logged=best_of(history, document.get("options", {})).epoch,
    )


def again(args: argparse.Namespace) -> str:
    """The command line that was typed, without what does not change the page."""
    words = ["hashret", "report", *args.runs]
    for flag, values in (
        ("--data", [args.data]), ("--label-map", [args.label_map]), ("--split", args.split or []), ("--out", [args.out])
    ):  # fmt: skip
        words += [word for value in values if value is not None for word in (flag, str(value))]
    return shlex.join(words)


def train_command(folder: Path, document: Mapping[str, Any]) -> str | None:
    """The command line that trains with a run's settings, where it runs left open; None for a run started from Python."""
    from hashret.training.options import TrainingOptions

    source = document["source"]
    if not source:
        return None
    words = ["hashret", "train", "--data", str(source["data"]), "--exp-name", folder.resolve().name]
    for flag, value, default in (
        ("--label-map", source.get("label_map"), None),
        ("--on-bad", source.get("on_bad"), "fail"),
    ):
        if value is not None and value != default:
            words += [flag, str(value)]
    defaults = TrainingOptions().as_dict()
    for name, value in document["options"].items():
        if name in ("device", "workers") or value == defaults.get(name) or value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words += [str(each) for each in (value if isinstance(value, (list, tuple)) else [value])]
    return shlex.join(words)
