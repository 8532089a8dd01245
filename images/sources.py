"""List image files, with labels from class folders."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, UsageError


@dataclass(frozen=True)
class LabelledPaths:
    """Files and their class names, sorted by class name."""

    paths: list[Path]
    labels: list[str]


def list_files(folder: Path | str) -> list[Path]:
    """Return every file under a folder, sorted by name, except hidden files and folders.

    Raises
    ------
    UsageError
        If the folder does not exist or is not a folder.
    """
    root = _existing_folder(folder)
    found = []
    for parent, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
    return sorted(found)


def class_folders(folder: Path | str) -> LabelledPaths:
    """List the files of a folder of class folders.

    Raises
    ------
    UsageError
        If the folder does not exist.
    DataError
        If it contains no class folder, or a class folder is empty.
    """
    root = _existing_folder(folder)
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f"{root} contains no class folders; put the images of each class in a separate folder")
    paths, labels = [], []
    for entry in classes:
        files = list_files(entry)
        if not files:
            raise DataError(f"the class folder {entry} is empty; add images to it or remove it")
        paths += files
        labels += [entry.name] * len(files)
    return LabelledPaths(paths, labels)


def expand(images: Iterable[Path | str]) -> list[Path]:
    """Replace each folder with the files under it; a missing path raises UsageError."""
    found: list[Path] = []
    for image in images:
        path = Path(image)
        if not path.exists():
            raise UsageError(f"{path} does not exist; check the path")
        found += list_files(path) if path.is_dir() else [path]
    return found


def _existing_folder(folder: Path | str) -> Path:
    root = Path(folder)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{root} {problem}; give the path of a folder of images")
    return root
