import numpy as np
import pytest
from sklearn.linear_model import Ridge

from aurevoir.benchmarks.rivals.crops import crops, decode_whole
from aurevoir.benchmarks.rivals.patches import (
    ALPHAS,
    EXPONENTS,
    SCALES,
    average_precisions,
    fit_patches,
    grid_patches,
    image_score,
    label_patches,
    probabilities,
    resample,
)
from aurevoir.benchmarks.rivals.yolo import boxed_images
from aurevoir.engine.build import build_engine
from aurevoir.errors import BudgetError, DataError, UsageError
from aurevoir.kernels.bits import pack_signs, unpack


@pytest.mark.parametrize(("height", "width"), [(256, 341), (341, 256), (256, 256), (31, 500), (1, 1)])
def test_patches_are_squares_inside_the_image_that_overlap_by_half(height, width):
    for scale in SCALES:
        corners = grid_patches(height, width, [scale])
        sides = corners[:, 2:] - corners[:, :2]
        np.testing.assert_allclose(sides, min(height, width) / scale)
        assert corners.min() == 0
        np.testing.assert_allclose(corners.max(axis=0)[2:], [width, height])
        assert (corners[:, 2:] <= [width, height]).all()
        for axis in (0, 1):
            starts = np.unique(corners[:, axis])
            assert (np.diff(starts) <= sides[0, 0] / 2 + 1e-9).all()


def test_the_grid_has_no_more_patches_than_it_needs():
    assert [len(grid_patches(100, 100, [scale])) for scale in (1, 1.5, 2, 5)] == [1, 4, 9, 81]
    assert [len(grid_patches(100, 150, [scale])) for scale in (1, 2)] == [2, 15]
    np.testing.assert_allclose(grid_patches(100, 150, [1, 1]), [[0, 0, 100, 100], [50, 0, 150, 100]] * 2)


@pytest.mark.parametrize("scales", [[], [0.9], [np.nan], [2, np.inf]])
def test_scales_that_leave_the_image_are_refused(scales):
    with pytest.raises(UsageError, match="scales"):
        grid_patches(10, 10, scales)


PATCH = np.array([[100.0, 100, 200, 200]])


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ((100, 100, 200, 200), True),
        ((100, 100, 200, 120), True),  # 20 % of the patch, and no less
        ((100, 100, 200, 119.9), False),
        ((100, 180, 200, 200), True),
        ((120, 120, 170, 160), True),
        ((120, 120, 160, 160), False),  # 16 % of the patch
        ((60, 100, 160, 200), True),  # 60 % of the box, and no less
        ((59, 100, 159, 200), False),
        ((100, 140, 200, 240), True),
        ((100, 141, 200, 241), False),
        ((0, 0, 300, 300), False),  # covers the patch, which shows a ninth of it
        ((200, 100, 300, 200), False),  # touches
        ((300, 300, 400, 400), False),
        ((150, 100, 150, 200), False),  # no area
    ],
)
def test_a_patch_shows_what_fills_a_fifth_of_it_and_lies_in_it_by_three_fifths(box, shown):
    labels = label_patches(PATCH, np.array([box], dtype="float64"), np.array([1]), 3)
    assert labels.tolist() == [[False, shown, False]]


def test_a_patch_takes_every_label_that_it_shows():
    patches = np.array([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10]])
    boxes = np.array([[0.0, 0, 5, 10], [5, 0, 10, 10], [12, 0, 18, 10], [12, 0, 19, 10]])
    labels = label_patches(patches, boxes, np.array([0, 2, 1, 1]), 3)
    np.testing.assert_array_equal(labels, [[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert not label_patches(patches, np.empty((0, 4)), np.empty(0, dtype=int), 3).any()


def test_no_class_and_no_background_drowns_the_others():
    labels = np.zeros((500, 3), dtype=bool)
    labels[:100, 0] = labels[100:103, 1] = labels[:5, 2] = True
    kept = resample(labels, 10, 20, 0)
    assert (np.diff(kept) > 0).all()
    assert labels[kept, 1].sum() == 3
    assert labels[kept, 2].sum() == 5
    assert 10 <= labels[kept, 0].sum() <= 15
    assert (~labels[kept].any(axis=1)).sum() == 20
    np.testing.assert_array_equal(kept, resample(labels, 10, 20, 0))
    assert not np.array_equal(kept, resample(labels, 10, 20, 1))
    assert len(resample(np.zeros((0, 3), dtype=bool), 10, 20, 0)) == 0


def test_an_image_scores_the_sum_of_powers_of_probabilities():
    probability = probabilities(np.array([[-3.0, -1, 0], [0.5, 1, 2]]))
    np.testing.assert_allclose(probability, [[0, 0, 0.5], [0.75, 1, 1]])
    np.testing.assert_allclose(image_score(probability, 3), [0.75**3, 1, 1 + 0.5**3])


def test_average_precision_is_known_only_of_classes_that_are_there():
    truth = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 1]], dtype=bool)
    scores = np.array([[0.9, 0.5, 0.9], [0.5, 0.5, 0.2], [0.1, 0.5, 0.5]])
    np.testing.assert_allclose(average_precisions(truth, scores), [(1 + 2 / 3) / 2, np.nan, (1 / 2 + 2 / 3) / 2])


def _drawn(images=24, patches=12, m=200, classes=4, noise=1.5):
    """Bits of patches that show one class or none, as a noisy code of it, and which."""
    random = np.random.default_rng(0)
    codes = random.normal(size=(classes + 1, m))
    shown = random.integers(0, classes, size=(images, 2))
    bits, labels = [], []
    for pair in shown:
        kinds = np.full(patches, classes)
        kinds[:2] = pair
        bits.append(pack_signs(codes[kinds] + noise * random.normal(size=(patches, m))))
        labels.append(kinds[:, None] == np.arange(classes))
    return bits, labels, np.array([each.any(axis=0) for each in labels]), m


@pytest.mark.parametrize("projection", ["none", "exact"])
def test_images_are_told_apart_by_a_few_of_their_patches(projection):
    bits, labels, truth, m = _drawn()
    fitted = fit_patches(bits[:16], labels[:16], truth[:16], m, projection, each=4, background=4)
    assert fitted.readout.kind == projection
    assert fitted.rows == sum(min(4, (~each.any(axis=1)).sum()) + each.any(axis=1).sum() for each in labels[:16])
    assert fitted.mean_average_precision > 0.9
    found = np.nanmean(average_precisions(truth[16:], fitted.scores(bits[16:])))
    assert found > 0.9
    assert truth[16:].mean() < 0.6
    # An image's score reads every one of its patches, in any order, and nothing else.
    scores = fitted.scores([bits[16], bits[16][::-1], bits[17]])
    np.testing.assert_allclose(scores[0], scores[1])
    np.testing.assert_allclose(scores[[0, 2]], fitted.scores(bits[16:18]))


def test_a_fit_is_that_of_its_seed():
    bits, labels, truth, m = _drawn()
    first, again, other = (fit_patches(bits, labels, truth, m, "exact", background=4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.scores(bits), again.scores(bits))
    assert (first.alpha, first.exponent) == (again.alpha, again.exponent)
    assert first.readout.rows.shape == other.readout.rows.shape
    assert not np.array_equal(first.readout.rows, other.readout.rows)


def test_alpha_and_exponent_are_the_best_on_images_left_out():
    bits, labels, truth, m = _drawn(noise=4)
    fitted = fit_patches(bits, labels, truth, m, each=99, background=99, folds=3, seed=5)
    rows = unpack(np.concatenate(bits), m, "float64")
    targets = np.where(np.concatenate(labels), 1.0, -1.0)
    fold = np.repeat(np.random.default_rng(5).permutation(len(bits)) % 3, [len(each) for each in bits])
    precisions = {}
    for alpha in np.array(ALPHAS) * np.square(rows - rows.mean(axis=0)).sum() / len(rows):
        scores = np.empty(targets.shape)
        for number in range(3):
            model = Ridge(alpha).fit(rows[fold != number], targets[fold != number])
            scores[fold == number] = model.predict(rows[fold == number])
        chances = ((1 + scores) / 2).clip(0, 1).reshape(len(bits), -1, truth.shape[1])
        for exponent in EXPONENTS:
            precisions[alpha, exponent] = average_precisions(truth, (chances**exponent).sum(axis=1)).mean()
    best = max(precisions, key=precisions.get)
    assert len(set(precisions.values())) > 5
    assert (fitted.alpha, fitted.exponent) == pytest.approx(best)
    assert fitted.mean_average_precision == pytest.approx(precisions[best])
    expected = Ridge(best[0]).fit(rows, targets).predict(rows[:12])
    np.testing.assert_allclose(fitted.readout.scores(bits[0]), expected, atol=1e-6)


def test_what_cannot_be_fitted_is_refused():
    bits, labels, truth, m = _drawn()
    with pytest.raises(UsageError, match="projection 'opu'"):
        fit_patches(bits, labels, truth, m, "opu")
    with pytest.raises(DataError, match="4 folds of 3 images"):
        fit_patches(bits[:3], labels[:3], truth[:3], m)
    with pytest.raises(DataError, match="none of 24 images has a patch that shows an object"):
        fit_patches(bits, [each & False for each in labels], truth, m)
    with pytest.raises(BudgetError, match="lower `each` or `background`"):
        fit_patches(bits, labels, truth, m, budget="64KiB")


def test_patches_of_real_photographs_beat_chance(data, mobilenet):
    boxed = boxed_images(data("coco254"))
    classes = np.array([2, 16, 60])  # cars, dogs and dining tables: seldom together
    chosen = [place for place, boxes in enumerate(boxed.boxes) if np.isin(classes, boxes.classes).any()]
    engine = build_engine(mobilenet, smoke=False)
    bits, labels, truth = [], [], np.zeros((len(chosen), len(classes)), dtype=bool)
    for place, image in enumerate(chosen):
        pixels = decode_whole(boxed.paths[image])
        height, width = pixels.shape[:2]
        corners = grid_patches(height, width, [1, 2])
        boxes = boxed.boxes[image]
        used = np.isin(boxes.classes, classes)
        columns = np.searchsorted(classes, boxes.classes[used])
        truth[place, columns] = True
        labels.append(
            label_patches(corners, boxes.corners[used] * [width, height, width, height], columns, len(classes))
        )
        bits.append(engine.bits(crops(pixels, corners, engine.input_shape[:2])))
    half = len(chosen) // 2
    fitted = fit_patches(bits[:half], labels[:half], truth[:half], engine.features)
    found = average_precisions(truth[half:], fitted.scores(bits[half:]))
    assert found.mean() > truth[half:].mean() + 0.2
