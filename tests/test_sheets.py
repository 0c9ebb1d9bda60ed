"""Contact sheets: what they show, and that every script has glyphs."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hashret.sheets import SheetPicture, SheetRow, contact_sheet, fonts, grid, result_caption
from hashret.sheets.contact import RIGHT, WRONG
from hashret.sheets.fonts import TextPainter

HANGUL = "기아 스포티지 똠방각하"


def colours(picture: Image.Image) -> set[str]:
    return {"#" + bytes(pixel).hex() for pixel in np.unique(np.asarray(picture).reshape(-1, 3), axis=0)}


def drawn(text: str, size: int = 24) -> np.ndarray:
    painter = TextPainter(size)
    picture = Image.new("L", (600, 60), 255)
    painter.draw(ImageDraw.Draw(picture), (5, 5), text, "black")
    return np.asarray(picture)


@pytest.fixture
def photo() -> Image.Image:
    return Image.new("RGB", (64, 32), "#3050a0")


# ---- text


@pytest.mark.parametrize(
    "text",
    [
        HANGUL,
        "ㄱㅏ 갂갃힣",
        "Лада Веста",
        "Αλφα Ρομέο",
        "Škoda ÇÀ ÿő ž Việt",
        "トヨタ・カローラ",
        "大众汽车",
        "a·b … 15° × ½",
    ],
)
def test_every_character_has_its_own_glyph(text: str) -> None:
    missing = drawn("\U0010fffd")
    for character in set(text) - {" "}:
        assert ord(character) in fonts._characters(fonts._face_for(character)), character  # type: ignore[arg-type]
        assert not np.array_equal(drawn(character), missing), character
        assert (drawn(character) < 128).any(), character


def test_decomposed_hangul_looks_like_composed() -> None:
    assert np.array_equal(drawn(unicodedata.normalize("NFD", HANGUL)), drawn(HANGUL))
    assert np.array_equal(drawn(unicodedata.normalize("NFD", "Škoda é")), drawn("Škoda é"))


def test_unknown_and_control_characters_are_drawn_as_something() -> None:
    for text in ("\U0010fffd", "a\nb", "\x07", "\ud800", "e\u0301\u0323x", "a\u200d", "🚗\ufe0f"):
        assert (drawn(text) < 128).any()
    assert (drawn("") == 255).all()


def test_without_thepackaged_font_the_machine_or_pillow_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = (fonts._face_for, fonts.packaged_font, fonts._system_fonts)
    try:
        for cache in caches:
            cache.cache_clear()
        monkeypatch.setattr(fonts, "packaged_font", lambda: None)
        monkeypatch.setattr(fonts, "_system_fonts", lambda: ("/no/such/font.ttf", "/no/such/font.ttc"))
        assert (drawn("abc") < 128).any()
    finally:
        monkeypatch.undo()
        for cache in caches:
            cache.cache_clear()


@pytest.mark.parametrize("text", ["", "short", HANGUL, "a-very-long-name-without-any-spaces-at-all", "many words " * 9])
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_wrapping_keeps_within_width_and_lines(text: str, lines: int) -> None:
    painter = TextPainter(13)
    wrapped = painter.wrap(text, 90, lines)
    assert len(wrapped) <= lines
    assert all(painter.width(line) <= 90 for line in wrapped)
    if not wrapped or not wrapped[-1].endswith("…"):
        assert "".join(wrapped).replace(" ", "") == text.replace(" ", "")
    assert all(line for line in wrapped)


def test_no_room_at_all() -> None:
    assert TextPainter(13).fit("abc", 0) == "…"
    assert len(TextPainter(13).wrap("abcdef", 1, 3)) == 3


# ---- sheets


def test_captions() -> None:
    assert result_caption(1, 0, "차") == ["1 · 0 bits", "차"]
    assert result_caption(2, 1, "") == ["2 · 1 bit"]
    assert result_caption(3, 0.98765, "x", "cosine") == ["3 · cos 0.988", "x"]


def test_right_and_wrong_differ_by_colour_and_by_shape(photo: Image.Image) -> None:
    def cell(right: bool | None) -> Image.Image:
        return contact_sheet([SheetRow(SheetPicture(photo), [SheetPicture(photo, right=right)])])

    assert RIGHT in colours(cell(True)) and WRONG not in colours(cell(True))
    assert WRONG in colours(cell(False)) and RIGHT not in colours(cell(False))
    assert not {RIGHT, WRONG} & colours(cell(None))
    # With the two colours made one, the pictures still differ: dashes against a line, a cross against a tick.
    grey = [np.asarray(cell(right)).copy() for right in (True, False)]
    for pixels, colour in zip(grey, (RIGHT, WRONG), strict=True):
        pixels[(pixels == np.array(list(bytes.fromhex(colour[1:])))).all(axis=-1)] = 0
    assert (grey[0] != grey[1]).any(axis=-1).sum() > 200


def test_pictures_keep_their_shape_and_colour(photo: Image.Image) -> None:
    sheet = np.asarray(grid([SheetPicture(photo)], picture_side=100))
    ys, xs = np.nonzero((sheet == [0x30, 0x50, 0xA0]).all(axis=-1))
    assert (xs.max() - xs.min() + 1, ys.max() - ys.min() + 1) == (100, 50)


def test_sheet_sizes(photo: Image.Image) -> None:
    one = SheetPicture(photo, [HANGUL])
    assert contact_sheet([]).width > 0
    assert grid([]).width > 0
    few = contact_sheet([SheetRow(one, [one] * 2), SheetRow(one)])
    more = contact_sheet([SheetRow(one, [one] * 3), SheetRow(one), SheetRow(one)], title=HANGUL * 20)
    assert more.width > few.width and more.height > few.height
    assert few.mode == "RGB"
    assert grid([one] * 10, columns=3).height > grid([one] * 9, columns=3).height
    assert np.array_equal(np.asarray(grid([one, None])), np.asarray(grid([one], columns=2)))


def test_sheets_are_the_same_every_time(photo: Image.Image) -> None:
    rows = [SheetRow(SheetPicture(photo, ["질의"]), [SheetPicture(photo, ["1", "é"], right=False)])]
    assert contact_sheet(rows).tobytes() == contact_sheet(rows).tobytes()


def test_unreadable_pictures_leave_a_tile_that_says_so(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"x")
    good = tmp_path / "좋음.png"
    photo.save(good)
    sheet = contact_sheet(
        [SheetRow(SheetPicture(good), [SheetPicture(tmp_path / "bad.jpg"), SheetPicture(tmp_path / "gone.jpg")])]
    )
    assert {"#e8e8e8", "#3050a0"} <= colours(sheet)


def test_boxes_and_long_thin_pictures(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (20, 0, 40, 20))
    picture.save(path)
    assert "#ff0000" not in colours(grid([SheetPicture(path, box=(22, 0, 40, 20))]))
    assert grid([SheetPicture(Image.new("RGB", (5000, 1), "red"))]).width > 0
