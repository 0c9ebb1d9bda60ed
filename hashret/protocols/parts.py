"""A card applied to pictures: which are learnt from, which ask, which are searched; and whether splits leak into each other."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashret.data import check
from hashret.data.releases import cifar10_splits
from hashret.data.releases.roles import GALLERY, in_gallery
from hashret.data.sources import TABLE_NAME, open_source
from hashret.data.splitting import split_unseen_classes
from hashret.data.table import PictureTable
from hashret.errors import DataError
from hashret.evaluation.compare import relevant_pairs
from hashret.evaluation.gallery import GalleryRule
from hashret.protocols.card import Card, Size

TRAINED_ON = ("train", "val")
OUTSIDE = "outside"
SHOWN_LEAKS = 20
HELD_OUT = 0.15
"""Of the training pictures of a set of several labels: as many to choose a threshold by, as many to ask with."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """The pictures of a protocol: a table, and rows of it that are learnt from, ask, are searched, and that are of no class."""

    table: PictureTable
    train: Rows
    queries: Rows
    gallery: Rows
    outside: Rows

    @property
    def sizes(self) -> dict[str, Size]:
        """Classes and pictures of every split."""
        splits = np.array(self.table.splits)
        return {
            split: Size(len(set().union(*part.label_lists())), len(part))
            for split in sorted(set(self.table.splits) - {""})
            for part in [self.table.select(splits == split)]
        }

    @property
    def hash(self) -> str:
        """sha256 in hex, the first 16 digits, of who plays which part: ids, labels and splits in order of ids, not pixels."""
        table = self.table
        digest = hashlib.sha256()
        for name, split, label in sorted(zip(table.ids, table.splits, table.labels, strict=True)):
            digest.update(f"{name}\t{split}\t{label}\n".encode())
        for rows in (self.queries, self.gallery):
            digest.update("\n".join(sorted(table.ids[row] for row in rows.tolist())).encode() + b"\n\n")
        return digest.hexdigest()[:16]

    def seen(self) -> NDArray[np.bool_]:
        """Whether each query is of a class that was trained on; one of several classes, of any such class."""
        of_row = self.table.label_lists()
        known = {label for row in self.train.tolist() for label in of_row[row]}
        return np.array([not known.isdisjoint(of_row[row]) for row in self.queries.tolist()], dtype=bool)


def read_parts(card: Card, source: str) -> Parts:
    """The parts of a card in a source: a folder in the release's layout, or any table that has the card's splits.

    DataError where a split of the card has no labelled picture, or no query is of a class that is large enough.
    """
    is_release = card.reader != "table" and Path(source).is_dir() and not (Path(source) / TABLE_NAME).exists()
    table = open_source(f"{card.reader}:{source}" if is_release else source)
    table = PREPARATIONS[card.prepared](table) if card.prepared else table
    splits = np.array(table.splits)
    labelled = np.array([label != "" for label in table.labels], dtype=bool)

    def rows_of(names: tuple[str, ...], what: str) -> Rows:
        chosen = in_gallery(table) if names == (GALLERY,) else np.isin(splits, names)
        rows = np.flatnonzero(chosen & labelled)
        if not len(rows):
            found = ", ".join(f"{split!r} ({n:,})" for split, n in sorted(Counter(table.splits).items()) if split)
            wanted = " or ".join(repr(name) for name in names)
            raise DataError(
                f"{table.name} has no labelled picture of the split {wanted}, which {card.name} {what}; it has "
                f"{found or 'no splits'}"
            )
        return rows

    train = rows_of(TRAINED_ON, "learns from")
    queries = rows_of(card.queries, "asks with")
    gallery = rows_of(card.gallery, "searches") if card.gallery else queries
    if card.least_pictures:
        queries, gallery = _of_large_classes(card, table, queries, gallery)
    outside = np.flatnonzero(splits == OUTSIDE) if card.outside else np.empty(0, np.int64)
    if card.outside and not len(outside):
        raise DataError(
            f"{table.name} has no picture of the split {OUTSIDE!r}, which {card.name} tells from the others"
        )
    kept = np.unique(np.concatenate([train, queries, gallery, outside]))
    place = {old: new for new, old in enumerate(kept.tolist())}

    def moved(rows: Rows) -> Rows:
        return np.array([place[row] for row in rows.tolist()], dtype=np.int64)

    return Parts(table.select(kept), moved(train), moved(queries), moved(gallery), moved(outside))


def _of_large_classes(card: Card, table: PictureTable, queries: Rows, gallery: Rows) -> tuple[Rows, Rows]:
    """Queries and gallery pictures whose class has enough pictures in the gallery."""
    counts = Counter(table.labels[row] for row in gallery.tolist())
    large = {label for label, n in counts.items() if n >= card.least_pictures}
    queries, gallery = (
        np.array([row for row in rows.tolist() if table.labels[row] in large], dtype=np.int64)
        for rows in (queries, gallery)
    )
    if not len(queries):
        most = max(counts.values())
        raise DataError(
            f"no query of {table.name} is of a class with {card.least_pictures} pictures in the gallery, which {card.name} asks "
            f"for (the largest has {most}); add pictures, or lower it with --least-pictures"
        )
    return queries, gallery


def check_answers(card: Card, parts: Parts) -> None:
    """DataError unless some query has another picture with a class in common in its gallery."""

    of_row = parts.table.label_lists() if card.several_labels else [[label] for label in parts.table.labels]
    searched = set(parts.gallery.tolist())
    counts = Counter(each for row in parts.gallery.tolist() for each in of_row[row])
    if not any(counts[each] > (row in searched) for row in parts.queries.tolist() for each in of_row[row]):
        raise DataError(
            f"no query of {parts.table.name} has another picture of its class in the gallery, so nothing can be scored; check "
            "labels and splits"
        )


def complete(card: Card, parts: Parts) -> bool | None:
    """Whether the splits hold as much as the release; None where the card does not say of each of them how much that is."""
    found = parts.sizes
    if any(found.get(split, size) != size for split, size in card.sizes.items()):
        return False
    return True if found.keys() <= card.sizes.keys() else None


@dataclass(frozen=True)
class Leaks:
    """Copies that make scores say something else than they should, and sentences about the first of each sort.

    same, near: pictures that are in two splits, exactly the same pixels, or nearly (mirrored or not).
    within_same, within_near: queries with a copy of themselves, pixel for pixel or nearly, that is in their gallery, of their own
    split and relevant: they find it first, whatever was learnt. A copy that the gallery rule leaves out does not count.
    other_class: pictures whose very pixels are also there with no class in common: one of the two labels is wrong.
    """

    same: int
    near: int
    within_same: int
    within_near: int
    other_class: int
    examples: list[str]
    within_examples: list[str]
    other_class_examples: list[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


def look_at(parts: Parts) -> check.Looks:
    """Every picture, decoded once. DataError for one that is missing or cannot be read: a protocol leaves none out."""
    looks, broken = check.look_at_all(parts.table)
    if broken:
        more = f" (and {len(broken) - 1:,} more)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0].message}{more}; a protocol leaves no picture out: complete the data")
    return looks


def pictures_hash(parts: Parts, looks: check.Looks) -> str:
    """sha256 in hex, the first 16 digits, of every picture in order of ids: the bytes of its file, and its box.

    Of files and not of pixels, as decoders of JPEG differ by a grey level from one version or machine to another: honest results
    of the same files would not compare. The price is that the same pixels in another file format count as other pictures.
    """
    table = parts.table
    digest = hashlib.sha256()
    for row in sorted(range(len(table)), key=table.ids.__getitem__):
        digest.update(f"{table.ids[row]}\t{looks.files[row].hex()}\t{table.box(row)}\n".encode())
    return digest.hexdigest()[:16]


def find_leaks(card: Card, parts: Parts, rule: GalleryRule, looks: check.Looks) -> Leaks:
    """What is there twice among the pictures of a protocol, as `look_at` saw them."""
    same = [problem.message for problem in check.same_in_two_splits(parts.table, looks)]
    near = [problem.message for problem in check.near_in_two_splits(parts.table, looks)]
    within_same, within_near = _copies_within(card, parts, rule, looks)
    other_class = _of_other_classes(card, parts.table, looks)
    return Leaks(
        len(same),
        len(near),
        len(within_same),
        len(within_near),
        len(other_class),
        [*same, *near][:SHOWN_LEAKS],
        [*within_same, *within_near][:SHOWN_LEAKS],
        other_class[:SHOWN_LEAKS],
    )


def _copies_within(card: Card, parts: Parts, rule: GalleryRule, looks: check.Looks) -> tuple[list[str], list[str]]:
    """A sentence for each query with an exact copy that is right for it, and for each other one with a near copy."""
    table = parts.table
    splits = np.array(table.splits, dtype=object)
    shared = np.intersect1d(splits[parts.queries].astype(str), splits[parts.gallery].astype(str))
    if not len(shared):
        return [], []  # copies in two splits are counted as such
    queries, gallery = table.select(parts.queries), table.select(parts.gallery)
    valid = rule.between(queries, gallery)
    relevant = relevant_pairs(queries, gallery, several_labels=card.several_labels)
    splits_Q, splits_N = splits[parts.queries], splits[parts.gallery]

    def counts(number: int) -> NDArray[np.bool_]:
        one = slice(number, number + 1)
        counted: NDArray[np.bool_] = valid(one)[0] & relevant(one)[0] & (splits_N == splits_Q[number])
        return counted

    # Every picture was read, so places in `looks` are rows of the table.
    place = {row: number for number, row in enumerate(parts.gallery.tolist())}
    group_of = {row: group for group in check.same_pixels(looks) for row in group}
    same: dict[int, str] = {}
    for number, row in enumerate(parts.queries.tolist()):
        others = [place[other] for other in group_of.get(row, ()) if other != row and other in place]
        right = [other for other in others if counts(number)[other]] if others else []
        if right:
            same[row] = f"{table.ids[row]} has exactly the pixels of {gallery.ids[right[0]]}"
    near = {}
    for row, nearest, mirrored, _ in check.near_duplicates(looks, parts.queries, parts.gallery, counts):
        if row not in same:
            how = ", mirrored" if mirrored else ""
            near[row] = f"{table.ids[row]} looks nearly the same as {table.ids[nearest]}{how}"
    return list(same.values()), list(near.values())


def _of_other_classes(card: Card, table: PictureTable, looks: check.Looks) -> list[str]:
    """A sentence for each labelled picture whose pixels are also there with no class in common."""
    of_row = table.label_lists() if card.several_labels else [[label] if label else [] for label in table.labels]
    sentences = []
    for group in check.same_pixels(looks):
        first = {tuple(of_row[row]): row for row in reversed(group) if of_row[row]}
        for row in group:
            other = next((each for names, each in first.items() if set(names).isdisjoint(of_row[row])), None)
            if other is not None and of_row[row]:
                sentences.append(
                    f"{table.ids[row]} ({table.labels[row]}) has exactly the pixels of {table.ids[other]} ({table.labels[other]})"
                )
    return sentences


# ---- what is done to an ordinary table ------------------------------------------------------------------------------


def _has_splits(table: PictureTable) -> bool:
    return {"train", "test"} <= set(table.splits)


def _halves(table: PictureTable) -> PictureTable:
    """As the table says; one without splits: the first half of the classes by name trains, the other is searched."""
    return table if _has_splits(table) else split_unseen_classes(table, 0.5)


def _alphabets(table: PictureTable) -> PictureTable:
    """As the table says; one without splits: the last third of the alphabets by name, at least one, is searched."""
    if _has_splits(table):
        return table
    of_row = [label.partition("/")[0] for label in table.labels]
    names = sorted(set(of_row) - {""})
    if len(names) < 2 or not all("/" in label for label in table.labels if label):
        raise DataError(
            f"{table.name} has {len(names)} alphabets, or labels that are not alphabet/character; expected two alphabets at least"
        )
    searched = set(names[-max(1, len(names) // 3) :])
    splits = ["test" if name in searched else "train" if name else "" for name in of_row]
    return dataclasses.replace(table, splits=splits)


def _held_out(table: PictureTable) -> PictureTable:
    """As the table says; training pictures are held out (seed 0) for a missing split val, and for a test without labels."""
    splits = np.array(table.splits, dtype=object)
    labelled = np.array([label != "" for label in table.labels], dtype=bool)
    train = np.random.default_rng(0).permutation(np.flatnonzero((splits == "train") & labelled))
    n = round(HELD_OUT * len(train))
    if "val" not in table.splits:
        splits[train[:n]] = "val"
        train = train[n:]
    if not (labelled & (splits == "test")).any():
        splits[splits == "test"] = ""
        splits[train[:n]] = "test"
    return dataclasses.replace(table, splits=splits.tolist())


PREPARATIONS: Mapping[str, Callable[[PictureTable], PictureTable]] = {
    **cifar10_splits.SPLITS,
    "halves": _halves,
    "alphabets": _alphabets,
    "held out": _held_out,
}
