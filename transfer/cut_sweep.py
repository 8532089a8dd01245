"""Compare cuts, precisions and kernels of backbones by leave-one-out, with one pass over the images for all cuts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ..cache import user_cache
from ..engine.build import EngineBuilder
from ..engine.child import lasting_child
from ..engine.cut_candidates import CANDIDATES, cut_candidates
from ..engine.engine import Engine
from ..engine.multi_cut import draft_cuts
from ..engine.smoke import first_batches
from ..engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from ..engine.timing import alternate
from ..errors import DataError
from ..images.decoded import DecodedImages
from ..images.sources import LabelledPaths
from ..kernels.fitting import fit_readout
from ..kernels.memory import Budget
from ..kernels.ridge import RidgePath
from ..kernels.stopwatch import Stopwatch
from ..progress import progress_bar
from .cut_choice import embed_cuts, sample_size, stratified_sample
from .inputs import as_images
from .multilabel import encoded

ROUNDS = 3
"""Turns in which engines are timed."""


@dataclass(frozen=True)
class SweptCut:
    """A cut of a backbone in one precision.

    Attributes
    ----------
    backbone, precision, runtime, cut : str
    features, macs : int
        See `Cut`.
    loo_accuracy : float
        Leave-one-out accuracy with the best kernel.
    projection : str
        That kernel.
    loo_accuracy_of : dict of float
        Leave-one-out accuracy by kernel.
    images_per_second : float
        Of an engine cut there: the median of `by_turn`, the turns of all engines of its backbone.
    by_turn : list of float
    megabytes : float
        Of its engine file, in units of 10^6 bytes.
    """

    backbone: str
    precision: str
    runtime: str
    cut: str
    features: int
    macs: int
    loo_accuracy: float
    projection: str
    loo_accuracy_of: dict[str, float]
    images_per_second: float
    by_turn: list[float]
    megabytes: float


@lasting_child()
def sweep_cuts(
    data: LabelledPaths,
    network: NetworkSpec,
    calibration: CalibrationSpec,
    specs: Sequence[EngineSpec],
    count: int = CANDIDATES,
    budget: Budget = None,
    watch: Stopwatch | None = None,
    progress: bool = False,
) -> tuple[list[SweptCut], int, dict[str, str]]:
    """Compare cuts of a backbone in several precisions.

    Parameters
    ----------
    data : LabelledPaths
    network : NetworkSpec
        Its cut is left out.
    calibration : CalibrationSpec
        Its images are by default some of those of `data`.
    specs : sequence of EngineSpec
        One a precision.
    count : int
        Of cuts at most; see `cut_candidates`.
    budget : int, str or None
        See `memory_budget`; cuts are compared on as many images as `sample_size` says.
    watch : Stopwatch, optional
    progress : bool
        Whether to show progress on stderr.

    Returns
    -------
    rows : list of SweptCut
        By precision, the shallowest cut first.
    images : int
        How many readable images they were compared on.
    skipped : dict
        Reason for each file that could not be read.

    Raises
    ------
    DataError
        If no image can be read, or only one class is left.
    UsageError
        If the network has no default cut or only one cut, or the calibration is a table.
    """
    watch = watch or Stopwatch()
    with DecodedImages(budget) as decoded:
        return _swept(data, network, calibration, specs, count, budget, watch, progress, decoded)


def _swept(
    data: LabelledPaths,
    network: NetworkSpec,
    calibration: CalibrationSpec,
    specs: Sequence[EngineSpec],
    count: int,
    budget: Budget,
    watch: Stopwatch,
    progress: bool,
    decoded: DecodedImages,
) -> tuple[list[SweptCut], int, dict[str, str]]:
    options: dict[str, Any] = {"stages": watch, "progress": progress, "decoded": decoded}
    options["cache"] = user_cache(progress)
    builder = EngineBuilder(network, calibration, data=list(data.paths), **options)
    cuts = cut_candidates(builder.backbone, count)
    builders = builder.at_cuts([cut.name for cut in cuts])
    names, labels = encoded(data)
    which = stratified_sample(labels, sample_size(cuts, budget), network.seed)
    skipped: dict[str, str] = {}
    engines: list[Engine] = []
    solved: list[tuple[str, RidgePath]] = []
    for spec in specs:
        drafts, joined = draft_cuts(builders, replace(spec, measure=False))
        made = joined.engine.manifest
        what = f"{builder.backbone.name} {spec.precision}"
        sample = [data.paths[index] for index in which]
        images = as_images(sample, made.input_shape, made.resize, what if progress else None, decoded.keep)
        values = embed_cuts(joined, images, watch)
        skipped.update(images.skipped)
        rows = labels[which[values.indices]]
        if len(np.unique(rows)) < 2:
            raise DataError(f"{len(np.unique(rows))} classes have readable images; {len(skipped)} files cannot be read")
        both = zip(values.bits, values.pooled, joined.layers, strict=True)
        for (bits, pooled, layers), cut in zip(
            progress_bar(both, desc=f"kernels {what}", total=len(cuts), unit="cut", show=progress), cuts, strict=True
        ):
            readout, path = fit_readout(
                bits,
                cut.features,
                rows,
                len(names),
                seed=network.seed,
                budget=budget,
                timer=watch,
                pooled=pooled,
                layers=layers,
            )
            solved.append((readout.kind, path))
        engines += drafts
    speeds = _speeds(engines, progress)
    swept = [
        SweptCut(
            engine.manifest.backbone,
            engine.precision,
            engine.runtime,
            engine.manifest.cut,
            engine.features,
            cut.macs,
            path.loo_accuracy,
            kernel,
            dict(path.loo_accuracy_of) or {kernel: path.loo_accuracy},
            median(turns),
            turns,
            len(engine.to_bytes()) / 1e6,
        )
        for engine, cut, (kernel, path), turns in zip(engines, [*cuts] * len(specs), solved, speeds, strict=True)
    ]
    return swept, len(rows), skipped


def _speeds(engines: Sequence[Engine], progress: bool) -> list[list[float]]:
    """Return the images per second of engines, turn by turn, timed in turn on a batch of noise."""
    first_batches(*engines)
    count, shape = engines[0].batch_size, engines[0].input_shape
    noise = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")
    runs = {str(index): partial(engine.bits, noise) for index, engine in enumerate(engines)}
    with progress_bar(total=1, desc=f"timing {len(engines)} engines", unit="turns", show=progress) as bar:
        seconds = alternate(runs, ROUNDS, progress=False)
        bar.update()
    return [[count / each for each in times] for times in seconds.values()]
