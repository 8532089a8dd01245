"""The actor that runs on the machines of a cluster, and what it is given to do."""

import os
import socket
from typing import Any, NamedTuple, Protocol


class Job(Protocol):
    """What workers do; it is pickled.

    Attributes
    ----------
    name : str
        Of its tasks in Ray's state and dashboard, before the numbers of the images.
    """

    @property
    def name(self) -> str:
        """Return the name."""

    def open(self, content: bytes) -> "Shards":
        """Return what works on shards, with what is sent to each machine once."""


class Shards(Protocol):
    """What an opened job does."""

    def first(self) -> Any:
        """Return what tells whether this worker computes as it should; see `Driver.refusal`."""

    def run(self, shard: Any) -> Any:
        """Return the result of a shard."""


class Opened(NamedTuple):
    """What a worker says once it has its job.

    Attributes
    ----------
    machine : str
    fault : str or None
        Why it cannot do it.
    first : object
        See `Shards.first`.
    """

    machine: str
    fault: str | None
    first: Any


class Worker:
    """An actor of one process: opens its job once, and then works on one shard after another."""

    def __init__(self) -> None:
        self._shards: Shards | None = None

    def open(self, version: str, environment: dict[str, str | None], job: Job, content: bytes) -> Opened:
        """Open a job with variables as the driver has them, None for those that it lacks; what fails is said."""
        from .. import __version__

        machine = socket.gethostname()
        if version != __version__:
            return Opened(
                machine, f"it has aurevoir {__version__}, and the driver {version}: install one version", None
            )
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        try:
            self._shards = job.open(content)
            return Opened(machine, None, self._shards.first())
        except Exception as error:
            return Opened(machine, str(error) or type(error).__name__, None)

    def run(self, shard: Any) -> Any:
        """Return the result of a shard."""
        assert self._shards is not None
        return self._shards.run(shard)
