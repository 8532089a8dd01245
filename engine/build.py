"""From a backbone to an engine, in steps that several precisions can share.

`export_backbone` makes the float graph, `calibrate` the table of thresholds, `assemble` an engine
of one precision; `build_engine` does all three.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from ..calibration.fidelity import relative_error, sign_agreement
from ..calibration.graph import digest, prune
from ..calibration.observe import observe, quantizable, with_means
from ..calibration.quantize import quantize
from ..calibration.table import CalibrationTable, pixels_digest
from ..calibration.thresholds import check_method, choose_thresholds
from ..errors import AurevoirError, UsageError
from ..images.batches import ImageArray, ImageFiles, channel_statistics, collect
from ..images.decode import Resize, check_resize
from ..images.folder import expand
from ..kernels.arrays import block_length, blocks, memory_budget
from .backbone import Backbone, BackboneLike, open_backbone
from .engine import BATCH_SIZE, Engine, Manifest
from .export import feature_count, tensor_shapes, wrap
from .runtimes import choose_runtime, installed, int8_dialect, require_runtime, runtime

CALIBRATION_IMAGES = 128
HELD_OUT_IMAGES = 32
Normalization = str | tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Exported:
    """A truncated backbone as the float graph that every precision starts from."""

    graph: onnx.ModelProto
    backbone: str
    cut: str
    weights: str
    size: tuple[int, int]
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize


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
    runtime : {"auto", "openvino", "onnxruntime", "torch"}
    weights : {"default", "random"} or path
    calibration : path, list of paths, uint8 array, or CalibrationTable
        Images to set int8 thresholds, the batch-norm statistics of random weights and the data's
        normalisation from; of these, `calibration_images` are used, and up to 32 others measure
        the fidelity. A table needs no images.
    calibration_images : int
    method : {"percentile", "entropy", "mse", "max"}
    normalization : {"imagenet", "data"} or (mean, std)
        Of pixels scaled to [0, 1].
    size : int, optional
        Height and width of the input; None stands for the backbone's own.
    resize : {"stretch", "crop"}
    seed : int
        Of random weights and of the choice of calibration images.
    device : str, optional
        As the runtime names it; None stands for ``cpu``.
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
    runtime = choose_runtime(runtime, precision)
    check_method(method)
    check_resize(resize)
    opened = open_backbone(backbone, weights, size, seed)
    opened.resolve(cut)
    table = calibration if isinstance(calibration, CalibrationTable) else None
    pixels = None
    if calibration is not None and table is None:
        count = calibration_images + HELD_OUT_IMAGES
        pixels = sample_images(calibration, opened.size, count, resize, seed, progress)
    used, held_out = hold_out(pixels)
    exported = export_backbone(opened, cut, used, normalization, resize)
    if precision == "int8" and table is None:
        table = calibrate(exported, used, method, progress)
    engine = assemble(exported, precision, runtime, table, device)
    if held_out is not None and precision != "fp32":
        engine = with_fidelity(engine, exported, held_out)
    if out is not None:
        engine.save(out)
    return engine


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
    """
    random = np.random.default_rng(seed)
    if isinstance(images, np.ndarray):
        return images[np.sort(random.permutation(len(images))[:count])]
    paths = expand([images] if isinstance(images, str | Path) else images)
    chosen = [paths[place] for place in np.sort(random.permutation(len(paths))[:count])]
    files = ImageFiles(chosen, size, resize, description="calibration images" if progress else None)
    pixels = collect(files)[1]
    if not len(pixels):
        raise AurevoirError(f"none of the {len(chosen)} calibration files holds a readable image; give photographs")
    return pixels


def hold_out(pixels: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Split a sample into images to calibrate on and images to measure fidelity on."""
    if pixels is None or len(pixels) < 4:
        return pixels, None
    held = min(HELD_OUT_IMAGES, len(pixels) // 4)
    # Every k-th image, since a sample may be sorted by class.
    places = np.zeros(len(pixels), dtype=bool)
    places[np.linspace(0, len(pixels) - 1, held).astype(int)] = True
    return pixels[~places], pixels[places]


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
    images = _normalised(pixels, mean, std) if backbone.needs_images and pixels is not None else None
    model = backbone.to_onnx(cut, images)
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


def calibrate(
    exported: Exported, pixels: np.ndarray | None, method: str = "percentile", progress: bool = False
) -> CalibrationTable:
    """Observe the float graph on images and set the threshold of every convolution's input.

    Parameters
    ----------
    exported : Exported
    pixels : uint8 array of shape (n, height, width, 3)
    method : {"percentile", "entropy", "mse", "max"}
    progress : bool

    Raises
    ------
    UsageError
        If there are no images.
    """
    if pixels is None or not len(pixels):
        raise UsageError("int8 needs calibration images or a calibration table; give a folder (calibration=...)")
    names = quantizable(exported.graph)
    if not names:
        raise AurevoirError("the graph holds no convolution to quantize; use precision fp32 or bf16")
    batches = (pixels[which] for which in blocks(len(pixels), _observed_batch(exported, names)))
    with tqdm(total=len(pixels), desc="calibrate", unit="img", disable=not progress) as bar:
        histograms, means = observe(_observer(exported.graph, names, bar.update), names, batches)
    thresholds = choose_thresholds(histograms, method)
    return CalibrationTable(method, digest(exported.graph), pixels_digest(pixels), thresholds, means)


def _observed_batch(exported: Exported, names: list[str]) -> int:
    """Return how many images may be observed at once: their tensors all stand in memory together."""
    shapes = tensor_shapes(exported.graph)
    values = sum(int(np.prod([length or 1 for length in shapes.get(name, [])])) for name in names)
    return block_length(8 * values, memory_budget() // 4, BATCH_SIZE)


def _observer(
    graph: onnx.ModelProto, names: list[str], seen: Callable[[int], Any]
) -> Callable[[np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    extended, means = with_means(graph, names)
    compiled = _reference_runtime().compile(prune(extended, [*names, *means]).SerializeToString(), "fp32", "cpu")

    def run(pixels: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        outputs = compiled(pixels)
        seen(len(pixels))
        return dict(zip(names, zip(outputs[: len(names)], outputs[len(names) :], strict=True), strict=True))

    return run


def _reference_runtime() -> Any:
    return runtime(next((name for name in ("openvino", "onnxruntime") if installed(name)), "torch"))


def assemble(
    exported: Exported,
    precision: str,
    runtime: str = "auto",
    table: CalibrationTable | None = None,
    device: str | None = None,
    dialect: str = "auto",
) -> Engine:
    """Make an engine of one precision from a float graph, and for int8 its calibration table.

    Raises
    ------
    UsageError
        If the runtime does not run the precision, or int8 comes without a table.
    AurevoirError
        If the table belongs to another graph.
    """
    runtime = choose_runtime(runtime, precision)
    graph = exported.graph
    if precision == "int8":
        if table is None:
            raise UsageError("int8 needs a calibration table; see `calibrate`")
        table.check(graph)
        dialect = int8_dialect(runtime) if dialect == "auto" else dialect
        graph = quantize(graph, table.thresholds, table.means, dialect)
    manifest = Manifest(
        exported.backbone,
        exported.cut,
        exported.weights,
        digest(exported.graph),
        precision,
        runtime,
        require_runtime(runtime, precision).version(),
        (*exported.size, 3),
        exported.features,
        exported.mean,
        exported.std,
        exported.resize,
        dialect if precision == "int8" else None,
    )
    return Engine(manifest, graph.SerializeToString(), table if precision == "int8" else None, device or "cpu")


def with_fidelity(engine: Engine, exported: Exported, pixels: np.ndarray) -> Engine:
    """Return the engine with its sign agreement and relative error against fp32 in the manifest.

    Raises
    ------
    AurevoirError
        If a feature is nan or infinite.
    """
    reference = assemble(exported, "fp32")(pixels)
    features = engine(pixels)
    measured = replace(
        engine.manifest,
        sign_agreement=sign_agreement(features, reference),
        relative_error=relative_error(features, reference),
    )
    return Engine(measured, engine.graph, engine.table, engine.device)
