"""From a backbone to an engine, in steps that several precisions can share.

`export_backbone` makes the float graph, `calibrate` the table of thresholds, `assemble` an engine
of one precision; `build_engine` does all three.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..calibration.graph.edit import prune
from ..calibration.placement import check_placement
from ..calibration.quantize import DIALECTS
from ..calibration.table import CalibrationTable
from ..calibration.thresholds import check_method
from ..errors import AurevoirError, UsageError
from ..images.batches import ImageArray, ImageFiles, channel_statistics, collect
from ..images.decode import Resize, check_resize
from ..images.sources import expand
from .assemble import Exported, assemble, with_fidelity, with_speed
from .backbones import open_backbone
from .backbones.base import Backbone, BackboneLike
from .calibrate import calibrate, hold_out, keep_in_float32, reach_sign_agreement, read_table
from .engine import Engine
from .export import feature_count, wrap
from .runtimes import (
    check_device,
    choose_builder,
    choose_runtime,
    default_device,
    narrowest_float,
)
from .runtimes.tensorrt_plan import BATCHES
from .smoke import first_inference

CALIBRATION_IMAGES = 128
HELD_OUT_IMAGES = 32
Normalization = str | tuple[Sequence[float], Sequence[float]]


def build_engine(
    backbone: BackboneLike,
    cut: str | None = None,
    precision: str = "fp32",
    runtime: str = "auto",
    *,
    weights: str | Path = "default",
    calibration: Any = None,
    calibration_images: int = CALIBRATION_IMAGES,
    method: str = "percentile",
    normalization: Normalization = "imagenet",
    size: int | None = None,
    resize: Resize = "stretch",
    seed: int = 0,
    dialect: str = "auto",
    placement: str = "conv-inputs",
    min_sign_agreement: float | None = None,
    prefer_faster: bool = False,
    smoke: bool = True,
    target: str | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
    batches: tuple[int, int, int] = BATCHES,
    device: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Engine:
    """Build an engine.

    Parameters
    ----------
    backbone : str, path or torch.nn.Module
        A torchvision name, an ONNX file, or a module.
    cut : str, optional
        Where the network ends; None stands for the backbone's default. See `Backbone.cuts`.
    precision : {"fp32", "fp16", "bf16", "int8"}
        On a GPU fp32 is computed without TF32, by every runtime.
    runtime : {"auto", "openvino", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx"}
    weights : {"default", "random"} or path
    calibration : path, list of paths, uint8 array, CalibrationTable, or path of one (.json, .cache)
        Images to set int8 thresholds, the batch-norm statistics of random weights and the data's
        normalisation from; of these, `calibration_images` are used, and up to 32 others measure
        the fidelity. A table, ours or TensorRT's calibration cache, needs no images.
    calibration_images : int
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
    normalization : {"imagenet", "data"} or (mean, std)
        Of pixels scaled to [0, 1].
    size : int, optional
        Height and width of the input; None stands for the backbone's own.
    resize : {"stretch", "crop"}
    seed : int
        Of random weights and of the choice of calibration images.
    dialect : {"auto", "s8", "u8"}
        Of int8: ``u8`` stores unsigned what cannot be negative; ``auto`` takes it on CPUs with
        VNNI, else ``s8``, as TensorRT needs.
    placement : {"conv-inputs", "concat-inputs", "shared-concat"}
        Of int8: what is quantized; see `calibration.placement`.
    min_sign_agreement : float, optional
        Leave the fewest tensors of an int8 engine in floating point that bring the share of signs
        that agree with fp32 to this, measured on the held-out images; the manifest's
        ``images_per_second`` says what that costs.
    prefer_faster : bool
        Return an engine of the runtime's narrowest float precision where int8 is not faster than
        that on this machine.
    smoke : bool
        Run the engine once in a child process before anything else, so that a native library that
        crashes on it raises an error here.
    target : str, optional
        Build the plan for GPUs of this architecture, such as ``sm89``, which need not be here:
        runtime ``tensorrt-rtx``. What needs the GPU is left out: the first inference, the fidelity
        and the speeds.
    workspace : int, optional
        Of NVIDIA's runtimes: bytes of GPU memory that one layer may take for scratch.
    timing_cache : path, optional
        Of TensorRT: a file of kernel timings that builds read and add to.
    batches : (int, int, int)
        Of NVIDIA's runtimes: the smallest batch, the one to choose kernels for, and the largest.
    device : str, optional
        As the runtime names it; None stands for its first.
    out : path, optional
        Where to write the engine file.
    progress : bool
        Whether to show progress bars on stderr.

    Returns
    -------
    Engine

    Raises
    ------
    UsageError
        If an argument is not one of its choices, or images are needed and none are given.
    AurevoirError
        If the backbone, its weights or the images cannot be used.
    MissingPackageError
        If the runtime, or torch for a torchvision name, is not installed.
    """
    runtime = _checked_runtime(runtime, precision, device, target, min_sign_agreement is not None or prefer_faster)
    check_method(method)
    check_resize(resize)
    check_dialect(dialect)
    check_placement(placement)
    opened = open_backbone(backbone, weights, size, seed)
    opened.resolve(cut)
    used = held_out = None
    if calibration is not None and not is_table(calibration):
        used, held_out = calibration_sample(calibration, opened.size, calibration_images, resize, seed, progress)
    if min_sign_agreement is not None and precision == "int8" and held_out is None:
        raise UsageError(
            "min_sign_agreement needs 4 or more images to measure on; give a folder of them (calibration=...)"
        )
    exported = export_backbone(opened, cut, used, normalization, resize)
    table = given_table(calibration, exported)
    if precision == "int8" and table is None:
        table = calibrate(exported, used, method, progress, placement)
    full = keep_in_float32(exported, runtime, precision, used)
    assembled = partial(assemble, exported, device=device, target=target, full=full)
    make = partial(assembled, precision, runtime, dialect=dialect, placement=placement)

    def ready(engine: Engine) -> Engine:
        engine.build_plan(progress, workspace, timing_cache, batches)
        if smoke and target is None:
            first_inference(engine)
        return engine

    engine = ready(make(table))
    if table is not None and precision == "int8" and target is None:
        reached = table
        if min_sign_agreement is not None and held_out is not None:
            search = (exported, table, min_sign_agreement, held_out, make, progress, placement)
            reached, left = reach_sign_agreement(*search)
            reached = reached if left else table
        engine = _compared(
            engine,
            None if reached is table else ready(make(reached)),
            assembled(narrowest_float(runtime, device), runtime),
            ready if prefer_faster else None,
            progress,
        )
    if held_out is not None and precision != "fp32" and target is None:
        engine = with_fidelity(engine, exported, held_out)
    if out is not None:
        engine.save(out)
    return engine


def _checked_runtime(runtime: str, precision: str, device: str | None, target: str | None, runs: bool) -> str:
    """Return the runtime that builds, once it is known to; `runs` says whether engines must run on this machine."""
    if target is None:
        runtime = choose_runtime(runtime, precision, device=device)
        check_device(runtime, device or default_device(runtime))
        return runtime
    if runs:
        raise UsageError("min_sign_agreement and prefer_faster run engines here, and target is elsewhere; leave it out")
    return choose_builder(runtime, precision, target)


def _compared(
    engine: Engine,
    partly: Engine | None,
    rival: Engine,
    prefer: Callable[[Engine], Engine] | None,
    progress: bool,
) -> Engine:
    """Time an int8 engine, or the one that is partly in floating point, beside its rival; return which to keep."""
    rivals = {rival.precision: rival}
    if partly is not None:
        rivals["int8 throughout"], engine = engine, partly
    engine = with_speed(engine, rivals, progress)
    speeds = engine.manifest.images_per_second
    if prefer is None or speeds["int8"] > speeds[rival.precision]:
        return engine
    return prefer(rival).told(replace(rival.manifest, images_per_second=speeds))


def is_table(calibration: Any) -> bool:
    """Tell a calibration table, or the path of one, from images."""
    return isinstance(calibration, CalibrationTable) or (
        isinstance(calibration, str | Path) and Path(calibration).suffix in (".json", ".cache")
    )


def given_table(calibration: Any, exported: Exported) -> CalibrationTable | None:
    """Return the table that stands in for calibration images, if one does."""
    if not is_table(calibration):
        return None
    return calibration if isinstance(calibration, CalibrationTable) else read_table(Path(calibration), exported)


def check_dialect(dialect: str) -> None:
    """Refuse a dialect that is not known."""
    if dialect not in ("auto", *DIALECTS):
        raise UsageError(f"dialect {dialect!r} is not known; choose one of auto, {', '.join(DIALECTS)}")


def calibration_sample(
    images: Any,
    size: tuple[int, int],
    count: int,
    resize: Resize = "stretch",
    seed: int = 0,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return up to `count` images to calibrate on, and a third as many others, 32 at most, to measure on.

    Of fewer than 4 images none are held out. See `sample_images`.
    """
    sample = sample_images(images, size, count + min(HELD_OUT_IMAGES, count // 3), resize, seed, progress)
    return hold_out(sample, HELD_OUT_IMAGES)


def sample_images(
    images: Any,
    size: tuple[int, int],
    count: int,
    resize: Resize = "stretch",
    seed: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """Return up to `count` images, chosen by the seed, as uint8 of shape (n, height, width, 3).

    Parameters
    ----------
    images : path, list of paths, or uint8 array of shape (n, height, width, 3)
        Folders stand for the files under them.

    Raises
    ------
    UsageError
        If an array is of another size or dtype.
    AurevoirError
        If no file holds a readable image.
    """
    random = np.random.default_rng(seed)
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.shape[1:] != (*size, 3):
            raise UsageError(
                f"calibration images of shape {images.shape} and dtype {images.dtype}; give uint8 of shape "
                f"(n, {size[0]}, {size[1]}, 3), or another size"
            )
        return images[np.sort(random.permutation(len(images))[:count])]
    paths = expand([images] if isinstance(images, str | Path) else images)
    chosen = [paths[place] for place in np.sort(random.permutation(len(paths))[:count])]
    files = ImageFiles(chosen, size, resize, description="calibration images" if progress else None)
    pixels = collect(files)[1]
    if not len(pixels):
        raise AurevoirError(f"none of the {len(chosen)} calibration files holds a readable image; give photographs")
    return pixels


def export_backbone(
    backbone: Backbone,
    cut: str | None = None,
    pixels: np.ndarray | None = None,
    normalization: Normalization = "imagenet",
    resize: Resize = "stretch",
) -> Exported:
    """Truncate and export a backbone, with the normalisation and the sign bits in its graph.

    Parameters
    ----------
    backbone : Backbone
    cut : str, optional
    pixels : uint8 array of shape (n, height, width, 3), optional
        For normalisation ``data`` and for the batch-norm statistics of random weights.
    normalization : {"imagenet", "data"} or (mean, std)
    resize : {"stretch", "crop"}
        Only noted, so that whoever decodes for the engine does the same.
    """
    mean, std = _normalisation(normalization, backbone, pixels)
    model = backbone.to_onnx(cut, _for_statistics(backbone, pixels, mean, std))
    return _wrapped(model, backbone, cut, mean, std, resize)


def export_cuts(
    backbone: Backbone,
    cuts: Sequence[str],
    pixels: np.ndarray | None = None,
    normalization: Normalization = "imagenet",
    resize: Resize = "stretch",
) -> list[Exported]:
    """Export several cuts of a backbone at once; tensors that their graphs share have the same names.

    The parameters are those of `export_backbone`. See `several.join` for one engine of them all.
    """
    mean, std = _normalisation(normalization, backbone, pixels)
    model = backbone.to_onnx_at(cuts, _for_statistics(backbone, pixels, mean, std))
    parts = [prune(model, [value.name]) for value in model.graph.output]
    return [_wrapped(part, backbone, cut, mean, std, resize) for part, cut in zip(parts, cuts, strict=True)]


def _for_statistics(
    backbone: Backbone, pixels: np.ndarray | None, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray | None:
    return _normalised(pixels, mean, std) if backbone.needs_images and pixels is not None else None


def _wrapped(
    model: onnx.ModelProto,
    backbone: Backbone,
    cut: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resize: Resize,
) -> Exported:
    return Exported(
        wrap(model, backbone.size, mean, std),
        backbone.name,
        backbone.resolve(cut),
        backbone.weights,
        backbone.size,
        feature_count(model, backbone.size),
        mean,
        std,
        resize,
    )


def _normalisation(
    normalization: Normalization, backbone: Backbone, pixels: np.ndarray | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if normalization == "imagenet":
        return backbone.mean, backbone.std
    if normalization == "data":
        if pixels is None:
            raise UsageError("normalization 'data' needs images; give some, or 'imagenet', or (mean, std)")
        return channel_statistics(ImageArray(pixels).batches())
    if isinstance(normalization, str):
        raise UsageError(f"normalization {normalization!r} is not known; give 'imagenet', 'data' or (mean, std)")
    mean, std = (tuple(float(value) for value in part) for part in normalization)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UsageError(f"normalization {normalization!r} must be 3 means and 3 positive deviations in [0, 1]")
    return mean, std


def _normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    values = (pixels.astype("float32") / 255 - np.array(mean, "float32")) / np.array(std, "float32")
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
