"""Files read as docs/formats.md says, by the standard library, NumPy and safetensors alone."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

import aurevoir
from aurevoir.cli.main import main


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def engine_file(tiny_onnx, pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("formats") / "tiny.engine"
    aurevoir.build_engine(tiny_onnx, precision="int8", runtime="openvino", calibration=pixels, smoke=False, out=path)
    return path


def test_an_engine_file(engine_file, pixels):
    data = engine_file.read_bytes()
    with zipfile.ZipFile(engine_file) as archive:
        assert archive.comment == data[-64:] == sha256(data[:-64]).encode()
        members = {item.filename: (item.compress_type, item.date_time) for item in archive.infolist()}
        parts = {name: archive.read(name) for name in members}
    assert set(members.values()) == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))}
    assert set(parts) == {"manifest.json", "model.onnx", "calibration.json"}
    manifest = json.loads(parts.pop("manifest.json"))
    assert manifest["parts"] == {name: sha256(part) for name, part in parts.items()}
    assert manifest["input_shape"] == list(pixels.shape[1:])
    table = json.loads(parts["calibration.json"])
    assert table["graph"] == manifest["graph"]
    assert len(table["images"]) == 64
    assert all(value >= 0 for value in table["thresholds"].values())
    runtime = pytest.importorskip("onnxruntime")
    features, bits = runtime.InferenceSession(parts["model.onnx"]).run(None, {"images": pixels})
    assert (features.dtype, bits.dtype) == ("float32", "uint8")
    assert features.shape == (len(pixels), manifest["features"])
    assert np.array_equal(bits, np.packbits(features > 0, axis=1))


def test_the_page_names_every_key(engine_file, root):
    page = (root / "docs" / "formats.md").read_text()
    with zipfile.ZipFile(engine_file) as archive:
        keys = {*json.loads(archive.read("manifest.json")), *json.loads(archive.read("calibration.json"))}
        schemas = {json.loads(archive.read(name))["schema"] for name in ("manifest.json", "calibration.json")}
    assert [name for name in sorted(keys | schemas) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("projection", ["none", "exact", "hadamard"])
def test_scores_from_a_model_folder(projection, tmp_path, root):
    random = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = random.normal(size=(90, 100)) + random.normal(size=(3, 100))[y]
    classifier = aurevoir.OpticalClassifier(projection=projection, n_components=40).fit(X, y)
    classifier.save(tmp_path / "model")
    model = json.loads((tmp_path / "model" / "model.json").read_bytes())
    for name, digest in model["files"].items():
        assert sha256((tmp_path / "model" / name).read_bytes()) == digest
    page = (root / "docs" / "formats.md").read_text()
    assert [name for name in (*model, *model["parameters"], *model["readout"]) if f"`{name}`" not in page] == []
    arrays = load_file(tmp_path / "model" / "readout.safetensors")
    assert model["alpha"] == arrays["alphas"][model["best"]]
    bits = np.packbits(X > 0, axis=1)
    if projection == "none":
        scores = np.unpackbits(bits, axis=1)[:, : model["features"]] @ arrays["weights"]
    elif projection == "exact":
        ones, own = (np.bitwise_count(each).sum(axis=1, dtype="int64") for each in (bits, arrays["rows"]))
        shared = np.bitwise_count(bits[:, None] & arrays["rows"]).sum(axis=2, dtype="int64")
        scores = (ones[:, None] * own + shared**2) @ arrays["coefficients"]
    else:
        intensities = classifier.readout_.projection.intensities(bits)
        speckle = np.minimum(255, np.rint(intensities * np.float32(model["readout"]["gain"])))
        scores = (speckle.astype("float64") - 128) @ arrays["weights"]
    np.testing.assert_allclose(scores + arrays["intercept"], classifier.decision_function(X), rtol=1e-9, atol=1e-9)


def test_bits_of_images(engine_file, class_folder, tmp_path):
    out = tmp_path / "bits.npz"
    assert main(["embed", str(engine_file), str(class_folder), "--out", str(out)]) == 0
    found = np.load(out)
    assert set(found) == {"paths", "m", "bits"}
    assert found["bits"].shape == (len(found["paths"]), -(-int(found["m"]) // 8)) == (30, 25)
    assert main(["embed", str(engine_file), str(class_folder), "--out", str(out), "--features"]) == 0
    assert np.load(out)["features"].dtype == "float32"
