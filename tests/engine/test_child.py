"""Functions run in a child process, whose crash, hang or failure is an error."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aurevoir import build_engine
from aurevoir.engine import child as children
from aurevoir.engine.child import in_child, lasting_child
from aurevoir.engine.smoke import first_inference
from aurevoir.errors import AurevoirError

pytestmark = pytest.mark.usefixtures("own_children")

TASKS = r"""
import os, signal, sys, time
from aurevoir.errors import AurevoirError

def note(path):
    print("to stdout, as libraries do", flush=True)
    os.write(1, b"and past Python\n")
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")

def refuse(text):
    raise AurevoirError(text)

def fail(text):
    raise ValueError(text)

def leave(text):
    sys.exit(text)

def leave_with(code):
    sys.stderr.write("a traceback\n  and its end")
    os._exit(int(code))

def crash(name):
    os.kill(os.getpid(), getattr(signal, name))

def sleep(path):
    note(path)
    time.sleep(120)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_a_child.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("tasks_of_a_child")
    del sys.modules["tasks_of_a_child"]


def ended(pid):
    """Return whether a process has ended, waiting a little for it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_a_block_inside_another_takes_its_process(tasks, tmp_path):
    pids = tmp_path / "pids"
    with lasting_child():
        with lasting_child():
            in_child("inner", tasks.note, str(pids), timeout=60)
        in_child("outer", tasks.note, str(pids), timeout=60)
    assert len(set(pids.read_text().split())) == 1
    assert len(pids.read_text().split()) == 2


def test_one_process_takes_all_calls_of_a_block_and_ends_with_it(tasks, tmp_path):
    noted = tmp_path / "noted"
    with lasting_child():
        for _ in range(3):
            in_child("it", tasks.note, str(noted), timeout=60)
    in_child("it", tasks.note, str(noted), timeout=60)
    pids = noted.read_text().split()
    assert len(pids) == 4
    assert len(set(pids)) == 2
    assert str(os.getpid()) not in pids
    assert all(ended(pid) for pid in pids)


@pytest.mark.parametrize(
    ("task", "argument", "message"),
    [
        ("refuse", "no: this", "it fails in its first inference: no: this"),
        ("fail", "no kernel", "it fails in its first inference: ValueError: no kernel"),
        ("leave", "far apart", "it fails in its first inference: far apart"),
        ("leave_with", "7", "it fails in its first inference: and its end"),
        ("crash", "SIGSEGV", r"it crashes in its first inference \(SIGSEGV\); use another runtime or precision"),
        ("sleep", "noted", "it: no first inference within 2 s; use another runtime"),
    ],
)
def test_what_goes_wrong_is_an_error_and_the_next_call_runs(tasks, tmp_path, monkeypatch, task, argument, message):
    monkeypatch.chdir(tmp_path)
    with lasting_child():
        in_child("it", tasks.note, "before", timeout=60)
        with pytest.raises(AurevoirError, match=f"^{message}$"):
            in_child("it", getattr(tasks, task), argument, timeout=2)
        in_child("it", tasks.note, "after", timeout=60)
    assert (tmp_path / "after").exists()


def test_nothing_outlives_the_parent(tasks, tmp_path):
    noted = tmp_path / "noted"
    program = (
        "import tasks_of_a_child as t\nfrom aurevoir.engine.child import in_child\n"
        f"in_child('it', t.sleep, {str(noted)!r}, timeout=300)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    while not (noted.exists() and noted.read_text().endswith("\n")):
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert ended(noted.read_text().strip())


def test_a_build_of_int8_runs_all_its_first_times_in_one_process(tiny_onnx, pixels, monkeypatch):
    started = []

    class Counted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(children.subprocess, "Popen", Counted)
    build_engine(tiny_onnx, precision="int8", runtime="openvino", calibration=pixels)
    assert len(started) == 1
    assert started[0].poll() is not None


def test_a_program_that_embeds_python_uses_its_interpreter(tiny_onnx, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/program/viewer")
    assert os.access(children.python(), os.X_OK)
    first_inference(build_engine(tiny_onnx, smoke=False))


def test_a_process_that_was_started_early_takes_the_calls_that_follow(tasks, tmp_path):
    with lasting_child():
        children.start_early(tasks.note, str(tmp_path / "early"))
        children.start_early(tasks.note, str(tmp_path / "never"))
        in_child("x", tasks.note, str(tmp_path / "called"), timeout=60)
    # Outside, there is none to start.
    children.start_early(tasks.note, str(tmp_path / "never"))
    assert (tmp_path / "early").read_text() == (tmp_path / "called").read_text()
    assert not (tmp_path / "never").exists()


def test_what_an_early_start_refuses_is_left_to_the_calls(tasks, tmp_path):
    with lasting_child():
        children.start_early(tasks.refuse, "no")
        in_child("x", tasks.note, str(tmp_path / "called"), timeout=60)
        with pytest.raises(AurevoirError, match=r"x fails in its first inference: no"):
            in_child("x", tasks.refuse, "no", timeout=60)
    with lasting_child():
        children.start_early(tasks.crash, "SIGSEGV")
        with pytest.raises(AurevoirError, match=r"x crashes in its first inference \(SIGSEGV\)"):
            in_child("x", tasks.note, str(tmp_path / "called"), timeout=60)
        in_child("x", tasks.note, str(tmp_path / "called"), timeout=60)
