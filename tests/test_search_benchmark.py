"""The search benchmark runs, compares answers, and says what it could not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "search.py"


def test_a_row_gives_one_json_document_with_equal_answers(tmp_path: Path) -> None:
    words = ["--quick", "--only", "small batch", "--threads", "1", "--rounds", "2", "--markdown", tmp_path / "page.md"]
    ran = subprocess.run([sys.executable, SCRIPT, *words, "--json"], check=True, capture_output=True, timeout=240)
    document = json.loads(ran.stdout)
    assert document["question"].endswith("?") and len(document["rows"]) == 1
    (row,) = document["rows"]
    assert (row["bits"], row["queries"], row["threads"]) == (64, 16, 1)
    by_side = {result["side"]: result for result in row["results"]}
    assert by_side.keys() == {"hashret", "FAISS Flat", "USearch exact"}
    for result in by_side.values():
        assert "not_run" in result or (result["answers"] in ("equal", "not compared: FAISS is not installed"))
        assert "not_run" in result or result["p99_ms"] >= result["median_ms"] > 0
    assert {"cpu", "cores", "system"} <= document["machine"].keys() and "numba" in document["machine"]["versions"]
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page.count("| small batch |") == 3 and "written by the program" in page
