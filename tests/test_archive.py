"""The engine file: the bytes that zipfile writes, and one way to read them."""

import hashlib
import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from mutations import damaged_bytes

from aurevoir.archive import MEMBERS, pack, unpack_bytes
from aurevoir.errors import AurevoirError

PARTS = {"manifest.json": b"{}", "model.onnx": b"x" * 300, "speeds.json": b""}


def sealed(body):
    return body + hashlib.sha256(body).hexdigest().encode()


def zipped(members, compression=zipfile.ZIP_STORED, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = compression
            for option, value in options.items():
                setattr(info, option, value)
            archive.writestr(info, data)
        archive.comment = b"0" * 64
    return sealed(buffer.getvalue()[:-64])


def test_the_bytes_are_those_of_zipfile():
    assert pack(PARTS) == zipped(PARTS.items())
    assert unpack_bytes(pack(PARTS), "e.engine") == PARTS
    with zipfile.ZipFile(io.BytesIO(pack(PARTS))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == PARTS


def field(data, signature, at, value, size=4):
    """Set a field of the last record of a signature; the checksum is repaired."""
    start = data.rindex(signature) + at
    return sealed(data[:start] + value.to_bytes(size, "little") + data[start + size : -64])


PACKED = pack(PARTS)
BOMB = zipped([("model.onnx", bytes(10_000_000))], zipfile.ZIP_DEFLATED)
LOCAL, ENTRY, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
HOSTILE = {
    "a bomb": (BOMB, "model.onnx is compressed or encrypted, not stored"),
    "bzip2": (zipped(PARTS.items(), zipfile.ZIP_BZIP2), "is compressed or encrypted"),
    "a strange part": (pack({**PARTS, "../../evil": b""}), "it holds '../../evil', which no engine file"),
    "a part twice": (zipped([*PARTS.items(), ("model.onnx", b"y")]), "it holds model.onnx twice"),
    "a manifest too long": (
        pack({"manifest.json": bytes(MEMBERS["manifest.json"] + 1)}),
        "1,048,577 bytes, and at most",
    ),
    "further fields": (zipped(PARTS.items(), extra=b"\1\0\0\0"), "has further fields or a comment"),
    "a comment": (zipped(PARTS.items(), comment=b"c"), "has further fields or a comment"),
    "encryption": (field(PACKED, ENTRY, 8, 1, 2), "is compressed or encrypted"),
    "a size that lies": (field(PACKED, ENTRY, 24, 2**32 - 1), "not stored"),
    "an offset that overlaps": (field(PACKED, ENTRY, 42, 0), "is not behind the part before it"),
    "an offset far outside": (field(PACKED, ENTRY, 42, 2**32 - 1), "is not behind the part before it"),
    "another name in front": (field(PACKED, LOCAL, 30, ord("S"), 1), "is described in two ways"),
    "another CRC in front": (field(PACKED, LOCAL, 14, 1), "is described in two ways"),
    "a count too large": (field(field(PACKED, END, 8, 60_000, 2), END, 10, 60_000, 2), "is not an engine file"),
    "a count too small": (field(field(PACKED, END, 8, 2, 2), END, 10, 2, 2), "bytes that belong to no part"),
    "zip64": (field(PACKED, END, 16, 2**32 - 1), "its directory is not where its end says"),
    "bytes in front": (sealed(b"#!/bin/sh\n" + PACKED[:-64]), "its directory is not where its end says"),
    "nothing": (sealed(b""), "is not an engine file"),
    "no zip": (sealed(bytes(100)), "its end is not that of one ZIP archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_of_a_right_digest_are_refused(name):
    data, message = HOSTILE[name]
    with pytest.raises(AurevoirError, match=message) as refused:
        unpack_bytes(data, "e.engine")
    assert str(refused.value).startswith("e.engine is not an engine file (")
    assert "\n" not in str(refused.value)


def test_both_sizes_and_the_crc_are_checked():
    lying = field(field(PACKED, ENTRY, 20, 9), ENTRY, 24, 9)
    with pytest.raises(AurevoirError, match="is not behind the part before it|is described in two ways"):
        unpack_bytes(lying, "e.engine")
    wrong = pack({"model.onnx": b"abc"})
    old = struct.pack("<I", 0x352441C2)
    assert wrong.count(old) == 2
    with pytest.raises(AurevoirError, match=r"the CRC of model.onnx is wrong"):
        unpack_bytes(sealed(wrong[:-64].replace(old, bytes(4))), "e.engine")


def test_what_would_be_too_large_is_not_written():
    class Huge(bytes):
        def __len__(self):
            return 1 << 32

    with pytest.raises(AurevoirError, match=r"holds 4 GiB at most, and model.onnx would exceed it"):
        pack({"model.onnx": Huge()})


@settings(max_examples=300, deadline=None)
@given(damaged_bytes(PACKED[:-64]))
def test_no_damage_raises_anything_else(body):
    try:
        parts = unpack_bytes(sealed(body), "e.engine")
    except AurevoirError as error:
        assert "\n" not in str(error)
    else:
        # What was damaged is the time, or who wrote it.
        assert {name: hashlib.sha256(data).digest() for name, data in parts.items()} == {
            name: hashlib.sha256(data).digest() for name, data in PARTS.items()
        }
