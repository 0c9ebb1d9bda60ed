"""Writers that are killed at any moment, for real: nothing acknowledged is lost, nothing half-written is seen.

A writer makes changes as fast as it can and says before and after each which it is; it gets SIGKILL somewhere in between. What
is on disk then must be all that it acknowledged and either nothing or all of the change it was at.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hashret.index import Store, damage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

Model = dict[int, tuple[bytes, str]]
"""What should be there: code and string id of each id, in the order of rows."""


def contents_of(folder: Path) -> Model:
    store = Store.open(folder)
    ids = store.ids
    if not len(ids):
        return {}
    codes = store._contents.vectors(ids)["codes"]
    records = store.records(ids)
    return {
        number: (code.tobytes(), record["id"])
        for number, code, record in zip(ids.tolist(), codes, records, strict=True)
        if record is not None
    }


def change(step: int, model: Model, next_id: int, store: Store | None = None) -> tuple[Model, int]:
    """The step-th change, which the step alone chooses: of the model and, where one is given, of a store."""
    rng = np.random.default_rng(step)
    kind = rng.choice(["append", "append", "remove", "upsert", "compact"])
    model = dict(model)
    if kind == "compact":
        if store is not None:
            store.compact()
    elif kind == "remove":
        gone = [number for number in model if rng.random() < 0.3]
        if store is not None:
            store.remove(np.array(gone, np.int64))
        for number in gone:
            del model[number]
    else:
        n = int(rng.integers(1, 40))
        codes = rng.integers(0, 256, (n, 8), dtype=np.uint8)
        names = [f"{step}-{i}" for i in range(n)]
        if kind == "upsert":
            taken = [name for _, name in model.values() if rng.random() < 0.2][:n]
            names[: len(taken)] = taken
        if store is not None:
            store.append(codes, records=[{"id": name} for name in names], upsert=kind == "upsert")
        numbers = {name: number for number, (_, name) in model.items()}
        for name, code in zip(names, codes, strict=True):
            number = numbers.get(name)
            if number is None:
                number, next_id = next_id, next_id + 1
            else:
                del model[number]
            model[number] = code.tobytes(), name
    return model, next_id


def write_until_killed(folder: Path, step: int, next_id: int) -> None:
    """Make the changes from `step` on, saying each before and after: `> 7`, `< 7`."""
    model = contents_of(folder)
    while True:
        os.write(1, f"> {step}\n".encode())
        model, next_id = change(step, model, next_id, Store.open(folder))
        os.write(1, f"< {step}\n".encode())
        step += 1


def fork_writers() -> None:
    """For each line `FOLDER STEP NEXT_ID` a writer, forked, since starting Python takes long; its number is said first."""
    for line in sys.stdin:
        folder, step, next_id = line.split()
        pid = os.fork()
        if not pid:
            try:
                write_until_killed(Path(folder), int(step), int(next_id))
            finally:
                os._exit(1)
        os.write(1, f"pid {pid}\n".encode())
        os.waitpid(pid, 0)
        os.write(1, b"gone\n")


class Writers:
    """Processes that write and are killed."""

    def __init__(self) -> None:
        here = str(Path(__file__).parent)
        program = f"import sys; sys.path.insert(0, {here!r}); import test_killed; test_killed.fork_writers()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def said(self, folder: Path, step: int, next_id: int, seconds: float) -> list[str]:
        """What a writer said until it was killed, so long after its first change."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{folder} {step} {next_id}\n".encode())
        output, text, pid, kill_at = self._process.stdout, "", None, None
        while "gone\n" not in text:
            if pid is None and (lines := [line for line in text.splitlines() if line.startswith("pid ")]):
                pid = int(lines[0].split()[1])
            if kill_at is None and "> " in text:
                kill_at = time.monotonic() + seconds
            wait = 5.0 if kill_at is None or pid is None else max(0.0, kill_at - time.monotonic())
            ready, _, _ = select.select([output], [], [], wait)
            if ready:
                text += os.read(output.fileno(), 65536).decode()
            elif pid is not None and kill_at is not None:
                os.kill(pid, signal.SIGKILL)
                kill_at += 60
            else:
                raise AssertionError(f"the writer does not start: {text}")
        return [line for line in text.splitlines() if line[0] in "<>"]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


def kill_writers(place: Path, kills: int) -> tuple[int, int]:
    """How many writers were killed within a change, and how many changes were acknowledged; AssertionError where one is lost.

    After every kill the index is verified, and holds what was acknowledged, or that and all of the change under way.
    """
    moments = random.Random(0)
    writers, killed_within, acknowledged = Writers(), 0, 0
    try:
        for kill in range(kills):
            folder = place / f"index{kill // 50}"
            if kill % 50 == 0:
                Store.create(folder, code_size=64)
                model, next_id, step = {}, 0, 1000 * kill
            said = writers.said(folder, step, next_id, moments.uniform(0, 0.12))
            done = sum(line[0] == "<" for line in said)
            assert [line[0] for line in said] == ["<>"[(i + 1) % 2] for i in range(len(said))]
            for _ in range(done):
                model, next_id = change(step, model, next_id)
                step += 1
            acknowledged += done
            damage.verify(folder)
            found = contents_of(folder)
            if len(said) > 2 * done:
                killed_within += 1
                after = change(step, model, next_id)
                # A change that was not acknowledged may be there all the same, but then all of it.
                if list(found.items()) == list(after[0].items()) != list(model.items()):
                    model, next_id = after
                step += 1
            assert list(found.items()) == list(model.items())
    finally:
        writers.close()
    return killed_within, acknowledged


@pytest.mark.parametrize("kills", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost(tmp_path: Path, kills: int) -> None:
    killed_within, acknowledged = kill_writers(tmp_path, kills)
    # On a busy machine few changes are made before the signal.
    assert killed_within > kills // 4 and acknowledged > kills // 4
    folder = tmp_path / f"index{(kills - 1) // 50}"
    Store.open(folder).append(np.zeros((1, 8), np.uint8))
    leftover = [path.name for path in folder.rglob("*") if path.name.startswith(".tmp-")]
    assert leftover == [], "the next writer removes what killed ones left"
