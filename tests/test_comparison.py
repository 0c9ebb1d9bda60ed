"""Runs side by side: pairs of queries, the page, and the command as a user types it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from test_report import HOSTILE, checked

from hashret.evaluation.curves import RankCurves
from hashret.metrics import bootstrap_interval
from hashret.report import comparison
from hashret.report.comparison import Compared, Entry, Side, difference, render_comparison, settings_that_differ
from hashret.training.runs import Run

CPU = ["--device", "cpu", "--workers", 0]


def entry(
    name: str,
    values: list[float],
    ids: list[str] | None = None,
    kind: str = "codes",
    bits: int | None = 16,
    **known: Any,
) -> Entry:
    ranks = np.array([1, 2, 5])
    curves = RankCurves(ranks, ranks / 5, ranks / 5, 1 / ranks)
    given = {
        "query_ids": ids or [f"q{i}" for i in range(len(values))],
        "per_query": {"map@all": np.array(values), "hit@1": np.round(values)},
        "signatures": dict.fromkeys(("map@all", "hit@1"), f"map|cutoff:all|bits:{bits}|v:1"),
        "curves": curves,
    }
    return Entry(name, kind, bits, **{**given, **known})


# ---- differences


def test_queries_are_paired_by_id() -> None:
    base = entry("a", [0.1, 0.5, 0.9])
    other = entry("b", [0.8, 0.3, 0.5], ["q2", "q0", "q1"], bits=64)
    found = difference(other, base, "map@all")
    assert found is not None and found.mean == pytest.approx((0.2 + 0.0 - 0.1) / 3)
    assert found.interval == bootstrap_interval(np.array([0.8, 0.3, 0.5]) - np.array([0.9, 0.1, 0.5]))
    assert not found.is_told
    better = difference(entry("b", [0.2, 0.6, 1.0]), base, "map@all")
    assert better is not None and better.is_told and better.mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    "other",
    [
        entry("b", [0.1, 0.5]),
        entry("b", [0.1, 0.5, 0.9], ["q0", "q1", "q3"]),
        entry("b", [0.1, 0.5, 0.9], ["q0", "q1", "q1"]),
        entry("b", [0.1, 0.5, 0.9], signatures={"map@all": "map|cutoff:all|bits:16|v:2"}),
        entry("b", [0.1, 0.5, 0.9], per_query={"hit@1": np.ones(3)}),
        entry("b", [], per_query={"map@all": np.empty(0)}),
    ],
)
def test_what_cannot_be_paired_has_no_difference(other: Entry) -> None:
    base = entry("a", [0.1, 0.5, 0.9])
    assert difference(other, base, "map@all") is None
    html = render_comparison([Side("a", {}, [base]), Side("b", {}, [other])], Compared(["said"]))
    checked(html)


def test_only_one_kind_is_set_against_another() -> None:
    sides = [
        Side("a", {}, [entry("a", [0.1, 0.5]), entry("a", [0.1, 0.5], kind="features", bits=None)]),
        Side("b", {}, [entry("b", [0.2, 0.6]), entry("b", [0.1, 0.5], kind="itq")]),
    ]
    document = comparison.as_dict(sides)
    apart = [[each["scores"]["map@all"]["less_the_first"] for each in side["entries"]] for side in document]
    assert apart[0] == [None, None] and apart[1][0]["mean"] == pytest.approx(0.1) and apart[1][1] is None
    (said,) = comparison.verdicts(sides)
    assert said.startswith("The codes of b are better than those of a by 0.1000 mAP, 95 % interval +0.1000")
    json.dumps(document, allow_nan=False)


def test_settings_that_differ() -> None:
    sides = [Side("a", {"lr": 0.1, "epochs": 3, "old": True}, []), Side("b", {"lr": 0.2, "epochs": 3}, [])]
    assert settings_that_differ(sides) == [("lr", ["0.1", "0.2"]), ("old", ["yes", "-"])]


def test_the_page_of_many_hostile_names(tmp_path: Path) -> None:
    sides = [
        Side(
            name,
            {name: name, "<b>": i},
            [entry(name, [0.1 * i, 0.5], bits=8 * (i + 1)), entry(name, [0.3, 0.4], kind="<i>")],
        )
        for i, name in enumerate(HOSTILE)
    ]
    compared = Compared(["<script>said</script>", "more"], ["<script>warned</script>"], [("Again", "rm '</pre>'")])
    html = render_comparison(sides, compared)
    parsed = checked(html)
    text = "".join(parsed.text)
    for shown in (
        "<script>alert(1)</script>",
        "기아 & 현대",
        "<script>said</script>",
        "<script>warned</script>",
        "rm '</pre>'",
    ):
        assert shown in text
    assert html == render_comparison(sides, compared) and "mAP by code size" in text
    assert all(f"{title}, by codes" in text for title in ("Precision and recall", "At least one right among the first"))


# ---- the command


@pytest.fixture
def runs(tiny_run: Path, tmp_path: Path) -> list[Path]:
    """The same run under two names."""
    return [shutil.copytree(tiny_run, tmp_path / name) for name in ("하나", "two")]


def compared(hashret: Callable, *words: object) -> tuple[dict[str, Any], str]:
    status, out, err = hashret("report", *words, *CPU, "--json")
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    html = Path(document["out"]).read_text("utf-8")
    assert document["bytes"] == len(html.encode())
    return document, "".join(checked(html).text)


def test_epochs_of_a_run_side_by_side(hashret: Callable, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "c.html"
    document, text = compared(hashret, runs[0], f"{runs[1]}@1", "--out", out)
    history = Run(runs[0]).history()
    best = Run(runs[0]).read()["result"]
    codes = [run["entries"][0] for run in document["runs"]]
    assert codes[0]["scores"]["map@all"]["expected"] == pytest.approx(best["best_map"], abs=1e-9)
    assert codes[1]["scores"]["map@all"]["expected"] == pytest.approx(history[0]["val_map"], abs=1e-9)
    apart = codes[1]["scores"]["map@all"]["less_the_first"]
    assert apart["mean"] == pytest.approx(history[0]["val_map"] - best["best_map"], abs=1e-9)
    assert (document["pictures"], document["validated"], codes[0]["n_queries"]) == (12, True, 12)
    assert len(document["warnings"]) == 1 and "chose the best epoch of" in document["warnings"][0]
    assert "하나" in text and "Settings that differ" in text and "epoch" in text
    assert not list(tmp_path.glob("*.unfinished"))
    first = out.read_bytes()
    compared(hashret, runs[0], f"{runs[1]}@1", "--out", out)
    assert out.read_bytes() == first
    status, said, err = hashret("report", *runs, "--out", out, *CPU)
    assert status == 0, err
    assert said.splitlines()[-1].startswith(f"{out}: 2 runs side by side; ")


def test_scores_of_a_split_are_those_of_each_report(
    hashret: Callable, runs: list[Path], unseen_set: Path, tmp_path: Path
) -> None:
    words = ["--data", unseen_set, "--split", "test", "--out", tmp_path / "c.html"]
    document, text = compared(hashret, *runs, *words)
    assert document["warnings"] == [] and "All settings are the same" in text
    status, out, err = hashret(
        "report", runs[1], "--data", unseen_set, "--split", "test", *CPU, "--map", "off", "--json"
    )
    assert status == 0, err
    alone = {result["name"].split(":")[0]: result for result in json.loads(out)["results"]}
    for each in document["runs"][1]["entries"]:
        for score, found in each["scores"].items():
            assert found["expected"] == pytest.approx(alone[each["kind"]]["scores"][score]["expected"], abs=1e-12)
            assert found["less_the_first"]["mean"] == 0


def test_a_run_that_learnt_from_the_pictures_is_named(hashret: Callable, runs: list[Path], tmp_path: Path) -> None:
    document = Run(runs[1]).read()
    document["options"]["seed"] = 5
    Run(runs[1]).write(document)
    found, text = compared(hashret, *runs, "--out", tmp_path / "c.html")
    learnt = [warning for warning in found["warnings"] if f"{runs[1]} was trained on " in warning]
    assert (
        len(learnt) == 1
        and learnt[0].endswith("of these 12 pictures, so its scores are too high.")
        and learnt[0] in text
    )
    for source in (None, {"data": str(tmp_path / "gone")}):
        Run(runs[1]).write({**document, "source": source})
        found, _ = compared(hashret, *runs, "--out", tmp_path / "c.html")
        assert any(f"What {runs[1]} was trained on cannot be seen any more" in warning for warning in found["warnings"])


def test_bad_pictures_are_left_out_for_all(
    hashret: Callable, runs: list[Path], unseen_set: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(unseen_set, tmp_path / "set")
    (data / "test" / "class06" / "03.png").write_bytes(b"no picture")
    words = [*runs, "--data", data, "--split", "test", "--out", tmp_path / "c.html"]
    status, _, err = hashret("report", *words, *CPU)
    assert status == 1 and "03.png" in err and not (tmp_path / "c.html").exists()
    document, text = compared(hashret, *words, "--on-bad", "skip")
    assert document["skipped"] == 1 and "1 picture could not be read and is left out" in text
    assert {entry["n_queries"] for run in document["runs"] for entry in run["entries"]} == {23}


def test_what_cannot_be_compared(hashret: Callable, runs: list[Path], tmp_path: Path) -> None:
    status, out, err = hashret("report", runs[0], runs[0], *CPU)
    assert (status, out) == (2, "") and "is named twice" in err and err.count("\n") == 1
    status, _, err = hashret("report", runs[0], tmp_path / "nothing", *CPU)
    assert status == 1 and "there is no model" in err
    precious = tmp_path / "thesis.html"
    precious.write_text("<p>years of work")
    status, _, err = hashret("report", *runs, "--out", precious, *CPU)
    assert status == 2 and "is no report of hashret" in err and precious.read_text() == "<p>years of work"


def test_it_is_written_here_unless_said_otherwise(
    hashret: Callable, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compared(hashret, *runs)
    assert (tmp_path / "compare.html").is_file()
