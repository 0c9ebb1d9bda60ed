"""A map of the pictures: their features laid out on a plane by UMAP, where near pictures are alike.

Source of the method: McInnes, Healy, Melville 2018, "UMAP: Uniform manifold approximation and projection for dimension
reduction". umap-learn is the extra `umap`. Shape suffixes: N pictures, P points, D numbers of a feature vector.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashret.report.ranking import Floats, Integers

FEWEST_POINTS = 50
"""Fewer say nothing about a shape."""
MOST_POINTS = 4000
"""More are drawn from: up to about so many umap-learn compares all pairs, beyond it compiles and runs a search of its own."""
NEIGHBOURS = 15
SEED = 0


class PictureMap(NamedTuple):
    """Gallery rows (P,), ascending, and their places (P, 2); `n` is how many pictures they were drawn from."""

    rows_P: Integers
    places_P2: Floats
    n: int


def is_installed() -> bool:
    """Whether umap-learn is there."""
    return importlib.util.find_spec("umap") is not None


def lay_out(features_ND: NDArray[np.float32], rows_N: Integers) -> PictureMap | None:
    """The map of these rows by the cosine of their features, the same for the same features; None for fewer than FEWEST_POINTS.

    Of more than MOST_POINTS rows so many are drawn with a fixed seed.
    """
    if len(rows_N) < FEWEST_POINTS:
        return None
    drawn = np.random.default_rng(SEED).permutation(len(rows_N))[:MOST_POINTS]
    rows_P = np.sort(rows_N[drawn])
    with warnings.catch_warnings():
        # What umap says of itself on import, and of features that fall into parts: the map is made all the same.
        warnings.filterwarnings("ignore", "Tensorflow not installed; ParametricUMAP will be unavailable", ImportWarning)
        warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)
        warnings.filterwarnings("ignore", "Spectral initialisation failed", UserWarning)
        from umap import UMAP

        # One job: several would give other places in each run.
        reducer = UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=SEED, n_jobs=1)
        places_P2 = reducer.fit_transform(features_ND[rows_P])
    return PictureMap(rows_P, np.asarray(places_P2, np.float64), len(rows_N))
