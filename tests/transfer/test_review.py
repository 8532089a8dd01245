"""Which training images to look at again: labels that leave-one-out contradicts, and copies."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from aurevoir import OpticalClassifier, load
from aurevoir.errors import UsageError
from aurevoir.images.sources import class_folders
from aurevoir.transfer.copies import Copy
from aurevoir.transfer.review import REASONS, Review, Suspect, suspects, suspicion


def test_the_least_suspicious_is_what_looks_like_its_label_alone():
    labels = np.array([0, 0, 0, 1])
    scores = np.array([[1.0, -1, -1], [-0.1, 0.0, -1], [-0.9, 0.6, -1], [-1.0, 0.9, 0.8]])
    assert suspicion(scores, labels).tolist() == pytest.approx([1.5, -0.1, -1.2, 0.5])


def test_contradicted_labels_come_with_the_preferred_one_and_both_probabilities():
    labels = np.array([0, 0, 0, 1, 2] * 20)
    scores = np.tile([[0.9, -1, -1], [-0.1, 0.0, -1], [-0.9, 0.6, -1], [-1.0, 0.9, 0.8], [-1, -0.5, 0.7]], (20, 1))
    found = suspects(scores, labels, np.ones(100), ["a", "b", "c"])
    images = [each.image for each in found]
    assert (sorted(images[:20]), sorted(images[20:])) == ([*range(2, 100, 5)], [*range(1, 100, 5)])
    assert {(each.label, each.suggested) for each in found} == {("a", "b")}
    assert all(0 < each.probability < each.suggested_probability < 1 for each in found)
    assert found[0].probability < found[-1].probability


def test_of_several_labels_the_one_that_is_contradicted_most_is_changed():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]] * 10)
    scores = np.tile([[0.8, -0.3, -0.9], [0.9, -0.8, 0.6], [-0.7, 0.9, -0.8]], (10, 1))
    found = suspects(scores, labels, np.ones(30), ["cat", "dog", "bird"])
    assert [each.image for each in found] == [*range(1, 30, 3), *range(0, 30, 3)]
    assert (found[0].label, found[0].suggested) == (["cat"], ["cat", "bird"])
    assert (found[-1].label, found[-1].suggested) == (["cat", "dog"], ["cat"])
    assert all(each.probability + each.suggested_probability == pytest.approx(1) for each in found)


def digits(share):
    """Return features of real digits, their labels with some changed, which, and all labels as they were."""
    X, y = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    X, y = (X - X.mean(axis=0))[:500], y[:500]
    which = random.choice(len(y), round(share * len(y)), replace=False)
    changed = y.copy()
    changed[which] = (y[which] + random.integers(1, 10, len(which))) % 10
    return X, changed, which, y


def test_changed_labels_of_real_digits_are_the_first(tmp_path):
    X, changed, which, y = digits(0.05)
    OpticalClassifier(projection="exact").fit(X, changed).save(tmp_path / "model")
    found = load(tmp_path / "model").review()
    assert found.images == tuple(map(str, range(len(y))))
    first = [each.image for each in found.suspects[: len(which)]]
    assert np.isin(first, which).mean() > 0.9
    right = [each.suggested == y[each.image] for each in found.suspects[: len(which)]]
    assert np.mean(right) > 0.8
    assert not found.leaks


def test_several_kernels_are_better_than_the_models_own():
    X, changed, which, _ = digits(0.2)
    classifier = OpticalClassifier(projection="none").fit(X, changed)

    def share():
        return np.isin([each.image for each in classifier.review().suspects[: len(which)]], which).mean()

    several = share()
    # Beyond the memory budget the model's own scores are used.
    classifier.memory_budget = 2**20
    own = share()
    assert several > own > 0.5


def test_nothing_is_kept_nothing_is_reviewed(tmp_path):
    X, y = load_digits(return_X_y=True)
    OpticalClassifier(projection="none").fit(X[:100], y[:100]).save(tmp_path / "model", training=False)
    with pytest.raises(UsageError, match="does not hold the bits"):
        load(tmp_path / "model").review()


@pytest.fixture
def photographs(data, tmp_path):
    """Folders of real photographs, of which some were copied: within a class, to the other, and to the test images."""
    for name in ("ants", "bees"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "test" / name).mkdir(parents=True)
        for number, path in enumerate(sorted((data("hymenoptera/train") / name).iterdir())[:40]):
            part = "photos" if number < 30 else "test"
            (tmp_path / part / name / path.name).symlink_to(path)
    ants = sorted((tmp_path / "photos" / "ants").iterdir())

    def copied(path, target, mirrored=False, scale=0.5):
        image = Image.open(path).convert("RGB")
        image = ImageOps.mirror(image) if mirrored else image
        image.resize([round(side * scale) for side in image.size]).save(target, quality=70)
        return str(target), str(path), mirrored

    copies = {
        "copies": [
            copied(ants[0], tmp_path / "photos/ants/zz0.jpg"),
            copied(ants[1], tmp_path / "photos/ants/zz1.jpg", mirrored=True),
        ],
        "conflicts": [copied(ants[2], tmp_path / "photos/bees/zz2.jpg", mirrored=True, scale=1)],
        "leaks": [
            copied(ants[3], tmp_path / "test/ants/zz3.jpg"),
            copied(ants[4], tmp_path / "test/bees/zz4.jpg", mirrored=True),
        ],
    }
    return tmp_path, copies


def test_copies_of_real_photographs_are_found_and_no_others(photographs, mobilenet):
    folder, expected = photographs
    classifier = OpticalClassifier(mobilenet, smoke=False).fit(folder / "photos")
    (folder / "test" / "ants" / "broken.jpg").write_bytes(b"no image")
    found = classifier.review(folder / "test")
    assert list(found.skipped) == [str(folder / "test/ants/broken.jpg")]
    lists = found.lists()
    for kind in ("copies", "conflicts"):
        pairs = [(row["path"], row["other"], row["mirrored"]) for row in lists[kind]]
        assert sorted(pairs) == sorted(expected[kind])
    assert sorted((row["other"], row["path"], row["mirrored"]) for row in lists["leaks"]) == sorted(expected["leaks"])
    (conflict,) = lists["conflicts"]
    assert (conflict["label"], conflict["other_label"]) == ("bees", "ants")
    assert len(found.tested) == 22


def test_rows_name_each_image_and_why():
    images, copy = ("a.jpg", "b.jpg", "c.jpg"), Copy(2, 0, True, 0.1, 0.05)
    found = Review(images, ["x", "y", "y"], [Suspect(1, "y", "x", 0.1, 0.8)], [copy], [Copy(1, 0, False, 0.2, None)])
    rows = found.rows()
    assert [(row["path"], row["reason"]) for row in rows] == [
        ("b.jpg", "label"),
        ("c.jpg", "conflict"),
        ("a.jpg", "conflict"),
        ("b.jpg", "copy"),
    ]
    assert {row["reason"] for row in rows} <= set(REASONS.values())
    assert (rows[0]["suggested"], rows[0]["suggested_probability"]) == ("x", 0.8)
    assert (rows[1]["other"], rows[1]["other_label"], rows[2]["other"]) == ("a.jpg", "x", "c.jpg")
    assert len(found.lists()["conflicts"]) == 1


def test_images_in_arrays_are_reviewed_by_their_bits_alone(tiny_onnx, class_folder):
    labelled = class_folders(class_folder)
    pixels = np.stack([np.asarray(Image.open(path).resize((28, 28))) for path in labelled.paths])
    labels = np.array(labelled.labels)
    classifier = OpticalClassifier(tiny_onnx).fit(np.concatenate([pixels, pixels[3:4]]), [*labels, labels[3]])
    found = classifier.review(pixels[5:7])
    assert (30, 3, None) in {(each.image, each.original, each.difference) for each in found.copies}
    assert {(each.image, each.original) for each in found.leaks} >= {(0, 5), (1, 6)}
