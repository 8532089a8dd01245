"""The C++ examples label photographs as Python does, from exported files alone."""

import json
import os
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from classifier_graph import classified
from PIL import Image

from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.delivery import export_engine
from aurevoir.engine.engine import Engine
from aurevoir.engine.float_graph import export_backbone
from aurevoir.images.decode import decode
from aurevoir.transfer.estimator import OpticalClassifier

LABELS = ("ant", "a bee", 'the "third"', "grün", "vier\udc80")
FORMS = {"openvino": ("openvino_classify", "model.xml"), "onnx": ("onnxruntime_classify", "")}


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    """The folder of the user's caches."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("caches")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def paths(data):
    return sorted(data("hymenoptera/val").rglob("*.jpg"))[::22]


@pytest.fixture(scope="module")
def photographs(paths):
    return np.stack([decode(path, (224, 224)) for path in paths])


@pytest.fixture(scope="module")
def backbone(mobilenet, photographs):
    exported = export_backbone(open_backbone(mobilenet))
    return exported, calibrate(exported, photographs, "max")


@pytest.fixture(scope="module", params=["fp32", "int8"])
def engine(request, backbone):
    exported, table = backbone
    return assemble(exported, request.param, "openvino", table if request.param == "int8" else None)


@pytest.fixture(scope="module")
def whole(engine, data):
    """A classifier of ants and bees as one engine."""
    paths = sorted(data("hymenoptera/train").rglob("*.jpg"))[::8]
    labels = [path.parent.name for path in paths]
    model = OpticalClassifier(engine=engine, projection="hadamard", n_components=1000).fit(paths, labels)
    return model.to_engine(smoke=False)


def run(program, *words):
    """Run a program; return (exit code, stdout, stderr)."""
    # OpenVINO's threads load a library in a way that AddressSanitizer takes no notice of, unless told.
    options = {"ASAN_OPTIONS": "detect_leaks=1", "TBB_ENABLE_SANITIZERS": "1"}
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, env=os.environ | options, check=False)
    return done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def tiny(tiny_onnx):
    return assemble(export_backbone(open_backbone(tiny_onnx)), "fp32", "openvino")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Small JPEGs, and their pixels as the small engine takes them."""
    folder, random = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(6)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype="uint8")).resize((90, 70)).save(path)
    return paths, np.stack([decode(path, (28, 28)) for path in paths])


@pytest.fixture
def exported(programs, tmp_path):
    """A function from an engine and a form to the program that takes it and the exported model."""

    def export(engine, form, outputs=None):
        name, file = FORMS[form]
        if not (programs / name).is_file():
            pytest.skip(f"no library for {name} on this machine")
        export_engine(engine, tmp_path / form, form, outputs)
        return programs / name, tmp_path / form / file if file else tmp_path / form

    return export


def on_runtime(engine, form):
    """Return an engine on the runtime that takes a form."""
    made = replace(engine.manifest, runtime="onnxruntime" if form == "onnx" else "openvino")
    return Engine(made, engine.graph, engine.table, device="cpu")


@pytest.mark.parametrize("form", FORMS)
def test_photographs_get_python_s_labels_and_scores(whole, exported, paths, photographs, form):
    labels = whole.manifest.labels
    assert labels == ("ants", "bees")
    program, model = exported(whole, form)
    code, out, err = run(program, model, *paths, "--scores")
    assert (code, err) == (0, "")
    expected = on_runtime(whole, form).run(photographs)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    assert [row[1] for row in rows] == [labels[label] for label in expected["label"]]
    most = expected["probabilities"].max(axis=1)
    np.testing.assert_array_equal(np.array([row[2] for row in rows], "float32"), most)
    np.testing.assert_array_equal(np.array([row[3:] for row in rows], "float32"), expected["scores"])
    if form == "openvino":
        # What is compiled, and then what was kept of it, label alike.
        kept = model.parent.parent / "cache"
        for _ in range(2):
            assert run(program, model, *paths, "--scores", "--cache", kept) == (0, out, "")
        # A damaged one is compiled anew.
        (blob,) = kept.glob("*.blob")
        for damaged in (blob.read_bytes()[:10_000], b"", b"junk"):
            blob.unlink()
            blob.write_bytes(damaged)
            assert run(program, model, *paths, "--scores", "--cache", kept) == (0, out, "")
    # One image runs on other kernels than several.
    code, out, _ = run(program, model, paths[0])
    alone = on_runtime(whole, form).run(photographs[:1])["label"][0]
    assert (code, out.split("\t")[:2]) == (0, [str(paths[0]), labels[alone]])


@pytest.mark.parametrize("form", FORMS)
def test_raw_pixels_have_python_s_bits(engine, exported, photographs, tmp_path, form):
    program, model = exported(engine, form, ["bits"])
    (tmp_path / "pixels").write_bytes(photographs.tobytes())
    code, out, err = run(program, model, "--raw", tmp_path / "pixels")
    assert (code, err) == (0, "")
    bits = on_runtime(engine, form).bits(photographs)
    assert out == f"bits ({len(bits)}, {bits.shape[1]}) crc32 {zlib.crc32(bits.tobytes()):08x}\n"


@pytest.mark.parametrize("form", FORMS)
def test_several_labels_of_one_image_are_several_lines(tiny, exported, drawn, form):
    whole = classified(tiny, LABELS, multilabel=True)
    program, model = exported(whole, form)
    code, out, _ = run(program, model, *drawn[0])
    expected = on_runtime(whole, form).run(drawn[1])
    found = [line.split("\t") for line in out.splitlines()]
    marked = np.argwhere(expected["label"])
    assert (code, len(marked) > len(drawn[0])) == (0, True)
    assert [line[:2] for line in found] == [[str(drawn[0][row]), LABELS[c]] for row, c in marked]
    probabilities = [expected["probabilities"][row, c] for row, c in marked]
    np.testing.assert_array_equal(np.array([line[2] for line in found], "float32"), probabilities)


@pytest.mark.parametrize("form", FORMS)
def test_a_program_measures_itself_and_skips_what_it_cannot_read(tiny, exported, drawn, tmp_path, form):
    program, model = exported(classified(tiny, LABELS), form)
    paths = drawn[0]
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    code, out, err = run(program, model, tmp_path / "broken.jpg", paths[0], "--benchmark", "0.2")
    assert code == 1
    assert err == f"skipped: {tmp_path / 'broken.jpg'}: {err.partition('.jpg: ')[2]}"
    first, label, measured = out.splitlines()
    assert int(re.fullmatch(r"first label (\d+) ms after the start", first)[1]) > 0
    assert label.startswith(f"{paths[0]}\t")
    assert float(re.fullmatch(r"([\d.]+) images/s in \d+ batches of 16", measured)[1]) > 0


def test_what_is_compiled_is_kept_in_the_user_s_cache(tiny, exported, drawn, tmp_path, monkeypatch):
    program, model = exported(tiny, "openvino")

    def labelled(caches, *options):
        monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
        return run(program, model, *drawn[0], *options)

    first = labelled(tmp_path / "new" / "caches")
    assert first[0] == 0 and len(list(tmp_path.glob("new/caches/aurevoir-openvino/*.blob"))) == 1
    assert labelled(tmp_path / "new" / "caches") == labelled(tmp_path / "off", "--no-cache") == first
    assert not (tmp_path / "off").exists()
    # Where nothing can be kept, nothing is.
    (tmp_path / "file").touch()
    for caches in (tmp_path / "file", "relative"):
        assert labelled(caches) == first


@pytest.mark.parametrize("form", FORMS)
def test_mistakes_end_in_one_line(tiny, exported, drawn, tmp_path, form):
    program, model = exported(tiny, form)
    paths = drawn[0]
    (tmp_path / "pixels").write_bytes(b"123")
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "bare.onnx").write_bytes(tiny.graph)
    cases = [
        ([], "usage: MODEL"),
        ([model, "--raw"], "--raw needs a value"),
        ([model, "--fast"], "--fast is not an option"),
        *([([model, "--cache", tmp_path], "--cache is of OpenVINO alone")] if form == "onnx" else []),
        *([([model, "--no-cache"], "--cache is of OpenVINO alone")] if form == "onnx" else []),
        ([model, "--raw", tmp_path / "pixels"], "does not hold whole images of 2352 bytes"),
        ([model, "--raw", tmp_path / "nothing"], "nothing cannot be read"),
        ([tmp_path / "junk", paths[0]], ""),
        ([tmp_path / "bare.onnx", paths[0]], "no metadata of schema aurevoir-export/1"),
    ]
    for words, message in cases:
        code, out, err = run(program, *words)
        assert (code, out) == (1, "")
        # OpenVINO's readers of formats say something too.
        assert err.splitlines()[-1].startswith("error: ")
        assert message in err.splitlines()[-1]


def test_the_sanitizers_find_nothing(sanitized, tiny, drawn, tmp_path):
    whole, (paths, photographs) = classified(tiny, LABELS), drawn
    (tmp_path / "pixels").write_bytes(photographs[:5].tobytes())
    built = [form for form, (name, _) in FORMS.items() if (sanitized / name).is_file()]
    if not built:
        pytest.skip("no library for a program on this machine")
    for form in built:
        name, file = FORMS[form]
        export_engine(whole, tmp_path / form, form)
        model = tmp_path / form / file if file else tmp_path / form
        expected = on_runtime(whole, form).run(photographs)
        code, out, err = run(sanitized / name, model, *paths, "--raw", tmp_path / "pixels", "--benchmark", "0.1")
        assert (code, err) == (0, "")
        labels = [line.split("\t")[1] for line in out.splitlines() if "\t" in line]
        assert labels[: len(paths)] == [LABELS[label] for label in expected["label"]]
        assert run(sanitized / name, tmp_path / "pixels")[0] == 1


def test_the_program_of_the_page_is_all_that_openvino_needs(root, tiny, drawn, tmp_path):
    openvino = pytest.importorskip("openvino")
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    page = (root / "docs" / "cpp.md").read_text()
    (tmp_path / "embed.cpp").write_text(re.search(r"```cpp\n(.*?)```", page, re.DOTALL)[1])
    library = next(Path(openvino.__file__).parent.glob("libs/libopenvino.so*"))
    include = Path(openvino.__file__).parent / "include"
    subprocess.run(
        ["g++", "-std=c++17", "-I", include, tmp_path / "embed.cpp", "-o", tmp_path / "embed", library,
         f"-Wl,-rpath,{library.parent}"],
        check=True,
    )  # fmt: skip
    whole = classified(tiny, LABELS[:3])
    export_engine(whole, tmp_path / "ir", "openvino")
    code, out, err = run(tmp_path / "embed", tmp_path / "ir" / "model.xml")
    label = whole.run(np.full((1, 28, 28, 3), 128, "uint8"))["label"][0]
    assert (code, out, err) == (0, f"{json.dumps(LABELS[:3])} {label}\n", "")
