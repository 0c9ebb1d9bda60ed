"""The exception tree. Every error a user can cause is one sentence: found, expected, what to do.

HashretError
├── UsageError          a wrong option or argument               (exit status 2)
├── DataError           a table or a source of pictures is wrong
│   └── ImageError      one picture cannot be read; names its path
├── CodeError           codes or logits break the bit contract
├── SearchError         an index refuses what was asked of it
│   ├── DeviceMemoryError  a GPU has too little memory left
│   └── IndexFormatError  an index folder is damaged or is none
│       └── IndexVersionError  an index folder is of a newer format
├── ModelError          a model folder, weights or a run is wrong
└── TrainingError       training cannot start or go on
"""

from __future__ import annotations

from pathlib import Path


class HashretError(Exception):
    """Base of everything hashret raises on purpose; its text is one sentence for the user."""


class UsageError(HashretError):
    """A wrong option or argument."""


class DataError(HashretError):
    """A table or a source of pictures is wrong."""


class ImageError(DataError):
    """One picture cannot be read."""


class CodeError(HashretError):
    """Codes or logits break the bit contract."""


class SearchError(HashretError):
    """An index refuses what was asked of it (duplicate id, wrong code size, another model's query)."""


class DeviceMemoryError(SearchError):
    """A GPU has too little memory left."""


class IndexFormatError(SearchError):
    """An index folder is damaged, or is no index."""


def damaged(path: Path, why: str) -> IndexFormatError:
    """The error for a file of an index that is not what it should be."""
    return IndexFormatError(f"{path} is damaged ({why}); restore the folder from a copy or build the index again")


class IndexVersionError(IndexFormatError):
    """An index folder is of a newer format than this hashret reads."""


class ModelError(HashretError):
    """A model folder, a weights file or a run is wrong or missing."""


class TrainingError(HashretError):
    """Training cannot start, or cannot go on."""
