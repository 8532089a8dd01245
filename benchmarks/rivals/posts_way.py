"""The post's way to a classifier, in NumPy and scikit-learn: dense optics, and alpha by the test set.

As in the post, the alpha of 15 is taken at which the TEST accuracy is best, and each is a
RidgeClassifier of its own. The OPU is simulated: R is drawn by NumPy's generator, block by block,
on all cores.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels.bits import unpack
from ...kernels.camera import Camera
from ...kernels.memory import block_length, blocks, memory_budget
from ...kernels.stopwatch import Stopwatch
from ...progress import progress_bar

COMPONENTS = 25_088
ALPHAS = np.concatenate([np.linspace(1, 9, 5) * 10**power for power in (6, 7, 8)])
"""The post's, for its number of components; a Gram grows in proportion to them."""

_EXPOSURE_ROWS = 64


@dataclass(frozen=True)
class PostsWay:
    """What it found, and the seconds of each stage; ``solve`` holds the Grams of scikit-learn."""

    components: int
    alphas: list[float]
    accuracies: list[float]
    train: dict[str, float]
    test: dict[str, float]

    @property
    def best(self) -> int:
        """Where the test accuracy is highest; among equals the smallest alpha."""
        return int(np.argmax(self.accuracies))

    def found(self) -> dict[str, Any]:
        """Return what a row says of it."""
        return {
            "accuracy": self.accuracies[self.best],
            "loo_accuracy": None,
            "alpha": self.alphas[self.best],
            "alpha_by": "test accuracy",
            "projection": "dense, NumPy",
            "components": self.components,
            "alphas": self.alphas,
            "accuracies": self.accuracies,
        }


def train_posts_way(
    bits: np.ndarray, test_bits: np.ndarray, m: int, labels: np.ndarray, test_labels: np.ndarray, k: int, seed: int = 0
) -> PostsWay:
    """Project, fit a RidgeClassifier for each alpha, and keep the one that tests best.

    Parameters
    ----------
    bits, test_bits : uint8 arrays of shape (n, ceil(m / 8))
    m : int
    labels, test_labels : integer arrays of shape (n,)
    k : int
        Number of components.
    seed : int
    """
    from sklearn.linear_model import RidgeClassifier

    watch = {"draw": Stopwatch(), "train": Stopwatch(), "test": Stopwatch()}
    speckle, test_speckle = _project(bits, test_bits, m, k, seed, watch)
    with watch["train"]("solve"):
        rows = speckle.astype("float32")
    with watch["test"]("solve"):
        test_rows = test_speckle.astype("float32")
    alphas = (ALPHAS * k / COMPONENTS).tolist()
    accuracies = []
    for alpha in progress_bar(alphas, desc="RidgeClassifier", unit="alpha"):
        with watch["train"]("solve"):
            model = RidgeClassifier(alpha=alpha).fit(rows, labels)
        with watch["test"]("solve"):
            predicted = model.predict(test_rows)
        accuracies.append(float((predicted == test_labels).mean()))
    seconds = {name: each.seconds for name, each in watch.items()}
    train = {stage: seconds["train"][stage] for stage in ("project", "solve")}
    test = {stage: seconds["test"][stage] for stage in ("project", "solve")}
    return PostsWay(k, alphas, accuracies, {"draw": seconds["draw"]["project"], **train}, test)


def _project(
    bits: np.ndarray, test_bits: np.ndarray, m: int, k: int, seed: int, watch: dict[str, Stopwatch]
) -> tuple[np.ndarray, np.ndarray]:
    """Return 8-bit speckle of both sets; R and the unpacked bits exist a block at a time."""
    generators, camera = np.random.default_rng(seed).spawn(os.cpu_count() or 1), None
    parts = {
        "train": (bits, np.empty((len(bits), k), "uint8")),
        "test": (test_bits, np.empty((len(test_bits), k), "uint8")),
    }
    columns = block_length(2 * 4 * m, memory_budget() // 8, k)
    with progress_bar(total=k, desc="NumPy projection", unit="component") as bar:
        for which in blocks(k, columns):
            width = which.stop - which.start
            with watch["draw"]("project"):
                # Both parts of R are in one matrix: one product serves them.
                drawn = _draw((m, 2 * width), generators)
            for name, (packed, speckle) in parts.items():
                with watch[name]("project"):
                    for rows in blocks(len(packed), block_length(4 * m, memory_budget() // 8, len(packed))):
                        y = np.square(unpack(packed[rows], m, "float32") @ drawn)
                        y = y[:, :width] + y[:, width:]
                        camera = camera or Camera.exposed(y[:_EXPOSURE_ROWS])
                        speckle[rows, which] = camera.expose(y)
            bar.update(width)
    return parts["train"][1], parts["test"][1]


def _draw(shape: tuple[int, int], generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Return standard normal float32; each generator draws a part of the rows, in a thread of its own."""
    drawn = np.empty(shape, "float32")

    def fill(part: np.ndarray, random: np.random.Generator) -> None:
        random.standard_normal(out=part, dtype="float32")

    with ThreadPoolExecutor(len(generators)) as pool:
        list(pool.map(fill, np.array_split(drawn, len(generators)), generators))
    return drawn
