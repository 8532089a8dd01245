"""The engine file: a ZIP archive of named parts whose checksum is verified before any part is read.

The archive's comment, its last 64 bytes, is the SHA-256 of everything before it: a changed or missing byte is
detected without parsing anything. Parts are stored, one after the other, with nothing before, between or behind them
that is not written down twice alike; so there is one way to read a file, and no size in it leads outside of it.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from .errors import AurevoirError
from .files import read_file
from .schema import LONGEST, MalformedError, refusing, shown

MEMBERS: Mapping[str, int] = {
    "manifest.json": 1 << 20,
    "model.onnx": (1 << 31) - (1 << 20),
    "calibration.json": LONGEST,
    "plan.bin": (1 << 32) - 1,
    "speeds.json": 1 << 16,
}
"""Names of the parts of an engine file, and the bytes that each may hold."""

LARGEST = (1 << 32) - 1
_DIGEST_LENGTH = 64
_REMEDY = "build it again with `aurevoir build`"

# Of each part: what is needed to read it; method 0, stored; the time and date 1980-01-01 00:00:00; CRC; size, twice;
# the length of the name and of further fields. The directory adds who wrote it, and behind: the length of a comment,
# the disk, attributes, and where the part begins.
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_NEEDS, _WRITTEN_BY, _DATE, _OWN = 20, (3 << 8) + 20, (1 << 5) + 1, 0o600 << 16


def pack(parts: Mapping[str, bytes]) -> bytes:
    """Return the archive of named parts; the same parts give the same bytes.

    Raises
    ------
    AurevoirError
        If it would hold more than 4 GiB, where another format of archives begins.
    """
    pieces: list[bytes] = []
    directory: list[bytes] = []
    start = 0
    for name, data in parts.items():
        if start + len(data) > LARGEST - LONGEST:
            raise AurevoirError(f"an engine file holds 4 GiB at most, and {name} would exceed it; use an earlier cut")
        encoded = name.encode("ascii")
        about = (_NEEDS, 0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(encoded), 0)
        directory += [_ENTRY.pack(b"PK\1\2", _WRITTEN_BY, *about, 0, 0, 0, _OWN, start), encoded]
        pieces += [_LOCAL.pack(b"PK\3\4", *about), encoded, data]
        start += _LOCAL.size + len(encoded) + len(data)
    entries = b"".join(directory)
    end = _END.pack(b"PK\5\6", 0, 0, len(parts), len(parts), len(entries), start, _DIGEST_LENGTH)
    digest = hashlib.sha256()
    for piece in (*pieces, entries, end):
        digest.update(piece)
    return b"".join([*pieces, entries, end, digest.hexdigest().encode()])


def read_archive(path: Path) -> bytes:
    """Return the bytes of an engine file, unchecked, or raise UsageError if there is none."""
    return read_file(path, LARGEST, "engine", "build one with `aurevoir build`")


def unpack_bytes(data: bytes, source: object) -> dict[str, bytes]:
    """Return the parts of an archive, or raise AurevoirError that names `source` if it is corrupted."""
    body, comment = memoryview(data)[:-_DIGEST_LENGTH], data[-_DIGEST_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != comment:
        raise AurevoirError(f"{source} is not an engine file, or a byte of it has changed; rebuild it")
    with refusing(str(source), _REMEDY):
        try:
            return _members(body)
        except struct.error:
            raise MalformedError("is not an engine file (it ends within its directory)") from None


def _members(body: memoryview) -> dict[str, bytes]:
    """Return the parts of an archive without its comment; every byte must belong to one part or to the directory."""
    signature, *disks, count, again, length, directory, comment = _END.unpack(body[-_END.size :])
    ends = len(body) - _END.size
    _demand(
        signature == b"PK\5\6" and not any(disks) and count == again and comment == _DIGEST_LENGTH,
        "its end is not that of one ZIP archive with a checksum as its comment",
    )
    _demand(directory + length == ends, "its directory is not where its end says")
    parts: dict[str, bytes] = {}
    start, at = 0, directory
    for _ in range(count):
        signature, _, *about, comment, disk, _, _, offset = _ENTRY.unpack(body[at : at + _ENTRY.size])
        _, flags, method, _, _, checksum, packed, size, letters, further = about
        name = bytes(body[at + _ENTRY.size : at + _ENTRY.size + letters]).decode("latin-1")
        at += _ENTRY.size + letters
        _demand(signature == b"PK\1\2" and at <= ends, "its directory is damaged")
        _demand(name in MEMBERS, f"it holds {shown(name)}, which no engine file of this version has")
        _demand(name not in parts, f"it holds {name} twice")
        _demand(not flags and not method and packed == size, f"{name} is compressed or encrypted, not stored")
        _demand(not (further or comment or disk), f"{name} has further fields or a comment")
        _demand(size <= MEMBERS[name], f"{name} holds {size:,d} bytes, and at most {MEMBERS[name]:,d} are read")
        first = start + _LOCAL.size + letters
        _demand(offset == start and first + size <= directory, f"{name} is not behind the part before it")
        header, *same = _LOCAL.unpack(body[start : start + _LOCAL.size])
        own = bytes(body[start + _LOCAL.size : first]).decode("latin-1")
        _demand(header == b"PK\3\4" and same == about and own == name, f"{name} is described in two ways")
        start = first + size
        parts[name] = bytes(body[first:start])
        _demand(zlib.crc32(parts[name]) == checksum, f"the CRC of {name} is wrong")
    _demand(start == directory and at == ends, "it holds bytes that belong to no part")
    return parts


def _demand(holds: bool, why: str) -> None:
    if not holds:
        raise MalformedError(f"is not an engine file ({why})")
