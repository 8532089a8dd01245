"""Paths of images one after another: of arguments, of the folders among them, and of lists, read as they are needed."""

import codecs
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError, UsageError
from .labelled import images_at

STDIN = "-"
_LONGEST_LINE = 8192
"""Bytes of a line that are read as a path: twice those of the longest path."""


def image_paths(images: Iterable[Path | str], listed: BinaryIO | None = None) -> Iterator[Path]:
    """Yield the paths of images, in the order that they are given in.

    Parameters
    ----------
    images : iterable of paths
        Files; folders, which stand for the files under them (see `sources.list_files`); and ``-`` for lines of stdin.
        What does not exist is yielded, to be reported where it is read.
    listed : binary file, optional
        A list of files and folders, one a line, which come last.

    Yields
    ------
    path : Path
        Relative ones are relative to the working directory. Of a list only one line is held.
    """
    for image in images:
        yield from _lines(sys.stdin.buffer) if str(image) == STDIN else images_at(image, keep_missing=True)
    if listed is not None:
        yield from _lines(listed)


def open_list(path: Path | str) -> BinaryIO:
    """Open a list of paths, which may be a FIFO.

    Raises
    ------
    UsageError
        If it cannot be opened, or is a folder.
    """
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path} cannot be read: {reason.lower()}; give a file of paths, one a line") from None


def _lines(file: BinaryIO) -> Iterator[Path]:
    """Yield the paths of a list; what is beyond the longest path is passed over, and empty lines are.

    Raises DataError if it is in UTF-16.
    """
    begins, first = True, True
    while piece := file.readline(_LONGEST_LINE):
        if first and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError("the list of paths is in UTF-16; save it in UTF-8")
        # Editors on Windows begin a list with the mark of UTF-8.
        line = (piece.removeprefix(codecs.BOM_UTF8) if first else piece).removesuffix(b"\n").removesuffix(b"\r")
        first = False
        if begins and line:
            yield from images_at(os.fsdecode(line), keep_missing=True)
        begins = piece.endswith(b"\n")
