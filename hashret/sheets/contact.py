"""Contact sheets: pictures and captions in, one picture out. Right and wrong differ by mark as well as by colour."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from hashret.errors import ImageError
from hashret.images import Box, read_picture, to_rgb
from hashret.sheets.fonts import TextPainter

RIGHT, WRONG, UNKNOWN, QUERY = "#007a58", "#d55e00", "#b8b8b8", "#202020"
"""Outline colours: green and vermilion of the Okabe-Ito palette, told apart with any colour vision, grey, near-black."""

_PAPER, _INK, _FADED = "#ffffff", "#202020", "#808080"
_CAPTION_LINES = 3


@dataclass(frozen=True)
class SheetPicture:
    """A picture with its caption (one string a line) and whether it is a right answer (None: not known).

    picture: a path as `images.read_picture` takes it, or a PIL image.
    """

    picture: str | os.PathLike[str] | Image.Image
    caption: Sequence[str] = ()
    right: bool | None = None
    box: Box | None = None


@dataclass(frozen=True)
class SheetRow:
    """A query and what was found for it, best first."""

    query: SheetPicture
    results: Sequence[SheetPicture] = field(default_factory=tuple)


def result_caption(rank: int, distance: float, label: str, metric: str = "hamming") -> list[str]:
    """The caption of one result: ["1 · 3 bits", label], or ["1 · cos 0.912", label]. Ranks count from 1.

    metric: hamming, cosine, asymmetric ("asym") or inner_product ("inner").
    """
    if metric == "hamming":
        near = f"{distance:g} bit" if distance == 1 else f"{distance:g} bits"
    elif metric == "cosine":
        near = f"cos {distance:.3f}"
    else:
        near = f"{'asym' if metric == 'asymmetric' else 'inner'} {distance:.3g}"
    return [f"{rank} · {near}", *([label] if label else [])]


def contact_sheet(
    rows: Sequence[SheetRow], *, picture_side: int = 144, title: str = "", columns: int | None = None
) -> Image.Image:
    """One RGB picture: a row for each query, the query at the left, then its results, in lines of `columns` where given.

    Right results have a solid green outline and a tick, wrong ones a dashed orange outline and a cross, those of which it
    is not known a thin grey outline. Pictures keep their shape within picture_side x picture_side pixels; one that
    cannot be read is shown as a grey tile that says so. Captions may be in any script; what is too long ends in "…".
    """
    cells: list[list[SheetPicture | None]] = []
    for row in rows:
        step = columns or max(1, len(row.results))
        lines = [row.results[start : start + step] for start in range(0, len(row.results), step)] or [()]
        cells += [[None if number else row.query, *line] for number, line in enumerate(lines)]
    return _Sheet(picture_side, cells, title, with_queries=True).image


def grid(
    pictures: Sequence[SheetPicture | None], *, columns: int | None = None, picture_side: int = 144, title: str = ""
) -> Image.Image:
    """One RGB picture of all these pictures, in reading order; as many columns as rows when `columns` is not given.

    None leaves a cell empty.
    """
    columns = columns or max(1, math.ceil(math.sqrt(len(pictures))))
    cells = [list(pictures[start : start + columns]) for start in range(0, len(pictures), columns)]
    return _Sheet(picture_side, cells, title, with_queries=False, columns=columns).image


class _Sheet:
    """The paper: where each cell lies, and how pictures, outlines and captions are put into it."""

    def __init__(
        self, side: int, cells: list[list[SheetPicture | None]], title: str, *, with_queries: bool, columns: int = 1
    ) -> None:
        self.side = side
        self.text = TextPainter(max(11, side // 11))
        heading = TextPainter(max(14, side // 8))
        self.margin = max(6, side // 16)
        gap = 2 * self.margin if with_queries else 0  # sets the query apart from its results
        captions = [[self._lines(cell.caption) if cell else [] for cell in row] for row in cells]
        most_lines = max((len(lines) for row in captions for lines in row), default=0)
        cell_width = side + 2 * self.margin
        cell_height = side + 3 * self.margin + most_lines * self.text.line_height
        top = 2 * self.margin + (heading.line_height if title else 0)
        columns = max([columns, *(len(row) for row in cells)])
        size = (2 * self.margin + columns * cell_width + gap, top + len(cells) * cell_height + self.margin)
        self.image = Image.new("RGB", size, _PAPER)
        self.draw = ImageDraw.Draw(self.image)
        heading.draw(self.draw, (2 * self.margin, self.margin), heading.fit(title, size[0] - 4 * self.margin), _INK)
        for y, row in enumerate(cells):
            for x, cell in enumerate(row):
                if cell is not None:
                    left = 2 * self.margin + x * cell_width + (gap if x else 0)
                    is_query = with_queries and x == 0
                    self._place(left, top + y * cell_height + self.margin, cell, captions[y][x], is_query=is_query)

    def _place(self, left: int, top: int, cell: SheetPicture, lines: list[tuple[str, str]], *, is_query: bool) -> None:
        picture = self._picture(cell)
        if picture is None:
            self._blank(left, top)
        else:
            self.image.paste(
                picture, (left + (self.side - picture.width) // 2, top + (self.side - picture.height) // 2)
            )
        self._outline(left, top, cell.right, is_query)
        for i, (line, colour) in enumerate(lines):
            at = (left, top + self.side + self.margin // 2 + 2 + i * self.text.line_height)
            self.text.draw(self.draw, at, line, colour)

    def _picture(self, entry: SheetPicture) -> Image.Image | None:
        try:
            if isinstance(entry.picture, Image.Image):
                picture = to_rgb(entry.picture)
            else:
                picture = read_picture(entry.picture, box=entry.box, smallest_side=2 * self.side)
        except ImageError:
            return None
        scale = self.side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(
            size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC, reducing_gap=3.0
        )

    def _blank(self, left: int, top: int) -> None:
        self.draw.rectangle((left, top, left + self.side - 1, top + self.side - 1), fill="#e8e8e8")
        note = self.text.fit("cannot be read", self.side)
        at = (left + (self.side - self.text.width(note)) / 2, top + (self.side - self.text.line_height) / 2)
        self.text.draw(self.draw, at, note, _FADED)

    def _outline(self, left: int, top: int, right: bool | None, is_query: bool) -> None:
        thick = max(3, self.side // 36)
        edge = (left - thick, top - thick, left + self.side + thick - 1, top + self.side + thick - 1)
        if is_query:
            self.draw.rectangle(edge, outline=QUERY, width=thick)
        elif right is None:
            self.draw.rectangle((left - 1, top - 1, left + self.side, top + self.side), outline=UNKNOWN, width=1)
        elif right:
            self.draw.rectangle(edge, outline=RIGHT, width=thick)
            self._badge(left, top, tick=True)
        else:
            self._dashes(edge, thick)
            self._badge(left, top, tick=False)

    def _dashes(self, edge: tuple[int, int, int, int], thick: int) -> None:
        x1, y1, x2, y2 = edge
        dash = max(6, self.side // 12)
        for start in range(0, x2 - x1 + 1, 2 * dash):
            a, b = x1 + start, min(x1 + start + dash - 1, x2)
            self.draw.rectangle((a, y1, b, y1 + thick - 1), fill=WRONG)
            self.draw.rectangle((a, y2 - thick + 1, b, y2), fill=WRONG)
        for start in range(0, y2 - y1 + 1, 2 * dash):
            a, b = y1 + start, min(y1 + start + dash - 1, y2)
            self.draw.rectangle((x1, a, x1 + thick - 1, b), fill=WRONG)
            self.draw.rectangle((x2 - thick + 1, a, x2, b), fill=WRONG)

    def _badge(self, left: int, top: int, *, tick: bool) -> None:
        """A tick or a cross, white on a disc, in the upper right corner."""
        r = max(7, self.side // 12)
        x, y = left + self.side - r, top + r
        self.draw.ellipse(
            (x - r, y - r, x + r, y + r), fill=RIGHT if tick else WRONG, outline=_PAPER, width=max(1, r // 6)
        )
        reach, width = r * 0.5, max(2, r // 4)
        if tick:
            strokes = [[(x - reach, y), (x - reach * 0.2, y + reach * 0.8), (x + reach, y - reach * 0.7)]]
        else:
            strokes = [
                [(x - reach, y - reach), (x + reach, y + reach)],
                [(x - reach, y + reach), (x + reach, y - reach)],
            ]
        for stroke in strokes:
            self.draw.line(stroke, fill=_PAPER, width=width, joint="curve")

    def _lines(self, caption: Sequence[str]) -> list[tuple[str, str]]:
        """(line, colour) of a caption: one line for each entry; the last, the longest as a rule, takes all that is left."""
        shown = [text for text in caption if text.strip()][:_CAPTION_LINES]
        lines: list[tuple[str, str]] = []
        for i, text in enumerate(shown):
            last = i == len(shown) - 1
            most = _CAPTION_LINES - i if last else 1
            colour = _INK if last else _FADED
            lines += [(line, colour) for line in self.text.wrap(text, self.side + self.margin, most)]
        return lines
