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


def summed(block):
    """Return a header of 512 bytes with the right sum."""
    unsummed = block[:148] + b" " * 8 + block[156:]
    return unsummed[:148] + f"{sum(unsummed):06o}\0 ".encode() + unsummed[156:]


def records(**values):
    """Return records of a pax header by key."""
    found = b""
    for key, value in values.items():
        text = f" {key}={value}\n".encode()
        length = next(n for n in range(len(text), len(text) + 9) if n == len(str(n)) + len(text))
        found += str(length).encode() + text
    return found
