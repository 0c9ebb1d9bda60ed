"""`hashret train`: a table of pictures to a run folder with the best model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import add_data_arguments, add_json_argument, counted, print_json, say_skipped
from hashret.errors import HashretError, UsageError
from hashret.training import options as settings
from hashret.training.options import TrainingOptions
from hashret.training.runs import RUN_FILE, Run, create_run

if TYPE_CHECKING:
    from hashret.data.table import PictureTable

# Where a run is computed may change between its parts; what is computed may not.
_MAY_CHANGE = ("device", "workers", "cache")

EXAMPLE = """\
Example:  hashret train --data cars/ --exp-name cars64 --code-size 64
          (cars/ holds one folder of pictures a class; the model comes to lie in runs/cars64)

Trains a network that turns pictures into codes of --code-size bits, with triplet loss: pictures of one class come near each
other, others stay --margin away. The best epoch is chosen on a validation split, never on the test split. A run can be
stopped with Ctrl-C and continued with `hashret train --resume runs/cars64`."""


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
    code.add_argument(
        "--margin",
        "--triplet-margin",
        "--triplet_margin",
        type=_margin,
        help="in squared Euclidean distance of the activations, 4 a bit with tanh; auto: a quarter of the code for a closed "
        f"set of classes, 4 bits when classes to search for are unseen (default: {default.margin})",
    )
    code.add_argument(
        "--mining",
        choices=settings.MINING_RULES,
        help="which triplets count: all of a batch, or for each pair of a class the nearest "
        f"negative that is farther than the pair (default: {default.mining})",
    )
    code.add_argument(
        "--activation", choices=settings.ACTIVATIONS, help=f"of the head, in training (default: {default.activation})"
    )
    code.add_argument(
        "--task",
        choices=settings.TASKS,
        help=f"are the classes to search for those trained on? auto reads it from the splits (default: {default.task})",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--backbone", help=f"any torchvision classification model (default: {default.backbone})")
    model.add_argument(
        "--weights", metavar="imagenet|none|FILE", help=f"where the backbone starts (default: {default.weights})"
    )
    model.add_argument(
        "--image-size", type=int, metavar="PX", help=f"side of the network's input (default: {default.image_size})"
    )
    model.add_argument(
        "--resize", choices=settings.RESIZES, help=f"how pictures are made square (default: {default.resize})"
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
    fit.add_argument("--optimizer", choices=settings.OPTIMIZERS, help=f"(default: {default.optimizer})")
    fit.add_argument("--lr", type=float, help=f"of the backbone, at its highest (default: {default.lr})")
    fit.add_argument(
        "--head-lr-factor", type=float, help=f"the head learns faster by this (default: {default.head_lr_factor})"
    )
    fit.add_argument("--weight-decay", type=float, help=f"(default: {default.weight_decay})")
    fit.add_argument(
        "--warmup",
        type=float,
        metavar="EPOCHS",
        help=f"until --lr is reached; then half a cosine to 0 (default: {default.warmup})",
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
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train or resume; exit status 130 when interrupted, with everything saved."""
    import numpy as np

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
                source["skipped"] = _unreadable(table, args.on_bad or "fail", skipped_list)
            left_out = set(source["skipped"])
            table = table.select(np.array([row_id not in left_out for row_id in table.ids], dtype=bool))
            # Loads torch, which takes seconds: after all that can be found wrong without it.
            from hashret.training.loop import train

            result = train(table, options, run_folder, source=source, resume=args.resume is not None)
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


def _unreadable(table: PictureTable, on_bad: str, skipped_list: Path) -> list[str]:
    """Ids of the pictures that training would read and cannot; they are listed in a file. Test pictures stay unread."""
    from hashret.data.readable import keep_readable, write_skipped
    from hashret.training.splits import rows_to_read

    readable, skipped = keep_readable(table, on_bad=on_bad, among=rows_to_read(table))
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
    if args.data is None:
        raise UsageError(
            "no pictures named; give --data FOLDER (one folder a class), a CSV, a zip or a data set's name"
        )
    options = TrainingOptions(**_given(args))
    # An existing path is kept absolute, so that the run can be continued from anywhere.
    data = str(Path(args.data).absolute()) if Path(args.data).exists() else args.data
    label_map = None if args.label_map is None else str(Path(args.label_map).absolute())
    return options, {"data": data, "label_map": label_map}


def _name(args: argparse.Namespace, code_size: int) -> str:
    """The run's name: --exp-name, or made of the data's name and the code size."""
    if args.exp_name is None:
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
    given = _given(args)
    changed = [name for name, value in given.items() if name not in _MAY_CHANGE and value != getattr(options, name)]
    changed += [name for name in ("data", "label_map", "exp_name", "on_bad") if getattr(args, name) is not None]
    if changed:
        flag = "--" + changed[0].replace("_", "-")
        raise UsageError(f"{flag} cannot change when a run is continued; leave it out, or start another run")
    moved = {name: value for name, value in given.items() if name in _MAY_CHANGE}
    return run_folder, dataclasses.replace(options, **moved), stored["source"]


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed, by name."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(TrainingOptions)}
    if values["weights"] is not None and Path(values["weights"]).is_file():
        values["weights"] = str(Path(values["weights"]).absolute())  # as the data: continued from anywhere
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def _margin(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None
