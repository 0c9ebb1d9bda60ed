"""Which device to compute on."""

from __future__ import annotations

import ctypes
import logging

import torch

from hashret.errors import UsageError

_log = logging.getLogger("hashret.model")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


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


def keep_freed_memory() -> None:
    """Have this process keep the memory that tensors leave for the next ones, up to 2 GiB, instead of giving it back.

    glibc returns large blocks to the system at once, which has to clear each page again for the next tensor: that was half of
    the time of an update on a CPU (MobileNetV2, 64 pictures of 160 px, 2 cores: 37 and 66 pictures/s). Other allocators are
    left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
