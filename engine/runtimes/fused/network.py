"""Run a plan of fused steps as a torch module."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from .tiles import Tile, Tuner, Work, window_tile

_DTYPES = {"int8": torch.int8, "uint8": torch.uint8, "float16": torch.float16}
_LOWEST, _HIGHEST = -128, 127
_PAIRS = (8, 6)
"""Least compute capability that rounds and saturates two floats in one instruction."""
_TAIL_CHANNELS, _TAIL_BYTES, _TAIL_PLACES = 32, 1024, 256
_LAUNCHES, _REPEATS = 5, 3
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
                self.launchers.append(_tail(step, names, low, high, self.outputs))
            elif isinstance(step, Import):
                self.launchers.append(_import(step))
            else:
                self.launchers.append(_other(step, TorchStep(step.node, opset(model), host, read), self._constants))
        self._dying = _last_uses(self.plan)
        self._tuner, self._tuning, self._lock = Tuner(_seconds), False, threading.Lock()

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

    def tune(self, images: Tensor, batches: Sequence[int]) -> None:
        """Time the tiles of every convolution on so many of the images, and keep the fastest for batches like these."""
        with self._lock:
            self._tuning = True
            try:
                for batch in batches:
                    self(images[:batch])
            finally:
                self._tuning = False

    @property
    def tiles(self) -> dict[Work, Tile]:
        """The tiles that have been chosen, which may be given those of another time."""
        return self._tuner.chosen

    def tile_of(self, work: Work, launch: Callable[[Tile], None]) -> Tile:
        """Return the tile of a convolution."""
        return self._tuner.tune(work, launch) if self._tuning else self._tuner.nearest(work)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the graph's outputs, floats as float32."""
        run = self.run(images)
        for each, dying in zip(self.launchers, self._dying, strict=True):
            each(run)
            run.release(dying)
        found = [run.values[name] for name in self.outputs]
        return [each.float() if each.is_floating_point() else each for each in found]

    def timed(self, images: Tensor) -> list[float]:
        """Return the seconds of each step, waited for."""
        run, seconds = self.run(images), []
        for each, dying in zip(self.launchers, self._dying, strict=True):
            torch.cuda.synchronize(images.device)
            start = time.perf_counter()
            each(run)
            torch.cuda.synchronize(images.device)
            seconds.append(time.perf_counter() - start)
            run.release(dying)
        return seconds


class Run:
    """The tensors of one call."""

    def __init__(self, network: FusedNetwork, images: Tensor) -> None:
        self.network, self.images = network, images
        self.pairs = images.is_cuda and torch.cuda.get_device_capability(images.device) >= _PAIRS
        self.buffers: dict[int, Tensor] = {0: images}
        self.values: dict[str, Tensor] = {}

    def tensor(self, stored: Stored) -> Tensor:
        """Return the channels of a stored tensor, of shape (batch, height, width, channels)."""
        if stored.buffer not in self.buffers:
            height, width, channels, kind = self.network.plan.buffers[stored.buffer]
            shape = (len(self.images), height, width, channels)
            self.buffers[stored.buffer] = torch.empty(shape, dtype=_DTYPES[kind], device=self.images.device)
        return self.buffers[stored.buffer][..., stored.first : stored.first + stored.channels]

    def release(self, dying: "set[int | str]") -> None:
        """Give back buffers, and tensors of torch, that no later step uses."""
        for each in dying:
            if isinstance(each, int):
                self.buffers.pop(each, None)
            else:
                self.values.pop(each, None)

    def constant(self, name: str) -> Tensor:
        """Return an array of the network."""
        found: Tensor = getattr(self.network, name)
        return found


def _seconds(run: Callable[[], None]) -> float:
    """Return the time of a launch among others like it, without what the host does for each."""
    try:
        run()
    except triton.runtime.errors.OutOfResources:
        return math.inf
    graph: Any = torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call, unused-ignore]
    times: list[float] = []
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call, unused-ignore]
        graph.capture_begin(capture_error_mode="thread_local")
        for _ in range(_LAUNCHES):
            run()
        graph.capture_end()
        for _ in range(_REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call, unused-ignore]
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3 / _LAUNCHES)
    return min(times)


def _filled(value: Any, channels: int) -> Any:
    return np.broadcast_to(value, channels).astype("float32")


def _launcher(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    """Return what runs a step's kernel."""
    if step.kind == "images":
        return _images(step, names)
    if step.kind != "convolution":
        return _window(step, names)
    return _product(step, names) if step.kernel == (1, 1) and _is_everywhere(step) else _convolution(step, names)


def _is_everywhere(step: Step) -> bool:
    """Return whether there is a window of 1x1 or 3x3 around every place."""
    places = step.places
    assert places is not None and step.weight is not None
    if step.weight.shape[-1] != step.source.stored.channels:
        return False
    border = [[each // 2 for each in step.kernel]] * 2
    steps = [list(places.strides), list(places.dilations)] == [[1, 1]] * 2
    return step.kernel in ((1, 1), (3, 3)) and steps and [list(places.before), list(places.ends)] == border


class _Call(NamedTuple):
    """What is read, the epilogue's arguments, and sizes and constants that every kernel takes."""

    source: Tensor
    last: list[Any]
    sizes: dict[str, int]
    constants: dict[str, Any]


def _call(step: Step, run: Run, names: dict[str, str]) -> _Call:
    source, out = run.tensor(step.source.stored), run.tensor(step.output)
    epilogue, residual = step.epilogue, step.epilogue.residual
    other = out if residual is None else run.tensor(residual)
    last = [
        run.constant(names["gain"]),
        run.constant(names["shift"]),
        other,
        0.0 if residual is None else residual.scale / step.output.scale,
        out,
        epilogue.low,
        epilogue.high,
    ]
    sizes = {
        "M": out.shape[0] * out.shape[1] * out.shape[2],
        "C": step.source.stored.channels if step.weight is None else step.weight.shape[-1],
        "x_ld": source.stride(2),
        "residual_ld": other.stride(2),
        "out_ld": out.stride(2),
    }
    constants = {
        "RESIDUAL": residual is not None,
        "CLIP": _clip(step.output.kind, epilogue.low, epilogue.high),
        "PAIRS": run.pairs,
    }
    return _Call(source, last, sizes, constants)


def _clip(kind: str, low: float, high: float) -> int:
    """Return which limits a kernel has to apply; see `kernels.clip` and `kernels.to_levels`."""
    if kind != "int8":
        return 2 if high < math.inf else 1 if low > -math.inf else 0
    if high < _HIGHEST:
        return 2
    return 0 if low <= _LOWEST else 1 if low == 0 else 2


def _spatial(step: Step, source: Tensor, out: tuple[int, int]) -> dict[str, int]:
    """Return the sizes that kernels with windows take."""
    sizes = {"H": source.shape[1], "W": source.shape[2], "OUT_H": out[0], "OUT_W": out[1]}
    places = step.places
    steps, pads, spreads = ((1, 1), (0, 0), (1, 1)) if places is None else (
        places.strides, places.before, places.dilations,
    )  # fmt: skip
    for name, pair in (("STEP", steps), ("PAD", pads), ("SPREAD", spreads)):
        sizes |= {f"{name}_H": pair[0], f"{name}_W": pair[1]}
    return sizes | {"KERNEL_W": step.kernel[1], "TAPS": math.prod(step.kernel)}


def _work(step: Step, sizes: dict[str, int]) -> Work:
    return Work(
        sizes["M"],
        step.output.channels,
        sizes["C"],
        math.prod(step.kernel),
        _is_everywhere(step),
        not step.source.chain.is_empty,
        step.epilogue.residual is not None,
        step.source.stored.kind,
        step.output.kind,
    )


def _product(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    chain, filters = step.source.chain, step.output.channels
    _, _, low, high = chain.of_levels(step.source.stored.scale)

    def run(each: Run) -> None:
        call = _call(step, each, names)
        before = [
            each.constant(names[name]) if name in names else call.last[0] for name in ("before_gain", "before_shift")
        ]
        weight, channels = each.constant(names["weight"]), call.sizes["C"]

        def launch(tile: Tile) -> None:
            grid = (triton.cdiv(call.sizes["M"], tile.rows), triton.cdiv(filters, tile.columns))
            kernels.product[grid](
                call.source,
                weight,
                *before,
                low,
                high,
                *call.last,
                N=filters,
                **call.sizes,
                **call.constants,
                BEFORE=not chain.is_empty,
                BEFORE_CLIP=_clip("float16" if chain.scale is None else "int8", low, high),
                WHOLE=channels % tile.depth == 0 and filters % tile.columns == 0,
                ROWS=tile.rows,
                COLUMNS=tile.columns,
                DEPTH=tile.depth,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )

        launch(each.network.tile_of(_work(step, call.sizes), launch))

    return run


def _convolution(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    places, filters = step.places, step.output.channels
    assert places is not None and step.weight is not None
    channels = step.weight.shape[-1]
    pixel = step.source.stored.channels if step.source.stored.channels < channels else 0

    def run(each: Run) -> None:
        call = _call(step, each, names)
        weight = each.constant(names["weight"])
        spatial = _spatial(step, call.source, (step.output.height, step.output.width))

        def launch(tile: Tile) -> None:
            tiles = {
                "ROWS": tile.rows,
                "COLUMNS": tile.columns,
                "DEPTH": tile.depth,
                "num_warps": tile.warps,
                "num_stages": tile.stages,
                "PARTS": channels // tile.depth if channels % tile.depth == 0 else 0,
            }
            common = [call.source, weight, *call.last]
            sizes = call.sizes | call.constants | {"N": filters} | tiles
            columns = triton.cdiv(filters, tile.columns)
            if tile.by_row:
                grid = (triton.cdiv(sizes["M"], tile.rows - 2), columns)
                kernels.convolution_3x3[grid](*common, **sizes, H=spatial["H"], W=spatial["W"])
                return
            grid = (triton.cdiv(sizes["M"], tile.rows), columns)
            kernels.convolution[grid](*common, **sizes, **spatial, PIXEL=pixel, PAIRED=places.strides[1] % 2 == 0)

        launch(each.network.tile_of(_work(step, call.sizes), launch))

    return run


def _window(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    def run(each: Run) -> None:
        call = _call(step, each, names)
        weight = each.constant(names["weight"]) if "weight" in names else call.last[0]
        rows, columns = window_tile(call.sizes["M"], call.sizes["C"])
        grid = (triton.cdiv(call.sizes["M"], rows), triton.cdiv(call.sizes["C"], columns))
        kernels.window[grid](
            call.source,
            weight,
            *call.last,
            **call.sizes,
            **_spatial(step, call.source, (step.output.height, step.output.width)),
            **call.constants,
            KIND=_KINDS[step.kind],
            ROWS=rows,
            COLUMNS=columns,
        )

    return run


def _images(step: Step, names: dict[str, str]) -> Callable[[Run], None]:
    places = step.places
    assert places is not None

    def run(each: Run) -> None:
        source, out = each.tensor(step.source.stored), each.tensor(step.output)
        gain, shift = each.constant(names["gain"]), each.constant(names["shift"])
        batch, height, width, pixel = out.shape
        count = batch * height * width
        rows, _ = window_tile(count, pixel)
        kernels.pixels[(triton.cdiv(count, rows),)](
            source,
            out,
            gain,
            shift,
            step.epilogue.low,
            step.epilogue.high,
            count,
            source.shape[1],
            source.shape[2],
            height,
            width,
            *places.before,
            CHANNELS=source.shape[3],
            PIXEL=pixel,
            CLIP=_clip(step.output.kind, step.epilogue.low, step.epilogue.high),
            PAIRS=each.pairs,
            ROWS=rows,
        )

    return run


def _tail(step: Tail, names: list[str], low: float, high: float, outputs: list[str]) -> Callable[[Run], None]:
    stored = step.source.stored
    places, channels = stored.height * stored.width, stored.channels
    group = min(_TAIL_CHANNELS, triton.next_power_of_2(channels))

    def run(each: Run) -> None:
        source, batch = each.tensor(stored), len(each.images)
        shapes = {
            "features": (channels * places, torch.float32),
            "bits": (packed_length(channels * places), torch.uint8),
            "pooled": (channels, torch.float32),
        }
        # What is not asked for has no place, and is not written.
        found = {
            name: torch.empty((batch, length if name in outputs else 0), dtype=dtype, device=source.device)
            for name, (length, dtype) in shapes.items()
        }
        kernels.tail[(batch, triton.cdiv(channels, group))](
            source,
            *map(each.constant, names),
            low,
            high,
            *found.values(),
            channels,
            source.stride(2),
            1 / places,
            PLACES=places,
            GROUP=group,
            BYTES=min(_TAIL_BYTES, triton.next_power_of_2(group // 8 * places)),
            ROWS=min(_TAIL_PLACES, triton.next_power_of_2(places)),
            **{name.upper(): name in outputs for name in shapes},
        )
        each.values |= found

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


def _last_uses(found: Plan) -> "list[set[int | str]]":
    """Return, for each step, the buffers and the names of torch's tensors that no later step uses."""
    seen: set[int | str] = set(found.outputs)
    dying = []
    for step in reversed(found.steps):
        used: set[int | str] = {each.buffer if isinstance(each, Stored) else each for each in _used(step)}
        dying.append(used - seen)
        seen |= used
    return dying[::-1]


def _used(step: Any) -> "list[Stored | str]":
    if isinstance(step, Step):
        residual = [] if step.epilogue.residual is None else [step.epilogue.residual]
        return [step.source.stored, step.output, *residual]
    if isinstance(step, Tail):
        return [step.source.stored]
    if isinstance(step, Import):
        return [step.tensor, step.output]
    return [*(each for each in step.inputs if each is not None), *step.node.output]
