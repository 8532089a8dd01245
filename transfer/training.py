"""What a classifier has learnt from: bits, labels and weights of its training images, and the file that keeps them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..kernels.bits import packed_length
from ..kernels.memory import blocks
from ..schema import MalformedError
from .arrays_file import LARGEST_POOLED, ArraysFile, checked_arrays
from .rows import joined, picked


@dataclass(frozen=True)
class Training:
    """Bits, labels and weights of n training images.

    Attributes
    ----------
    bits : uint8 array of shape (n, ceil(m / 8))
    labels : int64 array of shape (n,) or (n, c)
        Indices of the classes, or a multilabel indicator matrix.
    weights : float64 array of shape (n,)
        Positive sample weights, before those of the classes.
    pooled : float32 array of shape (n, channels) or None
        Pooled features; None where the projection could not read them.
    paths : tuple of n str, or None
        The images' files; None of images and features in arrays.
    """

    bits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    pooled: np.ndarray | None = None
    paths: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: "Training") -> "Training":
        pooled, paths = None, None
        if self.pooled is not None and other.pooled is not None:
            pooled = joined(self.pooled, other.pooled)
        if self.paths is not None and other.paths is not None:
            paths = self.paths + other.paths
        labels, weights = (
            np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("labels", "weights")
        )
        return Training(joined(self.bits, other.bits), labels, weights, pooled, paths)

    def only(self, rows: np.ndarray) -> "Training":
        """Return some of the images, by index or as a mask."""
        rows = np.arange(len(self))[rows]
        return replace(
            self,
            bits=picked(self.bits, rows),
            labels=self.labels[rows],
            weights=self.weights[rows],
            pooled=None if self.pooled is None else picked(self.pooled, rows),
            paths=None if self.paths is None else tuple(self.paths[row] for row in rows),
        )


def find(training: Training, images: Iterable[int | str | Path]) -> tuple[list[np.ndarray], list[int | str | Path]]:
    """Return where images are among those trained on.

    Parameters
    ----------
    training : Training
    images : iterable of int or path
        By index, or by file: as it was given to `fit`, or another way to the same file.

    Returns
    -------
    rows : list of int64 arrays
        Of each image, one or more: a file may have been given under several labels.
    missing : list
        The images that are not there; their rows are empty.
    """
    known: dict[str, list[int]] = {}
    for row, path in enumerate(training.paths or ()):
        known.setdefault(path, []).append(row)
    real: dict[str, list[int]] = {}
    rows: list[np.ndarray] = []
    missing = []
    for image in images:
        if isinstance(image, int | np.integer):
            found = [int(image)] if 0 <= image < len(training) else []
        elif (found := known.get(str(image), [])) == []:
            if not real:
                for path, own in known.items():
                    real.setdefault(os.path.realpath(path), []).extend(own)
            found = real.get(os.path.realpath(image), [])
        rows.append(np.array(found, "int64"))
        missing += [] if found else [image]
    return rows, missing


def pack(training: Training, loo_scores: np.ndarray, with_bits: bool) -> ArraysFile:
    """Return the file; the bits are left out where the readout has them already."""
    arrays = {"labels": training.labels.astype("int64"), "weights": training.weights, "loo_scores": loo_scores}
    arrays |= {"bits": training.bits} if with_bits else {}
    arrays |= {} if training.pooled is None else {"pooled": training.pooled}
    if training.paths is not None:
        # No name of a file has a null character, and some are not UTF-8.
        names = b"\0".join(path.encode("utf-8", "surrogateescape") for path in training.paths)
        arrays["paths"] = np.frombuffer(names, "uint8")
    return ArraysFile(arrays)


def unpack(
    arrays: dict[str, np.ndarray], content: Mapping[str, Any], bits: np.ndarray | None
) -> tuple[Training, np.ndarray]:
    """Return what a file keeps, checked against the fields of model.json, and the leave-one-out scores.

    Parameters
    ----------
    arrays : dict of arrays
        Of the file, by name.
    content : mapping
        The fields of model.json.
    bits : uint8 array of shape (n, ceil(m / 8)), optional
        The readout's, which are those of the training images where the file leaves them out.

    Raises
    ------
    MalformedError
        If an array is missing, not known, not of its dtype or shape, or not valid.
    """
    bits = None if "bits" in arrays else bits
    n = arrays["weights"].size if "weights" in arrays else 0
    if bits is not None and len(bits) != n:
        raise MalformedError(f"is of another model ({n:,d} weights, and {len(bits):,d} images in the readout)")
    c = len(content["classes"])
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "labels": ("int64", (n, c) if content["multilabel"] else (n,)),
        "weights": ("float64", (n,)),
        "loo_scores": ("float32", (n, c)),
    }
    if bits is None:
        wanted["bits"] = ("uint8", (n, packed_length(content["features"])))
    if "pooled" in arrays:
        wanted["pooled"] = ("float32", (n, *arrays["pooled"].shape[-1:]))
    if "paths" in arrays:
        wanted["paths"] = ("uint8", (arrays["paths"].size,))
    checked_arrays(arrays, wanted)
    _check_values(arrays, content, c)
    paths = _paths(arrays["paths"], n) if "paths" in arrays else None
    known = arrays["bits"] if bits is None else bits
    training = Training(known, arrays["labels"], arrays["weights"], arrays.get("pooled"), paths)
    return training, arrays["loo_scores"]


def _check_values(arrays: Mapping[str, np.ndarray], content: Mapping[str, Any], c: int) -> None:
    labels, weights, m = arrays["labels"], arrays["weights"], content["features"]
    if len(weights) < 2:
        raise MalformedError("is damaged (fewer than two images)")
    if labels.min() < 0 or labels.max() > (1 if content["multilabel"] else c - 1):
        raise MalformedError("is damaged (a label is not one of the classes)")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise MalformedError("is damaged (a weight is not positive and finite)")
    for name in ("loo_scores", "pooled"):
        values = arrays.get(name, weights)
        if not all((np.abs(values[which]) <= LARGEST_POOLED).all() for which in blocks(len(values), 4096)):
            raise MalformedError(f"is damaged (a value of {name} is not finite)")
    if "bits" in arrays and m % 8 and (arrays["bits"][:, -1] & (0xFF >> m % 8)).any():
        raise MalformedError(f"is damaged (bits have ones behind their {m:,d})")


def _paths(joined: np.ndarray, n: int) -> tuple[str, ...]:
    paths: Sequence[bytes] = joined.tobytes().split(b"\0")
    if len(paths) != n:
        raise MalformedError(f"is damaged ({len(paths):,d} paths of {n:,d} images)")
    return tuple(path.decode("utf-8", "surrogateescape") for path in paths)
