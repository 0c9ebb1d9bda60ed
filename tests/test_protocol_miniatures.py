"""Every protocol, end to end as a user types it, on a miniature copy of its release."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_pictures
from miniature import MAKERS, TURNTABLE
from PIL import Image

from hashret.data.releases.cifar10_splits import split_cifar10, split_cifar10_1
from hashret.data.table import PictureTable
from hashret.data.turntable.generate import generate
from hashret.protocols import parts as parts_of
from hashret.protocols.cards import CARDS
from hashret.protocols.result import read_result

SMALL = [
    "--weights", "none", "--image-size", 32, "--epochs", 1, "--device", "cpu", "--workers", 0,
    "--cache", "off", "--code-size", 16,
]  # fmt: skip


def plain_folder(folder: Path, labels: Callable[[int], str]) -> Path:
    """8 classes x 8 pictures, named by `labels`, without splits."""
    make_pictures(folder / "made", classes=8)
    for number in range(8):
        (folder / "set" / labels(number)).parent.mkdir(parents=True, exist_ok=True)
        (folder / "made" / f"class{number:02d}").rename(folder / "set" / labels(number))
    return folder / "set"


def with_splits(folder: Path) -> Path:
    """4 classes with pictures to train on and to test."""
    make_pictures(folder / "set" / "train", classes=4, pictures=16)
    make_pictures(folder / "set" / "test", classes=4, pictures=17)
    for picture in (folder / "set" / "test").glob("*/0?.png"):
        picture.unlink()
    for picture in (folder / "set" / "test").glob("*/1[0-5].png"):
        shifted = np.roll(np.asarray(Image.open(picture)), 9, axis=0)  # else both splits hold it
        Image.fromarray(shifted).save(picture)
    return folder / "set"


def of(name: str, **numbers: Any) -> Callable[[Path, PictureTable], Path]:
    """The maker of a release, with these numbers of pictures."""
    return functools.partial(MAKERS[name], **numbers)


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> PictureTable:
    """A turntable set with enough pictures a class to hold some out of what is trained on."""
    folder = tmp_path_factory.mktemp("cars")
    return PictureTable.read_csv(
        generate(folder / "set", workers=2, progress=False, **{**TURNTABLE, "pictures_per_class": 23})
    )


FEW = ["--batch-size", 8]
PAIRS = ["--classes-per-batch", 2]

# protocol -> (what makes its data, further flags, names of the models)
RUNS: dict[str, tuple[Callable[[Path, PictureTable], Path], list[object], list[str]]] = {
    "car-retrieval": (of("car-retrieval"), [*FEW, *PAIRS], ["float", "hash 16 bits"]),
    "compcars": (
        of("compcars", per_class=20),
        ["--arch", "resnet18", "--least-pictures", 4, *FEW, *PAIRS, "--show_batch", "--lr_shrink", 0.5],
        ["float", "hash 16 bits"],
    ),
    "distractors": (of("distractors", per_class=18), FEW, ["float", "hash 16 bits"]),
    "cub-hash": (of("cub", per_class=12), ["--optimizer", "adam_inverse_sqrt,beta1=0.9,beta2=0.98"], ["hash 16 bits"]),
    "dogs-hash": (of("dogs", per_class=12), ["--triplet_margin", 8], ["hash 16 bits"]),
    "cifar10": (lambda folder, _: with_splits(folder), [], ["hash 16 bits"]),
    "cifar10-1": (lambda folder, _: with_splits(folder), [], ["hash 16 bits"]),
    "cifar10-2": (lambda folder, _: with_splits(folder), [], ["hash 16 bits"]),
    "imagenet100": (of("lists", several=False, per_class=13), FEW, ["hash 16 bits"]),
    "multi-label": (of("lists", per_class=13), [*FEW, "--validation", 0.4], ["hash 16 bits"]),
    "cars-unseen": (lambda folder, _: plain_folder(folder, "{:03d}".format), [], ["hash 16 bits"]),
    "cub-unseen": (of("cub-unseen"), [], ["hash 16 bits"]),
    "omniglot": (lambda folder, _: plain_folder(folder, lambda n: f"alphabet{n // 3}/c{n}"), [], ["hash 16 bits"]),
}


def test_every_protocol_has_a_run() -> None:
    assert RUNS.keys() == CARDS.keys()


@pytest.mark.parametrize("name", RUNS)
def test_a_protocol_end_to_end(
    name: str, cars: PictureTable, tmp_path: Path, hashret: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"queries_per_class": 4, "train_per_class": 8}
    monkeypatch.setitem(parts_of.PREPARATIONS, "cifar10", functools.partial(split_cifar10, **few))
    monkeypatch.setitem(parts_of.PREPARATIONS, "cifar10-1", functools.partial(split_cifar10_1, **few))
    make, flags, models = RUNS[name]
    flags = flags if "--arch" in flags else [*flags, "--backbone", "squeezenet1_1"]
    data = make(tmp_path, cars)
    status, out, err = hashret("protocol", "run", name, "--data", data, "--out", tmp_path / "result", *SMALL, *flags)
    assert status == 0, err
    document = read_result(tmp_path / "result").document
    card = CARDS[name]
    assert [model["name"] for model in document["models"]] == models
    assert f"{name} (card {document['protocol_hash']})" in out
    assert document["data"]["complete"] is (False if card.sizes else None)
    assert ("The data are not the whole release" in out) == bool(card.sizes)
    kinds = {row["kind"] for row in document["rows"]}
    assert {"features", "itq", "lsh", "frozen", "pixels", "random", "codes", "two-stage"} == kinds
    for row in document["rows"]:
        for score in row["scores"].values():
            assert 0 <= score["worst"] <= score["expected"] + 1e-9 <= score["best"] + 2e-9 <= 1 + 3e-9
        assert card.metric in row["scores"]
    check(name, document, out, tmp_path)


def check(name: str, document: dict[str, Any], out: str, folder: Path) -> None:
    """What is peculiar to a protocol."""
    data = document["data"]
    if name == "car-retrieval":
        assert data["queries"] == data["gallery"] == 24 and data["queries_of_seen_classes"] == 0
        maps = document["conditions"]
        assert set(maps) == {"time by turn", "time by time"}
        assert len(maps["time by turn"]["top1"]["hash 16 bits: codes"][0]) == 13
        assert "Published: hit@1 0.8449" in out
    elif name == "compcars":
        # Three of four models were watched, and all have 16 front pictures in the gallery.
        assert (data["queries"], data["gallery"]) == (9, 64) and data["queries_of_seen_classes"] == 9
        assert {"map@20", "map@20/relevant", "map@20/found"} <= set(document["rows"][0]["scores"])
        with Image.open(folder / "result" / "batch.png") as batch:
            assert min(batch.size) > 100
        settings = document["models"][0]["settings"]
        assert (settings["pooling"], settings["project"], settings["step_factor"]) == ("gem", 512, 0.5)
        assert "features, 512 numbers" in out and "recall@10 of exact" in out
        for ways in document["searches"].values():
            assert set(ways) == {"exact", "product", "product, 2 of 8 cells"}
            assert set(ways["exact"]["recall"].values()) == {1.0} and ways["exact"]["bytes_a_picture"] == 2048
            # With as few pictures as centroids every picture is its own centroid.
            assert ways["product"]["recall"]["10"] > 0.95 >= ways["product, 2 of 8 cells"]["recall"]["20"] - 0.05
    elif name == "distractors":
        assert set(document["strangers"]["float"]) == {"scores"}
        assert set(document["strangers"]["hash 16 bits"]) == {"scores", "hamming", "asymmetric", "agreement"}
        judged = document["strangers"]["float"]["scores"]["assessment"]
        assert (
            judged["known"] == 24 and judged["strangers"] == 6
        )  # half of those outside, and three of the test pictures
        assert "FPR at 95 % TPR" in out
    elif name in ("cub-hash", "dogs-hash"):
        assert (data["queries"], data["gallery"]) == (24, 24) and data["queries_of_seen_classes"] == 24
        settings = document["models"][0]["settings"]
        assert settings["margin"] == 8.0 and settings["mirror"] == "training"
        assert out.count("Published: map@all") == 4
    elif name.startswith("cifar10"):
        n = {"cifar10": (16, 44, 32), "cifar10-1": (16, 76, 32), "cifar10-2": (28, 64, 64)}[name]
        assert (data["queries"], data["gallery"], data["splits"]["train"]["pictures"]) == n
    elif name in ("imagenet100", "multi-label"):
        assert (data["queries"], data["gallery"]) == (20, 32)
        assert data["splits"]["train"]["pictures"] == 16
    elif name == "omniglot":
        assert data["queries"] == 16  # two characters of the last alphabet


def test_a_stand_in_is_drawn_once(tmp_path: Path, hashret: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from hashret.protocols.card import StandIn

    small = {"cpu": StandIn(3, 2, 8, 64, 48, {"float": {"epochs": 1}})}
    monkeypatch.setitem(CARDS, "car-retrieval", replace(CARDS["car-retrieval"], stand_ins=small))
    words = ("protocol", "run", "car-retrieval", "--data", "turntable", "--out", tmp_path / "result", "--of", "float")
    flags = (*[each for each in SMALL if each not in ("--epochs", 1)], *FEW, "--backbone", "squeezenet1_1")
    status, out, err = hashret(*words, *flags)
    assert status == 0, err
    assert "near views" in out or "within 30 degrees" in out
    assert read_result(tmp_path / "result").document["models"][0]["changed"]["epochs"] == 1
    drawn = tmp_path / "result" / "turntable" / "table.csv"
    before = drawn.stat().st_mtime_ns
    status, out, err = hashret(*words, *flags, "--json")
    assert status == 0, err
    assert drawn.stat().st_mtime_ns == before or json.loads(out)["data"]["queries"] == 16
