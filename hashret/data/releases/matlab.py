"""MATLAB files of a release, read by scipy (the extra `datasets`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.errors import DataError, UsageError

Cell = npt.NDArray[np.object_]


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, cells as arrays of objects. DataError when it cannot be read, UsageError without scipy."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UsageError(f"{path} is a MATLAB file, read by scipy; pip install 'hashret[datasets]'") from error
    try:
        content: dict[str, Any] = loadmat(str(path), chars_as_strings=True)
    # scipy lets almost any exception out of a damaged file (struct.error, zlib.error, TypeError, MemoryError ...).
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as a MATLAB file ({_reason(error)}); unpack the release anew"
        ) from error
    return content


def cell_of(content: dict[str, Any], name: str, path: Path) -> Cell:
    """The cell array called `name`. DataError when there is none."""
    found = content.get(name)
    if not isinstance(found, np.ndarray) or found.dtype != object:
        has = ", ".join(sorted(key for key in content if not key.startswith("__"))) or "nothing"
        raise DataError(f"{path} has no cell array {name!r} (found {has}); unpack the release anew")
    return found


def texts_of(content: dict[str, Any], name: str, path: Path) -> list[str]:
    """The texts in the cell array called `name`, without surrounding spaces. DataError when there are none."""
    return [
        text_in(value, f"{path}: entry {i} of {name}") for i, value in enumerate(cell_of(content, name, path).flat, 1)
    ]


def text_in(value: Any, where: str) -> str:
    """The text in a field of a cell array; "" for an empty one. DataError, which names `where`, when it is another thing."""
    array = np.asarray(value)
    if not array.size:
        return ""
    if array.size != 1 or array.dtype.kind != "U":
        raise DataError(f"{where} is {array.ravel()[:3].tolist()}, expected a text")
    return str(array.item()).strip()


def whole_number_in(value: Any, where: str) -> int:
    """The whole number in a field of a cell array. DataError, which names `where`, when it is another thing."""
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "iuf" and float(array.item()).is_integer():
        return int(array.item())
    raise DataError(f"{where} is {array.ravel()[:3].tolist()}, expected a whole number")


def whole_numbers_of(content: dict[str, Any], name: str, path: Path) -> list[int]:
    """The whole numbers in the array called `name`. DataError when there are none."""
    if name not in content:
        raise DataError(f"{path} has no array {name!r}; unpack the release anew")
    values = np.asarray(content[name]).ravel()
    return [whole_number_in(value, f"{path}: entry {i} of {name}") for i, value in enumerate(values, 1)]


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0].strip().rstrip(".") or type(error).__name__
