"""Coverage-guided fuzzing of everything that reads files: `python tests/fuzz_readers.py CORPUS -max_total_time=600`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["hashret"]):
    import reading_anything

atheris.Setup(sys.argv, reading_anything.read)
atheris.Fuzz()
