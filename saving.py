"""Save files and folders so that at every moment, whatever fails, the old or the new is there, whole.

A save prepares what it writes in a folder ``.aurevoir-`` and 16 hexadecimal digits, next to its target:

journal   JSON: the name of the target, and those that its files may have. The process that saves holds a lock (flock)
          on it; the system ends the lock with the process, however that ends
new       the file or folder; flushed to the device, then exchanged with the target by one system call, so that
          it holds what was replaced
old       only where the system cannot exchange: the folder that was replaced

What is exchanged is looked at before and after: what came to the target meanwhile and is not ours is put back. It
stays in the folder as ``kept`` if that fails.

A save that finds such a folder with no lock on it, left by a process that was killed, deletes it, or puts ``old`` back
where the target is missing. Nothing else is ever deleted.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from .errors import AurevoirError, SaveError, UsageError

PREFIX = ".aurevoir-"
"""What the names of the folders begin with in which saves are prepared."""
_STAGING = re.compile(re.escape(PREFIX) + "[0-9a-f]{16}")
_JOURNAL, _NEW, _OLD, _KEPT = "journal", "new", "old", "kept"
_SCHEMA = "aurevoir-save/1"
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""What `renameat2` fails with where system or file system lack it; old container sandboxes say EPERM."""
_NO_LINKS = (*_UNSUPPORTED, errno.EMLINK)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST_PATH, _ATTEMPTS = 4095, 100
_LARGEST_JOURNAL = 1 << 16
_HEAD = 4096
_only: ContextVar[Callable[[bytes], bool] | None] = ContextVar("only", default=None)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that the package writes.

    Attributes
    ----------
    name : str
        What messages call it.
    files : frozenset of str
        The names that its files may have.
    recognizes : callable
        Whether an existing folder is of this kind, by what its files say.
    """

    name: str
    files: frozenset[str]
    recognizes: Callable[[Path], bool]


def write_atomically(path: Path | str, data: bytes | memoryview | Iterator[bytes]) -> None:
    """Write a file, or replace it by one call; readers see the old or the new one, whole, also after a crash.

    Where the path is a link, the file that it points to is written. The permissions of a file that is replaced stay.
    Parts that an iterator yields are written as they come.

    Raises
    ------
    SaveError
        If it cannot be written, or what is there is no file, or none of those of `replacing_only`; it is unchanged.
    """
    with explained(path):
        target, is_ours = _resolved(path), _only.get()
        parts, size = (data, 0) if isinstance(data, Iterator) else (iter([data]), len(data))
        _save(
            target,
            frozenset(),
            size,
            lambda staging: _write_file(staging, _NEW, parts),
            lambda there: stat.S_ISREG(there.lstat().st_mode) and (is_ours is None or holds_only(there, is_ours)),
        )


@contextmanager
def replacing_only(is_ours: Callable[[bytes], bool]) -> Iterator[None]:
    """Let saves of files in the block replace only empty files, and those whose first bytes pass a test."""
    before = _only.set(is_ours)
    try:
        yield
    finally:
        _only.reset(before)


def holds_only(path: Path, is_ours: Callable[[bytes], bool]) -> bool:
    """Return whether a file is empty, or its first bytes pass a test; a FIFO that came there is not waited for."""
    with _Descriptor(path, os.O_RDONLY | os.O_NONBLOCK) as file:
        head = os.read(file.number, _HEAD)
    return not head or is_ours(head)


class Parts(Protocol):
    """The bytes of a file, part by part."""

    def __len__(self) -> int:
        """Return the number of bytes."""
        ...

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield them from the beginning."""
        ...


def parts_of(data: bytes | Parts) -> Iterable[bytes | memoryview]:
    """Return the parts of what a file is to hold."""
    return [data] if isinstance(data, bytes) else data


def write_folder(path: Path | str, files: Mapping[str, bytes | Parts], kind: FolderKind) -> None:
    """Write a folder of files, or replace one of the same kind by one call; see `write_atomically`.

    Raises
    ------
    UsageError
        If the target exists and is not of this kind, or holds other files; see `require_folder_target`.
    SaveError
        If it cannot be written; the old folder is unchanged.
    """

    def write(staging: "_Descriptor") -> None:
        os.mkdir(_NEW, dir_fd=staging.number)
        with _Descriptor(_NEW, _FOLDER, staging) as folder:
            for name, data in files.items():
                _write_file(folder, name, parts_of(data))
            os.fsync(folder.number)

    with explained(path):
        target = _resolved(path)
        _refuse_other_folders(path, target, kind)
        _save(target, kind.files, sum(map(len, files.values())), write, lambda there: _is_of_kind(there, kind))


def require_file_target(path: Path | str) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Raises
    ------
    UsageError
        If the path is a folder, a device, a mount point or read-only, or no file can be written there.
    AurevoirError
        If no space is left.
    """
    with _checked(path):
        if str(path).endswith(os.sep):
            raise UsageError(f"{path} names a folder; give the name of a file to write")
        target = _resolved(path)
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "not a regular file"
            raise UsageError(f"{path} is {kind}; give the name of a file to write")
        _require_replaceable(path, target)
        _try(path, target)


def require_folder_target(path: Path | str, kind: FolderKind) -> None:
    """Check that a folder can be written: one that does not exist, is empty, or holds files of its kind and no others.

    Raises
    ------
    UsageError
        If it is something else, is the working directory, a mount point or read-only, or cannot be written there.
    AurevoirError
        If no space is left.
    """
    with _checked(path):
        target = _resolved(path)
        _refuse_other_folders(path, target, kind)
        _require_replaceable(path, target)
        _try(path, target)


def recover(path: Path | str) -> None:
    """Put back a folder that a killed save had moved away, where the system could not exchange two folders."""
    with suppress(OSError, AurevoirError):
        target = _resolved(path)
        if not os.path.lexists(target):
            with _Descriptor(target.parent, _FOLDER) as above:
                _remove_leftovers(above, target.name)


@contextmanager
def scratch(*names: str) -> Iterator[Path]:
    """Make a folder for temporary files of these names; what a killed process leaves of it, the next one deletes."""
    import tempfile

    with ExitStack() as stack:
        with explained("the temporary folder (TMPDIR)"):
            root = Path(os.path.realpath(tempfile.gettempdir()))
            above = stack.enter_context(_Descriptor(root, _FOLDER))
            folder, staging = stack.enter_context(_staged(above, _NEW, names))
            os.mkdir(_NEW, 0o700, dir_fd=staging.number)
        yield root / folder / _NEW


# Targets


def _resolved(path: Path | str) -> Path:
    """Return the absolute path without links, `.` or `..`; of a link that leads nowhere that to which it leads."""
    text = os.fspath(path)
    try:
        if "\0" in text:
            raise UsageError(f"{text!r} holds a null character, which no path may; give another name")
        os.fsencode(text)
        target = Path(os.path.realpath(text))
    except UnicodeEncodeError:
        raise UsageError(f"{text!r} is not a path that this system can encode; give another name") from None
    except FileNotFoundError:
        raise UsageError(
            f"{text} is relative to the working directory, which has been deleted; change to another"
        ) from None
    if not target.name:
        raise UsageError(f"{text} is the root folder; give a name in a folder")
    if target.is_symlink():
        raise UsageError(f"{text} is a link that leads to itself; give another name")
    return target


def _refuse_other_folders(path: Path | str, target: Path, kind: FolderKind) -> None:
    """Refuse a target that holds what is not ours; an empty folder holds nothing."""
    if not os.path.lexists(target):
        return
    if _is_working_directory(target):
        raise UsageError(
            f"{path} is the working directory, which cannot be replaced; give a name in it, such as "
            f"{Path(path, 'model')}"
        )
    if not target.is_dir():
        raise UsageError(f"{path} exists and is not a {kind.name}; choose another name or remove it")
    entries = sorted(os.scandir(target), key=lambda entry: entry.name)
    foreign = [entry.name for entry in entries if not _is_own(entry, kind.files)]
    if entries and not kind.recognizes(target):
        raise UsageError(f"{path} exists and is not a {kind.name}; choose another name or remove it")
    if foreign:
        first = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise UsageError(
            f"{path} is a {kind.name} that also holds {first}, which would be lost; move that elsewhere, or choose "
            "another name"
        )


def _is_own(entry: os.DirEntry[str], names: Collection[str]) -> bool:
    return entry.name in names and entry.is_file(follow_symlinks=False)


def _is_of_kind(folder: Path, kind: FolderKind) -> bool:
    """Return whether a path is a folder, not a link to one, that is empty or holds files of its kind and no others."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        return False
    entries = list(os.scandir(folder))
    return all(_is_own(entry, kind.files) for entry in entries) and (not entries or kind.recognizes(folder))


def _is_working_directory(target: Path) -> bool:
    with suppress(OSError):
        return target.samefile(Path.cwd())
    return False


def _require_replaceable(path: Path | str, target: Path) -> None:
    """Refuse what exists and cannot be exchanged, or is protected against it."""
    if not target.exists():
        return
    if _is_mount_point(target):
        raise UsageError(f"{path} is a mount point, which cannot be replaced; give a name in it or elsewhere")
    if not os.access(target, os.W_OK):
        raise UsageError(f"{path} is read-only; make it writable, or choose another name")
    parent = target.parent.stat()
    if parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, parent.st_uid, target.stat().st_uid):
        raise UsageError(
            f"{path} is another user's, and {target.parent} lets only them replace it; choose another name"
        )


def _is_mount_point(target: Path) -> bool:
    if os.path.ismount(target):
        return True
    # Files, and folders of the same file system, can be mounted too.
    with suppress(OSError):
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
        points = (line.split(b" ")[4].decode("unicode_escape").encode("latin-1") for line in mounts)
        return os.fsencode(target) in points
    return False


def _try(path: Path | str, target: Path) -> None:
    """Do what a save does, with a small file, where the target or the first of its missing folders will be."""
    parent = target.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise UsageError(f"{path} cannot be written: {parent} is not a folder; choose another path")
    longest = os.pathconf(parent, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in target.parts) or len(os.fsencode(target)) > _LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with _Descriptor(parent, _FOLDER) as above, _staged(above, _NEW, ()) as (_, staging):
        _write_file(staging, _NEW, [bytes(4096)])


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into a SaveError, whose line names the path, the reason and the remedy."""
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(_why(path, error)) from error


@contextmanager
def _checked(path: Path | str) -> Iterator[None]:
    """Turn an OSError of a check into an error of usage, but where it is for want of space."""
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        kind = AurevoirError if error.errno in _FULL else UsageError
        raise kind(_why(path, error)) from error


def _why(path: Path | str, error: OSError) -> str:
    remedy = "free some" if error.errno in _FULL else "choose another path"
    return f"{path} cannot be written: {(error.strerror or str(error)).lower()}; {remedy}"


# Saving


class _Descriptor:
    """An open file or folder, closed by `with`, or with the last reference to it where an interrupt comes before."""

    def __init__(self, name: str | Path, flags: int, folder: "_Descriptor | None" = None) -> None:
        self.number = -1
        self.number = os.open(
            name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=None if folder is None else folder.number
        )

    def close(self) -> None:
        """Close it, if it is open; this ends its lock."""
        number, self.number = self.number, -1
        if number >= 0:
            # What it holds was flushed before.
            with suppress(OSError):
                os.close(number)

    def __enter__(self) -> "_Descriptor":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    # Python passes over what is raised in here, an interrupt too.
    __del__ = close


_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL


def _write_file(folder: _Descriptor, name: str, parts: Iterable[bytes | memoryview]) -> None:
    with _Descriptor(name, _CREATE, folder) as file:
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(file.number, left) :]
        os.fsync(file.number)


def _save(
    target: Path,
    names: Collection[str],
    size: int,
    write: Callable[[_Descriptor], None],
    may_replace: Callable[[Path], bool],
) -> None:
    with (
        _with_parents(target.parent),
        _Descriptor(target.parent, _FOLDER) as above,
        _staged(above, target.name, names, size) as (name, staging),
    ):
        write(staging)
        _keep_mode(target, staging)
        os.fsync(staging.number)
        _place(above, target, staging, target.parent / name, may_replace)


def _keep_mode(target: Path, staging: _Descriptor) -> None:
    with suppress(FileNotFoundError):
        os.chmod(_NEW, stat.S_IMODE(target.stat().st_mode) & 0o777, dir_fd=staging.number)


@contextmanager
def _with_parents(folder: Path) -> Iterator[None]:
    """Make missing folders, and remove them again if the block raises and they are empty."""
    made: list[Path] = []
    try:
        for each in [*reversed(folder.parents), folder]:
            with suppress(FileExistsError):
                if not each.exists():
                    each.mkdir()
                    made.append(each)
                    with _Descriptor(each.parent, _FOLDER) as holding:
                        os.fsync(holding.number)
        yield
    except BaseException:
        for each in reversed(made):
            with suppress(OSError):
                each.rmdir()
        raise


def _place(
    above: _Descriptor, target: Path, staging: _Descriptor, beside: Path, may_replace: Callable[[Path], bool]
) -> None:
    """Bring ``new`` to its place; undo that if it cannot be flushed, or what it replaced is not ours to delete."""
    own = _inode(staging, _NEW)
    created = _put_in_turn(above, target, staging, may_replace)
    try:
        os.fsync(above.number)
        os.fsync(staging.number)
        for each in _replaced(staging):
            _require_ours(beside / each, may_replace, target)
    except BaseException as error:
        try:
            _take_back(above, target.name, staging, created)
        finally:
            if _exists(staging, _NEW) and _inode(staging, _NEW) != own:
                os.rename(_NEW, _KEPT, src_dir_fd=staging.number, dst_dir_fd=staging.number)
                if isinstance(error, Exception):
                    raise SaveError(f"{target} is the new one; what was there is {beside / _KEPT} now") from error
        raise


def _inode(folder: _Descriptor, name: str) -> int:
    return os.stat(name, dir_fd=folder.number, follow_symlinks=False).st_ino


def _replaced(staging: _Descriptor) -> list[str]:
    return [name for name in _names_in(staging) if name != _JOURNAL]


def _require_ours(path: Path, may_replace: Callable[[Path], bool], target: Path) -> None:
    if not may_replace(path):
        raise _foreign(target, path.is_dir())


def _foreign(target: Path | str, is_folder: bool) -> SaveError:
    what = "now holds what is not part of it" if is_folder else "is another file"
    return SaveError(f"{target} {what}, and is left as it is; move that, or give another")


def _put_in_turn(above: _Descriptor, target: Path, staging: _Descriptor, may_replace: Callable[[Path], bool]) -> bool:
    """Call `_put` until no other process comes between what it sees and what it does."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            if there := _exists(above, target.name):
                _require_ours(target, may_replace, target)
            _put(above, target.name, staging, there)
            return not there
    raise SaveError(f"{target.name} cannot be written: others replace it all the time; choose another name")


def _put(above: _Descriptor, target: str, staging: _Descriptor, there: bool) -> None:
    """Exchange ``new`` with what is there, or place it where nothing is, or raise to be called again."""
    try:
        renameat2(staging.number, _NEW, above.number, target, _EXCHANGE if there else _NOREPLACE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if there or not _linked(above, target, staging):
            _put_by_renaming(above, target, staging)


def _linked(above: _Descriptor, target: str, staging: _Descriptor) -> bool:
    """Place a new file by a link, which replaces nothing; return False for a folder, and where there are no links."""
    if stat.S_ISDIR(os.stat(_NEW, dir_fd=staging.number, follow_symlinks=False).st_mode):
        return False
    try:
        os.link(_NEW, target, src_dir_fd=staging.number, dst_dir_fd=above.number)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    os.unlink(_NEW, dir_fd=staging.number)
    return True


def _put_by_renaming(above: _Descriptor, target: str, staging: _Descriptor) -> None:
    """Replace a file by one call, and a folder by two: in between, only the journal tells where ``old`` belongs."""
    try:
        os.rename(_NEW, target, src_dir_fd=staging.number, dst_dir_fd=above.number)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _exists(staging, _OLD):
            # Another process has put a whole one in its place.
            _delete(staging, _OLD)
        os.rename(target, _OLD, src_dir_fd=above.number, dst_dir_fd=staging.number)
        os.fsync(staging.number)
        raise FileExistsError from None


def _take_back(above: _Descriptor, target: str, staging: _Descriptor, created: bool) -> None:
    if _exists(staging, _NEW):
        renameat2(staging.number, _NEW, above.number, target, _EXCHANGE)
    elif created:
        # What was set aside returns when this save ends.
        os.rename(target, _NEW, src_dir_fd=above.number, dst_dir_fd=staging.number)


def renameat2(source_folder: int, source: str, target_folder: int, target: str, flags: int) -> None:
    """Call Linux's ``renameat2``; raises OSError, with ENOSYS where there is none."""
    call = _renameat2()
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(source_folder, os.fsencode(source), target_folder, os.fsencode(target), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


@cache
def _renameat2() -> Any:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call


def _names_in(folder: _Descriptor) -> list[str]:
    return os.listdir(folder.number)  # noqa: PTH208


def _exists(folder: _Descriptor, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder.number, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


# The folder in which a save is prepared


@contextmanager
def _staged(
    above: _Descriptor, target: str, names: Collection[str], size: int = 0
) -> Iterator[tuple[str, _Descriptor]]:
    """Make a locked folder with a journal in a folder; at the end, what is then in it is deleted."""
    _remove_leftovers(above)
    _require_space(above, size)
    for _ in range(_ATTEMPTS):
        name = PREFIX + secrets.token_hex(8)
        opened: list[_Descriptor] = []
        try:
            os.mkdir(name, 0o700, dir_fd=above.number)
            if _begun(above, name, target, names, opened):
                yield name, opened[0]
                return
        finally:
            try:
                _dispose_whatever_comes(above, name, target, names)
            finally:
                # A traceback that somebody keeps would keep the lock.
                for each in opened:
                    each.close()
    raise SaveError(f"nothing can be written next to {target}: others delete it all the time; choose another folder")


def _begun(above: _Descriptor, name: str, target: str, names: Collection[str], opened: list[_Descriptor]) -> bool:
    """Open the folder and its journal, and lock that; return False if another process took it for one that was left."""
    try:
        opened.append(staging := _Descriptor(name, _FOLDER, above))
        opened.append(journal := _Descriptor(_JOURNAL, _CREATE, staging))
        if not (_lock(journal) and _is_linked(journal, staging)):
            return False
    except FileNotFoundError:
        return False
    os.write(journal.number, json.dumps({"schema": _SCHEMA, "target": target, "files": sorted(names)}).encode())
    os.fsync(journal.number)
    return True


def _require_space(above: _Descriptor, size: int) -> None:
    usage = shutil.disk_usage(above.number)
    if usage.total and usage.free < size:
        raise OSError(errno.ENOSPC, f"{size:,d} bytes are needed, and {usage.free:,d} are free")


def _lock(journal: _Descriptor) -> bool:
    """Lock a journal, and return whether it was free; where no file can be locked, none is."""
    try:
        fcntl.flock(journal.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_linked(journal: _Descriptor, staging: _Descriptor) -> bool:
    found = os.stat(_JOURNAL, dir_fd=staging.number, follow_symlinks=False)
    return found.st_ino == os.fstat(journal.number).st_ino


def remove_leftovers(folder: Path) -> None:
    """Delete what killed saves left in a folder, if that is there."""
    with suppress(OSError), _Descriptor(folder, _FOLDER) as above:
        _remove_leftovers(above)


def _remove_leftovers(above: _Descriptor, target: str | None = None) -> None:
    """Delete what killed saves left in a folder; with a target only what they left of it."""
    with suppress(OSError):
        for name in filter(_STAGING.fullmatch, _names_in(above)):
            with suppress(OSError):
                _remove_leftover(above, name, target)


def _remove_leftover(above: _Descriptor, name: str, target: str | None) -> None:
    with _Descriptor(name, _FOLDER, above) as staging:
        if os.fstat(staging.number).st_uid != os.geteuid():
            return
        if not _exists(staging, _JOURNAL):
            # Where one has come meanwhile, this fails.
            os.rmdir(name, dir_fd=above.number)
            return
        with _Descriptor(_JOURNAL, os.O_RDWR | os.O_NONBLOCK, staging) as journal:
            # It raises where a process holds the lock, or where nothing can be locked.
            fcntl.flock(journal.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = _read_journal(journal) or ("", frozenset())
            if target in (None, own[0]):
                _dispose(above, name, *own)


def _read_journal(journal: _Descriptor) -> tuple[str, frozenset[str]] | None:
    """Return the target and the names of the files; None for a journal that was not finished."""
    try:
        described = json.loads(os.pread(journal.number, _LARGEST_JOURNAL, 0))
        names = [described["target"], *described["files"]]
        if described["schema"] != _SCHEMA or not all(map(_is_plain, names)):
            return None
        return names[0], frozenset(names[1:])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\0"} & set(name)


def _dispose_whatever_comes(above: _Descriptor, name: str, target: str, names: Collection[str]) -> None:
    """Delete the folder, where that is possible, also if an interrupt comes meanwhile."""
    with suppress(OSError):
        try:
            _dispose(above, name, target, names)
        except KeyboardInterrupt:
            with suppress(OSError):
                _dispose(above, name, target, names)
            raise


def _dispose(above: _Descriptor, name: str, target: str, names: Collection[str]) -> None:
    """Delete the folder in which a save was prepared; all of it, or nothing where something else is in it."""
    with _Descriptor(name, _FOLDER, above) as staging:
        found = set(_names_in(staging))
        if not found <= {_JOURNAL, _NEW, _OLD} or (not target and found - {_JOURNAL}):
            return
        if _OLD in found and not _exists(above, target):
            os.rename(_OLD, target, src_dir_fd=staging.number, dst_dir_fd=above.number)
            os.fsync(above.number)
            found.remove(_OLD)
        parts = sorted(found - {_JOURNAL})
        for each in parts:
            _refuse_foreign(staging, each, names, target)
        for each in parts:
            _delete(staging, each)
        if _JOURNAL in found:
            os.unlink(_JOURNAL, dir_fd=staging.number)
        os.rmdir(name, dir_fd=above.number)


def _refuse_foreign(staging: _Descriptor, part: str, names: Collection[str], target: str) -> None:
    """Raise SaveError if a part is neither a file, nor a folder of files of these names alone."""
    mode = os.stat(part, dir_fd=staging.number, follow_symlinks=False).st_mode
    foreign = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    if stat.S_ISDIR(mode):
        with _Descriptor(part, _FOLDER, staging) as folder, os.scandir(folder.number) as entries:
            foreign = not all(_is_own(entry, names) for entry in entries)
    if foreign:
        raise _foreign(target, stat.S_ISDIR(mode))


def _delete(staging: _Descriptor, part: str) -> None:
    if not stat.S_ISDIR(os.stat(part, dir_fd=staging.number, follow_symlinks=False).st_mode):
        os.unlink(part, dir_fd=staging.number)
        return
    with _Descriptor(part, _FOLDER, staging) as folder:
        for name in _names_in(folder):
            os.unlink(name, dir_fd=folder.number)
    os.rmdir(part, dir_fd=staging.number)
