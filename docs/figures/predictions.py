"""Probabilities, prediction sets and unfamiliar images, against what scikit-learn and MAPIE make of the same ridge.

Every image passes each network once, in int8. On each 80:20 split the classifier is fitted with projection ``auto``.
Its probabilities are compared with those of CalibratedClassifierCV around a ridge of the same kernel, its
sets with MAPIE's (split and cross-conformal, least ambiguous sets), and images of another data set are told from test
images by several scores of the same bits and channel means. Needs `pip install mapie`.

    python docs/figures/predictions.py FOLDER... --backbones NETWORK... --out docs/figures/predictions.json
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bits_and_probes import data_name, embedded, machine
from mapie.classification import CrossConformalClassifier, SplitConformalClassifier
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors

from aurevoir.kernels.familiarity import Neighbours
from aurevoir.kernels.fitting import fit_readout
from aurevoir.kernels.pooled import standardization
from aurevoir.kernels.probability import fit_temperature, probabilities
from aurevoir.transfer.prediction_sets import PredictionSets
from aurevoir.transfer.training import Training

COVERAGES, BINS, STRANGERS, NEAREST = (0.9, 0.95), 15, 300, 10


@dataclass(frozen=True)
class Embedded:
    """Bits of m features, and pooled features, of images."""

    bits: np.ndarray
    pooled: np.ndarray
    m: int

    def only(self, rows: np.ndarray) -> "Embedded":
        """Return those of some images."""
        return Embedded(self.bits[rows], self.pooled[rows], self.m)


class Ridge(ClassifierMixin, BaseEstimator):
    """A ridge as scikit-learn's estimators take it: X has indices of images, of shape (n, 1)."""

    def __init__(self, images: Embedded | None = None, kind: str = "auto") -> None:
        self.images, self.kind = images, kind

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Ridge":
        """Fit it, with a temperature by leave-one-out."""
        some = self.images.only(X[:, 0])
        self.classes_ = np.unique(y)
        self.readout_, self.path_ = fit_readout(some.bits, some.m, y, len(self.classes_), self.kind, pooled=some.pooled)
        start = time.perf_counter()
        self.temperature_ = fit_temperature(self.path_.loo_scores, y, np.ones(len(y)))
        self.seconds_ = time.perf_counter() - start
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores."""
        some = self.images.only(X[:, 0])
        scores = self.readout_.scores(some.bits, pooled=some.pooled)
        return scores[:, 1] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities."""
        some = self.images.only(X[:, 0])
        return probabilities(self.readout_.scores(some.bits, pooled=some.pooled), self.temperature_)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return labels."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class Found:
    """Numbers by name, one for each split, and probabilities of all test images."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[float]] = {}
        self.chances: dict[str, list[np.ndarray]] = {}
        self.truth: list[np.ndarray] = []

    def note(self, **numbers: float) -> None:
        """Add the numbers of a split."""
        for name, number in numbers.items():
            self.numbers.setdefault(name, []).append(float(number))

    def summary(self) -> dict[str, object]:
        """Return means over splits, and errors of the probabilities of all splits together."""
        true, rows = np.concatenate(self.truth), {}
        for name, parts in self.chances.items():
            chances = np.concatenate(parts)
            rows |= {f"ece_{name}": rounded(ece(chances, true)), f"log_loss_{name}": rounded(log_loss(true, chances))}
        return rows | {name: rounded(float(np.mean(values))) for name, values in self.numbers.items()}


def main() -> None:
    """Measure every pair of data set and backbone, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="two folders of class folders or more, several parts joined by +")
    parser.add_argument("--backbones", nargs="+", required=True, help="NETWORK.onnx, or NAME=WEIGHTS")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for network in args.backbones:
        for number, data in enumerate(args.data):
            other = args.data[(number + 1) % len(args.data)]
            names = {"backbone": Path(network.partition("=")[0]).stem, "data": data_name(data)}
            rows.append({**names, "strangers": data_name(other), **measure(network, data, other, args.splits)})
            print(rows[-1], flush=True)
            args.out.write_text(json.dumps({"rows": rows, "machine": machine("mapie")}, indent=1) + "\n")


def measure(network: str, data: str, other: str, splits: int) -> dict[str, object]:
    """Return what every method scored, over all splits of a data set."""
    engine, labels, *values = embedded(network, data)
    images, found = Embedded(*values, engine.features), Found()
    # The other data set passes the same engine, calibrated on the first.
    strangers = Embedded(*embedded(network, other, engine)[2:], engine.features)
    strangers = strangers.only(np.random.default_rng(0).permutation(len(strangers.bits))[:STRANGERS])
    for seed in range(splits):
        train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
        ridge = Ridge(images).fit(train[:, None], labels[train])
        found.truth.append(labels[test])
        chances = ridge.predict_proba(test[:, None])
        found.chances.setdefault("ours", []).append(chances)
        found.note(accuracy=(chances.argmax(axis=1) == labels[test]).mean(), seconds_ours=ridge.seconds_)
        calibrate(ridge, train, test, labels, found)
        sets(ridge, train, test, labels, found)
        unfamiliar(ridge, train, test, strangers, found)
    return {"images": len(labels), "splits": splits, **found.summary()}


def rounded(number: float) -> float:
    """Return four significant digits."""
    return float(f"{number:.4g}")


def ece(chances: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error of the likeliest labels, in bins of equal width."""
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    inside = [bins == number for number in range(BINS) if (bins == number).any()]
    return float(sum(each.mean() * abs(confidence[each].mean() - right[each].mean()) for each in inside))


def calibrate(ridge: Ridge, train: np.ndarray, test: np.ndarray, labels: np.ndarray, found: Found) -> None:
    """Note the probabilities that scikit-learn makes of a ridge of the same kernel."""
    for method in ("sigmoid", "isotonic", "temperature"):
        start = time.perf_counter()
        model = CalibratedClassifierCV(Ridge(ridge.images, ridge.readout_.kind), method=method, cv=5)
        model.fit(train[:, None], labels[train])
        found.note(**{f"seconds_{method}": time.perf_counter() - start})
        found.chances.setdefault(method, []).append(model.predict_proba(test[:, None]))


def sets(ridge: Ridge, train: np.ndarray, test: np.ndarray, labels: np.ndarray, found: Found) -> None:
    """Note coverage and size of our sets and of MAPIE's."""
    known, new = ridge.images.only(train), ridge.images.only(test)
    training = Training(known.bits, labels[train], np.ones(len(train)), known.pooled)
    kind, classes = ridge.readout_.kind, len(ridge.classes_)
    made: dict[str, Callable[[float], np.ndarray]] = {}
    for name, by_class in (("ours", False), ("ours_by_class", True)):
        full = PredictionSets(
            training, training.weights, kind, classes, ridge.path_.alpha, ridge.temperature_, by_class
        )
        p_values = full.p_values({"bits": new.bits, "pooled": new.pooled})
        made[name] = lambda coverage, p_values=p_values: p_values > 1 - coverage
    fitted, held = train_test_split(train, test_size=0.2, stratify=labels[train], random_state=0)
    part = Ridge(ridge.images, kind).fit(fitted[:, None], labels[fitted])
    split = SplitConformalClassifier(part, COVERAGES, prefit=True).conformalize(held[:, None], labels[held])
    cross = CrossConformalClassifier(Ridge(ridge.images, kind), COVERAGES, cv=5, random_state=0)
    cross.fit_conformalize(train[:, None], labels[train])
    for name, model in (("mapie_split", split), ("mapie_cross", cross)):
        given = model.predict_set(test[:, None])[1]
        made[name] = lambda coverage, given=given: given[:, :, COVERAGES.index(coverage)]
    for name, of in made.items():
        for coverage in COVERAGES:
            chosen = of(coverage)
            covered = chosen[np.arange(len(test)), labels[test]].mean()
            level = round(100 * coverage)
            found.note(**{f"coverage{level}_{name}": covered, f"size{level}_{name}": chosen.sum(axis=1).mean()})


def unfamiliar(ridge: Ridge, train: np.ndarray, test: np.ndarray, strangers: Embedded, found: Found) -> None:
    """Note how well scores tell images of another data set from test images."""
    known, new = ridge.images.only(train), ridge.images.only(test)
    strange = np.repeat([False, True], [len(test), len(strangers.bits)])
    bits, pooled = (np.concatenate([getattr(new, name), getattr(strangers, name)]) for name in ("bits", "pooled"))
    scores = ridge.readout_.scores(bits, pooled=pooled)
    neighbours = Neighbours(known.bits)
    familiar = neighbours(bits)
    standardize = standardization(known.pooled, np.ones(len(train)))
    nearest = NearestNeighbors(n_neighbors=NEAREST).fit(standardize(known.pooled))
    by = {
        "ours": -familiar.similarities,
        "max_probability": -probabilities(scores, ridge.temperature_).max(axis=1),
        "energy": -logsumexp(scores / ridge.temperature_, axis=1),
        "nearest": nearest.kneighbors(standardize(pooled))[0][:, -1],
    }
    found.note(**{f"auroc_{name}": roc_auc_score(strange, values) for name, values in by.items()})
    flagged = familiar.p_values <= 0.01
    found.note(flagged_test=flagged[~strange].mean(), flagged_strangers=flagged[strange].mean())


if __name__ == "__main__":
    main()
