"""A result: a folder with result.json, which carries the card it was scored by, and per_query.npz, by which results are compared.

result.json is written last, whole: a folder that has it is a result.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hashret
from hashret.errors import DataError
from hashret.evaluation.compare import Result as Scored
from hashret.index import durable
from hashret.metrics import bootstrap_interval
from hashret.protocols.card import Card
from hashret.protocols.parts import Leaks, Parts, complete
from hashret.protocols.rows import Row

FORMAT, FORMAT_VERSION = "hashret-result", 1
KEYS = {
    "hashret_version", "protocol", "protocol_hash", "splits_hash", "data", "rule", "leaks", "models", "rows", "curves",
    "conditions", "strangers", "searches", "seconds", "machine",
}  # fmt: skip
RESULT_FILE, PER_QUERY_FILE = "result.json", "per_query.npz"


@dataclass(frozen=True)
class Result:
    """A result as it was read: what result.json says, ids of the scored queries, and a score of each by row and name."""

    folder: Path
    document: dict[str, Any]
    query_ids: list[str]
    per_query: dict[tuple[int, str], NDArray[np.float64]]

    @property
    def card(self) -> tuple[str, str]:
        """Name and hash of the protocol."""
        return self.document["protocol"]["name"], self.document["protocol_hash"]

    @property
    def metric(self) -> str:
        """The score that results of this protocol are ranked by."""
        metric: str = self.document["protocol"]["metric"]
        return metric


def main_scores(card: Card) -> list[str]:
    """The scores of which every query's value is kept: the card's own, hit@1 and mAP over all ranks."""
    return list(dict.fromkeys([card.metric, "hit@1", "map@all"]))


def document_of(
    card: Card,
    parts: Parts,
    rows: Sequence[Row],
    scored: Sequence[Scored],
    *,
    source: str,
    leaks: Leaks | None,
    pictures_hash: str | None,
    rule: str,
    models: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Any],
    conditions: Mapping[str, Any] | None,
    strangers: Mapping[str, Any] | None,
    searches: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """What result.json says, as JSON values. leaks, pictures_hash: None where nobody looked. strangers: by model and
    way, searches: by model, None where the card asks for none. facts: of the machine and the time it took."""
    seen = parts.seen()[scored[0].scores.scored_Q]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "hashret_version": hashret.__version__,
        "protocol": card.as_dict(),
        "protocol_hash": card.hash,
        "splits_hash": parts.hash,
        "pictures_hash": pictures_hash,
        "data": {
            "source": source,
            "name": parts.table.name,
            "splits": {split: vars(size) for split, size in parts.sizes.items()},
            "complete": complete(card, parts),
            "queries": len(parts.queries),
            "queries_scored": int(scored[0].scores.n_queries),
            "queries_of_seen_classes": int(seen.sum()),
            "gallery": len(parts.gallery),
        },
        "rule": rule,
        "leaks": None if leaks is None else leaks.as_dict(),
        "models": list(models),
        "rows": [_row(card, row, each, seen) for row, each in zip(rows, scored, strict=True)],
        "curves": curves,
        "conditions": conditions,
        "strangers": strangers,
        "searches": searches,
        **facts,
    }


def _row(card: Card, row: Row, scored: Scored, seen: NDArray[np.bool_]) -> dict[str, Any]:
    values = {name: scored.scores.per_query(name) for name in main_scores(card)}
    groups = {"seen": seen, "unseen": ~seen}
    return {
        "name": row.representation.name,
        "model": row.model,
        "kind": row.kind,
        "bits": row.bits,
        **scored.scores.as_dict(),
        "intervals_95": {name: bootstrap_interval(each) for name, each in values.items()},
        **{
            group: {"n_queries": int(chosen.sum()), **{name: _mean(each[chosen]) for name, each in values.items()}}
            for group, chosen in groups.items()
        },
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def write_result(folder: Path, document: Mapping[str, Any], card: Card, parts: Parts, scored: Sequence[Scored]) -> None:
    """Write both files; an earlier result there is replaced."""
    scored_Q = scored[0].scores.scored_Q
    ids = np.array([parts.table.ids[row] for row in parts.queries[scored_Q].tolist()])
    arrays = {f"{i}:{name}": each.scores.per_query(name) for i, each in enumerate(scored) for name in main_scores(card)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=ids, **arrays)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).unlink(missing_ok=True)
    durable.replace_file(folder / PER_QUERY_FILE, buffer.getvalue())
    text = json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n"
    durable.replace_file(folder / RESULT_FILE, text.encode())


def read_result(folder: Path) -> Result:
    """The result in a folder. DataError for a folder without one, and for files that do not belong together."""
    try:
        document = json.loads((folder / RESULT_FILE).read_text("utf-8"))
        with np.load(io.BytesIO((folder / PER_QUERY_FILE).read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is no result (it has no {Path(error.filename).name}); `hashret protocol run` makes one"
        ) from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"the result in {folder} cannot be read ({error}); run its protocol again") from None
    try:
        if document["format"] != FORMAT or document["format_version"] > FORMAT_VERSION:
            raise ValueError(f"format {document['format']!r}, version {document['format_version']}")
        missing = sorted(KEYS - document.keys())
        if missing:
            raise ValueError(f"no {missing[0]!r} in {RESULT_FILE}")
        ids = [str(name) for name in arrays.pop("ids")]
        per_query = {}
        for key, values in arrays.items():
            number, _, name = key.partition(":")
            row = document["rows"][int(number)]
            fits = values.shape == (len(ids),) and values.dtype == np.float64
            if not fits or not math.isclose(values.mean(), row["scores"][name]["expected"], abs_tol=1e-9):
                raise ValueError(f"the queries' {name} are not those of {row['name']!r}")
            per_query[int(number), name] = values
        if {(i, document["protocol"]["metric"]) for i in range(len(document["rows"]))} - per_query.keys():
            raise ValueError("queries of some rows are missing")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"the result in {folder} is damaged, or of a newer version ({error}); run its protocol again"
        ) from None
    document.setdefault("pictures_hash", None)  # an earlier result has none: what it says is true without it
    return Result(folder, document, ids, per_query)


def caveats(document: dict[str, Any]) -> list[str]:
    """What is to be known before the scores are believed: leaks, other data than the release, a changed recipe."""
    sentences = []
    leaks, data = document["leaks"], document["data"]
    if leaks is None:
        sentences.append("Nobody looked for pictures in two splits, or twice in one (--leaks off).")
    else:
        sentences += leak_caveats(leaks)
    if document.get("pictures_hash") is None:
        sentences.append(
            "Nobody hashed the pictures' files: it ranks beside results of the same ids, labels and splits, whatever they show."
        )
    if data["complete"] is False:
        have = ", ".join(f"{split} {size['pictures']:,} of {size['classes']}" for split, size in data["splits"].items())
        sentences.append(
            f"The data are not the whole release ({have} classes): published values are of other pictures."
        )
    elif data["complete"] is None and document["protocol"]["published"]:
        sentences.append("The card does not say how much the release holds: published values may be of other pictures.")
    for model in document["models"]:
        if not model.get("same_splits", True):
            sentences.append(
                f"{model['name']}: trained elsewhere, on what is not known here: it may have seen the queries, and seen and "
                "unseen classes are told by the training pictures of this protocol."
            )
        if not model.get("of_known", True):
            sentences.append(
                f"{model['name']}: there is no run.json beside it, so nobody knows whether its codes were trained; if they were "
                "not, its rows of codes mean nothing."
            )
        if model["changed"]:
            changed = ", ".join(f"{name} {value}" for name, value in model["changed"].items())
            sentences.append(f"{model['name']}: not the card's recipe, changed: {changed}.")
    return sentences


def leak_caveats(leaks: Mapping[str, Any]) -> list[str]:
    """A sentence for each sort of copies that were found. Results of before copies within a split were counted say so."""
    sentences = []
    if leaks["same"] or leaks["near"]:
        sentences.append(
            f"Leaks: {leaks['same']:,} pictures in two splits, {leaks['near']:,} more nearly: {leaks['examples'][0]}"
        )
    if "within_same" not in leaks:
        return [
            *sentences,
            "Nobody looked for pictures that are twice in one split: an older hashret made this result.",
        ]
    if leaks["within_same"] or leaks["within_near"]:
        sentences.append(
            f"Copies: {leaks['within_same']:,} queries find exactly the same picture in their own split, "
            f"{leaks['within_near']:,} more nearly the same, which flatters the scores: {leaks['within_examples'][0]}"
        )
    if leaks["other_class"]:
        sentences.append(
            f"Labels: {leaks['other_class']:,} pictures are also there as another class, so some labels are wrong: "
            f"{leaks['other_class_examples'][0]}"
        )
    return sentences
