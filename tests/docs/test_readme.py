"""The README's examples print what it shows, up to what machines and photographs make of the numbers."""

import contextlib
import io
import re
import shlex

import pytest

from aurevoir.cli.main import main


@pytest.fixture
def readme(root):
    return (root / "README.md").read_text()


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    """A folder with the files that the examples name."""
    (tmp_path / "clothes").symlink_to(data("clothing10"))
    (tmp_path / "efficientnet_lite0.onnx").symlink_to(data("backbones/efficientnet_lite0.onnx"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def block(readme, kind):
    return re.search(rf"^```{kind}\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[1]


def masked(lines):
    """Return lines without what differs between machines: fractions, speeds, a few labels, which kernel was better."""
    aside = ("least accurate classes: ", "most often confused: ")
    kept = [line for line in lines if not line.startswith(aside)]
    return [re.sub(r"\d+\.\d+|(?<=alpha )\d+|(?<=projection )(none|exact)", "#", line) for line in kept]


def test_the_commands_print_what_the_readme_shows(readme, folder, capsys):
    shown = block(readme, "console").splitlines()
    commands = [shlex.split(line)[2:] for line in shown if line.startswith("$ aurevoir ")]
    assert [words[0] for words in commands] == ["fit", "predict"]
    for words in commands:
        assert main(words) == 0
    captured = capsys.readouterr()
    printed = masked(captured.out.splitlines() + re.split(r"[\r\n]", captured.err))
    assert [line for line in masked(shown) if not line.startswith("$ ") and line not in printed] == []


def test_the_python_example_prints_what_the_readme_shows(readme, folder):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block(readme, "python"), "README.md", "exec"), {})
    assert masked(printed.getvalue().splitlines()) == masked(block(readme, "text").splitlines())
