"""Files of few bytes that would take minutes to decode."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from aurevoir.errors import DataError
from aurevoir.images.bombs import refuse_bomb
from aurevoir.images.decode import UnreadableImageError, decode

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype="uint8"))


def saved(kind="JPEG", image=PHOTO, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def enlarged(jpeg, width, height):
    return jpeg.replace(struct.pack(">HH", 40, 50), struct.pack(">HH", height, width), 1)


def segment(kind, data):
    return bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data


EMPTY_SCAN = segment(0xDA, b"\1\1\0\1\x3f\x10")
"""Of one component, which refines nothing."""


def refused(data):
    file = BytesIO(data)
    with pytest.raises(DataError) as caught:
        refuse_bomb(file)
    return str(caught.value)


@pytest.mark.parametrize("junk", [b"", b"\xff" * 9, b"\0\0"])
def test_scans_of_a_jpeg_are_counted_where_there_may_be_several(tmp_path, junk):
    progressive = saved(progressive=True)
    progressive = progressive[:20] + junk + progressive[20:-2]
    assert "1,012 scans of 2,000 pixels" in refused(progressive + EMPTY_SCAN * 1002)
    assert "111 scans of 100,000,000 pixels" in refused(enlarged(progressive, 10_000, 10_000) + EMPTY_SCAN * 101)
    (tmp_path / "a.jpg").write_bytes(progressive + EMPTY_SCAN * 1002)
    with pytest.raises(UnreadableImageError, match="take too long to decode; save it again"):
        decode(tmp_path / "a.jpg", (8, 8))
    # A first scan of some of the components may have others behind it without being progressive.
    some = saved().replace(segment(0xDA, b"\3\1\0\2\x11\3\x11\0\x3f\0"), segment(0xDA, b"\1\1\0\0\x3f\0"))
    assert "1,001 scans" in refused(some + segment(0xDA, b"\1\2\x11\0\x3f\0") * 1000)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "exif": bytes(60_000)}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_encoders_write_is_read(tmp_path, options, mode):
    data = saved(image=PHOTO.convert(mode), **options)
    for given in (data, data[:2] + b"\xff" * 50 + data[2:], data + EMPTY_SCAN * (0 if options else 5000)):
        (tmp_path / "a.jpg").write_bytes(given)
        assert decode(tmp_path / "a.jpg", (8, 8)).shape == (8, 8, 3)


def test_a_jpeg_of_a_long_header_is_refused():
    data = saved()
    assert "within 33,6" in refused(data[:2] + segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 520 + data[2:])
    for junk in (b"\xff", b"\0"):
        assert "do not begin within" in refused(data[:20] + junk * 100_000 + data[20:])
    for end in range(2, len(data)):
        refuse_bomb(BytesIO(data[:end]))


def tiff(order, big, kind, count):
    """Return a TIFF of one entry in its directory."""
    mark, wide = (43, "Q") if big else (42, "L")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", mark)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}L", 8)
    return head + struct.pack(f"{order}{'Q' if big else 'H'}HH{wide}{wide}", 1, 273, kind, count, 0)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_strips_and_tiles_of_a_tiff_are_counted(order, big):
    assert "a list of 65,537 numbers, of strips or tiles" in refused(tiff(order, big, 4, 65_537))
    assert "a list of 4,294,967,295 numbers" in refused(tiff(order, big, 3, 2**32 - 1))
    for kind, count in ((4, 65_536), (7, 10_000_000), (2, 10_000_000)):
        refuse_bomb(BytesIO(tiff(order, big, kind, count)))
    whole = tiff(order, big, 4, 65_537)
    for end in range(len(whole)):
        refuse_bomb(BytesIO(whole[:end]))
    several = bytearray(whole)
    several[16 if big else 8 : 18 if big else 10] = struct.pack(f"{order}H", 9)
    assert "a list of 65,537 numbers" in refused(bytes(several))


@pytest.mark.parametrize(("name", "kind"), [("a.jp2", "JPEG2000"), ("a.icns", "ICNS"), ("a.blp", "BLP")])
def test_jpeg_2000_and_what_may_hold_it_or_a_jpeg_is_not_decoded(tmp_path, name, kind):
    (PHOTO.quantize() if kind == "BLP" else PHOTO).save(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=f"{kind} are not decoded: .* convert it to PNG"):
        decode(tmp_path / name, (8, 8))
