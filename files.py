"""The engine file: a ZIP archive of named parts whose checksum is verified before any part is read.

The archive's comment, its last 64 bytes, is the SHA-256 of everything before it: a changed or
missing byte is detected without parsing anything. Writing is atomic and reproducible.
"""

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

from .errors import AurevoirError, UsageError

_DIGEST_LENGTH = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that readers never see a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
        raise UsageError(f"engine {path} does not exist; build one with `aurevoir build`")
    return unpack_bytes(path.read_bytes(), path)


def unpack_bytes(data: bytes, source: object) -> dict[str, bytes]:
    """Return the parts of an archive, or raise AurevoirError that names `source` if it is corrupted."""
    body, comment = data[:-_DIGEST_LENGTH], data[-_DIGEST_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != comment:
        raise AurevoirError(f"{source} is not an engine file, or a byte of it has changed; rebuild it")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
