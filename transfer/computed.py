"""Outputs of an engine of the batches of images, as they come."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ..engine.engine import Engine
from ..images.batches import Images, ImageStream
from ..kernels.stopwatch import Stopwatch

Outputs = tuple[np.ndarray, dict[str, np.ndarray]]
"""Indices of images, and an engine's outputs of them by name."""


def computed(
    engine: Engine, images: Images | ImageStream, outputs: Sequence[str], watch: Stopwatch
) -> Generator[Outputs, None, None]:
    """Yield indices and outputs batch by batch, in order, of as many calls at once as the engine gains from."""
    batches = watch.waiting("decode", images.batches(engine.batch_size))
    run = _runner(engine, outputs)
    if (calls := engine.calls_at_once) == 1:
        for indices, pixels in batches:
            with watch("engine"):
                values = run(pixels)
            yield indices, values
        return
    running: deque[tuple[np.ndarray, Future[dict[str, np.ndarray]]]] = deque()

    def finished() -> Outputs:
        with watch("engine"):
            indices, future = running.popleft()
            return indices, future.result()

    with ThreadPoolExecutor(calls, thread_name_prefix="engine") as pool:
        for indices, pixels in batches:
            running.append((indices, pool.submit(run, pixels)))
            if len(running) == calls:
                yield finished()
        while running:
            yield finished()


def _runner(engine: Engine, outputs: Sequence[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return what computes outputs of a batch, which may be empty."""
    types = {name: engine.output_types[name] for name in engine.checked_outputs(outputs)}
    empty = {name: np.empty((0, *shape), dtype) for name, (shape, dtype) in types.items()}
    return lambda pixels: engine.run(pixels, outputs) if len(pixels) else empty
