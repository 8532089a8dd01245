"""Faults of the machine as one line, and the process of the command line."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aurevoir.cli import faults, process
from aurevoir.cli.faults import explain
from aurevoir.cli.main import main
from aurevoir.images import remote

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device; free some"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "/a/b: read-only file system; give"),
        (OSError(errno.ENAMETOOLONG, "File name too long", b"/a"), "/a: file name too long; give a shorter one"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "x: too many open files; raise the limit"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "raise the limit of processes (ulimit -u)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "d"), "d: is a directory; give the path of a file"),
        (OSError("libx.so: cannot open shared object file"), "libx.so: cannot open shared object file"),
        (MemoryError(), "not enough memory; give fewer or smaller images"),
        (RuntimeError("std::bad_alloc"), "not enough memory: std::bad_alloc"),
        (RuntimeError("can't start new thread"), "no more threads can be started; raise the limit of"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        ("\udcff".encode, "is in another encoding"),
        (ImportError("libx.so: failed to map segment"), "a package cannot be loaded: libx.so: failed to map segment"),
    ],
)  # fmt: skip
def test_faults_of_the_machine_are_explained(error, message):
    if callable(error):
        with pytest.raises(UnicodeError) as caught:
            error()
        error = caught.value
    assert message in explain(error)


def test_what_nobody_foresaw_is_not_explained():
    for error in (
        KeyError("x"),
        RuntimeError("x"),
        ValueError("x"),
        AssertionError(),
        AttributeError("x"),
        TypeError("x"),
    ):
        assert explain(error) is None


def test_a_native_error_names_its_library():
    import openvino

    with pytest.raises(Exception) as caught:
        openvino.Core().read_model(b"nothing", b"")
    assert explain(caught.value).startswith("openvino failed: ")


def test_limits_that_would_end_the_process_are_named(monkeypatch):
    real = resource.getrlimit
    assert faults.unfit_process() is None
    low = {resource.RLIMIT_AS: (300 << 20, -1)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: low.get(kind, real(kind)))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "100000")
    assert "NUMBA_NUM_THREADS=100000 is not between 1 and 1,024 threads" in faults.unfit_process()
    monkeypatch.setenv("NUMBA_NUM_THREADS", "many")
    assert "NUMBA_NUM_THREADS=many is not between 1 and 1,024 threads" in faults.unfit_process()
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert "NUMBA_DISABLE_JIT leaves kernels uncompiled, and they run compiled only; unset it" in faults.unfit_process()
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert "the limit of virtual memory, 300 MiB, is too low to load the runtimes" in faults.unfit_process()
    low.clear()
    low[resource.RLIMIT_NPROC] = (100, 100)
    assert faults.unfit_process() is None

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    assert "only 0 more threads can be started" in faults.unfit_process()


def _run(*words, prepare=None, **options):
    command = [sys.executable, "-m", "aurevoir", *map(str, words)]
    environment = ENVIRONMENT | options
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, preexec_fn=prepare, errors="replace"
    )


def _gone():
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda: os.close(2), 0),
        (lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 2), 0),
        (lambda: os.close(0), 0),
        (lambda: os.closerange(0, 3), 1),
        (lambda: os.closerange(1, 3), 1),
    ],
)
def test_closed_and_full_streams_lose_nothing(prepare, code, tiny_onnx):
    done = _run("cuts", tiny_onnx, prepare=prepare)
    assert done.returncode == code
    assert done.stderr == ""
    assert (done.stdout != "") == (code == 0)


def test_a_closed_stderr_is_no_file_that_is_written(tiny_onnx, tmp_path):
    done = _run("build", tiny_onnx, "--out", tmp_path / "e", prepare=lambda: os.close(2))
    assert done.returncode == 0
    assert _run("inspect", tmp_path / "e").returncode == 0


def test_a_working_directory_that_is_gone(tiny_onnx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _run("cuts", tiny_onnx, prepare=_gone).returncode == 0
    done = _run("build", tiny_onnx, "--out", "e", prepare=_gone)
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up_and_is_one_line(number, tiny_onnx, class_folder, tmp_path):
    """While `build` runs its child process: that child and its files go too."""
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "aurevoir", "build", str(tiny_onnx), "--out", str(tmp_path / "e"), "--no-cache"]
    # Much is left to do when the first child begins.
    command += ["--precision", "int8", "--calibration", str(class_folder)]
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path / "tmp")}
    # The tests may run where it is ignored, as under nohup.
    options = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL), "start_new_session": True}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options) as child:
        ends = time.monotonic() + 60
        while not list((tmp_path / "tmp").iterdir()) and time.monotonic() < ends:
            time.sleep(0.01)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    # What compiles kernels, on a machine where that has not been done, is ended too.
    lines = [line for line in err.splitlines() if not line.startswith("compiling kernels")]
    assert (child.returncode, lines) == (128 + number, [f"aurevoir build: {said}"])
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "e").exists()


def test_sighup_is_ignored_under_nohup(tiny_onnx, tmp_path):
    command = [sys.executable, "-m", "aurevoir", "build", str(tiny_onnx), "--out", str(tmp_path / "e"), "--no-cache"]
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, **ignoring) as child:
        time.sleep(1.0)
        child.send_signal(signal.SIGHUP)
        assert child.wait(60) == 0
    assert Path(tmp_path / "e").is_file()


def test_a_signal_during_an_import_waits_for_its_end(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.2)\nprint('loaded', flush=True)\n"
    )
    script = (
        "from aurevoir.cli.process import Ended, own_process\n"
        "import time\n"
        "with own_process():\n"
        "    try:\n"
        "        import slow\n"
        "        time.sleep(10)\n"
        "    except Ended as ended:\n"
        "        print('ended', int(ended.number))\n"
    )
    paths = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=ENVIRONMENT | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["loaded", "ended 15"], done.stderr


def test_a_child_that_a_library_forks_ends_when_asked():
    """A handler in Python would never run in one that waits for a lock, as OpenVINO's telemetry may."""
    script = (
        "import os, signal, time\n"
        "from aurevoir.cli.process import own_process\n"
        "ready, started = os.pipe()\n"
        "def fork():\n"
        "    if not (child := os.fork()):\n"
        "        os.write(started, b'.')\n"
        "        time.sleep(60)\n"
        "    os.read(ready, 1)\n"
        "    return child\n"
        "with own_process():\n"
        "    during = fork()\n"
        "after = fork()\n"
        "for child in (during, after):\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.split() == ["-15", "-15"], done.stderr


@pytest.mark.parametrize("words", [["bench", "threads"], ["fit", "photos"]])
def test_a_process_that_is_unfit_is_refused_before_libraries_are_loaded(words, monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr("aurevoir.cli.main.unfit_process", lambda: "no threads can be started")
    monkeypatch.setattr("aurevoir.benchmarks.registry.load", loaded.append)
    assert main(words) == 1
    assert capsys.readouterr().err == f"aurevoir {words[0]}: error: no threads can be started\n"
    assert loaded == []


def test_variables_that_numexpr_fails_with_are_named(monkeypatch):
    numexpr = pytest.importorskip("numexpr.utils")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    monkeypatch.delenv("NUMEXPR_NUM_THREADS", raising=False)
    with pytest.raises(ValueError, match="invalid literal") as caught:
        numexpr._init_num_threads()
    assert explain(caught.value).startswith("numexpr failed: invalid literal")
    assert explain(caught.value).endswith("check the variable OMP_NUM_THREADS")


def test_finalizers_of_what_an_interrupt_left_half_made_say_nothing(monkeypatch, capfd):
    class Half:
        def __del__(self):
            raise AttributeError("it has no _as_parameter_")

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(remote, "_GIVEN_UP", threading.Event())
    with pytest.raises(KeyboardInterrupt):
        process._end(signal.SIGINT, None)
    Half()
    assert capfd.readouterr().err == ""


def test_the_end_of_the_process_collects_no_cycles_but_runs_what_waits_for_it(tmp_path):
    script = (
        "import atexit, gc, tempfile\n"
        "from aurevoir.cli.process import own_process\n"
        "class Cycle: pass\n"
        "with own_process():\n"
        "    cycle = Cycle()\n"
        "    cycle.itself, cycle.folder = cycle, tempfile.TemporaryDirectory(dir='.')\n"
        "    del cycle\n"
        "    atexit.register(lambda: print('at the end', gc.get_freeze_count() > 0))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "at the end True\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_addresses_with_which_evaluate_would_abort_are_refused(monkeypatch):
    """With 1,300 MiB and projection dense a library of threads ended the process, on two processors."""
    for megabytes, fits in ((1300, False), (1536, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=megabytes << 20: (limit, -1))
        assert (faults.unfit_process() is None) is fits
