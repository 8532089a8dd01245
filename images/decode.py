"""Decode an image file to a uint8 array of a given size, RGB or grayscale."""

import os
import stat
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import AurevoirError, BudgetError, DataError, MissingPackageError, UsageError
from ..kernels.memory import format_bytes, memory_budget
from .archives import is_archive, member_of, members, open_file
from .bombs import refuse_bomb
from .budget import memory_for, memory_for_file, needed
from .remote import is_remote, path_of, status
from .signatures import describe, is_heif, is_png, without_text

Resize = Literal["stretch", "crop"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
Fit = Resize | Literal["contain"]
_UNSAFE = {
    "BLP": "it holds an image of another format",
    "EPS": "it is a program that Ghostscript would run",
    "FITS": "it may unfold to any size",
    "ICNS": "it holds images of another format",
    "JPEG2000": "a few bytes of it may take minutes and gigabytes",
    "IPTC": "it holds an image of another format",
    "WMF": "it is a program that draws",
}
_LONGEST_SIDE = 1 << 24
"""Of an image of longer rows Pillow says that memory has run out."""
_HEAD = 512
"""Bytes that say what is no image."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def check_resize(resize: str) -> Resize:
    """Return the resize mode, or raise UsageError if it is unknown."""
    if resize not in RESIZES:
        raise UsageError(f"resize {resize!r} is not known; choose one of {', '.join(RESIZES)}")
    return resize


def check_channels(channels: int) -> None:
    """Raise UsageError unless image files can be decoded to so many channels: 3 or 1."""
    if channels not in (1, 3):
        raise UsageError(
            f"the network takes images of {channels} channels, and files are decoded to RGB or grayscale; give uint8 "
            f"arrays of shape (n, height, width, {channels}) instead of files"
        )


def check_size(size: object) -> tuple[int, int]:
    """Return a size as (height, width), or raise UsageError unless it is two positive integers, or one."""
    sides = (size, size) if isinstance(size, int | np.integer) else tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in sides):
        raise UsageError(f"image size {size!r} is not valid; give (height, width) in pixels, or one number for squares")
    return int(sides[0]), int(sides[1])


class UnreadableImageError(AurevoirError):
    """A file is not a readable image; the message gives the reason."""


def decode(path: Path | str, size: tuple[int, int], resize: Fit = "stretch", channels: int = 3) -> np.ndarray:
    """Decode an image file and resize it.

    Parameters
    ----------
    path : path
        Of a file, or of a member of a tar archive, such as ``shard.tar/key.jpg``, in any format that Pillow reads, and
        HEIC where pillow-heif is installed; only the first frame is
        used. EXIF rotation is applied, transparency is composited on white, 12-bit, 16-bit and CMYK
        pixels are converted to 8-bit RGB; ICC profiles are not applied. What is not a regular file,
        such as a FIFO, is not opened, and what Pillow would hand to another program, such as EPS, not decoded,
        nor JPEG 2000 and other files of few bytes that may take minutes.
        Threads decode at once what the memory budget holds together.
    size : (height, width)
    resize : {"stretch", "crop", "contain"}
        ``stretch`` resizes the whole image without keeping its aspect ratio; ``crop`` keeps it and
        crops the centre; ``contain`` keeps it too, and the whole image lies within the size, never enlarged.
    channels : {3, 1}
        RGB, or grayscale as Pillow converts to it (ITU-R 601 luma).

    Returns
    -------
    pixels : uint8 array of shape (height, width, channels)
        With ``contain`` its height and width are at most those of `size`.

    Raises
    ------
    UnreadableImageError
        If the file is missing, empty, truncated, not an image, or exceeds Pillow's pixel limit (a
        decompression bomb) or the memory budget.
    BudgetError
        If memory runs out, which says nothing about the file.
    """
    try:
        length = _checked_length(path_of(path))
        with memory_for_file(length if is_remote(path) else 0):
            pixels = _decode(path, size, resize, "L" if channels == 1 else "RGB")
        return pixels if pixels.ndim == 3 else pixels[..., None]
    except (UnreadableImageError, MissingPackageError):
        raise
    except MemoryError:
        remedy = "free some, or lower the budget (AUREVOIR_MEMORY)"
        raise BudgetError(f"not enough memory to decode {path}; {remedy}") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"more pixels than Pillow decodes safely: {error}; shrink the image") from None
    except (DataError, UsageError) as error:
        raise UnreadableImageError(str(error)) from None
    except OSError as error:
        reason = error.strerror.lower() if error.strerror else f"{type(error).__name__}: {error}"
        raise UnreadableImageError(reason) from None
    except Exception as error:  # Pillow's plugins raise errors of many types on corrupt files
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from None


def _checked_length(path: Path) -> int:
    """Return the bytes of a file or member, of which memory must hold as many."""
    member = member_of(path)
    size = _length(path) if member is None else member.size
    if size == 0:
        raise UnreadableImageError("the file is empty")
    if size > memory_budget():
        raise UnreadableImageError(f"the file has {format_bytes(size)}, more than the memory budget")
    return size


def _length(path: Path) -> int:
    """Return the bytes of a file, which must be a regular one."""
    if is_remote(path):
        return _length_at(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UnreadableImageError(
            "a broken link" if path.is_symlink() else "does not exist (FileNotFoundError)"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: _folder(path), stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        raise UnreadableImageError(f"{kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
    return status.st_size


def _length_at(url: Path) -> int:
    try:
        found = status(url)
    except FileNotFoundError:
        raise UnreadableImageError("does not exist (FileNotFoundError)") from None
    if not found.is_file:
        raise UnreadableImageError("a folder, not a file")
    return found.size


def _folder(path: Path) -> str:
    try:
        with os.scandir(path):
            return "a folder"
    except OSError as error:
        return f"a folder that cannot be listed ({(error.strerror or '').lower()})"


def _decode(path: Path | str, size: tuple[int, int], resize: Fit, mode: str) -> np.ndarray:
    with open_file(path) as file:
        try:
            return _decode_file(file, size, resize, mode)
        except UnidentifiedImageError:
            file.seek(0)
            raise UnreadableImageError(_unidentified(path, file.read(_HEAD))) from None
        except ValueError:
            # Pillow refuses PNGs whose comments or profile are larger than a limit of its own.
            file.seek(0)
            if not is_png(data := file.read()):
                raise
            return _decode_file(BytesIO(without_text(data)), size, resize, mode)


def _decode_file(file: BinaryIO | BytesIO, size: tuple[int, int], resize: Fit, mode: str) -> np.ndarray:
    height, width = size
    refuse_bomb(file)
    with _opened(file) as image:
        if why := _UNSAFE.get(image.format or ""):
            raise UnreadableImageError(f"images of format {image.format} are not decoded: {why}; convert it to PNG")
        whole = image.size
        # JPEGs can be decoded at down to an eighth of their size, which is much faster for large photographs.
        image.draft("RGB", (2 * width, 2 * height))
        with memory_for(_affordable(image, whole)):
            try:
                return _fitted(image, size, resize, mode)
            except Exception as error:
                # The frames of tracebacks, also of what it came from, hold pixels.
                error.__context__ = None
                raise error.with_traceback(None) from None
            finally:
                image.close()  # which frees its pixels


def _fitted(image: Image.Image, size: tuple[int, int], resize: Fit, mode: str) -> np.ndarray:
    height, width = size
    image.load()
    tags = getattr(image, "tag_v2", {})
    bits = 12 if tags.get(_BITS_PER_SAMPLE) == (12,) else 16
    negative = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    ImageOps.exif_transpose(image, in_place=True)
    upright = _converted(_to_rgb(image, bits, negative), mode)
    if resize == "crop":
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    elif resize == "contain":
        fitted = upright.copy()
        fitted.thumbnail((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    else:
        fitted = upright.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(fitted)


def _affordable(image: Image.Image, whole: tuple[int, int]) -> int:
    """Return the bytes that decoding an opened image takes, or raise UnreadableImageError if they are too many."""
    if max(whole) > _LONGEST_SIDE:
        raise UnreadableImageError(f"its {whole[0]} x {whole[1]} pixels are more in a row than Pillow decodes; crop it")
    size, budget = needed(image, whole), memory_budget()
    if size > budget:
        raise UnreadableImageError(
            f"its {whole[0]} x {whole[1]} pixels take {format_bytes(size)} to decode, and the memory budget is "
            f"{format_bytes(budget)}; shrink the image, or raise the budget (AUREVOIR_MEMORY)"
        )
    return size


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _opened(file: BinaryIO | BytesIO) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        if not is_heif(file.read(12)) or not _has_heif():
            raise
        file.seek(0)
        return Image.open(file)


def _has_heif() -> bool:
    """Return whether pillow-heif is installed; it is then registered with Pillow."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _unidentified(path: Path | str, head: bytes) -> str:
    if is_archive(path):
        try:
            members(path)
        except DataError as error:
            return str(error)
    kind = "a damaged HEIC image" if is_heif(head) and _has_heif() else describe(head)
    return "not an image that Pillow can identify" + (f": {kind}" if kind else "")


def _to_rgb(image: Image.Image, bits: int, negative: bool) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image, bits, negative)
    elif image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined white level")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _converted(image, "RGB")


def _eight_bits(image: Image.Image, bits: int, negative: bool) -> Image.Image:
    values = np.asarray(image).astype("int64")
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UnreadableImageError("integer pixels beyond 16 bits")
    values >>= bits - 8
    return Image.fromarray((255 - values if negative else values).astype("uint8"))
