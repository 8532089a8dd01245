"""Flipped labels and planted copies that a review finds, and the flipped labels that cleanlab finds.

Every image passes each network once, in int8 calibrated on 128 of a set's images. Of each of the splits the training
part, four fifths, gets other labels in a twentieth of its images; counted is the share of the flipped among as many
images, the most suspicious first. cleanlab, which must be installed, ranks by
self-confidence and by normalized margin, whichever finds more, with probabilities by five-fold cross-validation: of
logistic regression on standardized channel means, whose penalty has the least log-loss on the first split, and of
this classifier.

Copies of a tenth of a set's images, each in one of ten ways, are planted once: counted is how many are found with
their original, and of those that are found how many are right. What is found before is listed.

    python docs/figures/review.py FOLDER... --backbones NETWORK... --out docs/figures/review.json
"""

import argparse
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from bits_and_probes import machine
from cleanlab.rank import get_label_quality_scores  # type: ignore[import-not-found, unused-ignore]
from PIL import Image, ImageOps
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import aurevoir
from aurevoir.engine.feature_map import feature_map
from aurevoir.images.batches import ImageFiles
from aurevoir.images.sources import class_folders
from aurevoir.kernels.fitting import fit_readout, kernel_paths
from aurevoir.kernels.probability import fit_temperature, probabilities
from aurevoir.transfer.copies import Compared, find_copies, reduced
from aurevoir.transfer.embed import embed
from aurevoir.transfer.review import POOLED_KERNELS, averaged, suspicion

CALIBRATED, FLIPPED, FOLDS = 128, 0.05, 5
PENALTIES = (1e-3, 1e-2, 1e-1)
RIVALS = ("cleanlab_logistic", "cleanlab_same")
KINDS = ("none", "exact", "pooled", "rbf", "bits+rbf")
METHODS = ("self_confidence", "normalized_margin")


def main() -> None:
    """Measure every pair of data set and backbone, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders of class folders")
    parser.add_argument("--backbones", nargs="+", required=True, help="NETWORK.onnx")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows: list[dict[str, object]] = []
    for data in args.data:
        for network in args.backbones:
            found = measure(network, data, args.splits)
            rows.append({"backbone": Path(network).stem, "data": Path(data).name, **found})
            print(rows[-1], flush=True)
            args.out.write_text(json.dumps({"rows": rows, "machine": machine("cleanlab")}, indent=1) + "\n")


def measure(network: str, data: str, splits: int) -> dict[str, object]:
    """Return the shares of flipped labels on every split, and those of planted copies, of one data set."""
    listed = class_folders(data)
    labels = np.unique(listed.labels, return_inverse=True)[1]
    chosen = np.random.default_rng(0).permutation(len(labels))[:CALIBRATED]
    engine = aurevoir.build_engine(network, precision="int8", calibration=[listed.paths[each] for each in chosen])
    bits, pooled = embedded(engine, listed.paths)
    found: dict[str, list[float]] = {method: [] for method in ("review", *RIVALS)}
    penalty = None
    for seed in range(splits):
        train, _ = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
        given, flipped = with_flipped(labels[train], seed)
        penalty = penalty or best_penalty(pooled[train], given)
        for method, share in shares(bits[train], engine.features, pooled[train], given, flipped, penalty).items():
            found[method].append(round(share, 4))
    return {
        "images": len(labels),
        "classes": int(labels.max()) + 1,
        **found,
        **planted(engine, listed.paths, labels, bits),
    }


def embedded(engine: aurevoir.Engine, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return bits and channel means of files, all of which must be readable."""
    images = ImageFiles(paths, engine.input_shape[:2], engine.manifest.resize)
    kept, values = embed(engine, images, ("bits", "pooled"))
    assert len(kept) == len(paths), images.skipped
    return values["bits"], values["pooled"]


def with_flipped(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels with a twentieth of them replaced by another class, and which."""
    random, classes = np.random.default_rng(seed), int(labels.max()) + 1
    flipped = random.choice(len(labels), round(FLIPPED * len(labels)), replace=False)
    given = labels.copy()
    given[flipped] = (labels[flipped] + random.integers(1, classes, len(flipped))) % classes
    return given, flipped


def shares(
    bits: np.ndarray, m: int, pooled: np.ndarray, given: np.ndarray, flipped: np.ndarray, penalty: float
) -> dict[str, float]:
    """Return the share of flipped labels among as many images, those that each method ranks first."""
    classes = int(given.max()) + 1

    def share(scores: np.ndarray) -> float:
        return float(np.isin(np.argsort(scores, kind="stable")[: len(flipped)], flipped).mean())

    def by_cleanlab(chances: np.ndarray) -> float:
        return max(share(get_label_quality_scores(given, chances, method=method)) for method in METHODS)

    paths = kernel_paths(bits, m, given, classes, KINDS, pooled=pooled)
    best = max(paths, key=lambda kind: paths[kind].loo_accuracy)
    return {
        "review": share(suspicion(averaged([paths[kind] for kind in POOLED_KERNELS]), given)),
        "cleanlab_logistic": by_cleanlab(logistic_chances(pooled, given, penalty)),
        "cleanlab_same": by_cleanlab(own_chances(bits, m, pooled, given, best)),
    }


def logistic_chances(pooled: np.ndarray, given: np.ndarray, penalty: float) -> np.ndarray:
    """Return probabilities by cross-validation of logistic regression."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=100, tol=1e-3))
    found: np.ndarray = cross_val_predict(model, pooled, given, cv=folds(), method="predict_proba")
    return found


def best_penalty(pooled: np.ndarray, given: np.ndarray) -> float:
    """Return the penalty of the least log-loss."""
    return min(PENALTIES, key=lambda penalty: log_loss(given, logistic_chances(pooled, given, penalty)))


def own_chances(bits: np.ndarray, m: int, pooled: np.ndarray, given: np.ndarray, kind: str) -> np.ndarray:
    """Return this classifier's probabilities by cross-validation, with the kernel that ``auto`` selects on all."""
    classes = int(given.max()) + 1
    chances = np.empty((len(given), classes))
    for known, new in folds().split(bits, given):
        readout, path = fit_readout(bits[known], m, given[known], classes, kind, pooled=pooled[known])
        assert path.loo_scores is not None
        temperature = fit_temperature(path.loo_scores, given[known], np.ones(len(known)))
        chances[new] = probabilities(readout.scores(bits[new], pooled=pooled[new]), temperature)
    return chances


def folds() -> StratifiedKFold:
    """Return the folds of cross-validation."""
    return StratifiedKFold(FOLDS, shuffle=True, random_state=0)


def scaled(image: Image.Image, share: float) -> Image.Image:
    """Return an image of other sides."""
    return image.resize(
        (max(8, round(image.width * share)), max(8, round(image.height * share))), Image.Resampling.LANCZOS
    )


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return an image as a JPEG leaves it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half": lambda image: scaled(image, 1 / 2),
    "third": lambda image: scaled(image, 1 / 3),
    "larger": lambda image: scaled(image, 1.5),
    "quality 50": lambda image: compressed(image, 50),
    "quality 70": lambda image: compressed(image, 70),
    "quality 90": lambda image: compressed(image, 90),
    "half, quality 60": lambda image: compressed(scaled(image, 1 / 2), 60),
    "mirrored": ImageOps.mirror,
    "mirrored, quality 70": lambda image: compressed(ImageOps.mirror(image), 70),
    "mirrored, half, quality 60": lambda image: compressed(scaled(ImageOps.mirror(image), 1 / 2), 60),
}


def planted(engine: aurevoir.Engine, paths: list[Path], labels: np.ndarray, bits: np.ndarray) -> dict[str, Any]:
    """Return how many planted copies are found, and what copies were in the set before."""
    n, places = len(paths), feature_map(engine)
    sources = np.random.default_rng(1).choice(n, n // 10, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index}.png" for index in range(len(sources))]
        ways = [list(WAYS)[index % len(WAYS)] for index in range(len(sources))]
        for file, source, way in zip(files, sources, ways, strict=True):
            WAYS[way](Image.open(paths[source]).convert("RGB")).save(file)
        images = Compared(np.concatenate([bits, embedded(engine, files)[0]]), reduced([*paths, *files]))
    assert images.pixels is not None
    before = list(chain(*find_copies(Compared(bits, images.pixels[:n]), labels, places)))
    originals = {copy.image: copy.original for copy in before} | {n + row: source for row, source in enumerate(sources)}

    def first(image: int) -> int:
        return first(originals[image]) if image in originals else image

    found = chain(*find_copies(images, np.concatenate([labels, labels[sources]]), places))
    named = {copy.image: first(copy.original) == first(copy.image) for copy in found if copy.image >= n}
    return {
        "planted": len(sources),
        "copies_found": round(sum(named.values()) / len(sources), 4),
        "copies_precision": round(sum(named.values()) / max(1, len(named)), 4),
        "copies_missed": [way for row, way in enumerate(ways) if not named.get(n + row)],
        "copies_before": [[label_and_name(paths[each]) for each in (copy.image, copy.original)] for copy in before],
    }


def label_and_name(path: Path) -> str:
    """Return a file's class and name."""
    return "/".join(path.parts[-2:])


if __name__ == "__main__":
    main()
