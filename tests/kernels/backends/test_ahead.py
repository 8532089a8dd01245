"""Kernels compiled ahead: all that a fit needs, once, waited for, and never in the way."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aurevoir import cache as caching
from aurevoir.cli.main import main
from aurevoir.images.procedural import write_class_folders
from aurevoir.kernels.backends.numba import ahead, compiled, warm

FIT = """
import sys, numpy as np
from aurevoir import OpticalClassifier
from aurevoir.kernels.backends.numba import ahead
from aurevoir.kernels.backends.numba.compiled import _Cache
saved = []
save = _Cache.save_overload
_Cache.save_overload = lambda self, sig, data: (saved.append(self._py_func.__name__), save(self, sig, data))
photos, network = sys.argv[1:]
options = {"precision": "int8", "runtime": "openvino", "smoke": False, "projection": "exact", "verbose": True}
OpticalClassifier(network, **options).fit(photos)
print("compiled here:", *saved)
"""


def _environment(cache, **options):
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    return kept | {"AUREVOIR_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | options


def test_a_first_fit_compiles_in_another_process_and_a_second_nothing(tiny_onnx, tmp_path):
    write_class_folders(tmp_path / "photos", 6, 32, 0)
    command = [sys.executable, "-c", FIT, str(tmp_path / "photos"), str(tiny_onnx)]
    for line in ("compiling kernels for this processor, the first time: magnitudes, products\n", ""):
        done = subprocess.run(
            command, env=_environment(tmp_path / "cache"), capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "compiled here:"
        assert "".join(each for each in done.stderr.splitlines(True) if "compiling" in each) == line
    kinds = [each for each in caching.contents(tmp_path / "cache") if each.kind == "numba"]
    assert sum(each.path.suffix == ".nbc" for each in kinds) == 3
    assert sorted(each.path.name.partition("-")[0] for each in kinds if each.path.suffix == ".ready") == [
        "magnitudes",
        "products",
    ]


@pytest.fixture
def started(monkeypatch, cache):
    """The children that are started; they sleep."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(ahead, "_RUNNING", {})
    children = []

    def start(module, arguments):
        children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        children[-1].wanted = (module, arguments)
        return children[-1]

    monkeypatch.setattr(ahead, "start_child", start)
    yield children
    for each in children:
        each.kill()
        each.wait()


def test_only_what_is_missing_is_compiled_by_one_process_at_a_time(started, monkeypatch, cache):
    ahead.mark_compiled("magnitudes")
    ahead.compile_ahead(["magnitudes"])
    assert not started
    ahead.compile_ahead(["magnitudes", "products"])
    ahead.compile_ahead(["dense"])
    assert [each.wanted[1] for each in started] == [["products"]]
    package = ahead.__package__
    assert ahead.is_compiling(f"{package}.products")
    assert not ahead.is_compiling(f"{package}.magnitudes")
    assert not ahead.is_compiling("products")
    if not os.fork():
        # In a forked process nothing is waited for.
        os._exit(int(ahead.is_compiling(f"{package}.products")))
    assert os.wait()[1] == 0
    started[0].kill()
    started[0].wait()
    assert not ahead.is_compiling(f"{package}.products")
    # Other instructions, other machine code.
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    ahead.compile_ahead(["magnitudes"])
    assert len(started) == 2
    started[1].kill()
    started[1].wait()
    cache.chmod(0o777)
    ahead.compile_ahead(["dense"])
    (cache.parent / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache.parent / "file"))
    ahead.compile_ahead(["dense"])
    assert len(started) == 2


def _twice(value):
    return 2 * value


def test_kernels_that_could_not_be_kept_are_not_marked(monkeypatch, cache):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(compiled._Cache, "lost", False)
    monkeypatch.setitem(warm._CALLS, "products", lambda: compiled.compiled()(_twice)(2))
    warm.warm(["products"])
    assert ahead.is_compiled("products")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiled._FunctionCache, "save_overload", full)
    monkeypatch.setitem(warm._CALLS, "dense", lambda: compiled.compiled()(_twice)(2.5))
    warm.warm(["dense"])
    assert not ahead.is_compiled("dense")


def test_a_child_that_compiles_ends_with_its_parent(tmp_path):
    script = (
        "import sys, time\nfrom aurevoir.kernels.backends.numba import ahead\n"
        "ahead.compile_ahead(['products', 'dense'])\nprint(ahead._RUNNING['dense'].pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], env=_environment(tmp_path / "cache"), stdout=subprocess.PIPE
    ) as parent:
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(500):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX":
            break
        time.sleep(0.02)
    else:
        pytest.fail("the child lives on")


def test_every_kernel_can_be_compiled_by_its_name(capsys):
    assert main(["cache", "warm"]) == 0
    assert set(warm._CALLS) == {"magnitudes", "products", "hadamard", "dense"}
    assert capsys.readouterr().err == ""
