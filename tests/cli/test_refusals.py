"""What people do at a command line ends in one line on stderr and an exit code, never in a traceback."""

import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aurevoir import build_engine
from aurevoir.cli.main import main

ROOT_USER = os.geteuid() == 0


@pytest.fixture(scope="module")
def engine(tiny_onnx, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    build_engine(tiny_onnx, smoke=False, out=path)
    return path


@pytest.fixture
def call(call):
    """Run a command in this process; return (exit code, stdout, lines of stderr that are no notes, notes)."""

    def run(*arguments):
        code, out, err = call(*arguments)
        lines = err.splitlines()
        notes = [line for line in lines if ": note: " in line]
        return code, out, [line for line in lines if line not in notes], notes

    return run


@pytest.fixture
def refused(call):
    """Run a command that fails; return its exit code and its one line, which has no trace of Python in it."""

    def run(*arguments):
        code, out, lines, _ = call(*arguments)
        assert out == ""
        assert len(lines) == 1, lines
        assert "unexpected" not in lines[0]
        assert "Traceback" not in lines[0]
        return code, lines[0]

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "argument --seed: -1 is not between 0 and 4294967295"),
        (["--seed", "99999999999"], "argument --seed: 99999999999 is not between"),
        (["--seed", "1.5"], "argument --seed: invalid int value: '1.5'"),
        (["--size", "-5"], "argument --size: -5 is less than 1"),
        (["--size", "0"], "argument --size: 0 is less than 1"),
        (["--size", "100000"], "argument --size: 100000 pixels are more than 16,384"),
        (["--size", "nan"], "argument --size: invalid int value: 'nan'"),
        (["--components", "-1"], "argument --components: -1 is less than 1"),
        (["--calibration-images", "0"], "argument --calibration-images: 0 is less than 1"),
        (["--min-accuracy", "nan"], "argument --min-accuracy: nan is not a finite number"),
        (["--min-accuracy", "inf"], "argument --min-accuracy: inf is not a finite number"),
        (["--min-accuracy", "2"], "argument --min-accuracy: 2.0 is not between 0 and 1"),
        (["--min-accuracy", "high"], "argument --min-accuracy: invalid float value: 'high'"),
        (["--alphas", "1", "0"], "argument --alphas: 0 is not above 0"),
        (["--alphas", "nan"], "argument --alphas: nan is not a finite number"),
        (["--precision", ""], "precision is an empty text; give a value"),
        (["--cut", ""], "cut is an empty text"),
        (["--out", ""], "out is an empty text"),
        (["--out", "s3://a/m"], "out s3://a/m is a URL, and only images are read from there; give a path"),
        (["--resize", "pad"], "resize 'pad' is not known"),
        (["--method", "best", "--precision", "int8"], "method 'best' is not known"),
        (["--device", "gpu9"], "gpu9"),
        (["--precison", "int8"], "unrecognized arguments: --precison int8; did you mean --precision?"),
        (["--test", "/dev/null"], "/dev/null is not a folder"),
    ],
)
def test_bad_values_of_fit_are_named(refused, tiny_onnx, class_folder, options, message):
    code, line = refused("fit", class_folder, "--backbone", tiny_onnx, *options)
    assert code == 2
    assert line.startswith("aurevoir fit: error: ")
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cuts", "resnet18", "--size", "-5"], 2, "argument --size: -5 is less than 1"),
        (["fit", ""], 2, "data is an empty text"),
        (["fti", "x"], 2, "did you mean fit?"),
        (["bench", "ridgee"], 2, "did you mean ridge?"),
        (["bench"], 2, "the following arguments are required: NAME"),
        (["bench", "ridge", "--splits", "-1"], 2, "argument --splits: -1 is less than 1"),
        (["bench", "engines", "--batches", "0"], 2, "argument --batches: 0 is less than 1"),
        (["bench", "projection", "--min-speedup", "nan"], 2, "argument --min-speedup: nan is not a finite number"),
        (["bench", "projection", "--memory", "nonsense"], 2, "memory budget 'nonsense' is invalid"),
        (["bench", "gpu", "--device", "cpu", "--images", "-3"], 2, "-3 is below 1"),
        (["bench", "compare", "/nowhere/a.json", "/nowhere/b.json"], 2, "/nowhere/a.json"),
        (["inspect", "/nowhere/e.engine"], 2, "/nowhere/e.engine does not exist"),
        (["evaluate", "/nowhere", "/nowhere"], 2, "/nowhere is not a model folder"),
        (["demo", "--seed", "-1"], 2, "argument --seed: -1 is not between"),
    ],
)
def test_bad_values_of_other_commands_are_named(refused, arguments, code, message):
    found, line = refused(*arguments)
    assert (found, message in line) == (code, True), line


def test_a_memory_budget_that_is_none_is_refused_before_the_work(refused, engine, class_folder, monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "nonsense")
    code, line = refused("fit", class_folder, "--engine", engine)
    assert (code, "memory budget 'nonsense' is invalid" in line) == (2, True)


def test_components_that_do_not_fit_are_refused(refused, engine, class_folder):
    options = ["--projection", "hadamard", "--components", str(10**12)]
    code, line = refused("fit", class_folder, "--engine", engine, *options)
    assert code in (1, 2)
    assert re.search("budget|memory|components", line)


def test_batches_must_grow(refused, tiny_onnx, tmp_path):
    code, line = refused("build", tiny_onnx, "--batches", "4", "2", "8", "--out", tmp_path / "e")
    assert (code, "--batches 4 2 8 do not grow" in line) == (2, True)


TARGETS = {
    "a folder": lambda root: root / "there",
    "below a file": lambda root: root / "file" / "x",
    "a name too long": lambda root: root / ("x" * 300),
    "a device": lambda root: Path("/dev/null"),
    "a link to a folder": lambda root: root / "link",
}


@pytest.fixture
def never(monkeypatch):
    """No engine is built, and no image decoded."""

    def fail(*arguments, **options):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("aurevoir.engine.build.EngineBuilder.build", fail)
    monkeypatch.setattr("aurevoir.engine.build.EngineBuilder.exported", property(fail))
    monkeypatch.setattr("aurevoir.images.batches.decode", fail)


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    refused, never, tiny_onnx, engine, class_folder, tmp_path, target
):
    (tmp_path / "file").write_text("x")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    out = TARGETS[target](tmp_path)
    images = ["--calibration", class_folder]
    for command in (
        ["build", tiny_onnx, "--out", out],
        ["calibrate", tiny_onnx, *images, "--out", out],
        ["calibrate", tiny_onnx, *images, "--out", tmp_path / "t.json", "--cache", out],
        ["calibrate", tiny_onnx, *images, "--out", tmp_path / "t.json", "--onnx", out],
        ["bench", "threads", "--backbone", tiny_onnx, "--out", out],
    ):
        code, line = refused(*command)
        assert code == 2
        assert str(out)[:200] in line
    assert not (tmp_path / "t.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "photos", "there"]
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("target", ["below a file", "a name too long", "a device"])
def test_a_model_that_cannot_be_written_is_refused_before_the_work(
    refused, never, engine, class_folder, tmp_path, target
):
    (tmp_path / "file").write_text("x")
    code, line = refused("fit", class_folder, "--engine", engine, "--out", TARGETS[target](tmp_path))
    assert code == 2
    for other in (tmp_path / "file", class_folder):
        code, line = refused("fit", class_folder, "--engine", engine, "--out", other)
        assert (code, f"{other} exists and is not a model folder" in line) == (2, True)


@pytest.mark.skipif(ROOT_USER, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_the_work(refused, never, engine, class_folder, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, line = refused("fit", class_folder, "--engine", engine, "--out", tmp_path / "locked" / "model")
    assert (code, "permission denied" in line) == (2, True)


def test_a_disk_without_space_is_found_before_the_work(refused, never, engine, class_folder, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, line = refused("fit", class_folder, "--engine", engine, "--out", tmp_path / "model")
    assert (code, "model cannot be written: no space left on device; free some" in line) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_output_is_no_input_and_no_other_output(refused, never, tiny_onnx, class_folder, tmp_path):
    code, line = refused("build", tiny_onnx, "--out", tiny_onnx)
    assert (code, f"--out {tiny_onnx} is the input" in line) == (2, True)
    given = ["--calibration", class_folder, "--out", tmp_path / "t"]
    code, line = refused("calibrate", tiny_onnx, *given, "--onnx", tmp_path / "t")
    assert (code, f"--onnx {tmp_path / 't'} is that of --out too" in line) == (2, True)


def test_a_figure_of_an_unknown_kind_is_refused_before_the_work(refused, never, tiny_onnx, class_folder, tmp_path):
    given = ["--calibration", class_folder, "--out", tmp_path / "t.json"]
    code, line = refused("calibrate", tiny_onnx, *given, "--plot", tmp_path / "t.xyz")
    assert (code, "ends in .xyz; give one of ." in line) == (2, True)
    code, line = refused("calibrate", tiny_onnx, *given, "--plot", tmp_path / "none" / "t.png")
    assert (code, "none does not exist; make it" in line) == (2, True)


def test_embed_says_which_endings_there_are(refused, never, engine, class_folder, tmp_path):
    for name in ("bits", "bits.csv"):
        code, line = refused("embed", engine, class_folder, "--out", tmp_path / name)
        assert (code, f"--out {tmp_path / name} must end in .npz" in line) == (2, True)


def test_a_missing_path_among_many_is_skipped_and_listed(call, engine, class_folder, tmp_path):
    assert call("fit", class_folder, "--engine", engine, "--out", tmp_path / "model")[0] == 0
    photo, gone = class_folder / "red" / "0.png", class_folder / "gone.png"
    for command in (["predict", tmp_path / "model"], ["embed", engine, "--out", tmp_path / "x.npz"]):
        code, out, lines, _ = call(*command[:2], gone, photo, *command[2:], "--json")
        assert (code, lines) == (0, [])
        assert json.loads(out)["skipped"] == {str(gone): "does not exist (FileNotFoundError)"}
        code, out, lines, _ = call(*command[:2], gone, class_folder / "none", *command[2:])
        assert (code, out, len(lines)) == (1, "", 1)
        assert f"none of the 2 files is a readable image; the first, {gone}: does not exist" in lines[0]
    (tmp_path / "empty").mkdir()
    code, _, lines, _ = call("predict", tmp_path / "model", tmp_path / "empty")
    assert (code, "there is no image file to work on" in lines[0]) == (1, True)


@pytest.mark.timeout(60)
def test_what_is_no_file_is_never_opened(call, engine, class_folder, tmp_path):
    os.mkfifo(class_folder / "red" / "pipe.jpg")
    (class_folder / "red" / "folder.jpg").mkdir()
    (class_folder / "red" / "null.jpg").symlink_to("/dev/null")
    (class_folder / "red" / "broken.jpg").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(class_folder / "red" / "s.jpg"))
        code, out, _, _ = call("fit", class_folder, "--engine", engine, "--json")
    assert code == 0
    reasons = {Path(path).name: reason for path, reason in json.loads(out)["skipped"].items()}
    assert reasons == {
        "pipe.jpg": "a FIFO, not a file",
        "null.jpg": "a device, not a file",
        "broken.jpg": "a broken link",
        "s.jpg": "a socket, not a file",
    }


NAMES = [b"caf\xe9", "ünïcode \N{PARTY POPPER}".encode(), b"two\nlines", b" 'quoted\" ", b"x" * 200, b"\x1b[31mred"]


def test_class_names_of_any_bytes_go_through_every_command(call, engine, class_folder, tmp_path):
    for name, label in zip(NAMES, ["blue", "green", "red"] * 2):
        shutil.copytree(class_folder / label, tmp_path / "odd" / os.fsdecode(name))
    code, out, lines, _ = call("fit", tmp_path / "odd", "--engine", engine, "--out", tmp_path / "model", "--json")
    assert (code, lines) == (0, [])
    labels = [name.decode("utf-8", "surrogateescape") for name in NAMES]
    assert json.loads(out)["classes"] == sorted(labels)
    code, out, _, _ = call("evaluate", tmp_path / "model", tmp_path / "odd", "--json")
    assert (code, json.loads(out)["images"]) == (0, 60)
    for command in (
        ["evaluate", tmp_path / "model", tmp_path / "odd"],
        ["predict", tmp_path / "model", tmp_path / "odd"],
    ):
        code, out, _, _ = call(*command)
        assert code == 0
        assert "\x1b" not in out
        assert "two\\nlines" in out
        assert "caf\\udce9" in out
    assert "caf\\udce9" in html.unescape((tmp_path / "model" / "README.md").read_text())


def test_the_table_of_evaluate_has_headings(call, engine, class_folder, tmp_path):
    assert call("fit", class_folder, "--engine", engine, "--out", tmp_path / "model")[0] == 0
    _, out, _, _ = call("evaluate", tmp_path / "model", class_folder)
    lines = out.splitlines()
    assert lines[1].split() == ["class", "accuracy", "|", "predicted", "as"]
    assert lines[2].split() == ["|", "1", "2", "3"]
    assert [line.split()[:2] for line in lines[3:]] == [["1", "blue"], ["2", "green"], ["3", "red"]]
    assert len({line.index("|") for line in lines[1:]}) == 1
    assert all(sum(map(int, line.split("|")[1].split())) == 10 for line in lines[3:])


def test_the_best_alpha_at_the_edge_is_noted(call, engine, class_folder):
    _, _, _, notes = call("fit", class_folder, "--engine", engine, "--alphas", "1e12", "1e-3", "--projection", "none")
    edge = [note for note in notes if "the best alpha" in note]
    assert len(edge) == 1
    assert re.search(
        r"the best alpha, (0\.001|1e\+12), is the (smallest|largest) of the 2 tried; .*\(--alphas\)", edge[0]
    )


def test_a_test_set_that_shares_images_is_noted(call, engine, class_folder, tmp_path):
    shutil.copytree(class_folder, tmp_path / "test")
    for path in sorted((tmp_path / "test").rglob("*.png"))[3:]:
        Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)
    code, _, _, notes = call("fit", class_folder, "--engine", engine, "--test", tmp_path / "test")
    assert code == 0
    assert sum("3 of 30 test images are also training images, first " in note for note in notes) == 1
    _, _, _, notes = call("fit", class_folder, "--engine", engine)
    assert not any("also training images" in note for note in notes)


def test_unreadable_calibration_files_are_named(call, refused, tiny_onnx, class_folder, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.png").write_bytes(b"broken")
    given = ["--precision", "bf16", "--calibration", tmp_path / "c", "--out", tmp_path / "e"]
    code, line = refused("build", tiny_onnx, *given)
    reason = f"{tmp_path / 'c' / 'a.png'}: not an image that Pillow can identify"
    assert (code, f"none of the 1 calibration files is a readable image, first {reason}" in line) == (1, True)
    for number in range(4):
        shutil.copy(class_folder / "red" / f"{number}.png", tmp_path / "c")
    code, _, _, notes = call("build", tiny_onnx, *given)
    assert code == 0
    assert any(f"1 of 5 calibration files cannot be read, first {reason}" in note for note in notes)


def test_bench_takes_its_options_before_and_after_the_name(capsys, root):
    result = str(root / "benchmarks" / "results" / "ridge.json")
    outputs = []
    for options in (["--json", "compare", result, result], ["compare", result, result, "--json"]):
        assert main(["bench", *options]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    assert main(["bench", "--verbose", "compare", "--verbose", result, result]) == 0
    assert not capsys.readouterr().out.startswith("{")


def test_the_unforeseen_is_one_line_and_a_traceback_on_request(refused, call, monkeypatch):
    def fail(args):
        raise KeyError("a\nb")

    monkeypatch.setattr("aurevoir.cli.doctor.run", fail)
    code, _, lines, _ = call("doctor")
    assert code == 1
    assert lines == [
        "aurevoir doctor: error: unexpected KeyError: 'a\\nb'; set AUREVOIR_TRACEBACK=1 to see where, and report it"
    ]
    monkeypatch.setenv("AUREVOIR_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(["doctor"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 1, "error: not enough memory; give fewer or smaller images"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "error: /x/y: permission denied"),
        (KeyboardInterrupt(), 130, "aurevoir doctor: interrupted"),
    ],
)
def test_what_machines_and_people_do_is_one_line(call, monkeypatch, error, code, message):
    def fail(args):
        raise error

    monkeypatch.setattr("aurevoir.cli.doctor.run", fail)
    found, _, lines, _ = call("doctor")
    assert (found, len(lines)) == (code, 1)
    assert message in lines[0]


def _shell(line, **environment):
    program = f"{sys.executable} -m aurevoir"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("aurevoir", program, 1)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_outputs_that_end_early_or_are_full():
    for line in ("aurevoir --help > /dev/full", "aurevoir doctor > /dev/full"):
        done = _shell(line)
        assert done.returncode == 1
        assert re.fullmatch(
            r"aurevoir( doctor)?: error: stdout cannot be written: no space left on device\n", done.stderr
        )
    done = _shell("aurevoir doctor | true")
    assert (done.returncode, done.stderr) == (1, "")
    done = _shell("aurevoir cuts nothing.onnx 2>&1 | true")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_locale_without_unicode_prints_escapes(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = _shell("aurevoir inspect 'café\N{PARTY POPPER}.engine'", **plain)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("aurevoir inspect: error: engine caf")
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_stdout_is_an_error(tiny_onnx):
    command = [sys.executable, "-m", "aurevoir", "cuts", str(tiny_onnx)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    closed = {"preexec_fn": lambda: os.close(1)}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False, **closed)
    assert (done.returncode, done.stderr) == (1, "aurevoir cuts: error: stdout is closed; nothing was printed\n")


def test_a_message_without_end_is_cut(refused):
    _, err = refused("predict", "x" * 100_000, "y.png")
    assert len(err) < 5000


def test_abbreviated_options_are_refused_with_the_whole_name(capsys):
    with pytest.raises(SystemExit) as left:
        main(["fit", "photos", "--backbon", "x.onnx", "--out", "model"])
    assert left.value.code == 2
    assert "--backbon" in (said := capsys.readouterr().err)
    assert "did you mean --backbone?" in said
