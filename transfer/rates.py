"""How fast a machine does the work of a fit, measured in seconds on its own code, and files of such rates."""

import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..engine.engine import Engine
from ..errors import DataError
from ..files import read_file
from ..images.archives import signature
from ..images.batches import ImageArray, ImageFiles, collect
from ..kernels.bits import packed_length
from ..kernels.gram import gram
from ..kernels.projection import Hadamard, expose_sample
from ..kernels.random_matrix import hadamard_length
from ..kernels.ridge.solvers import CholeskySolver, EighSolver
from ..kernels.ridge.sums import RowSums
from ..kernels.training_kernel import TrainingKernel
from ..limits import processors
from ..progress import progress_bar
from ..schema import BOOLEAN, array, number, parse_object, record, refusing, require_version, text, whole
from .capacity import output_types
from .embed import embed

SCHEMA = "aurevoir-rates/1"
PHOTOGRAPHS = 256
"""Images that are decoded at most."""
RATES = {
    "decode": "image files decoded and resized, by all processors",
    "engine": "images through the engine, of one GPU or all processors",
    "bits": "products of bits with bits",
    "channels": "products of channel means in a radial kernel",
    "float64": "multiplications with additions in sums over rows",
    "eigenvectors": "9 k^3 of an eigendecomposition of order k",
    "factors": "n^3 / 3 of a Cholesky factor and its inverse, float32",
}
"""What each rate counts in a second."""
OF_IMAGES = ("decode", "engine")
"""The rates of images; the others are of the ridge."""
OF_PROJECTIONS = {
    "hadamard": "values transformed, times the logarithm of the length",
    "speckle": "products of speckle, counted as 8 bits a component",
}
"""The same, measured only for such a projection."""
_SECONDS, _LEAST_RUNS = 0.4, 3
_ROWS, _LANDMARKS, _EIGENVECTORS, _FACTORS = 512, 4096, 1024, 4096
_COMPONENTS = 2048
_SECOND_BATCHES = 4
_LARGEST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a machine does the work of a fit.

    Attributes
    ----------
    machine : str
        Processor and number of cores, and the GPU of the engine.
    measured : str
        The date.
    backbone, cut, precision, runtime, device : str
        Of the engine.
    input_shape : (int, int, int)
        Height, width and channels of its images.
    features, channels : int
        Numbers of features m, and of pooled ones; 0 channels for engines of earlier versions.
    engine_bytes : int
        Of the engine's graph with its weights.
    images : str
        What was decoded.
    image_bytes : float
        Mean size of an image file.
    per_second : dict of float
        By name of `RATES` and `OF_PROJECTIONS`.
    layers : bool
        Whether the pooled ones are of several layers.
    """

    machine: str
    measured: str
    backbone: str
    cut: str
    precision: str
    runtime: str
    device: str
    input_shape: tuple[int, int, int]
    features: int
    channels: int
    engine_bytes: int
    images: str
    image_bytes: float
    per_second: dict[str, float]
    layers: bool = False

    def with_rates(self, **given: float | None) -> "Rates":
        """Return rates of which some are given instead."""
        return replace(self, per_second=self.per_second | {name: rate for name, rate in given.items() if rate})

    def with_solver(self, other: "Rates") -> "Rates":
        """Return these rates of images, and the others of the ridge."""
        return replace(self, per_second=other.per_second | {name: self.per_second[name] for name in OF_IMAGES})

    def to_json(self) -> str:
        """Return the text of a file of rates."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, content: bytes, source: object) -> "Rates":
        """Return the rates of a file.

        Raises
        ------
        AurevoirError
            If it holds none.
        """
        with refusing(f"{source}", "measure them again with `aurevoir plan --measure --out`"):
            found = parse_object(content)
            require_version(found.pop("schema", None), (SCHEMA,))
            _FIELDS(found, "")
        return cls(**found | {"input_shape": tuple(found["input_shape"])})


_LINE = text(pattern=r"[^\x00-\x1f\x7f]*", wanted="text of one line")
_RATE = number(1e-6, 1e18)
_FIELDS = record(
    {
        **dict.fromkeys(("machine", "measured", "backbone", "cut", "precision", "runtime", "device", "images"), _LINE),
        "input_shape": array(whole(1), 3, 3),
        "features": whole(1),
        "channels": whole(0),
        "engine_bytes": whole(0),
        "image_bytes": number(0, 1e12),
        "per_second": record(
            dict.fromkeys(RATES, _RATE),
            dict.fromkeys(OF_PROJECTIONS, _RATE),
        ),
    },
    {"layers": BOOLEAN},
)


def read_rates(path: Path | str) -> Rates:
    """Read a file of rates.

    Raises
    ------
    AurevoirError
        If it cannot be read, or holds none.
    """
    return Rates.from_json(read_file(Path(path), _LARGEST, "file of rates", "check the path"), path)


def measure_rates(
    engine: Engine, files: Sequence[Path], images: str, projection: str = "auto", progress: bool = False
) -> Rates:
    """Measure the rates of this machine, each the best of several runs.

    Parameters
    ----------
    engine : Engine
    files : sequence of paths
        Images to decode, at most `PHOTOGRAPHS`; they are read from memory after the first time.
    images : str
        What they are, in words.
    projection : str
        Of which what only some need is measured.
    progress : bool
        Whether to show progress on stderr.

    Raises
    ------
    DataError
        If none of the files is a readable image.
    """
    made, found = engine.manifest, {}
    measures = {**_of_images(engine, files), **_of_ridge(made.features, made.pooled, projection)}
    with progress_bar(measures.items(), desc="measuring", unit="rate", show=progress) as bar:
        for name, measure in bar:
            found[name] = measure()
    # An engine without channel means has no kernel of them.
    found.setdefault("channels", found["bits"])
    return Rates(
        machine=_machine(engine.device),
        measured=time.strftime("%Y-%m-%d"),
        backbone=made.backbone,
        cut=made.cut,
        precision=made.precision,
        runtime=made.runtime,
        device=engine.device,
        input_shape=made.input_shape,
        features=made.features,
        channels=made.pooled,
        engine_bytes=len(engine.graph),
        images=images,
        image_bytes=float(np.mean([_size(path) for path in files])),
        per_second=found,
        layers=bool(made.pooled_layers),
    )


Measure = Callable[[], float]
"""Returns a rate."""


def _of_images(engine: Engine, files: Sequence[Path]) -> dict[str, Measure]:
    """Return what measures the rates of decoding and of the engine."""
    made = engine.manifest
    height, width, channels = made.input_shape
    listed = ImageFiles(files, (height, width), made.resize, channels=channels)
    _, pixels = collect(listed)
    if not len(pixels):
        path, reason = next(iter(listed.skipped.items()))
        raise DataError(f"none of the {len(files)} files is a readable image; the first, {path}: {reason}")
    outputs = tuple(name for name in output_types(1, made.pooled or None) if name in engine.outputs)
    # Few images of a slow engine, and whole batches: so many as calls are in flight, several times.
    count = _SECOND_BATCHES * engine.batch_size * engine.calls_at_once
    batches = ImageArray(np.resize(pixels, (count, *pixels.shape[1:])))
    return {
        "decode": lambda: _rate(lambda: collect(listed), len(pixels)),
        "engine": lambda: _rate(lambda: embed(engine, batches, outputs), count),
    }


def _of_ridge(m: int, channels: int, projection: str) -> dict[str, Measure]:
    """Return what measures the rates of the ridge, on arrays as large as those of a fit to many images."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 256, (_LANDMARKS, packed_length(m)), dtype="uint8")
    rows, ones = bits[:_ROWS], np.ones(_LANDMARKS)
    pooled = random.random((_LANDMARKS, max(1, channels)), dtype="float32")
    of_bits, of_channels = (TrainingKernel(kind, bits, pooled, ones) for kind in ("none", "rbf"))
    pairs = _ROWS * _LANDMARKS
    found: dict[str, Measure] = {"bits": lambda: _rate(lambda: of_bits.rows(rows, None), pairs * m)}
    if channels:
        found["channels"] = lambda: _rate(lambda: of_channels.rows(rows, pooled[:_ROWS]), pairs * channels)
    found |= {"float64": _sums, "eigenvectors": _eigenvectors, "factors": _factors}
    if projection == "hadamard":
        made = Hadamard(m, hadamard_length(m))
        camera = expose_sample(made, rows)
        values = _ROWS * made.length * np.log2(made.length)
        speckle = random.integers(0, 256, (_COMPONENTS, _COMPONENTS), dtype="uint8")
        found["hadamard"] = lambda: _rate(lambda: made.speckle(rows, camera), values)
        found["speckle"] = lambda: _rate(lambda: gram(speckle), 8 * _COMPONENTS**3 / 2)
    return found


def _sums() -> float:
    blocks, k = _FACTORS // _ROWS, _LANDMARKS
    values = np.random.default_rng(0).standard_normal((_ROWS, k))
    targets, weights = np.ones((_ROWS, 1), "int8"), np.ones(_ROWS)
    return _rate(
        lambda: RowSums.of_features(lambda: ((slice(0, _ROWS), values) for _ in range(blocks)), k, targets, weights),
        blocks * _ROWS * k * k / 2,
    )


def _eigenvectors() -> float:
    matrix, alphas = _system(_EIGENVECTORS), np.ones(1)
    return _rate(lambda: EighSolver(matrix, alphas), 9 * _EIGENVECTORS**3)


def _factors() -> float:
    matrix = _system(_FACTORS)
    return _rate(lambda: CholeskySolver(matrix, 1.0, "float32"), _FACTORS**3 / 3)


def _system(n: int) -> np.ndarray:
    """Return a positive definite matrix."""
    values = np.random.default_rng(0).standard_normal((n, n), dtype="float32")
    product: np.ndarray = (values @ values.T / n).astype("float64")
    return product


def _rate(run: Callable[[], object], amount: float) -> float:
    """Return the amount of work over the seconds of the fastest run, after one that is not timed."""
    run()
    seconds: list[float] = []
    while len(seconds) < _LEAST_RUNS or sum(seconds) < _SECONDS:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return amount / min(seconds)


def _size(path: Path) -> int:
    return signature(path)[0]


def _machine(device: str) -> str:
    """Describe the processor and, of an engine that runs on one, the GPU."""
    name = _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")) if device.startswith("cuda") else []
    gpu = (_line(gpus[0], "Model") or "GPU") if gpus else None
    return f"{name}, {processors()} cores" + (f", {gpu}" if gpu else "")


def _line(path: Path | str, name: str) -> str | None:
    """Return the value of a line ``name: value`` of a file of the system."""
    try:
        found = re.search(rf"^{name}\s*:\s*(.+)$", Path(path).read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else found[1].strip()
