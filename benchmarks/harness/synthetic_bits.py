"""Labelled bits to measure ridge and projections on: generated, scikit-learn's digits, and photographs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...engine.assemble import assemble
from ...engine.backbones import open_backbone
from ...engine.build import export_backbone
from ...images.batches import ImageFiles
from ...images.sources import class_folders
from ...kernels.bits import pack_signs, packed_length
from ...kernels.memory import blocks
from ...transfer.embed import embed_bits
from .splits import readable_splits

DIGITS_FEATURES = 2048
# Dimensions in which the generated classes lie, and how far apart: neither chance nor all right.
_LATENT, _SEPARATION, _THRESHOLD = 64, 0.38, 0.5
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class LabelledBits:
    """Bits of one data set, once, and its splits.

    Attributes
    ----------
    name : str
    m : int
        Number of features.
    bits : uint8 array of shape (n, ceil(m / 8))
    labels : int array of shape (n,)
        From 0 on.
    parts : list of (train, test)
        Places among the n rows.
    """

    name: str
    m: int
    bits: np.ndarray
    labels: np.ndarray
    parts: list[tuple[np.ndarray, np.ndarray]]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


def generated_bits(n: int, m: int, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return bits with the structure of a network's: few directions carry most of the variance.

    Points about class centres in 64 dimensions pass a random layer of m units with a threshold, as a
    ReLU's signs would be. How well classes are told apart depends on the centres, hardly on m.

    Returns
    -------
    bits : uint8 array of shape (n, ceil(m / 8))
    labels : int64 array of shape (n,)
    """
    random = np.random.default_rng(seed)
    centres = _SEPARATION * random.standard_normal((classes, _LATENT), dtype="float32")
    layer = random.standard_normal((_LATENT, m), dtype="float32") / np.float32(np.sqrt(_LATENT))
    labels = random.integers(classes, size=n)
    latent = centres[labels] + random.standard_normal((n, _LATENT), dtype="float32")
    bits = np.empty((n, packed_length(m)), dtype="uint8")
    for which in blocks(n, 512):
        bits[which] = pack_signs(latent[which] @ layer - np.float32(_THRESHOLD))
    return bits, labels


def digits(splits: int) -> LabelledBits:
    """Return scikit-learn's digits as the signs of a random layer: no network, no file.

    Each image less its own mean meets `DIGITS_FEATURES` vectors of random signs; a bit is 1 where the
    product is positive. Images are split 80:20, each class alike, by seeds from 0.
    """
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    layer = np.random.default_rng(0).choice([-1.0, 1.0], size=(X.shape[1], DIGITS_FEATURES))
    bits = pack_signs((X - X.mean(axis=1, keepdims=True)) @ layer)
    return LabelledBits("digits", DIGITS_FEATURES, bits, y, _parts(y, splits))


def generated(rows: int, m: int, splits: int) -> LabelledBits:
    """Return generated bits whose splits leave so many rows to train on."""
    bits, labels = generated_bits(round(rows / (1 - _TEST_SHARE)), m)
    return LabelledBits("generated", m, bits, labels, _parts(labels, splits))


def _parts(labels: np.ndarray, splits: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import train_test_split

    parts = []
    for seed in range(splits):
        train, test = train_test_split(
            np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=seed
        )
        parts.append((train, test))
    return parts


def photographs(folders: list[str], backbone: str, splits: int) -> list[LabelledBits]:
    """Return the bits of folders of class folders, each image once through one fp32 engine."""
    exported = export_backbone(open_backbone(backbone))
    engine = assemble(exported, "fp32")
    found = []
    for folder in folders:
        labelled = class_folders(folder)
        files = ImageFiles(labelled.paths, (engine.input_shape[0], engine.input_shape[1]), description=folder)
        kept, bits = embed_bits(engine, files)
        found.append(LabelledBits(Path(folder).name, exported.features, bits, *readable_splits(labelled, kept, splits)))
    return found
