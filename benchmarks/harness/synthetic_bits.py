"""Synthetic bits with labels, to measure ridge and projections on: generated, and scikit-learn's digits."""

from typing import BinaryIO

import numpy as np

from ...kernels.bits import pack_signs, packed_length
from ...kernels.memory import blocks
from .labelled_bits import LabelledBits
from .splits import Parts

DIGITS_FEATURES = 2048
# Dimensions in which the generated classes lie, and how far apart: neither chance nor all right.
_LATENT, _SEPARATION, _THRESHOLD = 64, 0.38, 0.5
_TEST_SHARE = 0.2


def generated_bits(n: int, m: int, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return bits with the structure of a network's: few directions carry most of the variance.

    Points about class centres in 64 dimensions pass a random layer of m units with a threshold, as a
    ReLU's signs would be. How separable classes are depends on the centres, hardly on m.

    Returns
    -------
    bits : uint8 array of shape (n, ceil(m / 8))
    labels : int64 array of shape (n,)
    """
    bits = np.empty((n, packed_length(m)), dtype="uint8")
    return bits, _generate(bits, m, classes, seed)


def generate_into(file: BinaryIO, n: int, m: int, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Write `generated_bits` into an empty file; return a map of it that is read alone, and the labels."""
    shape = (n, packed_length(m))
    labels = _generate(np.memmap(file, dtype="uint8", mode="w+", shape=shape), m, classes, seed)
    return np.memmap(file, dtype="uint8", mode="r", shape=shape), labels


def _generate(bits: np.ndarray, m: int, classes: int, seed: int) -> np.ndarray:
    n, random = len(bits), np.random.default_rng(seed)
    centres = _SEPARATION * random.standard_normal((classes, _LATENT), dtype="float32")
    layer = random.standard_normal((_LATENT, m), dtype="float32") / np.float32(np.sqrt(_LATENT))
    labels = random.integers(classes, size=n)
    latent = centres[labels] + random.standard_normal((n, _LATENT), dtype="float32")
    for which in blocks(n, 512):
        bits[which] = pack_signs(latent[which] @ layer - np.float32(_THRESHOLD))
    return labels


def digits(splits: int) -> LabelledBits:
    """Return scikit-learn's digits as the signs of a random layer: no network, no file.

    Each image less its own mean is multiplied by `DIGITS_FEATURES` vectors of random signs; a bit is 1 where the
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


def _parts(labels: np.ndarray, splits: int) -> Parts:
    from sklearn.model_selection import train_test_split

    parts = []
    for seed in range(splits):
        train, test = train_test_split(
            np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=seed
        )
        parts.append((train, test))
    return parts
