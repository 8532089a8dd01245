"""``aurevoir plan``: rates measured, kept and read; what fits and what does not; what has no effect."""

import json

import pytest

import aurevoir
from aurevoir.cli import plan


@pytest.fixture(scope="module")
def engine_file(tiny_onnx, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "tiny.engine"
    aurevoir.build_engine(tiny_onnx, runtime="openvino", smoke=False, out=path)
    return path


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """No test reads a rate: they are measured on small arrays, once each."""
    for name, value in {"_SECONDS": 0.0, "_LEAST_RUNS": 1, "_LANDMARKS": 64, "_FACTORS": 64, "_ROWS": 32}.items():
        monkeypatch.setattr(f"aurevoir.transfer.rates.{name}", value)
    monkeypatch.setattr("aurevoir.transfer.rates._EIGENVECTORS", 32)
    monkeypatch.setattr(plan, "_DRAWN", 10)


@pytest.fixture
def rates_file(root):
    return root / "docs" / "rates" / "mobilenetv2-int8.json"


def test_rates_are_measured_once_and_written(call, cache, engine_file, class_folder, tmp_path):
    out = tmp_path / "rates.json"
    arguments = ("plan", "--engine", engine_file, "--data", class_folder, "--json")
    assert call(*arguments, "--no-cache")[0] == 0
    assert not (cache / "rates").exists()
    code, printed, err = call(*arguments, "--out", out)
    assert code == 0, err
    first = json.loads(printed)
    assert (first["classes"], first["plans"][0]["images"], first["rates"]["images"]) == (3, 30, "30 of 30 photographs")
    assert first["rates"]["features"] == 196
    assert first["plans"][0]["form"]["name"] == "dual"
    code, printed, err = call(*arguments)
    assert (code, json.loads(printed)["rates"]) == (0, first["rates"])
    assert "from the cache: the rates of this machine" in err
    assert "rates of plans" in call("cache")[1]
    code, printed, err = call(*arguments, "--measure")
    assert code == 0
    assert "from the cache: the rates" not in err
    code, printed, _ = call("plan", "--rates", out, "--images", 30, "--classes", 3, "--json")
    again = json.loads(printed)
    assert (code, again["rates"], again["plans"]) == (0, first["rates"], first["plans"])


def test_without_photographs_images_are_drawn(call, engine_file):
    code, out, err = call("plan", "--engine", engine_file, "--measure")
    assert code == 0, err
    assert "with 10 drawn images of 320 x 320" in out
    assert "ridge" not in out


def test_an_engine_of_a_backbone_is_built_as_fit_builds_it(call, tiny_onnx, class_folder):
    arguments = ("--backbone", tiny_onnx, "--precision", "int8", "--data", class_folder, "--json")
    code, out, err = call("plan", *arguments, "--images", 5000)
    assert code == 0, err
    assert json.loads(out)["rates"]["precision"] == "int8"


def test_a_table_has_what_fits_and_the_reasons(call, rates_file):
    code, out, err = call("plan", "--rates", rates_file, "--images", 1000, 1_000_000, 100_000_000, "--workers", 4)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    head = next(index for index, line in enumerate(lines) if line.split() == ["1,000", "1,000,000"])
    assert lines[head + 1].split() == ["ridge", "dual", "1,000", "landmarks", "4,096"]
    assert lines[-1].startswith("100,000,000 images: the ridge of 80000000 rows")
    assert "take at most 47,617,683 images" in lines[-1]
    assert any(line.startswith("rows over the network") for line in lines)
    assert "GPU-hours" not in out
    code, _, err = call("plan", "--rates", rates_file, "--images", 100_000_000)
    assert code == 1
    assert err.count("\n") == 1
    assert "take at most" in err


def test_given_rates_replace_measured_ones(call, rates_file):
    arguments = ("plan", "--rates", rates_file, "--images", 1_000_000, "--decode-rate", 1e5, "--engine-rate", 500)
    code, out, _ = call(*arguments, "--gpus", 8, "--json")
    plan = json.loads(out)["plans"][0]
    assert (code, plan["seconds"]["decode"], plan["seconds"]["engine"]) == (0, 10, 250)
    assert plan["gpu_hours"] == pytest.approx(8 * 250 / 3600)
    assert "GPU-hours" in call(*arguments, "--gpus", 8)[1]
    code, out, _ = call(*arguments, "--gpus", 8, "--solver-rates", rates_file, "--json")
    assert json.loads(out)["plans"] == [plan]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "nothing to plan; give --images N"),
        (["--images", 5, "--rates", "RATES", "--cut", "x"], "--cut has no effect with rates of a file"),
        (["--images", 5, "--rates", "RATES", "--out", "x.json"], "--out has no effect"),
        (
            ["--images", 5, "--engine", "x.engine", "--precision", "int8"],
            "--precision has no effect with a built engine",
        ),
        (["--images", 5, "--rates", "RATES", "--components", 3], "--components has no effect with projection auto"),
        (["--images", 5, "--rates", "RATES", "--projection", "dense"], "'dense' is not planned"),
        (["--images", 5, "--rates", "RATES", "--projection", "hadamard"], "the rates have none of"),
        (["--images", 5, "--rates", "RATES", "--gpus", 2], "engine on 'cpu'"),
        (["--images", 5, "--rates", "RATES", "--memory", "much"], "memory budget 'much' is invalid"),
        (["--images", 1, "--rates", "RATES"], "1 image cannot be split"),
        (["--images", 0, "--rates", "RATES"], "0 is less than 1"),
        (["--images", 5, "--rates", "none.json"], "none.json"),
    ],
)
def test_what_cannot_be_planned_is_one_line(call, rates_file, arguments, text):
    code, out, err = call("plan", *(rates_file if each == "RATES" else each for each in arguments))
    assert (code in (1, 2), out) == (True, "")
    assert text in err
    assert len(err.splitlines()) == 1


def test_the_page_shows_what_the_command_prints(call, root, monkeypatch):
    monkeypatch.chdir(root)
    blocks = (root / "docs" / "scale.md").read_text().split("```console\n")[1:]
    assert blocks
    for block in blocks:
        command, shown = block.partition("```")[0].split("\n", 1)
        assert command.startswith("$ aurevoir plan --rates ")
        code, out, _ = call(*command.split()[2:])
        assert (code, out) == (0, shown), command
