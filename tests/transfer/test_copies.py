"""Copies among images: proposed by bits, confirmed by pixels."""

import numpy as np
import pytest
from PIL import Image

from aurevoir.engine.feature_map import FeatureMap
from aurevoir.kernels.bits import pack_signs
from aurevoir.transfer.copies import SIDE, Compared, find_copies, find_shared, reduced

PLACES = FeatureMap(8, 4, 4)


@pytest.fixture
def compared():
    """Twenty images of random maps and pictures."""
    random = np.random.default_rng(0)
    maps = random.normal(size=(20, 8, 4, 4))
    pictures = random.integers(0, 256, size=(20, SIDE, SIDE)).astype("float32")
    return maps, pictures


def images(maps, pictures):
    return Compared(pack_signs(maps.reshape(len(maps), -1)), pictures.reshape(len(pictures), -1))


def changed(maps, pictures, share=0.05, noise=5.0):
    random = np.random.default_rng(1)
    signs = np.where(random.random(maps.shape) < share, -1, 1)
    return maps * signs, pictures + random.normal(0, noise, pictures.shape).astype("float32")


def test_a_copy_names_the_nearest_earlier_image_of_each_kind_of_label(compared):
    maps, pictures = compared
    near, far = changed(maps[:2], pictures[:2]), changed(maps[:1], pictures[:1], 0.1, 10)
    maps, pictures = (np.concatenate(each) for each in zip(compared, near, far, strict=True))
    labels = np.arange(23) % 2
    labels[[20, 21, 22]] = [0, 0, 0]
    same, other = find_copies(images(maps, pictures), labels)
    assert [(each.image, each.original) for each in same] == [(20, 0), (22, 0)]
    assert [(each.image, each.original) for each in other] == [(21, 1)]
    assert same[0].distance < same[1].distance
    assert same[0].difference < same[1].difference
    assert not any(each.mirrored for each in (*same, *other))


def test_a_mirrored_copy_is_known_by_its_map(compared):
    maps, pictures = compared
    turned = changed(maps[4:5, ..., ::-1], pictures[4:5, :, ::-1])
    maps, pictures = (np.concatenate(each) for each in zip(compared, turned, strict=True))
    same, _ = find_copies(images(maps, pictures), np.zeros(21, int), PLACES)
    assert [(each.image, each.original, each.mirrored) for each in same] == [(20, 4, True)]
    assert find_copies(images(maps, pictures), np.zeros(21, int)) == ([], [])


@pytest.mark.parametrize(("bits", "pixels"), [(True, False), (False, True)])
def test_bits_and_pixels_must_both_agree(compared, bits, pixels):
    maps, pictures = compared
    copied = changed(maps[:1], pictures[:1])
    maps = np.concatenate([maps, copied[0] if bits else -maps[:1]])
    pictures = np.concatenate([pictures, copied[1] if pixels else pictures[1:2]])
    same, _ = find_copies(images(maps, pictures), np.zeros(21, int))
    # The picture of another image was taken: nothing is like both.
    assert same == []


def test_where_a_file_cannot_be_read_few_bits_may_differ(compared):
    maps, pictures = compared
    near, far = changed(maps[:1], pictures[:1]), changed(maps[1:2], pictures[1:2], 0.35)
    maps, pictures = (np.concatenate(each) for each in zip(compared, near, far, strict=True))
    pictures[20:] = np.nan
    same, _ = find_copies(images(maps, pictures), np.zeros(22, int), PLACES)
    assert [(each.image, each.original, each.difference) for each in same] == [(20, 0, None)]


@pytest.mark.parametrize("budget", [1, None])
def test_copies_across_sets(compared, budget):
    maps, pictures = compared
    test = changed(maps[[7, 3]], pictures[[7, 3]])
    turned = maps[9:10, ..., ::-1], pictures[9:10, :, ::-1]
    strange = np.random.default_rng(5).normal(size=(1, 8, 4, 4)), np.zeros((1, SIDE, SIDE), "float32")
    others = images(*(np.concatenate(each) for each in zip(test, turned, strange, strict=True)))
    found = find_shared(others, images(maps, pictures), PLACES, budget)
    assert {(each.image, each.original, each.mirrored) for each in found} == {
        (0, 7, False),
        (1, 3, False),
        (2, 9, True),
    }
    assert found[0].image == 2
    none = Compared(others.bits[:0], None)
    assert find_shared(none, others) == find_shared(others, none) == []


def test_labels_of_several_classes_are_the_same_if_all_are(compared):
    maps, pictures = (np.concatenate([each, each[:2]]) for each in compared)
    labels = np.zeros((22, 3), int)
    labels[21, 2] = 1
    same, other = find_copies(images(maps, pictures), labels)
    assert [[(each.image, each.original) for each in found] for found in (same, other)] == [[(20, 0)], [(21, 1)]]


def test_pictures_are_small_and_gray_and_missing_where_a_file_is(class_folder):
    paths = [class_folder / "red" / "0.png", class_folder / "none.png", class_folder / "blue" / "1.png"]
    found = reduced(paths)
    assert (found.shape, found.dtype) == ((3, SIDE * SIDE), np.dtype("float32"))
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
    gray = np.asarray(Image.open(paths[0]).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert np.abs(found[0] - gray.reshape(-1)).mean() < 5
