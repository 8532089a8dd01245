"""Sign bits with labels and splits, and the accuracy of readouts on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...engine.engine import Engine
from ...images.batches import ImageFiles
from ...images.sources import class_folders
from ...kernels.fitting import fit_readout
from ...kernels.memory import Budget
from ...kernels.readout import Projector
from ...transfer.embed import embed_bits
from ..contract import Cells
from .datasets import folder_name
from .engines import Engines, open_network
from .splits import Parts, over_splits, readable_splits

Choose = Callable[[np.ndarray, int], str | Projector]
"""From training bits and the number of the split to what `fit_readout` takes for a projection."""


@dataclass(frozen=True)
class LabelledBits:
    """Bits of one data set, and its splits.

    Attributes
    ----------
    name : str
    m : int
        Number of features.
    bits : uint8 array of shape (n, ceil(m / 8))
    labels : int array of shape (n,)
        From 0 on.
    parts : list of (train, test)
        Indices among the n rows.
    """

    name: str
    m: int
    bits: np.ndarray
    labels: np.ndarray
    parts: Parts

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


def embed_folder(engine: Engine, folder: str, splits: int) -> LabelledBits:
    """Return the bits of a folder of class folders, each image once through the engine."""
    labelled = class_folders(folder)
    size = (engine.input_shape[0], engine.input_shape[1])
    kept, bits = embed_bits(engine, ImageFiles(labelled.paths, size, description=f"{folder} {engine.precision}"))
    return LabelledBits(folder_name(folder), engine.features, bits, *readable_splits(labelled, kept, splits))


def photographs(folders: Sequence[str], backbone: str, splits: int) -> list[LabelledBits]:
    """Return the bits of folders of class folders by one fp32 engine of the backbone's default weights."""
    engine = Engines.export(open_network(backbone, "default")).build("fp32")
    return [embed_folder(engine, folder, splits) for folder in folders]


def fit_splits(
    data: LabelledBits, projection: str | Choose, k: int | None = None, budget: Budget = None, reseed: bool = False
) -> Cells:
    """Fit a readout on each split, and return the cells of its accuracies on test rows and by leave-one-out.

    Parameters
    ----------
    data : LabelledBits
    projection : str or callable
    k : int, optional
    budget : int, str or None
    reseed : bool
        Whether the projection of split s is drawn by seed s, in place of 0.
    """
    accuracies, loo = [], []
    for number, (train, test) in enumerate(data.parts):
        bits, labels = data.bits[train], data.labels[train]
        chosen = projection if isinstance(projection, str) else projection(bits, number)
        seed = number if reseed else 0
        readout, path = fit_readout(bits, data.m, labels, data.classes, chosen, k, seed=seed, budget=budget)
        predicted = readout.scores(data.bits[test], budget).argmax(axis=1)
        accuracies.append(float((predicted == data.labels[test]).mean()))
        loo.append(path.loo_accuracy)
    return {**over_splits(accuracies), "loo_accuracy": float(np.mean(loo))}
