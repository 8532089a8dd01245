"""One call from a backbone and images to an engine: its options, its measurements, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest

from aurevoir import build_engine, load_engine
from aurevoir.engine.assemble import assemble
from aurevoir.engine.sample import calibration_sample, hold_out, sample_images
from aurevoir.errors import AurevoirError, MissingPackageError, ThresholdMissedError, UsageError


@pytest.mark.parametrize("moment", ["aurevoir.saving.renameat2", "os.fsync"])
def test_a_build_that_is_killed_leaves_no_engine(tiny_onnx, tmp_path, moment):
    script = (
        "import os, signal\nimport aurevoir.saving\n"
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
    with pytest.raises(AurevoirError, match="measured on graph .* calibrate again"):
        build_engine(tiny_onnx, cut=written_by("Relu"), precision="int8", calibration=table)


def test_a_search_for_signs_without_images_is_refused(tiny_onnx, table):
    with pytest.raises(UsageError, match="min_sign_agreement needs 4 or more images"):
        build_engine(tiny_onnx, precision="int8", calibration=table, min_sign_agreement=0.9)


def test_the_search_for_signs_measures_the_engine_that_is_delivered(tiny_onnx, pixels, monkeypatch):
    seen = []

    def assembled(exported, precision, *arguments, **options):
        seen.append((precision, options.get("activation_dtype")))
        return assemble(exported, precision, *arguments, **options)

    monkeypatch.setattr("aurevoir.engine.build.assemble", assembled)
    options = {"precision": "int8", "calibration": pixels, "activation_dtype": "int8", "smoke": False}
    monkeypatch.setattr("aurevoir.engine.calibrate.sign_agreement", lambda features, reference: 0.5)
    with pytest.raises(ThresholdMissedError, match=r"1\.0 is out of reach: with int8 and \d+ tensors in floating"):
        build_engine(tiny_onnx, **options, min_sign_agreement=1.0)
    assert {activation_dtype for precision, activation_dtype in seen if precision == "int8"} == {"int8"}
    assert sum(precision == "int8" for precision, _ in seen) > 2


def test_an_int8_build_says_how_fast_it_is(tiny_onnx, pixels):
    built = build_engine(tiny_onnx, precision="int8", runtime="onnxruntime", calibration=pixels)
    assert set(built.images_per_second) == {"int8", "fp32"}
    assert all(speed > 0 for speed in built.images_per_second.values())
    assert build_engine(tiny_onnx, calibration=pixels).images_per_second == {}


@pytest.mark.parametrize(("fastest", "kept"), [("int8", "int8"), ("fp32", "fp32")])
def test_the_faster_is_preferred_where_asked(tiny_onnx, pixels, monkeypatch, fastest, kept, tmp_path):
    def alternate(contestants, rounds, progress):
        return {name: [0.1 if name == fastest else 0.2] * rounds for name in contestants}

    monkeypatch.setattr("aurevoir.engine.assemble.alternate", alternate)
    options = {"precision": "int8", "runtime": "onnxruntime", "calibration": pixels}
    engine = build_engine(tiny_onnx, **options, prefer_faster=True, out=tmp_path / "e.engine")
    assert (engine.precision, engine.table is None) == (kept, kept != "int8")
    assert engine.images_per_second == {"int8": 80.0, "fp32": 80.0} | {fastest: 160.0}
    assert build_engine(tiny_onnx, **options).precision == "int8"


@pytest.mark.parametrize(
    ("int8", "fp32", "kept"),
    [
        # Seconds of five turns each.
        ([0.2] * 5, [0.1] * 5, "fp32"),
        ([0.2, 0.2, 0.2, 0.2, 0.1], [0.19, 0.19, 0.19, 0.19, 0.11], "int8"),
        ([0.2] * 5, [0.2] * 5, "int8"),
        ([0.11] * 5, [0.12] * 5, "int8"),
    ],
)
def test_the_faster_is_preferred_only_beyond_the_spread(tiny_onnx, pixels, monkeypatch, int8, fp32, kept):
    monkeypatch.setattr("aurevoir.engine.assemble.alternate", lambda *arguments: {"int8": int8, "fp32": fp32})
    options = {"precision": "int8", "runtime": "onnxruntime", "calibration": pixels, "smoke": False}
    engine = build_engine(tiny_onnx, **options, prefer_faster=True)
    assert engine.precision == kept
    assert engine.images_per_second_by_turn == {
        "int8": [16 / each for each in int8],
        "fp32": [16 / each for each in fp32],
    }
    assert engine.with_manifest(engine.manifest).images_per_second_by_turn == engine.images_per_second_by_turn


def test_what_float_tensors_cost_is_timed(tiny_onnx, pixels, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.calibrate.sign_agreement", lambda features, reference: 0.5)
    engine = build_engine(tiny_onnx, precision="int8", calibration=pixels, min_sign_agreement=0.9)
    assert engine.manifest.in_float
    assert "int8 throughout" in engine.images_per_second


def test_int8_of_a_pretrained_network_keeps_the_signs(resnet, data):
    engine = build_engine(
        resnet, precision="int8", calibration=data("calibration500"), calibration_images=48, runtime="openvino"
    )
    assert engine.manifest.sign_agreement > 0.97
    assert engine.manifest.relative_error < 0.12
    assert engine.megabytes < 0.27 * build_engine(resnet).megabytes


def test_data_normalisation_takes_the_images_own_statistics(tiny_onnx, pixels):
    few = build_engine(tiny_onnx, normalization="data", calibration=pixels, calibration_images=3, smoke=False).manifest
    held = sample_images(pixels, pixels.shape[1:3], 4)
    assert any(np.allclose(few.mean, np.delete(held, k, 0).reshape(-1, 3).mean(axis=0) / 255) for k in range(4))
    made = build_engine(tiny_onnx, normalization="data", calibration=pixels[:3]).manifest
    np.testing.assert_allclose(made.mean, pixels[:3].reshape(-1, 3).mean(axis=0) / 255, rtol=1e-6)
    np.testing.assert_allclose(made.std, pixels[:3].reshape(-1, 3).std(axis=0) / 255, rtol=1e-6)


def test_images_of_another_size_are_refused_or_resized(tiny_onnx, class_folder):
    with pytest.raises(UsageError, match=r"calibration images of shape \(5, 32, 32, 3\)"):
        build_engine(tiny_onnx, precision="int8", calibration=np.zeros((5, 32, 32, 3), "uint8"))
    assert build_engine(tiny_onnx, precision="int8", calibration=class_folder).manifest.sign_agreement > 0.9


def test_an_activation_dtype_that_tensorrt_does_not_take_is_named(tiny_onnx, pixels):
    with pytest.raises(UsageError, match="activation dtype 'uint8': runtime 'tensorrt-rtx' takes signed activations"):
        build_engine(tiny_onnx, precision="int8", calibration=pixels, target="sm89", activation_dtype="uint8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision 'int4' is not known; choose one of fp32, fp16, bf16, int8"),
        ({"runtime": "tensorflow"}, "runtime 'tensorflow' is not known; choose one of auto, openvino"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "runtime 'onnxruntime' runs fp32, int8 .* bf16 runs on"),
        ({"precision": "int8"}, "int8 needs calibration images"),
        ({"precision": "int8", "method": "guess"}, "calibration method 'guess' is not known"),
        ({"normalization": "cifar"}, "normalization 'cifar' is not known"),
        ({"normalization": ((0, 0, 0), (1, 1, 0))}, "3 means and 3 positive standard deviations"),
        ({"normalization": "data"}, "normalization 'data' needs images"),
        ({"activation_dtype": "u4"}, "activation dtype 'u4' is not known; choose one of auto, int8, uint8"),
        ({"resize": "pad"}, "resize 'pad' is not known"),
        ({"device": "npu9"}, "device 'npu9'"),
        ({"workspace": 5}, "workspace, timing_cache and batches have no effect with runtime 'openvino'"),
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prefer_faster": True}, "prefer_faster compares int8"),
        ({"calibration_images": -1}, "calibration on -1 images"),
        ({"batches": (1, 9, 8)}, "not in order"),
        ({"batches": [4, 8]}, "not in order"),
    ],
)
def test_wrong_numbers_and_options_are_refused_before_the_work(tiny_onnx, wrong, message):
    with pytest.raises(UsageError, match=message):
        build_engine(tiny_onnx, **wrong)


def test_the_usual_batches_may_be_a_list_and_images_a_json_list(tiny_onnx, class_folder, tmp_path):
    listed = [{"path": str(path)} for path in sorted(class_folder.rglob("*.png"))]
    (tmp_path / "photos.json").write_text(json.dumps(listed))
    options = {"precision": "int8", "runtime": "openvino", "smoke": False, "batches": [1, 16, 64]}
    assert build_engine(tiny_onnx, calibration=tmp_path / "photos.json", **options).manifest.sign_agreement


def test_a_float_engine_without_need_of_images_decodes_none(tiny_onnx, class_folder, monkeypatch):
    monkeypatch.setattr("aurevoir.images.batches.decode", None)
    build_engine(tiny_onnx, calibration=class_folder, smoke=False)


def test_min_sign_agreement_is_required_in_every_precision(tiny_onnx, pixels, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.assemble.sign_agreement", lambda features, reference: 0.97)
    with pytest.raises(ThresholdMissedError, match=r"0\.98 is out of reach: with bf16 the sign agreement .* 0\.9700"):
        build_engine(tiny_onnx, precision="bf16", runtime="torch", calibration=pixels, min_sign_agreement=0.98)


def test_torch_takes_images_that_are_turned(tiny_onnx, pixels):
    engine = build_engine(tiny_onnx, runtime="torch", smoke=False)
    np.testing.assert_array_equal(engine(pixels[..., ::-1]), engine(np.ascontiguousarray(pixels[..., ::-1])))


def test_settings_of_threads_stay_with_another_manifest(tiny_onnx):
    engine = build_engine(tiny_onnx, runtime="openvino", smoke=False).with_threads(threads=1)
    assert engine.with_manifest(engine.manifest)._settings == engine._settings == {"threads": 1}
