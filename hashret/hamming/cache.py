"""Where things are kept that can be made again: compiled kernels and measured costs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """The folder for what can be made again: HASHRET_CACHE, or hashret/ in the user's own cache folder."""
    if os.environ.get("HASHRET_CACHE"):
        return Path(os.environ["HASHRET_CACHE"])
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hashret"
