"""What rivals train on, and what they return."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..contract import Cells
from ..harness.datasets import chosen_images


@dataclass(frozen=True)
class Trained:
    """A trained classifier, the seconds of its stages, and what else its row says."""

    predict: Callable[[np.ndarray], np.ndarray]
    seconds: dict[str, float]
    remarks: Cells = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Training and test images of one seed."""

    seed: int
    pixels: np.ndarray
    labels: np.ndarray
    test_pixels: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    def calibration_images(self, count: int) -> np.ndarray:
        """Return up to `count` of the training images, chosen by the seed."""
        return chosen_images(self.pixels, count, self.seed)


Rival = Callable[[Split], Trained]
