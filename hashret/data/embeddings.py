"""Embeddings from anything: a .npy file of float vectors, one a row, checked before they are used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hashret.errors import DataError

Embeddings: TypeAlias = npt.NDArray[np.floating[Any]]

MAX_DIM = 1 << 16
_NUMBERS_AT_ONCE = 1 << 22


def open_embeddings(file: str | Path, *, one_is_a_row: bool = False) -> Embeddings:
    """The vectors (N, D) of a .npy file, floats of any precision, memory-mapped read-only and never unpickled.

    one_is_a_row: a single vector (D,) is taken as (1, D). DataError for a file that is missing or no such array, for an empty
    one, and for a row that is all zeros or holds NaN or infinity, which has no direction.
    """
    path = Path(file)
    if not path.is_file():
        raise DataError(f"there is no file {path}; expected a .npy file of float vectors, one a row")
    try:
        stored: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, TokenError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise DataError(
            f"{path} is no .npy array of numbers ({reason}); write one with numpy.save(file, vectors, allow_pickle=False)"
        ) from error
    vectors = np.asarray(stored)
    if vectors.ndim == 1 and one_is_a_row:
        vectors = vectors[None]
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating) or not 1 <= vectors.shape[1] <= MAX_DIM:
        raise DataError(
            f"{path} holds {stored.dtype} of shape {stored.shape}, expected floats of shape (N, D), D from 1 to {MAX_DIM:,}"
        )
    if not len(vectors):
        raise DataError(f"{path} holds no vectors; expected at least one row")
    _check_directions(vectors, path)
    return vectors


def _check_directions(vectors_ND: Embeddings, path: Path) -> None:
    step = max(1, _NUMBERS_AT_ONCE // vectors_ND.shape[1])
    for start in range(0, len(vectors_ND), step):
        largest = np.abs(vectors_ND[start : start + step]).max(axis=1)  # NaN where there is one
        wrong = np.flatnonzero(~np.isfinite(largest) | (largest == 0))
        if len(wrong):
            raise DataError(
                f"row {start + wrong[0]} of {path} is all zeros or holds NaN or infinity; expected finite numbers that have a "
                "direction, so leave it out, with its picture"
            )


def read_ids(file: str | Path, n: int) -> list[str]:
    """The ids in a text file (UTF-8), one a line, `n` of them; DataError for another number, an empty line or one twice."""
    path = Path(file)
    try:
        lines = path.read_text("utf-8-sig").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; expected one id a line") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}); expected one id a line") from error
    ids = [line.strip() for line in lines]
    if "" in ids:
        raise DataError(f"line {ids.index('') + 1} of {path} is empty; expected one id a line")
    if len(ids) != n:
        raise DataError(f"{path} holds {len(ids):,} ids for {n:,} rows; expected one for each")
    twice, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise DataError(f"the id {twice!r} stands twice in {path}; expected every id once")
    return ids
