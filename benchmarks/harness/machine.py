"""Where and with what a figure was measured."""

import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "aurevoir",
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "onnx",
    "onnxruntime",
    "openvino",
    "torch",
    "torchvision",
    "nncf",
    "nvidia-modelopt",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "triton",
    "tensorrt",
    "nvidia-cudnn-cu13",
)


@dataclass(frozen=True)
class Machine:
    """Processor, memory, versions, date and command of a run."""

    processor: str
    cores: int | None
    memory_gib: float
    gpus: list[dict[str, Any]]
    system: str
    python: str
    versions: dict[str, str]
    date: str
    command: str

    @classmethod
    def here(cls) -> "Machine":
        """Describe this machine and this process."""
        return cls(
            processor=_processor(),
            cores=os.cpu_count(),
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            gpus=describe_gpus(),
            system=platform.platform(),
            python=platform.python_version(),
            versions={name: found for name in PACKAGES if (found := _version(name))},
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            command=_command(sys.argv[1:]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, without GPUs where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "gpus" or value}


def describe_gpus() -> list[dict[str, Any]]:
    """Return name, driver and memory of each NVIDIA GPU here, as ``nvidia-smi`` reports them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    found = [[cell.strip() for cell in line.rsplit(",", 2)] for line in lines if line.count(",") >= 2]
    return [{"name": name, "driver": driver, "memory_gib": _gib(mib)} for name, driver, mib in found]


def _gib(mib: str) -> float | None:
    """Return GiB; None where the driver reports no number, as for a GPU that shares the host's memory."""
    try:
        return round(float(mib) / 2**10, 1)
    except ValueError:
        return None


def _command(arguments: Sequence[str]) -> str:
    """Return the command line; where it wrote its result is left out."""
    kept = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not {before, word} & {"--out", "--plot"}
    ]
    return " ".join(["aurevoir", *kept])


def resident_megabytes() -> float:
    """Return the memory of this process that is in RAM, in units of 10^6 bytes; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def resident_bytes(process: int | str = "self") -> tuple[int, int] | None:
    """Return the bytes of a process's own (anonymous) pages in RAM and of files and shared memory; None if not told."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    found = dict(re.findall(r"^(RssAnon|RssFile|RssShmem):\s+(\d+) kB", status.read_text(), re.MULTILINE))
    if len(found) < 3:
        return None
    return int(found["RssAnon"]) * 1024, (int(found["RssFile"]) + int(found["RssShmem"])) * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    cleaned = {name.strip(): value.strip() for name, value in fields.items()}
    kinds = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    has = [kind for kind in kinds if kind in cleaned.get("flags", "").split()]
    return f"{cleaned.get('model name', platform.processor())} ({', '.join(has)})"
