"""What is left of an index when the machine stops at any moment: what was acknowledged, whole, and nothing half-written.

A disk is played: every change that hashret makes is recorded, and after each of them the machine stops. What was brought to
the disk is there then; of what was not, any part may be: new names and renames in any selection, and of unflushed files nothing,
the beginning, zeros, or all.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashret.index import Store, damage, durable, records, storage

State = tuple[tuple[Any, ...], ...]


def state_of(folder: Path) -> State:
    """All that an index holds, row by row."""
    _, contents = storage.load(folder)
    ids = contents.ids()
    codes = contents.vectors(ids)["codes"] if len(ids) else []
    return tuple(
        (int(number), code.tobytes(), repr(record))
        for number, code, record in zip(ids, codes, contents.records(ids), strict=True)
    )


@dataclasses.dataclass
class Inode:
    """A file or a folder: as it is, and as it is sure to be on the disk."""

    folder: bool
    content: bytes = b""
    on_disk: bytes = b""
    entries: dict[str, Inode] = dataclasses.field(default_factory=dict)
    entries_on_disk: dict[str, Inode] = dataclasses.field(default_factory=dict)


Change = list[tuple[Inode, str, "Inode | None"]]
"""What happens to names at once: in a folder, a name now means this, or nothing."""


class Disk:
    """A file system that remembers what was flushed."""

    def __init__(self) -> None:
        self.root = Inode(folder=True)
        self.pending: list[Change] = []

    def at(self, path: Path) -> Inode:
        inode = self.root
        for part in path.parts:
            inode = inode.entries[part]
        return inode

    def change(self, *parts: tuple[Path, Inode | None]) -> None:
        made: Change = [(self.at(path.parent), path.name, inode) for path, inode in parts]
        _apply(made, "entries")
        self.pending.append(made)

    def make_folder(self, path: Path) -> None:
        self.change((path, Inode(folder=True)))

    def write(self, path: Path, content: bytes) -> None:
        if path.name not in self.at(path.parent).entries:
            self.change((path, Inode(folder=False)))
        self.at(path).content = content

    def rename(self, old: Path, new: Path) -> None:
        self.change((new, self.at(old)), (old, None))

    def remove(self, path: Path) -> None:
        if path.name in self.at(path.parent).entries:
            self.change((path, None))

    def flush(self, path: Path) -> None:
        inode = self.at(path)
        inode.on_disk = inode.content
        done = [change for change in self.pending if any(folder is inode for folder, _, _ in change)]
        for change in done:
            _apply(change, "entries_on_disk")
        self.pending = [change for change in self.pending if not any(change is each for each in done)]

    def after_a_crash(self, out: Path, choose: Callable[[int], int]) -> None:
        """Write what may be left to `out`. choose(n): a number below n; 0 is nothing, n - 1 all."""
        inodes: dict[int, Inode] = {}

        def copied(inode: Inode) -> Inode:
            if id(inode) not in inodes:
                left = inodes[id(inode)] = Inode(inode.folder)
                left.content = inode.on_disk
                if inode.content != inode.on_disk:
                    torn = inode.content[: len(inode.content) // 2]
                    choices = [inode.on_disk, torn, bytes(len(inode.content)), inode.content]
                    left.content = choices[choose(len(choices))]
                left.entries = {name: copied(entry) for name, entry in inode.entries_on_disk.items()}
            return inodes[id(inode)]

        root = copied(self.root)
        for change in self.pending:
            if choose(2):
                _apply([(copied(folder), name, inode and copied(inode)) for folder, name, inode in change], "entries")

        def written(inode: Inode, path: Path) -> None:
            if not inode.folder:
                path.write_bytes(inode.content)
                return
            path.mkdir()
            for name, entry in inode.entries.items():
                written(entry, path / name)

        written(root, out)


def _apply(change: Change, entries: str) -> None:
    for folder, name, inode in change:
        if inode is None:
            getattr(folder, entries).pop(name, None)
        else:
            getattr(folder, entries)[name] = inode


class Recorder:
    """Plays what hashret does to `root`/index on a disk beside the real one, and stops the machine after each change."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, seeds: int) -> None:
        self.disk, self.root, self.seeds = Disk(), root, seeds
        self.state: State | None = None
        """What was acknowledged last; None is no index at all."""
        self.found: list[State | None] = []
        self.crashes = 0
        really_write, really_write_records, self._really_remove = durable.write_file, records.write, durable.remove

        def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
            really_write(path, parts)
            self._wrote(path)

        def write_records(path: Path, rows: Any) -> None:
            really_write_records(path, rows)
            self._wrote(path)

        for name in ("make_folder", "rename", "remove", "_flush"):
            monkeypatch.setattr(
                durable, name, self._recorded(getattr(durable, name), getattr(self.disk, name.strip("_")))
            )
        monkeypatch.setattr(durable, "flush", lambda *paths: [durable._flush(path) for path in paths])
        monkeypatch.setattr(durable, "write_file", write_file)
        monkeypatch.setattr(records, "write", write_records)

    def _recorded(self, really: Callable[..., None], played: Callable[..., None]) -> Callable[..., None]:
        def both(*paths: Path) -> None:
            really(*paths)
            played(*(path.relative_to(self.root) for path in paths))
            self._crash()

        return both

    def _wrote(self, path: Path) -> None:
        self.disk.write(path.relative_to(self.root), path.read_bytes())
        self._crash()

    def do(self, change: Callable[[], object]) -> None:
        """Make a change: until it returns the old or the new index is found whole, then the new one."""
        before, self.found = self.state, []
        change()
        self.state = state_of(self.root / "index")
        assert self.state != before
        assert set(self.found) == {before, self.state}
        self.found = []
        self._crash()
        assert set(self.found) == {self.state}

    def _crash(self) -> None:
        """Every kind of crash now: nothing of what was not flushed is left, all of it, and parts."""
        kinds = [lambda n: 0, lambda n: n - 1, *(random.Random(seed).randrange for seed in range(self.seeds))]
        for choose in kinds:
            self.crashes += 1
            out = self.root.parent / f"crash{self.crashes}"
            self.disk.after_a_crash(out, choose)
            there = (out / "index").exists()
            self.found.append(state_of(out / "index") if there else None)
            if there:
                damage.verify(out / "index")
            self._really_remove(out)


@pytest.mark.parametrize("seeds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_crash_at_any_moment_leaves_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    rng = np.random.default_rng(0)

    def codes(n: int) -> np.ndarray:
        return rng.integers(0, 256, (n, 2), dtype=np.uint8)

    def described(*names: str) -> list[dict[str, str]]:
        return [{"id": name, "path": f"{name}.jpg"} for name in names]

    recorder = Recorder(root, monkeypatch, seeds)
    recorder.do(lambda: Store.create(root / "index", code_size=16))
    recorder.do(lambda: Store.open(root / "index").append(codes(3), records=described("a", "b", "c")))
    recorder.do(lambda: Store.open(root / "index").append(codes(2), records=described("d", "e")))
    recorder.do(lambda: Store.open(root / "index").remove([1]))
    recorder.do(
        lambda: Store.open(root / "index").replace(codes(2), ids=[3, -1], records=described("d", "f"), remove=[0])
    )
    recorder.do(lambda: Store.open(root / "index").append(codes(1)))
    reader = Store.open(root / "index")
    recorder.do(lambda: Store.open(root / "index").remove([2, 3]))
    recorder.do(lambda: Store.open(root / "index").append(codes(9), records=described(*"ghijklmno")))
    recorder.do(lambda: Store.open(root / "index").remove([6]))
    Store.open(root / "index").compact()
    recorder.do(lambda: Store.open(root / "index").append(codes(2)))
    assert reader.records([2])[0]["id"] == "c", "what a reader still reads is not removed"
    assert recorder.crashes > 100 * seeds
