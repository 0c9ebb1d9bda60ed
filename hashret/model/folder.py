"""A model on disk: which folder a name means, and how the folder is read and replaced without a moment of half a model.

A model is a folder with `config.json` and `model.safetensors`. A run is a folder that has both at its top (the best epoch)
and kept epochs below `epochs/003`. Names that are taken wherever a model is: a path, the name of a run, RUN@3.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hashret import __version__
from hashret.errors import ModelError

CONFIG_NAME = "config.json"
TENSORS_NAME = "model.safetensors"
EPOCHS_NAME = "epochs"
FORMAT = "hashret-model"
FORMAT_VERSION = 3
"""The newest; a model is written as the oldest version that can describe it, so older readers keep reading it."""

# While a model is being replaced, its new config waits under this name; the id inside tells which config the tensors go with.
_NEXT_NAME = "config.json.next"
_EPOCH = re.compile(r"(?P<run>.+)@(?P<epoch>[0-9]+)")


def epoch_folder(run: Path, epoch: int) -> Path:
    """Where run folder `run` keeps the model of epoch `epoch` (counted from 1): RUN/epochs/003."""
    return run / EPOCHS_NAME / f"{epoch:03d}"


def kept_epochs(run: Path) -> list[int]:
    """The epochs that run folder `run` kept, ascending."""
    if not (run / EPOCHS_NAME).is_dir():
        return []
    return sorted(
        int(folder.name) for folder in (run / EPOCHS_NAME).iterdir() if folder.name.isdecimal() and is_model(folder)
    )


def is_model(folder: Path) -> bool:
    """Whether `folder` holds a model: both its files."""
    has_config = (folder / CONFIG_NAME).is_file() or (folder / _NEXT_NAME).is_file()
    return has_config and (folder / TENSORS_NAME).is_file()


def resolve_model(spec: str | Path, runs: str | Path = "runs") -> Path:
    """The model folder that `spec` names: a folder, a run in folder `runs`, or RUN@3 for its third epoch.

    A path comes before the name of a run. ModelError if there is no such model, naming what is there instead.
    """
    text = str(spec)
    folder = _folder_of(text, Path(runs))
    matched = _EPOCH.fullmatch(text) if folder is None else None
    if matched:
        run, epoch = _folder_of(matched["run"], Path(runs)), int(matched["epoch"])
        if run is not None:
            if is_model(epoch_folder(run, epoch)):
                return epoch_folder(run, epoch)
            kept = kept_epochs(run)
            has = f"it kept {', '.join(map(str, kept))}" if kept else "it kept none; train with --keep-epochs"
            raise ModelError(f"run {run} has no epoch {epoch}: {has}")
        text = matched["run"]
    if folder is None:
        if Path(text).is_file():
            raise ModelError(f"{text} is a file; a model is a folder with {CONFIG_NAME} and {TENSORS_NAME}")
        there = sorted(entry.name for entry in Path(runs).iterdir() if is_model(entry)) if Path(runs).is_dir() else []
        listed = f"runs in {runs}: {', '.join(there[:8])}" if there else f"there are no runs in {runs}"
        raise ModelError(f"there is no model {text!r}, neither as a folder nor as a run; {listed}")
    if not is_model(folder):
        absent = CONFIG_NAME if not (folder / CONFIG_NAME).is_file() else TENSORS_NAME
        why = (
            "its training has not finished an epoch yet"
            if any((folder / name).exists() for name in ("run.json", "log.jsonl", "resume"))
            else "name a folder that train.py or save_pretrained made"
        )
        raise ModelError(f"{folder} is no model, for {absent} is missing; {why}")
    return folder


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Writes config.json and model.safetensors into `folder`, all or nothing; other files there stay as they are.

    Whatever moment the machine stops at, `read_model` gives the whole old or the whole new model: the tensors carry an id,
    the new config waits beside the old one, and replacing the tensors is the commit. ModelError if the disk refuses.
    """
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    stored = {name: tensor.detach().to("cpu").contiguous() for name, tensor in sorted(tensors.items())}
    save_id = hashlib.sha256((text + tensor_digest(stored)).encode()).hexdigest()
    # A model of embeddings sees no pictures, and has no preprocessing.
    stated = {key: config["preprocessing"][key] for key in ("mean", "std")} if config["preprocessing"] else {}
    # One key, for safetensors writes several in random order, and the same model should be the same bytes.
    metadata = {"hashret": json.dumps({"save_id": save_id, **stated})}
    # A fixed name: what a power cut leaves behind is overwritten by the next save.
    temporary = folder / f".{TENSORS_NAME}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(stored, temporary, metadata=metadata)
        _sync(temporary)
        waiting = json.dumps({**config, "save_id": save_id}, indent=2, ensure_ascii=False) + "\n"
        _write_synced(folder / _NEXT_NAME, waiting)
        # safetensors lets only its writer read the file; whoever may read the one should read the other.
        temporary.chmod((folder / _NEXT_NAME).stat().st_mode)
        temporary.replace(folder / TENSORS_NAME)
        _sync(folder)
        _write_synced(folder / CONFIG_NAME, waiting)
        (folder / _NEXT_NAME).unlink(missing_ok=True)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the model could not be written to {folder} ({error}); check the disk and its rights"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the tensors (on the CPU) of model folder `folder`; ModelError for any damage."""
    # A save that commits between the two reads is met once; files that do not belong together stay apart.
    for _ in range(3):
        save_id, tensors = _read_tensors(folder)
        config = _config_for(folder, save_id)
        if save_id is None or config.get("save_id") in (None, save_id):
            return config, tensors
    raise ModelError(
        f"{CONFIG_NAME} and {TENSORS_NAME} in {folder} come from two different models; copy the whole folder"
    )


def _read_tensors(folder: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """The id of the save that model.safetensors is of (None in a file of other origin), and its tensors."""
    tensors_file = folder / TENSORS_NAME
    try:
        with safe_open(tensors_file, framework="pt") as opened:
            stated = json.loads((opened.metadata() or {}).get("hashret", "{}"))
            return stated.get("save_id"), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {TENSORS_NAME}; copy the whole model folder") from error
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{tensors_file} is damaged ({error}); copy the model again or train it again") from error


def check_format(folder: Path, config: dict[str, Any]) -> int:
    """The format version of the model in `folder`, from its configuration; ModelError unless this hashret can read it."""
    file = folder / CONFIG_NAME
    if config.get("format") != FORMAT:
        raise ModelError(
            f"{file} is no hashret model (its format is {config.get('format')!r}); name a folder that hashret wrote"
        )
    version = config.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ModelError(f"{file} has format version {version!r}; expected a whole number; copy the model again")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{file} has format version {version}, but hashret {__version__} reads up to {FORMAT_VERSION}; install a newer "
            "hashret"
        )
    return version


def check_tensors(folder: Path, wanted: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Nothing, if the tensors read from `folder` have the names and shapes wanted; ModelError otherwise."""
    file = folder / TENSORS_NAME
    absent, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if absent:
        raise ModelError(f"{file} lacks {len(absent)} tensors (the first is {absent[0]}); copy the model again")
    if extra:
        raise ModelError(f"{file} has {len(extra)} tensors too many (the first is {extra[0]}); copy the model again")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise ModelError(
                f"{file} holds {name} of shape {tuple(tensors[name].shape)}, but config.json means {tuple(tensor.shape)}; "
                "copy the model again"
            )


def fingerprint(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 in hex over everything that decides codes and features, and nothing else.

    That is the tensors of the network (BatchNorm's counters apart), the architecture, the thresholds and the preprocessing; not
    the activation, a classifier, scores, protocol or version. The kind of head, of pooling and a projection show in the names of
    their tensors.
    """
    decisive = {
        "backbone": config["architecture"]["backbone"],
        "stem": config["architecture"]["stem"],
        "code_size": config["code_size"],
        "thresholds": config["thresholds"],
        "preprocessing": config["preprocessing"],
    }
    floats = {name: tensor.cpu() for name, tensor in tensors.items() if tensor.is_floating_point()}
    return hashlib.sha256((json.dumps(decisive, sort_keys=True) + tensor_digest(floats)).encode()).hexdigest()


def tensor_digest(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 in hex over the names, types, shapes and bytes of CPU tensors, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _folder_of(text: str, runs: Path) -> Path | None:
    """The folder at path `text`, else the run of that name, else None; a model is preferred to a folder that is none."""
    candidates = [folder for folder in (Path(text), runs / text) if text and folder.is_dir()]
    return next((folder for folder in candidates if is_model(folder)), candidates[0] if candidates else None)


def _config_for(folder: Path, save_id: str | None) -> dict[str, Any]:
    """The config that goes with the tensors of that id: config.json, or the one waiting after an interrupted save."""
    waiting = folder / _NEXT_NAME
    if waiting.is_file():
        try:
            config = json.loads(waiting.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # A save that was interrupted before its commit: config.json is the one.
            config = None
        if isinstance(config, dict) and save_id is not None and config.get("save_id") == save_id:
            return config
    file = folder / CONFIG_NAME
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {CONFIG_NAME}; copy the whole model folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is no readable JSON ({error}); copy the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no JSON object; copy the model again")
    return config


def _write_synced(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Forces a file or folder to disk; folders cannot be opened on Windows, which needs no such step."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
