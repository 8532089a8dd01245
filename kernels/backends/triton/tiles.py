"""Tile sizes of products, by GPU, and their launch."""

from typing import Any, NamedTuple

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
from triton.tools.tensor_descriptor import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    TensorDescriptor,
)

from ...array_types import Array
from .interop import as_tensor

# With fused multiply-adds, intensities and speckle would differ from NumPy's.
UNFUSED = {"enable_fp_fusion": False}


class Tile(NamedTuple):
    """Tile of one program: rows and columns of the result, and `depth` columns of the operands per step."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    tma: bool

    def constants(self) -> dict[str, int]:
        """Return the compile-time arguments of a product."""
        return {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth, "TMA": self.tma}

    def options(self) -> dict[str, int]:
        """Return the compiler's options for a product."""
        return {"num_warps": self.warps, "num_stages": self.stages, **UNFUSED}


# Hopper is limited by its L2 bandwidth, so its tile is the largest whose sums fit in registers, 128 per thread of
# two warpgroups. Four stages of 48 KiB, loaded by the tensor memory accelerator, fill its shared memory. Other GPUs
# use three stages of 16 KiB, which fit from Ampere on.
LARGE = Tile(128, 256, 128, warps=8, stages=4, tma=True)
SMALL = Tile(128, 128, 64, warps=4, stages=3, tma=False)


def chosen_tile() -> Tile:
    """Return the tile for the current GPU."""
    import torch

    major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    # From Hopper on, descriptors created in the kernel, as in `tile_product`, would need a memory allocator.
    return LARGE if major in (9, 10) else SMALL._replace(tma=major >= 9)


def launch(kernel: Any, rows: Array, others: Array, result: Array, *numbers: float, **constants: bool) -> None:
    """Launch a product of int8 rows of one width."""
    tile = chosen_tile()
    operands = [as_tensor(rows), as_tensor(others)]
    if tile.tma:
        operands = [
            TensorDescriptor.from_tensor(operand, [length, tile.depth])
            for operand, length in zip(operands, (tile.rows, tile.columns), strict=True)
        ]
    grid = (triton.cdiv(len(others), tile.columns), triton.cdiv(len(rows), tile.rows))
    kernel[grid](
        *operands,
        len(rows),
        *others.shape,
        as_tensor(result),
        *numbers,
        **constants,
        **tile.constants(),
        **tile.options(),
    )
