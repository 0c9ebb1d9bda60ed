"""One safe way to read a picture: upright, 8-bit RGB, size-limited, with an error that names the path.

Formats: JPEG, PNG, WebP, BMP, GIF (first frame), TIFF. A path is a file, or a file inside a zip, written
"cars.zip::member/in/the/zip.jpg". Colour profiles are not applied.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import threading
import unicodedata
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from hashret.errors import DataError, ImageError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
PIXEL_LIMIT = 1 << 27
"""Pictures of more pixels than this (134 million, 400 MB as RGB) are refused unless the caller raises the limit."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
_ZIP_PATH = re.compile(r"(.+?\.zip)::(.+)", re.IGNORECASE | re.DOTALL)
_MOST_SCANS = 100
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""Of a JPEG: what is no number of its data (FF 00), no place to begin anew there (FF D0 to FF D7), and not stuffing (FF FF)."""
_STRIP = 256
"""Rows of deep pictures that are converted at a time: the numbers in between take many times the picture."""
_PLUGINS = r"PIL\.\w+Plugin"

Box = tuple[float, float, float, float]


def read_picture(
    path: str | os.PathLike[str],
    box: Box | None = None,
    pixel_limit: int = PIXEL_LIMIT,
    smallest_side: int | None = None,
) -> Image.Image:
    """The picture at `path` as an upright 8-bit RGB PIL image.

    EXIF rotation is applied; transparency is laid on white; 16-bit grey is scaled by 1/257; 32-bit and float grey,
    which have no nominal range, are stretched from their minimum..maximum to 0..255.

    box: (x1, y1, x2, y2) in pixels of the upright picture, right and lower edge exclusive; rounded to whole pixels and
    clipped to the picture.
    pixel_limit: the most pixels (width x height) that the file's header may announce; checked before decoding.
    smallest_side: a hint for speed: a large JPEG may come back shrunk (by 2, 4 or 8), its shorter side still at least
    this many pixels. Ignored together with a box.

    Raises ImageError, naming the path, when there is no such picture, it is truncated, no picture or too large.
    """
    name = os.fspath(path)
    try:
        with _opened(name, pixel_limit) as stream:
            picture = _decoded(stream, pixel_limit, None if box else smallest_side)
    except ImageError as error:
        raise ImageError(f"cannot read {name}: {error}") from error.__cause__
    return picture if box is None else _cropped(picture, box, name)


def file_digest(path: str | os.PathLike[str]) -> bytes:
    """sha256 of the bytes of the file, or of the file inside a zip, at `path`. ImageError as `read_picture`, if there is none."""
    name = os.fspath(path)
    digest = hashlib.sha256()
    try:
        with _opened(name, PIXEL_LIMIT) as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    except (ImageError, OSError) as error:
        raise ImageError(f"cannot read {name}: {error}") from error
    return digest.digest()


def to_rgb(picture: Image.Image) -> Image.Image:
    """`picture`, already in memory, as an upright 8-bit RGB image by the rules of `read_picture`.

    Raises ImageError when its colour mode has no such form.
    """
    try:
        return _rgb(ImageOps.exif_transpose(picture), picture.format)
    except ImageError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"a picture of mode {picture.mode} cannot be turned into RGB: {error}") from error


def is_picture_name(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is taken for a picture: a known suffix, and no hidden file (".x", "._x.jpg")."""
    base = os.fspath(name).replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = base.rpartition(".")
    return not base.startswith(".") and stem != "" and dot + suffix.lower() in PICTURE_SUFFIXES


def split_zip_path(path: str) -> tuple[str, str] | None:
    """("cars.zip", "a/b.jpg") for the path "cars.zip::a/b.jpg"; None for a path that names no zip member."""
    match = _ZIP_PATH.fullmatch(path)
    return (match[1], match[2]) if match else None


def picture_exists(path: str) -> bool:
    """Whether there is a file (or a zip member) at `path`; says nothing about what is in it."""
    inside = split_zip_path(path)
    if inside is None:
        return Path(on_disk(path)).is_file()
    try:
        return open_archive(inside[0]).find(inside[1]) is not None
    except DataError:
        return False


# ---- decoding -------------------------------------------------------------------------------------------------------


def _decoded(stream: IO[bytes], pixel_limit: int, smallest_side: int | None) -> Image.Image:
    """An upright RGB picture out of an open file; whatever goes wrong becomes an ImageError without the path."""
    _hush_plugins()
    try:
        picture = _header(stream)
        width, height = picture.size
        if width * height > pixel_limit:
            raise ImageError(
                f"it announces {width}x{height} pixels and the limit is {pixel_limit:,}; shrink it, or raise the limit"
            )
        if picture.format == "JPEG":
            _check_scans(stream)
            if smallest_side is not None:
                picture.draft(None, (smallest_side, smallest_side))
        picture.load()
        return _rgb(ImageOps.exif_transpose(picture), picture.format)
    except (ImageError, MemoryError):
        raise
    # Pillow's decoders let almost any exception out of a damaged or hostile file (struct.error, KeyError, zlib.error,
    # OverflowError ...); for the caller they all mean that this file is no readable picture.
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise ImageError(f"the file is damaged or cut short ({reason}); replace or remove it") from error


def _header(stream: IO[bytes]) -> ImageFile.ImageFile:
    """The picture with its header read and nothing decoded.

    Not Image.open: that compares the size with Pillow's own global limit, which warns where ours should decide.
    """
    prefix = stream.read(16)
    if not prefix:
        raise ImageError("the file is empty; replace or remove it")
    for name in _FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        answer = accept(prefix) if accept else True
        if not answer or isinstance(answer, str):  # Pillow says no with False, or with a sentence that says why
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            raise ImageError(f"the file is damaged or cut short ({error}); replace or remove it") from error
    raise ImageError("the file is not a picture (expected JPEG, PNG, WebP, BMP, GIF or TIFF); remove or convert it")


def _check_scans(stream: IO[bytes]) -> None:
    """ImageError for a progressive JPEG that goes over all its pixels more often than any encoder does: hours, in a few MB."""
    at = stream.tell()
    stream.seek(0)
    content = stream.read()
    stream.seek(at)
    scans, place = 0, 2
    # From marker to marker: what stands within one, a thumbnail say, and after the end of the picture does not count.
    while (found := _MARKER.search(content, place)) and found[0] != b"\xff\xd9":
        scans += found[0] == b"\xff\xda"
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    if scans > _MOST_SCANS:
        raise ImageError(f"it has {scans:,} scans, and encoders make about ten; convert it anew, or remove it")


def _hush_plugins() -> None:
    """Lets Pillow's plugins keep their remarks on odd metadata ("Corrupt EXIF data ...") and on large pictures to themselves.

    A filter that stays, because warnings.catch_warnings is not safe among threads.
    """
    module = warnings.filters[0][3] if warnings.filters else None
    if getattr(module, "pattern", None) != _PLUGINS:
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=_PLUGINS)


def _rgb(picture: Image.Image, file_format: str | None) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture if type(picture) is Image.Image else picture.copy()
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format == "PNG"):
        # Older Pillows open 16-bit grey PNG as "I".
        return Image.fromarray(
            _in_strips(np.asarray(picture), lambda some: (some.astype(np.uint32) + 128) // 257)
        ).convert("RGB")
    if picture.mode in {"I", "F"}:
        return Image.fromarray(_stretched(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise ImageError(f"colour mode {picture.mode} is not supported; convert it to RGB") from error


def _in_strips(
    values: npt.NDArray[Any], convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> npt.NDArray[np.uint8]:
    converted = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _STRIP):
        converted[row : row + _STRIP] = convert(values[row : row + _STRIP])
    return converted


def _stretched(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not np.isfinite(high - low):
        raise ImageError("it holds values that are not finite numbers; replace or remove it")
    if high == low:
        return np.zeros(values.shape, dtype=np.uint8)
    return _in_strips(values, lambda some: np.rint((some.astype(np.float64) - low) * (255.0 / (high - low))))


def _cropped(picture: Image.Image, box: Box, name: str) -> Image.Image:
    if not all(np.isfinite(box)):
        raise ImageError(f"the box {box} of {name} has a corner that is not a number; expected x1,y1,x2,y2 in pixels")
    x1, y1, x2, y2 = (round(edge) for edge in box)
    left, upper, right, lower = max(x1, 0), max(y1, 0), min(x2, picture.width), min(y2, picture.height)
    if left >= right or upper >= lower:
        raise ImageError(
            f"the box {x1},{y1},{x2},{y2} of {name} holds no pixel of the {picture.width}x{picture.height} picture; "
            "expected x1,y1,x2,y2 in pixels with x1 < x2 and y1 < y2"
        )
    size = (right - left, lower - upper)
    # Not Image.crop, which warns by Pillow's global pixel limit; this copies the same pixels.
    return picture.transform(size, Image.Transform.EXTENT, (left, upper, right, lower), Image.Resampling.NEAREST)


# ---- files and archives ---------------------------------------------------------------------------------------------


def _opened(name: str, pixel_limit: int) -> IO[bytes]:
    inside = split_zip_path(name)
    if inside is not None:
        try:
            archive = open_archive(inside[0])
        except DataError as error:
            raise ImageError(str(error)) from error
        # An uncompressed picture takes at most 8 bytes a pixel; more than that is a zip bomb.
        return io.BytesIO(archive.read(inside[1], byte_limit=8 * pixel_limit))
    try:
        found = Path(on_disk(name))
        mode = found.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would wait for a writer, for ever
            raise ImageError("it is no file but a pipe, a socket or a device; remove it")
        return found.open("rb")
    except FileNotFoundError as error:
        raise ImageError("there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise ImageError("it is a folder; give the path of a picture") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if Path(name).is_dir():  # Windows says "permission denied" here
            reason = "it is a folder"
        raise ImageError(f"the file cannot be opened ({reason})") from error


def on_disk(path: str) -> str:
    """`path`, or the path spelled as the disk spells it when only the Unicode form (NFC, NFD) of a name differs."""
    if path.isascii() or os.path.lexists(path):
        return path
    found = Path(Path(path).anchor)
    for name in Path(path).relative_to(found).parts:
        candidate = found / name
        if not os.path.lexists(candidate):
            wanted = unicodedata.normalize("NFC", name)
            try:
                candidate = next(e for e in found.iterdir() if unicodedata.normalize("NFC", e.name) == wanted)
            except (OSError, StopIteration):
                return path
        found = candidate
    return str(found)


class Archive:
    """A zip open for reading, with its member names in Unicode; safe to read from many threads."""

    def __init__(self, path: str) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            raise DataError(f"there is no zip at {path}; check the path") from error
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a zip ({error}); make or download it anew") from error
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        self.members: dict[str, zipfile.ZipInfo] = dict(zip(_member_names(infos), infos, strict=True))
        """Files by name, in archive order: forward slashes, spelled as stored (NFC or NFD)."""
        self._nfc: dict[str, str] | None = None

    def find(self, name: str) -> zipfile.ZipInfo | None:
        """The member of that name, in any Unicode form; None when there is none."""
        if name in self.members or name.isascii():
            return self.members.get(name)
        if self._nfc is None:
            self._nfc = {unicodedata.normalize("NFC", member): member for member in self.members}
        spelled = self._nfc.get(unicodedata.normalize("NFC", name))
        return None if spelled is None else self.members[spelled]

    def read(self, name: str, byte_limit: int) -> bytes:
        """The bytes of one member. Raises ImageError (without a path) when it cannot be had."""
        info = self.find(name)
        if info is None:
            raise ImageError("the zip has no such member; check the path")
        if info.file_size > byte_limit:
            raise ImageError(
                f"it unpacks to {info.file_size:,} bytes, more than the {byte_limit:,} that a picture takes"
            )
        try:
            with self._zip.open(info) as stream:
                return stream.read(byte_limit + 1)
        except RuntimeError as error:  # an encrypted member; NotImplementedError (a compression method) is one as well
            raise ImageError(f"the zip member cannot be unpacked ({error}); pack it anew without") from error
        # zipfile lets zlib.error, lzma.LZMAError, BadZipFile, EOFError, struct.error and more out of a damaged member.
        except Exception as error:
            raise ImageError(f"the zip member is damaged ({error}); make or download the zip anew") from error

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()


def open_archive(path: str) -> Archive:
    """The zip at `path`, from a small per-process cache; opened anew when the file has changed.

    Raises DataError when it is missing or no zip.
    """
    path = on_disk(str(Path(path).absolute()))
    try:
        status = Path(path).stat()
        key = (path, status.st_mtime_ns, status.st_size)
    except OSError:
        key = (path, 0, 0)
    with _archives.lock:
        archive = _archives.open.get(key)
        if archive is None:
            # Archives that fall out of the cache close when the last thread that reads from them lets go.
            archive = _archives.open[key] = Archive(path)
            while len(_archives.open) > _ARCHIVES_KEPT:
                _archives.open.popitem(last=False)
        _archives.open.move_to_end(key)
        return archive


_ARCHIVES_KEPT = 8


class _Archives:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: OrderedDict[tuple[str, int, int], Archive] = OrderedDict()


_archives = _Archives()


def _forget_archives() -> None:
    # A forked child shares file positions with its parent, and may have been forked while the lock was held.
    _archives.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_archives)


def _member_names(infos: list[zipfile.ZipInfo]) -> list[str]:
    """Member names in Unicode with forward slashes.

    A zip marks names that are UTF-8; zipfile reads all others as cp437, which turns the Korean names of older Windows
    tools (cp949) and the unmarked UTF-8 of some others into mojibake. One encoding is chosen for all unmarked names.
    """
    raw = [_unmarked_bytes(info) for info in infos]
    encoding = _name_encoding(b"\n".join(name for name in raw if name is not None))
    names = [info.filename if name is None else name.decode(encoding) for info, name in zip(infos, raw, strict=True)]
    return [name.replace("\\", "/") for name in names]


def _unmarked_bytes(info: zipfile.ZipInfo) -> bytes | None:
    """The name as stored, where zipfile has read it as cp437; None where its encoding is known."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return None
    try:
        return info.filename.encode("cp437")
    except UnicodeEncodeError:  # the name came from a Unicode extra field
        return None


def _name_encoding(raw: bytes) -> str:
    """utf-8, cp949 or cp437: what names that a zip does not mark as UTF-8 are most likely written in."""
    for encoding in ("utf-8", "cp949"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8":
            return encoding
        # cp949 decodes much Western text too ("é" followed by a letter gives a rare syllable), so it is believed only
        # where most characters are among the common ones of KS X 1001.
        foreign = [character for character in text if not character.isascii()]
        common = sum(_in_ks_x_1001(character) for character in foreign)
        if 2 * common >= len(foreign):
            return encoding
    return "cp437"


def _in_ks_x_1001(character: str) -> bool:
    # Python's euc_kr spells a syllable outside the standard with eight bytes, out of its letters.
    return len(character.encode("euc_kr", "ignore")) == 2
