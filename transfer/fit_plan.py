"""What a fit of any size takes, before an image of it is there: seconds by stage, memory, disk and network.

The form of the ridge, its memory and its operations are those of `kernels.ridge.form`, which a fit is solved by, and
bytes those of `transfer.capacity`. Seconds are amounts of work over measured rates:

    decode, engine                  images over their rate; they divide among workers
    project, gram, statistics       rows by what each takes: the projection, kernel rows or a Gram, sums over the rows
    solve                           the system of the form's order
    leave-one-out                   the choice of alpha
    compare                         the choice of a kernel, for ``auto``, on some of the rows

Passes over more rows than a segment divide among workers: all of the ridge but `solve` and `compare`, unless its form
holds the system or the speckle of all rows. What is constant is left out: building the engine, compiling kernels,
starting processes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import ceil, log2
from typing import Any

from ..errors import UsageError
from ..images.decoded import SHARE as PIXELS_SHARE
from ..kernels.fitting import AUTO, AUTO_POOLED, auto_kernels
from ..kernels.memory import Budget, memory_budget
from ..kernels.random_matrix import hadamard_length
from ..kernels.ridge.dual import HALVED_ROWS
from ..kernels.ridge.form import ALPHAS, KERNELS, POOLED, RADIAL, SUMS, RidgeForm
from ..kernels.ridge.passes import SEGMENT, segment
from .capacity import DiskNeeds, Expected, disk_needs, output_types, reads_pooled, require_ridge
from .evaluate import TEST_SHARE
from .rates import OF_IMAGES, Rates
from .rows import Types, fits_memory, row_bytes

STAGES = (*OF_IMAGES, "project", "gram", "statistics", "solve", "leave-one-out", "compare")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A fit to plan.

    Attributes
    ----------
    images : int
    classes : int
    projection, n_components, budget
        Those of `OpticalClassifier`, `budget` as its ``memory_budget``.
    tested : bool
        Whether a fifth of the images is kept for a test, after which the model is fitted again to all.
    workers : int
        Machines as the rates were measured on, which decode images, run the engine and compute the ridge's passes over
        more rows than a segment; one of them solves it.
    gpus : int, optional
        GPUs of all workers together; by default one a worker if the engine runs on one.
    """

    images: int
    classes: int = 10
    projection: str = "auto"
    n_components: int | None = None
    budget: Budget = None
    tested: bool = True
    workers: int = 1
    gpus: int | None = None

    def __post_init__(self) -> None:
        if self.projection not in ("auto", "hadamard", *KERNELS):
            raise UsageError(
                f"projection {self.projection!r} is not planned; choose one of auto, hadamard, {', '.join(KERNELS)}"
            )
        if self.tested and self.images < 2:
            raise UsageError(f"{self.images} image cannot be split into training and test images; give 2 or more")

    @property
    def test_images(self) -> int:
        """The images of the test."""
        return ceil(TEST_SHARE * self.images) if self.tested else 0

    @property
    def rows(self) -> list[int]:
        """The numbers of images that a ridge is solved for, one after the other."""
        return [self.images - self.test_images, self.images] if self.tested else [self.images]


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """What a fit takes.

    Attributes
    ----------
    images, workers, gpus : int
    form : RidgeForm
        Of the ridge on all images.
    kernel : str
        Whose seconds these are: the projection, or of those that ``auto`` chooses from the one that takes longest.
    seconds : dict of float
        By stage; see `STAGES`.
    embedding_seconds : float
        Of decoding and the engine together: their sum on the same processor, the longer one where a GPU has the engine.
    total_seconds : float
    memory : dict of int
        Bytes at the peak of ``embedding`` and of the ``ridge``, besides the process and the network: within the memory
        budget, but for rows in memory and decoded pixels.
    disk : dict of int
        Bytes of unnamed temporary ``files``, of the ``model`` folder, and of a ``work`` folder if there is one.
    read : int
        Bytes of the image files.
    network : dict of int
        Bytes from the workers to the one that solves (``rows``), and to the workers (``engine``); and of the ridge's
        passes, rows to the workers and sums from them (``passes``).
    gpu_hours : float
        Of all GPUs while images are embedded.
    """

    images: int
    workers: int
    gpus: int
    form: RidgeForm
    kernel: str
    seconds: dict[str, float]
    embedding_seconds: float
    total_seconds: float
    memory: dict[str, int]
    disk: dict[str, int]
    read: int
    network: dict[str, int]
    gpu_hours: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "form": {**asdict(self.form), "bytes": self.form.bytes}}


def plan_fit(job: Job, rates: Rates) -> FitPlan:
    """Plan a fit.

    Raises
    ------
    UsageError
        If the rates are of an engine without a GPU and the job has some, or lack that of the projection.
    BudgetError
        If no form of the ridge fits the memory budget; the message names what would.
    """
    budget, channels = memory_budget(job.budget), _channels(job, rates)
    forms = require_ridge(job.rows, rates.features, channels, job.classes, job.projection, job.n_components, budget)
    kernel = _dearest(job.projection, channels)
    types, on_gpu = output_types(rates.features, channels), rates.device.startswith("cuda")
    gpus = (job.workers if on_gpu else 0) if job.gpus is None else job.gpus
    if gpus and not on_gpu:
        raise UsageError(
            f"gpus {gpus}: the rates are of an engine on {rates.device!r}; measure them on a GPU (--device cuda), give "
            "the rate of one (--engine-rate), or omit it"
        )
    each = {"decode": rates.per_second["decode"] * job.workers, "engine": rates.per_second["engine"]}
    each["engine"] *= gpus or job.workers
    of_images = {stage: job.images / each[stage] for stage in OF_IMAGES}
    embedding = max(of_images.values()) if gpus else sum(of_images.values())
    of_ridge = _summed(_ridge_seconds(form, n, kernel, job, rates) for form, n in zip(forms, job.rows, strict=True))
    sent = job.workers > 1
    return FitPlan(
        images=job.images,
        workers=job.workers,
        gpus=gpus,
        form=forms[-1],
        kernel=kernel,
        seconds={**of_images, **of_ridge},
        embedding_seconds=embedding,
        total_seconds=embedding + sum(of_ridge.values()),
        memory=_memory(job, forms, rates, budget),
        disk=_disk(disk_needs(job.rows[0], types, Expected(job.test_images, job.tested), budget)),
        read=round(job.images * rates.image_bytes),
        network={
            "rows": job.images * row_bytes(types) if sent else 0,
            "engine": job.workers * rates.engine_bytes if sent else 0,
            "passes": sum(
                _sent_for_passes(form, n, _read_by(kernel, types), job) for form, n in zip(forms, job.rows, strict=True)
            ),
        },
        gpu_hours=gpus * embedding / 3600,
    )


def _channels(job: Job, rates: Rates) -> int | None:
    """Return the number of pooled features if the projection may read them."""
    if job.projection in POOLED and not rates.channels:
        raise UsageError(f"projection {job.projection!r} needs the output pooled, which this engine lacks")
    if job.projection == "layers" and not rates.layers:
        raise UsageError("projection 'layers' needs an engine that pools layers (--pool-layers); choose 'rbf'")
    return rates.channels or None if reads_pooled(job.projection) else None


def _dearest(projection: str, channels: int | None) -> str:
    """Return the projection, or of the kernels of ``auto`` the one that takes longest."""
    if projection != "auto":
        return projection
    return AUTO[-1] if channels is None else AUTO_POOLED[-1]


def _ridge_seconds(form: RidgeForm, n: int, kernel: str, job: Job, rates: Rates) -> Mapping[str, float]:
    """Return the seconds of the ridge of n rows by stage."""
    whole = _divided(_solved(form, n, kernel, job.classes, rates), form, n, job)
    if not form.compared:
        return whole
    channels = _channels(job, rates)
    # At most: kernels that are clearly worse on fewer rows are left there.
    kinds, rows = auto_kernels(channels is not None, rates.layers), form.compared
    each = []
    for kind in kinds:
        (own,) = require_ridge([rows], rates.features, channels, job.classes, kind, None, job.budget)
        found = dict(_solved(own, rows, kind, job.classes, rates))
        if kind == "exact":
            # From the Gram of the kernel before it.
            del found["gram"]
        each.append(found)
    if form.name == "dual" and rows == n:
        return _summed(each)
    return {**whole, "compare": sum(_summed(each).values())}


def _divided(seconds: Mapping[str, float], form: RidgeForm, n: int, job: Job) -> Mapping[str, float]:
    """Return the seconds of a ridge whose passes over rows workers compute, each some segments."""
    stages = (*form.shared_stages, "project") if _shares_passes(form, n, job) else ()
    return {stage: each / _sharers(n, job) if stage in stages else each for stage, each in seconds.items()}


def _shares_passes(form: RidgeForm, n: int, job: Job) -> bool:
    return bool(form.shared_stages) and job.workers > 1 and n > SEGMENT


def _sharers(n: int, job: Job) -> float:
    """Return by how much workers make a pass over n rows faster: it takes as long as the most segments of one."""
    segments = ceil(n / segment(n))
    return segments / ceil(segments / job.workers)


def _read_by(kernel: str, types: Types) -> Types:
    """Return the outputs that a kernel or projection reads."""
    read = [] if kernel in ("pooled", *RADIAL) else ["bits"]
    return {name: types[name] for name in [*read, *(["pooled"] if kernel in POOLED else [])]}


def _sent_for_passes(form: RidgeForm, n: int, types: Types, job: Job) -> int:
    """Return the bytes of the passes: rows, targets and weights, landmarks' basis, eigenvectors, sums and scores."""
    if not _shares_passes(form, n, job):
        return 0
    matrix = 8 * form.order**2
    sent = form.row_passes * n * (row_bytes(types) + job.classes + 8)
    jobs = job.workers * matrix * ((form.row_passes if form.name == "landmarks" else 0) + form.row_passes - 1)
    return sent + jobs + ceil(n / segment(n)) * matrix + 4 * ALPHAS * n * job.classes


def _summed(seconds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of seconds by stage, in the order of `STAGES`."""
    found: dict[str, float] = {}
    for each in seconds:
        found = {stage: found.get(stage, 0.0) + each.get(stage, 0.0) for stage in STAGES if stage in {*found, *each}}
    return found


def _solved(form: RidgeForm, n: int, kernel: str, classes: int, rates: Rates) -> Mapping[str, float]:
    """Return the seconds of one ridge with one kernel by stage."""
    known, operations = rates.per_second, dict(form.operations)
    spectral = form.name != "dual" or n < HALVED_ROWS
    unit = {
        "gram": "bits" if form.components is None else "speckle",
        "statistics": "float64",
        "solve": "eigenvectors" if spectral else "factors",
        "leave-one-out": "factors" if form.name == "dual" else "float64",
    }
    parts = SUMS.get(kernel, (kernel,))
    if form.components is None and not set(parts) & {"none", "exact"}:
        operations.pop("gram", None)
    found = {stage: count / _rate(known, unit[stage], kernel) for stage, count in operations.items()}
    if form.name != "primal" and set(parts) & {"pooled", *RADIAL}:
        # A kernel row is computed once, or on landmarks in each pass over the rows.
        pairs = n * n if form.name == "dual" else form.row_passes * n * form.order
        pace = known["channels" if set(parts) & set(RADIAL) else "float64"]
        found["gram"] = found.get("gram", 0.0) + pairs * rates.channels / pace
    if form.name != "primal" and "none" in parts:
        # The weights of the bits, from those of the rows or landmarks.
        found["solve"] += form.order * rates.features * classes / known["float64"]
    if form.components is not None:
        length = hadamard_length(rates.features)
        values = n * ceil(form.components / length) * length * log2(length)
        found["project"] = (1 if form.holds_speckle else form.row_passes) * values / _rate(known, "hadamard", kernel)
    return found


def _rate(known: Mapping[str, float], name: str, projection: str) -> float:
    if name not in known:
        raise UsageError(
            f"the rates have none of {name!r}, which projection {projection!r} needs; measure them with --projection "
            f"{projection}"
        )
    return known[name]


def _memory(job: Job, forms: list[RidgeForm], rates: Rates, budget: int) -> dict[str, int]:
    types = output_types(rates.features, _channels(job, rates))
    parts = [n for n in (job.rows[0], job.test_images) if fits_memory(types, n, budget)]
    height, width, channels = rates.input_shape
    rows = sum(parts) * row_bytes(types)
    # The rows of a refit are copied together, unless they are in files.
    joined = job.images * row_bytes(types) if job.tested and len(parts) == 2 else 0
    pixels = min(budget // PIXELS_SHARE, job.images * height * width * channels)
    return {"embedding": rows + pixels, "ridge": max(rows + form.bytes for form in forms) + joined}


def _disk(needs: DiskNeeds) -> dict[str, int]:
    return {"files": needs.held, "model": needs.learnt, "work": needs.kept}
