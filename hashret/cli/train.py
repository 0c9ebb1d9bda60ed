"""`hashret train`: a table of pictures to a run folder with the best model."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from hashret.cli.options import add_data_arguments, add_json_argument, print_json
from hashret.errors import UsageError
from hashret.training import options as settings
from hashret.training.options import TrainingOptions
from hashret.training.runs import Run, create_run

# Where a run is computed may change between its parts; what is computed may not.
_MAY_CHANGE = ("device", "workers")

EXAMPLE = """\
Example:  hashret train --data cars/ --exp-name cars64 --code-size 64
          (cars/ holds one folder of pictures a class; the model comes to lie in runs/cars64)

Trains a network that turns pictures into codes of --code-size bits, with triplet loss: pictures of one class come near each
other, others stay --margin away. The best epoch is chosen on a validation split, never on the test split. A run can be
stopped with Ctrl-C and continued with `hashret train --resume runs/cars64`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    # torch stays out until a command runs: --help is instant.
    parser.description = EXAMPLE
    add_data_arguments(parser, required=False, split=False)
    run = parser.add_argument_group("run")
    run.add_argument("--exp-name", "--exp_name", metavar="NAME", help="name of the run (default: DATA_BITS)")
    run.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs lie (default: %(default)s)"
    )
    run.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="continue this run with its own settings (only --device, --workers may be given)",
    )
    run.add_argument("--keep-epochs", action="store_true", help="keep the model of every epoch; RUN@3 names the third")

    code = parser.add_argument_group("code and loss")
    code.add_argument("--code-size", "--code_size", type=int, metavar="BITS", help="1 to 1024 (default: %(default)s)")
    code.add_argument(
        "--margin",
        "--triplet-margin",
        "--triplet_margin",
        type=_margin,
        help="in squared Euclidean distance of the activations, 4 a bit with tanh; auto: a quarter of the code for a closed "
        "set of classes, 4 bits when classes to search for are unseen (default: %(default)s)",
    )
    code.add_argument("--mining", choices=settings.MINING_RULES, help="which triplets count (default: %(default)s)")
    code.add_argument(
        "--activation", choices=settings.ACTIVATIONS, help="of the head, in training (default: %(default)s)"
    )
    code.add_argument(
        "--task",
        choices=settings.TASKS,
        help="are the classes to search for those trained on? auto reads it from the splits (default: %(default)s)",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--backbone", help="any torchvision classification model (default: %(default)s)")
    model.add_argument(
        "--weights", metavar="imagenet|none|FILE", help="where the backbone starts (default: %(default)s)"
    )
    model.add_argument(
        "--image-size", type=int, metavar="PX", help="side of the network's input (default: %(default)s)"
    )
    model.add_argument("--resize", choices=settings.RESIZES, help="how pictures are made square (default: %(default)s)")
    model.add_argument(
        "--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels in 0..1, where the weights do not say"
    )
    model.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="likewise")

    fit = parser.add_argument_group("optimisation")
    fit.add_argument("--epochs", type=int, help="(default: %(default)s)")
    fit.add_argument("--classes-per-batch", type=int, metavar="P", help="(default: %(default)s)")
    fit.add_argument("--pictures-per-class", type=int, metavar="K", help="(default: %(default)s)")
    fit.add_argument("--optimizer", choices=settings.OPTIMIZERS, help="(default: %(default)s)")
    fit.add_argument("--lr", type=float, help="of the backbone, at its highest (default: %(default)s)")
    fit.add_argument("--head-lr-factor", type=float, help="the head learns faster by this (default: %(default)s)")
    fit.add_argument("--weight-decay", type=float, help="(default: %(default)s)")
    fit.add_argument("--warmup", type=float, metavar="EPOCHS", help="then half a cosine to 0 (default: %(default)s)")
    fit.add_argument(
        "--augment", choices=settings.AUGMENTATIONS, help="random changes to training pictures (default: %(default)s)"
    )
    fit.add_argument(
        "--validation",
        type=float,
        metavar="SHARE",
        help="held out when the table has no split 'val' (default: %(default)s)",
    )
    fit.add_argument(
        "--patience", type=int, metavar="EPOCHS", help="stop early after so many epochs without a better one; 0: never"
    )
    fit.add_argument("--seed", type=int, help="same seed, same CPU machine: same bytes (default: %(default)s)")
    fit.add_argument("--amp", choices=settings.AMP, help="bfloat16; auto: on GPUs that have it")
    fit.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    fit.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: as the machine has cores)"
    )
    add_json_argument(parser)
    parser.set_defaults(**settings.TrainingOptions().as_dict())


def run(args: argparse.Namespace) -> int:
    """Train or resume; exit status 130 when interrupted, with everything saved."""
    from hashret.data.readable import keep_readable, write_skipped
    from hashret.data.sources import open_source
    from hashret.training.loop import train

    if args.resume is not None:
        run_folder, options, source = _continued(args)
        table = open_source(source["data"], source["label_map"])
    else:
        options, source = _asked_for(args)
        table = open_source(source["data"], source["label_map"])
        run_folder = create_run(args.runs / (args.exp_name or f"{Path(args.data).stem}_{args.code_size}"))
    table, skipped = keep_readable(table, on_bad=source["on_bad"])
    if skipped:
        write_skipped(run_folder.folder / "skipped.txt", skipped)
        print(
            f"{len(skipped)} pictures cannot be read; they are listed in {run_folder.folder / 'skipped.txt'}",
            file=sys.stderr,
        )
    result = train(table, options, run_folder, source=source, resume=args.resume is not None)
    if args.json:
        print_json({"run": run_folder.folder, **dataclasses.asdict(result)})
    elif result.status == "interrupted":
        print(f"interrupted; continue with: hashret train --resume {run_folder.folder}")
    else:
        print(
            f"{result.status} after {result.epochs} epochs; {run_folder.folder} holds epoch {result.best_epoch}: "
            f"validation mAP {result.best_map:.4f}, hit@1 {result.best_hit1:.4f}"
        )
    return 130 if result.status == "interrupted" else 0


def _asked_for(args: argparse.Namespace) -> tuple[TrainingOptions, dict[str, Any]]:
    if args.data is None:
        raise UsageError(
            "no pictures named; give --data FOLDER (one folder a class), a CSV, a zip or a data set's name"
        )
    options = TrainingOptions(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(TrainingOptions)}
    )
    # An existing path is kept absolute, so that the run can be continued from anywhere.
    data = str(Path(args.data).absolute()) if Path(args.data).exists() else args.data
    label_map = None if args.label_map is None else str(Path(args.label_map).absolute())
    return options, {"data": data, "label_map": label_map, "on_bad": args.on_bad}


def _continued(args: argparse.Namespace) -> tuple[Run, TrainingOptions, dict[str, Any]]:
    run_folder = Run(args.resume)
    stored = run_folder.read()
    if stored["status"] in ("done", "stopped early"):
        raise UsageError(f"{args.resume} is finished ({stored['status']}); there is nothing to resume")
    options = TrainingOptions.from_dict(stored["options"])
    changed = [
        field.name
        for field in dataclasses.fields(TrainingOptions)
        if field.name not in _MAY_CHANGE
        and getattr(args, field.name) not in (field.default, getattr(options, field.name))
    ]
    if changed or args.data is not None:
        flag = "--data" if args.data is not None else f"--{changed[0].replace('_', '-')}"
        raise UsageError(f"{flag} cannot change when a run is continued; leave it out, or start another run")
    return run_folder, dataclasses.replace(options, device=args.device, workers=args.workers), stored["source"]


def _margin(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None
