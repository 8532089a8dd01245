"""What the pages say of commands, options and figures is so."""

import contextlib
import importlib.util
import io
import re
import shlex

import pytest

from aurevoir.cli.main import COMMANDS, parser_for

BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TABLES = [
    *(("prediction_table", name) for name in ("probabilities", "sets", "unfamiliar")),
    *(("cuts_table", name) for name in ("cuts", "layers")),
]
NAMES = (
    "getting-started",
    "networks",
    "quantization",
    "gpu",
    "cpp",
    "embedding",
    "optics",
    "formats",
    "cluster",
    "results",
    "reliability",
    "scale",
    "security",
    "cli",
)
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in NAMES)]


def commands(text):
    """Return the calls of aurevoir in a page's blocks, as lists of words, comments left out."""
    lines = [line.removeprefix("$ ") for block in BLOCK.findall(text) for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))[:1] == ["aurevoir"]]


def mentions(text):
    """Return the calls of aurevoir in a page's sentences, which may leave out what is beside the point."""
    found = re.findall(r"`(aurevoir [^`\n]+)`", re.sub(FENCE, "", text))
    return [shlex.split(each) for each in found if not re.search(r"\b(COMMAND|NAME)\b", each)]


def named(words):
    """Return the command, and the benchmark or what else comes next."""
    return [*(word for word in words[1:] if not word.startswith("-")), None, None][:2]


def takes(words):
    """Return whether the command line takes these words."""
    try:
        parser_for(*named(words)).parse_args(words[1:])
    except SystemExit as stop:
        return stop.code == 0
    return True


def unknown(words):
    """Return the options among these words that the command does not have, or the command itself."""
    command, name = named(words)
    if command not in COMMANDS:
        return [command]
    text = own_help([command, *([name] if command == "bench" and name and name.islower() else [])])
    return [word for word in words if word.startswith("--") and word not in re.findall(r"--[\w-]+", text)]


def own_help(words):
    """Return the help text of a command, or of a benchmark."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        parser_for(*[*words, None][:2]).parse_args([*words, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(root, page, capsys):
    text = (root / page).read_text()
    assert [" ".join(words) for words in commands(text) if not takes(words)] == [], capsys.readouterr().err
    assert [" ".join(words) for words in mentions(text) if unknown(words)] == []


def test_commands_are_found_and_wrong_ones_are_not_taken(capsys):
    text = "```sh\naurevoir fit a --cut c  # d\n```\nsee `aurevoir doctor`, `aurevoir build --no-such F` and `other x`"
    assert commands(text) == [["aurevoir", "fit", "a", "--cut", "c"]]
    assert takes(commands(text)[0])
    assert not takes(["aurevoir", "fit", "photos", "--no-such-option"])
    assert [unknown(words) for words in mentions(text)] == [[], ["--no-such"]]
    assert unknown(["aurevoir", "nothing"]) == ["nothing"]


def test_the_page_of_the_commands_is_that_of_the_parsers(root):
    spec = importlib.util.spec_from_file_location("commands", root / "tools" / "commands.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (root / "docs" / "cli.md").read_text()
    assert tool.filled(page) == page, "run `make commands`"
    for command in COMMANDS:
        section = re.search(rf"^## {command}\n(.*?)(?=^## |^<!-- )", page, re.MULTILINE | re.DOTALL)[1]
        options = set(re.findall(r"^  (--[\w-]+)|(?<=, )(--[\w-]+)", own_help([command]), re.MULTILINE))
        assert [each for pair in options for each in pair if each and f"`{each}" not in section] == ["--help"]


def test_the_readme_is_short_and_has_its_commands(root):
    text = (root / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in text.splitlines()}


def test_the_table_of_bits_and_probes_is_that_of_its_file(root):
    path = root / "docs" / "figures" / "overview.py"
    spec = importlib.util.spec_from_file_location("overview", path)
    overview = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overview)
    text = (root / "docs" / "results.md").read_text()
    shown = re.search(r"<!-- bits and probes -->\n(.*?)\n<!-- /bits and probes -->", text, re.DOTALL)[1]
    assert shown.splitlines() == overview.table()


@pytest.mark.parametrize(("script", "name"), TABLES)
def test_the_tables_of_results_are_those_of_their_files(root, script, name, monkeypatch):
    monkeypatch.syspath_prepend(root / "docs" / "figures")
    made = getattr(importlib.import_module(script), name)()
    text = (root / "docs" / "results.md").read_text()
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text, re.DOTALL)[1]
    assert shown.splitlines() == made, f"run `python docs/figures/{script}.py`"


def test_the_table_of_reviews_is_that_of_its_file(root):
    spec = importlib.util.spec_from_file_location("review_table", root / "docs" / "figures" / "review_table.py")
    review = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(review)
    text = (root / "docs" / "results.md").read_text()
    shown = text.partition(review.START)[2].partition(f"\n{review.END}")[0]
    assert shown.splitlines() == review.table(), "run `python docs/figures/review_table.py`"


def test_the_walk_of_an_image_opens_ten_files_and_never_climbs_a_floor(root):
    page = (root / "docs" / "architecture.md").read_text()
    layers = {name: int(row[0]) for row in re.findall(r"^\| (\d) \| `(\w+)`", page, re.MULTILINE) for name in [row[1]]}
    walk = re.findall(r"^\d+\. \*\*`([\w/.]+)`\*\*, `(?:\w+\.)?(\w+)`", page, re.MULTILINE)
    assert len(walk) == 10
    for path, function in walk:
        assert re.search(rf"^ *def {function}\(", (root / path).read_text(), re.MULTILINE), (path, function)
    heights = [layers[path.split("/")[0]] for path, _ in walk]
    assert heights == sorted(heights, reverse=True)
