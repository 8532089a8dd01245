"""The engines that benchmarks measure: a network exported once, and its engines by precision, runtime and placement."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...calibration.placement import Placement
from ...calibration.table import CalibrationTable
from ...calibration.thresholds import Method
from ...engine.backbone import open_backbone
from ...engine.backbones.base import Backbone
from ...engine.build import EngineBuilder
from ...engine.engine import Engine
from ...engine.float_graph import Exported
from ...engine.multi_cut import join
from ...engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from ...kernels.stopwatch import Stopwatch

Seconds = dict[str, float]
"""By stage."""


def open_network(name: str, weights: str | None = None, size: int | None = None, seed: int = 0) -> Backbone:
    """Open a backbone, by default with random weights; an ONNX file has its own."""
    return open_backbone(name, weights or ("default" if name.endswith(".onnx") else "random"), size, seed)


@dataclass(frozen=True)
class Engines:
    """A network, exported once.

    Attributes
    ----------
    builder : EngineBuilder
    pixels : uint8 array of shape (n, height, width, 3), optional
        To calibrate on; at export, random weights had their batch-norm statistics set from them.
    export_seconds : float
    """

    builder: EngineBuilder
    pixels: np.ndarray | None
    export_seconds: float

    @classmethod
    def export(cls, backbone: Backbone, cut: str | None = None, pixels: np.ndarray | None = None) -> "Engines":
        """Truncate and export a backbone."""
        start = time.perf_counter()
        builder = _builder(backbone, cut, pixels)
        assert builder.exported
        return cls(builder, pixels, time.perf_counter() - start)

    @classmethod
    def export_cuts(cls, backbone: Backbone, cuts: Sequence[str], pixels: np.ndarray) -> "list[Engines]":
        """Export several cuts of a backbone at once; each has the seconds of all."""
        start = time.perf_counter()
        builders = _builder(backbone, cuts[-1], pixels).at_cuts(cuts)
        seconds = time.perf_counter() - start
        return [cls(builder, pixels, seconds) for builder in builders]

    @property
    def exported(self) -> Exported:
        """The float graph."""
        return self.builder.exported

    @property
    def network(self) -> str:
        """The network and its cut, in words."""
        return f"{self.exported.backbone} to {self.exported.cut}"

    def calibrate(self, method: Method = "percentile", placement: Placement = "conv-inputs") -> CalibrationTable:
        """Choose int8 thresholds on the images."""
        return self.builder.with_calibration(replace(_on(self.pixels), method=method)).table(placement)

    def build(
        self,
        precision: str,
        runtime: str = "auto",
        device: str | None = None,
        *,
        table: CalibrationTable | None = None,
        placement: Placement = "conv-inputs",
    ) -> Engine:
        """Make an engine; int8 takes a table."""
        named: dict[str, Any] = {"precision": precision, "runtime": runtime}
        spec = EngineSpec(**named, device=device, placement=placement, smoke=False, measure=False)
        return self.builder.with_calibration(replace(_on(self.pixels), data=table or self.pixels)).build(spec)

    def build_timed(
        self, precision: str, runtime: str, device: str | None, first: np.ndarray
    ) -> tuple[Engine, Seconds]:
        """Make an engine, int8 with a table of its own, and run it once; return it with the seconds by stage."""
        watch, table = Stopwatch(), None
        if precision == "int8":
            with watch("calibrate"):
                table = self.calibrate()
        with watch("build"):
            engine = self.build(precision, runtime, device, table=table)
            engine.bits(first)
        return engine, _once(watch)


def _builder(backbone: Backbone, cut: str | None, pixels: np.ndarray | None) -> EngineBuilder:
    return EngineBuilder(NetworkSpec(backbone=backbone, cut=cut), _on(pixels), data=pixels, progress=True)


def _on(pixels: np.ndarray | None) -> CalibrationSpec:
    """Return the calibration on all of some images."""
    return CalibrationSpec(data=pixels, images=0 if pixels is None else len(pixels), held_out=0)


@dataclass(frozen=True)
class JoinedEngines:
    """Engines of several cuts, one that computes the bits of all, where those of each lie in bytes, and seconds."""

    each: list[Engine]
    joined: Engine
    columns: list[slice]
    once: Seconds


def build_joined(
    cuts: Sequence[Engines], precision: str, runtime: str, device: str | None, first: np.ndarray
) -> JoinedEngines:
    """Make the engines of all cuts, calibrated at the deepest, which is the last, and run the joined one once."""
    watch, tables = Stopwatch(), dict.fromkeys(range(len(cuts)))
    if precision == "int8":
        with watch("calibrate"):
            table = cuts[-1].calibrate()
        tables = {index: table.of_part(cut.exported.graph) for index, cut in enumerate(cuts)}
    each = [cut.build(precision, runtime, device, table=tables[index]) for index, cut in enumerate(cuts)]
    with watch("build"):
        joined = join(each)
        joined.engine.bits(first[: joined.engine.batch_size])
    return JoinedEngines(each, joined.engine, joined.bits, _once(watch))


def _once(watch: Stopwatch) -> Seconds:
    return {stage: watch.seconds[stage] for stage in ("calibrate", "build")}
