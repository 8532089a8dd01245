"""Whether a fit to so many images fits memory and disk: known before the first of them is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..kernels.bits import packed_length
from ..kernels.memory import Budget
from ..kernels.ridge.form import plan_ridge
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
) -> None:
    """Raise BudgetError unless a ridge of each of several numbers of images fits the memory budget.

    See `kernels.ridge.form.plan_ridge`.
    """
    for n in images:
        plan_ridge(n, features, classes, projection, n_components, channels, budget, on_gpu)


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
    each = row_bytes(types)
    later = 0 if fits_memory(types, expected.images, budget) else expected.images * each
    first = 0 if fits_memory(types, images, budget) else images * each
    # Where both are in files, those of a refit are appended to the training images'; else both are written anew.
    joined = expected.images * each if first else (images + expected.images) * each if later else 0
    held = first + later + (joined if expected.refits else 0)
    needs: dict[Path | str, int] = {}
    if work is not None:
        needs[work] = max(0, (images + expected.images) * each - kept)
    if held:
        place = temporary_folder() if work is None else work
        needs[place] = needs.get(place, 0) + held
    for folder, needed in needs.items():
        require_space(folder, needed, f"what is computed of {images + expected.images:,d} images")
    if expected.out is not None:
        learnt = (images + (expected.images if expected.refits else 0)) * each
        require_space(existing(expected.out), learnt, f"what the model keeps of {images:,d} images")


def existing(path: Path | str) -> Path:
    """Return the nearest folder to a path that exists."""
    found = Path(path).absolute()
    while not found.is_dir():
        found = found.parent
    return found
