"""Exported engines give the engine's own outputs in the libraries' own loaders."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from classifier_graph import classified

from aurevoir.calibration.graph.float16 import to_float16
from aurevoir.calibration.placement import PLACEMENTS
from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.delivery import FORMS, SECTION, deliver, export_engine, metadata, runnable_on_openvino
from aurevoir.engine.engine import Engine
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.runtimes import on_openvino
from aurevoir.engine.sample import sample_images
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError
from aurevoir.images.procedural import PATTERNS, draw

LABELS = ("red ant", "bee", 'the "third"', "grün", "vier\udc80")


def in_openvino(folder, images):
    """Run an exported IR as docs/cpp.md says, by OpenVINO alone; return its outputs by name."""
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / "model.xml")
    hint = model.get_rt_info([SECTION, "openvino_precision"]).astype(str)
    if hint.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        hint = "f32"
    mode = "LATENCY" if len(images) == 1 else "THROUGHPUT"
    compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": mode, "INFERENCE_PRECISION_HINT": hint})
    requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    chunk = min(4, -(-len(images) // requests))
    parts = [compiled(images[start : start + chunk]) for start in range(0, len(images), chunk)]
    names = [output.get_any_name() for output in compiled.outputs]
    return {name: np.concatenate([part[number] for part in parts]) for number, name in enumerate(names)}


def in_onnxruntime(path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = session.run(None, {"images": images})
    return dict(zip([output.name for output in session.get_outputs()], values, strict=True))


def outputs_of(engine, images):
    """Return an engine's own outputs, each computed by itself."""
    return {name: engine.run(images, [name])[name] for name in engine.outputs}


@pytest.fixture(scope="module")
def photographs(data):
    return sample_images(data("calibration500"), (224, 224), 9)


@pytest.fixture(scope="module")
def backbone(data, photographs):
    """A function from the name of a real backbone to its float graph and its table."""

    @cache
    def opened(name):
        exported = export_backbone(open_backbone(data(f"backbones/{name}.onnx")))
        return exported, calibrate(exported, photographs[:4], "max")

    return opened


def assembled(backbone, precision, runtime="openvino", **options):
    exported, table = backbone
    if precision not in on_openvino.precisions():
        pytest.skip(f"{precision} is not for this processor")
    return assemble(exported, precision, runtime, table if precision == "int8" else None, **options)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet_lite0"])
def test_openvino_s_own_loader_gives_the_bits_of_real_backbones(backbone, photographs, tmp_path, name, precision):
    engine = assembled(backbone(name), precision)
    export_engine(engine, tmp_path / "bits", "openvino", ["bits"])
    expected = engine.bits(photographs)
    assert_same(in_openvino(tmp_path / "bits", photographs), {"bits": expected})
    assert_same(in_openvino(tmp_path / "bits", photographs[:1]), {"bits": engine.bits(photographs[:1])})


@pytest.mark.parametrize(("name", "precision"), [("mobilenetv2", "fp32"), ("efficientnet_lite0", "int8")])
def test_onnxruntime_s_own_loader_gives_the_outputs_of_real_backbones(backbone, photographs, tmp_path, name, precision):
    engine = assembled(backbone(name), precision, "onnxruntime", device="cpu")
    images = photographs[:3]
    export_engine(engine, tmp_path / "e.onnx")
    found = in_onnxruntime(tmp_path / "e.onnx", images)
    assert_same(found, outputs_of(engine, images))
    np.testing.assert_array_equal(found["bits"], np.packbits(found["features"] > 0, axis=1))


@pytest.fixture(scope="module")
def branching_table(branching, pixels):
    return calibrate(branching, pixels, "max", placement="shared-concat")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_signed_levels_next_to_concatenations_are_written_as_openvino_computes_them(
    branching, branching_table, pixels, tmp_path, placement
):
    import openvino

    engine = assemble(branching, "int8", "openvino", branching_table, activation_dtype="int8", placement=placement)
    features, exact = engine(pixels), assemble(branching, "fp32", "openvino")(pixels)
    export_engine(engine, tmp_path / "ir", "openvino", ["features"])
    assert_same(in_openvino(tmp_path / "ir", pixels), {"features": features})
    assert np.linalg.norm(features - exact) < 0.05 * np.linalg.norm(exact)
    # On processors without AMX OpenVINO computes the same graph wrongly as it is, by a third of the norm or more.
    export_engine(engine, tmp_path / "as-it-is.onnx", "onnx", ["features"])
    plain = openvino.Core().compile_model(tmp_path / "as-it-is.onnx", "CPU")(pixels)[0]
    wrong = np.linalg.norm(plain - exact) / np.linalg.norm(exact)
    assert wrong > 0.2 or np.array_equal(plain, features)


def test_concatenations_of_a_dense_block_append_to_earlier_ones(tmp_path):
    import openvino

    images = np.stack([draw(kind, 64, np.random.default_rng(seed)) for seed, kind in enumerate(PATTERNS.values())])
    exported = export_backbone(open_backbone("densenet121", "random", 64), "features.denseblock1.denselayer3", images)
    table = calibrate(exported, images, "max", placement="shared-concat")
    engine = assemble(exported, "int8", "openvino", table, activation_dtype="int8", placement="shared-concat")
    export_engine(engine, tmp_path / "ir", "openvino", ["bits"])
    assert_same(in_openvino(tmp_path / "ir", images), {"bits": engine.bits(images)})
    read = openvino.Core().read_model(tmp_path / "ir" / "model.xml").get_ops()
    # OpenVINO's own join the parts of shapes.
    joins = [each for each in read if each.get_type_name() == "Concat" and len(each.get_output_partial_shape(0)) == 4]
    assert [each.get_input_size() for each in joins] == [2, 2, 2]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("multilabel", [False, True])
def test_a_classifier_keeps_its_scores_and_its_labels(exported, table, pixels, tmp_path, precision, multilabel):
    engine = classified(assembled((exported, table), precision), LABELS, multilabel=multilabel)
    expected = outputs_of(engine, pixels)
    assert list(expected) == ["scores", "probabilities", "label"]
    for name, values in expected.items():
        export_engine(engine, tmp_path / name, "openvino", [name])
        assert_same(in_openvino(tmp_path / name, pixels), {name: values})
    # Together, outputs may be rounded apart where one is the input of another: so they are in Python.
    made = export_engine(engine, tmp_path / "ir", "openvino")
    assert_same(in_openvino(tmp_path / "ir", pixels), engine.run(pixels))
    assert made.metadata["labels"] == list(LABELS)
    assert [(each.name, each.dtype, each.shape) for each in made.outputs] == [
        ("scores", "float32", ("batch", 5)),
        ("probabilities", "float32", ("batch", 5)),
        ("label", "int64", ("batch", 5) if multilabel else ("batch",)),
    ]
    export_engine(engine, tmp_path / "e.onnx", "onnx", ["label", "scores"])
    found = in_onnxruntime(tmp_path / "e.onnx", pixels)
    assert list(found) == ["scores", "label"]
    there = Engine(replace(engine.manifest, runtime="onnxruntime"), engine.graph, device="cpu")
    assert_same(found, {name: value for name, value in outputs_of(there, pixels).items() if name in found})


def test_every_form_says_the_same_of_the_engine(exported, table, tmp_path):
    import openvino

    from aurevoir import __version__

    engine = classified(assembled((exported, table), "int8"), LABELS)
    about = metadata(engine)
    assert about | {"model_sha256": "", "runtime_version": ""} == {
        "schema": "aurevoir-export/1",
        "aurevoir": __version__,
        "labels": list(LABELS),
        "height": 28,
        "width": 28,
        "channels": 3,
        "channel_order": "RGB",
        "resize": "stretch",
        "precision": "int8",
        "runtime": "openvino",
        "runtime_version": "",
        "openvino_precision": "bf16",
        "weight_levels": engine.manifest.weight_levels,
        "model_sha256": "",
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    export_engine(engine, tmp_path / "ir", "openvino")
    export_engine(engine, tmp_path / "e.onnx")
    model = onnx.load(tmp_path / "e.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {item.key: item.value for item in model.metadata_props} == texts
    assert (model.producer_name, model.producer_version) == ("aurevoir", __version__)
    read = openvino.Core().read_model(tmp_path / "ir" / "model.xml")
    assert {key: read.get_rt_info([SECTION, key]).astype(str) for key in about} == texts
    assert json.loads((tmp_path / "ir" / "metadata.json").read_bytes()) == about
    assert sorted(path.name for path in (tmp_path / "ir").iterdir()) == ["metadata.json", "model.bin", "model.xml"]


def test_weights_are_not_compressed(exported, tmp_path):
    engine = assemble(exported, "fp32", "openvino")
    export_engine(engine, tmp_path / "ir", "openvino")
    weights = sum(
        onnx.numpy_helper.to_array(each).nbytes
        for each in exported.graph.graph.initializer
        if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) == 4
    )
    assert (tmp_path / "ir" / "model.bin").stat().st_size >= weights
    assert b'element_type="f16"' not in (tmp_path / "ir" / "model.xml").read_bytes()


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_the_same_engine_gives_the_same_files(exported, table, form):
    engine = assembled((exported, table), "int8")
    assert deliver(engine, form).files == deliver(engine, form).files


def test_outputs_keep_the_order_of_the_engine(exported, pixels, tmp_path):
    engine = assemble(exported, "fp32", "openvino")
    for asked, kept in ((["bits"], ["bits"]), (["bits", "features", "bits"], ["features", "bits"]), (None, None)):
        made = export_engine(engine, tmp_path / "ir", "openvino", asked)
        assert [each.name for each in made.outputs] == (kept or ["features", "bits", "pooled"])
        assert made.inputs[0].shape == ("batch", 28, 28, 3)
        expected = outputs_of(engine, pixels)
        assert_same(in_openvino(tmp_path / "ir", pixels), {name: expected[name] for name in kept or expected})


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("executorch", {}, "form 'executorch' is not known; choose one of onnx, openvino, plan"),
        ("onnx", {"outputs": ["bit"]}, "output 'bit' is not one of this engine's: features, bits"),
        ("onnx", {"outputs": []}, "no outputs are given; name some of features, bits"),
        ("plan", {}, "built for openvino and holds no plan; build one with `aurevoir build --target`"),
    ],
)
def test_what_cannot_be_exported_is_named(exported, tmp_path, form, options, message):
    with pytest.raises(UsageError, match=message):
        export_engine(assemble(exported, "fp32", "openvino"), tmp_path / "out", form, **options)
    assert not (tmp_path / "out").exists()


def test_folders_have_no_name_of_a_file_and_nothing_foreign(exported, tmp_path):
    engine = assemble(exported, "fp32", "openvino")
    with pytest.raises(UsageError, match=r"m\.xml ends in \.xml, and openvino is a folder of model\.xml, model\.bin"):
        export_engine(engine, tmp_path / "m.xml", "openvino")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.xml").write_text("<net/>")
    with pytest.raises(UsageError, match="exists and is not a folder of an exported engine; choose another name"):
        export_engine(engine, tmp_path / "mine", "openvino")
    export_engine(engine, tmp_path / "ours", "openvino")
    export_engine(engine, tmp_path / "ours", "openvino", ["bits"])
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"also holds notes\.txt, which would be lost"):
        export_engine(engine, tmp_path / "ours", "openvino")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "ours"]


def test_openvino_takes_no_float16_body_and_must_be_there(exported, table, tmp_path, monkeypatch):
    made = assemble(exported, "fp32", "torch", device="cpu").manifest
    half = Engine(replace(made, precision="fp16"), to_float16(exported.graph).SerializeToString())
    with pytest.raises(UsageError, match="built for torch with a float16 body.*aurevoir build --runtime openvino"):
        export_engine(half, tmp_path / "ir", "openvino")
    export_engine(half, tmp_path / "half.onnx")
    with pytest.raises(UsageError, match="float16 body"):
        runnable_on_openvino(half)
    monkeypatch.setattr("aurevoir.engine.delivery.installed", lambda name: False)
    with pytest.raises(MissingPackageError, match="OpenVINO is not installed; install it with: pip install openvino"):
        export_engine(assemble(exported, "fp32", "onnxruntime", device="cpu"), tmp_path / "ir", "openvino")


def test_what_openvino_would_misread_is_refused(exported, tmp_path):
    engine = assemble(exported, "fp32", "onnxruntime", device="cpu")
    model = onnx.load_from_string(engine.graph)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    norm = onnx.helper.make_node("LRN", [first.input[0]], ["normed"], name="lrn", size=2)
    first.input[0] = "normed"
    model.graph.node.insert(list(model.graph.node).index(first), norm)
    with pytest.raises(AurevoirError, match="does not compute this network rightly: the even size of LRN node 'lrn'"):
        export_engine(Engine(engine.manifest, model.SerializeToString()), tmp_path / "ir", "openvino")


def test_a_plan_is_written_as_it_is(exported, table, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    engine = assemble(exported, "int8", table=table, target="sm89")
    engine.build_plan()
    made = export_engine(engine, tmp_path / "plan", "plan")
    assert (tmp_path / "plan" / "model.plan").read_bytes() == engine.plan
    about = json.loads((tmp_path / "plan" / "metadata.json").read_bytes())
    assert about == made.metadata
    assert (about["runtime"], about["target"], about["precision"]) == ("tensorrt-rtx", "sm89", "int8")
    assert [each["path"] for each in made.digests("p")] == ["p/model.plan", "p/metadata.json"]
    with pytest.raises(UsageError, match="a plan has the outputs that it was built with"):
        export_engine(engine, tmp_path / "plan", "plan", ["bits"])


def test_polygraphy_loads_an_exported_file(exported, table, pixels, tmp_path):
    pytest.importorskip("polygraphy")
    pytest.importorskip("onnxruntime")
    from polygraphy.backend.onnx import OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    engine = assembled((exported, table), "int8", "onnxruntime", device="cpu")
    export_engine(engine, tmp_path / "e.onnx")
    assert OnnxFromPath(str(tmp_path / "e.onnx"))().producer_name == "aurevoir"
    with OnnxrtRunner(SessionFromOnnx(str(tmp_path / "e.onnx"))) as runner:
        assert_same(dict(runner.infer({"images": pixels})), outputs_of(engine, pixels))


def test_the_formats_page_lists_the_metadata(root, exported, table):
    engine = assembled((exported, table), "int8")
    page = (root / "docs" / "formats.md").read_text()
    section = page.partition("## Exported files")[2].partition("\n## ")[0]
    assert FORMS == ("onnx", "openvino", "plan")
    assert [key for key in [*metadata(engine), "target", *FORMS] if f"`{key}`" not in section] == []
