"""Small files that would keep a decoder busy for minutes, told from what their headers say before Pillow opens them."""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from ..errors import DataError

_LONGEST_HEADER = 1 << 25
"""Bytes before the pixels of a JPEG: what they hold, Pillow puts together in time that grows with their square."""
_MOST_JUNK = 1 << 16
_MOST_SCANS, _MOST_SCANNED = 1000, 1 << 32
"""Scans of a JPEG, and the pixels in all of them: encoders write some ten scans, and an empty one takes ten bytes."""
_MOST_PIECES = 1 << 16
"""Strips or tiles of a TIFF, of which each takes a step in Python."""
_CHUNK = 1 << 20
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")
"""What begins a segment of a JPEG that has a length."""
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = (*_SEQUENTIAL, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SCAN = 0xDA
_SCAN_BEGINS = b"\xff\xda"
_TEXT_OR_BYTES = (1, 2, 7)


def refuse_bomb(file: BinaryIO) -> None:
    """Refuse an image that takes far longer to decode than its pixels do; the file is at its start again behind it.

    Raises
    ------
    DataError
        If it is a JPEG of too many scans or of too long a header, or a TIFF of too many strips or tiles.
    """
    head = file.read(4)
    if head.startswith(b"\xff\xd8\xff"):
        _check_jpeg(file)
    elif head[:2] in (b"II", b"MM"):
        _check_tiff(file, "<" if head[:2] == b"II" else ">", head[2:3] == b"+")
    file.seek(0)


def _check_jpeg(file: BinaryIO) -> None:
    pixels, components, sequential, whole = 0, 0, True, False
    for kind, data in _segments(file):
        if kind in _FRAMES and len(data) == 6:
            _, height, width, components = struct.unpack(">BHHB", data)
            pixels, sequential = max(pixels, height * width), sequential and kind in _SEQUENTIAL
        elif kind == _SCAN:
            whole = data[:1] == bytes([components])
    # Behind a scan of all components there is no other.
    if sequential and whole:
        return
    scans = _count(file, _SCAN_BEGINS)
    if scans > _MOST_SCANS or scans * pixels > _MOST_SCANNED:
        raise DataError(f"its {scans:,d} scans of {pixels:,d} pixels take too long to decode; save it again")


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the kinds of a JPEG's segments, and the first six bytes behind their lengths, up to the first scan."""
    at, junk, kind = 2, 0, 0
    while kind != _SCAN:
        file.seek(at)
        piece = file.read(64)
        if len(piece) < 2:
            return
        found = _MARKER.search(piece)
        if skipped := found.start() if found else len(piece) - 1:
            # Decoders look for the next marker byte by byte.
            at, junk = at + skipped, junk + skipped
        else:
            kind = piece[1]
            at += 2 + max(2, int.from_bytes(piece[2:4], "big"))
            yield kind, piece[4:10]
        if at > _LONGEST_HEADER or junk > _MOST_JUNK:
            raise DataError(f"its pixels do not begin within {at:,d} bytes; save it again, without metadata")


def _count(file: BinaryIO, what: bytes) -> int:
    file.seek(0)
    found, before = 0, b""
    while piece := file.read(_CHUNK):
        found += (before + piece).count(what)
        before = piece[-1:]
    return found


def _check_tiff(file: BinaryIO, order: str, big: bool) -> None:
    longest = 0
    # Of a directory that is cut off Pillow takes what is there.
    with suppress(struct.error, OverflowError, ValueError):
        for length in _lists(file, order, big):
            longest = max(longest, length)
    if longest > _MOST_PIECES:
        raise DataError(
            f"its directory has a list of {longest:,d} numbers, of strips or tiles, and at most {_MOST_PIECES:,d} are "
            "read; save it with larger ones"
        )


def _lists(file: BinaryIO, order: str, big: bool) -> Iterator[int]:
    """Yield the lengths of the lists of numbers in the first directory, which is all that is read of a TIFF.

    BigTIFF has lengths and places of 8 bytes.
    """
    place, number, entry = (struct.Struct(order + form) for form in (("Q", "Q", "HHQQ") if big else ("L", "H", "HHLL")))
    file.seek(8 if big else 4)
    file.seek(place.unpack(file.read(place.size))[0])
    for _ in range(number.unpack(file.read(number.size))[0]):
        _, kind, count, _ = entry.unpack(file.read(entry.size))
        if kind not in _TEXT_OR_BYTES:
            yield count
