"""The ridge's statistics as safetensors files: summed here and there, added up anywhere."""

from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..engine.file import write_atomically
from ..errors import AurevoirError, UsageError
from ..kernels.arrays import on_host
from ..kernels.statistics import Statistics

_NAMES = [each.name for each in fields(Statistics)]


def save_statistics(statistics: Statistics, path: Path | str) -> None:
    """Write statistics, atomically; integers stay exact."""
    arrays = {name: np.ascontiguousarray(on_host(getattr(statistics, name))) for name in _NAMES if name != "weight"}
    write_atomically(Path(path), save({"weight": np.array(statistics.weight), **arrays}))


def load_statistics(path: Path | str) -> Statistics:
    """Read statistics.

    Raises
    ------
    UsageError
        If there is no such file.
    AurevoirError
        If it is damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"statistics {path} do not exist")
    try:
        arrays = load(path.read_bytes())
    except SafetensorError as error:
        raise AurevoirError(f"{path} is damaged: {error}; sum its rows anew") from None
    if sorted(arrays) != sorted(_NAMES):
        raise AurevoirError(f"{path} holds {', '.join(sorted(arrays))}, not the statistics of a ridge")
    return Statistics(arrays.pop("weight").item(), **arrays)
