"""Small picture sets that tests make on the spot."""

from __future__ import annotations

import colorsys
import os
import signal
import time
from pathlib import Path

# Tests run in several processes on few cores, where torch's spinning threads would wait for each other.
# Set before torch or numba is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# A shell that starts tests in the background has them ignore Ctrl-C, and so would every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from miniature import make_turntable
from PIL import Image

from hashret import following
from hashret.data import PictureTable
from hashret.hamming import costs
from hashret.training.options import READ_BY, TrainingOptions

# `make test` says the same of the same code; `make test-slow` draws new examples.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def make_pictures(folder: Path, classes: int = 6, pictures: int = 8, size: int = 32, first: int = 0) -> Path:
    """A folder of class folders: each class one hue with a bright square, noise over it."""
    for c in range(first, first + classes):
        (folder / f"class{c:02d}").mkdir(parents=True)
        colour = 255 * np.array(colorsys.hsv_to_rgb((0.37 * c) % 1, 0.8, 0.7))
        for i in range(pictures):
            rng = np.random.default_rng([c, i])
            array = colour + rng.normal(0, 25, (size, size, 3))
            y, x = rng.integers(0, size // 2, 2)
            array[y : y + size // 3, x : x + size // 3] += 20 * (c % 5)
            Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(folder / f"class{c:02d}" / f"{i:02d}.png")
    return folder


def codes_alone(**settings: Any) -> TrainingOptions:
    """Settings under which codes move the backbone, from a random start, and a picture is seen once: half the work."""
    objective = settings.get("objective", TrainingOptions.objective)
    alone = {"classify": 0.0, "code_gradient": 1.0, "head_start": "random"}
    read = {name: value for name, value in alone.items() if objective in READ_BY[name]}
    return TrainingOptions(**{**read, "mirror": "training", **settings})


def settle(place: Path) -> None:
    """Let the clock of the file system go on, so that times tell what changed."""
    last = max(path.stat().st_ctime_ns for path in place.rglob("*.png"))
    while time.time_ns() <= last + following._FINE_TICK_NS:
        time.sleep(0.01)


@pytest.fixture
def ctrl_c_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has Ctrl-C come right after an update of training: the n-th from the call on."""
    from hashret.training.updates import Updater

    step = Updater.__call__

    def after(updates: int) -> None:
        seen = 0

        def step_then_ctrl_c(self: Updater, *args: Any) -> Any:
            nonlocal seen
            update = step(self, *args)
            seen += 1
            if seen == updates:
                os.kill(os.getpid(), signal.SIGINT)
            return update

        monkeypatch.setattr(Updater, "__call__", step_then_ctrl_c)

    return after


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of measured costs that is empty: plans rest on the costs that come with the package."""
    monkeypatch.setattr(costs, "user_cache", lambda: tmp_path / "cache")
    costs.measured_costs.cache_clear()
    yield tmp_path / "cache"
    costs.measured_costs.cache_clear()


@pytest.fixture(scope="session")
def closed_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 classes × 8 pictures without splits."""
    return make_pictures(tmp_path_factory.mktemp("closed") / "hues")


@pytest.fixture(scope="session")
def unseen_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train: 6 classes × 8 pictures; test: 3 other classes × 8 pictures."""
    root = tmp_path_factory.mktemp("unseen") / "hues"
    make_pictures(root / "train")
    make_pictures(root / "test", classes=3, first=6)
    return root


@pytest.fixture(scope="session")
def turntable_table(tmp_path_factory: pytest.TempPathFactory) -> PictureTable:
    """A turntable set of 8 classes, three of them of split test, x 13 pictures of 64x48 pixels."""
    return make_turntable(tmp_path_factory.mktemp("turntable"))


TINY = [
    "--backbone", "squeezenet1_1", "--image-size", "32", "--code-size", "16", "--epochs", "2", "--classes-per-batch", "4",
    "--pictures-per-class", "3", "--lr", "1e-3", "--augment", "light", "--device", "cpu", "--workers", "0",
    "--cache", "off",
]  # fmt: skip
"""Flags of `hashret train` with which the small sets train in a second."""


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def hashret(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command in this process, as the shell would; words may be anything that prints as what a user types."""
    from hashret.cli import main

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            status = stop.code
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny_run(closed_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on the closed set, both kept."""
    from hashret.cli import main

    runs = tmp_path_factory.mktemp("runs")
    words = ["train", "--data", str(closed_set), "--runs", str(runs), "--exp-name", "tiny", "--keep-epochs", *TINY]
    assert main(words) == 0
    return runs / "tiny"
