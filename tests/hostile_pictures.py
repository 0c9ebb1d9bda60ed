"""Hostile pictures, made by a program: `python tests/hostile_pictures.py FOLDER` writes them."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

READABLE = {
    "one_pixel.png",
    "wide.png",
    "tall.jpg",
    "animated.gif",
    "png_called.jpg",
    "exif_lies.jpg",
    "exif_broken.jpg",
    "transparent.png",
    "sixteen_bits.png",
    "CMYK.jpg",
    "이름 with spaces % and 'quotes'.png",
}
"""Odd, but pictures."""


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Some colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file of it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_that_announces(width: int, height: int) -> bytes:
    """A PNG whose header announces so many pixels and which holds some zeros."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def make(folder: Path) -> list[Path]:
    """The pictures, in a folder; those of READABLE among them can be read."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = picture()
    turned = Image.Exif()
    turned[0x0112] = 6
    nonsense = Image.Exif()
    nonsense[0x0112] = 77
    frames = [picture(seed=seed) for seed in range(3)]
    jpeg = encoded(whole, "JPEG")
    files = {
        "bomb.png": png_that_announces(60_000, 60_000),
        "bomb_on_a_side.png": png_that_announces(2**31 - 1, 1),
        "half_a_bomb.png": png_that_announces(20_000, 7_000),
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": encoded(whole, "PNG")[:-40],
        "header_alone.jpg": jpeg[:20],
        "nothing.jpg": b"",
        "zeros.png": bytes(1000),
        "text.jpg": b"this is no picture\n" * 10,
        "page.png": b"<!doctype html><title>404</title>",
        "drawing_called.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>",
        "archive_called.jpg": b"PK\x03\x04" + bytes(100),
        "postscript_called.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "one_pixel.png": encoded(Image.new("RGB", (1, 1), (9, 99, 200)), "PNG"),
        "wide.png": encoded(Image.new("RGB", (65_000, 2), (9, 99, 20)), "PNG"),
        "tall.jpg": encoded(Image.new("RGB", (2, 65_000), (90, 9, 20)), "JPEG"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "png_called.jpg": encoded(whole, "PNG"),
        "exif_lies.jpg": encoded(whole, "JPEG", exif=turned),
        "exif_broken.jpg": encoded(whole, "JPEG", exif=nonsense),
        "transparent.png": encoded(whole.convert("RGBA"), "PNG"),
        "sixteen_bits.png": encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
        "CMYK.jpg": encoded(whole.convert("CMYK"), "JPEG"),
        "이름 with spaces % and 'quotes'.png": encoded(whole, "PNG"),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder_called.png").mkdir()
    (folder / "link_to_nothing.png").symlink_to(folder / "nowhere.png")
    (folder / "link_to_itself.png").symlink_to(folder / "link_to_itself.png")
    return [folder / name for name in files]


if __name__ == "__main__":
    for path in make(Path(sys.argv[1])):
        print(path)
