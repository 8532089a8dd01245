"""Predictions from many threads, and models that come and go: equal answers, flat memory."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import Cells, Plan, Tally, forked, timed
from .material import KINDS, Material, preload

THREADS, PREDICTIONS, CYCLES = 8, 100_000, 200
_POINTS = 200
_GROWTH = 32.0
"""Megabytes that memory may grow by over the last nine tenths: what allocators keep for themselves."""


def run(material: Material, plan: Plan) -> list[Tally]:
    """Return the tallies; see `measure`."""
    return measure(material, plan)[0]


def measure(material: Material, plan: Plan) -> tuple[list[Tally], Cells]:
    """Predict by threads, then load, predict and unload; return the tallies, and resident memory over both."""
    preload()
    models = [material.model(kind) for kind in KINDS]
    threads = Tally(f"predictions from {THREADS} threads")
    _note(threads, _ran(plan, lambda: _threads(models, plan.count(PREDICTIONS, 200), plan.seconds / 2)))
    cycles = Tally("cycles of load, predict, unload")
    _note(cycles, _ran(plan, lambda: _cycles(models, plan.count(CYCLES, 10), plan.seconds / 2)))
    found = {tally.what: tally.series for tally in (threads, cycles)}  # type: ignore[attr-defined]
    return timed([threads, cycles]), {"resident_megabytes": found}


def _ran(plan: Plan, action: Callable[[], Cells]) -> Any:
    path = plan.place("memory") / "found.json"

    def child() -> None:
        path.write_text(json.dumps(action()))

    done = forked(child, plan.seconds + 300)
    return done, json.loads(path.read_text()) if path.is_file() else None


def _note(tally: Tally, both: Any) -> None:
    done, found = both
    tally.saw(done, tally.what)
    tally.series = found["resident"] if found else []  # type: ignore[attr-defined]
    if not found:
        return
    tally.tried = found["tried"]
    if found["different"]:
        tally.add("lost", f"{found['different']} other answers than one thread's", found["different"])
    warm = [size for number, size in found["resident"] if number >= found["tried"] / 10]
    if warm and warm[-1] - warm[0] > _GROWTH:
        tally.add("lost", f"resident memory grew by {warm[-1] - warm[0]:.0f} MB")


def resident() -> float:
    """Return the resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _images() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (64, 28, 28, 3), "uint8")


def _threads(models: list[Path], count: int, seconds: float) -> Cells:
    import itertools
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from aurevoir.transfer.classifier import load

    images, ends = _images(), time.monotonic() + seconds
    batches = [(load(path), images[start : start + 1 + start % 3]) for path in models for start in range(0, 48, 8)]
    expected = [model.scores(batch) for model, batch in batches]
    series, different, numbers = [(0, resident())], [0], itertools.count()

    def work(_: int) -> int:
        own = 0
        for number in numbers:
            if number >= count or (number >= 200 and time.monotonic() > ends):
                return own
            which = number % len(batches)
            model, batch = batches[which]
            different[0] += not np.array_equal(model.scores(batch), expected[which])
            own += 1
            if number % max(1, count // _POINTS) == 0:
                series.append((number, resident()))
        return own

    with ThreadPoolExecutor(THREADS) as pool:
        tried = sum(pool.map(work, range(THREADS)))
    series.append((tried, resident()))
    return {"tried": tried, "different": different[0], "resident": sorted(series)}


def _cycles(models: list[Path], count: int, seconds: float) -> Cells:
    import gc

    import numpy as np

    from aurevoir.transfer.classifier import load

    images, ends = _images(), time.monotonic() + seconds
    expected = [load(path).scores(images) for path in models]
    series, different, tried = [(0, resident())], 0, 0
    for number in range(count):
        if number >= 10 and time.monotonic() > ends:
            break
        which = number % len(models)
        model = load(models[which])
        different += not np.array_equal(model.scores(images), expected[which])
        del model
        gc.collect()
        tried += 1
        series.append((tried, resident()))
    return {"tried": tried, "different": different, "resident": series}


def plot(series: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw resident memory over predictions and over cycles."""
    from aurevoir.benchmarks.reporting.figures import draw_memory, figure

    with figure(path, (10, 4), (1, len(series))) as (_, panels):
        for axes, (name, points) in zip(panels[0], series.items(), strict=True):
            if points:
                draw_memory(axes, points, name)
