"""Links inside the repository lead to files and headings that are there; external ones are not fetched."""

import re
import subprocess
import tomllib

import pytest

LINK = re.compile(r"\]\(\s*<?([^\s)>]+)|<(?:img|a)\s[^>]*(?:src|href)=[\"']([^\"']+)")
FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def pages(root):
    """Return every Markdown file that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.split()
    found = listed or [str(path.relative_to(root)) for path in [*root.glob("*.md"), *root.glob("docs/*.md")]]
    return [root / name for name in found if (root / name).is_file()]


def links(text):
    """Return the addresses of a page's links and images; what is code is none."""
    prose = re.sub(r"`[^`\n]*`", "``", FENCE.sub("", text))
    return [address for match in LINK.findall(prose) for address in match if address]


def anchors(text):
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", title) for title in HEADING.findall(FENCE.sub("", text))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page, root, own=None):
    """Return the links of a page that lead nowhere; `own` is the address under which the repository is published."""
    found = []
    for address in links(page.read_text()):
        path, _, anchor = address.partition("#")
        if own and path.startswith(own):
            target = root / path.removeprefix(own)
        elif re.match(r"[a-z]+:", address):
            continue
        else:
            target = page.parent / path if path else page
        if not target.resolve().is_relative_to(root) or not target.exists():
            found.append(f"{address}: no such file")
        elif anchor and not (target.suffix == ".md" and anchor in anchors(target.read_text())):
            found.append(f"{address}: no such heading")
    return found


@pytest.fixture(scope="module")
def published(root):
    urls = tomllib.loads((root / "pyproject.toml").read_text())["project"].get("urls", {})
    return f"{urls.get('Repository', 'https://github.com/aurevoir/aurevoir')}/raw/main/"


def test_every_link_inside_the_repository_leads_somewhere(root, published):
    found = pages(root)
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {path.name for path in found}
    wrong = {str(path.relative_to(root)): bad for path in found if (bad := broken(path, root.resolve(), published))}
    assert not wrong


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A heading, `coded`!\n\n```sh\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-coded) [c](#top) [d](https://example.org/x.md) ![e](none.png)\n"
        "[f](other.md#no-heading) [![g](no.svg)](other.md) `[h](code.md)` [i](../outside.md)\n"
        "<img width='9' src=\"j.png\"> [k](https://own/raw/main/other.md) ![l](https://own/raw/main/l.png)\n"
        "```sh\n[m](fenced.md)\n```\n# Top\n"
    )
    nowhere = [each.rpartition(":")[0] for each in broken(page, tmp_path, "https://own/raw/main/")]
    assert nowhere == [
        "none.png", "other.md#no-heading", "no.svg", "../outside.md", "j.png", "https://own/raw/main/l.png",
    ]  # fmt: skip


def test_no_page_names_a_path_of_a_machine(root):
    private = re.compile(r"(?<![\w.])/(?:home|work|tmp|root|Users)/")
    assert [str(path) for path in pages(root) if private.search(path.read_text())] == []
    assert private.search("see /home/me/x")
