"""Run what is run for the first time in a child process, so that a native crash does not end the caller."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..calibration.fidelity import relative_error
from ..calibration.graph.edit import POOLED, prune
from ..calibration.histograms import Histogram
from ..kernels.backends.numba.ahead import is_compiled
from ..saving import explained, scratch
from .checked import is_known, remember
from .child import in_child, start_early
from .engine import Engine
from .load import load_engine
from .runtimes import builds_plans, check_precision, compile_graph, installed, runtime
from .runtimes.gpu_run import GpuRunner

TIMEOUT = 600
"""Seconds to wait for a first inference."""
IMAGES = 3
TOLERANCES = {"fp32": 0.01, "fp16": 0.1, "bf16": 0.4, "int8": 0.95}
"""Largest |features - float features| / |float features| of an image; measured on CPUs: up to 1e-6 in fp32, 0.1 in
bf16, and in int8 0.3 with real weights and 0.5 with random ones (MobileNetV3)."""
BATCH_TOLERANCES = {"fp32": 0.001, "fp16": 0.02, "bf16": 0.1, "int8": 0.1}
"""The same between an image inside a batch and alone; kernels for other batches round otherwise, on CPUs by 1e-6."""
_PEERS = ("onnxruntime", "openvino")


def start_child(name: str, precision: str) -> None:
    """Start the process of `lasting_child`, which loads a runtime, ``auto`` included, and its reference meanwhile."""
    if name == "auto" or not builds_plans(name):
        start_early(_load, name, precision)


def first_inference(engine: Engine, graph: onnx.ModelProto | None = None, pixels: np.ndarray | None = None) -> None:
    """Run an engine in a child process: on an image alone, inside a batch, and compared with the float graph.

    Parameters
    ----------
    engine : Engine
    graph : onnx.ModelProto, optional
        The float graph that the engine was made of; by default its own.
    pixels : uint8 array of shape (n, height, width, channels), optional
        Images to run it on; by default drawn ones.

    Raises
    ------
    AurevoirError
        If the process crashes, hangs or fails, a feature is nan or infinite, an image alone has other features than
        inside a batch, or the features are far from those of the float graph.
    """
    with scratch("smoke.engine", "smoke.npy", "smoke.onnx") as folder:
        path = folder / "smoke.engine"
        with explained(folder):
            path.write_bytes(engine.to_bytes())
            np.save(path.with_suffix(".npy"), _images(engine.input_shape, pixels))
            if graph is not None and engine.precision not in ("fp32", "bf16"):
                path.with_suffix(".onnx").write_bytes(graph.SerializeToString())
        in_child(f"{engine.precision} on {engine.runtime}", _features, str(path), engine.device, timeout=TIMEOUT)
    remember(engine.digest())


def first_batches(*engines: Engine) -> None:
    """Compute the bits of a whole batch once by each engine, as timing does, in a child process.

    Raises
    ------
    AurevoirError
        If the process crashes, hangs or fails.
    """
    names = " and ".join(f"{engine.precision} on {engine.runtime}" for engine in engines)
    with scratch(*(f"{number}.engine" for number in range(len(engines)))) as folder:
        arguments: list[str] = []
        for number, engine in enumerate(engines):
            path = folder / f"{number}.engine"
            with explained(folder):
                path.write_bytes(engine.to_bytes())
            arguments += [str(path), engine.device]
        in_child(f"timing {names}", _bits, *arguments, timeout=TIMEOUT)


def first_joined(engine: Engine) -> None:
    """Run the graph of an engine of several cuts once on noise, in a child process.

    Not one whose runtime builds plans, nor one that this user has run so before; see `checked`.

    Raises
    ------
    AurevoirError
        If the process crashes, hangs or fails.
    """
    key = engine.digest()
    if builds_plans(engine.runtime) or is_known(key):
        return
    what = f"{engine.precision} at several cuts on {engine.runtime}"
    _first_run(what, engine.graph, engine.runtime, engine.precision, engine.device)
    remember(key)


def _first_run(what: str, graph: bytes, runtime: str, precision: str = "fp32", device: str = "cpu") -> None:
    with scratch("observed.onnx") as folder:
        path = folder / "observed.onnx"
        with explained(folder):
            path.write_bytes(graph)
        in_child(what, _observed, str(path), runtime, precision, device, timeout=TIMEOUT)


def _images(shape: tuple[int, int, int], pixels: np.ndarray | None) -> np.ndarray:
    """Return images to run an engine on: given ones, or drawn ones, which are not alike."""
    if pixels is not None and len(pixels) >= IMAGES:
        return pixels[:: len(pixels) // IMAGES][:IMAGES]
    from ..images.procedural import PATTERNS, draw

    height, width, channels = shape
    patterns = [PATTERNS[name] for name in ("rings", "bricks", "clouds")]
    drawn = np.stack([draw(each, max(height, width), np.random.default_rng(0)) for each in patterns])
    return np.ascontiguousarray(drawn[:, :height, :width, np.arange(channels) % 3])


def _noise(count: int, shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")


def _load(name: str, precision: str) -> None:
    for each in _PEERS if name == "auto" else (name, *_PEERS):
        if installed(each):
            import_module(runtime(each).PACKAGE)
            runtime(each).precisions()
    if precision == "int8" and is_compiled("magnitudes"):
        # It is what calibration counts with.
        Histogram().add(np.ones(1, "float32"))


def _loaded(path: str, device: str) -> Engine:
    """Return the engine that is to be tried, of which nothing is kept yet."""
    engine = load_engine(path, device, trusted=True)
    engine.keep_compiled(None)
    return engine


def _features(path: str, device: str) -> None:
    engine = _loaded(path, device)
    images = np.load(Path(path).with_suffix(".npy"))
    output = engine.outputs[0]
    first, batch = (engine.run(images[which], _compared(engine)) for which in (slice(1), _batch(engine.batch_size)))
    alone, among = np.asarray(first[output]), np.asarray(batch[output])
    if not (np.isfinite(alone).all() and np.isfinite(among).all()):
        sys.exit(f"{np.isnan(among).sum()} {output} are nan and {np.isinf(among).sum()} infinite")
    _check_means(first, engine.manifest.channels)
    _check_means(batch, engine.manifest.channels)
    error, limit = relative_error(among[1:2], alone), BATCH_TOLERANCES[engine.precision]
    if error > limit:
        sys.exit(
            f"the {output} of an image inside a batch of {len(among)} differ from those of the same image alone by "
            f"{error:.2g} of their size (at most {limit}): the network mixes the images of a batch; export it with a "
            "dynamic batch"
        )
    expected, peer = _expected(Path(path), engine, images[:1])
    known = expected is not None and expected.any()
    compared = [(engine.precision, alone)] if known else []
    if known and engine.precision in ("bf16", "int8") and engine.device == "cpu" and engine.runtime != peer:
        # Their tolerances hide what the runtime itself computes otherwise.
        compared.append(("fp32", _float_features(engine.runtime, Path(path), engine, images[:1])))
    for precision, features in compared:
        error, limit = relative_error(features, np.asarray(expected)), TOLERANCES[precision]
        if error > limit:
            sys.exit(
                f"the {output} in {precision} differ from those of the float graph on {peer} by {error:.2g} of their "
                f"size (at most {limit}); use another runtime or precision, or for int8 other calibration images"
            )


def _compared(engine: Engine) -> list[str]:
    """Return the outputs that a first inference computes: the first, and the means that can be told from it."""
    return [name for name in engine.outputs if name in (engine.outputs[0], POOLED)]


def _check_means(outputs: Mapping[str, Any], channels: int) -> None:
    """Check the last channel means, those of the features, whichever axis the channels are on."""
    if POOLED not in outputs:
        return
    pooled, features = (np.asarray(outputs[name], "float64") for name in (POOLED, "features"))
    pooled = pooled[:, -channels:]
    features = np.maximum(features, 0)
    rows = len(pooled)
    means = [features.reshape(rows, channels, -1).mean(2), features.reshape(rows, -1, channels).mean(1)]
    # Features may be rounded once more before they are summed.
    limit = 0.01 * np.linalg.norm(features) / math.sqrt(features.shape[1] / channels)
    if min(np.linalg.norm(pooled - each) for each in means) > limit:
        sys.exit("the channel means are not those of the features; use another runtime or precision")


def _batch(most: int) -> np.ndarray:
    """Return the indices of images of a batch that holds the first image once.

    OpenVINO splits batches among at most as many streams as there are processors: two images must fall into one.
    """
    which = np.resize([1, 2], min(most, max(IMAGES, (os.cpu_count() or 1) + 1)))
    which[1] = 0
    return which


def _expected(path: Path, engine: Engine, images: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return the features by the float graph on a reference runtime, or None where that cannot tell anything."""
    peer = next((name for name in _PEERS if installed(name)), None)
    own = path.with_suffix(".onnx")
    same = engine.precision == "fp32" and peer == engine.runtime
    if peer is None or same or not (own.exists() or engine.precision in ("fp32", "bf16")):
        return None, ""
    try:
        return _float_features(peer, path, engine, images), peer
    except Exception:  # what the reference does not take cannot be compared with it
        return None, ""


def _float_features(runtime: str, path: Path, engine: Engine, images: np.ndarray) -> np.ndarray:
    own = path.with_suffix(".onnx")
    graph = prune(onnx.load(own) if own.exists() else onnx.load_from_string(engine.graph), engine.outputs[:1])
    run = compile_graph(runtime, graph.SerializeToString(), "fp32")
    assert not isinstance(run, GpuRunner)
    return np.array(run(images)[0])


def _bits(*paths_and_devices: str) -> None:
    for path, device in zip(paths_and_devices[::2], paths_and_devices[1::2], strict=True):
        engine = _loaded(path, device)
        engine.bits(_noise(engine.batch_size, engine.input_shape))


def _observed(path: str, runtime: str, precision: str, device: str) -> None:
    model = onnx.load(path)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    compiled = compile_graph(runtime, model.SerializeToString(), check_precision(precision), device)
    if isinstance(compiled, GpuRunner):
        compiled(_noise(2, shape), [value.name for value in model.graph.output])
    else:
        compiled(_noise(2, shape))
