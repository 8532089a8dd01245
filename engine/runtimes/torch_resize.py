"""Resize and Upsample of ONNX in torch: along each axis a selection of values, or a small matrix product."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .torch_node import Node, Operator

_COORDINATES = ("asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners")


class _Resize:
    """The way values are taken, from the attributes."""

    def __init__(self, node: Node) -> None:
        self.mode, self.coordinates, self.rounding = node["mode"], "asymmetric", "floor"
        self.antialias, self.outside, self.cubic = False, False, -0.75
        if node.opset >= 11:
            self.coordinates, self.rounding = node["coordinate_transformation_mode"], node["nearest_mode"]
            self.antialias, self.outside = bool(node["antialias"]), bool(node["exclude_outside"])
            self.cubic, _ = node["cubic_coeff_a"], node["extrapolation_value"]
        if self.coordinates not in _COORDINATES:
            raise node.refusal(f"coordinate_transformation_mode {self.coordinates!r}")
        if self.antialias and not self.outside:
            raise node.refusal("antialias")
        if self.mode not in ("nearest", "linear", "cubic"):
            raise node.refusal(f"mode {self.mode!r}")

    def positions(self, length: int, size: int, scale: float) -> np.ndarray:
        """Return where each new value lies among the old ones."""
        x = np.arange(size, dtype="float64")
        if self.coordinates == "asymmetric":
            return x / scale
        if self.coordinates == "align_corners":
            return x * ((length - 1) / (size - 1) if size > 1 else 0.0)
        if self.coordinates == "pytorch_half_pixel" and size == 1:
            return x * 0
        found = (x + 0.5) / scale - 0.5
        if self.coordinates == "half_pixel_symmetric":
            found += (1 - size / (scale * length)) * length / 2
        return found

    def nearest(self, length: int, size: int, scale: float) -> np.ndarray:
        """Return the index of the old value for each new one."""
        # ONNX Runtime computes positions in float32: what differs by less than that is a tie.
        x = np.round(self.positions(length, size, scale), 5)
        rounded = {
            "floor": np.floor(x),
            "ceil": np.ceil(x),
            "round_prefer_floor": np.ceil(x - 0.5),
            "round_prefer_ceil": np.floor(x + 0.5),
        }[self.rounding]
        found: np.ndarray = np.clip(rounded, 0, length - 1).astype("int64")
        return found

    def matrix(self, length: int, size: int, scale: float) -> np.ndarray:
        """Return the weights of the old values (columns) for each new one (rows)."""
        x = self.positions(length, size, scale)[:, None]
        stretch = min(scale, 1.0) if self.antialias else 1.0
        reach = int(np.ceil((2 if self.mode == "cubic" else 1) / stretch))
        taps = np.floor(x) + np.arange(1 - reach, reach + 1)
        weights = self._kernel((taps - x) * stretch)
        inside = (taps >= 0) & (taps < length)
        if self.outside or self.antialias:
            weights = weights * inside
        weights /= weights.sum(axis=1, keepdims=True)
        matrix = np.zeros((size, length))
        np.add.at(matrix, (np.arange(size)[:, None], np.clip(taps, 0, length - 1).astype(int)), weights)
        return matrix

    def _kernel(self, distance: np.ndarray) -> np.ndarray:
        d, a = np.abs(distance), self.cubic
        if self.mode == "linear":
            return np.asarray(np.maximum(1 - d, 0))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        found: np.ndarray = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
        return found


def _resize(node: Node) -> Operator:
    way, places = _Resize(node), {"Upsample": (1, None)}.get(node.kind, (2, 3) if node.opset >= 11 else (1, None))
    axes, policy = (node["axes"], node["keep_aspect_ratio_policy"]) if node.opset >= 18 else (None, "stretch")
    scales, sizes = (None if place is None else node.constant(place) for place in places)
    given = node["scales"] if node.kind == "Upsample" else None
    if policy != "stretch":
        raise node.refusal(f"keep_aspect_ratio_policy {policy!r}")
    kept: dict[tuple[Any, ...], Tensor] = {}

    def along(x: Tensor, axis: int, size: int, scale: float) -> Tensor:
        key = (x.shape[axis], size, scale, x.device, x.dtype)
        if way.mode == "nearest":
            if key not in kept:
                kept[key] = torch.from_numpy(way.nearest(x.shape[axis], size, scale)).to(x.device)
            return x.index_select(axis, kept[key])
        if key not in kept:
            kept[key] = torch.from_numpy(way.matrix(x.shape[axis], size, scale)).to(x.device, x.dtype)
        product: Tensor = torch.tensordot(x, kept[key], dims=([axis], [1]))
        return product.movedim(-1, axis)

    def run(x: Tensor, *inputs: Tensor | None) -> Tensor:
        chosen = [axis % x.dim() for axis in axes or range(x.dim())]
        wanted = _numbers(scales, inputs, places[0]) if given is None else given
        if wanted:
            factors, lengths = (
                wanted,
                [int(x.shape[axis] * factor) for axis, factor in zip(chosen, wanted, strict=True)],
            )
        else:
            lengths = [int(size) for size in _numbers(sizes, inputs, places[1]) or []]
            factors = [length / x.shape[axis] for axis, length in zip(chosen, lengths, strict=True)]
        for axis, length, factor in zip(chosen, lengths, factors, strict=True):
            if factor != 1 or length != x.shape[axis]:
                x = along(x, axis, length, factor)
        return x

    return run


def _numbers(constant: Tensor | None, inputs: tuple[Tensor | None, ...], place: int | None) -> list[float] | None:
    if place is None:
        return None
    found = constant if constant is not None else inputs[place - 1] if place <= len(inputs) else None
    return None if found is None else [float(value) for value in found.tolist()]


OPERATORS: dict[str, Callable[[Node], Operator]] = {"Resize": _resize, "Upsample": _resize}
"""Makers of operators from nodes."""
