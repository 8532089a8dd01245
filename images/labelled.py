"""List images and their labels: the one reader of class folders, tables, tables beside images, and tar archives."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from .archives import exists, is_archive
from .remote import REQUESTS, check_access, is_remote, path_of
from .remote_folders import images_at_url, rows_at_url
from .shards import members_of, named_archives, read_shards
from .sources import (
    Label,
    LabelledPaths,
    Part,
    archives_in,
    chosen_part,
    class_folders,
    find_splits,
    is_hidden,
    iter_files,
    nested,
    note_alike,
    split_kind,
    test_part,
    warn,
)
from .tables import LISTS, METADATA, TABLES, Row, is_metadata, place_of, read_table

_SHOWN = 3
_TRIED = 1024
"""Files at URLs of which one must be there; of more, reading tells."""
_KINDS = ("train", "val", "test")


def labelled_images(data: Path | str, part: Part = "train") -> LabelledPaths:
    """List the images of a data set with their labels.

    Parameters
    ----------
    data : path
        A folder of class folders: see `class_folders`.

        A table, ending in .csv, .tsv or .txt: a path and a label a line, separated by a comma, tab, semicolon, bar or
        space, under a header that names them ``path`` and ``label`` or without one. Ending in .jsonl, .ndjson or .json:
        an object a line, or one array of them, with ``path`` and ``label``. Paths are relative to the table's folder.

        A folder with ``metadata.csv`` or ``metadata.jsonl``, which has the column ``file_name`` in place of ``path``.

        A tar archive, a folder of them, or a pattern such as ``shard-{000..009}.tar``: see `read_shards`.

        A column or key ``labels`` in place of ``label`` holds several labels an image: a list, or a text with
        semicolons between them or a JSON array of texts, or rows of one path each. ``split`` says train, val or test,
        where both training and other rows are there, and ``weight`` is the sample weight; rows of weight 0 are left
        out.
    part : {"train", "test"}
        Which part of data with splits.

    Raises
    ------
    UsageError
        If `data` does not exist, or is a file of another kind.
    DataError
        If a table or an archive cannot be read, or an image has no label.
    """
    source = _source(path_of(data))
    return source.part(part) if isinstance(source, _Listed) else _of_folders(Path(data), source, part)


def labelled_parts(data: Path | str) -> tuple[LabelledPaths, LabelledPaths | None]:
    """List the training images of a data set and, where it says which they are, its test images.

    See `labelled_images`; a note on stderr says what is tested on.
    """
    source = _source(path_of(data))
    if isinstance(source, _Listed):
        return source.part("train"), source.part("test") if source.has_parts else None
    test = test_part(source)
    if test is not None:
        warn(f"testing on {test}")
    train = _of_folders(Path(data), source, "train")
    return train, None if test is None else labelled_images(test, "test")


def list_images(images: Iterable[Path | str], keep_missing: bool = False) -> list[Path]:
    """List images without their labels: `images_at` each of some paths."""
    return [path for image in images for path in images_at(image, keep_missing)]


def images_at(image: Path | str, keep_missing: bool = False) -> Iterator[Path]:
    """Yield the images that a path leads to.

    Parameters
    ----------
    image : path
        Of an image file or a member of an archive, which is yielded; or of a folder, a table or an archive as
        `labelled_images` takes them, in the order of the files' names, the rows or the members. A folder of archives is
        one that holds no image files. A table may have no labels; ``.txt`` and ``.lst`` files are none.
    keep_missing : bool
        Whether a path that does not exist, and an archive that cannot be read, is yielded, to be reported where it is
        read; else it raises UsageError or DataError.
    """
    path = path_of(image)
    if is_remote(path):
        yield from images_at_url(path, keep_missing)
        return
    # Path.is_dir raises OSError for a name that is too long.
    files = iter_files(path) if (is_folder := os.path.isdir(path)) else iter(())  # noqa: PTH112
    first = list(islice(files, 1))
    archives = _archives_under(path) if is_folder and not first else named_archives(path)
    if path.suffix.lower() in LISTS and os.path.isfile(path):  # noqa: PTH113
        yield from dict.fromkeys(row.path for row in read_table(path, labelled=False))
    elif is_folder or archives:
        yield from chain(first, files)
        for archive in archives:
            yield from members_of(archive, keep_missing)
    elif keep_missing or exists(path):
        yield path
    else:
        raise UsageError(f"{path} does not exist; check the path")


def _archives_under(folder: Path) -> list[Path]:
    return sorted(Path(place, each) for place, _, names in os.walk(folder) for each in names if _is_shard(place, each))


def _is_shard(folder: str, name: str) -> bool:
    return not is_hidden(name) and is_archive(Path(folder, name))


@dataclass(frozen=True)
class _Listed:
    """The rows of a table or of archives.

    Attributes
    ----------
    name : str
        Of the table, the archive or the folder of archives.
    rows : list of Row
        Those that count.
    labels : list of Label
        Of the rows.
    kinds : list of str
        The part that each row is of, by ``train``, ``val`` and ``test``; all of one where the data do not split.
    weights : list of float
    """

    name: str
    paths: list[Path]
    labels: list[Label]
    kinds: list[str]
    weights: list[float]

    @property
    def has_parts(self) -> bool:
        """Whether the rows are of several parts."""
        return len(set(self.kinds)) > 1

    def part(self, part: Part) -> LabelledPaths:
        """Return the rows to train or to test on, sorted by label and path; all of rows without parts."""
        there = set(self.kinds)
        kind = next((each for each in ("test", "val") if each in there), "train") if part == "test" else "train"
        which = list(range(len(self.kinds)))
        if self.has_parts:
            counts = ", ".join(f"{each} ({self.kinds.count(each)})" for each in _KINDS if each in there)
            warn(f"{self.name} has the parts {counts}: using {kind}")
            which = [index for index in which if self.kinds[index] == kind]
        which.sort(key=lambda index: (self.labels[index], self.paths[index]))
        weighted = any(weight != 1 for weight in self.weights)
        return LabelledPaths(self.paths, self.labels, self.weights if weighted else None).take(which)


def _source(path: Path) -> _Listed | Mapping[str, Path]:
    """Return the rows of a table or of archives; for class folders the folders of their parts, of which may be none."""
    if is_remote(path):
        return _checked(*rows_at_url(path))
    if path.is_dir():
        return _source_in(path)
    if archives := named_archives(path):
        return _checked(path, read_shards(archives))
    if not path.is_file():
        return {}
    if re.search(r"\.(tgz|tar\.\w+)$", path.name.lower()):
        raise UsageError(f"{path} is compressed, and files are read in place; uncompress it, and give the .tar file")
    if path.suffix.lower() not in TABLES:
        known = ", ".join(TABLES)
        raise UsageError(f"{path} is neither a folder nor a table of paths and labels ({known}) nor a .tar archive")
    return _checked(path, read_table(path))


def _source_in(folder: Path) -> _Listed | Mapping[str, Path]:
    folders = nested(folder)
    if table := next(filter(None, map(_metadata, folders)), None):
        return _checked(table, read_table(table), by_folder=True)
    if splits := find_splits(folder):
        return splits
    archives = archives_in(folders[-1])
    return _checked(folder, read_shards(archives)) if archives else {}


def _of_folders(folder: Path, splits: Mapping[str, Path], part: Part) -> LabelledPaths:
    return labelled_images(chosen_part(splits, part), part) if splits else class_folders(folder, part)


def _metadata(folder: Path) -> Path | None:
    """Return the table that labels the images of a folder."""
    return next((folder / name for name in METADATA if (folder / name).is_file() and is_metadata(folder / name)), None)


def _checked(source: Path, rows: list[Row], by_folder: bool = False) -> _Listed:
    """Return rows with checked labels, parts and weights; of a row that is given twice the first counts."""
    if not rows:
        raise DataError(f"{source} contains no rows; give a path and a label a line")
    sets = [_labels_of(row, source) for row in rows]
    merged = _merged(rows, sets)
    # Of a column of labels without semicolons, a cell that is empty says no more than one of a column of one label.
    several = any(row.several for row in rows) and (() in sets or any(len(each) > 1 for each in merged.values()))
    _check_labelled(source, rows, sets, several)
    note_alike(source, dict.fromkeys(label for labels in sets for label in labels or ()))
    kinds = _kinds(source, rows, by_folder)
    weights = [_weight(row, source) for row in rows]
    label_of: Any = (lambda index: merged[rows[index].path]) if several else (lambda index: (sets[index] or ("",))[0])
    kept = {(label_of(index), rows[index].path): index for index in reversed(range(len(rows)))}
    if not several and (repeated := len(rows) - len(kept)):
        warn(f"{repeated} of {len(rows)} rows of {source} repeat a path and its label, and count once")
    which = sorted(index for index in kept.values() if weights[index] > 0)
    if len(which) < len(kept):
        warn(f"{len(kept) - len(which)} images of {source} have weight 0 and are left out")
    if not which:
        raise DataError(f"all images of {source} have weight 0; give those that count a positive one")
    _check_existing(source, [rows[index].path for index in which])
    return _Listed(
        str(source),
        [rows[index].path for index in which],
        [label_of(index) for index in which],
        [kinds[index] for index in which],
        [weights[index] for index in which],
    )


def _merged(rows: list[Row], sets: list[tuple[str, ...] | None]) -> dict[Path, tuple[str, ...]]:
    """Return all labels of each path, where rows may have several."""
    found: dict[Path, dict[str, None]] = {}
    for row, labels in zip(rows, sets, strict=True):
        found.setdefault(row.path, {}).update(dict.fromkeys(labels or ()))
    return {path: tuple(sorted(labels)) for path, labels in found.items()}


def _check_labelled(source: Path, rows: list[Row], sets: list[tuple[str, ...] | None], several: bool) -> None:
    missing = [row for row, labels in zip(rows, sets, strict=True) if labels is None]
    if missing and several and all(row.several for row in missing):
        warn(f"{len(missing)} of {len(rows)} images of {source} have no label; they count as having none of the labels")
    elif missing:
        where = place_of(source, missing[0].line).removesuffix(f" of {source}")
        raise DataError(
            f"{len(missing)} of {len(rows)} rows of {source} have no label, the first in {where}; label them or remove "
            "the rows"
        )


def _check_existing(source: Path, paths: list[Path]) -> None:
    if not (_any_at_url(paths) if is_remote(paths[0]) else any(map(exists, paths))):
        raise DataError(
            f"none of the {len(paths)} files that {source} names exists, such as {paths[0]}; paths are relative to the "
            "folder of the table"
        )


def _any_at_url(paths: list[Path]) -> bool:
    """Return whether one of the first files can be asked for; raises DataError if no server can be asked."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        for start in range(0, min(len(paths), _TRIED), REQUESTS):
            some = paths[start : start + REQUESTS]
            if any(pool.map(exists, some)):
                return True
            if is_remote(some[0]):
                check_access(some[0])
    return len(paths) > _TRIED


def _labels_of(row: Row, source: Path) -> tuple[str, ...] | None:
    """Return the labels of a row; None if it has none."""
    given, place = row.label, place_of(source, row.line)
    if isinstance(given, dict) or (isinstance(given, list) and not row.several):
        remedy = ", or name the key labels" if isinstance(given, list) else ""
        raise DataError(f"the label in {place} is {json.dumps(given)[:80]}; give one label an image{remedy}")
    if isinstance(given, list):
        if any(isinstance(each, list | dict) or _is_missing(each) for each in given):
            raise DataError(f"the labels in {place} are {json.dumps(given)[:80]}; give a list of texts")
        return tuple(dict.fromkeys(str(each).strip() for each in given))
    if _is_missing(given):
        return None
    names = several(str(given)) if row.several else [str(given)]
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip())) or None


def several(cell: str) -> list[str]:
    """Return the labels of a text: a JSON array of names, which may have semicolons, or what semicolons separate."""
    if cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            found = json.loads(cell)
            if all(isinstance(each, str) for each in found):
                return list(found)
    return cell.split(";")


def _is_missing(label: Any) -> bool:
    # JSON of other programs has NaN for what is missing.
    return label is None or (isinstance(label, float) and math.isnan(label)) or not str(label).strip()


def _kinds(source: Path, rows: list[Row], by_folder: bool) -> list[str]:
    """Return the part that each row is of; ``train`` for all if they are not of a training part and another one."""
    given = ["" if _is_missing(row.split) else str(row.split).strip() for row in rows]
    if by_folder and not any(given):
        given = [_first_folder(row.path, source) for row in rows]
        by_folder = all(map(split_kind, given))
        given = given if by_folder else [""] * len(rows)
    known = {each: split_kind(each) for each in set(given) if each}
    if not any(known.values()):
        if known:
            warn(f"split of {source} says {_listed(known)}, and none of train, val and test; it is ignored")
        return ["train"] * len(rows)
    if strange := [index for index, each in enumerate(given) if each and known[each] is None]:
        row = rows[strange[0]]
        raise DataError(f"split {row.split!r} in {place_of(source, row.line)} is not known; give train, val or test")
    kinds = [known[each] or "train" if each else "train" for each in given]
    return kinds if "train" in kinds else ["train"] * len(rows)


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(map(repr, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")


def _first_folder(path: Path, table: Path) -> str:
    parts = path.relative_to(table.parent).parts if path.is_relative_to(table.parent) else ()
    return parts[0] if len(parts) > 1 else ""


def _weight(row: Row, source: Path) -> float:
    if _is_missing(row.weight):
        return 1.0
    try:
        found = math.nan if isinstance(row.weight, bool) else float(row.weight)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 <= found < math.inf:
        given, place = str(row.weight)[:40], place_of(source, row.line)
        raise DataError(f"the weight in {place} is {given!r}; give a number from 0 up, or nothing for 1")
    return found
