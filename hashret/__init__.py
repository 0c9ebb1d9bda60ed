"""hashret: deep-hashing picture retrieval. The public names, each loaded on first use.

`import hashret` loads neither torch nor numba; `hashret.HammingIndex` never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashret.data.table import PictureTable as PictureTable
    from hashret.errors import HashretError as HashretError
    from hashret.index.cosine import CosineIndex as CosineIndex
    from hashret.index.cosine import InnerProductIndex as InnerProductIndex
    from hashret.index.hamming import HammingIndex as HammingIndex
    from hashret.model.hasher import Hasher as Hasher
    from hashret.showing import show as show

__version__ = "0.1.0"

_PUBLIC = {
    "CosineIndex": "hashret.index.cosine",
    "HammingIndex": "hashret.index.hamming",
    "Hasher": "hashret.model.hasher",
    "HashretError": "hashret.errors",
    "InnerProductIndex": "hashret.index.cosine",
    "PictureTable": "hashret.data.table",
    "show": "hashret.showing",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hashret' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
