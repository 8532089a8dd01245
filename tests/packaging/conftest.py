"""The distributions, built once from a clean copy of the checkout, and the wheel installed in a folder of its own."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest


class Distributions(NamedTuple):
    """What is published, and the files that it was made of."""

    sources: set[str]
    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distributions(root, tmp_path_factory):
    pytest.importorskip("build")
    clean, out = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("dist")
    sources = _sources(root)
    for name in sources:
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, clean / name)
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), cwd=clean)
    return Distributions(sources, next(out.glob("*.tar.gz")), next(out.glob("*.whl")))


@pytest.fixture(scope="session")
def installed(distributions, tmp_path_factory):
    """The folder that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder),
        str(distributions.wheel), cwd=folder,
    )  # fmt: skip
    return folder


def _sources(root):
    """Return the files of the checkout that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.decode().split("\0") if name and (root / name).is_file()}


def _run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
