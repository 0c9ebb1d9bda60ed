"""Checksums of a file: SHA-256 of all of it, and XXH3 of each block, which say where a damaged file is damaged."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

BLOCK = 1 << 16
"""Bytes of a block; the last one of a file may be shorter."""


_READ = 1 << 20


@dataclasses.dataclass(frozen=True)
class Digest:
    """Size, SHA-256 (hexadecimal) and, block by block, 64-bit XXH3 (seed 0) of some bytes."""

    n_bytes: int
    sha256: str
    blocks: tuple[int, ...]


class Digester:
    """Takes the bytes of a file in parts; `digest` says what they were so far."""

    def __init__(self) -> None:
        self._n_bytes = 0
        self._sha256 = hashlib.sha256()
        self._blocks: list[int] = []
        self._block = xxhash.xxh3_64()

    def update(self, part: bytes | memoryview) -> None:
        """Take in what comes next."""
        flat = memoryview(part).cast("B")
        self._sha256.update(flat)
        while len(flat):
            room = BLOCK - self._n_bytes % BLOCK
            self._block.update(flat[:room])
            self._n_bytes += min(room, len(flat))
            flat = flat[room:]
            if self._n_bytes % BLOCK == 0:
                self._end_block()

    def digest(self) -> Digest:
        """Of all that came in; nothing may come after."""
        if self._n_bytes % BLOCK:
            self._end_block()
        return Digest(self._n_bytes, self._sha256.hexdigest(), tuple(self._blocks))

    def _end_block(self) -> None:
        self._blocks.append(self._block.intdigest())
        self._block = xxhash.xxh3_64()


def digest_of(parts: Iterable[bytes | memoryview]) -> Digest:
    """The digest of these parts, one after the other."""
    digester = Digester()
    for part in parts:
        digester.update(part)
    return digester.digest()


def parts_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file, some at a time."""
    with path.open("rb") as file:
        while part := file.read(_READ):
            yield part
