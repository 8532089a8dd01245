"""How seconds grow with size: their exponents."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ..contract import Json

Key = TypeVar("Key", bound=Hashable)


@dataclass
class Series:
    """Seconds over sizes, of ours or of a peer."""

    group: str
    sizes: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def exponent(self) -> float | None:
        """The slope of log seconds over log size; None for fewer than two sizes."""
        return exponent(self.sizes, self.seconds)


def series(rows: Iterable[Json], key: Callable[[Json], Key], size: str, seconds: str) -> dict[Key, Series]:
    """Gather the rows that did not fail, by a key.

    Parameters
    ----------
    rows : iterable of mapping
        Have a ``group``.
    key : callable
    size, seconds : str
        Columns.
    """
    found: dict[Key, Series] = {}
    for row in rows:
        if "error" not in row:
            own = found.setdefault(key(row), Series(row["group"]))
            own.sizes.append(row[size])
            own.seconds.append(row[seconds])
    return found


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the slope of log seconds over log size by least squares; None for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
