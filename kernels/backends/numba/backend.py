"""Backend functions in Numba, if faster than the reference; see `reference` for their definitions."""

from ....errors import UsageError
from ...array_types import Bits, Counts, Observed, OtherBits, PackedChainSigns, Speckle, SquareCounts
from ...bits import check_bits
from ...memory import Budget
from ...random_matrix import Entries, gaussian_levels
from ..reference import cholesky, dense_signs
from ..reference import gram as plain_gram
from ..reference import hadamard as plain_hadamard
from . import dense as dense_kernel
from . import hadamard as hadamard_kernel
from . import products
from .magnitudes import count_magnitudes, largest_magnitude

__all__ = ["cholesky", "count_magnitudes", "dense", "gram", "hadamard", "largest_magnitude", "shared_ones"]

# Transforms shorter than a vector use NumPy.
_LEAST_LENGTH = 16


def shared_ones(bits: Bits, others: OtherBits | None = None, *, budget: Budget = None) -> Counts:
    """Count shared ones; nothing is unpacked, so the budget is ignored."""
    return products.shared_ones(bits, others)


def gram(speckle: Speckle, *, budget: Budget = None) -> SquareCounts:
    """Return exact inner products, with int8 dot products if the processor supports them."""
    if speckle.ndim != 2 or speckle.dtype != "uint8":
        raise UsageError(f"speckle of dtype {speckle.dtype} and shape {speckle.shape} is not uint8 of shape (n, k)")
    return products.gram(speckle) if products.has_dot_product() else plain_gram(speckle)


def dense(
    bits: Bits,
    m: int,
    k: int,
    seed: int,
    entries: Entries = "gaussian",
    gain: float | None = None,
    *,
    budget: Budget = None,
) -> Observed:
    """Project bits by a random matrix; a Gaussian one is never stored."""
    check_bits(bits, m)
    if k < 1:
        raise UsageError(f"k = {k} outputs; give 1 or more")
    if entries == "signs":
        return dense_signs(bits, m, k, seed, gain, budget, shared_ones, dense_kernel.sign_rows)
    return dense_kernel.dense(bits, k, seed, gaussian_levels(), gain)


def hadamard(bits: Bits, m: int, k: int, signs: PackedChainSigns, gain: float | None = None) -> Observed:
    """Project bits by Walsh-Hadamard transforms, one row at a time within the caches."""
    check_bits(bits, m)
    hadamard_kernel.check(bits, signs, k)
    if 8 * signs.shape[-1] < _LEAST_LENGTH:
        return plain_hadamard(bits, m, k, signs, gain)
    return hadamard_kernel.hadamard(bits, signs, k, gain)
