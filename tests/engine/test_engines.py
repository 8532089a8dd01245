"""Engines on every runtime, and their file."""

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest

from aurevoir import build_engine, load_engine
from aurevoir.calibration.fidelity import sign_agreement
from aurevoir.calibration.trt_cache import write_cache
from aurevoir.engine.assemble import assemble, with_fidelity
from aurevoir.engine.backbones import open_backbone
from aurevoir.engine.build import calibration_sample, export_backbone
from aurevoir.engine.calibrate import calibrate, hold_out, reach_sign_agreement, read_table, tensor_fidelity
from aurevoir.engine.runtimes import RUNTIMES, installed, runtime
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError
from aurevoir.kernels.bits import agreement

PAIRS = [(name, precision) for name in RUNTIMES if installed(name) for precision in runtime(name).precisions()]


@pytest.fixture(scope="module")
def exported(tiny_onnx):
    return export_backbone(open_backbone(tiny_onnx))


@pytest.fixture(scope="module")
def table(exported, pixels):
    return calibrate(exported, pixels, "max")


@pytest.fixture(scope="module")
def reference(exported, pixels):
    return assemble(exported, "fp32", "onnxruntime")(pixels)


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_runtime_and_precision_agrees_with_the_reference(exported, table, pixels, reference, name, precision):
    engine = assemble(exported, precision, name, table if precision == "int8" else None)
    features = engine(pixels)
    bound = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2, "int8": 5e-2}[precision]
    assert features.dtype == np.float32
    assert np.linalg.norm(features - reference) < bound * np.linalg.norm(reference)
    bits = engine.bits(pixels)
    assert bits.dtype == np.uint8
    differ = np.unpackbits(bits, axis=1)[:, : engine.features] != (features > 0)
    assert differ.mean() <= (0 if precision == "fp32" else 0.01)
    assert (engine.input_shape, engine.runtime, engine.precision) == ((28, 28, 3), name, precision)


@pytest.mark.parametrize("name", sorted({name for name, _ in PAIRS}))
def test_batches_of_any_length_give_the_same_rows(exported, pixels, name):
    engine = assemble(exported, "fp32", name)
    whole = engine(pixels)
    np.testing.assert_allclose(np.concatenate([engine(pixels[:3]), engine(pixels[3:])]), whole, atol=1e-5)
    assert engine(pixels[:0]).shape == (0, engine.features)
    assert engine.bits(pixels[:0]).shape == (0, -(-engine.features // 8))


def test_other_array_libraries_are_taken(exported, pixels):
    import torch

    engine = assemble(exported, "fp32", "openvino")
    np.testing.assert_array_equal(engine.bits(torch.from_numpy(pixels)), engine.bits(pixels))
    np.testing.assert_array_equal(engine.bits(pixels[:, :, ::-1]), engine.bits(pixels[:, :, ::-1].copy()))


@pytest.mark.parametrize(
    "images", [np.zeros((1, 28, 28, 3), "float32"), np.zeros((1, 3, 28, 28), "uint8"), np.zeros((28, 28, 3), "uint8")]
)
def test_other_dtypes_and_shapes_are_refused(exported, images):
    with pytest.raises(UsageError, match=r"this engine takes uint8 of shape \(batch, 28, 28, 3\)"):
        assemble(exported, "fp32")(images)


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_images_on_a_gpu_are_refused_by_what_reads_host_memory(exported, pixels, monkeypatch, name):
    # No GPU is needed to see which way they go.
    monkeypatch.setattr("aurevoir.engine.engine.on_gpu", lambda images: True)
    with pytest.raises(
        UsageError, match=f"lie on a GPU, and this engine runs on 'cpu' by '{name}'.*or load the engine"
    ):
        assemble(exported, "fp32", name, device="cpu")(pixels)


@pytest.mark.gpu
def test_torch_engines_read_cuda_arrays_in_place(exported, pixels):
    import torch

    engine = assemble(exported, "fp32", "torch")
    assert engine.device == "cuda"
    images = torch.from_numpy(pixels).cuda()
    with torch.cuda.stream(torch.cuda.Stream()):
        features = engine(images)
        assert features.is_cuda
        np.testing.assert_allclose(features.cpu().numpy(), engine(pixels), atol=1e-5)
    # The same from a CUDA graph, and of every size.
    many = np.concatenate([pixels] * 30)
    for count in (20, 600, 600, 130, 3):
        np.testing.assert_array_equal(
            engine.bits(many[:count]), engine.bits(torch.from_numpy(many[:count]).cuda()).cpu()
        )
        np.testing.assert_allclose(engine(many[:count]), np.resize(engine(pixels), (count, engine.features)), atol=1e-5)


def test_threads_share_an_engine(exported, pixels):
    engine = assemble(exported, "fp32", "openvino")
    expected, wrong = engine.bits(pixels), []

    def work():
        wrong.extend(1 for _ in range(20) if not np.array_equal(engine.bits(pixels), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_int8_quantizes_every_convolution_and_no_bias(exported, table):
    nodes = onnx.load_from_string(assemble(exported, "int8", table=table).graph).graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert convolutions
    assert all({node.input[0], node.input[1]} <= dequantized for node in convolutions)
    assert all(node.input[2] not in dequantized for node in convolutions if len(node.input) > 2)


@pytest.mark.parametrize(("dot_product", "largest"), [(True, 127), (False, 63)])
def test_no_sum_of_two_products_overflows_where_16_bits_hold_it(
    exported, table, pixels, reference, monkeypatch, dot_product, largest
):
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: dot_product)
    for name in ("openvino", "onnxruntime"):
        engine = assemble(exported, "int8", name, table, dialect="u8")
        constants = map(onnx.numpy_helper.to_array, onnx.load_from_string(engine.graph).graph.initializer)
        weights = [values for values in constants if values.dtype == np.int8 and values.ndim == 4]
        assert [np.abs(values).max() for values in weights] == [largest] * 2
        if not dot_product:
            assert 2 * 255 * largest < 2**15
            assert np.linalg.norm(engine(pixels) - reference) < 5e-2 * np.linalg.norm(reference)


def test_a_file_gives_the_same_engine_back(exported, table, pixels, tmp_path):
    for precision in ("fp32", "int8"):
        engine = assemble(exported, precision, "openvino", table if precision == "int8" else None)
        engine.save(tmp_path / "e.engine")
        loaded = load_engine(tmp_path / "e.engine")
        assert loaded.manifest == engine.manifest
        assert (loaded.table is None) == (precision == "fp32")
        np.testing.assert_array_equal(loaded(pixels), engine(pixels))
        assert loaded.to_bytes() == engine.to_bytes()
        assert list(tmp_path.iterdir()) == [tmp_path / "e.engine"]


def test_a_file_runs_on_another_runtime(exported, table, pixels, tmp_path):
    assemble(exported, "int8", "openvino", table).save(tmp_path / "e.engine")
    other = load_engine(tmp_path / "e.engine", runtime="onnxruntime")
    assert other.runtime == "onnxruntime"
    assert (np.sign(other(pixels)) == np.sign(load_engine(tmp_path / "e.engine")(pixels))).mean() > 0.97
    with pytest.raises(UsageError, match="runtime 'torch' runs fp32, bf16"):
        load_engine(tmp_path / "e.engine", runtime="torch")


def test_every_changed_byte_and_every_truncation_is_refused(exported, tmp_path):
    assemble(exported, "fp32").save(tmp_path / "e.engine")
    data = (tmp_path / "e.engine").read_bytes()
    random = np.random.default_rng(0)
    bits = random.integers(8, size=len(data)).tolist()
    broken = [data[:place] + bytes([data[place] ^ 1 << bits[place]]) + data[place + 1 :] for place in range(len(data))]
    broken += [data[: int(length)] for length in np.linspace(0, len(data) - 1, 20)] + [data + b"\0"]
    for content in broken:
        (tmp_path / "e.engine").write_bytes(content)
        with pytest.raises(AurevoirError, match="not an engine file, or a byte of it has changed"):
            load_engine(tmp_path / "e.engine")


def test_a_part_of_another_engine_is_refused(exported, table, tmp_path):
    from aurevoir.files import pack, unpack

    assemble(exported, "fp32").save(tmp_path / "a.engine")
    assemble(exported, "int8", table=table).save(tmp_path / "b.engine")
    parts = {**unpack(tmp_path / "a.engine"), "model.onnx": unpack(tmp_path / "b.engine")["model.onnx"]}
    (tmp_path / "c.engine").write_bytes(pack(parts))
    with pytest.raises(AurevoirError, match=r"part model.onnx is not the one its manifest names"):
        load_engine(tmp_path / "c.engine")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(exported, tmp_path, monkeypatch):
    engine = assemble(exported, "fp32")
    engine.save(tmp_path / "e.engine")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        engine.save(tmp_path / "e.engine")
    assert list(tmp_path.iterdir()) == [tmp_path / "e.engine"]
    assert load_engine(tmp_path / "e.engine").manifest == engine.manifest


@pytest.mark.parametrize("moment", ["pathlib.Path.replace", "os.fsync"])
def test_a_build_that_is_killed_leaves_no_engine(tiny_onnx, tmp_path, moment):
    script = (
        "import os, pathlib, signal\n"
        f"{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from aurevoir import build_engine\n"
        f"build_engine({str(tiny_onnx)!r}, smoke=False, out={str(tmp_path / 'e.engine')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == -9
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_a_build_measures_fidelity_on_held_out_images(tiny_onnx, pixels, tmp_path):
    engine = build_engine(tiny_onnx, precision="int8", calibration=pixels, method="max", out=tmp_path / "e.engine")
    assert 0.9 < engine.manifest.sign_agreement <= 1
    assert 0 < engine.manifest.relative_error < 0.1
    assert load_engine(tmp_path / "e.engine").manifest == engine.manifest
    used, held_out = hold_out(pixels)
    assert len(used) + len(held_out) == len(pixels)
    assert not (used[:, None] == held_out).all(axis=(2, 3, 4)).any()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 16, 96, 128])
def test_as_many_images_calibrate_as_are_asked_for(count):
    images = np.arange(200, dtype="uint8").reshape(-1, 1, 1, 1).repeat(3, axis=3)
    used, held_out = calibration_sample(images, (1, 1), count)
    assert len(used) == count
    assert (0 if held_out is None else len(held_out)) == min(32, count // 3)
    used, held_out = calibration_sample(images[:6], (1, 1), count)
    assert len(used) + (0 if held_out is None else len(held_out)) <= 6


def test_a_table_stands_in_for_images_and_a_foreign_one_is_refused(tiny_onnx, written_by, table):
    assert build_engine(tiny_onnx, precision="int8", calibration=table).table == table
    with pytest.raises(AurevoirError, match="measured on graph .* calibrate anew"):
        build_engine(tiny_onnx, cut=written_by("Relu"), precision="int8", calibration=table)


def test_a_table_of_another_backbone_names_a_tensor_that_is_not_there(exported, table):
    strange = replace(table, graph="0" * 64, thresholds={"stranger": 1.0, **table.thresholds})
    with pytest.raises(AurevoirError, match=r"1 of its 3 tensors are not in this graph \(first: stranger\): another"):
        assemble(exported, "int8", table=strange)


def test_convolutions_are_left_in_float_until_the_signs_agree(tiny_onnx, pixels):
    plain = build_engine(tiny_onnx, precision="int8", calibration=pixels, method="max", dialect="s8")
    coarse = replace(plain.table, thresholds={name: 40 * value for name, value in plain.table.thresholds.items()})
    exported = export_backbone(open_backbone(tiny_onnx))
    worst = with_fidelity(assemble(exported, "int8", "openvino", coarse), exported, pixels).manifest.sign_agreement
    target = worst + (1 - worst) / 4

    def make(table):
        return assemble(exported, "int8", "openvino", table)

    table, left = reach_sign_agreement(exported, coarse, target, pixels, make)
    reached = with_fidelity(assemble(exported, "int8", "openvino", table), exported, pixels)
    assert worst < target <= reached.manifest.sign_agreement
    assert list(reached.manifest.in_float) == left
    assert len(left) == 1


def test_a_search_for_signs_without_images_is_refused(tiny_onnx, table):
    with pytest.raises(UsageError, match="min_sign_agreement needs 4 or more images"):
        build_engine(tiny_onnx, precision="int8", calibration=table, min_sign_agreement=0.9)


def test_the_sign_method_keeps_at_least_the_signs_of_the_others(tiny_onnx, pixels):
    exported = export_backbone(open_backbone(tiny_onnx))
    used, kept_back = hold_out(pixels)
    reference = assemble(exported, "fp32").bits(kept_back)
    found = {}
    for method in ("sign", "entropy", "mse", "percentile", "max"):
        table = calibrate(exported, pixels if method == "sign" else used, method)
        bits = assemble(exported, "int8", table=table).bits(kept_back)
        found[method] = agreement(bits, reference, exported.features)
    assert found["sign"] == max(found.values())
    with pytest.raises(UsageError, match="needs at least 4 calibration images, not 3"):
        calibrate(exported, pixels[:3], "sign")


def test_every_quantized_tensor_is_measured(exported, table, pixels):
    measured = {tensor.name: tensor for tensor in tensor_fidelity(exported, table, pixels)}
    assert list(measured) == [*table.thresholds, "features"]
    assert all(20 < tensor.sqnr < 80 and tensor.sign_agreement > 0.9 for tensor in measured.values())
    engine = assemble(exported, "int8", "onnxruntime", table)
    expected = sign_agreement(engine(pixels), assemble(exported, "fp32", "onnxruntime")(pixels))
    assert measured["features"].sign_agreement == pytest.approx(expected, abs=2e-3)


def test_tables_are_read_from_files_and_foreign_ones_refused(exported, table, tmp_path):
    (tmp_path / "t.json").write_text(table.to_json())
    assert read_table(tmp_path / "t.json", exported) == table
    (tmp_path / "t.cache").write_bytes(write_cache(table.thresholds))
    found = read_table(tmp_path / "t.cache", exported).thresholds
    assert found == {name: pytest.approx(value, rel=1e-6) for name, value in table.thresholds.items()}
    (tmp_path / "t.cache").write_bytes(write_cache({"stranger": 1.0}))
    with pytest.raises(AurevoirError, match=r"t.cache lacks 2 of the 2 tensors that are quantized"):
        read_table(tmp_path / "t.cache", exported)


def test_data_normalisation_takes_the_images_own_statistics(tiny_onnx, pixels):
    made = build_engine(tiny_onnx, normalization="data", calibration=pixels[:3]).manifest
    np.testing.assert_allclose(made.mean, pixels[:3].reshape(-1, 3).mean(axis=0) / 255, rtol=1e-6)
    np.testing.assert_allclose(made.std, pixels[:3].reshape(-1, 3).std(axis=0) / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision 'int4' is not known; choose one of fp32, fp16, bf16, int8"),
        ({"runtime": "tensorflow"}, "runtime 'tensorflow' is not known; choose one of auto, openvino"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "runtime 'onnxruntime' runs fp32, int8 .* bf16 runs on"),
        ({"precision": "int8"}, "int8 needs calibration images"),
        ({"precision": "int8", "method": "guess"}, "calibration method 'guess' is not known"),
        ({"normalization": "cifar"}, "normalization 'cifar' is not known"),
        ({"normalization": ((0, 0, 0), (1, 1, 0))}, "3 means and 3 positive deviations"),
        ({"normalization": "data"}, "normalization 'data' needs images"),
        ({"dialect": "u4"}, "dialect 'u4' is not known; choose one of auto, s8, u8"),
        ({"resize": "pad"}, "resize 'pad' is not known"),
        ({"device": "npu9"}, "device 'npu9'"),
        ({"calibration": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_a_wrong_argument_is_named(tiny_onnx, options, message, pixels):
    with pytest.raises(UsageError, match=message):
        build_engine(tiny_onnx, **options).bits(pixels)


def test_a_missing_runtime_names_the_line_that_installs_it(tiny_onnx, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.runtimes.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install openvino"):
        build_engine(tiny_onnx, runtime="openvino")
    with pytest.raises(MissingPackageError, match="no runtime is installed"):
        build_engine(tiny_onnx)


def test_missing_torch_names_the_line_that_installs_it():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from aurevoir.cli.main import main; sys.exit(main(['cuts', 'densenet169']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.strip().endswith("pip install 'aurevoir[torch]'")


def test_an_operator_that_torch_does_not_know_is_named(tmp_path):
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Celu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "celu.onnx")
    with pytest.raises(AurevoirError, match="does not know the operator Celu"):
        build_engine(tmp_path / "celu.onnx", runtime="torch")(np.zeros((1, 8, 8, 3), "uint8"))


@pytest.mark.parametrize("name", ["mobilenet", "resnet"])
def test_real_backbones_agree_across_runtimes(name, request, data):
    path = request.getfixturevalue(name)
    from aurevoir.engine.build import sample_images

    exported = export_backbone(open_backbone(path))
    images = sample_images(data("calibration500"), (224, 224), 8)
    reference = assemble(exported, "fp32", "onnxruntime")(images)
    for other in ("openvino", "torch"):
        features = assemble(exported, "fp32", other)(images)
        # Fifty layers, each a few epsilons of its sums: closer to zero, either sign is right.
        sure = np.abs(reference) > 1000 * np.finfo("float32").eps * np.sqrt(np.mean(reference**2))
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(features[sure] > 0, reference[sure] > 0)


def test_int8_of_a_pretrained_network_keeps_the_signs(resnet, data):
    engine = build_engine(
        resnet, precision="int8", calibration=data("calibration500"), calibration_images=48, runtime="openvino"
    )
    assert engine.manifest.sign_agreement > 0.97
    assert engine.manifest.relative_error < 0.12
    assert engine.megabytes < 0.27 * build_engine(resnet).megabytes


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_networks_of_the_zoo_run_on_torch_as_on_the_reference(name, pixels):
    from PIL import Image

    big = np.stack([np.asarray(Image.fromarray(image).resize((96, 96))) for image in pixels[:8]])
    exported = export_backbone(open_backbone(name, "random", 96), None, big)
    reference = assemble(exported, "fp32", "onnxruntime")(big)
    features = assemble(exported, "fp32", "torch")(big)
    np.testing.assert_allclose(features, reference, atol=1e-3 * np.abs(reference).max())


def test_int8_weights_that_would_overflow_here_are_refused(exported, table, pixels, tmp_path, monkeypatch):
    """Without VNNI, products of large weights are summed in 16 bits: what was built where there is VNNI is wrong."""
    wide, narrow = tmp_path / "wide.engine", tmp_path / "narrow.engine"
    for path, has in ((wide, True), (narrow, False)):
        monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda has=has: has)
        engine = assemble(exported, "int8", "onnxruntime", table)
        engine.save(path)
        assert engine.manifest.weight_levels == (127 if has else 63)
    assert load_engine(narrow).manifest.weight_levels == 63
    with pytest.raises(AurevoirError, match=r"wide.engine was built on a processor with.*beyond 63"):
        load_engine(wide)
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: True)
    assert load_engine(narrow).bits(pixels).shape == load_engine(wide).bits(pixels).shape
