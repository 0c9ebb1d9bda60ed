"""The benchmark of product quantisation, in small: all sides answer, are checked, and the page says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "product.py"


def test_every_side_is_measured_and_checked(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "e.npy", rng.standard_normal((620, 32)).astype(np.float32))
    page = tmp_path / "page.md"
    page.write_text("# Something else\n\nstays\n", "utf-8")
    words = [
        "--embeddings",
        tmp_path / "e.npy",
        "--queries",
        20,
        "--iterations",
        1,
        "--rounds",
        1,
        "--json",
        "--markdown",
        page,
    ]
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = {row["side"]: row for row in document["rows"]}
    assert len(rows) == 5 and "600 vectors of 32 numbers (embeddings e.npy), 20 queries" in document["case"]
    assert all(rows["exact"][f"recall@{k}"] == 1 for k in (1, 10, 20))
    # Cells of fewer vectors than centroids keep them as they are.
    assert rows["LOPQ"]["recall@10"] > 0.99 and rows["LOPQ"]["answers"].startswith("within")
    assert (
        rows["LOPQ"]["bytes"]["code"]
        == rows["FAISS IndexPQ"]["bytes"]["code"]
        == rows["ITQ, 256 bits"]["bytes"]["code"]
        == 32
    )
    assert rows["LOPQ, 2 of 8 cells"]["recall@10"] < rows["LOPQ"]["recall@10"]
    text = page.read_text("utf-8")
    assert text.startswith("# Something else\n\nstays\n") and "# Product quantisation, measured" in text
    assert "written by the program" in text and "not run" not in text
