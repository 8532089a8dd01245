"""Classifiers as a script makes them in an afternoon: decode, run a network, average its features, fit scikit-learn.

Each way is a process of its own, ``python -m``, and imports what it needs alone; the job is one JSON object with
``train`` and ``test``, folders of class folders, and what `time_to_model` knows of the network.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
CALIBRATED = 128
"""Training images that NNCF quantizes on."""

Network = Callable[[np.ndarray], np.ndarray]
"""From normalised float32 images (n, 3, height, width) to features."""


def _onnxruntime(job: dict[str, Any], sample: np.ndarray) -> tuple[Network, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(job["backbone"], providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0]), "fp32"


def _torch(job: dict[str, Any], sample: np.ndarray) -> tuple[Network, str]:
    """Return torch's network in float32 or bfloat16, whichever takes a batch in less time."""
    import torch

    from ...engine.backbones.torch import TorchBackbone

    backbone = TorchBackbone.from_name(job["backbone"], job["weights"], job["size"][0], 0)
    module = backbone.truncated(job["cut"]).eval().to(memory_format=torch.channels_last)

    def features(kind: torch.dtype, images: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(images).to(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", kind, enabled=kind != torch.float32):
            found: np.ndarray = module(given).float().numpy()
        return found

    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        features(kind, sample[:8])
        start = time.perf_counter()
        features(kind, sample)
        seconds[kind] = time.perf_counter() - start
    best = min(seconds, key=lambda kind: seconds[kind])
    return lambda images: features(best, images), str(best).removeprefix("torch.")


def _nncf(job: dict[str, Any], sample: np.ndarray) -> tuple[Network, str]:
    import nncf
    import openvino

    model = openvino.convert_model(job["backbone"])
    quantized = nncf.quantize(model, nncf.Dataset([image[None] for image in sample]), subset_size=len(sample))
    compiled = openvino.compile_model(quantized, "CPU")
    return lambda images: np.asarray(compiled(images)[0]), "int8"


WAYS: dict[str, tuple[Callable[[dict[str, Any], np.ndarray], tuple[Network, str]], int]] = {
    "onnxruntime": (_onnxruntime, BATCH),
    "torch": (_torch, BATCH),
    "nncf": (_nncf, CALIBRATED),
}
"""By name what makes a network, and how many training images it is given to do so."""


def _decode(job: dict[str, Any], path: Path) -> np.ndarray:
    from PIL import Image

    height, width = job["size"]
    with Image.open(path) as image:
        image.draft("RGB", (width, height))
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), "float32")
    normalised = (pixels / 255 - np.array(job["mean"], "float32")) / np.array(job["std"], "float32")
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _batches(job: dict[str, Any], paths: list[Path], size: int, pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """Yield decoded images in batches, of which one is decoded ahead."""
    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    ahead = [pool.submit(_decode, job, path) for path in parts[0]]
    for part in [*parts[1:], []]:
        now, ahead = ahead, [pool.submit(_decode, job, path) for path in part]
        yield np.stack([each.result() for each in now])


def _embed(job: dict[str, Any], network: Network, paths: list[Path], pool: ThreadPoolExecutor) -> np.ndarray:
    found = []
    for images in _batches(job, paths, BATCH, pool):
        features = network(images)
        found.append(features.reshape(*features.shape[:2], -1).mean(2))
    return np.concatenate(found)


def _labelled(folder: str) -> tuple[list[Path], list[str]]:
    paths = sorted(path for path in Path(folder).glob("*/*") if path.is_file())
    return paths, [path.parent.name for path in paths]


def train_and_test(way: str, job: dict[str, Any]) -> dict[str, Any]:
    """Train one of `WAYS` and return its ``accuracy`` and ``precision``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    make, needed = WAYS[way]
    train, labels = _labelled(job["train"])
    test, expected = _labelled(job["test"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        spread = train[:: max(1, len(train) // needed)]
        sample = np.concatenate(list(islice(_batches(job, spread[:needed], BATCH, pool), needed)))
        network, precision = make(job, sample)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(_embed(job, network, train, pool), labels)
        found = model.predict(_embed(job, network, test, pool))
    return {"accuracy": float((found == np.array(expected)).mean()), "precision": precision}


def main() -> None:
    """Write what `train_and_test` returns on stdout, alone: NNCF logs there too."""
    with redirect_stdout(sys.stderr):
        found = train_and_test(sys.argv[1], json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
