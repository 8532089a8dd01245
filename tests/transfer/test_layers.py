"""Classifiers on the channel means of several layers."""

import numpy as np
import onnx
import pytest

from aurevoir import OpticalClassifier, build_engine, load
from aurevoir.cli.main import main
from aurevoir.engine.engine import Engine
from aurevoir.engine.runtimes import on_openvino
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.kernels.fitting import AUTO, AUTO_POOLED
from aurevoir.transfer.model import model_digest

KINDS = ("layers", "none", "exact", "pooled", "rbf", "bits+rbf", "exact+rbf")


@pytest.fixture(scope="module")
def images():
    """Sixty images of three classes, told apart by where they are bright, and their classes."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 160, (60, 28, 28, 3), dtype="uint8")
    labels = np.arange(60) % 3
    for image, label in zip(pixels, labels, strict=True):
        image[:, 9 * label : 9 * label + 10] += random.integers(40, 95, dtype="uint8")
    return pixels, np.array(["left", "middle", "right"])[labels]


@pytest.fixture(scope="module")
def engine(staged_onnx):
    return build_engine(staged_onnx, pool_layers=True, smoke=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_classifier_and_its_graph_say_the_same(engine, images, kind, tmp_path):
    pixels, labels = images
    fitted = OpticalClassifier(engine=engine, projection=kind).fit(pixels[:40], labels[:40])
    assert fitted.projection_ == kind
    fitted.save(tmp_path / "model")
    loaded, scores = load(tmp_path / "model"), fitted.scores(pixels)
    assert model_digest(tmp_path / "model")
    np.testing.assert_array_equal(loaded.scores(pixels), scores)
    assert loaded.training_.pooled is None or loaded.training_.pooled.shape == (40, engine.manifest.pooled)
    whole = loaded.to_engine(smoke=False)
    assert whole.manifest.pooled_layers == () and whole.outputs == ("scores", "probabilities", "label")
    np.testing.assert_allclose(whole.classify(pixels).scores, scores, atol=1e-3 * np.abs(scores).max())


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_the_graph_on_other_runtimes(engine, images, runtime):
    pixels, labels = images
    fitted = OpticalClassifier(engine=engine, projection="layers").fit(pixels, labels)
    found, wanted = fitted.to_engine(runtime, smoke=False).classify(pixels[:9]), fitted.scores(pixels[:9])
    np.testing.assert_allclose(found.scores, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_narrow_networks(staged_onnx, images, precision):
    pixels, labels = images
    if precision not in on_openvino.precisions():
        pytest.skip(f"OpenVINO has no {precision} on this processor")
    options = {"precision": precision, "runtime": "openvino", "calibration": pixels, "smoke": False}
    narrow = build_engine(staged_onnx, pool_layers=True, **options)
    fitted = OpticalClassifier(engine=narrow, projection="layers").fit(pixels, labels)
    found, wanted = fitted.to_engine(smoke=False).classify(pixels), fitted.scores(pixels)
    # OpenVINO rounds a layer to bf16 there before it is summed.
    np.testing.assert_allclose(found.scores, wanted, atol=0.15 * np.abs(wanted).max())
    assert (found.label == wanted.argmax(axis=1)).mean() > 0.95


def test_auto_has_it_where_the_engine_has_layers(staged_onnx, images):
    pixels, labels = images
    with_layers = OpticalClassifier(staged_onnx, pool_layers=True).fit(pixels, labels)
    assert with_layers.path_.loo_accuracy_of.keys() == {*AUTO, *AUTO_POOLED, "layers"}
    assert with_layers.engine_.manifest.pooled_layers == (32, 32)
    without = OpticalClassifier(staged_onnx).fit(pixels, labels)
    assert without.path_.loo_accuracy_of.keys() == {*AUTO, *AUTO_POOLED}


def test_without_layers_it_is_refused_before_anything_is_embedded(staged_onnx, images, monkeypatch):
    monkeypatch.setattr(Engine, "run", None)
    with pytest.raises(UsageError, match=r"'layers' needs pool_layers=True \(--pool-layers\)"):
        OpticalClassifier(staged_onnx, projection="layers").fit(*images)
    with pytest.raises(UsageError, match=r"'layers' needs an engine that pools layers"):
        OpticalClassifier(engine=build_engine(staged_onnx, smoke=False), projection="layers").fit(*images)


def test_with_a_chosen_cut(staged_onnx, images):
    pixels, labels = images
    fitted = OpticalClassifier(staged_onnx, cut="auto", pool_layers=True).fit(pixels, labels)
    layers = fitted.engine_.manifest.pooled_layers
    assert ("layers" in fitted.path_.loo_accuracy_of) == bool(layers)
    assert (fitted.predict(pixels) == labels).mean() > 0.8


def test_what_follows_a_fit(engine, images):
    pixels, labels = images
    fitted = OpticalClassifier(engine=engine, projection="layers").fit(pixels[:40], labels[:40])
    assert fitted.prediction_sets(pixels[40:], 0.9)[np.arange(20), np.arange(40, 60) % 3].mean() > 0.7
    before = fitted.loo_scores_
    fitted.refit(pixels[40:], labels[40:])
    assert (len(before), len(fitted.training_)) == (40, 60)
    again = OpticalClassifier(engine=engine, projection="layers").fit(pixels, labels)
    np.testing.assert_allclose(fitted.scores(pixels), again.scores(pixels), atol=1e-6)


def test_a_graph_that_computes_other_means_is_refused(engine, images):
    fitted = OpticalClassifier(engine=engine, projection="layers").fit(*images)
    graph = onnx.load_from_string(engine.graph)
    mean = next(node for node in graph.graph.node if node.name == "pooled/0/mean")
    mean.op_type = "Div"
    fitted.engine_ = Engine(engine.manifest, graph.SerializeToString())
    with pytest.raises(AurevoirError, match=r"does not compute the means of 64 channels .*; build it again"):
        fitted.to_engine(smoke=False)


def test_a_model_with_an_engine_of_other_layers_is_refused(engine, staged_onnx, images, tmp_path):
    pixels, labels = images
    OpticalClassifier(engine=engine, projection="layers").fit(pixels, labels).save(tmp_path / "model")
    build_engine(staged_onnx, smoke=False).save(tmp_path / "model" / "engine.aurevoir")
    with pytest.raises(AurevoirError):
        load(tmp_path / "model")


def test_the_command_says_what_it_scored(staged_onnx, class_folder, tmp_path, capsys):
    given = [str(class_folder), "--backbone", str(staged_onnx), "--pool-layers", "--out", str(tmp_path / "model")]
    assert main(["fit", *given]) == 0
    assert "layers " in next(line for line in capsys.readouterr().out.splitlines() if "leave-one-out chose" in line)
    assert main(["review", str(tmp_path / "model")]) in (0, 1)
    assert main(["predict", str(tmp_path / "model"), str(class_folder), "--coverage", "0.9"]) == 0
