"""The folder of data that the GPU program reads: the post's network, other networks, and photographs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....engine.sample import sample_images
from ....errors import AurevoirError, UsageError
from ....saving import write_atomically
from ...harness.engines import Engines, open_network

NETWORK, PHOTOGRAPHS = "densenet169.onnx", "photographs"
"""In the folder: the post's network cut as in the post, and a folder of class folders."""

CUT = "denseblock4.denselayer12"
_FOR_STATISTICS = 64


def prepare(folder: Path, photographs: Path | None, networks: Sequence[Path] = ()) -> None:
    """Export the post's network, its random weights' statistics set from the photographs, and copy what else is used.

    Raises
    ------
    UsageError
        If there are no photographs, or a network is not there.
    """
    if photographs is None or not photographs.is_dir():
        raise UsageError(f"photographs {photographs} is no folder; give --photographs, a folder of class folders")
    if missing := [path for path in networks if not path.is_file()]:
        raise UsageError(f"network {missing[0]} does not exist; give ONNX files")
    for path in filter(Path.is_file, photographs.rglob("*")):
        _copy(path, folder / PHOTOGRAPHS / path.relative_to(photographs))
    for path in networks:
        _copy(path, folder / path.name)
    backbone = open_network("densenet169", "random")
    pixels = sample_images(photographs, backbone.size, _FOR_STATISTICS)
    normalised = (pixels / 255 - np.array(backbone.mean)) / np.array(backbone.std)
    model = backbone.to_onnx(CUT, normalised.transpose(0, 3, 1, 2).astype("float32"))
    write_atomically(folder / NETWORK, model.SerializeToString())


def posts_network(folder: Path, pixels: np.ndarray | None = None) -> Engines:
    """Return the post's network of a prepared folder, with images to calibrate on.

    Raises
    ------
    AurevoirError
        If the folder has none.
    """
    path = folder / NETWORK
    if not path.is_file():
        raise AurevoirError(f"{path} does not exist; make the folder with: aurevoir bench gpu --prepare {folder}")
    return Engines.export(open_network(str(path)), pixels=pixels)


def _copy(source: Path, target: Path) -> None:
    # Without its permissions: a folder that may not be written could not be prepared again.
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
