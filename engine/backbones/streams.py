"""The output streams of the process, which one thread at a time redirects.

They are of the whole process: what one thread put back would be what another had put there.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A thread that held it is not in the child.
    os.register_at_fork(after_in_child=_LOCK._at_fork_reinit)  # type: ignore[attr-defined]


@contextmanager
def redirected(out: TextIO | None = None, err: TextIO | None = None) -> Iterator[None]:
    """Send what is written to stdout to `out`, by default stderr, and what is written to stderr to `err`, if given."""
    with _LOCK, redirect_stdout(out or sys.stderr), redirect_stderr(err or sys.stderr):
        yield
