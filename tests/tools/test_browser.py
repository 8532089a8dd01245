"""tools/browser.sh, which `make test` runs: it finds a browser, installs one or says that it cannot; never fails."""

import subprocess

import pytest


@pytest.fixture
def find(root, tmp_path):
    """Run the script where only some programs are, each given as what it does; return its exit code and output."""

    def run(**programs):
        for name, does in programs.items():
            path = tmp_path / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{does}\n")
            path.chmod(0o755)
        given = {"args": ["/bin/sh", root / "tools" / "browser.sh"], "env": {"PATH": str(tmp_path)}}
        done = subprocess.run(**given, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout

    return run


def test_a_browser_that_is_there_is_enough(find):
    assert find(google_chrome="exit 1", id="echo 0", apt_get="exit 1") == (0, "")


def test_root_installs_debians(find, tmp_path):
    code, out = find(id="echo 0", apt_get=f'echo "$@" >> {tmp_path}/log')
    assert (code, out) == (0, "browser: installing chromium-headless-shell, for the tests of pages\n")
    update, install = (tmp_path / "log").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install -y --no-install-recommends chromium-headless-shell")


@pytest.mark.parametrize(
    "programs", [{}, {"id": "echo 1000", "apt_get": "exit 0"}, {"id": "echo 0", "apt_get": "exit 100"}]
)
def test_where_none_can_be_had_it_says_so_and_does_not_fail(find, programs):
    code, out = find(**programs)
    assert code == 0
    assert "none is here, and none can be installed; the tests that show pages are skipped" in out
