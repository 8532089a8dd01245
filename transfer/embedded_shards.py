"""Outputs of an engine of many images in a folder of numbered archives, which is continued after an interruption.

shard-NUMBER.npz  some rows, of consecutive images; see `archive`
index.json        what they are rows of, and for each its images, rows and SHA-256; written after each of them
"""

import fcntl
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.spec import Cluster
from ..engine.engine import Engine
from ..errors import AurevoirError, UsageError
from ..files import read_file, refuse_hole
from ..images.batches import ImageFiles
from ..saving import PREFIX, explained, write_atomically
from ..schema import LONGEST, array, one_of, parse_object, record, refusing, require_version, text, whole
from .embed import embed_blocks
from .kept_bits import can_be_read, signatures
from .rows import row_bytes

SCHEMA = "aurevoir-embedding/1"
INDEX = "index.json"
SHARD_BYTES = 1 << 27
"""Bytes of the rows of a shard, if their number is not given."""
_SHARD = re.compile(r"shard-\d{6}\.npz")
_BLOCK = 1 << 24
"""Bytes that are written at a time."""
_MOST = 2**63 - 1
_CHANGED = -2
"""In place of the size and times of a file that changed while its rows were computed: none has them."""
_DIGEST = text(pattern="[0-9a-f]{64}", wanted="64 hexadecimal digits")
_FIELDS = record(
    {
        "engine": _DIGEST,
        "runtime": text(),
        "device": text(),
        "batch_size": whole(1),
        "output": one_of(("bits", "features", "pooled")),
        "m": whole(1, _MOST),
        "rows": whole(1, _MOST),
        "images": whole(0, _MOST),
        "shards": array(
            record(
                {
                    "file": text(pattern=_SHARD.pattern, wanted="the name of a shard"),
                    "start": whole(0, _MOST),
                    "stop": whole(1, _MOST),
                    "rows": whole(0, _MOST),
                    "sha256": _DIGEST,
                    "images": _DIGEST,
                }
            )
        ),
    }
)


class EmbeddedShards:
    """A folder of the outputs of image files; a context manager, which locks it.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    engine : Engine
    images : ImageFiles
        ``images.skipped`` has those that cannot be read, those of earlier runs too.
    output : {"bits", "features", "pooled"}
    rows : int, optional
        Of each shard but the last, raised to whole batches of the engine; by default what takes `SHARD_BYTES`.

    Attributes
    ----------
    done : int
        The rows that are in the folder.
    taken_over : int
        Those of them that were there before.
    shards : int

    Raises
    ------
    UsageError
        If the folder holds something else, rows of another engine, output or number a shard, or another process writes
        it.
    SaveError
        If it cannot be written.
    """

    def __init__(
        self, folder: Path | str, engine: Engine, images: ImageFiles, output: str, rows: int | None = None
    ) -> None:
        self._folder, self._engine, self._images, self._output = Path(folder), engine, images, output
        batch = engine.batch_size
        given = rows or max(1, SHARD_BYTES // row_bytes({output: engine.output_types[output]}))
        self._rows = -(-given // batch) * batch if rows else max(1, given // batch) * batch
        self._head = {
            "engine": hashlib.sha256(engine.to_bytes()).hexdigest(),
            "runtime": engine.runtime,
            "device": engine.device,
            "batch_size": batch,
            "output": output,
            "m": engine.features,
            "rows": self._rows,
        }
        self._entries: list[dict[str, Any]] = []
        self._signatures = np.empty((0, 4), "int64")
        self._lock = -1
        self.done = self.taken_over = 0

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(self._entries)

    def __enter__(self) -> "EmbeddedShards":
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.__exit__()
            raise UsageError(f"{self._folder} is being written by another process; give another folder") from None
        except OSError:
            # Where nothing can be locked, one process at a time is up to the user.
            pass
        try:
            self._signatures = signatures(self._images, 0, len(self._images))
            with explained(self._folder):
                self._entries = self._taken_over(self._found())
        except BaseException:
            self.__exit__()
            raise
        self.done = self.taken_over = sum(each["rows"] for each in self._entries)
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self._lock)

    def _found(self) -> list[dict[str, Any]]:
        """Return the shards of the index that is there; refuse what this run would not continue."""
        index = self._folder / INDEX
        if not index.exists():
            names = sorted(each.name for each in self._folder.iterdir())
            if strange := [each for each in names if not (_SHARD.fullmatch(each) or each.startswith(PREFIX))]:
                raise UsageError(
                    f"{self._folder} holds {strange[0]} and no {INDEX} of aurevoir embed; give an empty folder or a "
                    "new one"
                )
            return []
        remedy = "give another folder, or remove it"
        with refusing(str(index), remedy):
            found = parse_object(read_file(index, LONGEST, "the index", remedy))
            require_version(found.pop("schema", None), (SCHEMA,))
            _FIELDS(found, "")
        for name, value in self._head.items():
            if found[name] != value:
                raise UsageError(
                    f"{index} is of {name} {str(found[name])[:80]}, and this run of {str(value)[:80]}; give the engine "
                    "and options of before, or another folder"
                )
        entries: list[dict[str, Any]] = found["shards"]
        return entries

    def _taken_over(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the first shards that are whole and of these images as they are now."""
        at, last = 0, len(self._images)
        for number, entry in enumerate(entries):
            # The last one of fewer images would be fuller with those that have come after it.
            whole = entry["rows"] == self._rows or entry["stop"] == last
            follows = entry["start"] == at < entry["stop"] <= last and entry["file"] == _name(number)
            if not (follows and whole and self._described(at, entry["stop"]) == entry["images"]):
                return entries[:number]
            path = self._folder / entry["file"]
            try:
                with path.open("rb") as file:
                    refuse_hole(file.fileno(), path)
                    if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                        return entries[:number]
                with np.load(path, allow_pickle=False) as arrays:
                    skipped = {*arrays["skipped"].tolist()}
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, AurevoirError):
                return entries[:number]
            paths = self._images.paths
            if can_be_read(self._images, (i for i in range(at, entry["stop"]) if str(paths[i]) in skipped)):
                return entries[:number]
            at = entry["stop"]
        return entries

    def _described(self, start: int, stop: int) -> str:
        """Return the digest of the paths, sizes and times of some images, as they were at first."""
        found = hashlib.sha256()
        signed = self._signatures[start:stop].tolist()
        for path, (size, time, *_) in zip(self._images.paths[start:stop], signed, strict=True):
            found.update(os.fsencode(str(path)) + f"\0{size} {time}\0".encode())
        return found.hexdigest()

    def write(self, cluster: Cluster | None = None) -> Iterator[int]:
        """Embed the images whose rows are not there, and yield the rows of each shard when it is written.

        Raises
        ------
        SaveError
            If one cannot be written; those before it stay.
        """
        first = self._entries[-1]["stop"] if self._entries else 0
        # Both have one dictionary of what cannot be read.
        rest = replace(self._images, paths=self._images.paths[first:])
        start, last = first, len(self._images)
        if len(rest):
            with closing(embed_blocks(self._engine, rest, [self._output], self._rows, cluster)) as blocks:
                for indices, values in blocks:
                    stop = last if len(indices) < self._rows else first + int(indices[-1]) + 1
                    yield self._add(start, stop, first + indices, values[self._output])
                    start = stop
        if start < last:
            shape, dtype = self._engine.output_types[self._output]
            yield self._add(start, last, np.empty(0, "int64"), np.empty((0, *shape), dtype))
        self._write_index()
        listed = {each["file"] for each in self._entries}
        with explained(self._folder):
            for path in self._folder.iterdir():
                if _SHARD.fullmatch(path.name) and path.name not in listed:
                    path.unlink()

    def _add(self, start: int, stop: int, indices: np.ndarray, values: np.ndarray) -> int:
        paths, readable = self._images.paths, set(indices.tolist())
        missing = [str(paths[index]) for index in range(start, stop) if index not in readable]
        arrays = {
            "paths": _texts(str(paths[index]) for index in indices),
            "m": np.array(self._engine.features),
            self._output: values,
            "skipped": _texts(missing),
            "reasons": _texts(self._images.skipped[each] for each in missing),
        }
        name, digest = _name(len(self._entries)), hashlib.sha256()

        def parts() -> Iterator[bytes]:
            for part in archive(arrays):
                digest.update(part)
                yield part

        # The rows of a file that was changed meanwhile may be those of either content.
        changed = (signatures(self._images, start, stop) != self._signatures[start:stop]).any(axis=1)
        self._signatures[start:stop][changed] = _CHANGED
        write_atomically(self._folder / name, parts())
        self._entries.append(
            {
                "file": name,
                "start": start,
                "stop": stop,
                "rows": len(indices),
                "sha256": digest.hexdigest(),
                "images": self._described(start, stop),
            }
        )
        self.done += len(indices)
        self._write_index()
        return len(indices)

    def _write_index(self) -> None:
        content = {"schema": SCHEMA, **self._head, "images": len(self._images), "shards": self._entries}
        write_atomically(self._folder / INDEX, f"{json.dumps(content, indent=1)}\n".encode())


def _name(number: int) -> str:
    if number >= 10**6:
        raise AurevoirError("there are more than a million shards; give more rows a shard")
    return f"shard-{number:06d}.npz"


def _texts(items: Any) -> np.ndarray:
    return np.array([*items], dtype=np.str_)


class _Pending(io.RawIOBase):
    """What was written and not taken yet."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        return len(self._held[-1])

    def take(self) -> bytes:
        taken, self._held = b"".join(self._held), []
        return taken


def archive(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """Yield an archive as `numpy.savez` writes it, of arrays that may be larger than memory."""
    pending = _Pending()
    with zipfile.ZipFile(pending, "w") as written:
        for name, values in arrays.items():
            with written.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                header = np.lib.format.header_data_from_array_1_0(values)
                np.lib.format.write_array_header_1_0(member, header)
                rows = np.atleast_1d(values)
                length = max(1, _BLOCK // max(1, rows[:1].nbytes))
                for start in range(0, len(rows), length):
                    member.write(rows[start : start + length].tobytes())
                    yield pending.take()
    yield pending.take()
