"""How learning goes, seen while it runs: numbers of a batch, and their means over an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from hashret.training.objectives import Outputs, Scored


class Monitors:
    """Looks at every update and sums it up over an epoch."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.updates = 0

    def observe(self, outputs: Outputs, labels_D: Tensor, scored: Scored, gradient_norm: float) -> dict[str, float]:
        """What there is to say of one update, by name; it is counted into the epoch."""
        del labels_D
        balance = (outputs.logits_DK.detach() > 0).float().mean(dim=0)
        numbers = {"loss": scored.loss.detach(), **scored.scalars, "imbalance": (balance - 0.5).abs().mean()}
        values = torch.stack([number.detach().float().cpu() for number in numbers.values()]).tolist()
        observed = {**dict(zip(numbers, values, strict=True)), "gradient": gradient_norm}
        for name, value in observed.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        self.updates += 1
        return observed

    def end_epoch(self) -> dict[str, float]:
        """The means over the epoch's updates, by name; counting begins anew."""
        means = {name: total / max(self.updates, 1) for name, total in self.totals.items()}
        self.totals, self.updates = {}, 0
        return means

    def state_dict(self) -> dict[str, object]:
        """What going on in the middle of an epoch needs."""
        return {"totals": dict(self.totals), "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """The inverse of `state_dict`."""
        self.totals, self.updates = dict(state["totals"]), int(state["updates"])  # type: ignore[call-overload]
