"""What a protocol card holds. A card is data: nothing is computed here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HASH = "hash"
FLOAT = "float"
"""The two recipes that a card can have: a network that learns codes, and one that learns float features."""


@dataclass(frozen=True)
class Published:
    """A value that somebody published for this protocol: the score by its name here, of what, how many bits, and the source."""

    score: str
    value: float
    of: str
    source: str
    bits: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Size:
    """How much of a release a split holds: classes and pictures."""

    classes: int
    pictures: int


@dataclass(frozen=True)
class StandIn:
    """A turntable set in place of private pictures: its size, and settings that change a recipe for pictures of that size."""

    classes: int
    test_classes: int
    pictures_per_class: int
    width: int
    height: int
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One protocol. A change of anything that moves a score raises `version`.

    reader: how the folder of --data is read: a release of hashret.data.releases, or "table" for what every command reads.
    prepared: what is then done to the table (parts.PREPARATIONS), by name.
    queries, gallery: splits that ask and that are searched; ("gallery",) is whatever the table says is searched
    (data.releases.roles), no gallery: every query searches all other queries.
    rule: what leaves a query's gallery (evaluation.gallery). least_pictures: classes with fewer pictures in the gallery leave
    it, and their queries with them. several_labels: a picture can be of several classes, and one in common makes two relevant.
    outside: whether pictures of no class, the split "outside", are to be told from the others.
    product: whether search by a product quantiser is set beside exact search of the features (needs the extra `pq`).
    metric: the score that results are ranked by; measures: further ones. map_cutoffs: of mAP, None is all ranks.
    recipes: settings of `hashret train`, by HASH or FLOAT. code_sizes: of the codes that are trained.
    sizes: what the release holds when it is whole. stand_ins: what --data turntable draws, on "cuda" and elsewhere ("cpu").
    published, source and notes are said beside the scores.
    """

    name: str
    version: int
    title: str
    about: str
    source: str
    reader: str
    queries: tuple[str, ...]
    metric: str
    recipes: Mapping[str, Mapping[str, Any]]
    code_sizes: tuple[int, ...]
    prepared: str = ""
    outside: bool = False
    product: bool = False
    gallery: tuple[str, ...] = ()
    rule: str = "self"
    least_pictures: int = 0
    several_labels: bool = False
    ks: tuple[int, ...] = (1, 10)
    map_cutoffs: tuple[int | None, ...] = (None,)
    measures: tuple[str, ...] = ()
    sizes: Mapping[str, Size] = field(default_factory=dict)
    stand_ins: Mapping[str, StandIn] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @property
    def hash(self) -> str:
        """sha256 in hex, the first 16 digits, of all that the card says."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
