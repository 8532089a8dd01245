"""Files at URLs that fsspec reads, such as ``s3://bucket/cats/1.jpg``, as paths like those of local files.

A file at a URL is taken not to change while a process runs.
"""

import asyncio
import hashlib
import os
import re
import sys
import threading
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import Any, NamedTuple, TypeVar, cast

from ..errors import AurevoirWarning, DataError, MissingPackageError, UsageError

S = TypeVar("S")
T = TypeVar("T")

REQUESTS = 32
"""Files that are asked for at once: threads that wait for a server take no processor."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://.", re.IGNORECASE)
_LOCAL = ("file", "local")
_WEB = ("http", "https")
_S3 = ("s3", "s3a")
_WAITS = (0.5, 2.0)
"""Seconds before what failed is asked for once more."""
_PATIENCE = 15
"""Seconds that a web server may say nothing, as s3fs has it: what fsspec sets is 300 for all of an answer."""
_MISSING = (404, 410)
_FOR_NOW = (408, 425, 429)
"""Of the answers that blame who asks, those that may be others a moment later."""
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_TAGS = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "generation"),
    *("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created"),
)
"""What file systems call that by which a content differs from the one before it."""
_BLOCK = 1 << 20
_MOST = 1 << 20
_AT_ONCE = 4096
"""Items that threads are given at a time: what waits for one takes memory."""
_GIVEN_UP = threading.Event()


class Status(NamedTuple):
    """What a server says of a file or folder.

    Attributes
    ----------
    is_file : bool
    size : int
        Bytes of the file.
    version : int
        Another one for another content, where the server tells them apart.
    """

    is_file: bool
    size: int
    version: int


_KNOWN: dict[str, Status] = {}


class RemotePath(PosixPath):
    """The path of a file or folder at a URL. Its text is the URL."""

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}"

    def __fspath__(self) -> str:
        return str(self)

    def is_absolute(self) -> bool:
        """Return True: no URL is relative to a folder of this machine."""
        return True

    def absolute(self) -> "RemotePath":
        """Return the path itself."""
        return self


def give_up() -> None:
    """Let requests fail at once, for a process that ends, and those of asyncio, as of the web and S3, wait no more."""
    _GIVEN_UP.set()
    if (asyn := sys.modules.get("fsspec.asyn")) is not None and (loop := asyn.loop[0]) is not None:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than the path of a local file."""
    return _URL.match(text) is not None


def is_remote(path: Path | str) -> bool:
    """Return whether a path leads to a URL."""
    return isinstance(path, RemotePath) or (isinstance(path, str) and is_url(path))


def path_of(path: "os.PathLike[str] | str") -> Path:
    """Return a path; of a URL a `RemotePath`.

    Raises
    ------
    UsageError
        If it is the URL of a local file, or of one inside another, or has empty names, which no path can hold.
    """
    if isinstance(path, Path) or not (match := _URL.match(os.fspath(path))):
        return path if isinstance(path, Path) else Path(path)
    text = os.fspath(path)
    if match[1].lower() in _LOCAL:
        raise UsageError(f"{text} is on this machine; give its path without {match[1]}://")
    if "::" in text:
        raise UsageError(f"{text} is a file inside another; unpack it, or give a tar archive")
    found = RemotePath(text)
    if str(found) != text.rstrip("/"):
        raise UsageError(f"{text} has an empty or dotted name between its slashes; rename the folder")
    return found


def status(path: Path | str) -> Status:
    """Return what is known of a file or folder.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the server answers.
    DataError
        If the server cannot be asked.
    """
    url = str(path)
    if (known := _KNOWN.get(url)) is None:
        known = _keep(url, _asked(url, lambda files, name: files.info(name)))
    return known


def exists(path: Path | str) -> bool:
    """Return whether there is a file or folder."""
    try:
        return bool(status(path))
    except (OSError, DataError):
        return False


def is_file(path: Path | str) -> bool:
    """Return whether there is a file."""
    return exists(path) and status(path).is_file


def check_access(path: Path | str) -> None:
    """Raise DataError if the server of a file cannot be asked, or refuses; that it has no such file is no error."""
    try:
        status(path)
    except FileNotFoundError:
        return
    except OSError as error:
        why = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read: {why}; check the address and your access") from None


def read(path: Path | str, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes of a file, or those of a part of it; errors are those of `status`."""
    url = str(path)
    if stop is None and _scheme(url) in _S3 and (size := status(url).size):
        # s3fs asks for the size of a file that is wanted whole.
        stop = size
    if stop is None:
        return cast("bytes", _asked(url, lambda files, name: files.cat_file(name)))
    found = cast("bytes", _asked(url, lambda files, name: files.cat_file(name, start=start, end=stop)))
    if len(found) != stop - start:
        raise DataError(f"{url} cannot be read in parts: its server sends {len(found):,d} bytes for {stop - start:,d}")
    return found


@contextmanager
def reading(path: Path | str) -> Iterator[Callable[[int, int], bytes]]:
    """Yield what returns so many bytes from a place on, and asks for large blocks; errors are those of `status`."""
    url = str(path)
    with _asked(url, lambda files, name: files.open(name, "rb", block_size=_BLOCK)) as file:

        def read_at(size: int, place: int) -> bytes:
            def ask(*_: Any) -> bytes:
                file.seek(place)
                return cast("bytes", file.read(size))

            return _asked(url, ask)

        yield read_at


def map_at_once(ask: Callable[[S], T], items: Sequence[S], at_urls: bool) -> list[T]:
    """Return what is found of each item, `REQUESTS` at once if they are at URLs."""
    if not at_urls:
        return list(map(ask, items))
    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="remote") as pool:
        parts = (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
        return [found for part in parts for found in pool.map(ask, part)]


def files_under(folder: Path | str) -> list[Path]:
    """Return the files under a folder, sorted by name, with a note of names that no path can hold.

    Errors are those of `status`.
    """
    url = str(folder)

    def find(files: Any, name: str) -> dict[str, dict[str, Any]]:
        # What it remembers of a folder may have changed, and takes more memory than all that is kept here.
        files.invalidate_cache()
        found: dict[str, dict[str, Any]] = files.find(name, detail=True)
        files.invalidate_cache()
        return {url + each[len(name) :]: info for each, info in found.items() if each.startswith(f"{name}/")}

    paths, odd = list[Path](), list[str]()
    for each, info in _asked(url, find).items():
        try:
            path = path_of(each)
        except UsageError:
            odd.append(each)
            continue
        # Some stores keep empty files in place of folders.
        if not each.endswith("/"):
            paths.append(path)
            if info.get("size") is not None:
                _keep(str(path), info)
    if odd:
        warnings.warn(
            f"{len(odd)} files in {url} have names with :: or with an empty or dotted part, first {odd[0]!r}, and are "
            "left out; rename them",
            AurevoirWarning,
            stacklevel=2,
        )
    return sorted(paths)


def _keep(url: str, info: dict[str, Any]) -> Status:
    """Keep what a server says of a file."""
    is_file = info.get("type") != "directory"
    if is_file and info.get("size") is None:
        raise DataError(f"{url} cannot be read: its server does not say how many bytes it has; copy it here")
    tags = repr([info[each] for each in _TAGS if info.get(each) is not None])
    version = int.from_bytes(hashlib.sha256(tags.encode()).digest()[:7], "big")
    if len(_KNOWN) >= _MOST:
        _KNOWN.clear()
    _KNOWN[url] = Status(is_file, int(info["size"] or 0) if is_file else 0, version)
    return _KNOWN[url]


def _asked(url: str, ask: Callable[[Any, str], T]) -> T:
    """Return the answer of a file system, which is asked again if it fails otherwise than by saying no."""
    for wait in (*_WAITS, None):
        try:
            # fsspec answers nothing where a request is cancelled.
            if (answer := None if _GIVEN_UP.is_set() else ask(*_file_system(url))) is not None:
                return answer
            error: Exception = OSError("given up")
        except (MissingPackageError, UsageError):
            raise
        except Exception as found:  # of each package that fsspec calls another
            error = _reason(url, found)
        if isinstance(error, _FINAL):
            raise error
        if wait is None or _GIVEN_UP.is_set() or _is_refusal(error):
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise DataError(f"{url} cannot be read ({why}); check the address, the network and your access") from None
        _GIVEN_UP.wait(wait)
    raise AssertionError


def _reason(url: str, error: Exception) -> Exception:
    """Return why a request has failed: of the web, fsspec says of every failure that there is no such file."""
    cause = error.__cause__
    if _scheme(url) not in _WEB or not isinstance(cause, Exception) or getattr(cause, "status", 0) in _MISSING:
        return error
    return cause


def _is_refusal(error: Exception) -> bool:
    """Return whether a web server has answered that it will not send this."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in _FOR_NOW


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and its name there."""
    scheme, _, rest = url.partition("://")
    url = f"{scheme.lower()}://{rest}"
    files = _shared(f"{scheme.lower()}://{rest.partition('/')[0]}", os.getpid())
    if not files.async_impl:
        # Each thread has one of its own.
        return cast("tuple[Any, str]", _fsspec().url_to_fs(url))
    return files, files._strip_protocol(url)


@lru_cache(64)
def _shared(server: str, _process: int) -> Any:
    """Return the file system that all threads of a process may ask at once."""
    try:
        return _fsspec().url_to_fs(server, **_options(_scheme(server)))[0]
    except ImportError as error:
        raise MissingPackageError(f"{server} needs a package that is not installed: {error}") from None
    except ValueError as error:
        raise UsageError(f"{server} cannot be read: {error}; check what stands before ://") from None


def _options(scheme: str) -> dict[str, Any]:
    """Return what a file system is made with beside what is configured: for the web, proxies and how long to wait."""
    if scheme not in _WEB:
        return {}
    _fsspec()
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    silence = ClientTimeout(total=None, sock_connect=_PATIENCE, sock_read=_PATIENCE)
    configured = (conf.get(each, {}).get("client_kwargs", {}) for each in _WEB)
    return {"client_kwargs": dict(ChainMap(*configured, {"timeout": silence, "trust_env": True}))}


def _fsspec() -> Any:
    try:
        from fsspec import core
    except ImportError:
        raise MissingPackageError(
            "URLs need fsspec, which is not installed; install it with: pip install 'aurevoir[remote]'"
        ) from None
    return core
