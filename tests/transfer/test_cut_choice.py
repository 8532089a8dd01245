"""The cut by leave-one-out: the rule, the sample, and a classifier that chooses it."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

import aurevoir
from aurevoir.calibration.table import CalibrationTable
from aurevoir.engine.backbones.base import Cut
from aurevoir.engine.build import EngineBuilder
from aurevoir.engine.cut_candidates import cut_candidates
from aurevoir.engine.multi_cut import draft_cuts
from aurevoir.engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from aurevoir.errors import UsageError
from aurevoir.images.batches import ImageArray, ImageFiles
from aurevoir.kernels.ridge import RidgePath
from aurevoir.transfer.cut_choice import (
    SAMPLE,
    candidate_builders,
    candidates_of,
    choose_cut,
    choosing_kernels,
    sample_size,
    stratified_sample,
)
from aurevoir.transfer.cut_scores import Candidate, CutChoice, cheapest_within_error, correct, scored


def _right(*lost, n=100):
    """Rows of correctness of n images: all but the given ones."""
    rows = np.ones((len(lost), n))
    for row, which in zip(rows, lost, strict=True):
        row[list(which)] = 0
    return rows


def test_of_equals_the_cheapest_is_chosen():
    chosen, behind, errors = cheapest_within_error(_right([1], [1], [1]), [3, 1, 2], np.ones(100))
    assert chosen == 1
    assert not behind.any()
    assert not errors.any()


def test_a_cheaper_cut_within_half_a_paired_standard_error_is_chosen():
    # 20 images that only the first gets wrong, and 18 that only the second does: 0.02 below, error sqrt(0.38) / 10.
    rows = _right(range(20), range(50, 68))
    chosen, behind, errors = cheapest_within_error(rows, [1, 2], np.ones(100))
    assert behind == pytest.approx([0.02, 0])
    assert errors == pytest.approx([np.sqrt((0.38 - 0.02**2) / 100), 0])
    assert chosen == 0
    # As many errors more, but on images that both would get wrong: it is surely worse.
    assert cheapest_within_error(_right(range(20), range(18)), [1, 2], np.ones(100))[0] == 1
    assert cheapest_within_error(rows[::-1], [1, 2], np.ones(100))[0] == 0


def test_an_image_of_more_weight_counts_more():
    rows = _right([0], range(50, 55))
    assert cheapest_within_error(rows, [1, 2], np.ones(100))[0] == 0
    weights = np.ones(100)
    weights[0] = 1000
    assert cheapest_within_error(rows, [1, 2], weights)[0] == 1


def _path(scores, accuracy=1.0):
    found, one = np.asarray(scores, "float32"), np.ones(1)
    return RidgePath(one, np.array([accuracy]), one, 0, np.ones(found.shape), np.ones(found.shape[1]), found)


def test_correctness_is_that_of_the_highest_score_or_the_share_of_right_labels():
    path = _path([[0.5, -0.5], [0.1, 0.2]])
    assert correct(path, np.array([0, 0])).tolist() == [1, 0]
    assert correct(path, np.array([[1, 1], [1, 1]])).tolist() == [0.5, 1]


def test_the_reason_names_what_was_given_up_for_what():
    cuts = [Candidate(Cut("early", 100, 1, 40)), Candidate(Cut("late", 50, 2, 80))]
    right, wrong = [[1, -1]] * 10, [[1, -1]] * 4 + [[-1, 1]] * 6
    labels, weights = np.zeros(10, int), np.ones(10)
    chosen, scores = scored(cuts, [("none", _path(right)), ("rbf", _path(right))], labels, weights)
    assert CutChoice(scores, cuts[chosen].cut.name, 10, 10).reason.startswith("cut early: the highest")
    assert [score.projection for score in scores] == ["none", "rbf"]
    chosen, scores = scored(cuts, [("none", _path(wrong, 0.4)), ("rbf", _path(right))], labels, weights)
    assert chosen == 1
    assert scores[0].behind == pytest.approx(0.6)
    # The first is right on 5 images of 10, and the second on 6, of which one is among those.
    first, second = [[1, -1]] * 5 + [[-1, 1]] * 5, [[-1, 1]] * 4 + [[1, -1]] * 6
    chosen, scores = scored(cuts, [("none", _path(first, 0.5)), ("rbf", _path(second, 0.6))], labels, weights)
    reason = CutChoice(scores, cuts[chosen].cut.name, 10, 10).reason
    assert reason == (
        "cut early: within half a standard error of late, which scored highest, at 50% of the multiply-accumulates "
        "of late"
    )


def test_a_random_projection_is_compared_by_its_limit():
    assert choosing_kernels("auto") == ("none", "rbf")
    assert choosing_kernels("auto", layers=True) == ("none", "rbf", "layers")
    assert choosing_kernels("bits+rbf") == ("bits+rbf",)
    assert choosing_kernels("hadamard") == choosing_kernels("opu") == ("exact",)


def test_the_sample_has_each_class_by_its_share():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    found = stratified_sample(labels, 100, 0)
    assert len(found) == len(set(found.tolist())) == 100
    assert abs(np.bincount(labels[found]) - [60, 30, 10]).max() <= 1
    assert not np.array_equal(found, stratified_sample(labels, 100, 1))
    assert stratified_sample(labels, 2000, 0).tolist() == list(range(1000))
    assert len(stratified_sample(np.ones((50, 3), int), 20, 0)) == 20


def test_the_sample_fits_the_memory_budget():
    cuts = [Cut("a", 80_000, 1, 1), Cut("b", 8_000, 1, 2)]
    assert sample_size(cuts) == SAMPLE
    assert sample_size(cuts, 4 * 11_000 * 50) == 50


@pytest.fixture(scope="module")
def photos(data):
    folders = sorted(data("caltech10").iterdir())[:2]
    paths = [path for folder in folders for path in sorted(folder.iterdir())[:12]]
    return paths, np.repeat([folder.name for folder in folders], 12)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_joined_cuts_of_a_real_network_compute_what_each_cut_does(photos, mobilenet, precision):
    calibration = CalibrationSpec(data=photos[0], images=8, held_out=0)
    builder = EngineBuilder(NetworkSpec(backbone=mobilenet), calibration)
    engines, joined = draft_cuts(
        builder.at_cuts(["add_2", "add_7", "features"]),
        EngineSpec(precision=precision, runtime="openvino", smoke=False),
    )
    pixels = np.stack(list(next(iter(ImageFiles(photos[0], (224, 224)).batches(8)))[1]))
    found = joined.engine.run(pixels, ["bits", "pooled"])
    for engine, bits, pooled in zip(engines, joined.bits, joined.pooled, strict=True):
        own = engine.run(pixels, ["bits", "pooled"])
        differ = np.bitwise_count(own["bits"] ^ found["bits"][:, bits]).mean() / 8
        # Below fp32 OpenVINO rounds between layers where an output is taken.
        assert differ <= (0 if precision == "fp32" else 0.05)
        off = np.abs(own["pooled"] - found["pooled"][:, pooled]).mean() / np.abs(own["pooled"]).mean()
        assert off <= (0 if precision == "fp32" else 0.1)
        if engine.table is not None:
            assert CalibrationTable.from_json(engine.table.to_json()).graph == engine.manifest.graph


def test_a_classifier_chooses_its_cut_and_takes_over_what_was_computed(photos, mobilenet, tmp_path, monkeypatch):
    paths, labels = photos
    embedded = []
    from aurevoir.transfer import classifier as module

    original = module.embed
    monkeypatch.setattr(module, "embed", lambda *args, **options: embedded.append(1) or original(*args, **options))
    made = aurevoir.OpticalClassifier(str(mobilenet), cut="auto", runtime="openvino", smoke=False)
    made = pickle.loads(pickle.dumps(clone(made)))
    assert made.get_params()["cut"] == "auto"
    made.fit(paths, labels)
    choice = made.cut_choice_
    assert choice.images == choice.of == len(paths)
    assert made.engine_.manifest.cut == choice.chosen in [score.cut for score in choice.scores]
    assert [score.layers for score in choice.scores] == [0] * 6 + [5]
    assert (choice.layers, made.engine_.manifest.pooled_layers) == (0, ())
    assert not embedded
    given = aurevoir.OpticalClassifier(engine=made.engine_).fit(paths, labels)
    assert np.array_equal(given._training.bits, made._training.bits)
    assert given.loo_accuracy_ == made.loo_accuracy_
    assert made.score(paths, labels) > 0.9
    made.save(tmp_path / "model")
    loaded = aurevoir.load(tmp_path / "model")
    assert np.array_equal(loaded.predict(paths), made.predict(paths))
    assert loaded.cut_choice_ is None


def _solves_by(best):
    """Solve ridges that are right on every image with the kernel `best`, and wrong on half of them otherwise."""

    def solve(bits, features, pooled, layers, rows, kernels):
        assert pooled.shape == (len(rows), sum(layers) or pooled.shape[1])
        right = np.where(np.arange(len(rows)) % 2, 1.0 if best in kernels else -1.0, 1.0)
        return kernels[-1], _path(np.stack([right, -right], axis=1), (right > 0).mean())

    return solve


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("projection", "best", "layers", "candidates"), [("auto", "layers", 1, 7), ("auto", "rbf", 0, 7), ("rbf", "", 0, 6)]
)
def test_the_last_cut_is_compared_with_the_means_of_layers_before_it_too(
    staged_onnx, pixels, precision, projection, best, layers, candidates
):
    builder = EngineBuilder(NetworkSpec(backbone=staged_onnx), CalibrationSpec(data=pixels, images=8, held_out=0))
    spec = EngineSpec(precision=precision, runtime="openvino", smoke=False)
    labels, weights = np.zeros(len(pixels), int), np.ones(len(pixels))
    chosen = choose_cut(builder, spec, pixels, labels, weights, _solves_by(best), projection=projection)
    assert [score.layers for score in chosen.choice.scores] == [0] * 6 + [1] * (candidates - 6)
    # Of equals the cheapest: the first cut, but that the layers are pooled with the last one only.
    assert chosen.choice.chosen == chosen.choice.scores[-1 if layers else 0].cut
    assert chosen.choice.layers == layers
    assert (" with the means of 1 earlier layer:" in chosen.choice.reason) == bool(layers)
    engine = chosen.builder.build(spec, ("bits", "pooled"))
    assert engine.manifest.pooled_layers == ((32, 32) if layers else ())
    taken = chosen.values_of(engine, ImageArray(pixels), ("bits", "pooled"))
    if precision == "fp32":
        for name, values in engine.run(pixels, ("bits", "pooled")).items():
            np.testing.assert_array_equal(taken[1][name], values)


def test_a_network_that_is_to_pool_layers_pools_them_at_every_cut(staged_onnx, pixels):
    network = NetworkSpec(backbone=staged_onnx, pool_layers=True)
    builder = EngineBuilder(network, CalibrationSpec(data=pixels, images=8, held_out=0))
    builders = candidate_builders(builder, cut_candidates(builder.backbone), "auto")
    assert [len(each.layers) for each in candidates_of(builders)] == [len(each.layers) for each in builders]
    assert len(builders) == 6
    assert builders[-1].layers


def test_in_int8_the_images_are_embedded_by_the_engine_that_is_delivered(staged_onnx, pixels, tmp_path):
    labels = np.arange(len(pixels)) % 2
    options = {"precision": "int8", "runtime": "openvino", "calibration_images": 8, "smoke": False}
    made = aurevoir.OpticalClassifier(staged_onnx, cut="auto", work=tmp_path / "work", **options).fit(pixels, labels)
    given = aurevoir.OpticalClassifier(engine=made.engine_).fit(pixels, labels)
    assert np.array_equal(given._training.bits, made._training.bits)
    assert made.engine_.table.graph == made.engine_.manifest.graph
    assert made.engine_.manifest.sign_agreement is not None
    again = aurevoir.OpticalClassifier(staged_onnx, cut="auto", work=tmp_path / "work", **options).fit(pixels, labels)
    assert again.cut_choice_ == made.cut_choice_
    assert again.engine_.to_bytes() == made.engine_.to_bytes()


def test_where_there_is_nothing_to_choose(staged_onnx, tiny_onnx, pixels):
    labels = np.arange(len(pixels)) % 2
    engine = aurevoir.build_engine(tiny_onnx, runtime="openvino", smoke=False)
    with pytest.raises(UsageError, match="a built engine is cut; leave one out"):
        aurevoir.OpticalClassifier(engine=engine, cut="auto").fit(pixels, labels)
    with pytest.raises(UsageError, match="X holds features"):
        aurevoir.OpticalClassifier(cut="auto").fit(np.random.default_rng(0).normal(size=(20, 30)), labels)
    with pytest.raises(UsageError, match="only one cut"):
        aurevoir.OpticalClassifier(tiny_onnx, cut="auto").fit(pixels, labels)
    table = EngineBuilder(NetworkSpec(backbone=staged_onnx), CalibrationSpec(data=pixels, images=8)).table()
    with pytest.raises(UsageError, match="a calibration table is of one cut"):
        aurevoir.OpticalClassifier(staged_onnx, cut="auto", precision="int8", calibration=table).fit(pixels, labels)
