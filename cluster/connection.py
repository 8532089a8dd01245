"""The connection to a Ray cluster, which is left as it was found."""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..children import run_child
from ..errors import AurevoirError, MissingPackageError, UsageError
from .spec import AUTO, LOCAL, Cluster

_ANSWER = 30
"""Seconds in which a cluster has to answer."""
_STORE, _LEAST_STORE = 1 << 31, 100 << 20
"""Bytes of the object store of a cluster of this machine, and the least that Ray takes."""
_LONGEST = 28
"""Characters of a temporary folder in which the names of Ray's sockets are short enough for the system."""
_ENDING = 5
"""Seconds in which killed processes have to be gone."""
_PREFIX, _LOCK, _INNER = "aurevoir-ray-", "lock", "r"


def required_ray() -> Any:
    """Return the module ``ray``.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    # Read at import: a fit reports nothing to anybody, workers without GPUs see none, and forks print no warnings.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        import ray
    except ImportError:
        raise MissingPackageError(
            "a cluster needs Ray, which is not installed; install it with: pip install 'aurevoir[cluster]'"
        ) from None
    return ray


class _Connection:
    """The connection of this process, which ends with the last block that needs it."""

    def __init__(self) -> None:
        # A block of this thread that was abandoned may be collected, and so end, while the thread holds the lock.
        self.lock, self.users, self.address = threading.RLock(), 0, ""
        self.ends = ExitStack()


_OWN = _Connection()


@contextmanager
def connected(cluster: Cluster | None) -> Iterator[None]:
    """Be connected to a cluster; one of this machine is started, and ends with the last block that is open.

    Parameters
    ----------
    cluster : Cluster or None
        None connects to nothing. A process that was connected otherwise stays so.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    UsageError
        If another cluster is in use by an open block: a process has one connection.
    AurevoirError
        If no cluster answers.
    """
    if cluster is None or not _entered(cluster.address):
        yield
        return
    try:
        yield
    finally:
        with _OWN.lock:
            _OWN.users -= 1
            if not _OWN.users:
                _OWN.ends.close()


def _entered(address: str) -> bool:
    """Count one more user of the connection, which is made for the first; return False where it is not ours."""
    with _OWN.lock:
        if _OWN.users and address != _OWN.address:
            raise UsageError(
                f"cluster {address!r} cannot be used while this process uses {_OWN.address!r}; end that work first, or "
                "name the same cluster"
            )
        if not _OWN.users:
            if required_ray().is_initialized():
                return False
            with ExitStack() as stack:
                _start(address, stack.enter_context(_session(address)))
                stack.callback(required_ray().shutdown)
                _OWN.ends, _OWN.address = stack.pop_all(), address
        _OWN.users += 1
        return True


@contextmanager
def _session(address: str) -> Iterator[dict[str, Any]]:
    """Yield what `ray.init` is given: of a cluster of this machine, with a folder of its own that goes with it."""
    if address != LOCAL:
        _require_answer(address)
        yield {}
        return
    parent = Path(tempfile.gettempdir())
    parent = parent if len(str(parent)) <= _LONGEST else Path("/tmp")
    _remove_left(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with (folder / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Ray lets everybody write to the folder that it is given: the one around it stays this user's alone.
            (inner := folder / _INNER).mkdir()
            yield {"include_dashboard": False, "object_store_memory": _store(), "_temp_dir": str(inner)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(parent: Path) -> None:
    """Delete this user's folders that killed processes have left, and end what of Ray has outlived them there."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / _LOCK).open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Anybody may make such a folder where temporary files are.
            if folder.lstat().st_uid != os.geteuid():
                continue
            _end_processes(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folder: Path) -> None:
    """Kill Ray's processes of a session in a folder: its agents stay if their daemon ends while they start."""
    ends = time.monotonic() + _ENDING
    while (left := _ray_processes(folder)) and time.monotonic() < ends:
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _ray_processes(folder: Path) -> list[int]:
    """Return the processes whose program is of Ray's package, and that were started with a path in a folder."""
    found, inside = [], os.fsencode(folder / _INNER)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes()
            # With what ends a name: another session's may begin as this one does.
            if b"/ray/" in command and any(inside + end in command for end in (b"/", b"\0")):
                found.append(int(path.parent.name))
    return found


def _store() -> int:
    """Return the bytes of an object store: no more than half of the shared memory that is free."""
    with suppress(OSError):
        return max(_LEAST_STORE, min(_STORE, shutil.disk_usage("/dev/shm").free // 2))
    return _LEAST_STORE


def _require_answer(address: str) -> None:
    where = "of this machine (auto)" if address == AUTO else f"at {address}"
    remedy = "check the address, or start one with `ray start --head`"
    try:
        done = run_child("aurevoir.cluster.reach", [address], timeout=_ANSWER)
    except subprocess.TimeoutExpired:
        raise AurevoirError(f"the Ray cluster {where} did not answer within {_ANSWER} seconds; {remedy}") from None
    if done.returncode:
        why = done.stdout.strip().rpartition("\n")[2] or "the process that tried was ended"
        raise AurevoirError(f"the Ray cluster {where} cannot be reached: {why}; {remedy}")


@contextmanager
def _at_the_root() -> Iterator[None]:
    """Be in the root folder, since workers import from the folder in which Ray is started, whatever lies there."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def _start(address: str, options: dict[str, Any]) -> None:
    """Connect, without Ray's own lines and its handler of SIGTERM, which would take this process' place."""
    ray = required_ray()
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _at_the_root():
                ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
        # Ray prints of each lost worker on stdout, whose reader expects results there.
        import ray._private.worker as printing

        printing._worker_logs_enabled = False
    except (Exception, SystemExit) as error:
        ray.shutdown()
        why = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise AurevoirError(f"the Ray cluster {address!r} cannot be used: {why}; see its logs") from error
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
