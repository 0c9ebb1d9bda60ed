"""What a process does between its start and its end: a whole `hashret` command step by step, or a kernel's first search.

The command is the real one: the modules it will need are imported first, under the clock, then a stopwatch is put around the
few functions that do the steps, and `hashret.cli.main` runs. What no step accounts for is `rest`: parsing, printing, Python's
end. latency.py starts this file, as `cold.py command STARTED WORDS...` or `cold.py kernel KIND`; the answer is one JSON
object, the last line of standard error.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BEGAN = time.time()
STEPS = ("interpreter", "imports", "model load", "index", "decode", "network", "search", "metadata", "rest")
KERNELS = (
    "hash, 100 queries",
    "hash, one query",
    "asymmetric, 100 queries",
    "multi-index, one query",
    "cosine, 16 queries",
)


def command(words: Sequence[object]) -> dict[str, float]:
    """Seconds of each step of one command, and of the whole, in a process of its own."""
    started = time.time()
    steps = _answer("command", started, *words)
    whole = time.time() - started
    return {**steps, "rest": whole - sum(steps.values()), "whole": whole}


def plain(words: Sequence[object]) -> float:
    """Seconds of one command as the shell runs it, without a stopwatch."""
    program = "import sys; from hashret.cli import main; sys.exit(main(sys.argv[1:]))"
    started = time.time()
    subprocess.run([sys.executable, "-c", program, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.time() - started


def kernel(kind: str, cache: Path) -> dict[str, float]:
    """Seconds of the first search of a new process, and of the same search again, with compiled kernels kept in `cache`."""
    return _answer("kernel", kind, cache=cache)


def _answer(*words: object, cache: Path | None = None) -> dict[str, float]:
    environment = {**os.environ, **({} if cache is None else {"HASHRET_CACHE": str(cache)})}
    ran = subprocess.run(
        [sys.executable, __file__, *map(str, words)], check=False, capture_output=True, text=True, env=environment
    )
    if ran.returncode:
        raise SystemExit(f"`{' '.join(map(str, words))}` ended with status {ran.returncode}: {ran.stderr}")
    return dict(json.loads(ran.stderr.splitlines()[-1]))


def _clocked(started: float, words: list[str]) -> dict[str, float]:
    """Run the command here; seconds of its steps."""
    steps = dict.fromkeys(STEPS[:-1], 0.0)
    steps["interpreter"] = BEGAN - started
    began = time.perf_counter()
    needed = ["hashret.cli.query", "hashret.index.store", "hashret.index.hamming", "hashret.index.cosine"]
    if "--code" not in words:
        needed += ["hashret.model.hasher", "torchvision"]
    loaded = {name: importlib.import_module(name) for name in needed}
    steps["imports"] = time.perf_counter() - began
    from hashret.cli import main
    from hashret.index.base import VectorIndex

    index, cosine, store = (loaded[f"hashret.index.{name}"] for name in ("hamming", "cosine", "store"))
    places = [
        ("index", store.Store, ["open"]),
        ("index", index.HammingIndex, ["load"]),
        ("index", cosine.FeatureIndex, ["load"]),
        ("search", index.HammingIndex, ["search", "search_two_stage"]),
        ("search", cosine.FeatureIndex, ["search"]),
        ("metadata", VectorIndex, ["records"]),
    ]
    if "hashret.model.hasher" in loaded:
        from hashret import images
        from hashret.model.preprocess import Preprocess

        hasher = loaded["hashret.model.hasher"].Hasher
        places += [
            ("model load", hasher, ["from_pretrained", "fingerprint"]),
            ("decode", images, ["read_picture"]),
            ("decode", Preprocess, ["pixels"]),
            ("network", hasher, ["run_batch"]),
        ]
    for step, owner, names in places:
        for name in names:
            _put_stopwatch(steps, step, owner, name)
    status = main(words)
    if status:
        raise SystemExit(status)
    return steps


def _put_stopwatch(steps: dict[str, float], step: str, owner: Any, name: str) -> None:
    """Add the time of every call of owner.name to a step."""
    kept = vars(owner)[name]
    function: Callable[..., Any] = kept.__func__ if isinstance(kept, classmethod) else kept

    @functools.wraps(function)
    def timed(*args: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **named)
        finally:
            steps[step] += time.perf_counter() - began

    setattr(owner, name, classmethod(timed) if isinstance(kept, classmethod) else timed)


def _first_search(kind: str) -> dict[str, float]:
    """Run a search that needs compiled kernels, twice; importing what computes it is part of the first."""
    import numpy as np

    rng = np.random.default_rng(0)
    # One query that numpy would not take is among so many codes that loading the kernels pays.
    codes = rng.integers(0, 256, (20_000_000 if kind == "hash, one query" else 1_000_000, 8), dtype=np.uint8)
    queries = rng.integers(0, 256, (100, 8), dtype=np.uint8)
    numbers = rng.standard_normal((50_000, 512), np.float32) if kind.startswith("cosine") else None
    began = time.perf_counter()
    if kind.startswith("cosine"):
        from hashret import CosineIndex

        vectors = CosineIndex(512)
        vectors.add(numbers)
        began = time.perf_counter()  # vectors are taken in without kernels
        search: Callable[[], object] = functools.partial(vectors.search, numbers[:16], 10)  # type: ignore[index]
    elif kind.startswith("asymmetric"):
        from hashret.hamming import asymmetric

        search = functools.partial(asymmetric.search, codes, rng.standard_normal((100, 64), np.float32), 10)
    elif kind.startswith("multi-index"):
        from hashret.hamming.multi_index import MultiIndex

        search = functools.partial(_near, MultiIndex, codes[:100_000])
    else:
        from hashret import hamming

        some = queries[:1] if kind == "hash, one query" else queries
        search = functools.partial(hamming.search, codes, some, 10)
    search()
    first = time.perf_counter() - began
    began = time.perf_counter()
    search()
    return {"first": first, "again": time.perf_counter() - began}


def _near(kind: Any, codes: Any) -> None:
    kind.build(codes, 64).search(codes[:1], 10)


if __name__ == "__main__":
    answer = _clocked(float(sys.argv[2]), sys.argv[3:]) if sys.argv[1] == "command" else _first_search(sys.argv[2])
    print(json.dumps(answer), file=sys.stderr)
