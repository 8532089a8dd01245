"""Read and write TensorRT's calibration cache: int8 scales as lines of text.

The first line is ``TRT-<version>-<algorithm>``; each further line is ``<tensor>: <scale>``, the scale
as the eight hexadecimal digits of its float32 bits, most significant first, with scale = amax / 127.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import AurevoirError, UsageError
from .quantize import LEVELS

# The version is major * 1000 + minor * 100 + patch up to TensorRT 9, and major * 10000 + ... from 10 on.
_HEADER = re.compile(r"TRT-([0-9]{4}|[0-9]{6})-([A-Za-z]\w*)")
_BITS = re.compile(r"[0-9A-Fa-f]{8}")
_EXPECTED_HEADER = "expected TRT-<version>-<algorithm>, as in TRT-8601-EntropyCalibration2"
_EXPECTED_SCALE = "expected <tensor>: <eight hexadecimal digits of a float32 scale>, as in input: 3c010a14"


@dataclass(frozen=True)
class Cache:
    """The contents of a calibration cache.

    Attributes
    ----------
    header : str
        The first line.
    algorithm : str
        Such as ``EntropyCalibration2``, ``EntropyCalibration`` or ``MinMaxCalibration``.
    version : (int, int, int)
        TensorRT's major and minor version and patch.
    thresholds : dict of float
        Magnitudes at which the tensors saturate, amax = 127 scale, in the order of the file.
    """

    header: str
    algorithm: str
    version: tuple[int, int, int]
    thresholds: dict[str, float]


def read_cache(data: bytes) -> Cache:
    """Read a calibration cache.

    Unix and Windows line endings are supported; the last one may be missing.

    Raises
    ------
    AurevoirError
        If the bytes are not UTF-8 text, the header is missing, or a line is not a tensor name, not
        repeated, with a finite, non-negative scale; the message gives the line.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AurevoirError(
            f"not a calibration cache: byte {error.start} is not UTF-8 text; give a cache file of TensorRT"
        ) from None
    # Not splitlines, which also splits at separators that may occur in tensor names.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    header = lines[0] if lines else ""
    algorithm, version = _parse_header(header)
    return Cache(header, algorithm, version, _parse_scales(lines[1:]))


def write_cache(thresholds: dict[str, float], version: str = "TRT-8601-EntropyCalibration2") -> bytes:
    """Return thresholds as a calibration cache; reading and writing one preserves its bytes.

    Parameters
    ----------
    thresholds : dict of float
        The magnitude at which each tensor saturates, by its name.
    version : str
        The first line; TensorRT may reject a cache of another version.

    Raises
    ------
    UsageError
        If `version` is not a valid first line.
    AurevoirError
        If a name contains a line break or is empty, or a scale is not finite and non-negative in float32.
    """
    if _HEADER.fullmatch(version) is None:
        raise UsageError(f"calibration cache: version {version!r}: {_EXPECTED_HEADER}")
    lines = [version]
    for name, threshold in thresholds.items():
        if not name or "\n" in name or "\r" in name:
            raise AurevoirError(
                f"calibration cache: the tensor name {name!r} is empty or contains a line break; rename the tensor"
            )
        with np.errstate(over="ignore"):
            scale = np.float32(float(threshold) / LEVELS)
        if not _is_valid_scale(scale):
            raise AurevoirError(
                f"calibration cache: threshold {threshold!r} of {name} is not finite and non-negative in float32"
            )
        lines.append(f"{name}: {scale.view('uint32'):08x}")
    return "".join(f"{line}\n" for line in lines).encode()


def _parse_header(line: str) -> tuple[str, tuple[int, int, int]]:
    match = _HEADER.fullmatch(line)
    if match is None:
        raise _refusal(1, line, _EXPECTED_HEADER)
    return match[2], _decode_version(int(match[1]))


def _decode_version(number: int) -> tuple[int, int, int]:
    major, rest = divmod(number, 1000 if number < 10_000 else 10_000)
    return major, *divmod(rest, 100)


def _parse_scales(lines: Iterable[str]) -> dict[str, float]:
    thresholds: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        name, _, bits = line.rpartition(": ")
        if not name or not _BITS.fullmatch(bits):
            raise _refusal(number, line, _EXPECTED_SCALE)
        scale = np.uint32(int(bits, 16)).view("float32")
        if not _is_valid_scale(scale):
            raise _refusal(number, line, f"its scale is {scale}; expected a finite, non-negative scale")
        if name in thresholds:
            raise _refusal(number, line, f"tensor {name} is repeated; expected each tensor once")
        # In float64, so that dividing by 127 restores the scale exactly.
        thresholds[name] = float(scale) * LEVELS
    return thresholds


def _is_valid_scale(scale: np.float32) -> bool:
    return bool(np.isfinite(scale) and not np.signbit(scale))


def _refusal(number: int, line: str, reason: str) -> AurevoirError:
    shown = line if len(line) <= 80 else f"{line[:80]}..."
    return AurevoirError(f"calibration cache, line {number}: {shown!r}: {reason}")
