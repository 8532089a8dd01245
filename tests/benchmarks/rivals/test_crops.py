import numpy as np
import pytest
from PIL import Image

from aurevoir.benchmarks.rivals.crops import crops, decode_whole
from aurevoir.images.decode import UnreadableImageError


def test_an_image_is_decoded_at_its_own_size_and_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 70, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_whole(tmp_path / "a.png"), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(decode_whole(tmp_path / "turned.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize(("content", "fault"), [(b"", "empty"), (b"text", "not an image")])
def test_an_unreadable_file_says_why(tmp_path, content, fault):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=fault):
        decode_whole(tmp_path / "a.jpg")


def test_crops_show_their_own_part():
    pixels = np.zeros((40, 60, 3), dtype="uint8")
    pixels[:, 30:] = 200
    parts = crops(pixels, np.array([[0, 0, 30, 30], [30.0, 10, 60, 40], [0, 0, 60, 40]]), (8, 12))
    assert parts.shape == (3, 8, 12, 3)
    # The filter of the pixels on the border reaches across it.
    assert (parts[0][:, :-1].max(), parts[1][:, 1:].min()) == (0, 200)
    assert (parts[2][:, :5].max(), parts[2][:, 7:].min()) == (0, 200)
    assert crops(pixels, np.empty((0, 4)), (8, 12)).shape == (0, 8, 12, 3)
