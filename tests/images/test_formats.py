"""Image files as cameras, scanners and editors write them, and what is called an image and is none."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from aurevoir.images.batches import ImageFiles
from aurevoir.images.decode import UnreadableImageError, decode

RAMP = np.linspace(0, 4095, 64).astype("uint16").reshape(8, 8)


def reason(path):
    with pytest.raises(UnreadableImageError) as error:
        decode(path, (8, 8))
    return str(error.value)


def tiff(rows, bits, photometric):
    """A TIFF file of 8 x 8 grey pixels."""
    tags = [
        (256, 8),
        (257, 8),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 122),
        (277, 1),
        (278, 8),
        (279, len(rows)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rows


def packed(values):
    return b"".join(int("".join(f"{value:012b}" for value in row), 2).to_bytes(12, "big") for row in values)


def test_twelve_bits_span_black_to_white(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(packed(RAMP), 12, 1))
    np.testing.assert_array_equal(decode(tmp_path / "a.tif", (8, 8))[..., 1], RAMP >> 4)
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095\n" + RAMP.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(tmp_path / "a.pgm", (8, 8))[..., 1], RAMP >> 4)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_span_black_to_white(tmp_path, name):
    Image.fromarray(RAMP * 16).save(tmp_path / name)
    np.testing.assert_array_equal(decode(tmp_path / name, (8, 8))[..., 0], RAMP >> 4)


def test_a_negative_of_sixteen_bits_is_turned(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff((RAMP * 16).astype("<u2").tobytes(), 16, 0))
    np.testing.assert_array_equal(decode(tmp_path / "a.tif", (8, 8))[..., 0], 255 - (RAMP >> 4))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["text", "profile"])
def test_a_png_with_a_large_comment_or_profile_is_read(tmp_path, compressed, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype="uint8")
    notes = PngImagePlugin.PngInfo()
    options = {}
    if kind == "text":
        for number in range(1 if compressed else 70):
            notes.add_text(f"note{number}", "x" * ((2 << 20) - 9 * number), zip=compressed)
    else:
        options = {"icc_profile": bytes(4 << 20)}
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=notes, **options)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", (16, 16)), pixels)
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    assert limits == (1 << 20, 64 << 20)


def test_a_png_with_a_large_comment_keeps_its_orientation(tmp_path):
    image = Image.new("RGB", (8, 16), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    notes = PngImagePlugin.PngInfo()
    notes.add_text("XML:com.adobe.xmp", "x" * (2 << 20), zip=True)
    image.paste("blue", (0, 0, 4, 16))
    image.save(tmp_path / "a.png", pnginfo=notes, exif=exif)
    np.testing.assert_array_equal(
        decode(tmp_path / "a.png", (8, 16)), np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    )


@pytest.mark.parametrize("name", ["a.apng", "a.webp", "a.tif"])
def test_of_several_frames_or_pages_the_first_is_taken(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    kind = {"a.apng": {"format": "PNG"}, "a.webp": {"lossless": True}}.get(name, {})
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **kind)
    assert (decode(tmp_path / name, (8, 8)) == (255, 0, 0)).all()


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 40))).save(tmp_path / "a.heic")
    assert np.abs(decode(tmp_path / "a.heic", (8, 8)).astype(int) - (200, 30, 40)).max() < 4
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:200])
    assert "HEIC image" in reason(tmp_path / "cut.heic")


def test_heic_without_pillow_heif_names_the_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.init()
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind not in ("HEIF", "AVIF")])
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert "an HEIC image, which needs pillow-heif: pip install 'aurevoir[heic]'" in reason(tmp_path / "a.jpg")
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(100))
    assert "an AVIF image, which needs a newer Pillow: pip install" in reason(tmp_path / "a.avif")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\n <!DOCTYPE html><html><body>404", "an HTML page"),
        (b"\xef\xbb\xbf<HTML>", "an HTML page"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing; convert it to PNG"),
        (b"<?xml version='1.0'?><annotation/>", "an XML document"),
        (b"PK\x03\x04", "a ZIP archive or an office document"),
        (b"\0\0\0\x20ftypisom", "a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer; fetch the image with `git lfs pull`"),
        (tiff(packed(RAMP), 12, 0), "a TIFF file of another layout of pixels; convert it to PNG"),
    ],
)
def test_what_is_called_an_image_and_is_none_is_named(tmp_path, content, kind):
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason(tmp_path / "a.jpg") == f"not an image that Pillow can identify: {kind}"


def test_a_png_called_jpg_in_capitals_is_read(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "A.JPG", format="PNG")
    assert (decode(tmp_path / "A.JPG", (8, 8)) == (255, 0, 0)).all()


@pytest.mark.timeout(30)
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason(tmp_path / "fifo.jpg") == "a FIFO, not a file"
    assert reason(tmp_path / "folder.jpg") == "a folder, not a file"
    assert reason(tmp_path / "link.jpg") == "a broken link"
    assert reason(tmp_path / "loop.jpg") == "too many levels of symbolic links"
    assert reason(tmp_path / "gone.jpg") == "does not exist (FileNotFoundError)"
    assert reason("/dev/zero") == "a device, not a file"


def test_a_file_without_permission_is_skipped_with_the_reason(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    if os.geteuid() == 0:  # root may read it nevertheless

        def refuse(*arguments, **options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.open", refuse)
    assert reason(tmp_path / "a.png") == "permission denied"


def test_files_that_vanish_while_others_are_read_are_skipped(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    files = ImageFiles([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"], (8, 8), workers=1)
    (tmp_path / "b.png").unlink()
    assert [indices.tolist() for indices, _ in files.batches()] == [[0, 2]]
    assert files.skipped == {str(tmp_path / "b.png"): "does not exist (FileNotFoundError)"}


def test_too_many_pixels_are_a_clear_reason(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(b"")]
    data = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))
    assert "more pixels than Pillow decodes safely" in reason(tmp_path / "bomb.png")
    assert "10000000000 pixels" in reason(tmp_path / "bomb.png")
