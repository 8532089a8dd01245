"""Child processes end with their parent, also if that is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from aurevoir.children import run_child

CHILD = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
while True:
    {busy}
"""
BUSY = ("time.sleep(60)", "pass", "sum(range(10**8))")


def _wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _runs(pid):
    with suppress(FileNotFoundError, ProcessLookupError):
        # One that nobody has waited for yet has ended too.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _ends_with(parent, folder):
    written = folder / "pid"
    assert _wait_for(lambda: written.exists() and written.read_text())
    child = int(written.read_text())
    assert _runs(child)
    os.kill(parent, signal.SIGKILL)
    return _wait_for(lambda: not _runs(child))


@pytest.mark.parametrize("busy", BUSY)
def test_a_child_ends_when_its_parent_is_killed(busy, tmp_path):
    (tmp_path / "endless.py").write_text(CHILD.format(busy=busy))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom aurevoir.children import run_child\n"
    code += f"run_child('endless', [{str(tmp_path / 'pid')!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        assert _ends_with(parent.pid, tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_a_worker_process_ends_with_it(method, tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text(CHILD.format(busy=BUSY[0]))
    monkeypatch.syspath_prepend(tmp_path)
    # A spawned process imports what it runs: this module is no part of its path.
    parent = multiprocessing.get_context(method).Process(target=run_child, args=("endless", [str(tmp_path / "pid")]))
    parent.start()
    assert _ends_with(parent.pid, tmp_path)
    parent.join()


def test_without_the_system_s_signal_the_pipe_ends_the_child(tmp_path):
    (tmp_path / "endless.py").write_text(CHILD.format(busy=BUSY[0]))
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.platform = 'other'")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom aurevoir.children import run_child\n"
    code += f"run_child('endless', [{str(tmp_path / 'pid')!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        assert _ends_with(parent.pid, tmp_path)


def test_a_child_whose_parent_is_another_process_ends_at_once():
    command = [sys.executable, "-m", "aurevoir.children", "1", "this"]
    assert subprocess.run(command, stdin=subprocess.PIPE, check=False, timeout=20).returncode == 1


def test_a_child_has_its_arguments_variables_and_exit_code(tmp_path, monkeypatch):
    (tmp_path / "ending.py").write_text(
        "import os, sys\nprint(__name__, sys.argv[1:], os.environ['A'])\nsys.exit('the reason')"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    done = run_child("ending", ["1", "b"], {**os.environ, "A": "x"})
    assert (done.returncode, done.stdout, done.stderr) == (1, "__main__ ['1', 'b'] x\n", "the reason\n")


def test_no_file_of_the_working_directory_is_run(tmp_path, monkeypatch):
    for name in ("ctypes", "threading", "numpy", "aurevoir"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hostile')\n")
    monkeypatch.chdir(tmp_path)
    for path in (sys.path, ["", *sys.path]):
        monkeypatch.setattr(sys, "path", path)
        done = run_child("json.tool", ["--help"])
        assert (done.returncode, "hostile" in done.stderr) == (0, False), done.stderr
