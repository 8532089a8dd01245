"""TensorRT's calibration cache: reading, writing, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurevoir.calibration.trt_cache import Cache, read_cache, write_cache
from aurevoir.errors import AurevoirError, UsageError

TENSORRT_8 = b"""TRT-8601-EntropyCalibration2
images: 3c010a14
168: 3dc6cf6e
(Unnamed Layer* 4) [Fully Connected]_output: 3d65992f
/conv1/Conv_output_0: 3f9db09c
"""
TENSORRT_10 = b"""TRT-100300-MinMaxCalibration
input: 3c010204
net: block: 1: 40b7daf4
dead: 00000000
"""

NAMES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)
SIZES = st.floats(0, exclude_min=False, allow_nan=False, allow_infinity=False, width=32).map(abs)
HEADERS = st.builds(
    "TRT-{}-{}".format,
    st.integers(1000, 9999) | st.integers(100_000, 999_999),
    st.sampled_from(["EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration"]),
)


def test_a_file_of_tensorrt_8():
    cache = read_cache(TENSORRT_8)
    assert (cache.header, cache.algorithm) == ("TRT-8601-EntropyCalibration2", "EntropyCalibration2")
    assert cache.version == (8, 6, 1)
    assert list(cache.thresholds) == [
        "images",
        "168",
        "(Unnamed Layer* 4) [Fully Connected]_output",
        "/conv1/Conv_output_0",
    ]
    # 3c010a14 is 2^-7 (1 + 0x010a14 / 2^23), and amax is 127 of it.
    assert cache.thresholds["images"] == 127 * 2.0**-7 * (1 + 0x010A14 / 2**23)
    assert write_cache(cache.thresholds, cache.header) == TENSORRT_8


def test_a_file_of_tensorrt_10():
    cache = read_cache(TENSORRT_10)
    assert (cache.algorithm, cache.version) == ("MinMaxCalibration", (10, 3, 0))
    assert list(cache.thresholds) == ["input", "net: block: 1", "dead"]
    assert cache.thresholds["input"] == pytest.approx(1, rel=1e-7)
    assert cache.thresholds["dead"] == 0
    assert write_cache(cache.thresholds, cache.header) == TENSORRT_10


@pytest.mark.parametrize(
    ("number", "version"),
    [("5102", (5, 1, 2)), ("7103", (7, 1, 3)), ("9300", (9, 3, 0)), ("101600", (10, 16, 0)), ("110401", (11, 4, 1))],
)
def test_version_numbers(number, version):
    assert read_cache(f"TRT-{number}-EntropyCalibration\n".encode()) == Cache(
        f"TRT-{number}-EntropyCalibration", "EntropyCalibration", version, {}
    )


@settings(deadline=None)
@given(st.dictionaries(NAMES, SIZES), HEADERS)
def test_files_come_back_byte_for_byte(scales, header):
    lines = [header, *(f"{name}: {np.float32(scale).view('uint32'):08x}" for name, scale in scales.items())]
    data = "".join(f"{line}\n" for line in lines).encode()
    cache = read_cache(data)
    assert cache.thresholds == {name: scale * 127 for name, scale in scales.items()}
    assert write_cache(cache.thresholds, cache.header) == data


@given(st.dictionaries(NAMES, st.floats(1e-30, 1e30)))
def test_thresholds_come_back_to_float32(thresholds):
    assert read_cache(write_cache(thresholds)).thresholds == pytest.approx(thresholds, rel=2.0**-24)


@pytest.mark.parametrize(
    "data",
    [TENSORRT_8.replace(b"\n", b"\r\n"), TENSORRT_8.rstrip(), TENSORRT_8 + b"\n\r\n", TENSORRT_8.replace(b"a1", b"A1")],
    ids=["windows", "no last line end", "empty last lines", "capitals"],
)
def test_other_writers_files_read_alike(data):
    assert read_cache(data) == read_cache(TENSORRT_8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"line 1: '': expected TRT-<version>-<algorithm>"),
        (b"input: 3c010a14\n", r"line 1: 'input: 3c010a14': expected TRT-<version>"),
        (b"TRT-8XXX-EntropyCalibration2\n", r"line 1: 'TRT-8XXX-EntropyCalibration2': expected"),
        (b"TRT-86010-EntropyCalibration2\n", r"line 1: 'TRT-86010-EntropyCalibration2': expected"),
        (TENSORRT_8.replace(b"168:", b"168"), r"line 3: '168 3dc6cf6e': expected <tensor>: <eight hex"),
        (TENSORRT_8.replace(b"3dc6cf6e", b"3dc6cf6"), r"line 3: '168: 3dc6cf6': expected"),
        (TENSORRT_8.replace(b"3dc6cf6e", b"0x3dc6cf"), r"line 3: '168: 0x3dc6cf': expected"),
        (TENSORRT_8.replace(b"168: ", b": "), r"line 3: ': 3dc6cf6e': expected"),
        (TENSORRT_8.replace(b"168: 3dc6cf6e", b""), r"line 3: '': expected"),
        (TENSORRT_8.replace(b"168:", b"images:"), r"line 3: 'images: 3dc6cf6e': tensor images is repeated"),
        (
            TENSORRT_8.replace(b"3dc6cf6e", b"7fc00000"),
            r"line 3: .*its scale is nan; expected a finite, non-negative scale",
        ),
        (TENSORRT_8.replace(b"3dc6cf6e", b"7f800000"), r"line 3: .*its scale is inf"),
        (TENSORRT_8.replace(b"3dc6cf6e", b"ff800000"), r"line 3: .*its scale is -inf"),
        (TENSORRT_8.replace(b"3dc6cf6e", b"bc010a14"), r"line 3: .*its scale is -0.0078.*non-negative"),
        (TENSORRT_8.replace(b"168", b"\xff\xfe"), r"byte 46 is not UTF-8 text"),
        (TENSORRT_8 + b"x" * 10_000, r"line 6: 'x{80}\.\.\.': expected"),
    ],
)
def test_damaged_files_are_refused(data, message):
    with pytest.raises(AurevoirError, match=message):
        read_cache(data)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -1.0, 1e300])
def test_thresholds_without_a_scale_are_not_written(threshold):
    with pytest.raises(AurevoirError, match="of conv7 is not finite and non-negative"):
        write_cache({"conv7": threshold})


@pytest.mark.parametrize("name", ["", "a\nb", "a\r"])
def test_names_that_do_not_fit_a_line_are_not_written(name):
    with pytest.raises(AurevoirError, match="is empty or contains a line break"):
        write_cache({name: 1.0})


def test_a_malformed_version_is_not_written():
    with pytest.raises(UsageError, match=r"version '8.6.1': expected TRT-<version>-<algorithm>"):
        write_cache({}, "8.6.1")
