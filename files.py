"""Files, written whole or not at all, and read within bounds."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import AurevoirError, UsageError

TEMPORARY = ".aurevoir-"
"""What the names of files and folders begin with while they are written."""


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


def was_replaced(path: Path | str, folder: int) -> bool:
    """Return whether a path is no longer the folder that was opened there."""
    try:
        return not os.path.samestat(Path(path).stat(), os.fstat(folder))
    except OSError:
        return True
