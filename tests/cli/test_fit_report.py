"""The page of a fit: what it says, that it stands alone, and how a browser shows it on a phone and on a desk."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from aurevoir.cli import fit_report
from aurevoir.cli.main import main
from aurevoir.cli.outputs import KINDS
from aurevoir.transfer.outcomes import Outcomes

EVIL = "<script>alert(1)</script>&amp;'\""
NAMES = ["blue", "green", '<b>red & "white"\'']


class Page(HTMLParser):
    """Elements with their attributes, and the text of each section."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.sections, self.current, self.hidden = [], {}, "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.hidden = name == "style"
        if name == "section":
            self.current = dict(attributes)["id"]

    def handle_endtag(self, name):
        self.hidden = False

    def handle_data(self, data):
        if not self.hidden:
            self.sections[self.current] = self.sections.get(self.current, "") + data + " "

    def pictures(self):
        return [attributes["src"] for name, attributes in self.elements if name == "img"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes by colour, one of a name that is no HTML; three images of each are in another's folder."""
    random, folder = np.random.default_rng(1), tmp_path_factory.mktemp("photos")
    for name in NAMES:
        (folder / name).mkdir()
    for place in range(3):
        for number in range(20):
            image = random.integers(0, 120, size=(90, 160, 3), dtype="uint8")
            image[..., 2 - place] += 120
            name = NAMES[(place + (number < 3)) % 3]
            Image.fromarray(image).save(folder / name / f"{place}-{number}.png")
    (folder / "blue" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def fitted(photos, tiny_onnx, tmp_path_factory):
    """A function from options to the path of the page that ``fit`` writes with them, and its JSON."""

    def run(*options):
        out = tmp_path_factory.mktemp("out")
        words = ["fit", photos, "--backbone", tiny_onnx, "--report", out / "page.html", "--json", *options]
        with pytest.MonkeyPatch.context() as patch:
            printed = []
            patch.setattr("aurevoir.cli.main._printed", lambda program, text: printed.append(text) or 0)
            assert main([str(word) for word in words]) == 0
        return out / "page.html", json.loads(printed[0])

    return run


@pytest.fixture(scope="module")
def tested(fitted):
    return fitted("--precision", "int8", "--out", "model")


@pytest.fixture(scope="module", autouse=True)
def in_a_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield


def test_it_says_what_fit_says_summary_first(tested):
    path, result = tested
    page = Page(path.read_text())
    sections = [attributes["id"] for name, attributes in page.elements if name == "section"]
    assert sections[0] == "summary"
    assert {*sections} == {
        *("summary", "classes", "mistakes", "suspicious", "probabilities", "choice", "precision", "time", "skipped"),
        *("machine", "use"),
    }
    links = [attributes["href"] for name, attributes in page.elements if name == "a"]
    assert links == [f"#{each}" for each in sections]
    low, high = result["accuracy_interval"]
    assert f"{100 * result['accuracy']:.1f} %" in page.sections["summary"]
    assert f"{100 * low:.1f} to {100 * high:.1f} % with 95 % confidence" in page.sections["summary"]
    assert f"{result['refit']['images']} images" in page.sections["summary"]
    assert "broken.jpg" in page.sections["skipped"]
    for each, score in result["loo_accuracy_of"].items():
        assert re.search(rf"{re.escape(each)}( ✓)?\s+{100 * score:.1f} %", page.sections["choice"])
    assert f"{100 * result['sign_agreement']:.1f} % of the features' signs" in page.sections["precision"]
    for command in ("predict model IMAGES", "evaluate model DATA", "review model --html review.html"):
        assert f"aurevoir {command}" in page.sections["use"]
    assert "numpy" in page.sections["machine"]


def test_every_wrong_label_that_leave_one_out_sees_is_shown_with_its_picture_and_probabilities(tested):
    path, result = tested
    page = Page(path.read_text())
    wrong = round(result["train_images"] * (1 - result["loo_accuracy"]))
    mistakes = result["test_images"] - round(result["accuracy"] * result["test_images"])
    assert wrong >= 5
    assert f"{wrong} of {result['train_images']} images" in page.sections["suspicious"]
    assert len(page.pictures()) == min(wrong, fit_report.IMAGES) + mistakes
    assert page.sections["suspicious"].count(".png") == min(wrong, fit_report.IMAGES)
    assert page.sections["suspicious"].count(" %") >= 2 * min(wrong, fit_report.IMAGES)


def test_it_stands_alone_escapes_names_and_is_known_as_a_report(tested):
    text = tested[0].read_text()
    page = Page(text)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.pictures())
    assert not any(word in text for word in ("http://", "https://", "@import", "url(", "<b>red", "javascript:"))
    assert not {"script", "link", "iframe", "object", "b"} & {name for name, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert NAMES[2] in page.sections["classes"]
    assert KINDS["a report"](tested[0].read_bytes()[:4096])
    assert "prefers-color-scheme: dark" in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    assert all(attributes["alt"] for name, attributes in page.elements if name == "img")


def test_without_a_test_it_shows_leave_one_out(fitted):
    path, result = fitted("--no-test")
    page = Page(path.read_text())
    assert "suspicious" not in page.sections
    assert "Accuracy by leave-one-out" in page.sections["summary"]
    assert f"{100 * result['loo_accuracy']:.1f} %" in page.sections["summary"]
    assert "Images that leave-one-out labels otherwise" in page.sections["mistakes"]
    assert "--out MODEL" in page.sections["use"]
    assert "precision" not in page.sections


def outcomes(classes, images, paths=None, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=images)
    scores = random.normal(size=(images, classes))
    scores[np.arange(images), labels] += 2
    names = np.array([f"class {place} {EVIL}" for place in range(classes)])
    return Outcomes(names, labels, scores, softmax(scores, axis=1), paths)


def of(result, found, trained):
    """A page of other outcomes."""
    changed = {**result, "classes": found.classes.tolist(), "class_weight": {EVIL: 2.0}, "out": EVIL}
    changed |= {"skipped": {f"{EVIL}{place}": EVIL for place in range(200)}, "backbone": EVIL, "cut": EVIL}
    cut = {"name": EVIL, "cut": EVIL, "layers": 0, "macs": 1e9, "loo_accuracy": 0.5, "projection": "none"}
    cut |= {"behind": 0.01, "standard_error": 0.01}
    changed |= {"cut_scores": [cut] * 3, "cut_layers": 0, "cut_reason": EVIL, "cut_images": 100}
    return fit_report.fit_report(changed, found, trained, EVIL)


def test_names_of_every_kind_are_escaped(tested):
    page = Page(of(tested[1], outcomes(4, 50), outcomes(4, 90)).decode())
    assert "script" not in {name for name, _ in page.elements}
    for section in ("summary", "classes", "mistakes", "suspicious", "choice", "skipped", "use"):
        assert EVIL in page.sections[section], section


@pytest.mark.parametrize("classes", [2, 31, 1000])
def test_the_page_of_many_classes_and_mistakes_is_bounded(tested, photos, classes):
    paths = [str(path) for path in sorted(photos.rglob("*.png"))] * 100
    found = outcomes(classes, len(paths), paths)
    text = of(tested[1], found, found).decode()
    page = Page(text)
    assert len(page.pictures()) == 2 * fit_report.IMAGES
    assert len(text) < 1_500_000
    assert ("Confusion matrix" in page.sections["classes"]) == (classes <= fit_report.MATRIX)
    assert page.sections["skipped"].count(EVIL) <= 2 * fit_report.SKIPPED


def test_the_same_fit_gives_the_same_page(tested, photos):
    paths = [str(path) for path in sorted(photos.rglob("*.png"))]
    found = outcomes(3, len(paths), paths)
    assert of(tested[1], found, found) == of(tested[1], found, found)


def test_a_picture_that_is_gone_is_left_out_and_files_of_two_kinds_have_no_common_folder(tested, photos):
    paths = ["relative/none.png", *(str(path) for path in sorted(photos.rglob("*.png")))]
    found = outcomes(2, len(paths), paths, seed=3)
    found.probabilities[0], found.scores[0] = [0, 1], [0, 1]
    found.labels[0] = 0
    page = Page(of(tested[1], found, found).decode())
    assert "relative/none.png" in page.sections["mistakes"]
    assert len(page.pictures()) % 2 == 0


def test_no_mistake_is_said(tested):
    found = outcomes(2, 30)
    right = Outcomes(found.classes, found.predicted, found.scores, found.probabilities)
    page = Page(of(tested[1], right, right).decode())
    assert "None of 30." in page.sections["mistakes"]
    assert "was taken for" not in page.sections["summary"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 900)])
def test_a_browser_shows_it_without_scrolling_sideways_a_message_or_a_request(browser, tested, scheme, width, height):
    shown = browser.show(tested[0], width, height, scheme)
    assert shown.width <= shown.viewport == width
    assert (shown.console, shown.requests) == ([], [])
    assert (np.median(shown.pixels) > 128) == (scheme == "light")
    assert np.std(shown.pixels) > 10


def test_names_that_are_long_do_not_make_it_wider_than_a_phone(browser, tested, tmp_path):
    found = outcomes(31, 200, [f"/{'long' * 60}/{place}.jpg" for place in range(200)])
    path = tmp_path / "page.html"
    long = Outcomes(np.array(["x" * 200 + f"{place}" for place in range(31)]), *list(vars(found).values())[1:5])
    path.write_bytes(of(tested[1] | {"backbone": "x" * 300}, long, long))
    shown = browser.show(path, 360, 740)
    assert (shown.width, shown.console, shown.requests) == (360, [], [])
