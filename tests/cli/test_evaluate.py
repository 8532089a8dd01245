import csv
import errno
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from aurevoir import OpticalClassifier, build_engine, load, saving


@pytest.fixture
def model(staged_onnx, class_folder, tmp_path):
    engine = build_engine(staged_onnx, smoke=False)
    OpticalClassifier(engine=engine).fit(class_folder).save(tmp_path / "model")
    shutil.copy(class_folder / "red" / "3.png", tmp_path / "one.png")
    return tmp_path / "model"


def test_evaluate_writes_a_row_an_image(call, model, class_folder, tmp_path):
    (class_folder / "red" / "0.png").write_text("broken")
    code, out, err = call("evaluate", model, class_folder, "--csv", tmp_path / "rows.csv", "--json")
    found = json.loads(out)
    assert (code, found["csv"], found["training_images"]) == (0, str(tmp_path / "rows.csv"), 29)
    assert "note: 29 of 30 images are among the training images of the model, or copies of them" in err
    low, high = found["accuracy_interval"]
    assert 0 < low <= found["accuracy"] <= high <= 1
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "predicted", "probability", "error"]
    assert [row["path"] for row in rows] == sorted(map(str, class_folder.rglob("*.png")))
    readable = [row for row in rows if not row["error"]]
    assert (
        [row["path"] for row in rows if row["error"]] == list(found["skipped"]) == [str(class_folder / "red" / "0.png")]
    )
    counted = np.zeros((3, 3), "int64")
    for row in readable:
        counted[found["classes"].index(row["label"]), found["classes"].index(row["predicted"])] += 1
        assert 1 / 3 < float(row["probability"]) <= 1
    assert counted.tolist() == found["confusion"]


def test_evaluate_draws_the_confusion_matrix(call, model, class_folder, tmp_path):
    pytest.importorskip("matplotlib")
    for ending, head in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!doctype html>")):
        path = tmp_path / f"c.{ending}"
        code, out, err = call("evaluate", model, class_folder, "--confusion", path)
        assert (code, err.count("\n")) == (0, 1)
        assert out.splitlines()[-1] == f"picture: {path}"
        assert path.read_bytes().startswith(head)
        # One of ours is replaced.
        code, out, err = call("evaluate", model, class_folder, "--confusion", path, "--json")
        assert (code, json.loads(out)["picture"]) == (0, str(path))
        assert "has been replaced" in err
    content = path.read_text()
    found = json.loads(out)
    assert f"accuracy {found['accuracy']:.3f} (" in content
    assert all(f">{name}<" in content for name in found["classes"])


def test_outputs_of_evaluate_are_checked_before_the_work(call, model, class_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("aurevoir.transfer.classifier.load", lambda *_, **__: pytest.fail("it works"))
    (tmp_path / "notes.csv").write_text("my notes")
    for given, why in (
        (["--csv", tmp_path / "notes.csv"], "notes.csv exists and is not a table of evaluated images of aurevoir's"),
        (["--csv", model / "x.csv"], "is inside the model folder"),
        (["--confusion", tmp_path / "notes.csv"], "ends in .csv; give one of"),
        (["--confusion", tmp_path / "c.xyz"], "ends in .xyz; give one of"),
        (["--csv", tmp_path / "a.html", "--confusion", tmp_path / "a.html"], "that of --csv too"),
    ):
        code, out, err = call("evaluate", model, class_folder, *given)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert why in err
    assert (tmp_path / "notes.csv").read_text() == "my notes"


def test_rows_that_cannot_be_written_do_not_cost_the_result(call, model, class_folder, tmp_path, monkeypatch):
    expected = json.loads(call("evaluate", model, class_folder, "--json")[1])
    write, written = os.write, []

    def full(descriptor, data):
        if b"path,label,predicted" in bytes(data[:20]):
            written.append(None)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(saving.os, "write", full)
    code, out, _ = call("evaluate", model, class_folder, "--csv", tmp_path / "rows.csv", "--json")
    found = json.loads(out)
    assert (code, found["csv"], len(written)) == (1, None, 1)
    assert "no space left on device" in found["unsaved"][0]
    assert {key: found[key] for key in expected} == expected
    assert not (tmp_path / "rows.csv").exists()


def test_the_text_of_evaluate_has_the_interval(call, model, class_folder):
    code, out, _ = call("evaluate", model, class_folder)
    found = json.loads(call("evaluate", model, class_folder, "--json")[1])
    low, high = found["accuracy_interval"]
    first = f"accuracy {found['accuracy']:.4f} on 30 images, 95 % interval {low:.4f} to {high:.4f}"
    assert (code, out.splitlines()[0]) == (0, first)


def test_images_that_are_not_those_of_the_training_bring_no_note(call, model, class_folder, tmp_path):
    for path in class_folder.rglob("*.png"):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    (class_folder / "red" / "10.png").write_bytes((tmp_path / "one.png").read_bytes())
    code, out, err = call("evaluate", model, class_folder, "--json")
    assert (code, json.loads(out)["training_images"]) == (0, 1)
    assert "note: 1 of 31 images are among the training images" in err
    (class_folder / "red" / "10.png").unlink()
    code, out, err = call("evaluate", model, class_folder, "--json")
    assert (code, err, json.loads(out)["training_images"]) == (0, "", 0)
    # A model without them cannot say.
    load(model).save(tmp_path / "small", training=False)
    code, out, err = call("evaluate", tmp_path / "small", class_folder, "--json")
    assert (code, err, json.loads(out)["training_images"]) == (0, "", None)
