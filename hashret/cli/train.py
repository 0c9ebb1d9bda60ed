"""`hashret train`: a table of pictures to a run folder with the best model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import add_data_arguments, add_json_argument, counted, print_json, say_skipped
from hashret.errors import HashretError, UsageError
from hashret.training import options as settings
from hashret.training.options import TrainingOptions
from hashret.training.runs import RUN_FILE, Run, UnwrittenRun, create_run

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.training.processes import Processes

# Where a run is computed may change between its parts; what is computed may not.
_MAY_CHANGE = ("device", "workers", "cache")

EXAMPLE = """\
Example:  hashret train --data cars/ --exp-name cars64 --code-size 64
          (cars/ holds one folder of pictures a class; the model comes to lie in runs/cars64)

Trains a network that turns pictures into codes of --code-size bits, with triplet loss unless --objective says otherwise:
pictures of one class come near each other, others stay --margin away, and a classifier shapes what codes are made of. The
best epoch is chosen on a validation split, never on the test split. A run can be stopped with Ctrl-C and
continued with `hashret train --resume runs/cars64`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    # What is not given stays None, so that --resume can tell it from what is given. torch stays out: --help is instant.
    default = TrainingOptions()
    parser.description = EXAMPLE
    parser.usage = "hashret train --data SOURCE [options]\n       hashret train --resume RUN"
    add_data_arguments(parser, required=False, split=False)
    parser.set_defaults(on_bad=None)
    run = parser.add_argument_group("run")
    run.add_argument("--exp-name", "--exp_name", metavar="NAME", help="name of the run (default: DATA_BITS)")
    run.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs lie (default: %(default)s)"
    )
    run.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="continue this run with its own settings (only --device, --workers and --cache may be given anew)",
    )
    run.add_argument(
        "--keep-epochs", action="store_true", default=None, help="keep the model of every epoch; RUN@3 names the third"
    )

    code = parser.add_argument_group("code and loss")
    code.add_argument(
        "--code-size", "--code_size", type=int, metavar="BITS", help=f"1 to 1024 (default: {default.code_size})"
    )
    add_training_arguments(parser, code)
    add_json_argument(parser)


def add_training_arguments(parser: argparse.ArgumentParser, code: argparse._ArgumentGroup) -> None:
    """Declare what decides a training besides the code size; `code` is the group about codes. Not given: None."""
    default = TrainingOptions()
    code.add_argument(
        "--objective",
        choices=settings.OBJECTIVES,
        help="what is minimised; docs/objectives.md says what each is good for. triplet: distances within and between "
        "classes; classification, multilabel: a classifier; cosine, central: fixed codes of the classes; dtsh: likelihood of "
        f"triplets; self: no labels, two views of each picture (default: {default.objective})",
    )
    code.add_argument(
        "--margin",
        "--triplet-margin",
        "--triplet_margin",
        type=_auto_or_number,
        help="triplet: in squared Euclidean distance of the activations, 4 a bit with tanh; dtsh: in bits; auto for both: a "
        "quarter to half of the code for a closed set of classes, the fewer classes the more, 2 to 4 bits when classes to "
        f"search for are unseen. cosine: in cosine; auto: 0.2 (default: {default.margin})",
    )
    code.add_argument(
        "--mining",
        choices=settings.MINING_RULES,
        help="which triplets count; batch-all: all of a batch; semi-hard: for each pair of a class the nearest negative that is "
        f"farther than the pair; hard: for each picture its farthest positive and nearest negative (default: {default.mining})",
    )
    code.add_argument(
        "--hinge",
        choices=settings.HINGES,
        help=f"triplet: max(0, x) of the violating triplets, or log(1 + exp(x)) of all (default: {default.hinge})",
    )
    code.add_argument(
        "--sign-weight",
        type=float,
        metavar="W",
        help="triplet: add the loss of the codes themselves, gradients passed straight through the sign; the weight grows from "
        f"0 to this (default: {default.sign_weight:g})",
    )
    code.add_argument(
        "--proxy-weight",
        type=float,
        metavar="W",
        help=f"triplet: add the loss against a learned code of every class (default: {default.proxy_weight:g})",
    )
    code.add_argument(
        "--memory",
        type=int,
        metavar="N",
        help="triplet: compare each batch with the codes of the last N pictures too; 0: none "
        f"(default: {default.memory})",
    )
    code.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help=f"self: the smaller, the more the nearest strangers count (default: {default.temperature:g})",
    )
    code.add_argument(
        "--through",
        choices=settings.THROUGH,
        help="classification, multilabel: what the classifier reads; features: the pooled features, to which "
        f"codes are fitted afterwards; codes: the activations (default: {default.through})",
    )
    code.add_argument(
        "--dropout",
        type=float,
        metavar="SHARE",
        help=f"of the numbers that a classifier reads, beside codes too, set to 0 at random (default: {default.dropout:g})",
    )
    code.add_argument(
        "--balance",
        type=_auto_or_number,
        metavar="W",
        help="weight of bits being as often 1 as 0, and independent of each other; auto: 1 with --objective self, otherwise 0 "
        f"(default: {default.balance})",
    )
    code.add_argument(
        "--quantisation",
        type=float,
        metavar="W",
        help=f"weight of activations being near the ends of their range (default: {default.quantisation:g})",
    )
    code.add_argument(
        "--nested",
        action="store_true",
        default=None,
        help="train the first 16, 32, 64, ... bits to be codes by themselves",
    )
    code.add_argument(
        "--activation", choices=settings.ACTIVATIONS, help=f"of the head, in training (default: {default.activation})"
    )
    code.add_argument(
        "--task",
        choices=settings.TASKS,
        help=f"are the classes to search for those trained on? auto reads it from the splits (default: {default.task})",
    )
    code.add_argument(
        "--classify",
        type=float,
        metavar="W",
        help="weight of a classifier beside the codes, which reads the pooled features: better features to make codes of, "
        f"and to rank anew what codes find (default: {default.classify:g})",
    )
    code.add_argument(
        "--code-gradient",
        type=float,
        metavar="SHARE",
        help="how much of what codes want reaches the backbone; 0: the classifier alone shapes the features, and the head "
        f"learns codes of them; 1: both shape them (default: {default.code_gradient:g})",
    )
    code.add_argument(
        "--classify-first",
        type=_auto_or_epochs,
        metavar="EPOCHS",
        help="only classify for so many epochs, and learn codes after that, of better features; auto: half of all epochs with "
        f"--code-gradient 0, else none (default: {default.classify_first})",
    )
    code.add_argument(
        "--head-start",
        choices=settings.HEAD_STARTS,
        help="triplet, dtsh: what codes are when they begin to be learned; itq: fitted to the features by then, without "
        f"labels; random: nothing yet, or those of --weights RUN with as many bits (default: {default.head_start})",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--backbone", help=f"any torchvision classification model (default: {default.backbone})")
    model.add_argument(
        "--weights", metavar="imagenet|none|FILE", help=f"where the backbone starts (default: {default.weights})"
    )
    model.add_argument(
        "--pooling",
        choices=settings.POOLINGS,
        help="how the last feature map becomes one vector; gem: the generalised mean, whose exponent is learned "
        f"(default: {default.pooling})",
    )
    model.add_argument(
        "--project",
        type=int,
        metavar="N",
        help="features are a learned linear function of what is pooled, N numbers; 0: what is pooled "
        f"(default: {default.project})",
    )
    model.add_argument(
        "--image-size", type=int, metavar="PX", help=f"side of the network's input (default: {default.image_size})"
    )
    model.add_argument(
        "--resize", choices=settings.RESIZES, help=f"how pictures are made square (default: {default.resize})"
    )
    model.add_argument(
        "--mirror",
        choices=settings.MIRRORS,
        help="where a mirrored picture shows the same thing; always: training mirrors half of its pictures, and codes and "
        "features are the mean of those of a picture and of its mirror image, better and in twice the time; training: there "
        f"alone; never: for letters and other things that a mirror makes others of (default: {default.mirror})",
    )
    model.add_argument(
        "--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels in 0..1, where the weights do not say"
    )
    model.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="likewise")

    fit = parser.add_argument_group("optimisation")
    fit.add_argument("--epochs", type=int, help=f"times every picture is seen (default: {default.epochs})")
    fit.add_argument(
        "--classes-per-batch",
        type=int,
        metavar="P",
        help="a batch is P x K pictures (default: 16, or all classes where there are fewer)",
    )
    fit.add_argument(
        "--pictures-per-class",
        type=int,
        metavar="K",
        help=f"of each of the P classes (default: {default.pictures_per_class})",
    )
    fit.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"pictures in a batch where the objective compares no pairs (default: {default.batch_size})",
    )
    fit.add_argument(
        "--optimizer",
        metavar="NAME[,KEY=VALUE...]",
        help="adamw, adam, sgd or adam_inverse_sqrt, with settings behind commas as in adam,beta1=0.9,beta2=0.98: lr and "
        "weight_decay (in place of their flags), beta1, beta2, eps of the Adams, momentum of sgd. With adam_inverse_sqrt the "
        "rate rises linearly from warmup_init_lr (1e-7) to lr in warmup_updates (4000) updates, then falls as 1/sqrt(updates), "
        f"in place of --warmup and --schedule (default: {default.optimizer})",
    )
    fit.add_argument("--lr", type=float, help=f"of the backbone, at its highest (default: {default.lr})")
    fit.add_argument(
        "--head-lr-factor", type=float, help=f"the head learns faster by this (default: {default.head_lr_factor})"
    )
    fit.add_argument(
        "--layer-decay",
        type=float,
        metavar="FACTOR",
        help="each stage of the backbone learns at this times the rate of the next, so that early layers of a pretrained one "
        f"change little; 1: all at --lr (default: {default.layer_decay})",
    )
    fit.add_argument("--weight-decay", type=float, help=f"(default: {default.weight_decay})")
    fit.add_argument(
        "--warmup",
        type=float,
        metavar="EPOCHS",
        help=f"until --lr is reached (default: {default.warmup})",
    )
    fit.add_argument(
        "--schedule",
        choices=settings.SCHEDULES,
        help="the learning rate after that: half a cosine to 0, times --step-factor after every --step-epochs, or the same "
        f"(default: {default.schedule})",
    )
    fit.add_argument("--step-epochs", type=int, metavar="EPOCHS", help=f"(default: {default.step_epochs})")
    fit.add_argument("--step-factor", type=float, metavar="FACTOR", help=f"(default: {default.step_factor})")
    fit.add_argument(
        "--clip",
        type=float,
        metavar="NORM",
        help=f"gradients are scaled down to this L2 norm; 0: never (default: {default.clip:g})",
    )
    fit.add_argument(
        "--ema",
        type=float,
        metavar="DECAY",
        help="validate and keep a running mean of the weights, this share of it kept at each update (0.999, say); "
        f"0: the weights themselves (default: {default.ema:g})",
    )
    fit.add_argument(
        "--freeze-norm",
        action="store_true",
        default=None,
        help="batch norm keeps the statistics it began with: for very small batches",
    )
    fit.add_argument(
        "--augment",
        choices=settings.AUGMENTATIONS,
        help="random changes to training pictures: crops, mirroring, colours; shifted: moved and mirrored, for small pictures; "
        f"auto: by the number of pictures, the fewer the stronger (default: {default.augment})",
    )
    fit.add_argument(
        "--validation",
        type=float,
        metavar="SHARE",
        help=f"held out when the table has no split 'val' (default: {default.validation})",
    )
    fit.add_argument(
        "--patience",
        type=int,
        metavar="EPOCHS",
        help="stop early after so many epochs without a better one; 0: never (default: 0)",
    )
    fit.add_argument("--seed", type=int, help=f"same seed, same CPU machine: same bytes (default: {default.seed})")
    fit.add_argument(
        "--amp", choices=settings.AMP, help=f"bfloat16; auto: on GPUs that have it (default: {default.amp})"
    )
    fit.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile the network with torch.compile: minutes at first, faster steps on GPUs",
    )
    fit.add_argument("--device", help=f"auto, cpu, cuda, cuda:1, mps (default: {default.device})")
    fit.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: as the machine has cores)"
    )
    fit.add_argument(
        "--cache",
        choices=settings.CACHES,
        help="keep pictures decoded and resized in the user's cache folder, for faster epochs, the same bytes; auto: where that "
        f"takes at most half of the memory and of the free disk (default: {default.cache})",
    )


def run(args: argparse.Namespace) -> int:
    """Train or resume; exit status 130 when interrupted, with everything saved."""
    from hashret.training.processes import joined

    with joined() as processes:
        return _first(args, processes) if processes.first else _beside(args, processes)


def _first(args: argparse.Namespace, processes: Processes) -> int:
    """Train as the process that writes, prints and validates: the only one, or the first of those that torchrun started."""
    from hashret.data.sources import open_source

    if args.resume is not None:
        run_folder, options, source = _continued(args)
        table = open_source(source["data"], source["label_map"])
    else:
        options, source = _asked_for(args)
        table = open_source(source["data"], source["label_map"])
        run_folder = create_run(args.runs / _name(args, options.code_size))
    skipped_list = run_folder.folder / "skipped.txt"
    try:
        with run_folder.writing():
            if args.resume is None:
                source["skipped"] = _unreadable(table, options.learns_from, args.on_bad or "fail", skipped_list)
            processes.from_first((options, source))
            # Loads torch, which takes seconds: after all that can be found wrong without it.
            from hashret.training.loop import train

            table = _without(table, source["skipped"])
            resume = args.resume is not None
            result = train(table, options, run_folder, source=source, resume=resume, processes=processes)
    except (HashretError, KeyboardInterrupt):
        _remove_unbegun(run_folder, skipped_list)
        raise
    if args.json:
        best = {} if result.best_epoch else dict.fromkeys(("best_epoch", "best_map", "best_hit1"))
        print_json({"run": run_folder.folder, **dataclasses.asdict(result), **best})
    elif result.status == "interrupted":
        print(f"interrupted; continue with: hashret train --resume {run_folder.folder}")
    else:
        print(
            f"{result.status} after {counted(result.epochs, 'epoch')}; {run_folder.folder} holds epoch {result.best_epoch}: "
            f"validation mAP {result.best_map:.4f}, hit@1 {result.best_hit1:.4f}"
        )
    return 130 if result.status == "interrupted" else 0


def _beside(args: argparse.Namespace, processes: Processes) -> int:
    """Train beside the first process, which has checked everything and says what is trained."""
    from hashret.data.sources import open_source
    from hashret.training.loop import train

    logging.getLogger("hashret").setLevel(logging.WARNING)
    nothing: tuple[TrainingOptions, dict[str, Any]] = TrainingOptions(), {}
    options, source = processes.from_first(nothing)
    table = _without(open_source(source["data"], source["label_map"]), source["skipped"])
    resume = args.resume is not None
    result = train(table, options, UnwrittenRun(), source=source, resume=resume, processes=processes)
    return 130 if result.status == "interrupted" else 0


def _without(table: PictureTable, skipped: Collection[str]) -> PictureTable:
    """The table without the pictures of these ids."""
    import numpy as np

    left_out = set(skipped)
    return table.select(np.array([row_id not in left_out for row_id in table.ids], dtype=bool))


def _unreadable(table: PictureTable, learns_from: str, on_bad: str, skipped_list: Path) -> list[str]:
    """Ids of the pictures that training would read and cannot; they are listed in a file. Test pictures stay unread."""
    from hashret.data.readable import keep_readable, write_skipped
    from hashret.training.splits import rows_to_read

    readable, skipped = keep_readable(table, on_bad=on_bad, among=rows_to_read(table, learns_from))
    if skipped:
        write_skipped(skipped_list, skipped)
        say_skipped(len(skipped), skipped_list)
    return sorted(set(table.ids) - set(readable.ids))


def _remove_unbegun(run: Run, skipped_list: Path) -> None:
    """Take the folder of a run that never began away again, so that its name is free for the next attempt."""
    if not (run.folder / RUN_FILE).exists():
        skipped_list.unlink(missing_ok=True)
        run.lock_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            run.folder.rmdir()


def _asked_for(args: argparse.Namespace) -> tuple[TrainingOptions, dict[str, Any]]:
    from hashret.data.sources import split_release

    if args.data is None:
        raise UsageError(
            "no pictures named; give --data FOLDER (one folder a class), a CSV, a zip or a data set's name"
        )
    given = given_settings(args)
    options = TrainingOptions(**given)
    settings.check_said_once(given, options.optimizer_spec)  # a default that was typed is meant, too
    # An existing path is kept absolute, so that the run can be continued from anywhere.
    release = split_release(args.data)
    if release is not None:
        data = f"{release[0]}:{release[1]}"
    else:
        data = str(Path(args.data).absolute()) if Path(args.data).exists() else args.data
    label_map = None if args.label_map is None else str(Path(args.label_map).absolute())
    return options, {"data": data, "label_map": label_map}


def _name(args: argparse.Namespace, code_size: int) -> str:
    """The run's name: --exp-name, or made of the data's name and the code size."""
    from hashret.data.sources import split_release

    if args.exp_name is None:
        release = split_release(args.data)
        if release is not None:
            return f"{release[0]}_{Path(os.path.abspath(release[1])).name}_{code_size}"  # noqa: PTH100
        data = Path(os.path.abspath(args.data.removeprefix("torchvision:")))  # noqa: PTH100  Path keeps ".." as it is
        return f"{data.name if data.is_dir() else data.stem}_{code_size}"
    name: str = args.exp_name
    if name in ("", "..") or Path(name).name != name:
        raise UsageError(f"--exp-name is {name!r}; it is a name and no path (--runs says where runs lie)")
    return name


def _continued(args: argparse.Namespace) -> tuple[Run, TrainingOptions, dict[str, Any]]:
    # Pictures often lie in a folder of the run's own name: a path comes first only when it is a run.
    named = args.runs / args.resume
    run_folder = Run(named if (named / RUN_FILE).exists() and not (args.resume / RUN_FILE).exists() else args.resume)
    stored = run_folder.read()
    if stored["status"] in ("done", "stopped early"):
        raise UsageError(f"{args.resume} is finished ({stored['status']}); there is nothing to resume")
    if stored["source"] is None:
        raise UsageError(f"{args.resume} was started from Python, where its pictures were given; continue it there")
    options = TrainingOptions.from_dict(stored["options"])
    given = given_settings(args)
    changed = [name for name, value in given.items() if name not in _MAY_CHANGE and value != getattr(options, name)]
    changed += [name for name in ("data", "label_map", "exp_name", "on_bad") if getattr(args, name) is not None]
    if changed:
        flag = "--" + changed[0].replace("_", "-")
        raise UsageError(f"{flag} cannot change when a run is continued; leave it out, or start another run")
    moved = {name: value for name, value in given.items() if name in _MAY_CHANGE}
    return run_folder, dataclasses.replace(options, **moved), stored["source"]


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed, by name."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(TrainingOptions)}
    if values["weights"] is not None and Path(values["weights"]).is_file():
        values["weights"] = str(Path(values["weights"]).absolute())  # as the data: continued from anywhere
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def _auto_or_number(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None


def _auto_or_epochs(text: str) -> Any:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number of epochs nor 'auto'") from None
