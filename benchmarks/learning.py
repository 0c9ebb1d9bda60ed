"""How good are the codes that each recipe learns, beside the float features and the plain way?

What to expect. A float-trained network is what codes of it can hardly beat. Codes lose what their bits have no room for;
two-stage search gives most of that back. What a step of the default recipe is worth shows when it is all that changes.

How it is measured: every row is one training by the command shown, on the same pictures, with the same number of epochs; the
epoch is chosen by validation mAP of held-out training classes, never on the test classes; `hashret evaluate` scores the
test pictures. A training that was interrupted goes on where it was; one that is done is not repeated. Rows that were not run
say so.

Run: python benchmarks/learning.py --cars cars.csv --weights mobilenet_v2.safetensors [--only WORDS] [--runs FOLDER]
     python benchmarks/learning.py --markdown docs/results.md     (writes the page from what was run)

What the page was written from is kept beside it (docs/results.json): rows whose runs are not in --runs stay as measured then.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import machine
import numpy as np
from recipes import LENGTHS, OBJECTIVES, STEPS, STUDIES, Recipe, Study

HERE = Path(__file__).parent
PACKAGES = ("hashret", "torch", "torchvision", "numpy")
FITTED = {
    "frozen": ("Features that were not trained, and codes fitted to them", None),
    "trained": ("Features that were trained by classification, and codes fitted to them", "classification_64_seed0"),
    "default": ("Features of the default recipe, and codes fitted to them", "default_64_seed0"),
}
"""What is fitted to, by the name of its scores: a title, and the run whose features they are, none for the pretrained ones."""
SECTIONS = {
    "steps": "Triplets, step by step",
    "objectives": "Objectives under one budget",
    "lengths": "Code sizes, three seeds",
    "best": "As high as it gets in two hours",
}


def main(arguments: list[str] | None = None) -> int:
    """Train and score what is asked for and not there; write the page. 1 when a training failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for study in STUDIES:
        parser.add_argument(f"--{study.name}", metavar="TABLE", help=f"pictures of: {study.title}")
    parser.add_argument("--weights", metavar="FILE", help="where backbones start that do not start from scratch")
    parser.add_argument("--runs", type=Path, default=Path("learning"), metavar="FOLDER", help="where runs lie")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose section, name or folder contains this")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    failed = 0
    for study in STUDIES:
        data = getattr(options, study.name)
        if data is not None:
            failed += not run_study(study, data, options)
    record = options.markdown.with_suffix(".json") if options.markdown else None
    kept = json.loads(record.read_text("utf-8")) if record and record.exists() else {}
    at = described(machine.describe(PACKAGES))
    anew = {each: outcome for study in STUDIES for each, outcome in outcomes(study, options.runs).items()}
    measured = kept | {each: outcome | {"at": at} for each, outcome in anew.items()}
    document = {
        "question": (__doc__ or "").splitlines()[0],
        "machines": dict(Counter(outcome["at"] for outcome in measured.values())),
        "studies": [gathered(study, measured) for study in STUDIES],
    }
    text = as_markdown(document)
    if record:
        options.markdown.write_text(text, "utf-8")
        record.write_text(json.dumps(dict(sorted(measured.items())), indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(document, indent=1) if options.json else text)
    return 1 if failed else 0


def run_study(study: Study, data: str, options: argparse.Namespace) -> bool:
    """Run the rows of a study that are asked for; whether all went well."""
    well = True
    for recipe in {recipe.folder: recipe for recipe in study.recipes}.values():
        if any((options.only or "") in words for words in (recipe.section, recipe.name, recipe.folder)):
            well = run_recipe(study, recipe, data, options) and well
    if study.fitted and (options.only or "fitted") in "fitted":
        runs = options.runs / study.name
        for name, (_, run) in FITTED.items():
            if run is None and options.weights:
                network = f"{study.shared} --weights {options.weights}"
            elif run is not None and (runs / run / "model.safetensors").exists():
                network = f"--model {runs / run}"
            else:
                continue
            well = run_fitted(data, network, runs / f"{name}.json") and well
    return well


def run_recipe(study: Study, recipe: Recipe, data: str, options: argparse.Namespace) -> bool:
    """Train and score one row, or what is missing of it."""
    folder = options.runs / study.name / recipe.folder
    scores = folder / "scores.json"
    if scores.exists():
        return True
    print(f"{study.name}: {recipe.name}, {recipe.bits} bits, seed {recipe.seed}", file=sys.stderr)
    if not (folder / "model.safetensors").exists() or _status(folder) in ("running", "interrupted"):
        command = shlex.split(command_of(study, recipe))
        command += _where(recipe, command, data, options, folder)
        if (folder / "run.json").exists():
            command = ["hashret", "train", "--resume", str(folder)]
        if not _run(command):
            return False
    return _run(shlex.split(f"hashret evaluate --model {folder} --data {data} {study.evaluate} --out {scores}"))


def command_of(study: Study, recipe: Recipe) -> str:
    """The command of a row, but for where pictures, weights and runs lie."""
    program = "python benchmarks/plain_loop.py" if recipe.program == "plain" else "hashret train"
    words = [program, study.shared, f"--code-size {recipe.bits}", recipe.flags]
    return " ".join([*filter(None, words), *([f"--seed {recipe.seed}"] if recipe.seed else [])])


def _where(recipe: Recipe, command: list[str], data: str, options: argparse.Namespace, folder: Path) -> list[str]:
    weights = ["--weights", options.weights] if options.weights and "--weights" not in command else []
    if recipe.program == "plain":
        return ["--data", data, *weights, "--out", str(folder)]
    return ["--data", data, *weights, "--runs", str(folder.parent), "--exp-name", folder.name]


def _run(command: list[str]) -> bool:
    """Whether a command went well; hashret is the one of this Python. What it says on standard error is shown."""
    first = [sys.executable, "-m", "hashret"] if command[0] == "hashret" else [sys.executable]
    done = subprocess.run([*first, *command[1:]], stdout=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def _status(folder: Path) -> str | None:
    run = folder / "run.json"
    return json.loads(run.read_text("utf-8"))["status"] if run.exists() else None


def run_fitted(data: str, network: str, out: Path) -> bool:
    """Score features of the network that these flags name, and codes fitted to them, unless that is done."""
    if out.exists():
        return True
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"codes fitted to {out.stem} features", file=sys.stderr)
    words = f"python {HERE / 'fitted.py'} {network} --data {data} --out {out}"
    return _run(shlex.split(words))


# ---- what was run ---------------------------------------------------------------------------------------------------


def outcomes(study: Study, runs: Path) -> dict[str, dict[str, Any]]:
    """What lies in a folder of runs, by "study/row": of every row its scores and, of a training, how it went."""
    found = {}
    for recipe in study.recipes:
        folder = runs / study.name / recipe.folder
        if (folder / "scores.json").exists():
            outcome = {"results": {kind(result["name"]): result for result in _scores(folder / "scores.json")}}
            found[f"{study.name}/{recipe.folder}"] = outcome | _training(folder / "run.json")
    for name in FITTED:
        if (file := runs / study.name / f"{name}.json").exists():
            found[f"{study.name}/{name}"] = {"results": {result["name"]: result for result in _scores(file)}}
    return found


def _scores(file: Path) -> list[dict[str, Any]]:
    """The results of `hashret evaluate` in a file, no more of each than the page shows."""
    return [
        {
            "name": result["name"],
            "hit@1": result["scores"]["hit@1"]["expected"],
            "hit@1_interval_95": result["hit@1_interval_95"],
            "map@all": result["scores"]["map@all"]["expected"],
        }
        for result in json.loads(file.read_text("utf-8"))["results"]
    ]


def _training(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    run = json.loads(file.read_text("utf-8"))
    return {
        "seconds": run["seconds"],
        "device": run["device"],
        "versions": run["versions"],
        "validation": {name: run["result"][name] for name in ("best_epoch", "best_map", "best_hit1")},
    }


def gathered(study: Study, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A study's rows with what was measured of them: results None where nothing was."""
    nothing: dict[str, Any] = {"results": None}
    rows = [
        {
            **vars(recipe),
            "command": command_of(study, recipe),
            **measured.get(f"{study.name}/{recipe.folder}", nothing),
        }
        for recipe in study.recipes
    ]
    return {
        "name": study.name,
        "title": study.title,
        "rule": study.rule,
        "aims": study.aims,
        "fitted": {name: measured.get(f"{study.name}/{name}") for name in FITTED if study.fitted},
        "rows": rows,
    }


def kind(name: str) -> str:
    """What a result of `hashret evaluate` is, without numbers: hash, float, two-stage, activations, first N bits."""
    if name.startswith("first "):
        return name
    return "activations" if name.endswith("activations") else name.partition(",")[0]


# ---- the page -------------------------------------------------------------------------------------------------------


def described(at: dict[str, Any]) -> str:
    """A machine and its versions in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    return f"{at['cpu']}, {at['cores']} cores; {versions}"


def as_markdown(document: dict[str, Any]) -> str:
    """The page."""
    machines = " and ".join(f"{at} ({n} rows)" for at, n in document["machines"].items())
    lines = [
        "# Results of learning",
        "",
        f"{document['question']} Written by `python benchmarks/learning.py`, whose help names the files it needs; every row "
        f"is the training by the command shown. Scored on: {machines}.",
        "",
        "hit@1 and mAP@all are exact under ties; ± is half of the 95 % interval over queries. *activations*: the float numbers "
        "whose signs are the code, by cosine. *features*: pooled, by cosine. *two-stage*: the 100 nearest codes "
        "ranked by features. Minutes are those of the run, whatever else the machine did meanwhile.",
        "",
    ]
    for study in document["studies"]:
        lines += [f"## {study['title']}", "", study["rule"], ""]
        for name, scored in study["fitted"].items():
            lines += [f"### {FITTED[name][0]}", ""]
            if scored is None:
                lines += ["Not run: `python benchmarks/learning.py --only fitted`", ""]
                continue
            lines += ["| | hit@1 | mAP@all |", "|---|---|---|"]
            lines += [
                f"| {result['name']} | {_hit(result)} | {_map(result)} |" for result in scored["results"].values()
            ]
            lines += [""]
        if study["aims"]:
            lines += _against_aims(study["rows"])
        for section, title in SECTIONS.items():
            rows = [row for row in study["rows"] if row["section"] == section]
            if rows:
                lines += [f"### {title}", "", *(_by_length(rows) if section == LENGTHS else _one_by_one(rows)), ""]
    return "\n".join(lines)


def _against_aims(rows: list[dict[str, Any]]) -> list[str]:
    """What was aimed for, and how far the default is from it: 64 bits, one seed."""
    run = [row for row in rows if row["results"] is not None and row["section"] in (STEPS, OBJECTIVES)]
    default = next((row["results"] for row in run if row["name"] == "default"), None)
    plain = [row["results"] for row in run if row["program"] == "plain"]
    if default is None or not plain:
        return []
    best = max(_value(row["results"]["float"], "hit@1") for row in run)
    base = max(_value(results["hash"], "map@all") for results in plain)
    aims = [
        (
            f"hit@1 of its codes at most 8 points below the best features of all rows ({best:.3f})",
            best - 0.08,
            "hash",
            "hit@1",
        ),
        ("hit@1 after two-stage search at most 1 point below them", best - 0.01, "two-stage", "hit@1"),
        (f"mAP of its codes at least 5 points above the best plain loop ({base:.3f})", base + 0.05, "hash", "map@all"),
    ]
    lines = ["### What was aimed for with the default, 64 bits", ""]
    for aim, least, kind_of, name in aims:
        found = _value(default[kind_of], name)
        verdict = "met" if found >= least else f"missed by {100 * (least - found):.1f} points"
        lines.append(f"- {aim}: {found:.3f}, {verdict}")
    return [*lines, ""]


def _one_by_one(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| recipe | codes: hit@1 | mAP | activations: hit@1 | features: hit@1 | mAP | two-stage: hit@1 | mAP "
        "| validation mAP (epoch) | minutes |",
        "|" + "---|" * 10,
    ]
    for row in rows:
        cells = [row["name"]]
        if (results := row["results"]) is None:
            lines.append(f"| {row['name']} | not run: `{row['command']}` |" + " |" * 8)
            continue
        cells += [_hit(results["hash"]), _map(results["hash"]), f"{_score(results.get('activations'), 'hit@1')}"]
        cells += [_hit(results["float"]), _map(results["float"])]
        cells += [_hit(results.get("two-stage")), _map(results.get("two-stage"))]
        chosen = row.get("validation")
        cells.append(f"{chosen['best_map']:.3f} ({chosen['best_epoch']})" if chosen else "last epoch")
        cells.append(f"{row['seconds'] / 60:.0f}" if "seconds" in row else "")
        lines.append("| " + " | ".join(cells) + " |")
    run = [row for row in rows if row["results"] is not None]
    for name, control in _controls(run).items():
        lines.append(f"| {name} | | | | {_hit(control)} | {_map(control)} |" + " |" * 4)
    return [*lines, "", *(f"- {row['name']}: `{row['command']}`" for row in run)]


def _controls(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What needs no training, by its name: the same for all rows of a study that were scored beside it."""
    return {name: result for row in rows for name, result in row["results"].items() if name.startswith("control")}


def _by_length(rows: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, and the lowest and the highest."""
    lines = ["| recipe | bits | seeds | codes: hit@1 | mAP | two-stage: hit@1 | features: hit@1 |", "|" + "---|" * 7]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["bits"]), []).append(row)
    for (name, bits), several in groups.items():
        found = [row["results"] for row in several if row["results"] is not None]
        if not found:
            lines.append(f"| {name} | {bits} | 0 of {len(several)} | not run: `{several[0]['command']}` |" + " |" * 3)
            continue
        inner = [each for each in found[0] if each.startswith("first ")]
        for what in [*inner, "hash"]:
            length = bits if what == "hash" else int(what.split()[1])
            cells = [_spread(found, what, "hit@1"), _spread(found, what, "map@all")]
            cells += (
                [_spread(found, "two-stage", "hit@1"), _spread(found, "float", "hit@1")] if what == "hash" else ["", ""]
            )
            label = name if what == "hash" else f"{name}, first {length} of {bits}"
            lines.append(f"| {label} | {length} | {len(found)} of {len(several)} | " + " | ".join(cells) + " |")
    return lines


def _spread(found: list[dict[str, Any]], what: str, name: str) -> str:
    values = [_value(results[what], name) for results in found if what in results]
    if not values:
        return ""
    return f"{np.mean(values):.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")


def _hit(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    low, high = result["hit@1_interval_95"]
    return f"{_score(result, 'hit@1')} ±{(high - low) / 2:.3f}"


def _map(result: dict[str, Any] | None) -> str:
    return _score(result, "map@all")


def _score(result: dict[str, Any] | None, name: str) -> str:
    return "" if result is None else f"{_value(result, name):.3f}"


def _value(result: dict[str, Any], name: str) -> float:
    return float(result[name])


if __name__ == "__main__":
    sys.exit(main())
