"""Bits and pooled features of images kept in a work folder block by block, each with the digests of its images."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.engine import Engine
from ..images.archives import content_digests, signature
from ..images.batches import ImageFiles, Images
from ..images.decode import UnreadableImageError, decode
from ..images.remote import is_remote, map_at_once
from ..kept import key_of
from ..schema import MalformedError, array, parse_object, record, text, whole
from ..work import Work
from .arrays_file import checked_arrays

BLOCK = 512
"""The least number of readable images of a block, but the last. It ends where a batch does: the same images are in a
batch whether or not a fit was interrupted, and so have the same bits."""

_DESCRIBED = record({"start": whole(), "stop": whole(), "digests": array(text()), "skipped": array(whole())})

_Outputs = tuple[np.ndarray, dict[str, np.ndarray]]
"""Indices of images, and an engine's outputs of them by name."""


class KeptBits:
    """The bits of images by an engine, or other outputs too, in a work folder.

    A block is taken over if the contents of its images, by SHA-256, are what they were, and the blocks before it are
    taken over.

    Parameters
    ----------
    work : Work
    kind : str
        What the images are, such as ``train``.
    engine : Engine
    images : ImageFiles or ImageArray
    outputs : sequence of str
        Of the engine.
    """

    def __init__(
        self, work: Work, kind: str, engine: Engine, images: Images, outputs: Sequence[str] = ("bits",)
    ) -> None:
        self._work, self._kind, self._images = work, kind, images
        self._types = {name: engine.output_types[name] for name in outputs}
        self._batch = engine.batch_size
        built = hashlib.sha256(engine.to_bytes()).hexdigest()
        self._key = key_of(built, engine.runtime, engine.device, engine.batch_size, *outputs)
        self._signatures = signatures(images, 0, len(images))
        self.folder = work.folder
        self._number, self._start = 0, 0
        self._pending: list[_Outputs] = []

    def taken_over(self) -> Iterator[_Outputs]:
        """Yield the indices and outputs of the blocks that can be taken over; `rest` has the images after them."""
        while (block := self._next_block()) is not None:
            self._number, self._start = self._number + 1, block[2]
            yield block[:2]
        if self._start:
            self._work.say(f"the bits of {self._start:,d} of {len(self._images):,d} images")

    def _joined(
        self, parts: Sequence[tuple[np.ndarray, dict[str, np.ndarray]]]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        indices = np.concatenate([np.empty(0, "int64"), *(each for each, _ in parts)])
        return indices, {
            name: np.concatenate([np.empty((0, *shape), dtype), *(values[name] for _, values in parts)])
            for name, (shape, dtype) in self._types.items()
        }

    def rest(self) -> tuple[int, Images]:
        """Return the index of the first image that is not taken over, and the images from there on."""
        images, start = self._images, self._start
        if isinstance(images, ImageFiles):
            # Both have one dictionary of what cannot be read.
            return start, replace(images, paths=images.paths[start:])
        return start, replace(images, pixels=images.pixels[start:])

    def add(self, indices: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Take the outputs of a batch, of which copies are held until they are kept."""
        self._pending.append((indices, {name: values[name].copy() for name in self._types}))
        if len(indices) == self._batch and sum(len(each) for each, _ in self._pending) >= BLOCK:
            self._write(int(indices[-1]) + 1)

    def finish(self) -> None:
        """Keep what is left after the last batch."""
        if self._start < len(self._images):
            self._write(len(self._images))

    def _write(self, stop: int) -> None:
        start, number = self._start, self._number
        indices, values = self._joined(self._pending)
        self._pending, self._start, self._number = [], stop, number + 1
        digests = _digests(self._images, start, stop)
        # The bits of a file that was changed meanwhile may be those of another content than its digest.
        if (signatures(self._images, start, stop) != self._signatures[start:stop]).any():
            return
        missing = sorted({*range(start, stop)} - set(indices.tolist()))
        described = {"start": start, "stop": stop, "digests": digests, "skipped": missing}
        buffer = io.BytesIO()
        head = np.frombuffer(json.dumps(described).encode(), "uint8")
        arrays: dict[str, Any] = {"described": head, "indices": indices, **values}
        np.savez(buffer, **arrays)
        self._work.put(self._kind, self._key, buffer.getvalue(), number)

    def _next_block(self) -> tuple[np.ndarray, dict[str, np.ndarray], int] | None:
        """Return indices, outputs and end of the next block, if it is of these images."""
        content = self._work.get(self._kind, self._key, self._number)
        if content is None or self._start == len(self._images):
            return None
        try:
            described, indices, values = _unpacked(content, self._types)
        except Exception:  # NumPy's and zipfile's, of each broken archive another
            return None
        start, stop, skipped, last = self._start, described["stop"], described["skipped"], len(self._images)
        # The last batch of fewer images would be fuller with the images that have come after it.
        whole = stop == last or (stop < last and len(indices) % self._batch == 0)
        if described["start"] != start or not whole:
            return None
        known = np.array_equal(indices, np.setdiff1d(np.arange(start, stop), skipped))
        if not known or _digests(self._images, start, stop) != described["digests"]:
            return None
        if skipped and (not isinstance(self._images, ImageFiles) or can_be_read(self._images, skipped)):
            return None
        return indices, values, stop


def _unpacked(content: bytes, types: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """Return what describes a block, its indices and its values; what is none raises an error of any type."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if any(each.compress_type or each.file_size > len(content) for each in arrays.zip.infolist()):
            raise MalformedError("is compressed")
        described = parse_object(arrays["described"].tobytes())
        _DESCRIBED(described, "")
        indices, values = arrays["indices"], {name: arrays[name] for name in types}
    checked_arrays(
        {"indices": indices, **values},
        {"indices": ("int64", indices.shape[:1])}
        | {name: (str(np.dtype(dtype)), (len(indices), *shape)) for name, (shape, dtype) in types.items()},
    )
    return described, indices, values


def can_be_read(images: ImageFiles, skipped: Iterable[int]) -> bool:
    """Return whether a file that was skipped can be read now; if none can, record why."""
    reasons = {}
    for index in skipped:
        path = images.paths[index]
        try:
            decode(path, images.size, images.resize, images.channels)
        except UnreadableImageError as error:
            reasons[str(path)] = str(error)
        else:
            return True
    images.skipped.update(reasons)
    return False


def signatures(images: Images, start: int, stop: int) -> np.ndarray:
    """Return size, times and inode of files, of which one changes with every write; of pixels nothing."""
    if not isinstance(images, ImageFiles):
        return np.zeros((stop - start, 0), "int64")
    paths = images.paths[start:stop]
    return np.array(map_at_once(_signature, paths, any(map(is_remote, paths))), "int64").reshape(-1, 4)


def _signature(path: Path | str) -> tuple[int, int, int, int]:
    try:
        return signature(path)
    except (OSError, ValueError):
        return (-1, -1, -1, -1)


def _digests(images: Images, start: int, stop: int) -> list[str]:
    """Return the SHA-256 of each file's content, or one of all pixels."""
    if not isinstance(images, ImageFiles):
        pixels = images.pixels[start:stop]
        return [hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()]
    return content_digests(images.paths[start:stop], images.workers)
