"""Every hostile index of hostile.py is one sentence, or answers as the whole one does: no crash, no hang, no wrong answer."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest

from hashret.errors import IndexFormatError, SearchError
from hashret.index import CosineIndex, HammingIndex, Store, damage, durable, info

QUERIES = np.random.default_rng(1).integers(0, 16, (3, 2), dtype=np.uint8) << 4


WRITTEN_SO = {
    "ids.npy twice", "ids.npy negative", "ids.npy too large", "codes.npy tail bits", "features.npy NaN", "features.npy infinity",
    "no JSON",
}  # fmt: skip
"""Rows that break the rules, in files that are what their manifest says: verify finds them, opening reads no rows."""


def answers(folder: Path) -> list[Any]:
    """All that an index says when it is asked in every way."""
    hamming, cosine = HammingIndex.load(folder), CosineIndex.load(folder)
    said: list[Any] = [len(hamming), hamming.ids.tolist(), hamming.code_size]
    said += [array.tolist() for array in hamming.search(QUERIES, 25)]
    said += [repr(array) for array in cosine.search(np.eye(3), 25)]
    said += [
        hamming.records(hamming.ids),
        hamming.find(["r1", "r3", "x"]).tolist(),
        hamming.count("view >= 10 or id = 'r2'"),
    ]
    return said


def changed(folder: Path) -> None:
    """Everything that writes, on a copy: done, or refused."""
    with copied(folder) as copy:
        store = Store.open(copy)
        store.append(np.zeros((1, 2), np.uint8), np.ones((1, 3)), records=[{"id": "new"}])
        store.remove([0])
        store.compact()


def repaired(folder: Path) -> None:
    """A repair, on a copy: what it says is done is whole."""
    with copied(folder) as copy:
        damage.repair(copy)
        damage.verify(copy)


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    copy = folder.with_name("copy")

    def without_holes(source: str, target: str) -> None:
        """Some files claim gigabytes that are no blocks on the disk."""
        if Path(source).stat().st_size < 1 << 24:
            shutil.copy2(source, target)
        else:
            Path(target).touch()
            os.truncate(target, Path(source).stat().st_size)

    try:
        yield Path(shutil.copytree(folder, copy, symlinks=True, copy_function=without_holes))
    finally:
        shutil.rmtree(copy)


@contextlib.contextmanager
def at_most_more_memory(n_bytes: int) -> Iterator[None]:
    """MemoryError where more than so many bytes are asked for, on Linux."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert used is not None
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(used[1]) + n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_every_hostile_index_is_refused_or_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_flush", lambda path: None)  # thousands of commits that no crash will meet
    whole = hostile.make_whole(tmp_path / "whole")
    right, tried = answers(whole), 0
    faulthandler.dump_traceback_later(300, exit=True)  # a hang
    with at_most_more_memory(256 << 20):
        for name, folder in hostile.make_all(tmp_path / "all"):
            tried += 1
            found = {}
            for ask in (answers, damage.verify, info.describe, changed, repaired):
                try:
                    found[ask] = ask(folder)
                except (IndexFormatError, SearchError) as error:
                    assert isinstance(error, IndexFormatError) or ask is changed, f"{name}: {error}"
                    found[ask] = error
                    assert len(str(error).splitlines()) == 1, f"{name}: {error}"
                except RuntimeWarning:
                    assert name == "features.npy infinity"  # numpy says what it multiplies
                    found[ask] = None
                except Exception as error:
                    raise AssertionError(f"{name}: {ask.__name__} gives {error!r}") from error
            # What is damaged within rows is found when all is read, the rest when the index is opened and asked.
            assert isinstance(found[damage.verify], IndexFormatError) or found[answers] == right, name
            harmless = isinstance(found[answers], IndexFormatError) or found[answers] == right
            assert harmless or name in WRITTEN_SO or "last byte damaged" in name, name
            for path in tmp_path.glob("all/*"):
                if path.name != "whole":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    faulthandler.cancel_dump_traceback_later()
    assert tried > 1000
