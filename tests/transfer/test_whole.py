"""The whole classifier as one engine: every projection, runtime and precision against the estimator itself."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from aurevoir import OpticalClassifier, build_engine, load, load_engine
from aurevoir.calibration.graph.edit import tensor_names
from aurevoir.cli.main import main
from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.engine import Engine
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import UsageError
from aurevoir.images.batches import ImageFiles, collect
from aurevoir.images.sources import class_folders
from aurevoir.kernels.fitting import fit_readout
from aurevoir.transfer import readout_graph
from aurevoir.transfer.whole import classifier_engine

PROJECTIONS = ("none", "exact", "hadamard", "dense", "dense-signs", "pooled", "rbf", "bits+rbf", "exact+rbf")
RUNTIMES = ("openvino", "onnxruntime", "torch")


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return build_engine(tiny_onnx, runtime="openvino", smoke=False)


@pytest.fixture(scope="module")
def images():
    """Sixty images of three classes, told apart by where they are bright, and their classes."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 160, (60, 28, 28, 3), dtype="uint8")
    labels = np.arange(60) % 3
    for image, label in zip(pixels, labels, strict=True):
        image[:, 9 * label : 9 * label + 10] += random.integers(40, 95, dtype="uint8")
    return pixels, np.array(["left", "middle", "right"])[labels]


def _same(classifier, whole, pixels, tolerance=1e-3):
    wanted, found = classifier.scores(pixels), whole.classify(pixels)
    np.testing.assert_allclose(found.scores, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())
    np.testing.assert_allclose(found.probabilities, classifier.probabilities(wanted), atol=0.02)
    assert np.array(whole.manifest.labels)[found.label].tolist() == classifier.predict(pixels).tolist()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_every_projection_on_every_runtime(engine, images, projection, runtime):
    pixels, labels = images
    classifier = OpticalClassifier(engine=engine, projection=projection, n_components=101).fit(pixels[:40], labels[:40])
    whole = classifier.to_engine(runtime, smoke=False)
    assert (whole.runtime, whole.outputs) == (runtime, ("scores", "probabilities", "label"))
    assert whole.manifest.labels == ("left", "middle", "right")
    _same(classifier, whole, pixels, 1e-4)
    _same(classifier, whole, pixels[:1], 1e-4)


@pytest.mark.parametrize("components", [1, 7, 255, 256, 257, 1000])
def test_hadamard_with_any_number_of_components(engine, images, components):
    pixels, labels = images
    classifier = OpticalClassifier(engine=engine, projection="hadamard", n_components=components)
    _same(classifier.fit(pixels, labels), classifier.to_engine("onnxruntime", smoke=False), pixels)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_two_classes_and_several_labels_an_image(engine, images, projection):
    pixels, labels = images
    kept = labels != "middle"
    new = OpticalClassifier(engine=engine, projection=projection, n_components=64)
    two = new.fit(pixels[kept], labels[kept])
    _same(two, two.to_engine(smoke=False), pixels)
    several = np.stack([labels != "left", labels != "right", np.arange(60) % 2 == 0], axis=1).astype(int)
    multilabel = new.fit(pixels, several)
    found = multilabel.to_engine(smoke=False).classify(pixels)
    assert found.label.tolist() == multilabel.predict(pixels).tolist()
    np.testing.assert_allclose(found.probabilities, multilabel.predict_proba(pixels), atol=1e-3)


def test_weighted_images(engine, images):
    pixels, labels = images
    weights = np.random.default_rng(0).uniform(0.01, 3, 60)
    for projection in ("none", "exact"):
        classifier = OpticalClassifier(engine=engine, projection=projection).fit(pixels, labels, weights)
        _same(classifier, classifier.to_engine(smoke=False), pixels)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_narrow_networks_keep_what_follows_the_features(tiny_onnx, images, projection, precision):
    pixels, labels = images
    if precision not in _openvino_precisions():
        pytest.skip(f"OpenVINO has no {precision} on this processor")
    narrow = build_engine(tiny_onnx, precision=precision, runtime="openvino", calibration=pixels, smoke=False)
    classifier = OpticalClassifier(engine=narrow, projection=projection, n_components=101).fit(pixels, labels)
    _same(classifier, classifier.to_engine(smoke=False), pixels)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_several_labels_an_image_in_narrow_networks(tiny_onnx, images, precision):
    pixels, labels = images
    if precision not in _openvino_precisions():
        pytest.skip(f"OpenVINO has no {precision} on this processor")
    narrow = build_engine(tiny_onnx, precision=precision, runtime="openvino", calibration=pixels, smoke=False)
    several = np.stack([labels != "left", labels != "right"], axis=1).astype(int)
    multilabel = OpticalClassifier(engine=narrow, projection="none").fit(pixels, several)
    found = multilabel.to_engine(smoke=False).classify(pixels)
    assert found.label.tolist() == multilabel.predict(pixels).tolist()


def _openvino_precisions():
    from aurevoir.engine.runtimes import on_openvino

    return on_openvino.precisions()


def test_the_bits_are_those_of_the_runtime_that_runs_it(tiny_onnx, images, tmp_path):
    pixels, labels = images
    int8 = build_engine(tiny_onnx, precision="int8", runtime="openvino", calibration=pixels, smoke=False)
    classifier = OpticalClassifier(engine=int8, projection="none").fit(pixels, labels)
    int8.save(tmp_path / "int8.engine")
    moved = load_engine(tmp_path / "int8.engine", runtime="onnxruntime", trusted=True)
    wanted = classifier.readout_.scores(moved.bits(pixels))
    found = classifier.to_engine("onnxruntime", smoke=False).classify(pixels)
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_real_photographs_through_a_real_network(data, mobilenet, precision, tmp_path):
    listed = class_folders(data("caltech10"))
    paths, names = listed.paths, listed.labels
    chosen = np.random.default_rng(0).permutation(len(paths))[:160]
    _, pixels = collect(ImageFiles([paths[each] for each in chosen], (224, 224)))
    classes, labels = np.unique(np.array(names)[chosen], return_inverse=True)
    engine = build_engine(mobilenet, precision=precision, runtime="openvino", calibration=pixels[:60], smoke=False)
    engine.save(tmp_path / "features.engine")
    bits = {"openvino": engine.bits(pixels)}
    if precision == "fp32":
        bits["onnxruntime"] = load_engine(tmp_path / "features.engine", runtime="onnxruntime", trusted=True).bits(
            pixels
        )
    for projection, components in (("none", None), ("exact", None), ("hadamard", None), ("dense", 200)):
        training = bits["openvino"][:60]
        readout, _ = fit_readout(training, engine.features, labels[:60], len(classes), projection, components)
        for runtime, own in bits.items():
            whole = classifier_engine(engine, readout, tuple(classes), 0.3, runtime=runtime, smoke=False)
            wanted, found = readout.scores(own), whole.classify(pixels)
            # In float32 OpenVINO rounds a network before integer products otherwise, so that one sign of 62,720 next to
            # zero may change in an image; 200 components of a dense projection show it.
            limit = 2e-2 if (projection, precision, runtime) == ("dense", "fp32", "openvino") else 1e-3
            np.testing.assert_allclose(found.scores, wanted, atol=limit * np.abs(wanted).max(), err_msg=projection)
            assert found.label.tolist() == wanted.argmax(axis=1).tolist()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_tensorrt_rtx_builds_it_ahead_of_time(tiny_onnx, images, projection, precision):
    pytest.importorskip("tensorrt_rtx_bindings")
    pixels, labels = images
    engine = build_engine(
        tiny_onnx,
        precision="int8" if precision == "int8" else "fp32",
        runtime="openvino",
        calibration=pixels,
        activation_dtype="int8" if precision == "int8" else "auto",
        smoke=False,
    )
    classifier = OpticalClassifier(engine=engine, projection=projection, n_components=64).fit(pixels, labels)
    whole = classifier.to_engine("tensorrt-rtx", target="sm89", precision=precision)
    assert (whole.precision, whole.manifest.target, whole.runtime) == (precision, "sm89", "tensorrt-rtx")
    assert whole.plan


@pytest.fixture(scope="module")
def real_classifiers(data, mobilenet):
    """Classifiers of photographs by a real network, one for each precision of its engine."""
    listed = class_folders(data("caltech10"))
    chosen = np.random.default_rng(0).permutation(len(listed.paths))[:24]
    _, pixels = collect(ImageFiles([listed.paths[each] for each in chosen], (224, 224)))
    labels = np.array(listed.labels)[chosen]

    exported = export_backbone(open_backbone(mobilenet))
    table = calibrate(exported, pixels)
    engines = {
        "fp16": assemble(exported, "fp32", "openvino"),
        "int8": assemble(exported, "int8", "openvino", table, activation_dtype="int8"),
    }
    return {
        precision: OpticalClassifier(engine=engine, projection="hadamard").fit(pixels, labels)
        for precision, engine in engines.items()
    }


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("target", ["sm80", "sm86", "sm89", "sm120"])
def test_tensorrt_rtx_builds_a_real_one_for_every_architecture(real_classifiers, target, precision):
    pytest.importorskip("tensorrt_rtx_bindings")
    classifier = real_classifiers[precision]
    whole = classifier.to_engine("tensorrt-rtx", target=target, precision=precision)
    assert (whole.precision, whole.manifest.target) == (precision, target)
    assert whole.manifest.features == 1280 * 7 * 7 and len(whole.manifest.labels) == len(classifier.classes_)
    # The network's 2.2 million weights are in it, in the width of the precision.
    assert len(whole.plan) > {"fp16": 4.4e6, "int8": 2.2e6}[precision]


def test_the_engine_file_is_the_whole_classifier(engine, images, tmp_path, capsys):
    pixels, labels = images
    classifier = OpticalClassifier(engine=engine, projection="exact").fit(pixels, labels)
    classifier.save(tmp_path / "model")
    out = tmp_path / "whole.engine"
    assert main(["build", str(tmp_path / "model"), "--out", str(out)]) == 0
    assert "projection exact, 3 classes" in (printed := capsys.readouterr().out)
    assert "images -> scores, probabilities, label" in printed
    whole = load_engine(out)
    _same(load(tmp_path / "model"), whole, pixels)
    assert set(whole.run(pixels[:2], ["label"])) == {"label"}
    assert list(whole.run(pixels[:2], ["label", "scores", "label"])) == ["scores", "label"]
    for outputs in ([], "scores"):
        with pytest.raises(UsageError, match="are no list of names; give some of scores, probabilities, label"):
            whole.run(pixels, outputs)
    for call in (whole, whole.bits):
        with pytest.raises(UsageError, match=r"computes scores, probabilities, label, and no .*; call `classify`"):
            call(pixels)
    with pytest.raises(UsageError, match=r"computes features, bits, pooled, and no scores"):
        engine.classify(pixels)
    assert main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["left", "middle", "right"]
    assert classifier.to_engine(smoke=False).to_bytes() == classifier.to_engine(smoke=False).to_bytes()


def test_a_classifier_engine_is_no_engine_to_fit_with(engine, images, tmp_path):
    pixels, labels = images
    whole = OpticalClassifier(engine=engine, projection="none").fit(pixels, labels).to_engine(smoke=False)
    with pytest.raises(UsageError, match="and no bits"):
        OpticalClassifier(engine=whole).fit(pixels, labels)


def test_matrices_of_bits_are_stored_packed(engine, images):
    pixels, labels = images
    graph = onnx.load_from_string(
        OpticalClassifier(engine=engine, projection="exact").fit(pixels, labels).to_engine(smoke=False).graph
    )
    largest = max(tensor.ByteSize() for tensor in graph.graph.initializer if tensor.name.startswith("classifier/"))
    assert largest < 60 * engine.features / 8 + 4096


def test_what_no_graph_can_hold_is_refused(engine, images, monkeypatch, tmp_path):
    pixels, labels = images
    features = OpticalClassifier().fit(engine(pixels), labels)
    with pytest.raises(UsageError, match="trained on features and has no engine"):
        features.to_engine()
    classifier = OpticalClassifier(engine=engine, projection="dense", n_components=64).fit(pixels, labels)
    with pytest.raises(UsageError, match="precision 'int8': the model's engine is fp32"):
        classifier.to_engine(precision="int8")
    monkeypatch.setattr(readout_graph, "LARGEST", 1000)
    with pytest.raises(UsageError, match=r"dense matrix of m = 196 features and k = 64 components takes .* MB"):
        classifier.to_engine()
    exact = OpticalClassifier(engine=engine, projection="exact").fit(pixels, labels)
    with pytest.raises(UsageError, match="exact kernel with 60 training images of 196 bits"):
        exact.to_engine()


def test_a_model_of_an_earlier_version_has_no_probabilities(engine, images, tmp_path):
    pixels, labels = images
    OpticalClassifier(engine=engine, projection="none").fit(pixels, labels).save(tmp_path / "model")
    content = json.loads((tmp_path / "model" / "model.json").read_text())
    del content["temperature"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(content))
    old = load(tmp_path / "model")
    assert old.predict(pixels).tolist() == labels.tolist()
    for call in (old.to_engine, lambda: old.predict_proba(pixels)):
        with pytest.raises(UsageError, match="saved by a version without probabilities; fit it again"):
            call()


def test_options_of_a_backbone_are_refused_for_a_model(engine, images, tmp_path, capsys):
    pixels, labels = images
    OpticalClassifier(engine=engine, projection="none").fit(pixels, labels).save(tmp_path / "model")
    for option in (["--size", "32"], ["--method", "max"], ["--prefer-faster"], ["--keep-speeds"]):
        assert main(["build", str(tmp_path / "model"), "--out", str(tmp_path / "x.engine"), *option]) == 2
        assert f"{option[0]} has no effect with a model folder" in capsys.readouterr().err


def test_an_output_inside_the_model_is_refused(engine, images, tmp_path, capsys):
    pixels, labels = images
    model = tmp_path / "model"
    OpticalClassifier(engine=engine, projection="none").fit(pixels, labels).save(model)
    for command in (["build", model, "--out"], ["export", model, "--to", "onnx", "--out"]):
        for out in (model / "engine.aurevoir", model / "other"):
            assert main([*map(str, command), str(out)]) == 2
            assert "is inside the model folder" in capsys.readouterr().err
    assert load(model).predict(pixels).tolist() == labels.tolist()


def test_classes_and_weights_that_no_engine_holds_are_refused(engine, images):
    pixels, labels = images
    classifier = OpticalClassifier(engine=engine, projection="none").fit(pixels, labels)
    with pytest.raises(UsageError, match="has no effect|have no effect with runtime 'openvino'"):
        classifier.to_engine("openvino", workspace=5)
    weights = classifier.readout_.weights.copy()
    classifier.readout_.weights[:] *= 1e45
    with pytest.raises(UsageError, match="weights of the model are beyond float32"):
        classifier.to_engine()
    classifier.readout_.weights[:] = weights
    classifier.classes_ = np.array(["a", "x" * 5000, "c"])
    with pytest.raises(UsageError, match=r"class 'x+'\.\.\. has 5,000 letters"):
        classifier.to_engine()
    classifier.classes_ = np.array([1, "1", 2], dtype=object)
    with pytest.raises(UsageError, match="two classes are '1' as text"):
        classifier.to_engine()


@pytest.mark.parametrize("projection", ["exact", "hadamard", "dense"])
def test_an_engine_from_elsewhere_may_have_the_names_of_a_classifier_inside(engine, images, projection, monkeypatch):
    pixels, labels = images
    classifier = OpticalClassifier(engine=engine, projection=projection, n_components=64).fit(pixels, labels)
    own = {*tensor_names(onnx.load_from_string(classifier.to_engine(smoke=False).graph))}
    own -= tensor_names(onnx.load_from_string(engine.graph))
    assert own > {"scores", "probabilities", "label"}
    graph = onnx.load_from_string(engine.graph)
    first = graph.graph.node[0].output[0]
    for each in graph.graph.node:
        each.input[:] = [sorted(own)[-1] if name == first else name for name in each.input]
    chain = zip([first, *sorted(own)], sorted(own), strict=False)
    for index, (before, after) in enumerate(chain):
        graph.graph.node.insert(1 + index, onnx.helper.make_node("Identity", [before], [after], name=after))
    elsewhere = Engine(engine.manifest, graph.SerializeToString(), None)
    assert np.array_equal(elsewhere.bits(pixels), engine.bits(pixels))
    monkeypatch.setattr(classifier, "engine_", elsewhere)
    _same(classifier, classifier.to_engine(smoke=False), pixels, 1e-4)


def test_remarks_of_tensorrt_rtx_are_printed_by_verbose_alone(engine, images, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    pixels, labels = images
    OpticalClassifier(engine=engine, projection="none").fit(pixels, labels).save(tmp_path / "model")
    words = [
        "build",
        tmp_path / "model",
        "--runtime",
        "tensorrt-rtx",
        "--target",
        "sm89",
        "--out",
        tmp_path / "e.engine",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = []
    for more in ([], ["--verbose"]):
        command = [sys.executable, "-m", "aurevoir", *words, *more]
        said.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr)
    assert said[0] == ""
    assert "Int64 binding" in said[1]
