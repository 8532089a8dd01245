"""Files read within bounds."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import AurevoirError, UsageError


def read_file(path: Path | str, limit: int, what: str, remedy: str, folder: int | None = None) -> bytes:
    """Read a regular file whole, once, if it is not too large.

    Parameters
    ----------
    path : path
    limit : int
        The bytes that it may hold.
    what, remedy : str
        What it is, and how to make one, for messages.
    folder : int, optional
        Descriptor of the folder that the path is relative to; then the file may not be a link. See `open_folder`.

    Raises
    ------
    UsageError
        If it does not exist, cannot be opened or is not a regular file; a FIFO or a device is not waited for.
    AurevoirError
        If it is too large, or grows or shrinks while it is read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if folder is not None else 0)
    try:
        with os.fdopen(os.open(path, flags, dir_fd=folder), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{what} {path} is not a file; {remedy}")
            if found.st_size > limit:
                raise AurevoirError(
                    f"{what} {path} holds {found.st_size:,d} bytes, and at most {limit:,d} are read; {remedy}"
                )
            data = file.read(found.st_size + 1)
    except FileNotFoundError:
        raise UsageError(f"{what} {path} does not exist; {remedy}") from None
    except IsADirectoryError:
        raise UsageError(f"{what} {path} is not a file; {remedy}") from None
    except OSError as error:
        link = folder is not None and error.errno == errno.ELOOP
        why = "is a link, which is not followed" if link else f"cannot be read: {error.strerror or error}".lower()
        raise UsageError(f"{what} {path} {why}; {remedy}") from None
    except ValueError as error:  # a name with a null character, or that is not in the file system's encoding
        raise UsageError(f"{what} {str(path)!r} cannot be read: {error}; {remedy}") from None
    if len(data) != found.st_size:
        raise AurevoirError(f"{what} {path} was changed while it was read; try again")
    return data


LARGEST_HASHED = 1 << 30
"""Bytes of a file beyond which its size, times and inode stand for its content, which may be a hole of any size."""


_LEAST_FULL = 16
"""How many times larger a file may be than its blocks on the disk, which may compress what it holds."""


@contextmanager
def open_folder(path: Path | str, what: str, remedy: str) -> Iterator[int]:
    """Open a folder, so that all that is read in it is of one folder, whatever takes its place meanwhile.

    Raises
    ------
    UsageError
        If it does not exist, cannot be opened or is not a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path} is not a {what} ({reason.lower()}); {remedy}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def file_digest(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits; a file that is a hole is refused (`refuse_hole`)."""
    with Path(path).open("rb") as file:
        refuse_hole(file.fileno(), path)
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_hole(descriptor: int, path: object) -> None:
    """Refuse an open file of more than `LARGEST_HASHED` bytes of which few are on the disk: reading it takes hours.

    Raises
    ------
    AurevoirError
        If it is one; the message names `path`.
    """
    status = os.fstat(descriptor)
    if status.st_size > max(LARGEST_HASHED, _LEAST_FULL * 512 * getattr(status, "st_blocks", 1 << 62)):
        raise AurevoirError(f"{path} of {status.st_size:,d} bytes is mostly empty; download or copy it again")


def was_replaced(path: Path | str, folder: int) -> bool:
    """Return whether a path is no longer the folder that was opened there."""
    try:
        return not os.path.samestat(Path(path).stat(), os.fstat(folder))
    except OSError:
        return True
