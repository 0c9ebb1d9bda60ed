"""Which gallery pictures count for a query of a turntable set, and the control that a trained model has to beat.

Without the rule a query finds its own class by its twin: the same paint in the same light, turned by a notch. With it the
class must be known across colours, times of day or views.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

NEAR_DEGREES = 30


def allowed_pairs(
    query_colours: ArrayLike,
    query_times: ArrayLike,
    query_views: ArrayLike,
    gallery_colours: ArrayLike,
    gallery_times: ArrayLike,
    gallery_views: ArrayLike,
    *,
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    near_degrees: float = NEAR_DEGREES,
) -> NDArray[np.bool_]:
    """bool (Q, N): whether gallery picture n counts for query q.

    Left out are pictures of the same colour and the same time whose view lies within near_degrees (30, included) of the
    query's, round the circle, whatever their class; and, where ids are given, the picture with the query's own id. Colours,
    times and ids are compared for equality; views are degrees, as numbers or as the text of a table.
    """
    colour_Q, colour_N = np.asarray(query_colours), np.asarray(gallery_colours)
    time_Q, time_N = np.asarray(query_times), np.asarray(gallery_times)
    view_Q, view_N = np.asarray(query_views).astype(float), np.asarray(gallery_views).astype(float)
    apart = np.abs(view_Q[:, None] - view_N[None]) % 360.0
    near = np.minimum(apart, 360.0 - apart) <= near_degrees
    twin = near & (colour_Q[:, None] == colour_N[None]) & (time_Q[:, None] == time_N[None])
    if query_ids is not None and gallery_ids is not None:
        twin |= np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None]
    allowed: NDArray[np.bool_] = ~twin
    return allowed


def raw_pixels(picture: Image.Image, side: int = 32) -> NDArray[np.float32]:
    """The control without a model, float32 (3 * side * side,): the picture at 32 x 32 pixels, less its mean, length 1.

    The picture is squeezed to a square. A picture of one colour gives zeros.
    """
    small = picture.convert("RGB").resize((side, side), Image.Resampling.BOX, reducing_gap=3.0)
    vector = np.asarray(small, dtype=np.float32).reshape(-1)
    vector = (vector - vector.mean(dtype=np.float64).astype(np.float32)) / np.float32(255)
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 1e-3 else np.zeros_like(vector)
