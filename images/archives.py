"""Files in tar archives, read in place: ``shard.tar/key.jpg`` is the path of an image like any other.

Nothing is extracted. The index of an archive says where the bytes of its regular files are; links, devices, and names
that lead out of a folder are in no index.
"""

import hashlib
import io
import os
import re
import stat
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from ..errors import AurevoirWarning, DataError
from ..files import LARGEST_HASHED
from ..limits import processors
from . import remote
from .budget import memory_for_file
from .remote import REQUESTS, is_remote, path_of
from .tar_headers import ReadAt, TarError, tar_files

ENDING = ".tar"
_THROUGH = re.compile(r"\.tar/", re.IGNORECASE)
_MOST = 1 << 24
"""Files in the indices that are kept, of 24 bytes each."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive.

    Attributes
    ----------
    archive : str
    name : str
        Relative, with ``/`` between folders.
    offset, size : int
        Of its bytes.
    """

    archive: str
    name: str
    offset: int
    size: int

    @property
    def path(self) -> Path:
        """The path by which it is given and shown."""
        return path_of(self.archive) / self.name

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def open(self) -> BinaryIO:
        """Return its bytes as a file that can be sought, and is independent of all others."""
        if is_remote(self.archive):
            return io.BytesIO(remote.read(self.archive, self.offset, self.offset + self.size))
        descriptor = os.open(self.archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        return io.BufferedReader(_Window(descriptor, self.offset, self.size))


class _Window(io.RawIOBase):
    """Some of the bytes of a file; it closes the descriptor."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self._offset, self._size, self._at = descriptor, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        wanted = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        count = os.preadv(self._descriptor, [wanted], self._offset + self._at) if wanted else 0
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"seek to {at}, before the first byte")
        self._at = at
        return at

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


@dataclass(frozen=True)
class _Index:
    """Where the files of an archive are, by the hashes of their names, which are sorted."""

    keys: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, found: Iterable[Member]) -> "_Index":
        rows = np.array([(hash(each.name), each.offset, each.size) for each in found], "int64").reshape(-1, 3)
        return cls(*np.ascontiguousarray(rows[rows[:, 0].argsort()].T))

    def find(self, archive: str, name: str) -> Member | None:
        at = int(self.keys.searchsorted(hash(name)))
        if at == len(self.keys) or self.keys[at] != hash(name):
            return None
        return Member(archive, name, int(self.offsets[at]), int(self.sizes[at]))


class _Key(NamedTuple):
    archive: str
    size: int
    version: int
    inode: int


_INDICES: OrderedDict[_Key, _Index] = OrderedDict()
_LOCK = threading.RLock()
_SCANS: dict[_Key, threading.Lock] = {}
"""By the archive that is being scanned for its index, what others wait for."""
_DIGESTS: dict[str, tuple[tuple[int, int, int, int], str]] = {}
"""By path the signature that a file had, and its digest."""
_MOST_DIGESTS = 1 << 16
_SETTLED = 2_000_000_000
"""Nanoseconds since the last change of a file after which its signature tells of the next one."""
if hasattr(os, "register_at_fork"):
    # A thread that held a lock is not in the child.
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
    os.register_at_fork(after_in_child=_SCANS.clear)


def is_archive(path: Path | str) -> bool:
    """Return whether a path is a file that ends in ``.tar``."""
    return str(path).lower().endswith(ENDING) and _is_regular(path)


def members(archive: Path | str) -> list[Member]:
    """Return the regular files of an archive in its order, and keep its index.

    Of several files of one name the last counts, as where an archive is extracted.

    Raises
    ------
    DataError
        If it cannot be read, is compressed or damaged.
    """
    key = _key(str(archive))
    outside: list[str] = []
    found = {member.name: member for member in _scanned(str(archive), key.size, outside)}
    _keep(key, _Index.of(found.values()))
    if outside:
        warnings.warn(
            f"{len(outside)} files of {archive} have names that lead out of it, first {outside[0]!r}, and are left out",
            AurevoirWarning,
            stacklevel=2,
        )
    return list(found.values())


def member_of(path: Path | str) -> Member | None:
    """Return the member that a path leads to; None if it leads through no archive.

    Raises
    ------
    DataError
        If the archive holds no such file, or cannot be read.
    """
    parts = _split(str(path))
    if parts is None:
        return None
    archive, name = parts
    found = _index(archive).find(archive, str(PurePosixPath(name)))
    if found is None:
        raise DataError(f"{archive} holds no file {name}; check the name")
    return found


def is_file(path: Path | str) -> bool:
    """Return whether a path is a file, or a member of an archive."""
    try:
        # Of a file in an archive a server would be asked in vain.
        return member_of(path) is not None or _is_regular(path)
    except DataError:
        return False


def exists(path: Path | str) -> bool:
    """Return whether there is a file, folder, link or member of an archive of this path."""
    try:
        if member_of(path) is not None:
            return True
    except DataError:
        return False
    return remote.exists(path) if is_remote(path) else os.path.lexists(path)


def open_file(path: Path | str) -> BinaryIO:
    """Open a file, or a member of an archive, for reading."""
    if (member := member_of(path)) is not None:
        return member.open()
    return io.BytesIO(remote.read(path)) if is_remote(path) else Path(path).open("rb")


def tail(path: Path | str, length: int) -> bytes:
    """Return the last bytes of a file or member; no more are asked of a server that can send parts."""
    member = member_of(path)
    if is_remote(path):
        file, start = (str(path), 0) if member is None else (member.archive, member.offset)
        end = start + signature(path)[0]
        try:
            return remote.read(file, max(start, end - length), end)
        except DataError:
            if member is not None:
                raise
    with memory_for_file(signature(path)[0] if is_remote(path) else 0), open_file(path) as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - length))
        return opened.read(length)


def content_digest(path: Path | str) -> str:
    """Return the SHA-256 of the bytes of a file or member, as hexadecimal digits.

    One whose signature is what it was when it was last read is not read again, and of one of more than
    `files.LARGEST_HASHED` bytes it is the signature's.
    """
    signed = signature(path)
    if signed[0] > LARGEST_HASHED:
        return hashlib.sha256(repr(signed).encode()).hexdigest()
    known = _DIGESTS.get(str(path))
    if known is not None and known[0] == signed:
        return known[1]
    with memory_for_file(signed[0] if is_remote(path) else 0), open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    # What was written just now may be written again before the file system's clock moves on.
    if time.time_ns() - max(signed[1:3]) > _SETTLED and signature(path) == signed:
        if len(_DIGESTS) >= _MOST_DIGESTS:
            _DIGESTS.clear()
        _DIGESTS[str(path)] = signed, digest
    return digest


def content_digests(paths: Sequence[Path | str], workers: int | None = None) -> list[str]:
    """Return the digest of each of many files; of one that cannot be read, what it is instead."""
    at_once = REQUESTS if any(map(is_remote, paths)) else workers or processors()
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(_content_or_fault, paths))


def _content_or_fault(path: Path | str) -> str:
    try:
        return content_digest(path) if is_file(path) else "not a file"
    except (OSError, ValueError) as error:
        return f"unreadable: {type(error).__name__}"


def signature(path: Path | str) -> tuple[int, int, int, int]:
    """Return size, times and inode of a file, of which one changes with every write; for a member, of its archive."""
    member = member_of(path)
    file = path if member is None else member.archive
    if is_remote(file):
        found = remote.status(file)
        return (found.size if member is None else member.size, found.version, 0, 0)
    status = Path(file).stat()
    size = status.st_size if member is None else member.size
    return (size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _split(path: str) -> tuple[str, str] | None:
    """Return the archive that a path leads through, and the name there."""
    for match in _THROUGH.finditer(path):
        if _is_regular(archive := path[: match.end() - 1]):
            return archive, path[match.end() :].lstrip("/")
    return None


def _index(archive: str) -> _Index:
    """Return the index of an archive, which one thread makes, while others wait for it and for no other archive."""
    key = _key(archive)
    with _LOCK:
        if (index := _INDICES.get(key)) is not None:
            _INDICES.move_to_end(key)
            return index
        lock = _SCANS.setdefault(key, threading.Lock())
    with lock:
        if (index := _INDICES.get(key)) is None:
            found = {each.name: each for each in _scanned(archive, key.size)}
            _keep(key, index := _Index.of(found.values()))
    with _LOCK:
        _SCANS.pop(key, None)
    return index


def _keep(key: _Key, index: _Index) -> None:
    with _LOCK:
        _INDICES[key] = index
        _INDICES.move_to_end(key)
        while len(_INDICES) > 1 and sum(len(each.keys) for each in _INDICES.values()) > _MOST:
            _INDICES.popitem(last=False)


def _is_regular(path: Path | str) -> bool:
    return remote.is_file(path) if is_remote(path) else os.path.isfile(path)  # noqa: PTH113


def _key(archive: str) -> _Key:
    """Return what tells an archive from another of the same path."""
    try:
        if is_remote(archive):
            found = remote.status(archive)
            regular, key = found.is_file, _Key(archive, found.size, found.version, 0)
        else:
            status = os.stat(archive)  # noqa: PTH116
            regular = stat.S_ISREG(status.st_mode)
            key = _Key(archive, status.st_size, status.st_mtime_ns, status.st_ino)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{archive} cannot be read: {getattr(error, 'strerror', None) or error}; check it") from None
    if not regular:
        raise DataError(f"{archive} is not a file; give a tar archive")
    return key


def _scanned(archive: str, size: int, outside: list[str] | None = None) -> Iterator[Member]:
    """Yield the regular files; the names of those that would lie outside the archive are added to a list."""
    try:
        with _reading(archive) as read_at:
            for given, offset, length in tar_files(read_at, size):
                if (name := _inside(given)) is not None:
                    yield Member(archive, name, offset, length)
                elif outside is not None:
                    outside.append(given[:200])
    except TarError as error:
        raise DataError(
            f"{archive} is not an uncompressed tar archive, or it is damaged ({error}); pack it again with `tar cf`"
        ) from None
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {(error.strerror or '').lower() or error}; check it") from None


@contextmanager
def _reading(archive: str) -> Iterator[ReadAt]:
    """Yield what reads so many bytes from a place on."""
    if not is_remote(archive):
        with Path(archive).open("rb", buffering=0) as file:
            yield partial(os.pread, file.fileno())
        return
    with remote.reading(archive) as read_at:
        yield read_at


def _inside(name: str) -> str | None:
    """Return a name without what leads nowhere, or None if it leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if not parts or name.startswith("/") or ".." in parts or "\0" in name else "/".join(parts)
