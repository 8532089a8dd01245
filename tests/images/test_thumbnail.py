"""Thumbnails: small, upright, of the image's own shape, and nothing of the file but its pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from aurevoir.images.decode import decode
from aurevoir.images.thumbnail import SIDE, thumbnail, thumbnails


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.fixture
def write(tmp_path):
    """Write a photograph-like image of some size; returns its path."""

    def run(name, width, height, **options):
        ramp = np.add.outer(np.arange(height), np.arange(width)) % 256
        path = tmp_path / name
        Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2).astype("uint8")).save(path, **options)
        return path

    return run


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(
    ("size", "small"), [((1200, 600), (SIDE, SIDE // 2)), ((600, 1200), (SIDE // 2, SIDE)), ((50, 40), (50, 40))]
)
def test_it_keeps_the_aspect_ratio_and_enlarges_nothing(write, name, size, small):
    made = opened(thumbnail(write(name, *size)))
    assert (made.format, made.size) == ("JPEG", small)


def test_it_shows_the_whole_image(write):
    path = write("a.png", 800, 400)
    whole = Image.open(path).resize((SIDE, SIDE // 2), Image.Resampling.BOX)
    made = np.asarray(opened(thumbnail(path))).astype("int64")
    assert np.abs(made - np.asarray(whole)).mean() < 12


def test_it_is_turned_as_exif_says_and_holds_no_metadata(write):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    data = thumbnail(write("a.jpg", 1200, 600, exif=exif))
    assert opened(data).size == (SIDE // 2, SIDE)
    assert b"where I live" not in data
    assert not opened(data).getexif()


def test_some_tens_of_them_are_small_and_the_same_every_time(write, data):
    photographs = sorted(data("clothing10").rglob("*.jpg"))[:20]
    made = thumbnails(photographs)
    assert made == thumbnails(photographs)
    assert max(map(len, made)) < 16_000


def test_what_cannot_be_read_has_none(write, tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"no image")
    whole = write("a.png", 100, 100)
    assert [each is None for each in thumbnails([whole, tmp_path / "b.jpg", tmp_path / "none.jpg"])] == [
        False,
        True,
        True,
    ]


def test_decode_fits_an_image_within_a_size(write):
    assert decode(write("a.png", 300, 100), (60, 60), "contain").shape == (20, 60, 3)
    assert decode(write("b.png", 300, 100), (60, 60), "contain", channels=1).shape == (20, 60, 1)
