"""Data as it comes, from the command line: the same images in every form are the same to every command."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tar_files import pack

from aurevoir.calibration.table import pixels_digest
from aurevoir.cli.main import main
from aurevoir.engine.load import load_engine
from aurevoir.engine.sample import calibration_sample, sample_images
from aurevoir.images import remote
from aurevoir.images.sources import class_folders


@pytest.fixture
def run(capsys):
    """Run a command; return its exit code, its JSON or text, and stderr."""

    def run(*arguments, code=0, text=False):
        assert main([*map(str, arguments), *([] if text else ["--json"])]) == code
        out, err = capsys.readouterr()
        return (out if text or not out else json.loads(out)), err

    return run


@pytest.fixture(scope="module")
def engine(tiny_onnx, tmp_path_factory):
    from aurevoir.engine.build import build_engine

    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    build_engine(tiny_onnx, smoke=False).save(path)
    return path


def forms(folder, place):
    """Write class folders of photographs in every other form, with parts; return what names them."""
    found = class_folders(folder)
    rows = [
        (path, label, "test" if row % 5 == 4 else "train")
        for row, (path, label) in enumerate(zip(found.paths, found.labels))
    ]
    (place / "t.csv").write_text(
        "path,label,split\n" + "".join(f"{path},{label},{part}\n" for path, label, part in rows)
    )
    lines = [json.dumps({"path": str(path), "label": label, "split": part}) for path, label, part in rows]
    (place / "t.jsonl").write_text("\n".join(lines))
    hugging = place / "hugging"
    for part in ("train", "test"):
        (hugging / part).mkdir(parents=True)
        own = [(f"{label}-{path.name}", path, label) for path, label, each in rows if each == part]
        for name, path, _ in own:
            (hugging / part / name).write_bytes(path.read_bytes())
        lines = "".join(f"{name},{label}\n" for name, _, label in own)
        (hugging / part / "metadata.csv").write_text(f"file_name,label\n{lines}")
        half = len(own) // 2
        for number, some in enumerate((own[:half], own[half:])):
            pairs = [
                pair
                for name, path, label in some
                for pair in ((f"{name}", path.read_bytes()), (f"{name.split('.')[0]}.cls", label.encode()))
            ]
            pack(place / f"{part}-{number:03d}.tar", *pairs)
    (place / "shards").mkdir()
    for shard in sorted(place.glob("*.tar")):
        shard.rename(place / "shards" / shard.name)
    with tarfile.open(place / "folders.tar", "w") as tar:
        for path, label, part in rows:
            tar.add(path, f"photos/{part}/{label}/{path.name}")
    pattern = place / "shards" / "{train,test}-{000..001}.tar"
    MemoryFileSystem().put(str(place), f"/{place.name}", recursive=True)
    urls = [f"memory://{place.name}/{each}" for each in ("hugging", "shards", "folders.tar")]
    return [place / "t.csv", place / "t.jsonl", hugging, place / "shards", place / "folders.tar", pattern, *urls]


@pytest.fixture
def emptied():
    """Empty fsspec's store of this process after a test."""
    yield
    MemoryFileSystem.store.clear()
    remote._KNOWN.clear()


def test_every_form_of_the_same_images_gives_the_same_model(run, class_folder, engine, tmp_path, emptied):
    found = []
    (tmp_path / "forms").mkdir()
    for number, data in enumerate(forms(class_folder, tmp_path / "forms")):
        result, err = run("fit", data, "--engine", engine, "--out", tmp_path / f"m{number}", "--projection", "none")
        assert (result["train_images"], result["test_images"], result["skipped"]) == (24, 6, {})
        assert re.search("testing on|using test", err)
        tested, _ = run("evaluate", tmp_path / f"m{number}", data)
        assert tested["accuracy"] == result["accuracy"]
        names = sorted(class_folder.rglob("*.png"))
        probabilities, _ = run("predict", tmp_path / f"m{number}", *names)
        found.append([(row["label"], round(row["score"], 6)) for row in probabilities["predictions"]])
        everything, _ = run("predict", tmp_path / "m0", data)
        assert sorted(round(row["score"], 6) for row in everything["predictions"]) == sorted(x for _, x in found[0])
    assert all(each == found[0] for each in found)


def test_members_are_named_in_predictions_and_where_they_cannot_be_read(run, class_folder, engine, tmp_path):
    run("fit", class_folder, "--engine", engine, "--out", tmp_path / "m")
    image = (class_folder / "red" / "0.png").read_bytes()
    shard = pack(tmp_path / "s.tar", ("a/x.png", image), ("a/y.png", image[:200]), ("a/z.txt", b"red"))
    result, _ = run("predict", tmp_path / "m", shard, f"{shard}/a/x.png", f"{shard}/gone.png")
    assert [(row["path"], row["label"]) for row in result["predictions"]] == [(f"{shard}/a/x.png", "red")] * 2
    assert set(result["skipped"]) == {f"{shard}/a/y.png", f"{shard}/gone.png"}
    (tmp_path / "broken.tar").write_bytes(shard.read_bytes()[:1000])
    _, err = run("predict", tmp_path / "m", tmp_path / "broken.tar", code=1)
    assert "broken.tar is not an uncompressed tar archive, or it is damaged" in err
    embedded, _ = run("embed", engine, shard, "--out", tmp_path / "bits.npz")
    assert (embedded["images"], list(embedded["skipped"])) == (1, [f"{shard}/a/y.png"])
    assert np.load(tmp_path / "bits.npz")["paths"].tolist() == [f"{shard}/a/x.png"]


def test_calibration_images_may_be_in_archives_and_tables(run, class_folder, tiny_onnx, tmp_path):
    given = sorted(class_folder.rglob("*.png"))
    (tmp_path / "c.csv").write_text("path\n" + "".join(f"{path}\n" for path in given))
    pack(tmp_path / "c.tar", *((f"c/{path.relative_to(class_folder)}", path.read_bytes()) for path in given))
    of_folder, *others = (
        sample_images(data, (28, 28), 8) for data in (class_folder, tmp_path / "c.csv", tmp_path / "c.tar")
    )
    for each in others:
        np.testing.assert_array_equal(each, of_folder)
    options = ["--precision", "int8", "--calibration-images", "24", "--out", tmp_path / "e.engine"]
    run("build", tiny_onnx, "--calibration", tmp_path / "c.tar", *options)
    used, _ = calibration_sample(class_folder, (28, 28), 24)
    assert load_engine(tmp_path / "e.engine").table.images == pixels_digest(used)


def test_an_interrupted_fit_on_an_archive_continues_and_a_changed_archive_is_read_anew(
    run, class_folder, engine, tmp_path
):
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(class_folder, "c")
    options = ["--engine", engine, "--work", tmp_path / "work", "--projection", "none"]
    first, _ = run("fit", tmp_path / "c.tar", *options)
    again, err = run("fit", tmp_path / "c.tar", *options)
    assert "the bits of 24 of 24 images" in err
    assert (again["accuracy"], again["alpha"]) == (first["accuracy"], first["alpha"])
    image = (class_folder / "red" / "0.png").read_bytes()
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        for path in sorted(class_folder.rglob("*.png")):
            info = tarfile.TarInfo(f"c/{path.relative_to(class_folder)}")
            content = image if path.parent.name == "blue" else path.read_bytes()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    _, err = run("fit", tmp_path / "c.tar", *options)
    assert "the bits of 24 of 24 images" not in err


def test_weights_of_rows_are_those_of_the_fit(run, class_folder, engine, tmp_path):
    from aurevoir.transfer.classifier import load

    found = class_folders(class_folder)
    lines = [f"{path},{label},{1 + row % 3},train" for row, (path, label) in enumerate(zip(found.paths, found.labels))]
    lines[4] = lines[4].replace(",2,", ",0,")
    lines[5] = lines[5].replace(",train", ",test")
    (tmp_path / "t.csv").write_text("path,label,weight,split\n" + "\n".join(lines))
    result, err = run("fit", tmp_path / "t.csv", "--engine", engine, "--out", tmp_path / "m")
    assert (result["train_images"], result["test_images"]) == (28, 1)
    assert "1 images of" in err
    assert "have weight 0 and are left out" in err
    weights = load(tmp_path / "m").training_.weights
    assert sorted(weights) == sorted(1 + row % 3 for row in range(30) if row not in (4, 5))


@pytest.fixture
def coco(data, tmp_path):
    """A table of real photographs and the kinds of things on them that are on 12 or more."""
    root, lines = data("coco254"), []
    names = dict(re.findall(r"^\s*(\d+):\s*(.+?)\s*$", (root / "classes.yaml").read_text(), re.M))
    kept = {"person", "chair", "car", "cup", "dining table", "truck", "bottle", "backpack"}
    for image in sorted((root / "images").iterdir()):
        boxes = root / "labels" / f"{image.stem}.txt"
        found = {names[line.split()[0]] for line in boxes.read_text().splitlines()} if boxes.exists() else set()
        lines.append({"path": str(image), "labels": sorted(found & kept)})
    (tmp_path / "coco.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return tmp_path / "coco.jsonl", sorted(kept)


def test_several_labels_an_image_from_photographs_to_predictions(run, coco, engine, tmp_path):
    table, names = coco
    text, err = run("fit", table, "--engine", engine, "--out", tmp_path / "m", text=True)
    assert "Traceback" not in err
    assert re.search(r"\d+ images of 8 classes", text)
    assert re.search(r"mean average precision 0\.\d{4} on 5\d test images, all labels right of \d+\.\d%", text)
    assert re.search(r"leave-one-out on the training images 0\.\d{4} of the labels right", text)
    result, _ = run("evaluate", tmp_path / "m", table)
    assert result["classes"] == names
    assert result["mean_average_precision"] == pytest.approx(
        np.mean([each["average_precision"] for each in result["per_label"].values()])
    )
    assert result["per_class"] == {name: each["recall"] for name, each in result["per_label"].items()}
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert result["per_label"]["person"]["images"] == sum("person" in row["labels"] for row in rows)
    text, _ = run("evaluate", tmp_path / "m", table, text=True)
    assert re.search(r"^label +images average-precision precision recall$", text, re.M)
    assert re.search(r"^dining table +\d+ +0\.\d{3} +\S+ +0\.\d{3}$", text, re.M)

    given, _ = run("predict", tmp_path / "m", *(row["path"] for row in rows))
    right = [set(each["label"]) == set(row["labels"]) for each, row in zip(given["predictions"], rows, strict=True)]
    assert np.mean(right) == pytest.approx(result["accuracy"])
    for each in given["predictions"]:
        assert [one["label"] for one in each["labels"]] == each["label"]
        assert all(one["score"] > 0 and one["probability"] > 0.5 for one in each["labels"])
    text, _ = run("predict", tmp_path / "m", *(row["path"] for row in rows), text=True)
    for line, each in zip(text.splitlines(), given["predictions"], strict=True):
        shown = ", ".join(f"{one['label']} ({one['probability']:.3f})" for one in each["labels"])
        assert line == f"{each['path']}: {shown or 'no label'}"
    assert any(line.endswith(": no label") for line in text.splitlines())

    text, _ = run("predict", tmp_path / "m", *(row["path"] for row in rows), "--csv", text=True)
    cells = [line.split(",")[:2] for line in text.splitlines()[1:]]
    assert cells == [[each["path"], ";".join(each["label"])] for each in given["predictions"]]
    result, _ = run("evaluate", tmp_path / "m", table, "--csv", tmp_path / "rows.csv")
    cells = dict(line.split(",")[:3:2] for line in (tmp_path / "rows.csv").read_text().splitlines()[1:])
    assert cells == {each["path"]: ";".join(each["label"]) for each in given["predictions"]}
    _, err = run("evaluate", tmp_path / "m", table, "--confusion", tmp_path / "c.png", code=2)
    assert "images with several labels each have no confusion matrix" in err

    _, err = run("evaluate", tmp_path / "m", table, "--min-accuracy", 1, code=4)
    assert re.search(r"accuracy 0\.\d+ is below --min-accuracy 1", err)
    described, _ = run("inspect", tmp_path / "m")
    assert (described["classes"], described["multilabel"]) == (names, True)
    run("build", tmp_path / "m", "--out", tmp_path / "whole.engine")
    assert load_engine(tmp_path / "whole.engine").manifest.labels == tuple(names)
    swept, _ = run("inspect", tmp_path / "whole.engine")
    assert swept["multilabel"] is True


def test_cuts_are_compared_on_several_labels_too(run, coco, staged_onnx, tmp_path):
    table, names = coco
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:48]))
    result, _ = run("sweep", table, "--backbone", staged_onnx, "--precision", "fp32", "--cuts", "2")
    assert set(result["classes"]) <= set(names)
    assert all(0.5 < row["loo_accuracy"] <= 1 for row in result["rows"])
    fitted, _ = run("fit", table, "--backbone", staged_onnx, "--cut", "auto", "--out", tmp_path / "m")
    assert fitted["cut_scores"]
    assert fitted["mean_average_precision"] > 0
