"""Pictures of a table, decoded, resized and augmented while the batch before is used, batch by batch.

What comes out does not depend on who makes it, a thread of this process or any number of worker processes, nor on whether
resized pictures come from a cache: order, pixels and random augmentation are fixed by the rows and the seed. A picture that
cannot be read comes back as a value; whoever consumes the batches decides what it means.

Workers are started by a fork server (by spawning on Windows): forking a process in which torch or numba run threads can
hang. As with every such start, a script that uses workers needs its `if __name__ == "__main__":`. Batches return through
pipes as plain arrays, not through shared memory, which containers keep as small as 64 MB.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hashret import images
from hashret.data.table import PictureTable
from hashret.errors import DataError, ImageError, UsageError

if TYPE_CHECKING:
    from hashret.data.cache import PictureCache

Make = Callable[[Image.Image], "torch.Tensor | npt.NDArray[Any]"]
"""From an RGB picture to an array, the same each time."""
Augment = Callable[["npt.NDArray[Any]", random.Random], "npt.NDArray[Any]"]
"""From what was made to an array that is changed at random, with all randomness from the generator."""

SMALL_JOB = 1000
"""Jobs of fewer pictures are done in this process by default: workers need seconds to load torch."""
MAX_DEFAULT_WORKERS = 16
AHEAD = 2
"""Batches that a worker, or a thread, makes ahead of the one in use."""
COPYING_THREADS = 4
"""At most, for pictures out of a cache: one checks and copies some 3 GB/s, 20,000 pictures of 224 px a second."""

_Key = tuple[int, int | None]
_Answer = tuple["npt.NDArray[np.int64]", "npt.NDArray[Any]", "list[BadPicture]"]


class BadPicture(NamedTuple):
    """A picture that could not be read: its row, its path, and the sentence that says why."""

    row: int
    path: str
    message: str


class Batch(NamedTuple):
    """Rows (n,) int64 and their transformed pictures (n, ...), in the order asked for, without those in `bad`."""

    rows: torch.Tensor
    pictures: torch.Tensor
    bad: list[BadPicture]


def default_workers(pictures: int | None = None) -> int:
    """How many worker processes a job of so many pictures gets: one a usable core up to 16; none for small jobs or one core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1 or (pictures is not None and pictures < SMALL_JOB):
        return 0
    return min(cores, MAX_DEFAULT_WORKERS)


def row_batches(rows: int | npt.NDArray[np.int64], batch_size: int) -> list[npt.NDArray[np.int64]]:
    """`rows` (an array, or a count for 0, 1, 2 …) cut into batches of `batch_size`, the last one shorter."""
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}; it must be at least 1")
    numbers = np.arange(rows, dtype=np.int64) if isinstance(rows, int) else rows
    return [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]


class PictureLoader:
    """Batches of a table's pictures: read, the row's box cut out, through `make` and, where given, `augment`.

    `cache` holds what `make` gives for rows of this table. `workers` is a number of processes, 0 for threads of this one, or
    None for `default_workers`. Processes are started at the first use and stay until `close` (or the end of a `with`);
    `make` and `augment` must pickle. `pin_memory` readies batches for copying to a GPU.
    """

    def __init__(
        self,
        table: PictureTable,
        make: Make,
        *,
        augment: Augment | None = None,
        cache: PictureCache | None = None,
        workers: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        if workers is not None and workers < 0:
            raise UsageError(f"the number of workers is {workers}; it must be 0 or more")
        self._dataset = _Pictures(table, make, augment, cache)
        self._workers = workers
        self._pin_memory = pin_memory
        self._plan = _Plan()
        self._loader: DataLoader[Any] | None = None
        self._answers: Iterator[Any] | None = None
        self._loader_workers = -1

    def __enter__(self) -> PictureLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; the loader can be used again and starts new ones then."""
        # DataLoader ends its workers when it is garbage; inside a reference cycle, as a kept traceback makes one, that
        # waits 5 seconds for each, so it is told to here. There is no public call for it.
        end_workers = getattr(self._answers, "_shutdown_workers", None)
        if end_workers is not None:
            end_workers()
        self._answers = None
        self._loader = None
        self._loader_workers = -1

    def read(
        self,
        batches: Iterable[npt.ArrayLike],
        *,
        seed: int | Sequence[int] | None = None,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """One Batch for each of `batches`, each an array of rows; unreadable pictures are in `Batch.bad`.

        `augment` needs a `seed` (whole numbers of 0 or more): its generator is seeded for each picture from seed, the
        number of its batch and its place there. `skip` is the number of the first batch, for going on where an earlier call
        stopped. `share` (i, n) reads the i-th of n equal parts of each batch, as it would be in the whole. Only one call may be
        under way at a time.
        """
        planned = [np.asarray(batch, dtype=np.int64) for batch in batches]
        for batch in planned:
            if batch.size and not 0 <= batch.min() <= batch.max() < len(self._dataset):
                raise DataError(f"row {batch.max()} was asked for; the table has rows 0 to {len(self._dataset) - 1}")
        if seed is None and self._dataset.augment is not None:
            raise UsageError("pictures are to be changed at random, but there is no seed; give one")
        entropy = None if seed is None else [seed] if isinstance(seed, int) else list(seed)
        part, parts = share
        plan = [
            keys[part * len(keys) // parts : (part + 1) * len(keys) // parts]
            for keys in (_keys(batch, entropy, skip + number) for number, batch in enumerate(planned))
        ]
        workers = self._workers if self._workers is not None else default_workers(sum(map(len, planned)))
        made = self._by_processes(plan, workers) if workers else self._by_threads(plan)
        with contextlib.closing(made):
            yield from made

    def batches(
        self,
        batches: Iterable[npt.ArrayLike],
        *,
        seed: int | Sequence[int] | None = None,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(rows, pictures) for each of `batches`, as `read` has it; raises ImageError at the first unreadable picture."""
        for batch in self.read(batches, seed=seed, skip=skip, share=share):
            if batch.bad:
                raise ImageError(batch.bad[0].message)
            yield batch.rows, batch.pictures

    def _by_threads(self, plan: list[list[_Key]]) -> Generator[Batch, None, None]:
        """The batches of a plan, made by a thread of this process while its caller uses those before.

        Reading, resizing and copying let other threads run. A thread begins at once, where processes need seconds to load torch.
        What is only checked and copied out of a cache is worth several.
        """
        copied = self._dataset.cache is not None and self._dataset.augment is None
        threads = min(COPYING_THREADS, default_workers() or 1) if copied else 1
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(threads, "pictures") as pool:
            try:
                for keys in plan:
                    waiting.append(pool.submit(self._made_here, keys))
                    if len(waiting) > AHEAD * threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _by_processes(self, plan: list[list[_Key]], workers: int) -> Generator[Batch, None, None]:
        self._plan.keys = plan
        with warnings.catch_warnings():
            # More workers than cores were asked for on purpose.
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            self._answers = iter(self._loader_with(workers))
        try:
            yield from map(self._batch, self._answers)
        except GeneratorExit:
            raise
        except BaseException:
            self.close()
            raise

    def _loader_with(self, workers: int) -> DataLoader[Any]:
        if self._loader is None or self._loader_workers != workers:
            self.close()
            self._loader = DataLoader(
                self._dataset,
                batch_sampler=self._plan,
                num_workers=workers,
                collate_fn=_collate,
                # DataLoader draws a seed it has no use for here: not from torch's global generator.
                generator=torch.Generator(),
                multiprocessing_context=_context(),
                persistent_workers=True,
                prefetch_factor=AHEAD,
                worker_init_fn=_begin_worker,
            )
            self._loader_workers = workers
        return self._loader

    def _batch(self, answer: _Answer) -> Batch:
        """The batch that a worker sent."""
        rows, array, bad = answer
        pictures = torch.from_numpy(array)
        return Batch(torch.from_numpy(rows), pictures.pin_memory() if self._pin_memory else pictures, bad)

    def _made_here(self, keys: list[_Key]) -> Batch:
        """The batch of these keys, its pictures copied once, to where they stay."""
        rows, pictures, bad = _sorted_out([self._dataset[key] for key in keys])
        if not pictures:
            return Batch(rows=torch.from_numpy(rows), pictures=torch.empty(0, dtype=torch.uint8), bad=bad)
        dtype = torch.from_numpy(np.empty(0, pictures[0].dtype)).dtype
        stacked = torch.empty((len(pictures), *pictures[0].shape), dtype=dtype, pin_memory=self._pin_memory)
        np.stack(pictures, out=stacked.numpy())
        return Batch(torch.from_numpy(rows), stacked, bad)


class _Plan:
    """The keys of the batches under way: DataLoader's batch sampler, replaced for each call."""

    def __init__(self) -> None:
        self.keys: list[list[_Key]] = []

    def __iter__(self) -> Iterator[list[_Key]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Pictures(Dataset[Any]):
    """Key (row, seed) to (row, picture as an array) or a BadPicture. Holds no more than workers need."""

    def __init__(self, table: PictureTable, make: Make, augment: Augment | None, cache: PictureCache | None) -> None:
        self._paths = table.paths
        boxes = [table.box(row) for row in range(len(table))]
        self._boxes = boxes if any(boxes) else None
        self._make, self.augment, self.cache = make, augment, cache

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, key: _Key) -> tuple[int, npt.NDArray[Any]] | BadPicture:
        row, seed = key
        try:
            made = self._made(row)
        except ImageError as error:
            return BadPicture(row, self._paths[row], str(error))
        return row, made if self.augment is None else self.augment(made, random.Random(seed))

    def _made(self, row: int) -> npt.NDArray[Any]:
        """What `make` gives for a row: kept, or made now."""
        kept = self.cache.picture(row) if self.cache is not None else None
        if kept is not None:
            return kept
        return np.asarray(self._make(images.read_picture(self._paths[row], self._boxes[row] if self._boxes else None)))


def _keys(rows: npt.NDArray[np.int64], entropy: list[int] | None, number: int) -> list[_Key]:
    if entropy is None:
        return [(row, None) for row in rows.tolist()]
    seeds = np.random.SeedSequence([*entropy, number]).generate_state(len(rows), np.uint64) >> np.uint64(1)
    return list(zip(rows.tolist(), seeds.tolist(), strict=True))


def _sorted_out(
    samples: list[tuple[int, npt.NDArray[Any]] | BadPicture],
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[Any]], list[BadPicture]]:
    """Rows (n,) and pictures of what could be read, and what could not."""
    bad = [sample for sample in samples if isinstance(sample, BadPicture)]
    good = [sample for sample in samples if not isinstance(sample, BadPicture)]
    return np.array([row for row, _ in good], dtype=np.int64), [picture for _, picture in good], bad


def _collate(samples: list[tuple[int, npt.NDArray[Any]] | BadPicture]) -> _Answer:
    rows, pictures, bad = _sorted_out(samples)
    return rows, np.stack(pictures) if pictures else np.empty((0,), dtype=np.uint8), bad


def _begin_worker(worker: int) -> None:
    """What a worker does first: leave Ctrl-C to its parent, and watch that there is one."""
    # Ctrl-C reaches every process of the terminal; only the parent acts on it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # torch's own watch looks at the process that forked the worker: the fork server, which waits for its workers.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _context() -> Any:
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once in the server, which every worker is then forked from.
    context.set_forkserver_preload(["hashret.data.loading", "torchvision.transforms.v2"])
    return context
