"""The latency benchmark runs on a tiny model: every step is timed, every way scored, and what was not run says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "latency.py"
WAYS = {
    "hash", "asymmetric", "two-stage by logits", "two-stage by features", "cosine", "two-stage by features in int8",
    "cosine in int8",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_run: Path, unseen_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """The document and the page of the smallest form."""
    page = tmp_path_factory.mktemp("latency") / "page.md"
    words = ["--model", tiny_run, "--data", unseen_set, "--quick", "--sizes", "1", "2000", "--queries", "4"]
    words += ["--cold", "1", "--starts", "0", "--json", "--markdown", page]
    ran = subprocess.run([sys.executable, SCRIPT, *map(str, words)], check=False, capture_output=True, timeout=240)
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout), page.read_text("utf-8")


def positive(times: dict) -> bool:
    return bool(times["p99_ms"] >= times["p95_ms"] >= times["p50_ms"] > 0)


def test_a_picture_is_answered_step_by_step_and_every_way_scored(run: tuple[dict, str]) -> None:
    document, _ = run
    assert document["question"].endswith("?") and {"cpu", "cores", "system"} <= document["machine"].keys()
    assert {"torch", "numba"} <= document["machine"]["versions"].keys()
    assert document["data"]["pictures"] == 24
    resident = document["resident"]
    assert positive(resident["steps"]["decode"]) and positive(resident["steps"]["network"])
    ways = {way["way"]: way for way in resident["ways"]}
    assert ways.keys() == WAYS
    for way in ways.values():
        assert positive(way["search"]) and positive(way["metadata"]) and positive(way["total"])
        assert way["total"]["p50_ms"] > resident["steps"]["network"]["p50_ms"] * 0.5
        assert 0 <= way["hit@1"]["expected"] <= 1 and way["hit@1"]["n_queries"] == 24
    # 24 rows of 2 bytes, of 512 float32, or of 512 int8 and a scale, each file with its header.
    stored = {name: way["bytes_per_picture"] - 128 / 24 for name, way in ways.items()}
    assert stored["hash"] == 2 and stored["cosine"] == 2048 and stored["cosine in int8"] < 600
    assert stored["two-stage by features"] > stored["cosine"]


def test_galleries_and_commands_are_timed_and_their_steps_add_up(run: tuple[dict, str]) -> None:
    document, _ = run
    assert [row["codes"] for row in document["larger"]] == [1, 2000]
    for row in document["larger"]:
        assert all(
            positive(row[name])
            for name in ("hash", "asymmetric", "two-stage by logits", "cosine float32", "cosine int8")
        )
        assert [typed["what"] for typed in row["cold"]] == [""]
    assert [row["what"] for row in document["cold"]] == ["code", "picture"]
    for row in document["cold"]:
        steps = row["steps_ms"]
        assert positive(row["plain"]) and positive(row["clocked"])
        assert abs(sum(steps.values()) - row["clocked"]["p50_ms"]) < 1  # one command was counted, so medians add up
        assert min(steps["interpreter"], steps["imports"], steps["search"], steps["metadata"], steps["rest"]) > 0
        of_pictures = ("model load", "decode", "network")
        assert all((steps[step] > 0) == (row["what"] == "picture") for step in of_pictures)


def test_the_page_explains_each_table_and_says_what_was_not_run(run: tuple[dict, str]) -> None:
    document, page = run
    assert document["starts"] == [] and "| not run |" in page.split("## First and second start")[1]
    assert "written by the program" in page and page.count("\n## ") == 4
    assert all(f"| {way} | " in page for way in WAYS) and "| 2,000 | " in page and "| code, among 2,000 | " in page
    for line in page.splitlines():
        assert not line.startswith("| ") or line.endswith("|")
