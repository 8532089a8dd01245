"""The errors of native libraries, each as one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import AurevoirError
from .base import GRAPH_RUNTIMES

_LONGEST = 400
_MEANINGS = {
    "bad combination": (
        "OpenVINO's own machine code fails where there is no AVX, or ONEDNN_MAX_CPU_ISA or DNNL_MAX_CPU_ISA leaves it "
        "out"
    )
}
"""What says nothing to those who did not write it."""

# What OpenVINO and ONNX Runtime say around the reason: where in their sources, and in which layers of them.
_FRAMES = re.compile(
    r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:|Caught exception|Summary:|"
    r"Model wasn't fully converted\.( Failed operations detailed log:)?|To facilitate the .*|with a message:|"
    r"While validating node '.*' with friendly_name '.*?'|Conversion is failed for: .*|"
    r"\[ONNXRuntimeError\] : \d+ : \w+ :|\S*onnxruntime_src\S+:\d+ .*? was false\.|Non-zero status code returned while"
)


@contextmanager
def native_errors(runtime: str, doing: str) -> Iterator[None]:
    """Turn an error of a runtime's library into an AurevoirError that names the runtime and what it refuses."""
    try:
        yield
    except (AurevoirError, MemoryError):
        raise
    except Exception as error:  # the libraries' errors have no common base class
        others = " or ".join(repr(other) for other in GRAPH_RUNTIMES if other not in (runtime, "triton"))
        raise AurevoirError(
            f"runtime {runtime!r} cannot {doing} this network: {reason(error)}; use runtime {others}, or another cut"
        ) from None


def reason(error: BaseException) -> str:
    """Return what a native error says, on one line and without the library's own source files."""
    lines = [" ".join(line.split()).strip("- ") for line in _FRAMES.sub("", str(error)).splitlines()]
    text = "; ".join(dict.fromkeys(line.rstrip(":;.") for line in lines if line)) or type(error).__name__
    text = _MEANINGS.get(text, text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
