"""The training loop: a table and settings in, a run folder with the best model out."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from tensorboardX import SummaryWriter
from tqdm import tqdm

from hashret import __version__
from hashret.data.loading import PictureLoader, row_batches
from hashret.data.table import PictureTable
from hashret.errors import DataError, TrainingError
from hashret.model.device import keep_freed_memory, pick_device
from hashret.model.hasher import Hasher, build
from hashret.model.heads import HashHead, ProjectionHead
from hashret.training import posthoc
from hashret.training.augmentation import choose_preset, typical_side
from hashret.training.diagnosis import LABEL_NOISE, SUSPECTS_NAMED, diagnose
from hashret.training.interrupt import Interrupt, noticing_interrupts
from hashret.training.monitors import Monitors, codes_line, learning_line, progress_line
from hashret.training.neighbours import Suspect
from hashret.training.objectives import build_objective
from hashret.training.objectives.nested import prefixes
from hashret.training.options import OF_PAIRS, TrainingOptions
from hashret.training.pictures import Loaders, Pace, open_loaders
from hashret.training.processes import Processes
from hashret.training.runs import Run
from hashret.training.splits import TrainingSplit, rows_to_learn, split_for_training
from hashret.training.targets import Targets, labels_of, targets_of
from hashret.training.updates import Updater
from hashret.training.validation import Validation, validate

_log = logging.getLogger("hashret.training")

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
    processes: Processes | None = None,
) -> TrainingResult:
    """Train a hash model on the training rows of `table` into the folder of `run`.

    The best epoch by validation mAP (all ranks, expected over tie orders) is the run's model. On one machine's CPU the
    same table and settings give the same bytes, whatever the number of loader workers and however often the run was
    interrupted and resumed. `source` is how the table was opened, kept in run.json for --resume. TrainingError for data
    that cannot be trained on, before the first epoch.

    processes: which of several processes this one is, all of which call this with the same arguments, but for the run: the
    first one's is written, the others have an UnwrittenRun.
    """
    split = split_for_training(
        table,
        task=options.task,
        validation=options.validation,
        seed=options.seed,
        learns_from=options.learns_from,
    )
    targets, options = targets_of(split, options)
    side = typical_side(table.select(rows_to_learn(table, options.learns_from)), options.resize)
    preset, why = choose_preset(options.augment, split.train, options.image_size, side)
    options = replace(options, augment=preset)
    processes = processes or Processes()
    processes.check(targets.batch_size)
    device = pick_device(options.device)
    keep_freed_memory()
    with _reproducible(options.seed, device), _memory_advice(options), noticing_interrupts() as interrupt:
        hasher = _build_hasher(options, split)
        loaders = open_loaders(
            table, split, options, hasher.preprocess, side=side, device=device, stopped=lambda: interrupt.requested
        )
        loop = _Loop(run, options, split, hasher, loaders, targets, device, processes)
        if resume:
            loop.restore(processes.from_first(run.load_state(device) if processes.first else {}))
        _log.info(
            "augmentation: %s (%s); pictures to train on come from %s", preset, why, loaders.read_from["training"]
        )
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
        loaders: Loaders,
        targets: Targets,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.run, self.options, self.split, self.device, self.processes = run, options, split, device, processes
        self.hasher = hasher
        self.targets, self.sampler = targets, targets.sampler
        self.objective = build_objective(
            options, n_classes=len(targets.names), feature_size=hasher.network.feature_size, task=split.task
        )
        self.loaders = loaders
        self.validation_labels = labels_of(split.validation, options)[0]
        self.update = Updater(hasher, self.objective, options, device, len(self.sampler), processes, targets.names)
        self.monitors = Monitors(
            hasher.network.head,
            targets.labels,
            code_size=options.code_size,
            feature_size=hasher.feature_size,
            activation=options.activation,
            device=device,
            seed=options.seed,
        )
        self.pace = Pace()
        self.warned: dict[str, str] = {}
        self.progress = _Progress()

    def run_epochs(self, interrupt: Interrupt) -> TrainingResult:
        """Train to the last epoch, an early stop or an interruption."""
        # What a killed run drew after its state was saved is drawn again.
        with self.loaders.training, self.loaders.validation, self.run.scalars(self.steps() + 1) as writer:
            while (status := self.standing()) == "running":
                started = time.perf_counter()
                finished = self.run_epoch(interrupt, writer)
                self.progress.seconds += time.perf_counter() - started
                if not finished:
                    self.save_state()
                    status = "interrupted"
                    break
                self.end_epoch(writer)
        if status != "interrupted" and not self.options.trains_codes and self.processes.first:
            status = status if self.fit_codes(interrupt) else "interrupted"
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
        without_better = self.progress.epoch - max(self.progress.best_epoch, self.options.codes_from)
        if self.options.patience and without_better >= self.options.patience:
            return "stopped early"
        return "running"

    def steps(self) -> int:
        """Updates so far: the common axis of all tensorboard scalars."""
        return self.progress.epoch * len(self.sampler) + self.progress.batch

    def run_epoch(self, interrupt: Interrupt, writer: SummaryWriter) -> bool:
        """Train on the rest of the epoch's batches; False when interrupted, with the state exactly after a batch."""
        progress, options = self.progress, self.options
        codes_begin = options.starts_from_itq and (progress.epoch, progress.batch) == (options.codes_from, 0)
        if codes_begin and not self.start_head(interrupt):
            return False
        batches = list(self.sampler.epoch(progress.epoch))[progress.batch :]
        share = (self.processes.rank, self.processes.count)
        bar = tqdm(
            self.pace.timed(
                self.loaders.training.batches(
                    batches, seed=[options.seed, progress.epoch], skip=progress.batch, share=share
                )
            ),
            total=len(self.sampler),
            initial=progress.batch,
            desc=f"epoch {progress.epoch + 1}/{options.epochs}",
            unit="batch",
            disable=None if self.processes.first else True,
            leave=False,
        )
        self.update.train_mode()
        with bar:
            for rows, (_, pixels) in zip(batches, bar, strict=True):
                labels = self.targets.of(rows)
                update = self.update(pixels, labels, self.steps())
                scalars = self.monitors.observe(rows, update.outputs, labels, update.scored, update.gradient_norm)
                progress.batch += 1
                for name, value in scalars.items():
                    writer.add_scalar(f"train/{name}", value, self.steps())
                bar.set_postfix_str(progress_line(scalars), refresh=False)
                if self.processes.any(interrupt.requested):
                    return False
        return True

    def end_epoch(self, writer: SummaryWriter) -> None:
        """Validate, log, keep the model if it is the best so far, and save the state."""
        started = time.perf_counter()
        progress = self.progress
        # One process validates: batch norm may have seen other pictures in the others, and all must choose the same epoch.
        validation = self.processes.from_first(self.validated() if self.processes.first else None)
        assert validation is not None
        progress.epoch += 1
        seen = self.monitors.end_epoch()
        pace = self.pace.end_epoch()
        progress.batch = 0
        progress.seconds += time.perf_counter() - started
        for name, value in validation.as_dict().items():
            writer.add_scalar(f"validation/{name}", value, self.steps())
        writer.add_histogram("validation/balance", np.array(validation.codes.balance), self.steps(), bins=BALANCE_BINS)
        for name, value in seen.items():
            writer.add_scalar(f"epoch/{name}", value, self.steps())
        for name, value in {"lr": self.update.lr, **pace}.items():
            writer.add_scalar(f"train/{name}", value, self.steps())
        if progress.epoch == self.options.codes_from + 1:
            progress.best_map = -1.0  # codes that were not learned yet are no longer in question
        # Where codes are not trained, features are what is learned, and codes are fitted to the best of them.
        chosen_by = (validation.map, validation.hit1)
        if not self.options.trains_codes:
            chosen_by = (validation.float_map, validation.float_hit1)
        if chosen_by[0] > progress.best_map:
            progress.best_epoch, progress.best_map, progress.best_hit1 = progress.epoch, *chosen_by
            self.save_model(validation)
        if self.options.keep_epochs:
            self.save_model(validation, epoch=progress.epoch)
        suspects = self.monitors.codes.suspects()
        self.run.log(
            {
                "epoch": progress.epoch,
                "seconds": round(progress.seconds, 2),
                **pace,
                "lr": self.update.lr,
                "classes": len(self.targets.names),
                "margin": self.objective.margin,
                "margin_bits": self.objective.margin_bits,
                **seen,
                "suspects": [self.split.train.ids[suspect.row] for suspect in suspects[:SUSPECTS_NAMED]],
                **{f"val_{name}": value for name, value in validation.as_dict().items()},
                "dead": self.monitors.codes.dead,
                "val_dead": validation.codes.dead,
            }
        )
        best = " (best so far)" if progress.best_epoch == progress.epoch else ""
        _log.info(
            "epoch %d/%d: %s, %.0f images/s, waiting %.1f %%, %.0f s%s\n  codes: %s",
            progress.epoch,
            self.options.epochs,
            learning_line(seen, validation),
            pace["images/s"],
            100 * pace["waiting"],
            progress.seconds,
            best,
            codes_line(seen, validation),
        )
        self.say_findings(suspects)
        self.save_state()

    def say_findings(self, suspects: Sequence[Suspect]) -> None:
        """Warn of what is new, a cause once, and again when what to do about it changes; keep the suspects up to date."""
        findings = diagnose(self.run.history(), self.options)
        for finding in findings:
            if self.warned.get(finding.cause) != finding.advice:
                self.warned[finding.cause] = finding.advice
                _log.warning("%s", finding.sentence)
        noisy = any(finding.cause == LABEL_NOISE for finding in findings)
        try:
            if suspects or not noisy:
                self.run.write_suspects(self.suspected(suspects) if noisy else None)
        except DataError as error:  # a list that cannot be written is no reason to stop
            _log.warning("suspicious labels are not listed: %s", error)

    def suspected(self, suspects: Sequence[Suspect]) -> PictureTable:
        """The pictures whose neighbours contradict their label, as a table that `hashret data sheet` shows."""
        table = self.split.train.select([suspect.row for suspect in suspects])
        neighbours = [self.targets.names[suspect.rival] for suspect in suspects]
        return replace(table, attributes={**table.attributes, "neighbours": neighbours})

    def validated(self) -> Validation:
        """How good the model is now."""
        views, seed = (2, self.options.seed) if self.options.learns_from == "pictures" else (1, None)
        return validate(
            self.update.kept,
            self.loaders.validation,
            self.validation_labels,
            views=views,
            seed=seed,
            by_features=not self.options.trains_codes,
        )

    def start_head(self, interrupt: Interrupt) -> bool:
        """Have codes begin as ITQ of the features by now, before the first update for them; False when interrupted.

        Triplets then start from codes that hold as much of the features as bits can without labels; random directions hold less,
        and hardly catch up (docs/decisions/0004-what-shapes-the-features.md).
        """
        head = None
        if self.processes.first:  # a GPU need not compute the same twice, and all must have the same
            features_NF = self.features_of_training(self.hasher, self.update.features, interrupt)
            if not interrupt.requested:
                fitted = self.itq(features_NF.numpy())
                trained = self.hasher.network.head
                assert isinstance(trained, HashHead)
                trained.start_from(fitted.directions.to(self.device), features_NF.to(self.device))
                head = {name: tensor.cpu() for name, tensor in trained.state_dict().items()}
        head = self.processes.from_first(head)
        if head is None:
            return False
        self.update.start_head(head)
        self.monitors.head_started()
        return True

    def fit_codes(self, interrupt: Interrupt) -> bool:
        """Give the best model, whose hash head was not trained, codes that are fitted to its features (ITQ).

        False when interrupted.
        """
        options = self.options
        hasher = Hasher.from_pretrained(self.run.folder, device=self.device)
        features_NF = self.features_of_training(hasher, lambda pixels: hasher.run_batch(pixels)[1], interrupt)
        if interrupt.requested:
            return False
        hasher.network.use_head(self.itq(features_NF.numpy()))
        fitted = validate(hasher, self.loaders.validation, self.validation_labels, by_features=True)
        hasher.protocol["codes"] = "ITQ of the features of the training pictures"
        hasher.scores = {**fitted.as_dict(), "epoch": self.progress.best_epoch}
        self.run.save_model(hasher)
        _log.info(
            "codes of %d bits fitted to the features of epoch %d: validation mAP %.4f (features %.4f), hit@1 %.4f (%.4f)",
            options.code_size,
            self.progress.best_epoch,
            fitted.map,
            fitted.float_map,
            fitted.hit1,
            fitted.float_hit1,
        )
        return True

    def itq(self, features_NF: NDArray[np.float32]) -> ProjectionHead:
        """A head fitted to these features."""
        principal = posthoc.principal_components(features_NF, self.options.code_size, self.options.seed)
        return posthoc.itq(principal, self.options.code_size, self.options.seed)

    def features_of_training(
        self, hasher: Hasher, features_of: Callable[[torch.Tensor], torch.Tensor], interrupt: Interrupt
    ) -> torch.Tensor:
        """What `features_of` gives for training pictures as they are, unchanged: (N, F), of as many as ITQ looks at."""
        rows = posthoc.sampled_rows(len(self.split.train), self.options.seed)
        batches = row_batches(rows, self.options.batch_size)
        found = []
        with PictureLoader(self.split.train, hasher.preprocess.pixels, workers=self.options.workers) as pictures:
            read = tqdm(
                pictures.batches(batches), total=len(batches), desc="features", unit="batch", disable=None, leave=False
            )
            for _, pixels in read:
                found.append(features_of(pixels).cpu())
                if interrupt.requested:
                    break
        return torch.cat(found)

    def save_model(self, validation: Validation, *, epoch: int | None = None) -> None:
        """Make the present model that of the run, or of one of its epochs."""
        self.update.kept.scores = {**validation.as_dict(), "epoch": self.progress.epoch}
        self.run.save_model(self.update.kept, epoch=epoch)

    def save_state(self) -> None:
        """Save everything that going on exactly from here needs."""
        self.run.save_state(
            {
                "update": self.update.state_dict(),
                "monitors": self.monitors.state_dict(),
                "pace": asdict(self.pace),
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
        self.pace = Pace(**state["pace"])
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
        pooling=options.pooling,
        project=options.project,
        image_size=options.image_size,
        resize=options.resize,
        mirror=options.mirror == "always",
        activation=options.activation,
        mean=options.mean,
        std=options.std,
    )
    hasher.protocol = {"data": split.train.name, "task": split.task, "validation": split.how}
    if options.nested:
        hasher.protocol["nested"] = prefixes(options.code_size)[:-1]
    return hasher


def _digest(split: TrainingSplit) -> str:
    """sha256 in hex over which pictures train and which validate, and their labels."""
    rows = [(table.ids, table.labels) for table in (split.train, split.validation)]
    return hashlib.sha256(repr(rows).encode(errors="surrogatepass")).hexdigest()


def _describe(loop: _Loop, split: TrainingSplit, table: PictureTable, source: Mapping[str, Any] | None) -> None:
    """Say and store what is about to be trained."""
    _log.info(
        "task %s: %d training pictures of %d classes; validation on %d pictures (%s); %s",
        split.task,
        len(split.train),
        len(set(split.train.labels)),
        len(split.validation),
        split.how,
        loop.objective.describe(),
    )
    spec, steps = loop.options.optimizer_spec, loop.options.epochs * len(loop.sampler)
    if steps < spec.warmup_updates:
        _log.warning(
            "the learning rate reaches %.3g of %.3g: warmup_updates is %d, and the run has %d updates; lower it, as in "
            "--optimizer %s,warmup_updates=%d",
            spec.inverse_sqrt(loop.options.lr, steps) * loop.options.lr,
            loop.options.lr,
            spec.warmup_updates,
            steps,
            spec.name,
            max(1, steps // 10),
        )
    loop.run.write(
        {
            "format": 1,
            "status": "running",
            "data": table.name,
            "source": None if source is None else dict(source),
            "options": loop.options.as_dict(),
            "read_from": loop.loaders.read_from,
            "task": split.task,
            "margin": loop.objective.margin,
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
        pairs = options.objective in OF_PAIRS
        batch = f"{options.classes_per_batch} × {options.pictures_per_class}" if pairs else options.batch_size
        flags = "--pictures-per-class, --classes-per-batch" if pairs else "--batch-size"
        raise TrainingError(
            f"the GPU has too little memory for {batch} pictures of {options.image_size} px; lower {flags} or --image-size"
        ) from error
