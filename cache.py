"""The user's cache: what was built of given inputs, for later runs in which nothing of them has changed.

It lies in ``$AUREVOIR_CACHE``, or ``aurevoir`` in ``$XDG_CACHE_HOME`` or ``~/.cache``:

KIND/KEY         an exported graph, a calibration table, an engine, what OpenVINO compiled of one, the sizes of tiles
                 that are fastest on a GPU, or rates of plans, behind its SHA-256; KEY is the digest of all that it
                 depends on. Its time is that of its last use
numba            the machine code of kernels; see `kernels.backends.numba.compiled`
checked-engines  the record of the engines that were run once; see `engine.checked`

``$AUREVOIR_CACHE_SIZE`` bounds the entries, 2 GiB by default: what has not been used for longest goes first. 0 keeps
none. Where the folder cannot be made or written, or is not this user's alone to write, there is no cache.
"""

import errno
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from .errors import AurevoirError, AurevoirWarning, SaveError, UsageError
from .files import read_file
from .kept import sealed, unsealed
from .saving import remove_leftovers, write_atomically
from .sizes import parse_size

FOLDER, SIZE = "AUREVOIR_CACHE", "AUREVOIR_CACHE_SIZE"
KINDS = ("compiled", "engine", "graph", "rates", "table", "tiles")
KERNELS, CHECKED = "numba", "checked-engines"
DEFAULT_SIZE = 2 << 30
_KEY = re.compile("[0-9a-f]{32}")
_KERNEL = re.compile(r".+\.nb[ic](\.tmp\.[0-9a-f]+)?|[a-z]+-[0-9a-f]{32}\.ready")
"""Machine code, also what a killed process was writing, and marks of what is compiled."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OFF: ContextVar[bool] = ContextVar("cache_off", default=False)


@dataclass(frozen=True)
class Entry:
    """A file of the cache: its kind, bytes, and time of its last use in seconds since the epoch."""

    kind: str
    path: Path
    size: int
    used: float


def cache_folder() -> Path | None:
    """Return where the cache is, whether or not it is there; None where the user has no home."""
    if own := os.environ.get(FOLDER):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aurevoir"
    except RuntimeError:
        return None


def size_limit() -> int:
    """Return how many bytes the entries may take.

    Raises
    ------
    UsageError
        If ``AUREVOIR_CACHE_SIZE`` is not a number of bytes.
    """
    value = os.environ.get(SIZE)
    if not value:
        return DEFAULT_SIZE
    size = parse_size(value)
    if size is None or size >= 2**63:
        raise UsageError(f"{SIZE} {value!r} is invalid; give a number of bytes, for example '2GiB', or 0 for no cache")
    return int(size)


def fault() -> str | None:
    """Return why there is no cache and how to mend that, or None if there is one; its folder is made."""
    folder = cache_folder()
    if folder is None:
        return f"no home folder is known; set {FOLDER} to a folder"
    if not size_limit():
        return f"{SIZE} is 0"
    return folder_fault(folder)


def folder_fault(folder: Path) -> str | None:
    """Return why nothing can be kept safely in a folder, which is made if it is missing; None if all is well."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        return f"{folder} cannot be made: {reason}; set {FOLDER} to another folder"
    if found.st_uid != os.geteuid():
        return f"{folder} is another user's; set {FOLDER} to a folder of your own"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{folder} may be written by others; take that away (chmod go-w), or set {FOLDER} to another folder"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return f"{folder} is read-only; set {FOLDER} to another folder"
    return None


@contextmanager
def without_cache() -> Iterator[None]:
    """Let nothing in the block be taken from the cache of graphs, tables and engines, and nothing be kept there."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def user_cache(report: bool = False) -> "Cache | None":
    """Return the user's cache, or None where there is none; see `fault`.

    Parameters
    ----------
    report : bool
        Whether to say on stderr what is taken over.
    """
    folder = cache_folder()
    if _OFF.get() or folder is None or fault():
        return None
    return Cache(folder, size_limit(), report)


class Cache:
    """Entries by kind and key, of which those that were not used for longest go first.

    Any number of processes may use one. An entry is written whole or not at all; one that was damaged is dropped.

    Parameters
    ----------
    folder : path
    limit : int
        Of the bytes of all entries.
    report : bool
        Whether to say on stderr what is taken over.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_SIZE, report: bool = False) -> None:
        self.folder, self.limit, self._report, self._failed = folder, limit, report, False

    def get(self, kind: str, key: str) -> bytes | None:
        """Return an entry, or None if there is none, or a byte of it has changed."""
        path = self._path(kind, key)
        if folder_fault(path.parent):
            return None
        try:
            entry = read_file(path, self.limit, "cache entry", "delete it")
        except AurevoirError:
            return None
        with suppress(OSError):
            if (content := unsealed(entry, _name(kind, key))) is None:
                path.unlink()
                return None
            os.utime(path)
        return content

    def put(self, kind: str, key: str, content: bytes) -> None:
        """Keep an entry, unless it is larger than the limit; where the disk is full, a note says so, once."""
        entry, path = sealed(content, _name(kind, key)), self._path(kind, key)
        if self._failed or len(entry) > self.limit or folder_fault(path.parent):
            return
        try:
            self._make_room(len(entry))
            write_atomically(path, entry)
        except OSError as error:
            cause = getattr(error.__cause__ if isinstance(error, SaveError) else error, "errno", None)
            # Gone is a folder that another process clears.
            self._failed = cause != errno.ENOENT
            if cause in _FULL:
                warnings.warn(f"{error}; nothing more is kept in the cache", AurevoirWarning, stacklevel=2)

    def say(self, what: str) -> None:
        """Say on stderr what is taken over."""
        if self._report and sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(f"from the cache: {what}\n")

    def entries(self) -> list[Entry]:
        """Return the entries, by kind."""
        return [each for kind in KINDS for each in files_of(kind, self.folder / kind, _KEY)]

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key

    def _make_room(self, size: int) -> None:
        entries = self.entries()
        left = self.limit - size - sum(each.size for each in entries)
        for each in sorted(entries, key=lambda entry: entry.used):
            if left >= 0:
                return
            each.path.unlink(missing_ok=True)
            left += each.size


def contents(folder: Path) -> list[Entry]:
    """Return every file of a cache: entries, machine code of kernels, and the record of checked engines."""
    kernels = [
        file for place in (folder / KERNELS, *_folders(folder / KERNELS)) for file in files_of(KERNELS, place, _KERNEL)
    ]
    checked = files_of(CHECKED, folder, re.compile(CHECKED))
    return [*Cache(folder).entries(), *kernels, *checked]


def clear(folder: Path) -> list[Entry]:
    """Delete every file of a cache, what killed writers left, and the folders that are then empty.

    Returns
    -------
    list of Entry
        The files that were deleted.

    Raises
    ------
    SaveError
        If one cannot be deleted.
    """
    places = [place for name in (KERNELS, *KINDS) for place in (folder / name, *_folders(folder / name))]
    for place in places:
        if place.is_dir() and not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise SaveError(f"{place} may not be read or written, and nothing was deleted; allow it (chmod u+rwx)")
    found = contents(folder)
    for each in found:
        try:
            each.path.unlink(missing_ok=True)
        except OSError as error:
            raise SaveError(f"{each.path} cannot be deleted: {(error.strerror or str(error)).lower()}") from error
    for place in (*_folders(folder / KERNELS), *(folder / name for name in (KERNELS, *KINDS))):
        remove_leftovers(place)
        with suppress(OSError):
            place.rmdir()
    return found


def files_of(kind: str, folder: Path, name: "re.Pattern[str]") -> list[Entry]:
    """Return the files in a folder whose names match."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        for each in entries:
            with suppress(OSError):
                if name.fullmatch(each.name) and each.is_file(follow_symlinks=False):
                    status = each.stat(follow_symlinks=False)
                    found.append(Entry(kind, Path(each.path), status.st_size, status.st_mtime))
    return found


def _folders(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [Path(each.path) for each in entries if each.is_dir(follow_symlinks=False)]
    return []


def _name(kind: str, key: str) -> str:
    return f"{kind}/{key}"
