"""List image files, with labels from class folders."""

import os
import re
import unicodedata
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import AurevoirWarning, DataError, UsageError
from .archives import ENDING, is_archive
from .tables import METADATA

Part = Literal["train", "test"]
"""Which images of a folder with splits: the training images, or those to test on."""

# What systems and people keep beside images, and what Pillow does not read in any case.
_JUNK = {"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "#recycle"}
_JUNK |= {"system volume information", "lost+found", "__pycache__"}
_PAPERS = {"readme", "license", "licence", "copying", "notice", "changelog", "authors", "checksums", "md5sums"}
_PAPERS |= {"sha256sums", "makefile"}
_NO_IMAGES = frozenset(
    f".{ending}"
    for endings in (
        "txt md rst tex rtf doc docx odt pdf htm html css csv tsv xls xlsx json jsonl ndjson xml yaml yml toml ini cfg",
        "conf names data log md5 sha1 sha256 py ipynb sh bat r m js npy npz mat h5 hdf5 pkl pickle parquet arrow",
        "tfrecord db sqlite zip tar gz tgz bz2 xz 7z rar onnx pth pt safetensors url lnk webloc crdownload part",
    )
    for ending in endings.split()
)
_ANNOTATIONS = {"annotations", "annotation", "labels", "docs", "doc", "meta", "metadata", "imagesets"}
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}


Label = str | tuple[str, ...]
"""The class of an image; or, where images may have several labels, those that it has, which may be none."""


@dataclass(frozen=True)
class LabelledPaths:
    """Files and their labels, sorted by label.

    Attributes
    ----------
    paths : list of path
    labels : list of str, or list of tuple of str
        Tuples where images may have several labels.
    weights : list of float or None
        Sample weights, where the data have them.
    """

    paths: list[Path]
    labels: Sequence[Label]
    weights: list[float] | None = None

    @property
    def multilabel(self) -> bool:
        """Whether images may have several labels."""
        return any(isinstance(label, tuple) for label in self.labels)

    @property
    def names(self) -> list[str]:
        """The class names, sorted."""
        return sorted({name for label in self.labels for name in as_set(label)})

    def take(self, indices: Iterable[int]) -> "LabelledPaths":
        """Return some of the images, in the order of the indices."""
        which = list(indices)
        weights = None if self.weights is None else [self.weights[index] for index in which]
        return LabelledPaths([self.paths[index] for index in which], [self.labels[index] for index in which], weights)


def as_set(label: Label) -> tuple[str, ...]:
    """Return the labels of an image, of which it may have one or several."""
    return label if isinstance(label, tuple) else (label,)


def list_files(folder: Path | str) -> list[Path]:
    """Return the files under a folder that may be images, sorted by name.

    Links to files and folders are followed; a file that several names lead to counts once, under its own name if
    that is in the folder. Hidden files, what operating systems leave behind (``__MACOSX``, ``Thumbs.db``), documents
    and label files are left out. What is no regular file, and a folder that cannot be listed, is kept in the list, so
    that it is reported where it is read.

    Raises
    ------
    UsageError
        If the folder does not exist or is not a folder.
    """
    return list(iter_files(folder))


def iter_files(folder: Path | str) -> Iterator[Path]:
    """Yield what `list_files` returns, one after another.

    Held are the folders and the links under it, and the names in one folder and in those above it.
    """
    tree = _Tree(os.fspath(_existing_folder(folder)))
    yield from tree.files()


class _Tree:
    """The folders under a folder, and the links that stand for files: what is found twice is listed once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders: dict[str, str] = {}
        """By its real path the name under which a folder's files are listed."""
        self._unlistable: set[str] = set()
        self._links: dict[str, str] = {}
        """By the real path of a file the link that stands for it."""
        folders, links = [root], deque[str]()
        while folders or links:
            # Links come last, so that what they lead to keeps its own name if it is under the folder.
            if folders:
                self._enter(folders.pop(), folders, links)
            elif not Path(link := links.popleft()).is_dir():
                self._stand_for_file(link)
            elif not _is_loop(Path(link)):
                folders.append(link)

    def _enter(self, folder: str, folders: list[str], links: deque[str]) -> None:
        """Note a folder, and add its folders and links."""
        real = os.path.realpath(folder)
        if real in self._folders:
            return
        self._folders[real] = folder
        below, linked = list[str](), list[str]()
        try:
            for entry in _image_entries(folder):
                if entry.is_symlink():
                    linked.append(entry.path)
                elif _is_folder(entry):
                    below.append(entry.path)
        except OSError as error:
            self._unlistable.add(real)
            why = (error.strerror or "").lower()
            warn(f"{folder} cannot be listed: {why}; its images are left out: make it readable")
        folders += sorted(below)
        links += sorted(linked)

    def _stand_for_file(self, link: str) -> None:
        real = os.path.realpath(link)
        above, name = os.path.split(real)
        entered = above in self._folders and above not in self._unlistable
        # A link that leads to itself is its own real path.
        is_there = os.path.lexists(real) and not os.path.islink(real)  # noqa: PTH114
        if not (entered and is_there and not is_hidden(name) and not is_document(name)):
            self._links.setdefault(real, link)

    def files(self) -> Iterator[Path]:
        """Yield the files, sorted by name."""
        real = os.path.realpath(self._root)
        if real in self._unlistable:
            yield Path(self._root)
            return
        entered = [(self._root, real, _image_names(self._root))]
        while entered:
            folder, real_folder, names = entered[-1]
            if not names:
                entered.pop()
                continue
            path, real = os.path.join(folder, names[-1]), os.path.join(real_folder, names.pop())  # noqa: PTH118
            if is_link := os.path.islink(path):  # noqa: PTH114
                real = os.path.realpath(path)
            if real not in self._folders:
                if self._links.get(real, None if is_link else path) == path:
                    yield Path(path)
            elif self._folders[real] == path and real in self._unlistable:
                yield Path(path)
            elif self._folders[real] == path:
                entered.append((path, real, _image_names(path)))


def _image_entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield what a folder holds that may be images or folders of them."""
    for entry in os.scandir(folder):
        if not is_hidden(entry.name) and (_is_folder(entry) or not is_document(entry.name)):
            yield entry


def _image_names(folder: str) -> list[str]:
    """Return the names of these, the last one first; none of a folder that is gone."""
    with suppress(OSError):
        return sorted((entry.name for entry in _image_entries(folder)), reverse=True)
    return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_loop(link: Path) -> bool:
    """Return whether a link leads to a folder that it is in."""
    target, place = os.path.realpath(link), os.path.realpath(link.parent)
    return os.path.commonpath([target, place]) == target


def is_hidden(name: str) -> bool:
    """Return whether a name is of a hidden file or folder, or of what operating systems leave behind."""
    return name.startswith(".") or name.lower() in _JUNK


def is_document(name: str) -> bool:
    """Return whether a name is of a document, a label file or an archive rather than an image."""
    stem, ending = os.path.splitext(name.lower())  # noqa: PTH122
    return ending in _NO_IMAGES or (not ending and stem in _PAPERS)


def class_folders(folder: Path | str, part: Part = "train") -> LabelledPaths:
    """List the files of a folder of class folders, with the folders' names as labels.

    A folder that holds nothing but one folder of class folders stands for that one. Of a folder that holds ``train``
    and ``val`` or ``test`` (or training, validation, testing) with class folders in each, one part is listed, with a
    warning. A name that is not UTF-8 becomes a label with surrogate escapes, whatever the locale.

    Parameters
    ----------
    folder : path
    part : {"train", "test"}
        Which part of a folder with splits.

    Raises
    ------
    UsageError
        If the folder does not exist.
    DataError
        If it contains no class folder, or a class folder is empty, or it contains splits without class folders.
    """
    root = _class_root(_existing_folder(folder))
    if splits := _splits_of(root):
        return class_folders(chosen_part(splits, part), part)
    return _labelled(root)


def chosen_part(splits: Mapping[str, Path], part: Part) -> Path:
    """Return the part of a folder with splits that is trained or tested on, and warn that it is.

    Raises
    ------
    DataError
        If there are no labelled test images.
    """
    root = splits["train"].parent
    chosen = splits["train"] if part == "train" else test_part(splits)
    if chosen is None:
        raise DataError(f"{root} contains no test images, only {splits['train'].name}; give {splits['train']}")
    warn(f"{root} contains the parts {_listed(splits)}, not classes: using {chosen}")
    return chosen


def find_splits(folder: Path | str) -> Mapping[str, Path]:
    """Return the parts of a folder that contains training and test images, by ``train``, ``val`` and ``test``.

    Empty for a folder of class folders.
    """
    root = Path(folder)
    return _splits_of(_class_root(root)) if root.is_dir() else {}


def test_part(splits: Mapping[str, Path]) -> Path | None:
    """Return the part to test on: ``test`` if it has labels, else ``val``."""
    labelled = [splits[name] for name in ("test", "val") if name in splits and _is_labelled(splits[name])]
    return labelled[0] if labelled else None


def _is_labelled(folder: Path) -> bool:
    """Return whether a part holds class folders, a table that labels its images, or archives."""
    names = [entry.name for entry in _entries(folder)]
    return bool(_subfolders(_class_root(folder))) or any(
        name in METADATA or name.lower().endswith(ENDING) for name in names
    )


def archives_in(folder: Path) -> list[Path]:
    """Return the tar archives in a folder, sorted by name; none if it also holds folders of images."""
    return [] if _subfolders(folder) else [Path(entry.path) for entry in _entries(folder) if is_archive(entry.path)]


def warn(message: str) -> None:
    """Issue an AurevoirWarning; the command line shows it as a note."""
    warnings.warn(message, AurevoirWarning, stacklevel=2)


def _labelled(root: Path) -> LabelledPaths:
    classes = _subfolders(root)
    for each in _entries(root):
        if each.is_symlink() and not Path(each.path).exists():
            warn(f"{each.path} is a link that leads nowhere; it is left out")
    if not classes:
        raise DataError(
            f"{root} contains no class folders; put the images of each class in a separate folder, "
            "or give a CSV file of path and label"
        )
    labels = [_label(entry.name) for entry in classes]
    note_alike(root, labels)
    listed = [list_files(entry) for entry in classes]
    for entry, files in zip(classes, listed, strict=True):
        if not files:
            raise DataError(f"the class folder {entry} is empty; add images to it or remove it")
    return LabelledPaths(
        [path for files in listed for path in files],
        [label for label, files in zip(labels, listed, strict=True) for _ in files],
    )


def _label(name: str) -> str:
    """Return a folder's name as a label that does not depend on the locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def note_alike(source: Path, labels: Iterable[str]) -> None:
    """Warn of classes whose names look the same."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(unicodedata.normalize("NFC", label.strip().casefold()), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            # Where they are printed alike, ASCII tells them apart.
            printed = {unicodedata.normalize("NFC", each) for each in names}
            shown = ", ".join(map(repr if len(printed) == len(names) else ascii, names))
            warn(
                f"the classes {shown} in {source} differ only in case, spaces or the form of letters; give them one "
                "name if they are one class"
            )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted by name, but for hidden entries; nothing if it cannot be listed."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
    return [entry for entry in found if not is_hidden(entry.name)]


def _subfolders(root: Path) -> list[Path]:
    """Return the folders that may be classes, sorted by name; label files beside the images are none."""
    found = [Path(entry.path) for entry in _entries(root) if _is_folder(entry)]
    return [entry for entry in found if entry.name.lower() not in _ANNOTATIONS or list_files(entry)]


def nested(folder: Path) -> list[Path]:
    """Return a folder and those that are the only one in the one before."""
    found = [folder]
    while len(inner := _subfolders(found[-1])) == 1 and not _is_loop(inner[0]):
        found += inner
    return found


def _class_root(root: Path) -> Path:
    """Return the folder itself, or the folder of class folders or splits that alone it holds, at any depth."""
    folders = _subfolders(root)
    while len(folders) == 1 and not _is_loop(folders[0]):
        inner = _subfolders(folders[0])
        holds_images = any(not _is_folder(entry) and not is_document(entry.name) for entry in _entries(folders[0]))
        if holds_images or not inner or (len(inner) == 1 and not _subfolders(inner[0])):
            break
        root, folders = folders[0], inner
    return root


def _splits_of(root: Path) -> dict[str, Path]:
    """Return the parts of a data set by kind, if a training part and another one are among the folders."""
    folders = _subfolders(root)
    found: dict[str, Path] = {}
    for entry in folders:
        if kind := split_kind(entry.name):
            found.setdefault(kind, entry)
    if "train" not in found or len(found) < 2:
        return {}
    if _is_labelled(found["train"]):
        return found
    if len(found) < len(folders):
        return {}
    raise DataError(
        f"{root} contains the parts {_listed(found)} instead of classes, and {found['train'].name} contains no class "
        "folders; put the images of each class in a separate folder, or give a CSV file of path and label"
    )


def split_named(name: str) -> str | None:
    """Return the only part of a data set that one of the words of a name is, such as ``train-000``, or None."""
    found = {_SPLITS[word] for word in re.split(r"[\W\d_]+", name.casefold()) if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def split_kind(name: str) -> str | None:
    """Return what part of a data set a folder's name says it is: ``train``, ``val``, ``test``, or None."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", name.casefold()) if word]
    words = [
        word for word in words if word not in ("set", "data", "images", "image", "imgs", "img", "split", "seg", "")
    ]
    if len(words) != 1:
        return None
    word = words[0] if words[0] in _SPLITS else re.sub(r"(set|data|images)$", "", words[0])
    return _SPLITS.get(word)


def _listed(splits: Mapping[str, Path]) -> str:
    return ", ".join(path.name for path in splits.values())


def _existing_folder(folder: Path | str) -> Path:
    root = Path(folder)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{root} {problem}; give the path of a folder of images")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UsageError(f"{root} cannot be listed: permission denied; change its permissions")
    return root
