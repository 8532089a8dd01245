"""What a user says of a cluster."""

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ..errors import UsageError

LOCAL, AUTO = "local", "auto"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that embeds images and computes passes over their rows, and how many workers it gets.

    Parameters
    ----------
    address : str
        ``auto`` is the cluster of ``RAY_ADDRESS``, or the one that ``ray start`` has made this machine a part of;
        ``local`` one of this machine alone, which lasts as long as it is needed; or HOST:PORT. A process that is
        connected to a cluster uses that one.
    workers : int, optional
        Processes that embed images; by default as many as the machines of the cluster hold. Passes over rows have
        one a machine, of all its processors, and no more than these.
    cpus_per_worker : int, optional
        Processors of each; by default up to 4, or of an engine on a GPU a GPU's part of its machine's, or as few as
        so many workers need.
    gpus_per_worker : float, optional
        GPUs of each, or its part of one; by default 1 for an engine that runs on a GPU. For others it has no effect.
    any_processor : bool
        Whether to take workers whose first images have other bits or channel means than here, or which have other
        versions of the runtime or Pillow, or which sum rows otherwise: then the model depends on which worker
        computed what.

    Raises
    ------
    UsageError
        If one of them is invalid.
    """

    address: str = AUTO
    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    any_processor: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not (self.address in (LOCAL, AUTO) or _ADDRESS.fullmatch(self.address)):
            raise UsageError(f"cluster {self.address!r} is not auto, local or HOST:PORT; give one of these")
        for name in ("workers", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} {value!r} is not a number of them; give 1 or more, or None")
        gpus = self.gpus_per_worker
        if gpus is not None and not _is_share(gpus):
            raise UsageError(
                f"gpus_per_worker {gpus!r} is neither a part of a GPU, from 0.0001 to 1, nor a whole number of them"
                "; give one of these, or None"
            )


def _is_share(gpus: Any) -> bool:
    """Return whether Ray gives an actor such a part of GPUs, or so many."""
    if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not isfinite(gpus):
        return False
    return 1e-4 <= gpus <= 1 or (gpus > 1 and gpus == int(gpus))


def as_cluster(given: Any) -> Cluster | None:
    """Return the cluster of an address, or the one that is given."""
    return given if given is None or isinstance(given, Cluster) else Cluster(given)
