"""Which device to compute on."""

from __future__ import annotations

import logging

import torch

from hashret.errors import UsageError

_log = logging.getLogger("hashret.model")


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`: "auto", "cpu", "cuda", "cuda:1", "mps".

    "auto" takes CUDA, then Apple's MPS, then the CPU, and logs which (logger "hashret.model", INFO). UsageError if a device
    is asked for that torch cannot find: a missing GPU is never papered over.
    """
    if isinstance(name, str) and name == "auto":
        if torch.cuda.is_available():
            device = torch.device("cuda")
            _log.info("device: cuda (%s)", torch.cuda.get_device_name(device))
        elif torch.backends.mps.is_available():
            device = torch.device("mps")
            _log.info("device: mps")
        else:
            device = torch.device("cpu")
            _log.info("device: cpu (%d threads)", torch.get_num_threads())
        return device
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"there is no device {name!r}; it can be auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UsageError(
                f"device {name} was asked for, but torch {torch.__version__} finds no CUDA GPU; use --device cpu"
            )
        if device.index is not None and device.index >= count:
            raise UsageError(f"device {name} was asked for, but there are {count} CUDA GPUs, counted from cuda:0")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("device mps was asked for, but torch finds no Apple GPU; use --device cpu")
    elif device.type != "cpu":
        raise UsageError(f"there is no device {str(name)!r}; it can be auto, cpu, cuda, cuda:N or mps")
    return device
