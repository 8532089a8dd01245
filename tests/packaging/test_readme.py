"""The README as the package index shows it, where a relative address leads nowhere."""

import re
import tomllib
import zipfile
from email import message_from_bytes

import pytest

IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)|<img[^>]+src=[\"']([^\"']+)")


@pytest.fixture(scope="module")
def readme(distributions):
    with zipfile.ZipFile(distributions.wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        return message_from_bytes(archive.read(name)).get_payload()


def images(text):
    return [address for match in IMAGE.findall(text) for address in match if address]


def test_the_pattern_finds_both_kinds_of_images():
    text = "![a b](docs/a.png) and [a link](b.png), [![c](c.svg)](d) <img width='9' src=\"e.png\">"
    assert images(text) == ["docs/a.png", "c.svg", "e.png"]


def test_images_are_files_of_the_repository_by_their_full_address(readme, root):
    repository = tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    start = f"{repository}/raw/main/"
    found = images(readme)
    assert found
    assert [address for address in found if not address.startswith(start)] == []
    assert [address for address in found if not (root / address.removeprefix(start)).is_file()] == []
