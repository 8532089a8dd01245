"""List images in folders and archives at URLs, with labels from folders."""

from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from .archives import ENDING, exists, is_file
from .remote import files_under
from .shards import members_of, named_archives, read_shards, rows_by_folder
from .sources import is_document, is_hidden, split_kind
from .tables import LISTS, METADATA, TABLES, Row, is_metadata, place_of, read_table

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
"""Endings of what is taken for an image without asking its server."""


def images_at_url(url: Path, keep_missing: bool) -> Iterator[Path]:
    """Yield the images that a URL leads to; see `labelled.images_at`.

    Raises
    ------
    UsageError
        If it does not exist.
    """
    kind = url.suffix.lower()
    if kind in LISTS:
        yield from dict.fromkeys(row.path for row in read_table(url, labelled=False))
    elif archives := named_archives(url):
        for archive in archives:
            yield from members_of(archive, keep_missing)
    elif (keep_missing and kind in _IMAGES) or is_file(url):
        yield url
    elif exists(url) or not keep_missing:
        images, archives, _ = _sorted_out(url)
        yield from images or [path for archive in archives for path in members_of(archive, keep_missing)]
    else:
        yield url


def rows_at_url(url: Path) -> tuple[Path, list[Row], bool]:
    """Return the rows of a table, of archives, or of a folder: of its tables, its folders or its archives.

    Returns
    -------
    source : Path
        What names them.
    rows : list of Row
    by_folder : bool
        Whether the first folder of each may be the part that it is of.

    Raises
    ------
    UsageError
        If there are none.
    """
    if url.suffix.lower() in TABLES:
        return url, read_table(url), False
    if archives := named_archives(url):
        return url, read_shards(archives), False
    images, archives, tables = _sorted_out(url)
    tables = [table for table in tables if is_metadata(table)]
    if table := next((table for table in tables if table.parent == url), None):
        return table, read_table(table), True
    if rows := [row for table in tables for row in _rows_of_part(table)]:
        return url, rows, False
    if images:
        depth = len(url.parts)
        return url, rows_by_folder([(Row(str(path), path), path.parts[depth:]) for path in images]), False
    return url, read_shards(archives), False


def _sorted_out(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return what may be images in a folder, the archives, and the tables beside them that may label them."""
    if folder.parts[0] in ("http:", "https:"):
        raise UsageError(f"{folder} is no file that is known, and web servers list no folders; give a table of URLs")
    depth = len(folder.parts)
    try:
        found = files_under(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be listed: {error}; check the address and your access") from None
    files = [path for path in found if not any(map(is_hidden, path.parts[depth:]))]
    images = [path for path in files if not is_document(path.name)]
    archives = [path for path in files if path.suffix.lower() == ENDING]
    if not images and not archives:
        raise UsageError(f"{folder} holds no images, or its server does not list it; check the address and your access")
    return images, archives, [path for path in files if path.name in METADATA and len(path.parts) <= depth + 2]


def _rows_of_part(table: Path) -> list[Row]:
    """Return the rows of a table in a folder whose name says which part of the data it is."""
    if (part := split_kind(table.parent.name)) is None:
        return []
    return [row._replace(line=place_of(table, row.line), split=row.split or part) for row in read_table(table)]
