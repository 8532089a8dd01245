"""Accuracy of sign bits and of linear probes on pooled features, over several backbones and data sets.

Every image passes each network once, in bf16. Both sides then train on the same 80:20 splits: ours with
projection ``auto``; ridge and logistic regression on standardized channel means, the ridge's penalty chosen
by leave-one-out and logistic regression's by cross-validation within the training images.

    python docs/figures/bits_and_probes.py FOLDER... --backbones NETWORK.onnx... --out docs/figures/bits-and-probes.json
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

import numpy as np
import onnx
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import aurevoir
from aurevoir.images.batches import ImageFiles
from aurevoir.images.sources import class_folders

PENALTIES = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]}


def main() -> None:
    """Measure every pair of data set and backbone, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--backbones", nargs="+", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for network in args.backbones:
        engine = aurevoir.build_engine(network, precision="bf16")
        channels = onnx.load(network).graph.output[0].type.tensor_type.shape.dim[1].dim_value
        for folder in args.data:
            row = {"backbone": network.stem, "data": folder.name, **measure(engine, channels, folder, args.splits)}
            print(row, flush=True)
            rows.append(row)
            args.out.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")


def measure(engine: aurevoir.Engine, channels: int, folder: Path, splits: int) -> dict[str, object]:
    """Return the accuracies of every method on every split of one data set."""
    labelled = class_folders(folder)
    signs, pooled, kept = embed(engine, channels, labelled.paths)
    labels = np.array(labelled.labels)[kept]
    found: dict[str, list[float]] = {"bits": [], "ridge": [], "logistic": []}
    for seed in range(splits):
        train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
        methods = {
            "bits": (aurevoir.OpticalClassifier(), signs),
            "ridge": (make_pipeline(StandardScaler(), RidgeClassifierCV(channels * np.logspace(-5, 2, 15))), pooled),
            "logistic": (
                GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), PENALTIES, cv=3),
                pooled,
            ),
        }
        for name, (model, features) in methods.items():
            score = model.fit(features[train], labels[train]).score(features[test], labels[test])
            found[name].append(round(float(score), 4))
    return {"images": len(labels), "classes": len(set(labels)), **found}


def embed(engine: aurevoir.Engine, channels: int, paths: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return signs as int8 of shape (n, m), channel means of shape (n, channels), and which images these are."""
    signs, pooled, kept = [], [], []
    for places, pixels in ImageFiles(paths, engine.input_shape[:2], engine.manifest.resize).batches(engine.batch_size):
        features = np.asarray(engine(pixels))
        signs.append((features > 0).astype("int8"))
        pooled.append(features.reshape(len(features), channels, -1).mean(axis=2))
        kept.append(places)
    return np.concatenate(signs), np.concatenate(pooled), np.concatenate(kept)


def machine() -> dict[str, object]:
    """Return where, with what and by which command this was measured."""
    names = ("aurevoir", "numpy", "scikit-learn", "onnx", "openvino")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": {name: version(name) for name in names},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": f"python docs/figures/bits_and_probes.py {shlex.join(sys.argv[1:])}",
    }


if __name__ == "__main__":
    main()
