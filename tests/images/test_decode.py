import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from aurevoir.errors import AurevoirError, UsageError
from aurevoir.images.decode import UnreadableImageError, check_resize, decode

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def photo(height=40, width=60, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, size=(4, 6, 3), dtype="uint8")
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def assert_all(pixels, colour, tolerance=0):
    assert np.abs(pixels.astype("int64") - colour).max() <= tolerance


def png(width, height, depth=1, colour=0):
    """A PNG of zeros, written without holding its pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    line = bytes(1 + -(-width * depth // 8))
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (24, 50), (50, 24), (224, 224)])
def test_pixels_are_uint8_of_height_width_and_three(tmp_path, size, resize):
    pixels = decode(saved(tmp_path, photo()), size, resize)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, 3)


def test_rgb_of_the_right_size_is_left_as_it_is(tmp_path):
    image = photo(30, 20)
    np.testing.assert_array_equal(decode(saved(tmp_path, image), (30, 20)), np.asarray(image))


def test_a_path_may_be_text(tmp_path):
    path = saved(tmp_path, photo())
    np.testing.assert_array_equal(decode(str(path), (8, 8)), decode(path, (8, 8)))


@pytest.mark.parametrize("name", ["a.bmp", "a.tiff", "a.webp", "a.ppm", "a.gif", "no_extension"])
def test_the_format_is_read_from_the_file_and_not_from_its_name(tmp_path, name):
    kind = {"no_extension": "PNG"}.get(name)
    path = saved(tmp_path, Image.new("RGB", (9, 9), RED), name, format=kind)
    assert_all(decode(path.rename(tmp_path / "renamed.jpg"), (5, 5)), RED, 2)


def test_palette_colours_are_looked_up(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *BLUE])
    assert_all(decode(saved(tmp_path, image), (8, 8)), BLUE)


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    image.putpalette([*RED, *BLUE])
    pixels = decode(saved(tmp_path, image, transparency=1), (8, 8))
    assert_all(pixels[:, :4], RED)
    assert_all(pixels[:, 4:], WHITE)


def test_partial_transparency_of_a_palette_mixes_with_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, *BLUE])
    assert_all(decode(saved(tmp_path, image, transparency=bytes([51, 255])), (8, 8)), (255, 204, 204), 1)


def test_rgb_with_a_transparent_colour_is_white_there(tmp_path):
    image = Image.new("RGB", (8, 8), GREEN)
    image.paste(RED, (0, 0, 4, 8))
    pixels = decode(saved(tmp_path, image, transparency=GREEN), (8, 8))
    assert_all(pixels[:, :4], RED)
    assert_all(pixels[:, 4:], WHITE)


@pytest.mark.parametrize(("alpha", "expected"), [(255, RED), (0, WHITE), (51, (255, 204, 204))])
def test_rgba_is_laid_on_white(tmp_path, alpha, expected):
    assert_all(decode(saved(tmp_path, Image.new("RGBA", (8, 8), (*RED, alpha))), (8, 8)), expected, 1)


@pytest.mark.parametrize(("alpha", "expected"), [(255, 0), (0, 255), (51, 204)])
def test_grey_with_alpha_is_laid_on_white(tmp_path, alpha, expected):
    assert_all(decode(saved(tmp_path, Image.new("LA", (8, 8), (0, alpha))), (8, 8)), (expected,) * 3, 1)


@pytest.mark.parametrize("name", ["grey.png", "grey.jpg"])
def test_grey_is_the_same_in_three_channels(tmp_path, name):
    pixels = decode(saved(tmp_path, Image.new("L", (16, 16), 77), name), (8, 8))
    assert_all(pixels, (77, 77, 77))


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.new("1", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    pixels = decode(saved(tmp_path, image), (8, 8))
    assert_all(pixels[:, :4], (0, 0, 0))
    assert_all(pixels[:, 4:], WHITE)


@pytest.mark.parametrize(("cmyk", "rgb"), [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED), ((0, 0, 0, 255), (0, 0, 0))])
def test_cmyk_jpeg_becomes_rgb(tmp_path, cmyk, rgb):
    path = saved(tmp_path, Image.new("CMYK", (32, 32), cmyk), "cmyk.jpg", quality=95)
    assert_all(decode(path, (8, 8)), rgb, 4)


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    values = np.array([[0, 255, 256, 511], [512, 0x7FFF, 0x8000, 0xFFFF]], dtype="uint16")
    pixels = decode(saved(tmp_path, Image.fromarray(values)), (2, 4))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))


def test_integers_up_to_sixteen_bits_keep_their_upper_eight(tmp_path):
    values = np.array([[0, 256], [0x7FFF, 0xFFFF]], dtype="int32")
    pixels = decode(saved(tmp_path, Image.fromarray(values), "a.tiff"), (2, 2))
    np.testing.assert_array_equal(pixels[..., 0], values >> 8)


@pytest.mark.parametrize("value", [-1, 0x10000])
def test_integers_beyond_sixteen_bits_are_refused(tmp_path, value):
    path = saved(tmp_path, Image.fromarray(np.full((4, 4), value, dtype="int32")), "a.tiff")
    with pytest.raises(UnreadableImageError, match="beyond 16 bits"):
        decode(path, (4, 4))


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.full((4, 4), 0.5, dtype="float32")), "a.tiff")
    with pytest.raises(UnreadableImageError, match="floating-point"):
        decode(path, (4, 4))


def test_a_photograph_taken_upright_comes_out_upright(tmp_path):
    upright = Image.new("RGB", (32, 64), BLUE)
    upright.paste(RED, (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    # Orientation 6: turned a quarter clockwise to be seen, hence stored a quarter turned back.
    path = saved(tmp_path, upright.transpose(Image.Transpose.ROTATE_90), "photo.jpg", exif=exif, quality=95)
    pixels = decode(path, (64, 32))
    assert_all(pixels[:28], RED, 12)
    assert_all(pixels[36:], BLUE, 12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(tmp_path, orientation):
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = photo(24, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, upright if stored is None else upright.transpose(stored), exif=exif)
    np.testing.assert_array_equal(decode(path, (24, 16)), np.asarray(upright))


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, GREEN)]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    with Image.open(path) as moving:
        assert moving.n_frames == 3
    assert_all(decode(path, (8, 8)), RED)


def quarters(height, width):
    """Left and right quarters red and blue, the half between green."""
    image = Image.new("RGB", (width, height), GREEN)
    image.paste(RED, (0, 0, width // 4, height))
    image.paste(BLUE, (3 * width // 4, 0, width, height))
    return image


def test_stretch_shows_the_whole_image(tmp_path):
    pixels = decode(saved(tmp_path, quarters(64, 128)), (64, 64), "stretch")
    assert_all(pixels[:, :14], RED)
    assert_all(pixels[:, 18:46], GREEN)
    assert_all(pixels[:, 50:], BLUE)


def test_crop_shows_the_centre_in_its_proportions(tmp_path):
    assert_all(decode(saved(tmp_path, quarters(64, 128)), (32, 32), "crop"), GREEN, 40)
    tall = quarters(64, 128).transpose(Image.Transpose.ROTATE_90)
    assert_all(decode(saved(tmp_path, tall), (32, 32), "crop"), GREEN, 40)


def test_crop_to_the_image_s_own_proportions_loses_nothing(tmp_path):
    path = saved(tmp_path, quarters(64, 128))
    difference = decode(path, (32, 64), "crop").astype("int64") - decode(path, (32, 64), "stretch")
    assert np.abs(difference).max() <= 2


def test_stretch_is_the_default(tmp_path):
    path = saved(tmp_path, quarters(64, 128))
    np.testing.assert_array_equal(decode(path, (16, 16)), decode(path, (16, 16), "stretch"))


def test_a_large_photograph_shrinks_to_what_plain_resizing_gives(tmp_path):
    image = photo(600, 900)
    pixels = decode(saved(tmp_path, image, "large.jpg", quality=95), (40, 60))
    plain = np.asarray(image.resize((60, 40), Image.Resampling.BILINEAR)).astype("int64")
    assert np.abs(pixels - plain).mean() < 3


def test_a_photograph_shrunk_to_a_half_keeps_its_detail(tmp_path):
    blocks = (
        np.random.default_rng(0).integers(0, 256, size=(30, 45, 3), dtype="uint8").repeat(8, axis=0).repeat(8, axis=1)
    )
    path = saved(tmp_path, Image.fromarray(blocks), "detail.jpg", quality=95, subsampling=0)
    plain = np.asarray(Image.fromarray(blocks).resize((180, 120), Image.Resampling.BILINEAR)).astype("int64")
    assert np.abs(decode(path, (120, 180)) - plain).mean() < 4


def test_a_row_that_pillow_has_no_memory_for_is_the_file_s_fault(tmp_path):
    path, rows = tmp_path / "long.png", zlib.compress(b"")
    kinds = ((b"IHDR", struct.pack(">IIBBBBB", 10**8, 1, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in kinds
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(UnreadableImageError, match="100000000 x 1 pixels are more in a row than Pillow decodes"):
        decode(path, (28, 28))


def test_a_large_image_within_the_limit_is_read(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png(5000, 4000))
    assert_all(decode(path, (16, 16)), (0, 0, 0))


def test_a_small_file_that_unfolds_past_the_limit_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(20_000, 20_000))
    assert path.stat().st_size < 2**20
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode(path, (16, 16))


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(UnreadableImageError, match="empty"):
        decode(path, (8, 8))


@pytest.mark.parametrize("name", ["whole.jpg", "whole.png", "whole.webp", "whole.tiff", "whole.bmp"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_file_is_refused_with_a_reason(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 256, size=(64, 64, 3), dtype="uint8")
    path = saved(tmp_path, Image.fromarray(noise), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnreadableImageError) as error:
        decode(path, (8, 8))
    assert len(str(error.value)) > 10


def test_a_truncated_jpeg_is_called_truncated(tmp_path):
    path = saved(tmp_path, photo(200, 200), "whole.jpg")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode(path, (8, 8))


@pytest.mark.parametrize("content", [b"not an image at all\n", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_what_is_no_image_is_refused_whatever_its_name(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError) as error:
        decode(path, (8, 8))
    assert str(error.value)


def test_text_is_called_no_image_without_its_path(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("not an image")
    with pytest.raises(UnreadableImageError, match="not an image that Pillow can identify"):
        decode(path, (8, 8))


@pytest.mark.parametrize("name", ["missing.jpg", "."])
def test_a_missing_file_or_a_folder_is_unreadable(tmp_path, name):
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / name, (8, 8))


def test_random_damage_gives_pixels_or_an_unreadable_image(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "damaged"
    for name in ("a.jpg", "a.png", "a.gif", "a.tiff", "a.webp", "a.bmp"):
        whole = np.frombuffer(saved(tmp_path, photo(), name).read_bytes(), dtype="uint8")
        for _ in range(25):
            damaged = whole.copy()
            damaged[random.integers(0, len(damaged), size=4)] = random.integers(0, 256, size=4)
            path.write_bytes(damaged.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert decode(path, (8, 8)).shape == (8, 8, 3)
                except UnreadableImageError as error:
                    assert str(error)


def test_an_unreadable_image_is_an_error_of_ours():
    assert issubclass(UnreadableImageError, AurevoirError)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_check_resize_returns_what_is_known(resize):
    assert check_resize(resize) == resize


@pytest.mark.parametrize("resize", ["", "pad", "Crop"])
def test_check_resize_refuses_what_is_not_known(resize):
    with pytest.raises(UsageError, match="stretch, crop"):
        check_resize(resize)


def test_one_channel_is_grayscale(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype="uint8")
    Image.fromarray(colours).save(tmp_path / "c.png")
    found = decode(tmp_path / "c.png", (12, 12), channels=1)
    np.testing.assert_array_equal(found[..., 0], np.asarray(Image.fromarray(colours).convert("L")))
    Image.fromarray(colours[..., 0]).save(tmp_path / "g.png")
    np.testing.assert_array_equal(decode(tmp_path / "g.png", (12, 12), channels=1)[..., 0], colours[..., 0])
