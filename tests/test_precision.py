"""In which numbers codes are computed: what is chosen where, what float32 promises, and a GPU that is kept busy (by a fake)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome, make_pictures

from hashret import encoding
from hashret.cli.options import encoding_settings
from hashret.data import loading
from hashret.data.loading import PictureLoader, row_batches
from hashret.data.sources import open_source
from hashret.data.table import PictureTable
from hashret.encoding import encode_table
from hashret.errors import ImageError, ModelError, UsageError
from hashret.model import Hasher, build
from hashret.model.precision import computing, pick_precision

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
EVERYTHING = ("codes", "features", "logits")


@pytest.fixture(scope="module")
def hasher() -> Hasher:
    torch.manual_seed(0)
    return build("resnet18", 16, image_size=32)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PictureTable:
    return open_source(str(make_pictures(tmp_path_factory.mktemp("pictures") / "hues", classes=3, pictures=5)))


def test_auto_is_float16_on_a_gpu_and_float32_elsewhere() -> None:
    assert [pick_precision("auto", device) for device in (CPU, CUDA, MPS)] == ["float32", "float16", "float32"]
    assert [pick_precision("bfloat16", device) for device in (CPU, CUDA)] == ["bfloat16", "bfloat16"]
    with pytest.raises(UsageError, match="the precision is 'half'; it can be auto, float32, float16, bfloat16"):
        pick_precision("half", CPU)


def test_float32_on_a_gpu_is_float32_and_deterministic_and_afterwards_all_is_as_it_was() -> None:
    cudnn = torch.backends.cudnn

    def switches() -> tuple[Any, ...]:
        return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, torch.get_float32_matmul_precision()

    was = switches()
    try:
        torch.set_float32_matmul_precision("high")
        cudnn.benchmark = True
        before = switches()
        with contextlib.suppress(ZeroDivisionError), computing("float32", CUDA):
            assert switches() == (False, True, False, "highest")
            raise ZeroDivisionError
        assert switches() == before == (True, False, True, "high")
        with computing("float32", CPU):
            assert switches() == before  # what a CPU computes does not depend on them
    finally:
        torch.set_float32_matmul_precision(was[3])
        cudnn.benchmark = was[2]


def test_what_is_around_it_does_not_decide(hasher: Hasher) -> None:
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, _ = hasher.run_batch(pictures)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = hasher.run_batch(pictures)
        with computing("float32", CPU):
            exact, _ = hasher.run_batch(pictures)
    with computing("bfloat16", CPU):
        asked, _ = hasher.run_batch(pictures)
    assert torch.equal(exact, plain) and torch.equal(asked, rough)
    assert asked.dtype == torch.float32 and 0 < float((asked - plain).abs().max()) < 0.1


def test_a_chunk_of_another_precision_is_not_used(
    hasher: Hasher, table: PictureTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hashret.encoding")
    kept: dict[str, Any] = {"what": ("logits",), "workers": 0, "chunk_size": 10, "resume_folder": tmp_path}
    exact = encode_table(hasher, table, **kept)
    assert len(list(tmp_path.iterdir())) == 2
    same = encode_table(hasher, table, precision="float32", **kept)
    assert len(list(tmp_path.iterdir())) == 2 and np.array_equal(exact.logits, same.logits)
    rough = encode_table(hasher, table, precision="bfloat16", **kept)
    assert len(list(tmp_path.iterdir())) == 4
    assert 0 < np.abs(rough.logits - exact.logits).max() < 0.1
    said = [message for message in caplog.messages if message.startswith("encoding in")]
    assert said == ["encoding in bfloat16 on cpu"]
    with pytest.raises(UsageError, match="the precision is 'fp16'"):
        encode_table(hasher, table, precision="fp16")


def test_numbers_too_great_for_float16_are_no_codes(table: PictureTable) -> None:
    torch.manual_seed(0)
    great = build("resnet18", 16, image_size=32)
    with torch.no_grad():
        great.network.backbone.get_parameter("conv1.weight").mul_(1e6)
    few = table.select([0, 1, 2])
    for what in EVERYTHING:
        with pytest.raises(ModelError, match="too great for float16; compute in float32, with --deterministic-codes"):
            encode_table(great, few, what=(what,), workers=0, precision="float16")
    for precision in ("float32", "bfloat16"):
        assert len(encode_table(great, few, workers=0, precision=precision)) == 3


# ---- a GPU that is kept busy ------------------------------------------------------------------------------------------


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a fake of torch's CUDA streams and events is told, in order; memory and arithmetic are the CPU's."""
    told: list[str] = []
    names = iter("abcdefgh")

    class Stream:
        def __init__(self, name: str = "uploads") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            told.append(f"{self.name} waits for {other.name}")

    class Event:
        def __init__(self) -> None:
            self.name = next(names)

        def record(self, stream: Stream) -> None:
            told.append(f"results {self.name} on {stream.name}")

        def synchronize(self) -> None:
            told.append(f"waited for {self.name}")

    @contextlib.contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        told.append(f"on {chosen.name}:")
        yield

    computes = Stream("default")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computes)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, used_by: told.append(f"used by {used_by.name}"))
    return told


def test_the_next_batch_is_computed_before_results_are_waited_for(
    hasher: Hasher, table: PictureTable, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(gpu: encoding._Gpu | None) -> list[encoding.Encoded]:
        with PictureLoader(table, hasher.preprocess.pixels, workers=0) as loader:
            return list(
                encoding._encoded(hasher, loader.read(row_batches(len(table), 6)), EVERYTHING, "float32", "fail", gpu)
            )

    plain = encoded(None)
    assert log == []
    of_batch = hasher.run_batch

    def computed(pictures: torch.Tensor) -> Any:
        assert pictures.is_contiguous(memory_format=torch.channels_last)
        log.append("computed")
        return of_batch(pictures)

    with monkeypatch.context() as patched:
        patched.setattr(hasher, "run_batch", computed)
        found = encoded(encoding._Gpu(CPU))
    begin = ["on uploads:", "default waits for uploads", "used by default", "computed"]
    assert log == [
        *begin, "results a on default",
        *begin, "results b on default", "waited for a",
        *begin, "results c on default", "waited for b",
        "waited for c",
    ]  # fmt: skip
    for one, other in zip(found, plain, strict=True):
        assert np.array_equal(one.rows, other.rows) and np.array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)


def test_batches_without_a_picture_keep_their_place(hasher: Hasher, tmp_path: Path, log: list[str]) -> None:
    source = make_pictures(tmp_path / "hues", classes=1, pictures=6)
    for number in (2, 3):
        (source / "class00" / f"{number:02d}.png").write_text("no picture")
    table = open_source(str(source))
    for on_bad in ("skip", "fail"):
        with PictureLoader(table, hasher.preprocess.pixels, workers=0) as loader:
            batches = loader.read(row_batches(6, 2))
            encoded = encoding._encoded(hasher, batches, ("codes",), "float32", on_bad, encoding._Gpu(CPU))
            if on_bad == "skip":
                assert [part.rows.tolist() for part in encoded] == [[0, 1], [], [4, 5]]
            else:
                with pytest.raises(ImageError, match=r"02\.png"):
                    list(encoded)


# ---- the cache of resized pictures ------------------------------------------------------------------------------------


def test_a_cache_changes_nothing_but_what_is_read(
    hasher: Hasher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path / "cache"))
    source = make_pictures(tmp_path / "hues", classes=2, pictures=4)
    (source / "class00" / "02.png").write_text("no picture")
    table = open_source(str(source))
    read: list[str] = []
    read_picture = loading.images.read_picture

    def counted(path: str, box: Any = None) -> Any:
        read.append(path)
        return read_picture(path, box)

    monkeypatch.setattr(loading.images, "read_picture", counted)
    how: dict[str, Any] = {"what": EVERYTHING, "on_bad": "skip", "workers": 0, "batch_size": 3}
    plain = encode_table(hasher, table, **how)
    assert len(read) == 8 and not (tmp_path / "cache").exists()
    encode_table(hasher, table, cache="on", **how)
    read.clear()
    found = encode_table(hasher, table, cache="on", **how)
    assert read == [table.paths[2]]  # its sentence is told anew each time
    assert found.skipped == plain.skipped and np.array_equal(found.rows, plain.rows)
    assert all(np.array_equal(getattr(found, kind), getattr(plain, kind)) for kind in EVERYTHING)


# ---- the command line -------------------------------------------------------------------------------------------------


def test_deterministic_codes_are_asked_for_by_one_flag(
    tiny_run: Path,
    closed_set: Path,
    hashret: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    plain = encode_table

    def noted(*arguments: Any, **settings: Any) -> Any:
        asked.append(settings)
        return plain(*arguments, **settings)

    monkeypatch.setattr(encoding, "encode_table", noted)
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path / "cache"))
    words = ["--model", tiny_run, "--data", closed_set, "--device", "cpu", "--workers", 0]
    scores = []
    for flags in ([], ["--deterministic-codes", "--cache", "on"]):
        ran = hashret("evaluate", *words, "--controls", "off", "--json", *flags)
        assert ran.status == 0, ran.err
        scores.append(ran.out)
    assert scores[0] == scores[1]
    ran = hashret("index", *words, "--out", tmp_path / "index", "--deterministic-codes")
    assert ran.status == 0, ran.err
    assert [(each["precision"], each["cache"]) for each in asked] == [
        ("auto", "off"), ("float32", "on"), ("float32", "off"),
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["classify", "dedup", "evaluate", "index", "report", "rethreshold", "submit"])
def test_every_command_that_encodes_has_the_flags(command: str) -> None:
    import argparse
    import importlib

    parser = argparse.ArgumentParser()
    importlib.import_module(f"hashret.cli.{command}").add_arguments(parser)
    defaults = argparse.Namespace(**{action.dest: action.default for action in parser._actions})
    assert encoding_settings(defaults) == {"batch_size": 64, "workers": None, "precision": "auto", "cache": "off"}
