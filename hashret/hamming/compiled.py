"""Compiled kernels that start at once in the next process: numba with a cache keyed by the sources of the whole package.

numba's own key covers the file of a kernel only: an edit to a function that it calls, or to an intrinsic, would leave stale
machine code in use. Here the cache folder carries a digest of every source file of the kernel's package and the versions
of numba and llvmlite, so stale code cannot be found.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.extending import intrinsic

from hashret.hamming.cache import user_cache

_config: Any = config
_log = logging.getLogger("hashret.hamming")
_lock = threading.Lock()


def kernel(function: Callable[..., Any]) -> Any:
    """The function compiled by numba on first use, without the interpreter lock, and kept on disk."""
    return compiled(function)


def lean(function: Callable[..., Any]) -> Any:
    """A kernel that counts no references, each of which is an atomic operation: it cannot make or copy arrays."""
    return compiled(function, _nrt=False)


def inlined(function: Callable[..., Any]) -> Any:
    """A lean kernel that becomes part of those that call it: a dozen arrays are a hundred words of arguments."""
    return compiled(function, _nrt=False, forceinline=True)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """The same with options of `numba.njit`."""
    folder = _cache_folder(Path(sys.modules[function.__module__].__file__ or "").parent)
    if folder is None:
        return numba.njit(nogil=True, **options)(function)
    with _lock:
        # numba reads the folder when the dispatcher is made, and knows no argument for it.
        before = _config.CACHE_DIR
        _config.CACHE_DIR = str(folder)
        try:
            dispatcher = numba.njit(nogil=True, cache=True, **options)(function)
        finally:
            _config.CACHE_DIR = before
    _name_apart(dispatcher)
    return dispatcher


def _name_apart(dispatcher: Any) -> None:
    """Give each file of machine code a name of its own.

    numba numbers them from an index that another process may be rewriting: two processes that compile one kernel for
    different types at once could both choose "1", and the index then name one's code as the other's.
    """
    files = dispatcher._cache._cache_file

    def name(number: int) -> str:
        return str(files._data_name_pattern.format(number=number)).replace(".nbc", f".{secrets.token_hex(8)}.nbc")

    files._data_name = name


def emitted(function: Callable[..., Any]) -> Any:
    """numba's `intrinsic`: a function that emits LLVM IR where kernels call it."""
    return intrinsic(function)


@functools.cache
def _cache_folder(source: Path) -> Path | None:
    """Where the kernels of one package folder are kept, or None when the user's cache cannot be written."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(source.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    kept = user_cache() / "kernels"
    folder = kept / f"{source.name}-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(folder)
        for other in kept.glob(f"{source.name}-*"):
            if time.time() - other.stat().st_mtime > _FORGOTTEN_AFTER:
                shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        _log.warning(
            "compiled kernels cannot be kept in %s (%s); every process compiles them anew", folder, error.strerror
        )
        return None
    return folder


_FORGOTTEN_AFTER = 30 * 24 * 3600.0
"""Seconds after which the kernels of sources that nobody uses any more are removed."""
