"""Read the weights that an ONNX file keeps in files beside it, and no other file."""

import errno
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from onnx import ModelProto, TensorProto, helper

from ..errors import AurevoirError
from ..files import LARGEST_HASHED
from ..kernels.memory import format_bytes
from .graph_check import LARGEST, tensors


def load_external_data(model: ModelProto, path: Path) -> None:
    """Put the weights that lie in files beside an ONNX file into its model, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        Read from `path`, without its external data.
    path : path
        The ONNX file.

    Raises
    ------
    AurevoirError
        If a name leads out of the file's folder, through a link or to what is no regular file; if a tensor's bytes are
        not in the file, or not as many as its shape says; or if there are more than a graph may hold.
    """
    outside = _outside(model)
    total = sum(_length(tensor, path) for tensor in outside)
    if total > LARGEST:
        raise AurevoirError(
            f"{path} keeps {format_bytes(total)} in files beside it, and a graph in memory {format_bytes(LARGEST)} at "
            "most; export only what leads to the cut"
        )
    for tensor in outside:
        tensor.raw_data = _read(tensor, path)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def external_digests(model: ModelProto, path: Path) -> list[str]:
    """Return the name and SHA-256 of each file beside an ONNX file that holds weights; see `content_digest`.

    Raises
    ------
    AurevoirError
        As `load_external_data` does.
    """
    found = {}
    for tensor in _outside(model):
        location = _entries(tensor).get("location", "")
        if location not in found:
            with os.fdopen(_opened(location, path, tensor), "rb") as file:
                found[location] = _digest(file)
    return [f"{digest} {location}" for location, digest in sorted(found.items())]


def _outside(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in tensors(model) if tensor.data_location == TensorProto.EXTERNAL]


def _digest(file: BinaryIO) -> str:
    status = os.fstat(file.fileno())
    if status.st_size > LARGEST_HASHED:
        signed = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return hashlib.sha256(repr(signed).encode()).hexdigest()
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _length(tensor: TensorProto, path: Path) -> int:
    """Return the bytes that a tensor's shape asks for."""
    try:
        itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        raise _refused(path, tensor, "it is of no type that numbers have") from None
    if tensor.data_type == TensorProto.STRING:
        raise _refused(path, tensor, "it holds strings")
    length = int(itemsize)
    for size in tensor.dims:
        length *= max(0, size)
    packed = 2 if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1) else 1
    return -(-length // packed)


def _read(tensor: TensorProto, path: Path) -> bytes:
    entries = _entries(tensor)
    try:
        offset, said = int(entries.get("offset", 0)), int(entries.get("length", -1))
    except ValueError:
        raise _refused(path, tensor, "its offset or length is no number") from None
    wanted = _length(tensor, path)
    if said not in (-1, wanted) or offset < 0:
        raise _refused(path, tensor, f"it has {said} bytes from {offset} on, and its shape asks for {wanted}")
    descriptor = _opened(entries.get("location", ""), path, tensor)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if offset + wanted > size:
            fewer = f"{entries['location']!r} has {size} bytes, fewer than the {offset + wanted} needed"
            raise _refused(path, tensor, fewer)
        file.seek(offset)
        return file.read(wanted)


def _opened(location: str, path: Path, tensor: TensorProto) -> int:
    """Open a file below an ONNX file's folder, following no link on the way."""
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not parts or ".." in parts or PurePosixPath(location).is_absolute() or "\0" in location or ":" in parts[0]:
        raise _refused(path, tensor, f"{location!r} is not the name of a file beside it")
    place = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (0 if last else os.O_DIRECTORY)
            inner = os.open(part, flags, dir_fd=place)
            os.close(place)
            place = inner
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise _refused(path, tensor, f"{location!r} is not a regular file")
    except OSError as error:
        os.close(place)
        linked = error.errno in (errno.ELOOP, errno.ENOTDIR)
        reason = "leads through a link or a file" if linked else f"cannot be read: {(error.strerror or '').lower()}"
        raise _refused(path, tensor, f"{location!r} {reason}") from None
    except BaseException:
        os.close(place)
        raise
    return place


def _refused(path: Path, tensor: TensorProto, why: str) -> AurevoirError:
    return AurevoirError(
        f"the weights that {path} keeps in files beside it cannot be read: tensor {tensor.name!r}: {why}; copy these "
        "files into its folder, or export it again"
    )
