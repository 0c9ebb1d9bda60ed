"""What comes into a search, checked once for all ways of searching.

Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hashret.codes import Bits, Codes, check_codes
from hashret.errors import SearchError
from hashret.hamming.threads import available_threads

Rows = npt.NDArray[np.int64]

FEW_ALIVE = 8
"""Where at most one code in so many is alive, those are copied together first: less is read than compared."""


def checked(
    gallery_NB: npt.ArrayLike,
    queries_QB: npt.ArrayLike,
    code_size: int | None,
    alive: npt.ArrayLike | None,
    threads: int | None,
) -> tuple[Codes, Codes, Bits | None, int]:
    """Gallery, queries, flags and threads (all cores for None) that fit together; CodeError or SearchError if they do not."""
    gallery: npt.NDArray[Any] = np.asarray(gallery_NB)
    size = code_size if code_size is not None else 8 * gallery.shape[-1] if gallery.ndim == 2 else 0
    # Tail bits of a gallery were checked when its codes were made; a search does not read it all once more.
    check_codes(gallery[:0], size)
    queries = check_codes(queries_QB, size)
    return gallery, queries, checked_flags(alive, len(gallery)), checked_threads(threads)


def on_device(array: object) -> bool:
    """Whether an array lies in a GPU's memory."""
    if isinstance(array, np.ndarray):
        return False
    from hashret.hamming.gpu.arrays import is_on_device

    return is_on_device(array)


def checked_flags(alive: npt.ArrayLike | None, n: int) -> Bits | None:
    """A flag for each of n codes, or None where all are alive because none was given."""
    if alive is None:
        return None
    flags = np.asarray(alive)
    if flags.dtype != np.bool_ or flags.shape != (n,):
        raise SearchError(f"alive has dtype {flags.dtype} and shape {flags.shape}, expected bool of shape ({n},)")
    return flags


def checked_threads(threads: int | None) -> int:
    """The number of threads; all cores for None."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise SearchError(f"threads is {threads!r}, expected a whole number from 1, or None for all cores")
    return threads or available_threads()


def checked_k(k: int) -> int:
    """How many neighbours."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise SearchError(f"k is {k!r}, expected a whole number from 1")
    return int(k)


def checked_radius(radius: int) -> int:
    """A radius in bits."""
    if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or radius < 0:
        raise SearchError(f"radius is {radius!r}, expected a whole number of bits from 0")
    return int(radius)


def gathered(gallery: Codes, living: Bits | None) -> tuple[Codes, Bits | None, Rows | None]:
    """The gallery, flags and, where only the few living codes are left, their row numbers."""
    if living is None:
        return gallery, None, None
    count = int(np.count_nonzero(living))
    if count == len(gallery):
        return gallery, None, None
    if count * FEW_ALIVE > len(gallery):
        return gallery, living, None
    numbers = np.flatnonzero(living)
    return gallery[numbers], None, numbers


def flags_of(living: Bits | None, first: int, count: int) -> Bits:
    """The flags of consecutive rows as kernels take them: read-only (they are compiled for one type), empty when all live."""
    flags = np.zeros(0, np.bool_) if living is None else living[first : first + count]
    flags = np.ascontiguousarray(flags).view()
    flags.flags.writeable = False
    return flags
