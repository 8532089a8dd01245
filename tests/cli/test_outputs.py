"""Files that commands write: checked before the work, never over what is not ours, and no result is lost with them."""

import errno
import json

import pytest

from aurevoir import build_engine, saving
from aurevoir.cli.main import main
from aurevoir.cli.outputs import KINDS


@pytest.fixture(scope="module")
def engine(tiny_onnx, tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "e.engine"
    build_engine(tiny_onnx, out=path, smoke=False)
    return path


@pytest.fixture
def commands(tiny_onnx, class_folder, engine):
    """Commands that write, each with its option and the key of its result."""
    photos, network = str(class_folder), str(tiny_onnx)
    calibrate = ["calibrate", network, "--calibration", photos]
    return {
        "build": (["build", network], "--out", "engine"),
        "calibrate": (calibrate, "--out", "table"),
        "embed": (["embed", str(engine), photos], "--out", "out"),
        "fit": (["fit", photos, "--engine", str(engine)], "--out", "out"),
    }


@pytest.mark.parametrize("name", ["build", "calibrate", "embed", "fit"])
def test_a_result_that_cannot_be_saved_is_printed_with_the_reason(name, commands, tmp_path, monkeypatch, capsys):
    words, option, key = commands[name]
    monkeypatch.setattr(saving, "_save", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    assert (
        main(
            [*words, option, str(tmp_path / "out"), "--json"]
            if name != "embed"
            else [*words, option, str(tmp_path / "out.npz"), "--json"]
        )
        == 1
    )
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result[key] is None
    assert len(result["unsaved"]) == 1
    assert result["unsaved"][0].endswith("cannot be written: no space left; free some")
    assert printed.err.rstrip().endswith(f"aurevoir {name}: error: {result['unsaved'][0]}")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_text_of_a_result_that_is_not_saved_says_so(commands, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saving, "_save", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    assert main([*commands["build"][0], "--out", str(tmp_path / "e.engine")]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("not saved: fp32 on ")
    assert "input/output error" in printed.err


@pytest.mark.parametrize("name", ["build", "calibrate", "embed"])
def test_a_file_of_the_user_is_refused_and_one_of_ours_replaced_with_a_note(name, commands, tmp_path, capsys):
    words, option, _ = commands[name]
    out = tmp_path / "out.npz"
    out.write_text("the user's notes")
    assert main([*words, option, str(out)]) == 2
    assert f"{option} {out} exists and is not a" in capsys.readouterr().err
    assert out.read_text() == "the user's notes"
    out.write_text("")
    assert main([*words, option, str(out)]) == 0
    assert "replaced" not in capsys.readouterr().err
    assert main([*words, option, str(out)]) == 0
    assert f"note: {out} was there before, and has been replaced" in capsys.readouterr().err


def test_a_model_is_replaced_with_a_note_and_one_with_photographs_is_not(commands, tmp_path, capsys):
    words, model = [*commands["fit"][0], "--out", str(tmp_path / "model")], tmp_path / "model"
    assert main(words) == 0
    assert "replaced" not in capsys.readouterr().err
    assert main(words) == 0
    assert f"note: {model} was there before, and has been replaced" in capsys.readouterr().err
    (model / "photo.jpg").write_bytes(b"mine")
    assert main(words) == 2
    assert "model folder that also holds photo.jpg, which would be lost; move that" in capsys.readouterr().err
    assert (model / "photo.jpg").read_bytes() == b"mine"


def test_another_program_s_model_is_not_replaced(commands, tmp_path, capsys):
    (tmp_path / "model.json").write_text('{"schema": "another", "weights": "weights.bin"}')
    (tmp_path / "weights.bin").write_bytes(b"weights")
    assert main([*commands["fit"][0], "--out", str(tmp_path)]) == 2
    assert "exists and is not a model folder" in capsys.readouterr().err
    assert (tmp_path / "weights.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("out", [".", "..", "/", "x" * 300, "file", "loop", "missing/" + "x" * 300])
def test_a_model_is_not_trained_for_a_target_that_cannot_be(out, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setattr("aurevoir.transfer.evaluate.split_data", lambda *_: pytest.fail("it works"))
    assert main([*commands["fit"][0], "--out", out]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_figures_are_known_by_what_drew_them(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    for ending in ("png", "pdf", "svg"):
        path = tmp_path / f"figure.{ending}"
        figure.savefig(path)
        assert KINDS["a figure"](path.read_bytes()[:4096])
    assert not KINDS["a figure"](b"\x89PNG\r\n\x1a\n" + bytes(100))


@pytest.mark.parametrize("name", ["build", "calibrate", "embed", "fit"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_came_to_an_output_during_the_work_stays_and_the_result_is_printed(
    name, what, commands, tmp_path, monkeypatch, capsys
):
    words, option, key = commands[name]
    target, save = tmp_path / "out.npz", saving._save

    def late(*given):
        if what == "file":
            target.write_text("the user's notes")
        else:
            target.mkdir()
            (target / "model.json").write_text('{"schema": "another"}')
        save(*given)

    monkeypatch.setattr(saving, "_save", lambda *given: late(*given) if given[0] == target else save(*given))
    assert main([*words, option, str(target), "--json"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result[key] is None
    holds = "is another file" if what == "file" else "now holds what is not part of it"
    assert result["unsaved"] == [f"{target} {holds}, and is left as it is; move that, or give another"]
    assert printed.err.count("\n") == printed.err.count("error: ") + printed.err.count(" s\n")
    if what == "file":
        assert target.read_text() == "the user's notes"
    else:
        assert (target / "model.json").read_text() == '{"schema": "another"}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "photos"]


def test_a_page_and_its_figures_replace_no_others(tmp_path, capsys):
    rows = [{"k": 1, "accuracy": 0.5}, {"k": 2, "accuracy": 0.75}]
    (tmp_path / "r.json").write_text(json.dumps({"schema": "aurevoir-result/1", "benchmark": "x", "rows": rows}))
    report = ["bench", "report", str(tmp_path / "r.json"), "--out", str(tmp_path / "p.html")]
    assert main(report) == main(report) == 0
    (tmp_path / "p.html").write_text("<!doctype html> mine")
    assert main(report) == 2
    assert (tmp_path / "p.html").read_text() == "<!doctype html> mine"


@pytest.mark.parametrize(
    "content", [b"the user's notes", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0\0\x10JFIF\0"]
)
def test_notes_and_photographs_are_no_timing_cache(content, commands, tmp_path, capsys):
    (tmp_path / "t").write_bytes(content)
    assert main([*commands["build"][0], "--out", str(tmp_path / "e"), "--timing-cache", str(tmp_path / "t")]) == 2
    assert f"--timing-cache {tmp_path / 't'} exists and is not a timing cache" in capsys.readouterr().err
    assert (tmp_path / "t").read_bytes() == content
    # As TensorRT-RTX 1.7 writes one.
    (tmp_path / "t").write_bytes(b"ptrtd\0\0\0\x98\0")
    assert KINDS["a timing cache"]((tmp_path / "t").read_bytes())
