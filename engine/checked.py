"""The record of the engines that this user built or has run once in a process of its own: digests, one a line.

It lies in the cache's folder. Where it is absent, cannot be written, or is not this user's alone to write, nothing is
known, and an engine is checked again.
"""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from ..cache import CHECKED, cache_folder
from .manifest import Manifest
from .runtimes import runtime

_MOST = 1 << 20
"""Bytes beyond which the record begins anew."""


def digest(made: Manifest, graph: bytes, plan: bytes | None, device: str) -> str:
    """Return the SHA-256 of what decides how an engine runs: graph, plan, precision, runtime, its version, device."""
    about = "\n".join((made.runtime, _version(made), made.precision, device))
    parts = (hashlib.sha256(part).hexdigest() for part in (about.encode(), graph, plan or b""))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _version(made: Manifest) -> str:
    try:
        return runtime(made.runtime).version()
    except ImportError:  # an engine for a runtime that is elsewhere
        return ""


def is_known(key: str) -> bool:
    """Return whether a digest is in the record."""
    try:
        # A FIFO in its place is not waited for.
        with os.fdopen(os.open(_record(), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            mine = status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode) and not shared
            return mine and key.encode() in file.read(2 * _MOST).split()
    except OSError:
        return False


def remember(key: str) -> None:
    """Put a digest into the record, where it can be written."""
    if is_known(key):
        return
    with suppress(OSError):
        path = _record()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MOST:
            path.unlink()
        # What is appended in one piece by one process is not mixed with what another appends.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(f"{key}\n".encode())


def _record() -> Path:
    folder = cache_folder()
    if folder is None:
        raise FileNotFoundError("no home folder is known")
    return folder / CHECKED
