"""Run a plan of fused steps as a torch module."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor

from ....calibration.graph.edit import opset
from ....kernels.bits import packed_length
from ..torch_graph import Step as TorchStep
from . import kernels
from .plan import Import, Other, Plan, Step, Stored, Tail, plan
from .tiles import Tile, Tuner, Work, tiles_for, window_tile

_DTYPES = {"int8": torch.int8, "uint8": torch.uint8, "float16": torch.float16}
_KINDS = {"depthwise": 0, "average pool": 1, "max pool": 2, "map": 1}


class FusedNetwork(torch.nn.Module):
    """A network as fused steps, on uint8 images of shape (batch, height, width, channels).

    Parameters
    ----------
    model : onnx.ModelProto

    Raises
    ------
    AurevoirError
        If the graph cannot be planned, or torch does not support a node that is left to it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.plan: Plan = plan(model)
        self.outputs = self.plan.outputs
        self._constants = {name: self._kept(value) for name, value in self.plan.constants.items()}
        host = {name: torch.from_numpy(value.copy()) for name, value in self.plan.constants.items()}
        read = _reads(model)
        self.launchers: list[Callable[[Run], None]] = []
        for step in self.plan.steps:
            if isinstance(step, Step):
                self.launchers.append(_launcher(step, self._arguments(step)))
            elif isinstance(step, Tail):
                chain = step.source.chain
                gain, shift, low, high = chain.of_levels(step.source.stored.scale)
                channels = step.source.stored.channels
                names = [self._kept(_filled(value, channels)) for value in (gain, shift)]
                self.launchers.append(_tail(step, names, low, high))
            elif isinstance(step, Import):
                self.launchers.append(_import(step))
            else:
                self.launchers.append(_other(step, TorchStep(step.node, opset(model), host, read), self._constants))
        self._dying = _last_uses(self.plan)
        self._tuner, self._tuning, self._lock = Tuner(_milliseconds), False, threading.Lock()

    def _kept(self, value: Any) -> str:
        """Register an array as a buffer, and return its name."""
        buffer = f"constant_{len(self._buffers)}"
        self.register_buffer(buffer, torch.from_numpy(value.copy()))
        return buffer

    def _arguments(self, step: Step) -> dict[str, str]:
        arrays = {"gain": step.epilogue.gain, "shift": step.epilogue.shift}
        if step.weight is not None:
            arrays["weight"] = step.weight
        if not step.source.chain.is_empty:
            gain, shift, _, _ = step.source.chain.of_levels(step.source.stored.scale)
            channels = step.source.stored.channels
            arrays |= {"before_gain": _filled(gain, channels), "before_shift": _filled(shift, channels)}
        return {name: self._kept(value) for name, value in arrays.items()}

    def run(self, images: Tensor) -> "Run":
        """Return what holds the tensors of a call, before the first step."""
        return Run(self, images.contiguous())

    def tune(self, images: Tensor) -> None:
        """Time the tiles of every convolution on a batch of images, and keep the fastest for batches of its size."""
        with self._lock:
            self._tuning = True
            try:
                self(images)
            finally:
                self._tuning = False

    def tile_of(self, work: Work, launch: Callable[[Tile], None]) -> Tile:
        """Return the tile of a convolution."""
        if self._tuning:
            return self._tuner.tune(work, launch)
        return self._tuner.chosen.get(work) or tiles_for(work)[0]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the graph's outputs, floats as float32."""
        run = self.run(images)
        for each, dying in zip(self.launchers, self._dying, strict=True):
            each(run)
            for buffer in dying:
                run.buffers.pop(buffer, None)
        found = [run.values[name] for name in self.outputs]
        return [each.float() if each.is_floating_point() else each for each in found]

    def timed(self, images: Tensor) -> list[float]:
        """Return the seconds of each step, waited for."""
        run, seconds = self.run(images), []
        for each in self.launchers:
            torch.cuda.synchronize(images.device)
            start = time.perf_counter()
            each(run)
            torch.cuda.synchronize(images.device)
            seconds.append(time.perf_counter() - start)
        return seconds


class Run:
    """The tensors of one call."""

    def __init__(self, network: FusedNetwork, images: Tensor) -> None:
        self.network, self.images = network, images
        self.buffers: dict[int, Tensor] = {0: images}
        self.values: dict[str, Tensor] = {}

    def tensor(self, stored: Stored) -> Tensor:
        """Return the channels of a stored tensor, of shape (batch, height, width, channels)."""
        if stored.buffer not in self.buffers:
            height, width, channels, kind = self.network.plan.buffers[stored.buffer]
            shape = (len(self.images), height, width, channels)
            self.buffers[stored.buffer] = torch.empty(shape, dtype=_DTYPES[kind], device=self.images.device)
        return self.buffers[stored.buffer][..., stored.first : stored.first + stored.channels]

    def constant(self, name: str) -> Tensor:
        """Return an array of the network."""
        found: Tensor = getattr(self.network, name)
        return found


def _milliseconds(run: Callable[[], None]) -> float:
    found: float = triton.testing.do_bench(run, warmup=2, rep=10)
    return found


def _filled(value: Any, channels: int) -> Any:
    return np.broadcast_to(value, channels).astype("float32")


def _launcher(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    """Return what runs a step's kernel."""
    return _convolution(step, names) if step.kind == "convolution" else _window(step, names)


def _shared(step: Step, run: Run, names: dict[str, str]) -> tuple[Tensor, list[Any], dict[str, Any]]:
    """Return what is read, the epilogue's arguments, and the sizes that both kernels take."""
    source, out = run.tensor(step.source.stored), run.tensor(step.output)
    residual = step.epilogue.residual
    other = out if residual is None else run.tensor(residual)
    unit = step.output.scale
    share = 0.0 if residual is None else residual.scale / unit
    last = [
        run.constant(names["gain"]),
        run.constant(names["shift"]),
        other,
        share,
        out,
        step.epilogue.low,
        step.epilogue.high,
    ]
    places = step.places
    sizes = {
        "M": out.shape[0] * out.shape[1] * out.shape[2],
        "C": step.source.stored.channels,
        "x_ld": source.stride(2),
        "residual_ld": other.stride(2),
        "out_ld": out.stride(2),
        "H": source.shape[1],
        "W": source.shape[2],
        "OUT_H": out.shape[1],
        "OUT_W": out.shape[2],
    }
    steps, pads, spreads = ((1, 1), (0, 0), (1, 1)) if places is None else (
        places.strides, places.before, places.dilations,
    )  # fmt: skip
    for name, pair in (("STEP", steps), ("PAD", pads), ("SPREAD", spreads)):
        sizes |= {f"{name}_H": pair[0], f"{name}_W": pair[1]}
    sizes |= {"KERNEL_W": step.kernel[1], "TAPS": math.prod(step.kernel), "RESIDUAL": residual is not None}
    return source, last, sizes


def _convolution(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    chain, places = step.source.chain, step.places
    assert places is not None and step.weight is not None
    outputs, taps, channels = step.weight.shape
    plain = taps == 1 and list(places.strides) == [1, 1] and not any((*places.before, *places.ends))
    _, _, low, high = chain.of_levels(step.source.stored.scale)

    def run(each: Run) -> None:
        source, last, sizes = _shared(step, each, names)
        before = [each.constant(names[name]) if name in names else last[0] for name in ("before_gain", "before_shift")]
        weight = each.constant(names["weight"])

        def launch(tile: Tile) -> None:
            grid = (triton.cdiv(sizes["M"], tile.rows), triton.cdiv(outputs, tile.columns))
            kernels.convolution[grid](
                source,
                weight,
                *before,
                low,
                high,
                *last,
                N=outputs,
                **sizes,
                BEFORE=not chain.is_empty,
                PLAIN=plain,
                WHOLE=channels % tile.depth == 0,
                ROWS=tile.rows,
                COLUMNS=tile.columns,
                DEPTH=tile.depth,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )

        work = Work(
            sizes["M"],
            outputs,
            channels,
            taps,
            not chain.is_empty,
            step.epilogue.residual is not None,
            step.source.stored.kind,
            step.output.kind,
        )
        launch(each.network.tile_of(work, launch))

    return run


def _window(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    def run(each: Run) -> None:
        source, last, sizes = _shared(step, each, names)
        weight = each.constant(names["weight"]) if "weight" in names else last[0]
        rows, columns = window_tile(sizes["M"], sizes["C"])
        grid = (triton.cdiv(sizes["M"], rows), triton.cdiv(sizes["C"], columns))
        kernels.window[grid](source, weight, *last, **sizes, KIND=_KINDS[step.kind], ROWS=rows, COLUMNS=columns)

    return run


def _tail(step: Tail, names: list[str], low: float, high: float) -> Callable[[Run], None]:
    stored = step.source.stored
    places = stored.height * stored.width

    def run(each: Run) -> None:
        source, batch, device = each.tensor(stored), len(each.images), each.images.device
        features = torch.empty((batch, stored.channels * places), dtype=torch.float32, device=device)
        bits = torch.empty((batch, packed_length(stored.channels * places)), dtype=torch.uint8, device=device)
        pooled = torch.empty((batch, stored.channels), dtype=torch.float32, device=device)
        kernels.tail[(batch, stored.channels // 8)](
            source,
            *map(each.constant, names),
            low,
            high,
            features,
            bits,
            pooled,
            stored.channels,
            source.stride(2),
            1 / places,
            PLACES=places,
            BLOCK=triton.next_power_of_2(places),
        )
        each.values |= {"features": features, "bits": bits, "pooled": pooled}

    return run


def _import(step: Import) -> Callable[[Run], None]:
    def run(each: Run) -> None:
        each.tensor(step.output).copy_(each.values[step.tensor].permute(0, 2, 3, 1))

    return run


def _other(step: Other, operator: TorchStep, constants: dict[str, str]) -> Callable[[Run], None]:
    def run(each: Run) -> None:
        inputs: list[Tensor | None] = []
        for given in step.inputs:
            if given is None:
                inputs.append(None)
            elif isinstance(given, Stored):
                tensor = each.tensor(given).permute(0, 3, 1, 2).float()
                inputs.append(tensor * given.scale if given.kind == "int8" else tensor)
            else:
                inputs.append(each.constant(constants[given]) if given in constants else each.values[given])
        each.values.update(zip(operator.outputs, operator.run(inputs), strict=False))

    return run


def _reads(model: onnx.ModelProto) -> Counter[str]:
    outputs = [value.name for value in model.graph.output]
    return Counter([*outputs, *(name for node in model.graph.node for name in node.input if name)])


def _last_uses(found: Plan) -> list[set[int]]:
    """Return, for each step, the buffers that no later step uses."""
    seen: set[int] = set()
    dying = []
    for step in reversed(found.steps):
        used = {stored.buffer for stored in _stored(step)}
        dying.append(used - seen)
        seen |= used
    return dying[::-1]


def _stored(step: Any) -> list[Stored]:
    if isinstance(step, Step):
        residual = [] if step.epilogue.residual is None else [step.epilogue.residual]
        return [step.source.stored, step.output, *residual]
    if isinstance(step, Tail):
        return [step.source.stored]
    if isinstance(step, Import):
        return [step.output]
    return [each for each in step.inputs if isinstance(each, Stored)]
