"""What this process may use of the machine: processors, and memory.

The limits are its affinity (``taskset``, a container's set of processors) and those of the control groups that it is
in, of version 1 or 2, which containers, systemd and schedulers make. Native libraries look at the affinity at most.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60
"""Version 1 writes a number of about 2^63 where there is no limit."""
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def affinity() -> int:
    """Return the number of processors that threads of this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processors() -> int:
    """Return how many processors this process can keep busy: those of `affinity`, or its quota of time, rounded up."""
    return min([affinity(), *(math.ceil(each) for each in _quotas() if each)])


@cache
def memory() -> int:
    """Return the bytes that this process and those of its control groups may use; 0 if nothing limits them.

    It is read once in a process.
    """
    found = [_integer(text) for text in (*_texts("memory.max", ""), *_texts("memory.limit_in_bytes", "memory"))]
    return min((each for each in found if 0 < each < _UNLIMITED), default=0)


def _quotas() -> Iterator[float]:
    """Yield the processors' worth of time of each group, 0 where it has no limit."""
    for text in _texts("cpu.max", ""):
        quota, _, period = text.partition(" ")
        yield _integer(quota) / max(1, _integer(period))
    quotas, periods = (_texts(name, "cpu") for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    for quota, period in zip(quotas, periods, strict=False):
        yield _integer(quota) / max(1, _integer(period))


def _integer(text: str) -> int:
    """Return a limit, or 0 for what is none, such as ``max`` and -1."""
    return int(text) if text.strip().isdecimal() else 0


def _texts(name: str, controller: str) -> list[str]:
    """Return the contents of a file of the groups that this process is in, its own first and then those around it.

    In a container the path may be one of the host, and its own group is mounted as the root.
    """
    found = []
    with suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text(errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                inside = PurePosixPath(path.lstrip("/"))
                for group in (inside, *inside.parents):
                    with suppress(OSError):
                        found.append((_GROUPS / controller / group / name).read_text())
    return found
