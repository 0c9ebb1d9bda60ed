"""A run is a folder: what was asked for, what happened, the best model, and the state to go on from.

    run.json            settings, data, versions, status, best score
    log.jsonl           one line an epoch
    config.json, model.safetensors    the best epoch's model (the folder is a model folder)
    epochs/003/         the model after epoch 3, with --keep-epochs
    suspects.csv        training pictures whose labels are probably wrong, where there are many
    lock                held by the process that trains
    resume/state.pt     everything that going on needs; removed when the run is done
    events.out.…        tensorboard scalars

Torch is loaded only where a state is saved or read: `hashret runs` starts at once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from hashret.errors import HashretError, TrainingError
from hashret.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch
    from tensorboardX import SummaryWriter

    from hashret.data.table import PictureTable
    from hashret.model.hasher import Hasher

RUN_FILE = "run.json"


class Best(NamedTuple):
    """The epoch whose model a run keeps, from 1, and the validation scores that chose it; None of a run without such."""

    epoch: int | None = None
    map: float | None = None
    hit1: float | None = None


def best_of(history: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Best:
    """The best of a run's epochs, by its log and the settings in its run.json.

    By mAP of codes, or of features where codes are not trained. Epochs in which codes were not learned yet count only while there
    are no others. A run of another version, whose settings are unknown, is taken as one of codes from the first epoch on.
    """
    try:
        options = TrainingOptions.from_dict(settings)
    except (HashretError, TypeError):
        options = TrainingOptions(classify_first=0)
    of = "val_" if options.trains_codes else "val_float_"
    scored = [
        line for line in history if isinstance(line.get("epoch"), int) and isinstance(line.get(f"{of}map"), float)
    ]
    learned = [line for line in scored if line["epoch"] > options.codes_from]
    best = max(learned or scored, key=lambda line: float(line[f"{of}map"]), default={})
    return Best(best.get("epoch"), best.get(f"{of}map"), best.get(f"{of}hit1"))


@dataclass(frozen=True)
class Run:
    """The paths of one run folder, and how they are written: each file whole or not at all."""

    folder: Path

    @property
    def log_path(self) -> Path:
        """The JSONL log."""
        return self.folder / "log.jsonl"

    @property
    def state_path(self) -> Path:
        """The state that --resume needs."""
        return self.folder / "resume" / "state.pt"

    @property
    def suspects_path(self) -> Path:
        """The table of suspicious labels, where the last epoch found label noise."""
        return self.folder / "suspects.csv"

    @property
    def lock_path(self) -> Path:
        """Held by the process that writes to the folder."""
        return self.folder / "lock"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Only one process trains in the folder; TrainingError when another does. The system frees it when one dies."""
        lock = FileLock(self.lock_path, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise TrainingError(f"{self.folder} is being trained by another process; wait for it to end") from None
        except OSError as error:
            raise TrainingError(f"{self.folder} cannot be written ({error.strerror or error})") from error
        try:
            yield
        finally:
            lock.release()

    def read(self) -> dict[str, Any]:
        """The content of run.json."""
        try:
            document: dict[str, Any] = json.loads((self.folder / RUN_FILE).read_text("utf-8"))
        except FileNotFoundError:
            raise TrainingError(
                f"{self.folder} is no training run (it has no {RUN_FILE}); see `hashret runs`"
            ) from None
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{self.folder / RUN_FILE} cannot be read: {error}; the run cannot be continued"
            ) from None
        if not isinstance(document, dict) or not {"status", "options", "source"} <= document.keys():
            raise TrainingError(
                f"{self.folder / RUN_FILE} does not describe a training run; the run cannot be continued"
            )
        return document

    def write(self, document: dict[str, Any]) -> None:
        """Replace run.json."""
        with replacing(self.folder / RUN_FILE) as path:
            path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to the log."""
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def cut_log(self, epochs: int) -> None:
        """Keep the log's first `epochs` lines: a killed run may have logged an epoch, or part of a line, that it did not save."""
        lines = self.log_path.read_bytes().splitlines(keepends=True) if self.log_path.exists() else []
        if len(lines) > epochs:
            with replacing(self.log_path) as path:
                path.write_bytes(b"".join(lines[:epochs]))

    def history(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        if not self.log_path.exists():
            return []
        return [json.loads(line) for line in self.log_path.read_text("utf-8").splitlines()]

    def write_suspects(self, table: PictureTable | None) -> None:
        """Replace the table of suspicious labels, or remove it where there is none any more."""
        if table is None:
            self.suspects_path.unlink(missing_ok=True)
        else:
            table.write_csv(self.suspects_path)

    def scalars(self, purge_step: int) -> SummaryWriter:
        """A writer of tensorboard scalars, which forgets those from `purge_step` on."""
        import tensorboardX

        return tensorboardX.SummaryWriter(str(self.folder), purge_step=purge_step)

    def save_model(self, hasher: Hasher, *, epoch: int | None = None) -> None:
        """Make `hasher` the model of the run, or of one of its epochs."""
        from hashret.model.folder import epoch_folder

        hasher.save_pretrained(self.folder if epoch is None else epoch_folder(self.folder, epoch))

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state to resume from."""
        import torch

        try:
            self.state_path.parent.mkdir(exist_ok=True)
            with replacing(self.state_path) as path:
                torch.save(state, path)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its zip writer.
            reason = (isinstance(error, OSError) and error.strerror) or "is the disk full?"
            raise TrainingError(
                f"the state to resume from cannot be written to {self.state_path} ({reason}); make room on the disk"
            ) from error

    def load_state(self, device: torch.device) -> dict[str, Any]:
        """The saved state, tensors on `device`."""
        import torch

        if not self.state_path.exists():
            raise TrainingError(
                f"{self.folder} has nothing to resume: the run is done, or never began; start another run"
            )
        try:
            state: dict[str, Any] = torch.load(self.state_path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            raise TrainingError(f"{self.state_path} cannot be read ({type(error).__name__}); train anew") from error
        return state

    def forget_state(self) -> None:
        """Remove the state to resume from: the run is done."""
        self.state_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.state_path.parent.rmdir()


class UnwrittenRun(Run):
    """A run that writes nothing: for the processes that train beside the one that writes."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def read(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def write(self, document: dict[str, Any]) -> None:
        """Nothing happens."""

    def log(self, record: dict[str, Any]) -> None:
        """Nothing happens."""

    def cut_log(self, epochs: int) -> None:
        """Nothing happens."""

    def history(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def write_suspects(self, table: PictureTable | None) -> None:
        """Nothing happens."""

    def scalars(self, purge_step: int) -> SummaryWriter:
        """A writer that keeps all to itself."""
        import tensorboardX

        return tensorboardX.SummaryWriter(write_to_disk=False)

    def save_model(self, hasher: Hasher, *, epoch: int | None = None) -> None:
        """Nothing happens."""

    def save_state(self, state: dict[str, Any]) -> None:
        """Nothing happens."""

    def forget_state(self) -> None:
        """Nothing happens."""


def create_run(folder: Path) -> Run:
    """A new run in `folder`, which must be new or empty and writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise TrainingError(
                f"{folder} is not empty; give the run another --exp-name, or continue it with --resume {folder}"
            )
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written ({error.strerror}); choose another --runs or --exp-name"
        ) from None
    return Run(folder)


def find_runs(root: Path) -> list[Run]:
    """The runs below `root`, by name."""
    return [Run(path.parent) for path in sorted(root.glob(f"*/{RUN_FILE}"))]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
