"""Near-duplicates in an index of codes: pairs of ids, and the groups that they form.

Shape suffixes: B bytes of a code, P pairs, G groups, M members of all groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Codes, bytes_per_code
from hashret.index.contents import Ids

if TYPE_CHECKING:
    from hashret.hamming.self_join import Pairs
    from hashret.index.hamming import HammingIndex

Progress = Callable[[int, int], None]
"""Is told how many pairs have been compared, and how many there are."""

_AT_ONCE = 1 << 16
"""Members whose distances are taken at a time."""


@dataclass(frozen=True)
class NearDuplicates:
    """Groups of two or more, ordered by their first member; members of a group in the order of the index's rows.

    offsets (G + 1) int64: group g has ids[offsets[g] : offsets[g + 1]]. ids (M) int64. distances (M) int32, of each member
    to the first of its group: 0 for that one itself.
    """

    offsets: npt.NDArray[np.int64]
    ids: Ids
    distances: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def self_join_index(
    index: HammingIndex, radius: int, threads: int | None = None, progress: Progress | None = None
) -> Iterator[Pairs]:
    """Every pair of ids whose codes are at most `radius` bits apart, exact, in chunks: (first, second, distances).

    Ascending by the pair's rows, and the first id is that of the earlier row. One search sees one generation. Memory: 2
    million pairs at a time, or as many as a single row has, and a copy of the codes unless they are one segment without
    deletes. progress: called now and then with pairs compared and pairs in all. SearchError when the radius is none.
    """
    from hashret.hamming.self_join import Pairs, self_join  # starts numba

    codes, ids = _living(index)
    chunks = self_join(codes, radius, index.code_size, None, threads, progress)
    return (Pairs(ids[chunk.first], ids[chunk.second], chunk.distances) for chunk in chunks)


def near_duplicates(
    index: HammingIndex, radius: int, threads: int | None = None, progress: Progress | None = None
) -> NearDuplicates:
    """The groups that pairs at most `radius` bits apart connect, exact; arguments as in `self_join_index`.

    A chain of near codes is one group, so two of its members may be farther apart than the radius. Equal codes are
    compared once, however many there are.
    """
    from hashret.hamming.components import near_groups  # starts numba

    codes, ids = _living(index)
    groups = near_groups(codes, radius, index.code_size, None, threads, progress)
    firsts = np.repeat(groups.rows[groups.offsets[:-1]], np.diff(groups.offsets))
    return NearDuplicates(groups.offsets, ids[groups.rows], _distances(codes, firsts, groups.rows))


def _living(index: HammingIndex) -> tuple[Codes, Ids]:
    """Codes and ids of all living rows, in order; not copied where they are one whole segment."""
    parts: list[tuple[Any, Ids]] = []
    for segment in index._contents.segments:
        kept = slice(None) if segment.alive is None else segment.alive
        parts.append((np.asarray(segment.codes)[kept], segment.ids[kept]))
    if len(parts) == 1:
        return parts[0]
    no_codes, no_ids = np.empty((0, bytes_per_code(index.code_size)), np.uint8), np.empty(0, np.int64)
    codes, ids = zip((no_codes, no_ids), *parts, strict=True)
    return np.concatenate(codes), np.concatenate(ids)


def _distances(codes_NB: Codes, rows: Ids, others: Ids) -> npt.NDArray[np.int32]:
    """The distance (M) int32 of each row to the other one."""
    found = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = np.bitwise_count(codes_NB[rows[part]] ^ codes_NB[others[part]]).sum(axis=1, dtype=np.int32)
    return found
