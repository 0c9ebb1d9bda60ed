"""The numbers of a report in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hashret.data.table import PictureTable
from hashret.metrics import RetrievalScores
from hashret.report.analysis import CODES, FEATURES, SHORTLIST, TWO_STAGE, Analysis

NOTICEABLE = 0.005
"""Scores of the same model on the same pictures that differ by more are not the same: float sums vary by far less."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run besides its model: its name, run.json, its log, and what was looked at for the report.

    model_epoch: of the model, from 1; None where nobody wrote it down. logged: validation scores kept with the model, where
    the pictures of the report are those of the validation, else nothing. commands: (what for, command line). findings: what
    is wrong with the run, a sentence each. suspects: training pictures whose labels it doubts, the worst first, with what
    their `neighbours` say, and the path of that list. best_logged: the best epoch so far by its log.
    """

    name: str
    document: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    model_epoch: int | None
    pictures: str
    validated: bool
    logged: Mapping[str, Any] = field(default_factory=dict)
    n_skipped: int = 0
    commands: Sequence[tuple[str, str]] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[str] = ()
    suspects: PictureTable | None = None
    suspects_path: str = ""
    best_logged: int | None = None

    @property
    def best_epoch(self) -> int | None:
        """The epoch that the run chose: by its result, or while it trains by its log."""
        result = self.document.get("result")
        if isinstance(result, Mapping) and isinstance(result.get("best_epoch"), int) and result["best_epoch"] > 0:
            return int(result["best_epoch"])
        return self.best_logged


def sentences(run: RunFacts, analysis: Analysis) -> list[str]:
    """What was trained on what, how good it is, and what bits cost: the report in a paragraph."""
    return [*_training(run, analysis), *_scores(run, analysis), _bits(analysis), *_caveats(run, analysis)]


def _training(run: RunFacts, analysis: Analysis) -> list[str]:
    options = _mapping(run.document.get("options"))
    pictures = _mapping(run.document.get("pictures"))
    trained_on = f"{pictures['train']:,} pictures of " if isinstance(pictures.get("train"), int) else ""
    said = [
        f"The model turns a picture into {analysis.code_statistics.code_size} bits; it is a {options.get('backbone', 'network')} "
        f"trained on {trained_on}{run.document.get('data') or 'pictures given in Python'}."
    ]
    logged, planned = len(run.history), options.get("epochs")
    status = run.document.get("status")
    of = f" of {planned}" if isinstance(planned, int) and status == "running" else f" of {logged}" if logged else ""
    if run.model_epoch is not None:
        best = (
            " It is the best so far by validation mAP."
            if status == "running"
            else " It was the best by validation mAP."
        )
        is_best = run.model_epoch == run.best_epoch
        said.append(f"This is epoch {run.model_epoch}{of}.{best if is_best else ''}")
    if status == "running":
        said.append("The run is not finished: what follows is how it stands.")
    elif status in ("interrupted", "failed"):
        why = f": {run.document['error']}" if status == "failed" and run.document.get("error") else ""
        said.append(f"The run {'was interrupted' if status == 'interrupted' else 'failed'} before its last epoch{why}.")
    return said


def _scores(run: RunFacts, analysis: Analysis) -> list[str]:
    scores = analysis.results[CODES].scores
    hit1, mean_ap = scores["hit@1"], scores["map@all"]
    n_classes = len(set(analysis.labels_Q.tolist()))
    said = [
        f"Looked at are {run.pictures}: {counted(scores.n_queries, 'query', 'queries')} of "
        f"{counted(n_classes, 'class', 'classes')}. By their codes the nearest picture is of the right class for "
        f"{hit1.expected:.1%} (hit@1, 95 % interval {_range(analysis.interval(CODES, 'hit@1'))}), and mAP over all ranks is "
        f"{mean_ap.expected:.4f} ({_range(analysis.interval(CODES, 'map@all'))})."
    ]
    loss, (low, high) = analysis.loss("map@all")
    if low > 0:
        verdict = f"keeping only bits costs {loss:.4f} mAP ({_range((low, high))})"
    elif high < 0:
        verdict = f"codes are better than features by {-loss:.4f} mAP ({_range((-high, -low))})"
    else:
        verdict = f"the codes lose nothing that can be told from chance ({loss:+.4f} mAP, {_range((low, high))})"
    reached = {name: analysis.results[name].scores["map@all"].expected for name in (FEATURES, TWO_STAGE)}
    said.append(
        f"Float features reach {reached[FEATURES]:.4f}: {verdict}. With the {SHORTLIST} nearest codes ranked by features it is "
        f"{reached[TWO_STAGE]:.4f}."
    )
    return said


def _bits(analysis: Analysis) -> str:
    statistics = analysis.code_statistics
    health = (
        f"{statistics.dead_bits} of {statistics.code_size} bits never change"
        if statistics.dead_bits
        else f"All {counted(statistics.code_size, 'bit')} change from picture to picture"
    )
    return (
        f"{health}; {counted(statistics.distinct_codes, 'different code')} for {counted(statistics.n, 'picture')}, and a pair of "
        f"one class is nearer than a pair of two in {_percent(analysis.distances.separation)} of all cases."
    )


def _caveats(run: RunFacts, analysis: Analysis) -> list[str]:
    said = []
    scores = analysis.results[CODES].scores
    if run.validated:
        said.append("These pictures chose the best epoch, so on new pictures expect a little less.")
        logged = _number(run.logged.get("map"))
        computed = scores["map@all"].expected
        if logged is not None and abs(logged - computed) > NOTICEABLE:
            said.append(
                f"In training the same pictures scored mAP {logged:.4f}, not {computed:.4f}: the pictures, their labels or the "
                "model have changed since."
            )
    if scores.n_excluded:
        said.append(
            f"{counted(scores.n_excluded, 'query', 'queries')} had nothing of their class to find and are in no score."
        )
    if run.n_skipped:
        said.append(
            f"{counted(run.n_skipped, 'picture')} could not be read and {'is' if run.n_skipped == 1 else 'are'} left out."
        )
    return said


def shared_signature(scores: RetrievalScores) -> str:
    """What the signatures of all scores of one representation have in common."""
    signatures = [scores.signature(name).split("|") for name in scores.names]
    return "|".join(part for part in signatures[0] if all(part in signature for signature in signatures))


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 picture, 2,000 pictures."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _percent(share: float) -> str:
    return "no" if math.isnan(share) else f"{share:.1%}"
