"""The examples run as a reader runs them, on photographs where there are some and on drawn images."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def example(root):
    """Run an example in a process of its own; return the lines that it prints."""

    def run(name, *arguments):
        command = [sys.executable, str(root / "examples" / f"{name}.py"), *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture(params=["drawn", "photographs"])
def source(request):
    """The arguments of an example: none, or a folder of photographs and a pretrained backbone."""
    if request.param == "drawn":
        return []
    data = request.getfixturevalue("data")
    return [data("hymenoptera/train"), "--backbone", data("backbones/mobilenetv2.onnx")]


def _number(pattern, line):
    return float(re.search(pattern, line)[1])


def test_a_folder_becomes_a_classifier(example, source):
    images, by_leave_one_out, tested, *predicted = example("classify_folder", *source)
    classes, least = (2, 0.75) if source else (10, 0.45)
    assert images.endswith(f"training images of {classes} classes")
    assert _number(r"leave-one-out ([\d.]+)", by_leave_one_out) >= least
    assert _number(r"test images ([\d.]+)", tested) >= least
    assert len(predicted) == 3
    assert all(re.fullmatch(r"[\w-]+/\w+\.jpe?g: [\w-]+", line) for line in predicted)


def test_lower_precision_is_smaller_and_keeps_most_signs(example, source):
    found = dict(line.split(": ", 1) for line in example("precisions", *source))
    assert list(found) == ["fp32", "bf16", "int8"]
    fp32, int8 = (_number(r"([\d.]+) MB", found[name]) for name in ("fp32", "int8"))
    assert int8 < fp32 / 2
    assert "sign agreement 1.000" in found["fp32"]
    assert 0.9 < _number(r"agreement ([\d.]+)", found["int8"]) < 1
    assert _number(r"(\d+) images/s", found["int8"]) > 0


def test_an_engine_serves_a_program(example, source):
    images, shapes, signs, alone = example("embed_in_a_program", *source)
    assert re.fullmatch(r"images \(16, \d+, \d+, 3\) uint8", images)
    m, packed = re.fullmatch(r"features \(16, (\d+)\) float32, bits \(16, (\d+)\) uint8", shapes).groups()
    assert int(packed) == -(-int(m) // 8)
    assert signs.endswith("True")
    # One image runs on other kernels than a batch, which may round what is next to zero the other way.
    assert _number(r"([\d.]+)$", alone) < 1e-3


def test_speckle_comes_near_the_exact_kernel(example):
    *projected, exact = example("optics")
    accuracy = [_number(r"accuracy ([\d.]+)", line) for line in projected]
    likeness = [_number(r"kernel ([\d.]+)", line) for line in projected]
    assert [int(_number(r"k = (\d+)", line)) for line in projected] == [64, 256, 1024, 4096]
    assert accuracy == sorted(accuracy)
    assert likeness == sorted(likeness)
    assert likeness[-1] > 0.98
    assert _number(r"accuracy ([\d.]+)", exact) >= accuracy[-1] > 0.95


def test_optics_takes_features_from_a_file(example, tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    np.savez(tmp_path / "features.npz", X=random.normal(size=(60, 300)) + y[:, None], y=y)
    assert _number(r"accuracy ([\d.]+)", example("optics", tmp_path / "features.npz")[-1]) == 1


@pytest.fixture
def embedding():
    """The compiler, and its arguments that build a program with this Python inside; skips where one is missing."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    include, folder = Path(sysconfig.get_path("include")), Path(sysconfig.get_config_var("LIBDIR") or "")
    version = sysconfig.get_config_var("LDVERSION")
    if not (include / "Python.h").is_file() or not list(folder.glob(f"libpython{version}.so*")):
        pytest.skip("this Python has no headers, or no shared library")
    return [compiler, "-Wall", "-Wextra", "-Werror", f"-I{include}", f"-L{folder}", f"-Wl,-rpath,{folder}"], [
        f"-lpython{version}"
    ]


def test_a_c_program_runs_an_engine_in_its_own_memory(root, tiny_onnx, tmp_path, embedding):
    import aurevoir

    engine = aurevoir.build_engine(tiny_onnx, out=tmp_path / "tiny.engine")
    (before, behind), program = embedding, tmp_path / "embed"
    source = root / "examples" / "embed_c" / "embed.c"
    subprocess.run([*before, str(source), "-o", str(program), *behind], check=True, capture_output=True, text=True)
    # An editable installation is found by a hook of the environment's own interpreter, which the program has not.
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "aurevoir").symlink_to(root)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "packages"), *filter(None, sys.path)])}
    command = [str(program), str(tmp_path / "tiny.engine")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The same noise as in the program.
    count = 4 * 28 * 28 * 3
    noise = (np.arange(count, dtype="uint64") * 2654435761 % 2**32 >> 24).astype("uint8").reshape(4, 28, 28, 3)
    ones = np.bitwise_count(engine.bits(noise)).sum(axis=1)
    assert done.stdout.splitlines() == [
        f"image {image}: {count} of 196 features are positive" for image, count in enumerate(ones)
    ]
    missing = subprocess.run([str(program), "nowhere"], env=environment, capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert "nowhere does not exist" in missing.stderr
