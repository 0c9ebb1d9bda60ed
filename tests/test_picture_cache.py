"""The cache of resized pictures: the bytes of the files, whatever became of the cache; and it never fills the disk."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import pytest
from PIL import Image

from hashret.data import cache
from hashret.data.cache import PictureCache, open_cache
from hashret.data.loading import PictureLoader
from hashret.data.table import PictureTable
from hashret.model.preprocess import Preprocess
from hashret.training.augmentation import Canvas

SIZE = 16
SHAPE = (3, SIZE, SIZE)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the caches of a test lie."""
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "kept")
    return tmp_path / "kept" / "pictures"


def make_table(paths: list[Path | str], **attributes: list[str]) -> PictureTable:
    n = len(paths)
    return PictureTable(
        [str(i) for i in range(n)], [str(path) for path in paths], [""] * n, [""] * n, attributes, "set"
    )


def noise(seed: int, width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze() if channels == 1 else values)


@pytest.fixture
def table(tmp_path: Path) -> PictureTable:
    """Every way in which a picture is more than its pixels: turned, grey, see-through, boxed, zipped, broken, missing."""
    pictures = tmp_path / "사진"
    pictures.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(0).save(pictures / "돌린 차.jpg", exif=turned)
    noise(1, mode="L").save(pictures / "grey.png")
    noise(2, mode="RGBA").save(pictures / "alpha.png")
    noise(3, SIZE, SIZE).save(pictures / "as large as asked for.png")
    noise(4, 7, 90).save(pictures / "narrow.png")
    noise(5, 200, 150).save(pictures / "large.jpg")
    (pictures / "깨짐.png").write_bytes(b"no picture")
    with zipfile.ZipFile(pictures / "묶음.zip", "w") as archive:
        for name in ("grey.png", "large.jpg"):
            archive.write(pictures / name, f"안/{name}")
    paths: list[Path | str] = [
        pictures / "돌린 차.jpg",
        pictures / "grey.png",
        pictures / "alpha.png",
        pictures / "as large as asked for.png",
        pictures / "narrow.png",
        pictures / "large.jpg",
        pictures / "깨짐.png",
        f"{pictures / '묶음.zip'}::안/grey.png",
        f"{pictures / '묶음.zip'}::안/large.jpg",
        f"{pictures / '묶음.zip'}::안/none.jpg",
        pictures / "missing.png",
        pictures / "large.jpg",
    ]
    corners = {"x1": "10", "y1": "20", "x2": "120", "y2": "140"}
    return make_table(paths, **{name: [""] * (len(paths) - 1) + [corner] for name, corner in corners.items()})


BROKEN = [6, 9, 10]


def opened(table: PictureTable, preprocess: Preprocess = Preprocess(SIZE), **options: Any) -> PictureCache | None:  # noqa: B008
    arguments = {"how": repr(preprocess), "shape": SHAPE, "wanted": "on", "workers": 0, **options}
    return open_cache(table, preprocess.pixels, **arguments)


def existing(table: PictureTable, **options: Any) -> PictureCache:
    found = opened(table, **options)
    assert found is not None
    return found


def read(table: PictureTable, kept: PictureCache | None, workers: int = 0, make: Any = None) -> list[Any]:
    plan = [np.arange(5), np.arange(5, len(table)), np.array([0, 0])] if len(table) > 5 else [np.arange(len(table))]
    make = make or Preprocess(SIZE).pixels
    with PictureLoader(table, make, cache=kept, workers=workers) as loader:
        return [(rows.tolist(), pictures.tolist(), bad) for rows, pictures, bad in loader.read(plan)]


def no_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that are read from now on."""
    asked: list[str] = []
    monkeypatch.setattr("hashret.images.read_picture", lambda path, box: asked.append(path) or noise(0))
    return asked


# ---- the same bytes


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_pictures_are_those_of_the_files(
    table: PictureTable, resize: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess = Preprocess(SIZE, resize)
    expected = read(table, None, make=preprocess.pixels)
    kept = existing(table, preprocess=preprocess)
    assert [bad.row for _, _, bads in expected for bad in bads] == BROKEN
    assert read(table, kept, make=preprocess.pixels) == expected
    for row in range(len(table)):
        assert (kept.picture(row) is None) == (row in BROKEN)
    # A second process finds it, and reads no file but those that were broken.
    again = existing(table, preprocess=preprocess)
    asked = no_reading(monkeypatch)
    read(table, again, make=preprocess.pixels)
    assert asked == [table.paths[row] for row in BROKEN]
    assert [file.suffix for file in sorted(folder.iterdir())] == [".pictures", ""], "the cache and a lock"


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_what_is_augmented_is_the_same_too(table: PictureTable, resize: str) -> None:
    make = Canvas(Preprocess(SIZE, resize), 19)
    kept = open_cache(table, make, how=repr(make), shape=(19, 19, 3), wanted="on", workers=0)
    assert kept is not None and kept.picture(0) is not None
    assert read(table, kept, make=make) == read(table, None, make=make)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(table: PictureTable, workers: int, folder: Path) -> None:
    expected = read(table, None)
    kept = existing(table, workers=workers)
    content = next(folder.glob("*.pictures")).read_bytes()
    assert read(table, kept, workers=workers) == expected
    shutil.rmtree(folder)
    existing(table, workers=0)
    assert next(folder.glob("*.pictures")).read_bytes() == content


def test_rows_can_be_selected_twice(table: PictureTable) -> None:
    kept = existing(table)
    selected = kept.select([11, 4, 0, 5]).select([2, 0])
    for row, original in enumerate((0, 11)):
        assert np.array_equal(selected.picture(row), kept.picture(original))
        assert np.array_equal(pickle.loads(pickle.dumps(selected)).picture(row), kept.picture(original))


def test_a_cache_that_vanishes_is_not_missed(table: PictureTable, folder: Path) -> None:
    expected, kept = read(table, None), existing(table)
    frozen = pickle.dumps(kept)
    shutil.rmtree(folder)
    assert read(table, pickle.loads(frozen)) == expected
    assert read(table, kept) == expected


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_pictures(table: PictureTable, rows: int) -> None:
    few = table.select(list(range(rows)))
    kept = opened(few)
    assert (kept is None) == (rows == 0)
    assert read(few, kept) == read(few, None)


# ---- what decides the content


def test_every_change_of_a_picture_or_of_the_way_makes_another_cache(
    table: PictureTable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> int:
        return len(list(folder.glob("*.pictures")))

    existing(table)
    existing(table)
    assert files() == 1
    large = Path(table.paths[5])
    before = large.stat()
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    existing(table)
    assert files() == 2, "its time"
    large.write_bytes(large.read_bytes() + b"\0")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    existing(table)
    assert files() == 3, "its size"
    archive = Path(table.paths[7].partition("::")[0])
    os.utime(archive, ns=(0, 0))
    existing(table)
    assert files() == 4, "the zip's time"
    noise(9).save(table.paths[10])
    existing(table)
    assert files() == 5, "a picture that was missing"
    table.attributes["x1"][-1] = "11"
    existing(table)
    assert files() == 6, "a box"
    existing(table.select(list(range(len(table)))[::-1]))
    assert files() == 7, "the order"
    existing(table, preprocess=Preprocess(SIZE, interpolation="bicubic"))
    assert files() == 8, "the way of resizing"
    monkeypatch.setattr(PIL, "__version__", "0.0")
    existing(table)
    assert files() == 9, "Pillow"
    monkeypatch.setattr(cache, "__version__", "0.0")
    existing(table)
    assert files() == 10, "hashret"
    table.ids[0], table.labels[0], table.name = "other", "label", "name"
    existing(table)
    assert files() == 10, "ids, labels and names decide nothing"


def test_a_relative_path_means_another_picture_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        noise(seed).save(tmp_path / place / "x.bmp")
        os.utime(tmp_path / place / "x.bmp", ns=(0, 0))
    found = []
    for place in ("a", "b"):
        monkeypatch.chdir(tmp_path / place)
        found.append(existing(make_table(["x.bmp"])).picture(0))
    assert not np.array_equal(found[0], found[1])


# ---- damage


def flip(position: int) -> Callable[[bytes], bytes]:
    def damaged(content: bytes) -> bytes:
        at = position % len(content)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return damaged


@pytest.mark.parametrize(
    "damage",
    [flip(20), flip(-1), flip(-30), lambda content: content[:-1], lambda content: content[:5000], lambda content: b""],
    ids=["header", "last", "flags", "cut short", "cut in the pictures", "empty"],
)
def test_a_damaged_file_is_noticed_and_made_anew(
    table: PictureTable, folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    existing(table)
    (file,) = folder.glob("*.pictures")
    content = file.read_bytes()
    file.write_bytes(damage(content))
    kept = existing(table)
    assert "cannot be used" in caplog.text and "made anew" in caplog.text
    assert file.read_bytes() == content
    assert read(table, kept) == read(table, None)


def test_a_damaged_picture_is_noticed_when_it_is_used(
    table: PictureTable, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    existing(table)
    (file,) = folder.glob("*.pictures")
    content = file.read_bytes()
    file.write_bytes(flip(4096 + 3 * int(np.prod(SHAPE)) + 100)(content))
    kept = existing(table)
    assert kept.picture(0) is not None
    assert read(table, kept) == read(table, None)
    assert caplog.text.count("is damaged; it is not used any more") == 1
    assert kept.picture(0) is None and not file.exists()
    existing(table)
    assert file.read_bytes() == content


# ---- making it


MAKER = """
import sys
from pathlib import Path
from hashret.data import cache
from hashret.data.table import PictureTable
from hashret.model.preprocess import Preprocess

if __name__ == "__main__":
    folder, pictures, calls, slow = Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir()), Path(sys.argv[3]), float(sys.argv[4])
    cache.user_cache = lambda: folder

    def pixels(picture):
        import time
        with calls.open("a") as file:
            file.write("x")
        time.sleep(slow)
        return Preprocess(16).pixels(picture)

    n = len(pictures)
    table = PictureTable([str(i) for i in range(n)], [str(path) for path in pictures], [""] * n, [""] * n)
    kept = cache.open_cache(table, pixels, how="16", shape=(3, 16, 16), wanted="on", workers=0)
    print(int(sum(kept.picture(row).sum() for row in range(n))))
"""


def start_maker(tmp_path: Path, slow: float) -> subprocess.Popen[str]:
    (tmp_path / "maker.py").write_text(MAKER)
    pictures = tmp_path / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for seed in range(70):
            noise(seed).save(pictures / f"{seed:02d}.png")
    return subprocess.Popen(
        [sys.executable, "-W", "error", tmp_path / "maker.py", tmp_path / "kept", pictures, tmp_path / "calls", str(slow)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_make_it_once(tmp_path: Path, folder: Path) -> None:
    makers = [start_maker(tmp_path, 0.02) for _ in range(2)]
    ended = [(maker.communicate(timeout=120), maker.returncode) for maker in makers]
    assert [code for _, code in ended] == [0, 0], ended
    assert ended[0][0][0] == ended[1][0][0]
    assert (tmp_path / "calls").read_text() == "x" * 70
    assert sorted(file.suffix for file in folder.iterdir()) == ["", ".pictures"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_killed_while_it_makes_one_leaves_nothing_that_counts(
    tmp_path: Path, folder: Path, how: signal.Signals
) -> None:
    maker = start_maker(tmp_path, 0.05)
    deadline = time.monotonic() + 60
    while not (tmp_path / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    maker.send_signal(how)
    maker.communicate(timeout=60)
    assert not list(folder.glob("*.pictures"))
    assert len(list(folder.glob("*.part"))) == (how == signal.SIGKILL)
    again = start_maker(tmp_path, 0.0)
    out, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "")
    assert int(out) > 0
    assert sorted(file.suffix for file in folder.iterdir()) == ["", ".pictures"]


def test_a_wish_to_stop_is_heard_while_it_is_made_or_waited_for(table: PictureTable, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        opened(table, stopped=lambda: True)
    assert [file.name for file in folder.iterdir()] == ["lock"]
    held = cache.FileLock(folder / "lock")
    with held, pytest.raises(KeyboardInterrupt):
        opened(table, stopped=lambda: True)


def test_a_bug_in_making_pictures_is_no_full_disk(table: PictureTable, folder: Path) -> None:
    def broken(picture: Image.Image) -> np.ndarray:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        open_cache(table, broken, how="broken", shape=SHAPE, wanted="on", workers=0)
    assert [file.name for file in folder.iterdir()] == ["lock"]


# ---- room


def test_off_and_nothing(table: PictureTable, folder: Path) -> None:
    assert opened(table, wanted="off") is None
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_said_and_done_without(
    table: PictureTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("a file")
    assert opened(table) is None
    assert "no cache for the 12 pictures of set, which are decoded again each time" in caplog.text
    assert "set HASHRET_CACHE to a folder that can be written" in caplog.text
    assert len(caplog.records) == 1


def test_a_cache_in_a_folder_that_may_only_be_read_is_used(
    table: PictureTable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    existing(table)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("utime", "unlink", "mkdir", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    assert existing(table).picture(0) is not None
    assert opened(table, preprocess=Preprocess(SIZE, "pad")) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fills_up_is_one_sentence(
    table: PictureTable, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    assert opened(table) is None
    assert len(caplog.records) == 1 and os.strerror(code) in caplog.text
    assert ("make room" in caplog.text) == (code == errno.ENOSPC)
    assert [file.name for file in folder.iterdir()] == ["lock"], "nothing half-written is left on a full disk"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_real_write_to_a_full_device(
    table: PictureTable, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *mode: real(Path("/dev/full") if path.suffix == ".part" else path, *mode)
    )
    assert opened(table) is None
    assert "No space left on device" in caplog.text and "make room" in caplog.text


def size_of(table: PictureTable) -> int:
    return 4096 + len(table) * (int(np.prod(SHAPE)) + 5) + 4


def test_auto_asks_disk_and_memory(
    table: PictureTable, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = size_of(table)
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free[0]))
    monkeypatch.setattr(cache, "_memory", lambda: 2 * size - 1)
    free[0] = 10**12
    assert opened(table, wanted="auto") is None
    assert "would not stay in memory" in caplog.text and "--cache on makes it all the same" in caplog.text
    monkeypatch.setattr(cache, "_memory", lambda: 2 * size)
    free[0] = 10**9 + size - 1
    for wanted in ("auto", "on"):
        caplog.clear()
        assert opened(table, wanted=wanted) is None
        assert "make room" in caplog.text and len(caplog.records) == 1
    free[0] = 10**9 + size
    monkeypatch.setattr(cache, "SHARE_OF_DISK", size / (10**9 + size) / 2)
    assert opened(table, wanted="auto") is None
    assert opened(table, wanted="on") is not None
    monkeypatch.setattr(cache, "_memory", lambda: 1)
    free[0] = 0
    assert opened(table, wanted="auto") is not None, "one that is there costs nothing"
    assert next(folder.glob("*.pictures")).stat().st_size == size


def test_the_least_recently_used_go_first(table: PictureTable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = size_of(table)
    monkeypatch.setattr(cache, "MOST_BYTES", 3 * size)
    ways = [
        Preprocess(SIZE, resize, interpolation)
        for resize in ("squash", "crop")
        for interpolation in ("bilinear", "bicubic")
    ]
    files = []
    for age, way in enumerate(ways[:3]):
        existing(table, preprocess=way)
        (new,) = set(folder.glob("*.pictures")) - set(files)
        os.utime(new, ns=(0, (age + 1) * 10**9))
        files.append(new)
    existing(table, preprocess=ways[0])  # used again
    existing(table, preprocess=ways[3])
    assert files[0].exists() and not files[1].exists() and files[2].exists()
    assert len(list(folder.glob("*.pictures"))) == 3
    # One that is larger than all may be together stands alone, if it is asked for.
    monkeypatch.setattr(cache, "MOST_BYTES", size - 1)
    assert opened(table, preprocess=Preprocess(SIZE, "pad"), wanted="auto") is None
    assert len(list(folder.glob("*.pictures"))) == 3, "nothing is removed for one that is not made"
    existing(table, preprocess=Preprocess(SIZE, "pad"))
    assert len(list(folder.glob("*.pictures"))) == 1


def test_memory_of_machine_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cache._memory()
    assert whole > 10**8
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: "max\n")
    assert cache._memory() >= whole
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: "1000\n")
    assert cache._memory() == 1000
