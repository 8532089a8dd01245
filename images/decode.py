"""Decode an image file to a uint8 array of a given size, RGB or grayscale."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import AurevoirError, UsageError

Resize = Literal["stretch", "crop"]
RESIZES: tuple[Resize, ...] = get_args(Resize)


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


class UnreadableImageError(AurevoirError):
    """A file is not a readable image; the message gives the reason."""


def decode(path: Path | str, size: tuple[int, int], resize: Resize = "stretch", channels: int = 3) -> np.ndarray:
    """Decode an image file and resize it.

    Parameters
    ----------
    path : path
        Any format that Pillow reads; only the first frame is used. EXIF rotation is applied,
        transparency is composited on white, 16-bit and CMYK pixels are converted to 8-bit RGB.
    size : (height, width)
    resize : {"stretch", "crop"}
        ``stretch`` resizes the whole image without keeping its aspect ratio; ``crop`` keeps it and
        crops the centre.
    channels : {3, 1}
        RGB, or grayscale as Pillow converts to it (ITU-R 601 luma).

    Returns
    -------
    pixels : uint8 array of shape (height, width, channels)

    Raises
    ------
    UnreadableImageError
        If the file is empty, truncated, not an image, or exceeds Pillow's pixel limit (a
        decompression bomb).
    """
    try:
        pixels = _decode(Path(path), size, resize, "L" if channels == 1 else "RGB")
        return pixels if pixels.ndim == 3 else pixels[..., None]
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image that Pillow can identify") from None
    except Exception as error:  # Pillow's plugins raise errors of many types on corrupt files
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from None


def _decode(path: Path, size: tuple[int, int], resize: Resize, mode: str) -> np.ndarray:
    if path.stat().st_size == 0:
        raise UnreadableImageError("the file is empty")
    height, width = size
    with Image.open(path) as image:
        # JPEGs can be decoded at down to an eighth of their size, which is much faster for large photographs.
        image.draft("RGB", (2 * width, 2 * height))
        image.load()
        upright = _to_rgb(ImageOps.exif_transpose(image)).convert(mode)
        if resize == "crop":
            fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
        else:
            fitted = upright.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.asarray(fitted)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined white level")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype("int64")
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UnreadableImageError("integer pixels beyond 16 bits")
    return Image.fromarray((values >> 8).astype("uint8"))
