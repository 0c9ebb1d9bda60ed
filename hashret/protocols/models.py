"""The networks of a run of a protocol: trained by the card's recipe, where nothing changed it, or given."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hashret.data.table import PictureTable
from hashret.errors import HashretError, UsageError
from hashret.protocols.card import FLOAT, Card
from hashret.training.loop import train
from hashret.training.options import READ_BY, TrainingOptions
from hashret.training.runs import RUN_FILE, Run, create_run

_ENDED = ("done", "stopped early")
_WHERE_ONLY = ("device", "workers", "cache", "keep_epochs", "seed")
"""Settings that change no recipe."""


@dataclass(frozen=True)
class Recipe:
    """A training that a protocol asks for: what it is of (HASH or FLOAT), its settings, and what of the card's was changed."""

    of: str
    options: TrainingOptions
    changed: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A name for its folder and for rows of results."""
        return FLOAT if self.of == FLOAT else f"{self.of} {self.options.code_size} bits"


def recipes_of(
    card: Card,
    given: Mapping[str, Any],
    code_sizes: tuple[int, ...],
    of: tuple[str, ...],
    smaller: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Recipe]:
    """What is to be trained: the card's recipes `of` these kinds, every code size, `given` settings in place of the card's.

    smaller: settings by kind that a stand-in changes, under the given ones. A setting goes to the recipes whose objective reads
    it. UsageError for a kind that the card has no recipe of, for settings that none reads, or that make no sense together.
    """
    found, unread = [], set(given)
    for each in of:
        if each not in card.recipes:
            raise UsageError(f"{card.name} has no recipe of {each}; it has {' and '.join(card.recipes)}")
        asked = dict(card.recipes[each])
        objective = given.get("objective", asked.get("objective", TrainingOptions.objective))
        read = {name: value for name, value in given.items() if objective in READ_BY.get(name, (objective,))}
        unread -= read.keys()
        read = {**(smaller or {}).get(each, {}), **read}
        changed = {name: value for name, value in read.items() if name not in _WHERE_ONLY and asked.get(name) != value}
        # Codes are fitted to features afterwards, of any size: a float model is the same for all of them.
        for bits in (TrainingOptions.code_size,) if each == FLOAT else code_sizes:
            found.append(Recipe(each, TrainingOptions(**{**asked, **read, "code_size": bits}), changed))
    if unread:
        flag = "--" + min(unread).replace("_", "-")
        raise UsageError(f"no recipe of {card.name} that is to be trained reads {flag}; leave it out")
    return found


def check_same(recipe: Recipe, source: Mapping[str, Any], folder: Path) -> None:
    """UsageError when the folder holds a model of other settings or pictures. Where it is trained may change."""
    if not (folder / RUN_FILE).exists():
        return
    stored, asked = Run(folder).read()["source"] or {}, _source(recipe, source)
    if any(_of_model(stored).get(name) != value for name, value in _of_model(asked).items()):
        raise UsageError(
            f"{folder} holds a model that was trained with other settings or pictures; choose another --out, or remove it"
        )


def trained(recipe: Recipe, table: PictureTable, source: Mapping[str, Any], folder: Path) -> Path:
    """The run folder with the model of a recipe: trained now, gone on with, or as it is there already.

    UsageError when the folder holds a model of other settings or pictures. KeyboardInterrupt when training was interrupted: what
    was done is kept, and the same call goes on.
    """
    check_same(recipe, source, folder)
    run = Run(folder)
    if (folder / RUN_FILE).exists() and run.read()["status"] in _ENDED:
        return folder
    resume = run.state_path.exists()
    if not resume:
        _remove_unbegun(folder)  # of a process that was killed before there was anything to go on from
        run = create_run(folder)
    try:
        with run.writing():
            result = train(table, recipe.options, run, source=_source(recipe, source), resume=resume)
    except (HashretError, KeyboardInterrupt):
        if not (folder / RUN_FILE).exists():
            _remove_unbegun(folder)
        raise
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return folder


def _source(recipe: Recipe, source: Mapping[str, Any]) -> dict[str, Any]:
    return {**source, "asked": recipe.options.as_dict()}


def _of_model(source: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a model: who plays which part, and settings but for those of the place where it is trained."""
    settings = source.get("asked", {}).items()
    return {
        "splits_hash": source.get("splits_hash"),
        **{name: value for name, value in settings if name not in _WHERE_ONLY or name == "seed"},
    }


def _remove_unbegun(folder: Path) -> None:
    """Take the folder of a run away that has nothing to go on from. TrainingError when another process is at it."""
    if folder.exists():
        with Run(folder).writing():
            shutil.rmtree(folder)
