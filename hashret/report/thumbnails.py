"""Small pictures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io

from PIL import Image

from hashret.data.table import PictureTable
from hashret.errors import ImageError
from hashret.images import read_picture

SIDE_PX = 112
QUALITY = 72
BYTE_LIMIT = 4_000_000
"""Of all data URIs of a page; once it is reached, further pictures are left out."""


class Thumbnails:
    """The pictures of a table, each read once; `left_out` counts those that had no room any more."""

    def __init__(self, table: PictureTable) -> None:
        self._table = table
        self._made: dict[int, str] = {}
        self._room = BYTE_LIMIT
        self.left_out = 0

    def uri(self, row: int) -> str:
        """The picture of a row, at most SIDE_PX wide and high, as "data:image/jpeg;base64,…"; "" when it is not to be shown."""
        if row not in self._made:
            self._made[row] = self._encoded(row)
        uri = self._made[row]
        if len(uri) > self._room:
            self.left_out += 1
            return ""
        self._room -= len(uri)
        return uri

    def _encoded(self, row: int) -> str:
        try:
            picture = read_picture(self._table.paths[row], box=self._table.box(row), smallest_side=2 * SIDE_PX)
        except ImageError:  # it was there when it was encoded
            return ""
        picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
