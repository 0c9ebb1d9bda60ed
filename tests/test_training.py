"""Training as a whole: it learns, repeats, resumes exactly, and refuses what cannot work, before the first epoch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import codes_alone
from tensorboardX.proto.event_pb2 import Event

from hashret import codes
from hashret.data import cache
from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.errors import TrainingError, UsageError
from hashret.model.hasher import Hasher
from hashret.model.heads import HashHead
from hashret.training import loop, posthoc
from hashret.training.options import TrainingOptions
from hashret.training.pictures import Pace
from hashret.training.runs import Run, best_of, create_run, find_runs
from hashret.training.splits import split_for_training

SMALL: dict[str, Any] = {
    "backbone": "squeezenet1_1",
    "image_size": 32,
    "code_size": 16,
    "epochs": 2,
    "classes_per_batch": 4,
    "pictures_per_class": 3,
    "lr": 3e-3,
    "augment": "light",
    "device": "cpu",
    "workers": 0,
    "cache": "off",
}
LEAVES_FEATURES_ALONE: dict[str, Any] = {"classify": 1.0, "code_gradient": 0.0, "head_start": "itq"}
"""The default: a classifier shapes the features, and the head learns codes of them."""


def train(source: Path, folder: Path, **changes: Any) -> tuple[loop.TrainingResult, Run]:
    run = create_run(folder)
    return loop.train(open_source(source), codes_alone(**{**SMALL, **changes}), run), run


def validation(score: float) -> loop.Validation:
    statistics = codes.statistics(np.array([[1], [2], [3]], np.uint8), 8)
    return loop.Validation(score, 0.5, score, 0.5, classes=3, codes=statistics)


def tensors(run: Run) -> bytes:
    return (run.folder / "model.safetensors").read_bytes()


def without_seconds(run: Run) -> list[dict[str, Any]]:
    timing = ("seconds", "images/s", "waiting")
    return [{key: value for key, value in line.items() if key not in timing} for line in run.history()]


def test_a_run_learns_and_leaves_a_whole_folder(closed_set: Path, tmp_path: Path) -> None:
    result, run = train(closed_set, tmp_path / "run", epochs=12, keep_epochs=True, lr=3e-4)
    assert result.status == "done" and result.epochs == 12
    history = run.history()
    assert [line["epoch"] for line in history] == list(range(1, 13))
    best = max(history, key=lambda line: line["val_map"])
    assert result.best_epoch == best["epoch"] and result.best_map == best["val_map"] > 0.7
    assert not run.state_path.exists()
    assert list(run.folder.glob("events.out.tfevents.*"))
    hasher = Hasher.from_pretrained(run.folder, device="cpu")
    assert hasher.code_size == 16 and hasher.scores["epoch"] == best["epoch"]
    kept = Hasher.from_pretrained(f"{run.folder}@{best['epoch']}", device="cpu")
    assert kept.fingerprint() == hasher.fingerprint()
    assert len(list((run.folder / "epochs").iterdir())) == 12
    assert [found.folder for found in find_runs(tmp_path)] == [run.folder]
    assert run.read()["status"] == "done"


def test_same_seed_same_bytes_and_another_seed_others(closed_set: Path, tmp_path: Path) -> None:
    first, second, third = (
        train(closed_set, tmp_path / name, seed=seed)[1] for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert tensors(first) == tensors(second)
    assert without_seconds(first) == without_seconds(second)
    assert tensors(first) != tensors(third)


def test_loader_processes_change_nothing(closed_set: Path, tmp_path: Path) -> None:
    alone = train(closed_set, tmp_path / "alone", epochs=1)[1]
    helped = train(closed_set, tmp_path / "helped", epochs=1, workers=2)[1]
    assert tensors(alone) == tensors(helped)
    assert without_seconds(alone) == without_seconds(helped)


@pytest.mark.parametrize("batches", [1, 5, 6])
@pytest.mark.parametrize("settings", [{}, LEAVES_FEATURES_ALONE], ids=["codes alone", "default"])
def test_resuming_is_exact_wherever_the_run_was_stopped(
    closed_set: Path, tmp_path: Path, batches: int, settings: dict[str, Any], ctrl_c_after: Callable[[int], None]
) -> None:
    settings = {"epochs": 3, "optimizer": "adam", **settings}
    whole = train(closed_set, tmp_path / "whole", **settings)[1]
    ctrl_c_after(batches)
    result, run = train(closed_set, tmp_path / "parts", **settings)
    assert result.status == "interrupted" and run.state_path.exists() and run.read()["status"] == "interrupted"
    options = TrainingOptions.from_dict(json.loads(json.dumps(run.read()["options"])))
    result = loop.train(open_source(closed_set), options, run, resume=True)
    assert result.status == "done"
    assert tensors(run) == tensors(whole)
    assert without_seconds(run) == without_seconds(whole)


@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("killed_in", ["save_state", "record_status"])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str, patience: int
) -> None:
    settings = {"epochs": 3, "patience": patience, "keep_epochs": True}
    if patience:
        monkeypatch.setattr(loop, "validate", lambda *_, **__: validation(0.5))
    whole = train(closed_set, tmp_path / "whole", **settings)[1]
    assert whole.read()["status"] == ("stopped early" if patience else "done")
    calls = 0

    class Killed(BaseException):
        """What no handler of the run's own can have written down."""

    # Before the state is first saved, before each epoch's is, and before the end is written down.
    for moment in range(1 if killed_in == "record_status" else len(whole.history()) + 1):
        with monkeypatch.context() as patched:
            real, calls = getattr(loop._Loop, killed_in), 0

            def kill(self: loop._Loop, *args: Any, moment: int = moment, real: Any = real) -> None:
                nonlocal calls
                if calls == moment:
                    raise Killed
                calls += 1
                real(self, *args)

            patched.setattr(loop._Loop, killed_in, kill)
            run = create_run(tmp_path / f"killed{moment}")
            with pytest.raises(Killed):
                loop.train(open_source(closed_set), codes_alone(**{**SMALL, **settings}), run)
        assert run.read()["status"] == "failed"
        if not run.state_path.exists():
            with pytest.raises(TrainingError, match="never began; start another run"):
                loop.train(open_source(closed_set), codes_alone(**{**SMALL, **settings}), run, resume=True)
            continue
        with run.log_path.open("ab") as log:
            log.write(b'{"epoch": ')
        result = loop.train(open_source(closed_set), codes_alone(**{**SMALL, **settings}), run, resume=True)
        assert result.status == run.read()["status"] == whole.read()["status"]
        assert tensors(run) == tensors(whole)
        assert without_seconds(run) == without_seconds(whole)
        assert len(list((run.folder / "epochs").iterdir())) == len(whole.history())


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_codes_start_as_itq_of_the_features(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    """Once, when they begin to be learned."""
    gather, start, seen = loop._Loop.features_of_training, loop.Updater.start_head, []

    def gathered(self: loop._Loop, *args: Any) -> torch.Tensor:
        features_NF = gather(self, *args)
        seen.append((features_NF, self.steps(), len(self.split.train)))
        return features_NF

    def started(self: loop.Updater, head: dict[str, torch.Tensor]) -> None:
        start(self, head)
        for network in (self.network, self.kept.network):
            assert all(torch.equal(tensor, head[name]) for name, tensor in network.head.state_dict().items())
        seen.append({name: tensor.clone() for name, tensor in head.items()})

    monkeypatch.setattr(loop._Loop, "features_of_training", gathered)
    monkeypatch.setattr(loop.Updater, "start_head", started)
    _, run = train(closed_set, tmp_path / "run", epochs=3, ema=ema, **LEAVES_FEATURES_ALONE)
    (features_NF, steps, n), head = seen
    assert features_NF.shape == (n, 512) and steps == next(iter(run.history()))["updates"]
    fitted = posthoc.itq(posthoc.principal_components(features_NF.numpy(), 16), 16)
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(head["linear.weight"], fitted.directions), torch.ones(16)
    )
    unit_NF = torch.nn.functional.normalize(features_NF, dim=1)
    torch.testing.assert_close((unit_NF @ head["linear.weight"].T).std(dim=0, correction=0), torch.ones(16))
    made = HashHead(512, 16).eval()
    made.load_state_dict(head)
    logits_NK = made(features_NF).detach()
    torch.testing.assert_close(logits_NK.mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
    # Features here are as long as they are, where ITQ scales them; hardly a bit is another for that.
    assert ((logits_NK > 0) == (fitted(features_NF) > 0)).float().mean() > 0.95


def test_the_model_of_a_run_is_of_an_epoch_in_which_codes_were_learned(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until there is one it is the best without; and patience begins with the codes."""
    scores = iter([0.6, 0.9, 0.7, 0.3, 0.5, 0.4, 0.4, 0.4])
    monkeypatch.setattr(loop, "validate", lambda *_, **__: validation(next(scores)))
    seen = []
    save = loop._Loop.save_model

    def saved(self: loop._Loop, *args: Any, **more: Any) -> None:
        seen.append((self.progress.epoch, best_of(self.run.history(), self.options.as_dict()).epoch))
        save(self, *args, **more)

    monkeypatch.setattr(loop._Loop, "save_model", saved)
    settings = {"epochs": 8, "patience": 2, "classify_first": 3, **LEAVES_FEATURES_ALONE}
    result, run = train(closed_set, tmp_path / "run", **settings)
    assert [epoch for epoch, _ in seen] == [1, 2, 4, 5] and [best for _, best in seen] == [None, 1, 2, 4]
    assert (result.status, result.epochs, result.best_epoch, result.best_map) == ("stopped early", 7, 5, 0.5)
    assert best_of(run.history(), run.read()["options"]) == (5, 0.5, 0.5)
    assert best_of(run.history()[:3], run.read()["options"]).epoch == 2
    assert best_of(run.history(), {"of": "another version"}).epoch == 2
    assert best_of([], run.read()["options"]) == (None, None, None)


def test_an_interruption_before_codes_begin_is_made_up_for(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(closed_set, tmp_path / "whole", epochs=3, **LEAVES_FEATURES_ALONE)[1]
    features = loop.Updater.features
    with monkeypatch.context() as patched:

        def interrupted(self: loop.Updater, pixels: torch.Tensor) -> torch.Tensor:
            signal.raise_signal(signal.SIGINT)
            return features(self, pixels)

        patched.setattr(loop.Updater, "features", interrupted)
        result, run = train(closed_set, tmp_path / "parts", epochs=3, **LEAVES_FEATURES_ALONE)
    assert (result.status, result.epochs) == ("interrupted", 1)
    loop.train(open_source(closed_set), TrainingOptions.from_dict(run.read()["options"]), run, resume=True)
    assert tensors(run) == tensors(whole) and without_seconds(run) == without_seconds(whole)


def test_an_interruption_while_codes_are_fitted_is_made_up_for(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classification = {"objective": "classification", "batch_size": 12}
    settings = {name: value for name, value in SMALL.items() if not name.endswith(("_per_batch", "_per_class"))}
    options = codes_alone(**settings, **classification)
    whole, parts = (create_run(tmp_path / name) for name in ("whole", "parts"))
    loop.train(open_source(closed_set), options, whole)
    run_batch, fit = Hasher.run_batch, loop._Loop.fit_codes

    def fitted(self: loop._Loop, *args: Any) -> bool:
        monkeypatch.setattr(Hasher, "run_batch", interrupted)
        return fit(self, *args)

    def interrupted(self: Hasher, pixels: torch.Tensor) -> Any:
        signal.raise_signal(signal.SIGINT)
        return run_batch(self, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Loop, "fit_codes", fitted)
        result = loop.train(open_source(closed_set), options, parts)
        monkeypatch.setattr(Hasher, "run_batch", run_batch)
    assert (result.status, result.epochs) == ("interrupted", 2) and parts.state_path.exists()
    assert loop.train(open_source(closed_set), options, parts, resume=True).status == "done"
    assert tensors(parts) == tensors(whole) and without_seconds(parts) == without_seconds(whole)


def test_resuming_with_other_pictures_is_refused(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.Updater, "__call__", ctrl_c)
    run = create_run(tmp_path / "run")
    options = codes_alone(**SMALL)
    with pytest.raises(KeyboardInterrupt):
        loop.train(open_source(closed_set), options, run)
    assert run.read()["status"] == "interrupted"
    changed = open_source(closed_set)
    changed.labels[0] = changed.labels[-1]
    with pytest.raises(
        TrainingError, match=r"the pictures of hues or their labels are not those that .* was started with"
    ):
        loop.train(changed, options, run, resume=True)


def test_scalars_share_one_axis_and_what_is_done_again_replaces_what_was(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(tmp_path / "run")
    options, batches = codes_alone(**SMALL), 3
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop._Loop, "end_epoch", ctrl_c)  # after the epoch's batches, before its state
        loop.train(open_source(closed_set), options, run)
    loop.train(open_source(closed_set), options, run, resume=True)
    shown: dict[str, list[int]] = {}
    for event in events(run):
        if event.session_log.status == event.session_log.START:  # viewers drop what an earlier part drew from here on
            shown = {tag: [step for step in steps if step < event.step] for tag, steps in shown.items()}
        for value in event.summary.value:
            shown.setdefault(value.tag, []).append(event.step)
    assert shown["train/loss"] == list(range(1, 2 * batches + 1))
    assert shown["validation/map"] == shown["train/lr"] == [batches, 2 * batches]


def ctrl_c(*_: Any) -> None:
    raise KeyboardInterrupt


def events(run: Run) -> Iterator[Any]:
    """What tensorboard reads: records of length, checksum, event, checksum."""
    for file in sorted(run.folder.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_early_stopping(closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = iter([0.5, 0.6, 0.55, 0.58, 0.9, 0.9])
    monkeypatch.setattr(loop, "validate", lambda *_, **__: validation(next(maps)))
    result, run = train(closed_set, tmp_path / "run", epochs=6, patience=2)
    assert (result.status, result.epochs, result.best_epoch) == ("stopped early", 4, 2)
    assert run.read()["status"] == "stopped early"


def test_a_loss_that_is_no_number_stops_with_advice(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "tanh", lambda x: x * float("nan"))
    with pytest.raises(TrainingError, match="the loss became nan; lower --lr"):
        train(closed_set, tmp_path / "run")


def test_out_of_gpu_memory_says_what_to_lower(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop.Updater, "__call__", full)
    with pytest.raises(
        TrainingError, match="too little memory for 4 × 3 pictures of 32 px; lower --pictures-per-class"
    ):
        train(closed_set, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_size": 0}, "code size is 0; choose 1 to 1024 bits"),
        ({"code_size": 1025}, "code size is 1025"),
        ({"margin": -1.0}, "margin is -1.0; it must be above 0"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"margin": float("inf")}, "margin is inf; it must be above 0 and finite"),
        ({"pictures_per_class": 1}, "--pictures-per-class is 1; it must be at least 2"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"mining": "easy"}, "--mining is 'easy'; choose one of batch-all, semi-hard"),
        ({"validation": 1.0}, "--validation is 1.0"),
        ({"lr": 0.0}, "--lr is 0.0"),
        ({"lr": float("inf")}, "--lr is inf; it must be above 0 and finite"),
        ({"head_lr_factor": -1.0}, "--head-lr-factor is -1.0"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0; it must be at least 0"),
        ({"warmup": float("nan")}, "--warmup is nan"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 1 << 64}, "it must be below 2\\^64"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        codes_alone(**{**SMALL, **changes})


def table(labels: list[str], splits: list[str] | None = None) -> PictureTable:
    n = len(labels)
    return PictureTable(
        [str(i) for i in range(n)], [f"/none/{i}.png" for i in range(n)], labels, splits or [""] * n, {}, "set"
    )


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (["a"] * 9, {}, "set has 1 training class; triplets need at least 2"),
        ([""] * 9, {}, "set has no labelled picture to train on"),
        (["a"] * 5 + ["b"] * 5 + ["c"], {}, r"1 training class with a single picture \(c\)"),
        (["a"] * 8 + ["b"] * 8, {}, "--classes-per-batch is 4, but there are 2 training classes"),
        (
            ["a"] * 5 + ["b"] * 5,
            {"classes_per_batch": 2, "pictures_per_class": 6},
            "a batch of 2 classes × 6 pictures is larger than the 6 training pictures",
        ),
        (["a"] * 3 + ["b"] * 3, {}, "too small to hold out validation pictures"),
    ],
)
def test_data_that_cannot_be_trained_on(
    tmp_path: Path, labels: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        loop.train(table(labels), codes_alone(**{**SMALL, **changes}), create_run(tmp_path / "run"))


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    with pytest.raises(
        TrainingError, match=r"is not empty; give the run another --exp-name, or continue it with --resume"
    ):
        create_run(tmp_path / "run")


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written"):
        create_run(tmp_path / "file" / "run")


def test_a_finished_or_missing_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is no training run"):
        Run(tmp_path).read()
    with pytest.raises(TrainingError, match="has nothing to resume"):
        create_run(tmp_path / "new").load_state(torch.device("cpu"))


class TestSplits:
    def test_unseen_task_holds_out_classes_and_never_touches_test(self) -> None:
        labels = [f"c{i % 10}" for i in range(100)]
        splits = ["train" if int(label[1]) < 7 else "test" for label in labels]
        split = split_for_training(table(labels, splits), validation=0.3)
        assert split.task == "unseen"
        assert len(set(split.validation.labels)) == 2 and len(set(split.train.labels)) == 5
        assert not set(split.train.labels) & set(split.validation.labels)
        assert set(split.train.splits) | set(split.validation.splits) == {"train"}

    def test_closed_task_holds_out_pictures_of_every_class(self) -> None:
        split = split_for_training(table([f"c{i % 3}" for i in range(60)]), validation=0.2)
        assert split.task == "closed"
        assert [split.validation.labels.count(f"c{i}") for i in range(3)] == [4, 4, 4]
        assert not set(split.train.ids) & set(split.validation.ids)

    def test_a_validation_split_of_its_own_is_used(self) -> None:
        labels = [f"c{i % 3}" for i in range(30)]
        split = split_for_training(table(labels, ["train"] * 15 + ["val"] * 9 + ["test"] * 6))
        assert (split.task, len(split.train), len(split.validation), split.how) == ("closed", 15, 9, "the split 'val'")

    def test_only_a_validation_split_of_other_classes_makes_the_task_unseen(self) -> None:
        split = split_for_training(table(["a", "b"] * 5 + ["x", "y"] * 5, ["train"] * 10 + ["val"] * 10))
        assert split.task == "unseen"

    def test_the_task_can_be_given(self) -> None:
        assert (
            split_for_training(table([f"c{i % 6}" for i in range(60)]), task="unseen").how
            == "2 of 6 training classes held out"
        )

    def test_a_validation_split_in_which_nothing_can_be_found(self) -> None:
        with pytest.raises(TrainingError, match="the validation split of set has no two pictures of one class"):
            split_for_training(table(["a", "b"] * 5 + ["a", "b", "c"], ["train"] * 10 + ["val"] * 3))

    def test_deterministic_by_seed(self) -> None:
        ids = [split_for_training(table([f"c{i % 3}" for i in range(60)]), seed=s).validation.ids for s in (0, 0, 1)]
        assert ids[0] == ids[1] != ids[2]


def test_a_cache_changes_no_bytes_and_each_way_is_written_down(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    for number, augment in enumerate(("none", "standard", "strong")):
        files = train(closed_set, tmp_path / f"files{number}", epochs=1, augment=augment)[1]
        kept = train(closed_set, tmp_path / f"kept{number}", epochs=1, augment=augment, cache="on", workers=None)[1]
        assert files.read()["read_from"] == {"training": "files", "validation": "files"}
        assert kept.read()["read_from"] == {"training": "cache", "validation": "cache"}
        assert tensors(files) == tensors(kept)
        assert without_seconds(files) == without_seconds(kept)
    assert kept.read()["options"]["augment"] == "strong"


def test_another_seed_finds_the_same_cache_of_training_pictures(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    for seed in (0, 1):
        train(closed_set, tmp_path / f"{seed}", epochs=1, cache="on", seed=seed)
    # Two of validation pictures, which differ, and one to train on.
    assert len(list((tmp_path / "cache" / "pictures").glob("*.pictures"))) == 3


def test_a_run_goes_on_exactly_when_its_cache_is_gone(
    closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c_after: Callable[[int], None]
) -> None:
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    whole = train(closed_set, tmp_path / "whole", cache="on")[1]
    for number, way in enumerate(("on", "off")):
        ctrl_c_after(2)
        result, run = train(closed_set, tmp_path / f"parts{number}", cache="on")
        assert result.status == "interrupted"
        shutil.rmtree(tmp_path / "cache")
        options = dataclasses.replace(TrainingOptions.from_dict(run.read()["options"]), cache=way)
        loop.train(open_source(closed_set), options, run, resume=True)
        assert run.read()["read_from"]["training"] == ("cache" if way == "on" else "files")
        assert tensors(run) == tensors(whole)
        assert without_seconds(run) == without_seconds(whole)


def test_auto_is_resolved_said_and_stored(closed_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="hashret.training"):
        run = train(closed_set, tmp_path / "run", epochs=1, augment="auto")[1]
    assert run.read()["options"]["augment"] == "strong"
    assert "augmentation: strong (for 36 pictures, 6 a class); pictures to train on come from files" in caplog.text
    (line,) = run.history()
    assert line["images/s"] > 0 and 0 <= line["waiting"] <= 1
    assert f"{line['images/s']:.0f} images/s, waiting {100 * line['waiting']:.1f} %" in caplog.text
    drawn = {value.tag for event in events(run) for value in event.summary.value}
    assert {"train/images/s", "train/waiting"} <= drawn


def test_pace_tells_waiting_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("hashret.training.pictures.time.perf_counter", lambda: clock[0])

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(4):
            clock[0] += 1
            yield torch.zeros(6), torch.zeros(6)

    pace = Pace()
    for _ in pace.timed(batches()):
        clock[0] += 3
    assert (pace.pictures, pace.seconds, pace.waited) == (24, 16, 4)
    assert pace.end_epoch() == {"images/s": 1.5, "waiting": 0.25}
    assert pace.end_epoch() == {"images/s": 0.0, "waiting": 0.0}
    # A batch after which the epoch is left counts as well.
    given_up = pace.timed(batches())
    next(given_up)
    clock[0] += 3
    given_up.close()
    assert (pace.pictures, pace.seconds, pace.waited) == (6, 4, 1)


def test_interrupts_outside_the_main_thread_are_left_alone(closed_set: Path, tmp_path: Path) -> None:
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(train(closed_set, tmp_path / "run", epochs=1)[0].status))
    thread.start()
    thread.join()
    assert results == ["done"]


def test_options_survive_json() -> None:
    options = TrainingOptions(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), margin=8.0)
    assert TrainingOptions.from_dict(json.loads(json.dumps(options.as_dict()))) == options
    with pytest.raises(TrainingError, match="settings this version does not know: new"):
        TrainingOptions.from_dict({**dataclasses.asdict(options), "new": 1})
