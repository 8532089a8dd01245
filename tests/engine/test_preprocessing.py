"""Normalization as users write it."""

import numpy as np
import pytest

from aurevoir.engine.preprocessing import IMAGENET, RAW, SYMMETRIC, Preprocessing, check_normalization, resolve
from aurevoir.errors import UsageError

HALF = Preprocessing((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    "given",
    [
        "0.5,0.5,0.5/0.5,0.5,0.5",
        "0.5/0.5",
        "((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))",
        "[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]",
        "127.5,127.5,127.5/127.5,127.5,127.5",
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (np.full(3, 0.5), [0.5] * 3),
        "symmetric",
        HALF,
    ],
)
def test_one_normalization_has_many_forms(given):
    assert resolve(given, IMAGENET) == HALF == SYMMETRIC


def test_the_range_that_a_network_wants_is_named():
    pixels = np.array([0, 51, 255], dtype="uint8").reshape(1, 1, 1, 3)
    for name, expected in {"none": [0, 51, 255], "unit": [0, 0.2, 1], "symmetric": [-1, -0.6, 1]}.items():
        np.testing.assert_allclose(resolve(name, IMAGENET).apply(pixels).ravel(), expected, atol=1e-4)


def test_caffe_is_bgr_less_the_means_and_so_are_its_numbers():
    pixels = np.array([200, 100, 50], dtype="uint8").reshape(1, 1, 1, 3)
    expected = [50 - 103.939, 100 - 116.779, 200 - 123.68]
    for given in ("caffe", "103.939,116.779,123.68/1,1,1:bgr", ((103.939, 116.779, 123.68), (1, 1, 1), "BGR")):
        found = resolve(given, IMAGENET)
        assert found.channel_order == "BGR"
        np.testing.assert_allclose(found.apply(pixels).ravel(), expected, rtol=1e-4)


def test_names_take_bgr_and_keep_the_mean_of_each_colour():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), dtype="uint8")
    plain, turned = resolve("imagenet", IMAGENET), resolve("imagenet:bgr", IMAGENET)
    np.testing.assert_array_equal(turned.apply(pixels), plain.apply(pixels)[:, ::-1])
    assert resolve("data:bgr", IMAGENET, lambda: ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))).mean == (0.3, 0.2, 0.1)


def test_auto_is_the_networks_own_and_other_channels_take_the_average():
    assert resolve("auto", HALF) == HALF
    gray = resolve("imagenet", Preprocessing((0.0,), (1.0,)))
    assert gray.mean == pytest.approx((0.449,), abs=1e-3)
    assert len(gray.std) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cifar", "normalization 'cifar' is not known; give auto, data, imagenet, none"),
        ("0.5,0.5/0.5", "must be 2 means and 2 positive standard deviations"),
        ("0.5,x/1,1", "is not known"),
        ("((0.5,", "is not known"),
        ("imagenet:grb", "'rgb' or 'bgr'"),
        (((0.5,), (0.5,), "GRB"), "'RGB' or 'BGR'"),
        ("nan/1", "positive standard deviations"),
        ("0.5/0", "positive standard deviations"),
        (3, "is not known"),
        ("", "is not known"),
    ],
)
def test_what_is_no_normalization_is_refused_before_any_work(given, message):
    with pytest.raises(UsageError, match=message):
        check_normalization(given)


@pytest.mark.parametrize("given", ["0.5,0.5/0.5,0.5", "caffe", "unit:bgr"])
def test_what_does_not_fit_the_channels_is_refused(given):
    with pytest.raises(UsageError, match=r"channel"):
        resolve(given, Preprocessing((0.5,), (0.5,)))


@pytest.mark.parametrize("name", ["imagenet", "none", "unit", "symmetric", "caffe", "unit:bgr", "0.1,0.2,0.3/1,1,0.5"])
def test_it_describes_itself_as_it_is_given(name):
    assert resolve(name, RAW).describe() == name
