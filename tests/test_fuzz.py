"""Everything that reads files, on inputs that a fuzzer made up: those it kept, and in `make test-slow` ten minutes of new."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import reading_anything

HERE = Path(__file__).parent
CORPUS = HERE / "fuzz_corpus"
SECONDS = 600


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers that are infinite are multiplied
def test_what_the_fuzzer_kept() -> None:
    inputs = sorted(CORPUS.iterdir())
    assert len(inputs) >= len(reading_anything.KINDS)
    for path in inputs:
        try:
            reading_anything.read(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.name} gives {error!r}") from error


def test_the_seeds_reach_what_they_are_for() -> None:
    for name, content in reading_anything.seeds().items():
        reading_anything.read(content)
        assert (CORPUS / name).read_bytes() == content or name.endswith("sqlite"), "another SQLite writes other pages"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
def test_ten_minutes_of_new_inputs(tmp_path: Path) -> None:
    shutil.copytree(CORPUS, tmp_path / "corpus")
    words = [
        f"-max_total_time={SECONDS}",
        "-rss_limit_mb=3000",
        "-timeout=30",
        "-max_len=16000",
        "-print_final_stats=1",
    ]
    command = [sys.executable, HERE / "fuzz_readers.py", tmp_path / "corpus", *words, f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3 * SECONDS)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "Done " in done.stderr
