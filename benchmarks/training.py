"""How many pictures a second does training use, beside a plain loop of the same network and objective?

What to expect. On a GPU the plain loop computes in float32 (TF32 in convolutions, as torch does by default) and in the layout
that pictures come in; bfloat16 and channels-last feed the tensor cores, two to three times as fast. Then pictures are what is
waited for: decoding 1 to 3 ms each on one core, every epoch, against a copy out of the cache of resized pictures. On a CPU both
compute in float32, and channels-last, the cache and freed memory that is kept are the difference.

How it is measured: each side trains in processes of its own, in turns: the same network from random weights, on the same
pictures, with the same objective, optimizer and batch size. hashret's side is `hashret.training.loop.train`; the rate is that
of its own log, with monitors and all else that an epoch does but validation and saving. The plain side is a DataLoader with a
worker a core, PIL, torchvision's transforms (random crop, mirror, tensor, normalise) and a loop of five lines. The first epoch
of each process warms up; the median of the others counts. All losses must be finite.

Run: python benchmarks/training.py [--quick] [--data TABLE] [--device cpu] [--json] [--markdown docs/benchmarks.md]; under three
minutes
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pages
import photos
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hashret import images
from hashret.data.loading import default_workers
from hashret.data.table import PictureTable
from hashret.model import build
from hashret.model.device import pick_device
from hashret.training.loop import train
from hashret.training.objectives import build_objective
from hashret.training.objectives.base import Outputs
from hashret.training.optimizers import build_optimizer
from hashret.training.options import TrainingOptions
from hashret.training.runs import create_run

Row = dict[str, Any]

VERSIONS = ("hashret", "torch", "torchvision", "numpy", "pillow")
SIDES = ("hashret", "plain")
EPOCHS = 3
"""Of each process; the first warms up."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all losses are finite, 1 when one is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer pictures")
    parser.add_argument("--data", metavar="TABLE", help="pictures to train on, all of them (default: drawn for it)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--backbone", default="resnet18", help="the network (default: %(default)s)")
    parser.add_argument("--pictures", type=int, metavar="N", help="in the table, of which a tenth is held out")
    parser.add_argument("--image-size", type=int, metavar="PX", help="what the network sees (default: 224, quick: 96)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures an update (default: 32, on a GPU 128)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read pictures (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the part there")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        settings = TrainingOptions.from_dict(json.loads(options.settings))
        side = hashret_side if options.side == "hashret" else plain_side
        print(json.dumps(side(PictureTable.read_csv(options.data), settings)))
        return 0
    device = pick_device(options.device)
    on_gpu = device.type == "cuda"
    batch_size = options.batch_size or (128 if on_gpu else 32)
    n = options.pictures or batch_size * (4 if not on_gpu else 16 if options.quick else 48)
    settings = TrainingOptions(
        objective="cosine",
        classify=0.0,
        code_gradient=1.0,
        backbone=options.backbone,
        image_size=options.image_size or (96 if options.quick else 224),
        batch_size=batch_size,
        augment="light",
        task="closed",
        validation=0.1,
        epochs=EPOCHS,
        device=str(device),
        workers=options.workers,
        cache="on",
    )
    found: dict[str, list[Row]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        table, _ = photos.open_pictures(options.data, n, place / "cars", quick=options.quick)
        replace(table, splits=[""] * n).write_csv(place / "table.csv")
        for number in range(options.rounds):
            for side in SIDES:
                print(f"round {number + 1} of {options.rounds}: {side}", file=sys.stderr)
                found[side].append(_in_a_process(side, settings, place))
    losses = [epoch["loss"] for each in found.values() for process in each for epoch in process["epochs"]]
    rates = {
        side: [epoch["pictures_per_s"] for process in each for epoch in process["epochs"][1:]]
        for side, each in found.items()
    }
    document = {
        "question": (__doc__ or "").splitlines()[0],
        "command": " ".join(["python benchmarks/training.py", *flags_of(options)]),
        "machine": machine.describe(VERSIONS),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "network": f"{settings.backbone}, {settings.code_size} bits, pictures of {settings.image_size} px",
        "files": "drawn, JPEG of 512 × 384" if options.data is None else "of --data",
        "pictures": n,
        "batch_size": batch_size,
        "epochs": len(rates["plain"]),
        "rows": [
            {
                "side": side,
                "how": found[side][0]["how"],
                "pictures_per_s": float(np.median(rates[side])),
                "waiting": float(np.median([epoch["waiting"] for each in found[side] for epoch in each["epochs"][1:]])),
            }
            for side in SIDES
        ],
        "times_as_fast": float(np.median(rates["hashret"]) / np.median(rates["plain"])),
        "losses": "finite" if all(map(math.isfinite, losses)) else "NOT FINITE",
    }
    text = as_markdown(document)
    if options.markdown:
        pages.write_part(options.markdown, text)
    print(json.dumps(document, indent=1) if options.json else text)
    return 0 if document["losses"] == "finite" else 1


def flags_of(options: argparse.Namespace) -> list[str]:
    """What of the command line decides what is measured; where files lie does not matter."""
    given = [
        ("--quick", options.quick),
        ("--data TABLE", options.data),
        (f"--backbone {options.backbone}", options.backbone),
    ]
    return [flag for flag, value in given if value and flag != "--backbone resnet18"]


def _in_a_process(side: str, settings: TrainingOptions, folder: Path) -> Row:
    words = ["--side", side, "--settings", json.dumps(settings.as_dict()), "--data", str(folder / "table.csv")]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HASHRET_CACHE": str(folder / "cache")},
    )
    return dict(json.loads(done.stdout))


def hashret_side(table: PictureTable, settings: TrainingOptions) -> Row:
    """Pictures a second, the share of time that pictures were waited for, and the loss, of each epoch of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "run")
        train(table, settings, run)
        read_from = run.read()["read_from"]["training"]
        epochs = [
            {"pictures_per_s": line["images/s"], "waiting": line["waiting"], "loss": line["loss"]}
            for line in run.history()
        ]
    numbers = "bfloat16" if settings.device.startswith("cuda") else "float32"
    return {"how": f"{numbers}, channels last, pictures from the {read_from}", "epochs": epochs}


class Files(Dataset[Any]):
    """Pictures of files and their class numbers, as a data set is usually written."""

    def __init__(self, table: PictureTable, transform: Any) -> None:
        self.paths, self.labels, self.transform = table.paths, table.class_ids()[0].tolist(), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(images.read_picture(self.paths[row])), self.labels[row]


def plain_side(table: PictureTable, settings: TrainingOptions) -> Row:
    """The same of a plain loop."""
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    workers = default_workers() if settings.workers is None else settings.workers
    hasher = build(settings.backbone, settings.code_size, image_size=settings.image_size, device=device)
    network, preprocess = hasher.network, hasher.preprocess
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(settings.image_size, scale=(0.7, 1.0), ratio=(0.8, 1.25)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    files = Files(table, transform)
    loader = DataLoader(
        files,
        batch_size=settings.batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    objective = build_objective(
        settings, n_classes=len(set(table.labels)), feature_size=network.feature_size, task="closed"
    ).to(device)
    fresh = [*network.fresh_parameters(), *objective.parameters()]
    optimizer = build_optimizer(settings, network.backbone, fresh)
    network.train()
    epochs = []
    for epoch in range(settings.epochs):
        seen, waited, total = 0, 0.0, 0.0
        started = asked = time.perf_counter()
        for number, (pictures, labels) in enumerate(loader):
            waited += time.perf_counter() - asked
            logits, features = network(pictures.to(device, non_blocking=True))
            outputs = Outputs(logits, network.activate(logits), features)
            loss = objective(
                outputs, labels.to(device), (epoch * len(loader) + number) / (settings.epochs * len(loader))
            ).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen, total = seen + len(labels), total + loss.item()
            asked = time.perf_counter()
        seconds = time.perf_counter() - started
        epochs.append({"pictures_per_s": seen / seconds, "waiting": waited / seconds, "loss": total / len(loader)})
    return {"how": "float32, contiguous, DataLoader of files", "epochs": epochs}


def as_markdown(document: Row) -> str:
    """The document as a part of a page."""
    about = document["machine"]
    lines = [
        "# Training, measured",
        "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program.",
        "",
        f"- {document['device']}; {about['cpu']}, {about['cores']} cores; {about['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"- {document['network']}, random weights, cosine objective; files: {document['files']}",
        f"- {document['pictures']:,} pictures, {document['batch_size']} an update; median of {document['epochs']} "
        "epochs, sides in turns",
        "",
        "| side | how | pictures/s | waiting for pictures |",
        "|---|---|---|---|",
    ]
    for row in document["rows"]:
        rate, waiting = f"{row['pictures_per_s']:,.1f}", f"{100 * row['waiting']:.0f} %"
        lines.append(f"| {row['side']} | {row['how']} | {rate} | {waiting} |")
    lines += ["", f"{document['times_as_fast']:.2f} times as fast. Losses: {document['losses'].lower()}."]
    if not document["rows"][0]["how"].startswith("bfloat16"):
        lines += ["", "On a GPU: not run, there is none."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
