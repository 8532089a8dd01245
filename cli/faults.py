"""What the machine does to a command, as one line: the disk, memory, limits, and native libraries that fail."""

import errno
import os
import resource
import threading
from pathlib import Path

_THREADS = 8
"""Threads that the native libraries of one command start at least: some end the process where they get none."""
_MOST_THREADS = 1024
_ADDRESSES = 3 << 29
"""Bytes of addresses below which native libraries cannot be loaded: some end the process where they get none."""
_LIBRARIES = (
    "openvino",
    "onnxruntime",
    "torch",
    "triton",
    "onnx",
    "numba",
    "llvmlite",
    "tensorrt",
    "cupy",
    "scipy",
    "numexpr",
)
_OF_VARIABLES = {"numba": "check the variables NUMBA_*", "numexpr": "check the variable OMP_NUM_THREADS"}
"""How to mend what these libraries fail with: they read variables."""
_FRAMED = ("Exception from ", "Check '", "[ONNXRuntimeError]")
_NO_MEMORY = ("bad_alloc", "bad allocation", "out of memory", "failed to allocate", "cannot allocate memory")
_REMEDIES = {
    errno.ENOSPC: "free some",
    errno.EDQUOT: "free some",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or close other programs",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path on another disk",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.EISDIR: "give the path of a file",
    errno.ENOTDIR: "give another path",
    errno.ENOENT: "check the path",
    errno.EEXIST: "give another path",
    errno.ELOOP: "remove the link that leads to itself",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network's disk",
    errno.EBUSY: "give another path",
    errno.EINVAL: "give another path",
}


def explain(error: BaseException) -> str | None:
    """Return what went wrong and how to mend it, on one line; None for what nobody foresaw."""
    text = str(error).strip().partition("\n")[0][:300]
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _NO_MEMORY):
        return f"not enough memory{f': {text}' if text else ''}; give fewer or smaller images"
    if isinstance(error, OSError):
        return _of_system(error, text)
    for kind, explanation in (
        (RecursionError, "an input is nested too deeply to be read; give one that this program wrote"),
        (UnicodeError, f"a name or text is in another encoding ({text}); rename it, or set a UTF-8 locale"),
        (ImportError, f"a package cannot be loaded: {text}; install it again, or raise the limits of memory and files"),
    ):
        if isinstance(error, kind):
            return explanation
    if "can't start new thread" in text:
        return "no more threads can be started; raise the limit of processes (ulimit -u), or close other programs"
    library = _library_of(error)
    remedy = _OF_VARIABLES.get(library or "", "try another runtime or precision")
    return library and f"{library} failed: {_said(error, text).rstrip('.') or type(error).__name__}; {remedy}"


def _said(error: BaseException, first: str) -> str:
    """Return what an error says, without the places in their sources that OpenVINO and ONNX Runtime begin with."""
    if not first.startswith(_FRAMED):
        return first
    from ..engine.runtimes.native_errors import reason

    return reason(error)


def _of_system(error: OSError, text: str) -> str:
    said = (error.strerror or text or type(error).__name__).lower()
    if error.errno == errno.ENOMEM:
        return f"not enough memory: {said}; give fewer or smaller images"
    if "temporary directory" in said:
        return f"{said}; set TMPDIR to a folder that can be written"
    if error.errno == errno.ENOENT and not _here():
        return "the working directory does not exist any more; change to another"
    remedy = _REMEDIES.get(error.errno or 0, "check the disk and the machine's limits")
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    return f"{where}{said}; {remedy}"


def _here() -> bool:
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def _library_of(error: BaseException) -> str | None:
    """Return the native library that raised an error: of its own type, or one without any from inside it."""
    own = type(error).__module__.partition(".")[0]
    if own in _LIBRARIES:
        return own
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or type(error) not in (RuntimeError, ValueError):
        return None
    parts = Path(trace.tb_frame.f_code.co_filename).parts
    return next((each for each in _LIBRARIES if each in parts), None)


def unfit_process() -> str | None:
    """Return which limit or variable of this process would make native libraries end it, or None."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").strip()
        # OpenMP takes lists too.
        wrong = not 1 <= int(value) <= _MOST_THREADS if value.isdecimal() else value and name.startswith("NUMBA")
        if wrong:
            return f"{name}={value} is not between 1 and {_MOST_THREADS:,d} threads; set it to the number of processors"
    if os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0"):
        return "NUMBA_DISABLE_JIT leaves kernels uncompiled, and they run compiled only; unset it"
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= addresses < _ADDRESSES:
        return (
            f"the limit of virtual memory, {addresses / 2**20:,.0f} MiB, is too low to load the runtimes; raise it to "
            f"{_ADDRESSES / 2**20:,.0f} MiB or more (ulimit -v)"
        )
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    started = _THREADS if processes == resource.RLIM_INFINITY else _threads(_THREADS)
    if started < _THREADS:
        return (
            f"only {started} more threads can be started, and the runtimes need {_THREADS} or more; raise the limit of "
            "processes (ulimit -u), or close other programs"
        )
    return None


def _threads(wanted: int) -> int:
    """Return how many of the wanted threads can run at once."""
    done = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass
    finally:
        done.set()
    for thread in threads:
        thread.join()
    return len(threads)
