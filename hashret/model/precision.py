"""In which numbers a network computes codes: the one place that decides it.

On a GPU float16 takes half of the memory traffic of float32 and runs on the tensor cores. bfloat16 is as fast, but has three bits
of mantissa less and turns several times as many bits; its larger range helps training, where gradients are small, and not
here. Where float16 is too small for a network, infinities show it, and whoever computes codes has to look for them.
benchmarks/encoding.py measures speeds and turned bits (docs/benchmarks.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from hashret.errors import UsageError

PRECISIONS = ("auto", "float32", "float16", "bfloat16")


def pick_precision(name: str, device: torch.device) -> str:
    """The precision that `name` means on a device: "auto" is float16 on CUDA and float32 elsewhere. UsageError for no name."""
    if name not in PRECISIONS:
        raise UsageError(f"the precision is {name!r}; it can be {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "float16" if device.type == "cuda" else "float32"


@contextlib.contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """What a network computes on the device within is in this precision: "float32", "float16" or "bfloat16".

    float32 is meant: no TF32 (which has the mantissa of float16 and is torch's default for convolutions), and of cuDNN's
    algorithms only deterministic ones, so that the same batch gives the same bytes on the same GPU, and those of a CPU up to the
    rounding of float32. The other two are torch's autocast: operations that need its range stay in float32. The switches are
    torch's own and hold for the whole process.
    """
    if precision != "float32":
        with torch.autocast(device.type, dtype=getattr(torch, precision)):
            yield
        return
    with contextlib.ExitStack() as switches:
        switches.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            cudnn = torch.backends.cudnn
            switches.enter_context(cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False))
            switches.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield
