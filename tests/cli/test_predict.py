"""Predictions as they come: every form and source, bad files in their place, interruptions and continuations."""

import csv
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aurevoir import OpticalClassifier, build_engine, load
from aurevoir.transfer import prediction_file, predictions
from aurevoir.transfer.model import model_digest
from aurevoir.transfer.prediction_file import PredictionFile

COLUMNS = ["path", "label", "probability", "score", "familiarity", "nearest", "model", "error"]
DETAILS = predictions.Details(familiarity=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of ten small images each, and a model of them."""
    root, colours = tmp_path_factory.mktemp("predict"), np.random.default_rng(1)
    for place, name in enumerate(("blue", "green", "red")):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(10):
            image = colours.integers(0, 120, size=(40, 50, 3), dtype="uint8")
            image[..., 2 - place] += 120
            Image.fromarray(image).save(root / "photos" / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def model(folder, tiny_onnx):
    classifier = OpticalClassifier(engine=build_engine(tiny_onnx, smoke=False)).fit(folder / "photos")
    classifier.save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def photos(folder):
    return sorted((folder / "photos").rglob("*.png"))


@pytest.fixture
def listed(photos, tmp_path):
    """A list of 100 paths, some of which are no images, and whether each can be read."""
    broken, gone = tmp_path / "broken.jpg", tmp_path / "gone.jpg"
    broken.write_text("no image")
    paths = [photos[(7 * number) % 30] for number in range(100)]
    for number in (0, 17, 18, 40, 99):
        paths[number] = gone if number % 2 else broken
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{each}\n" for each in paths))
    return path, paths, [each not in (broken, gone) for each in paths]


@pytest.fixture
def whole(call, model, listed, tmp_path):
    """The CSV file of an uninterrupted run."""
    path = tmp_path / "whole.csv"
    assert call("predict", model, "--from", listed[0], "--out", path)[0] == 0
    return path.read_bytes()


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_every_form_says_the_same_and_bad_files_stand_in_their_place(call, model, listed):
    path, paths, readable = listed
    code, out, err = call("predict", model, "--from", path, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"predictions", "skipped"}
    assert set(found["skipped"]) == {str(each) for each, good in zip(paths, readable) if not good}
    one = {item["path"]: item for item in found["predictions"]}
    assert [item["path"] for item in found["predictions"]] == [str(each) for each, good in zip(paths, readable) if good]
    lines = call("predict", model, "--from", path)[1].splitlines()
    objects = [json.loads(line) for line in call("predict", model, "--from", path, "--json-lines")[1].splitlines()]
    table = rows(call("predict", model, "--from", path, "--csv")[1])
    assert len(lines) == len(objects) == len(table) == 100
    assert list(table[0]) == COLUMNS
    for each, good, line, item, row in zip(paths, readable, lines, objects, table):
        assert item["path"] == row["path"] == str(each)
        assert row["model"] == model_digest(model)
        if good:
            # An image that is there twice may be in blocks of other sizes, whose products are rounded otherwise.
            assert item == pytest.approx(one[str(each)], abs=1e-12)
            assert line == f"{each}: {item['label']} ({item['probability']:.3f})"
            assert row["label"] == item["label"]
            assert row["error"] == ""
            assert float(row["probability"]) == pytest.approx(item["probability"], abs=1e-6)
            assert float(row["score"]) == pytest.approx(item["score"], abs=1e-6)
        else:
            reason = found["skipped"][str(each)]
            assert item == {"path": str(each), "error": reason}
            assert line == f"skipped: {each} ({reason})"
            assert (row["label"], row["probability"], row["score"], row["error"]) == ("", "", "", reason)


def test_scores_are_those_of_the_classifier(call, model, listed):
    path, paths, readable = listed
    found = json.loads(call("predict", model, "--from", path, "--json")[1])["predictions"]
    classifier = load(model)
    scores = classifier.scores([each for each, good in zip(paths, readable) if good])
    np.testing.assert_array_equal([item["score"] for item in found], scores.max(axis=1))
    np.testing.assert_array_equal([item["probability"] for item in found], classifier.probabilities(scores).max(axis=1))


def test_the_likeliest_labels_are_in_their_order(call, model, photos):
    given = ["predict", model, "--top", "2", *photos[:3]]
    found = json.loads(call(*given, "--json")[1])["predictions"]
    lines, table = call(*given)[1].splitlines(), rows(call(*given, "--csv")[1])
    assert [json.loads(line) for line in call(*given, "--json-lines")[1].splitlines()] == found
    for item, line, row in zip(found, lines, table, strict=True):
        first, second = item["top"]
        assert (first["label"], first["score"]) == (item["label"], item["score"])
        assert first["probability"] >= second["probability"]
        assert first["probability"] + second["probability"] <= 1 + 1e-9
        labels = f"{first['label']} ({first['probability']:.3f}), {second['label']} ({second['probability']:.3f})"
        assert line == f"{item['path']}: {labels}"
        assert (row["label"], row["label_2"]) == (first["label"], second["label"])
        assert float(row["probability_2"]) == pytest.approx(second["probability"], abs=1e-6)
    # There are three classes.
    more = json.loads(call("predict", model, "--top", "9", photos[0], "--json")[1])["predictions"][0]["top"]
    assert sum(each["probability"] for each in more) == pytest.approx(1)
    assert {each["label"] for each in more} == {"blue", "green", "red"}


def test_labels_that_cannot_be_ruled_out_are_listed(call, model, photos, tmp_path):
    given = ["predict", model, *photos[::3], "--coverage", "0.9"]
    found = json.loads(call(*given, "--json")[1])["predictions"]
    sets = load(model).prediction_sets(photos[::3], 0.9)
    assert [item["set"] for item in found] == [np.array(["blue", "green", "red"])[row].tolist() for row in sets]
    lines, table = call(*given)[1].splitlines(), rows(call(*given, "--csv")[1])
    for item, line, row in zip(found, lines, table, strict=True):
        assert line.endswith(f"; not ruled out: {', '.join(item['set']) or 'none'}")
        assert row["set"] == ";".join(item["set"])
    by_class = json.loads(call(*given, "--by-class", "--json")[1])["predictions"]
    expected = load(model).prediction_sets(photos[::3], 0.9, by_class=True).sum(axis=1)
    assert [len(item["set"]) for item in by_class] == expected.tolist()
    assert call("predict", model, photos[0], "--by-class")[0] == 2
    code, _, err = call("predict", model, photos[0], "--coverage", "1")
    assert (code, err.count("\n")) == (2, 1)
    assert "coverage 1 is not between 0 and 1; give for example 0.95" in err


def test_images_unlike_the_training_images_are_called_unfamiliar(call, tiny_onnx, tmp_path):
    random, names = np.random.default_rng(0), ("blue", "red")
    for place, name in enumerate(names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            image = random.integers(0, 60, size=(40, 50, 3), dtype="uint8")
            image[..., 2 * place] += 120
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number:02d}.png")
    stripes = np.zeros((40, 50, 3), "uint8")
    stripes[::7] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    OpticalClassifier(engine=build_engine(tiny_onnx, smoke=False)).fit(tmp_path / "photos").save(tmp_path / "model")
    photos = sorted((tmp_path / "photos").rglob("*.png"))
    given = ["predict", tmp_path / "model", tmp_path / "stripes.png", *photos]
    found = json.loads(call(*given, "--json")[1])["predictions"]
    assert (found[0]["familiarity"], found[0]["unfamiliar"]) == (pytest.approx(1 / 121), True)
    assert not any(item["unfamiliar"] for item in found[1:])
    # Of this small network images of one colour may have the same bits.
    assert [Path(item["nearest"]).parent for item in found[1:]] == [each.parent for each in photos]
    lines, table = call(*given)[1].splitlines(), rows(call(*given, "--csv")[1])
    assert lines[0].endswith("; unfamiliar")
    assert not any("unfamiliar" in line for line in lines[1:])
    assert float(table[0]["familiarity"]) == pytest.approx(1 / 121, abs=1e-6)
    assert table[1]["nearest"] == found[1]["nearest"]
    plain = call(*given, "--no-familiarity", "--csv")[1]
    assert list(rows(plain)[0]) == ["path", "label", "probability", "score", "model", "error"]
    (tmp_path / "model" / "training.safetensors").unlink()
    # It may be removed.
    assert call(*given, "--csv") == (0, plain, "")


def test_a_model_without_its_training_images_predicts_and_has_no_sets(call, model, photos, tmp_path):
    load(model).save(tmp_path / "small", training=False)
    code, out, err = call("predict", tmp_path / "small", photos[0], "--json")
    assert (code, err) == (0, "")
    assert "familiarity" not in json.loads(out)["predictions"][0]
    code, _, err = call("predict", tmp_path / "small", photos[0], "--coverage", "0.9")
    assert (code, err.count("\n")) == (2, 1)
    assert "does not hold the bits of its training images" in err


def test_several_labels_an_image_have_no_likeliest_ones(call, tiny_onnx, photos, tmp_path):
    labels = [("warm",) if each.parent.name == "red" else ("cold", "dark") for each in photos]
    OpticalClassifier(engine=build_engine(tiny_onnx, smoke=False)).fit(photos, labels).save(tmp_path / "several")
    assert call("predict", tmp_path / "several", photos[0])[0] == 0
    code, _, err = call("predict", tmp_path / "several", photos[0], "--top", "2")
    assert (code, err.count("\n")) == (2, 1)
    assert "--top is of labels that exclude each other" in err


def test_paths_come_from_arguments_folders_lists_and_stdin(call, model, folder, photos, tmp_path, monkeypatch):
    (tmp_path / "list").write_bytes(f"{photos[3]}\r\n\n{folder}/photos/red\n{photos[4]}".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{photos[1]}\n{photos[2]}\n".encode())))
    code, out, _ = call(
        "predict", model, photos[0], "-", folder / "photos" / "blue", "--from", tmp_path / "list", "--csv"
    )
    assert code == 0
    expected = [*photos[:3], *photos[:10], photos[3], *photos[20:], photos[4]]
    assert [row["path"] for row in rows(out)] == [str(each) for each in expected]


def test_options_may_stand_anywhere(call, model, photos):
    expected = call("predict", model, *photos[:2], "--top", "2")
    assert expected[0] == 0
    assert call("predict", "--top", "2", model, *photos[:2]) == expected
    assert call("predict", model, "--top", "2", *photos[:2]) == expected


def test_what_has_no_effect_or_is_missing_is_refused(call, model, photos, tmp_path):
    for given, code, why in (
        ([], 2, "there are no images; give files, folders, -"),
        (["--from", tmp_path / "none"], 2, "none cannot be read: no such file or directory"),
        (["--from", tmp_path], 2, "cannot be read: is a directory"),
        ([photos[0], "--csv", "--json"], 2, "--json and --csv are two forms of one result"),
        ([photos[0], "--json-lines", "--json"], 2, "--json and --json-lines are two forms"),
        ([photos[0], "--csv", "--json-lines"], 2, "not allowed with argument"),
        ([photos[0], "--out", tmp_path / "x.csv", "--resume", tmp_path / "x.csv"], 2, "not allowed with argument"),
        ([photos[0], "--out", tmp_path / "x.txt"], 2, "x.txt must end in .csv"),
        ([photos[0], "--out", tmp_path], 2, "must end in .csv"),
        ([photos[0], "--out", model / "x.csv"], 2, "is inside the model folder"),
        ([photos[0], "--top", "0"], 2, "0 is less than 1"),
        ([tmp_path / "gone.png"], 1, "none of the 1 files is a readable image"),
    ):
        found, out, err = call("predict", model, *given)
        assert (found, out, err.count("\n")) == (code, "", 1), given
        assert why in err
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_line_that_is_no_path_is_reported_in_its_place(call, model, photos, tmp_path):
    (tmp_path / "list").write_bytes(b"%s\na\0b\n%s\n%s\n" % (bytes(photos[0]), b"x" * 100_000, bytes(photos[1])))
    code, out, _ = call("predict", model, "--from", tmp_path / "list", "--json-lines")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [("label" in item, item.get("error", "")) for item in found][::3] == [(True, ""), (True, "")]
    assert "null" in found[1]["error"]
    assert found[2]["error"] == "file name too long"
    assert len(found[2]["path"]) < 10_000


def test_the_file_has_what_is_printed_as_csv(call, model, listed, tmp_path, whole):
    path = listed[0]
    assert call("predict", model, "--from", path, "--csv")[1].encode() == whole
    code, out, _ = call("predict", model, "--from", path, "--out", tmp_path / "new" / "again.csv", "--json")
    found = json.loads(out)
    assert (code, found["images"], found["new"], found["unreadable"]) == (0, 100, 100, 5)
    assert (tmp_path / "new" / "again.csv").read_bytes() == whole
    code, out, _ = call("predict", model, "--from", path, "--resume", tmp_path / "new" / "again.csv")
    assert (code, out.partition(": ")[2].partition(",")[0]) == (0, "100 images; 0 new ones")
    assert (tmp_path / "new" / "again.csv").read_bytes() == whole


def test_where_nothing_can_be_read_going_on_fails_too(call, model, photos, tmp_path):
    given, path = [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "x.csv"
    for option in ("--out", "--resume"):
        code, _, err = call("predict", model, *given, option, path)
        assert (code, len(rows(path.read_text()))) == (1, 2)
        assert f"none of the 2 files is a readable image; the first, {given[0]}: " in err
    assert call("predict", model, *given, photos[0], "--resume", path)[0] == 0


def test_a_file_that_is_there_is_not_replaced(call, model, photos, tmp_path):
    (tmp_path / "x.csv").write_text("notes\n")
    code, out, err = call("predict", model, photos[0], "--out", tmp_path / "x.csv")
    assert (code, out) == (2, "")
    assert f"x.csv exists; continue it with --resume {tmp_path / 'x.csv'}, give another name, or remove it" in err
    assert (tmp_path / "x.csv").read_text() == "notes\n"


def test_a_file_that_was_cut_anywhere_is_continued_to_the_same_bytes(call, model, listed, tmp_path, whole):
    path = tmp_path / "x.csv"
    ends = [place for place, byte in enumerate(whole) if byte == 10]
    cuts = [0, 1, ends[0], ends[0] + 1, ends[1] + 1, ends[16] + 1, ends[-2] + 1, len(whole) - 1]
    for cut in [*cuts, *np.random.default_rng(0).integers(0, len(whole), 6)]:
        path.write_bytes(whole[:cut])
        code, out, err = call("predict", model, "--from", listed[0], "--resume", path, "--json")
        assert (code, err) == (0, "")
        assert path.read_bytes() == whole
        assert json.loads(out)["new"] == 101 - whole[:cut].count(b"\n") - (cut <= ends[0])


def test_where_few_files_can_be_read_a_cut_file_is_continued_too(call, model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("aurevoir.images.batches.LONGEST_BATCH", 7)
    monkeypatch.setattr(predictions, "LONGEST_BATCH", 7)
    given = [photos[number % 30] if number % 5 == 2 or number > 90 else tmp_path / f"{number}" for number in range(130)]
    (tmp_path / "list").write_text("".join(f"{each}\n" for each in given))
    assert call("predict", model, "--from", tmp_path / "list", "--out", tmp_path / "whole.csv")[0] == 0
    whole = (tmp_path / "whole.csv").read_bytes()
    assert [row["path"] for row in rows(whole.decode())] == list(map(str, given))
    for cut in np.random.default_rng(1).integers(0, len(whole), 12):
        (tmp_path / "x.csv").write_bytes(whole[:cut])
        assert call("predict", model, "--from", tmp_path / "list", "--resume", tmp_path / "x.csv")[0] == 0
        assert (tmp_path / "x.csv").read_bytes() == whole


def test_the_images_of_a_block_that_was_begun_are_computed_with_it(model, photos, listed, tmp_path, whole, monkeypatch):
    """Which images are in a batch may change a bit: those of a continued run are in the batches of before."""
    classifier = load(model)
    seen, run = [], classifier.engine_.run

    def noted(pixels, outputs):
        seen.append(len(pixels))
        return run(pixels, outputs)

    monkeypatch.setattr(classifier.engine_, "run", noted)
    (tmp_path / "x.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[: 1 + 45]))
    with PredictionFile(tmp_path / "x.csv", classifier, model_digest(model), DETAILS, resume=True) as file:
        new = [record for records in file.write(listed[1]) for record in records]
    # Of the 45 rows that are there 41 are of images: two batches of 16, and 9 of the third.
    assert seen == [16, 16, 16, 15]
    assert [record["path"] for record in new] == [str(each) for each in listed[1][45:]]
    assert file.rows == 100


def test_a_file_of_something_else_is_refused_and_stays(call, model, listed, photos, folder, tmp_path, whole):
    path, other = tmp_path / "x.csv", tmp_path / "other"
    shutil.copytree(model, other)
    described = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(described))
    lines = whole.splitlines(keepends=True)
    for given, content, why in (
        ([model, *photos[:50]], whole, "row 1 of"),
        ([other, "--from", listed[0]], whole, f"is of the model {model_digest(model)}, and this one is "),
        ([model, *listed[1][:50]], whole, f"row 51 of {path} is of {listed[1][50]}, and only 50 images are given"),
        (
            [model, "--from", listed[0], "--top", "2"],
            whole,
            "has the columns path, label, probability, score, familiarity, nearest, model",
        ),
        ([model, "--from", listed[0]], b"name,age\nme,3\n", "has the columns name, age, and these options write"),
        ([model, "--from", listed[0]], b"my notes", "is not a CSV file of predictions"),
        ([model, "--from", listed[0]], bytes(3_000_000), "a row is too long"),
        # Each line is looked at once.
        ([model, "--from", listed[0]], b'"' + b"\n" * 3_000_000, "a row is too long"),
        ([model, "--from", listed[0]], b"".join([*lines[:9], b"a,b\n", *lines[10:]]), f"row 9 of {path} is damaged"),
    ):
        path.write_bytes(content)
        code, out, err = call("predict", *given, "--resume", path)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert why in err
        assert path.read_bytes() == content


def test_sets_of_one_coverage_are_not_mixed_with_others(call, model, photos, tmp_path):
    path, given = tmp_path / "x.csv", ["predict", model, *photos]
    assert call(*given, "--coverage", "0.9", "--out", path)[0] == 0
    whole = path.read_bytes()
    assert {row["coverage"] for row in rows(whole.decode())} == {"0.9"}
    path.write_bytes(whole[:-300])
    for options in (["--coverage", "0.8"], ["--coverage", "0.9", "--by-class"]):
        code, _, err = call(*given, *options, "--resume", path)
        assert (code, f"row 1 of {path} is of the coverage 0.9, and this one is " in err) == (1, True)
    assert call(*given, "--coverage", "0.9", "--resume", path)[0] == 0
    assert path.read_bytes() == whole


def test_two_processes_do_not_write_one_file(call, model, photos, tmp_path):
    classifier = load(model)
    with PredictionFile(tmp_path / "x.csv", classifier, "m"):
        code, _, err = call("predict", model, photos[0], "--resume", tmp_path / "x.csv")
    assert (code, "x.csv is being written by another process" in err) == (2, True)


def test_a_full_disk_ends_with_what_was_written_which_is_continued(call, model, listed, tmp_path, whole, monkeypatch):
    path, write = tmp_path / "x.csv", os.write

    def filling(descriptor, data):
        if os.fstat(descriptor).st_size > len(whole) // 2:
            write(descriptor, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(prediction_file.os, "write", filling)
        code, out, err = call("predict", model, "--from", listed[0], "--out", path)
    assert (code, out) == (1, "")
    assert f"{path} cannot be written: no space left on device; free some" in err
    assert call("predict", model, "--from", listed[0], "--resume", path)[0] == 0
    assert path.read_bytes() == whole


NAMES = [
    b"caf\xe9",
    "ünïcode \N{PARTY POPPER}".encode(),
    b"two\nlines",
    b' \'quoted"," ',
    b"car\rriage",
    b"\x1b[31mred",
]


def test_names_of_any_bytes_are_in_the_file_as_they_are(call, model, photos, tmp_path):
    for name in NAMES:
        shutil.copy(photos[0], os.fsencode(tmp_path) + b"/" + name + b".png")
    assert call("predict", model, tmp_path, "--out", tmp_path / "whole.csv")[0] == 0
    content = (tmp_path / "whole.csv").read_bytes()
    with (tmp_path / "whole.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        found = {os.fsencode(row["path"].rpartition("/")[2]) for row in csv.DictReader(file)}
    assert found == {name + b".png" for name in NAMES}
    command = [sys.executable, "-m", "aurevoir", "predict", model, tmp_path, "--csv"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == content
    for cut in range(0, len(content), 97):
        (tmp_path / "x.csv").write_bytes(content[:cut])
        assert call("predict", model, tmp_path, "--resume", tmp_path / "x.csv")[0] == 0
        assert (tmp_path / "x.csv").read_bytes() == content
    lines = call("predict", model, tmp_path)[1].splitlines()
    assert len(lines) == len(NAMES)
    assert not any("\x1b" in line for line in lines)


def test_a_model_without_probabilities_has_scores(call, model, photos, tmp_path, monkeypatch):
    content = json.loads((model / "model.json").read_text())
    shutil.copytree(model, tmp_path / "old")
    del content["temperature"]
    (tmp_path / "old" / "model.json").write_text(json.dumps(content))
    given = ["predict", tmp_path / "old", photos[0], "--top", "2"]
    item = json.loads(call(*given, "--json-lines")[1])
    assert [each["probability"] for each in (item, *item["top"])] == [None, None, None]
    assert f"{item['label']} (score {item['score']:+.3f}), " in call(*given)[1]
    row = rows(call(*given, "--csv")[1])[0]
    assert (row["probability"], row["probability_2"]) == ("", "")
    assert float(row["score"]) == pytest.approx(item["score"], abs=1e-6)


def process(model, *arguments, **options):
    command = [sys.executable, "-m", "aurevoir", "predict", str(model), *map(str, arguments)]
    # Without buffers: `communicate` would not return what they hold.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **options)


def repeated(photos, times):
    return b"".join(bytes(path) + b"\n" for _ in range(times) for path in photos)


@pytest.mark.timeout(300)
def test_after_kills_the_file_is_that_of_an_uninterrupted_run(call, model, photos, tmp_path):
    path, count, chance = tmp_path / "x.csv", 900, random.Random(int(time.time()))
    (tmp_path / "list").write_bytes(repeated(photos, count // 30))
    assert call("predict", model, "--from", tmp_path / "list", "--out", tmp_path / "whole.csv")[0] == 0
    whole = (tmp_path / "whole.csv").read_bytes()
    for _ in range(3):
        before = path.stat().st_size if path.exists() else 0
        goal = before + chance.randrange(len(whole) // 4)
        running = process(model, "--from", tmp_path / "list", "--resume", path)
        while running.poll() is None and not (path.exists() and path.stat().st_size > goal):
            time.sleep(0.001)
        running.kill()
        running.communicate()
        assert whole.startswith(path.read_bytes())
    assert call("predict", model, "--from", tmp_path / "list", "--resume", path)[0] == 0
    assert path.read_bytes() == whole


@pytest.mark.timeout(300)
def test_an_interrupt_ends_the_command_after_what_was_computed(model, photos):
    running = process(model, "-", "--csv", stdout=subprocess.PIPE)
    running.stdin.write(repeated(photos, 5))
    running.stdin.flush()
    first = running.stdout.readline()
    running.send_signal(signal.SIGINT)
    # With its input ended it might end before an import has, which a signal waits for.
    running.wait(timeout=120)
    out, err = running.communicate()
    found = rows((first + out).decode())
    assert (running.returncode, err) == (130, b"aurevoir predict: interrupted\n")
    assert first.decode().strip().split(",") == COLUMNS
    assert len(found) % 16 == 0
    assert len(found) > 0
    assert all(row["label"] in ("blue", "green", "red") and row["error"] == "" for row in found)
    assert [row["path"] for row in found] == [str(each) for each in (photos * 5)[: len(found)]]


@pytest.mark.timeout(300)
def test_a_reader_that_has_enough_ends_the_command_without_a_word(model, photos):
    running = process(model, "-", stdout=subprocess.PIPE)
    running.stdin.write(repeated(photos, 5))
    running.stdin.flush()
    assert running.stdout.readline().startswith(bytes(photos[0]))
    running.stdout.close()
    # The list goes on for ever.
    with pytest.raises(BrokenPipeError):
        while True:
            running.stdin.write(repeated(photos, 5))
            running.stdin.flush()
    assert running.wait() == 1
    assert running.stderr.read() == b""


MEMORY = """
import sys
import aurevoir
from aurevoir.transfer.prediction_file import PredictionFile

def paths():
    # What kept the paths would show: each is of 4,000 bytes.
    folder, _, name = sys.argv[2].rpartition("/")
    for number in range(4000):
        yield folder + "/./" + "./" * (1900 - len(folder) // 2) + name if number % 9 else f"{'x' * 250}/{number}"

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

found = []
with PredictionFile(sys.argv[3], aurevoir.load(sys.argv[1]), "m") as file:
    for records in file.write(paths()):
        found.append((file.rows, resident()))
print(file.rows, max(size for rows, size in found if rows < 1000), max(size for rows, size in found))
"""


@pytest.mark.timeout(300)
def test_memory_does_not_grow_with_the_number_of_images(model, photos, tmp_path):
    command = [sys.executable, "-c", MEMORY, str(model), str(photos[0]), str(tmp_path / "x.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, early, late = map(int, done.stdout.split())
    assert count == 4000
    # The paths alone are of 14 MB.
    assert late - early < 6e6


def test_progress_is_shown_only_where_results_are_not(call, model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, out, err = call("predict", model, *photos[:2], "--csv")
    assert len(out.splitlines()) == 3
    assert "predict: 2img" in err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert call("predict", model, *photos[:2])[2] == ""


def test_a_list_may_be_a_fifo(call, model, photos, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writing = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])",
                                str(tmp_path / "fifo"), f"{photos[0]}\n"])  # fmt: skip
    code, out, _ = call("predict", model, "--from", tmp_path / "fifo")
    assert (code, writing.wait()) == (0, 0)
    assert out.startswith(f"{photos[0]}: ")


def test_the_list_is_read_as_it_is_needed(model, photos):
    classifier, taken = load(model), []

    def paths():
        for number in range(10_000):
            taken.append(number)
            yield Path(photos[number % 30])

    stream = predictions.predictions(classifier, paths())
    assert len(next(stream)) == 16
    assert len(taken) <= classifier.engine_.calls_at_once * 16 + 2 * 16 + 1
    stream.close()


def test_what_is_refused_leaves_no_header_behind(call, model, photos, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "training.safetensors").unlink()
    code, _, err = call("predict", tmp_path / "model", photos[0], "--coverage", "0.9", "--out", tmp_path / "x.csv")
    assert code in (1, 2), err
    code, _, err = call("predict", tmp_path / "model", photos[0], "--out", tmp_path / "x.csv")
    assert code == 0, err
