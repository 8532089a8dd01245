"""Find files of the same content."""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from ..errors import DataError
from .archives import content_digest, is_file, signature, tail
from .remote import is_remote, map_at_once
from .sources import Label

_END = 8192


def shared_files(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return the files of `second` that are in `first` as well, each with the one there.

    Two files are the same if both names lead to one file, or their content is the same.
    """
    known = dict.fromkeys(first)
    found = []
    for group in same_files([*known, *(path for path in second if path not in known)]):
        inside = [path for path in group if path in known]
        found += [(inside[0], path) for path in group if path not in known and inside]
    return sorted([*found, *((path, path) for path in second if path in known)], key=lambda pair: pair[1])


def conflicting_labels(paths: Sequence[Path], labels: Sequence[Label]) -> list[tuple[Path, Path]]:
    """Return pairs of files of the same content under different labels, one pair for each such content."""
    by_path: dict[Path, set[Label]] = {}
    for path, label in zip(paths, labels, strict=True):
        by_path.setdefault(path, set()).add(label)
    found = [(path, path) for path, own in by_path.items() if len(own) > 1]
    for group in same_files(list(by_path)):
        pair = next((pair for pair in combinations(group, 2) if by_path[pair[0]] != by_path[pair[1]]), None)
        found += [pair] if pair else []
    return found


def same_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield the groups of two or more paths whose files have the same content; unreadable files are in no group.

    Only files of the same size are read: first the end, and if it agrees, all.
    """
    for alike in _groups(paths, _size):
        for similar in _groups(alike, _end):
            yield from _groups(similar, content_digest)


def _groups(paths: Sequence[Path], key: Callable[[Path], Hashable]) -> Iterator[list[Path]]:
    groups: dict[Hashable, list[Path]] = {}
    for path, value in zip(paths, _keys(paths, key), strict=True):
        if value is not None:
            groups.setdefault(value, []).append(path)
    yield from (group for group in groups.values() if len(group) > 1)


def _keys(paths: Sequence[Path], key: Callable[[Path], Hashable]) -> list[Hashable]:
    """Return the key of each file, None of one that cannot be read."""

    def found(path: Path) -> Hashable:
        try:
            return key(path)
        except (OSError, DataError):
            return None

    return map_at_once(found, paths, any(map(is_remote, paths)))


def _size(path: Path) -> int | None:
    return (signature(path)[0] or None) if is_file(path) else None


def _end(path: Path) -> bytes:
    return hashlib.sha256(tail(path, _END)).digest()
