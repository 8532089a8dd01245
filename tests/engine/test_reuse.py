"""Graphs, tables and engines of the cache: taken over where nothing has changed, and nowhere else."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
from PIL import Image

from aurevoir import OpticalClassifier, build_engine
from aurevoir.cache import user_cache, without_cache
from aurevoir.cli.main import main
from aurevoir.engine import build
from aurevoir.engine.reuse import check_unpacked, unpack_graph
from aurevoir.errors import AurevoirError
from aurevoir.images.procedural import write_class_folders
from aurevoir.kept import environment

STAGES = ("calibration_sample", "export_backbone", "calibrate", "assemble", "first_inference", "with_speed")
INT8 = {"precision": "int8", "runtime": "openvino"}


@pytest.fixture
def stages(monkeypatch):
    """How often each stage of a build has run."""
    counts = Counter()

    def counted(name, function):
        def run(*arguments, **options):
            counts[name] += 1
            return function(*arguments, **options)

        return run

    for name in STAGES:
        monkeypatch.setattr(build, name, counted(name, getattr(build, name)))
    return counts


@pytest.fixture
def photos(tmp_path):
    return [*write_class_folders(tmp_path / "photos", 6, 32, 0).paths]


@pytest.fixture
def network(tiny_onnx, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    return path


@pytest.mark.usefixtures("cache")
def test_a_second_build_runs_no_stage_and_gives_the_same_engine(network, photos, stages):
    first = build_engine(network, calibration=photos, **INT8)
    assert set(stages) == set(STAGES)
    assert first.built is None
    stages.clear()
    second = build_engine(network, calibration=photos, **INT8)
    assert not stages
    assert second.to_bytes() == first.to_bytes()
    assert second.images_per_second == first.images_per_second
    assert second.images_per_second_by_turn == first.images_per_second_by_turn
    assert second.built > 0
    images = np.stack([np.asarray(Image.open(path).resize((28, 28))) for path in photos])
    assert (second.bits(images) == first.bits(images)).all()
    # Of what an engine is built in another way, the graph and the table are still there.
    build_engine(network, calibration=photos, **INT8 | {"runtime": "onnxruntime"}, smoke=False)
    assert not stages["export_backbone"] + stages["calibrate"]
    assert stages["assemble"]


def _touched(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.usefixtures("cache")
def test_every_part_of_the_key_counts(network, photos, stages, monkeypatch, table):
    options = INT8 | {"calibration": photos, "smoke": False}

    def missed(**changed):
        stages.clear()
        engine = build_engine(network, **options | changed)
        assert engine.built is None or not stages
        return bool(stages["assemble"])

    assert missed()
    assert not missed()
    changes = [
        {"calibration": photos[1:]},
        {"calibration": photos[::-1]},
        {"calibration_images": 8},
        {"calibration_images": 8, "seed": 1},
        {"method": "max"},
        {"method": "mse"},
        {"placement": "concat-inputs"},
        {"activation_dtype": "int8"},
        {"min_sign_agreement": 0.1},
        {"normalization": "unit"},
        {"normalization": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))},
        {"normalization": ((0.5, 0.5, 0.5), (0.5, 0.5, np.nextafter(0.5, 1)))},
        {"normalization": "data"},
        {"resize": "crop"},
        {"cut": onnx.load(network).graph.node[2].output[0]},
        {"precision": "fp32", "calibration": None},
        {"precision": "bf16", "runtime": "torch"},
        {"runtime": "onnxruntime"},
        {"calibration": table},
    ]
    for changed in changes:
        assert missed(**changed), changed
        assert not missed(**changed), changed
    for name, value in (("versions", {"openvino": "0"}), ("processor", "x"), ("sources", "x"), ("processors", 1)):
        changed = environment() | {name: value}
        with monkeypatch.context() as patch:
            patch.setattr("aurevoir.kept.environment", lambda changed=changed: changed)
            assert missed(), name
    assert not missed()
    Image.fromarray(np.zeros((32, 32, 3), "uint8")).save(photos[3])
    assert missed()
    model = onnx.load(network)
    model.doc_string = "a byte"
    onnx.save(model, network)
    assert missed()
    assert not missed()


@pytest.mark.usefixtures("cache")
def test_what_changes_while_it_is_built_is_not_kept(network, photos, stages, monkeypatch):
    calibrated = build.calibrate

    def changing(*arguments, **options):
        Image.fromarray(np.zeros((32, 32, 3), "uint8")).save(photos[0])
        return calibrated(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(build, "calibrate", changing)
        build_engine(network, calibration=photos, **INT8, smoke=False)
    stages.clear()
    build_engine(network, calibration=photos, **INT8, smoke=False)
    assert stages["assemble"]


def test_a_damaged_entry_is_made_again(network, photos, stages, cache):
    first = build_engine(network, calibration=photos, **INT8, smoke=False)
    for kind, stage in (("engine", "assemble"), ("graph", "export_backbone"), ("table", "calibrate")):
        for other in {"engine", kind}:
            for path in (cache / other).iterdir():
                _touched(path)
        stages.clear()
        again = build_engine(network, calibration=photos, **INT8, smoke=False)
        assert again.to_bytes() == first.to_bytes()
        assert stages[stage] == 1 or stage == "assemble"
        assert stages["assemble"]
    # One that is whole, and holds no engine.
    kept = user_cache()
    (entry,) = (cache / "graph").iterdir()
    head, _, graph = kept.get("graph", entry.name).partition(b"\n")
    model = onnx.load_from_string(graph)
    model.graph.node[0].op_type = "Loop"
    strange = head + b"\n" + model.SerializeToString()
    with pytest.raises(AurevoirError, match="the graph of an entry of the cache holds the operator Loop"):
        check_unpacked(unpack_graph(strange))
    for kind, content in (("engine", b'{"built": 1}\nx'), ("graph", strange), ("table", b"{}")):
        for path in (cache / kind).iterdir():
            kept.put(kind, path.name, content)
    assert build_engine(network, calibration=photos, **INT8, smoke=False).to_bytes() == first.to_bytes()


@pytest.mark.usefixtures("cache")
def test_weights_beside_an_onnx_file_are_part_of_it(network, stages):
    model = onnx.load(network)
    onnx.save(model, network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    build_engine(network, runtime="openvino")
    stages.clear()
    build_engine(network, runtime="openvino")
    assert not stages
    _touched(network.parent / "weights.bin")
    build_engine(network, runtime="openvino")
    assert stages["export_backbone"]
    # A file that would not be read as weights is not read for the key either.
    (network.parent / "weights.bin").unlink()
    os.mkfifo(network.parent / "weights.bin")
    with pytest.raises(AurevoirError, match="is not a regular file"):
        build_engine(network, runtime="openvino")


@pytest.mark.usefixtures("cache")
def test_a_module_is_known_by_its_graph_alone_and_weights_by_name_by_their_values(pixels, stages, monkeypatch):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
    options = {"size": 28, "runtime": "openvino", "smoke": False}
    build_engine(module, cut="2", **options)
    stages.clear()
    build_engine(module, cut="2", **options)
    assert stages == {"export_backbone": 1}
    with torch.no_grad():
        module[2].bias += 1
    build_engine(module, cut="2", **options)
    assert stages["assemble"] == 1

    created, shift = torchvision.models.get_model, [0.0]

    def create(name, **_):
        torch.manual_seed(0)
        network = created(name)
        with torch.no_grad():
            network.features[0].bias += shift[0]
        return network

    monkeypatch.setattr("torchvision.models.get_model", create)
    named = options | {"size": 64, "cut": "features.3"}
    for value, expected in ((0.0, 1), (0.0, 0), (1.0, 1), (0.0, 0)):
        shift[0] = value
        stages.clear()
        build_engine("squeezenet1_1", **named)
        assert stages["export_backbone"] == stages["assemble"] == expected


@pytest.mark.usefixtures("cache")
def test_what_is_asked_of_the_machine_as_it_is_is_asked_again(network, pixels, stages):
    for _ in range(2):
        stages.clear()
        build_engine(network, calibration=pixels, **INT8, smoke=False, prefer_faster=True)
        assert stages["with_speed"]


def test_off_it_is_neither_read_nor_written(network, pixels, stages, cache, monkeypatch):
    build_engine(network, calibration=pixels, **INT8, smoke=False)
    before = sorted(cache.rglob("*"))
    for _ in range(2):
        stages.clear()
        with without_cache():
            build_engine(network, calibration=pixels, method="max", **INT8, smoke=False)
        assert stages["assemble"]
    monkeypatch.setenv("AUREVOIR_CACHE_SIZE", "0")
    stages.clear()
    build_engine(network, calibration=pixels, **INT8, smoke=False)
    assert stages["assemble"]
    assert sorted(cache.rglob("*")) == before


@pytest.mark.usefixtures("cache")
def test_a_fit_and_a_work_folder_take_over_too(network, class_folder, stages, tmp_path):
    options = INT8 | {"smoke": False, "projection": "exact"}
    first = OpticalClassifier(network, **options).fit(class_folder)
    stages.clear()
    again = OpticalClassifier(network, **options, work=tmp_path / "work").fit(class_folder)
    assert not stages
    assert (again.predict_proba(class_folder) == first.predict_proba(class_folder)).all()
    assert not list((tmp_path / "work").glob("engine-*"))


@pytest.mark.usefixtures("cache")
def test_the_command_line_says_what_is_kept(network, class_folder, tmp_path, capsys):
    words = ["build", str(network), "--out", str(tmp_path / "e.engine"), "--calibration", str(class_folder)]
    words += ["--precision", "int8", "--runtime", "openvino"]
    assert main([*words, "--no-cache"]) == 0
    assert main([*words, "--json"]) == 0
    first, err = capsys.readouterr()
    assert json.loads(first.splitlines()[-1])["engine_built"] is None
    assert "from the cache" not in err
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "from the cache: the engine\n" in err
    assert "the engine was kept by an earlier run: built and measured 2" in out
    assert main(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["kind"], each["files"]) for each in found["kinds"] if each["kind"] != "checked-engines"] == [
        ("engine", 1),
        ("graph", 1),
        ("table", 1),
    ]
    assert found["bytes"] == sum(each["bytes"] for each in found["kinds"]) > 0
    assert main(["cache"]) == 0
    assert "engines                        1 file" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert "deleted 4 files" in capsys.readouterr().out
    assert main(["cache"]) == 0
    assert "0 bytes, of at most 2.0 GiB" in capsys.readouterr().out


def test_two_processes_at_once_use_one_cache(network, class_folder, tmp_path, cache):
    command = [sys.executable, "-m", "aurevoir", "build", str(network), "--calibration", str(class_folder)]
    command += ["--precision", "int8", "--runtime", "openvino"]
    outs = [tmp_path / f"{number}.engine" for number in range(2)]
    running = [subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL) for out in outs]
    assert [process.wait() for process in running] == [0, 0]
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert Counter(each.kind for each in user_cache().entries()) == {"engine": 1, "graph": 1, "table": 1}
    assert not [path for path in cache.rglob(".aurevoir-*")]
