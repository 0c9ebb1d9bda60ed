"""What is wrong with a table of pictures: one line a problem.

Errors: a file that is missing or unreadable, an id that occurs twice, exactly the same picture in two splits. Warnings: a
label with a single picture, near-duplicates in two splits, mirrored or not. Crops are not found: they share neither hash nor
thumbnail with the whole picture.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from hashret.data.table import PictureTable
from hashret.errors import DataError, ImageError
from hashret.hamming import search_radius
from hashret.images import file_digest, picture_exists, read_picture

NEAR_RADIUS = 8
"""Difference hashes (64 bits) of near-duplicates are at most this many bits apart ..."""
NEAR_CORRELATION = 0.95
"""... and their 16x16 grey thumbnails correlate at least this much.

Measured on Stanford Cars at 96 px (33 million pairs) and CIFAR-10's test pictures (50 million): JPEG quality 50 and 10 % brighter
are found in 97-100 % of cases, half the size in 99 % of cars. Of 26 pairs that met both as they are, each was one photograph.
Mirrored copies: all are found when saved without loss, at JPEG quality 50 100 % of cars and 98 % of CIFAR-10, 10 % brighter
99-100 %, half the size 100 % of cars and 82 % of CIFAR-10 (16 px). Of 6 pairs that met both mirrored, 4 were one photograph and 2
were cars of one model from mirrored sides: 1 false alarm in 40 million pairs. Symmetric things, as cars from the front, are no
alarm: what lies around them is not symmetric. Drawings of one character of Omniglot are: 232 in a million pairs as they are, 77
mirrored; of different ones 0.3 each. Rendered cars (59 million pairs): less than 0.1 in a million each."""

_THUMB = 16
_BATCH = 512
_CANDIDATES = 64  # near-duplicates looked at for one picture: sets of all-alike pictures would give millions of pairs


@dataclass(frozen=True)
class Problem:
    """One problem: how bad, of which kind, which pictures (by id), and one sentence."""

    severity: Literal["error", "warning"]
    kind: Literal[
        "missing file",
        "unreadable picture",
        "duplicate id",
        "label with a single picture",
        "same picture in two splits",
        "near-duplicate in two splits",
    ]
    ids: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """The problem as plain values, for JSON."""
        return {**asdict(self), "ids": list(self.ids)}


@dataclass
class Looks:
    """What is kept of readable pictures: row, digests of file and pixels, thumbnail, difference hash as it is and mirrored."""

    rows: npt.NDArray[np.int64]
    files: list[bytes]
    digests: list[bytes]
    thumbs_ND: npt.NDArray[np.uint8]
    hashes_NB: npt.NDArray[np.uint8]
    mirrored_NB: npt.NDArray[np.uint8]

    def thumb(self, place: int, mirrored: bool) -> npt.NDArray[np.uint8]:
        """The thumbnail (D,) of the picture at a place, or of its mirrored picture."""
        thumb_HW = self.thumbs_ND[place].reshape(_THUMB, _THUMB)
        thumb_D: npt.NDArray[np.uint8] = (thumb_HW[:, ::-1] if mirrored else thumb_HW).reshape(-1)
        return thumb_D


@dataclass(frozen=True)
class _Look:
    """What is kept of one picture, as in Looks."""

    file: bytes
    digest: bytes
    thumb_D: npt.NDArray[np.uint8]
    hash_B: npt.NDArray[np.uint8]
    mirrored_B: npt.NDArray[np.uint8]


def check(table: PictureTable, *, threads: int | None = None, progress: bool = True) -> list[Problem]:
    """All problems of a table, in a fixed order: by kind as listed at the top of this file, then by row.

    "The same picture" is the same upright RGB pixels after the box is cut out, whatever the file format. A
    near-duplicate is reported once for each picture of the smaller split, with its closest counterpart. Every picture is
    decoded once, on `threads` threads (default: one a core).
    """
    problems = [*_duplicate_ids(table)]
    looks, unreadable = look_at_all(table, threads=threads, progress=progress)
    problems = [*unreadable, *problems, *same_in_two_splits(table, looks), *_single_labels(table)]
    problems += near_in_two_splits(table, looks)
    return problems


def _duplicate_ids(table: PictureTable) -> Iterator[Problem]:
    for name, count in Counter(table.ids).items():
        if count > 1:
            yield Problem("error", "duplicate id", (name,), f"the id {name!r} occurs {count} times; ids must be unique")


def _single_labels(table: PictureTable) -> Iterator[Problem]:
    counts = Counter(table.labels)
    for name, label in zip(table.ids, table.labels, strict=True):
        if label and counts[label] == 1:
            yield Problem(
                "warning", "label with a single picture", (name,), f"the label {label!r} has a single picture, {name}"
            )


def look_at_all(
    table: PictureTable, *, threads: int | None = None, progress: bool = True
) -> tuple[Looks, list[Problem]]:
    """What is kept of the pictures that can be read, and a problem for each of the others; threads and progress as in `check`."""
    rows: list[int] = []
    looks: list[_Look] = []
    problems = []

    def look(row: int) -> _Look | Problem:
        return _look(table, row)

    bar = tqdm(total=len(table), desc="checking", unit="pic", delay=2, disable=None if progress else True)
    every_row = iter(range(len(table)))
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, bar:
        # In batches: a pool takes in all its work at once, which for a million pictures is a million waiting tasks.
        while batch := list(islice(every_row, _BATCH)):
            for row, seen in zip(batch, pool.map(look, batch), strict=True):
                if isinstance(seen, Problem):
                    problems.append(seen)
                else:
                    rows.append(row)
                    looks.append(seen)
            bar.update(len(batch))
    kept = Looks(
        np.array(rows, dtype=np.int64),
        [each.file for each in looks],
        [each.digest for each in looks],
        np.array([each.thumb_D for each in looks], dtype=np.uint8).reshape(-1, _THUMB * _THUMB),
        np.array([each.hash_B for each in looks], dtype=np.uint8).reshape(-1, 8),
        np.array([each.mirrored_B for each in looks], dtype=np.uint8).reshape(-1, 8),
    )
    return kept, problems


def _look(table: PictureTable, row: int) -> _Look | Problem:
    name, path = table.ids[row], table.paths[row]
    try:
        picture = read_picture(path, box=table.box(row))
        file = file_digest(path)
    except ImageError as error:
        if picture_exists(path):
            return Problem("error", "unreadable picture", (name,), f"{name}: {error}")
        return Problem("error", "missing file", (name,), f"{name}: there is no file {path}")
    except DataError as error:
        return Problem("error", "unreadable picture", (name,), str(error))
    digest = hashlib.blake2b(repr(picture.size).encode(), digest_size=16)
    digest.update(picture.tobytes())
    grey = picture.convert("L")
    nine = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    thumb = np.asarray(grey.resize((_THUMB, _THUMB), Image.Resampling.BOX))
    # Shrinking is symmetric, but for the middle column of an odd width, which goes to one side: so the mirrored picture need not
    # be shrunk. Its small pictures are these, mirrored.
    as_it_is, mirrored = (np.packbits(each[:, 1:] > each[:, :-1]) for each in (nine, nine[:, ::-1]))
    return _Look(file, digest.digest(), thumb.reshape(-1), as_it_is, mirrored)


def same_pixels(looks: Looks) -> list[list[int]]:
    """Rows of the table that hold one picture, pixel for pixel: each group of two or more, by its first row."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in zip(looks.rows.tolist(), looks.digests, strict=True):
        groups[digest].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def same_in_two_splits(table: PictureTable, looks: Looks) -> Iterator[Problem]:
    """One problem for each picture that other splits hold as well."""
    for rows in same_pixels(looks):
        first: dict[str, int] = {}
        for row in rows:
            if table.splits[row]:
                first.setdefault(table.splits[row], row)
        if len(first) > 1:
            places = ", ".join(f"{table.ids[row]} ({split})" for split, row in first.items())
            more = len(rows) - len(first)
            also = f" and {more} more" if more else ""
            yield Problem(
                "error",
                "same picture in two splits",
                tuple(table.ids[row] for row in first.values()),
                f"exactly the same picture is in {len(first)} splits: {places}{also}",
            )


def near_in_two_splits(table: PictureTable, looks: Looks) -> Iterator[Problem]:
    """One problem for each picture of the smaller split that looks nearly the same as one of the other."""
    splits = np.array([table.splits[row] for row in looks.rows], dtype=object)
    members = {split: np.flatnonzero(splits == split) for split in sorted(set(splits.tolist()) - {""})}
    for one, other in combinations(sorted(members, key=lambda split: (len(members[split]), split)), 2):
        for query, match, mirrored, count in near_duplicates(looks, members[one], members[other]):
            row, nearest = int(looks.rows[query]), int(looks.rows[match])
            how = ", mirrored" if mirrored else ""
            more = f" and {count - 1} more" if count > 1 else ""
            yield Problem(
                "warning",
                "near-duplicate in two splits",
                (table.ids[row], table.ids[nearest]),
                f"{table.ids[row]} ({one}) looks nearly the same as {table.ids[nearest]} ({other}){how}{more}",
            )


def near_duplicates(
    looks: Looks,
    queries: npt.NDArray[np.int64],
    gallery: npt.NDArray[np.int64],
    counts: Callable[[int], npt.NDArray[np.bool_]] | None = None,
) -> Iterator[tuple[int, int, bool, int]]:
    """(query, its closest near-duplicate, whether mirrored, how many it has), places in `looks`; the same pixels do not count.

    One that is near as it is, as pictures of symmetric things are both ways, is not called mirrored. counts: from a number in
    `queries` to bool (len(gallery),), which pictures of the gallery count for that query; all, where it is left out.
    """
    # Equal hashes are searched once: plain or line drawings share a few of them by the thousand.
    asked = np.concatenate([looks.hashes_NB[queries], looks.mirrored_NB[queries]])
    query_hashes, query_group = np.unique(asked, axis=0, return_inverse=True)
    gallery_hashes, gallery_group = np.unique(looks.hashes_NB[gallery], axis=0, return_inverse=True)
    by_group = np.argsort(gallery_group.reshape(-1), kind="stable")
    starts = np.searchsorted(gallery_group.reshape(-1)[by_group], np.arange(len(gallery_hashes) + 1))
    offsets, _, found = search_radius(gallery_hashes, query_hashes, NEAR_RADIUS, code_size=64)
    groups = query_group.reshape(2, -1).T.tolist()

    def candidates_of(number: int, group: int) -> npt.NDArray[np.int64]:
        matched = found[offsets[group] : offsets[group + 1]]  # nearest first
        if counts is None:
            matched = matched[:_CANDIDATES]
        members = [by_group[starts[near] : starts[near + 1]] for near in matched.tolist()]
        if counts is not None:
            members = [each[gallery[each] != queries[number]] for each in members]
            if any(len(each) for each in members):  # few pictures have others as near as this
                counted_N = counts(number)
                members = [each[counted_N[each]] for each in members]
        first = np.concatenate([by_group[:0], *(each[:_CANDIDATES] for each in members)])[:_CANDIDATES]
        candidates: npt.NDArray[np.int64] = gallery[first]
        return candidates

    for number, (query, both) in enumerate(zip(queries.tolist(), groups, strict=True)):
        likeness: dict[int, tuple[float, bool]] = {}
        for mirrored, group in zip((False, True), both, strict=True):
            candidates = candidates_of(number, group)
            alike = _correlation(looks.thumb(query, mirrored), looks.thumbs_ND[candidates])
            for candidate, value in zip(candidates.tolist(), alike.tolist(), strict=True):
                if value >= NEAR_CORRELATION and looks.digests[candidate] != looks.digests[query]:
                    likeness.setdefault(candidate, (value, mirrored))
        if likeness:
            nearest, (_, mirrored) = max(likeness.items(), key=lambda each: each[1][0])
            yield query, nearest, mirrored, len(likeness)


def _correlation(thumb_D: npt.NDArray[np.uint8], thumbs_ND: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Pearson correlation (N,) of one thumbnail with others; two plain ones count as 1 when their greys are alike."""
    one = thumb_D.astype(np.float64)
    others = thumbs_ND.astype(np.float64)
    grey, greys = one.mean(), others.mean(axis=1)
    one, others = one - grey, others - greys[:, None]
    norms = np.linalg.norm(one) * np.linalg.norm(others, axis=1)
    plain = norms == 0
    correlation: npt.NDArray[np.float64] = np.divide(others @ one, norms, out=np.zeros(len(others)), where=~plain)
    both_plain = plain & ~one.any() & ~others.any(axis=1)
    correlation[both_plain & (np.abs(greys - grey) <= 2)] = 1.0
    return correlation
