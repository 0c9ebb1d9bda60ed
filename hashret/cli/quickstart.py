"""`hashret quickstart`: the whole way on a small data set made on the spot, in the words a user would type."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from hashret.errors import HashretError

EXAMPLE = """\
Example:  hashret quickstart --out quickstart

Makes a small set of rendered car pictures, trains a 64-bit model on some classes, indexes and queries classes it has never
seen, and scores hash codes, float features and two controls. Each step is printed as the command that does it. Steps that
are already done are not done again."""

# Under four minutes on two cores. Small batches give a few hundred pictures enough steps, and light augmentation suits a network
# that starts from nothing: with the defaults it hardly beats its controls in this time.
CLASSES = 80
TEST_CLASSES = 12
PICTURES_PER_CLASS = 24
PICTURE_SIZE = "192x144"
IMAGE_SIZE = 80
EPOCHS = 14
QUERIES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("--out", type=Path, default=Path("quickstart"), metavar="FOLDER", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the steps that are not done yet; print the scores and what to type next."""
    started = time.perf_counter()
    out: Path = args.out
    pictures, model, index = out / "cars", out / "model", out / "cars.index"
    sheet, scores = out / "results.png", out / "scores.json"
    _step(
        "data", "turntable", "--out", pictures, "--classes", CLASSES, "--test-classes", TEST_CLASSES,
        "--pictures-per-class", PICTURES_PER_CLASS, "--size", PICTURE_SIZE,
    )  # fmt: skip
    if (model / "resume").exists():
        _step("train", "--resume", model)
    elif not (model / "run.json").exists():
        _step(
            "train", "--data", pictures, "--runs", out, "--exp-name", "model", "--code-size", 64, "--image-size", IMAGE_SIZE,
            "--epochs", EPOCHS, "--classes-per-batch", 8, "--pictures-per-class", 4, "--augment", "light",
        )  # fmt: skip
    if not index.exists():
        _step("index", "--model", model, "--data", pictures, "--split", "test", "--out", index, "--metric", "both")
    photos = _some_queries(pictures)
    _step("query", "--index", index, *photos, "-k", 8, "--not-itself", "--sheet", sheet)
    _step("evaluate", "--model", model, "--data", pictures, "--split", "test", "--out", scores)
    print(
        f"\nDone in {time.perf_counter() - started:.0f} s. In {out}/: model/  cars.index/  results.png  scores.json\n\n"
        "The same with pictures of your own, one folder a class:\n"
        "  hashret train --data MYPHOTOS --exp-name mine --weights imagenet\n"
        "  hashret index --model runs/mine --data MYPHOTOS --out mine.index\n"
        "  hashret query --index mine.index PHOTO.jpg -k 10 --sheet found.png"
    )
    return 0


def _step(*words: object) -> None:
    """Print a command and run it."""
    from hashret.cli import main

    argv = [str(word) for word in words]
    print(f"\n$ hashret {shlex.join(argv)}", flush=True)
    status = main(argv)
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        raise HashretError(f"quickstart stopped: hashret {argv[0]} ended with status {status}")


def _some_queries(pictures: Path) -> list[str]:
    """Test pictures spread over classes."""
    from hashret.data.sources import open_source

    table = open_source(pictures).where_split("test")
    return [table.paths[row] for row in range(0, len(table), max(1, len(table) // QUERIES))][:QUERIES]
