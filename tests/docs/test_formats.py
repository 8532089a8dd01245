"""Files read as docs/formats.md says, by the standard library, NumPy and safetensors alone."""

import functools
import hashlib
import json
import statistics
import zipfile

import numpy as np
import pytest
import scipy.linalg
from safetensors.numpy import load_file

import aurevoir
from aurevoir.cli.main import main
from aurevoir.images.batches import collect
from aurevoir.images.sources import class_folders


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def engine_file(tiny_onnx, pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("formats") / "tiny.engine"
    engine = aurevoir.build_engine(tiny_onnx, precision="int8", runtime="openvino", calibration=pixels, smoke=False)
    engine.save(path, speeds=True)
    return path


def test_an_engine_file(engine_file, pixels):
    data = engine_file.read_bytes()
    with zipfile.ZipFile(engine_file) as archive:
        assert archive.comment == data[-64:] == sha256(data[:-64]).encode()
        members = {item.filename: (item.compress_type, item.date_time) for item in archive.infolist()}
        parts = {name: archive.read(name) for name in members}
    assert set(members.values()) == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))}
    assert set(parts) == {"manifest.json", "model.onnx", "calibration.json", "speeds.json"}
    assert "int8" in json.loads(parts.pop("speeds.json"))
    manifest = json.loads(parts.pop("manifest.json"))
    assert manifest["parts"] == {name: sha256(part) for name, part in parts.items()}
    assert manifest["input_shape"] == list(pixels.shape[1:])
    table = json.loads(parts["calibration.json"])
    assert table["graph"] == manifest["graph"]
    assert len(table["images"]) == 64
    assert all(value >= 0 for value in table["thresholds"].values())
    runtime = pytest.importorskip("onnxruntime")
    features, bits, pooled = runtime.InferenceSession(parts["model.onnx"]).run(None, {"images": pixels})
    assert (features.dtype, bits.dtype) == ("float32", "uint8")
    assert features.shape == (len(pixels), manifest["features"])
    assert pooled.shape == (len(pixels), manifest["pooled"])
    assert np.array_equal(bits, np.packbits(features > 0, axis=1))


def test_the_page_names_every_key(engine_file, root):
    page = (root / "docs" / "formats.md").read_text()
    with zipfile.ZipFile(engine_file) as archive:
        keys = {*json.loads(archive.read("manifest.json")), *json.loads(archive.read("calibration.json"))}
        schemas = {json.loads(archive.read(name))["schema"] for name in ("manifest.json", "calibration.json")}
    assert [name for name in sorted(keys | schemas) if f"`{name}`" not in page] == []


def philox(block, row, part, kind, seed):
    """The 16 bytes of Philox4x32-10 (Salmon et al. 2011) for a counter."""
    c, k = [block, row, part, kind], [seed % 2**32, seed >> 32]
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [right >> 32 ^ c[1] ^ k[0], right % 2**32, left >> 32 ^ c[3] ^ k[1], left % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return np.array(c, "<u4").view("uint8")


def random_matrix(kind, k, m, seed):
    """R of `dense` and `dense-signs` as int64 of shape (2, k, m)."""
    normal = statistics.NormalDist(sigma=40)
    levels = np.array([round(normal.inv_cdf((byte + 0.5) / 256)) for byte in range(256)])
    signs = kind == "dense-signs"

    def row(i, part):
        drawn = [philox(j, i, part, int(signs), seed) for j in range(-(-m // (128 if signs else 16)))]
        drawn = np.concatenate(drawn)
        return (2 * np.unpackbits(drawn).astype("int64") - 1 if signs else levels[drawn])[:m]

    return np.array([[row(i, part) for i in range(k)] for part in range(2)])


def intensities(kind, x, k, seed):
    """What a projection gives for bits x of shape (n, m), as the page says."""
    m = x.shape[1]
    if kind != "hadamard":
        return (np.einsum("pkm,nm->pnk", random_matrix(kind, k, m, seed), x) ** 2).sum(axis=0)
    p = 1 << (m - 1).bit_length()
    shape = (-(-k // p), 2, 3, p)
    drawn = np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, np.prod(shape) // 8, dtype="uint8")
    signs = 2.0 * np.unpackbits(drawn).reshape(shape) - 1
    transform = scipy.linalg.hadamard(p) / np.sqrt(p)
    padded = np.pad(x.astype("float64"), ((0, 0), (0, p - m)))
    chains = [
        [functools.reduce(lambda y, sign: (y * sign) @ transform, chain, padded) for chain in pair] for pair in signs
    ]
    return np.concatenate([sum(chain**2 for chain in pair) for pair in chains], axis=1)[:, :k]


@pytest.mark.parametrize("projection", ["none", "exact", "hadamard", "dense", "dense-signs"])
def test_scores_from_a_model_folder(projection, tmp_path, root):
    random = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = random.normal(size=(90, 100)) + random.normal(size=(3, 100))[y]
    classifier = aurevoir.OpticalClassifier(projection=projection, n_components=150, random_state=2**33 + 7).fit(X, y)
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
        light = intensities(projection, np.unpackbits(bits, axis=1)[:, : model["features"]], 150, model["seed"])
        seen = light.astype("float32") * np.float32(model["readout"]["gain"])
        scores = (np.minimum(255, np.rint(seen)).astype("float64") - 128) @ arrays["weights"]
    # The Hadamard transform rounds, so that a few intensities between two levels may go to the other.
    levels = 3 * np.abs(arrays["weights"]).max() if projection == "hadamard" else 0
    expected = classifier.decision_function(X)
    np.testing.assert_allclose(scores + arrays["intercept"], expected, rtol=1e-9, atol=1e-9 + levels)
    assert expected.std() > 50 * levels


@pytest.mark.parametrize("projection", ["pooled", "rbf", "layers", "bits+rbf", "exact+rbf"])
def test_scores_of_pooled_features_from_a_model_folder(projection, staged_onnx, class_folder, tmp_path, root):
    engine = aurevoir.build_engine(staged_onnx, pool_layers=True)
    classifier = aurevoir.OpticalClassifier(engine=engine, projection=projection).fit(class_folder)
    classifier.save(tmp_path / "model")
    model = json.loads((tmp_path / "model" / "model.json").read_bytes())
    page = (root / "docs" / "formats.md").read_text()
    arrays = load_file(tmp_path / "model" / "readout.safetensors")
    assert [name for name in (*model["readout"], *arrays) if f"`{name}`" not in page] == []
    images = classifier.image_files(class_folders(class_folder).paths)
    _, pixels = collect(images)
    bits, pooled = engine.bits(pixels), engine.pooled(pixels)
    pooled = pooled if projection == "layers" else pooled[:, -engine.manifest.pooled_layers[-1] :]
    scores = arrays["intercept"] * np.ones((len(bits), 1))
    if "pooled_rows" in arrays:
        z = ((pooled - arrays["pooled_mean"]) * arrays["pooled_scale"]).astype("float32").astype("float64")
        distances = np.square(z[:, None] - arrays["pooled_rows"]).sum(axis=2)
        varying = np.count_nonzero(arrays["pooled_scale"])
        scores += np.exp(-distances / (2 * varying)) @ arrays["pooled_coefficients"]
    if projection == "pooled":
        scores += pooled @ arrays["weights"]
    if projection == "bits+rbf":
        scores += np.unpackbits(bits, axis=1)[:, : model["features"]] @ arrays["weights"]
    if projection == "exact+rbf":
        ones, own = (np.bitwise_count(each).sum(axis=1, dtype="int64") for each in (bits, arrays["rows"]))
        shared = np.bitwise_count(bits[:, None] & arrays["rows"]).sum(axis=2, dtype="int64")
        scores += (ones[:, None] * own + shared**2) @ arrays["coefficients"]
    np.testing.assert_allclose(scores, classifier.scores(pixels), rtol=1e-9, atol=1e-9)


def test_bits_of_images(engine_file, class_folder, tmp_path):
    out = tmp_path / "bits.npz"
    assert main(["embed", str(engine_file), str(class_folder), "--out", str(out)]) == 0
    found = np.load(out)
    assert set(found) == {"paths", "m", "bits"}
    assert found["bits"].shape == (len(found["paths"]), -(-int(found["m"]) // 8)) == (30, 25)
    assert main(["embed", str(engine_file), str(class_folder), "--out", str(out), "--features"]) == 0
    assert np.load(out)["features"].dtype == "float32"
    assert main(["embed", str(engine_file), str(class_folder), "--out", str(out), "--pooled"]) == 0
    assert (np.load(out)["pooled"].dtype, np.load(out)["pooled"].shape) == ("float32", (30, 4))
    folder = tmp_path / "shards"
    assert main(["embed", str(engine_file), str(class_folder), "--out", f"{folder}/", "--shard-rows", "16"]) == 0
    index = json.loads((folder / "index.json").read_text())
    assert index.pop("schema") == "aurevoir-embedding/1"
    assert {"engine", "runtime", "device", "batch_size", "output", "m", "rows", "images", "shards"} == set(index)
    assert [(each["file"], each["start"], each["stop"], each["rows"]) for each in index["shards"]] == [
        ("shard-000000.npz", 0, 16, 16),
        ("shard-000001.npz", 16, 30, 14),
    ]
    for each in index["shards"]:
        assert sha256((folder / each["file"]).read_bytes()) == each["sha256"]
        assert set(np.load(folder / each["file"])) == {"paths", "m", "bits", "skipped", "reasons"}
