"""The C++ examples label photographs as Python does, from exported files alone."""

import os
import re
import subprocess
import zlib

import numpy as np
import pytest
from classifier_graph import classified

from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.delivery import export_engine
from aurevoir.engine.float_graph import export_backbone
from aurevoir.images.decode import decode

LABELS = ("ant", "a bee", 'the "third"', "grün", "vier\udc80")
FORMS = {"openvino": ("openvino_classify", "model.xml"), "onnx": ("onnxruntime_classify", "")}


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


def run(program, *words):
    """Run a program; return (exit code, stdout, stderr)."""
    options = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, env=os.environ | options, check=False)
    return done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="replace")


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


def expected_of(engine, form, images):
    """Return what Python's own runtime of a form gives."""
    if form == "onnx":
        engine = type(engine)(_on_onnxruntime(engine.manifest), engine.graph, engine.table, device="cpu")
    return {name: np.array(engine.compiled(name)(images)[0]) for name in ("scores", "probabilities", "label")}


def _on_onnxruntime(manifest):
    from dataclasses import replace

    return replace(manifest, runtime="onnxruntime")


@pytest.mark.parametrize("form", FORMS)
def test_photographs_get_python_s_labels_and_scores(engine, exported, paths, photographs, form):
    whole = classified(engine, LABELS)
    program, model = exported(whole, form)
    code, out, err = run(program, model, *paths, "--scores")
    assert (code, err) == (0, "")
    expected = expected_of(whole, form, photographs)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    assert [row[1] for row in rows] == [LABELS[label] for label in expected["label"]]
    np.testing.assert_array_equal(np.array([row[2] for row in rows], "float32"), expected["probabilities"].max(axis=1))
    np.testing.assert_array_equal(np.array([row[3:] for row in rows], "float32"), expected["scores"])
    # One image runs on other kernels than several.
    code, out, _ = run(program, model, paths[0])
    alone = expected_of(whole, form, photographs[:1])
    assert (code, out) == (0, f"{paths[0]}\t{LABELS[alone['label'][0]]}\t{alone['probabilities'].max():.9g}\n")


@pytest.mark.parametrize("form", FORMS)
def test_raw_pixels_have_python_s_bits(engine, exported, photographs, tmp_path, form):
    program, model = exported(engine, form, ["bits"])
    (tmp_path / "pixels").write_bytes(photographs.tobytes())
    code, out, err = run(program, model, "--raw", tmp_path / "pixels")
    assert (code, err) == (0, "")
    if form == "onnx":
        engine = type(engine)(_on_onnxruntime(engine.manifest), engine.graph, engine.table, device="cpu")
    bits = engine.bits(photographs)
    assert out == f"bits ({len(bits)}, {bits.shape[1]}) crc32 {zlib.crc32(bits.tobytes()):08x}\n"


@pytest.mark.parametrize("form", FORMS)
def test_several_labels_of_one_image_are_several_lines(backbone, exported, paths, photographs, form):
    whole = classified(assemble(backbone[0], "fp32", "openvino"), LABELS, multilabel=True)
    program, model = exported(whole, form)
    code, out, _ = run(program, model, *paths)
    expected = expected_of(whole, form, photographs)
    lines = [
        f"{path}\t{LABELS[c]}\t{expected['probabilities'][row, c]:.9g}"
        for row, path in enumerate(paths)
        for c in np.flatnonzero(expected["label"][row])
    ]
    assert (code, out.splitlines()) == (0, lines)


@pytest.mark.parametrize("form", FORMS)
def test_a_program_measures_itself_and_skips_what_it_cannot_read(backbone, exported, paths, tmp_path, form):
    whole = classified(assemble(backbone[0], "fp32", "openvino"), LABELS)
    program, model = exported(whole, form)
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    code, out, err = run(program, model, tmp_path / "broken.jpg", paths[0], "--benchmark", "0.2")
    assert code == 1
    assert err == f"skipped: {tmp_path / 'broken.jpg'}: {err.partition('.jpg: ')[2]}"
    first, label, measured = out.splitlines()
    assert int(re.fullmatch(r"first label (\d+) ms after the start", first)[1]) > 0
    assert label.startswith(f"{paths[0]}\t")
    assert float(re.fullmatch(r"([\d.]+) images/s in \d+ batches of 16", measured)[1]) > 0


@pytest.mark.parametrize("form", FORMS)
def test_mistakes_end_in_one_line(backbone, exported, paths, tmp_path, form):
    plain = assemble(backbone[0], "fp32", "openvino")
    program, model = exported(plain, form)
    (tmp_path / "pixels").write_bytes(b"123")
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "bare.onnx").write_bytes(plain.graph)
    cases = [
        ([], "usage: MODEL"),
        ([model, "--raw"], "--raw needs a value"),
        ([model, "--fast"], "--fast is not an option"),
        ([model, "--raw", tmp_path / "pixels"], "does not hold whole images of 150528 bytes"),
        ([model, "--raw", tmp_path / "nothing"], "nothing cannot be read"),
        ([tmp_path / "junk", paths[0]], ""),
        ([tmp_path / "bare.onnx", paths[0]], "no metadata of schema aurevoir-export/1"),
    ]
    for words, message in cases:
        code, out, err = run(program, *words)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert message in err


def test_the_sanitizers_find_nothing(sanitized, backbone, paths, photographs, tmp_path):
    exported, table = backbone
    engine = assemble(exported, "int8", "openvino", table)
    whole = classified(engine, LABELS)
    (tmp_path / "pixels").write_bytes(photographs[:5].tobytes())
    built = [form for form, (name, _) in FORMS.items() if (sanitized / name).is_file()]
    if not built:
        pytest.skip("no library for a program on this machine")
    for form in built:
        name, file = FORMS[form]
        export_engine(whole, tmp_path / form, form)
        model = tmp_path / form / file if file else tmp_path / form
        expected = expected_of(whole, form, photographs)
        code, out, err = run(sanitized / name, model, *paths, "--raw", tmp_path / "pixels", "--benchmark", "0.1")
        assert (code, err) == (0, "")
        labels = [line.split("\t")[1] for line in out.splitlines() if "\t" in line]
        assert labels[: len(paths)] == [LABELS[label] for label in expected["label"]]
        assert run(sanitized / name, tmp_path / "pixels")[0] == 1
