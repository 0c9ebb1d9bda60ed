"""How the renderer's inner loops are compiled, and the scalar functions of shading languages that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from hashret.hamming.compiled import compiled

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """The function compiled; the compiled code is kept on disk for the next process."""
    return cast(Function, compiled(function, error_model="numpy", fastmath={"contract", "arcp", "nsz"}))


@kernel
def mix(a: float, b: float, part: float) -> float:
    """From a (part 0) to b (part 1)."""
    return a + (b - a) * part


@kernel
def clamp(x: float) -> float:
    """The nearest number in 0..1."""
    return min(1.0, max(0.0, x))


@kernel
def smoothstep(low: float, high: float, x: float) -> float:
    """0 below low, 1 above high, smooth between."""
    u = clamp((x - low) / (high - low))
    return u * u * (3.0 - 2.0 * u)
