"""A protocol, run: pictures to parts, networks to rows, rows to scores, scores to a result."""

from __future__ import annotations

import contextlib
import logging
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hashret
from hashret.data.check import Looks
from hashret.data.table import PictureTable
from hashret.errors import HashretError, UsageError
from hashret.evaluation.compare import compare
from hashret.evaluation.conditions import has_views_and_times, rotation_by_time, time_by_time, top1_by_condition
from hashret.evaluation.curves import rank_curves
from hashret.evaluation.gallery import GalleryRule, gallery_rule, numbered
from hashret.index import durable
from hashret.model.device import pick_device
from hashret.model.folder import resolve_model
from hashret.model.hasher import Hasher
from hashret.protocols import models, rows
from hashret.protocols.batch import training_batch
from hashret.protocols.card import FLOAT, Card, StandIn
from hashret.protocols.parts import Leaks, Parts, check_answers, find_leaks, look_at, pictures_hash, read_parts
from hashret.protocols.product_search import check_installed, product_beside_exact
from hashret.protocols.rejection import rejection
from hashret.protocols.result import RESULT_FILE, document_of, leak_caveats, write_result
from hashret.training.options import TrainingOptions

PICTURES = "pictures.csv"
MODELS = "models"
STAND_IN = "turntable"
"""The name that --data takes for a set that is drawn, and its folder in a result."""
BATCH = "batch.png"
UNFINISHED = "unfinished"

_log = logging.getLogger("hashret.protocols")


@dataclass(frozen=True)
class Request:
    """What is asked of a protocol besides its pictures.

    given: settings of training in place of the card's. code_sizes: of the codes; none: the card's. of: HASH, FLOAT or both.
    models: trained models, in place of training. leaks: whether pictures in two splits are looked for first. batch: whether a
    picture is drawn of the first recipe's pictures as training shows them.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    code_sizes: tuple[int, ...] = ()
    of: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    leaks: bool = True
    batch: bool = False
    device: str = "auto"
    workers: int | None = None


@dataclass(frozen=True)
class _Model:
    """A model that is scored: its name in the result, what it is of, where it lies, and what the result says of its training.

    of_known: whether it is known what it is of.
    """

    name: str
    of: str
    folder: Path
    changed: Mapping[str, Any] | None
    of_known: bool = True


def run_protocol(card: Card, source: str, out: Path, request: Request) -> dict[str, Any]:
    """Run the card on the pictures of `source` into the folder `out`; what its result.json then says.

    The folder keeps the table of who plays which part (pictures.csv) and the models; what was trained or encoded is not done
    again when the same call is made after an interruption.
    """
    started = time.perf_counter()
    if card.product:
        check_installed()
    scored_models = _given(request.models)
    if scored_models and request.code_sizes and not any(model.of == FLOAT for model in scored_models):
        raise UsageError(
            "--code-size is of codes that are fitted to the features of float models, and --model names none; leave it out"
        )
    _check_out(out)
    stand_in = None
    if source == STAND_IN and not Path(source).exists():
        stand_in = _stand_in(card, request.device)
        source = str(_drawn(stand_in, out / STAND_IN))
    parts = read_parts(card, source)
    recipes = []
    if not request.models:
        code_sizes = request.code_sizes or card.code_sizes
        of, smaller = request.of or tuple(card.recipes), stand_in.recipes if stand_in else {}
        recipes = models.recipes_of(card, request.given, code_sizes, of, smaller)
    # All that can be found wrong before hours of work is found here.
    check_answers(card, parts)
    queries, gallery = parts.table.select(parts.queries), parts.table.select(parts.gallery)
    rule = gallery_rule(card.rule, parts.table)
    valid = rule.between(queries, gallery)
    pictures = out / PICTURES
    trainings: dict[Path, models.Recipe] = {}
    asked: dict[str, Any] = {
        "data": str(pictures.absolute()),
        "label_map": None,
        "skipped": [],
        "splits_hash": parts.hash,
    }
    for recipe in recipes:
        folder = out / MODELS / f"{recipe.name.replace(' ', '')}_seed{recipe.options.seed}"
        models.check_same(recipe, asked, folder)
        trainings[folder] = recipe
    looks = look_at(parts) if request.leaks else None
    leaks = None if looks is None else _leaks(card, parts, rule, looks)
    hashed = None if looks is None else pictures_hash(parts, looks)
    out.mkdir(parents=True, exist_ok=True)
    try:
        parts.table.write_csv(pictures)
        if request.batch and recipes:
            durable.replace_file(out / BATCH, training_batch(parts.table, recipes[0].options))
        for folder, recipe in trainings.items():
            _log.info("%s: training %s", card.name, recipe.name)
            models.trained(recipe, parts.table, asked, folder)
            scored_models.append(_Model(recipe.name, recipe.of, folder, recipe.changed))
        workplace = out / UNFINISHED
        compared = _rows(card, scored_models, parts, request, workplace, valid)
    except (HashretError, KeyboardInterrupt):
        _remove_unbegun(out)
        raise
    scored = compare(
        [row.representation for row in compared],
        queries,
        gallery,
        rule,
        ks=card.ks,
        map_cutoffs=card.map_cutoffs,
        measures=card.measures,
        several_labels=card.several_labels,
    )
    if not scored[0].scores.n_queries:
        raise UsageError(
            f"no query of {parts.table.name} has a picture of its class in the gallery; nothing can be scored"
        )
    document = document_of(
        card,
        parts,
        compared,
        scored,
        source=source,
        leaks=leaks,
        pictures_hash=hashed,
        rule=rule.sentence,
        models=[_described(model, parts) for model in scored_models],
        curves=_curves(compared, queries, gallery, rule, card),
        conditions=_conditions(compared, queries, gallery, rule),
        searches=_searches(compared) if card.product else None,
        strangers=_strangers(scored_models, parts, request, workplace) if card.outside else None,
        facts={
            "seconds": round(time.perf_counter() - started, 1),
            "machine": _machine(str(pick_device(request.device))),
        },
    )
    write_result(out, document, card, parts, scored)
    shutil.rmtree(workplace, ignore_errors=True)
    return document


def _stand_in(card: Card, device: str) -> StandIn:
    """The stand-in of this card for the device that will be used. UsageError for a card without one."""
    if not card.stand_ins:
        raise UsageError(f"{card.name} has no stand-in that could be drawn; name its pictures with --data")
    return card.stand_ins["cuda" if pick_device(device).type == "cuda" else "cpu"]


def _drawn(stand_in: StandIn, folder: Path) -> Path:
    """The folder with the stand-in's pictures; what is there of it is not drawn again."""
    from hashret.data.turntable.generate import generate  # starts numba

    folder.parent.mkdir(parents=True, exist_ok=True)
    return generate(
        folder,
        classes=stand_in.classes,
        test_classes=stand_in.test_classes,
        pictures_per_class=stand_in.pictures_per_class,
        size=(stand_in.width, stand_in.height),
    ).parent


def _leaks(card: Card, parts: Parts, rule: GalleryRule, looks: Looks) -> Leaks:
    leaks = find_leaks(card, parts, rule, looks)
    sentences = leak_caveats(leaks.as_dict())
    for sentence in sentences:
        _log.warning("%s", sentence)
    if not sentences:
        _log.info("no picture is in two splits or finds a copy of itself, not even nearly")
    return leaks


def _curves(
    compared: Sequence[rows.Row], queries: PictureTable, gallery: PictureTable, rule: GalleryRule, card: Card
) -> dict[str, Any]:
    """hit@k, recall@k and precision@k of each model's codes and features, by the names of rows."""
    own = [row.representation for row in compared if row.kind not in rows.CONTROLS]
    found = rank_curves(own, queries, gallery, rule, several_labels=card.several_labels)
    return {each.name: curve.as_dict() for each, curve in zip(own, found, strict=True)}


def _conditions(
    compared: Sequence[rows.Row], queries: PictureTable, gallery: PictureTable, rule: GalleryRule
) -> dict[str, Any] | None:
    """Top-1 of each model's codes and features by turn and time of day; None for pictures that say neither."""
    if not has_views_and_times(queries) or not has_views_and_times(gallery):
        return None
    labels_Q, labels_N = numbered(queries.labels, gallery.labels)
    maps = {"time by turn": rotation_by_time(queries, gallery), "time by time": time_by_time(queries, gallery)}
    valid = rule.between(queries, gallery)
    found: dict[str, Any] = {}
    for name, conditions in maps.items():
        shape = len(conditions.rows), len(conditions.columns)
        found[name] = {"rows": conditions.rows, "columns": conditions.columns, "top1": {}}
        for row in compared:
            if row.kind in rows.CONTROLS:
                continue
            of = top1_by_condition(row.representation, labels_Q, labels_N, conditions.of_pairs, conditions.n, valid)
            top1 = [None if np.isnan(each) else each for each in of.top1_C.tolist()]
            rows_of_map = [top1[start : start + shape[1]] for start in range(0, len(top1), shape[1])]
            found[name]["top1"][row.representation.name] = rows_of_map
            found[name]["queries"] = of.n_queries_C.reshape(shape).tolist()
            found[name]["findable"] = [
                [None if np.isnan(each) else each for each in line] for line in of.findable_C.reshape(shape).tolist()
            ]
    return found


def _searches(compared: Sequence[rows.Row]) -> dict[str, Any]:
    """By model: search of its features by a product quantiser, beside exact search."""
    of_features = [row for row in compared if row.kind == rows.FEATURES]
    return {row.model: product_beside_exact(row.representation) for row in of_features}


def _strangers(given: Sequence[_Model], parts: Parts, request: Request, workplace: Path) -> dict[str, Any]:
    """By model and way: the threshold and how it does."""
    return {
        model.name: rejection(
            model.of,
            Hasher.from_pretrained(model.folder, device=request.device),
            parts,
            workplace=workplace,
            workers=request.workers,
        )
        for model in given
    }


def _given(names: Sequence[str]) -> list[_Model]:
    """Models that were trained elsewhere, called by their folders; one whose codes were never trained is a float model.

    Folders of one name are called as they were typed: rows, curves and strangers are told apart by the names of models.
    UsageError for a model that is named twice.
    """
    short = [Path(name).name or name for name in names]
    found: list[_Model] = []
    for name, last in zip(names, short, strict=True):
        folder = resolve_model(name)
        if any(folder.samefile(other.folder) for other in found):
            raise UsageError(f"--model names {folder} twice; name every model once")
        # One that cannot be read, or takes no pictures, is known before anything is written.
        of, is_known = rows.kind_of(folder, Hasher.from_pretrained(folder))
        found.append(_Model(last if short.count(last) == 1 else str(Path(name)), of, folder, None, is_known))
    return found


def _check_out(out: Path) -> None:
    """UsageError for a folder with other files than those of a run of a protocol: its pictures.csv would be replaced."""
    if not out.is_dir():
        if out.exists():
            raise UsageError(f"--out is {out}, which is no folder; choose another name")
        return
    there = {entry.name for entry in out.iterdir()}
    if there - {PICTURES, BATCH} and not there & {RESULT_FILE, MODELS, UNFINISHED, STAND_IN}:
        raise UsageError(
            f"--out is {out}, which holds other files than a result ({min(there - {PICTURES, BATCH})}); choose another name"
        )


def _remove_unbegun(out: Path) -> None:
    """Take away what was written before there was anything to go on from, so that bad data or settings leave nothing behind."""
    if (out / RESULT_FILE).exists() or any((out / MODELS).glob("*")) or any((out / UNFINISHED).glob("*")):
        return
    for name in (PICTURES, BATCH):
        (out / name).unlink(missing_ok=True)
    for folder in (out / MODELS, out / UNFINISHED, out):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _rows(
    card: Card,
    given: Sequence[_Model],
    parts: Parts,
    request: Request,
    workplace: Path,
    valid: Callable[[slice], NDArray[np.bool_]],
) -> list[rows.Row]:
    """The rows of all models, then what is the same for all: the network before training, raw pixels, and guessing."""
    code_sizes = request.code_sizes or card.code_sizes
    found: list[rows.Row] = []
    frozen: dict[tuple[Any, ...], rows.Row] = {}
    for model in given:
        hasher = Hasher.from_pretrained(model.folder, device=request.device)
        options = rows.options_of(model.folder)
        found += rows.rows_of_model(
            model.name, model.of, hasher, parts, code_sizes, valid, workplace=workplace, workers=request.workers
        )
        began = _began(options, hasher)
        if began not in frozen:
            frozen[began] = rows.frozen_row(hasher, options, parts, workplace=workplace, workers=request.workers)
    bits = [row.bits for row in found if row.bits is not None]
    return [*found, *frozen.values(), rows.pixels_row(parts), rows.random_row(parts, max(bits))]


def _began(options: TrainingOptions | None, hasher: Hasher) -> tuple[Any, ...]:
    """What decides a network as it was before training, so that models that began alike share a row."""
    weights = "none" if options is None else options.weights
    shown = {name: value for name, value in hasher.preprocess.as_dict().items() if name != "mirror"}
    network = hasher.network
    # Weights that it began with give the backbone's own features; random ones those of the whole network.
    built = (network.pooling, network.project) if weights == "none" else ()
    return (network.backbone_name, network.stem, weights, str(shown), *built)


def _described(model: _Model, parts: Parts) -> dict[str, Any]:
    """A model in a result. same_splits: whether a run like this one trained it, so that it never saw what it is asked."""
    run = rows.run_of(model.folder)
    history = None if run is None else run.read()
    return {
        "name": model.name,
        "of": model.of,
        "of_known": model.of_known,
        "folder": str(model.folder.absolute()),  # a report made elsewhere is to find it
        "fingerprint": Hasher.from_pretrained(model.folder).fingerprint(),
        "changed": model.changed,
        "same_splits": bool(history and (history["source"] or {}).get("splits_hash") == parts.hash),
        "settings": history["options"] if history else None,
        "seconds": history.get("seconds") if history else None,
        "result": history.get("result") if history else None,
    }


def _machine(device: str) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "device": device,
        "versions": {
            "python": platform.python_version(),
            "hashret": hashret.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
