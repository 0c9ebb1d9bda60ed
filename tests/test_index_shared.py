"""An index that several use at once, on disks that are full, slow to die, or read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashret.errors import SearchError
from hashret.index import HammingIndex, Store, damage, durable, manifest
from hashret.index.manifest import SEGMENTS


def codes(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8), dtype=np.uint8)


def described(first: int, n: int) -> list[dict[str, str]]:
    return [{"id": f"p{i}", "path": f"p{i}.jpg"} for i in range(first, first + n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store.create(tmp_path / "i", code_size=64)
    store.append(codes(30), records=described(0, 30))
    store.append(codes(5, 1), records=described(30, 5))
    return store.folder


def rows(folder: Path) -> list[tuple[int, str]]:
    store = Store.open(folder)
    return [
        (i, record["path"]) for i, record in zip(store.ids.tolist(), store.records(store.ids), strict=True) if record
    ]


CHANGES: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.append(codes(3, 2), records=described(50, 3)),
    "remove": lambda store: store.remove([1, 33]),
    "upsert": lambda store: store.append(codes(40, 3), records=described(0, 40), upsert=True),
    "compact": lambda store: store.compact(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("what", ["write_file", "_flush", "make_folder", "rename"])
def test_a_disk_that_refuses_any_step_leaves_the_old_or_the_new_index(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, what: str
) -> None:
    """No room left at the first step of a kind, the second, and so on until the change goes through; half was written."""
    Store.open(folder).remove([2])
    before, generation = rows(folder), manifest.read(folder).generation
    really = getattr(durable, what)
    refused, steps, changed = True, 0, 0
    while refused:
        here = Path(shutil.copytree(folder, tmp_path / f"copy{steps}"))
        left = [steps]

        def step(path: Path, *rest: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                if what == "write_file":
                    whole = b"".join(rest[0])
                    path.write_bytes(whole[: len(whole) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            left[0] -= 1
            really(path, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(durable, what, step)
            if what == "_flush":
                patch.setattr(durable, "flush", lambda *paths, step=step: [step(path) for path in paths])
            try:
                CHANGES[change](Store.open(here))
                refused = False
            except OSError as error:
                assert error.errno == errno.ENOSPC
        damage.verify(here)
        if manifest.read(here).generation == generation:
            assert rows(here) == before
            CHANGES[change](Store.open(here))  # there is room again
        else:
            changed += 1
            if refused:  # removing what is not needed any more was not reached; the next writer does it
                Store.open(here).append(codes(1, 8))
        assert rows(here) != before or change == "compact"
        assert all(
            path.name in {entry.name for entry in manifest.read(here).segments} for path in (here / SEGMENTS).iterdir()
        )
        steps += 1
    # The last flush only makes sure of the manifest that is in place already.
    assert changed == (2 if what == "_flush" else 1)
    assert steps >= 2 or what in ("make_folder", "rename")


@pytest.mark.parametrize("limit", [0, 100, 300, 1000, 5000, 13000, 30000])
def test_files_that_may_not_grow(folder: Path, limit: int) -> None:
    """The operating system itself refuses: files of more bytes cannot be written, those of SQLite neither."""
    before = rows(folder)
    program = f"""
        import resource, sys, numpy as np
        from hashret.index import Store
        store = Store.open(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        records = [dict(id=f"new{{i}}", path="x" * 50) for i in range(100)]
        try:
            store.append(np.zeros((100, 8), np.uint8), records=records)
        except Exception as error:
            print(type(error).__name__, error, end="")
        else:
            print("done", end="")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(folder)], capture_output=True, text=True, check=True
    )
    damage.verify(folder)
    if done.stdout == "done":
        assert limit == 30000 and len(rows(folder)) == 135
    else:
        assert done.stdout.startswith(("OSError", "SearchError the records of the index cannot be written"))
        assert rows(folder) == before


PAGE = 4096
"""A file takes whole pages of a disk that lies in memory."""


def run_out_of_room(disk: Path, change: str) -> None:
    """Make a change with no page free on this small disk, with one, and so on until it goes through; how often it did not."""
    store = Store.create(disk / "source", code_size=64)
    store.append(codes(30), records=described(0, 30))
    store.append(codes(5, 1), records=described(30, 5))
    store.remove([2])
    before, pages = rows(store.folder), 0
    while _refused(Path(shutil.copytree(store.folder, disk / "here")), disk / "ballast", pages, change, before):
        shutil.rmtree(disk / "here")
        pages += 1
    print(f"refused {pages} times")


def _refused(here: Path, ballast: Path, pages: int, change: str, before: list[tuple[int, str]]) -> bool:
    """Whether there was no room for a change with so many pages free. Nothing may be mapped still: it keeps its pages."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE))
    os.truncate(ballast, ballast.stat().st_size - pages * PAGE)
    refused = None
    try:
        CHANGES[change](Store.open(here))
    except (OSError, SearchError) as error:
        refused = str(error)
    damage.verify(here)
    ballast.unlink()
    if refused is not None:
        assert "o space left" in refused or "disk is full" in refused, refused
        assert rows(here) == before
        CHANGES[change](Store.open(here))  # there is room again
    assert rows(here) != before or change == "compact"
    return refused is not None


def _may_mount() -> bool:
    try:
        return (
            subprocess.run(
                ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    not _may_mount(), reason="needs the right to mount a disk of its own in memory (Linux user namespaces)"
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_small_disk_runs_full_at_every_page(tmp_path: Path, change: str) -> None:
    here = str(Path(__file__).parent)
    program = f"import sys; sys.path.insert(0, {here!r}); import test_index_shared as t; "
    program += f"t.run_out_of_room(t.Path({str(tmp_path)!r}), {change!r})"
    mounted = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted, str(tmp_path), sys.executable, "-c", program],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= 4


def test_a_reader_keeps_its_generation_through_a_hundred_commits(folder: Path) -> None:
    reader, queries = HammingIndex.load(folder), codes(4, 9)
    expected = [array.tolist() for array in reader.search(queries, 35)]
    paths = [record["path"] for record in reader.records(range(35)) if record]
    store = Store.open(folder)
    for commit in range(100):
        if commit % 10 == 5:
            store.compact()
        elif commit % 3 == 0:
            store.remove(store.ids[:1])
        else:
            store.append(codes(3, commit), records=described(100 + 3 * commit, 3))
        if commit % 5 == 0:
            assert [array.tolist() for array in reader.search(queries, 35)] == expected
            assert [record["path"] for record in reader.records(range(35)) if record] == paths
            HammingIndex.load(folder)
    assert len(manifest.read(folder).segments) < 12, "small segments are merged"
    del reader
    store.remove(store.ids[:1])
    Store.open(folder).remove(store.ids[:1])
    kept = {entry.name for entry in manifest.read(folder).segments}
    assert {path.name for path in (folder / SEGMENTS).iterdir()} == kept, "what no reader holds is gone"
    assert len(list((folder / manifest.COPIES).iterdir())) <= 2


def test_two_processes_write_and_one_reads(folder: Path) -> None:
    program = """
        import sys, time, numpy as np
        from hashret.errors import SearchError
        from hashret.index import Store
        for i in range(15):
            while True:
                try:
                    Store.open(sys.argv[1]).append(np.full((1, 8), i, np.uint8), records=[dict(id=f"{sys.argv[2]}-{i}")])
                    break
                except SearchError as error:
                    assert "is being written by another process" in str(error), error
                    time.sleep(0.002)
    """
    writers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(folder), name], stderr=subprocess.PIPE)
        for name in "ab"
    ]
    seen = 35
    while any(writer.poll() is None for writer in writers):
        index = HammingIndex.load(folder)
        assert len(index) >= seen, "generations only grow here"
        seen = len(index)
        assert all(record is not None for record in index.records(index.ids))
    for writer in writers:
        assert writer.stderr is not None
        assert (writer.wait(), writer.stderr.read()) == (0, b"")
        writer.stderr.close()
    store = Store.open(folder)
    assert len(store) == 35 + 30 and (store.find([f"{name}-{i}" for name in "ab" for i in range(15)]) >= 35).all()


def test_a_moved_folder_is_the_same_index(folder: Path, tmp_path: Path) -> None:
    before = rows(folder)
    reader = HammingIndex.load(folder)
    folder.rename(tmp_path / "elsewhere")
    assert reader.search(codes(1), 1)[1].tolist() == [[0]]
    assert rows(tmp_path / "elsewhere") == before
    Store.open(tmp_path / "elsewhere").append(codes(1, 5))
    assert damage.verify(tmp_path / "elsewhere") > 0


def test_reading_changes_nothing_and_needs_no_right_to(folder: Path) -> None:
    """As on a read-only medium: the process stops at the first attempt to write, make, rename or remove anything."""
    program = """
        import os, sys, numpy as np
        from hashret.index import HammingIndex, Store, damage, info
        import hashret.hamming.plain, sqlite3
        WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        def refuse(event, arguments):
            if event == "open" and (arguments[2] or 0) & WRITES or event in (
                "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
            ):
                raise PermissionError(f"{event} {arguments}")
        sys.addaudithook(refuse)
        folder = sys.argv[1]
        index = HammingIndex.load(folder)
        index.search(np.zeros((1, 8), np.uint8), 3, where="path = 'p3.jpg'")
        index.records([1]), index.find(["p3"]), index.verify(), info.describe(__import__("pathlib").Path(folder))
        Store.open(folder).chosen("path is null")
        print("read")
    """
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(program), str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("read\n", "")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_reader_follows_when_it_is_asked_to(folder: Path) -> None:
    reader, store = HammingIndex.load(folder), Store.open(folder)
    assert reader.refresh() is False
    reader.build_multi_index()
    store.append(codes(2, 5))
    assert len(reader) == 35 and reader.refresh() is True and len(reader) == 37
    assert reader.search(codes(2, 5), 1)[1][:, 0].tolist() == [35, 36]
    reader.remove([0])
    with pytest.raises(SearchError, match="changes that are not in"):
        reader.refresh()
    reader.save(folder)
    assert reader.refresh() is False
    with pytest.raises(SearchError, match="no folder to follow"):
        HammingIndex(8).refresh()
    shutil.rmtree(folder)
    Store.create(folder, code_size=64)
    with pytest.raises(SearchError, match="another index"):
        reader.refresh()


@pytest.mark.parametrize("version", ["index-v1", "index-v2", "index-v3"])
def test_indexes_of_older_versions_are_written_on(tmp_path: Path, version: str) -> None:
    golden = Path(__file__).parent / "golden" / version
    store = Store.open(shutil.copytree(golden, tmp_path / "i"))
    ids, n_bytes = store.ids.tolist(), -(-(store.code_size or 0) // 8)
    codes_before = store.codes(ids)
    more = {} if store.dim is None else {"features": np.ones((2, store.dim))}
    new = store.append(np.zeros((2, n_bytes), np.uint8), **more).tolist()
    store.remove(ids[:1])
    store.compact()
    assert store.ids.tolist() == [*ids[1:], *new] and min(new) > max(ids)
    assert np.array_equal(store.codes(ids[1:]), codes_before[1:])
    assert damage.verify(store.folder) > 0
