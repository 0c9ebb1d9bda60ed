"""Starting weights: torchvision's, a file's, another model's, or none.

A file may hold a whole classifier, a bare backbone or a hashret model; its names may carry a wrapper's prefix ("module.",
"backbone." …). The tensors of the last layer are dropped, and that is said; a backbone tensor that is missing or has another
shape is an error, because a network that is partly random looks trained and is not.
"""

from __future__ import annotations

import json
import logging
import pickle
import urllib.error
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from hashret.errors import ModelError

_log = logging.getLogger("hashret.model")

_PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.", "encoder.", "network.", "net.")
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "ema")
# Statistics-only counters, which older files lack.
_OPTIONAL = "num_batches_tracked"

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a source of weights: counts and names, and one line in words (`str`)."""

    source: str
    loaded: int
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"weights {self.source}: {self.loaded} tensors loaded"]
        if self.dropped:
            shown = ", ".join(self.dropped[:4]) + (" …" if len(self.dropped) > 4 else "")
            parts.append(f"{len(self.dropped)} not used, for they belong to no layer of this backbone ({shown})")
        return "; ".join([*parts, *self.notes])


def read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a .safetensors or .pth/.pt/.bin file by name, on the CPU, and its text metadata.

    Pickled files are read with `weights_only=True`, so that none of their code runs. ModelError if the file is missing,
    damaged, or holds something other than tensors.
    """
    if not file.is_file():
        raise ModelError(
            f"there is no weights file {file}; --weights takes imagenet, none, a .safetensors or a .pth file"
        )
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{file} is no readable safetensors file ({error}); copy or download it again") from error
    try:
        with warnings.catch_warnings():
            # Remarks on the pickle protocol; whether the file can be read shows anyway.
            warnings.simplefilter("ignore", UserWarning)
            loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file} holds more than tensors, or is no torch file, and is not opened because pickles can run code; save "
            "its state_dict() alone, or as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ModelError(f"{file} is no readable torch file ({reason}); copy or download it again") from error
    for key in _STATE_KEYS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if (
        not isinstance(loaded, dict)
        or not all(isinstance(value, torch.Tensor) for value in loaded.values())
        or not loaded
    ):
        raise ModelError(f"{file} holds no dictionary of tensors; save the network's state_dict()")
    return {str(name): tensor for name, tensor in loaded.items()}, {}


def normalisation_of(metadata: dict[str, str], file: Path) -> Normalisation | None:
    """(mean, std) that the metadata of a safetensors file states as JSON lists, or None; ModelError if they make no sense.

    They are under "mean" and "std", or, in files that hashret wrote, together under "hashret".
    """
    try:
        stated = json.loads(metadata["hashret"]) if "hashret" in metadata else metadata
        if "mean" not in stated or "std" not in stated:
            return None
        values = (json.loads(stated[key]) if isinstance(stated[key], str) else stated[key] for key in ("mean", "std"))
        mean, std = (tuple(float(value) for value in triple) for triple in values)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{file} states mean and std that are no lists of numbers; give --mean and --std") from error
    return mean, std


def load_backbone(
    backbone: nn.Module,
    tensors: dict[str, torch.Tensor],
    *,
    name: str,
    classifier: str,
    source: str,
    fresh: Collection[str] = (),
) -> LoadReport:
    """Loads `tensors` into `backbone` (float32) and tells what was done; `name` and `source` are for messages.

    Every tensor of the backbone must be there in its shape, except BatchNorm's counters and those named in `fresh`, which
    then stay as they are; ModelError otherwise. Position embeddings of a ViT made for another picture size are
    interpolated, as torchvision does.
    """
    wanted = backbone.state_dict()
    found = _without_prefix(tensors, wanted)
    notes: list[str] = []
    position = "encoder.pos_embedding"
    if position in wanted and position in found and found[position].shape != wanted[position].shape:
        found[position] = _resized_positions(found[position], wanted[position], source)
        notes.append(f"position embeddings interpolated to {wanted[position].shape[1] - 1} patches")
    missing = [key for key in wanted if key not in found and key not in fresh and not key.endswith(_OPTIONAL)]
    if missing:
        raise ModelError(
            f"{source} lacks {len(missing)} of the {len(wanted)} tensors of {name} (the first is {missing[0]}); "
            "name the backbone that the file was made for"
        )
    wrong = [key for key in wanted if key in found and found[key].shape != wanted[key].shape]
    if wrong:
        key = wrong[0]
        raise ModelError(
            f"{source} holds {key} of shape {tuple(found[key].shape)}, but {name} has {tuple(wanted[key].shape)} there; "
            "name the backbone (and stem) that the file was made for"
        )
    for key in wanted:
        if key in found and wanted[key].is_floating_point() and not bool(torch.isfinite(found[key].float()).all()):
            raise ModelError(f"{source} holds NaN or infinity in {key}; the file is damaged or its training diverged")
    copy_tensors(found, wanted)
    dropped = sorted(key for key in found if key not in wanted)
    if any(key.startswith(f"{classifier}.") for key in dropped):
        notes.append(f"a new head takes the place of its classifier ({classifier})")
    notes += [f"{key} starts anew" for key in wanted if key in fresh and key not in found]
    report = LoadReport(source, sum(key in found for key in wanted), dropped, notes)
    _log.info("%s", report)
    return report


def copy_tensors(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    """Overwrites the tensors of `target`, a network's state_dict(), with those of the same name and shape in `source`.

    Not load_state_dict: torchvision's MNASNet looks there for a version that only pickled files carry.
    """
    with torch.no_grad():
        for name in target.keys() & source.keys():
            target[name].copy_(source[name])


def imagenet_tensors(name: str) -> tuple[dict[str, torch.Tensor], Normalisation, str]:
    """torchvision's ImageNet weights of backbone `name`: tensors, (mean, std), and the name of the weights.

    IMAGENET1K_V1 where it exists, because "DEFAULT" changes between releases of torchvision. Downloaded once into torch's hub
    folder. ModelError if that cannot be done.
    """
    from torchvision import models

    choices = models.get_model_weights(name)
    weights = choices.__members__.get("IMAGENET1K_V1", choices.DEFAULT)
    try:
        tensors: dict[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError, ValueError) as error:
        target = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ModelError(
            f"the ImageNet weights of {name} could not be downloaded ({reason}); fetch {weights.url} on a machine with a "
            f"network and save it as {target}, or give --weights FILE, or --weights none to train from scratch"
        ) from error
    transform = weights.transforms()
    mean, std = tuple(transform.mean), tuple(transform.std)
    if name in ("googlenet", "inception_v3"):
        # These two were trained on x/127.5-1; torchvision re-normalises inside the network, hashret before it.
        mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return tensors, (mean, std), str(weights).rsplit(".", 1)[-1]


def _without_prefix(tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`tensors` under the names that fit `wanted` best, once the prefixes that wrappers put there are taken off."""
    best, names = dict(tensors), dict(tensors)
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if any(key.startswith(prefix) for key in names):
                stripped = {key.removeprefix(prefix): value for key, value in names.items()}
                if len(wanted.keys() & stripped.keys()) > len(wanted.keys() & best.keys()):
                    best = stripped
                    changed = True
                    names = stripped
                    break
                if not wanted.keys() & names.keys():
                    names, changed = stripped, True
                    break
    return best


def _resized_positions(found: torch.Tensor, wanted: torch.Tensor, source: str) -> torch.Tensor:
    """ViT position embeddings (1, 1 + n*n, D) brought to the number of patches in `wanted`; the class token stays."""
    if found.ndim != 3 or found.shape[::2] != wanted.shape[::2]:
        raise ModelError(
            f"{source} holds position embeddings of shape {tuple(found.shape)}, but the backbone has {tuple(wanted.shape)}; "
            "name the backbone that the file was made for"
        )
    old, new = (round((embedding.shape[1] - 1) ** 0.5) for embedding in (found, wanted))
    token, grid = found[:, :1].float(), found[:, 1:].float()
    grid = grid.permute(0, 2, 1).reshape(1, -1, old, old)
    grid = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=True)
    return torch.cat([token, grid.flatten(2).permute(0, 2, 1)], dim=1)
