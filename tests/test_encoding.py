"""Bulk encoding: equal to the Hasher's own, whatever stops it on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hashret import codes
from hashret.data.readable import write_skipped
from hashret.data.table import PictureTable
from hashret.encoding import Encoded, encode_chunks, encode_table
from hashret.errors import DataError, ImageError, ModelError, UsageError
from hashret.model import Hasher, build

EVERYTHING = ("codes", "features", "logits")
N = 37


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hasher() -> Hasher:
    torch.manual_seed(0)
    return build("shufflenet_v2_x0_5", 13, image_size=32)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(N):
        path = tmp_path / "pictures" / f"사진 {number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
        made.append(str(path))
    return made


@pytest.fixture
def table(paths: list[str]) -> PictureTable:
    return make_table(paths)


def make_table(paths: list[str], **attributes: list[str]) -> PictureTable:
    n = len(paths)
    return PictureTable(
        ids=[f"id{i}" for i in range(n)], paths=paths, labels=[""] * n, splits=[""] * n, attributes=attributes
    )


def encode(hasher: Hasher, table: PictureTable, **options: Any) -> Encoded:
    return encode_table(
        hasher, table, **{"what": EVERYTHING, "workers": 0, "batch_size": 4, "chunk_size": 10, **options}
    )


def same(one: Encoded, other: Encoded) -> bool:
    return (
        np.array_equal(one.rows, other.rows)
        and one.skipped == other.skipped
        and all(np.array_equal(getattr(one, kind), getattr(other, kind)) for kind in EVERYTHING)
    )


class Counting:
    """Counts the pictures that pass through a Hasher, and can stop it."""

    def __init__(self, hasher: Hasher, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.pictures = 0
        original = hasher.run_batch

        def counted(batch: torch.Tensor) -> Any:
            if stop_after is not None and self.pictures >= stop_after:
                raise KeyboardInterrupt
            self.pictures += len(batch)
            return original(batch)

        monkeypatch.setattr(hasher, "run_batch", counted)


def test_a_table_is_encoded_as_its_pictures_are(hasher: Hasher, table: PictureTable, paths: list[str]) -> None:
    result = encode(hasher, table)
    assert result.rows.tolist() == list(range(N))
    assert len(result) == N
    assert result.skipped == []
    np.testing.assert_allclose(result.logits, hasher.embed(paths), atol=1e-5)
    np.testing.assert_allclose(result.features, hasher.features(paths), atol=1e-5)
    assert result.codes is not None
    assert result.logits is not None
    np.testing.assert_array_equal(codes.unpack(result.codes, 13), result.logits > 0)
    assert (result.codes.dtype, result.logits.dtype, result.rows.dtype) == (np.uint8, np.float32, np.int64)


@pytest.mark.parametrize("what", [("codes",), ["features"], {"logits", "codes"}])
def test_only_what_is_asked_for(hasher: Hasher, table: PictureTable, what: Any) -> None:
    full, part = encode(hasher, table), encode(hasher, table, what=what)
    for kind in EVERYTHING:
        if kind in what:
            np.testing.assert_array_equal(getattr(part, kind), getattr(full, kind))
        else:
            assert getattr(part, kind) is None


@pytest.mark.parametrize(
    "options",
    [{"workers": 2}, {"batch_size": 1}, {"batch_size": 1000}, {"chunk_size": 1}, {"chunk_size": N}, {"workers": None}],
    ids=str,
)
def test_the_way_of_working_does_not_matter(hasher: Hasher, table: PictureTable, options: dict[str, Any]) -> None:
    one, other = encode(hasher, table), encode(hasher, table, **options)
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    if "workers" in options:
        assert same(one, other)


def test_chunks_follow_each_other(hasher: Hasher, table: PictureTable) -> None:
    chunks = list(encode_chunks(hasher, table, workers=0, chunk_size=10))
    assert [chunk.rows.tolist() for chunk in chunks] == [list(range(s, min(s + 10, N))) for s in range(0, N, 10)]
    np.testing.assert_array_equal(np.concatenate([c.codes for c in chunks]), encode(hasher, table).codes)


def test_an_empty_table(hasher: Hasher, tmp_path: Path) -> None:
    result = encode(hasher, make_table([]), resume_folder=tmp_path / "r")
    assert len(result) == 0
    assert result.codes is not None
    assert result.codes.shape == (0, 2)
    assert result.features is not None
    assert result.features.shape == (0, hasher.feature_size)


def test_boxes_and_thresholds_count(hasher: Hasher, paths: list[str]) -> None:
    n = len(paths)
    boxed = make_table(paths, x1=["3"] * n, y1=["2"] * n, x2=["15"] * n, y2=["12"] * n)
    result = encode(hasher, boxed)
    np.testing.assert_allclose(
        result.logits, hasher.embed([Image.open(p).crop((3, 2, 15, 12)) for p in paths]), atol=1e-5
    )
    moved = Hasher(hasher.network, hasher.preprocess, thresholds=np.full(13, 1e9))
    assert not np.any(encode(moved, boxed).codes)


def spoil(paths: list[str]) -> None:
    Path(paths[4]).write_bytes(Path(paths[4]).read_bytes()[:100])
    Path(paths[5]).unlink()
    for path in paths[8:20]:  # whole batches, and a whole chunk
        Path(path).write_text("no picture")


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_are_skipped_and_listed(
    hasher: Hasher, table: PictureTable, paths: list[str], tmp_path: Path, workers: int
) -> None:
    whole = encode(hasher, table)
    spoil(paths)
    result = encode(hasher, table, on_bad="skip", workers=workers, resume_folder=tmp_path / "r")
    bad = [4, 5, *range(8, 20)]
    good = [row for row in range(N) if row not in bad]
    assert result.rows.tolist() == good
    assert [(p.row, p.path) for p in result.skipped] == [(row, paths[row]) for row in bad]
    np.testing.assert_array_equal(result.codes, whole.codes[good])
    write_skipped(tmp_path / "skipped.txt", [(p.path, p.message) for p in result.skipped])
    lines = (tmp_path / "skipped.txt").read_text("utf-8").splitlines()
    assert len(lines) == 14
    assert lines[0].startswith(f"{paths[4]}\t")
    # Taken up again, the list is the same.
    assert same(encode(hasher, table, on_bad="skip", resume_folder=tmp_path / "r"), result)
    with pytest.raises(DataError, match="cannot be written"):
        write_skipped(tmp_path / "none" / "skipped.txt", [])


def test_the_first_bad_picture_ends_it(hasher: Hasher, table: PictureTable, paths: list[str], tmp_path: Path) -> None:
    spoil(paths)
    with pytest.raises(ImageError, match="사진 04"):
        encode(hasher, table)
    # Also when the chunk was finished with --on-bad skip.
    encode(hasher, table, on_bad="skip", resume_folder=tmp_path / "r")
    with pytest.raises(ImageError, match="사진 04"):
        encode(hasher, table, resume_folder=tmp_path / "r")


@pytest.mark.parametrize(
    "options",
    [
        {"what": ()},
        {"what": ("codes", "bits")},
        {"on_bad": "ignore"},
        {"chunk_size": 0},
        {"batch_size": 0},
        {"workers": -1},
        {"device": "gpu"},
    ],
    ids=str,
)
def test_wrong_options(hasher: Hasher, table: PictureTable, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        encode(hasher, table, **options)


# ---- interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_after", "kept", "workers"), [(0, 0, 0), (8, 0, 0), (10, 10, 0), (25, 20, 0), (25, 20, 2), (34, 30, 0)]
)
def test_an_interrupted_job_goes_on(
    hasher: Hasher,
    table: PictureTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    kept: int,
    workers: int,
) -> None:
    expected = encode(hasher, table)
    with monkeypatch.context() as patched:
        counting = Counting(hasher, patched, stop_after)
        with pytest.raises(KeyboardInterrupt):
            encode(hasher, table, resume_folder=tmp_path / "r", workers=workers)
    counting = Counting(hasher, monkeypatch)
    assert same(encode(hasher, table, resume_folder=tmp_path / "r", workers=workers), expected)
    assert counting.pictures == N - kept
    # Done: nothing is computed any more, even with another batch size.
    assert same(encode(hasher, table, resume_folder=tmp_path / "r", batch_size=3), expected)
    assert counting.pictures == N - kept
    assert not list((tmp_path / "r").glob(".*"))


def test_nothing_stale_is_used(
    hasher: Hasher, table: PictureTable, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    encode(hasher, table, resume_folder=folder)
    counting = Counting(hasher, monkeypatch)

    def computed(expected: int, used: Hasher = hasher, rows: PictureTable = table, **options: Any) -> None:
        counting.pictures = 0
        result = encode(used, rows, resume_folder=folder, **options)
        assert counting.pictures == expected
        plain = encode(used, rows, **options)
        np.testing.assert_array_equal(result.codes, plain.codes)

    computed(0)
    # A picture that changes costs its own chunk.
    Image.new("RGB", (20, 20), "red").save(paths[12])
    computed(10)
    computed(0)
    # Other rows, other boxes, other arrays.
    computed(N, rows=table.select(list(range(N))[::-1]))
    computed(
        N,
        rows=make_table(
            paths, **{edge: [value] * N for edge, value in zip(("x1", "y1", "x2", "y2"), "0099", strict=True)}
        ),
    )
    computed(N, what=("codes",))
    # Another model.
    other = Hasher(hasher.network, hasher.preprocess, thresholds=np.ones(13))
    monkeypatch.setattr(other, "run_batch", hasher.run_batch)
    computed(N, used=other)
    computed(0)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "garbage"])
def test_a_damaged_chunk_is_computed_again(
    hasher: Hasher, table: PictureTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    expected = encode(hasher, table, resume_folder=tmp_path / "r")
    file = sorted((tmp_path / "r").iterdir())[1]
    content = file.read_bytes()
    at = content.index(b"logits.npy") + 600
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    file.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "flipped": flipped, "garbage": b"x" * 999}[damage]
    )
    counting = Counting(hasher, monkeypatch)
    assert same(encode(hasher, table, resume_folder=tmp_path / "r"), expected)
    assert counting.pictures == 10
    assert file.read_bytes() == content


def test_a_resume_folder_that_cannot_be(
    hasher: Hasher, table: PictureTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        encode(hasher, table, resume_folder=tmp_path / "file" / "r")
    chunks = encode_chunks(hasher, table, workers=0, chunk_size=10, resume_folder=tmp_path / "r")
    next(chunks)
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(DataError, match="could not be kept"):
        next(chunks)
    encode(hasher, table, resume_folder=tmp_path / "r")
    chunks = encode_chunks(hasher, table, what=EVERYTHING, workers=0, chunk_size=10, resume_folder=tmp_path / "r")
    next(chunks)
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(DataError, match="vanished"):
        next(chunks)


SCRIPT = """
import json, sys, time
from hashret.data.table import PictureTable
from hashret.encoding import encode_table
from hashret.model import Hasher

if __name__ == "__main__":
    model, folder, paths, workers = json.loads(sys.argv[1])
    n = len(paths)
    table = PictureTable(ids=[str(i) for i in range(n)], paths=paths, labels=[""] * n, splits=[""] * n)
    hasher = Hasher.from_pretrained(model, device="cpu")
    original = hasher.run_batch

    def slow(batch):
        time.sleep(0.1)
        return original(batch)

    hasher.run_batch = slow
    encode_table(hasher, table, what=("codes", "features", "logits"), workers=workers,
                 batch_size=4, chunk_size=10, resume_folder=folder)
"""


def test_a_killed_process_loses_no_finished_chunk(
    hasher: Hasher, table: PictureTable, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasher.save_pretrained(tmp_path / "model")
    (tmp_path / "job.py").write_text(SCRIPT)
    folder = tmp_path / "r"
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "job.py"), json.dumps([str(tmp_path / "model"), str(folder), paths, 1])],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("chunk-*.npz"))) < 2:
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):  # raised when the last of its processes has gone
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        pytest.fail("workers outlive the process that started them")
    kept = 10 * len(list(folder.glob("chunk-*.npz")))
    assert 20 <= kept < N
    expected = encode(hasher, table)
    counting = Counting(hasher, monkeypatch)
    assert same(encode(hasher, table, resume_folder=folder), expected)
    assert counting.pictures == N - kept


# ---- GPU --------------------------------------------------------------------------------------------------------------


def test_too_little_gpu_memory_says_what_to_lower(
    hasher: Hasher, table: PictureTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(batch: torch.Tensor) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(hasher, "run_batch", full)
    with pytest.raises(ModelError, match=r"batches of 4 pictures; lower --batch-size"):
        encode(hasher, table)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_encodes_nearly_the_same(hasher: Hasher, table: PictureTable) -> None:
    on_cpu = encode(hasher, table)
    try:
        on_gpu, mixed = encode(hasher, table, device="cuda", precision="float32"), encode(hasher, table, device="cuda")
    finally:
        hasher.to("cpu")
        hasher.network.to(memory_format=torch.contiguous_format)
    np.testing.assert_allclose(on_gpu.features, on_cpu.features, atol=1e-4)
    np.testing.assert_allclose(mixed.features, on_cpu.features, atol=3e-2)
