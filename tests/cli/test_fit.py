"""What ``fit`` tells and delivers: intervals, confusions, a model of all images, and options of what it learns."""

import json
import re

import numpy as np
import pytest

import aurevoir
from aurevoir.cli.main import main
from aurevoir.transfer import classifier as transfer
from aurevoir.transfer.evaluate import accuracy_interval


@pytest.fixture
def fit(tiny_onnx, class_folder, capsys):
    """Run ``fit`` on the class folder; return (exit code, parsed stdout or its text, stderr)."""

    def run(*options, text=False):
        words = ["fit", class_folder, *run.options, *options, *([] if text else ["--json"])]
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out and not text else out, err

    run.options = ["--backbone", str(tiny_onnx)]
    return run


def test_it_tells_the_interval_the_classes_and_the_confusions(fit):
    code, found, err = fit()
    assert code == 0, err
    confusion = np.array(found["confusion"])
    assert found["accuracy"] == np.trace(confusion) / confusion.sum()
    assert confusion.sum() == found["test_images"] == 6
    assert tuple(found["accuracy_interval"]) == accuracy_interval(int(np.trace(confusion)), 6)
    assert found["accuracy_of"] == "test images"
    totals = confusion.sum(axis=1)
    assert found["per_class"] == dict(zip(found["classes"], (np.diag(confusion) / totals).tolist(), strict=True))
    assert found["test_seconds"] > 0
    assert found["refit"] is None
    chosen = [each for each in found["alphas"] if each["alpha"] == found["alpha"]]
    assert [each["loo_accuracy"] for each in chosen] == [found["loo_accuracy"]]


def test_the_text_names_the_worst_classes_and_what_they_are_taken_for(fit, class_folder):
    # Half of the red images are called blue: whatever is learnt, some are wrong.
    for number in range(5):
        (class_folder / "red" / f"{number}.png").rename(class_folder / "blue" / f"{number}r.png")
    code, out, err = fit("--test", class_folder, text=True)
    assert code == 0, err
    first = re.search(
        r"^accuracy (0\.\d{4}) \((0\.\d{3}) to (0\.\d{3}) with 95 % confidence\) on 30 test images; "
        r"leave-one-out on the training images 0\.\d{4}$",
        out,
        re.MULTILINE,
    )
    assert float(first[2]) < float(first[1]) < float(first[3])
    assert re.search(r"^least accurate classes: (blue \d+ of 15|red \d+ of 5)", out, re.MULTILINE)
    assert re.search(r"^most often confused: (blue as red|red as blue) \d+", out, re.MULTILINE)
    assert re.search(r"^training, seconds: .*, total \d+\.\d; testing \d+\.\d$", out, re.MULTILINE)


def test_the_model_is_refitted_on_all_images_and_is_the_one_of_a_fit_on_them(fit, class_folder, tmp_path, monkeypatch):
    embedded = []
    embed = transfer.embed
    monkeypatch.setattr(
        transfer,
        "embed",
        lambda engine, images, *rest, **more: (embedded.append(len(images)), embed(engine, images, *rest, **more))[1],
    )
    code, found, err = fit("--out", tmp_path / "model")
    assert code == 0, err
    assert embedded == [24, 6]
    model = aurevoir.load(tmp_path / "model")
    assert len(model.training_) == found["refit"]["images"] == 30
    assert {*model.training_.paths} == {str(path) for path in class_folder.rglob("*.png")}
    known = {name: found["refit"][name] for name in ("alpha", "loo_accuracy", "projection")}
    assert known == {"alpha": model.alpha_, "loo_accuracy": model.loo_accuracy_, "projection": model.projection_}
    assert found["refit"]["projection"] == found["projection"]
    paths, labels = model.training_.paths, model.classes_[model.training_.labels]
    alone = aurevoir.OpticalClassifier(engine=model.engine_, projection=model.projection_).fit(list(paths), labels)
    assert (alone.decision_function(list(paths)) == model.decision_function(list(paths))).all()
    assert (alone.temperature_, alone.alpha_) == (model.temperature_, model.alpha_)
    out = fit("--out", tmp_path / "other", text=True)[1]
    assert re.search(
        r"^refitted on all 30 images: projection \S+, alpha \S+, leave-one-out [01]\.\d{4}$", out, re.MULTILINE
    )


def test_engine_and_thresholds_stay_those_of_the_training_part(fit, tmp_path):
    options = ["--precision", "int8", "--seed", "3"]
    assert (
        fit("--out", tmp_path / "all", *options)[0]
        == fit("--out", tmp_path / "split", "--keep-split", *options)[0]
        == 0
    )
    first, second = (aurevoir.load(tmp_path / each) for each in ("all", "split"))
    assert first.engine_.to_bytes() == second.engine_.to_bytes()
    assert (len(first.training_), len(second.training_)) == (30, 24)
    assert (first.training_.bits[:24] == second.training_.bits).all()


@pytest.mark.parametrize("how", ["option", "folder"])
def test_test_images_given_apart_stay_out_of_the_model(fit, class_folder, tmp_path, how):
    if how == "folder":
        for part in ("train", "val"):
            (class_folder / part).mkdir()
        for folder in [each for each in class_folder.iterdir() if each.name not in ("train", "val")]:
            (class_folder / "val" / folder.name).mkdir()
            (folder / "0.png").rename(class_folder / "val" / folder.name / "0.png")
            folder.rename(class_folder / "train" / folder.name)
    options = ["--test", class_folder] if how == "option" else []
    code, found, err = fit("--out", tmp_path / "model", *options)
    assert (code, found["refit"]) == (0, None), err
    assert len(aurevoir.load(tmp_path / "model").training_) == found["train_images"] == (30 if options else 27)
    code, _, err = fit("--out", tmp_path / "model", "--keep-split", *options)
    assert (code, "--keep-split has no effect with" in err) == (2, True)


def test_without_a_test_it_learns_from_all_and_leave_one_out_tells(fit, class_folder, tmp_path):
    code, found, err = fit("--out", tmp_path / "model", "--no-test")
    assert code == 0, err
    assert (found["accuracy"], found["test_images"], found["refit"]) == (None, 0, None)
    assert (found["train_images"], found["accuracy_of"]) == (30, "leave-one-out")
    confusion = np.array(found["confusion"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(found["loo_accuracy"])
    assert len(aurevoir.load(tmp_path / "model").training_) == 30
    out = fit("--no-test", text=True)[1]
    assert re.search(
        r"^leave-one-out accuracy \d\.\d{4} \(.*\) on the training images; no test images$", out, re.MULTILINE
    )
    assert "\nmodel: not kept; --out MODEL keeps it\n" in out
    # What is weighted is said to be, and the interval is of images.
    weighted, said = (
        fit("--no-test", "--class-weight", "red=1000")[1],
        fit("--no-test", "--class-weight", "red=1000", text=True)[1],
    )
    confusion = np.array(weighted["confusion"])
    share = np.trace(confusion) / confusion.sum()
    assert f"leave-one-out accuracy {share:.4f} (" in said
    assert f"; no test images; {weighted['loo_accuracy']:.4f}, weighted" in said
    # The parts of a folder that has them are kept apart.
    (class_folder / "train").mkdir()
    for folder in [each for each in class_folder.iterdir() if each.name != "train"]:
        folder.rename(class_folder / "train" / folder.name)
    assert fit("--no-test")[1]["train_images"] == 30


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--no-test", "--test", "x"], 2, "--test has no effect with --no-test; omit it"),
        (["--no-test", "--keep-split"], 2, "--keep-split has no effect with --no-test"),
        (["--keep-split"], 2, "--keep-split has no effect with no model to write (--out); omit it"),
        (["--no-test", "--min-accuracy", "0.5"], 2, "--min-accuracy has no effect with --no-test"),
        (["--class-weight", "rde=2"], 2, "--class-weight rde is not one of the classes; did you mean red?"),
        (["--ridge-device", "tpu"], 2, "device 'tpu' is not known; choose cpu or cuda"),
        (["--memory", "much"], 2, "memory budget 'much' is invalid; give a number of bytes from 1 up, or one with KiB"),
        (["--memory", "2KiB", "--projection", "exact"], 1, "and the memory budget is 2.0 KiB; take"),
        (["--out", "m", "--report", "m"], 2, "--report m is the model folder itself; give another place"),
        (["--out", "photos/m"], 2, "--out photos/m is inside the data folder"),
        (["--out", "m", "--report", "m/page.html"], 2, "--report m/page.html is inside the model folder m"),
        (["--work", "w", "--report", "w/page.html"], 2, "--report w/page.html is inside the work folder w"),
        (["--report", "mine.html"], 2, "--report mine.html exists and is not a report of aurevoir's"),
        (["--report", "."], 2, "aurevoir fit: error: "),
    ],
)
def test_what_is_refused_before_any_image_is_embedded(fit, tmp_path, monkeypatch, options, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.html").write_text("<!doctype html> mine")
    if code == 2:
        monkeypatch.setattr(transfer, "embed", lambda *given, **more: pytest.fail("it works"))
    found, _, err = fit(*options)
    assert (found, message in err) == (code, True), err
    assert (tmp_path / "mine.html").read_text() == "<!doctype html> mine"


def test_weights_of_classes_are_learnt_with_and_kept(fit, tmp_path):
    assert fit("--out", tmp_path / "heavy", "--class-weight", "red=50")[0] == 0
    assert fit("--out", tmp_path / "even", "--class-weight", "balanced")[0] == 0
    assert fit("--out", tmp_path / "plain")[0] == 0
    heavy, even, plain = (aurevoir.load(tmp_path / each) for each in ("heavy", "even", "plain"))
    assert heavy.class_weight == {"blue": 1, "green": 1, "red": 50}
    assert even.class_weight == "balanced"
    paths = list(plain.training_.paths)
    mean = [model.predict_proba(paths)[:, 2].mean() for model in (heavy, plain)]
    assert mean[0] > mean[1]
    assert even.decision_function(paths) == pytest.approx(plain.decision_function(paths), abs=1e-6)


def test_quiet_says_nothing_but_notes(fit, class_folder, monkeypatch):
    monkeypatch.setattr("aurevoir.progress.SLOW", 0)
    monkeypatch.setattr("aurevoir.progress._INTERVAL", 0)
    loud, quiet = fit()[2], fit("--quiet")[2]
    assert "build: " in loud
    assert quiet == ""
    noted = fit("--quiet", "--test", class_folder)[2]
    assert noted.startswith("aurevoir fit: note: 30 of 30 test images are also training images")
    assert noted.count("\n") == 1


def test_several_labels_an_image_are_refitted_and_have_a_page_too(fit, class_folder, tmp_path, capsys):
    table, page = tmp_path / "several.jsonl", tmp_path / "page.html"
    rows = []
    for path in sorted(class_folder.rglob("*.png")):
        warm = ["warm"] if path.parent.name == "red" else []
        labels = [path.parent.name, *warm, "odd" if int(path.stem) % 2 else "even"]
        rows.append({"path": str(path), "labels": labels, "weight": 1 + int(path.stem)})
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ["fit", str(table), *fit.options, "--out", str(tmp_path / "model"), "--report", str(page), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == ["blue", "even", "green", "odd", "red", "warm"]
    assert found["refit"]["images"] == 30
    assert found["mean_average_precision"] > 0.5
    assert set(found["per_label"]["warm"]) == {"images", "average_precision", "precision", "recall"}
    model = aurevoir.load(tmp_path / "model")
    assert model.training_.weights.sum() == sum(row["weight"] for row in rows)
    text = page.read_text()
    assert "Mean average precision" in text
    least = min(each["loo_error"] for each in found["alphas"] if each["loo_error"] is not None)
    assert re.search(rf'✓</td><td class="number chosen">[\d.]+ %</td><td class="number">{least:.4f}</td>', text)
    assert all(f'<td class="">{each}</td>' in text for each in found["classes"])
    assert main([*words[:-1], "--class-weight", "balanced"]) == 2
    assert "--class-weight has no effect with several labels an image" in capsys.readouterr().err
    assert main([*words[:2], *fit.options, "--no-test"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^mean average precision \d\.\d{4} on the training images; no test images; "
        r"leave-one-out on the training images \d\.\d{4} of the labels right(, weighted)?$",
        printed,
        re.MULTILINE,
    )
