"""Labelled images in tar archives as WebDataset has them: files of one name but for the endings are one sample."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, UsageError
from .archives import ENDING, Member, is_archive, members
from .remote import is_remote, map_at_once, path_of
from .sources import is_document, is_hidden, split_kind, split_named, warn
from .tables import Row, parsed_object, sample_of

_SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""The key of a sample and the ending of one of its files, which may have several dots."""
_LABELS = ("cls", "cls.txt", "txt")
"""Endings of the files that hold the label of a sample; of the last only where a JSON file has none."""
_OTHERS = {"cls", "cls2", "index", "inx", "id", "jsn", "text", "transcript", "ten", "tb", "mp", "msg", "cbor", "pyd"}
"""Endings that WebDataset gives to what is no image."""
_LARGEST_LABEL = 1 << 20
_MANY = 100_000
"""Archives that a pattern may name."""
_BRACES = re.compile(r"\{([^{}]*)\}")


def named_archives(pattern: Path | str) -> list[Path]:
    """Return the archives that a path names: itself, or those of a pattern such as ``shard-{000..009}.tar``.

    Of a path that is neither, nothing.

    Raises
    ------
    UsageError
        If an archive of a pattern is missing, or the pattern names too many.
    """
    if is_archive(pattern):
        return [path_of(pattern)]
    text = str(pattern)
    if not text.lower().endswith(ENDING) or not _BRACES.search(text):
        return []
    found = _expanded(text)
    for each in found:
        if not is_remote(each) and not is_archive(each):
            raise UsageError(f"{each}, of the pattern {text}, is no file; check the numbers of the pattern")
    return list(map(path_of, found))


def _expanded(text: str) -> list[str]:
    """Return the texts of a pattern with braces, as a shell expands ranges and alternatives."""
    pieces, count = _BRACES.split(text), 1
    choices: list[list[str]] = []
    for index, piece in enumerate(pieces):
        choices.append(_choices(piece, text) if index % 2 else [piece])
        count *= len(choices[-1])
        if count > _MANY:
            raise UsageError(f"the pattern {text} names more than {_MANY:,d} files; give a folder of archives")
    return ["".join(each) for each in product(*choices)]


def _choices(piece: str, text: str) -> list[str]:
    if bounds := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", piece):
        first, last = int(bounds[1]), int(bounds[2])
        if abs(last - first) >= _MANY:
            raise UsageError(f"the pattern {text} names more than {_MANY:,d} files; give a folder of archives")
        padded = any(each.startswith("0") and len(each) > 1 for each in bounds.groups())
        width = max(map(len, bounds.groups())) if padded else 0
        step = 1 if last >= first else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    return piece.split(",") if "," in piece else [f"{{{piece}}}"]


def image_members(archive: Path | str) -> Iterator[Member]:
    """Yield the members of an archive that may be images, in its order; see `list_files`."""
    return (member for member in members(archive) if not _is_other(member.name))


def members_of(archive: Path, keep_broken: bool) -> Iterator[Path]:
    """Yield the paths of these; of an archive that cannot be read its own, if it is to be kept, else it raises."""
    try:
        yield from [member.path for member in image_members(archive)]
    except DataError:
        if not keep_broken:
            raise
        # Reading it says why.
        yield archive


def _is_other(name: str) -> bool:
    parts = name.split("/")
    return (
        any(map(is_hidden, parts))
        or any(part.startswith("__") and part.endswith("__") for part in parts)
        or is_document(parts[-1])
        or parts[-1].rpartition(".")[2].lower() in _OTHERS
    )


def read_shards(archives: Sequence[Path]) -> list[Row]:
    """Return the samples of archives, each labelled by a ``cls``, ``json`` or ``txt`` file, or else by its folder.

    Where no sample of any archive has a label, every image is one, of the class of the first folders that differ, as
    in a folder of class folders. The part is what a JSON file, the folder or the name of the archive says.

    Raises
    ------
    DataError
        If an archive is damaged or holds no image, or a label is.
    """
    rows = [row for archive in archives for row in _samples(archive)]
    if not any(row.label is not None for row in rows):
        rows = _by_folder(archives)
    if not rows:
        raise DataError(f"{archives[0]} holds no images; give archives of images and their labels")
    return rows


def _samples(archive: Path) -> Iterator[Row]:
    """Yield the row of each sample that holds an image."""
    samples: dict[str, dict[str, Member]] = {}
    for member in members(archive):
        match = _SAMPLE.fullmatch(member.name)
        key, ending = (match[1], match[2].lower()) if match else (member.name, "")
        samples.setdefault(key, {}).setdefault(ending, member)
    part, crowded = split_named(archive.stem), 0
    found = list[tuple[Member, dict[str, Member]]]()
    for files in samples.values():
        images = [member for member in files.values() if not _is_other(member.name)]
        crowded += len(images) > 1
        found += [(images[0], files)] if images else []
    for row in map_at_once(lambda sample: _row(*sample), found, is_remote(archive)):
        yield row if row.split is not None else row._replace(split=part)
    if crowded and any(each in files for files in samples.values() for each in _LABELS):
        warn(f"{crowded} samples of {archive} hold more than one image; the first of each counts")


def _row(image: Member, files: Mapping[str, Member]) -> Row:
    row = Row(str(image), image.path)
    if "json" in files:
        item, place = _parsed(files["json"]), str(files["json"])
        described = {"labels" if isinstance(item, list) else "label": item}
        row = sample_of(place, image.path, item if isinstance(item, dict) else described)
    for ending in _LABELS:
        if (ending in files and row.label is None) or (ending.startswith("cls") and ending in files):
            text, place = _text(files[ending]), str(files[ending])
            several = text.startswith("[") and ending != "txt"
            label = _parsed(files[ending]) if several else text
            return row._replace(line=place, label=label, several=several)
    return row


def _text(member: Member) -> str:
    if member.size > _LARGEST_LABEL:
        raise DataError(f"{member} holds {member.size:,d} bytes, which is no label; leave it out of the archive")
    with member.open() as file:
        return file.read().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").strip()


def _parsed(member: Member) -> Any:
    try:
        return parsed_object(_text(member))
    except RecursionError:
        raise DataError(f"{member} is nested too deeply; give an object with a label") from None
    except ValueError as error:
        raise DataError(f"{member} is not JSON: {error}; give an object with a label") from None


def _by_folder(archives: Sequence[Path]) -> list[Row]:
    rows = [
        (Row(str(each), each.path, split=split_named(archive.stem)), PurePosixPath(each.name).parts)
        for archive in archives
        for each in image_members(archive)
    ]
    return rows_by_folder(rows)


def rows_by_folder(rows: list[tuple[Row, tuple[str, ...]]]) -> list[Row]:
    """Return rows labelled by folders.

    Parameters
    ----------
    rows : list of (row, tuple of str)
        The names on the way to each image, of which the last is its own.
    """
    depth = 0
    while len({parts[depth] for _, parts in rows}) == 1 and all(len(parts) > depth + 2 for _, parts in rows):
        depth += 1
    named = {name: split_kind(name) for name in {parts[depth] for _, parts in rows}}
    if "train" in named.values() and len(set(named.values())) > 1 and None not in named.values():
        rows = [(row._replace(split=named[parts[depth]]), parts) for row, parts in rows]
        depth += 1
    return [row._replace(label=parts[depth] if len(parts) > depth + 1 else None) for row, parts in rows]
