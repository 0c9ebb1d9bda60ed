"""How learning goes, seen while it runs: numbers of every update, and of an epoch.

Everything is worked out on the device and fetched at once, so that an update waits for it one time. docs/health.md explains
each number.

Shapes: D pictures of a batch, K bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hashret.training.neighbours import TrainingCodes
from hashret.training.objectives import Outputs, Scored
from hashret.training.validation import Validation

IN_LINE = {"gradient": "grad", "imbalance": "imbal", "dead_bits": "dead", "correlation": "corr"}
"""How the progress line shortens names."""
NOT_IN_LINE = ("turn", "within", "between")


class Monitors:
    """Looks at every update and sums it up over an epoch.

    `head` is the module from features to logits; `labels_N` the class numbers of all training pictures, or (N, C) flags of
    several labels a picture.
    """

    def __init__(
        self,
        head: nn.Module,
        labels_N: NDArray[np.int64] | NDArray[np.bool_],
        *,
        code_size: int,
        feature_size: int,
        activation: str,
        device: torch.device,
        seed: int,
    ) -> None:
        self.head, self.activation = head, activation
        self.codes = TrainingCodes(labels_N, code_size=code_size, feature_size=feature_size, device=device, seed=seed)
        self.totals: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.largest: dict[str, float] = {}
        self.weights = self._directions()

    def observe(
        self, rows_D: NDArray[np.int64], outputs: Outputs, labels_D: Tensor, scored: Scored, gradient_norm: float
    ) -> dict[str, float]:
        """What there is to say of one update, by name; it is counted into the epoch.

        What is not a finite number is given as it is, and left out of the epoch's means.
        """
        bits_DK = outputs.logits_DK.detach() > 0
        self.codes.keep(rows_D, bits_DK, outputs.features_DF.detach())
        numbers = {
            "loss": scored.loss,
            **scored.scalars,
            "gradient": torch.as_tensor(gradient_norm),
            "turn": self._turn(),
            **batch_numbers(outputs, bits_DK, labels_D, self.activation),
        }
        device = bits_DK.device
        values = torch.stack([number.detach().to(device, torch.float32) for number in numbers.values()]).tolist()
        observed = dict(zip(numbers, values, strict=True))
        active = [value for name, value in observed.items() if name.startswith("active")]
        self._count({**observed, "idle": float(not any(active))} if active else observed)
        return observed

    def end_epoch(self) -> dict[str, float]:
        """Means over the epoch's updates and numbers of all training codes, by name; counting begins anew.

        A mean is over the updates that had the number: what an objective tells may change during a run. All are finite;
        `broken` is the share of updates in which something was not. idle: share of updates without an active triplet.
        """
        means = {name: total / self.counts[name] for name, total in self.totals.items()}
        updates = self.counts["broken"]
        largest = {f"{name}_max": value for name, value in self.largest.items()}
        self.totals, self.counts, self.largest = {}, {}, {}
        return {**means, **largest, "updates": updates, **self.codes.end_epoch()}

    def state_dict(self) -> dict[str, Any]:
        """What going on in the middle of an epoch needs."""
        return {
            "totals": dict(self.totals),
            "counts": dict(self.counts),
            "largest": dict(self.largest),
            "codes": self.codes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, once the head has its weights back."""
        self.totals, self.counts, self.largest = dict(state["totals"]), dict(state["counts"]), dict(state["largest"])
        self.weights = self._directions()
        self.codes.load_state_dict(state["codes"])

    def head_started(self) -> None:
        """Note that the head has new weights, which no update turned it to."""
        self.weights = self._directions()

    def _count(self, observed: dict[str, float]) -> None:
        finite = {name: value for name, value in observed.items() if math.isfinite(value)}
        for name, value in {**finite, "broken": float(len(finite) < len(observed))}.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        for name in ("loss", "gradient", "turn"):
            if name in finite:
                self.largest[name] = max(self.largest.get(name, 0.0), finite[name])

    def _turn(self) -> Tensor:
        """Mean angle by which this update turned the weights of a bit, in degrees: batch norm takes their lengths out."""
        before, self.weights = self.weights, self._directions()
        # By the chord, which tells small angles apart.
        return torch.rad2deg(2.0 * torch.asin(((self.weights - before).norm(dim=1) / 2.0).clamp_max(1.0))).mean()

    def _directions(self) -> Tensor:
        """Which way the weights of every bit point: (K, F) rows of length 1."""
        weights = next(p for p in self.head.parameters() if p.ndim == 2)
        return nn.functional.normalize(weights.detach().float(), dim=1)


def batch_numbers(outputs: Outputs, bits_DK: Tensor, labels_D: Tensor, activation: str) -> dict[str, Tensor]:
    """Numbers of a batch's activations and bits, scalars on their device.

    labels: class numbers (D,), or (D, C) numbers that are above 0 where a picture has a label; pictures that share one are
    of one class. gap: mean distance of an activation from the bit it stands for, 0 (they are codes) to 1 (they say nothing).
    within and between: mean distance of two pictures of one class and of two classes, in bits. imbalance: mean |share of
    ones - 0.5|. dead_bits: bits with one value in the whole batch. entropy: of a bit, mean. correlation: mean |r| over pairs
    of bits that vary. distinct: share of pictures with a code that no earlier one has.
    """
    activations = outputs.activations_DK.detach()
    signed_DK = activations if activation == "tanh" else 2.0 * activations - 1.0
    size, code_size = bits_DK.shape
    labels_D = labels_D.to(bits_DK.device)
    squares = (signed_DK * signed_DK).sum(dim=1)
    apart_DD = 0.25 * (squares[:, None] + squares[None, :] - 2.0 * signed_DK @ signed_DK.T).clamp_min(0.0)
    same_DD = labels_D[:, None] == labels_D[None, :] if labels_D.ndim == 1 else labels_D @ labels_D.T > 0
    ones_DK = bits_DK.float()
    share_K = ones_DK.mean(dim=0)
    spread_K = (share_K * (1.0 - share_K)).sqrt()
    alive = (spread_K > 0).sum()
    standard_DK = (ones_DK - share_K) / spread_K.clamp_min(1e-9)
    correlation_KK = (standard_DK.T @ standard_DK / size).abs()
    signs_DK = 2.0 * ones_DK - 1.0
    equal_DD = torch.triu(signs_DK @ signs_DK.T > code_size - 1, diagonal=1)
    return {
        "gap": 1.0 - signed_DK.abs().mean(),
        # A picture is at distance 0 from itself.
        "within": (apart_DD * same_DD).sum() / (same_DD.sum() - size).clamp_min(1),
        "between": (apart_DD * ~same_DD).sum() / (~same_DD).sum().clamp_min(1),
        "imbalance": (share_K - 0.5).abs().mean(),
        "dead_bits": code_size - alive,
        "entropy": (torch.special.entr(share_K) + torch.special.entr(1.0 - share_K)).mean() / math.log(2.0),
        "correlation": (correlation_KK.sum() - alive) / (alive * (alive - 1)).clamp_min(1),
        "distinct": 1.0 - equal_DD.any(dim=0).float().mean(),
    }


def progress_line(observed: dict[str, float]) -> str:
    """What the progress line shows of an update, what one looks at first to the left: a narrow terminal cuts the rest."""
    shown = {IN_LINE.get(name, name): value for name, value in observed.items() if name not in NOT_IN_LINE}
    return " ".join(f"{name} {value:.3g}" for name, value in shown.items())


def learning_line(seen: Mapping[str, float], validation: Validation) -> str:
    """How learning went in an epoch, for people."""
    shares = "".join(f", {name} {100 * seen[name]:.1f} %" for name in ("accuracy", "active") if name in seen)
    return (
        f"loss {seen['loss']:.3f}{shares}, gradient {seen.get('gradient', math.inf):.3g}; "
        f"validation mAP {validation.map:.4f} (float {validation.float_map:.4f}), "
        f"hit@1 {validation.hit1:.4f} (float {validation.float_hit1:.4f})"
    )


def codes_line(seen: Mapping[str, float], validation: Validation) -> str:
    """What the codes of validation pictures look like, and how near training comes to codes, for people."""
    shape = validation.codes
    agreement = f", neighbours agree {100 * seen['agreement']:.0f} %" if "agreement" in seen else ""
    return (
        f"imbalance {shape.mean_imbalance:.3f}, dead bits {shape.dead_bits}, entropy {shape.entropy_bits:.3f}, "
        f"correlation {shape.mean_correlation:.3f}, {shape.effective_bits:.1f} of {shape.code_size} bits effective, "
        f"{shape.distinct_codes} of {shape.n} distinct; gap {seen['gap']:.3f}{agreement}"
    )
