"""Any bytes as one file of an index, as a file of another program, or as a condition: an answer, or one sentence.

The first byte says what the others are; fuzz_readers.py makes them up, test_fuzz.py reads those that it kept.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

import hostile
import numpy as np

from hashret.errors import HashretError
from hashret.index import CosineIndex, HammingIndex, damage, exchange, info, manifest
from hashret.index.records import MemoryRecords
from hashret.index.where import Condition

FILES = ("manifest.json", "ids.npy", "codes.npy", "features.npy", "deleted", "metadata.sqlite")
OTHERS = (".faiss", ".npy")
"""Tables are read by pyarrow, which has fuzzers of its own."""
KINDS = [*FILES, *OTHERS, "condition"]
ROWS = MemoryRecords([{"id": "a", "path": "", "label": "x", "split": "", "view": 3}])


@functools.cache
def whole() -> Path:
    """A whole index, where writing is cheap."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    return hostile.make_whole(folder / "whole")


def seeds() -> dict[str, bytes]:
    """Inputs to begin with: the files as they are."""
    found = {}
    for number, kind in enumerate(KINDS):
        if kind == "manifest.json":
            content = (whole() / kind).read_bytes()
        elif kind in FILES:
            content = hostile.path_of(whole(), kind).read_bytes()
        elif kind == "condition":
            content = b"not (view >= 9.5e1 and \"the label\" in ('x', 'it''s')) or path is not null"
        elif kind == ".npy":
            content = hostile.npy(np.zeros((3, 2), np.uint8))
        else:
            from hashret.index import Store

            path = whole().with_name(f"seed{kind}")
            exchange.write(Store.open(whole()), path, "big")
            content = path.read_bytes()
        found[f"{number:02d}-{kind.strip('.')}"] = bytes([number]) + content
    return found


def read(data: bytes) -> None:
    """Read it in every way; anything but an answer or a HashretError of one line is raised."""
    if not data:
        return
    kind, content = KINDS[data[0] % len(KINDS)], data[1:]
    if kind == "condition":
        _refused(lambda: Condition(content.decode("utf-8", "replace")).mask(ROWS))
    elif kind in OTHERS:
        path = whole().with_name(f"other{kind}")
        path.write_bytes(content)
        for order in exchange.BIT_ORDERS:
            _refused(lambda order=order: [len(chunk.codes) for chunk in exchange.read(path, order).chunks])
    else:
        _with_file(kind, content)


def _with_file(kind: str, content: bytes) -> None:
    folder = whole().with_name("changed")
    if not folder.exists():
        shutil.copytree(whole(), folder)
    before = (whole() / manifest.NAME).read_bytes()
    (folder / manifest.NAME).write_bytes(before)
    if kind == "manifest.json":
        # As it is, and with a checksum that is right: nothing else would ever come further.
        (folder / kind).write_bytes(content)
        _asked(folder)
        try:
            described = json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(described, dict):
            try:
                described["checksum"] = manifest._checksum({k: v for k, v in described.items() if k != "checksum"})
            except RecursionError:
                return
            (folder / kind).write_text(json.dumps(described), "utf-8", errors="surrogatepass")
            _asked(folder)
        return
    path, kept = hostile.path_of(folder, kind), hostile.path_of(whole(), kind).read_bytes()
    try:
        hostile.with_content(folder, kind, content)
        _asked(folder)
    finally:
        path.write_bytes(kept)


def _asked(folder: Path) -> None:
    queries = np.zeros((2, 2), np.uint8)
    _refused(lambda: damage.verify(folder))
    _refused(lambda: info.describe(folder))

    def hamming() -> None:
        index = HammingIndex.load(folder)
        index.search(queries, 3) if index.code_size == 12 else None
        index.find(["r1"]), index.count("view >= 10"), index.records(index.ids[:50])

    _refused(hamming)
    with np.errstate(all="ignore"):
        _refused(lambda: CosineIndex.load(folder).search(np.eye(3), 3))


def _refused(ask: object) -> None:
    try:
        ask()  # type: ignore[operator]
    except HashretError as error:
        assert error.args and str(error), "an error says something"
