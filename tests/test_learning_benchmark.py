"""The benchmark of recipes: commands that hashret takes, and a page that says what was run and what was not."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, make_pictures

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import learning  # noqa: E402
import plain_loop  # noqa: E402
import recipes  # noqa: E402
import tables  # noqa: E402

from hashret.cli import train as train_command  # noqa: E402
from hashret.cli.train import add_arguments  # noqa: E402
from hashret.data.sources import open_source  # noqa: E402
from hashret.model.hasher import Hasher  # noqa: E402
from hashret.training.options import TrainingOptions  # noqa: E402


def every_row() -> list[tuple[recipes.Study, recipes.Recipe]]:
    return [(study, recipe) for study in recipes.STUDIES for recipe in study.recipes]


@pytest.mark.parametrize(("study", "recipe"), every_row(), ids=lambda each: getattr(each, "folder", None))
def test_every_recipe_is_a_training_that_hashret_takes(study: recipes.Study, recipe: recipes.Recipe) -> None:
    import argparse

    words = shlex.split(learning.command_of(study, recipe))
    if recipe.program == "plain":
        assert words[:2] == ["python", "benchmarks/plain_loop.py"]
        return
    assert words[:2] == ["hashret", "train"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = TrainingOptions(**train_command.given_settings(parser.parse_args(words[2:])))
    assert (options.code_size, options.seed) == (recipe.bits, recipe.seed)


def test_rows_of_a_study_share_no_folder_unless_they_are_the_same_training() -> None:
    for study in recipes.STUDIES:
        commands: dict[str, str] = {}
        for recipe in study.recipes:
            command = learning.command_of(study, recipe)
            assert commands.setdefault(recipe.folder, command) == command


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[recipes.Study, Path]:
    """Three recipes on eight colours, of which the last four are searched."""
    place = tmp_path_factory.mktemp("learning")
    make_pictures(place / "hues", classes=8)
    source = tables.split_unseen_classes(open_source(place / "hues"), 0.5)
    source.write_csv(place / "hues.csv")
    tiny = " ".join(word for word in TINY if word != "--code-size" and not word.isspace())
    tiny = tiny.replace(" 16 --epochs", " --epochs").replace("--classes-per-batch 4", "--classes-per-batch 2")
    return (
        recipes.Study(
            "hues",
            "Hues, unseen",
            "Made here.",
            tiny,
            "--split test --two-stage 3 --logits --device cpu --workers 0",
            (
                recipes.Recipe("steps", "default", bits=16),
                recipes.Recipe("lengths", "default", bits=16),
                recipes.Recipe("lengths", "nested", "--nested", bits=32),
                recipes.Recipe("objectives", "never run", "--objective cosine", bits=16),
            ),
        ),
        place,
    )


def test_what_was_run_is_shown_and_what_was_not_says_so(
    small_study: tuple[recipes.Study, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, place = small_study
    monkeypatch.setattr(learning, "STUDIES", (study,))
    words = [
        "--hues",
        str(place / "hues.csv"),
        "--runs",
        str(place / "runs"),
        "--markdown",
        str(place / "page.md"),
        "--json",
    ]
    assert learning.main([*words, "--only", "default"]) == 0
    assert learning.main([*words, "--only", "nested"]) == 0
    capsys.readouterr()
    assert learning.main([*words, "--only", "no such row"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["studies"]
    by_name = {(row["section"], row["name"]): row for row in shown["rows"]}
    assert by_name["objectives", "never run"]["results"] is None
    scored = by_name["steps", "default"]["results"]
    own = json.loads((place / "runs/hues/default_16_seed0/scores.json").read_text())
    assert scored["hash"]["hit@1"] == own["results"][0]["scores"]["hit@1"]["expected"]
    assert set(scored) == {"hash", "float", "two-stage", "activations"}
    assert "first 16 bits" in by_name["lengths", "nested"]["results"]
    page = (place / "page.md").read_text()
    assert f"| default | {scored['hash']['hit@1']:.3f} ±" in page
    assert "not run: `hashret train" in page and "nested, first 16 of 32 | 16 | 1 of 1" in page
    # What is done is not done again.
    before = (place / "runs/hues/default_16_seed0/scores.json").stat().st_mtime_ns
    assert learning.main([*words, "--only", "default"]) == 0
    assert (place / "runs/hues/default_16_seed0/scores.json").stat().st_mtime_ns == before
    # Codes are fitted to the features of a run as it shows pictures to its network: they find what its own features find.
    monkeypatch.setattr(learning, "STUDIES", (dataclasses.replace(study, fitted=True),))
    monkeypatch.setattr(learning, "FITTED", {"default": ("Features of the default", "default_16_seed0")})
    assert learning.main([*words, "--only", "fitted"]) == 0
    scored_features = json.loads((place / "runs/hues/default.json").read_text())["results"][0]["scores"]
    assert scored_features["map@all"]["expected"] == scored["float"]["map@all"]
    page = (place / "page.md").read_text()
    assert "### Features of the default" in page and "| ITQ of the searched pictures, 16 bits |" in page
    # Rows outlive their runs: the page is written anew from what was kept beside it.
    shutil.rmtree(place / "runs")
    assert learning.main(["--markdown", str(place / "page.md")]) == 0
    assert (place / "page.md").read_text() == page


def row(name: str, program: str = "train", section: str = "steps", **scores: tuple[float, float]) -> dict[str, Any]:
    results = {kind: {"hit@1": hit, "map@all": precision} for kind, (hit, precision) in scores.items()}
    return {"name": name, "program": program, "section": section, "results": results or None}


def test_the_page_says_how_far_the_default_is_from_what_was_aimed_for() -> None:
    rows = [
        row("plain loop", "plain", hash=(0.1, 0.06), float=(0.3, 0.1)),
        row("another rate", "plain", hash=(0.2, 0.05), float=(0.2, 0.1)),
        row("classification", hash=(0.3, 0.2), float=(0.5, 0.2)),
        row("never run"),
        row("longer", section="best", hash=(0.9, 0.9), float=(0.9, 0.9)),
    ]
    assert learning._against_aims(rows) == []
    default = {"hash": (0.4, 0.12), "two-stage": (0.49, 0.2), "float": (0.45, 0.2)}
    text = "\n".join(learning._against_aims([*rows, row("default", **default)]))
    assert "best features of all rows (0.500): 0.400, missed by 2.0 points" in text
    assert "at most 1 point below them: 0.490, met" in text
    assert "above the best plain loop (0.060): 0.120, met" in text


def test_a_training_that_fails_is_no_row(
    small_study: tuple[recipes.Study, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study, _ = small_study
    monkeypatch.setattr(learning, "STUDIES", (study,))
    assert learning.main(["--hues", str(tmp_path / "absent.csv"), "--runs", str(tmp_path), "--only", "never"]) == 1
    assert not list(tmp_path.rglob("scores.json"))


def test_the_plain_loop_saves_a_model_whose_codes_are_signs_of_its_outputs(
    small_study: tuple[recipes.Study, Path], tmp_path: Path
) -> None:
    _, place = small_study
    flags = [
        "--backbone",
        "squeezenet1_1",
        "--image-size",
        "32",
        "--code-size",
        "16",
        "--epochs",
        "1",
        "--augment",
        "none",
    ]
    plain_loop.main(
        ["--data", str(place / "hues.csv"), "--out", str(tmp_path / "plain"), *flags, "--classes-per-batch", "2"]
    )
    hasher = Hasher.from_pretrained(tmp_path / "plain", device="cpu")
    table: Any = open_source(place / "hues.csv")
    assert hasher.code_size == 16 and len(hasher.encode(table.paths[:3])) == 3
