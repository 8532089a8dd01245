"""The engine file: a ZIP archive of named parts whose checksum is verified before any part is read.

The archive's comment, its last 64 bytes, is the SHA-256 of everything before it: a changed or
missing byte is detected without parsing anything. The same parts give the same bytes.
"""

import hashlib
import io
import zipfile
from pathlib import Path

from .errors import AurevoirError, UsageError

_DIGEST_LENGTH = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(parts: dict[str, bytes]) -> bytes:
    """Return the archive of named parts; the same parts give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
        archive.comment = b"0" * _DIGEST_LENGTH
    body = buffer.getvalue()[:-_DIGEST_LENGTH]
    return body + hashlib.sha256(body).hexdigest().encode()


def unpack(path: Path) -> dict[str, bytes]:
    """Read the parts of an archive.

    Raises
    ------
    UsageError
        If there is no such file.
    AurevoirError
        If the file is corrupted or not an engine file.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"engine {path} {problem}; build one with `aurevoir build`")
    return unpack_bytes(path.read_bytes(), path)


def unpack_bytes(data: bytes, source: object) -> dict[str, bytes]:
    """Return the parts of an archive, or raise AurevoirError that names `source` if it is corrupted."""
    body, comment = data[:-_DIGEST_LENGTH], data[-_DIGEST_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != comment:
        raise AurevoirError(f"{source} is not an engine file, or a byte of it has changed; rebuild it")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
