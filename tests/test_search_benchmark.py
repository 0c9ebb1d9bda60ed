"""The search benchmark runs, compares answers, and says what it could not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "search.py"


def test_a_small_run_gives_one_json_document_with_equal_answers() -> None:
    numbers = ["--n", "3000", "--bits", "48", "--k", "5", "--batch", "7", "--threads", "1", "2", "--rounds", "3"]
    ran = subprocess.run([sys.executable, SCRIPT, *numbers, "--json"], check=True, capture_output=True, timeout=120)
    document = json.loads(ran.stdout)
    assert document["question"].endswith("?") and (document["n"], document["bits"], document["k"]) == (3000, 48, 5)
    assert len(document["rows"]) == 9
    for row in document["rows"]:
        assert "not_run" in row or (row["answers"] in ("equal", "not compared") and row["p99_ms"] >= row["median_ms"])
    assert {"cpu", "cores", "system"} <= document["machine"].keys() and "numba" in document["versions"]
