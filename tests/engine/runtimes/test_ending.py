"""A daemon thread that computes where the interpreter ends neither changes the exit code nor writes a core."""

import os
import subprocess
import sys

SCRIPT = """
import atexit, sys, threading, time

inside, began = [], threading.Event()
# What is registered first runs last.
atexit.register(lambda: print(len(inside), threads[0].is_alive(), flush=True))

from aurevoir.engine import runtimes

class Slow:
    KEEPS = False
    def compile(graph, precision, device, settings):
        def run(images):
            inside.append(1)
            began.set()
            time.sleep(0.2)
            inside.pop()
        return run

runtimes.graph_runtime = lambda name: Slow
run = runtimes.compile_graph("openvino", b"", "fp32")

def work():
    while True:
        run(None)

threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
began.wait()
sys.exit(5)
"""


def test_the_end_waits_for_native_calls_of_daemon_threads_and_lets_them_begin_no_more():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("0 True\n", "", 5)
