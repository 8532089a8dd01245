"""Whether a fit to so many images fits memory and disk: known before the first of them is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..kernels.bits import packed_length
from ..kernels.memory import Budget
from ..kernels.ridge.form import POOLED, RidgeForm, plan_ridge
from .rows import Types, fits_memory, require_space, row_bytes, temporary_folder


@dataclass(frozen=True)
class Expected:
    """What follows a fit, and has to fit too.

    Attributes
    ----------
    images : int
        That are embedded after the training images, such as test images.
    refits : bool
        Whether the classifier is then fitted again, to all of them.
    out : path or None
        The model folder that will be written.
    """

    images: int = 0
    refits: bool = False
    out: Path | str | None = None


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes on the disks of what is computed of the images of a fit.

    Attributes
    ----------
    kept : int
        The blocks of a work folder, where there is one.
    held : int
        Files without a name, for what takes more than a share of the memory budget; see `transfer.rows`.
    learnt : int
        What the model folder keeps of the training images.
    """

    kept: int
    held: int
    learnt: int


def reads_pooled(projection: str) -> bool:
    """Return whether a projection reads pooled features besides the bits, or may choose a kernel that does."""
    return projection == "auto" or projection in POOLED


def output_types(features: int, channels: int | None) -> Types:
    """Return shapes and dtypes of an engine's bits and pooled features; of no pooled ones for None."""
    bits: Types = {"bits": ((packed_length(features),), "uint8")}
    return bits if channels is None else {**bits, "pooled": ((channels,), "float32")}


def require_ridge(
    images: Sequence[int],
    features: int,
    channels: int | None,
    classes: int,
    projection: str,
    n_components: int | None,
    budget: Budget,
    on_gpu: bool = False,
) -> list[RidgeForm]:
    """Return the form of a ridge of each of several numbers of images; raise BudgetError unless each fits the budget.

    See `kernels.ridge.form.plan_ridge`.
    """
    return [plan_ridge(n, features, classes, projection, n_components, channels, budget, on_gpu) for n in images]


def disk_needs(images: int, types: Types, expected: Expected, budget: Budget) -> DiskNeeds:
    """Return what a fit to so many training images writes.

    Parameters
    ----------
    images, types, expected, budget
        See `require_disk`.
    """
    each = row_bytes(types)
    later = 0 if fits_memory(types, expected.images, budget) else expected.images * each
    first = 0 if fits_memory(types, images, budget) else images * each
    # Where both are in files, those of a refit are appended to the training images'; else both are written anew.
    joined = expected.images * each if first else (images + expected.images) * each if later else 0
    held = first + later + (joined if expected.refits else 0)
    learnt = (images + (expected.images if expected.refits else 0)) * each
    return DiskNeeds((images + expected.images) * each, held, learnt)


def require_disk(
    images: int, types: Types, expected: Expected, budget: Budget, work: Path | str | None = None, kept: int = 0
) -> None:
    """Raise SaveError unless the disks hold what is computed of the images.

    Parameters
    ----------
    images : int
        Training images.
    types : mapping
        What is computed of each.
    expected : Expected
    budget : int, str or None
        What takes more than a share of it is in files; see `transfer.rows`.
    work : path, optional
        A work folder, which keeps the same besides.
    kept : int
        Bytes that it has of them.
    """
    needed = disk_needs(images, types, expected, budget)
    needs: dict[Path | str, int] = {}
    if work is not None:
        needs[work] = max(0, needed.kept - kept)
    if needed.held:
        place = temporary_folder() if work is None else work
        needs[place] = needs.get(place, 0) + needed.held
    for folder, size in needs.items():
        require_space(folder, size, f"what is computed of {images + expected.images:,d} images")
    if expected.out is not None:
        require_space(existing(expected.out), needed.learnt, f"what the model keeps of {images:,d} images")


def existing(path: Path | str) -> Path:
    """Return the nearest folder to a path that exists."""
    found = Path(path).absolute()
    while not found.is_dir():
        found = found.parent
    return found
