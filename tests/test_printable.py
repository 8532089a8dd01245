"""Names reach terminals and Markdown as plain text."""

import json
import logging
import pickle
import unicodedata
import warnings

import pytest

from aurevoir.cli.main import main
from aurevoir.cli.text import name, one_line
from aurevoir.errors import AurevoirError, AurevoirWarning, SaveError, UsageError
from aurevoir.printable import in_markdown, shown

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\u200b\ufeff\U000e0041\rgone"


def test_no_control_or_bidirectional_character_is_left():
    every = "".join(map(chr, [*range(0xD7FF), *range(0xE000, 0xE1000)]))
    left = {letter for letter in shown(every) if unicodedata.category(letter) in ("Cc", "Zl", "Zp") and letter != "\n"}
    assert not left
    reordering = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not [letter for letter in shown(every) if unicodedata.bidirectional(letter) in reordering]
    assert "\n" not in name("two\nlines") and "\n" not in one_line("two\nlines")


def test_names_of_all_languages_are_left_as_they_are():
    for text in ("Überraschung", "犬", "قطة", "שלום", "می‌خواهم", "👩‍🔬", "n\u0303", "a+b_c (1).jpg"):
        assert shown(text) == text


@pytest.mark.parametrize("kind", [AurevoirError, UsageError, SaveError, AurevoirWarning])
def test_errors_quote_any_text_on_one_line(kind):
    error = kind("two\nlines of " + HOSTILE)
    assert str(error) == one_line("two\nlines of " + HOSTILE)
    assert not set("\n\x1b\u202e") & set(str(error))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_markdown_takes_a_name_as_text():
    plain = in_markdown("a|b\n[x](http://x) ![y](z) <script> `c` **d** " + HOSTILE)
    assert not set("|\n[]()<>`*!\x1b\u202e") & set(plain)


@pytest.mark.parametrize("json_too", [False, True])
def test_notes_logs_warnings_and_errors_carry_no_escape_sequences(monkeypatch, tmp_path, capsys, json_too):
    def run(args):
        from aurevoir.errors import AurevoirWarning

        warnings.warn(HOSTILE, AurevoirWarning, stacklevel=1)
        warnings.warn(HOSTILE, RuntimeWarning, stacklevel=1)
        logging.getLogger("aurevoir.weights").info("%s", HOSTILE)
        return {"name": HOSTILE}

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr("aurevoir.cli.doctor.run", run)
    monkeypatch.setattr("aurevoir.cli.doctor.describe", lambda result: result["name"])
    with pytest.warns(RuntimeWarning, match=r"^\\x1b\]0;owned"):
        assert main(["doctor", *(["--json"] if json_too else [])]) == 0
    out, err = capsys.readouterr()
    assert err.count("owned") == 2 and "owned" in out
    assert not set("\x1b\x07\x9b\u202e\u2066\r") & set(out + err)
    if json_too:
        assert json.loads(out)["name"] == HOSTILE
    missing = tmp_path / f"{HOSTILE}.engine"
    assert main(["inspect", str(missing)]) == 2
    assert "owned" in (err := capsys.readouterr().err)
    assert not set("\x1b\u202e\r") & set(err) and err.count("\n") == 1


def test_a_line_feed_in_a_manifest_forges_no_line(tiny_onnx, tmp_path, capsys):
    from dataclasses import replace

    from aurevoir import build_engine

    engine = build_engine(tiny_onnx, smoke=False)
    forged = replace(engine.manifest, backbone=f"net\nsign_agreement 1.0{HOSTILE}")
    engine.with_manifest(forged).save(tmp_path / "e.engine")
    assert main(["inspect", str(tmp_path / "e.engine")]) == 0
    out = capsys.readouterr().out
    assert "\nsign_agreement 1.0" not in out and not set("\x1b\u202e\r") & set(out)
