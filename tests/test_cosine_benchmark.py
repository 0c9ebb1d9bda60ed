"""The float search benchmark runs, compares answers and hashret's order, and says what it could not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "cosine.py"


def test_every_kind_of_row_gives_agreeing_answers(tmp_path: Path) -> None:
    words = ["--quick", "--only", "small batch", "--threads", "1", "--rounds", "2", "--markdown", tmp_path / "page.md"]
    ran = subprocess.run([sys.executable, SCRIPT, *words, "--json"], check=True, capture_output=True, timeout=240)
    document = json.loads(ran.stdout)
    assert document["question"].endswith("?") and document["rounds"] == 2
    assert [row["dtype"] for row in document["rows"]] == ["float32", "float16", "int8"]
    for row in document["rows"]:
        assert (row["what"], row["queries"], row["threads"]) == ("small batch", 16, 1)
        by_side = {result["side"]: result for result in row["results"]}
        assert {"hashret", "FAISS", "numpy"} <= by_side.keys()
        assert by_side["hashret"]["answers"].endswith("ties by row")
        for result in by_side.values():
            assert "not_run" in result or "DIFFERENT" not in result["answers"]
            assert "not_run" in result or result["p99_ms"] >= result["median_ms"] > 0 < result["g_products_per_s"]
    assert {"cpu", "cores", "system"} <= document["machine"].keys() and "numba" in document["machine"]["versions"]
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page.count("| small batch |") == sum(len(row["results"]) for row in document["rows"])
    assert "written by the program" in page
