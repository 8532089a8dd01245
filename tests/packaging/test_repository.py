"""The checks that run elsewhere are those that run here."""

import os
import re

import pytest

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def hooks(root):
    (repository,) = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    return {hook["id"]: hook for hook in repository["hooks"]}


def test_the_workflow_calls_the_checks_that_run_here(root):
    job = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["checks"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert os.access(root / commands[0], os.X_OK)


def test_actions_are_pinned_to_a_major_version(root):
    uses = re.findall(r"uses: (\S+)", (root / ".github" / "workflows" / "ci.yml").read_text())
    assert uses
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in uses)


def test_hooks_need_no_network_and_run_the_locked_ruff(hooks):
    assert {hook["language"] for hook in hooks.values()} <= {"system", "pygrep", "fail"}
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["entry"].startswith(".venv/bin/ruff ")


def test_the_tracked_files_pass_the_patterns_of_the_hooks(hooks, distributions, root):
    forbidden = re.compile(hooks["no-weights"]["files"])
    assert [name for name in distributions.sources if forbidden.search(name)] == []
    assert forbidden.search("photos.engine")
    unended = re.compile(hooks["end-of-file"]["entry"].encode())
    texts = [name for name in distributions.sources if not name.endswith(".png")]
    assert [name for name in texts if unended.search((root / name).read_bytes())] == []
    assert unended.search(b"x = 1")
