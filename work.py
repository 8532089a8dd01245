"""The work folder: what the stages of a fit made, kept as they come, for a fit that continues an interrupted one.

work.json             says that the folder is ours; locked by the process that uses it
KIND-KEY.kept         what a stage made, behind its SHA-256; KEY is the digest of all that it depends on
KIND-KEY-NUMBER.kept  one of several parts

Of each kind there is what has one key, the latest: the folder holds what one fit makes, and no more.
"""

import fcntl
import json
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from .archive import LARGEST
from .errors import AurevoirError, AurevoirWarning, SaveError, UsageError
from .files import read_file
from .kept import sealed, unsealed
from .saving import explained, require_file_target, write_atomically

SCHEMA = "aurevoir-work/1"
_MARKER = "work.json"
_LONGEST_MARKER = 4096
_OURS = re.compile(r"([a-z]+)-([0-9a-f]{32})(-[0-9]{6})?\.(kept|engine)")
_LARGEST = LARGEST + (1 << 20)
"""Bytes of a file of what was kept: an engine is the largest."""


class Work:
    """A work folder; a context manager, which locks it.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    report : bool
        Whether to say on stderr what is taken over.

    Raises
    ------
    UsageError
        If the folder holds something and is no work folder, or another process uses it.
    SaveError
        If it cannot be made.
    """

    def __init__(self, folder: Path | str, report: bool = False) -> None:
        self.folder, self._report, self._failed = Path(folder), report, False
        self._marker: IO[bytes] | None = None
        self._cleared: set[tuple[str, str]] = set()

    def __enter__(self) -> "Work":
        check_work(self.folder)
        path = self.folder / _MARKER
        with explained(path):
            if not path.exists():
                write_atomically(path, json.dumps({"schema": SCHEMA}).encode())
            self._marker = path.open("rb+")
        try:
            fcntl.flock(self._marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._marker.close()
            raise UsageError(f"work folder {self.folder} is in use by another fit; give another folder") from None
        except OSError:
            # Where nothing can be locked, one fit at a time is up to the user.
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._marker is not None:
            self._marker.close()

    def get(self, kind: str, key: str, number: int | None = None) -> bytes | None:
        """Return what was kept, or None if nothing was, or a byte of it has changed."""
        with suppress(OSError, AurevoirError):
            return unsealed(read_file(self._path(kind, key, number), _LARGEST, "what was kept,", "delete it"))
        return None

    def put(self, kind: str, key: str, content: bytes, number: int | None = None) -> None:
        """Keep what a stage made; where that fails, a note says so once, and nothing more is kept."""
        self._keep(kind, key, lambda: write_atomically(self._path(kind, key, number), sealed(content)))

    def say(self, what: str) -> None:
        """Say on stderr what is taken over."""
        if self._report and sys.stderr is not None:
            sys.stderr.write(f"taken over from {self.folder}: {what}\n")

    def _path(self, kind: str, key: str, number: int | None) -> Path:
        return self.folder / f"{kind}-{key}{'' if number is None else f'-{number:06d}'}.kept"

    def _keep(self, kind: str, key: str, write: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            self._remove_others(kind, key)
            write()
        except OSError as error:
            self._failed = True
            why = str(error) if isinstance(error, SaveError) else f"{self.folder}: {(error.strerror or '').lower()}"
            warnings.warn(f"{why}; the fit goes on without its work folder", AurevoirWarning, stacklevel=2)

    def _remove_others(self, kind: str, key: str) -> None:
        if (kind, key) in self._cleared:
            return
        for path in self.folder.iterdir():
            found = _OURS.fullmatch(path.name)
            if found and found[1] == kind and found[2] != key:
                path.unlink(missing_ok=True)
        self._cleared = {each for each in self._cleared if each[0] != kind} | {(kind, key)}

    def size_of(self, *kinds: str) -> int:
        """Return the bytes of what was kept of some kinds, which a new key would take the place of."""
        size = 0
        for path in self.folder.iterdir():
            if (name := _OURS.fullmatch(path.name)) and name[1] in kinds:
                with suppress(OSError):
                    size += path.stat().st_size
        return size


def check_work(folder: Path | str) -> None:
    """Check that a folder can be a work folder.

    Raises
    ------
    UsageError
        If it holds something and was none before, or cannot be written to.
    """
    path = Path(folder)
    require_file_target(path / _MARKER)
    try:
        if not path.exists() or not any(path.iterdir()):
            return
        schema = json.loads(read_file(path / _MARKER, _LONGEST_MARKER, "marker", "delete it"))["schema"]
    except (AurevoirError, OSError, ValueError, TypeError, KeyError, RecursionError):
        schema = None
    if schema != SCHEMA:
        raise UsageError(f"{folder} holds something and is not a work folder; give an empty folder, or a new name")
