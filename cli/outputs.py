"""The files that commands write: checked before the work, and written after it so that no result is lost."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ..errors import AurevoirError, UsageError


def _member(name: bytes) -> Callable[[bytes], bool]:
    """Return a test for ZIP archives whose first member has a name."""
    return lambda head: head.startswith(b"PK\x03\x04") and head[30:].startswith(name)


_IMAGES = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"II*", b"MM\0")
_OTHERS = (*_IMAGES, b"PK", b"%PDF", b"\x7fELF", b"SQLite", b"\x08", b"\x1f\x8b")


def _may_be_timing_cache(head: bytes) -> bool:
    # NVIDIA does not say what it begins with: it is no text, and nothing else that is known.
    return b"\0" in head and not head.startswith(_OTHERS)


def _is_report(head: bytes) -> bool:
    return head.startswith(b"<!doctype html>") and b"aurevoir" in head


def _is_figure(head: bytes) -> bool:
    return b"matplotlib" in head.lower()


KINDS: dict[str, Callable[[bytes], bool]] = {
    "an engine file": _member(b"manifest.json"),
    "an archive of bits": _member(b"paths.npy"),
    "a calibration table": lambda head: b'"aurevoir-calibration/' in head,
    "a calibration cache": lambda head: head.startswith(b"TRT-"),
    "a timing cache": _may_be_timing_cache,
    "an ONNX file": lambda head: head.startswith(b"\x08"),
    "an exported ONNX file": lambda head: head.startswith(b"\x08") and b"\x12\x08aurevoir" in head[:32],
    "a result file": lambda head: head.lstrip().startswith(b"{") and b'"benchmark"' in head,
    "a file of rates": lambda head: head.lstrip().startswith(b"{") and b'"aurevoir-rates/' in head,
    "a trace": lambda head: head.startswith(b'{"traceEvents"'),
    "a report": _is_report,
    "a review": lambda head: head.startswith(b"path,label,suggested,reason,"),
    "a figure": _is_figure,
    "a confusion matrix": lambda head: _is_report(head) or _is_figure(head),
    "a table of evaluated images": lambda head: head.startswith(b"path,label,predicted,"),
    "a report or a figure": lambda head: _is_report(head) or _is_figure(head),
}
"""What each kind of file that commands write begins with."""


_LARGE = 1 << 30
"""Bytes of training images from which a note says what they take."""


def check_outputs(args: argparse.Namespace, outputs: Mapping[str, str], inputs: Iterable[object] = ()) -> None:
    """Check that the files that a command is to write can be written, before its work.

    Parameters
    ----------
    args : argparse.Namespace
    outputs : mapping of names of arguments to `KINDS`
        Those that are missing or None are left out.
    inputs : paths that the command reads

    Raises
    ------
    UsageError
        If one cannot be written, is there and of another kind, two are the same, one is also read, or a figure's
        ending is unknown.
    """
    from ..saving import require_file_target

    taken: dict[str, str] = {os.path.realpath(str(path)): f"the input {path}" for path in inputs if path is not None}
    for each, kind in outputs.items():
        path = getattr(args, each, None)
        if path is None:
            continue
        option = f"--{each.replace('_', '-')}"
        require_file_target(path)
        if kind in ("a figure", "a confusion matrix"):
            _check_figure(option, path, () if kind == "a figure" else ("html", "htm"))
        if real := taken.get(os.path.realpath(path)):
            raise UsageError(f"{option} {path} is {real}; give another name")
        taken[os.path.realpath(path)] = f"that of {option} too"
        _check_kind(option, path, kind)


def _check_kind(option: str, path: str, kind: str) -> None:
    """Refuse to replace a file that is not one of ours; an empty one holds nothing."""
    from ..saving import holds_only

    target = Path(os.path.realpath(path))
    if target.exists() and not holds_only(target, KINDS[kind]):
        raise UsageError(f"{option} {path} exists and is not {kind} of aurevoir's; give another name, or remove it")


def _check_figure(option: str, path: str, pages: tuple[str, ...]) -> None:
    from ..calibration.fidelity import require_plotting

    require_plotting()
    from matplotlib.backend_bases import FigureCanvasBase

    known = (*FigureCanvasBase.get_supported_filetypes(), *pages)
    if (ending := Path(path).suffix.removeprefix(".").lower()) and ending not in known:
        raise UsageError(
            f"{option} {path} ends in .{ending}; give one of {', '.join(f'.{each}' for each in sorted(known))}"
        )
    if not (parent := Path(path).parent).is_dir():
        raise UsageError(f"{option} {path}: the folder {parent} does not exist; make it")


def refuse_inside(option: str, path: str, folder: str, kind: str = "model folder") -> None:
    """Refuse an output inside a folder of aurevoir's, a model's that is read or another: it would be another, or none.

    Raises
    ------
    UsageError
    """
    if Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents:
        raise UsageError(f"{option} {path} is inside the {kind} {folder}; give a place outside")


@contextmanager
def noted(path: str) -> Iterator[None]:
    """Note at the end of a block if what it has written has replaced something."""
    from ..images.sources import warn

    there, replaces = Path(path), False
    with suppress(OSError):
        replaces = any(there.iterdir()) if there.is_dir() else there.stat().st_size > 0
    yield
    if replaces:
        warn(f"{path} was there before, and has been replaced")


def save(
    result: dict[str, Any], path: str, write: Callable[[], object], kind: str | None = None, key: str | None = None
) -> None:
    """Write an output; if that fails, the result stays, to be printed, with the reason.

    Parameters
    ----------
    result : dict
        Of a command; at a failure the reason is added to its list ``unsaved``.
    path : str
        What is written; a note says if that replaces something.
    write : callable
    kind : key of `KINDS`, optional
        That of a file, which may have come meanwhile and then replaces no other; a folder has its own.
    key : str, optional
        Where the result names the output; None is put there at a failure.
    """
    from ..saving import replacing_only

    try:
        with noted(path), replacing_only(KINDS[kind]) if kind else nullcontext():
            write()
    except AurevoirError as error:
        result.setdefault("unsaved", []).append(str(error))
        if key is not None:
            result[key] = None


def note_training(folder: str) -> None:
    """Note that the training images take much of a model folder, and may be left out."""
    from ..images.sources import warn
    from ..kernels.memory import format_bytes
    from ..transfer.model_schema import TRAINING

    path = Path(folder, TRAINING)
    with suppress(OSError):
        if (size := path.stat().st_size) >= _LARGE:
            warn(
                f"{path} takes {format_bytes(size)}: review, refit, prediction sets and familiarity read it, other "
                "predictions do not; it may be deleted"
            )
