"""Accuracy of the classifier at several cuts, at the one that leave-one-out chooses, and with the kernel ``layers``.

Every image passes each network once, in int8 calibrated on 128 of a set's images, for all the candidates of
``cut="auto"``. All sides then train on the same 80:20 splits with projection ``auto``: at every cut, of which one is
chosen as `aurevoir fit --cut auto` does, and at the default cut with the channel means of earlier layers besides.

    python docs/figures/cuts.py FOLDER... --backbones NETWORK... --out docs/figures/cuts.json
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bits_and_probes import CALIBRATED, calibration_of, data_name, images_of, listed, machine, rounded
from sklearn.model_selection import train_test_split

from aurevoir.engine.backbones.base import Cut
from aurevoir.engine.build import EngineBuilder
from aurevoir.engine.cut_candidates import cut_candidates
from aurevoir.engine.multi_cut import JoinedCuts, draft_cuts
from aurevoir.engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from aurevoir.engine.timing import alternate
from aurevoir.kernels.fitting import fit_readout
from aurevoir.kernels.readout import Readout
from aurevoir.kernels.ridge import RidgePath
from aurevoir.transfer.cut_choice import CutValues, choosing_kernels, choosing_search, embed_cuts, scored

SPEC = EngineSpec(precision="int8", measure=False, compare_speed=False)
ROUNDS, BATCHES = 7, 8


def main() -> None:
    """Measure every pair of data set and backbone, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders of class folders, several parts joined by +, or 'digits'")
    parser.add_argument("--backbones", nargs="+", required=True, help="NETWORK.onnx, or NAME=WEIGHTS")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    speeds = {network: images_per_second(network, args.data[0]) for network in args.backbones}
    rows: list[dict[str, Any]] = []
    for data in args.data:
        for network in args.backbones:
            row: dict[str, Any] = {"backbone": Path(network.partition("=")[0]).stem, "data": data_name(data)}
            row |= measure(network, data, args.splits) | {"images_per_second": speeds[network]}
            print(row["data"], row["backbone"], np.mean(row["at_cuts"], axis=0), np.mean(row["layers"]), flush=True)
            rows.append(row)
            args.out.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")


def images_per_second(network: str, data: str) -> dict[str, float]:
    """Return the speed of an int8 engine at each cut, in turns, and at the default cut with earlier layers' means."""
    builder, _ = _builder(network, data, False)
    names = [cut.name for cut in cut_candidates(builder.backbone)]
    engines = dict(zip(names, draft_cuts(builder.at_cuts(names), SPEC)[0], strict=True))
    engines["layers"] = _builder(network, data, True)[0].draft(SPEC)
    first = next(iter(engines.values()))
    noise = np.random.default_rng(0).integers(0, 256, (BATCHES * first.batch_size, *first.input_shape), "uint8")
    seconds = alternate({name: partial(engine.bits, noise) for name, engine in engines.items()}, ROUNDS)
    return {name: round(median(len(noise) / each for each in times), 1) for name, times in seconds.items()}


def measure(network: str, data: str, splits: int) -> dict[str, Any]:
    """Return the accuracies at every cut, at the chosen one and with earlier layers on every split of one data set."""
    cuts, joined, values, labels = embedded(network, data)
    own = [
        means[:, -layers[-1] :] if layers else means for means, layers in zip(values.pooled, joined.layers, strict=True)
    ]
    found: dict[str, list[Any]] = {key: [] for key in ("at_cuts", "chosen", "chosen_loo", "layers", "kernel")}
    for seed in range(splits):
        train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
        part = _Split(labels, train, test)
        at_cuts = [part.tested(cut, *each)[0] for cut, *each in zip(cuts, values.bits, own, strict=True)]
        solved = [part.solved(cut, *each) for cut, *each in zip(cuts, values.bits, own, strict=True)]
        chosen, scores = scored(cuts, solved, labels[train], np.ones(len(train)))
        accuracy, kernel = part.tested(cuts[-1], values.bits[-1], values.pooled[-1], joined.layers[-1])
        found["at_cuts"].append([rounded(each) for each in at_cuts])
        found["chosen"].append(cuts[chosen].name)
        found["chosen_loo"].append(rounded(scores[chosen].loo_accuracy))
        found["layers"].append(rounded(accuracy))
        found["kernel"].append(kernel)
    kernels = found.pop("kernel")
    described = {"images": len(labels), "classes": int(labels.max()) + 1, "cuts": [cut.name for cut in cuts]}
    described |= {"macs": [cut.macs for cut in cuts], "pooled_layers": list(joined.layers[-1])}
    return {**described, "kernels": {kind: kernels.count(kind) for kind in dict.fromkeys(kernels)}, **found}


class _Split:
    """Training and test images, to fit and test on at some cut."""

    def __init__(self, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
        self.labels, self.train, self.test = labels, train, test
        self.classes = int(labels.max()) + 1

    def tested(self, cut: Cut, bits: np.ndarray, pooled: np.ndarray, layers: Sequence[int] = ()) -> tuple[float, str]:
        """Return the accuracy on the test images, and the kernel."""
        readout, _ = self._fitted(cut, bits, pooled, "auto", "auto", layers)
        scores = readout.scores(bits[self.test], pooled=pooled[self.test])
        return float((scores.argmax(axis=1) == self.labels[self.test]).mean()), readout.kind

    def solved(self, cut: Cut, bits: np.ndarray, pooled: np.ndarray) -> tuple[str, RidgePath]:
        """Return the better kernel of a cut, as `aurevoir fit --cut auto` scores it."""
        search = choosing_search(len(self.train), "auto")
        paths = {kind: self._fitted(cut, bits, pooled, kind, search)[1] for kind in choosing_kernels("auto")}
        return max(paths.items(), key=lambda each: each[1].loo_accuracy)

    def _fitted(
        self, cut: Cut, bits: np.ndarray, pooled: np.ndarray, kind: str, search: str, layers: Sequence[int] = ()
    ) -> tuple[Readout, RidgePath]:
        rows = self.train
        given = {"search": search, "pooled": pooled[rows], "layers": layers}
        return fit_readout(bits[rows], cut.features, self.labels[rows], self.classes, kind, **given)


def embedded(network: str, data: str) -> tuple[list[Cut], JoinedCuts, CutValues, np.ndarray]:
    """Return the cuts, their joined engine, what it computes of the images of a data set, and their labels."""
    builder, (paths, labels) = _builder(network, data, True)
    cuts = cut_candidates(builder.backbone)
    joined = draft_cuts(builder.at_cuts([cut.name for cut in cuts]), SPEC)[1]
    values = embed_cuts(joined, images_of(paths, joined.engine))
    return cuts, joined, values, labels[values.indices]


def _builder(network: str, data: str, layers: bool) -> tuple[EngineBuilder, tuple[Any, np.ndarray]]:
    name, _, weights = network.partition("=")
    paths, labels = listed(data)
    chosen = np.random.default_rng(0).permutation(len(labels))[:CALIBRATED]
    spec = NetworkSpec(backbone=name, weights=weights or "default", pool_layers=layers)
    calibration = CalibrationSpec(data=calibration_of(paths, chosen, name, weights or "default"))
    return EngineBuilder(spec, calibration), (paths, labels)


if __name__ == "__main__":
    main()
