"""Text in any script: for each character, the first font that has a glyph for it.

First the font that comes with hashret's dependencies (Noto Sans CJK: Latin, Greek, Cyrillic, Hangul, Kana, Han), so that
pictures look alike on every machine; then the machine's own fonts; then Pillow's built-in one.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from fontTools.ttLib import TTCollection, TTFont, TTLibError
from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
"""A loaded font. ImageFont.ImageFont only where Pillow was built without FreeType."""


class TextPainter:
    """Draws and measures lines of text at one size, in pixels. Text is put into NFC first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.line_height = round(size * 1.35)
        self._loaded: dict[tuple[str, int] | None, Font] = {}

    def width(self, text: str) -> float:
        """Width of a line in pixels."""
        return sum(self._font(face).getlength(run) for run, face in _runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: str) -> None:
        """Draws a line with its upper left corner at `at`."""
        x, y = at
        baseline = y + round(self.size * 1.05)
        for run, face in _runs(text):
            font = self._font(face)
            anchored = isinstance(font, ImageFont.FreeTypeFont)
            draw.text((x, baseline if anchored else y), run, fill=colour, font=font, anchor="ls" if anchored else None)
            x += font.getlength(run)

    def fit(self, text: str, width: float) -> str:
        """The line, its end replaced by "…" where it would be wider than `width`."""
        text = unicodedata.normalize("NFC", text)
        if self.width(text) <= width:
            return text
        low, high = 0, len(text)
        while low < high:  # the longest beginning that fits
            middle = (low + high + 1) // 2
            if self.width(text[:middle].rstrip() + "…") <= width:
                low = middle
            else:
                high = middle - 1
        return text[:low].rstrip() + "…"

    def wrap(self, text: str, width: float, lines: int) -> list[str]:
        """The text in at most `lines` lines no wider than `width`, broken at spaces (or anywhere, where there are none)."""
        rest = unicodedata.normalize("NFC", " ".join(text.split()))
        wrapped: list[str] = []
        while rest:
            if len(wrapped) == lines - 1:
                return [*wrapped, self.fit(rest, width)]
            head = self.fit(rest, width)
            if head == rest:
                return [*wrapped, rest]
            taken = max(len(head) - 1, 1)
            space = rest.rfind(" ", 1, taken + 1)
            taken = space if space > 0 else taken
            wrapped.append(rest[:taken].strip())
            rest = rest[taken:].strip()
        return wrapped

    def _font(self, face: tuple[str, int] | None) -> Font:
        if face not in self._loaded:
            if face is None:
                self._loaded[face] = ImageFont.load_default(self.size)
            else:
                self._loaded[face] = ImageFont.truetype(face[0], self.size, index=face[1])
        return self._loaded[face]


def _runs(text: str) -> Iterator[tuple[str, tuple[str, int] | None]]:
    """(piece, font face) of a line: characters that follow one another in the same font stay together."""
    run, current = "", None
    for character in unicodedata.normalize("NFC", text):
        # Control characters have no look; a combining mark belongs into the font of the letter that it stands on.
        if unicodedata.category(character) in {"Cc", "Cs"}:
            character = "\N{REPLACEMENT CHARACTER}"
        joins = run and (unicodedata.combining(character) or character in " \u200d\ufe0e\ufe0f")
        face = current if joins else _face_for(character)
        if run and face != current:
            yield run, current
            run = ""
        run, current = run + character, face
    if run:
        yield run, current


@cache
def _face_for(character: str) -> tuple[str, int] | None:
    """(file, index in the file) of the first font with a glyph for this character; the first font of all when none has."""
    first: tuple[str, int] | None = None
    for face in _faces():
        characters = _characters(face)
        if ord(character) in characters:
            return face
        first = first or (face if characters else None)
    return first


@cache
def _characters(face: tuple[str, int]) -> frozenset[int]:
    """The code points that a font has glyphs for; none for a font that cannot be read or has no outlines."""
    try:
        with TTFont(face[0], fontNumber=face[1], lazy=True) as font:
            drawable = "glyf" in font or "CFF " in font or "CFF2" in font
            return frozenset(font.getBestCmap() or ()) if drawable else frozenset()
    except (TTLibError, OSError, ValueError, KeyError, AssertionError):
        return frozenset()


def _faces() -> Iterator[tuple[str, int]]:
    """Every font there is, the packaged one first, the machine's own in order of preference."""
    packaged = packaged_font()
    if packaged is not None:
        yield packaged, 0
    for file in _system_fonts():
        for index in range(_face_count(file)):
            yield file, index


@cache
def packaged_font() -> str | None:
    """The file of the font that comes with hashret's dependencies, None where that was not installed."""
    try:
        folder = files("noto_cjk_sans_jp_regular")
    except ModuleNotFoundError:  # a package manager that cannot install it: the machine's own fonts serve
        return None
    with as_file(folder / "NotoSansCJKjp-Regular.otf") as path:
        return str(path) if path.is_file() else None


@cache
def _system_fonts() -> tuple[str, ...]:
    """Font files of this machine, plain sans-serif ones first, otherwise by name."""
    home = Path.home()
    if sys.platform == "win32":
        folders = [
            Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts"),
            home / "AppData/Local/Microsoft/Windows/Fonts",
        ]
    elif sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    else:
        folders = [
            Path("/usr/share/fonts"),
            Path("/usr/local/share/fonts"),
            home / ".local/share/fonts",
            home / ".fonts",
        ]
    found = [
        path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in {".ttf", ".otf", ".ttc"}
    ]

    def preference(path: Path) -> tuple[bool, bool, str]:
        name = path.stem.lower()
        styled = any(
            style in name for style in ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black")
        )
        return styled, not name.startswith(("dejavusans", "notosans", "arial", "malgun", "apple")), str(path)

    return tuple(str(path) for path in sorted(found, key=preference))


def _face_count(file: str) -> int:
    if not file.lower().endswith(".ttc"):
        return 1
    try:
        with TTCollection(file, lazy=True) as collection:
            return len(collection.fonts)
    except (TTLibError, OSError, ValueError):
        return 0
