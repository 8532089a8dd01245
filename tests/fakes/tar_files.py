"""Tar archives with headers as they are wanted."""

import io
import tarfile


def header(name="a.jpg", size=3, kind=tarfile.REGTYPE, **options):
    """Return a header of a name, size and type."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for option, value in options.items():
        setattr(info, option, value)
    return info


def pack(path, *entries, form=tarfile.PAX_FORMAT):
    """Write an archive of pairs of a name or header and bytes, and return its path."""
    with tarfile.open(path, "w", format=form) as tar:
        for entry, content in entries:
            info = entry if isinstance(entry, tarfile.TarInfo) else header(entry, len(content))
            tar.addfile(info, io.BytesIO(content))
    return path
