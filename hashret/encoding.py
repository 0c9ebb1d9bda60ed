"""Bulk encoding: a table through a model into codes, logits and features, resumable.

Worker processes decode and resize while the network computes. The rows are cut into chunks of fixed size; with a resume
folder each finished chunk is kept there in one file, named by a digest of all that decides its content: the model's
fingerprint, what is asked for, and the path, box, size and modification time of every picture. Starting the same job again
takes finished chunks from there and computes the others, so nothing stale is ever used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from hashret import codes
from hashret.data.loading import BadPicture, Batch, PictureLoader, default_workers, row_batches
from hashret.data.table import PictureTable
from hashret.errors import DataError, ImageError, ModelError, UsageError
from hashret.images import split_zip_path
from hashret.model.folder import tensor_digest
from hashret.model.hasher import Hasher, Outputs

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
    amp: bool = False,
) -> Encoded:
    """Codes, features, logits or class scores (`what`) of every picture of `table`, in memory.

    `workers` None chooses by the job and the machine; the result does not depend on it. `device` moves the model first
    (None leaves it). `on_bad` "fail" raises ImageError at the first picture that cannot be read, "skip" leaves it out and
    lists it. `progress` shows a bar if standard error is a terminal. `resume_folder` keeps finished chunks; remove it when
    the result is safe. `amp` computes in float16 on CUDA, which turns a few bits that are near their threshold; elsewhere
    it is ignored.
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
            amp=amp,
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
    amp: bool = False,
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
    chunks = row_batches(len(table), chunk_size)
    store = None if resume_folder is None else _ChunkStore(Path(resume_folder), hasher, table, what, amp)
    done = [store is not None and store.has(number, rows) for number, rows in enumerate(chunks)]
    # Batches end with their chunk: a chunk is the same whatever was done before it.
    plans = [[] if ready else row_batches(rows, batch_size) for rows, ready in zip(chunks, done, strict=True)]
    pending = sum(len(batch) for plan in plans for batch in plan)
    workers = default_workers(pending) if workers is None else workers
    if pending < len(table) and chunks:
        _log.info("%d of %d pictures are encoded already (%s)", len(table) - pending, len(table), resume_folder)
    on_gpu = hasher.device.type == "cuda"
    if on_gpu:
        hasher.network.to(memory_format=torch.channels_last)
    with (
        PictureLoader(table, hasher.preprocess.pixels, workers=workers, pin_memory=on_gpu) as loader,
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
                batch = next(batches)
                _fail_on_bad(batch.bad, on_bad)
                parts.append(_encoded(hasher, batch, what, amp and on_gpu))
                bar.update(len(batch.rows) + len(batch.bad))
            chunk = _joined(parts)
            if store is not None:
                store.save(number, rows, chunk)
            yield chunk


def _encoded(hasher: Hasher, batch: Batch, what: Collection[str], amp: bool) -> Encoded:
    """One batch through the network."""
    if not len(batch.rows):
        return _joined([_nothing(hasher, what), Encoded(batch.rows.numpy(), None, None, None, batch.bad)])
    try:
        with torch.autocast("cuda", dtype=torch.float16, enabled=amp):
            found = (
                hasher.outputs(batch.pictures) if "scores" in what else Outputs(*hasher.run_batch(batch.pictures), None)
            )
            logits_NK, features_ND = found.logits_NK.cpu().numpy(), found.features_NF.cpu().numpy()
            scores_NC = None if found.scores_NC is None else found.scores_NC.cpu().numpy()
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            f"the GPU has too little memory for batches of {len(batch.rows)} pictures; lower --batch-size"
        ) from error
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

    def __init__(self, folder: Path, hasher: Hasher, table: PictureTable, what: Collection[str], amp: bool) -> None:
        self._folder = folder
        self._table = table
        self._what = sorted(what)
        self._job = f"{hasher.fingerprint()} {self._what} {amp and hasher.device.type == 'cuda'}"
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
