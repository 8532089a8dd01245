"""What a graph does to pixels before the network: the order of channels, their means and standard deviations."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import UsageError
from .backbones.base import IMAGENET_MEAN, IMAGENET_STD

ChannelOrder = Literal["RGB", "BGR"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Preprocessing:
    """The normalisation of images.

    Attributes
    ----------
    mean, std : tuples of floats
        One for each channel, in the network's order of channels, for pixels scaled to [0, 1].
    channel_order : {"RGB", "BGR"}
        The order in which the network takes the channels of images, which are RGB.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: ChannelOrder = "RGB"

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return uint8 images (n, height, width, c) as the network takes them: float32 (n, c, height, width)."""
        ordered = pixels[..., ::-1] if self.channel_order == "BGR" else pixels
        values = (ordered.astype("float32") / 255 - np.array(self.mean, "float32")) / np.array(self.std, "float32")
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def for_channels(self, channels: int) -> "Preprocessing":
        """Return it for a network of so many channels: if it has another number, every channel gets the average."""
        if len(self.mean) == channels:
            return self
        mean, std = (float(np.mean(values)) for values in (self.mean, self.std))
        return Preprocessing((mean,) * channels, (std,) * channels)

    def describe(self) -> str:
        """Return its name, or its numbers, as `resolve` takes them."""
        one = Preprocessing(self.mean, self.std)
        name = next((name for name, each in _NAMED.items() if each.for_channels(len(self.mean)) in (self, one)), None)
        text = name or "/".join(",".join(f"{value:.4g}" for value in part) for part in (self.mean, self.std))
        return text if self.channel_order == "RGB" or text == "caffe" else f"{text}:bgr"


Normalization = (
    str | tuple[Sequence[float], Sequence[float]] | tuple[Sequence[float], Sequence[float], str] | Preprocessing
)
"""A name, numbers as text, (mean, std) or (mean, std, channel order)."""

IMAGENET = Preprocessing(IMAGENET_MEAN, IMAGENET_STD)
RAW = Preprocessing((0.0,) * 3, (1 / 255,) * 3)
UNIT = Preprocessing((0.0,) * 3, (1.0,) * 3)
SYMMETRIC = Preprocessing((0.5,) * 3, (0.5,) * 3)
_CAFFE = Preprocessing((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,) * 3, "BGR")
_NAMED = {"imagenet": IMAGENET, "none": RAW, "unit": UNIT, "symmetric": SYMMETRIC, "caffe": _CAFFE}
NAMES = ("auto", "data", *_NAMED)
_FORMS = f"{', '.join(NAMES)}, or numbers as MEANS/STDS, such as 0.5,0.5,0.5/0.5,0.5,0.5; with :bgr behind for BGR"


def check_normalization(normalization: Normalization) -> None:
    """Raise UsageError if it is neither a known name nor means and positive standard deviations."""
    _parsed(normalization)


def from_data(normalization: Normalization) -> bool:
    """Return whether a normalization uses the statistics of the images."""
    return _parsed(normalization)[0] == "data"


def resolve(
    normalization: Normalization, own: Preprocessing, statistics: Callable[[], Statistics | None] = lambda: None
) -> Preprocessing:
    """Return the preprocessing that a normalization stands for.

    Parameters
    ----------
    normalization : str or tuple
        ``auto`` (the network's own), ``imagenet``, ``data``, ``none`` (pixels from 0 to 255), ``unit`` (0 to 1),
        ``symmetric`` (-1 to 1), ``caffe`` (BGR, 0 to 255 less ImageNet's means), or means and standard deviations,
        as text or (mean, std): of pixels scaled to [0, 1], or of pixels from 0 to 255 if a number is above 1, in the
        network's order of channels. ``:bgr`` behind the text, or "BGR" as a third element, is for networks that take
        BGR.
    own : Preprocessing
        The network's own, for ``auto``.
    statistics : callable
        Returns the means and standard deviations of the images' channels, for ``data``.

    Raises
    ------
    UsageError
        If it is not known, needs images that are not there, or does not fit the network's channels.
    """
    found, order = _parsed(normalization)
    channels = len(own.mean)
    if order == "BGR" and channels != 3:
        raise UsageError(f"normalization {normalization!r}: BGR is for 3 channels, and this network takes {channels}")
    if isinstance(found, Preprocessing):
        return _fitting(found, channels, normalization)
    chosen = own if found == "auto" else _NAMED.get(found)
    if found == "caffe" and channels != 3:
        raise UsageError(f"normalization 'caffe' is for 3 channels, and this network takes {channels}; give numbers")
    if chosen is None:
        measured = statistics()
        if measured is None:
            raise UsageError(
                "normalization 'data' needs images to measure: give some as calibration (--calibration DIR), or give "
                "'auto', 'imagenet' or numbers"
            )
        chosen = Preprocessing(*measured)
    chosen = chosen.for_channels(channels)
    return chosen if order in (None, chosen.channel_order) else _reversed(chosen)


def _reversed(chosen: Preprocessing) -> Preprocessing:
    order: ChannelOrder = "RGB" if chosen.channel_order == "BGR" else "BGR"
    return Preprocessing(chosen.mean[::-1], chosen.std[::-1], order)


def _fitting(found: Preprocessing, channels: int, given: object) -> Preprocessing:
    if len(found.mean) == 1:
        return Preprocessing(found.mean * channels, found.std * channels, found.channel_order)
    if len(found.mean) != channels:
        raise UsageError(
            f"normalization {given!r} must be {channels} means and {channels} positive standard deviations, one for "
            "each channel of the network, or one for all"
        )
    return found


def _parsed(given: Any) -> tuple[str | Preprocessing, ChannelOrder | None]:
    """Return a name, or the numbers, and the channel order that is asked for."""
    if isinstance(given, Preprocessing):
        return given, None
    order: Any = None
    parts: Any = given
    if isinstance(given, str):
        text, colon, tail = given.strip().lower().partition(":")
        if colon and tail not in ("rgb", "bgr"):
            raise UsageError(f"normalization {given!r}: the channel order is 'rgb' or 'bgr'")
        order = tail.upper() or None
        if text in NAMES:
            return text, order
        parts = _numbers(text, given)
    try:
        if len(parts) == 3 and isinstance(parts[2], str):
            order = parts[2].upper()
        mean, std = (tuple(map(float, np.atleast_1d(part))) for part in parts[: 2 if order else None])
    except (TypeError, ValueError):
        raise UsageError(f"normalization {given!r} is not known; give {_FORMS}") from None
    if order not in (None, "RGB", "BGR"):
        raise UsageError(f"normalization {given!r}: the channel order is 'RGB' or 'BGR'")
    if not mean or len(mean) != len(std) or not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        count = max(len(mean), len(std))
        raise UsageError(f"normalization {given!r} must be {count} means and {count} positive standard deviations")
    scale = 255.0 if max(map(abs, [*mean, *std])) > 1 else 1.0
    return Preprocessing(tuple(x / scale for x in mean), tuple(x / scale for x in std), order or "RGB"), order


def _numbers(text: str, given: str) -> Any:
    try:
        if text.startswith(("(", "[")):
            return ast.literal_eval(text)
        return [[float(value) for value in part.split(",")] for part in text.split("/")]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UsageError(f"normalization {given!r} is not known; give {_FORMS}") from None
