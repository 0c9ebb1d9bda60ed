"""Reading one picture: every colour mode, every kind of bad file, zips with names of any origin."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import threading
import unicodedata
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hashret.errors import DataError, ImageError
from hashret.images import (
    file_digest,
    is_picture_name,
    open_archive,
    picture_exists,
    read_picture,
    split_zip_path,
    to_rgb,
)

NFD = unicodedata.normalize("NFD", "한글 폴더")
NFC = unicodedata.normalize("NFC", "한글 폴더")


def gradient(size: tuple[int, int] = (40, 30)) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    rgb = np.stack([x * 255 // size[0], y * 255 // size[1], (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(rgb)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(path: Path | str, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    picture = read_picture(path)
    assert picture.mode == "RGB"
    return picture.getpixel(at)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tif"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"사진{suffix}"
    gradient().save(path)
    picture = read_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    lossless = suffix in {".png", ".bmp", ".tif"}
    difference = np.abs(np.asarray(picture, dtype=int) - np.asarray(gradient(), dtype=int))
    assert difference.max() == 0 if lossless else difference.mean() < 25


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    stored = upright if back is None else upright.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    path.write_bytes(encoded(stored, kind, exif=exif))
    picture = read_picture(path)
    assert picture.size == (48, 32)
    assert np.abs(np.asarray(picture, dtype=int) - np.asarray(upright, dtype=int)).mean() < 12


@pytest.mark.parametrize(
    ("picture", "kind", "expected"),
    [
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (4, 4), 77), "PNG", (77, 77, 77)),
        (Image.new("LA", (4, 4), (0, 0)), "PNG", (255, 255, 255)),
        (Image.new("LA", (4, 4), (9, 255)), "PNG", (9, 9, 9)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG", (255, 127, 127)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "TIFF", (255, 127, 127)),
        (Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
        (Image.new("I;16", (4, 4), 65535), "PNG", (255, 255, 255)),
        (Image.new("I;16", (4, 4), 257 * 100), "PNG", (100, 100, 100)),
        (Image.new("I;16", (4, 4), 257 * 100), "TIFF", (100, 100, 100)),
        (Image.new("I;16", (4, 4), 200), "PNG", (1, 1, 1)),
        (Image.new("I", (4, 4), -5), "TIFF", (0, 0, 0)),
        (Image.new("F", (4, 4), 0.5), "TIFF", (0, 0, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_modes(tmp_path: Path, picture: Image.Image, kind: str, expected: tuple[int, ...]) -> None:
    path = tmp_path / "p"
    path.write_bytes(encoded(picture, kind))
    assert pixel(path) == expected
    assert to_rgb(picture).mode == "RGB"


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(path, quality=95)
    assert np.allclose(pixel(path), (0, 255, 255), atol=4)


def test_palette_with_transparency(tmp_path: Path) -> None:
    palette = gradient().quantize(8)
    palette.putpixel((0, 0), 3)
    palette.info["transparency"] = 3
    for kind in ("PNG", "GIF"):
        path = tmp_path / kind
        path.write_bytes(encoded(palette, kind, transparency=3))
        assert pixel(path) == (255, 255, 255)
    # Transparency as bytes, one a colour, over which Pillow itself warns.
    path.write_bytes(encoded(palette, "PNG", transparency=bytes([255, 255, 255, 0, 255])))
    assert pixel(path) == (255, 255, 255)


def test_grey_and_rgb_with_a_transparent_colour(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)))
    assert pixel(path) == (255, 255, 255)
    path.write_bytes(encoded(Image.new("L", (4, 4), 7), transparency=7))
    assert pixel(path) == (255, 255, 255)


def test_float_and_32_bit_grey_are_stretched(tmp_path: Path) -> None:
    values = np.array([[0.25, 0.5], [0.75, 1.25]], dtype=np.float32)
    path = tmp_path / "p.tif"
    Image.fromarray(values).save(path)
    assert np.asarray(read_picture(path))[..., 0].tolist() == [[0, 64], [128, 255]]
    Image.fromarray((values * 1e6).astype(np.int32)).save(path)
    assert np.asarray(read_picture(path))[..., 0].tolist() == [[0, 64], [128, 255]]
    Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)).save(path)
    with pytest.raises(ImageError, match="finite"):
        read_picture(path)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        path = tmp_path / kind
        path.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert pixel(path)[0] > 200


def test_unsupported_mode_says_so(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    Image.new("LAB", (4, 4)).save(path)
    try:
        assert pixel(path)  # newer Pillows turn it into RGB
    except ImageError as error:
        assert re.search(r"p\.tif.*LAB", str(error))


# ---- bad files


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    whole = encoded(gradient((200, 150)), kind)
    path = tmp_path / "cut.jpg"
    for share in (0.02, 0.3, 0.7):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageError, match=r"cut\.jpg"):
            read_picture(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"hello, this is text", "not a picture"), (b"\0" * 500, "not a picture"), (b"%PDF-1.7\n", "not")],
)
def test_not_a_picture(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "이상한.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"이상한\.jpg.*{reason}"):
        read_picture(path)


def test_formats_beyond_the_list_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    path.write_bytes(encoded(gradient(), "PPM"))
    with pytest.raises(ImageError, match="not a picture"):
        read_picture(path)


def test_missing_folder_and_links(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.jpg.*no such file"):
        read_picture(tmp_path / "none.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(ImageError, match=r"folder\.jpg.*folder"):
        read_picture(tmp_path / "folder.jpg")
    with pytest.raises(ImageError):
        read_picture("nul\0name.jpg")
    gradient().save(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert read_picture(tmp_path / "link.png").size == (40, 30)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"dangling\.png"):
        read_picture(tmp_path / "dangling.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(ImageError, match=r"loop\.png"):
        read_picture(tmp_path / "loop.png")


def huge_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 12_000, 14_000, 50_000])
def test_pixel_limit_is_checked_before_decoding(tmp_path: Path, side: int) -> None:
    # 10,000 is beyond the size at which Pillow warns, 14,000 beyond that at which it refuses.
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side, side))
    with pytest.raises(ImageError, match=r"bomb\.png") as caught:
        read_picture(path)
    assert (f"{side}x{side}" in str(caught.value)) == (side >= 12_000)
    with pytest.raises(ImageError, match="limit is 1,000,000"):
        read_picture(path, pixel_limit=1_000_000)


def test_a_small_limit_and_a_raised_one(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    gradient().save(path)
    assert read_picture(path, pixel_limit=1200).size == (40, 30)
    with pytest.raises(ImageError, match="1,199"):
        read_picture(path, pixel_limit=1199)


def test_no_warning_of_pillow_leaks(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(gradient(), "JPEG", exif=exif)
    # The directory promises more entries than there are: Pillow says "Corrupt EXIF data".
    start = content.index(b"MM\0*") + 8
    path.write_bytes(content[:start] + b"\0\x20" + content[start + 2 :])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            assert {picture.size for picture in pool.map(read_picture, [path] * 40)} <= {(40, 30), (30, 40)}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
def test_damaged_bytes_give_a_picture_or_an_image_error(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    content = bytearray(encoded(gradient(), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(bytes(content))
    try:
        picture = read_picture(path, pixel_limit=1_000_000)
    except ImageError as error:
        assert "damaged" in str(error)
        assert "\n" not in str(error).strip()
    else:
        assert picture.mode == "RGB"


# ---- boxes and hints


def test_box_cuts_the_upright_picture(tmp_path: Path) -> None:
    picture = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "p.png"
    picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    cut = read_picture(path, box=(10, 5, 30, 25))
    assert np.array_equal(np.asarray(cut), np.asarray(picture)[5:25, 10:30])
    clipped = read_picture(path, box=(-8.2, 20.4, 1e6, 99))
    assert np.array_equal(np.asarray(clipped), np.asarray(picture)[20:, :])
    for bad in ((10, 5, 10, 25), (30, 5, 10, 25), (50, 5, 60, 9), (float("nan"), 0, 5, 5)):
        with pytest.raises(ImageError, match=r"p\.png"):
            read_picture(path, box=bad)


def test_smallest_side_keeps_enough_pixels(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    gradient((640, 480)).save(path)
    assert read_picture(path, smallest_side=100).size == (160, 120)
    assert read_picture(path, smallest_side=479).size == (640, 480)
    assert read_picture(path, box=(0, 0, 640, 480), smallest_side=100).size == (640, 480)


def test_names() -> None:
    assert is_picture_name("a/B.JPG") and is_picture_name("가.webp") and is_picture_name(Path("x.tiff"))
    for no in ("._a.jpg", ".jpg", "a.txt", "jpg", "a.jpg/", "a.csv", ""):
        assert not is_picture_name(no)
    assert split_zip_path("a/b.zip::c/d.jpg") == ("a/b.zip", "c/d.jpg")
    assert split_zip_path("A.ZIP::x::y.jpg") == ("A.ZIP", "x::y.jpg")
    assert split_zip_path("a/b.zip") is None and split_zip_path("a::b.jpg") is None


# ---- names in other Unicode forms


def test_paths_open_in_either_unicode_form(tmp_path: Path) -> None:
    for on_disk, asked in ((NFD, NFC), (NFC, NFD)):
        root = tmp_path / str(len(on_disk))
        (root / on_disk).mkdir(parents=True)
        gradient().save(root / on_disk / f"{on_disk}.png")
        assert read_picture(root / asked / f"{asked}.png").size == (40, 30)
        assert picture_exists(str(root / asked / f"{asked}.png"))
        assert not picture_exists(str(root / asked / "다른.png"))
        # Half of the path in one form, half in the other.
        assert read_picture(root / on_disk / f"{asked}.png").size == (40, 30)


# ---- zips


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_raw_zip(path: Path, names: list[bytes], content: bytes) -> Path:
    """A zip whose member names are these bytes, not marked as UTF-8: as old Windows tools write them."""
    placeholders = [str(i).ljust(len(name), "~") for i, name in enumerate(names)]
    make_zip(path, dict.fromkeys(placeholders, content))
    raw = path.read_bytes()
    for placeholder, name in zip(placeholders, names, strict=True):
        assert raw.count(placeholder.encode()) == 2
        raw = raw.replace(placeholder.encode(), name)
    path.write_bytes(raw)
    return path


def test_zip_members(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "자동차.zip", {"쏘나타/1.png": encoded(gradient()), f"{NFD}/2.png": encoded(gradient())})
    assert read_picture(f"{path}::쏘나타/1.png").size == (40, 30)
    assert read_picture(f"{path}::{NFC}/2.png").size == (40, 30)
    assert picture_exists(f"{path}::{NFD}/2.png")
    assert not picture_exists(f"{path}::none.png")
    assert not picture_exists(f"{tmp_path}/none.zip::none.png")
    with pytest.raises(ImageError, match="no such member"):
        read_picture(f"{path}::쏘나타/9.png")
    with pytest.raises(ImageError, match=r"none\.zip::a\.png.*no zip"):
        read_picture(tmp_path / "none.zip::a.png")


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp949", ["현대 쏘나타/앞.png", "기아/1.png"]),
        ("cp949", ["똠방각하/펲시.png", "자동차/사진.png"]),
        ("utf-8", ["현대 쏘나타/앞.png", "é.png"]),
        ("utf-8", [f"{NFD}/x.png"]),
        ("cp437", ["café/été.png", "Ñandú/ímpar.png"]),
        ("cp437", ["über.png", "für/Größe.png"]),
    ],
)
def test_names_that_a_zip_does_not_mark_as_utf8(tmp_path: Path, encoding: str, names: list[str]) -> None:
    path = make_raw_zip(tmp_path / "old.zip", [name.encode(encoding) for name in names], encoded(gradient()))
    assert list(open_archive(str(path)).members) == names
    for name in names:
        assert read_picture(f"{path}::{name}").size == (40, 30)


def test_backslashes_in_a_zip_are_folders(tmp_path: Path) -> None:
    path = make_raw_zip(tmp_path / "win.zip", [b"train\\cat\\1.png"], encoded(gradient()))
    assert read_picture(f"{path}::train/cat/1.png").size == (40, 30)


def test_damaged_zips(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(b"no zip")
    (tmp_path / "empty.zip").write_bytes(b"")
    for name in ("text.zip", "empty.zip"):
        with pytest.raises(DataError, match=name):
            open_archive(str(tmp_path / name))
    (tmp_path / "dir.zip").mkdir()
    with pytest.raises(DataError, match=r"dir\.zip"):
        open_archive(str(tmp_path / "dir.zip"))
    path = tmp_path / "flipped.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", encoded(gradient(), "BMP"))
    content = bytearray(path.read_bytes())
    content[60:70] = bytes(10)
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match=r"flipped\.zip::a\.bmp"):
        read_picture(f"{path}::a.bmp")


def test_encrypted_members_and_zip_bombs(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "locked.zip", {"a.png": encoded(gradient())})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="password"):
        read_picture(f"{path}::a.png")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", bytes(20_000_000))
    with pytest.raises(ImageError, match="20,000,000 bytes"):
        read_picture(f"{tmp_path}/bomb.zip::a.bmp", pixel_limit=1_000_000)


def test_a_zip_that_changes_is_opened_anew(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": encoded(Image.new("RGB", (3, 3), "red"))})
    assert pixel(f"{path}::a.png") == (255, 0, 0)
    make_zip(path, {"a.png": encoded(Image.new("RGB", (300, 3), "blue"))})
    assert pixel(f"{path}::a.png") == (0, 0, 255)


def test_many_zips_and_many_threads(tmp_path: Path) -> None:
    # More archives than are kept open, so that one falls out of the cache while another thread reads from it.
    colours = [(i, 2 * i, 3 * i) for i in range(20)]
    paths = [
        make_zip(
            tmp_path / f"{i}.zip", {f"{j}.png": encoded(Image.new("RGB", (8, 8), (*colour[:2], j))) for j in range(5)}
        )
        for i, colour in enumerate(colours)
    ]
    wanted = [(i, j) for _ in range(4) for j in range(5) for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda ij: pixel(f"{paths[ij[0]]}::{ij[1]}.png"), wanted))
    assert found == [(i, 2 * i, j) for i, j in wanted]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_processes_read_one_zip(tmp_path: Path) -> None:
    # In a process of its own: forking the test runner, with its threads, is not safe.
    path = make_zip(tmp_path / "a.zip", {f"{i}.png": encoded(Image.new("RGB", (64, 64), (i, i, i))) for i in range(50)})
    script = f"""
import multiprocessing
from hashret.images import read_picture
def value(i):
    return read_picture({str(path)!r} + f"::{{i}}.png").getpixel((0, 0))[0]
assert value(3) == 3
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert pool.map(value, list(range(50)) * 4, chunksize=3) == list(range(50)) * 4
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_reading_does_not_hold_files_open(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    gradient().save(path)
    before = threading.active_count()
    for _ in range(50):
        read_picture(path)
    assert threading.active_count() == before
    folder = Path("/proc/self/fd")
    if folder.is_dir():
        assert str(path) not in {str(entry.readlink()) for entry in folder.iterdir() if entry.is_symlink()}


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_what_is_no_file_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    for name in ("pipe.jpg", "link.jpg"):
        with pytest.raises(ImageError, match="it is no file but a pipe, a socket or a device"):
            read_picture(tmp_path / name)


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "p.jpg", progressive=True)
    content = (tmp_path / "p.jpg").read_bytes()
    assert read_picture(tmp_path / "p.jpg").size == (64, 64)
    first = content.index(b"\xff\xda")
    scan = content[first : content.index(b"\xff", first + 2)]
    (tmp_path / "p.jpg").write_bytes(content[:first] + scan * 200 + content[first:])
    with pytest.raises(ImageError, match=r"it has 2\d\d scans, and encoders make about ten"):
        read_picture(tmp_path / "p.jpg")


def test_what_follows_a_jpeg_and_stands_in_its_remarks_is_no_scan(tmp_path: Path) -> None:
    """A phone's moving picture has a film behind its end; a remark may hold anything."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "p.jpg", comment=b"\xff\xda" * 300)
    content = (tmp_path / "p.jpg").read_bytes()
    (tmp_path / "p.jpg").write_bytes(content + b"\xff\xda\x00\x02" * 500)
    assert read_picture(tmp_path / "p.jpg").size == (64, 64)


def test_deep_pictures_are_converted_strip_by_strip(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (700, 3), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    expected = ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "grey.png"))[..., 0], expected)
    floats = values.astype(np.float32) - 3000
    Image.fromarray(floats).save(tmp_path / "float.tif")
    low, high = float(floats.min()), float(floats.max())
    stretched = np.rint((floats.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "float.tif"))[..., 1], stretched)


def test_a_large_picture_is_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("1", (10_000, 9_500)).save(tmp_path / "large.tif", compression="group4")
    assert read_picture(tmp_path / "large.tif").size == (10_000, 9_500)
    assert not recwarn.list


def test_the_digest_of_a_file_is_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than is read at a time; it need not be a picture
    (tmp_path / "a.jpg").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.jpg", content)
    expected = hashlib.sha256(content).digest()
    assert file_digest(tmp_path / "a.jpg") == file_digest(f"{tmp_path}/set.zip::in/a.jpg") == expected
    for path in (tmp_path / "b.jpg", tmp_path, f"{tmp_path}/set.zip::b.jpg"):
        with pytest.raises(ImageError, match="cannot read "):
            file_digest(path)
