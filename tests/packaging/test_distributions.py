"""What the source distribution and the wheel contain, and what they say of themselves."""

import tarfile
import tomllib
import zipfile
from email import message_from_bytes

import pytest

# What only the repository needs.
NOT_IN_THE_WHEEL = ("benchmarks/results/", "docs/", "examples/", "requirements/", "tests/", "tools/")
MADE_BY_SETUPTOOLS = {"PKG-INFO", "setup.cfg"}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def in_wheel(distributions):
    with zipfile.ZipFile(distributions.wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def metadata(in_wheel):
    return message_from_bytes(next(data for name, data in in_wheel.items() if name.endswith("/METADATA")))


def test_the_source_distribution_holds_the_checkout_whole(distributions):
    with tarfile.open(distributions.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {
        name for name in names if not name.startswith("aurevoir.egg-info/")
    } - MADE_BY_SETUPTOOLS == distributions.sources
    assert {"Makefile", "requirements/dev.txt", "tests/conftest.py", ".ci/run"} <= names


def test_the_wheel_holds_the_modules_and_nothing_else(distributions, in_wheel):
    modules = {
        f"aurevoir/{name}"
        for name in distributions.sources
        if name.endswith(".py") and not name.startswith(NOT_IN_THE_WHEEL)
    }
    found = {name for name in in_wheel if ".dist-info/" not in name}
    assert found == {*modules, "aurevoir/py.typed"}
    assert {name.partition(".dist-info/")[2] for name in in_wheel} - {""} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt",
    }  # fmt: skip


def test_every_package_is_in_the_wheel(project, in_wheel):
    packages = {
        name.removesuffix("/__init__.py").replace("/", ".") for name in in_wheel if name.endswith("/__init__.py")
    }
    assert packages == set(project["tool"]["setuptools"]["packages"])


def test_the_wheel_runs_wherever_python_does(in_wheel):
    wheel = message_from_bytes(next(data for name, data in in_wheel.items() if name.endswith("/WHEEL")))
    assert (wheel["Tag"], wheel["Root-Is-Purelib"]) == ("py3-none-any", "true")


def test_the_metadata_is_complete(project, metadata):
    import aurevoir

    told = project["project"]
    assert (metadata["Name"], metadata["Version"], metadata["Summary"]) == (
        "aurevoir", aurevoir.__version__, told["description"],
    )  # fmt: skip
    assert metadata["Author"] == "aurevoir developers"
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == told["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Keywords"].split(",") == told["keywords"]
    assert metadata.get_all("Classifier") == told["classifiers"]
    assert metadata.get_all("Project-URL") == [f"Repository, {told['urls']['Repository']}"]
    assert set(metadata.get_all("Provides-Extra")) == set(told["optional-dependencies"])
    assert [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text] == told["dependencies"]


def test_each_python_that_the_classifiers_name_is_tested(root, project):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())
    named = [text.rpartition(" ")[2] for text in project["project"]["classifiers"] if "Python :: 3." in text]
    assert workflow["jobs"]["checks"]["strategy"]["matrix"]["python"] == named
