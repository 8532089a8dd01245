"""What the parent of a fork used is refused in its child, in one line, where it would hang or end it."""

import os
import subprocess
import sys

import pytest

from aurevoir.errors import AurevoirError
from aurevoir.kernels import forked

SCRIPT = """
import os, sys
import numpy as np
from aurevoir import load_engine
from aurevoir.errors import AurevoirError
from aurevoir.kernels.backends import get_backend
from aurevoir.kernels.backends.numba import threads

engine, images = load_engine(sys.argv[1]), np.zeros((8, 28, 28, 3), "uint8")
bits = np.zeros((300, 25), "uint8")
threads.most_threads = lambda: 2
uses = {"engine": lambda: engine.bits(images), "kernel": lambda: get_backend("numba").shared_ones(bits)}
for use in sys.argv[2].split():
    uses[use]()
if os.fork() == 0:
    try:
        uses[sys.argv[3]]()
    except AurevoirError as error:
        print(error)
        os._exit(0)
    print("done", flush=True)
    os._exit(0)
os.wait()
"""


def test_a_process_notes_what_it_uses(monkeypatch):
    monkeypatch.setattr(forked, "_USED_IN", {})
    forked.check_process("x")
    forked.check_process("x")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    forked.check_process("y")
    with pytest.raises(AurevoirError, match=r'used x, whose threads .*get_context\("spawn"\)'):
        forked.check_process("x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("parent", "child", "said"),
    [
        ("", "engine", "done"),
        ("kernel", "engine", "done"),
        ("engine", "engine", "used openvino"),
        ("", "kernel", "done"),
        ("kernel", "kernel", "done"),
    ],
)
def test_a_child_works_or_says_why_not(parent, child, said, tiny_onnx, tmp_path):
    from aurevoir import build_engine

    build_engine(tiny_onnx, runtime="openvino", smoke=False, out=tmp_path / "e")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "e"), parent, child]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert said in done.stdout, done.stderr


WHILE_LOADING = """
import os, threading, time
import numpy as np
from aurevoir.kernels.backends.numba import compiled, products

lock, held = compiled.global_compiler_lock, threading.Event()

def compile_for_a_while():
    with lock:
        held.set()
        time.sleep(0.5)

threading.Thread(target=compile_for_a_while).start()
held.wait()
if os.fork() == 0:
    products.shared_ones(np.zeros((300, 25), "uint8"))
    print("done", flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_is_forked_while_a_thread_compiles_compiles_too():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WHILE_LOADING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.stdout == "done\n", done.stderr
