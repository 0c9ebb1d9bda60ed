"""The predictions benchmark runs, compares answers, and counts what was predicted well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "predictions.py"


@pytest.mark.parametrize("only", ["filter, half", "multi-index, clustered, radius"])
def test_a_search_gives_one_json_document_with_equal_answers(only: str, tmp_path: Path) -> None:
    words = ["--quick", "--only", only, "--threads", "1", "--rounds", "2", "--markdown", tmp_path / "page.md"]
    ran = subprocess.run([sys.executable, SCRIPT, *words, "--json"], check=True, capture_output=True, timeout=240)
    document = json.loads(ran.stdout)
    rows = document["rows"]
    assert document["question"].endswith("?") and len(rows) == (2 if "half" in only else 1)
    for row in rows:
        assert row["answers"] == "equal" and row["threads"] == row["on_threads"] == 1
        assert row["predicted_ms"] > 0 and row["measured_ms"] >= row["least_ms"] > 0
        assert row["ratio"] == pytest.approx(
            max(row["predicted_ms"] / row["measured_ms"], 1 / (row["predicted_ms"] / row["measured_ms"]))
        )
    assert document["within"] == sum(row["ratio"] <= 2 for row in rows)
    assert {"bucket", "row_first"} <= document["costs"].keys() and {"cpu", "versions"} <= document["machine"].keys()
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page.count(f"| {only}") == len(rows) and "written by the program" in page
