import numpy as np
import pytest

from aurevoir.benchmarks.rivals.yolo import boxed_images, read_boxes
from aurevoir.errors import DataError, UsageError


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "a.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_boxes_are_corners_within_the_image(written):
    boxes = read_boxes(written("7 0.5 0.5 0.2 0.4\r\n\n0 0.1 0.9 0.4 0.2\n"))
    assert boxes.classes.tolist() == [7, 0]
    np.testing.assert_allclose(boxes.corners, [[0.4, 0.3, 0.6, 0.7], [0, 0.8, 0.3, 1]])
    assert read_boxes(written("")).corners.shape == (0, 4)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 0.2", "4 fields instead of 5"),
        ("0 0.1 0.1 0.2 0.1 0.3 0.3", "7 fields instead of 5"),
        ("dog 0.5 0.5 0.2 0.2", "class 'dog' is not a whole number"),
        ("-1 0.5 0.5 0.2 0.2", "class '-1'"),
        ("1.0 0.5 0.5 0.2 0.2", "class '1.0'"),
        ("9999999999 0.5 0.5 0.2 0.2", "class '9999999999'"),
        ("0 0.5 O.5 0.2 0.2", "y 'O.5' is not a number"),
        ("0 320 0.5 0.2 0.2", "x 320 is not a share"),
        ("0 0.5 0.5 nan 0.2", "width nan is not a share"),
        ("0 0.5 0.5 0.2 0", "height 0 is not a share"),
        (b"0 0.5 0.5 0.2 \xff", "height '\ufffd' is not a number"),
    ],
)
def test_a_malformed_line_is_named(written, line, fault):
    path = written(b"0 0.5 0.5 0.2 0.2\n\n" + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(DataError) as caught:
        read_boxes(path)
    assert str(caught.value).startswith(f"{path}, line 3: {fault}")
    assert "class x y width height" in str(caught.value)


def test_images_go_with_their_label_files(tmp_path):
    for name in ("images/b.png", "images/deep/a.jpg", "images/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="labels is not a folder"):
        boxed_images(tmp_path)
    (tmp_path / "labels" / "deep").mkdir(parents=True)
    with pytest.raises(DataError, match="none of the 3 images"):
        boxed_images(tmp_path)
    (tmp_path / "labels" / "deep" / "a.txt").write_text("3 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.2 0.2")
    (tmp_path / "labels" / "b.txt").write_text("1 0.5 0.5 0.1 0.1")
    found = boxed_images(tmp_path)
    assert [path.name for path in found.paths] == ["b.png", "c.jpg", "a.jpg"]
    assert [boxes.classes.tolist() for boxes in found.boxes] == [[1], [], [3, 3]]
    with pytest.raises(UsageError, match="does not exist"):
        boxed_images(tmp_path / "nowhere")
