"""The engine of a classifier: opened from a file, or built on its training images."""

from typing import TYPE_CHECKING, Any

from ..engine.assemble import assemble, with_fidelity
from ..engine.backbones import open_backbone
from ..engine.build import Normalization, calibration_sample, export_backbone, given_table, is_table
from ..engine.calibrate import calibrate, keep_in_float32
from ..engine.engine import Engine
from ..engine.load import load_engine
from ..engine.runtimes import choose_runtime
from ..images.batches import channel_statistics
from ..images.decode import Resize
from ..kernels.stopwatch import Stopwatch
from .inputs import as_images

if TYPE_CHECKING:
    from .classifier import OpticalClassifier


def open_engine(asked: "OpticalClassifier", X: Any, resize: Resize, seed: int, watch: Stopwatch) -> Engine:
    """Return the engine that a classifier's parameters ask for.

    Parameters
    ----------
    asked : OpticalClassifier
        Its parameters are read, and nothing is set.
    X : sequence of paths, or uint8 array of shape (n, height, width, 3)
        The training images: int8 thresholds and the data's normalisation come from them where nothing else is given.
    resize : {"stretch", "crop"}
    seed : int
        Of random weights and of the choice of calibration images.
    watch : Stopwatch
        Told the seconds of ``build``, ``decode`` and ``calibrate``.
    """
    if asked.engine is not None:
        return asked.engine if isinstance(asked.engine, Engine) else load_engine(asked.engine)
    runtime = choose_runtime(asked.runtime, asked.precision)
    with watch("build"):
        backbone = open_backbone(asked.backbone, asked.weights, asked.size, seed)
        backbone.resolve(asked.cut)
    pixels = held_out = None
    if backbone.needs_images or asked.precision != "fp32":
        own = asked.calibration is None or is_table(asked.calibration)
        source, count = X if own else asked.calibration, asked.calibration_images
        with watch("decode"):
            pixels, held_out = calibration_sample(source, backbone.size, count, resize, seed, asked.verbose)
    normalization = _normalisation(asked, X, backbone.size, resize, watch)
    with watch("build"):
        exported = export_backbone(backbone, asked.cut, pixels, normalization, resize)
    table = given_table(asked.calibration, exported)
    if asked.precision == "int8" and table is None:
        with watch("calibrate"):
            table = calibrate(exported, pixels, asked.method, asked.verbose)
    with watch("build"):
        full = keep_in_float32(exported, runtime, asked.precision, pixels)
        engine = assemble(exported, asked.precision, runtime, table, full=full)
        engine.build_plan(asked.verbose)
        if held_out is not None and asked.precision != "fp32":
            engine = with_fidelity(engine, exported, held_out)
    return engine


def _normalisation(
    asked: "OpticalClassifier", X: Any, size: tuple[int, int], resize: Resize, watch: Stopwatch
) -> Normalization:
    if not isinstance(asked.normalization, str) or asked.normalization != "data":
        return asked.normalization
    with watch("decode"):
        images = as_images(X, size, resize, "normalisation" if asked.verbose else None)
        return channel_statistics(images.batches())
