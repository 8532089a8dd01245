"""Write down what NVIDIA's Python bindings offer, version by version, in tensorrt_api.json.

    pip download --no-deps --python-version 3.11 --only-binary :all: tensorrt-cu13-bindings==11.4.0.106
    python tensorrt_api.py tensorrt_cu13_bindings-11.4.0.106-*.whl 11.4.0
    python tensorrt_api.py rtx 1.7.1

The bindings need NVIDIA's libraries only to be loaded: empty ones, made by gcc, take their place.
`rtx` is the installed TensorRT-RTX. Run with a Python of the wheel's version.
"""

import ctypes
import importlib.util
import inspect
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "CudaGraphStrategy",
    "DataType",
    "EngineInspector",
    "ErrorCode",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "ILogger",
    "IInt8EntropyCalibrator2",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProfiler",
    "IProgressMonitor",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
"""Those that our modules use."""


def load_bindings(folder: Path):
    """Import the bindings of an unpacked wheel."""
    library = next(folder.rglob("tensorrt.so"))
    _load_empty_libraries(library, folder)
    spec = importlib.util.spec_from_file_location("tensorrt", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_empty_libraries(library: Path, folder: Path) -> None:
    """Load an empty library for each of NVIDIA's that the bindings name."""
    symbols = [line.split()[-1] for line in _lines("nm", "-D", "--undefined-only", library)]
    source = folder / "empty.c"
    marks = ("INTERNAL", "getBuilderPlugin", "getNvOnnx", "getPluginRegistry", "initLibNv", "nvinfer")
    names = [symbol for symbol in symbols if any(mark in symbol for mark in marks)]
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in names))
    for line in _lines("readelf", "-d", library):
        if "NEEDED" in line and "libnv" in line:
            name = line.split("[")[1].rstrip("]")
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source]
            subprocess.run(command, check=True)
            ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)


def _lines(*command) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def members(module) -> dict[str, list[str]]:
    """Return the public names in the module, as "", and in each class that we use."""
    found = {name: getattr(module, name) for name in CLASSES if inspect.isclass(getattr(module, name, None))}
    return {"": sorted(found), **{name: [each for each in dir(kind) if each[0] != "_"] for name, kind in found.items()}}


def main(wheel: str, version: str) -> None:
    """Put one version into the file."""
    if wheel == "rtx":
        import tensorrt_rtx_bindings

        name, module = f"rtx {version}", tensorrt_rtx_bindings
    else:
        folder = Path(tempfile.mkdtemp())
        zipfile.ZipFile(wheel).extractall(folder)
        name, module = version, load_bindings(folder)
    path = Path(__file__).with_suffix(".json")
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = members(module)
    lines = [f'"{version}": {{\n{_table(known[version])}\n}}' for version in sorted(known)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _table(classes: dict[str, list[str]]) -> str:
    return ",\n".join(f" {json.dumps(name)}: {json.dumps(found)}" for name, found in classes.items())


if __name__ == "__main__":
    main(*sys.argv[1:])
