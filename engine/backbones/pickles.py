"""Look at what a weights file of torch asks for before its pickle is run.

torch runs only the functions that it knows to be harmless, but these may still build lists of any length from a few
bytes. A file whose pickle does nothing but rebuild tensors is read at once; any other one first in a child process.
"""

import os
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ...errors import AurevoirError
from ...files import file_digest
from ...kernels.memory import format_bytes, memory_budget
from ..checked import is_known, remember
from ..limited import run_limited

_BASE = 2 << 30
"""Bytes for torch itself."""
_REBUILT = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"}
_PLAIN = {
    *("MARK", "STOP", "PROTO", "BINPUT", "LONG_BINPUT", "PUT", "BINGET", "LONG_BINGET", "GET", "NONE", "NEWTRUE"),
    *("NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "INT", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINPERSID", "REDUCE", "BUILD", "GLOBAL", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT"),
    *("SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
}


def check_archive(path: Path) -> None:
    """Check the directory of a ZIP archive of torch, whose members are stored, one beside the other.

    Raises
    ------
    AurevoirError
        If members are compressed, or are larger together than the file.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        size = sum(member.file_size for member in members)
        raise AurevoirError(
            f"{path} unfolds to {format_bytes(size)}: torch.save compresses nothing, and this one is compressed; give "
            "the file that torch.save wrote"
        )


def check_sparse(path: Path) -> None:
    """Refuse a file that says to be larger than the memory budget and is mostly holes.

    Raises
    ------
    AurevoirError
        If it is.
    """
    status = path.stat()
    if status.st_size > memory_budget() and 2 * 512 * getattr(status, "st_blocks", 1 << 62) < status.st_size:
        raise AurevoirError(f"{path} of {format_bytes(status.st_size)} is mostly empty; download or copy it again")


def check_pickle(path: Path, name: str) -> None:
    """Read a file of torch in a child process with limits first, unless it is plain or was read so before.

    Raises
    ------
    AurevoirError
        If reading it crashes, or takes more memory or time than it may.
    """
    if is_plain(path):
        return
    key = file_digest(path)
    if is_known(key):
        return
    size = path.stat().st_size
    memory = memory_budget() + _BASE + 2 * size + (64 << 20) * (os.cpu_count() or 1)
    remedy = "give a state dict that you trust: a .safetensors file, or one of torch.save(model.state_dict(), path)"
    what = f"{path}: reading it for the first time"
    run_limited(f"{__package__}.checkpoint", [str(path), name], memory, what, remedy)
    remember(key)


def is_plain(path: Path) -> bool:
    """Return whether a file of torch holds only tensors in dictionaries and lists."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [member for member in archive.namelist() if member.endswith("data.pkl")]
            return len(pickles) == 1 and _rebuilds_tensors(archive.read(pickles[0]))
    except (OSError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile):
        return False


def _rebuilds_tensors(data: bytes) -> bool:
    """Return whether a pickle calls nothing but what rebuilds tensors, and makes ordered dictionaries empty."""
    dictionaries: set[object] = set()
    expected: list[str] = []
    before = ""
    for name, argument in _operations(data):
        if name not in _PLAIN or (expected and name not in (expected[0], "BINPUT", "LONG_BINPUT")):
            return False
        if name in ("BINPUT", "LONG_BINPUT"):
            if before == "GLOBAL collections OrderedDict":
                dictionaries.add(argument)
            continue
        if expected:
            expected.pop(0)
        if name == "GLOBAL" and argument not in _REBUILT and not _is_storage(str(argument)):
            return False
        made = name in ("BINGET", "LONG_BINGET") and argument in dictionaries
        if made or (name, argument) == ("GLOBAL", "collections OrderedDict"):
            expected = ["EMPTY_TUPLE", "REDUCE"]
        before = f"{name} {argument}"
    return True


def _is_storage(name: str) -> bool:
    module, _, kind = name.partition(" ")
    return module == "torch" and (kind.endswith("Storage") or kind.islower())


def _operations(data: bytes) -> Iterator[tuple[str, object]]:
    for operation, argument, _ in pickletools.genops(data):
        yield operation.name, argument
