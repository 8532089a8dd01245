"""Read the files that training frameworks write, without running code in them."""

import argparse
import datetime
import json
import pathlib
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors.torch import load_file

from ...errors import AurevoirError, UsageError
from ...kernels.memory import memory_budget
from ..graph_check import LARGEST
from ..limited import finish, limit
from .pickles import check_archive, check_pickle, check_sparse

_INDEX = 1 << 26
"""Bytes of an index of shards."""
WANTED = "give a state dict: a .safetensors file, or a .pth file of torch.save(model.state_dict(), path)"

_BEGINNINGS = {
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` where it came from",
    b"<": "a web page or other markup, perhaps a failed download",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array",
}
_ZIPS = {
    "constants.pkl": "a TorchScript archive: give torch.jit.load(path).state_dict() saved by torch.save",
    "config.json": "a Keras model",
    "archive_format": "a program of torch.export: give its state_dict saved by torch.save",
}


def read_checkpoint(path: Path, name: str) -> Any:
    """Return what a weights file for the network `name` holds: tensors, in dictionaries of any depth.

    Parameters
    ----------
    path : path
        What ``torch.save`` wrote, a safetensors file, or the index of several such.
    name : str

    Raises
    ------
    UsageError
        If the file does not exist or is an ONNX file.
    AurevoirError
        If it cannot be read, or not without running code in it.
    """
    if path.suffix == ".onnx":
        raise _onnx(path, name)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:  # such as a name that is too long
        is_folder = is_file = False
    if is_folder:
        raise UsageError(f"weights {str(path)!r} is a folder; give the file in it that holds the weights")
    if not is_file:
        raise UsageError(f"weights {str(path)!r} is neither 'default', 'random' nor an existing file; check the path")
    check_sparse(path)
    with path.open("rb") as file:
        start = file.read(32)
    if path.suffix == ".json":
        return _shards(path, name)
    if path.suffix == ".safetensors" or start[8:10] == b'{"':
        return _safetensors(path)
    if not start:
        raise _unreadable(path, "it is empty")
    for beginning, what in _BEGINNINGS.items():
        if start.lstrip().startswith(beginning):
            raise _unreadable(path, f"it is {what}")
    return _torch(path, name, start)


def _unreadable(path: Path, reason: str | None) -> AurevoirError:
    why = f": {reason}" if reason else ""
    return AurevoirError(f"{path} does not hold weights that can be read safely{why}; {WANTED}")


def _onnx(path: Path, name: str) -> UsageError:
    return UsageError(
        f"weights {str(path)!r} is an ONNX file, which is a network with its weights: give it as the backbone "
        f"instead of {name}, or {WANTED}"
    )


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except Exception as error:  # the errors of safetensors and of the file have no common base class
        raise _unreadable(path, str(error).partition("\n")[0]) from None
    return tensors


def _shards(path: Path, name: str) -> dict[str, Any]:
    if path.stat().st_size > _INDEX:
        raise _unreadable(path, "it is larger than an index of shards")
    try:
        files = {str(file) for file in json.loads(path.read_text())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _unreadable(path, "it is a JSON file without the weight_map of an index") from None
    tensors: dict[str, Any] = {}
    for file in sorted(files):
        if Path(file).name != file:
            raise _unreadable(path, f"its index names {file!r}, which is not beside it")
        if file.endswith(".json"):
            raise _unreadable(path, f"its index names {file!r}, another index")
        tensors |= read_checkpoint(path.parent / file, name)
    return tensors


def _torch(path: Path, name: str, start: bytes) -> Any:
    archive = zipfile.is_zipfile(path)
    if archive:
        _check_members(path)
    elif start.startswith(b"PK"):
        raise _unreadable(path, "it is truncated; copy it again")
    if (reason := _objects(path)) is None:
        check_pickle(path, name)
        try:
            return _loaded(path, mapped=archive and path.stat().st_size > memory_budget())
        except Exception:  # unpickling, zip and file errors share no base class
            # torch's message suggests unsafe loading, which would run code in the file.
            reason = None
    if reason is None and _is_onnx(path):
        raise _onnx(path, name)
    raise _unreadable(path, reason)


def _check_members(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.rpartition("/")[2] for member in archive.namelist()}
    except Exception:  # zip errors share no base class
        raise _unreadable(path, "it is a damaged ZIP archive") from None
    for member, what in _ZIPS.items():
        if member in members:
            raise _unreadable(path, f"it is {what}")
    check_archive(path)


def _loaded(path: Path, mapped: bool = False) -> Any:
    with torch.serialization.safe_globals(_plain_types()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _plain_types() -> list[Any]:
    """Return the types that stand beside weights in checkpoints, and that run nothing when they are read."""
    numbers = [np.ndarray, np.dtype, *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type))]
    renamed = [(multiarray.scalar, "numpy.core.multiarray.scalar"), multiarray.scalar]
    arrays = [
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        multiarray._reconstruct,
    ]
    times = [datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone]
    paths: list[Any] = [pathlib.PosixPath, pathlib.PurePosixPath]
    paths += [(pathlib.PurePosixPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")]
    paths += [(pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]
    plain = [argparse.Namespace, types.SimpleNamespace, dict, list, set, frozenset, complex, slice, range]
    # torch fills plain dictionaries and lists only.
    filled: list[Any] = [(_dictionary, "collections.defaultdict"), (_list, "collections.deque")]
    return [*numbers, *renamed, *arrays, *times, *paths, *plain, *filled, int, float, str, tuple]


def _dictionary(*_: object) -> dict[Any, Any]:
    return {}


def _list(*_: object) -> list[Any]:
    return []


def _objects(path: Path) -> str | None:
    """Return that a file holds objects of which types, or None if it cannot be said."""
    try:
        with torch.serialization.safe_globals(_plain_types()):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above; files of old torch and what is no such file
        return None
    if not names:
        return None
    names.sort(key=lambda name: (name.startswith("torch."), name))
    whole = any(name.startswith(("torch.nn.", "torchvision.models.", "timm.")) for name in names)
    what = "a whole pickled module" if whole else "objects"
    more = f" and {len(names) - 3} more types" if len(names) > 3 else ""
    return f"it holds {what} ({', '.join(names[:3])}{more}), and reading those would run their code"


def _is_onnx(path: Path) -> bool:
    import onnx

    if path.stat().st_size > LARGEST:
        return False
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf has errors of its own
        return False
    return bool(model.graph.node)


def _main(memory: str, seconds: str, path: str, name: str) -> None:
    """Read a file of torch in this process, which ends without a word if that is an error like any other."""
    limit(memory, seconds)
    try:
        _loaded(Path(path))
    except MemoryError:
        sys.exit("it takes more memory than it may")
    except Exception as error:  # what torch refuses is said where it is read again
        if "allocate memory" in str(error):
            sys.exit("it takes more memory than it may")
    finish()


if __name__ == "__main__":
    _main(*sys.argv[1:])
