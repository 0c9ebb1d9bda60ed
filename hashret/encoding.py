"""Bulk encoding: a table through a model into codes, logits and features, resumable.

Worker processes decode and resize while the network computes. A GPU is given the next batch before the results of the last
one are looked at, and pictures are copied there meanwhile, so that it need not wait.

The rows are cut into chunks of fixed size; with a resume folder each finished chunk is kept there in one file, named by a
digest of all that decides its content: the model's fingerprint, what is asked for, the precision, and the path, box, size and
modification time of every picture. Starting the same job again takes finished chunks from there and computes the others, so
nothing stale is ever used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from hashret import codes
from hashret.data.cache import open_cache
from hashret.data.loading import BadPicture, Batch, PictureLoader, default_workers, row_batches
from hashret.data.table import PictureTable
from hashret.errors import DataError, ImageError, ModelError, UsageError
from hashret.images import split_zip_path
from hashret.model.folder import tensor_digest
from hashret.model.hasher import Hasher, Outputs
from hashret.model.precision import computing, pick_precision

CHUNK_SIZE = 1024
"""Pictures in a chunk: the most work that an interruption can lose."""

_KINDS = ("codes", "features", "logits", "scores")
_log = logging.getLogger("hashret.encoding")


@dataclass(frozen=True)
class Encoded:
    """What a model makes of the pictures of a table, in the order of its rows.

    `codes` uint8 (n, ceil(code_size / 8)), `features` float32 (n, feature_size) of length 1, `logits` float32
    (n, code_size), `scores` float32 (n, classes), probabilities of the classes of `Hasher.class_names`; None where not asked
    for. `rows` int64 (n,): the table's rows they belong to, ascending; rows that could not be read are in `skipped` instead.
    """

    rows: npt.NDArray[np.int64]
    codes: npt.NDArray[np.uint8] | None
    features: npt.NDArray[np.float32] | None
    logits: npt.NDArray[np.float32] | None
    skipped: list[BadPicture]
    scores: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.rows)


def encode_table(
    hasher: Hasher,
    table: PictureTable,
    *,
    what: Collection[str] = ("codes",),
    batch_size: int = 64,
    workers: int | None = None,
    device: str | torch.device | None = None,
    on_bad: str = "fail",
    progress: bool = True,
    resume_folder: str | Path | None = None,
    chunk_size: int = CHUNK_SIZE,
    precision: str = "auto",
    cache: str = "off",
) -> Encoded:
    """Codes, features, logits or class scores (`what`) of every picture of `table`, in memory.

    `workers` None chooses by the job and the machine; the result does not depend on it. `device` moves the model first
    (None leaves it). `on_bad` "fail" raises ImageError at the first picture that cannot be read, "skip" leaves it out and
    lists it. `progress` shows a bar if standard error is a terminal. `resume_folder` keeps finished chunks; remove it when
    the result is safe. `precision` is "float32" (deterministic, the same codes as a CPU's up to rounding), "float16",
    "bfloat16" or "auto": float16 on CUDA, where it turns a few bits whose logits are next to their threshold, and float32
    elsewhere. ModelError for a network whose numbers are too great for float16. `cache` "auto" or "on" keeps resized
    pictures for the next time that the same table is encoded, as `open_cache` says; the result does not depend on it.
    """
    chunks = list(
        encode_chunks(
            hasher,
            table,
            what=what,
            batch_size=batch_size,
            workers=workers,
            device=device,
            on_bad=on_bad,
            progress=progress,
            resume_folder=resume_folder,
            chunk_size=chunk_size,
            precision=precision,
            cache=cache,
        )
    )
    return _joined([_nothing(hasher, what), *chunks])


def encode_chunks(
    hasher: Hasher,
    table: PictureTable,
    *,
    what: Collection[str] = ("codes",),
    batch_size: int = 64,
    workers: int | None = None,
    device: str | torch.device | None = None,
    on_bad: str = "fail",
    progress: bool = True,
    resume_folder: str | Path | None = None,
    chunk_size: int = CHUNK_SIZE,
    precision: str = "auto",
    cache: str = "off",
) -> Iterator[Encoded]:
    """The same as `encode_table`, chunk by chunk in table order, for tables too large to hold in memory."""
    unknown = sorted(set(what) - set(_KINDS))
    if unknown or not what:
        raise UsageError(f"what to encode is {unknown or 'nothing'}; it can be {', '.join(_KINDS)}")
    if on_bad not in ("skip", "fail"):
        raise UsageError(f"on_bad is {on_bad!r}; it can be skip or fail")
    if chunk_size < 1:
        raise UsageError(f"the chunk size is {chunk_size}; it must be at least 1")
    if device is not None:
        hasher.to(device)
    precision = pick_precision(precision, hasher.device)
    chunks = row_batches(len(table), chunk_size)
    store = None if resume_folder is None else _ChunkStore(Path(resume_folder), hasher, table, what, precision)
    done = [store is not None and store.has(number, rows) for number, rows in enumerate(chunks)]
    # Batches end with their chunk: a chunk is the same whatever was done before it.
    plans = [[] if ready else row_batches(rows, batch_size) for rows, ready in zip(chunks, done, strict=True)]
    pending = sum(len(batch) for plan in plans for batch in plan)
    if pending < len(table) and chunks:
        _log.info("%d of %d pictures are encoded already (%s)", len(table) - pending, len(table), resume_folder)
    on_gpu = hasher.device.type == "cuda"
    # A CPU's float32 goes without saying.
    _log.log(
        logging.INFO if on_gpu or precision != "float32" else logging.DEBUG,
        "encoding in %s on %s",
        precision,
        hasher.device,
    )
    make, side = hasher.preprocess.pixels, hasher.preprocess.image_size
    kept = None
    if pending:
        kept = open_cache(table, make, how=repr(make), shape=(3, side, side), wanted=cache, workers=workers)
    if workers is None:
        # Pictures out of a cache are only copied, which a thread does faster than a process could send them.
        workers = 0 if kept is not None else default_workers(pending)
    hasher.network.to(memory_format=torch.channels_last)  # a quarter faster on CPUs too, see benchmarks/encoding.py
    with (
        PictureLoader(table, make, cache=kept, workers=workers, pin_memory=on_gpu) as loader,
        tqdm(
            total=len(table),
            initial=len(table) - pending,
            desc="encoding",
            unit="picture",
            disable=None if progress else True,
            delay=2,
        ) as bar,
    ):
        batches = loader.read([batch for plan in plans for batch in plan])
        encoded = _encoded(hasher, batches, what, precision, on_bad, _Gpu(hasher.device) if on_gpu else None)
        for number, (rows, plan) in enumerate(zip(chunks, plans, strict=True)):
            if store is not None and not plan:
                stored = store.load(number, rows)
                if stored is None:
                    raise DataError(f"chunk {number} vanished from {resume_folder} while it was used; start again")
                _fail_on_bad(stored.skipped, on_bad)
                yield stored
                continue
            parts = [_nothing(hasher, what)]
            for _ in plan:
                part = next(encoded)
                parts.append(part)
                bar.update(len(part) + len(part.skipped))
            chunk = _joined(parts)
            if store is not None:
                store.save(number, rows, chunk)
            yield chunk


def _encoded(
    hasher: Hasher,
    batches: Iterable[Batch],
    what: Collection[str],
    precision: str,
    on_bad: str,
    gpu: _Gpu | None,
) -> Iterator[Encoded]:
    """What the network makes of each batch, in their order. A GPU works on the next one before the last is given out."""
    begun: deque[tuple[Batch, _Fetch | None]] = deque()
    for batch in batches:
        _fail_on_bad(batch.bad, on_bad)
        begun.append((batch, _begin(hasher, batch, what, precision, gpu) if len(batch.rows) else None))
        if gpu is None or len(begun) > 1:
            yield _finish(hasher, *begun.popleft(), what, precision)
    while begun:
        yield _finish(hasher, *begun.popleft(), what, precision)


_Fetch = Callable[[], Outputs]
"""Gives outputs in the memory of the host, waiting for them where they are still computed."""


class _Gpu:
    """What lets a GPU compute without a pause: copies to it on a stream of their own, and results that are waited for later."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._uploads = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, pictures_NCHW: torch.Tensor) -> torch.Tensor:
        """The pictures, which lie in pinned memory, as whatever is computed from now on will see them on the device."""
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            there = pictures_NCHW.to(self._device, non_blocking=True)
        computing.wait_stream(self._uploads)
        # Its memory is of the other stream, which must not use it again before this one is done.
        there.record_stream(computing)
        return there

    def fetch(self, outputs: Outputs) -> _Fetch:
        """A call that waits for the outputs in the host's memory, where their copies are on the way."""
        here = Outputs(*(None if each is None else each.to("cpu", non_blocking=True) for each in outputs))  # type: ignore[arg-type]
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self._device))

        def wait() -> Outputs:
            arrived.synchronize()
            return here

        return wait


def _begin(hasher: Hasher, batch: Batch, what: Collection[str], precision: str, gpu: _Gpu | None) -> _Fetch:
    """One batch through the network."""
    try:
        pictures = batch.pictures if gpu is None else gpu.upload(batch.pictures)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with computing(precision, hasher.device):
            outputs = hasher.outputs(pictures) if "scores" in what else Outputs(*hasher.run_batch(pictures), None)
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            f"the GPU has too little memory for batches of {len(batch.rows)} pictures; lower --batch-size"
        ) from error
    return gpu.fetch(outputs) if gpu is not None else lambda: outputs


def _finish(hasher: Hasher, batch: Batch, fetch: _Fetch | None, what: Collection[str], precision: str) -> Encoded:
    """What is asked for of a batch, None of which may be readable."""
    if fetch is None:
        return _joined([_nothing(hasher, what), Encoded(batch.rows.numpy(), None, None, None, batch.bad)])
    logits_NK, features_ND, scores_NC = (None if each is None else each.cpu().numpy() for each in fetch())
    assert logits_NK is not None and features_ND is not None
    # An infinity on the way makes NaN of most that is computed from it.
    if precision == "float16" and not (np.isfinite(logits_NK).all() and np.isfinite(features_ND).all()):
        raise ModelError(
            "the network's numbers are too great for float16; compute in float32, with --deterministic-codes"
        )
    return Encoded(
        rows=batch.rows.numpy(),
        codes=codes.binarize(logits_NK, hasher.thresholds) if "codes" in what else None,
        features=features_ND if "features" in what else None,
        logits=logits_NK if "logits" in what else None,
        skipped=batch.bad,
        scores=scores_NC,
    )


def _fail_on_bad(bad: Sequence[BadPicture], on_bad: str) -> None:
    if bad and on_bad == "fail":
        raise ImageError(bad[0].message)


def _nothing(hasher: Hasher, what: Collection[str]) -> Encoded:
    return Encoded(
        rows=np.empty(0, np.int64),
        codes=np.empty((0, codes.bytes_per_code(hasher.code_size)), np.uint8) if "codes" in what else None,
        features=np.empty((0, hasher.feature_size), np.float32) if "features" in what else None,
        logits=np.empty((0, hasher.code_size), np.float32) if "logits" in what else None,
        skipped=[],
        scores=np.empty((0, len(hasher.class_names)), np.float32) if "scores" in what else None,
    )


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """The parts one after the other; the first names the arrays that are asked for."""
    arrays = {
        kind: None
        if getattr(parts[0], kind) is None
        else np.concatenate([getattr(part, kind) for part in parts if getattr(part, kind) is not None])
        for kind in _KINDS
    }
    return Encoded(
        rows=np.concatenate([part.rows for part in parts]),
        skipped=[picture for part in parts for picture in part.skipped],
        **arrays,
    )


class _ChunkStore:
    """Finished chunks in a folder: one .npz each (a zip, so that each array carries a CRC), written all or nothing."""

    def __init__(
        self, folder: Path, hasher: Hasher, table: PictureTable, what: Collection[str], precision: str
    ) -> None:
        self._folder = folder
        self._table = table
        self._what = sorted(what)
        self._job = f"{hasher.fingerprint()} {self._what} {precision}"
        if "scores" in what and hasher.classifier is not None:
            # The fingerprint is of codes, and says nothing of a classifier.
            of_classes = tensor_digest({name: each.cpu() for name, each in hasher.classifier.tensors.items()})
            self._job += f" {of_classes} {hasher.classifier.config}"
        self._stats: dict[str, tuple[int, int]] = {}
        self._digests: dict[int, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the resume folder {folder} cannot be made ({error.strerror}); name another") from error

    def has(self, number: int, rows: npt.NDArray[np.int64]) -> bool:
        """Whether the chunk is there and undamaged."""
        return self.load(number, rows) is not None

    def load(self, number: int, rows: npt.NDArray[np.int64]) -> Encoded | None:
        """The chunk, or None if it is not there, is damaged, or was made of other rows."""
        try:
            # Opened here, for np.load leaves a damaged file open.
            with self._file(number, rows).open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            skipped = [BadPicture(*entry) for entry in json.loads(arrays["skipped"].tobytes())]
            if not np.array_equal(np.sort([*arrays["rows"], *(picture.row for picture in skipped)]), rows):
                return None
            found = {kind: arrays[kind] if kind in self._what else None for kind in _KINDS}
            return Encoded(rows=arrays["rows"], skipped=skipped, **found)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, number: int, rows: npt.NDArray[np.int64], chunk: Encoded) -> None:
        """Keeps the chunk: after the return it survives a power cut."""
        file = self._file(number, rows)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        listed = np.frombuffer(json.dumps([list(picture) for picture in chunk.skipped]).encode(), dtype=np.uint8)
        arrays = {kind: getattr(chunk, kind) for kind in self._what}
        try:
            with temporary.open("wb") as opened:
                np.savez(opened, rows=chunk.rows, skipped=listed, **arrays)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        except OSError as error:
            raise DataError(f"a finished chunk could not be kept in {self._folder} ({error.strerror})") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _file(self, number: int, rows: npt.NDArray[np.int64]) -> Path:
        if number not in self._digests:
            digest = hashlib.sha256(self._job.encode())
            for row in rows.tolist():
                path = self._table.paths[row]
                line = f"{path!r} {self._table.box(row)} {self._stat(path)}\n"
                digest.update(line.encode(errors="surrogatepass"))
            self._digests[number] = digest.hexdigest()
        return self._folder / f"chunk-{number:06d}-{self._digests[number][:32]}.npz"

    def _stat(self, path: str) -> tuple[int, int] | None:
        """Size and modification time (ns) of the file, or of the zip it is in; None if there is none."""
        inside = split_zip_path(path)
        if inside is not None and inside[0] in self._stats:
            return self._stats[inside[0]]
        try:
            stat = Path(inside[0] if inside else path).stat()
        except (OSError, ValueError):
            return None
        if inside is not None:
            self._stats[inside[0]] = stat.st_size, stat.st_mtime_ns
        return stat.st_size, stat.st_mtime_ns
