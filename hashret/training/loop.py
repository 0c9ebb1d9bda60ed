"""The training loop: a table and settings in, a run folder with the best model out."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX
import torch
import torchvision
from tqdm import tqdm

from hashret import __version__
from hashret.data.loading import PictureLoader
from hashret.data.samplers import PKSampler
from hashret.data.table import PictureTable
from hashret.errors import TrainingError
from hashret.model.device import pick_device
from hashret.model.folder import epoch_folder
from hashret.model.hasher import Hasher, build
from hashret.training.augmentation import augmentation
from hashret.training.diagnosis import LABEL_NOISE, SUSPECTS_NAMED, Finding, diagnose
from hashret.training.interrupt import Interrupt, noticing_interrupts
from hashret.training.monitors import Monitors, codes_line, learning_line, progress_line
from hashret.training.neighbours import Suspect
from hashret.training.objectives import build_objective
from hashret.training.objectives.triplet import BIT, auto_margin
from hashret.training.options import TrainingOptions
from hashret.training.runs import Run
from hashret.training.splits import TrainingSplit, split_for_training
from hashret.training.updates import Updater
from hashret.training.validation import Validation, validate

_log = logging.getLogger("hashret.training")

MOST_CLASSES_PER_BATCH = 16
"""Classes in a batch where nothing else is asked for and there are as many."""
BALANCE_BINS = [each / 20 for each in range(21)]
"""Of tensorboard's histogram: shares of ones of the bits."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended: "done", "stopped early" or "interrupted"; the best epoch (from 1) and its validation scores."""

    status: str
    epochs: int
    best_epoch: int
    best_map: float
    best_hit1: float


@dataclass
class _Progress:
    """Where a run stands: everything besides tensors that resuming needs."""

    epoch: int = 0
    batch: int = 0
    best_epoch: int = 0
    best_map: float = -1.0
    best_hit1: float = 0.0
    seconds: float = 0.0


def train(
    table: PictureTable,
    options: TrainingOptions,
    run: Run,
    *,
    source: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train a hash model on the training rows of `table` into the folder of `run`.

    The best epoch by validation mAP (all ranks, expected over tie orders) is the run's model. On one machine's CPU the
    same table and settings give the same bytes, whatever the number of loader workers and however often the run was
    interrupted and resumed. `source` is how the table was opened, kept in run.json for --resume. TrainingError for data
    that cannot be trained on, before the first epoch.
    """
    split = split_for_training(table, task=options.task, validation=options.validation, seed=options.seed)
    labels_N, class_names = split.train.class_ids()
    if options.classes_per_batch == "auto":
        options = replace(options, classes_per_batch=min(MOST_CLASSES_PER_BATCH, len(class_names)))
    _check_batch(options, len(class_names), len(labels_N))
    device = pick_device(options.device)
    with _reproducible(options.seed, device), _memory_advice(options), noticing_interrupts() as interrupt:
        hasher = _build_hasher(options, split)
        loop = _Loop(run, options, split, hasher, labels_N, device)
        if resume:
            loop.restore(run.load_state(device))
        _describe(loop, split, table, source)
        try:
            if not resume:
                loop.save_state()  # a run that is killed in its first epoch can be resumed too
            return loop.run_epochs(interrupt)
        except BaseException as error:
            # A full disk may be why the run failed: what failed comes first, not that it cannot be written down.
            ended: dict[str, Any] = {"status": "interrupted"}
            if not isinstance(error, KeyboardInterrupt):
                ended = {"status": "failed", "error": str(error) or type(error).__name__}
            with contextlib.suppress(OSError):
                run.write({**run.read(), **ended})
            raise


class _Loop:
    """The moving parts of a run."""

    def __init__(
        self,
        run: Run,
        options: TrainingOptions,
        split: TrainingSplit,
        hasher: Hasher,
        labels_N: np.ndarray[Any, np.dtype[np.int64]],
        device: torch.device,
    ) -> None:
        self.run, self.options, self.split, self.device = run, options, split, device
        self.hasher = hasher
        self.labels_N = torch.from_numpy(labels_N)
        self.class_names = split.train.class_ids()[1]
        self.margin = (
            auto_margin(task=split.task, code_size=options.code_size, activation=options.activation)
            if options.margin == "auto"
            else float(options.margin)
        )
        self.sampler = PKSampler(
            labels_N,
            classes_per_batch=int(options.classes_per_batch),
            pictures_per_class=options.pictures_per_class,
            seed=options.seed,
        )
        self.validation_loader = PictureLoader(split.validation, hasher.preprocess.pixels, workers=options.workers)
        self.validation_labels_N = split.validation.class_ids()[0]
        self.loader = PictureLoader(
            split.train,
            augmentation(options.augment, hasher.preprocess),
            workers=options.workers,
            pin_memory=device.type == "cuda",
        )
        self.update = Updater(hasher, build_objective(options, self.margin), options, device, len(self.sampler))
        self.monitors = Monitors(
            hasher.network.head,
            labels_N,
            code_size=options.code_size,
            feature_size=hasher.feature_size,
            activation=options.activation,
            device=device,
            seed=options.seed,
        )
        self.warned: dict[str, str] = {}
        self.progress = _Progress()

    def run_epochs(self, interrupt: Interrupt) -> TrainingResult:
        """Train to the last epoch, an early stop or an interruption."""
        # What a killed run drew after its state was saved is drawn again.
        scalars = tensorboardX.SummaryWriter(str(self.run.folder), purge_step=self.steps() + 1)
        with self.loader, self.validation_loader, scalars as writer:
            while (status := self.standing()) == "running":
                started = time.perf_counter()
                finished = self.run_epoch(interrupt, writer)
                self.progress.seconds += time.perf_counter() - started
                if not finished:
                    self.save_state()
                    status = "interrupted"
                    break
                self.end_epoch(writer)
        best = self.progress
        result = TrainingResult(status, best.epoch, best.best_epoch, best.best_map, best.best_hit1)
        self.record_status(result)
        if status != "interrupted":
            self.run.forget_state()
        return result

    def standing(self) -> str:
        """Whether there is more to do: "running", "done" or "stopped early"."""
        if self.progress.epoch >= self.options.epochs:
            return "done"
        if self.options.patience and self.progress.epoch - self.progress.best_epoch >= self.options.patience:
            return "stopped early"
        return "running"

    def steps(self) -> int:
        """Updates so far: the common axis of all tensorboard scalars."""
        return self.progress.epoch * len(self.sampler) + self.progress.batch

    def run_epoch(self, interrupt: Interrupt, writer: tensorboardX.SummaryWriter) -> bool:
        """Train on the rest of the epoch's batches; False when interrupted, with the state exactly after a batch."""
        progress, options = self.progress, self.options
        batches = list(self.sampler.epoch(progress.epoch))[progress.batch :]
        bar = tqdm(
            self.loader.batches(batches, seed=[options.seed, progress.epoch], skip=progress.batch),
            total=len(self.sampler),
            initial=progress.batch,
            desc=f"epoch {progress.epoch + 1}/{options.epochs}",
            unit="batch",
            disable=None,
            leave=False,
        )
        self.hasher.network.train()
        with bar:
            for rows, pixels in bar:
                update = self.update(pixels, self.labels_N[rows], self.steps())
                scalars = self.monitors.observe(
                    rows, update.outputs, self.labels_N[rows], update.scored, update.gradient_norm
                )
                progress.batch += 1
                for name, value in scalars.items():
                    writer.add_scalar(f"train/{name}", value, self.steps())
                bar.set_postfix_str(progress_line(scalars), refresh=False)
                if interrupt.requested:
                    return False
        return True

    def end_epoch(self, writer: tensorboardX.SummaryWriter) -> None:
        """Validate, log, keep the model if it is the best so far, and save the state."""
        started = time.perf_counter()
        progress = self.progress
        validation = validate(self.hasher, self.validation_loader, self.validation_labels_N)
        progress.epoch += 1
        seen = self.monitors.end_epoch()
        progress.batch = 0
        progress.seconds += time.perf_counter() - started
        for name, value in validation.as_dict().items():
            writer.add_scalar(f"validation/{name}", value, self.steps())
        writer.add_histogram("validation/balance", np.array(validation.codes.balance), self.steps(), bins=BALANCE_BINS)
        for name, value in seen.items():
            writer.add_scalar(f"epoch/{name}", value, self.steps())
        writer.add_scalar("train/lr", self.update.lr, self.steps())
        if validation.map > progress.best_map:
            progress.best_epoch, progress.best_map, progress.best_hit1 = progress.epoch, validation.map, validation.hit1
            self.save_model(self.run.folder, validation)
        if self.options.keep_epochs:
            self.save_model(epoch_folder(self.run.folder, progress.epoch), validation)
        suspects = self.monitors.codes.suspects()
        self.run.log(
            {
                "epoch": progress.epoch,
                "seconds": round(progress.seconds, 2),
                "lr": self.update.lr,
                "classes": len(self.class_names),
                "margin": self.margin,
                "margin_bits": self.margin / BIT[self.options.activation],
                **seen,
                "suspects": [self.split.train.ids[suspect.row] for suspect in suspects[:SUSPECTS_NAMED]],
                **{f"val_{name}": value for name, value in validation.as_dict().items()},
                "dead": self.monitors.codes.dead,
                "val_dead": validation.codes.dead,
            }
        )
        best = " (best so far)" if progress.best_epoch == progress.epoch else ""
        _log.info(
            "epoch %d/%d: %s, %.0f s%s\n  codes: %s",
            progress.epoch,
            self.options.epochs,
            learning_line(seen, validation),
            progress.seconds,
            best,
            codes_line(seen, validation),
        )
        findings = diagnose(self.run.history(), self.options)
        self.warn(findings)
        if any(finding.cause == LABEL_NOISE for finding in findings):
            self.write_suspects(suspects)
        self.save_state()

    def warn(self, findings: Sequence[Finding]) -> None:
        """Say what is new: a cause once, and again when what to do about it changes."""
        for finding in findings:
            if self.warned.get(finding.cause) != finding.advice:
                self.warned[finding.cause] = finding.advice
                _log.warning("%s", finding.sentence)

    def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """All pictures whose neighbours contradict their label, as a table that `hashret data sheet` shows."""
        table = self.split.train.select([suspect.row for suspect in suspects])
        neighbours = [self.class_names[suspect.rival] for suspect in suspects]
        replace(table, attributes={**table.attributes, "neighbours": neighbours}).write_csv(
            self.run.folder / "suspects.csv"
        )

    def save_model(self, folder: Path, validation: Validation) -> None:
        """Write the present model to `folder`."""
        self.hasher.scores = {**validation.as_dict(), "epoch": self.progress.epoch}
        self.hasher.save_pretrained(folder)

    def save_state(self) -> None:
        """Save everything that going on exactly from here needs."""
        self.run.save_state(
            {
                "update": self.update.state_dict(),
                "monitors": self.monitors.state_dict(),
                "random": torch.get_rng_state(),
                "progress": asdict(self.progress),
                "pictures": _digest(self.split),
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state, and forget what was logged after it was saved."""
        if state["pictures"] != _digest(self.split):
            raise TrainingError(
                f"the pictures of {self.split.train.name} or their labels are not those that {self.run.folder} was started "
                "with; put them back as they were, or start another run"
            )
        self.update.load_state_dict(state["update"])
        self.monitors.load_state_dict(state["monitors"])
        torch.set_rng_state(state["random"].cpu())
        self.progress = _Progress(**state["progress"])
        self.run.cut_log(self.progress.epoch)
        history = self.run.history()
        for epochs in range(1, len(history) + 1):  # what was said before is not said again
            self.warned |= {finding.cause: finding.advice for finding in diagnose(history[:epochs], self.options)}

    def record_status(self, result: TrainingResult) -> None:
        """Write how the run stands into run.json, and say what was found wrong."""
        document = self.run.read()
        findings = diagnose(self.run.history(), self.options)
        if findings and result.status != "interrupted":
            _log.warning("found in this run:%s", "".join(f"\n  - {finding.sentence}" for finding in findings))
        self.run.write(
            {
                **document,
                "status": result.status,
                "result": vars(result),
                "seconds": round(self.progress.seconds, 1),
                "findings": [finding._asdict() for finding in findings],
            }
        )


def _build_hasher(options: TrainingOptions, split: TrainingSplit) -> Hasher:
    hasher = build(
        backbone=options.backbone,
        code_size=options.code_size,
        weights=options.weights,
        image_size=options.image_size,
        resize=options.resize,
        activation=options.activation,
        mean=options.mean,
        std=options.std,
    )
    hasher.protocol = {"data": split.train.name, "task": split.task, "validation": split.how}
    return hasher


def _digest(split: TrainingSplit) -> str:
    """sha256 in hex over which pictures train and which validate, and their labels."""
    rows = [(table.ids, table.labels) for table in (split.train, split.validation)]
    return hashlib.sha256(repr(rows).encode(errors="surrogatepass")).hexdigest()


def _describe(loop: _Loop, split: TrainingSplit, table: PictureTable, source: Mapping[str, Any] | None) -> None:
    """Say and store what is about to be trained."""
    _log.info(
        "task %s: %d training pictures of %d classes; validation on %d pictures (%s); margin %g (%g bits)",
        split.task,
        len(split.train),
        len(set(split.train.labels)),
        len(split.validation),
        split.how,
        loop.margin,
        loop.margin / BIT[loop.options.activation],
    )
    loop.run.write(
        {
            "format": 1,
            "status": "running",
            "data": table.name,
            "source": None if source is None else dict(source),
            "options": loop.options.as_dict(),
            "task": split.task,
            "margin": loop.margin,
            "validation": split.how,
            "pictures": {"train": len(split.train), "validation": len(split.validation)},
            "versions": {
                "hashret": __version__,
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "python": platform.python_version(),
            },
            "device": str(loop.device),
        }
    )


def _check_batch(options: TrainingOptions, classes: int, pictures: int) -> None:
    p, k = int(options.classes_per_batch), options.pictures_per_class
    if p > classes:
        raise TrainingError(
            f"--classes-per-batch is {p}, but there are {classes} training classes; give --classes-per-batch {classes} or fewer"
        )
    if p * k > pictures:
        raise TrainingError(
            f"a batch of {p} classes × {k} pictures is larger than the {pictures} training pictures; lower --pictures-per-class"
        )


@contextlib.contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, and on a CPU forbid operations whose result is not the same twice; both are put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(device.type == "cpu" or before)
        # Filling every new tensor with NaN would find reads of unset memory, of which there are none here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


@contextlib.contextmanager
def _memory_advice(options: TrainingOptions) -> Iterator[None]:
    """Turn running out of GPU memory into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU has too little memory for {options.classes_per_batch} × {options.pictures_per_class} pictures of "
            f"{options.image_size} px; lower --pictures-per-class, --classes-per-batch or --image-size"
        ) from error
