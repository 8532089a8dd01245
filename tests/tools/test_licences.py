import importlib.util
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).parents[2] / "tools" / "licences.py"
    spec = importlib.util.spec_from_file_location("licences", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_of_the_lock_and_every_licence_is_allowed(tool, capsys):
    assert tool.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "found", "expected"),
    [
        ("a", "MIT", True),
        ("a", "MIT AND (BSD-3-Clause OR Apache-2.0 WITH LLVM-exception)", True),
        ("a", "Mozilla Public License 2.0 (MPL 2.0)", True),
        ("a", "AGPL-3.0-only", False),
        ("a", "MIT AND AGPL-3.0-only", False),
        ("a", "", False),
        ("a", "Other/Proprietary License", False),
        ("nvidia-cublas", "Other/Proprietary License", True),
        ("a", None, True),
    ],
)
def test_a_licence_is_allowed_if_all_its_parts_are(tool, name, found, expected):
    assert tool.allowed(name, found) is expected


def test_an_unknown_licence_and_an_old_page_are_reported(tool, tmp_path, monkeypatch, capsys):
    (tmp_path / "lock").write_text("one==1.0 \\\n    --hash=sha256:0\ntwo[x]==2.0 ; python_version < '3'\ntwo==3.0\n")
    monkeypatch.setattr(tool, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    licences = {"one": "MIT", "two": None}
    monkeypatch.setattr(tool, "licence", licences.get)
    assert tool.main(["--check"]) == 1
    assert "run: make licences" in capsys.readouterr().err
    assert (tool.main([]), tool.main(["--check"])) == (0, 0)
    assert "| two | 2.0, 3.0 |  |" in (tmp_path / "page.md").read_text()
    licences["two"] = "ISC"
    assert tool.main(["--check"]) == 0
    licences["one"] = "SSPL-1.0"
    assert tool.main([]) == 1
    assert "one: licence 'SSPL-1.0' is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License-Expression": "MIT", "License": "other"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "text"}, "BSD License"),
        ({"License": "BSD\n\nCopyright"}, "BSD"),
        ({}, ""),
    ],
)
def test_what_a_package_declares(tool, fields, expected):
    metadata = Message()
    for name, value in fields.items():
        metadata[name] = value
    assert tool.declared(SimpleNamespace(metadata=metadata)) == expected
