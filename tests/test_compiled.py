"""Compiled kernels are kept for the next process, and are never stale."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

CALLER = """
from hashret.hamming.compiled import kernel
from shapes.inner import inner

@kernel
def outer(x):
    return inner(x) + 1
"""
INNER = """
from hashret.hamming.compiled import kernel

@kernel
def inner(x):
    return x * {factor}
"""
PROGRAM = """
from shapes.outer import outer
print(outer(10), sum(outer.stats.cache_hits.values()))
"""


def run(package: Path, cache: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "HASHRET_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + done.stderr.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "outer.py").write_text(CALLER)
    (folder / "inner.py").write_text(INNER.format(factor=2))
    return folder


def test_the_next_process_starts_from_the_cache_and_an_edit_elsewhere_is_seen(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert run(package, cache) == "21 0"
    assert run(package, cache) == "21 1"
    # outer.py stays as it is: numba alone would go on with the old machine code.
    (package / "inner.py").write_text(INNER.format(factor=3))
    assert run(package, cache) == "31 0"


TYPES = ["1", "1.5", "True", "np.uint8(1)", "np.float32(1)", "np.int16(1)"]


def test_processes_that_compile_for_different_types_at_once_do_not_mix_them_up(package: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "HASHRET_CACHE": str(tmp_path / "cache")}
    program = "import numpy as np; from shapes.inner import inner; print(repr(inner({})))"
    words = [[sys.executable, "-c", program.format(value)] for value in TYPES]
    started = [subprocess.Popen(each, env=environment, stdout=subprocess.PIPE, text=True) for each in words]
    first = [process.communicate(timeout=120)[0] for process in started]
    again = [
        subprocess.run(each, env=environment, stdout=subprocess.PIPE, text=True, timeout=120).stdout for each in words
    ]
    assert first == again == ["2\n", "3.0\n", "2\n", "2\n", "2.0\n", "2\n"]
    names = [path.name for path in (tmp_path / "cache").rglob("*.nbc")]
    assert len(names) >= len(TYPES), "no process wrote over another's code"


@pytest.mark.skipif(os.name != "posix", reason="sets the mode of a folder")
def test_kernels_are_readable_by_their_owner_only_for_they_hold_machine_code(package: Path, tmp_path: Path) -> None:
    run(package, tmp_path / "cache")
    (folder,) = (tmp_path / "cache" / "kernels").glob("shapes-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_kernels_of_sources_long_gone_are_removed(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    old, recent = cache / "kernels" / "shapes-old", cache / "kernels" / "shapes-recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    run(package, cache)
    assert not old.exists() and recent.exists()


def test_where_nothing_can_be_kept_kernels_work_and_it_is_said(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = run(package, tmp_path / "file")
    assert said.startswith("21 0") and "compiled kernels cannot be kept" in said
