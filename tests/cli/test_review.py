"""``aurevoir review`` and ``aurevoir refit``: what they print and write, and what they refuse."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from aurevoir import OpticalClassifier, load
from aurevoir.images.sources import class_folders


@pytest.fixture
def call(call):
    """Run a command in this process; return (exit code, parsed stdout or its text, stderr)."""

    def run(*arguments):
        code, out, err = call(*arguments)
        return code, json.loads(out) if out.startswith("{") else out, err

    return run


@pytest.fixture(scope="module")
def network(data):
    return data("backbones/mobilenetv2.onnx")


@pytest.fixture(scope="module")
def made(data, network, tmp_path_factory):
    """Photographs of which two have another label and one is there twice, their model, and the engine of it."""
    folder = tmp_path_factory.mktemp("review")
    for kind in ("ants", "bees"):
        (folder / "photos" / kind).mkdir(parents=True)
        for path in sorted((data("hymenoptera/train") / kind).iterdir())[:40]:
            shutil.copy(path, folder / "photos" / kind)
    photos = {kind: sorted((folder / "photos" / kind).iterdir()) for kind in ("ants", "bees")}
    wrong = [photos["ants"][7], photos["bees"][9]]
    for path, kind in zip(wrong, ("bees", "ants"), strict=True):
        path.rename(folder / "photos" / kind / f"<b>{path.name}")
    ImageOps.mirror(Image.open(photos["ants"][3]).convert("RGB")).save(folder / "photos" / "ants" / "zz.jpg")
    OpticalClassifier(network, smoke=False).fit(folder / "photos").save(folder / "model")
    return folder, [str(folder / "photos" / "bees" / f"<b>{wrong[0].name}"), str(photos["ants"][3])]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_model_is_reviewed_and_refitted_without_embedding_again(call, made, tmp_path, monkeypatch):
    folder, (wrong, copied) = made
    table, page = tmp_path / "r.csv", tmp_path / "r.html"
    code, found, err = call("review", folder / "model", "--csv", table, "--html", page, "--json")
    assert code == 0, err
    assert found["images"] == 81
    assert wrong in [row["path"] for row in found["labels"][:10]]
    assert [(row["path"], row["other"], row["mirrored"]) for row in found["copies"]] == [
        (str(folder / "photos/ants/zz.jpg"), copied, True)
    ]
    assert (found["conflicts"], found["leaks"], found["test_images"]) == ([], [], None)
    rows = rows_of(table)
    assert [row["path"] for row in rows] == [row["path"] for each in ("labels", "copies") for row in found[each]]
    assert {row["reason"] for row in rows} == {"label", "copy"}
    html = page.read_text()
    assert html.count("<img") == len(found["labels"]) + 2
    assert "<b>" not in html
    assert html.count(f"&lt;b&gt;{wrong.rsplit('<b>')[1]}") >= 1

    # Nothing is decoded or embedded again.
    monkeypatch.setattr("aurevoir.engine.engine.Engine.run", None)
    monkeypatch.setattr("aurevoir.images.decode.decode", None)
    code, refitted, err = call("refit", folder / "model", "--remove", table, "--out", tmp_path / "less", "--json")
    assert code == 0, err
    assert "where leave-one-out has suggested what to remove" in err
    removed = len({row["path"] for row in rows})
    assert (refitted["removed"], refitted["images"], refitted["absent"]) == (removed, 81 - removed, [])
    less = load(tmp_path / "less")
    assert not {row["path"] for row in rows} & set(less.training_.paths)
    assert refitted["loo_accuracy"] == less.loo_accuracy_

    code, refitted, err = call("refit", folder / "model", "--relabel", table, "--out", tmp_path / "other", "--json")
    assert code == 0, err
    # No label is suggested of the copy.
    assert (refitted["relabelled"], refitted["images"]) == (len(found["labels"]), 81)
    other = load(tmp_path / "other")
    labels = dict(zip(other.training_.paths, other.classes_[other.training_.labels], strict=True))
    assert all(labels[row["path"]] == row["suggested"] for row in found["labels"])


def test_the_text_says_each_kind_and_how_many_more(call, made):
    folder, _ = made
    code, text, _ = call("review", folder / "model", "--top", "1")
    lines = text.splitlines()
    assert code == 0
    assert lines[0] == "81 training images of 2 classes"
    assert lines[1].startswith("labels that leave-one-out contradicts: ")
    assert lines[2].startswith("  ")
    assert " rather " in lines[2]
    assert lines[3].startswith("  and ")
    assert "copies under another label: 0" in lines
    assert not any("test images" in line for line in lines)
    assert lines[-1].endswith(", mirrored")


def test_images_that_were_tested_on_are_found_among_the_training_images(call, made, tmp_path):
    folder, (_, copied) = made
    (tmp_path / "test" / "ants").mkdir(parents=True)
    image = Image.open(copied).convert("RGB")
    image.resize((image.width // 2, image.height // 2)).save(tmp_path / "test" / "ants" / "copy.png")
    shutil.copy(next((folder / "photos" / "bees").iterdir()), tmp_path / "test" / "ants" / "x.jpg")
    Image.effect_noise((90, 90), 80).save(tmp_path / "test" / "ants" / "noise.png")
    (tmp_path / "test" / "ants" / "broken.png").write_bytes(b"none")
    page = tmp_path / "r.html"
    code, found, err = call("review", folder / "model", "--test", tmp_path / "test", "--html", page, "--json")
    assert code == 0, err
    leaks = {row["other"].rsplit("/")[-1]: row["path"] for row in found["leaks"]}
    assert set(leaks) == {"copy.png", "x.jpg"}
    assert leaks["copy.png"] in (copied, str(folder / "photos/ants/zz.jpg"))
    assert (found["test_images"], list(found["skipped"])) == (3, [str(tmp_path / "test/ants/broken.png")])
    assert "Copies among the test images: 2" in page.read_text()
    text = call("review", folder / "model", "--test", tmp_path / "test")[1].splitlines()
    assert "81 training images of 2 classes; test images: 3" in text
    assert "test images that are copies of training images: 2" in text


def test_data_is_trained_on_first(call, class_folder, tiny_onnx, tmp_path):
    (class_folder / "red" / "0.png").rename(class_folder / "blue" / "r.png")
    code, found, err = call("review", class_folder, "--backbone", tiny_onnx, "--json")
    assert code == 0, err
    assert found["labels"][0]["path"] == str(class_folder / "blue" / "r.png")
    assert found["labels"][0]["suggested"] == "red"
    assert found["images"] == 30


def test_images_are_added_and_what_is_not_there_is_said(call, class_folder, tiny_onnx, tmp_path):
    labelled = class_folders(class_folder)
    OpticalClassifier(tiny_onnx, smoke=False).fit(class_folder).save(tmp_path / "model")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{labelled.paths[4]}\n{labelled.paths[17]}\r\nnone.png\n\n", "utf-16")
    more = tmp_path / "more.csv"
    more.write_text(f"path,label,weight\n{labelled.paths[4]},red,3\n")
    arguments = ["--remove", listed, "--add", more, "--out", tmp_path / "new"]
    code, found, err = call("refit", tmp_path / "model", *arguments, "--json")
    assert code == 0, err
    assert (found["removed"], found["added"], found["images"], found["absent"]) == (2, 1, 29, ["none.png"])
    text = call("refit", tmp_path / "model", *arguments)[1].splitlines()
    assert text[0] == "not a training image: none.png"
    assert text[1] == "29 training images: 2 removed, 1 added"
    kept = [path for row, path in enumerate(labelled.paths) if row not in (4, 17)]
    labels = [label for row, label in enumerate(labelled.labels) if row not in (4, 17)]
    expected = OpticalClassifier(engine=load(tmp_path / "new").engine_)
    expected.fit([*kept, labelled.paths[4]], [*labels, "red"], [1] * 28 + [3])
    found = load(tmp_path / "new")
    assert found.training_.weights.tolist() == [1] * 28 + [3]
    np.testing.assert_array_equal(found.scores(labelled.paths), expected.scores(labelled.paths))


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny_onnx):
    folder = tmp_path_factory.mktemp("small")
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(4):
            image = random.integers(0, 256, size=(28, 28, 3), dtype="uint8")
            Image.fromarray(image).save(folder / "photos" / name / f"{number}.png")
    OpticalClassifier(tiny_onnx, smoke=False).fit(folder / "photos").save(folder / "model")
    (folder / "own.txt").write_text("mine")
    (folder / "none.txt").write_text("nobody.png\n")
    (folder / "empty.txt").write_text("\n")
    (folder / "plain.txt").write_text(f"{folder}/photos/a/1.png\n")
    (folder / "all.txt").write_text("".join(f"{folder}/photos/a/{number}.png\n" for number in range(4)))
    (folder / "nul.txt").write_bytes(b"photos/a/1.png\n\0\n")
    (folder / "open.csv").write_text('path\n"' + "x" * 200_000)
    (folder / "strange.csv").write_text(f"path,label\n{folder}/photos/a/1.png,c\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("review {0}/model --precision int8", "--precision has no effect with a model, which is trained"),
        ("review {0}/model --seed 1", "--seed has no effect"),
        ("review {0}/photos --rebuild", "--rebuild has no effect"),
        ("review {0}/model --csv {0}/own.txt", "exists and is not a review"),
        ("review {0}/model --html {0}/model/r.html", "is inside the model folder"),
        ("review {0}/none", "does not exist"),
        ("review {0}/model --top 0", "is less than 1"),
        ("refit {0}/model --out {0}/new", "nothing to change"),
        ("refit {0}/model --out {0}/photos --remove {0}/plain.txt", "is not a model folder"),
        ("refit {0}/model --out {0}/new --remove {0}/none.txt", "none of the 1 images in --remove"),
        ("refit {0}/model --out {0}/new --remove {0}/empty.txt", "names no image"),
        ("refit {0}/model --out {0}/new --remove {0}/nothing.txt", "nothing.txt"),
        ("refit {0}/model --out {0}/new --remove {0}/nul.txt", "nul.txt holds a null character in line 2; save it"),
        ("refit {0}/model --out {0}/new --remove {0}/open.csv", "open.csv is not a table: field larger than"),
        ("refit {0}/model --out {0}/new --remove {0}/all.txt", "no training image of class a would be left"),
        ("refit {0}/model --out {0}/new --relabel {0}/plain.txt", "has no column suggested or label"),
        ("refit {0}/model --out {0}/new --relabel {0}/strange.csv", "label 'c' in --relabel"),
    ],
)
def test_what_cannot_be_is_refused_on_one_line(call, small, arguments, said):
    code, out, err = call(*(part.format(small) for part in arguments.split()))
    assert code in (1, 2)
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err
    assert not (small / "new").exists()


def test_a_model_without_its_training_is_refused(call, small, tmp_path):
    load(small / "model").save(tmp_path / "model", training=False)
    for command in (["review"], ["refit", "--out", tmp_path / "new", "--remove", small / "plain.txt"]):
        code, _, err = call(command[0], tmp_path / "model", *command[1:])
        assert (code, "does not hold the bits of its training images" in err) == (2, True)


def test_a_row_without_a_suggestion_takes_none_away(call, made, tmp_path):
    folder, _ = made
    training = load(folder / "model").training_
    path, own = training.paths[0], training.labels[0]
    first, second = load(folder / "model").classes_[[own, 1 - own]]
    lines = ["path,suggested,reason", f'"{path}",{second},label', f'"{path}",,conflict']
    (tmp_path / "list.csv").write_text("\n".join(lines))
    options = ["--relabel", tmp_path / "list.csv", "--json"]
    code, found, err = call("refit", folder / "model", *options, "--out", tmp_path / "new")
    assert (code, found["relabelled"]) == (0, 1), err
    (tmp_path / "list.csv").write_text("\n".join([*lines, f'"{path}",{first},label']))
    code, _, err = call("refit", folder / "model", *options, "--out", tmp_path / "other")
    assert code == 1
    assert "give it one" in err
    code, _, err = call("refit", folder / "model", *options, "--out", folder / "model" / "new")
    assert code == 2, err
