"""Fit readouts of speckle: in the dual, in the primal, or projected again for each pass over the rows."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..array_types import Bits, Features, RowWeights, Speckle, Targets
from ..arrays import namespace
from ..camera import Camera
from ..gram import gram
from ..projection import Projection, expose_sample, project, repeats
from ..readout import Readout, SpeckleReadout
from ..ridge import RidgePath
from ..ridge.form import RidgeForm
from ..ridge.passes import here
from ..ridge.sums import RowSums, total
from ..row_blocks import RowBlocks, RowSource, combine_rows, few_columns, speckle_rows
from .problem import RidgeProblem, Timer


def fit_speckle(
    bits: Bits,
    projection: Projection,
    form: RidgeForm,
    ridge: RidgeProblem,
    camera: Camera | None,
    budget: int,
    timer: Timer,
) -> tuple[Readout, RidgePath]:
    """Expose, project and solve the ridge of speckle in its form."""
    n, k = len(bits), projection.k
    with timer("project"):
        camera = camera or getattr(projection, "camera", None) or expose_sample(projection, bits, budget)
        speckle = namespace(bits).empty((n if form.holds_speckle else 0, k), dtype="uint8")
        for which, block in project(projection, camera, bits[: len(speckle)], budget):
            speckle[which] = block
        saturation = float((speckle == 255).sum()) / max(1, speckle.size)
    if not form.holds_speckle:
        return _stream_speckle(bits, projection, camera, ridge, budget, timer)
    if form.name == "dual":
        with timer("gram"):
            products = gram(speckle, budget)
        with timer("solve"):
            path = ridge.dual(products)
            weights = combine_rows(speckle_rows(speckle, few_columns(speckle, budget)), k, path.coefficients)
    else:
        with timer("solve"):
            sums = RowSums.of(speckle, ridge.targets, ridge.weights_of_sums, budget)
            path = ridge.primal(sums, speckle_rows(speckle, budget, ridge.classes), budget)
        weights = path.coefficients
    return SpeckleReadout(projection, camera, weights, path.intercept, saturation), path


@dataclass(frozen=True)
class _ProjectedRows:
    """Projects blocks of bits to speckle; see `RowSource`."""

    projection: Projection
    camera: Camera
    budget: int

    def __call__(self, bits: Bits) -> Iterator[tuple[slice, Speckle]]:
        yield from project(self.projection, self.camera, bits, self.budget // 2)


@dataclass(frozen=True)
class _SignedRows:
    """Yields speckle - 128 of projected blocks, in parts that leave room for so many targets; see `RowSource`."""

    projected: _ProjectedRows
    targets: int

    def __call__(self, bits: Bits) -> Iterator[tuple[slice, Features]]:
        for which, block in self.projected(bits):
            for part, values in speckle_rows(block, self.projected.budget, self.targets)():
                yield slice(which.start + part.start, which.start + part.stop), values


@dataclass(frozen=True)
class _SpeckleSums:
    """Sums rows of speckle and counts saturated values; see `ridge.passes.Work`."""

    budget: int
    weighted: bool

    def __call__(self, rows: RowBlocks, targets: Targets, weights: RowWeights) -> tuple[RowSums, int]:
        sums, saturated = None, 0
        for which, block in rows():
            saturated += int((block == 255).sum())
            part = RowSums.of(block, targets[which], weights[which] if self.weighted else None, self.budget)
            sums = part if sums is None else sums + part
            del part
        assert sums is not None
        return sums, saturated


def _stream_speckle(
    bits: Bits, projection: Projection, camera: Camera, ridge: RidgeProblem, budget: int, timer: Timer
) -> tuple[Readout, RidgePath]:
    """Solve the primal ridge of speckle that is not held, but projected for each pass over the rows."""
    share = ridge.share if repeats(projection, camera) else here
    projected = _ProjectedRows(projection, camera, budget)
    work = _SpeckleSums(budget, ridge.weights_of_sums is not None)
    saturated = 0

    def parts() -> Iterator[RowSums]:
        nonlocal saturated
        for sums, count in share(work, RowSource(projected, (bits,)), ridge.targets, ridge.shares(bits)):
            saturated += count
            yield sums

    with timer("gram"):
        sums = total(parts())
    with timer("solve"):
        path = ridge.primal(sums, RowSource(_SignedRows(projected, ridge.classes), (bits,)), budget, share)
    saturation = saturated / max(1, len(bits) * projection.k)
    return SpeckleReadout(projection, camera, path.coefficients, path.intercept, saturation), path
