"""Float32 arithmetic without TF32, and torch's settings left as they were."""

import inspect
import subprocess
import sys
import threading

import pytest

torch = pytest.importorskip("torch")

from aurevoir.engine.runtimes.torch_run import exact_float32  # noqa: E402


def settings():
    """What torch says of its precisions, by both kinds of names; None where it refuses."""
    cudnn, found = torch.backends.cudnn, []
    for read in (lambda: cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return [cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision, *found]


SETTINGS = {
    "nothing": "",
    "allowed": "B.cudnn.allow_tf32 = B.cuda.matmul.allow_tf32 = True",
    "matmul": 'B.cuda.matmul.fp32_precision = "tf32"',
    "everything": 'B.fp32_precision = "tf32"',
    "cudnn": 'B.cudnn.fp32_precision = "tf32"',
    "convolutions": 'B.cudnn.conv.fp32_precision = "ieee"',
    "medium": 'torch.set_float32_matmul_precision("medium")',
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_the_process_is_left_as_it_was(name):
    """In a process of its own: torch does not take all of them back."""
    code = f"""
import torch
from aurevoir.engine.runtimes.torch_run import exact_float32
{inspect.getsource(settings)}
B = torch.backends
{SETTINGS[name]}
before = settings()
with exact_float32():
    assert settings() == ["ieee", "ieee", False, "highest"], settings()
    with exact_float32():
        pass
    assert settings() == ["ieee", "ieee", False, "highest"], settings()
assert settings() == before, (settings(), before)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_thread_that_leaves_takes_nothing_from_one_that_stays():
    inside, leave, seen = threading.Event(), threading.Event(), []

    def stay():
        with exact_float32():
            inside.set()
            leave.wait(60)
            seen.append(settings()[0])

    before = settings()
    thread = threading.Thread(target=stay)
    with exact_float32():
        thread.start()
        inside.wait(60)
    leave.set()
    thread.join()
    assert seen == ["ieee"]
    assert settings() == before
