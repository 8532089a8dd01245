"""The page of results: what it says, that it stands alone, that nothing in a result can break it, and how it looks."""

import contextlib
import io
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from aurevoir.cli.main import main

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, texts, and tables by caption."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.tables = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables.setdefault(self.caption, []).append(self.rows)

    def handle_data(self, data):
        if "caption" in self.open:
            self.caption = data
        elif self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture
def report(tmp_path, capsys):
    """Make a page of result files; return its path, the page, and the command's JSON."""

    def run(*paths, name="page.html"):
        assert main(["bench", "report", *map(str, paths), "--out", str(tmp_path / name), "--json"]) == 0
        made = json.loads(capsys.readouterr().out)
        return tmp_path / name, Page((tmp_path / name).read_text()), made

    return run


@pytest.fixture
def rich(write):
    """A result with all that a page can show, and with what would break one that does not escape."""
    evil = "<script>alert(1)</script>&amp;\"'"
    stages = {"decode": 0.5, "engine": 2.0, "total": 2.5}
    result = {
        "benchmark": "not a module",
        "note": evil,
        "rows": [
            {"name": "a", "accuracy": 0.9, "timings": stages, "classes": ["cat", evil]},
            {"name": "b" * 300, "accuracy": 0.8, "timings": stages},
            {"name": "c", "error": "RuntimeError: " + "no luck " * 40 + evil + "\ud800"},
        ],
        "machine": {
            "processor": "P9",
            "cores": 4,
            "versions": {"numpy": "1"},
            "command": "aurevoir bench x " + "y" * 400,
        },
    }
    return write(result, "rich.json")


def test_every_result_is_on_the_page_with_its_rows_machine_and_command(own_run, root, committed):
    path, made = own_run
    page = Page(path.read_text())
    names = [each.stem for each in sorted((root / "benchmarks" / "results").glob("*.json"))]
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == names
    assert [attributes["href"] for tag, attributes in page.elements if tag == "a"] == [f"#{name}" for name in names]
    assert {"rows", "machine", "report"} <= set(made)
    assert sum(row["rows"] for row in made["rows"]) == sum(len(table) - 1 for table in page.tables["rows"])
    for name in names:
        machine = committed(name)["machine"]
        assert machine["command"] in page.texts
        assert machine["versions"]["numpy"] in page.texts
    accuracy = page.tables["rows"][names.index("accuracy-mobilenetv2")]
    assert accuracy[0][:3] == ["data", "precision", "projection"]
    assert (
        accuracy[1][accuracy[0].index("accuracy")] == f"{committed('accuracy-mobilenetv2')['rows'][0]['accuracy']:.4g}"
    )
    failed = [row for table in page.tables["rows"] for row in table if any("exit status -9" in cell for cell in row)]
    assert [row[1] for row in failed] == ["NNCF"]
    assert "exit status -9" in failed[0][2]
    for row in made["rows"]:
        assert row["figures"]
        assert all(Image.open(figure).width > 500 for figure in row["figures"])


def test_the_page_stands_alone_and_suits_phones(own):
    page = Page(own.read_text())
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all(value.startswith(("data:image/", "#")) for value in sources)
    text = own.read_text()
    assert not any(word in text for word in ("http://", "https://", "@import", "url(", "<script", "<link"))
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    assert "prefers-color-scheme: dark" in text
    assert all(attributes["alt"] for tag, attributes in page.elements if tag == "img")


def test_the_same_results_give_the_same_page(report, rich):
    first, second = (report(rich, name=f"{each}.html")[0] for each in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_stages_and_failures_are_shown_and_escaped(report, rich):
    _, page, made = report(rich)
    assert not any(tag == "script" for tag, _ in page.elements)
    assert page.text.count("<script>alert(1)</script>&amp;\"'") >= 3
    assert [figure.rpartition("/")[2] for figure in made["rows"][0]["figures"]] == [
        "rich-seconds-by-stage.png",
    ]
    assert made["rows"][0]["failed"] == 1
    assert "P9, 4 cores" in page.text


def test_a_result_without_rows_or_machine_makes_a_page_of_its_facts(report, write):
    _, page, made = report(write({"accuracy": 1.0, "confusion": np.eye(40, dtype=int).tolist()}))
    assert made["rows"][0]["figures"] == []
    assert page.tables == {}
    assert "No machine is recorded." in page.text


def test_accuracy_is_drawn_where_there_is_nothing_else_to_draw(report, write):
    rows = [{"name": name, "accuracy": 0.9, "seconds": 1.0 + index} for index, name in enumerate("abc")]
    _, _, made = report(write({"benchmark": "x", "rows": rows}))
    assert made["rows"][0]["figures"][0].endswith("r-accuracy.png")


def test_an_installed_package_asks_for_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("aurevoir.benchmarks.reporting.report.RESULTS", tmp_path / "none")
    assert main(["bench", "report", "--out", str(tmp_path / "page.html")]) == 2
    assert (
        "no result files are given, and an installed package has none of its own; name some" in capsys.readouterr().err
    )


def test_a_result_that_its_benchmark_cannot_draw_keeps_its_table(report, write):
    _, page, made = report(write({"benchmark": "engines", "rows": [{"name": "of another version"}]}))
    assert made["rows"][0]["figures"] == []
    assert "overview cannot be drawn: KeyError" in page.text
    assert page.tables["rows"] == [[["name"], ["of another version"]]]


def test_two_files_of_one_name_get_two_sections(report, write, tmp_path):
    first = write({"rows": [{"name": "a"}]})
    (tmp_path / "other").mkdir()
    shutil.copy(first, tmp_path / "other" / "r.json")
    _, page, _ = report(first, tmp_path / "other" / "r.json")
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == ["r-1", "r-2"]


def test_a_benchmark_writes_its_page_too(tmp_path, capsys):
    out, page = tmp_path / "s.json", tmp_path / "s.html"
    options = ["--rounds", "1", "--out", str(out), "--report", str(page), "--json"]
    assert main(["bench", "startup", *options]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(page)
    assert Page(page.read_text()).tables["rows"][0][1][0] == "python -c pass"


def test_a_figure_of_many_rows_says_which_it_shows(report, write):
    rows = [{"name": f"{place}", "seconds": 1.0} for place in range(50)]
    _, page, _ = report(write({"rows": rows}))
    assert "seconds, first 40 of 50 rows" in page.texts
    assert len(page.tables["rows"][0]) == 51


@pytest.mark.parametrize("result", [{}, {"rows": None, "machine": "x"}, {"rows": 5, "samples": [1]}, {"rows": [{}]}])
def test_an_odd_result_makes_a_page(report, write, result):
    _, page, _ = report(write(result))
    assert "No machine is recorded." in page.text


@pytest.mark.parametrize(("content", "code", "message"), [(None, 2, "cannot be read"), ("{", 1, "is not JSON")])
def test_files_that_are_no_results_are_refused(tmp_path, capsys, content, code, message):
    path = tmp_path / "x.json"
    if content:
        path.write_text(content)
    assert main(["bench", "report", str(path), "--out", str(tmp_path / "page.html")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """The page of the project's own results, which the command takes by default, and the command's JSON."""
    path, printed = tmp_path_factory.mktemp("own") / "page.html", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["bench", "report", "--out", str(path), "--json"]) == 0
    return path, json.loads(printed.getvalue())


@pytest.fixture
def own(own_run):
    return own_run[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_not_blank(browser, own, width, scheme):
    shown = browser.show(own, width, 2000, scheme)
    grey = np.asarray(Image.fromarray(shown.pixels).convert("L").crop((0, 0, width, 1900)))
    assert grey.std() > 10
    assert all(part.std() > 5 for part in np.array_split(grey, 4))
    assert (grey[:200].mean() > 128) == (scheme == "light")
    assert (shown.console, shown.requests) == ([], [])


@pytest.mark.parametrize("which", ["own", "rich"])
def test_the_page_does_not_scroll_sideways_on_a_phone(browser, own, report, rich, which):
    shown = browser.show(own if which == "own" else report(rich)[0], 390, 2000)
    assert shown.width == shown.viewport == 390
    assert shown.inside > 390
