"""Heads: features to logits. One is trained, with activations in place of the sign; one is fitted afterwards."""

from __future__ import annotations

import torch
from torch import nn

from hashret.errors import UsageError

ACTIVATIONS = ("tanh", "sigmoid")
HEADS = ("hash", "projection")
MAX_CODE_SIZE = 1024


class HashHead(nn.Module):
    """Features (N, feature_size) to logits (N, code_size): Linear without bias, then BatchNorm.

    BatchNorm centres every logit on the training data, so that a threshold of 0 gives balanced bits; it makes a bias of
    the Linear pointless. Bit i is 1 exactly when logit i > 0 (unless the model carries thresholds of its own).
    """

    def __init__(self, feature_size: int, code_size: int, activation: str = "tanh", beta: float = 1.0) -> None:
        super().__init__()
        check_code_size(code_size)
        if activation not in ACTIVATIONS:
            raise UsageError(f"activation is {activation!r}; it can be {' or '.join(ACTIVATIONS)}")
        if not 0 < beta < float("inf"):
            raise UsageError(f"beta, the steepness of the activation, is {beta}; it must be above 0")
        self.linear = nn.Linear(feature_size, code_size, bias=False)
        self.norm = nn.BatchNorm1d(code_size)
        self.activation = activation
        self.beta = beta

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Logits, (N, code_size) float32."""
        logits_NK: torch.Tensor = self.norm(self.linear(features_ND))
        return logits_NK

    @torch.no_grad()
    def start_from(self, directions_KD: torch.Tensor, features_ND: torch.Tensor) -> None:
        """Begin with bits that say on which side of the mean of these features one lies, along each direction.

        BatchNorm takes out how long the weights are, but the longer they are the less an update turns them. So they do not
        depend on how large features happen to be: along each direction, features of length 1 deviate by 1.
        """
        unit_ND = nn.functional.normalize(features_ND, dim=1)
        deviation_K = (unit_ND @ directions_KD.T).std(dim=0, correction=0)
        self.linear.weight.copy_(directions_KD / deviation_K.clamp_min(1e-6)[:, None])
        values_NK = self.linear(features_ND)
        self.norm.reset_parameters()
        self.norm.running_mean = values_NK.mean(dim=0)
        self.norm.running_var = values_NK.var(dim=0, correction=0)

    def activate(self, logits_NK: torch.Tensor) -> torch.Tensor:
        """Relaxed codes, shaped as the logits: tanh(beta x) in (-1, 1), or sigmoid(beta x) in (0, 1).

        Both cross the middle of their range at logit 0, where the bit turns.
        """
        scaled = logits_NK if self.beta == 1.0 else self.beta * logits_NK
        return torch.tanh(scaled) if self.activation == "tanh" else torch.sigmoid(scaled)


class ProjectionHead(nn.Module):
    """Features (N, feature_size) of any length to logits (N, code_size): scaled to length 1, less a mean, times a matrix.

    Nothing in it is trained: hashret.training.posthoc fits `mean` (feature_size,) and `directions` (code_size, feature_size)
    to features. Zeros until then. Bit i is 1 exactly when logit i > 0.
    """

    mean: torch.Tensor
    directions: torch.Tensor

    def __init__(self, feature_size: int, code_size: int) -> None:
        super().__init__()
        check_code_size(code_size)
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("directions", torch.zeros(code_size, feature_size))

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Logits, (N, code_size) float32; a feature vector of zeros stays one."""
        return self.project(nn.functional.normalize(features_ND.float(), dim=1))

    def project(self, unit_ND: torch.Tensor) -> torch.Tensor:
        """Logits, (N, code_size) float32, of float32 features of length 1."""
        return nn.functional.linear(unit_ND - self.mean, self.directions)


def check_code_size(code_size: int) -> None:
    """Nothing, if `code_size` is a whole number of bits from 1 to 1024; UsageError otherwise."""
    if isinstance(code_size, bool) or not isinstance(code_size, int) or not 1 <= code_size <= MAX_CODE_SIZE:
        raise UsageError(f"the code size is {code_size!r}; it must be a whole number of bits from 1 to {MAX_CODE_SIZE}")
