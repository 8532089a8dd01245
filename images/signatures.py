"""What the first bytes of a file say it is, and PNG files without their comments."""

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_KINDS = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"PK\x03\x04": "a ZIP archive or an office document",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a Git LFS pointer; fetch the image with `git lfs pull`",
    b"RIFF": "a RIFF file, such as a video",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"{": "JSON",
    b"II*\0": "a TIFF file of another layout of pixels; convert it to PNG",
    b"MM\0*": "a TIFF file of another layout of pixels; convert it to PNG",
}


def is_png(data: bytes) -> bool:
    """Return whether data begin as a PNG file."""
    return data.startswith(_PNG)


def is_heif(head: bytes) -> bool:
    """Return whether a file of these first 12 bytes is an HEIC or HEIF image."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def describe(head: bytes) -> str | None:
    """Return what a file is that Pillow cannot identify, from its first bytes, and how to read it; None if unknown."""
    if is_heif(head):
        return "an HEIC image, which needs pillow-heif: pip install 'aurevoir[heic]'"
    if head[4:8] == b"ftyp":
        avif = head[8:12] in (b"avif", b"avis")
        return "an AVIF image, which needs a newer Pillow: pip install 'pillow>=11.3'" if avif else "a video"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in text:
        return "an SVG drawing; convert it to PNG"
    if text.startswith(b"<?xml"):
        return "an XML document"
    return next((kind for start, kind in _KINDS.items() if head.startswith(start)), None)


def without_text(png: bytes) -> bytes:
    """Return a PNG file without the chunks that hold text or a colour profile; a truncated rest is kept as it is."""
    kept, place = [_PNG], len(_PNG)
    while place + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, place)
        end = place + 12 + length
        if png[place + 4 : place + 8] not in _PNG_TEXT:
            kept.append(png[place:end])
        place = end
    return b"".join([*kept, png[place:]])
