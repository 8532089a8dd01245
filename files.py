"""The engine file: a ZIP archive of named parts whose checksum is verified before any part is read.

The archive's comment, its last 64 bytes, is the SHA-256 of everything before it: a changed or
missing byte is detected without parsing anything. Writing is atomic and reproducible.
"""

import errno
import hashlib
import io
import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

from .errors import AurevoirError, UsageError

TEMPORARY = ".aurevoir-"
"""What the names of files and folders begin with while they are written."""
_DIGEST_LENGTH = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that readers never see a partial file.

    Where the path is a link, the file that it points to is written.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
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


def require_file_target(path: Path | str) -> None:
    """Check that a file can be written, before the work whose result it will hold; see `require_folder_target`.

    Raises
    ------
    UsageError
        If the path is a folder or a device, or no file can be written there.
    AurevoirError
        If no space is left.
    """
    require_folder_target(path)
    target = Path(path)
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise UsageError(f"{path} is {kind}; give the name of a file to write")


def require_folder_target(path: Path | str) -> None:
    """Check that a file or folder of this name can be made, by writing a small temporary file where it will be.

    Raises
    ------
    UsageError
        If it lies below a file, in a folder that cannot be written to, or its name is too long.
    AurevoirError
        If no space is left.
    """
    parent = Path(os.path.realpath(path)).parent
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
        while not os.path.lexists(parent):
            parent = parent.parent
        if not parent.is_dir():
            raise UsageError(f"{path} cannot be written: {parent} is not a folder; choose another path")
        with tempfile.NamedTemporaryFile(prefix=TEMPORARY, dir=parent) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind, remedy = (AurevoirError, "free some") if full else (UsageError, "choose another path")
        raise kind(f"{path} cannot be written: {(error.strerror or str(error)).lower()}; {remedy}") from None


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
