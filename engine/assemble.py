"""From the float graph and a calibration table to an engine of one precision."""

from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..calibration.fidelity import relative_error, sign_agreement
from ..calibration.graph import digest
from ..calibration.observe import quantizable
from ..calibration.quantize import quantize, unsigned_dialect
from ..calibration.table import CalibrationTable
from ..errors import UsageError
from ..images.decode import Resize
from .engine import Engine, Manifest
from .runtimes import choose_runtime, require_runtime, takes_unsigned


@dataclass(frozen=True)
class Exported:
    """A truncated backbone as the float graph that every precision starts from."""

    graph: onnx.ModelProto
    backbone: str
    cut: str
    weights: str
    size: tuple[int, int]
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize


def assemble(
    exported: Exported,
    precision: str,
    runtime: str = "auto",
    table: CalibrationTable | None = None,
    device: str | None = None,
    dialect: str = "auto",
) -> Engine:
    """Make an engine of one precision from a float graph, and for int8 its calibration table.

    Raises
    ------
    UsageError
        If the runtime does not run the precision, or int8 comes without a table.
    AurevoirError
        If the table belongs to another graph.
    """
    runtime = choose_runtime(runtime, precision)
    graph = exported.graph
    in_float: tuple[str, ...] = ()
    if precision == "int8":
        if table is None:
            raise UsageError("int8 needs a calibration table; see `calibrate`")
        table.check(graph)
        dialect = resolve_dialect(dialect, graph, runtime)
        in_float = tuple(name for name in quantizable(graph) if name not in table.thresholds)
        graph = quantize(graph, table.thresholds, table.means, dialect)
    manifest = Manifest(
        exported.backbone,
        exported.cut,
        exported.weights,
        digest(exported.graph),
        precision,
        runtime,
        require_runtime(runtime, precision).version(),
        (*exported.size, 3),
        exported.features,
        exported.mean,
        exported.std,
        exported.resize,
        dialect if precision == "int8" else None,
        in_float,
    )
    return Engine(manifest, graph.SerializeToString(), table if precision == "int8" else None, device or "cpu")


def resolve_dialect(dialect: str, graph: onnx.ModelProto, runtime: str) -> str:
    """Return the dialect itself, or for ``auto`` the best for a float graph on a runtime here."""
    if dialect != "auto":
        return dialect
    return unsigned_dialect(graph) if takes_unsigned(runtime) else "s8"


def with_fidelity(engine: Engine, exported: Exported, pixels: np.ndarray) -> Engine:
    """Return the engine with its sign agreement and relative error against fp32 in the manifest.

    Raises
    ------
    AurevoirError
        If a feature is nan or infinite.
    """
    reference = assemble(exported, "fp32")(pixels)
    features = engine(pixels)
    measured = replace(
        engine.manifest,
        sign_agreement=sign_agreement(features, reference),
        relative_error=relative_error(features, reference),
    )
    return Engine(measured, engine.graph, engine.table, engine.device)
