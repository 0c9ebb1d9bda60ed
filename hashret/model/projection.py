"""Vectors from anywhere to codes: a model folder without a network.

Shape suffixes: N vectors, D numbers of a vector, K bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import hashret
from hashret.codes import Codes, binarize, bytes_per_code
from hashret.errors import ModelError, UsageError
from hashret.model import folder as model_folder
from hashret.model.heads import ProjectionHead

_ROWS_AT_ONCE = 8192


class Projection:
    """Embeddings to logits, by a head that was fitted to embeddings of their kind.

    It is stored as other models are; its architecture has no backbone and it has no preprocessing. `protocol` and `scores` are
    dictionaries that travel along in config.json.
    """

    def __init__(self, head: ProjectionHead) -> None:
        self.head = head
        self.protocol: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}

    @property
    def code_size(self) -> int:
        """Bits in a code."""
        return len(self.head.directions)

    @property
    def feature_size(self) -> int:
        """Numbers in an embedding."""
        return len(self.head.mean)

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says: a new dictionary at every call."""
        return {
            "format": model_folder.FORMAT,
            "format_version": 2,
            "hashret_version": hashret.__version__,
            "architecture": {"backbone": None, "stem": None, "feature_size": self.feature_size, "weights": "none"},
            "code_size": self.code_size,
            "head": {"kind": "projection"},
            "thresholds": None,
            "preprocessing": None,
            "protocol": dict(self.protocol),
            "scores": dict(self.scores),
        }

    def encode(self, embeddings_ND: npt.NDArray[np.floating]) -> Codes:
        """Packed codes, uint8 (N, ceil(K / 8)): bit i is 1 exactly when logit i > 0. Errors as in `embed`."""
        self._check_width(embeddings_ND)
        return codes_of([self.head], embeddings_ND)[0]

    def embed(self, embeddings_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Logits, float32 (N, K), of embeddings of any length; UsageError as in `unit_vectors` and for another width."""
        self._check_width(embeddings_ND)
        logits_NK = np.empty((len(embeddings_ND), self.code_size), np.float32)
        for start in range(0, len(embeddings_ND), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            logits_NK[some] = _logits(self.head, unit_vectors(embeddings_ND[some], start))
        return logits_NK

    def fingerprint(self) -> str:
        """sha256 in hex over everything that decides codes: see `folder.fingerprint`."""
        return model_folder.fingerprint(self.config, self._tensors())

    def save_pretrained(self, folder: str | Path) -> Path:
        """The folder, now holding config.json and model.safetensors; ModelError if it cannot be written."""
        try:
            model_folder.write_model(Path(folder), self.config, self._tensors())
        except (TypeError, ValueError) as error:
            raise ModelError(f"protocol and scores must be plain JSON values ({error})") from error
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Projection:
        """The projection in a model folder; ModelError for a missing or damaged one, and for a model with a network."""
        where = model_folder.resolve_model(folder)
        config, tensors = model_folder.read_model(where)
        model_folder.check_format(where, config)
        try:
            if config["architecture"]["backbone"] is not None:
                raise ModelError(f"{where} makes codes of pictures by a network, not of embeddings; give it pictures")
            if config["head"]["kind"] != "projection" or config["thresholds"] is not None:
                raise UsageError("its head is no projection without thresholds")
            made = cls(ProjectionHead(int(config["architecture"]["feature_size"]), config["code_size"]))
            made.protocol, made.scores = dict(config["protocol"]), dict(config["scores"])
        except (KeyError, TypeError, ValueError, UsageError, RuntimeError) as error:
            file = where / model_folder.CONFIG_NAME
            raise ModelError(f"{file} cannot be used ({str(error).rstrip('.')}); copy the model again") from error
        model_folder.check_tensors(where, made._tensors(), tensors)
        made.head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in tensors.items()})
        return made

    def _check_width(self, embeddings_ND: npt.NDArray[np.floating]) -> None:
        if embeddings_ND.ndim != 2 or embeddings_ND.shape[1] != self.feature_size:
            raise UsageError(
                f"the embeddings have shape {embeddings_ND.shape}, expected (N, {self.feature_size}), as those that the "
                "codes were fitted to"
            )

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}


def codes_of(heads: Sequence[ProjectionHead], vectors_ND: npt.NDArray[np.floating]) -> list[Codes]:
    """For each head the packed codes, uint8 (N, ceil(K / 8)), of vectors of any length, which are gone through once."""
    codes = [np.empty((len(vectors_ND), bytes_per_code(len(head.directions))), np.uint8) for head in heads]
    for start in range(0, len(vectors_ND), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        unit_ND = unit_vectors(vectors_ND[some], start)
        for head, codes_NB in zip(heads, codes, strict=True):
            codes_NB[some] = binarize(_logits(head, unit_ND))
    return codes


def _logits(head: ProjectionHead, unit_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits, float32 (N, K), of vectors of length 1."""
    with torch.inference_mode():
        found: npt.NDArray[np.float32] = head.project(torch.from_numpy(unit_ND)).numpy()
    return found


def unit_vectors(vectors_ND: npt.NDArray[np.floating], first: int = 0) -> npt.NDArray[np.float32]:
    """The vectors scaled to length 1, float32 (N, D).

    UsageError for a vector of zeros and for NaN or infinity; `first` is the number of the first vector in the message.
    """
    wide = vectors_ND.astype(np.float64)
    # Scaled by the largest number first, so that no square overflows or vanishes.
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wrong = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
    if len(wrong):
        raise UsageError(
            f"vector {first + wrong[0]} is all zeros or holds NaN or infinity, expected finite numbers with a direction"
        )
    wide /= largest
    wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return wide.astype(np.float32)
