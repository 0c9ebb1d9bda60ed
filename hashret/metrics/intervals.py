"""How far a mean over queries can be trusted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hashret.errors import UsageError


def bootstrap_interval(
    values_Q: npt.ArrayLike, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Bounds of the mean over queries at this confidence: percentiles of the means of resampled queries.

    values_Q: one finite number a query, at least one. The same seed gives the same bounds. Source: Efron 1979, the
    percentile bootstrap. UsageError for what does not fit.
    """
    values = np.asarray(values_Q, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise UsageError(f"the values have shape {values.shape}, expected at least one finite number a query")
    if not 0 < confidence < 1 or resamples < 1:
        raise UsageError(
            f"confidence is {confidence} and resamples {resamples}, expected one between 0 and 1, and at least 1"
        )
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
