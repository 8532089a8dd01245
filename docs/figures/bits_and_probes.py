"""Accuracy of the classifier and of linear probes on pooled features of the same engine, over backbones and data sets.

Every image passes each network once, in int8 calibrated on 128 of a set's images. All sides then train on the same
80:20 splits: ours with projection ``auto``, and ``auto`` among kernels of bits alone, as before 0.4; ridge and
logistic regression on standardized channel means, the ridge's penalty chosen by leave-one-out and logistic regression's
by cross-validation within the training images.

    python docs/figures/bits_and_probes.py FOLDER... --backbones NETWORK... --out docs/figures/bits-and-probes.json
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import aurevoir
from aurevoir.images.batches import ImageArray, ImageFiles, Images
from aurevoir.images.sources import class_folders
from aurevoir.kernels.fitting import fit_readout
from aurevoir.transfer.embed import embed

PENALTIES = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]}
CALIBRATED = 128


def main() -> None:
    """Measure every pair of data set and backbone, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders of class folders, several parts joined by +, or 'digits'")
    parser.add_argument("--backbones", nargs="+", required=True, help="NETWORK.onnx, or NAME=WEIGHTS")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for data in args.data:
        for network in args.backbones:
            row: dict[str, object] = {"backbone": Path(network.partition("=")[0]).stem, "data": data_name(data)}
            row |= measure(network, data, args.splits)
            print({key: np.mean(value) if isinstance(value, list) else value for key, value in row.items()}, flush=True)
            rows.append(row)
            args.out.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")


def measure(network: str, data: str, splits: int) -> dict[str, object]:
    """Return the accuracies of every method on every split of one data set."""
    engine, labels, bits, pooled = embedded(network, data)
    found: dict[str, list[object]] = {key: [] for key in ("auto", "auto_loo", "kernel", "bits", "ridge", "logistic")}
    for seed in range(splits):
        train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
        for method, means in (("auto", pooled), ("bits", None)):
            known, new = (None if means is None else means[part] for part in (train, test))
            classes = int(labels.max()) + 1
            readout, path = fit_readout(bits[train], engine.features, labels[train], classes, pooled=known)
            scores = readout.scores(bits[test], pooled=new)
            found[method].append(rounded((scores.argmax(axis=1) == labels[test]).mean()))
            if method == "auto":
                found["auto_loo"].append(rounded(path.loo_accuracy))
                found["kernel"].append(readout.kind)
        for method, model in _probes(pooled.shape[1]).items():
            found[method].append(rounded(model.fit(pooled[train], labels[train]).score(pooled[test], labels[test])))
    kernels = found.pop("kernel")
    counts = {kind: kernels.count(kind) for kind in dict.fromkeys(kernels)}
    described = {"images": len(labels), "classes": int(labels.max()) + 1}
    return {**described, "sign_agreement": engine.manifest.sign_agreement, "kernels": counts, **found}


def embedded(
    network: str, data: str, engine: aurevoir.Engine | None = None
) -> tuple[aurevoir.Engine, np.ndarray, np.ndarray, np.ndarray]:
    """Return an int8 engine, or the given one, and labels, bits and pooled features of the images of a data set."""
    paths, labels = listed(data)
    engine = engine or _engine(network, paths, labels)
    kept, values = embed(engine, images_of(paths, engine), ("bits", "pooled"))
    return engine, labels[kept], values["bits"], values["pooled"]


def _engine(network: str, paths: list[Path] | np.ndarray, labels: np.ndarray) -> aurevoir.Engine:
    name, _, weights = network.partition("=")
    weights = weights or "default"
    chosen = np.random.default_rng(0).permutation(len(labels))[:CALIBRATED]
    calibration = calibration_of(paths, chosen, name, weights)
    return aurevoir.build_engine(name, precision="int8", weights=weights, calibration=calibration)


def _probes(channels: int) -> dict[str, Any]:
    return {
        "ridge": make_pipeline(StandardScaler(), RidgeClassifierCV(channels * np.logspace(-5, 2, 15))),
        "logistic": GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), PENALTIES, cv=3),
    }


def rounded(share: float) -> float:
    """Return a share with four digits."""
    return round(float(share), 4)


def data_name(data: str) -> str:
    """Return a folder's name, of several parts that of the folder that they are in."""
    first, several, _ = data.partition("+")
    return (Path(first).parent if several else Path(first)).name


def listed(data: str) -> tuple[list[Path] | np.ndarray, np.ndarray]:
    """Return files, or the images of scikit-learn's digits at 64 x 64, and labels from 0."""
    if data == "digits":
        digits = load_digits()
        images = (Image.fromarray((image * 255 / 16).astype("uint8")).convert("RGB") for image in digits.images)
        return np.stack(
            [np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)) for image in images]
        ), digits.target
    parts = [class_folders(part) for part in data.split("+")]
    names = [label for part in parts for label in part.labels]
    return [path for part in parts for path in part.paths], np.unique(names, return_inverse=True)[1]


def images_of(paths: list[Path] | np.ndarray, engine: aurevoir.Engine) -> Images:
    """Return the files or images as an engine takes them."""
    height, width, _ = engine.input_shape
    if isinstance(paths, np.ndarray):
        return ImageArray(_enlarged(paths, height, width))
    return ImageFiles(paths, (height, width), engine.manifest.resize)


def _enlarged(images: np.ndarray, height: int, width: int) -> np.ndarray:
    sized = (Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR) for image in images)
    return np.stack([np.asarray(image) for image in sized])


def calibration_of(
    paths: list[Path] | np.ndarray, chosen: np.ndarray, name: str, weights: str
) -> list[Path] | np.ndarray:
    """Return some of the images, to calibrate a network on."""
    if not isinstance(paths, np.ndarray):
        return [paths[each] for each in chosen]
    height, width, _ = aurevoir.build_engine(name, weights=weights, smoke=False).input_shape
    return _enlarged(paths[chosen], height, width)


def machine(*peers: str) -> dict[str, object]:
    """Return where, with what and by which command this was measured; `peers` are further packages."""
    names = ("aurevoir", "numpy", "scikit-learn", "onnx", "openvino", *peers)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": {name: version(name) for name in names},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": f"python docs/figures/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}",
    }


if __name__ == "__main__":
    main()
