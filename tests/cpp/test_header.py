"""The header of the C++ examples decodes and resizes as Python does, and reads what `aurevoir export` writes."""

import json
import subprocess
from itertools import product

import numpy as np
import PIL
import pytest
from PIL import Image

from aurevoir.images.decode import decode

MOST = int(int(PIL.__version__.partition(".")[0]) < 13)
"""Levels that a pixel may differ by: the header has the order of axes of Pillow 13."""


def photograph(height, width, mode="RGB", seed=0):
    """A smooth image with noise in it."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (8, 8, 3), dtype="uint8")
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype("uint8")
    return Image.fromarray(noisy).convert(mode)


@pytest.fixture
def apart(header):
    """A function from files and how the engine takes them to the largest difference of a pixel from Python's."""

    def measure(paths, size=(224, 224), channels=3, resize="stretch"):
        code, found, err = header("pixels", *size, channels, resize, *paths)
        assert (code, err) == (0, "")
        expected = np.stack([decode(path, size, resize, channels) for path in paths])
        found = np.frombuffer(found, "uint8").reshape(expected.shape)
        return int(np.abs(found.astype(int) - expected).max())

    return measure


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_photographs_have_python_s_pixels(apart, data, resize):
    paths = [
        path
        for folder in ("hymenoptera/val/ants", "caltech10", "coco254/images")
        for path in sorted(data(folder).rglob("*.jp*g"))[::40][:12]
    ]
    assert len(paths) >= 15
    assert apart(paths, resize=resize) <= MOST
    assert apart(paths[::3], (260, 200), 1, resize) <= MOST


@pytest.mark.parametrize("size", [(9, 7), (40, 1000), (300, 300), (63, 447), (1800, 2401), (2600, 300), (130, 129)])
def test_images_of_any_size_are_resized_as_by_python(apart, tmp_path, size):
    photograph(*size).save(tmp_path / "x.jpg", quality=90)
    for resize, target in product(("stretch", "crop"), ((64, 64), (96, 50))):
        assert apart([tmp_path / "x.jpg"], target, resize=resize) <= MOST, (resize, target)


def test_images_of_other_kinds(apart, tmp_path):
    kinds = {
        "grayscale": ("L", {}),
        "progressive": ("RGB", {"progressive": True}),
        "whole": ("RGB", {"subsampling": 0}),
        "halved": ("RGB", {"subsampling": 1}),
    }
    for name, (mode, options) in kinds.items():
        photograph(151, 203, mode).save(tmp_path / f"{name}.jpg", **options)
    for channels in (3, 1):
        assert apart([tmp_path / f"{name}.jpg" for name in kinds], (64, 64), channels) <= MOST


@pytest.mark.parametrize("orientation", range(10))
def test_photographs_are_turned_upright(apart, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x10F], exif[0x112] = "a maker", orientation
    photograph(60, 90).save(tmp_path / "x.jpg", exif=exif)
    assert apart([tmp_path / "x.jpg"], (50, 40)) <= MOST


def test_damaged_exif_turns_nothing(apart, tmp_path):
    for number, exif in enumerate([b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff"]):
        photograph(60, 90).save(tmp_path / f"{number}.jpg", exif=exif)
    assert apart([tmp_path / "0.jpg", tmp_path / "1.jpg"], (50, 40)) <= MOST


def test_what_is_no_whole_jpeg_is_refused(header, tmp_path):
    photograph(100, 100).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    photograph(100, 100).save(tmp_path / "png.jpg", format="PNG")
    photograph(100, 100, "CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("truncated", "empty", "text", "png", "cmyk", "missing"):
        code, _, err = header("pixels", 32, 32, 3, "stretch", tmp_path / f"{name}.jpg")
        assert code == 1
        assert err.startswith(f"error: {tmp_path / name}.jpg")
        assert err.count("\n") == 1


def test_bytes_changed_anywhere_do_no_harm(header, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    photograph(80, 60).save(tmp_path / "x.jpg", exif=exif, quality=50)
    whole = (tmp_path / "x.jpg").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(whole)
        for place in random.integers(0, min(len(whole), 700), 3):
            changed[place] = random.integers(256)
        (tmp_path / "y.jpg").write_bytes(changed)
        code, _, err = header("pixels", 32, 32, 3, "stretch", tmp_path / "y.jpg")
        assert code in (0, 1)
        assert "Sanitizer" not in err
        assert "runtime error" not in err


def test_labels_are_python_s(header):
    labels = ["ant", "", 'a "b" \\ /', "tab\tline\nend", "grün", "蜂", "🐝", "\udcff\udc80x", "\x01\x7f", "]},[{"]
    code, found, _ = header("labels", json.dumps(labels))
    assert code == 0
    assert [each.decode(errors="surrogateescape") for each in found.split(b"\0")[:-1]] == labels
    assert header("labels", "[]")[:2] == (0, b"")
    plain = json.dumps(labels[:7], indent=1, ensure_ascii=False)
    assert found.startswith(header("labels", plain)[1])
    assert header("labels", plain)[1].count(b"\0") == 7


def test_objects_are_read_whatever_their_layout(header):
    content = {"schema": "a/1", "labels": ["x, }", "]"], "height": 224, "none": [], "last": "y"}
    for indent in (None, 1):
        text = json.dumps(content, indent=indent)
        code, found, _ = header("object", text)
        lines = dict(line.split("=", 1) for line in found.decode().replace("\n  ", " ").splitlines() if "=" in line)
        assert (code, lines["schema"], lines["height"].strip(), lines["last"]) == (0, "a/1", "224", "y")
        assert header("object", "{}")[:2] == (0, b"")


@pytest.mark.parametrize("text", ["", "[", '["', '["\\', '["\\u12', '["a"', '["a" "b"]', "{", '["\\ud800\\u'])
def test_json_that_ends_early_is_an_error(header, text):
    code, found, err = header("labels", text)
    assert (code, found) == (1, b"")
    assert err.startswith("error: ")


def test_the_subset_of_onnxruntime_s_declarations_is_its_header_s(root):
    """Only where the header is: the wheel has none."""
    command = ["g++", "-std=c++17", "-fsyntax-only", "-I", str(root / "examples" / "cpp"), "-I/usr/include/onnxruntime"]
    source = root / "tests" / "cpp" / "check_subset.cpp"
    try:
        done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no g++ on this machine")
    if "onnxruntime_c_api.h: No such file" in done.stderr:
        pytest.skip("no header of ONNX Runtime on this machine")
    assert done.returncode == 0, done.stderr
